//! The queue: the only durable truth, and the only SQL.
//!
//! One writer thread owns the only writing connection and commits in groups with
//! `synchronous=FULL`; readers have connections of their own. What is accepted here survives
//! `kill -9`, a power cut and a full disk. The schema is `queue-schema.sql`.

pub mod id;
pub mod rows;

pub use id::{MessageId, RecipientId};
pub use rows::{
    CachedContent, Due, Event, Fate, Finished, Health, Job, Kick, LaneRow, NewMessage, Origin, QueuedMessage,
    QueuedRecipient, Settled, Settlement,
};

// ---- Stub to compile against; the queue's own branch replaces everything below this line. ----

/// Why something was not put into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Somebody else holds the database: 451 4.3.0.
    #[error("the queue is busy")]
    Busy,
    /// The disk is full: 452 4.3.1.
    #[error("the queue's disk is full")]
    Full,
    /// It could not be written: 451 4.3.0.
    #[error("the queue could not write it")]
    Failed,
}

/// Stub.
#[derive(Debug, Clone)]
pub struct Queue;

#[allow(missing_docs)]
impl Queue {
    pub fn new_message_id(&self) -> MessageId {
        MessageId(0)
    }
    pub fn has_room(&self, _size: u64) -> bool {
        false
    }
    pub fn append_chunk(&self, _id: MessageId, _seq: u32, _data: Vec<u8>) -> Result<(), AcceptError> {
        Err(AcceptError::Failed)
    }
    pub fn discard(&self, _id: MessageId) {}
    pub fn accept(&self, _message: NewMessage) -> Result<(), AcceptError> {
        Err(AcceptError::Failed)
    }
    pub fn kick(&self, _kick: &Kick) -> Result<usize, AcceptError> {
        Err(AcceptError::Failed)
    }
}
