//! The sweep: finds what breaks an invariant, repairs what can be repaired without guessing.

use rusqlite::{Connection, OptionalExtension as _, Result};

use crate::queue::sqlite::store::DELETE_CONTENT;

/// What the view `stuck` showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Each problem, in the view's words, and how many rows have it. Empty when all is well.
    pub problems: Vec<(String, u64)>,
}

/// Messages looked at in one statement, so that none holds a snapshot for long.
const MESSAGES: i64 = 5_000;

/// Counts the problems of the messages from this id on, and of their recipients; says where the next part begins.
pub(in crate::queue) fn look(conn: &Connection, first: i64, sweep: &mut Sweep) -> Result<Option<i64>> {
    let next: Option<i64> = conn
        .prepare_cached("SELECT id FROM messages WHERE id >= ?1 ORDER BY id LIMIT 1 OFFSET ?2")?
        .query_row([first, MESSAGES], |row| row.get(0))
        .optional()?;
    let mut statement = conn.prepare_cached(
        "SELECT problem, count(*) FROM stuck WHERE message_id >= ?1 AND message_id < ?2 GROUP BY problem",
    )?;
    // No id is ever as large as that.
    let mut rows = statement.query([first, next.unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let (problem, count): (String, u32) = (row.get(0)?, row.get(1)?);
        match sweep.problems.iter_mut().find(|(known, _)| *known == problem) {
            Some((_, sum)) => *sum += u64::from(count),
            None => sweep.problems.push((problem, count.into())),
        }
    }
    sweep.problems.sort();
    Ok(next)
}

/// Repairs, inside the writer's transaction.
pub(in crate::queue) fn repair(conn: &Connection, now: i64) -> Result<()> {
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
    // Held, not failed: perhaps the operator has the content elsewhere.
    conn.execute(
        "UPDATE recipients SET state = 'held', last_reply = 'held: the content is missing', last_reply_source = 'local'
         WHERE state = 'queued' AND message_id IN
             (SELECT id FROM messages m
              WHERE m.size > 0 AND NOT EXISTS (SELECT 1 FROM content c WHERE c.message_id = m.id))",
        [],
    )
    .map(drop)
}
