//! What can go wrong in the queue, and what each failure of SQLite means for the writer.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use super::MessageId;

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

/// Why the queue cannot be opened or read. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// SQLite said no.
    #[error("queue database: {0}")]
    Sqlite(#[from] rusqlite::Error),
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
        /// `PRAGMA user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The content is not there any more, or not all of it: the message was removed meanwhile.
    #[error("{0}: its content is not (all) in the queue any more")]
    ContentGone(MessageId),
    /// The writer thread ended before its time.
    #[error("the queue's writer stopped: {0}")]
    Writer(String),
}

/// What an error of SQLite means for the group of operations that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else is writing: later.
    Busy,
    /// No room: later, once something was freed.
    Full,
    /// One operation is to blame (a constraint, a value); the others can go on.
    Operation,
    /// The disk or the database cannot be trusted any more. Never tried again: after a failed fsync
    /// the kernel may have dropped the pages and would report success for data that is not there.
    Fatal,
}

impl Trouble {
    pub(super) fn of(error: &rusqlite::Error) -> Trouble {
        let Some(ffi::Error { code, extended_code }) = error.sqlite_error() else {
            return Trouble::Operation;
        };
        match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Trouble::Busy,
            ErrorCode::DiskFull => Trouble::Full,
            // The WAL's index could not grow: a full disk too, met before anything was committed.
            _ if *extended_code == ffi::SQLITE_IOERR_SHMSIZE => Trouble::Full,
            ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::TooBig
            | ErrorCode::ParameterOutOfRange
            | ErrorCode::Unknown => Trouble::Operation,
            _ => Trouble::Fatal,
        }
    }

    /// At COMMIT nobody in particular is to blame.
    pub(super) fn of_commit(error: &rusqlite::Error) -> Trouble {
        match Trouble::of(error) {
            Trouble::Operation => Trouble::Fatal,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_pass_is_tried_again() {
        let of = |code| Trouble::of(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for (code, trouble) in [
            (ffi::SQLITE_BUSY, Trouble::Busy),
            (ffi::SQLITE_BUSY_RECOVERY, Trouble::Busy),
            (ffi::SQLITE_FULL, Trouble::Full),
            (ffi::SQLITE_IOERR_SHMSIZE, Trouble::Full),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, Trouble::Operation),
            (ffi::SQLITE_ERROR, Trouble::Operation),
            (ffi::SQLITE_IOERR_FSYNC, Trouble::Fatal),
            (ffi::SQLITE_IOERR_WRITE, Trouble::Fatal),
            (ffi::SQLITE_IOERR_READ, Trouble::Fatal),
            (ffi::SQLITE_CORRUPT, Trouble::Fatal),
            (ffi::SQLITE_READONLY_DBMOVED, Trouble::Fatal),
            (ffi::SQLITE_NOMEM, Trouble::Fatal),
        ] {
            assert_eq!(of(code), trouble, "{code}");
        }
        let at_commit = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CONSTRAINT), None);
        assert_eq!(Trouble::of_commit(&at_commit), Trouble::Fatal);
    }
}
