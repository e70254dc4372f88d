//! Parses the replies of a remote host (RFC 5321 §4.2.1).
//!
//! Pure: bytes in, replies out. A reply may hold any bytes and arrive in any pieces. Lines end with LF, with or without
//! a CR before it. Any three digits are a code (`471`, `699`), with or without text and an enhanced code; what they
//! mean is decided elsewhere (`reply_class.rs`). A reply is malformed only if its code or its end cannot be recognised,
//! or if it is too long.

use crate::kit::text::printable;
use crate::mail::{Enhanced, Reply, ReplySource};

use crate::delivery::smtp::login::LoginWords;

/// Lines of one reply.
pub(in crate::delivery) const REPLY_LINES_MAX: usize = 100;
/// Bytes of one reply, line ends included.
pub(in crate::delivery) const REPLY_BYTES_MAX: usize = 64 * 1024;
/// How much of a malformed line is quoted.
const QUOTED_BYTES_MAX: usize = 100;
/// Bytes of one read from the connection; a reply is rarely longer.
const READ_BYTES: usize = 4 * 1024;

/// Why the bytes are no reply; the text goes into our reply in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line without three digits, or with other characters than space, tab or dash behind them.
    #[error("\"{0}\"")]
    Line(String),
    /// The lines of one reply have different codes.
    #[error("the code changed from {0:03} to {1:03} within one reply")]
    CodeChanged(u16, u16),
    /// More than `REPLY_LINES_MAX` or `REPLY_BYTES_MAX`.
    #[error("longer than 100 lines or 64 KiB")]
    TooLong,
}

/// The bytes that arrived and are not part of a returned reply.
#[derive(Debug, Default)]
pub(in crate::delivery) struct ReplyReader {
    bytes: Vec<u8>,
    /// The begin of the next line; before it are whole lines of the current reply.
    line_at: usize,
    /// The end of the bytes that were searched for LF already.
    searched: usize,
    /// Lines before `line_at`.
    lines: usize,
    /// The code of the first of them.
    code: u16,
    /// What no reply may repeat.
    login: LoginWords,
    /// The text of the last 334 in a login.
    challenge: Option<String>,
}

impl ReplyReader {
    /// Appends the bytes that `read` reads; returns its result.
    pub(in crate::delivery) fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let had = self.bytes.len();
        self.bytes.resize(had + READ_BYTES, 0);
        let got = read(&mut self.bytes[had..]);
        self.bytes.truncate(had + got.as_ref().map_or(0, |count| *count.min(&READ_BYTES)));
        got
    }

    /// What no reply may repeat from now on.
    pub(in crate::delivery) fn login(&mut self) -> &mut LoginWords {
        &mut self.login
    }

    /// The text of the 334 (RFC 4954 §4) that came last: for the mechanism, and for nobody else.
    pub(in crate::delivery) fn take_challenge(&mut self) -> String {
        self.challenge.take().unwrap_or_default()
    }

    /// Whether there are bytes that are not part of a returned reply.
    pub(in crate::delivery) fn has_bytes(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next reply; none until its end has arrived.
    ///
    /// # Errors
    /// After [`Malformed`] the connection is of no more use: nothing that follows can be trusted.
    pub(in crate::delivery) fn next(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
                self.searched = self.bytes.len();
                return if self.bytes.len() > REPLY_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(None) };
            };
            let end = self.searched + end + 1;
            let line = ReplyLine::parse(&self.bytes[self.line_at..end]);
            let line = line.map_err(|malformed| self.as_shown(malformed))?;
            if self.lines > 0 && line.code != self.code {
                return Err(Malformed::CodeChanged(self.code, line.code));
            }
            self.code = line.code;
            self.lines += 1;
            if end > REPLY_BYTES_MAX || self.lines > REPLY_LINES_MAX {
                return Err(Malformed::TooLong);
            }
            let last = line.last;
            self.line_at = end;
            self.searched = end;
            if last {
                return Ok(Some(self.take_reply()));
            }
        }
    }

    fn as_shown(&self, malformed: Malformed) -> Malformed {
        match malformed {
            Malformed::Line(quoted) => Malformed::Line(self.login.checked(quoted).into_owned()),
            other => other,
        }
    }

    /// Takes all lines before `line_at` out of the buffer, as a reply.
    fn take_reply(&mut self) -> Reply {
        let mut enhanced = None;
        let mut text = String::new();
        for (number, raw) in self.bytes[..self.line_at].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let shown = printable(text_of(raw));
            let rest = match Enhanced::split(self.code, &shown) {
                Some((code, rest)) => {
                    enhanced.get_or_insert(code);
                    rest
                }
                None => &shown,
            };
            if number > 0 {
                text.push('\n');
            }
            text.push_str(rest);
        }
        let text = match self.code {
            // A challenge and its answer are enough to try passwords on, at leisure.
            334 if self.login.has_begun() => {
                self.challenge = Some(text);
                "…".into()
            }
            _ => self.login.checked(text),
        };
        let reply = Reply { code: self.code, enhanced, text, reply_source: ReplySource::Remote };
        self.bytes.drain(..self.line_at);
        (self.line_at, self.searched, self.lines) = (0, 0, 0);
        reply
    }
}

/// The code of one line of a reply, and whether it is the last.
struct ReplyLine {
    code: u16,
    last: bool,
}

impl ReplyLine {
    fn parse(raw: &[u8]) -> Result<ReplyLine, Malformed> {
        let line = without_line_end(raw);
        let malformed = || {
            let quoted = &line[..line.len().min(QUOTED_BYTES_MAX)];
            Malformed::Line(printable(quoted).into_owned())
        };
        let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let code = digits.ok_or_else(malformed)?.iter().fold(0, |code, d| code * 10 + u16::from(d - b'0'));
        match line.get(3) {
            None | Some(b' ' | b'\t') => Ok(ReplyLine { code, last: true }),
            Some(b'-') => Ok(ReplyLine { code, last: false }),
            Some(_) => Err(malformed()),
        }
    }
}

/// The text of a line that [`ReplyLine::parse`] accepted.
fn text_of(raw: &[u8]) -> &[u8] {
    without_line_end(raw).get(4..).unwrap_or_default()
}

fn without_line_end(raw: &[u8]) -> &[u8] {
    let line = raw.strip_suffix(b"\n").unwrap_or(raw);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reader: &mut ReplyReader, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let _ = reader.fill(|room| -> Result<usize, ()> {
                let count = bytes.len().min(room.len());
                room[..count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                Ok(count)
            });
        }
    }

    fn read(bytes: &[u8]) -> Result<Option<Reply>, Malformed> {
        let mut reader = ReplyReader::default();
        feed(&mut reader, bytes);
        reader.next()
    }

    #[test]
    fn replies_that_occur_in_the_world_are_read() {
        for (bytes, shown) in [
            (&b"250 2.1.0 ok\r\n"[..], "250 2.1.0 ok"),
            (b"250\r\n", "250"),
            (b"250 \n", "250"),
            (b"550-5.1.1 no such\r\n550 5.1.1 user\r\n", "550 5.1.1 no such user"),
            (b"550-no such\n550 user\n", "550 no such user"),
            (b"250-\r\n250\r\n", "250"),
            (b"471 odd\r\n", "471 odd"),
            (b"571 odd\r\n", "571 odd"),
            (b"699 odder\r\n", "699 odder"),
            (b"099 odd\r\n", "099 odd"),
            (b"550 5.1.1\r\n", "550 5.1.1"),
            (b"250 5.1.1 disagrees\r\n", "250 5.1.1 disagrees"),
            (b"550 caf\xe9\r\n", "550 caf\\xE9"),
            (b"550 caf\xc3\xa9\r\n", "550 café"),
            (b"550 a\0b\x1b[2J\r\r\n", "550 a\\x00b\\x1B[2J\\x0D"),
            (b"550 \xc2\x85\r\n", "550 \\xC2\\x85"),
        ] {
            let reply = read(bytes).unwrap().unwrap_or_else(|| panic!("no reply in {bytes:?}"));
            assert_eq!(reply.to_string(), shown, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_malformed() {
        for bytes in [
            &b"25\r\n"[..],
            b"\r\n",
            b"OK\r\n",
            b"2500 no\r\n",
            b"250x\r\n",
            b" 250 ok\r\n",
            b"-50 ok\r\n",
            b"\xff\xfe\r\n",
            b"250-one\r\n25\r\n",
            b"250-one\r\n\r\n250 two\r\n",
        ] {
            assert!(matches!(read(bytes), Err(Malformed::Line(_))), "{bytes:?}");
        }
        assert_eq!(read(b"250-one\r\n550 two\r\n"), Err(Malformed::CodeChanged(250, 550)));
    }

    #[test]
    fn a_reply_cut_anywhere_is_read_once_it_is_whole() {
        let bytes = b"250-one\r\n250-two\r\n250 three\r\n550 next\r\n";
        for cut in 0..bytes.len() {
            let mut reader = ReplyReader::default();
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                feed(&mut reader, part);
                while let Some(reply) = reader.next().unwrap() {
                    seen.push(reply.to_string());
                }
            }
            assert_eq!(seen, ["250 one two three", "550 next"], "cut at {cut}");
            assert!(!reader.has_bytes());
        }
    }

    #[test]
    fn a_reply_has_a_hundred_lines_and_64_kib_at_most() {
        let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 x\r\n".to_vec()].concat();
        assert!(read(&lines(100)).unwrap().is_some());
        assert_eq!(read(&lines(101)), Err(Malformed::TooLong));
        let long = |bytes: usize| [b"250 ".to_vec(), vec![b'x'; bytes - 6], b"\r\n".to_vec()].concat();
        assert!(read(&long(REPLY_BYTES_MAX)).unwrap().is_some());
        assert_eq!(read(&long(REPLY_BYTES_MAX + 1)), Err(Malformed::TooLong));
        assert_eq!(read(&vec![b'2'; REPLY_BYTES_MAX + 1]), Err(Malformed::TooLong));
    }
}
