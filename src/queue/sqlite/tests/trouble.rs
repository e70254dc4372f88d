//! What goes wrong: a busy database, a full disk, a failed commit, hands that slip, other versions.

use std::time::Instant;

use super::*;

/// Somebody's open `BEGIN IMMEDIATE`.
fn hold(bench: &Bench) -> Connection {
    let somebody = bench.somebody();
    somebody.execute_batch("BEGIN IMMEDIATE").unwrap();
    somebody
}

#[test]
fn a_busy_database_refuses_within_seconds_and_loses_nothing() {
    let bench = Bench::tuned(Tuning { busy_patience: Duration::from_millis(600), ..Tuning::default() });
    let due = bench.accept(&["a@example.com", "b@example.com"]);
    let fresh = due[0].fresh.clone().unwrap();
    let somebody = hold(&bench);
    bench.queue.settle(settlement(&fresh, vec![(due[0].recipient, DELIVERED)]));
    bench.queue.settle(settlement(&fresh, vec![(due[1].recipient, NextState::Retry(7))]));
    let start = Instant::now();
    let message = |to| bench.message(&[to], b"x\r\n");
    assert_eq!(bench.queue.accept(message("c@example.com")), Err(AcceptError::Busy));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!bench.queue.writable());
    let start = Instant::now();
    assert_eq!(bench.queue.accept(message("d@example.com")), Err(AcceptError::Busy));
    assert_eq!(bench.queue.intend_dot(&[due[0].recipient]), Err(AcceptError::Busy));
    assert!(start.elapsed() < Duration::from_millis(200), "newcomers hear it at once: {:?}", start.elapsed());
    assert_eq!(bench.queue.barrier(), Err(AcceptError::Busy), "what was told before is not on disk");
    assert_eq!(bench.queue.refused().busy, 4);

    somebody.execute_batch("ROLLBACK").unwrap();
    assert_eq!(bench.settled(), [(due[0].recipient, None)]);
    assert_eq!(bench.settled(), [(due[1].recipient, Some(7))]);
    assert!(bench.queue.wait_writable(PATIENCE));
    bench.accept(&["e@example.com"]);
    assert_eq!(bench.number("SELECT count(*) FROM recipients"), 2);
    assert_eq!(bench.number("SELECT count(*) FROM history"), 1);
    bench.is_well();
}

#[test]
fn somebody_who_is_quick_is_waited_for() {
    let bench = Bench::new();
    let somebody = hold(&bench);
    std::thread::scope(|scope| {
        let accept = scope.spawn(|| bench.queue.accept(bench.message(&["a@example.com"], b"x\r\n")));
        // Until the writer has met the lock.
        while bench.queue.writable() {
            std::thread::yield_now();
        }
        somebody.execute_batch("COMMIT").unwrap();
        assert_eq!(accept.join().unwrap(), Ok(()));
    });
    assert!(bench.queue.wait_writable(PATIENCE));
}

#[test]
fn a_full_disk_refuses_new_mail_and_still_writes_outcomes() {
    let bench = Bench::tuned(Tuning {
        prepare: |conn| conn.execute_batch("PRAGMA max_page_count = 300"),
        ..Tuning::default()
    });
    let mut due = Vec::new();
    let full = loop {
        match bench.queue.accept(bench.message(&["a@example.com"], &[b'x'; 20_000])) {
            Ok(()) => due.push(bench.accepted().remove(0)),
            Err(error) => break error,
        }
    };
    assert_eq!(full, AcceptError::Full);
    assert!(due.len() > 10);
    for due in &due {
        bench.queue.settle(settlement(due.fresh.as_ref().unwrap(), vec![(due.recipient, DELIVERED)]));
    }
    let mut settled: Vec<RecipientId> = due.iter().flat_map(|_| bench.settled()).map(|(id, _)| id).collect();
    settled.sort();
    assert_eq!(settled, due.iter().map(|due| due.recipient).collect::<Vec<_>>());
    assert!(bench.queue.wait_writable(PATIENCE));
    // Until the writer has looked round.
    let start = Instant::now();
    while !bench.queue.has_room(1000) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    bench.accept(&["b@example.com"]);
    bench.is_well();
}

#[test]
fn a_failed_commit_is_never_tried_again() {
    let bench = Bench::tuned(Tuning {
        prepare: |conn| conn.commit_hook(Some(|| true)), // every COMMIT fails
        ..Tuning::default()
    });
    let refused = bench.queue.accept(bench.message(&["a@example.com"], b"x\r\n"));
    assert_eq!(refused, Err(AcceptError::Failed));
    let why = bench.writer.failed().recv_timeout(PATIENCE).unwrap();
    assert!(!why.needs_a_person() && why.to_string().contains("constraint"), "{why}");
    let refused = bench.queue.accept(bench.message(&["a@example.com"], b"x\r\n"));
    assert_eq!(refused, Err(AcceptError::Failed));
    assert!(!bench.queue.writable());
    assert_eq!(bench.number("SELECT count(*) FROM messages"), 0);
    assert!(matches!(bench.writer.stop(), Err(QueueError::Writer(_))));
}

#[test]
fn one_bad_message_does_not_spoil_the_group() {
    let bench = Bench::new();
    let used = bench.accept(&["a@example.com"])[0].message;
    // Held until all wait: they are written as one group.
    let somebody = hold(&bench);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let mut message = bench.message(&["b@example.com"], b"x\r\n");
                if n == 1 {
                    message.id = used;
                }
                scope.spawn(|| bench.queue.accept(message))
            })
            .collect();
        while bench.queue.writable() {
            std::thread::yield_now();
        }
        somebody.execute_batch("ROLLBACK").unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, [Ok(()), Err(AcceptError::Failed), Ok(()), Ok(())]);
    assert_eq!(bench.number("SELECT count(*) FROM queue"), 4);
    bench.is_well();
}

#[test]
fn an_outcome_that_cannot_be_written_holds_its_recipients() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com"]);
    let mut bounce = bench.message(&["app@example.org"], b"x\r\n");
    bounce.id = due[0].message;
    let mut settlement = settlement(due[0].fresh.as_ref().unwrap(), vec![(due[0].recipient, DELIVERED)]);
    settlement.results.push(Settled { next_state: NextState::Hold, ..settlement.results[0].clone() });
    settlement.results.remove(0);
    settlement.reports.push(("bounce", bounce));
    bench.queue.settle(settlement);
    assert_eq!(bench.settled(), [(due[0].recipient, None)]);
    assert_eq!(bench.text("SELECT state FROM queue"), "held");
    assert!(bench.text("SELECT last_reply FROM queue").contains("could not be recorded"));
    bench.is_well();
}

#[test]
fn an_address_that_a_person_spoilt_is_held_and_never_sent() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.com"]);
    let spoil = "UPDATE recipients SET address = 'a@example.com>' || char(13, 10) || 'RSET' WHERE id = ?";
    bench.somebody().execute(spoil, [due[0].recipient.0]).unwrap();
    assert!(matches!(bench.event(), Event::ChangedOutside));
    let ids = [due[0].recipient, due[1].recipient];
    let fetched = bench.queue.fetch(due[0].message, &ids).unwrap().unwrap();
    assert_eq!(fetched.recipients.iter().map(|recipient| recipient.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(bench.settled(), [(ids[0], None)]);
    assert_eq!(bench.number("SELECT id FROM recipients WHERE state = 'held'"), ids[0].0);
}

#[test]
fn the_sweep_finds_and_repairs_what_hands_broke() {
    let bench = Bench::new();
    let lost = bench.accept(&["lost@example.com"])[0].message;
    let empty = bench.accept(&["empty@example.com"])[0].message;
    let twice = bench.accept(&["twice@example.com"]);
    bench.accept(&["well@example.com"]);
    let somebody = bench.somebody();
    somebody.pragma_update(None, "foreign_keys", false).unwrap();
    somebody.execute("DELETE FROM messages WHERE id = ?", [lost.0]).unwrap();
    somebody.execute("DELETE FROM recipients WHERE message_id = ?", [empty.0]).unwrap();
    somebody
        .execute(
            "INSERT INTO history SELECT message_id, id, 'Q', '', address, 'delivered', 1, 2, 1, 1, NULL, NULL, NULL, NULL, NULL,
                    NULL, NULL, NULL, NULL, NULL, NULL, 1
             FROM recipients WHERE message_id = ?",
            [twice[0].message.0],
        )
        .unwrap();
    let found = bench.queue.sweep(100).unwrap().problems;
    let problems: Vec<&str> = found.iter().map(|(problem, _)| problem.as_str()).collect();
    assert_eq!(
        problems,
        ["both waiting and finished", "message without recipients", "recipient without a message"]
    );
    // Once for the hands, once for the repair.
    for _ in 0..2 {
        assert!(matches!(bench.event(), Event::ChangedOutside));
    }
    // What cannot be repaired without the second sweep: the message whose only recipient was finished twice.
    assert_eq!(bench.queue.sweep(100).unwrap(), Sweep::default());
    assert_eq!(bench.text("SELECT recipient FROM queue"), "well@example.com");
    assert_eq!(bench.number("SELECT count(*) FROM history WHERE address = 'lost@example.com'"), 1);
}

#[test]
fn two_relays_never_share_a_queue() {
    let bench = Bench::new();
    let error = Queue::open(&settings(bench.path()), unbounded().0).unwrap_err().to_string();
    assert!(
        error.contains(&format!("(pid {})", std::process::id())) && error.contains("stop that one"),
        "{error}"
    );
    bench.restart();
}

#[test]
fn other_databases_and_newer_schemas_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str, sql: &str| {
        let path = directory.path().join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        Queue::open(&settings(path), unbounded().0).map(drop).unwrap_err()
    };
    assert!(matches!(open("newer.db", "PRAGMA user_version = 99"), QueueError::Newer { found: 99, .. }));
    let other = open("other.db", "CREATE TABLE other (x)").to_string();
    assert!(other.contains("no Postrider queue"), "{other}");
    let path = directory.path().join("text.db");
    std::fs::write(&path, "this is text, and long enough to be more than a header of SQLite's ".repeat(9))
        .unwrap();
    assert!(Queue::open(&settings(path), unbounded().0).is_err());
}

/// The first released schema, frozen, with a waiting and a finished recipient in it.
#[test]
fn the_first_schema_opens_and_is_brought_forward() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../../../tests/fixtures/schema-1.sql")).unwrap();
    drop(old);
    let bench = Bench::open_in(directory, Tuning::default());
    assert_eq!(bench.number("PRAGMA user_version"), crate::queue::sqlite::migrate::VERSION);
    let due = bench.queue.due(DueCursor::from(0), i64::MAX, 10).unwrap();
    assert_eq!(due.len(), 1);
    let message = bench.queue.fetch(due[0].message, &[due[0].recipient]).unwrap().unwrap();
    assert_eq!(
        bench.queue.content(message.id).map(|chunk| chunk.unwrap().len() as u64).sum::<u64>(),
        message.size
    );
    bench.queue.settle(settlement(&Arc::new(message), vec![(due[0].recipient, DELIVERED)]));
    bench.settled();
    assert_eq!(bench.number("SELECT count(*) FROM history"), 2);
    bench.is_well();

    // An old database and a new one are alike.
    let shape = |path: PathBuf| -> Vec<String> {
        let conn = Connection::open(path).unwrap();
        let mut shape =
            conn.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        shape.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(shape(bench.path()), shape(Bench::new().path()));
}
