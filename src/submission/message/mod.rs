//! The content of a message: where it ends, how its header is fixed, and its way into the queue.

pub(in crate::submission) mod chunk;
pub(in crate::submission) mod content;
pub(in crate::submission) mod header;
pub(in crate::submission) mod intake;
mod returns;
pub(in crate::submission) mod trace;
