//! The schema's version: `PRAGMA user_version`, migrated forward, never backward.

use std::path::Path;

use rusqlite::Connection;

use super::error::QueueError;

/// The schema of a new database.
const SCHEMA: &str = include_str!("../../queue-schema.sql");
/// Its version.
pub(super) const VERSION: i64 = 2;
/// What leads from version n + 1 to the next, in order; a new database has all of them in [`SCHEMA`].
/// Columns are added behind the last one of their table, there as here. Views hold no data and are not in them:
/// all are made anew.
const STEPS: [&str; VERSION as usize - 1] = [
    // 2: whose words a reply is, and what an operator wants returned to its sender.
    "ALTER TABLE recipients ADD COLUMN last_said_by TEXT;
     ALTER TABLE recipients ADD COLUMN bounce_at INTEGER;
     UPDATE recipients SET last_said_by = CASE WHEN last_mx IS NULL THEN 'postrider' ELSE 'host' END
         WHERE last_reply IS NOT NULL;
     CREATE INDEX recipients_to_bounce ON recipients (id) WHERE bounce_at IS NOT NULL;
     ALTER TABLE attempts ADD COLUMN said_by TEXT NOT NULL DEFAULT 'host';
     UPDATE attempts SET said_by = 'postrider' WHERE phase IN ('dns', 'connect');",
];

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
    conn.execute_batch("BEGIN IMMEDIATE")?;
    if found == 0 {
        conn.execute_batch(SCHEMA)?;
    } else {
        log::info!("queue: migrating {} from schema version {found} to {VERSION}", path.display());
        for step in &STEPS[(found - 1) as usize..] {
            conn.execute_batch(step)?;
        }
        make_views_anew(conn)?;
    }
    conn.pragma_update(None, "user_version", VERSION)?;
    conn.execute_batch("COMMIT")?;
    Ok(())
}

/// The views of the old version go, those of [`SCHEMA`] come: they are the end of it.
fn make_views_anew(conn: &Connection) -> rusqlite::Result<()> {
    let names = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'view'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    for name in names {
        conn.execute_batch(&format!("DROP VIEW \"{name}\""))?;
    }
    conn.execute_batch(SCHEMA.find("CREATE VIEW").map_or("", |at| &SCHEMA[at..]))
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
