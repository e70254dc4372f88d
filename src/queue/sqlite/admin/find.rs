//! Mail by what it is known by outside: its Message-ID, its Subject, its label.
//!
//! Of what is finished there are indexes, since that is a million rows; of what waits the table `messages` is read
//! whole, which costs the writer nothing.

use rusqlite::{Connection, Result, params_from_iter};

use crate::queue::admin_rows::Line;
use crate::queue::filter::Pattern;
use crate::queue::traffic_rows::Wanted;

use super::look::{HISTORY_LINES, QUEUE_LINES, line};

/// See [`crate::queue::AdminStore::find`].
pub(super) fn find(conn: &Connection, wanted: &Wanted, limit: u32) -> Result<(Vec<Line>, i64)> {
    let (condition, values) = condition(wanted);
    let of_history = of_history(wanted, condition);
    let mut lines = Vec::new();
    for is_finished in [false, true] {
        let left = i64::from(limit) - lines.len() as i64;
        let sql = if is_finished { finished(&of_history, left) } else { waiting(condition, left) };
        for found in conn.prepare(&sql)?.query_map(params_from_iter(&values), line)? {
            lines.push(found?);
        }
    }
    if lines.len() < limit as usize {
        let total = lines.len() as i64;
        return Ok((lines, total));
    }
    let count = format!(
        "SELECT (SELECT count(*) FROM recipients WHERE message_id IN (SELECT id FROM messages WHERE {condition}))
                + (SELECT count(*) FROM history WHERE {of_history})"
    );
    let total = conn.query_row(&count, params_from_iter(&values), |row| row.get(0))?;
    Ok((lines, total))
}

/// On `messages` and on `history`; its values are ?1, ?2.
fn condition(wanted: &Wanted) -> (&'static str, Vec<String>) {
    match wanted {
        Wanted::MessageId(id) => ("header_message_id = ?1", vec![id.clone()]),
        // To a tag case matters, as in a filter.
        Wanted::Tag(tag) => match Pattern::parse(tag) {
            Ok(tag) if tag.exact().is_none() => ("tag GLOB ?1", vec![tag.glob()]),
            _ => ("tag = ?1", vec![tag.clone()]),
        },
        // U+10FFFF is behind all that a subject goes on with. What is before the first * is looked up, too.
        Wanted::Subject(text) => match text.split_once('*') {
            None => (
                "subject COLLATE NOCASE >= ?1 AND subject COLLATE NOCASE < ?1 || char(1114111)",
                vec![text.clone()],
            ),
            Some((begin, _)) => (
                "subject COLLATE NOCASE >= ?1 AND subject COLLATE NOCASE < ?1 || char(1114111)
                 AND subject LIKE ?2 ESCAPE '\\'",
                vec![begin.to_owned(), pattern(text)],
            ),
        },
    }
}

/// On `history`, so that an index serves.
fn of_history(wanted: &Wanted, condition: &str) -> String {
    match wanted {
        Wanted::Tag(_) => condition.to_owned(),
        _ => format!("part IN (SELECT part FROM history_parts) AND {condition}"),
    }
}

/// What waits, the latest first.
fn waiting(condition: &str, limit: i64) -> String {
    format!(
        "SELECT * FROM ({QUEUE_LINES}) WHERE message_id IN (SELECT id FROM messages WHERE {condition})
         ORDER BY message_id DESC, recipient_id DESC LIMIT {limit}"
    )
}

/// What is finished, likewise: which rows, an index alone tells, and no others are read.
fn finished(condition: &str, limit: i64) -> String {
    format!(
        "SELECT * FROM ({HISTORY_LINES} WHERE (message_id, recipient_id) IN
             (SELECT message_id, recipient_id FROM history WHERE {condition}
              ORDER BY message_id DESC, recipient_id DESC LIMIT {limit}))
         ORDER BY message_id DESC, recipient_id DESC"
    )
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
                                      attempts, size, header_message_id, subject, tag, part)
                 VALUES ({n}, {n}, 'H{n}', 'a@b.test', 'you@c.test', 'delivered', 1, 1, 1, 1, '{n}@app.test', '{subject}', 'shop',
                         {n} / 2 * 9);"
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

    /// The steps of a statement.
    fn plan(conn: &Connection, sql: &str, values: &[String]) -> Vec<String> {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement.query_map(params_from_iter(values), |row| row.get(3)).unwrap();
        steps.map(Result::unwrap).collect()
    }

    #[test]
    fn of_what_is_finished_only_that_is_read_which_is_found() {
        let conn = queue();
        let (id, tag) =
            (|text: &str| Wanted::MessageId(text.to_owned()), |text: &str| Wanted::Tag(text.to_owned()));
        let subject = |text: &str| Wanted::Subject(text.to_owned());
        for (wanted, index) in [
            (id("x"), "COVERING INDEX history_by_message_id (part=? AND header_message_id=?)"),
            (tag("x"), "COVERING INDEX history_by_tag (tag=?)"),
            (subject("x"), "COVERING INDEX history_by_subject (part=? AND subject>? AND subject<?)"),
            (subject("x*y"), "COVERING INDEX history_by_subject (part=? AND subject>? AND subject<?)"),
            (subject("*y"), "COVERING INDEX history_by_subject (part=? AND subject>? AND subject<?)"),
        ] {
            let (condition, values) = condition(&wanted);
            let plan = plan(&conn, &finished(&of_history(&wanted, condition), 9), &values);
            let reads: Vec<&String> = plan.iter().filter(|step| step.contains("history")).collect();
            // What is behind them walks from part to part.
            let [rows, which, ..] = reads[..] else { panic!("{wanted:?}: {plan:?}") };
            assert_eq!(
                rows, "SEARCH history USING PRIMARY KEY (message_id=? AND recipient_id=?)",
                "{wanted:?}"
            );
            assert_eq!(which, &format!("SEARCH history USING {index}"), "{wanted:?}");
        }
    }

    /// What docs/sql.md calls fast.
    #[test]
    fn a_statement_that_is_called_fast_reads_no_part_of_history_that_it_does_not_want() {
        let conn = queue();
        let page = include_str!("../../../../docs/sql.md");
        let pieces: Vec<&str> = page.split("```").collect();
        let mut asked = 0;
        for (words, block) in pieces.iter().zip(&pieces[1..]) {
            let is_fast = words.trim_end().rsplit("\n\n").next().is_some_and(|last| last.contains("fast"));
            let Some(block) = block.strip_prefix("sql\n").filter(|_| is_fast) else { continue };
            for sql in block.split(';').filter(|sql| !sql.trim().is_empty()) {
                let plan = plan(&conn, sql, &[]);
                assert!(!plan.iter().any(|step| step.starts_with("SCAN history")), "{sql}: {plan:?}");
                asked += 1;
            }
        }
        assert_eq!(asked, 5);
    }
}
