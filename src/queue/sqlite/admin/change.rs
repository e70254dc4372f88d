//! What people change: all of a message, of a domain, or of the queue. Each change is made in small
//! transactions, so that the relay's own are never long in waiting. It is for what is there when it begins: that is
//! looked for once, without a lock, and what comes later is left alone.

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
const ROWS_MAX: usize = 1_000;

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
            // All recipients of a domain, and all of a message to it, wait in one lane.
            let lanes = format!(
                "SELECT DISTINCT lane FROM (SELECT * FROM recipient_lanes WHERE {condition} GROUP BY domain)"
            );
            match which {
                Which::All => conn.execute("DELETE FROM backoffs", [])?,
                _ => conn.execute(&format!("DELETE FROM backoffs WHERE lane IN ({lanes})"), [&value])?,
            };
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
        let sql =
            format!("UPDATE recipients SET {set} WHERE id IN (SELECT value FROM json_each(?1)) AND {of}");
        self.in_parts(which, of, |conn, list| conn.prepare_cached(&sql)?.execute([list]))
    }

    pub(super) fn remove_in_parts(&self, which: &Which) -> Result<usize, QueueError> {
        self.in_parts(which, "true", |conn, list| {
            let part = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
            let rows = part
                .prepare_cached(
                    "SELECT id, message_id FROM recipients WHERE id IN (SELECT value FROM json_each(?1))",
                )?
                .query_map([list], |row| Ok((row.get(0)?, odd::get(row, 1)?)))?
                .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
            for (recipient, message) in &rows {
                remove_one(&part, *recipient, *message)?;
            }
            part.commit()?;
            Ok(rows.len())
        })
    }

    /// Has `act` change those of them for which `of` holds now, a part after the other, by lists of their ids; gives
    /// how many it did.
    fn in_parts(
        &self,
        which: &Which,
        of: &str,
        act: impl Fn(&Connection, &str) -> rusqlite::Result<usize>,
    ) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let sql = format!("SELECT id FROM recipients WHERE {of} AND {condition}");
        let mut ids: Vec<i64> =
            self.try_to(|conn| conn.prepare(&sql)?.query_map([&value], |row| row.get(0))?.collect())?;
        // As they stand in the table.
        ids.sort_unstable();
        let (mut left, mut changed, mut rows) = (ids.as_slice(), 0, ROWS_MAX);
        while !left.is_empty() {
            let (more, taken) = self.part(&mut rows, |conn, rows| {
                let part = &left[..rows.min(left.len())];
                let list: Vec<String> = part.iter().map(i64::to_string).collect();
                Ok((act(conn, &format!("[{}]", list.join(",")))?, part.len()))
            })?;
            (left, changed) = (&left[taken..], changed + more);
        }
        Ok(changed)
    }

    /// Changes a part, of at most so many rows. On a full disk the ballast is given for it, then smaller parts are
    /// tried, each in the room that the log has already.
    pub(super) fn part<T>(
        &self,
        rows: &mut usize,
        act: impl Fn(&Connection, usize) -> rusqlite::Result<T>,
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
        None::<String>,
        None::<String>,
    ])?;
    conn.prepare_cached(DELETE_RECIPIENT)?.execute([recipient])?;
    if conn.prepare_cached(DELETE_MESSAGE)?.execute([message])? > 0 {
        conn.prepare_cached(DELETE_CONTENT)?.execute([message])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::mail::Domain;
    use crate::queue::contract::AdminStore as _;
    use crate::queue::sqlite::migrate;

    type Act = fn(&Admin, &Which) -> Result<usize, QueueError>;

    /// Steps of SQLite's machine for so many recipients, each domain having half of them.
    fn steps(rows: usize, act: Act, which: &Which) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let mut conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        conn.execute_batch(&format!(
            "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
                 VALUES (1, 'Q', 'a@b.test', 1, 1, '7bit', 0);
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
             INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
             SELECT n, 1, 'u@' || (n % 2) || '.test', (n % 2) || '.test', 9999999999 FROM n"
        ))
        .unwrap();
        let steps = Arc::new(AtomicUsize::new(0));
        let counter = steps.clone();
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            false
        };
        conn.progress_handler(100, Some(count)).unwrap();
        let admin = Admin { conn, path };
        let expected = if *which == Which::All { rows } else { rows / 2 };
        assert_eq!(act(&admin, which).unwrap(), expected);
        assert_eq!(act(&admin, which).unwrap_or(0) % expected, 0, "nothing is done by halves");
        steps.load(Ordering::Relaxed)
    }

    #[test]
    fn ten_times_as_many_recipients_cost_ten_times_as_much() {
        let domain = Which::Domain(Domain::parse("1.test").unwrap());
        let acts: [(&str, Act); 4] = [
            ("hold", |admin, which| admin.hold(which)),
            ("bounce", |admin, which| admin.bounce(which)),
            ("kick", |admin, which| admin.kick(which)),
            ("remove", |admin, which| admin.remove(which)),
        ];
        for (name, act) in acts {
            for which in [&Which::All, &domain] {
                let (few, many) = (steps(3_000, act, which), steps(30_000, act, which));
                assert!(many < 15 * few, "{name} {which}: {few} and {many}");
            }
        }
    }
}
