//! What each error of SQLite means for whoever met it.

use std::path::Path;

use rusqlite::{Error, ErrorCode, ffi};

use crate::queue::contract::StoreFailure;
use crate::queue::error::QueueError;

use super::locks;

/// What to do where the disk or the database failed.
const MEND: &str = "nothing acknowledged is lost: mend the disk and start again";

/// What to do where the database is damaged.
pub(super) const RECOVER: &str =
    "stop the relay, `postrider recover --held` puts what can be read into a fresh queue";

/// Met by the operation at this place of its group, or in upkeep, where the place says nothing.
pub(super) fn of_operation(at: usize, error: &Error) -> StoreFailure {
    let why = error.to_string();
    let Some(ffi::Error { code, extended_code }) = error.sqlite_error() else {
        return StoreFailure::Operation { at, why };
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreFailure::Busy(why),
        ErrorCode::DiskFull => StoreFailure::Full(why),
        // The WAL's index could not grow: a full disk too, met before anything was committed.
        _ if *extended_code == ffi::SQLITE_IOERR_SHMSIZE => StoreFailure::Full(why),
        ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch
        | ErrorCode::TooBig
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::Unknown => StoreFailure::Operation { at, why },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreFailure::Fatal(format!("{why}; {RECOVER}"))
        }
        _ => StoreFailure::Fatal(format!("{why}; {MEND}")),
    }
}

/// Whether it says that the database is damaged.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the system refused to write (not: to sync) what SQLite gave it. A commit that met this never happened.
pub(super) fn is_failed_write(error: &Error) -> bool {
    let codes = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE];
    error.sqlite_error().is_some_and(|error| codes.contains(&error.extended_code))
}

/// At BEGIN and COMMIT nobody in particular is to blame.
pub(super) fn of_transaction(failure: StoreFailure) -> StoreFailure {
    match failure {
        StoreFailure::Operation { why, .. } => StoreFailure::Fatal(format!("{why}; {MEND}")),
        other => other,
    }
}

/// No room on the disk.
pub(super) fn is_full(error: &Error) -> bool {
    matches!(of_operation(0, error), StoreFailure::Full(_))
}

impl From<Error> for QueueError {
    fn from(error: Error) -> QueueError {
        QueueError::Database(error.to_string())
    }
}

/// In an operator's words, where SQLite's would send them searching.
pub(super) fn explain(path: &Path, error: Error) -> QueueError {
    let unusable = |why: String, remedy| QueueError::Unusable { path: path.to_owned(), why, remedy };
    let (why, remedy) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let who = locks::writer(path);
            let why = format!("is held by somebody's open transaction{who}");
            return unusable(why, "end that one, then try again");
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("may not be written by this user", "run this as the user that owns the queue")
        }
        _ if is_full(&error) => ("cannot grow: the disk is full", "make room on it, see `df`"),
        Some(ErrorCode::NotADatabase) => ("is not a SQLite database", "set another [queue] path"),
        _ => return error.into(),
    };
    unusable(why.to_owned(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_pass_is_tried_again() {
        let kind = |failure: StoreFailure| match failure {
            StoreFailure::Busy(_) => "busy",
            StoreFailure::Full(_) => "full",
            StoreFailure::Operation { at, .. } => ["", "operation"][at],
            StoreFailure::Fatal(_) => "fatal",
        };
        let error = |code| Error::SqliteFailure(ffi::Error::new(code), None);
        for (code, wanted) in [
            (ffi::SQLITE_BUSY, "busy"),
            (ffi::SQLITE_BUSY_RECOVERY, "busy"),
            (ffi::SQLITE_FULL, "full"),
            (ffi::SQLITE_IOERR_SHMSIZE, "full"),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "operation"),
            (ffi::SQLITE_ERROR, "operation"),
            (ffi::SQLITE_IOERR_FSYNC, "fatal"),
            (ffi::SQLITE_IOERR_WRITE, "fatal"),
            (ffi::SQLITE_IOERR_READ, "fatal"),
            (ffi::SQLITE_CORRUPT, "fatal"),
            (ffi::SQLITE_READONLY_DBMOVED, "fatal"),
            (ffi::SQLITE_NOMEM, "fatal"),
        ] {
            assert_eq!(kind(of_operation(1, &error(code))), wanted, "{code}");
        }
        assert_eq!(kind(of_transaction(of_operation(0, &error(ffi::SQLITE_CONSTRAINT)))), "fatal");
        for (code, wanted) in
            [(ffi::SQLITE_IOERR_WRITE, true), (ffi::SQLITE_IOERR_FSYNC, false), (ffi::SQLITE_FULL, false)]
        {
            assert_eq!(is_failed_write(&error(code)), wanted, "{code}");
        }
    }
}
