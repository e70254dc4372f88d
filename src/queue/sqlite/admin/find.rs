//! Mail by what it is known by outside: its Message-ID, its Subject, its label.
//!
//! Of what is finished there are indexes, since that is a million rows; of what waits the table `messages` is read
//! whole, which costs the writer nothing.

use rusqlite::{Connection, Result};

use crate::queue::admin_rows::Line;
use crate::queue::filter::Pattern;
use crate::queue::traffic_rows::Wanted;

use super::look::{HISTORY_LINES, QUEUE_LINES, line};

/// See [`crate::queue::AdminStore::find`].
pub(super) fn find(conn: &Connection, wanted: &Wanted, limit: u32) -> Result<(Vec<Line>, i64)> {
    let (condition, value) = match wanted {
        Wanted::MessageId(id) => ("header_message_id = ?1", id.clone()),
        // To a tag case matters, as in a filter.
        Wanted::Tag(tag) => match Pattern::parse(tag) {
            Ok(tag) if tag.exact().is_none() => ("tag GLOB ?1", tag.glob()),
            _ => ("tag = ?1", tag.clone()),
        },
        Wanted::Subject(text) if text.contains('*') => ("subject LIKE ?1 ESCAPE '\\'", pattern(text)),
        // U+10FFFF is behind all that a subject goes on with.
        Wanted::Subject(text) => {
            ("subject COLLATE NOCASE >= ?1 AND subject COLLATE NOCASE < ?1 || char(1114111)", text.clone())
        }
    };
    let waiting = format!(
        "SELECT * FROM ({QUEUE_LINES}) WHERE message_id IN (SELECT id FROM messages WHERE {condition})
         ORDER BY message_id DESC, recipient_id DESC LIMIT ?2"
    );
    let finished = format!(
        "SELECT * FROM ({HISTORY_LINES} WHERE {condition}) ORDER BY message_id DESC, recipient_id DESC LIMIT ?2"
    );
    let mut lines = Vec::new();
    for sql in [waiting, finished] {
        let left = i64::from(limit) - lines.len() as i64;
        for found in conn.prepare(&sql)?.query_map((&value, left), line)? {
            lines.push(found?);
        }
    }
    if lines.len() < limit as usize {
        let total = lines.len() as i64;
        return Ok((lines, total));
    }
    let count = format!(
        "SELECT (SELECT count(*) FROM recipients WHERE message_id IN (SELECT id FROM messages WHERE {condition}))
                + (SELECT count(*) FROM history WHERE {condition})"
    );
    let total = conn.query_row(&count, [&value], |row| row.get(0))?;
    Ok((lines, total))
}

/// For LIKE: `*` stands for anything.
fn pattern(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('*', "%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::migrate::SCHEMA;

    /// Three messages that wait and three that are finished, with the same names.
    fn queue() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crate::queue::sqlite::filter::add_functions(&conn).unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        for (n, subject) in [(1, "Your order 4711"), (2, "your 100% order"), (3, "Yours")] {
            conn.execute_batch(&format!(
                "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8, header_message_id, subject, tag)
                 VALUES ({n}0, 'W{n}', 'a@b.test', 1, 1, '7bit', 0, '{n}@app.test', '{subject}', 'shop');
                 INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
                 VALUES ({n}1, {n}0, 'you@c.test', 'c.test', 1);
                 INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at,
                                      attempts, size, header_message_id, subject, tag)
                 VALUES ({n}, {n}, 'H{n}', 'a@b.test', 'you@c.test', 'delivered', 1, 1, 1, 1, '{n}@app.test', '{subject}', 'shop');"
            ))
            .unwrap();
        }
        conn
    }

    #[test]
    fn what_waits_and_what_is_finished_is_found_the_latest_first() {
        let conn = queue();
        let found = |wanted: Wanted, limit: u32| -> String {
            let (lines, total) = find(&conn, &wanted, limit).unwrap();
            assert!(total >= lines.len() as i64 && (total == 6 || lines.len() < limit as usize), "{total}");
            lines.iter().map(|line| line.queue_id.as_str()).collect::<Vec<_>>().join(" ")
        };
        let subject = |text: &str| found(Wanted::Subject(text.to_owned()), 9);
        assert_eq!(found(Wanted::MessageId("2@app.test".to_owned()), 9), "W2 H2");
        assert_eq!(found(Wanted::MessageId("4@app.test".to_owned()), 9), "");
        assert_eq!(found(Wanted::Tag("shop".to_owned()), 9), "W3 W2 W1 H3 H2 H1");
        assert_eq!(found(Wanted::Tag("shop".to_owned()), 4), "W3 W2 W1 H3");
        assert_eq!(found(Wanted::Tag("sh*".to_owned()), 4), "W3 W2 W1 H3");
        assert_eq!(
            (found(Wanted::Tag("SHOP".to_owned()), 4), found(Wanted::Tag("Sh*".to_owned()), 4)),
            Default::default()
        );
        assert_eq!(subject("YOUR"), "W3 W2 W1 H3 H2 H1");
        assert_eq!(subject("your "), "W2 W1 H2 H1");
        assert_eq!(subject("*4711*"), "W1 H1");
        assert_eq!(subject("*0% *"), "W2 H2");
        assert_eq!((subject("_our*"), subject("%order*"), subject("order")), Default::default());
    }

    #[test]
    fn of_what_is_finished_only_that_is_read_which_is_found() {
        let conn = queue();
        for (condition, index) in [
            ("header_message_id = 'x'", "history_by_message_id"),
            ("tag = 'x'", "history_by_tag"),
            ("subject COLLATE NOCASE >= 'x' AND subject COLLATE NOCASE < 'y'", "history_by_subject"),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM ({HISTORY_LINES} WHERE {condition})");
            let plan: String = conn.query_row(&sql, [], |row| row.get(3)).unwrap();
            assert!(plan.starts_with("SEARCH history") && plan.contains(index), "{condition}: {plan}");
        }
    }
}
