//! An SMTP reply: the code, the enhanced code and the text (RFC 5321 §4.2, RFC 2034, RFC 3463).
//!
//! For the replies that Postrider gives (`submission/replies.rs`) and those that it gets (read by
//! `delivery/smtp/reply_reader.rs`).

use std::borrow::Cow;
use std::fmt;

/// The longest line of a reply with its CR LF (RFC 5321 §4.5.3.1.5).
pub const LINE_BYTES_MAX: usize = 512;

/// An enhanced status code, `class.subject.detail` (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Enhanced {
    /// Reads the enhanced code at the start of a reply's text; gives it with the rest.
    ///
    /// None where there is none, or where its class is not the first digit of `code` (RFC 2034 §4).
    pub fn split(code: u16, text: &str) -> Option<(Enhanced, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |part: &str| -> Option<u16> {
            let plain = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| part.parse().ok()).flatten()
        };
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        if parts.next().is_some() || u16::from(class) != code / 100 {
            return None;
        }
        Some((Enhanced(class, number(subject)?, number(detail)?), rest))
    }
}

/// Whether a reply came from a remote host or from Postrider, which makes its own where no host answered (a time-out, a
/// lost connection, NXDOMAIN). Those are never quoted as if a host had said them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplySource {
    /// Postrider.
    #[default]
    Local,
    /// The remote host.
    Remote,
}

impl ReplySource {
    /// The word in `attempts.reply_source`, `recipients.last_reply_source` and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplySource::Local => "local",
            ReplySource::Remote => "remote",
        }
    }

    /// Reads the word; any other text is [`ReplySource::Local`].
    pub fn from_word(word: &str) -> ReplySource {
        if word == ReplySource::Remote.as_str() { ReplySource::Remote } else { ReplySource::Local }
    }
}

/// A reply: three digits, perhaps an enhanced code, and text of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599 in replies that we send; any three digits in those of a remote host.
    pub code: u16,
    /// The enhanced code, if the reply has one.
    pub enhanced: Option<Enhanced>,
    /// The text without codes; lines are separated by `\n`, never `\r`.
    pub text: Cow<'static, str>,
    /// Where the reply came from.
    pub reply_source: ReplySource,
}

/// Before words of Postrider's own, where nothing else says whose they are.
pub const LOCAL_MARK: &str = "(local) ";

/// Who said it, for people: `(local) ` before Postrider's own words.
pub fn mark_of(source: &str) -> &'static str {
    if source == ReplySource::Local.as_str() { LOCAL_MARK } else { "" }
}

impl Reply {
    /// A constant reply with an enhanced code.
    pub const fn new(code: u16, enhanced: Enhanced, text: &'static str) -> Reply {
        Reply { code, enhanced: Some(enhanced), text: Cow::Borrowed(text), reply_source: ReplySource::Local }
    }

    /// A constant reply without an enhanced code (greeting, EHLO, 334, 354).
    pub const fn bare(code: u16, text: &'static str) -> Reply {
        Reply { code, enhanced: None, text: Cow::Borrowed(text), reply_source: ReplySource::Local }
    }

    /// The same reply with another text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Reply {
        self.text = text.into();
        self
    }

    /// The same reply with at most `bytes_max` bytes of its text, and a mark where it was cut.
    #[must_use]
    pub fn cut(mut self, bytes_max: usize) -> Reply {
        if let Cow::Owned(shorter) = cut(&self.text, bytes_max) {
            self.text = Cow::Owned(shorter);
        }
        self
    }

    /// The same reply from a remote host.
    #[must_use]
    pub const fn from_remote(mut self) -> Reply {
        self.reply_source = ReplySource::Remote;
        self
    }

    /// In a row, with [`LOCAL_MARK`] where Postrider itself said it.
    pub fn marked(&self) -> String {
        format!("{}{self}", mark_of(self.reply_source.as_str()))
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Writes the reply for the wire: every line with its codes (RFC 2034 §4) and CR LF, and no longer than
    /// [`LINE_BYTES_MAX`]: a longer one goes on in the next. A challenge (334) is one line, however long (RFC 4954 §4).
    pub fn write_to(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let codes = "250 ".len() + self.enhanced.map_or(0, |enhanced| enhanced.to_string().len() + 1);
        let room = if self.code == 334 { usize::MAX } else { LINE_BYTES_MAX - codes - "\r\n".len() };
        let mut lines = self.text.split('\n').flat_map(|line| pieces(line, room)).peekable();
        while let Some(line) = lines.next() {
            let dash = if lines.peek().is_some() { '-' } else { ' ' };
            // Writing to a Vec cannot fail.
            let _ = match self.enhanced {
                Some(enhanced) => write!(out, "{}{dash}{enhanced} {line}\r\n", self.code),
                None => write!(out, "{}{dash}{line}\r\n", self.code),
            };
        }
    }
}

/// A line in pieces of at most `room` bytes, parted at a space where there is one.
fn pieces(line: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        if line.len() <= room {
            return rest.take();
        }
        let fits = first_bytes(line, room);
        let end = fits.rfind(' ').filter(|end| *end > 0).unwrap_or(fits.len());
        rest = Some(line[end..].trim_start_matches(' '));
        Some(&line[..end])
    })
}

/// At most so many bytes of a text, and a mark where it was cut.
pub fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{} [...]", first_bytes(text, bytes_max)))
}

/// The longest beginning of a text that has at most so many bytes and ends between characters.
pub fn first_bytes(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One line, as in logs, tables and bounces: `550 5.1.1 no such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n').filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_reply_carries_its_codes() {
        let mut out = Vec::new();
        Reply::new(250, Enhanced(2, 1, 0), "one\ntwo").write_to(&mut out);
        assert_eq!(out, b"250-2.1.0 one\r\n250 2.1.0 two\r\n");
        out.clear();
        Reply::bare(354, "go ahead").write_to(&mut out);
        assert_eq!(out, b"354 go ahead\r\n");
    }

    #[test]
    fn no_line_of_a_reply_is_too_long_and_no_word_is_lost() {
        let long = [
            "x".repeat(2000),
            "words ".repeat(300),
            "\u{20ac}".repeat(700),
            format!("{} {}", "a".repeat(505), "b".repeat(505)),
            format!("short\n{}\n\nend", "y ".repeat(400)),
            "z".repeat(502),
            "z".repeat(503),
            String::new(),
        ];
        for text in long {
            for enhanced in [None, Some(Enhanced(5, 1, 1)), Some(Enhanced(5, 999, 999))] {
                let reply = Reply {
                    code: 550,
                    enhanced,
                    text: text.clone().into(),
                    reply_source: ReplySource::Local,
                };
                let mut out = Vec::new();
                reply.write_to(&mut out);
                let out = String::from_utf8(out).unwrap();
                let lines: Vec<&str> = out.split_inclusive("\r\n").collect();
                assert!(lines.iter().all(|line| line.len() <= 512), "{out}");
                let codes = enhanced.map_or_else(|| "550 ".len(), |e| format!("550 {e} ").len());
                let said: String = lines.iter().map(|line| line[codes..].trim_end()).collect();
                let plain = |text: &str| text.replace([' ', '\n'], "");
                assert_eq!(plain(&said), plain(&text));
            }
        }
        let challenge = Reply::bare(334, "").with_text("x".repeat(2000));
        let mut out = Vec::new();
        challenge.write_to(&mut out);
        assert_eq!(out.len(), 2006, "a challenge is one line");
    }

    #[test]
    fn an_enhanced_code_is_read_only_where_it_agrees_with_the_code() {
        assert_eq!(Enhanced::split(550, "5.1.1 no"), Some((Enhanced(5, 1, 1), "no")));
        assert_eq!(Enhanced::split(550, "5.1.1"), Some((Enhanced(5, 1, 1), "")));
        assert_eq!(Enhanced::split(250, "5.1.1 no"), None);
        assert_eq!(Enhanced::split(550, "5.1 no"), None);
        assert_eq!(Enhanced::split(550, "5.1.1111 no"), None);
        assert_eq!(Enhanced::split(550, "5.1.1.1 no"), None);
        assert_eq!(Enhanced::split(550, "5.+1.1 no"), None);
    }

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let cut = |text: &'static str| Reply::bare(550, text).cut(4).text;
        assert_eq!((&*cut("äö"), &*cut("äöüß"), &*cut("aäöü")), ("äö", "äö [...]", "aä [...]"));
    }

    #[test]
    fn a_reply_reads_as_one_line() {
        let reply = Reply::new(550, Enhanced(5, 1, 1), "no\n\nsuch user");
        assert_eq!(reply.to_string(), "550 5.1.1 no such user");
        assert_eq!(Reply::bare(250, "").to_string(), "250");
    }
}
