//! What was said in failed attempts: rows of the table `dialogues`, one for all recipients of an attempt.
//!
//! Bounded by the number of rows, each of 8 KiB at most (`delivery/smtp/dialogue.rs`): however many recipients wait for
//! dead hosts, and however often they are tried, these are 80 MiB at most, and 10 MiB where hosts say what they
//! usually do. A row stays until its message is finished, and then as long as history.

use rusqlite::{Connection, Result, params};

use crate::queue::MessageId;
use crate::queue::admin_rows::DialogueLine;

use super::odd;

/// Rows that are kept: the last ones.
const DIALOGUES_MAX: i64 = 10_000;
/// Rows that go at once where there are too many, so that they are counted rarely.
const TRIMMED: i64 = 100;

/// How many rows there are at most: others may have deleted some since.
#[derive(Debug, Default)]
pub(super) struct Dialogues {
    at_most: Option<i64>,
}

impl Dialogues {
    /// Adds one; the oldest go where there are too many.
    pub(super) fn keep(&mut self, conn: &Connection, id: i64, message: MessageId, text: &str) -> Result<()> {
        let count = || conn.query_row("SELECT count(*) FROM dialogues", [], |row| row.get::<_, i64>(0));
        conn.prepare_cached("INSERT INTO dialogues (id, message_id, dialogue) VALUES (?1, ?2, ?3)")?
            .execute(params![id, message.0, text])?;
        let mut at_most = self.at_most.map_or_else(count, |before| Ok(before + 1))?;
        if at_most > DIALOGUES_MAX {
            // By the index, which has none of the texts.
            let all = count()?;
            let surplus = (all - DIALOGUES_MAX + TRIMMED).max(0);
            let deleted = conn.execute(
                "DELETE FROM dialogues WHERE id IN (SELECT id FROM dialogues ORDER BY id LIMIT ?1)",
                [surplus],
            )?;
            at_most = all - deleted as i64;
        }
        self.at_most = Some(at_most);
        Ok(())
    }
}

/// Deletes so many of those whose message is finished and that are older than history (Unix seconds). Whether there may
/// be more.
pub(super) fn delete_old(conn: &Connection, kept_from: i64, limit: i64) -> Result<bool> {
    let deleted = conn
        .prepare_cached(
            "DELETE FROM dialogues WHERE id IN
             (SELECT d.id FROM dialogues d
              WHERE d.id < ?1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = d.message_id)
              ORDER BY d.id LIMIT ?2)",
        )?
        .execute([kept_from.saturating_mul(1_000_000), limit])?;
    Ok(deleted as i64 >= limit)
}

/// See [`crate::queue::AdminStore::dialogues`].
pub(super) fn of_message(conn: &Connection, id: MessageId) -> Result<Vec<DialogueLine>> {
    let mut lines: Vec<(i64, DialogueLine)> = Vec::new();
    let mut last_of_each = conn.prepare(
        "WITH its (id, address) AS (
             SELECT id, address FROM recipients WHERE message_id = ?1
             UNION ALL
             SELECT recipient_id, address FROM history WHERE message_id = ?1),
         last (recipient, address, dialogue) AS (
             SELECT id, address, (SELECT max(dialogue_id) FROM attempts WHERE recipient_id = its.id) FROM its)
         SELECT d.id, last.address, datetime(a.at, 'unixepoch'),
                (SELECT datetime(b.at, 'unixepoch') || ' UTC, ' || b.phase || ': '
                        || iif(b.reply_source = 'local', '(local) ', '') || b.reply
                 FROM attempts b WHERE b.recipient_id = a.recipient_id AND b.id > a.id
                     AND b.outcome NOT IN ('delivered', 'relayed')
                 ORDER BY b.id DESC LIMIT 1) AS later
         FROM last JOIN dialogues d ON d.id = last.dialogue
             JOIN attempts a ON a.recipient_id = last.recipient AND a.dialogue_id = d.id
         ORDER BY d.id, later, last.recipient",
    )?;
    let mut text = conn.prepare("SELECT dialogue FROM dialogues WHERE id = ?1")?;
    let mut rows = last_of_each.query([id.0])?;
    while let Some(row) = rows.next()? {
        let (dialogue, recipient): (i64, String) = (odd::get(row, 0)?, odd::get(row, 1)?);
        let later: Option<String> = odd::get(row, 3)?;
        match lines.last_mut() {
            Some((of, line)) if *of == dialogue && line.later == later => line.recipients.push(recipient),
            _ => {
                let dialogue_text = text.query_row([dialogue], |row| odd::get(row, 0))?;
                let line = DialogueLine {
                    at: odd::get(row, 2)?,
                    recipients: vec![recipient],
                    dialogue: dialogue_text,
                    later,
                };
                lines.push((dialogue, line));
            }
        }
    }
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(crate::queue::sqlite::migrate::SCHEMA).unwrap();
        conn
    }

    fn numbers(conn: &Connection) -> (i64, i64, i64) {
        let sql = "SELECT count(*), min(id), max(id) FROM dialogues";
        conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    }

    #[test]
    fn no_more_are_kept_than_may_be_and_the_last_are_there() {
        let conn = database();
        let mut dialogues = Dialogues::default();
        let add = |dialogues: &mut Dialogues, ids: std::ops::Range<i64>| {
            conn.execute_batch("BEGIN").unwrap();
            for id in ids {
                dialogues.keep(&conn, id, MessageId(1), "S: 451 later").unwrap();
                let (count, _, last) = numbers(&conn);
                assert!(count <= DIALOGUES_MAX && last == id, "{count} {last}");
            }
            conn.execute_batch("COMMIT").unwrap();
        };
        conn.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9990)
             INSERT INTO dialogues SELECT i, 1, 'S: 451 later' FROM n",
        )
        .unwrap();
        add(&mut dialogues, 9_991..10_250);
        let (count, first, _) = numbers(&conn);
        assert!(count > DIALOGUES_MAX - 2 * TRIMMED && first == 10_250 - count, "{count} {first}");
        // Whoever deletes rows by hand makes room, and the next process counts for itself.
        conn.execute("DELETE FROM dialogues WHERE id % 2 = 0", []).unwrap();
        add(&mut dialogues, 10_250..10_400);
        assert!(numbers(&conn).0 > DIALOGUES_MAX / 2 - TRIMMED, "no more than too many go");
        add(&mut Dialogues::default(), 10_400..10_410);
    }

    #[test]
    fn what_waits_keeps_its_own_and_what_is_finished_for_as_long_as_history() {
        let conn = database();
        conn.execute_batch(
            "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
             VALUES (10, 'W', '', 0, 0, '7bit', 0);
             INSERT INTO dialogues VALUES (11000000, 10, 'waits'), (12000000, 20, 'old'), (13000000, 20, 'old too'),
                                          (21000000, 20, 'new');",
        )
        .unwrap();
        assert!(delete_old(&conn, 20, 1).unwrap(), "a part");
        assert_eq!(numbers(&conn).0, 3);
        assert!(!delete_old(&conn, 20, 10).unwrap());
        let left = "SELECT group_concat(dialogue, ' ') FROM dialogues";
        assert_eq!(conn.query_row(left, [], |row| row.get::<_, String>(0)).unwrap(), "waits new");
    }
}
