//! What hosts say at length: how much of it the tables keep, and what is forgotten of hosts.

use std::time::Instant;

use super::*;
use crate::queue::admin::Admin;

/// As long as a host's words are kept in memory, in characters of four bytes.
fn long(number: usize) -> String {
    format!("{number} {}", "\u{1f4ee}".repeat(990))
}

#[test]
fn a_long_reply_is_kept_once_however_many_recipients_and_tries_it_had() {
    let bench = Bench::new();
    let to: Vec<String> = (0..100).map(|number| format!("n{number}@example.com")).collect();
    let due = bench.accept(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let message = due[0].fresh.clone().unwrap();
    let settle = |said: &dyn Fn(usize) -> String| {
        let results = due.iter().map(|due| (due.recipient, NextState::Retry(9))).collect();
        let mut settlement = settlement(&message, results);
        for (number, result) in settlement.results.iter_mut().enumerate() {
            result.attempt.as_mut().unwrap().reply.text = said(number).into();
        }
        bench.queue.settle(settlement);
        bench.settled();
    };
    (0..5).for_each(|_| settle(&|_| long(0)));
    assert_eq!(bench.number("SELECT count(*) FROM attempts"), 500);
    assert_eq!(bench.number("SELECT count(*) FROM replies"), 1);
    let in_rows = "SELECT (SELECT sum(octet_length(reply)) FROM attempts)
        + (SELECT sum(octet_length(last_reply)) FROM recipients) + (SELECT sum(octet_length(reply)) FROM replies)";
    let bytes = bench.number(in_rows);
    assert!(bytes < 600 * 520 + 4_100, "{bytes}");

    // All of it is shown.
    let shown = Admin::to_read(&bench.path()).unwrap().show(due[0].message).unwrap().unwrap();
    assert!(shown.recipients[7].tries[4].reply.ends_with(&long(0)), "{}", shown.recipients[7].tries[4].reply);
    assert!(shown.recipients[7].line.last_reply.as_ref().unwrap().ends_with(" [...]"));

    // A host that says something else each time.
    (0..11).for_each(|round| settle(&|number| long(1 + round * 100 + number)));
    assert_eq!(bench.number("SELECT count(*) FROM replies"), 1_000);
    assert!(bench.number("SELECT sum(octet_length(reply)) FROM replies") < 1_000 * 4_100);
    let shown = Admin::to_read(&bench.path()).unwrap().show(due[0].message).unwrap().unwrap();
    assert!(shown.recipients[99].tries[15].reply.ends_with(&long(1_100)), "the last are whole");
    assert!(shown.recipients[7].tries[4].reply.ends_with(" [...]"), "the first have gone");
    bench.is_well();
}

#[test]
fn what_nobody_needed_of_a_host_for_a_month_is_forgotten_limits_too() {
    let bench = Bench::new();
    let now = now_us() / 1_000_000;
    let add = |mx: &str, setting: &str, value: &str, changed_at: i64, retry_at: Option<i64>| {
        bench
            .somebody()
            .execute(
                "INSERT INTO host_settings VALUES (?1, ?2, iif(?2 = 'connections', CAST(?3 AS INTEGER), ?3), NULL, ?4, ?5)",
                rusqlite::params![mx, setting, value, changed_at, retry_at],
            )
            .unwrap();
    };
    let days = |days: i64| now - days * 86_400;
    add("old-limit.test", "connections", "3", days(31), None);
    add("limit.test", "connections", "3", days(29), None);
    add("old.test", "chunking", "off", days(60), Some(days(31)));
    add("kept.test", "chunking", "off", days(60), Some(now + 86_400));
    let bench = bench.restart();
    bench.queue.set_time(now);
    let start = Instant::now();
    let names = "SELECT group_concat(mx, ' ') FROM (SELECT mx FROM host_settings ORDER BY mx)";
    while bench.text(names) != "kept.test limit.test" {
        assert!(start.elapsed() < PATIENCE, "{}", bench.text(names));
        std::thread::yield_now();
    }
}
