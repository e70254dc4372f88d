//! What hosts get wrong and what they are given: rows of the tables `workarounds` and `destinations`.
//!
//! There are few, and each is written when it changes: statements are prepared when first used.

use rusqlite::{Connection, Result, params};

use crate::queue::rows::DestinationRow;
use crate::queue::workaround::{WORKAROUNDS_MAX, Workaround, WorkaroundRow};

/// How long a row outlives the time at which it should have been looked at again: nobody sends there any more.
const UNUSED_SECS: i64 = 30 * 86_400;

/// All that are known; those that are needed longest where there are too many.
pub(super) fn read(conn: &Connection) -> Result<Vec<WorkaroundRow>> {
    let sql = "SELECT mx, what, value, last_reply, CAST(found_at AS INTEGER), CAST(retry_at AS INTEGER)
               FROM workarounds ORDER BY retry_at DESC LIMIT ?";
    let mut rows = Vec::new();
    let mut statement = conn.prepare_cached(sql)?;
    let mut found = statement.query([WORKAROUNDS_MAX as i64])?;
    while let Some(row) = found.next()? {
        let (what, value): (String, String) = (row.get(1)?, row.get(2)?);
        // The table's CHECK lets through nothing else.
        let Some(workaround) = Workaround::from_words(&what, &value) else { continue };
        rows.push(WorkaroundRow {
            mx: row.get(0)?,
            workaround,
            last_reply: row.get(3)?,
            found_at: row.get(4)?,
            retry_at: row.get(5)?,
        });
    }
    Ok(rows)
}

/// Writes one in the place of what was known, and forgets those that nobody needed for long.
pub(super) fn write(conn: &Connection, row: &WorkaroundRow) -> Result<()> {
    let (what, value) = row.workaround.words();
    conn.prepare_cached("INSERT OR REPLACE INTO workarounds VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
        row.mx,
        what,
        value,
        row.last_reply,
        row.found_at,
        row.retry_at
    ])?;
    conn.prepare_cached("DELETE FROM workarounds WHERE retry_at < ?")?
        .execute([row.retry_at - UNUSED_SECS])?;
    Ok(())
}

/// Forgets one: it is no longer needed.
pub(super) fn delete(conn: &Connection, mx: &str, what: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM workarounds WHERE mx = ? AND what = ?")?.execute([mx, what]).map(drop)
}

pub(super) fn destinations(conn: &Connection) -> Result<Vec<DestinationRow>> {
    let sql =
        "SELECT mx, connections, messages_per_minute, last_reply, changed_at FROM destinations ORDER BY mx";
    conn.prepare_cached(sql)?
        .query_map([], |row| {
            Ok(DestinationRow {
                mx: row.get(0)?,
                connections: row.get(1)?,
                messages_per_minute: row.get(2)?,
                last_reply: row.get(3)?,
                changed_at: row.get(4)?,
            })
        })?
        .collect()
}

/// Writes what a host is given, or forgets it.
pub(super) fn write_destination(conn: &Connection, mx: &str, row: Option<&DestinationRow>) -> Result<()> {
    match row {
        Some(row) => conn
            .prepare_cached(
                "INSERT INTO destinations VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (mx) DO UPDATE
                 SET connections = ?2, messages_per_minute = ?3, last_reply = coalesce(?4, last_reply),
                     changed_at = ?5",
            )?
            .execute(params![mx, row.connections, row.messages_per_minute, row.last_reply, row.changed_at]),
        None => conn.prepare_cached("DELETE FROM destinations WHERE mx = ?")?.execute([mx]),
    }
    .map(drop)
}
