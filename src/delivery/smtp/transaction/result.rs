//! What a transaction came to: for each recipient, for the connection, and for what is known of the host.

use crate::mail::Reply;

use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::pipeline::PipelineResult;

/// What came of one recipient at one host.
#[derive(Debug, Clone, PartialEq)]
pub enum RecipientResult {
    /// The host took it and is responsible from here on.
    Accepted {
        /// To the content.
        reply: Reply,
        /// The host offers no DSN where a success report was asked for (RFC 3461 §5.2.2), or a trace was asked for
        /// (`BY=…;NT`, RFC 2852 §4).
        relayed: bool,
    },
    /// The host takes no more recipients in this transaction: no attempt, goes into the next one
    /// (RFC 5321 §4.5.3.1.10). At least one recipient of this transaction was accepted.
    NextTransaction,
    /// Anything else.
    Failed(Failure),
    /// The content was sent whole, and its reply never came or could not be read (RFC 1047).
    InDoubt(Failure),
}

/// How the host took BDAT, where DATA would have been another way.
#[derive(Debug, Clone, PartialEq)]
pub enum ChunkingResult {
    /// Not used, or nothing was learnt.
    Unknown,
    /// The first chunk was taken.
    Taken,
    /// By its own words it does not know BDAT, though it offers CHUNKING.
    Refused(Failure),
    /// The connection broke before the host had answered the first chunk.
    Broken(Failure),
}

/// What a transaction came to.
#[derive(Debug)]
pub(in crate::delivery) struct TransactionResult {
    /// In the recipients' order.
    pub(in crate::delivery) results: Vec<RecipientResult>,
    /// Another transaction may follow on the connection.
    pub(in crate::delivery) is_usable: bool,
    /// By their enhanced codes the host's answers to MAIL, RCPT and content cannot be taken for one another.
    pub(in crate::delivery) tells_apart: bool,
    /// The host gave a reply too many, or none to what closes a transaction: its next message had better have a
    /// connection of its own.
    pub(in crate::delivery) unasked: Option<Failure>,
    pub(in crate::delivery) pipelining: PipelineResult,
    pub(in crate::delivery) chunking: ChunkingResult,
    /// All of it went in a single write.
    pub(in crate::delivery) single_write: bool,
}
