//! After the system's clock was set back: waits that were worked out by the clock before begin now.
//!
//! A row says itself whether the relay worked its time out: an attempt (or the arrival of the message) lies in the
//! future, and the time is no further from it than the relay ever waits. What had come due by the clock before is due.
//! What somebody chose is a promise and stays: a release (RFC 4865), a deadline, a time written by hand. A suspension
//! was to last for a time (`--for 2h`), which begins now too.
//!
//! Runs inside the writer's transaction.

use rusqlite::{Connection, Result, params};

use crate::clock::STEP_SECS;

/// Recipients that are changed in one transaction.
const ROWS_MAX: i64 = 5_000;

/// ?1 now, ?2 what the clock showed before, ?3 rows at most.
const DUE: &str = "
    UPDATE recipients
    SET next_attempt_at = max(?1, (SELECT coalesce(m.release_at, 0) FROM messages m WHERE m.id = message_id))
    WHERE id IN (SELECT r.id FROM recipients r JOIN messages m ON m.id = r.message_id
                 WHERE r.state = 'queued' AND r.next_attempt_at > max(?1, coalesce(m.release_at, 0))
                     AND r.next_attempt_at <= ?2
                     AND r.last_attempt_at IS NOT ?1 -- as what was mended by the part before
                 LIMIT ?3)";
/// ?1 now, ?2 the longest wait, ?3 from when on a time lies in the future, ?4 rows at most.
const TRIED: &str = "
    UPDATE recipients SET next_attempt_at = ?1 + max(next_attempt_at - last_attempt_at, 0), last_attempt_at = ?1
    WHERE id IN (SELECT id FROM recipients
                 WHERE state = 'queued' AND next_attempt_at > ?1
                     AND last_attempt_at > ?3 AND next_attempt_at <= last_attempt_at + ?2 LIMIT ?4)";
const UNTRIED: &str = "
    UPDATE recipients SET next_attempt_at = ?1
    WHERE id IN (SELECT r.id FROM recipients r JOIN messages m ON m.id = r.message_id
                 WHERE r.state = 'queued' AND r.next_attempt_at > ?1 AND r.last_attempt_at IS NULL
                     AND m.received_at > ?2 AND r.next_attempt_at = m.received_at
                     AND coalesce(m.release_at, 0) <= ?1 LIMIT ?3)";
const BACKOFFS: &str = "
    UPDATE backoffs SET backoff_until = ?1 + min(max(backoff_until - changed_at, 0), ?2), changed_at = ?1
    WHERE changed_at > ?3 AND lane NOT LIKE 'atrn:%'";

/// One without an end is said to be since now.
const SUSPENSIONS: &str = "
    UPDATE suspensions SET until = ?1 + max(until - since, 0), since = ?1 WHERE since > ?2";

/// The clock showed `before` and shows `now`. Gives whether all of it is done.
pub(super) fn mend(conn: &Connection, before: i64, now: i64, longest_secs: i64) -> Result<bool> {
    let future = now.saturating_add(STEP_SECS);
    conn.prepare_cached(BACKOFFS)?.execute(params![now, longest_secs, future])?;
    conn.prepare_cached(SUSPENSIONS)?.execute(params![now, future])?;
    let due = conn.prepare_cached(DUE)?.execute(params![now, before, ROWS_MAX])?;
    let tried = conn.prepare_cached(TRIED)?.execute(params![now, longest_secs, future, ROWS_MAX])?;
    let untried = conn.prepare_cached(UNTRIED)?.execute(params![now, future, ROWS_MAX])?;
    Ok([due, tried, untried].iter().all(|rows| (*rows as i64) < ROWS_MAX))
}
