//! `postrider sql`: a connection for statements that a person writes, with the SQLite of this program.
//!
//! An older `sqlite3` that writes beside the relay may corrupt the database (before 3.51.3, when two processes
//! checkpoint). This one has no such fault, reads only unless it is asked to write, and leaves checkpoints to the
//! relay.

use std::path::{Path, PathBuf};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, Connection, ErrorCode};

use crate::queue::error::QueueError;
use crate::queue::shell_rows::{Cell, Ran, ShellError};

use super::admin::connect;
use super::failure::is_full;
use super::files::real;
use super::{locks, space};

/// The connection.
#[derive(Debug)]
pub(in crate::queue) struct Shell {
    conn: Connection,
    path: PathBuf,
    write: bool,
}

impl Shell {
    /// To look, and to `write`.
    ///
    /// # Errors
    /// There is no queue here, or this user may not use it so.
    pub(in crate::queue) fn open(path: &Path, write: bool) -> Result<Shell, QueueError> {
        let path = real(path);
        Ok(Shell { conn: connect(&path, write)?, path, write })
    }

    /// What stops the statement that runs, from another thread.
    pub(in crate::queue) fn interrupter(&self) -> impl Fn() + Send + use<> {
        let handle = self.conn.get_interrupt_handle();
        move || handle.interrupt()
    }

    /// Runs the statements one after the other; each tells `out` its columns first, then its rows, then how many rows
    /// it has changed.
    ///
    /// # Errors
    /// What SQLite says of the first that fails, or of `out`.
    pub(in crate::queue) fn run(
        &self,
        statements: &str,
        out: &mut dyn FnMut(Ran<'_>) -> std::io::Result<()>,
    ) -> Result<(), ShellError> {
        let mut batch = Batch::new(&self.conn, statements);
        while let Some(mut statement) = batch.next().map_err(|error| self.failed(error))? {
            let names = statement.column_names().map(str::to_owned).collect::<Vec<_>>();
            let columns = names.len();
            if columns > 0 {
                out(Ran::Columns(&names)).map_err(ShellError::Output)?;
            }
            let before = self.conn.total_changes();
            // Whoever reads may stop at the first page of it; the relay would wait for a lock held so long.
            let holds_lock = !statement.readonly();
            let mut collected: Vec<Vec<Value>> = Vec::new();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
                let values = (0..columns).map(|at| row.get_ref(at));
                if holds_lock {
                    let values: Result<_, _> = values.map(|value| value.map(owned)).collect();
                    collected.push(values.map_err(|error| self.failed(error))?);
                } else {
                    let cells: Result<Vec<Cell<'_>>, _> = values.map(|value| value.map(cell)).collect();
                    out(Ran::Row(&cells.map_err(|error| self.failed(error))?)).map_err(ShellError::Output)?;
                }
            }
            drop(rows);
            for row in &collected {
                let cells: Vec<Cell<'_>> = row.iter().map(|value| cell(value.into())).collect();
                out(Ran::Row(&cells)).map_err(ShellError::Output)?;
            }
            let changed = self.conn.total_changes() - before;
            out(Ran::Done { changed }).map_err(ShellError::Output)?;
        }
        Ok(())
    }

    fn failed(&self, error: rusqlite::Error) -> ShellError {
        let remedy = match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly) => "; `postrider sql --write` may change the queue".to_owned(),
            Some(ErrorCode::DatabaseBusy) => {
                let who = locks::writer(&self.path);
                format!("; somebody's transaction is open{who}: end that one, then try again")
            }
            _ if self.write && is_full(&error) && space::give_up_ballast(&self.path) => {
                "; room that was kept for this is given up now: try again".to_owned()
            }
            _ => String::new(),
        };
        match error {
            // The statement itself stands where it was typed.
            rusqlite::Error::SqlInputError { msg, .. } => ShellError::Statement(msg),
            error => ShellError::Statement(format!("{error}{remedy}")),
        }
    }
}

fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cell::Bytes(bytes),
    }
}

/// Text as bytes: it may be no UTF-8.
fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_what_was_changed_keeps_nobody_from_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let relay = Connection::open(&path).unwrap();
        super::super::migrate::migrate(&relay, &path).unwrap();
        relay.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        relay.busy_timeout(std::time::Duration::ZERO).unwrap();
        let insert = "INSERT INTO reports (sender, at) VALUES ('a', 1), (CAST(x'ff' AS TEXT), 2)";
        relay.execute(insert, []).unwrap();
        let mut told = Vec::new();
        let shell = Shell::open(&path, true).unwrap();
        shell
            .run("UPDATE reports SET at = at + 1 RETURNING sender, at, NULL, 0.5", &mut |ran| {
                relay.execute("UPDATE reports SET at = at + 10", []).map_err(std::io::Error::other)?;
                told.push(format!("{ran:?}"));
                Ok(())
            })
            .unwrap();
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(told[1], "Row([Bytes([97]), Integer(12), Null, Real(0.5)])");
        assert_eq!(told[2], "Row([Bytes([255]), Integer(13), Null, Real(0.5)])");
        assert_eq!(told[3], "Done { changed: 2 }");
    }
}
