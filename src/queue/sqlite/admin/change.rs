//! What people change: the recipients that were selected for it, and no others. Each change is made in small
//! transactions, so that the relay's own are never long in waiting; what was selected is looked at once more in each,
//! and left alone where it is not what was asked for any longer.

use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, TransactionBehavior, params, params_from_iter};

use crate::queue::admin_rows::{Changed, Order};
use crate::queue::error::QueueError;
use crate::queue::filter::Action;
use crate::queue::rows::Finished;
use crate::queue::shared::now_us;
use crate::queue::sqlite::failure::{explain, is_full};
use crate::queue::sqlite::filter::Condition;
use crate::queue::sqlite::settle::{
    DELETE_CONTENT, DELETE_MESSAGE, DELETE_RECIPIENT, INSERT_HISTORY, last_part,
};
use crate::queue::sqlite::space;
use crate::queue::sqlite::{odd, operator_log};
use crate::queue::{MessageId, RecipientId};

use super::look::list_of;
use super::{Admin, kicks};

/// Recipients changed in one transaction.
const ROWS_MAX: usize = 1_000;

/// RFC 3463 §3.4: 5.3.0, a status of our own mail system. What the world said last stays legible behind it.
const RETURN: &str = "bounce_requested_at = unixepoch(), last_reply_source = 'local',
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

/// What is set in these; none: they are taken out. A hold's reason is the value `REASON`.
fn set(action: Action) -> Option<&'static str> {
    match action {
        Action::Kick => Some(
            "next_attempt_at = unixepoch(), bounce_requested_at = NULL, kicked_attempts = kicked_attempts + 1",
        ),
        Action::Hold => Some("state = 'held', bounce_requested_at = NULL, held_by = 'operator', held_reason = REASON"),
        Action::Release => Some(
            "state = 'queued', next_attempt_at = unixepoch(), bounce_requested_at = NULL, in_doubt_since = NULL,
             held_by = NULL, held_reason = NULL",
        ),
        Action::Bounce => Some(RETURN),
        Action::Remove => None,
    }
}

/// One that is due already has nothing to be set, and counts all the same.
const KICKED: &str = "(next_attempt_at > unixepoch() OR bounce_requested_at IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = message_id AND m.release_at > unixepoch())";

impl Admin {
    pub(super) fn change_in_parts(&self, order: &Order<'_>, goes_on: &dyn Fn() -> bool) -> Changed {
        let mut changed = Changed::default();
        changed.failed = self.try_change(order, goes_on, &mut changed).err();
        changed
    }

    fn try_change(
        &self,
        order: &Order<'_>,
        goes_on: &dyn Fn() -> bool,
        changed: &mut Changed,
    ) -> Result<(), QueueError> {
        let (these, which) = (order.these, These::of(order));
        let (at, mut row, mut rows) = (now_us() / 1_000_000, None, ROWS_MAX);
        if order.action == Action::Kick {
            self.end_backoffs(these, &which)?;
        }
        let mut result = Ok(());
        while result.is_ok() && changed.looked_at < these.len() && goes_on() {
            let left = &these[changed.looked_at..];
            let part = self.part(&mut rows, |conn, rows| {
                let (part, rest) = left.split_at(rows.min(left.len()));
                let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
                let count = which.change(&transaction, part)?;
                let row = operator_log::count(&transaction, (row, at), order, count, rest.is_empty())?;
                transaction.commit()?;
                Ok((count, part.len(), row))
            });
            result = part.map(|(count, looked_at, now_in)| {
                changed.recipients += count;
                changed.looked_at += looked_at;
                row = now_in;
            });
        }
        let count = u32::try_from(changed.recipients).unwrap_or(u32::MAX);
        // What went wrong first is told; each of these is tried.
        let kicked = match order.action {
            Action::Kick => self.part(&mut 1, |conn, _| kicks::record(conn, order.which, count, order.login)),
            _ => Ok(()),
        };
        let ended = match row {
            Some(row) if changed.looked_at < these.len() => {
                self.part(&mut 1, |conn, _| operator_log::end(conn, row))
            }
            _ => Ok(()),
        };
        result.and(kicked).and(ended)
    }

    /// Ends the backoff of the lanes in which any of these is to be tried: all of a domain wait in one. They are looked
    /// for without a lock.
    fn end_backoffs(&self, these: &[(MessageId, RecipientId)], which: &These) -> Result<(), QueueError> {
        let sql = format!(
            "SELECT lane FROM (SELECT domain, lane FROM recipient_lanes WHERE {} GROUP BY domain)
             WHERE lane IN (SELECT lane FROM backoffs)",
            which.still
        );
        let mut lanes = BTreeSet::new();
        self.try_to(|conn| {
            if conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM backoffs)", [], |row| row.get(0))? {
                return Ok(());
            }
            for part in these.chunks(ROWS_MAX) {
                let mut statement = conn.prepare_cached(&sql)?;
                let mut found = statement.query(params_from_iter(which.values(part)))?;
                while let Some(row) = found.next()? {
                    lanes.extend(odd::text(row, 0)?);
                }
            }
            Ok(())
        })?;
        for lane in lanes {
            self.part(&mut 1, |conn, _| conn.execute("DELETE FROM backoffs WHERE lane = ?1", [&lane]))?;
        }
        Ok(())
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

/// Those of a part that are still what was asked for.
struct These {
    action: Action,
    /// Who holds it, and why.
    reason: String,
    /// A condition that takes `values`.
    still: String,
    condition: Condition,
}

impl These {
    fn of(order: &Order<'_>) -> These {
        let condition = Condition::still(order.which);
        let still = format!(
            "id IN (SELECT value FROM json_each(?{})) AND {} AND {}",
            condition.values.len() + 1,
            of(order.action),
            condition.where_sql()
        );
        let why = order.reason.map_or_else(String::new, |why| format!(": {why}"));
        These { action: order.action, reason: format!("{}{why}", order.login), still, condition }
    }

    fn values(&self, part: &[(MessageId, RecipientId)]) -> Vec<Value> {
        self.condition.values.iter().cloned().chain([list_of(part).into()]).collect()
    }

    /// Changes them; gives how many they are.
    fn change(&self, conn: &Connection, part: &[(MessageId, RecipientId)]) -> rusqlite::Result<usize> {
        let These { action, still, reason, .. } = self;
        let mut values = self.values(part);
        let Some(set) = set(*action) else {
            let rows = conn
                .prepare_cached(&format!("SELECT id, message_id FROM recipients WHERE {still}"))?
                .query_map(params_from_iter(&values), |row| Ok((row.get(0)?, odd::get(row, 1)?)))?
                .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
            rows.iter().try_for_each(|(recipient, message)| remove_one(conn, *recipient, *message))?;
            return Ok(rows.len());
        };
        if *action == Action::Hold {
            values.push(reason.clone().into());
        }
        let set = set.replace("REASON", &format!("?{}", values.len()));
        let update = |and: &str, values: &[Value]| {
            conn.prepare_cached(&format!("UPDATE recipients SET {set} WHERE {still}{and}"))?
                .execute(params_from_iter(values))
        };
        if *action != Action::Kick {
            return update("", &values);
        }
        let count = conn
            .prepare_cached(&format!("SELECT count(*) FROM recipients WHERE {still}"))?
            .query_row(params_from_iter(&values), |row| row.get::<_, i64>(0))?;
        update(&format!(" AND {KICKED}"), &values)?;
        Ok(usize::try_from(count).unwrap_or_default())
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
        last_part(conn)?,
    ])?;
    conn.prepare_cached(DELETE_RECIPIENT)?.execute([recipient])?;
    if conn.prepare_cached(DELETE_MESSAGE)?.execute([message])? > 0 {
        conn.prepare_cached(DELETE_CONTENT)?.execute([message])?;
        // Who takes mail out wants nothing of it to stay but that it was here.
        conn.prepare_cached("DELETE FROM dialogues WHERE message_id = ?1")?.execute([message])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::mail::Domain;
    use crate::queue::filter::Filter;
    use crate::queue::sqlite::migrate;
    use crate::queue::tests::sample::ChangeAll as _;

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
