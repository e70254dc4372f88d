//! The statements that write, prepared once and kept hot, and what each operation does with them.
//!
//! Runs inside the writer's transaction. An error leaves that transaction to be rolled back; the
//! operation itself stays as it was and can be applied again.

mod kick;

use rusqlite::{Connection, OptionalExtension, Result, Statement, params};

use crate::mail::Expanded;

use crate::queue::MessageId;
use crate::queue::RecipientId;
use crate::queue::op::{AttemptRow, Incoming, Op, OutcomeRow, Outcomes, sender_text};
use crate::queue::rows::{BackoffRow, Kicked, NextState};

pub(in crate::queue) use kick::INSERT_KICK;

/// Largest chunk of content.
pub(in crate::queue) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Moves recipients to `history`: what is recorded comes from the rows, whatever memory holds of them.
/// ?1 recipient, ?2 state, ?3 finished_at, ?4 tries to add, ?5 reply, ?6 mx, ?7 whose words.
pub(in crate::queue) const INSERT_HISTORY: &str = "
    INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at,
                         attempts, size, reply, mx, reply_source)
    SELECT r.message_id, r.id, m.queue_id, m.sender, r.address, ?2, m.received_at, ?3,
           r.attempts + ?4, m.size, coalesce(?5, r.last_reply), coalesce(?6, r.last_mx),
           CASE WHEN ?5 IS NULL THEN r.last_reply_source ELSE ?7 END
    FROM recipients r JOIN messages m ON m.id = r.message_id WHERE r.id = ?1";
pub(in crate::queue) const DELETE_RECIPIENT: &str = "DELETE FROM recipients WHERE id = ?1";
/// Only once its last recipient is gone.
pub(in crate::queue) const DELETE_MESSAGE: &str = "
    DELETE FROM messages WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM recipients WHERE message_id = ?1)";
pub(in crate::queue) const DELETE_CONTENT: &str = "DELETE FROM content WHERE message_id = ?1";

/// What an operation did, for the answer and the scheduler.
pub(in crate::queue) enum Effect {
    Done,
    /// Of each recipient of a settlement the time of its next try.
    Settled(Vec<(RecipientId, Option<i64>)>),
    /// What the kick came to, and whether some recipients are still to be moved.
    Kicked {
        kicked: Kicked,
        more: bool,
    },
}

/// Every writing statement of the relay.
pub(in crate::queue) struct Store<'c> {
    conn: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    save_last_id: Statement<'c>,
    insert_message: Statement<'c>,
    insert_recipient: Statement<'c>,
    insert_content: Statement<'c>,
    insert_partial: Statement<'c>,
    delete_partial: Statement<'c>,
    count_chunks: Statement<'c>,
    discard_content: Statement<'c>,
    insert_attempt: Statement<'c>,
    insert_history: Statement<'c>,
    delete_recipient: Statement<'c>,
    delete_message: Statement<'c>,
    delete_content: Statement<'c>,
    retry: Statement<'c>,
    hold: Statement<'c>,
    intend_dot: Statement<'c>,
    set_backoff: Statement<'c>,
    clear_backoff: Statement<'c>,
}

impl<'c> Store<'c> {
    pub(in crate::queue) fn new(conn: &'c Connection) -> Result<Store<'c>> {
        Ok(Store {
            conn,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            save_last_id: conn.prepare(
                "INSERT INTO meta VALUES ('last_id', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
            )?,
            insert_message: conn.prepare(
                "INSERT INTO messages (id, queue_id, sender, user, client, helo, received_at, expires_at, size, body,
                                       smtputf8, ret, envid, priority, require_tls, release_at, release_asked,
                                       deliver_by, deliver_by_mode)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_recipient: conn.prepare(
                "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, notify, orcpt, priority,
                                         expanded)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_content: conn.prepare("INSERT INTO content VALUES (?, ?, ?)")?,
            insert_partial: conn.prepare("INSERT OR IGNORE INTO partial_messages VALUES (?)")?,
            delete_partial: conn.prepare("DELETE FROM partial_messages WHERE message_id = ?")?,
            count_chunks: conn.prepare("SELECT count(*) FROM content WHERE message_id = ?")?,
            discard_content: conn.prepare(
                "DELETE FROM content WHERE message_id = ?1 AND NOT EXISTS (SELECT 1 FROM messages WHERE id = ?1)",
            )?,
            insert_attempt: conn.prepare(
                "INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, tls, phase, code, enhanced, reply,
                                       outcome, reply_source)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_history: conn.prepare(INSERT_HISTORY)?,
            delete_recipient: conn.prepare(DELETE_RECIPIENT)?,
            delete_message: conn.prepare(DELETE_MESSAGE)?,
            delete_content: conn.prepare(DELETE_CONTENT)?,
            retry: conn.prepare(
                "UPDATE recipients
                 SET state = coalesce(?2, state), attempts = attempts + ?3, next_attempt_at = ?4,
                     last_attempt_at = coalesce(?5, last_attempt_at), last_reply = coalesce(?6, last_reply),
                     last_mx = coalesce(?7, last_mx), warned_at = coalesce(?8, warned_at),
                     last_reply_source = coalesce(?9, last_reply_source), in_doubt_since = NULL,
                     expanded = iif(?10, NULL, expanded)
                 WHERE id = ?1 RETURNING state = 'queued'",
            )?,
            hold: conn.prepare("UPDATE recipients SET state = 'held', last_reply = ?2, last_reply_source = 'local' WHERE id = ?1")?,
            intend_dot: conn.prepare("UPDATE recipients SET in_doubt_since = ?2 WHERE id = ?1")?,
            set_backoff: conn.prepare("INSERT OR REPLACE INTO backoffs VALUES (?, ?, ?, ?, unixepoch())")?,
            clear_backoff: conn.prepare("DELETE FROM backoffs WHERE lane = ?")?,
        })
    }

    pub(in crate::queue) fn begin(&mut self) -> Result<()> {
        self.begin.execute([]).map(drop)
    }

    pub(in crate::queue) fn commit(&mut self) -> Result<()> {
        self.commit.execute([]).map(drop)
    }

    /// After an error; SQLite may have rolled back by itself.
    pub(in crate::queue) fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            log::error!("queue: rollback: {error}");
        }
    }

    /// Remembers the highest id given out, so that none is used twice when the clock steps back.
    pub(in crate::queue) fn save_last_id(&mut self, last: i64) -> Result<()> {
        self.save_last_id.execute([last]).map(drop)
    }

    pub(in crate::queue) fn apply(&mut self, op: &Op) -> Result<Effect> {
        match op {
            Op::Chunk { message, seq, data, .. } => self.chunk(*message, *seq, data)?,
            Op::Accept { message, .. } => self.accept(message)?,
            Op::Discard(message) => self.discard(*message)?,
            Op::Settle(outcomes) => return self.settle(outcomes).map(Effect::Settled),
            Op::IntendDot { recipients, at, .. } => {
                for recipient in recipients {
                    self.intend_dot.execute(params![recipient.0, at])?;
                }
            }
            Op::Kick { kick, asker, now, ack } => {
                let (kicked, more) = self.kick(kick, *now, ack.is_some())?;
                // Its further parts are the same kick.
                if ack.is_some() {
                    self.record_kick(kick, asker, *now, kicked)?;
                }
                return Ok(Effect::Kicked { kicked, more });
            }
            Op::Hold { recipients, why } => {
                for recipient in recipients {
                    self.hold.execute(params![recipient.0, why])?;
                }
                return Ok(Effect::Settled(recipients.iter().map(|recipient| (*recipient, None)).collect()));
            }
            Op::PendingReports { sender, up_to, notice, .. } => {
                crate::queue::sqlite::reports::delete_unreported(self.conn, sender, *up_to)?;
                self.accept(notice)?;
            }
            Op::SetHostSetting(row) => crate::queue::host_setting::write(self.conn, row)?,
            Op::ClearHostSetting { mx, setting } => {
                crate::queue::host_setting::delete(self.conn, mx, setting)?
            }
            Op::Routes(routes) => crate::queue::sqlite::routes::write(self.conn, routes)?,
            Op::Repair { now } => crate::queue::sqlite::sweep::repair(self.conn, *now)?,
            Op::Barrier { .. } | Op::Backoffs | Op::Stop => {}
        }
        Ok(Effect::Done)
    }

    fn chunk(&mut self, message: MessageId, seq: u32, data: &[u8]) -> Result<()> {
        if seq == 0 {
            self.insert_partial.execute([message.0])?;
        }
        self.insert_content.execute(params![message.0, seq, data]).map(drop)
    }

    fn discard(&mut self, message: MessageId) -> Result<()> {
        self.discard_content.execute([message.0])?;
        self.delete_partial.execute([message.0]).map(drop)
    }

    fn accept(&mut self, new: &Incoming) -> Result<()> {
        let m = &*new.message;
        if new.chunks_before > 0 {
            // A message never becomes one with a part of its content missing.
            let chunks: u32 = self.count_chunks.query_row([m.id.0], |row| row.get(0))?;
            if chunks != new.chunks_before {
                return Err(rusqlite::Error::StatementChangedRows(chunks as usize));
            }
            self.delete_partial.execute([m.id.0])?;
        }
        let handling = &m.handling;
        let first_attempt_at = handling.released_at(m.received_at);
        self.insert_message.execute(params![
            m.id.0,
            new.queue_id,
            sender_text(m.sender.as_ref()),
            m.origin.user,
            new.client,
            m.origin.helo,
            m.received_at,
            m.expires_at,
            i64::try_from(m.size).unwrap_or(i64::MAX),
            m.body.as_str(),
            m.smtputf8,
            m.ret.map(|ret| ret.as_str()),
            m.envid,
            handling.priority.value(),
            handling.require_tls,
            handling.release.map(|release| release.at),
            handling.release.map(|release| release.asked.to_string()),
            handling.deliver_by.map(|by| by.at),
            handling.deliver_by.map(|by| by.mode()),
        ])?;
        for (seq, data) in (new.chunks_before..).zip(new.tail().chunks(CHUNK_BYTES_MAX)) {
            self.insert_content.execute(params![m.id.0, seq, data])?;
        }
        for r in &m.recipients {
            let address: &str = r.address.as_ref();
            self.insert_recipient.execute(params![
                r.id.0,
                m.id.0,
                address,
                r.domain.as_str(),
                first_attempt_at,
                r.notify.map(|notify| notify.to_word()),
                r.orcpt,
                handling.priority.value(),
                Expanded::to_text(&r.expanded),
            ])?;
        }
        Ok(())
    }

    fn settle(&mut self, outcomes: &Outcomes) -> Result<Vec<(RecipientId, Option<i64>)>> {
        let mut settled = Vec::with_capacity(outcomes.results.len());
        let mut one_finished = false;
        for row in &outcomes.results {
            let next = match row.next_state {
                NextState::Retry(at) => self.stays(row, None, at, outcomes)?,
                NextState::Hold => self.stays(row, Some("held"), outcomes.at, outcomes)?,
                NextState::Finished(how) => {
                    one_finished = true;
                    let attempt = row.attempt.as_ref();
                    self.insert_history.execute(params![
                        row.recipient.0,
                        how.as_str(),
                        outcomes.at,
                        i64::from(attempt.is_some()),
                        attempt.map(|attempt| &attempt.reply),
                        attempt.and_then(|attempt| attempt.mx.as_ref()),
                        attempt.map(|attempt| attempt.reply_source),
                    ])?;
                    // Removed by the operator meanwhile: nothing to move, the attempt is kept all the same.
                    self.delete_recipient.execute([row.recipient.0])?;
                    None
                }
            };
            if let Some(attempt) = &row.attempt {
                self.attempt(row.recipient, attempt)?;
            }
            settled.push((row.recipient, next));
        }
        if one_finished && self.delete_message.execute([outcomes.message.id.0])? > 0 {
            self.delete_content.execute([outcomes.message.id.0])?;
        }
        for notice in &outcomes.notices {
            self.accept(notice)?;
            crate::queue::sqlite::reports::record(self.conn, notice, outcomes.at)?;
        }
        crate::queue::sqlite::reports::gather(self.conn, outcomes)?;
        Ok(settled)
    }

    /// The recipient waits on; gives the time of its next try, none when it is held or was removed.
    fn stays(
        &mut self,
        row: &OutcomeRow,
        state: Option<&str>,
        next: i64,
        outcomes: &Outcomes,
    ) -> Result<Option<i64>> {
        let attempt = row.attempt.as_ref();
        let queued: Option<bool> = self
            .retry
            .query_row(
                params![
                    row.recipient.0,
                    state,
                    i64::from(attempt.is_some()),
                    next,
                    attempt.map(|attempt| attempt.at),
                    attempt.map(|attempt| &attempt.reply),
                    attempt.and_then(|attempt| attempt.mx.as_ref()),
                    row.warned.then_some(outcomes.at),
                    attempt.map(|attempt| attempt.reply_source),
                    outcomes.expanded_told,
                ],
                |row| row.get(0),
            )
            .optional()?;
        Ok(queued.unwrap_or(false).then_some(next))
    }

    fn attempt(&mut self, recipient: RecipientId, a: &AttemptRow) -> Result<()> {
        self.insert_attempt
            .execute(params![
                a.id,
                recipient.0,
                a.at,
                a.duration_ms,
                a.mx,
                a.ip,
                a.tls,
                a.phase,
                a.code,
                a.enhanced,
                a.reply,
                a.outcome,
                a.reply_source,
            ])
            .map(drop)
    }

    /// Writes a lane's backoff, or forgets it.
    pub(in crate::queue) fn lane(&mut self, lane: &str, row: Option<&BackoffRow>) -> Result<()> {
        match row {
            Some(row) => {
                self.set_backoff.execute(params![row.lane, row.failures, row.backoff_until, row.last_reply])
            }
            None => self.clear_backoff.execute([lane]),
        }
        .map(drop)
    }
}
