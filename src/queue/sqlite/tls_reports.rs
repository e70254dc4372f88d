//! The daily reports on TLS (table `tls_reports`): which are planned, and what came of them.
//!
//! Statements that write run inside the writer's transaction; all are rare, and prepared when first used.

use rusqlite::{Connection, Result, params};

use crate::mail::reply::first_bytes;
use crate::mail::tlsrpt::DAY_SECS;
use crate::queue::op::TlsReportChange;
use crate::queue::tls_rows::{TlsReportDue, TlsReportState};

use super::odd;

/// A row that waits for longer than this was written by a clock that was ahead.
const WAIT_SECS_MAX: i64 = DAY_SECS;
/// Bytes that are kept of an answer.
const REPLY_BYTES_MAX: usize = 512;
/// How long rows are kept at least: reports on them may still be on their way.
const KEPT_SECS_MIN: i64 = 5 * DAY_SECS;

/// One for each domain with sessions on a day in `from..until` that has none yet: due `after`, or up to `spread_secs`
/// later.
pub(super) fn plan(conn: &Connection, from: i64, until: i64, after: i64, spread_secs: i64) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO tls_reports (day, domain, rua, state, attempts, next_attempt_at)
         SELECT day, domain, '', 'planned', 0, ?3 + abs(random() % ?4)
         FROM (SELECT DISTINCT day, domain FROM tls_results WHERE day >= ?1 AND day < ?2 AND domain <> '*') r
         WHERE NOT EXISTS (SELECT 1 FROM tls_reports t WHERE t.day = r.day AND t.domain = r.domain)",
    )?
    .execute(params![from, until, after, spread_secs.max(1)])
    .map(drop)
}

/// See [`crate::queue::Reads::tls_reports_due`].
pub(super) fn due(conn: &Connection, now: i64, limit: usize) -> Result<Vec<TlsReportDue>> {
    conn.prepare_cached(
        "SELECT day, domain, rua, attempts FROM tls_reports
         WHERE next_attempt_at IS NOT NULL AND (next_attempt_at <= ?1 OR next_attempt_at > ?2)
         ORDER BY rua <> '', next_attempt_at LIMIT ?3",
    )?
    .query_map(params![now, now.saturating_add(WAIT_SECS_MAX), limit as i64], |row| {
        Ok(TlsReportDue {
            day: odd::get(row, 0)?,
            domain: odd::get(row, 1)?,
            rua: odd::get(row, 2)?,
            attempts: odd::count(row, 3)?,
        })
    })?
    .collect()
}

/// Puts rows in the place of one that was due. False where it is due no more: somebody else was at it.
pub(super) fn change(conn: &Connection, change: &TlsReportChange) -> Result<bool> {
    let TlsReportChange { due, rows, at } = change;
    let gone = conn
        .prepare_cached(
            "DELETE FROM tls_reports WHERE (day, domain, rua) = (?1, ?2, ?3) AND next_attempt_at IS NOT NULL",
        )?
        .execute(params![due.day, due.domain, due.rua])?;
    if gone == 0 {
        return Ok(false);
    }
    for row in rows {
        let (next, message) = match row.state {
            TlsReportState::Planned(next) => (Some(next), None),
            TlsReportState::Queued(message) => (None, Some(message.0)),
            TlsReportState::NotAsked | TlsReportState::Sent | TlsReportState::Failed => (None, None),
        };
        conn.prepare_cached(
            "INSERT INTO tls_reports (day, domain, rua, state, attempts, next_attempt_at, last_reply, message_id,
                                      changed_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            due.day,
            due.domain,
            row.rua,
            row.state.as_str(),
            row.attempts,
            next,
            row.last_reply.as_deref().map(|reply| first_bytes(reply, REPLY_BYTES_MAX)),
            message,
            at,
        ])?;
    }
    Ok(true)
}

/// Forgets sessions and reports of days that are long over, at the confirmed time `now`: so many rows of each at most.
/// Whether there may be more.
pub(super) fn delete_old(conn: &Connection, now: i64, keep_secs: i64, rows: i64) -> Result<bool> {
    let first = now.saturating_sub(keep_secs.max(KEPT_SECS_MIN)).saturating_sub(DAY_SECS);
    let results = conn
        .prepare_cached(
            "DELETE FROM tls_results WHERE (day, domain, policy, mx, ip, source, result) IN
             (SELECT day, domain, policy, mx, ip, source, result FROM tls_results WHERE day < ?1 LIMIT ?2)",
        )?
        .execute([first, rows])?;
    let reports = conn
        .prepare_cached(
            "DELETE FROM tls_reports WHERE (day, domain, rua) IN
             (SELECT day, domain, rua FROM tls_reports WHERE day < ?1 LIMIT ?2)",
        )?
        .execute([first, rows])?;
    Ok(results.max(reports) as i64 >= rows)
}
