//! What people changed with the command line: rows of the table `operator_log`, and their lines in the relay's log.
//!
//! The command writes the row; the relay, which has the log, writes the line: when it notices that somebody else wrote
//! to the database, or at its next start.

use rusqlite::{Connection, Result, params};

use crate::kit::event::Event;
use crate::kit::event::Value::{Foreign, Number, Own};
use crate::queue::admin_rows::Change;
use crate::queue::shared::now_us;

use super::odd;

/// Lines written at once; more come half a second later.
const LINES_MAX: i64 = 100;

/// Puts a change on record.
pub(super) fn record(conn: &Connection, change: &Change) -> Result<()> {
    let Change { action, target, count, login, uid } = change;
    conn.execute(
        "INSERT INTO operator_log (at, action, target, count, login, uid) VALUES (?, ?, ?, ?, ?, ?)",
        params![now_us() / 1_000_000, action, target, *count as i64, login, uid],
    )
    .map(drop)
}

/// Logs what was not logged yet; whether there may be more.
pub(super) fn tell(conn: &Connection) -> Result<bool> {
    let is_new = "SELECT EXISTS (SELECT 1 FROM operator_log WHERE logged = 0)";
    if !conn.prepare_cached(is_new)?.query_row([], |row| row.get::<_, bool>(0))? {
        return Ok(false);
    }
    // On disk before the line is written, so that it is written once.
    let mut rows = conn
        .prepare_cached(
            "UPDATE operator_log SET logged = 1
             WHERE id IN (SELECT id FROM operator_log WHERE logged = 0 ORDER BY id LIMIT ?1)
             RETURNING id, action, target, count, login, uid",
        )?
        .query_map([LINES_MAX], |row| {
            let text = |at| Ok::<_, rusqlite::Error>(odd::text(row, at)?.unwrap_or_default());
            let number = |at| Ok::<_, rusqlite::Error>(odd::int(row, at)?.unwrap_or_default());
            Ok((number(0)?, text(1)?, text(2)?, number(3)?, text(4)?, number(5)?))
        })?
        .collect::<Result<Vec<_>>>()?;
    rows.sort();
    let is_full = rows.len() as i64 == LINES_MAX;
    for (_, action, target, count, login, uid) in rows {
        let event = Event {
            level: log::Level::Info,
            target: module_path!(),
            name: "audit",
            queue_id: None,
            text: "audit: {action} {target}: count={count} login={login} uid={uid}",
            values: &[Own(&action), Foreign(&target), Number(count), Own(&login), Number(uid)],
        };
        event.log();
    }
    Ok(is_full)
}
