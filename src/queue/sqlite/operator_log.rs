//! What people changed with the command line: rows of the table `operator_log`, and their lines in the relay's log.
//!
//! The command writes the row; the relay, which has the log, writes the line: when it notices that somebody else wrote
//! to the database, or at its next start. A change in several transactions has one row, which is under way (`logged` is
//! 2) until the last of them: however the command ends, the row says how many were changed.

use rusqlite::{Connection, Result, params};

use crate::kit::event::Event;
use crate::kit::event::Value::{Foreign, Number, Own};
use crate::queue::admin_rows::Order;
use crate::queue::operator_rows::{Change, OperatorLine};
use crate::queue::shared::now_us;

use super::odd;

/// Lines written at once; more come half a second later.
const LINES_MAX: i64 = 100;
/// A change that is under way for longer is logged as far as it came: its command was killed. Otherwise it is logged
/// once more when it ends.
const UNDER_WAY_SECS: i64 = 300;

/// Puts a change on record.
pub(super) fn record(conn: &Connection, change: &Change) -> Result<()> {
    let Change { action, target, count, login, uid, reason } = change;
    conn.execute(
        "INSERT INTO operator_log (at, action, target, count, login, uid, reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![now_us() / 1_000_000, action, target, *count as i64, login, uid, reason],
    )
    .map(drop)
}

/// Counts a part of a change, in the row that began with the first part that changed anything (at this time); gives the
/// row. The `last` one ends it.
pub(super) fn count(
    conn: &Connection,
    (row, at): (Option<i64>, i64),
    order: &Order<'_>,
    count: usize,
    last: bool,
) -> Result<Option<i64>> {
    let logged = if last { 0 } else { 2 };
    match row {
        None if count == 0 => Ok(None),
        None => conn
            .prepare_cached(
                "INSERT INTO operator_log (at, action, target, count, login, uid, logged, reason)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            )?
            .query_row(
                params![
                    at,
                    order.action.as_str(),
                    order.which.to_string(),
                    count as i64,
                    order.login,
                    order.uid,
                    logged,
                    order.reason
                ],
                |row| row.get(0),
            )
            .map(Some),
        Some(row) => {
            conn.prepare_cached("UPDATE operator_log SET count = count + ?2 WHERE id = ?1")?
                .execute([row, count as i64])?;
            if last {
                end(conn, row)?;
            }
            Ok(Some(row))
        }
    }
}

/// See [`crate::queue::AdminStore::operator_log`].
pub(super) fn list(conn: &Connection, since: i64, limit: u32) -> Result<(Vec<OperatorLine>, i64)> {
    let total =
        conn.query_row("SELECT count(*) FROM operator_log WHERE at >= ?1", [since], |row| row.get(0))?;
    let lines = conn
        .prepare(
            "SELECT datetime(at, 'unixepoch'), action, target, count, login, uid, reason, logged = 2
             FROM operator_log WHERE at >= ?1 ORDER BY at DESC, id DESC LIMIT ?2",
        )?
        .query_map(params![since, limit], |row| {
            Ok(OperatorLine {
                at: odd::get(row, 0)?,
                action: odd::get(row, 1)?,
                target: odd::get(row, 2)?,
                count: odd::get(row, 3)?,
                login: odd::get(row, 4)?,
                uid: odd::get(row, 5)?,
                reason: odd::text(row, 6)?,
                is_under_way: odd::get(row, 7)?,
            })
        })?
        .collect::<Result<_>>()?;
    Ok((lines, total))
}

/// The change is over.
pub(super) fn end(conn: &Connection, row: i64) -> Result<()> {
    conn.execute("UPDATE operator_log SET logged = 0 WHERE id = ?1", [row]).map(drop)
}

/// Logs what was not logged yet; whether there may be more.
pub(super) fn tell(conn: &Connection) -> Result<bool> {
    let is_new = "SELECT EXISTS (SELECT 1 FROM operator_log WHERE logged <> 1)";
    if !conn.prepare_cached(is_new)?.query_row([], |row| row.get::<_, bool>(0))? {
        return Ok(false);
    }
    // On disk before the line is written, so that it is written once.
    let mut rows = conn
        .prepare_cached(
            "UPDATE operator_log SET logged = 1
             WHERE id IN (SELECT id FROM operator_log
                          WHERE logged <> 1 AND (logged = 0 OR at < unixepoch() - ?2) ORDER BY id LIMIT ?1)
             RETURNING id, action, target, count, login, uid",
        )?
        .query_map([LINES_MAX, UNDER_WAY_SECS], |row| {
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
    let is_under_way = "SELECT EXISTS (SELECT 1 FROM operator_log WHERE logged <> 1 AND logged <> 0)";
    Ok(is_full || conn.prepare_cached(is_under_way)?.query_row([], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::migrate::SCHEMA;

    #[test]
    fn what_is_under_way_is_logged_when_it_is_over_or_nobody_goes_on_with_it() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        let logged = || {
            let more = tell(&conn).unwrap();
            let rows = "SELECT group_concat(logged || ':' || count, ' ' ORDER BY id) FROM operator_log";
            (more, conn.query_row(rows, [], |row| row.get::<_, String>(0)).unwrap())
        };
        conn.execute_batch(
            "INSERT INTO operator_log VALUES (1, unixepoch(), 'hold', 'all', 1000, 'ann', 1000, 2, NULL),
                                             (2, unixepoch(), 'hold', 'a.test', 1, 'ann', 1000, 0, NULL)",
        )
        .unwrap();
        assert_eq!(logged(), (true, "2:1000 1:1".to_owned()));
        conn.execute_batch("UPDATE operator_log SET at = at - 301").unwrap();
        assert_eq!(logged(), (false, "1:1000 1:1".to_owned()));
        end(&conn, 1).unwrap();
        assert_eq!(logged(), (false, "1:1000 1:1".to_owned()));
        assert!(!logged().0);
    }
}
