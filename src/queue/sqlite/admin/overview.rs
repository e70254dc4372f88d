//! What the status page counts. None of these is fast where much waits: who asks keeps the answer for a while.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use rusqlite::{Connection, Result, params};

use crate::kit::text::utc;
use crate::queue::overview_rows::{
    DomainWaiting, FailureGroup, MinuteCount, PolicyCount, Refusal, TlsFailure,
};
use crate::queue::sqlite::{odd, suspensions};

use super::reasons::Reasons;

/// One walk along an index that has all of it but what is suspended: a recipient's id is the time at which it came.
const BY_DOMAIN: &str = "
    SELECT domain, count(*), sum(state = 'held'), sum(iif(state = 'queued' AND next_attempt_at <= unixepoch(), NOT is_suspended, false)),
           min(CASE WHEN state = 'queued' AND NOT is_suspended THEN next_attempt_at END), min(id) / 1000000,
           sum(is_suspended)
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
            suspended: count(row, 6)?,
        })
    };
    conn.prepare(&suspensions::if_any(conn, BY_DOMAIN)?)?.query_map([], row)?.collect()
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

/// Those that did not end in delivery, the oldest first. ?1: from this id on.
const FAILED: &str = "
    SELECT outcome, phase, reply_source, reply, recipient_id, mx, at FROM attempts
    WHERE id >= ?1 AND outcome NOT IN ('delivered', 'relayed')";

/// Recipients and hosts, each once for each reason, that are told apart; there may be more then.
const SEEN_MAX: usize = 1_000_000;

#[derive(Default)]
struct Failed {
    times: u64,
    recipients: u64,
    hosts: u64,
    mx: Option<String>,
    last: i64,
}

/// See [`crate::queue::AdminStore::failure_groups`]. One pass over the rows: SQL would have to sort them all.
pub(super) fn failures(conn: &Connection, since: i64, limit: u32) -> Result<Vec<FailureGroup>> {
    failures_seen(conn, since, limit, SEEN_MAX)
}

fn failures_seen(conn: &Connection, since: i64, limit: u32, seen_max: usize) -> Result<Vec<FailureGroup>> {
    let mut groups = Reasons::<(String, String, bool), Failed>::new();
    let (hasher, mut seen) = (RandomState::new(), HashSet::new());
    let mut is_new = |hash| seen.len() < seen_max && seen.insert(hash);
    let mut statement = conn.prepare(FAILED)?;
    let mut rows = statement.query([since.saturating_mul(1_000_000)])?;
    while let Some(row) = rows.next()? {
        let (reply, mx) = (text(row, 3)?, odd::text(row, 5)?);
        let kind = (text(row, 0)?, text(row, 1)?, text(row, 2)? == "remote");
        let (place, group) = groups.at(kind, &reply);
        group.times += 1;
        group.last = group.last.max(odd::get(row, 6)?);
        group.recipients += u64::from(is_new(hasher.hash_one((place, odd::get::<i64>(row, 4)?))));
        if let Some(mx) = mx {
            group.hosts += u64::from(is_new(hasher.hash_one((place, &mx))));
            group.mx.get_or_insert(mx);
        }
    }
    let is_full = seen.len() >= seen_max;
    let line = |((kind, reply), group): ((_, String), Failed)| {
        let (outcome, phase, is_remote) = kind;
        let Failed { times, recipients, hosts, mx, last } = group;
        let last = utc(last);
        FailureGroup { times, recipients, is_full, outcome, phase, hosts, mx, reply, is_remote, last }
    };
    let mut lines: Vec<FailureGroup> = groups.into_groups().map(line).collect();
    lines.sort_by(|a, b| (b.times, &b.last, &a.reply).cmp(&(a.times, &a.last, &b.reply)));
    lines.truncate(limit as usize);
    Ok(lines)
}

/// So many attempts are looked at, however few of them were refused.
const LAST_ATTEMPTS: u32 = 2_000;

/// See [`crate::queue::AdminStore::refusals`].
pub(super) fn refusals(conn: &Connection, limit: u32) -> Result<Vec<Refusal>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Refusal {
            at: odd::get(row, 0)?,
            mx: odd::text(row, 1)?,
            reply: text(row, 2)?,
            is_remote: text(row, 3)? == "remote",
        })
    };
    let sql = format!(
        "SELECT at, mx, reply, reply_source
         FROM (SELECT * FROM attempts ORDER BY id DESC LIMIT {LAST_ATTEMPTS})
         WHERE outcome NOT IN ('delivered', 'relayed') ORDER BY id DESC LIMIT ?1"
    );
    conn.prepare(&sql)?.query_map([limit], row)?.collect()
}

/// A policy of MTA-STS that could not be fetched: counted for the domain's report (RFC 8460 §4.3.2.1), and no session
/// with a host.
const OF_FETCH: &str = "result LIKE 'sts-%'";

/// See [`crate::queue::AdminStore::tls_policies`].
pub(super) fn policies(conn: &Connection, now: i64) -> Result<Vec<PolicyCount>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(PolicyCount { policy: text(row, 0)?, sessions: count(row, 1)?, failed: count(row, 2)? })
    };
    let sql = format!(
        "SELECT policy, sum(sessions), sum(iif(result = 'success', 0, sessions)) FROM tls_results
         WHERE day = ?1 AND NOT {OF_FETCH} GROUP BY policy ORDER BY 2 DESC"
    );
    conn.prepare(&sql)?.query_map(params![now - now.rem_euclid(86_400)], row)?.collect()
}

/// See [`crate::queue::AdminStore::tls_failures`].
pub(super) fn tls_failures(conn: &Connection, now: i64, limit: u32) -> Result<Vec<TlsFailure>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok(TlsFailure {
            domain: text(row, 0)?,
            policy: text(row, 1)?,
            result: text(row, 2)?,
            sessions: count(row, 3)?,
            reason: text(row, 4)?,
        })
    };
    // Where the policy that is kept still holds, mail goes by it.
    let sql = format!(
        "SELECT domain, policy, result, sum(sessions), max(reason) FROM tls_results t
         WHERE day = ?1 AND result <> 'success'
             AND NOT ({OF_FETCH} AND EXISTS (SELECT 1 FROM mta_sts_policies p
                                             WHERE p.domain = t.domain AND p.expires_at > ?3))
         GROUP BY domain, policy, result ORDER BY 4 DESC, domain LIMIT ?2"
    );
    conn.prepare(&sql)?.query_map(params![now - now.rem_euclid(86_400), limit, now], row)?.collect()
}

/// See [`crate::queue::AdminStore::messages`].
pub(super) fn messages(conn: &Connection) -> Result<u64> {
    conn.query_row("SELECT count(*) FROM messages", [], |row| count(row, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::migrate;

    #[test]
    fn a_policy_that_is_kept_is_no_failure_where_it_cannot_be_fetched_again() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(migrate::SCHEMA).unwrap();
        conn.execute_batch(
            "INSERT INTO mta_sts_policies (domain, id, mode, max_age, fetched_at, expires_at, used_at, mx)
                 VALUES ('kept.test', '1', 'enforce', 9, 1, 100, 1, 'mx'), ('over.test', '1', 'enforce', 9, 1, 5, 1, 'mx');
             INSERT INTO tls_results VALUES
                 (0, 'kept.test', 'none', '', '', '', 'sts-policy-fetch-error', 3, 'no answer', '', ''),
                 (0, 'over.test', 'none', '', '', '', 'sts-policy-fetch-error', 2, 'no answer', '', ''),
                 (0, 'kept.test', 'none', 'mx', '', '', 'starttls-not-supported', 1, '', '', ''),
                 (0, 'kept.test', 'none', 'mx', '', '', 'success', 4, '', '', '');",
        )
        .unwrap();
        let failed: Vec<_> =
            tls_failures(&conn, 7, 9).unwrap().into_iter().map(|line| (line.domain, line.result)).collect();
        let wanted = [("over.test", "sts-policy-fetch-error"), ("kept.test", "starttls-not-supported")];
        assert_eq!(failed, wanted.map(|(domain, result)| (domain.to_owned(), result.to_owned())));
        let counts: Vec<_> =
            policies(&conn, 7).unwrap().into_iter().map(|count| (count.sessions, count.failed)).collect();
        assert_eq!(counts, [(5, 1)], "a fetch is no session with a host");
    }

    #[test]
    fn failures_of_many_recipients_and_hosts_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        conn.execute_batch(
            "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 99)
             INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, phase, code, reply, outcome)
             SELECT 5000000 + n, n % 50, 5, 1, 'mx' || (n % 10) || '.test', 'rcpt', 450, '450 <u' || n || '@a.test> no',
                 iif(n = 99, 'failed', 'deferred') FROM n",
        )
        .unwrap();
        let of = |since, seen_max| {
            let lines = failures_seen(&conn, since, 9, seen_max).unwrap();
            let of = |line: FailureGroup| (line.times, line.recipients, line.hosts, line.is_full);
            lines.into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(of(5, SEEN_MAX), [(99, 50, 10, false), (1, 1, 1, false)]);
        assert_eq!(of(5, 7), [(99, 4, 3, true), (1, 0, 0, true)]);
        assert_eq!(of(6, SEEN_MAX), []);
    }
}
