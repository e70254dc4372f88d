//! The content behind BDAT, chunk by chunk (RFC 3030 §2): pure.
//!
//! A chunk ends where its size says and nowhere else, so no byte in it can end the content: not one of
//! the look-alikes of CR LF . CR LF means anything here. Of a message in lines (BODY=7BIT or 8BITMIME)
//! RFC 3030 §2 asks for CR LF line ends; lines are mended exactly as `content.rs` mends those of DATA (a
//! bare LF becomes CR LF, a bare CR a space), and a last line without an end gets one, since behind
//! DATA there is none either. Otherwise what is harmless here would be smuggled on by a host behind
//! us that speaks DATA. BODY=BINARYMIME content has no lines (§3) and is kept byte for byte.

use memchr::memchr2;

use crate::mail::Body;

/// Reads the chunks of one message.
#[derive(Debug)]
pub(super) struct ChunkReader {
    /// No lines: nothing is mended.
    binary: bool,
    /// Behind a CR that is still to be judged; the LF may be in the next chunk.
    cr: bool,
    /// Within a line.
    open_line: bool,
}

impl ChunkReader {
    /// At the start of the content.
    pub(super) fn new(body: Body) -> ChunkReader {
        ChunkReader { binary: body == Body::BinaryMime, cr: false, open_line: false }
    }

    /// Appends what `input` holds to `out`: at most twice as many bytes, and one.
    pub(super) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.binary {
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

    /// The last chunk is read: ends the last line.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        if self.cr || self.open_line {
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::content::DataReader;
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
