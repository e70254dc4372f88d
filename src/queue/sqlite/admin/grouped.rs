//! What keeps mail from being delivered, grouped: by the reason in the replies, and by what has waited longest.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use rusqlite::{Connection, Result, Row, params_from_iter};

use crate::queue::admin_rows::{FailureLine, OldestLine};
use crate::queue::filter::Filter;
use crate::queue::sqlite::filter::Condition;
use crate::queue::sqlite::{odd, suspensions};

use super::look::HISTORY_LINES;
use super::reasons::Reasons;

#[derive(Default)]
struct Group {
    waiting: i64,
    failed: i64,
    hosts: HashSet<u64>,
    senders: HashSet<u64>,
    /// Queue id, host and reply of the first.
    example: Option<(String, Option<String>, String)>,
}

/// See [`crate::queue::AdminStore::failures`]. One pass over the rows: SQL would have to sort them all.
pub(super) fn failures(conn: &Connection, filter: &Filter) -> Result<Vec<FailureLine>> {
    let (hasher, mut groups) = (RandomState::new(), Reasons::<String, Group>::new());
    let mut read = |filter: &Filter, rows: &str, of: &str| -> Result<()> {
        let condition = Condition::of(filter);
        let sql = format!(
            "SELECT last_reply, coalesce(source, 'remote'), last_mx, sender, queue_id
             FROM ({rows}) WHERE last_reply IS NOT NULL AND {of} AND {}",
            condition.where_sql()
        );
        let mut statement = conn.prepare(&sql)?;
        let mut lines = statement.query(params_from_iter(&condition.values))?;
        while let Some(row) = lines.next()? {
            let (reply, mx) = (odd::get::<String>(row, 0)?, odd::text(row, 2)?);
            let group = groups.of(odd::get(row, 1)?, &reply);
            if filter.is_of_finished() {
                group.failed += 1
            } else {
                group.waiting += 1
            }
            group.hosts.extend(mx.as_ref().map(|mx| hasher.hash_one(mx)));
            group.senders.insert(hasher.hash_one(odd::get::<String>(row, 3)?));
            if group.example.is_none() {
                group.example = Some((odd::get(row, 4)?, mx, reply));
            }
        }
        Ok(())
    };
    let waiting = "SELECT r.*, m.sender, m.queue_id, r.last_reply_source AS source
                   FROM recipients r JOIN messages m ON m.id = r.message_id";
    let finished = format!("SELECT h.*, reply_source AS source FROM ({HISTORY_LINES}) h");
    if filter.is_of_finished() {
        read(filter, &finished, "state IN ('failed', 'expired')")?;
    } else {
        read(filter, waiting, "true")?;
        if filter.state.is_none() {
            let last_day = "state IN ('failed', 'expired') AND finished_at > unixepoch() - 86400";
            read(&Filter { state: Some("finished".to_owned()), ..filter.clone() }, &finished, last_day)?;
        }
    }
    let mut lines: Vec<FailureLine> = groups.into_groups().map(line).collect();
    lines.sort_by(|a, b| (b.recipients, &a.reason).cmp(&(a.recipients, &b.reason)));
    Ok(lines)
}

fn line(((reply_source, reason), group): ((String, String), Group)) -> FailureLine {
    let (queue_id, mx, last_reply) = group.example.unwrap_or_default();
    FailureLine {
        reason,
        reply_source,
        recipients: group.waiting + group.failed,
        waiting: group.waiting,
        failed: group.failed,
        hosts: group.hosts.len(),
        senders: group.senders.len(),
        mx,
        queue_id,
        last_reply,
    }
}

/// The last reply of a recipient, with a mark where it is Postrider's own.
fn marked(of: &str) -> String {
    format!("iif({of}.last_reply_source = 'local', '(local) ', '') || {of}.last_reply")
}

/// See [`crate::queue::AdminStore::oldest`].
pub(super) fn oldest(
    conn: &Connection,
    filter: &Filter,
    by_lane: bool,
    limit: u32,
) -> Result<Vec<OldestLine>> {
    let condition = Condition::of(filter);
    let wanted = condition.where_sql();
    // Beside min() SQLite takes the other columns from the row that has the least value.
    let sql = match by_lane {
        false => format!(
            "SELECT m.queue_id, unixepoch() - m.received_at, w.recipients, m.sender, {}, w.suspended
             FROM (SELECT message_id, count(*) AS recipients, sum(is_suspended) AS suspended, min(id), last_reply, last_reply_source FROM recipients
                   WHERE {wanted} GROUP BY message_id ORDER BY message_id LIMIT {limit}) w
             JOIN messages m ON m.id = w.message_id ORDER BY w.message_id",
            marked("w")
        ),
        // A recipient's id is the time at which it came: without a filter the index by domain has all of it.
        true => format!(
            "WITH w AS MATERIALIZED (
                 SELECT domain, count(*) AS recipients, sum(is_suspended) AS suspended, min(id) AS id
                 FROM recipients WHERE {wanted} GROUP BY domain)
             SELECT k.lane, unixepoch() - m.received_at, sum(w.recipients), NULL, coalesce(k.said, {}),
                    sum(w.suspended), min(r.message_id)
             FROM w JOIN ({}) k ON k.domain = w.domain
             JOIN recipients r ON r.id = w.id JOIN messages m ON m.id = r.message_id
             GROUP BY k.lane ORDER BY 7 LIMIT {limit}",
            marked("r"),
            Condition::lanes_of("w")
        ),
    };
    let line = |row: &Row<'_>| {
        Ok(OldestLine {
            of: odd::get(row, 0)?,
            age: odd::get(row, 1)?,
            recipients: odd::get(row, 2)?,
            sender: odd::text(row, 3)?,
            last_reply: odd::text(row, 4)?,
            suspended: odd::get(row, 5)?,
        })
    };
    conn.prepare(&suspensions::if_any(conn, &sql)?)?
        .query_map(params_from_iter(&condition.values), line)?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::reasons::{OTHERS, REASONS_MAX};
    use super::*;
    use crate::queue::sqlite::migrate;

    #[test]
    fn reasons_beyond_the_bound_count_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        let letters = "char(97 + n % 26) || char(97 + n / 26 % 26) || char(97 + n / 676)";
        conn.execute_batch(&format!(
            "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
                 VALUES (1, 'Q', 'a@b.test', 1, 1, '7bit', 0);
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {REASONS_MAX} + 50)
             INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, last_reply)
             SELECT n, 1, 'u@a.test', 'a.test', 1, '450 ' || {letters} FROM n"
        ))
        .unwrap();
        let waiting = Filter { state: Some("queued".to_owned()), ..Filter::all() };
        let lines = failures(&conn, &waiting).unwrap();
        assert_eq!((lines.len(), &*lines[0].reason, lines[0].recipients), (REASONS_MAX + 1, OTHERS, 50));
    }
}
