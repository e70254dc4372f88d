//! Hides whom an address belongs to: what stands before its @ becomes `***`, the domain stays.

use std::borrow::Cow;

/// In the place of a local part.
const MASK: &str = "***";

/// An address without its local part. One that is a local part alone is nothing but that; empty is the null sender.
pub fn address(address: &str) -> String {
    match address.rfind('@') {
        Some(at) => format!("{MASK}{}", &address[at..]),
        None if address.is_empty() => String::new(),
        None => MASK.to_owned(),
    }
}

/// Words that others said, without the local parts of the addresses in them, and without those of `known` addresses
/// where they stand alone (`550 jane: no such user`).
pub fn words<'a>(words: &'a str, known: &[&str]) -> Cow<'a, str> {
    let mut shown = before_each_at(words);
    for address in known {
        let (local, _) = address.rsplit_once('@').unwrap_or((address, ""));
        let bare = local.trim_matches('"').replace('\\', "");
        let without_tag = bare.split('+').next().unwrap_or_default();
        for name in [local, &bare, without_tag] {
            if let Some(masked) = without(&shown, name) {
                shown = masked.into();
            }
        }
    }
    shown
}

/// `shown` without what stands before each @ that a domain follows, or before its `%40` in a URL.
fn before_each_at(text: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let mut done = 0;
    let separators = text.char_indices().filter_map(|(at, _)| {
        let separator = ["@", "%40"].into_iter().find(|separator| text[at..].starts_with(separator));
        separator.map(|separator| (at, at + separator.len()))
    });
    for (at, behind) in separators {
        let is_address = text[behind..].starts_with(|c: char| c.is_alphanumeric() || matches!(c, '[' | '*'));
        let begin = local_part(&text[..at]).max(done);
        if is_address && begin < at {
            masked.push_str(&text[done..begin]);
            masked.push_str(MASK);
            done = at;
        }
    }
    if done == 0 {
        return text.into();
    }
    masked.push_str(&text[done..]);
    masked.into()
}

/// Where the local part begins that ends a text: a quoted string, or what atoms consist of (RFC 5321 §4.1.2), and the
/// bytes that the log writes as `\xNN`.
fn local_part(before: &str) -> usize {
    if let Some(quoted) = before.strip_suffix('"') {
        // No backslash before it, or those before it escape each other.
        let is_open = |at: &usize| (at - quoted[..*at].trim_end_matches('\\').len()).is_multiple_of(2);
        let begin = quoted.rmatch_indices('"').map(|(at, _)| at).find(is_open);
        return begin.unwrap_or(0);
    }
    let is_atom = |c: char| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~.\\".contains(c);
    before.trim_end_matches(is_atom).len()
}

/// None where it is not in there as a word of its own, in whatever case.
fn without(text: &str, name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let mut masked = String::new();
    let mut done = 0;
    for (at, _) in text.char_indices() {
        let end = at + name.len();
        let is_here = at >= done && text.get(at..end).is_some_and(|here| here.to_lowercase() == name);
        let is_whole = || {
            !text[..at].ends_with(char::is_alphanumeric) && !text[end..].starts_with(char::is_alphanumeric)
        };
        if !name.is_empty() && is_here && is_whole() {
            masked.push_str(&text[done..at]);
            masked.push_str(MASK);
            done = end;
        }
    }
    (done > 0).then(|| masked + &text[done..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_domain() {
        for (text, expected) in [
            ("jane.doe@example.com", "***@example.com"),
            ("\"a @ b\"@example.com", "***@example.com"),
            ("postmaster", "***"),
            ("", ""),
        ] {
            assert_eq!(address(text), expected);
        }
    }

    #[test]
    fn words_keep_no_local_part() {
        for (text, expected) in [
            ("550 5.1.1 <Jane.Doe@example.com>: unknown", "550 5.1.1 <***@example.com>: unknown"),
            (
                "jane@a.test, tom+x@[192.0.2.1] and j\u{f6}rg@b.test",
                "***@a.test, ***@[192.0.2.1] and ***@b.test",
            ),
            ("rfc822;jane@a.test \"a \\\" b\"@c.test", "rfc822;***@a.test ***@c.test"),
            ("RCPT TO:<bounce+jane=a.test@b.test> SIZE=1", "RCPT TO:<***@b.test> SIZE=1"),
            ("\"a\\x20b\"@c.test", "***@c.test"),
            ("a@b@c.test", "***@***@c.test"),
            ("\"@a.test", "***@a.test"),
            ("lunch @ noon, @home", "lunch @ noon, @home"),
            ("***@a.test", "***@a.test"),
            ("see https://a.test/?for=jane%40b.test", "see https:***%40b.test"),
            ("100%40 off", "100%40 off"),
            ("no address", "no address"),
        ] {
            assert_eq!(words(text, &[]), expected);
        }
    }

    #[test]
    fn words_keep_no_local_part_that_is_known() {
        let known = ["jane.doe+news@a.test", "\"odd one\"@b.test", "j\u{f8}rn@c.test"];
        for (text, expected) in [
            ("550 jane.doe: no such user", "550 ***: no such user"),
            ("mailbox JANE.DOE+NEWS is full", "mailbox *** is full"),
            ("<odd one> and 'odd one'", "<***> and '***'"),
            ("J\u{d8}RN: unknown", "***: unknown"),
            ("jane.does it", "jane.does it"),
            ("j\u{f6}rg", "j\u{f6}rg"),
        ] {
            assert_eq!(words(text, &known), expected);
        }
    }
}
