//! The queue for people: looks and changes from outside, with or without the relay running.
//!
//! A connection of its own, as anybody with `sqlite3` has; a relay that runs notices within two
//! seconds.

pub(in crate::queue) mod rows;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use crate::queue::sqlite::admin::change::Which;
#[cfg(test)]
pub(super) use crate::queue::sqlite::admin::change::remove_one;
pub use crate::queue::sqlite::admin::kicks::KickLine;
pub use rows::{DomainLine, Envelope, Filter, HostLine, LaneLine, Line, Shown, ShownRecipient, Summary, Try};

use super::error::QueueError;
use crate::queue::sqlite::migrate;
use crate::queue::sqlite::read;

/// How long somebody else's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection of an operator.
#[derive(Debug)]
pub struct Admin {
    conn: Connection,
    path: PathBuf,
}

impl Admin {
    /// To look only.
    ///
    /// # Errors
    /// There is no queue here, or this user may not read it.
    pub fn to_read(path: &Path) -> Result<Admin, QueueError> {
        Admin::open(path, false)
    }

    /// To change.
    ///
    /// # Errors
    /// There is no queue here, or this user may not write it.
    pub fn to_write(path: &Path) -> Result<Admin, QueueError> {
        Admin::open(path, true)
    }

    fn open(path: &Path, write: bool) -> Result<Admin, QueueError> {
        // SQLite's own words for these would not help.
        std::fs::OpenOptions::new().read(true).write(write).open(path).map_err(|source| {
            QueueError::File {
                path: path.to_owned(),
                remedy: match source.kind() {
                    std::io::ErrorKind::NotFound => {
                        "no queue here yet: start `postrider serve`, or name its --config"
                    }
                    _ => "run this as the user that owns the queue",
                },
                source,
            }
        })?;
        let conn = if write {
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        } else {
            read::open_reader(path)
        };
        let admin = Admin { conn: conn.map_err(|error| explain(path, error))?, path: path.to_owned() };
        admin.try_to(|conn| {
            conn.busy_timeout(PATIENCE)?;
            conn.execute_batch(if write {
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF"
            } else {
                ""
            })?;
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        })?;
        migrate::must_be_current(&admin.conn, path)?;
        Ok(admin)
    }

    pub(in crate::queue) fn try_to<T>(
        &self,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        act(&self.conn).map_err(|error| explain(&self.path, error))
    }

    /// What `PRAGMA quick_check` finds wrong; reads the whole file.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn damage(&self) -> Result<Vec<String>, QueueError> {
        self.try_to(|conn| {
            conn.prepare("PRAGMA quick_check")?
                .query_map([], |row| row.get(0))?
                .filter(|line| !matches!(line, Ok(line) if line == "ok"))
                .collect()
        })
    }
}

/// In an operator's words, where SQLite's would send them searching.
fn explain(path: &Path, error: rusqlite::Error) -> QueueError {
    let (why, remedy) = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("may not be written by this user", "run this as the user that owns the queue")
        }
        Some(ErrorCode::DatabaseBusy) => {
            ("is held by somebody's open transaction", "end that one, then try again")
        }
        Some(ErrorCode::NotADatabase) => ("is not a SQLite database", "set another [queue] path"),
        _ => return error.into(),
    };
    QueueError::Unusable { path: path.to_owned(), why: why.to_owned(), remedy }
}
