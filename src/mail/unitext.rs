//! Non-ASCII addresses in ORCPT and in reports (RFC 6533 §3): the ASCII form `utf-8-addr-xtext` and the UTF-8 form
//! `utf-8-addr-unitext`.
//!
//! The escape `\x{F6}` is a non-ASCII character in the ASCII form; in both forms it is a space, `\`, `+` or `=`.

use std::fmt::Write as _;

/// An address as `utf-8-addr-xtext`, the ASCII form.
pub fn xtext_of(address: &str) -> String {
    let mut out = String::new();
    for c in address.chars() {
        if is_plain(c) && c.is_ascii() { out.push(c) } else { push_escaped(&mut out, c) }
    }
    out
}

/// Escapes the non-ASCII characters; the rest, escapes included, stays as it is.
pub fn in_ascii(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| if c.is_ascii() { out.push(c) } else { push_escaped(&mut out, c) });
    out
}

/// Appends a character's escape (`EmbeddedUnicodeChar`).
pub fn push_escaped(out: &mut String, c: char) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
}

/// Reads `utf-8-addr-xtext` or `utf-8-addr-unitext`; none for other text.
///
/// An escaped control character is refused, though the grammar allows it: decoded into a field of a report, a line
/// end would begin a field of the sender's choice.
pub fn decoded(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let Some(escape) = rest.strip_prefix("\\x{") else {
            if !is_plain(c) {
                return None;
            }
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let (hex, after) = escape.split_once('}')?;
        let is_hexpoint = (2..=6).contains(&hex.len())
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
            && (hex.len() == 2 || !hex.starts_with('0'));
        let c = is_hexpoint.then(|| u32::from_str_radix(hex, 16).ok()).flatten().and_then(char::from_u32)?;
        // Other ASCII is never escaped.
        if c.is_control() || (is_plain(c) && c.is_ascii()) {
            return None;
        }
        out.push(c);
        rest = after;
    }
    Some(out)
}

/// `QUCHAR`.
fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, ' ' | '\\' | '+' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_reads_back() {
        for (address, xtext) in [
            ("bob@a.test", "bob@a.test"),
            ("j\u{f6}rg+x@b\u{fc}cher.test", "j\\x{F6}rg\\x{2B}x@b\\x{FC}cher.test"),
            ("\u{7528}\u{1f600}@a.test", "\\x{7528}\\x{1F600}@a.test"),
            ("\"a b\\\\=\"@a.test", "\"a\\x{20}b\\x{5C}\\x{5C}\\x{3D}\"@a.test"),
            ("\u{10ffff}@a.test", "\\x{10FFFF}@a.test"),
        ] {
            assert_eq!(xtext_of(address), xtext);
            assert_eq!(decoded(xtext).as_deref(), Some(address));
            assert_eq!(in_ascii(xtext), xtext);
        }
        // Both forms in one.
        assert_eq!(decoded("\u{7528}\\x{2B}\\x{e4}@a").as_deref(), Some("\u{7528}+\u{e4}@a"));
        assert_eq!(in_ascii("\u{7528}\\x{2B}@a"), "\\x{7528}\\x{2B}@a");
    }

    #[test]
    fn what_breaks_the_grammar_is_no_address() {
        for text in [
            "a+b",
            "a=b",
            "a b",
            "a\\b",
            "a\nb",
            "\\x{}",
            "\\x{1}",
            "\\x{D800}",
            "\\x{110000}",
            "\\x{0000F6}",
            "\\x{0F6}",
            "\\x{zz}",
            "\\x{2B",
            "\\x{61}",
            "\\x{0A}",
            "\\x{85}",
            "\\X{2B}",
        ] {
            assert_eq!(decoded(text), None, "{text:?}");
        }
    }
}
