//! Every time that is stored, and a clock that is set back by an hour or a year, or forward: no wait lasts longer than
//! it was to last, and no promise is broken.

use rusqlite::{Connection, params};

use super::*;
use crate::queue::sqlite::clock_set_back::mend;
use crate::queue::sqlite::migrate::SCHEMA;

/// What the clock showed when everything was written.
const THEN: i64 = 1_795_000_000;
const FAR: i64 = 4_070_908_800;
const LONGEST: i64 = 17_281;
const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 86_400;

fn written() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    let message = "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8, release_at, deliver_by, deliver_by_mode, expires_at)
                   VALUES (?1, ?1, 'app@a.test', ?2, 0, '7bit', 0, ?3, ?4, 'R', ?4)";
    let recipient = "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, last_attempt_at, warned_at, in_doubt_since)
                     VALUES (?1, ?1, 'you@' || ?1, ?2, ?3, ?4, ?4, ?4)";
    for (id, release, deadline) in [
        (1, None, None),
        (2, None, None),
        (3, Some(THEN + 9_000), None),
        (4, None, Some(THEN + 9_000)),
        (5, None, None),
    ] {
        conn.execute(message, params![id, THEN, release, deadline]).unwrap();
    }
    for (id, name, next, last) in [
        (1, "tried", THEN + 600, Some(THEN)),
        (2, "untried", THEN, None),
        (3, "released", THEN + 9_000, None),
        (4, "deadline", THEN + 600, Some(THEN)),
        (5, "by-hand", FAR, Some(THEN)),
    ] {
        conn.execute(recipient, params![id, name, next, last]).unwrap();
    }
    let lane = "INSERT INTO backoffs (lane, failures, backoff_until, last_reply, changed_at) VALUES (?, 1, ?, '421', ?)";
    conn.execute(lane, params!["lane.test", THEN + 1800, THEN]).unwrap();
    conn.execute(lane, params!["atrn:a.test", 253_402_300_799i64, THEN]).unwrap();
    let suspension = "INSERT INTO suspensions (kind, value, since, until) VALUES ('tag', ?, ?, ?)";
    conn.execute(suspension, params!["two-hours", THEN, THEN + 7_200]).unwrap();
    conn.execute(suspension, params!["no-end", THEN, None::<i64>]).unwrap();
    conn.execute(
        "INSERT INTO pending_reports (sender, return_path, at, queue_id, address, state, require_tls)
         VALUES ('app@a.test', 'app@a.test', ?, 'Q', 'x@y.test', 'failed', 0)",
        [THEN],
    )
    .unwrap();
    conn
}

#[test]
fn a_wait_that_was_written_in_the_future_lasts_as_long_as_it_was_to_last() {
    for step in [-HOUR, -YEAR, HOUR, YEAR] {
        let (conn, now) = (written(), THEN + step);
        while step < 0 && !mend(&conn, THEN, now, LONGEST).unwrap() {}
        let next = |name: &str| -> i64 {
            let sql = "SELECT next_attempt_at FROM recipients WHERE domain = ?";
            conn.query_row(sql, [name], |row| row.get(0)).unwrap()
        };
        let back = step < 0;
        for name in ["tried", "deadline"] {
            let wait = next(name) - now;
            assert!(if back { wait == 600 } else { wait <= 600 - HOUR }, "{name}, {step} s: {wait} s");
        }
        assert!(next("untried") <= now, "{step} s");
        assert_eq!(next("released"), THEN + 9_000, "a promise, {step} s");
        assert_eq!(next("by-hand"), FAR, "a promise, {step} s");
        let deadline = "SELECT deliver_by = expires_at AND deliver_by = ? FROM messages WHERE id = 4";
        assert!(conn.query_row(deadline, [THEN + 9_000], |row| row.get::<_, bool>(0)).unwrap());
        let until = |lane: &str| {
            let rows = Reads::backoffs(&conn).unwrap();
            rows.iter().find(|row| row.lane == lane).unwrap().backoff_until
        };
        let wait = until("lane.test") - now;
        assert!(if back { wait == 1800 } else { wait <= 1800 - HOUR }, "the lane, {step} s: {wait} s");
        assert_eq!(until("atrn:a.test"), 253_402_300_799);
        let suspended = |tag: &str| -> Option<i64> {
            conn.query_row("SELECT until FROM suspensions WHERE value = ?", [tag], |row| row.get(0)).unwrap()
        };
        let lasts = suspended("two-hours").unwrap() - if back { now } else { THEN };
        assert_eq!((lasts, suspended("no-end")), (7_200, None), "{step} s");
        // Not before its hour is over, and at once where nobody knows when it began.
        let senders = conn.pending_report_senders(now - HOUR, now + 60, 9).unwrap();
        assert_eq!(senders.len(), 1, "a summary, {step} s");
        let due = conn.due(DueCursor::default(), now + LONGEST, 9).unwrap();
        let due: Vec<i64> = due.iter().map(|due| due.recipient.0).collect();
        assert!([1, 2, 4].iter().all(|id| due.contains(id)), "within the longest wait, {step} s: {due:?}");
        assert!(!due.contains(&5));
    }
    assert!(written().pending_report_senders(THEN + 10 - HOUR, THEN + 70, 9).unwrap().is_empty(), "no step");
}

/// Ten thousand are mended in parts, each in a transaction of its own.
#[test]
fn a_long_queue_is_mended_in_parts() {
    let conn = written();
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 12009)
         INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, last_attempt_at)
         SELECT i, 1, 'u', 'many.test', ?1 + 60, ?1 FROM n",
        [THEN],
    )
    .unwrap();
    let now = THEN - YEAR;
    let mut parts = 1;
    while !mend(&conn, THEN, now, LONGEST).unwrap() {
        parts += 1;
    }
    assert_eq!(parts, 3);
    let late = "SELECT count(*) FROM recipients WHERE domain = 'many.test' AND next_attempt_at <> ?1 + 60";
    assert_eq!(conn.query_row(late, [now], |row| row.get::<_, i64>(0)).unwrap(), 0);
}
