//! The schema's version: `PRAGMA user_version`, migrated forward, never backward.

use std::path::Path;

use rusqlite::Connection;

use crate::queue::error::QueueError;

use super::failure::explain;

/// The schema of a new database.
pub(super) const SCHEMA: &str = include_str!("../../../queue-schema.sql");
/// Its version.
pub(super) const VERSION: i64 = 1;
/// What leads from version n + 1 to the next, in order; a new database has all of them in [`SCHEMA`].
const STEPS: [&str; VERSION as usize - 1] = [];

/// Brings the database to [`VERSION`], all steps in one transaction.
///
/// # Errors
/// A newer schema, or a database that is something else.
pub(super) fn migrate(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let found = version(conn)?;
    if found == VERSION {
        return Ok(());
    }
    check(conn, path, found)?;
    step(conn, path, found).map_err(|error| explain(path, error))
}

fn step(conn: &Connection, path: &Path, found: i64) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    if found == 0 {
        conn.execute_batch(SCHEMA)?;
    } else {
        log::info!("queue: migrating {} from schema version {found} to {VERSION}", path.display());
        for step in &STEPS[(found - 1) as usize..] {
            conn.execute_batch(step)?;
        }
    }
    conn.pragma_update(None, "user_version", VERSION)?;
    conn.execute_batch("COMMIT")
}

/// For those who only look: refuses any version but ours.
///
/// # Errors
/// A newer or older schema, or a database that is something else.
pub(super) fn must_be_current(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let found = version(conn)?;
    check(conn, path, found)?;
    if found == VERSION {
        return Ok(());
    }
    Err(QueueError::Unusable {
        path: path.to_owned(),
        why: if found == 0 { "is empty".to_owned() } else { format!("still has schema version {found}") },
        remedy: "start `postrider serve` once, it sets the queue up",
    })
}

/// For a copy: refuses what is newer, and what is no queue.
///
/// # Errors
/// As it says.
pub(super) fn must_be_known(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    match version(conn)? {
        0 => Err(QueueError::Unusable {
            path: path.to_owned(),
            why: "is no backup of a Postrider queue".to_owned(),
            remedy: "name a file that `postrider backup` wrote",
        }),
        found => check(conn, path, found),
    }
}

fn check(conn: &Connection, path: &Path, found: i64) -> Result<(), QueueError> {
    if found > VERSION {
        return Err(QueueError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if found < 0 || (found == 0 && tables > 0) {
        return Err(QueueError::Unusable {
            path: path.to_owned(),
            why: "is a SQLite database, but no Postrider queue".to_owned(),
            remedy: "set another [queue] path",
        });
    }
    Ok(())
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}
