//! The queue as people see it: the views, and `postrider queue`'s verbs.

use super::*;
use crate::queue::admin::{Admin, Filter, Pattern};
use crate::queue::tests::sample::ChangeAll as _;

#[test]
fn every_view_tells_something_and_stuck_nothing() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com"]);
    bench.queue.settle(settlement(
        due[0].fresh.as_ref().unwrap(),
        vec![(due[0].recipient, NextState::Retry(9_999_999_999))],
    ));
    bench.settled();
    let line = bench.text(
        "SELECT sender || ' ' || recipient || ' ' || state || ' ' || attempts || ' ' || next_attempt || ' ' || last_reply
         FROM queue",
    );
    assert_eq!(line, "app@example.org a@example.com queued 1 2286-11-20 17:46:39 451 4.7.1 come back later");
    assert_eq!(
        bench.text("SELECT domain || ' ' || total || ' ' || under_5m FROM queue_by_domain"),
        "example.com 1 1"
    );
    let failure = bench
        .text("SELECT times || ' ' || outcome || ' ' || phase || ' ' || mx || ' ' || reply FROM failures");
    assert_eq!(failure, "1 deferred end_of_data mx.example.com 451 4.7.1 come back later");
    assert_eq!(bench.number("SELECT count(*) FROM stuck"), 0);
}

#[test]
fn list_and_show_find_waiting_and_finished_ones() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.net"]);
    bench.accept(&["c@example.com"]);
    bench.queue.settle(settlement(due[0].fresh.as_ref().unwrap(), vec![(due[0].recipient, DELIVERED)]));
    bench.settled();
    let admin = Admin::to_read(&bench.path()).unwrap();
    let list = |filter: Filter, limit| -> Vec<String> {
        admin
            .list(&filter, limit)
            .unwrap()
            .into_iter()
            .map(|line| format!("{} {}", line.recipient, line.state))
            .collect()
    };
    assert_eq!(list(Filter::all(), 9), ["b@example.net queued", "c@example.com queued"]);
    assert_eq!(list(Filter::all(), 1), ["b@example.net queued"]);
    let com = Domain::parse("example.com").unwrap();
    assert_eq!(list(Filter::domain(&com), 9), ["c@example.com queued"]);
    let delivered = Filter { state: Some("delivered".to_owned()), ..Filter::domain(&com) };
    assert_eq!(list(delivered, 9), ["a@example.com delivered"]);
    let nobody = Filter { sender: Some(Pattern::parse("").unwrap()), ..Filter::all() };
    assert!(list(nobody, 9).is_empty());

    let shown = admin.show(due[0].message).unwrap().unwrap();
    assert_eq!(shown.header.as_deref(), Some("Subject: x\n"));
    assert_eq!(shown.message.unwrap().user.as_deref(), Some("app"));
    let states: Vec<_> =
        shown.recipients.iter().map(|one| (one.line.state.as_str(), one.tries.len())).collect();
    assert_eq!(states, [("queued", 0), ("delivered", 1)]);
    assert!(admin.show(MessageId(1)).unwrap().is_none());

    let summary = admin.summary(10).unwrap();
    assert_eq!((summary.messages, summary.recipients, summary.due, summary.held), (2, 2, 2, 0));
    assert_eq!(summary.domains.len(), 2);
    assert!(admin.damage().unwrap().is_empty());
}

#[test]
fn an_operator_retries_holds_releases_and_removes_while_the_relay_runs() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.net"]);
    let now = due[0].due_at;
    let message = due[0].fresh.as_ref().unwrap();
    bench.queue.settle(settlement(
        message,
        due.iter().map(|due| (due.recipient, NextState::Retry(now + 9999))).collect(),
    ));
    bench.settled();
    bench.queue.set_backoff(BackoffRow {
        lane: "example.com".to_owned(),
        failures: 1,
        backoff_until: now + 9999,
        last_reply: "421 4.3.2 no".to_owned(),
    });
    while bench.queue.backoffs().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let admin = Admin::to_write(&bench.path()).unwrap();
    let com = Filter::domain(&Domain::parse("example.com").unwrap());
    assert_eq!(admin.kick(&com).unwrap(), 1);
    assert!(matches!(bench.event(), Event::ChangedOutside));
    assert!(bench.queue.backoffs().unwrap().is_empty());
    let due_now = |count| {
        assert_eq!(bench.queue.due(DueCursor::from(0), now_us() / 1_000_000, 9).unwrap().len(), count)
    };
    due_now(1);
    assert_eq!(admin.kick(&Filter::all()).unwrap(), 2);
    due_now(2);
    assert_eq!(admin.hold(&Filter::message(message.id)).unwrap(), 2);
    due_now(0);
    assert_eq!(admin.release(&com).unwrap(), 1);
    due_now(1);
    assert_eq!(admin.remove(&com).unwrap(), 1);
    bench.is_well();
    assert_eq!(admin.remove(&Filter::all()).unwrap(), 1);
    assert_eq!(bench.number("SELECT count(*) FROM history WHERE state = 'removed' AND attempts = 1"), 2);
    assert_eq!(bench.number("SELECT count(*) FROM content"), 0);
    bench.is_well();
}

#[test]
fn the_queue_can_be_looked_at_while_no_relay_runs() {
    let bench = Bench::new();
    bench.accept(&["a@example.com"]);
    let path = bench.path();
    let Bench { directory, queue, writer, .. } = bench;
    writer.stop().unwrap();
    drop(queue);
    assert_eq!(Admin::to_read(&path).unwrap().list(&Filter::all(), 9).unwrap().len(), 1);
    assert_eq!(Admin::to_write(&path).unwrap().remove(&Filter::all()).unwrap(), 1);
    drop(directory);
}

#[test]
fn host_settings_outlive_the_process_and_what_people_change_is_counted() {
    let bench = Bench::new();
    let mx = "mx.example.com".to_owned();
    let limit = |setting, last_reply: Option<&str>| HostSetting {
        mx: mx.clone(),
        setting,
        last_reply: last_reply.map(str::to_owned),
        changed_at: 1_000_000_000,
        retry_at: None,
    };
    let feature = |setting, retry_at| HostSetting {
        retry_at: Some(retry_at),
        ..limit(setting, Some("421 4.4.2 lost"))
    };
    let all = [
        limit(Setting::Connections(5), Some("421 4.7.0 too many")),
        limit(Setting::MessagesPerMinute(60), None),
        feature(Setting::NoSingleWrite, 1_000_086_403),
        feature(Setting::NoPipelining, 1_000_086_402),
        feature(Setting::NoChunking, 1_000_086_401),
        feature(Setting::Plaintext, 1_000_003_600),
    ];
    bench.queue.set_host_setting(feature(Setting::NoPostQuantum, 1_000_086_400));
    bench.queue.set_host_setting(limit(Setting::Connections(10), Some("421 4.7.0 too many")));
    all.iter().for_each(|row| bench.queue.set_host_setting(row.clone()));
    bench.queue.set_host_setting(limit(Setting::Connections(5), None));
    bench.queue.barrier().unwrap();
    assert_eq!(bench.queue.host_settings().unwrap(), all, "one of a kind, and the last reply stays");
    assert_eq!(bench.queue.outside_changes(), 0, "these were ours");
    bench.queue.clear_host_setting(&mx, Setting::Plaintext.name());
    let bench = bench.restart();
    assert_eq!(bench.queue.host_settings().unwrap(), all[..5]);
    assert_eq!(Admin::to_read(&bench.path()).unwrap().host_settings().unwrap().len(), 5);

    let before = bench.queue.outside_changes();
    bench.somebody().execute("UPDATE host_settings SET value = 7 WHERE setting = 'connections'", []).unwrap();
    while bench.queue.outside_changes() == before {
        std::thread::yield_now();
    }
    assert!(
        bench
            .queue
            .host_settings()
            .unwrap()
            .contains(&limit(Setting::Connections(7), all[0].last_reply.as_deref()))
    );
}

#[test]
fn a_host_setting_that_means_nothing_is_refused_at_the_prompt() {
    let bench = Bench::new();
    let somebody = bench.somebody();
    let insert = |setting: &str, value: &str, retry_at: &str| {
        let sql =
            format!("INSERT INTO host_settings VALUES ('mx.test', {setting}, {value}, NULL, 1, {retry_at})");
        somebody.execute(&sql, [])
    };
    for (setting, value, retry_at) in [
        ("'connections'", "0", "NULL"),
        ("'connections'", "2.5", "NULL"),
        ("'messages_per_minute'", "'off'", "NULL"),
        ("'messages_per_minute'", "NULL", "NULL"),
        ("'connections'", "'4'", "NULL"),
        ("'tls'", "'off'", "9"),
        ("'tls'", "'plaintext'", "NULL"),
        ("'tls'", "'plaintext'", "datetime('now')"),
        ("'pipelining'", "'on'", "9"),
        ("'chunking'", "1", "9"),
        ("'single-write'", "'off'", "9"),
        ("NULL", "'off'", "9"),
    ] {
        let refused = insert(setting, value, retry_at).unwrap_err().to_string();
        let is_clear = ["CHECK constraint failed: ", "NOT NULL constraint failed: ", "cannot store TEXT"];
        assert!(
            is_clear.iter().any(|words| refused.contains(words)),
            "{setting} {value} {retry_at}: {refused}"
        );
    }
    insert("'connections'", "4", "NULL").unwrap();
    insert("'pipelining'", "'off'", "'9'").unwrap();
    let settings: Vec<Setting> = bench.queue.host_settings().unwrap().iter().map(|row| row.setting).collect();
    assert_eq!(settings, [Setting::Connections(4), Setting::NoPipelining]);
}

#[test]
fn what_is_no_queue_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let refusal = || Admin::to_read(&path).unwrap_err().to_string();
    assert!(refusal().contains("postrider serve"));
    std::fs::write(&path, "").unwrap();
    assert!(refusal().contains("is empty"), "{}", refusal());
    std::fs::write(&path, "no database at all".repeat(100)).unwrap();
    assert!(refusal().contains("is not a SQLite database"), "{}", refusal());
}

#[test]
fn the_summary_counts_apart_what_backs_off_and_what_is_to_be_fetched_and_tells_totals() {
    let bench = Bench::new();
    bench.accept(&["a@due.test", "a@off.test", "b@off.test", "a@fetched.test", "a@held.test"]);
    bench.somebody().execute("UPDATE recipients SET state = 'held' WHERE domain = 'held.test'", []).unwrap();
    let row = |lane: &str, until| BackoffRow {
        lane: lane.to_owned(),
        failures: 1,
        backoff_until: until,
        last_reply: "421 4.3.2 no".to_owned(),
    };
    bench.queue.set_backoff(row("off.test", now_us() / 1_000_000 + 999));
    bench.queue.set_backoff(row("atrn:fetched.test", 253_402_300_799));
    bench.queue.barrier().unwrap();
    while bench.number("SELECT count(*) FROM backoffs") < 2 {
        std::thread::yield_now();
    }
    let summary = Admin::to_read(&bench.path()).unwrap().summary(2).unwrap();
    let counts = [summary.recipients, summary.due, summary.backing_off, summary.to_fetch, summary.held];
    assert_eq!(counts, [5, 1, 2, 1, 1]);
    assert_eq!((summary.domains.len(), summary.domains_total, summary.lanes_total), (2, 4, 1));
    assert_eq!(summary.lanes.iter().map(|lane| &*lane.lane).collect::<Vec<_>>(), ["off.test"]);
}

#[test]
fn what_is_finished_is_listed_the_latest_first_and_keeps_who_sent_it() {
    let bench = Bench::new();
    for to in ["first@a.test", "last@a.test"] {
        let due = bench.accept(&[to]);
        bench.queue.settle(settlement(due[0].fresh.as_ref().unwrap(), vec![(due[0].recipient, DELIVERED)]));
        bench.settled();
    }
    let admin = Admin::to_read(&bench.path()).unwrap();
    let filter = Filter { state: Some("delivered".to_owned()), ..Filter::all() };
    let line = admin.list(&filter, 1).unwrap().remove(0);
    assert_eq!(line.recipient, "last@a.test");
    let shown = admin.show(line.queue_id.parse().unwrap()).unwrap().unwrap();
    let finished = shown.finished.unwrap();
    let client = finished.client.as_deref();
    assert_eq!(
        (&*finished.sender, finished.user.as_deref(), client),
        ("app@example.org", Some("app"), Some("127.0.0.1"))
    );
    assert_eq!(finished.size, line.size);
}

/// Six thousand replies that differ in ids, addresses and numbers are a few lines.
#[test]
fn failures_are_grouped_by_what_was_said_and_not_by_ids_and_addresses() {
    let bench = Bench::new();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, phase, code, enhanced, reply, outcome)
        SELECT unixepoch() * 1000000 + i * 3 + ?1, i, unixepoch(), 1, 'mx' || (i % 5) || '.test', ?2, ?3, ?4,
               replace(replace(?5, 'ID', '4B' || i || 'xQ'), 'ADDRESS', '<u' || i || '@a.test>'), ?6 FROM n";
    for (n, phase, code, enhanced, reply, outcome) in [
        (0, "rcpt", 550, "5.1.1", "550 5.1.1 ADDRESS: no such user (ID)", "failed"),
        (1, "rcpt", 450, "4.7.1", "450 4.7.1 ADDRESS greylisted, come back", "deferred"),
        (2, "end_of_data", 550, "5.7.1", "550 5.7.1 message ID refused by policy", "failed"),
    ] {
        bench
            .somebody()
            .execute(insert, rusqlite::params![n, phase, code, enhanced, reply, outcome])
            .unwrap();
    }
    let conn = bench.somebody();
    let mut rows = conn
        .prepare("SELECT times || ' ' || hosts || ' ' || reply FROM failures ORDER BY phase, code")
        .unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        rows,
        [
            "2000 5 550 5.7.1 message … refused by policy",
            "2000 5 450 4.7.1 … greylisted, come back",
            "2000 5 550 5.1.1 … no such user …",
        ]
    );
}

/// Whatever somebody types into the table is what the relay means, or is refused.
#[test]
fn the_table_of_suspensions_refuses_what_means_nothing_and_one_more_than_may_be() {
    let bench = Bench::new();
    let hand = bench.somebody();
    let write = |kind: &str, value: &str| {
        hand.execute("INSERT INTO suspensions (kind, value) VALUES (?1, ?2)", [kind, value]).is_ok()
    };
    for good in
        ["a.test", "*.a.test", "*", "[IPv6:2001:db8::1]", "[192.0.2.1]", "xn--bcher-kva.test", "a_b.test"]
    {
        assert!(write("domain", good), "{good}");
    }
    for bad in [
        "",
        "a.test.",
        "*.",
        ".",
        "a b",
        "**",
        "*.*.test",
        "a*",
        "A.test",
        "b\u{fc}cher.test",
        "[ipv6:::1]",
        "a..test",
    ] {
        assert!(!write("domain", bad), "{bad}");
    }
    assert!(write("user", "A user.") && write("tag", "*"));
    let now = now_us() / 1_000_000;
    let read = || bench.queue.suspensions(now).unwrap().len();
    assert_eq!(read(), 9, "each of them counts");
    let last = SUSPENSIONS_MAX - 9;
    assert!((0..last).all(|n| write("user", &n.to_string())));
    assert!(!write("user", "one more") && !write("domain", "more.test"));
    hand.execute("INSERT OR REPLACE INTO suspensions (kind, value, reason) VALUES ('tag', '*', 'again')", [])
        .unwrap();
    hand.execute("INSERT INTO suspensions (kind, value, until) VALUES ('tag', 'over', 9)", []).unwrap();
    hand.execute("DELETE FROM suspensions WHERE value = '*' AND kind = 'tag'", []).unwrap();
    assert!(write("user", "one more"));
    // Nor can one that is over be given a later end then.
    let again = "UPDATE suspensions SET until = NULL WHERE value = 'over'";
    assert!(hand.execute(again, []).is_err());
    hand.execute("UPDATE suspensions SET until = unixepoch() + 9", []).unwrap_err();
    hand.execute("UPDATE suspensions SET until = unixepoch() + 9 WHERE value <> 'over'", []).unwrap();
    assert_eq!(read(), SUSPENSIONS_MAX);
    hand.execute("DELETE FROM suspensions WHERE value = 'one more'", []).unwrap();
    hand.execute(again, []).unwrap();
    assert_eq!(read(), SUSPENSIONS_MAX);
}
