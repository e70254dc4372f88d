//! The sweep: finds what breaks an invariant, repairs what can be repaired without guessing.

use rusqlite::{Connection, OptionalExtension as _, Result};

use crate::queue::{MessageId, Sweep};

use super::settle::DELETE_CONTENT;

/// Messages looked at in one statement, so that none holds a snapshot for long.
const MESSAGES: i64 = 5_000;

/// See [`crate::queue::Reads::stuck`].
pub(super) fn look(conn: &Connection, from: MessageId) -> Result<(Sweep, Option<MessageId>)> {
    let next: Option<i64> = conn
        .prepare_cached("SELECT id FROM messages WHERE id >= ?1 ORDER BY id LIMIT 1 OFFSET ?2")?
        .query_row([from.0, MESSAGES], |row| row.get(0))
        .optional()?;
    let problems = conn
        .prepare_cached(
            "SELECT problem, count(*) FROM stuck WHERE message_id >= ?1 AND message_id < ?2 GROUP BY problem",
        )?
        // No id is ever as large as that.
        .query_map([from.0, next.unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get::<_, u32>(1)?.into())))?
        .collect::<Result<_>>()?;
    Ok((Sweep { problems }, next.map(MessageId)))
}

/// Repairs, inside the writer's transaction.
pub(super) fn repair(conn: &Connection, now: i64) -> Result<()> {
    // Recorded as finished: it must not be delivered again.
    conn.execute(
        "DELETE FROM recipients WHERE EXISTS
             (SELECT 1 FROM history h WHERE h.message_id = recipients.message_id AND h.recipient_id = recipients.id)",
        [],
    )?;
    // Without its message nothing can be sent; what is known of it is kept.
    conn.execute(
        "INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at,
                              attempts, size, reply, mx, reply_source)
         SELECT message_id, id, '', '', address, 'removed', message_id / 1000000, ?1, attempts, 0,
                'its message was missing', last_mx, 'local'
         FROM recipients WHERE message_id NOT IN (SELECT id FROM messages)",
        [now],
    )?;
    conn.execute("DELETE FROM recipients WHERE message_id NOT IN (SELECT id FROM messages)", [])?;
    let mut done = conn.prepare(
        "SELECT id FROM messages m WHERE NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id)",
    )?;
    let done = done.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>>>()?;
    for message in done {
        conn.execute(DELETE_CONTENT, [message])?;
        conn.execute("DELETE FROM messages WHERE id = ?1", [message])?;
    }
    conn.execute(
        "UPDATE recipients
         SET state = 'held', held_by = 'fault', held_reason = 'a value in its row cannot be read'
         WHERE id IN (SELECT recipient_id FROM stuck WHERE problem = 'a value that cannot be read')",
        [],
    )?;
    // Held, not failed: perhaps the operator has the content elsewhere.
    conn.execute(
        "UPDATE recipients SET state = 'held', held_by = 'fault', held_reason = 'the content is missing'
         WHERE state = 'queued' AND message_id IN
             (SELECT id FROM messages m
              WHERE m.size > 0 AND NOT EXISTS (SELECT 1 FROM content c WHERE c.message_id = m.id))",
        [],
    )
    .map(drop)
}
