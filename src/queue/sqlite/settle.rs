//! What came of attempts: the next try, history and the record of the attempt.
//!
//! Runs inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension as _, Result, Statement, params};

use crate::mail::reply::first_bytes;
use crate::queue::RecipientId;
use crate::queue::contract::Effect;
use crate::queue::held::HeldBy;
use crate::queue::op::{AttemptRow, OutcomeRow, Outcomes};
use crate::queue::rows::NextState;

use super::dialogues::Dialogues;
use super::{odd, replies};

/// Moves recipients to `history`: what is recorded comes from the rows, whatever memory holds of them.
/// ?1 recipient, ?2 state, ?3 finished_at, ?4 tries to add, ?5 reply, ?6 mx, ?7 whose words, ?8 TLS, ?9 our address,
/// ?10 the part.
/// What ends with a try was no operator's doing, also where one had asked for its end meanwhile.
pub(super) const INSERT_HISTORY: &str = "
    INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at,
                         attempts, size, reply, mx, reply_source, user, client, tls, source_address,
                         header_message_id, subject, tag, finished_by, part)
    SELECT r.message_id, r.id, m.queue_id, m.sender, r.address, ?2, m.received_at, ?3,
           r.attempts + ?4, m.size, coalesce(?5, r.last_reply), coalesce(?6, r.last_mx),
           CASE WHEN ?5 IS NULL THEN r.last_reply_source ELSE ?7 END, m.user, m.client, ?8, ?9,
           m.header_message_id, m.subject, m.tag,
           iif(?2 = 'removed' OR r.bounce_requested_at IS NOT NULL AND ?4 = 0, 'operator', 'outcome'), ?10
    FROM recipients r JOIN messages m ON m.id = r.message_id WHERE r.id = ?1";
pub(super) const DELETE_RECIPIENT: &str = "DELETE FROM recipients WHERE id = ?1";
/// Only once its last recipient is gone.
pub(super) const DELETE_MESSAGE: &str = "
    DELETE FROM messages WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM recipients WHERE message_id = ?1)";
pub(super) const DELETE_CONTENT: &str = "DELETE FROM content WHERE message_id = ?1";
/// Rows of `history` that have one part: its pages of the index by Message-ID are few, and who looks takes a step in
/// each part, a thousand of a million rows.
const PART_ROWS: u32 = 1_024;
/// Bytes of `recipients.last_reply` that are written on a full disk.
const REPLY_BYTES_FULL_DISK: usize = 120;

/// The latest time that the tables take: the end of the year 9999.
pub(super) const TIME_MAX: i64 = 253_402_300_799;

/// The statements, prepared once and kept hot.
pub(super) struct Settle<'c> {
    conn: &'c Connection,
    insert_attempt: Statement<'c>,
    insert_history: Statement<'c>,
    correct_removed: Statement<'c>,
    delete_recipient: Statement<'c>,
    delete_message: Statement<'c>,
    delete_content: Statement<'c>,
    retry: Statement<'c>,
    hold: Statement<'c>,
    set_doubt: Statement<'c>,
    dialogues: Dialogues,
    /// In which part of history the next row stands, and how many stand there already.
    part: (i64, u32),
}

/// The part that was begun last; 0 where there is no history.
pub(super) fn last_part(conn: &Connection) -> Result<i64> {
    let sql = "SELECT max(part) FROM history";
    conn.prepare_cached(sql)?.query_row([], |row| Ok(odd::int(row, 0)?.unwrap_or(0)))
}

impl<'c> Settle<'c> {
    pub(super) fn new(conn: &'c Connection) -> Result<Settle<'c>> {
        Ok(Settle {
            conn,
            part: (last_part(conn)?, PART_ROWS),
            insert_attempt: conn.prepare(
                "INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, tls, tls_policy, dkim, phase, code,
                                       enhanced, reply, outcome, reply_source, reply_id, source_address,
                                       dialogue_id)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_history: conn.prepare(INSERT_HISTORY)?,
            correct_removed: conn.prepare(
                "UPDATE history
                 SET state = coalesce(?3, state), finished_at = iif(?3 IS NULL, finished_at, ?4),
                     attempts = attempts + ?5, reply = coalesce(?6, reply), mx = coalesce(?7, mx),
                     reply_source = iif(?6 IS NULL, reply_source, ?8), tls = coalesce(?9, tls),
                     source_address = coalesce(?10, source_address),
                     finished_by = iif(?3 IS NULL, finished_by, 'outcome')
                 WHERE message_id = ?1 AND recipient_id = ?2 AND state = 'removed'",
            )?,
            delete_recipient: conn.prepare(DELETE_RECIPIENT)?,
            delete_message: conn.prepare(DELETE_MESSAGE)?,
            delete_content: conn.prepare(DELETE_CONTENT)?,
            retry: conn.prepare(
                "UPDATE recipients
                 SET state = coalesce(?2, state), attempts = attempts + ?3, next_attempt_at = ?4,
                     last_attempt_at = coalesce(?5, last_attempt_at), last_reply = coalesce(?6, last_reply),
                     last_mx = coalesce(?7, last_mx), warned_at = coalesce(?8, warned_at),
                     last_reply_source = coalesce(?9, last_reply_source), in_doubt_since = NULL,
                     expanded = iif(?10, NULL, expanded),
                     held_by = iif(state = 'held', held_by, ?11),
                     held_reason = iif(state = 'held', held_reason, ?12)
                 WHERE id = ?1 RETURNING state = 'queued'",
            )?,
            hold: conn.prepare(
                "UPDATE recipients SET state = 'held', held_by = 'fault', held_reason = ?2 WHERE id = ?1",
            )?,
            set_doubt: conn.prepare("UPDATE recipients SET in_doubt_since = ?2 WHERE id = ?1")?,
            dialogues: Dialogues::default(),
        })
    }

    /// The part of the next row.
    fn next_part(&mut self) -> i64 {
        let (part, rows) = &mut self.part;
        if *rows >= PART_ROWS {
            (*part, *rows) = (part.saturating_add(1), 0);
        }
        *rows += 1;
        *part
    }

    /// All of a settlement but its reports. On a disk that `is_full` a try that failed for now has no row in
    /// `attempts`: it would take the room that the others need to go out.
    pub(super) fn settle(&mut self, outcomes: &Outcomes, is_full: bool) -> Result<Effect> {
        let mut settled = Vec::with_capacity(outcomes.results.len());
        let mut one_finished = false;
        for row in &outcomes.results {
            let next = match row.next_state {
                NextState::Retry(at) => self.stays(row, None, at, outcomes, is_full)?,
                NextState::Hold(by) => self.stays(row, Some(by), outcomes.at, outcomes, is_full)?,
                NextState::Finished(how) => {
                    one_finished = true;
                    let attempt = row.attempt.as_ref();
                    let part = self.next_part();
                    let moved = self.insert_history.execute(params![
                        row.recipient.0,
                        how.as_str(),
                        outcomes.at,
                        i64::from(attempt.is_some()),
                        attempt.map(|attempt| &attempt.reply),
                        attempt.and_then(|attempt| attempt.mx.as_ref()),
                        attempt.map(|attempt| attempt.reply_source),
                        attempt.and_then(|attempt| attempt.tls.as_ref()),
                        attempt.and_then(|attempt| attempt.source_address.as_ref()),
                        part,
                    ])?;
                    if moved == 0 {
                        self.was_removed(row, Some(how.as_str()), outcomes)?;
                    }
                    self.delete_recipient.execute([row.recipient.0])?;
                    None
                }
            };
            let can_do_without = is_full && matches!(row.next_state, NextState::Retry(_));
            if let Some(attempt) = row.attempt.as_ref().filter(|_| !can_do_without) {
                self.attempt(row.recipient, attempt)?;
            }
            settled.push((row.recipient, next));
        }
        self.dialogue(outcomes, is_full)?;
        let is_gone = one_finished && self.delete_message.execute([outcomes.message.id.0])? > 0;
        if is_gone {
            self.delete_content.execute([outcomes.message.id.0])?;
        }
        Ok(Effect::Settled { next: settled, is_gone })
    }

    /// What was said, where it failed for somebody: not on a disk that has no room for it.
    fn dialogue(&mut self, outcomes: &Outcomes, is_full: bool) -> Result<()> {
        let attempts = outcomes.results.iter().filter_map(|row| row.attempt.as_ref());
        let id = attempts.filter_map(|attempt| attempt.dialogue_id).next();
        match (id, &outcomes.dialogue) {
            (Some(id), Some(text)) if !is_full => {
                self.dialogues.keep(self.conn, id, outcomes.message.id, text)
            }
            _ => Ok(()),
        }
    }

    /// The recipient waits on; gives the time of its next try, none when it is held or was removed.
    fn stays(
        &mut self,
        row: &OutcomeRow,
        held: Option<HeldBy>,
        next: i64,
        outcomes: &Outcomes,
        is_full: bool,
    ) -> Result<Option<i64>> {
        let attempt = row.attempt.as_ref();
        let reply = attempt.map(|attempt| match is_full {
            true => shortest(&attempt.reply),
            false => attempt.reply.as_str(),
        });
        let held = held.map(|by| match by {
            HeldBy::Rule(number) => ("rule", format!("[[retry.rule]] {number}")),
            HeldBy::InDoubt => ("in-doubt", "it may have arrived".to_owned()),
        });
        let queued: Option<bool> = self
            .retry
            .query_row(
                params![
                    row.recipient.0,
                    held.as_ref().map(|_| "held"),
                    i64::from(attempt.is_some()),
                    next.clamp(0, TIME_MAX),
                    attempt.map(|attempt| attempt.at),
                    reply,
                    attempt.and_then(|attempt| attempt.mx.as_ref()),
                    row.warned.then_some(outcomes.at),
                    attempt.map(|attempt| attempt.reply_source),
                    outcomes.expanded_told,
                    held.as_ref().map(|(by, _)| by),
                    held.as_ref().map(|(_, reason)| reason),
                ],
                |row| row.get(0),
            )
            .optional()?;
        if queued.is_none() {
            self.was_removed(row, None, outcomes)?;
        }
        Ok(queued.unwrap_or(false).then_some(next))
    }

    /// The operator removed it while it was tried: `history` says what came of that, which is no longer "removed" where
    /// it ended.
    fn was_removed(&mut self, row: &OutcomeRow, state: Option<&str>, outcomes: &Outcomes) -> Result<()> {
        let attempt = row.attempt.as_ref();
        self.correct_removed
            .execute(params![
                outcomes.message.id.0,
                row.recipient.0,
                state,
                outcomes.at,
                i64::from(attempt.is_some()),
                attempt.map(|attempt| &attempt.reply),
                attempt.and_then(|attempt| attempt.mx.as_ref()),
                attempt.map(|attempt| attempt.reply_source),
                attempt.and_then(|attempt| attempt.tls.as_ref()),
                attempt.and_then(|attempt| attempt.source_address.as_ref()),
            ])
            .map(drop)
    }

    /// Something is wrong with these: the operator has to look.
    pub(super) fn hold(&mut self, recipients: &[RecipientId], why: &str) -> Result<()> {
        recipients.iter().try_for_each(|recipient| self.hold.execute(params![recipient.0, why]).map(drop))
    }

    /// Since when the final dot may have been sent for these; without a time it was not, or was refused.
    pub(super) fn set_doubt(&mut self, recipients: &[RecipientId], since: Option<i64>) -> Result<()> {
        recipients
            .iter()
            .try_for_each(|recipient| self.set_doubt.execute(params![recipient.0, since]).map(drop))
    }

    fn attempt(&mut self, recipient: RecipientId, a: &AttemptRow) -> Result<()> {
        let reply_id = a.whole_reply.as_ref().map(|reply| replies::keep(self.conn, reply)).transpose()?;
        self.insert_attempt
            .execute(params![
                a.id,
                recipient.0,
                a.at,
                a.duration_ms,
                a.mx,
                a.ip,
                a.tls,
                a.tls_policy,
                a.dkim,
                a.phase,
                a.code,
                a.enhanced,
                a.reply,
                a.outcome,
                a.reply_source,
                reply_id,
                a.source_address,
                a.dialogue_id,
            ])
            .map(drop)
    }
}

/// As much of a reply as a full disk has room for.
fn shortest(reply: &str) -> &str {
    first_bytes(reply, REPLY_BYTES_FULL_DISK)
}
