//! Characters, addresses and lines of a report. Pure: foreign text in, text out that breaks no field and no line.

use crate::kit::text::is_unseen;
use crate::mail::{Address, Domain, address, unitext};

/// Where a line is folded, if its words allow.
const LINE_BYTES: usize = 76;
/// A word longer than this is cut in pieces, so that no line comes near 998 bytes.
pub(super) const WORD_BYTES_MAX: usize = 500;

/// What the characters of a report may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charset {
    /// For any host: other characters are written as `\x{…}` (RFC 6533 §3).
    Ascii,
    /// For a sender whose own address needs SMTPUTF8, and with it every host on the way.
    Utf8,
}

impl Charset {
    /// `rfc822; user@example.com`, or `utf-8; …` (RFC 6533 §3): `utf-8-addr-xtext` in ASCII, the address as it is in
    /// UTF-8. In ASCII, an address with only a non-ASCII domain is `rfc822` with A-labels, which more programs know.
    pub(super) fn typed_address(self, address: &Address) -> String {
        let whole: &str = address.as_ref();
        let text = format!("{}@{}", address.user(), Domain::of(address));
        match self {
            Charset::Utf8 if !whole.is_ascii() => format!("utf-8; {whole}"),
            Charset::Ascii if !text.is_ascii() => format!("utf-8; {}", unitext::xtext_of(whole)),
            // As it was in the envelope, letter by letter (RFC 3464 §2.3.2).
            _ if whole.is_ascii() => format!("rfc822; {whole}"),
            _ => format!("rfc822; {text}"),
        }
    }

    /// ORCPT as a field value: the type, and the address decoded (RFC 3461 §4.2, RFC 6533 §3). None for text that is
    /// no ORCPT.
    pub(super) fn original_recipient(self, orcpt: &str) -> Option<String> {
        let (kind, address) = orcpt.split_once(';')?;
        let kind_is_atom =
            !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let address = match (kind.eq_ignore_ascii_case("utf-8"), self) {
            (false, _) => xtext_decoded(address),
            (true, Charset::Ascii) => unitext::in_ascii(address),
            // What does not conform is copied as it is.
            (true, Charset::Utf8) => unitext::decoded(address)
                .filter(|text| address::parse(text).is_ok())
                .unwrap_or(address.to_owned()),
        };
        (kind_is_atom && says_something(&address)).then(|| format!("{kind}; {address}"))
    }

    /// Foreign text on one line, cut after `bytes_max` or a little more: controls and line ends become spaces, so that
    /// no value can begin a field of its own; characters outside the charset are escaped.
    pub(super) fn printable(self, text: &str, bytes_max: usize) -> String {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                ' '..='~' => out.push(c),
                _ if c.is_control() => out.push(' '),
                _ if self == Charset::Utf8 && !is_unseen(c) => out.push(c),
                _ => unitext::push_escaped(&mut out, c),
            }
            if out.len() > bytes_max {
                out.push_str(" ...");
                break;
            }
        }
        out
    }
}

/// Whether the text has any visible character.
pub(super) fn says_something(text: &str) -> bool {
    text.chars().any(|c| !c.is_control() && !c.is_whitespace())
}

/// Decodes xtext (RFC 3461 §4): `+2B` is `+`. What breaks the grammar stays as it is.
pub(super) fn xtext_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'+', Some(high), Some(low)) => {
                // Two hexadecimal digits are below 256.
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A host's name; an IP address is put in brackets (RFC 5321 §4.1.3).
pub(super) fn bracketed(host: &str) -> String {
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => format!("[{v4}]"),
        Ok(std::net::IpAddr::V6(v6)) => format!("[IPv6:{v6}]"),
        Err(_) => host.to_owned(),
    }
}

/// The nearest time that a date field can hold, 1970 to 9999, in Unix seconds.
pub(super) fn writable_time(unix_secs: i64) -> u64 {
    const END_OF_9999: i64 = 253_402_300_799;
    unix_secs.clamp(0, END_OF_9999).unsigned_abs()
}

/// The words of `text` on lines of about [`LINE_BYTES`], of which the first has `first_line_used` bytes already; at
/// least one line.
pub(super) fn folded(text: &str, first_line_used: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = first_line_used;
    let pieces = text.split_ascii_whitespace().flat_map(|word| {
        // ASCII after `printable`, or whole characters.
        let mut rest = word;
        std::iter::from_fn(move || {
            let end = rest
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .take_while(|&end| end <= WORD_BYTES_MAX)
                .last()?;
            let (piece, after) = rest.split_at(end);
            rest = after;
            Some(piece)
        })
    });
    for piece in pieces {
        let line_is_new = lines.last().is_none_or(String::is_empty);
        if !line_is_new && used + 1 + piece.len() > LINE_BYTES {
            lines.push(String::new());
            used = 1;
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
                used += 1;
            }
            line.push_str(piece);
            used += piece.len();
        }
    }
    lines
}
