//! Lanes that back off: rows of the table `backoffs`. Few, and written with the next group.

use rusqlite::{Connection, Result, params};

use crate::queue::op::in_a_row;
use crate::queue::rows::BackoffRow;

use super::odd;
use super::settle::TIME_MAX;

/// All rows, in the order of their lanes. One whose time cannot be read is over.
pub(super) fn read(conn: &Connection) -> Result<Vec<BackoffRow>> {
    let mut rows: Vec<BackoffRow> = conn
        .prepare_cached("SELECT lane, failures, backoff_until, last_reply FROM backoffs")?
        .query_map([], |row| {
            Ok(BackoffRow {
                lane: odd::text(row, 0)?.unwrap_or_default(),
                failures: odd::count(row, 1)?,
                backoff_until: odd::int(row, 2)?.unwrap_or(0),
                last_reply: odd::text(row, 3)?.unwrap_or_default(),
            })
        })?
        .collect::<Result<_>>()?;
    rows.sort_by(|one, other| one.lane.cmp(&other.lane));
    Ok(rows)
}

/// Writes a lane's, or forgets it.
pub(super) fn write(conn: &Connection, lane: &str, row: Option<&BackoffRow>) -> Result<()> {
    let Some(row) = row else {
        return conn.prepare_cached("DELETE FROM backoffs WHERE lane = ?")?.execute([lane]).map(drop);
    };
    let sql = "INSERT OR REPLACE INTO backoffs (lane, failures, backoff_until, last_reply, changed_at)
               VALUES (?, ?, ?, ?, unixepoch())";
    conn.prepare_cached(sql)?
        .execute(params![
            row.lane,
            row.failures,
            row.backoff_until.clamp(0, TIME_MAX),
            in_a_row(&row.last_reply)
        ])
        .map(drop)
}
