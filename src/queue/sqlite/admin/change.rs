//! What people change: all of a message, of a domain, or of the queue. Each change is made in small
//! transactions, so that the relay's own are never long in waiting.

use rusqlite::{Connection, ToSql, params};

use crate::queue::admin_rows::Which;
use crate::queue::error::QueueError;
use crate::queue::rows::Finished;
use crate::queue::shared::now_us;
use crate::queue::sqlite::failure::{explain, is_full};
use crate::queue::sqlite::odd;
use crate::queue::sqlite::settle::{DELETE_CONTENT, DELETE_MESSAGE, DELETE_RECIPIENT, INSERT_HISTORY};
use crate::queue::sqlite::space;

use super::{Admin, kicks};

/// Recipients changed in one transaction.
const ROWS_MAX: i64 = 1_000;

/// RFC 3463 §3.4: 5.3.0, a status of our own mail system. What the world said last stays legible behind it.
pub(super) const RETURN: &str = "bounce_requested_at = unixepoch(), last_reply_source = 'local',
    last_reply = '554 5.3.0 returned by the operator of this relay' || coalesce('; last reply: ' || last_reply, '')";

impl Which {
    /// A condition on `recipients`, with its ?1.
    fn condition(&self) -> (&'static str, Box<dyn ToSql>) {
        match self {
            Which::Message(id) => ("message_id = ?1", Box::new(id.0)),
            Which::Domain(domain) => ("domain = ?1", Box::new(domain.as_str().to_owned())),
            Which::All => ("?1", Box::new(true)),
        }
    }
}

impl Admin {
    pub(super) fn kick_now(&self, which: &Which) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let waiting: u32 = self.try_to(|conn| {
            conn.execute(
                &format!(
                    "DELETE FROM backoffs WHERE lane IN (SELECT lane FROM recipient_lanes WHERE {condition})"
                ),
                [&value],
            )?;
            if *which == Which::All {
                conn.execute("DELETE FROM backoffs", [])?;
            }
            let sql = format!("SELECT count(*) FROM recipients WHERE state = 'queued' AND {condition}");
            conn.query_row(&sql, [&value], |row| row.get(0))
        })?;
        self.change(
            which,
            "next_attempt_at = unixepoch(), bounce_requested_at = NULL, kicked_attempts = kicked_attempts + 1",
            "state = 'queued' AND (next_attempt_at > unixepoch() OR bounce_requested_at IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = message_id AND m.release_at > unixepoch())",
        )?;
        self.try_to(|conn| kicks::record(conn, which, waiting))?;
        Ok(waiting as usize)
    }

    /// Sets this in those of them for which `of` holds.
    pub(super) fn change(&self, which: &Which, set: &str, of: &str) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let sql = format!(
            "UPDATE recipients SET {set}
             WHERE id IN (SELECT id FROM recipients WHERE {of} AND {condition} LIMIT ?2)"
        );
        let (mut changed, mut rows) = (0, ROWS_MAX);
        loop {
            match self.part(&mut rows, |conn, rows| conn.execute(&sql, params![value, rows]))? {
                0 => return Ok(changed),
                more => changed += more,
            }
        }
    }

    pub(super) fn remove_in_parts(&self, which: &Which) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let some = format!("SELECT id, message_id FROM recipients WHERE {condition} LIMIT ?2");
        let (mut removed, mut rows) = (0, ROWS_MAX);
        loop {
            let part = self.part(&mut rows, |conn, rows| {
                let part =
                    rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
                let rows = part
                    .prepare(&some)?
                    .query_map(params![value, rows], |row| Ok((row.get(0)?, odd::get(row, 1)?)))?
                    .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
                for (recipient, message) in &rows {
                    remove_one(&part, *recipient, *message)?;
                }
                part.commit()?;
                Ok(rows.len())
            })?;
            if part == 0 {
                return Ok(removed);
            }
            removed += part;
        }
    }

    /// Changes a part, of at most so many rows. On a full disk the ballast is given for it, then smaller parts are
    /// tried, each in the room that the log has already.
    pub(super) fn part<T>(
        &self,
        rows: &mut i64,
        act: impl Fn(&Connection, i64) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        loop {
            match act(&self.conn, *rows) {
                Err(error) if is_full(&error) => {
                    let is_given = space::give_up_ballast(&self.path);
                    // Where even this finds no room, the next try says so.
                    let _ = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                    if !is_given && *rows == 1 {
                        return Err(explain(&self.path, error));
                    }
                    if !is_given {
                        *rows = (*rows / 10).max(1);
                    }
                }
                result => return result.map_err(|error| explain(&self.path, error)),
            }
        }
    }
}

/// One recipient, and its message with the last.
pub(in crate::queue::sqlite) fn remove_one(
    conn: &Connection,
    recipient: i64,
    message: i64,
) -> rusqlite::Result<()> {
    let state = Finished::Removed.as_str();
    conn.prepare_cached(INSERT_HISTORY)?.execute(params![
        recipient,
        state,
        now_us() / 1_000_000,
        0,
        None::<String>,
        None::<String>,
        None::<String>,
    ])?;
    conn.prepare_cached(DELETE_RECIPIENT)?.execute([recipient])?;
    if conn.prepare_cached(DELETE_MESSAGE)?.execute([message])? > 0 {
        conn.prepare_cached(DELETE_CONTENT)?.execute([message])?;
    }
    Ok(())
}
