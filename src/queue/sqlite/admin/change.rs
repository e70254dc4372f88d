//! What people change: all of a message, of a domain, or of the queue. Each change is made in small
//! transactions, so that the relay's own are never long in waiting.

use rusqlite::{Connection, ToSql, params};

use crate::mail::Domain;
use crate::queue::admin::Admin;
use crate::queue::error::QueueError;
use crate::queue::sqlite::store::{DELETE_CONTENT, DELETE_MESSAGE, DELETE_RECIPIENT, INSERT_HISTORY};
use crate::queue::{Finished, MessageId, now_us};

/// Recipients changed in one transaction.
const ROWS_MAX: i64 = 1_000;

/// RFC 3463 §3.4: 5.3.0, a status of our own mail system. What the world said last stays legible behind it.
const RETURN: &str = "bounce_requested_at = unixepoch(), last_reply_source = 'local',
    last_reply = '554 5.3.0 returned by the operator of this relay' || coalesce('; last reply: ' || last_reply, '')";

/// Which recipients a change is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of one message.
    Message(MessageId),
    /// Those of one domain.
    Domain(Domain),
    /// All.
    All,
}

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
    /// Makes them due now, forgets the backoff of their lanes (of a route's too) and records the kick; what its
    /// sender has held until a later time (RFC 4865) stays held: [`Admin::hold`] and [`Admin::release`] free it.
    /// Gives how many wait.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn kick(&self, which: &Which) -> Result<usize, QueueError> {
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
            "next_attempt_at = unixepoch(), bounce_requested_at = NULL",
            "state = 'queued' AND (next_attempt_at > unixepoch() OR bounce_requested_at IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = message_id AND m.release_at > unixepoch())",
        )?;
        self.record_kick(which, waiting)?;
        Ok(waiting as usize)
    }

    /// Keeps them from being tried. Gives how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn hold(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(
            which,
            "state = 'held', bounce_requested_at = NULL",
            "(state = 'queued' OR bounce_requested_at IS NOT NULL)",
        )
    }

    /// Has held ones tried again, now. Gives how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn release(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(
            which,
            "state = 'queued', next_attempt_at = unixepoch(), bounce_requested_at = NULL",
            "state = 'held'",
        )
    }

    /// Has them returned to the sender, held ones too: by the relay that runs, or the next that starts, which
    /// alone can write the bounce. Gives how many. One that is being delivered at this moment may still arrive.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn bounce(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(which, RETURN, "bounce_requested_at IS NULL")
    }

    fn change(&self, which: &Which, set: &str, of: &str) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let sql = format!(
            "UPDATE recipients SET {set}
             WHERE id IN (SELECT id FROM recipients WHERE {of} AND {condition} LIMIT {ROWS_MAX})"
        );
        let mut changed = 0;
        loop {
            match self.try_to(|conn| conn.execute(&sql, [&value]))? {
                0 => return Ok(changed),
                more => changed += more,
            }
        }
    }

    /// Takes them out: to `history` as `removed`, nobody is told. Gives how many. One that is being
    /// delivered at this moment may still arrive.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove(&self, which: &Which) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let some = format!("SELECT id, message_id FROM recipients WHERE {condition} LIMIT {ROWS_MAX}");
        let mut removed = 0;
        loop {
            let part = self.try_to(|conn| {
                let part =
                    rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
                let rows = part
                    .prepare(&some)?
                    .query_map([&value], |row| Ok((row.get(0)?, row.get(1)?)))?
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
}

/// One recipient, and its message with the last.
pub(in crate::queue) fn remove_one(conn: &Connection, recipient: i64, message: i64) -> rusqlite::Result<()> {
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
