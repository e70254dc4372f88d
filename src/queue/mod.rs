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
