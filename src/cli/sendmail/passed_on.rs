//! What `sendmail -bs` hands on between its caller and the relay: pure.

use std::borrow::Cow;

/// The line ends of what the caller says. People at a terminal and scripts write LF, which ends nothing in SMTP
/// (RFC 5321 §2.3.8): where the first line ends so, CR is put before each that stands alone.
#[derive(Debug, Default)]
pub(super) struct LineEnds {
    /// Known with the first line.
    with_lf: Option<bool>,
    last: u8,
}

impl LineEnds {
    /// The next bytes, as the relay takes them.
    pub(super) fn mended<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut whole = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for byte in bytes {
            let is_alone = *byte == b'\n' && self.last != b'\r';
            if *byte == b'\n' && *self.with_lf.get_or_insert(is_alone) && is_alone {
                whole.push(b'\r');
            }
            whole.push(*byte);
            self.last = *byte;
        }
        whole.into()
    }
}

/// What the relay said.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The first letter of the last line.
    class: u8,
    in_line: bool,
    /// It said 250 to content.
    has_taken: bool,
}

impl Replies {
    /// The relay says this.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.in_line {
                self.has_taken |= self.class == b'3' && *byte == b'2';
                self.class = *byte;
            }
            self.in_line = *byte != b'\n';
        }
    }

    /// It took a message, or had nothing against what was said last. What came of each message is in the replies.
    pub(super) fn is_success(&self) -> bool {
        self.has_taken || self.class == b'2'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is cut.
    fn mended(text: &str, piece: usize) -> String {
        let mut ends = LineEnds::default();
        let pieces: Vec<_> =
            text.as_bytes().chunks(piece).map(|bytes| ends.mended(bytes).into_owned()).collect();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn lf_becomes_cr_lf_where_the_first_line_ends_so() {
        for piece in [1, 2, 3, 100] {
            assert_eq!(mended("HELO x\na\r\n\n.\n", piece), "HELO x\r\na\r\n\r\n.\r\n");
            assert_eq!(mended("\nx\n", piece), "\r\nx\r\n");
            // What a caller means who knows CR LF, BDAT too, is not for us to change.
            assert_eq!(mended("EHLO x\r\na\nb\r\n", piece), "EHLO x\r\na\nb\r\n");
        }
    }

    #[test]
    fn mail_that_was_taken_or_the_last_reply_says_how_it_ended() {
        let ended = |pieces: &[&str]| {
            let mut replies = Replies::default();
            pieces.iter().for_each(|piece| replies.hear(piece.as_bytes()));
            replies.is_success()
        };
        assert!(ended(&["220 here\r\n", "25", "0 ok\r\n", "221 bye\r\n"]));
        assert!(ended(&["220 here\r\n2", "50 ok\r\n"]));
        assert!(ended(&["354 go\r\n", "250 taken\r\n", "421 4.4.2 you said nothing more\r\n"]));
        for bad in [
            &["220 here\r\n5", "00 5.5.2 2\r\n"][..],
            &["421 x\r\n"],
            &["354 go\r\n"],
            &["354 go\r\n", "452 full\r\n"],
            &[""],
        ] {
            assert!(!ended(bad), "{bad:?}");
        }
    }
}
