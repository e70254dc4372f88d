//! The content behind DATA, read from any split of the input: pure, and the only judge of where it ends.
//!
//! Only CR LF . CR LF ends it (RFC 5321 §4.1.1.4), the first CR LF being the one behind DATA
//! where the content is empty. A bare LF becomes CR LF and a bare CR a space, and neither ever
//! ends anything or begins a line that a dot could end: a server that takes LF . LF or LF . CR LF for
//! the end lets a sender smuggle a second message with an envelope of its own (CVE-2023-51764
//! and its kin). Dots doubled for the way are single again (§4.5.2), only behind a true CR LF.

use memchr::memchr2;

/// Where in a line the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Behind CR LF, or at the very start.
    LineStart,
    /// Behind a dot at the start of a line; the dot is dropped or is the end.
    Dot,
    /// Behind `.` CR at the start of a line.
    DotCr,
    /// Elsewhere, behind a bare LF as well.
    Line,
    /// Behind a CR that is still to be judged.
    Cr,
}

/// Reads content piece by piece.
#[derive(Debug)]
pub(in crate::submission) struct DataReader {
    at: At,
}

/// What [`DataReader::feed`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct Fed {
    /// Bytes of the input that are used up; the rest are the next commands.
    pub(in crate::submission) consumed: usize,
    /// The end was seen.
    pub(in crate::submission) ended: bool,
}

impl DataReader {
    /// At the start of the content, behind the CR LF of the command.
    pub(in crate::submission) fn new() -> DataReader {
        DataReader { at: At::LineStart }
    }

    /// Reads `input` up to the end of the content and appends what it holds to `out`: at most
    /// twice as many bytes as it read, and two. Consumes all of `input` unless the end is in it.
    pub(in crate::submission) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Fed {
        let mut next = 0;
        while next < input.len() {
            let byte = input[next];
            match (self.at, byte) {
                (At::LineStart, b'.') => {
                    self.at = At::Dot;
                    next += 1;
                }
                (At::Dot, b'\r') => {
                    self.at = At::DotCr;
                    next += 1;
                }
                (At::DotCr, b'\n') => {
                    self.at = At::LineStart;
                    return Fed { consumed: next + 1, ended: true };
                }
                // Not the end after all: the dot is gone, the CR is content and judged with this byte.
                (At::DotCr, _) => self.at = At::Cr,
                (At::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    self.at = At::LineStart;
                    next += 1;
                }
                (At::Cr, _) => {
                    out.push(b' ');
                    self.at = At::Line;
                }
                (At::LineStart | At::Dot | At::Line, _) => next += self.copy_lines(&input[next..], out),
            }
        }
        Fed { consumed: next, ended: false }
    }

    /// Copies as much of `input` (not empty, and not at a dot that begins a line) as goes through
    /// unchanged, in one piece, and what has to be changed behind it. Gives the bytes used up.
    fn copy_lines(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut end = 0;
        loop {
            let Some(found) = memchr2(b'\r', b'\n', &input[end..]) else {
                out.extend_from_slice(input);
                self.at = At::Line;
                return input.len();
            };
            end += found;
            if input[end] == b'\n' {
                // A bare LF: the CR of a CR LF would have been met first.
                out.extend_from_slice(&input[..end]);
                out.extend_from_slice(b"\r\n");
                self.at = At::Line;
                return end + 1;
            }
            match input.get(end + 1..end + 3) {
                // CR LF and a line that is not dotted: still unchanged.
                Some([b'\n', after]) if *after != b'.' => end += 2,
                _ => {
                    out.extend_from_slice(&input[..end]);
                    self.at = At::Cr;
                    return end + 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `pieces` one after the other; gives the content, whether it ended and what is left.
    fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool, Vec<u8>) {
        let (mut reader, mut out, mut rest, mut ended) = (DataReader::new(), Vec::new(), Vec::new(), false);
        for piece in pieces {
            if ended {
                rest.extend_from_slice(piece);
                continue;
            }
            let fed = reader.feed(piece, &mut out);
            ended = fed.ended;
            rest.extend_from_slice(&piece[fed.consumed..]);
        }
        (out, ended, rest)
    }

    fn read(input: &str) -> (String, bool, String) {
        let (out, ended, rest) = read_pieces([input.as_bytes()]);
        (String::from_utf8(out).unwrap(), ended, String::from_utf8(rest).unwrap())
    }

    #[test]
    fn content_ends_at_its_dot_and_the_rest_stays() {
        assert_eq!(read("a\r\n.\r\nQUIT\r\n"), ("a\r\n".into(), true, "QUIT\r\n".into()));
        assert_eq!(read(".\r\n"), (String::new(), true, String::new()));
        assert_eq!(read("\r\n.\r\n"), ("\r\n".into(), true, String::new()));
    }

    #[test]
    fn doubled_dots_are_single_again() {
        assert_eq!(read("..\r\n.a\r\n...b\r\na.\r\n.\r\n").0, ".\r\na\r\n..b\r\na.\r\n");
    }

    #[test]
    fn bare_line_ends_are_mended() {
        assert_eq!(read("a\nb\rc\r\r\nd\n\ne\r\n.\r\n").0, "a\r\nb c \r\nd\r\n\r\ne\r\n");
    }

    /// Every look-alike of the end of data that some server once took for it.
    #[test]
    fn look_alikes_of_the_end_do_not_end_the_content() {
        for (look_alike, content) in [
            ("\n.\n", "\r\n.\r\n"),
            ("\n.\r\n", "\r\n.\r\n"),
            ("\n.\r", "\r\n. "),
            ("\r\n.\n", "\r\n\r\n"),
            ("\r\n.\r", "\r\n "),
            ("\r\n.\r\r\n", "\r\n \r\n"),
            ("\r.\r\n", " .\r\n"),
            ("\r.\r", " . "),
            ("\r.\n", " .\r\n"),
            ("\r\n.\0\r\n", "\r\n\0\r\n"),
            ("\r\n\0.\r\n", "\r\n\0.\r\n"),
            ("\r\n. \r\n", "\r\n \r\n"),
            ("\r\n .\r\n", "\r\n .\r\n"),
            ("\n\n.\r\n", "\r\n\r\n.\r\n"),
            ("\r\r\n\n.\r\n", " \r\n\r\n.\r\n"),
        ] {
            let input = format!("a{look_alike}b\r\n.\r\n");
            let expected = format!("a{content}b\r\n");
            assert_eq!(read(&input), (expected, true, String::new()), "{look_alike:?}");
        }
    }

    /// Bytes in which line ends and dots are common.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\r\r\n\n..ab\0".to_vec()), 0..60)
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_reads_the_same(input in hostile(), cuts in prop::collection::vec(0usize..60, 0..6)) {
            let whole = read_pieces([input.as_slice()]);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&read_pieces(pieces), &whole);
            prop_assert_eq!(&read_pieces(input.chunks(1)), &whole);
        }

        #[test]
        fn it_ends_where_and_only_where_the_rfc_says(input in hostile()) {
            // The CR LF behind DATA counts as the first of the five bytes' line end.
            let mut with_command = b"\r\n".to_vec();
            with_command.extend_from_slice(&input);
            let end = with_command.windows(5).position(|five| five == b"\r\n.\r\n");
            let (out, ended, rest) = read_pieces([input.as_slice()]);
            prop_assert_eq!(ended, end.is_some());
            if let Some(end) = end {
                prop_assert_eq!(rest, &with_command[end + 5..]);
            }
            prop_assert!(out.len() <= 2 * input.len() + 2);
            // No bare CR or LF is left.
            let text = String::from_utf8_lossy(&out).replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }
    }
}
