//! Numbers for monitoring. What grows with the queue is counted in parts, each a short statement.

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use crate::queue::gauge_rows::{AGE_BOUNDS_SECS, AgeCounts, CountFrom, DomainCount, SmallCounts};
use crate::queue::{MessageId, RecipientId};

use super::{odd, suspensions};

/// Rows that a statement looks at: some ten milliseconds.
const ROWS: i64 = 20_000;

/// Up to the last of the next rows; none: there are no more.
const MESSAGES: &str = "
    SELECT max(id), count(*), coalesce(sum(max(size, 0)), 0)
    FROM (SELECT id, size FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2)";
/// The age of a message is the time since its id was given out.
const RECIPIENTS: &str = "
    SELECT state, (age >= ?3) + (age >= ?4) + (age >= ?5) + (age >= ?6), count(*), max(id)
    FROM (SELECT id, state, ?7 - message_id / 1000000 AS age FROM recipients WHERE id > ?1 ORDER BY id LIMIT ?2)
    GROUP BY 1, 2";
/// Along the index, which has all that is asked for but what is suspended; a lane is looked up once for each domain.
pub(super) const DOMAINS: &str = "
    SELECT d.domain, d.recipients, d.due, max(d.oldest, coalesce(l.backoff_until, 0)), l.backoff_until > ?1,
           EXISTS (SELECT 1 FROM backoffs a WHERE a.lane = 'atrn:' || d.domain), d.suspended
    FROM (SELECT domain, count(*) AS recipients, sum(is_suspended) AS suspended,
                 sum(state = 'queued' AND next_attempt_at <= ?1 AND NOT is_suspended) AS due,
                 min(CASE WHEN state = 'queued' AND next_attempt_at <= ?1 AND NOT is_suspended THEN next_attempt_at END) AS oldest
          FROM recipients WHERE domain > ?2 GROUP BY domain ORDER BY domain LIMIT ?3) d
    LEFT JOIN backoffs l ON d.due > 0
        AND l.lane = (SELECT w.lane FROM recipient_lanes w WHERE w.domain = d.domain LIMIT 1)";
const SMALL: &str = "
    SELECT (SELECT count(*) FROM backoffs WHERE backoff_until > ?1 AND lane NOT LIKE 'atrn:%'),
           (SELECT count(DISTINCT mx) FROM host_settings WHERE setting IN ('connections', 'messages_per_minute')),
           (SELECT count(DISTINCT mx) FROM host_settings WHERE retry_at > ?1),
           (SELECT count(*) FROM login_failures WHERE until > ?1),
           (SELECT count(*) FROM suspensions WHERE until IS NULL OR until > ?1),
           (SELECT count(*) FROM pending_reports),
           (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size),
           (SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size)";

/// See [`crate::queue::Reads::count_by_age`].
pub(super) fn by_age(conn: &Connection, from: CountFrom, now: i64) -> Result<(AgeCounts, Option<CountFrom>)> {
    match from {
        CountFrom::Messages(after) => messages(conn, after),
        CountFrom::Recipients(after) => recipients(conn, after, now),
    }
}

fn messages(conn: &Connection, after: MessageId) -> Result<(AgeCounts, Option<CountFrom>)> {
    conn.prepare_cached(MESSAGES)?.query_row([after.0, ROWS], |row| {
        let counts = AgeCounts { messages: number(row, 1)?, bytes: number(row, 2)?, ..AgeCounts::default() };
        let recipients = CountFrom::Recipients(RecipientId(i64::MIN));
        let last = odd::int(row, 0)?.map_or(recipients, |last| CountFrom::Messages(MessageId(last)));
        Ok((counts, Some(last)))
    })
}

fn recipients(conn: &Connection, after: RecipientId, now: i64) -> Result<(AgeCounts, Option<CountFrom>)> {
    let [first, second, third, fourth] = AGE_BOUNDS_SECS;
    let mut statement = conn.prepare_cached(RECIPIENTS)?;
    let mut rows = statement.query([after.0, ROWS, first, second, third, fourth, now])?;
    let (mut counts, mut last) = (AgeCounts::default(), None);
    while let Some(row) = rows.next()? {
        last = last.max(odd::int(row, 3)?);
        let buckets = match odd::text(row, 0)?.as_deref() {
            Some("queued") => &mut counts.queued,
            Some("held") => &mut counts.held,
            // The sweep finds it.
            _ => continue,
        };
        let at = usize::try_from(number(row, 1)?).unwrap_or(usize::MAX).min(AGE_BOUNDS_SECS.len());
        buckets[at] += number(row, 2)?;
    }
    Ok((counts, last.map(|last| CountFrom::Recipients(RecipientId(last)))))
}

/// See [`crate::queue::Reads::count_by_domain`].
pub(super) fn by_domain(conn: &Connection, after: &str, now: i64, limit: usize) -> Result<Vec<DomainCount>> {
    conn.prepare_cached(&suspensions::if_any(conn, DOMAINS)?)?
        .query_map(params![now, after, limit as i64], |row| {
            Ok(DomainCount {
                domain: odd::get(row, 0)?,
                recipients: number(row, 1)?,
                due: number(row, 2)?,
                due_since: odd::int(row, 3)?,
                backs_off: odd::get(row, 4)?,
                is_fetched: odd::get(row, 5)?,
                suspended: number(row, 6)?,
            })
        })?
        .collect()
}

/// See [`crate::queue::Reads::small_counts`].
pub(super) fn small(conn: &Connection, now: i64) -> Result<SmallCounts> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(SmallCounts {
            lanes_backing_off: number(row, 0)?,
            hosts_throttled: number(row, 1)?,
            hosts_with_workarounds: number(row, 2)?,
            login_locks: number(row, 3)?,
            suspensions: number(row, 4)?,
            pending_reports: number(row, 5)?,
            database_bytes: number(row, 6)?,
            database_free_bytes: number(row, 7)?,
        })
    };
    Ok(conn.prepare_cached(SMALL)?.query_row([now], read).optional()?.unwrap_or_default())
}

fn number(row: &rusqlite::Row<'_>, at: usize) -> Result<u64> {
    Ok(odd::int(row, at)?.unwrap_or(0).max(0).unsigned_abs())
}
