//! The reason in a reply: its words without what differs from one recipient to the next, so that replies that mean the
//! same are one line.

/// Characters of a reply that are looked at.
const CHARS_MAX: usize = 200;
/// A word of so many letters whose case changes this often is an id.
const ID_CHARS_MIN: usize = 8;
const ID_CASE_CHANGES: usize = 2;
/// So many letters that are all digits of base 16 are an id: words of English have others, too.
const HEX_CHARS_MIN: usize = 6;
/// A word of so many letters behind `id` is one where so many consonants stand in a row.
const RANDOM_CHARS_MIN: usize = 6;
const CONSONANTS_MIN: usize = 4;
/// Words before an id.
const BEFORE_ID: [&str; 3] = ["id", "ref", "reference"];

/// Codes at the front stay; addresses, host names, numbers and ids become `…`. A million of them are asked for at once.
pub fn reason(reply: &str) -> String {
    let end = reply.char_indices().nth(CHARS_MAX).map_or(reply.len(), |(end, _)| end);
    let (mut out, mut before_it) = (String::with_capacity(end), "");
    for (at, word) in reply[..end].split_whitespace().enumerate() {
        let is_code = at == 0 && word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_kept = is_code || at == 1 && is_enhanced(word);
        let (before, name, after) = if is_kept { (word, "", "") } else { around_name(word, before_it) };
        before_it = word;
        let is_bare = !name.is_empty() && before.is_empty() && after.is_empty();
        // Several in a row are one: `user 12 of 34` and `user 5` need not be told apart.
        if (is_bare || word == "…") && out.ends_with('…') {
            continue;
        }
        if at > 0 {
            out.push(' ');
        }
        out.push_str(before);
        if !name.is_empty() {
            out.push('…');
        }
        out.push_str(after);
    }
    out
}

fn is_enhanced(word: &str) -> bool {
    word.split('.').count() == 3 && word.split('.').all(|number| number.parse::<u16>().is_ok())
}

/// What is before a name or number in a word (brackets, punctuation), the name, and what is behind it; where there is
/// none, all of it is before it.
fn around_name<'w>(word: &'w str, before_it: &str) -> (&'w str, &'w str, &'w str) {
    let is_edge = |c: char| !c.is_alphanumeric() && c != '…';
    let core = word.trim_matches(is_edge);
    let is_random = || {
        let before_it = before_it.trim_matches(is_edge);
        BEFORE_ID.iter().any(|word| before_it.eq_ignore_ascii_case(word)) && is_random(core)
    };
    if core.is_empty() || !(is_name(core) || is_random()) {
        return (word, "", "");
    }
    let before = word.len() - word.trim_start_matches(is_edge).len();
    (&word[..before], core, &word[before + core.len()..])
}

fn is_name(word: &str) -> bool {
    if word.bytes().any(|byte| byte.is_ascii_digit() || byte == b'@') {
        return true;
    }
    if word.len() >= HEX_CHARS_MIN && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return true;
    }
    let is_host = word.contains('.') && word.split('.').all(|label| !label.is_empty());
    let changes = || {
        word.chars().zip(word.chars().skip(1)).filter(|(one, two)| one.is_lowercase() && two.is_uppercase())
    };
    is_host || word.chars().count() >= ID_CHARS_MIN && changes().count() >= ID_CASE_CHANGES
}

/// Letters that nobody can say.
fn is_random(word: &str) -> bool {
    let is_consonant = |byte: &u8| byte.is_ascii_alphabetic() && !b"aeiouyAEIOUY".contains(byte);
    let runs = word.as_bytes().split(|byte| !is_consonant(byte)).map(<[u8]>::len);
    word.len() >= RANDOM_CHARS_MIN && runs.max() >= Some(CONSONANTS_MIN)
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
            ("451 4.7.1 greylisted (id aaeadd)", "451 4.7.1 greylisted (id …)"),
            ("451 4.7.1 greylisted (id DABFAD)", "451 4.7.1 greylisted (id …)"),
            ("451 4.7.1 try later, ref: qwxzkaty", "451 4.7.1 try later, ref: …"),
            (
                "550 5.7.1 id unknown to us, blocked for abuse",
                "550 5.7.1 id unknown to us, blocked for abuse",
            ),
            (
                "550 5.7.1 user unsubscribed; transcripts kept",
                "550 5.7.1 user unsubscribed; transcripts kept",
            ),
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
