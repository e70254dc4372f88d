//! What can go wrong in the queue, for those outside.

use std::path::PathBuf;

use super::MessageId;
use super::suspension::SUSPENSIONS_MAX;

/// Why something was not put into the queue. The client keeps its message and is told to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Somebody else holds the database: 451 4.3.0.
    #[error("the queue is busy")]
    Busy,
    /// The disk is full, or the reserve would be used up: 452 4.3.1.
    #[error("the queue's disk is full")]
    Full,
    /// It could not be written: 451 4.3.0. After a failed write to the disk nothing is accepted any more.
    #[error("the queue could not write it")]
    Failed,
}

/// Why a user's mail finds no room in the user's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// There is too much of it.
    #[error("the user's quota is reached")]
    Reached,
    /// The queue cannot be read just now.
    #[error("the queue could not count it")]
    Unknown,
}

/// Why the queue cannot be opened or read. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database said no; in its own words.
    #[error("queue database: {0}")]
    Database(String),
    /// A file or directory cannot be used.
    #[error("{path}: {source} ({remedy})")]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The database cannot be opened.
    #[error("{path}: {why} ({remedy})")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A log with mail in it, and not the database that it belongs to. Opened, what is there would take it in.
    #[error(
        "{path} {why}, but its log {log} has {bytes} bytes, with mail in it that was acknowledged (put the database \
         back that the log belongs to; only where that one is lost for good, move the log away)"
    )]
    LeftLog {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// Its log.
        log: PathBuf,
        /// What is in the log.
        bytes: u64,
    },
    /// Another relay runs on this queue.
    #[error("{path} is in use by another postrider{holder}: stop that one, or set another [queue] path")]
    InUse {
        /// The database.
        path: PathBuf,
        /// ` (pid 123)`, where it is known.
        holder: String,
    },
    /// A newer Postrider wrote it.
    #[error(
        "{path} has schema version {found}, this postrider knows up to {known}: start the newer one that wrote it"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The database's.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The content is not there any more, or not all of it: the message was removed meanwhile.
    #[error("{0}: its content is not (all) in the queue any more")]
    ContentGone(MessageId),
    /// What was rescued when the queue's files were removed, and has to be put back first.
    #[error(
        "{kept} was rescued when the queue's files were removed, and {before} is not there: move the one to the other \
         with the relay stopped (only where its mail is not wanted, move it away)"
    )]
    Rescued {
        /// What was rescued.
        kept: PathBuf,
        /// Where it was before.
        before: PathBuf,
    },
    /// No further one would count.
    #[error(
        "{SUSPENSIONS_MAX} suspensions count at most, and there are as many: `postrider queue suspensions` lists them"
    )]
    TooManySuspensions,
    /// So much is suspended that what stands behind it was not reached.
    #[error("more than can be looked through is suspended before what may go: `postrider queue suspensions`")]
    SuspendedBeyondReach,
    /// The writer thread ended before its time.
    #[error("the queue's writer stopped: {0}")]
    Writer(String),
    /// It ended since the files of the queue are not those any more that it had open.
    #[error("the queue's writer stopped: {0}")]
    FilesTaken(String),
}

impl QueueError {
    /// Whether somebody has to look first: another start by itself would lose mail, or say the same again.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, QueueError::LeftLog { .. } | QueueError::Rescued { .. } | QueueError::FilesTaken(_))
    }
}
