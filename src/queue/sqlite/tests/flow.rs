//! The way of a message: accept, due, fetch, settle, history; over restarts; in chunks.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::mail::{Labels, Priority};
use crate::queue::sqlite::readers::open_reader;
use crate::queue::sqlite::{due, purge};

#[test]
fn a_message_goes_from_accept_to_history() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.net"]);
    assert_eq!(due.len(), 2);
    let fresh = due[0].fresh.clone().unwrap();
    assert_eq!(fresh.content.as_ref().unwrap().bytes, b"Subject: x\r\n\r\nhello\r\n");

    let read = bench.queue.due(DueCursor::from(i64::MIN), i64::MAX, 10).unwrap();
    assert_eq!(
        read.iter().map(|due| due.recipient).collect::<Vec<_>>(),
        [due[0].recipient, due[1].recipient]
    );
    assert_eq!(bench.queue.due_in_domain(&due[1].domain, None, i64::MAX, 10).unwrap().len(), 1);
    assert_eq!(bench.queue.next_due_after(0).unwrap(), Some(due[0].due_at));

    let later = due[0].due_at + 60;
    bench.queue.settle(settlement(
        &fresh,
        vec![(due[0].recipient, DELIVERED), (due[1].recipient, NextState::Retry(later))],
    ));
    assert_eq!(bench.settled(), [(due[0].recipient, None), (due[1].recipient, Some(later))]);
    assert_eq!(bench.number("SELECT count(*) FROM history WHERE state = 'delivered' AND attempts = 1"), 1);
    assert_eq!(bench.text("SELECT last_reply FROM queue"), "451 4.7.1 come back later");
    bench.is_well();

    let fetched = bench.queue.fetch(fresh.id, &[due[0].recipient, due[1].recipient]).unwrap().unwrap();
    assert_eq!(fetched.recipients.len(), 1);
    assert_eq!((fetched.recipients[0].attempts, fetched.origin.clone()), (1, fresh.origin.clone()));
    let content: Vec<u8> = bench.queue.content(fresh.id).flat_map(Result::unwrap).collect();
    assert_eq!(content, b"Subject: x\r\n\r\nhello\r\n");

    bench.queue.settle(settlement(&Arc::new(fetched), vec![(due[1].recipient, DELIVERED)]));
    assert_eq!(bench.settled(), [(due[1].recipient, None)]);
    for table in ["messages", "recipients", "content"] {
        assert_eq!(bench.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    assert_eq!(bench.number("SELECT count(*) FROM attempts"), 3);
    assert!(bench.queue.fetch(fresh.id, &[due[1].recipient]).unwrap().is_none());
    bench.is_well();
}

/// Each way in which a recipient is finished.
#[test]
fn history_says_by_what_a_message_is_found_how_it_left_and_who_ended_it() {
    let bench = Bench::new();
    let accept = |to: &[&str]| {
        let labels = Labels {
            message_id: Some("a@app.test".to_owned()),
            subject: Some("Your order".to_owned()),
            tag: Some("shop".to_owned()),
        };
        bench.queue.accept(NewMessage { labels, ..bench.message(to, b"x\r\n") }).unwrap();
        bench.accepted()
    };
    let settle = |due: &[Due], next: NextState| {
        let fresh = due[0].fresh.clone().unwrap();
        bench.queue.settle(settlement(&fresh, due.iter().map(|due| (due.recipient, next)).collect())).wait();
        bench.settled();
    };
    let waits = accept(&["waits@example.com"]);
    let labels = "concat_ws(' ', header_message_id, subject, tag)";
    assert_eq!(bench.text(&format!("SELECT {labels} FROM messages")), "a@app.test Your order shop");
    settle(&accept(&["taken@example.com"]), DELIVERED);
    settle(&accept(&["refused@example.com"]), NextState::Finished(Finished::Failed));
    let (removed, taken_all_the_same) = (accept(&["removed@example.com"]), accept(&["late@example.com"]));
    for due in [&removed, &taken_all_the_same] {
        super::super::admin::remove_one(&bench.somebody(), due[0].recipient.0, due[0].message.0).unwrap();
    }
    settle(&taken_all_the_same, DELIVERED);
    // An operator asks for two bounces; one of them is under way, and the host takes it.
    let (returned, crossed) = (accept(&["returned@example.com"]), accept(&["crossed@example.com"]));
    let ask = "UPDATE recipients SET bounce_requested_at = unixepoch() WHERE message_id IN (?1, ?2)";
    bench.somebody().execute(ask, [returned[0].message.0, crossed[0].message.0]).unwrap();
    settle(&crossed, DELIVERED);
    let fresh = returned[0].fresh.clone().unwrap();
    let next_state = NextState::Finished(Finished::Failed);
    let result = Settled { recipient: returned[0].recipient, attempt: None, next_state, warned: false };
    bench.queue.settle(Settlement { results: vec![result], ..settlement(&fresh, vec![]) }).wait();
    let rows = format!(
        "SELECT group_concat(address || ': ' || state || ' by ' || finished_by || ', ' || coalesce(tls, '-') || ' '
                             || coalesce(source_address, '-') || ', ' || {labels}, char(10) ORDER BY recipient_id)
         FROM history"
    );
    let expected = [
        "taken@example.com: delivered by outcome, none 192.0.2.25, ",
        "refused@example.com: failed by outcome, none 192.0.2.25, ",
        "removed@example.com: removed by operator, - -, ",
        "late@example.com: delivered by outcome, none 192.0.2.25, ",
        "returned@example.com: failed by operator, - -, ",
        "crossed@example.com: delivered by outcome, none 192.0.2.25, ",
    ];
    assert_eq!(
        bench.text(&rows),
        expected.map(|line| line.to_owned() + "a@app.test Your order shop").join("\n")
    );
    settle(&waits, DELIVERED);
    bench.is_well();
}

/// Rows of one part: an index that begins with it is written at its end, though Message-IDs come in no order.
#[test]
fn history_is_in_parts_of_what_was_finished_one_after_the_other() {
    let finish = |bench: &Bench, recipients: usize| {
        let to: Vec<String> = (0..recipients).map(|n| format!("u{n}@example.com")).collect();
        let due = bench.accept(&to.iter().map(String::as_str).collect::<Vec<_>>());
        let fresh = due[0].fresh.clone().unwrap();
        let results = due.iter().map(|due| (due.recipient, DELIVERED)).collect();
        bench.queue.settle(settlement(&fresh, results)).wait();
        bench.settled();
    };
    let parts =
        "SELECT group_concat(rows) FROM (SELECT count(*) AS rows FROM history GROUP BY part ORDER BY part)";
    let bench = Bench::new();
    (0..3).for_each(|_| finish(&bench, 700));
    assert_eq!(bench.text(parts), "1024,1024,52");
    let bench = bench.restart();
    finish(&bench, 1);
    let waits = &bench.accept(&["removed@example.com"])[0];
    super::super::admin::remove_one(&bench.somebody(), waits.recipient.0, waits.message.0).unwrap();
    assert_eq!(bench.text(parts), "1024,1024,52,2");
    assert_eq!(bench.text("SELECT group_concat(part) FROM history_parts"), "1,2,3,4");
    bench.is_well();
}

#[test]
fn what_was_accepted_is_there_after_a_restart() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com"]);
    let lane = BackoffRow {
        lane: "example.com".to_owned(),
        failures: 2,
        backoff_until: due[0].due_at + 60,
        last_reply: "421 4.3.2 closing".to_owned(),
    };
    bench.queue.set_backoff(lane.clone());
    bench.queue.set_backoff(BackoffRow { lane: "gone.example".to_owned(), ..lane.clone() });
    bench.queue.clear_backoff("gone.example");
    let bench = bench.restart();
    let again = bench.queue.due(DueCursor::from(0), i64::MAX, 10).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].recipient, again[0].domain.as_str()), (due[0].recipient, "example.com"));
    assert!(again[0].fresh.is_none());
    assert_eq!(bench.queue.backoffs().unwrap(), [lane]);
    assert!(!bench.directory.path().join("queue.db-wal").metadata().is_ok_and(|wal| wal.len() > 1 << 20));
    bench.is_well();
}

#[test]
fn no_id_is_used_twice_when_the_clock_steps_back() {
    let bench = Bench::new();
    bench.accept(&["a@example.com"]);
    let later = now_us() + 3_600_000_000;
    // As a run would leave it whose clock was an hour ahead and whose mail is all gone.
    bench.somebody().execute("UPDATE meta SET value = ?", [later]).unwrap();
    assert!(matches!(bench.event(), Event::ChangedOutside));
    let bench = bench.restart();
    assert!(bench.queue.new_message_id().0 > later);
    bench.accept(&["b@example.com"]);
    let last = bench.number("SELECT value FROM meta");
    assert!(last > later, "remembered with the commit");
    let bench = bench.restart();
    assert!(bench.queue.new_message_id().0 > last);
}

#[test]
fn accept_returns_after_the_commit() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let somebody = bench.somebody();
                for _ in 0..25 {
                    let message = bench.message(&["a@example.com"], b"x\r\n");
                    let id = message.id;
                    bench.queue.accept(message).unwrap();
                    let seen =
                        somebody.query_row("SELECT queue_id FROM messages WHERE id = ?", [id.0], |row| {
                            row.get::<_, String>(0)
                        });
                    assert_eq!(seen.as_deref(), Ok(id.to_string().as_str()));
                }
            });
        }
    });
    assert_eq!(bench.number("SELECT count(*) FROM queue"), 200);
    bench.is_well();
}

#[test]
fn what_had_not_arrived_whole_is_no_message() {
    let bench = Bench::new();
    let whole = bench.accept(&["a@example.com"])[0].message;
    let unfinished = bench.queue.new_message_id();
    bench.queue.append_chunk(unfinished, 0, vec![b'x'; 1000]).unwrap();
    let discarded = bench.queue.new_message_id();
    bench.queue.append_chunk(discarded, 0, vec![b'x'; 1000]).unwrap();
    bench.queue.discard(discarded);
    bench.queue.discard(whole);

    let mut holed = bench.message(&["a@example.com"], b"x\r\n");
    holed.chunks_before = 1;
    assert_eq!(bench.queue.accept(holed), Err(AcceptError::Failed), "its first chunk never came");
    bench.accept(&["b@example.com"]);
    assert_eq!(bench.number("SELECT count(*) FROM content"), 3, "two whole ones and the unfinished one");

    let bench = bench.restart();
    assert_eq!(bench.number("SELECT count(*) FROM content"), 2);
    bench.is_well();
}

#[test]
fn the_cache_takes_no_more_than_its_budget_and_gets_it_back() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let bench = Bench::new();
    let budget = Arc::new(AtomicUsize::new(10_000));
    let incoming = |bytes: usize| {
        op::Incoming::new(
            bench.message(&["a@example.com"], &vec![b'x'; bytes]),
            &id::Ids::after(0),
            0,
            &budget,
        )
    };
    let first = incoming(5_000);
    let second = incoming(5_000);
    assert!(first.message.content.is_some());
    assert!(second.message.content.is_none() && second.due[0].fresh.is_none());
    assert_eq!(second.tail().len(), 5_000);
    drop((first, second));
    assert_eq!(budget.load(Ordering::Relaxed), 10_000);
}

#[test]
fn a_kick_makes_all_of_a_domain_due_in_parts() {
    let bench = Bench::new();
    let to: Vec<String> = (0..6000).map(|n| format!("u{n}@a_b.example")).collect();
    let mut to: Vec<&str> = to.iter().map(String::as_str).collect();
    to.extend(["x@below.a_b.example", "x@axb.example", "x@below.axb.example"]);
    let message = bench.message(&to, b"x\r\n");
    bench.queue.accept(message).unwrap();
    bench.accepted();
    bench.somebody().execute("UPDATE recipients SET next_attempt_at = next_attempt_at + 9999", []).unwrap();
    assert!(matches!(bench.event(), Event::ChangedOutside));
    bench.queue.set_backoff(BackoffRow {
        lane: "a_b.example".to_owned(),
        failures: 1,
        backoff_until: 0,
        last_reply: String::new(),
    });

    let domain = Domain::parse("a_b.example").unwrap();
    let due = "SELECT count(*) FROM recipients WHERE next_attempt_at <= unixepoch()";
    let asker = Asker { user: Some("app".to_owned()), client: "192.0.2.1".parse().ok(), ..Asker::default() };
    let kick = |kick: &Kick| bench.queue.kick(kick, &asker);
    assert_eq!(kick(&Kick::Domain(domain.clone())), Ok(Kicked::InParts(6000)));
    // The first part, and the last.
    for _ in 0..2 {
        assert!(matches!(bench.event(), Event::Kicked(Kick::Domain(kicked)) if kicked == domain));
    }
    assert_eq!(bench.number(due), 6000);
    assert!(bench.queue.backoffs().unwrap().is_empty());
    assert_eq!(kick(&Kick::DomainAndBelow(domain.clone())), Ok(Kicked::Started(6001)));
    assert_eq!(bench.number(due), 6001);
    assert_eq!(kick(&Kick::Domain(domain)), Ok(Kicked::UnderWay(6000)));
    bench.queue.set_backoff(BackoffRow {
        lane: "route:*.test".to_owned(),
        failures: 1,
        backoff_until: i64::MAX,
        last_reply: String::new(),
    });
    // What is committed next takes the lane's row along.
    let nobody = Domain::parse("nobody.example").unwrap();
    assert_eq!(kick(&Kick::Domain(nobody)), Ok(Kicked::Nothing));
    let lane = ["axb.example", "below.axb.example"].map(|name| Domain::parse(name).unwrap());
    assert_eq!(kick(&Kick::Lane("route:*.test".to_owned(), lane.to_vec())), Ok(Kicked::Started(2)));
    assert_eq!(bench.number(due), 6003);
    assert!(bench.queue.backoffs().unwrap().is_empty());

    // Each once, whatever its parts, and who asked.
    let on_record: Vec<(String, i64)> = bench
        .somebody()
        .prepare("SELECT node, recipients FROM kicks WHERE user = 'app' AND client = '192.0.2.1' ORDER BY id")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let expected = [
        ("a_b.example", 6000),
        ("@a_b.example", 6001),
        ("a_b.example", 6000),
        ("nobody.example", 0),
        ("#route:*.test", 2),
    ];
    assert_eq!(on_record, expected.map(|(node, recipients)| (node.to_owned(), recipients)));
}

/// In steps of SQLite's machine, by the writer's connection: whoever asks looks through what waits, and the others
/// commit meanwhile.
#[test]
fn a_kick_of_what_is_nearly_all_somebody_elses_costs_the_writer_little() {
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let count = |conn: &mut Connection| {
        conn.progress_handler(
            1_000,
            Some(|| {
                STEPS.fetch_add(1_000, Ordering::Relaxed);
                false
            }),
        )
    };
    let bench = Bench::tuned(Tuning { prepare: count, ..Tuning::default() });
    let mine = bench.accept(&["mine@crowd.example"]).remove(0).message.0;
    crowd(&bench, 50_000, "crowd.example", 0);
    bench.somebody().execute("UPDATE messages SET user = 'other' WHERE id <> ?1", [mine]).unwrap();
    bench.somebody().execute("UPDATE recipients SET next_attempt_at = unixepoch() + 9999", []).unwrap();
    let kick = |user: &str| {
        let before = STEPS.load(Ordering::Relaxed);
        let asker =
            Asker { user: Some(user.to_owned()), client: None, scope: KickScope::Own(Default::default()) };
        let kicked = bench.queue.kick(&Kick::Domain(Domain::parse("crowd.example").unwrap()), &asker);
        (kicked, STEPS.load(Ordering::Relaxed) - before)
    };
    // The count of the crowd alone is a hundred times more.
    let (kicked, steps) = kick("app");
    assert!(kicked == Ok(Kicked::Started(1)) && steps < 10_000, "{kicked:?} in {steps} steps");
    let (kicked, steps) = kick("stranger");
    assert!(kicked == Ok(Kicked::Nothing) && steps < 10_000, "{kicked:?} in {steps} steps");
}

#[test]
fn old_history_goes_with_its_attempts() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.com"]);
    let fresh = due[0].fresh.clone().unwrap();
    bench.queue.settle(settlement(&fresh, due.iter().map(|due| (due.recipient, DELIVERED)).collect()));
    bench.settled();
    let somebody = bench.somebody();
    somebody
        .execute("UPDATE history SET finished_at = finished_at - 10 WHERE address = 'a@example.com'", [])
        .unwrap();
    let mut purge = purge::Purge::new(Duration::from_secs(5));
    // By when the message came, both may go; by when it was finished, one is too young.
    somebody.execute("UPDATE history SET message_id = message_id - 10000000", []).unwrap();
    assert!(!purge.step(&somebody, now_us() / 1_000_000).unwrap());
    assert_eq!(bench.text("SELECT address FROM history"), "b@example.com");
    assert_eq!(bench.number("SELECT recipient_id FROM attempts"), due[1].recipient.0);
}

/// Puts `count` recipients of a domain into the queue, due at once.
fn crowd(bench: &Bench, count: i64, domain: &str, priority: i64) {
    let message = bench.accept(&["first@example.com"]).remove(0).message;
    bench
        .somebody()
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO recipients (id, message_id, address, domain, next_attempt_at, priority)
             SELECT i, ?2, 'u' || i || '@' || ?3, ?3, 1000 + i / 10, ?4 FROM n",
            rusqlite::params![count, message.0, domain, priority],
        )
        .unwrap();
}

#[test]
fn the_urgent_is_found_behind_a_hundred_thousand_others() {
    let bench = Bench::new();
    crowd(&bench, 100_000, "big.example", -3);
    let mut message = bench.message(&["you@big.example"], b"x\r\n");
    message.envelope.handling.priority = Priority::clamped(4);
    bench.queue.accept(message).unwrap();
    let urgent = bench.accepted().remove(0);
    assert_eq!(urgent.priority, Priority::clamped(4));
    let ordinary = bench.accept(&["me@big.example"]).remove(0);
    let ids = |rows: Vec<Due>| rows.iter().map(|due| due.recipient).collect::<Vec<_>>();
    let page = bench.queue.due_in_domain(&urgent.domain, None, i64::MAX, 4).unwrap();
    assert_eq!(ids(page), [urgent.recipient, ordinary.recipient, RecipientId(1), RecipientId(2)]);
    assert_eq!(ids(bench.queue.urgent(None, i64::MAX, 9).unwrap()), [urgent.recipient]);
    assert!(bench.queue.urgent(None, urgent.due_at - 1, 9).unwrap().is_empty(), "not before it is due");
}

/// What is asked all the time walks along an index: the length of the queue costs nothing.
#[test]
fn no_question_of_the_scheduler_reads_the_whole_queue() {
    let bench = Bench::new();
    let conn = open_reader(&bench.path()).unwrap();
    let plan = |sql: &str| -> String {
        let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = plan.parameter_count();
        let rows = plan.query_map(rusqlite::params_from_iter(vec![1; count]), |row| row.get::<_, String>(3));
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let over = [Ending::Deadline, Ending::BounceLifetime, Ending::Lifetime].map(due::over_sql);
    let over: Vec<&str> = over.iter().flatten().map(String::as_str).collect();
    for sql in [
        due::DUE_SAME_SECOND,
        due::DUE_LATER,
        due::NEXT_DOMAIN,
        due::OLDEST_OF_PRIORITY,
        due::DOMAIN_NEXT_PRIORITY,
        due::DOMAIN_OF_PRIORITY,
        due::DOMAIN_SAME_SECOND,
        due::DOMAIN_LATER,
        due::DUE_OF_PRIORITY,
        due::QUEUED_OF_MESSAGE,
    ]
    .into_iter()
    .chain(over)
    {
        let plan = plan(sql);
        assert!(!plan.contains("SCAN"), "{sql}: {plan}");
        assert!(!plan.contains("TEMP B-TREE") || plan.contains("LAST TERM"), "{sql}: {plan}");
    }
    // An index that holds nothing else, and so most of the time nothing.
    assert!(plan(due::TO_BOUNCE).starts_with("SEARCH recipients USING INDEX recipients_to_bounce"));
}

#[test]
fn domains_with_something_due_are_found_a_part_at_a_time() {
    let bench = Bench::new();
    let due = bench.accept(&["a@c.test", "a@a.test", "b@a.test", "a@b.test"]);
    bench.somebody().execute("UPDATE recipients SET state = 'held' WHERE domain = 'b.test'", []).unwrap();
    let (now, domain) = (due[0].due_at, |at: usize| due[at].domain.clone());
    let first = bench.queue.due_domains("", now, 2).unwrap();
    assert_eq!((first.due, first.searched.as_deref()), (vec![(domain(1), now)], Some("b.test")));
    let rest = bench.queue.due_domains("b.test", now, 2).unwrap();
    assert_eq!((rest.due, rest.searched), (vec![(domain(0), now)], None));
    assert!(bench.queue.due_domains("", now - 1, 9).unwrap().due.is_empty(), "not yet due");
    // What an operator wants returned is not tried, and the oldest counts whatever its priority.
    let older = "UPDATE recipients SET next_attempt_at = next_attempt_at - 5";
    bench
        .somebody()
        .execute(&format!("{older}, bounce_requested_at = 1 WHERE address = 'a@a.test'"), [])
        .unwrap();
    bench.somebody().execute(&format!("{older}, priority = -3 WHERE domain = 'c.test'"), []).unwrap();
    let found = bench.queue.due_domains("", now, 9).unwrap();
    assert_eq!((found.due, found.searched), (vec![(domain(1), now), (domain(0), now - 5)], None));
}
