//! Dot-stuffing for DATA (RFC 5321 §4.5.2): a dot before every line that begins with a dot, and the final dot.
//!
//! Pure. Small pieces are collected in a buffer, so that a small message and its final dot go out in one write; long
//! pieces are written from where they are, without a copy.

use memchr::memmem::Finder;

/// The buffer is written out when it holds this much.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// How much of a piece written directly stays in the buffer, so that the final dot never goes out alone.
const HELD_BACK_BYTES: usize = 1024;

/// The state between two chunks.
pub(in crate::delivery) struct Stuffer {
    dot_line: Finder<'static>,
    /// The last two bytes of the content so far.
    ending: [u8; 2],
}

impl Stuffer {
    /// At the start of the content, which is the start of a line.
    pub(in crate::delivery) fn new() -> Stuffer {
        Stuffer { dot_line: Finder::new(b"\n."), ending: *b"\r\n" }
    }

    /// Takes the next chunk. What does not fit into the buffer `gathered` goes to `write`.
    ///
    /// A dot is doubled after a bare LF too. The queue holds no bare LF; if one gets there all the same, a host that
    /// takes it for a line end must not find the end of the content behind it (SMTP smuggling).
    ///
    /// # Errors
    /// Those of `write`.
    pub(in crate::delivery) fn stuff<E>(
        &mut self,
        chunk: &[u8],
        gathered: &mut Vec<u8>,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = chunk;
        if self.ending[1] == b'\n' && rest.first() == Some(&b'.') {
            gathered.push(b'.');
        }
        while let Some(line_end) = self.dot_line.find(rest) {
            let (piece, dot_line) = rest.split_at(line_end + 1);
            gather(piece, gathered, write)?;
            gathered.push(b'.');
            rest = dot_line;
        }
        gather(rest, gathered, write)?;
        match chunk {
            [.., before, last] => self.ending = [*before, *last],
            [last] => self.ending = [self.ending[1], *last],
            [] => {}
        }
        Ok(())
    }

    /// Ends the last line if the content did not, and appends the final dot.
    pub(in crate::delivery) fn finish(self, gathered: &mut Vec<u8>) {
        let end: &[u8] = match self.ending {
            [b'\r', b'\n'] => b".\r\n",
            [_, b'\r'] => b"\n.\r\n",
            _ => b"\r\n.\r\n",
        };
        gathered.extend_from_slice(end);
    }
}

fn gather<E>(
    piece: &[u8],
    gathered: &mut Vec<u8>,
    write: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if gathered.len() + piece.len() <= GATHERED_BYTES_MAX {
        gathered.extend_from_slice(piece);
        return Ok(());
    }
    if !gathered.is_empty() {
        write(gathered)?;
        gathered.clear();
    }
    let held_back = piece.len().min(HELD_BACK_BYTES);
    let (direct, tail) = piece.split_at(piece.len() - held_back);
    if !direct.is_empty() {
        write(direct)?;
    }
    gathered.extend_from_slice(tail);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What goes over the wire for content that comes in these chunks, and in how many writes.
    fn wire(chunks: &[&[u8]]) -> (Vec<u8>, usize) {
        let (mut out, mut writes, mut gathered) = (Vec::new(), 0, Vec::new());
        let mut write = |bytes: &[u8]| -> Result<(), ()> {
            out.extend_from_slice(bytes);
            writes += 1;
            Ok(())
        };
        let mut stuffer = Stuffer::new();
        for chunk in chunks {
            stuffer.stuff(chunk, &mut gathered, &mut write).unwrap();
        }
        stuffer.finish(&mut gathered);
        write(&gathered).unwrap();
        (out, writes)
    }

    #[test]
    fn dots_are_doubled_at_the_start_of_lines_only() {
        for (content, sent) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
            (b"a\n", b"a\n\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b".\r\n.\r\n..\r\n", b"..\r\n..\r\n...\r\n.\r\n"),
            (b"a.b\r\n.c.d\r\n", b"a.b\r\n..c.d\r\n.\r\n"),
            (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
            (b"a\n.\r\nb\r\n", b"a\n..\r\nb\r\n.\r\n"),
        ] {
            assert_eq!(wire(&[content]).0, sent, "{:?}", content.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_small_message_leaves_in_one_write_and_a_long_stretch_is_not_gathered() {
        assert_eq!(wire(&[b"small\r\n.\r\n"]).1, 1);
        let line = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
        let big = line.repeat(256);
        let (out, writes) = wire(&[&big, &big]);
        assert_eq!(out, [&big[..], &big, b".\r\n"].concat());
        assert_eq!(writes, 4, "a direct write for each chunk, the tail before it, and the end");
    }

    proptest! {
        #[test]
        fn a_receiver_gets_back_what_was_sent_wherever_chunks_end(
            lines in prop::collection::vec("[.a]{0,4}", 0..12),
            cuts in prop::collection::vec(0usize..80, 0..4),
        ) {
            let content: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &content[pair[0]..pair[1]]).collect();
            let (sent, _) = wire(&chunks);
            let mut received = Vec::new();
            let text = String::from_utf8(sent).unwrap();
            let mut wire_lines = text.split_inclusive("\r\n");
            for line in wire_lines.by_ref().take_while(|line| *line != ".\r\n") {
                received.extend_from_slice(line.strip_prefix('.').unwrap_or(line).as_bytes());
            }
            prop_assert_eq!(wire_lines.next(), None);
            prop_assert_eq!(received, content);
        }
    }
}
