//! Content on its way out by BDAT (RFC 3030 §2): one chunk, announced with its size and LAST, its bytes as
//! they are.
//!
//! Pure. The size is said before the content is read, so it is watched: a host that was promised other
//! than what it gets would take commands for content or content for commands. The bytes that complete
//! the chunk are what the final dot is behind DATA: until they are written, nothing can be accepted.

use std::io;

/// The buffer is written out when it holds this much.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// How much of the chunk is still to come.
pub(super) struct Chunk {
    left: u64,
}

impl Chunk {
    /// Begins a chunk of `size` bytes with its command, in `gathered`.
    pub(super) fn begin(size: u64, gathered: &mut Vec<u8>) -> Chunk {
        gathered.extend_from_slice(format!("BDAT {size} LAST\r\n").as_bytes());
        Chunk { left: size }
    }

    /// Takes the next piece of content. What does not fit into `gathered` is handed to `write`, but
    /// never the end of the chunk, so that small messages leave in one write and the last is the caller's.
    ///
    /// # Errors
    /// Those of `write`, and of `too_much` where the content is longer than was said.
    pub(super) fn take<E>(
        &mut self,
        piece: &[u8],
        gathered: &mut Vec<u8>,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
        too_much: impl FnOnce(io::Error) -> E,
    ) -> Result<(), E> {
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            return Err(too_much(io::Error::other("the content is longer than its size in the queue")));
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

    /// There is no more content.
    ///
    /// # Errors
    /// It is shorter than was said.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.left {
            0 => Ok(()),
            _ => Err(io::Error::other("the content is shorter than its size in the queue")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes over the wire, in which writes; the last is what is left for the caller.
    fn wire(size: u64, pieces: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let (mut writes, mut gathered) = (Vec::new(), Vec::new());
        let mut chunk = Chunk::begin(size, &mut gathered);
        for piece in pieces {
            let mut write = |bytes: &[u8]| -> io::Result<()> {
                writes.push(bytes.to_vec());
                Ok(())
            };
            chunk.take(piece, &mut gathered, &mut write, |error| error)?;
        }
        chunk.finish()?;
        writes.push(gathered);
        Ok(writes)
    }

    #[test]
    fn content_follows_its_size_as_it_is() {
        assert_eq!(wire(7, &[b"\r\n.\r\n", b".\0"]).unwrap(), [b"BDAT 7 LAST\r\n\r\n.\r\n.\0"]);
        assert_eq!(wire(0, &[]).unwrap(), [b"BDAT 0 LAST\r\n"]);
    }

    #[test]
    fn the_end_of_the_chunk_is_always_the_callers_write() {
        let big = vec![b'x'; 256 << 10];
        let writes = wire(2 * big.len() as u64, &[&big, &big]).unwrap();
        assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [18, big.len(), big.len()]);
        assert_eq!(wire(100, &[&big[..50], &big[..50]]).unwrap().len(), 1);
    }

    #[test]
    fn a_size_that_is_not_the_contents_is_found_out_before_the_host_can_be_misled() {
        assert!(wire(3, &[b"ab"]).is_err());
        assert!(wire(3, &[b"ab", b"cd"]).is_err());
    }
}
