//! What senders were told lately, and what they are still to be told together (`[delivery] bounces_per_sender`).
//!
//! Tables `reports` and `pending_reports`. Statements that write run inside the writer's transaction; all are rare
//! beside mail that arrives, and prepared when first used.

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use crate::mail::address;

use crate::queue::MessageId;
use crate::queue::op::{Incoming, Outcomes, in_a_row};
use crate::queue::rows::{PendingReportRow, PendingReports};

use super::odd;

/// A report about a message is on its way to its one recipient.
pub(super) fn record(
    conn: &Connection,
    (kind, report): (&str, &Incoming),
    about: MessageId,
    at: i64,
) -> Result<()> {
    let Some(to) = report.message.recipients.first() else { return Ok(()) };
    let sender = address::folded(&to.address);
    conn.prepare_cached("INSERT INTO reports (id, sender, at, kind, about) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![report.message.id.0, sender, at, kind, about.0])
        .map(drop)
}

/// Failures that a summary will tell of.
pub(super) fn gather(conn: &Connection, outcomes: &Outcomes) -> Result<()> {
    let message = &outcomes.message;
    let Some(sender) = &message.sender else { return Ok(()) };
    for row in &outcomes.pending_reports {
        let reply = row.reply.as_deref().map(in_a_row);
        conn.prepare_cached(
            "INSERT INTO pending_reports (sender, return_path, at, queue_id, address, state, reply, require_tls)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            address::folded(sender),
            sender.to_string(),
            outcomes.at,
            message.id.to_string(),
            row.address.to_string(),
            row.state,
            reply,
            message.handling.require_tls,
        ])?;
    }
    Ok(())
}

/// They are told of. Ids only grow while these rows are there, so none came in between.
pub(super) fn delete_pending(conn: &Connection, sender: &str, up_to: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM pending_reports WHERE sender = ?1 AND id <= ?2")?
        .execute(params![sender, up_to])
        .map(drop)
}

/// See [`crate::queue::Reads::reports_since`].
pub(super) fn since(conn: &Connection, sender: &str, after: i64, limit: usize) -> Result<Vec<i64>> {
    let mut times: Vec<i64> = conn
        .prepare_cached("SELECT at FROM reports WHERE sender = ?1 AND at > ?2 ORDER BY at DESC LIMIT ?3")?
        .query_map(params![sender, after, limit as i64], |row| Ok(odd::int(row, 0)?.unwrap_or_default()))?
        .collect::<Result<_>>()?;
    times.reverse();
    Ok(times)
}

/// See [`crate::queue::Reads::pending_report_senders`].
pub(super) fn senders(conn: &Connection, until: i64, future: i64, limit: usize) -> Result<Vec<String>> {
    let sql =
        "SELECT sender FROM pending_reports GROUP BY sender HAVING min(at) <= ?1 OR min(at) > ?2 LIMIT ?3";
    conn.prepare_cached(sql)?
        .query_map(params![until, future, limit as i64], |row| Ok(odd::text(row, 0)?.unwrap_or_default()))?
        .collect()
}

/// See [`crate::queue::Reads::pending_reports`].
pub(super) fn pending(conn: &Connection, sender: &str, limit: usize) -> Result<Option<PendingReports>> {
    let counted = conn
        .prepare_cached(
            "SELECT max(id), count(DISTINCT queue_id), count(*), min(at), max(require_tls), return_path, min(id)
             FROM pending_reports WHERE sender = ?1 HAVING count(*) > 0",
        )?
        .query_row([sender], |row| {
            Ok(PendingReports {
                up_to: row.get(0)?,
                messages: row.get::<_, u32>(1)?.into(),
                recipients: row.get::<_, u32>(2)?.into(),
                first_at: odd::int(row, 3)?.unwrap_or_default(),
                // What cannot be read may have required it.
                require_tls: odd::int(row, 4)? != Some(0),
                return_path: odd::text(row, 5)?.unwrap_or_default(),
                listed: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut gathered) = counted else { return Ok(None) };
    gathered.listed = conn
        .prepare_cached(
            "SELECT queue_id, address, state, reply FROM pending_reports WHERE sender = ?1 AND id <= ?2
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![sender, gathered.up_to, limit as i64], |row| {
            Ok(PendingReportRow {
                queue_id: odd::text(row, 0)?.unwrap_or_default(),
                address: odd::text(row, 1)?.unwrap_or_default(),
                state: odd::text(row, 2)?.unwrap_or_default(),
                reply: odd::text(row, 3)?,
            })
        })?
        .collect::<Result<_>>()?;
    Ok(Some(gathered))
}
