//! The reason in a reply: its words without what differs from one recipient to the next, so that replies that mean the
//! same are one line.

/// Characters of a reply that are looked at.
const CHARS_MAX: usize = 200;
/// A word of so many letters whose case changes this often is an id.
const ID_CHARS_MIN: usize = 8;
const ID_CASE_CHANGES: usize = 2;

/// Codes at the front stay; addresses, host names, numbers and ids become `…`.
pub fn reason(reply: &str) -> String {
    let text: String = reply.chars().take(CHARS_MAX).collect();
    let mut out = String::with_capacity(text.len());
    for (at, word) in text.split_whitespace().enumerate() {
        let is_code = at == 0 && word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        let shown =
            if is_code || at == 1 && is_enhanced(word) { word.to_owned() } else { without_names(word) };
        // Several in a row are one: `user 12 of 34` and `user 5` need not be told apart.
        if shown == "…" && out.ends_with('…') {
            continue;
        }
        if at > 0 {
            out.push(' ');
        }
        out += &shown;
    }
    out
}

fn is_enhanced(word: &str) -> bool {
    let numbers: Vec<&str> = word.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u16>().is_ok())
}

/// A word with `…` where a name or number stands in it; brackets and punctuation round it stay.
fn without_names(word: &str) -> String {
    let is_edge = |c: char| !c.is_alphanumeric() && c != '…';
    let core = word.trim_matches(is_edge);
    if core.is_empty() || !is_name(core) {
        return word.to_owned();
    }
    let before = &word[..word.find(core).unwrap_or_default()];
    let after = &word[before.len() + core.len()..];
    format!("{before}…{after}")
}

fn is_name(word: &str) -> bool {
    let has_digit = word.chars().any(|c| c.is_ascii_digit());
    let is_host = word.split('.').count() > 1 && word.split('.').all(|label| !label.is_empty());
    let letters: Vec<char> = word.chars().collect();
    let changes = letters.windows(2).filter(|two| two[0].is_lowercase() && two[1].is_uppercase()).count();
    has_digit || word.contains('@') || is_host || letters.len() >= ID_CHARS_MIN && changes >= ID_CASE_CHANGES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_mean_the_same_have_one_reason() {
        for (reply, wanted) in [
            (
                "550 5.1.1 <ann@a.test>: Recipient address rejected",
                "550 5.1.1 <…>: Recipient address rejected",
            ),
            (
                "550 5.1.1 <bob@b.example>: Recipient address rejected",
                "550 5.1.1 <…>: Recipient address rejected",
            ),
            (
                "451 4.7.1 Greylisted, try again in 300 seconds",
                "451 4.7.1 Greylisted, try again in … seconds",
            ),
            (
                "421 4.7.0 [192.0.2.7] blocked using bl.example.org; id 4FZ2QK",
                "421 4.7.0 […] blocked using …; id …",
            ),
            ("452 4.2.2 mailbox full (size 12 of 10 MB)", "452 4.2.2 mailbox full (size … of … MB)"),
            ("450 wait for aBcDeFgHiJ please", "450 wait for … please"),
            ("mx.a.test does not answer: Connection timed out", "… does not answer: Connection timed out"),
            ("550 no ann@localhost here", "550 no … here"),
            ("554", "554"),
            ("", ""),
            ("550 5.7.1 Message rejected. See policy.", "550 5.7.1 Message rejected. See policy."),
        ] {
            assert_eq!(reason(reply), wanted, "{reply}");
        }
        assert!(reason(&"x".repeat(10_000)).len() <= CHARS_MAX);
    }
}
