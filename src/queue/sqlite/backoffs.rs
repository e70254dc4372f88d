//! Lanes that back off: rows of the table `backoffs`. Few, and written with the next group.

use rusqlite::{Connection, Result, params};

use crate::queue::rows::BackoffRow;

pub(super) fn read(conn: &Connection) -> Result<Vec<BackoffRow>> {
    conn.prepare_cached("SELECT lane, failures, backoff_until, last_reply FROM backoffs ORDER BY lane")?
        .query_map([], |row| {
            Ok(BackoffRow {
                lane: row.get(0)?,
                failures: row.get(1)?,
                backoff_until: row.get(2)?,
                last_reply: row.get(3)?,
            })
        })?
        .collect()
}

/// Writes a lane's, or forgets it.
pub(super) fn write(conn: &Connection, lane: &str, row: Option<&BackoffRow>) -> Result<()> {
    let Some(row) = row else {
        return conn.prepare_cached("DELETE FROM backoffs WHERE lane = ?")?.execute([lane]).map(drop);
    };
    conn.prepare_cached("INSERT OR REPLACE INTO backoffs VALUES (?, ?, ?, ?, unixepoch())")?
        .execute(params![row.lane, row.failures, row.backoff_until, row.last_reply])
        .map(drop)
}
