//! Messages on their way in: pieces of content, and the message that makes them one.
//!
//! Runs inside the writer's transaction.

use rusqlite::{Connection, Result, Statement, params};

use crate::mail::Expanded;
use crate::queue::MessageId;
use crate::queue::op::{Incoming, sender_text};

/// Largest chunk of content.
pub(super) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// The statements, prepared once and kept hot.
pub(super) struct Accept<'c> {
    insert_message: Statement<'c>,
    insert_recipient: Statement<'c>,
    insert_content: Statement<'c>,
    insert_partial: Statement<'c>,
    delete_partial: Statement<'c>,
    count_chunks: Statement<'c>,
    discard_content: Statement<'c>,
}

impl<'c> Accept<'c> {
    pub(super) fn new(conn: &'c Connection) -> Result<Accept<'c>> {
        Ok(Accept {
            insert_message: conn.prepare(
                "INSERT INTO messages (id, queue_id, sender, user, client, helo, received_at, expires_at, size, body,
                                       smtputf8, ret, envid, priority, require_tls, tls_optional, release_at,
                                       release_asked, deliver_by, deliver_by_mode, header_message_id, subject,
                                       tag)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_recipient: conn.prepare(
                "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, notify, orcpt, priority,
                                         expanded)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            insert_content: conn.prepare("INSERT INTO content (message_id, seq, data) VALUES (?, ?, ?)")?,
            insert_partial: conn.prepare("INSERT OR IGNORE INTO partial_messages (message_id) VALUES (?)")?,
            delete_partial: conn.prepare("DELETE FROM partial_messages WHERE message_id = ?")?,
            count_chunks: conn.prepare("SELECT count(*) FROM content WHERE message_id = ?")?,
            discard_content: conn.prepare(
                "DELETE FROM content WHERE message_id = ?1 AND NOT EXISTS (SELECT 1 FROM messages WHERE id = ?1)",
            )?,
        })
    }

    pub(super) fn chunk(&mut self, message: MessageId, seq: u32, data: &[u8]) -> Result<()> {
        if seq == 0 {
            self.insert_partial.execute([message.0])?;
        }
        self.insert_content.execute(params![message.0, seq, data]).map(drop)
    }

    /// The client went away before the end of its content.
    pub(super) fn discard(&mut self, message: MessageId) -> Result<()> {
        self.discard_content.execute([message.0])?;
        self.delete_partial.execute([message.0]).map(drop)
    }

    pub(super) fn accept(&mut self, new: &Incoming) -> Result<()> {
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
            handling.tls_optional,
            handling.release.map(|release| release.at),
            handling.release.map(|release| release.asked.to_string()),
            handling.deliver_by.map(|by| by.at),
            handling.deliver_by.map(|by| by.mode()),
            new.labels.message_id,
            new.labels.subject,
            new.labels.tag,
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
}
