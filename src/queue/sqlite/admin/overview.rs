//! What the status page counts. None of these is fast where much waits: who asks keeps the answer for a while.

use rusqlite::{Connection, Result, params};

use crate::queue::overview_rows::{DomainWaiting, FailureGroup, MinuteCount, PolicyCount};
use crate::queue::sqlite::odd;

/// One walk along an index that has all of it: a recipient's id is the time at which it came.
const BY_DOMAIN: &str = "
    SELECT domain, count(*), sum(state = 'held'), sum(state = 'queued' AND next_attempt_at <= unixepoch()),
           min(CASE WHEN state = 'queued' THEN next_attempt_at END), min(id) / 1000000
    FROM recipients GROUP BY domain";

/// A recipient waits or is finished, never both. ?1: the first minute.
const ACCEPTED: &str = "
    SELECT id / 60000000, count(*) FROM recipients WHERE id >= ?1 * 60000000 GROUP BY 1
    UNION ALL
    SELECT message_id / 60000000, count(*) FROM history WHERE message_id >= ?1 * 60000000 GROUP BY 1";

const ATTEMPTED: &str = "
    SELECT id / 60000000, outcome, count(*) FROM attempts WHERE id >= ?1 * 60000000 GROUP BY 1, 2";

fn count(row: &rusqlite::Row<'_>, at: usize) -> Result<u64> {
    Ok(odd::int(row, at)?.unwrap_or(0).max(0).unsigned_abs())
}

fn text(row: &rusqlite::Row<'_>, at: usize) -> Result<String> {
    Ok(odd::text(row, at)?.unwrap_or_default())
}

/// See [`crate::queue::AdminStore::waiting_by_domain`].
pub(super) fn by_domain(conn: &Connection) -> Result<Vec<DomainWaiting>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(DomainWaiting {
            domain: text(row, 0)?,
            waiting: count(row, 1)?,
            held: count(row, 2)?,
            due: count(row, 3)?,
            next_attempt_at: odd::int(row, 4)?,
            oldest: odd::int(row, 5)?.unwrap_or(0),
        })
    };
    conn.prepare(BY_DOMAIN)?.query_map([], row)?.collect()
}

/// See [`crate::queue::AdminStore::by_minute`].
pub(super) fn by_minute(conn: &Connection, from: i64) -> Result<Vec<MinuteCount>> {
    let mut minutes: Vec<MinuteCount> = Vec::new();
    let mut at = |minute: i64, add: &dyn Fn(&mut MinuteCount)| match minutes
        .binary_search_by_key(&minute, |found| found.minute)
    {
        Ok(found) => add(&mut minutes[found]),
        Err(place) => {
            let mut new = MinuteCount { minute, ..MinuteCount::default() };
            add(&mut new);
            minutes.insert(place, new);
        }
    };
    let mut accepted = conn.prepare(ACCEPTED)?;
    let mut rows = accepted.query([from])?;
    while let Some(row) = rows.next()? {
        let recipients = count(row, 1)?;
        at(row.get(0)?, &|minute| minute.accepted += recipients);
    }
    let mut attempted = conn.prepare(ATTEMPTED)?;
    let mut rows = attempted.query([from])?;
    while let Some(row) = rows.next()? {
        let (outcome, attempts) = (text(row, 1)?, count(row, 2)?);
        at(row.get(0)?, &|minute| match outcome.as_str() {
            "delivered" | "relayed" => minute.delivered += attempts,
            "failed" | "expired" => minute.failed += attempts,
            _ => minute.deferred += attempts,
        });
    }
    Ok(minutes)
}

/// See [`crate::queue::AdminStore::failure_groups`].
pub(super) fn failures(conn: &Connection, limit: u32) -> Result<Vec<FailureGroup>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(FailureGroup {
            times: count(row, 0)?,
            recipients: count(row, 1)?,
            outcome: text(row, 2)?,
            phase: text(row, 3)?,
            hosts: count(row, 4)?,
            mx: odd::text(row, 5)?,
            reply: text(row, 6)?,
            is_remote: text(row, 7)? == "remote",
            last: text(row, 8)?,
        })
    };
    let sql = "SELECT times, recipients, outcome, phase, hosts, mx, reply, reply_source, last FROM failures LIMIT ?1";
    conn.prepare(sql)?.query_map([limit], row)?.collect()
}

/// See [`crate::queue::AdminStore::tls_policies`].
pub(super) fn policies(conn: &Connection, now: i64) -> Result<Vec<PolicyCount>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(PolicyCount { policy: text(row, 0)?, sessions: count(row, 1)?, failed: count(row, 2)? })
    };
    let sql = "SELECT policy, sum(sessions), sum(iif(result = 'success', 0, sessions)) FROM tls_results
               WHERE day = ?1 GROUP BY policy ORDER BY 2 DESC";
    conn.prepare(sql)?.query_map(params![now - now.rem_euclid(86_400)], row)?.collect()
}

/// See [`crate::queue::AdminStore::messages`].
pub(super) fn messages(conn: &Connection) -> Result<u64> {
    conn.query_row("SELECT count(*) FROM messages", [], |row| count(row, 0))
}
