//! What a message can be found by: its Message-ID, its Subject, and the label that its application gave it
//! (`X-Postrider-Tag`). Pure.
//!
//! What is kept stands on one line, has nothing in it that cannot be seen, and is bounded, whatever the field holds.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::header;
use crate::kit::text::without_controls;

/// The field with a message's label. It is taken out: nobody but Postrider reads it.
pub const TAG_FIELD: &str = "X-Postrider-Tag";
/// Characters of a label.
pub const TAG_CHARS_MAX: usize = 64;
/// Characters of a Message-ID that are kept. Real ones have fewer than 100.
const MESSAGE_ID_CHARS_MAX: usize = 250;
/// Characters of a Subject that are kept.
const SUBJECT_CHARS_MAX: usize = 200;
/// Bytes of a field that are looked at. An encoded Subject takes up to twelve for a character.
const FIELD_BYTES_MAX: usize = 4096;

/// What a message can be found by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// Message-ID (RFC 5322 §3.6.4) without its angle brackets.
    pub message_id: Option<String>,
    /// The beginning of the Subject, decoded; none unless it is to be kept.
    pub subject: Option<String>,
    /// The application's own label.
    pub tag: Option<String>,
}

impl Labels {
    /// Those of a message that Postrider wrote itself: its Message-ID.
    pub fn of_own(content: &[u8]) -> Labels {
        let fields = header::fields(header::header_of(content));
        let field = fields.iter().find(|field| field.is("Message-ID"));
        Labels { message_id: field.and_then(|field| message_id(field.value())), ..Labels::default() }
    }
}

/// The label is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTag;

/// A Message-ID as it is kept, from the field or as a person types it: the first one, without its angle brackets and
/// what stands around them.
pub fn message_id(value: &[u8]) -> Option<String> {
    let line = one_line(value);
    let inner = behind_comments(&line).map_or(&*line, |id| id.split_once('>').map_or(id, |(id, _)| id));
    kept(inner, MESSAGE_ID_CHARS_MAX)
}

/// What stands behind the first angle bracket that is in no comment (RFC 5322 §3.2.2).
fn behind_comments(line: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '<' if depth == 0 => return Some(&line[at + 1..]),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '\\' if depth > 0 => drop(characters.next()),
            _ => {}
        }
    }
    None
}

/// A Subject as it is kept: unfolded, decoded (RFC 2047) where it is UTF-8 or Latin-1, and cut.
pub fn subject(value: &[u8]) -> Option<String> {
    let line = one_line(value);
    kept(&decoded(&line), SUBJECT_CHARS_MAX)
}

/// A label; none where the field is empty.
///
/// # Errors
/// It has too many characters, or others than ASCII letters, digits and `._-+:/@=`.
pub fn tag(value: &[u8]) -> Result<Option<String>, BadTag> {
    let value = value.trim_ascii();
    match std::str::from_utf8(value) {
        Ok("") => Ok(None),
        Ok(tag) if tag.len() <= TAG_CHARS_MAX && tag.chars().all(is_tag_char) => Ok(Some(tag.to_owned())),
        _ => Err(BadTag),
    }
}

/// Nothing that a shell, a pattern, a log line or a table's cell would take for something else.
fn is_tag_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-+:/@=".contains(c)
}

fn one_line(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(FIELD_BYTES_MAX)]).replace('\t', " ")
}

/// RFC 5322 §2.2.3: a field is unfolded by taking its line ends out.
fn kept(text: &str, chars_max: usize) -> Option<String> {
    let text = without_controls(text.trim(), chars_max);
    (!text.is_empty()).then_some(text)
}

/// RFC 2047 §6.2: blanks between two encoded words are no part of the text. A word that cannot be read stays as it
/// stands.
fn decoded(text: &str) -> Cow<'_, str> {
    let (mut out, mut rest, mut after_word) = (Vec::new(), text, false);
    while let Some(at) = rest.find("=?") {
        let (before, from) = rest.split_at(at);
        let word = encoded_word(from);
        if word.is_none() || !after_word || !before.trim().is_empty() {
            out.extend_from_slice(before.as_bytes());
        }
        after_word = word.is_some();
        let (bytes, length) = word.unwrap_or_else(|| (b"=?".to_vec(), 2));
        out.extend(bytes);
        rest = &from[length..];
    }
    if out.is_empty() {
        return rest.into();
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&out).into_owned().into()
}

/// The bytes of an encoded word at the start of `text`, in UTF-8, and its length.
fn encoded_word(text: &str) -> Option<(Vec<u8>, usize)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (payload, after) = rest.split_once("?=")?;
    let bytes = match encoding {
        "B" | "b" => STANDARD.decode(payload).ok()?,
        "Q" | "q" => quoted(payload)?,
        _ => return None,
    };
    // RFC 2231 §5: a language may follow.
    let charset = charset.split('*').next().unwrap_or_default().to_ascii_lowercase();
    let bytes = match charset.as_str() {
        "utf-8" | "us-ascii" => bytes,
        "iso-8859-1" => bytes.into_iter().map(char::from).collect::<String>().into_bytes(),
        _ => return None,
    };
    Some((bytes, text.len() - after.len()))
}

/// RFC 2047 §4.2.
fn quoted(payload: &str) -> Option<Vec<u8>> {
    let mut parts = payload.split('=');
    let mut out = parts.next()?.replace('_', " ").into_bytes();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2)?;
        out.push(u8::from_str_radix(hex, 16).ok()?);
        out.extend_from_slice(rest.replace('_', " ").as_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_kept_without_its_brackets_however_it_is_written() {
        for value in [
            "<a.b@c.test>",
            " <a.b@c.test>\r\n",
            "a.b@c.test",
            "(x) <a.b@c.test> (y)",
            "\r\n\t<a.b@c.test>",
            "(x (<y>) \\) <z@c.test>) <a.b@c.test>",
            "<a.b@c.test> <d@c.test>",
            "<a.b@c.test>>",
        ] {
            assert_eq!(message_id(value.as_bytes()).as_deref(), Some("a.b@c.test"), "{value:?}");
        }
        assert_eq!(message_id(b" \r\n"), None);
        assert_eq!(message_id(b"<>"), None);
        assert_eq!(message_id(b"<a\x1b[2J\xff@c>").as_deref(), Some("a[2J\u{fffd}@c"));
        let long = format!("<{}@c.test>", "x".repeat(10_000));
        assert_eq!(message_id(long.as_bytes()).unwrap(), "x".repeat(MESSAGE_ID_CHARS_MAX));
    }

    #[test]
    fn a_subject_is_kept_on_one_line_as_a_person_reads_it() {
        for (value, kept) in [
            (" Your order 4711\r\n", "Your order 4711"),
            ("folded\r\n here\r\n\tand there", "folded here and there"),
            (
                "=?utf-8?Q?Ihre_Bestellung_f=C3=BCr_M=c3=bcller?= 4711",
                "Ihre Bestellung f\u{fc}r M\u{fc}ller 4711",
            ),
            ("=?UTF-8?B?R3LDvMOf?=\r\n =?UTF-8?B?ZQ==?=", "Gr\u{fc}\u{df}e"),
            // A character over two words, as many programs cut them.
            ("=?utf-8?Q?Gr=C3?= =?utf-8?Q?=BC=C3=9Fe?=", "Gr\u{fc}\u{df}e"),
            ("a =?iso-8859-1*de?q?M=FCller?= b", "a M\u{fc}ller b"),
            ("=?koi8-r?B?8NLJ18XU?= =?x", "=?koi8-r?B?8NLJ18XU?= =?x"),
            ("=?utf-8?Q?=4?= =?utf-8?B?*?= =?utf-8?X?a?=", "=?utf-8?Q?=4?= =?utf-8?B?*?= =?utf-8?X?a?="),
            ("=?utf-8?Q?=1B[2J=0D=0Aevil?=", "[2Jevil"),
        ] {
            assert_eq!(subject(value.as_bytes()).as_deref(), Some(kept), "{value:?}");
        }
        assert_eq!(subject(b"  \r\n"), None);
        assert_eq!(subject("\u{fc}".repeat(9_999).as_bytes()).unwrap().chars().count(), SUBJECT_CHARS_MAX);
    }

    #[test]
    fn a_tag_is_a_word_that_nothing_takes_for_something_else() {
        for good in ["a", " welcome-2026/de:b+c@x=1\r\n", &"x".repeat(TAG_CHARS_MAX)] {
            assert_eq!(tag(good.as_bytes()), Ok(Some(good.trim().to_owned())));
        }
        assert_eq!(tag(b" \r\n"), Ok(None));
        for bad in ["a b", "a*", "a,b", "\u{fc}", "a\r\n b", "'a'", &"x".repeat(TAG_CHARS_MAX + 1)] {
            assert_eq!(tag(bad.as_bytes()), Err(BadTag), "{bad:?}");
        }
        assert_eq!(tag(b"\xff"), Err(BadTag));
    }
}
