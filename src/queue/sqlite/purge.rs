//! Forgets history, dialogues, kicks, counted reports, policies, suspensions and TLS results that are old enough, a
//! small part at a time.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Result, params};

use super::{dialogues, host_settings, odd, sts_policies, suspensions, tls_reports};

/// Rows looked at in one transaction.
const ROWS: i64 = 500;
/// How long it is known who was sent a report, at least: longer than anybody counts.
const REPORTS_SECS: i64 = 2 * 3600;
/// From the end of one pass to the next.
const EVERY: Duration = Duration::from_secs(600);

/// A pass through the oldest history, in the order of its key.
pub(super) struct Purge {
    keep: Duration,
    next_pass: Instant,
    /// The last row looked at, in a pass.
    at: Option<(i64, i64)>,
}

impl Purge {
    pub(super) fn new(keep: Duration) -> Purge {
        Purge { keep, next_pass: Instant::now(), at: None }
    }

    /// Looks at the next few rows, at the confirmed time `now`; false when there is nothing to do for now.
    ///
    /// # Errors
    /// SQLite's; the transaction may still be open.
    pub(super) fn step(&mut self, conn: &Connection, now: i64) -> Result<bool> {
        if self.at.is_none() && Instant::now() < self.next_pass {
            return Ok(false);
        }
        let keep_us = i64::try_from(self.keep.as_micros()).unwrap_or(i64::MAX);
        let cutoff_us = now.saturating_mul(1_000_000).saturating_sub(keep_us);
        let keep_secs = i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        // A day ends for all its rows at once, and a relay that stood still for weeks has much to forget.
        if self.at.is_none() && delete_old(conn, now, keep_secs)? {
            return Ok(true);
        }
        let (message, recipient) = self.at.unwrap_or((0, 0));
        // A message is finished after it came: those older than the cutoff are all that can be old enough.
        let rows = conn
            .prepare_cached(
                "SELECT message_id, recipient_id, finished_at FROM history
                 WHERE (message_id, recipient_id) > (?1, ?2) AND message_id < ?3
                 ORDER BY message_id, recipient_id LIMIT ?4",
            )?
            .query_map(params![message, recipient, cutoff_us, ROWS], |row| {
                let key = (odd::int(row, 0)?.unwrap_or(i64::MAX), odd::int(row, 1)?.unwrap_or(i64::MAX));
                Ok((key.0, key.1, odd::int(row, 2)?.unwrap_or(0)))
            })?
            .collect::<Result<Vec<(i64, i64, i64)>>>()?;
        let old: Vec<_> =
            rows.iter().filter(|(.., finished_at)| *finished_at < cutoff_us / 1_000_000).collect();
        if !old.is_empty() {
            conn.execute_batch("BEGIN IMMEDIATE")?;
            let mut history =
                conn.prepare_cached("DELETE FROM history WHERE message_id = ? AND recipient_id = ?")?;
            let mut attempts = conn.prepare_cached("DELETE FROM attempts WHERE recipient_id = ?")?;
            for (message, recipient, _) in old {
                history.execute([message, recipient])?;
                attempts.execute([recipient])?;
            }
            conn.execute_batch("COMMIT")?;
        }
        self.at = (rows.len() as i64 == ROWS).then(|| rows.last().map(|row| (row.0, row.1))).flatten();
        if self.at.is_none() {
            self.next_pass = Instant::now() + EVERY;
        }
        Ok(self.at.is_some())
    }
}

/// Forgets what is beside history: of one table so many rows, or the few that several have. Whether there may be more.
fn delete_old(conn: &Connection, now: i64, keep_secs: i64) -> Result<bool> {
    let by_time = |sql, before: i64| -> Result<bool> {
        Ok(conn.prepare_cached(sql)?.execute([before, ROWS])? as i64 >= ROWS)
    };
    let kept_from = now.saturating_sub(keep_secs);
    let counted_from = now.saturating_sub(keep_secs.max(REPORTS_SECS)).saturating_mul(1_000_000);
    Ok(tls_reports::delete_old(conn, now, keep_secs, ROWS)?
        || by_time(
            "DELETE FROM kicks WHERE id IN (SELECT id FROM kicks WHERE at < ?1 ORDER BY at LIMIT ?2)",
            kept_from,
        )?
        || by_time(
            "DELETE FROM operator_log WHERE id IN
             (SELECT id FROM operator_log WHERE at < ?1 AND logged = 1 ORDER BY at LIMIT ?2)",
            kept_from,
        )?
        || by_time(
            "DELETE FROM reports WHERE id IN (SELECT id FROM reports WHERE id < ?1 ORDER BY id LIMIT ?2)",
            counted_from,
        )?
        || dialogues::delete_old(conn, kept_from, ROWS)?
        || host_settings::delete_unused(conn, now, ROWS)?
        || suspensions::delete_ended(conn, now, ROWS)?
        || sts_policies::delete_expired(conn, now, ROWS)?)
}
