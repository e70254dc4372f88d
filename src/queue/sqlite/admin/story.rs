//! The story of one message, in order of time: accepted, tried, reported on, changed by people, finished.

use std::collections::HashMap;

use rusqlite::{Connection, Result};

use crate::queue::MessageId;
use crate::queue::admin_rows::StoryLine;
use crate::queue::filter::Filter;
use crate::queue::sqlite::odd;

use super::look::count;

/// Times are to a second: within one, what is said here first came first, but for a kick, which
/// comes before the attempt that it caused. A change by people is one that named the
/// message, one of its recipients' domains, or all, while it was here, or that put a backup in the place of the queue;
/// or one by a filter (or a suspension), which comes with it in the last column.
const STORY: &str = "
    WITH its (id, address, domain) AS (
        SELECT id, address, domain FROM recipients WHERE message_id = ?1
        UNION ALL
        SELECT recipient_id, address, lower(replace(address, rtrim(address, replace(address, '@', '')), ''))
        FROM history WHERE message_id = ?1),
    came (at, client, user, size) AS (
        SELECT received_at, client, user, size FROM messages WHERE id = ?1
        UNION ALL
        SELECT * FROM (SELECT received_at, client, user, size FROM history WHERE message_id = ?1 LIMIT 1)
        LIMIT 1),
    went (at) AS (
        SELECT iif(EXISTS (SELECT 1 FROM messages WHERE id = ?1), unixepoch(),
                   (SELECT max(finished_at) FROM history WHERE message_id = ?1)))
    SELECT datetime(at, 'unixepoch'), what, recipient, words, filter FROM (
        SELECT at, 0 AS rank, 0 AS id, 'accepted' AS what, NULL AS recipient,
               'from ' || coalesce(client, 'Postrider itself') || coalesce(', user ' || user, '') || ', ' || size
               || ' bytes' AS words, NULL AS filter FROM came
        UNION ALL
        SELECT a.at, 2, a.id, a.outcome, its.address,
               coalesce(a.mx || coalesce('[' || a.ip || ']', '') || ', ', '') || a.phase || ': '
               || iif(a.reply_source = 'local', '(local) ', '') || a.reply, NULL
        FROM its JOIN attempts a ON a.recipient_id = its.id
        UNION ALL
        SELECT at, 3, id, coalesce(kind, 'report'), sender, 'queued as ' || coalesce(
                   (SELECT queue_id FROM messages m WHERE m.id = reports.id),
                   (SELECT queue_id FROM history h WHERE h.message_id = reports.id LIMIT 1), '(gone)'), NULL
        FROM reports WHERE about = ?1
        UNION ALL
        SELECT o.at, iif(o.action = 'kick', 1, 4), o.id, o.action, NULL,
               'by ' || o.login || ' (uid ' || o.uid || '): ' || o.target || iif(o.action = 'resume', '', ', recipients: ' || o.count)
               || coalesce(': ' || o.reason, ''),
               CASE WHEN o.action IN ('suspend', 'resume') AND o.target LIKE '% %'
                    THEN substr(o.target, 1, instr(o.target, ' ') - 1) || '='
                         || substr(o.target, instr(o.target, ' ') + 1)
                    WHEN o.action <> 'restore' AND o.target LIKE '%=%' THEN o.target END
        FROM operator_log o, came, went
        WHERE o.at BETWEEN came.at AND went.at
            AND (o.action IN ('restore', 'suspend', 'resume') OR o.target IN (?2, 'all') OR o.target IN (SELECT domain FROM its)
                OR o.target LIKE '%=%')
            AND o.action NOT LIKE 'user %'
        UNION ALL
        SELECT finished_at, 5, recipient_id, state, address, 'finished by the ' || finished_by, NULL
        FROM history WHERE message_id = ?1 AND finished_by IS NOT NULL)
    ORDER BY at, rank, id";

/// See [`crate::queue::admin::Shown::story`].
pub(super) fn story(conn: &Connection, id: MessageId) -> Result<Vec<StoryLine>> {
    let mut statement = conn.prepare(STORY)?;
    let rows = statement.query_map((id.0, id.to_string()), |row| {
        let line = StoryLine {
            at: odd::get(row, 0)?,
            what: odd::get(row, 1)?,
            recipient: odd::get(row, 2)?,
            words: odd::get(row, 3)?,
        };
        Ok((line, odd::get::<Option<String>>(row, 4)?))
    })?;
    let (mut lines, mut known) = (Vec::new(), HashMap::new());
    for row in rows {
        let (mut line, filter) = row?;
        if let Some(text) = filter {
            let selected = match known.get(&text) {
                Some(selected) => *selected,
                None => selected_by(conn, id, &text)?,
            };
            known.insert(text, selected);
            match selected {
                Selected::No => continue,
                Selected::Yes => {}
                Selected::Perhaps => line.words.push_str(" (perhaps not of this message)"),
            }
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Whether a filter on record selected recipients of a message.
#[derive(Clone, Copy)]
enum Selected {
    Yes,
    No,
    /// As far as is known by now: its state, host, last reply and age were others.
    Perhaps,
}

fn selected_by(conn: &Connection, id: MessageId, text: &str) -> Result<Selected> {
    let (filter, is_whole) = Filter::recorded(text);
    let filter = Filter { messages: vec![id], ..filter };
    let finished = Filter { state: Some("finished".to_owned()), ..filter.clone() };
    Ok(match count(conn, &filter)? + count(conn, &finished)? {
        0 => Selected::No,
        _ if is_whole => Selected::Yes,
        _ => Selected::Perhaps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::migrate::SCHEMA;

    /// Times are to a second: whoever kicks sees the attempt that came of it below.
    #[test]
    fn in_one_second_a_kick_comes_before_its_attempt_and_a_hold_behind_it() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        let id = MessageId(1_000_000);
        conn.execute_batch(&format!(
            "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
                 VALUES (1000000, '{id}', 'a@b.test', 1, 1, '7bit', 0);
             INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
                 VALUES (1000001, 1000000, 'you@c.test', 'c.test', 9);
             INSERT INTO attempts (id, recipient_id, at, duration_ms, phase, code, reply, outcome)
                 VALUES (5000000, 1000001, 5, 1, 'rcpt', 451, '451 later', 'deferred');
             INSERT INTO operator_log (at, action, target, count, login, uid)
                 VALUES (5, 'hold', 'c.test', 1, 'ann', 0), (5, 'kick', '{id}', 1, 'ann', 0);"
        ))
        .unwrap();
        let told = story(&conn, id).unwrap();
        let what: Vec<&str> = told.iter().map(|line| line.what.as_str()).collect();
        assert_eq!(what, ["accepted", "kick", "deferred", "hold"], "{told:?}");
    }
}
