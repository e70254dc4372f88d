//! What people change: all of a message, of a domain, or of the queue. Each change is made in small
//! transactions, so that the relay's own are never long in waiting. It is for what is there when it begins: that is
//! looked for once, without a lock, and what comes later is left alone.

use rusqlite::{Connection, params, params_from_iter};

use crate::queue::error::QueueError;
use crate::queue::filter::{Action, Filter};
use crate::queue::rows::Finished;
use crate::queue::shared::now_us;
use crate::queue::sqlite::failure::{explain, is_full};
use crate::queue::sqlite::filter::Condition;
use crate::queue::sqlite::odd;
use crate::queue::sqlite::settle::{DELETE_CONTENT, DELETE_MESSAGE, DELETE_RECIPIENT, INSERT_HISTORY};
use crate::queue::sqlite::space;

use super::{Admin, kicks};

/// Recipients changed in one transaction.
const ROWS_MAX: usize = 1_000;

/// RFC 3463 §3.4: 5.3.0, a status of our own mail system. What the world said last stays legible behind it.
pub(super) const RETURN: &str = "bounce_requested_at = unixepoch(), last_reply_source = 'local',
    last_reply = '554 5.3.0 returned by the operator of this relay' || coalesce('; last reply: ' || last_reply, '')";

/// Which of those that are selected it changes, or counts.
pub(super) fn of(action: Action) -> &'static str {
    match action {
        Action::Kick => "state = 'queued'",
        Action::Hold => "(state = 'queued' OR bounce_requested_at IS NOT NULL)",
        Action::Release => "state = 'held'",
        Action::Bounce => "bounce_requested_at IS NULL",
        Action::Remove => "true",
    }
}

impl Admin {
    pub(super) fn kick_now(&self, which: &Filter) -> Result<usize, QueueError> {
        // Looked for before the backoffs go, by which they may be selected.
        let waiting = self.selected(which, of(Action::Kick))?;
        let condition = Condition::of(which);
        self.try_to(|conn| {
            // All recipients of a domain, and all of a message to it, wait in one lane.
            let lanes = format!(
                "SELECT DISTINCT lane FROM (SELECT * FROM recipient_lanes WHERE {} GROUP BY domain)",
                condition.where_sql()
            );
            let sql = match condition.is_everything() {
                true => "DELETE FROM backoffs".to_owned(),
                false => format!("DELETE FROM backoffs WHERE lane IN ({lanes})"),
            };
            conn.execute(&sql, params_from_iter(&condition.values))
        })?;
        self.change_these(
            &waiting,
            "next_attempt_at = unixepoch(), bounce_requested_at = NULL, kicked_attempts = kicked_attempts + 1",
            "state = 'queued' AND (next_attempt_at > unixepoch() OR bounce_requested_at IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = message_id AND m.release_at > unixepoch())",
        )?;
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        self.try_to(|conn| kicks::record(conn, which, count))?;
        Ok(waiting.len())
    }

    /// Sets this in those of them that the action is for.
    pub(super) fn change(&self, which: &Filter, set: &str, action: Action) -> Result<usize, QueueError> {
        self.change_these(&self.selected(which, of(action))?, set, of(action))
    }

    fn change_these(&self, ids: &[i64], set: &str, of: &str) -> Result<usize, QueueError> {
        let sql =
            format!("UPDATE recipients SET {set} WHERE id IN (SELECT value FROM json_each(?1)) AND {of}");
        self.in_parts(ids, |conn, list| conn.prepare_cached(&sql)?.execute([list]))
    }

    pub(super) fn remove_in_parts(&self, which: &Filter) -> Result<usize, QueueError> {
        self.in_parts(&self.selected(which, of(Action::Remove))?, |conn, list| {
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

    /// The ids of those for which `of` holds too, as they stand in the table.
    fn selected(&self, which: &Filter, of: &str) -> Result<Vec<i64>, QueueError> {
        let condition = Condition::of(which);
        let sql = format!("SELECT id FROM recipients WHERE {of} AND {}", condition.where_sql());
        let mut ids: Vec<i64> = self.try_to(|conn| {
            let mut statement = conn.prepare(&sql)?;
            statement.query_map(params_from_iter(&condition.values), |row| row.get(0))?.collect()
        })?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Has `act` change these, a part after the other, by lists of their ids; gives how many it did.
    fn in_parts(
        &self,
        ids: &[i64],
        act: impl Fn(&Connection, &str) -> rusqlite::Result<usize>,
    ) -> Result<usize, QueueError> {
        let (mut left, mut changed, mut rows) = (ids, 0, ROWS_MAX);
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

    type Act = fn(&Admin, &Filter) -> Result<usize, QueueError>;

    /// Steps of SQLite's machine for so many recipients, each domain having half of them.
    fn steps(rows: usize, act: Act, which: &Filter) -> usize {
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
        let expected = if *which == Filter::all() { rows } else { rows / 2 };
        assert_eq!(act(&admin, which).unwrap(), expected);
        assert_eq!(act(&admin, which).unwrap_or(0) % expected, 0, "nothing is done by halves");
        steps.load(Ordering::Relaxed)
    }

    #[test]
    fn ten_times_as_many_recipients_cost_ten_times_as_much() {
        let domain = Filter::domain(&Domain::parse("1.test").unwrap());
        let acts: [(&str, Act); 4] = [
            ("hold", |admin, which| admin.hold(which)),
            ("bounce", |admin, which| admin.bounce(which)),
            ("kick", |admin, which| admin.kick(which)),
            ("remove", |admin, which| admin.remove(which)),
        ];
        for (name, act) in acts {
            for which in [&Filter::all(), &domain] {
                let (few, many) = (steps(3_000, act, which), steps(30_000, act, which));
                assert!(many < 15 * few, "{name} {which}: {few} and {many}");
            }
        }
    }
}
