//! The content of a queued message, a chunk at a time.

use super::MessageId;
use super::contract::SharedReads;
use super::error::QueueError;

/// Reads one chunk after the other. Nothing of the database is held between two chunks, however long the
/// receiver takes; should the message go meanwhile, that is an error and never a shorter message.
#[derive(Debug)]
pub struct ContentReader {
    reads: SharedReads,
    message: MessageId,
    next: u32,
    /// Bytes that are still to come; none before the first chunk and after the end.
    left: Option<u64>,
    ended: bool,
}

impl ContentReader {
    pub(super) fn new(reads: SharedReads, message: MessageId) -> ContentReader {
        ContentReader { reads, message, next: 0, left: None, ended: false }
    }

    fn step(&mut self) -> Result<Option<Vec<u8>>, QueueError> {
        let gone = || QueueError::ContentGone(self.message);
        let left = match self.left {
            Some(left) => left,
            None => self.reads.size(self.message)?.ok_or_else(gone)?,
        };
        if left == 0 {
            return Ok(None);
        }
        let chunk = self.reads.chunk(self.message, self.next)?.ok_or_else(gone)?;
        self.left = Some(left.checked_sub(chunk.len() as u64).ok_or_else(gone)?);
        self.next += 1;
        Ok(Some(chunk))
    }
}

impl Iterator for ContentReader {
    type Item = Result<Vec<u8>, QueueError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
