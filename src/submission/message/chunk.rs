//! The content behind BDAT, chunk by chunk (RFC 3030 §2): pure.
//!
//! A chunk ends where its size says and nowhere else, so no byte in it can end the content: not one of
//! the look-alikes of CR LF . CR LF means anything here. Of a message in lines (BODY=7BIT or 8BITMIME)
//! RFC 3030 §2 asks for CR LF line ends; lines are mended exactly as `content.rs` mends those of DATA (a
//! bare LF becomes CR LF, a bare CR a space), and a last line without an end gets one, since behind
//! DATA there is none either. Otherwise what is harmless here would be smuggled on by a host behind
//! us that speaks DATA. BODY=BINARYMIME content need have no lines (§3) and is kept byte for byte; where it
//! turns out to be nothing but lines after all, it is marked so. Some clients say BINARYMIME of everything where
//! it is offered, and few hosts of the world take it: their mail would come back for the word alone.

use memchr::memchr2;

use crate::mail::Body;

/// Reads the chunks of one message.
#[derive(Debug)]
pub(in crate::submission) struct ChunkReader {
    body: Body,
    /// Of BINARYMIME: how far it is in lines nevertheless.
    lines: LineCheck,
    /// Behind a CR that is still to be judged; the LF may be in the next chunk.
    cr: bool,
    /// Within a line.
    open_line: bool,
}

impl ChunkReader {
    /// At the start of the content.
    pub(in crate::submission) fn new(body: Body) -> ChunkReader {
        ChunkReader { body, lines: LineCheck::default(), cr: false, open_line: false }
    }

    /// Appends what `input` holds to `out`: at most twice as many bytes, and one.
    pub(in crate::submission) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.body == Body::BinaryMime {
            self.lines.feed(input);
            out.extend_from_slice(input);
            return;
        }
        let Some(first) = input.first() else { return };
        let before = out.len();
        let mut from = 0;
        if std::mem::take(&mut self.cr) {
            if *first == b'\n' {
                out.extend_from_slice(b"\r\n");
                from = 1;
            } else {
                out.push(b' ');
            }
        }
        let mut at = from;
        while let Some(found) = memchr2(b'\r', b'\n', &input[at..]) {
            let end = at + found;
            if input[end..].starts_with(b"\r\n") {
                at = end + 2; // still unchanged
                continue;
            }
            out.extend_from_slice(&input[from..end]);
            match input[end] {
                b'\n' => out.extend_from_slice(b"\r\n"),
                _ if end + 1 == input.len() => self.cr = true,
                _ => out.push(b' '),
            }
            at = end + 1;
            from = at;
        }
        out.extend_from_slice(&input[from..]);
        if let Some(last) = out[before..].last() {
            self.open_line = *last != b'\n';
        }
    }

    /// The last chunk is read: ends the last line, and says what the content is. (7BIT for all that is in
    /// lines; whether there are eight bits in them is not asked here.)
    pub(in crate::submission) fn finish(self, out: &mut Vec<u8>) -> Body {
        if self.cr || self.open_line {
            out.extend_from_slice(b"\r\n");
        }
        if self.body == Body::BinaryMime && self.lines.hold() { Body::SevenBit } else { self.body }
    }
}

/// Whether bytes could have come behind DATA as they are: whole lines with CR LF, none longer than RFC 5322
/// §2.1.1 allows, and no NUL.
#[derive(Debug, Default)]
struct LineCheck {
    broken: bool,
    line_bytes: usize,
    cr: bool,
}

impl LineCheck {
    const LINE_BYTES_MAX: usize = 998;

    fn feed(&mut self, input: &[u8]) {
        if self.broken {
            return;
        }
        for byte in input {
            let line_end = *byte == b'\n';
            if self.cr != line_end || *byte == 0 {
                self.broken = true;
                return;
            }
            self.cr = *byte == b'\r';
            self.line_bytes = if line_end { 0 } else { self.line_bytes + 1 };
            self.broken |= self.line_bytes > Self::LINE_BYTES_MAX + usize::from(self.cr);
        }
    }

    fn hold(&self) -> bool {
        !self.broken && self.line_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::message::content::DataReader;
    use proptest::prelude::*;

    fn read<'a>(body: Body, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut reader, mut out) = (ChunkReader::new(body), Vec::new());
        for chunk in chunks {
            reader.feed(chunk, &mut out);
        }
        reader.finish(&mut out);
        out
    }

    #[test]
    fn lines_are_mended_and_dots_are_content() {
        for (input, content) in [
            (&b""[..], &b""[..]),
            (b"a", b"a\r\n"),
            (b"a\r\n", b"a\r\n"),
            (b"a\nb\rc\r\r\nd\n\ne\r\n", b"a\r\nb c \r\nd\r\n\r\ne\r\n"),
            (b"a\r", b"a\r\n"),
            (b"\n", b"\r\n"),
            (b"..\r\n.\r\n.\n.\r", b"..\r\n.\r\n.\r\n.\r\n"),
        ] {
            assert_eq!(read(Body::EightBitMime, [input]), content, "{:?}", input.escape_ascii().to_string());
        }
    }

    #[test]
    fn binary_content_in_lines_is_marked_as_what_it_is() {
        let body = |input: &[u8]| {
            let mut reader = ChunkReader::new(Body::BinaryMime);
            input.chunks(3).for_each(|chunk| reader.feed(chunk, &mut Vec::new()));
            reader.finish(&mut Vec::new())
        };
        let line = |bytes: usize| [vec![b'x'; bytes], b"\r\n".to_vec()].concat();
        for lines in [&b""[..], b"a\r\n", b"\r\n.\r\n\xff\r\n", &line(998)] {
            assert_eq!(body(lines), Body::SevenBit, "{:?}", lines.escape_ascii().to_string());
        }
        for binary in [&b"a"[..], b"a\n", b"a\r", b"\n\r\n", b"a\rb\r\n", b"\r\r\n", b"a\0\r\n", &line(999)] {
            assert_eq!(body(binary), Body::BinaryMime, "{:?}", binary.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_line_end_may_be_cut_by_the_end_of_a_chunk() {
        let read = |chunks: [&[u8]; 3]| read(Body::SevenBit, chunks);
        assert_eq!(read([b"a\r", b"", b"\nb\r\n"]), b"a\r\nb\r\n");
        assert_eq!(read([b"a\r", b"b", b""]), b"a b\r\n");
        assert_eq!(read([b"a\r\n", b"", b"\r"]), b"a\r\n\r\n");
    }

    /// Bytes in which line ends and dots are common.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\r\r\n\n..ab\0\xff".to_vec()), 0..60)
    }

    proptest! {
        #[test]
        fn binary_content_is_kept_byte_for_byte(input in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(read(Body::BinaryMime, input.chunks(7)), input);
        }

        #[test]
        fn chunks_of_any_size_read_the_same(input in hostile(), size in 1usize..20) {
            let whole = read(Body::SevenBit, [input.as_slice()]);
            prop_assert_eq!(&read(Body::SevenBit, input.chunks(size)), &whole);
            prop_assert_eq!(&read(Body::SevenBit, input.chunks(1)), &whole);
        }

        /// What a client could have sent with either command is the same in the queue.
        #[test]
        fn bdat_and_data_mend_alike(input in hostile()) {
            let by_bdat = read(Body::SevenBit, [input.as_slice()]);
            // Behind DATA: dots doubled at the start of true lines, the last line ended, then the dot.
            let mut wire = Vec::new();
            for line in String::from_utf8_lossy(&input).split_inclusive("\r\n") {
                wire.extend(line.starts_with('.').then_some(b'.'));
                wire.extend_from_slice(line.as_bytes());
            }
            if wire.last() == Some(&b'\r') {
                wire.push(b'\n');
            } else if !wire.is_empty() && !wire.ends_with(b"\r\n") {
                // A bare LF at the end is mended into a line end; sent behind DATA it would get a second one.
                match wire.last() {
                    Some(b'\n') => { wire.pop(); wire.extend_from_slice(b"\r\n") }
                    _ => wire.extend_from_slice(b"\r\n"),
                }
            }
            wire.extend_from_slice(b".\r\n");
            let mut by_data = Vec::new();
            let fed = DataReader::new().feed(&wire, &mut by_data);
            prop_assert!(fed.ended && fed.consumed == wire.len());
            prop_assert_eq!(String::from_utf8_lossy(&by_bdat), String::from_utf8_lossy(&by_data));
        }
    }
}
