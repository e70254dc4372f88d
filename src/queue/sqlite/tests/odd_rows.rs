//! What a hand writes into any column: refused with a clear message, or understood, or held; and nothing else waits
//! because of it.

use rusqlite::Connection;

use super::*;
use crate::mail::Lifetimes;
use crate::queue::admin::{Admin, Filter};
use crate::queue::sqlite::migrate::SCHEMA;
use crate::queue::sqlite::{suspensions, sweep};

/// Nonsense, as it is written at a prompt. The number with a fraction is what Python's `time.time()` gives.
const ODD: [&str; 7] =
    ["NULL", "'tomorrow'", "1795950000.5", "x'00ff'", "-1", "9223372036854775807", "'2026-11-29 12:00:00'"];
/// The row of each table that is spoilt.
const VICTIMS: [(&str, &str); 21] = [
    ("messages", "id = 10"),
    ("recipients", "id = 11"),
    ("content", "message_id = 10"),
    ("partial_messages", "message_id = 99"),
    ("attempts", "recipient_id = 11"),
    ("replies", "id = 1"),
    ("dialogues", "id = 12"),
    ("operator_log", "id = 1"),
    ("history", "recipient_id = 31"),
    ("backoffs", "lane = 'victim.test'"),
    ("suspensions", "kind = 'user' AND value = 'victim'"),
    ("routes", "position = 1"),
    ("host_settings", "mx = 'mx.victim.test'"),
    ("mta_sts_policies", "domain = 'victim.test'"),
    ("kicks", "node = 'victim.test'"),
    ("login_failures", "name = 'victim'"),
    ("known_logins", "name = 'victim'"),
    ("reports", "id = 1"),
    ("pending_reports", "id = 1"),
    ("tls_results", "domain = 'victim.test'"),
    ("tls_reports", "domain = 'victim.test'"),
];
/// A message that somebody spoils, and one that nobody does, with all that stands round them.
const ROWS: &str = "
    INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8, ret, release_at, deliver_by, deliver_by_mode)
    VALUES (10, 'V', 'app@a.test', 1000, 3, '7bit', 0, 'FULL', 1001, 5000, 'N'),
           (20, 'G', 'app@a.test', 1000, 3, '7bit', 0, NULL, NULL, NULL, NULL);
    INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, last_attempt_at, in_doubt_since)
    VALUES (11, 10, 'you@victim.test', 'victim.test', 1000, 999, 999),
           (21, 20, 'you@good.test', 'good.test', 1000, NULL, NULL),
           (22, 20, 'me@good.test', 'good.test', 5000, NULL, NULL);
    INSERT INTO content (message_id, seq, data) VALUES (10, 0, x'780d0a'), (20, 0, x'780d0a');
    INSERT INTO partial_messages (message_id) VALUES (99);
    INSERT INTO attempts (id, recipient_id, at, duration_ms, phase, code, reply, outcome, dialogue_id)
    VALUES (12, 11, 1000, 5, 'rcpt', 451, '451 later', 'deferred', 12);
    INSERT INTO dialogues VALUES (12, 10, 'mx.victim.test [192.0.2.1]:25');
    INSERT INTO replies VALUES (1, '451 later');
    INSERT INTO operator_log VALUES (1, 1000, 'hold', 'victim.test', 1, 'ann', 1000, 1, NULL);
    INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at, attempts, size)
    VALUES (30, 31, 'H', '', 'a@b.test', 'failed', 1000, 1001, 1, 3);
    INSERT INTO backoffs VALUES ('victim.test', 1, 2000, '421 no', 1000), ('other.test', 1, 2000, '421 no', 1000);
    INSERT INTO suspensions VALUES ('user', 'victim', 1000, 3000, 'why', 'ann'), ('tag', 'good', 1000, NULL, NULL, '');
    INSERT INTO routes VALUES (1, 'x.test', NULL, NULL);
    INSERT INTO host_settings (mx, setting, value, changed_at, retry_at)
    VALUES ('mx.victim.test', 'tls', 'plaintext', 1000, 2000), ('mx.good.test', 'connections', 2, 1000, NULL);
    INSERT INTO mta_sts_policies VALUES ('victim.test', '1', 'enforce', 9000, 1000, 10000, 1000, 1000, 'mx.victim.test', NULL),
           ('good.test', '1', 'enforce', 9000, 1000, 10000, 1000, 1000, 'mx.good.test', NULL);
    INSERT INTO kicks (at, node, recipients) VALUES (1000, 'victim.test', 1);
    INSERT INTO login_failures VALUES ('', 'victim', 12, 1000, 2000);
    INSERT INTO known_logins VALUES ('192.0.2.7', 'victim', 1000);
    INSERT INTO reports VALUES (1, 'app@a.test', 1000, 'bounce', 10);
    INSERT INTO pending_reports VALUES (1, 'app@a.test', 'app@a.test', 1000, 'P', 'x@y.test', 'failed', NULL, 0);
    INSERT INTO tls_results VALUES (0, 'victim.test', 'none', 'mx.victim.test', '', '', 'success', 1, '', '', '');
    INSERT INTO tls_reports VALUES (0, 'victim.test', '', 'planned', 0, 1000, NULL, NULL, NULL);
    INSERT INTO meta VALUES ('last_id', 40), ('lifetime', 100000), ('bounce_lifetime', 1000);";

/// As the schema was before it refused anything: other types are taken, and there are no checks.
fn lax() -> String {
    let mut sql = SCHEMA.replace(", STRICT;", ";").replace(") STRICT;", ");");
    sql.insert_str(0, "PRAGMA ignore_check_constraints = ON;\n");
    sql
}

fn in_memory(schema: &str) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch(schema).unwrap();
    conn.execute_batch(ROWS).unwrap();
    conn
}

/// Every column of every table that can be written, with its table and the spoilt row.
fn columns(conn: &Connection) -> Vec<(String, String, &'static str)> {
    let mut found = Vec::new();
    for (table, victim) in VICTIMS {
        let mut columns = conn.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        let names = columns.query_map([], |row| row.get::<_, String>(0)).unwrap();
        found.extend(names.map(|name| (table.to_owned(), name.unwrap(), victim)));
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
    let tables: i64 = conn.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, VICTIMS.len() as i64 + 1, "every table but meta has a row that is spoilt");
    assert!(found.len() > 80, "{}", found.len());
    found
}

/// All that the relay asks: nothing fails, and the good message is found, read and kicked.
fn goes_on(conn: &Connection, why: &str) {
    let reads: &dyn Reads = conn;
    let good = Domain::parse("good.test").unwrap();
    let is_good = |due: &Due| due.recipient == RecipientId(21);
    let due = reads.due(DueCursor::default(), 2_000, 9).unwrap();
    assert!(due.iter().any(is_good), "{why}: {due:?}");
    assert!(reads.due_in_domain(&good, None, 2_000, 9).unwrap().iter().any(is_good), "{why}");
    assert!(reads.due_domains("", 2_000, 9).unwrap().due.iter().any(|(domain, _)| *domain == good), "{why}");
    assert!(reads.next_due_after(2_000).unwrap() >= Some(2_001), "{why}");
    reads.urgent(None, 2_000, 9).unwrap();
    let mut place = Some(ExpiryCursor::default());
    let over = Over::at(i64::MAX, Lifetimes { messages: 0, bounces: 0 });
    for _ in 0..9 {
        let Some(after) = place else { break };
        place = reads.expired(after, &over, 2).unwrap().searched;
    }
    for (message, recipients) in reads.in_doubt().unwrap() {
        reads.message(message, &recipients).unwrap();
    }
    // What is read as due is sent or held.
    for due in &due {
        let fetched = reads.message(due.message, &[due.recipient]).unwrap();
        assert!(fetched.message.is_some() || fetched.spoilt.len() == 1, "{why}: {due:?} is neither");
        assert!(!is_good(due) || fetched.message.is_some(), "{why}: {fetched:?}");
        assert!(fetched.spoilt.iter().all(|spoilt| !spoilt.why.is_empty()), "{why}: {fetched:?}");
        reads.size(due.message).unwrap();
    }
    assert_eq!(reads.chunk(MessageId(20), 0).unwrap().as_deref(), Some(&b"x\r\n"[..]), "{why}");
    assert!(reads.backoffs().unwrap().iter().any(|row| row.lane == "other.test"), "{why}");
    assert!(reads.host_settings().unwrap().iter().any(|row| row.mx == "mx.good.test"), "{why}");
    assert!(
        reads.sts_policy("victim.test").is_ok() && reads.sts_policy("good.test").unwrap().is_some(),
        "{why}"
    );
    assert!(reads.sts_policies_due(9000, 0, 9).unwrap().contains(&"good.test".to_owned()), "{why}");
    assert!(
        reads.suspensions(2_000).unwrap().iter().any(|row| row.whose == Whose::Tag("good".to_owned())),
        "{why}"
    );
    suspensions::list(conn, 2_000).unwrap();
    reads.logins().unwrap();
    reads.reports_since("app@a.test", 0, 9).unwrap();
    for sender in reads.pending_report_senders(i64::MAX, i64::MAX, 9).unwrap() {
        reads.pending_reports(&sender, 9).unwrap();
    }
    assert!(reads.domains().unwrap().contains(&good), "{why}");
    reads.bytes_by_user().unwrap();
    reads.waiting_by_lane(&|domain| domain.as_str().into()).unwrap();
    reads.stuck(MessageId(i64::MIN)).unwrap();
    assert!(crate::queue::sqlite::open::last_id(conn).unwrap() < 1 << 55, "{why}");
    let kick = Kick::Domain(good);
    let kickable = reads.kickable(&kick, &Default::default(), 2_000).unwrap();
    let kicked = crate::queue::sqlite::kick::kick(conn, &kick, &kickable, 2_000, true).unwrap().0;
    assert_eq!(kicked, Kicked::Started(2), "{why}");
    sweep::repair(conn, 2_000).unwrap();
    let rest = reads.stuck(MessageId(i64::MIN)).unwrap().0.problems;
    let may_stay = ["an hour past its lifetime", "message without content"];
    assert!(rest.iter().all(|(problem, _)| may_stay.contains(&problem.as_str())), "{why}: {rest:?}");
}

/// Writes each odd value into each column; gives what was refused and how much was taken.
fn spoil(conn: &Connection) -> (Vec<(String, String)>, usize) {
    let (mut refused, mut taken) = (Vec::new(), 0);
    for (table, column, victim) in columns(conn) {
        for value in ODD {
            let sql = format!("UPDATE {table} SET {column} = {value} WHERE {victim}");
            conn.execute_batch("SAVEPOINT hand").unwrap();
            match conn.execute(&sql, []) {
                Err(error) => refused.push((format!("{table}.{column} = {value}"), error.to_string())),
                Ok(rows) => {
                    assert_eq!(rows, 1, "{sql}");
                    taken += 1;
                    goes_on(conn, &sql);
                }
            }
            conn.execute_batch("ROLLBACK TO hand; RELEASE hand").unwrap();
        }
    }
    (refused, taken)
}

#[test]
fn what_a_column_cannot_hold_is_refused_at_the_prompt_and_the_message_names_it() {
    let (refused, taken) = spoil(&in_memory(SCHEMA));
    assert!(taken > 50, "{taken}");
    for (what, why) in &refused {
        let column = what.split(['.', ' ']).nth(1).unwrap();
        let is_key = why.contains("UNIQUE") || why.contains("datatype mismatch");
        let is_setting = why.contains("the value of ") || why.contains("a feature has a retry_at");
        assert!(why.contains(column) || is_key || is_setting, "{what}: {why}");
    }
    let why = |what: &str| {
        let found = refused.iter().find(|(refused, _)| refused == what);
        found.unwrap_or_else(|| panic!("{what} is taken")).1.clone()
    };
    assert_eq!(
        why("recipients.next_attempt_at = 1795950000.5"),
        "cannot store REAL value in INTEGER column recipients.next_attempt_at"
    );
    assert_eq!(
        why("recipients.next_attempt_at = 'tomorrow'"),
        "cannot store TEXT value in INTEGER column recipients.next_attempt_at"
    );
    assert_eq!(
        why("recipients.next_attempt_at = -1"),
        "CHECK constraint failed: next_attempt_at is a time in Unix seconds"
    );
    assert_eq!(why("recipients.state = 'tomorrow'"), "CHECK constraint failed: state is queued or held");
    for column in ["attempts", "priority"] {
        assert!(why(&format!("recipients.{column} = 'tomorrow'")).contains(column));
    }
    for time in ["last_attempt_at", "warned_at", "in_doubt_since", "bounce_requested_at"] {
        for value in ["'2026-11-29 12:00:00'", "1795950000.5", "9223372036854775807"] {
            why(&format!("recipients.{time} = {value}"));
        }
    }
    why("backoffs.backoff_until = 'tomorrow'");
    why("messages.expires_at = -1");
}

#[test]
fn rows_that_passed_no_check_stop_nothing() {
    let conn = in_memory(&lax());
    let (refused, taken) = spoil(&conn);
    // Keys and NOT NULL are all that is left.
    assert!(refused.iter().all(|(what, why)| {
        what.ends_with("NULL") || why.contains("UNIQUE") || why.contains("datatype mismatch")
    }));
    assert!(taken > 450, "{taken}");
    for sql in [
        "DELETE FROM messages WHERE id = 10",
        "DELETE FROM recipients WHERE id = 11",
        "DELETE FROM content WHERE message_id = 10",
        "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at) VALUES (13, 77, 'a@b.test', 'b.test', 1)",
        "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8) VALUES (78, 'N', '', 1, 3, '7bit', 0)",
    ] {
        conn.execute_batch(&format!("SAVEPOINT hand; {sql}")).unwrap();
        goes_on(&conn, sql);
        conn.execute_batch("ROLLBACK TO hand; RELEASE hand").unwrap();
    }
}

/// All at once, and over a start: the relay starts, the command line shows what it can, good mail goes.
#[test]
fn a_queue_full_of_odd_rows_and_columns_of_somebody_s_own_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    conn.execute_batch(&lax()).unwrap();
    conn.execute_batch(ROWS).unwrap();
    conn.execute_batch("PRAGMA user_version = 1").unwrap();
    for (at, (table, column, victim)) in columns(&conn).into_iter().enumerate() {
        let value = ODD[1 + at % (ODD.len() - 1)];
        // What cannot be, such as a key that is there already, is left as it is.
        let _ = conn.execute(&format!("UPDATE {table} SET {column} = {value} WHERE {victim}"), []);
    }
    for (table, _) in VICTIMS.into_iter().chain([("meta", "")]) {
        conn.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN note TEXT")).unwrap();
    }
    drop(conn);
    let bench = Bench::open_in(directory, Tuning::default());
    let accepted = bench.accept(&["new@good.test"]);
    let domain = Domain::parse("good.test").unwrap();
    let due = bench.queue.due_in_domain(&domain, None, now_us() / 1_000_000, 9).unwrap();
    assert_eq!(due.len(), 3, "{due:?}");
    let fetched = bench.queue.fetch(MessageId(20), &[RecipientId(21)]).unwrap().unwrap();
    bench.queue.settle(settlement(&Arc::new(fetched), vec![(RecipientId(21), DELIVERED)]));
    assert_eq!(bench.settled(), [(RecipientId(21), None)]);
    let fresh = accepted[0].fresh.clone().unwrap();
    bench.queue.settle(settlement(&fresh, vec![(accepted[0].recipient, DELIVERED)]));
    bench.settled();
    assert_eq!(bench.number("SELECT count(*) FROM history WHERE state = 'delivered'"), 2);
    let admin = Admin::to_read(&bench.path()).unwrap();
    admin.list(&Filter::all(), 9).unwrap();
    admin.list(&Filter { state: Some("failed".to_owned()), ..Filter::all() }, 9).unwrap();
    admin.summary(9).unwrap();
    admin.kicks(9).unwrap();
    admin.show(MessageId(10)).unwrap();
    bench.queue.sweep(now_us() / 1_000_000).unwrap();
    let bench = bench.restart();
    bench.accept(&["again@good.test"]);
}

/// A row that cannot be sent is held with its reason, which a person sees in the queue.
#[test]
fn a_recipient_whose_message_is_gone_or_cannot_be_read_is_held_with_the_reason() {
    let bench = Bench::new();
    let due = bench.accept(&["a@one.test"]).remove(0);
    let orphan = "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
                  VALUES (5, 77, 'lost@two.test', 'two.test', 1)";
    // As `sqlite3` has it; what we link has them on.
    let somebody = bench.somebody();
    somebody.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    somebody.execute(orphan, []).unwrap();
    let odd = "UPDATE messages SET sender = 'no address at all'";
    bench.somebody().execute(odd, []).unwrap();
    for (message, recipient, why) in [
        (MessageId(77), RecipientId(5), "its message is missing"),
        (due.message, due.recipient, "its message cannot be read: "),
    ] {
        assert!(bench.queue.fetch(message, &[recipient]).unwrap().is_none());
        while !matches!(bench.event(), Event::Settled(rows) if rows == [(recipient, None)]) {}
        let sql = format!(
            "SELECT held_reason FROM recipients WHERE state = 'held' AND held_by = 'fault' AND id = {}",
            recipient.0
        );
        assert!(bench.text(&sql).starts_with(why), "{}", bench.text(&sql));
    }
}
