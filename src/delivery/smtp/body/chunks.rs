//! Content on its way out by BDAT (RFC 3030 §2): how it is cut into chunks, and one chunk, announced with its
//! size, its bytes as they are.
//!
//! Pure. The sizes are said before the content is read, so they are watched: a host that was promised other
//! than what it gets would take commands for content or content for commands. The bytes that complete
//! the chunk marked LAST are what the final dot is behind DATA: until they are written, nothing can be accepted.

use std::io;

/// The size of every chunk but the last; content that is larger goes in chunks wherever they are offered. Each
/// chunk has a reply, so a host that does not want the message can say so after so many bytes instead of all of
/// them, and neither side looks for dots. What fits into one chunk gains nothing, and goes by DATA.
pub(in crate::delivery) const CHUNK_BYTES: u64 = 1 << 20;
/// The buffer is written out when it holds this much.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// How many chunks come before the one marked LAST.
pub(in crate::delivery) fn chunks_before_last(size: u64) -> u64 {
    size.saturating_sub(1) / CHUNK_BYTES
}

/// The size of the chunk marked LAST.
pub(in crate::delivery) fn last_chunk_bytes(size: u64) -> u64 {
    size - chunks_before_last(size) * CHUNK_BYTES
}

/// How much of the chunk is still to come.
pub(in crate::delivery) struct Chunk {
    left: u64,
}

impl Chunk {
    /// Begins a chunk of `size` bytes with its command, in `gathered`.
    pub(in crate::delivery) fn begin(size: u64, last: bool, gathered: &mut Vec<u8>) -> Chunk {
        let last = if last { " LAST" } else { "" };
        gathered.extend_from_slice(format!("BDAT {size}{last}\r\n").as_bytes());
        Chunk { left: size }
    }

    /// Takes the next piece of content, no longer than what is [`left`](Chunk::left), for a chunk that is gathered
    /// whole.
    pub(in crate::delivery) fn gather(&mut self, piece: &[u8], gathered: &mut Vec<u8>) {
        self.left = self.left.saturating_sub(piece.len() as u64);
        gathered.extend_from_slice(piece);
    }

    /// Bytes still to come.
    pub(in crate::delivery) fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next piece of content. What does not fit into `gathered` is handed to `write`, but
    /// never the end of the chunk, so that small messages leave in one write and the last is the caller's.
    ///
    /// # Errors
    /// Those of `write`, and of `too_much` where the content is longer than was said.
    pub(in crate::delivery) fn take<E>(
        &mut self,
        piece: &[u8],
        gathered: &mut Vec<u8>,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
        too_much: impl FnOnce(io::Error) -> E,
    ) -> Result<(), E> {
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            return Err(too_much(too_long()));
        };
        self.left = left;
        if gathered.len() + piece.len() > GATHERED_BYTES_MAX && !gathered.is_empty() {
            write(gathered)?;
            gathered.clear();
        }
        if piece.len() > GATHERED_BYTES_MAX && left > 0 {
            return write(piece);
        }
        gathered.extend_from_slice(piece);
        Ok(())
    }
}

/// The content goes on behind its last chunk.
pub(in crate::delivery) fn too_long() -> io::Error {
    io::Error::other("the content is longer than its size in the queue")
}

/// The content ends within a chunk.
pub(in crate::delivery) fn too_short() -> io::Error {
    io::Error::other("the content is shorter than its size in the queue")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes over the wire for a chunk, in which writes; the last is what is left for the caller.
    fn wire(size: u64, last: bool, pieces: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let (mut writes, mut gathered) = (Vec::new(), Vec::new());
        let mut chunk = Chunk::begin(size, last, &mut gathered);
        for piece in pieces {
            let mut write = |bytes: &[u8]| -> io::Result<()> {
                writes.push(bytes.to_vec());
                Ok(())
            };
            chunk.take(piece, &mut gathered, &mut write, |error| error)?;
        }
        assert_eq!(chunk.left(), size - pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
        writes.push(gathered);
        Ok(writes)
    }

    #[test]
    fn all_chunks_but_the_last_are_full() {
        const FULL: u64 = CHUNK_BYTES;
        for (size, before_last, last) in [
            (0, 0, 0),
            (1, 0, 1),
            (FULL, 0, FULL),
            (FULL + 1, 1, 1),
            (2 * FULL, 1, FULL),
            (2 * FULL + 1, 2, 1),
            (1 << 30, 1023, FULL),
        ] {
            assert_eq!((chunks_before_last(size), last_chunk_bytes(size)), (before_last, last), "{size}");
        }
    }

    #[test]
    fn content_follows_its_size_as_it_is() {
        assert_eq!(wire(7, true, &[b"\r\n.\r\n", b".\0"]).unwrap(), [b"BDAT 7 LAST\r\n\r\n.\r\n.\0"]);
        assert_eq!(wire(3, false, &[b"ab", b"c"]).unwrap(), [b"BDAT 3\r\nabc"]);
        assert_eq!(wire(0, true, &[]).unwrap(), [b"BDAT 0 LAST\r\n"]);
    }

    #[test]
    fn the_end_of_the_chunk_is_always_the_callers_write() {
        let big = vec![b'x'; 256 << 10];
        let writes = wire(2 * big.len() as u64, true, &[&big, &big]).unwrap();
        assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [18, big.len(), big.len()]);
        assert_eq!(wire(100, true, &[&big[..50], &big[..50]]).unwrap().len(), 1);
    }

    #[test]
    fn more_than_was_said_is_never_written() {
        assert!(wire(3, false, &[b"ab", b"cd"]).is_err());
    }
}
