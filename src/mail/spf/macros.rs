//! The macros of SPF (RFC 7208 §7): `%{ir}.%{v}._spf.%{d2}`. Pure.

use std::net::IpAddr;

/// Bytes that may divide a value (RFC 7208 §7.1).
const DELIMITERS: &str = ".-+,/_=";

/// A macro-string, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacroString(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `%%`, `%_`, `%-`: a text that may stand at the end of a name.
    Escaped(&'static str),
    Value(Value),
}

/// `%{l1r-}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    /// In lower case.
    letter: char,
    /// It was written in upper case: the value is escaped as in a URL.
    escape: bool,
    /// So many parts from the right; none: all.
    keep: Option<usize>,
    reverse: bool,
    /// Empty: the dot.
    delimiters: String,
}

impl MacroString {
    /// Reads a macro-string.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<MacroString, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            push_text(&mut pieces, &rest[..at])?;
            rest = &rest[at + 1..];
            let escaped = [("%", "%"), ("_", " "), ("-", "%20")];
            let escaped = escaped.into_iter().find_map(|(sign, text)| Some((rest.strip_prefix(sign)?, text)));
            if let Some((behind, text)) = escaped {
                pieces.push(Piece::Escaped(text));
                rest = behind;
                continue;
            }
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let (inside, behind) = inside.ok_or("a % that begins no macro")?;
            pieces.push(Piece::Value(Value::parse(inside)?));
            rest = behind;
        }
        push_text(&mut pieces, rest)?;
        Ok(MacroString(pieces))
    }

    /// Reads a domain-spec: a macro-string that ends in a macro or in a top-level name.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse_domain(text: &str) -> Result<MacroString, String> {
        let read = MacroString::parse(text)?;
        match read.0.last() {
            None => Err("the domain is missing".to_owned()),
            Some(Piece::Text(end)) if !ends_in_top_label(end) => Err(format!("{text:?} is no whole domain")),
            Some(_) => Ok(read),
        }
    }

    /// Puts the values in.
    ///
    /// # Errors
    /// Those of `value`.
    pub(super) fn expand<E>(&self, mut value: impl FnMut(char) -> Result<String, E>) -> Result<String, E> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Escaped(text) => out.push_str(text),
                Piece::Value(one) => out.push_str(&one.transformed(&value(one.letter)?)),
            }
        }
        Ok(out)
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) -> Result<(), String> {
    if let Some(wrong) = text.chars().find(|c| !('!'..='~').contains(c)) {
        return Err(format!("{wrong:?} has no place in it"));
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
    Ok(())
}

/// RFC 7208 §7.1: `toplabel`.
fn ends_in_top_label(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let Some((_, label)) = text.rsplit_once('.') else { return false };
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    label.chars().all(|c| alphanumeric(c) || c == '-')
        && label.starts_with(alphanumeric)
        && label.ends_with(alphanumeric)
        && label.contains(|c: char| c.is_ascii_alphabetic() || c == '-')
}

impl Value {
    fn parse(text: &str) -> Result<Value, String> {
        let wrong = || format!("%{{{text}}} is no macro");
        let mut chars = text.chars();
        let letter = chars.next().filter(char::is_ascii_alphabetic).ok_or_else(wrong)?;
        let (letter, escape) = (letter.to_ascii_lowercase(), letter.is_ascii_uppercase());
        // RFC 7208 §7.2: c, r and t are for explanations.
        if !"slodipvh".contains(letter) {
            return Err(wrong());
        }
        let rest = chars.as_str();
        let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &rest[..rest.len() - behind.len()];
        let keep = match digits {
            "" => None,
            // A number beyond all parts keeps them all.
            digits => Some(digits.parse().unwrap_or(usize::MAX)).filter(|keep| *keep > 0),
        };
        if keep.is_none() && !digits.is_empty() {
            return Err(wrong());
        }
        let reversed = behind.strip_prefix(['r', 'R']);
        let delimiters = reversed.unwrap_or(behind);
        if !delimiters.chars().all(|c| DELIMITERS.contains(c)) {
            return Err(wrong());
        }
        let delimiters = delimiters.to_owned();
        Ok(Value { letter, escape, keep, reverse: reversed.is_some(), delimiters })
    }

    fn transformed(&self, value: &str) -> String {
        let is_delimiter = |c: char| match self.delimiters.as_str() {
            "" => c == '.',
            delimiters => delimiters.contains(c),
        };
        let mut parts: Vec<&str> = value.split(is_delimiter).collect();
        if self.reverse {
            parts.reverse();
        }
        let left_out = parts.len().saturating_sub(self.keep.unwrap_or(usize::MAX));
        // Nothing asked for leaves the value as it is; parts are joined by dots (RFC 7208 §7.3).
        let plain = self.keep.is_none() && !self.reverse && self.delimiters.is_empty();
        let text = if plain { value.to_owned() } else { parts[left_out..].join(".") };
        if self.escape { url_escaped(&text) } else { text }
    }
}

fn url_escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// `%{i}`: IPv4 as always, IPv6 as its half bytes with dots between (RFC 7208 §7.3).
pub fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let halves = v6.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
            halves.map(|half| format!("{half:x}")).collect::<Vec<_>>().join(".")
        }
    }
}
