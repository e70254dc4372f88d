//! The bound of what is counted of TLS, and its end.

use super::*;
use crate::mail::TlsPolicy;
use crate::mail::tlsrpt::{DAY_SECS, ResultType};
use crate::queue::sqlite::purge::Purge;
use crate::queue::sqlite::tls_results::{DOMAIN_ROWS_MAX, HOST_ROWS_MAX, ROWS_MAX};

const DAY: i64 = 1_795_910_400;

fn session(day: i64, number: i64) -> TlsSession {
    TlsSession {
        day,
        domain: format!("d{number}.test"),
        policy: TlsPolicy::None,
        mx: "mx.test".to_owned(),
        ip: None,
        source: None,
        failed: (number % 2 == 0).then_some(ResultType::ValidationFailure),
        reason: "\u{fc}".repeat(1000),
        policy_text: "x".repeat(10_000),
        tlsa_base: "b".repeat(300),
        own_message: None,
    }
}

/// Counts them in parts, as settlements do, which have a few each. Ten thousand at once keep the writer for seconds in
/// a build for tests, and whoever waits behind them longer than for a busy database is told to come again (`slow.rs`).
fn count(bench: &Bench, numbers: std::ops::Range<i64>, session: impl Fn(i64) -> TlsSession) {
    let sessions: Vec<TlsSession> = numbers.map(session).collect();
    for part in sessions.chunks(500) {
        bench.queue.count_tls_sessions(part.to_vec());
        bench.queue.barrier().unwrap();
    }
}

#[test]
fn a_domain_whose_hosts_change_with_each_question_leaves_room_for_others() {
    let bench = Bench::new();
    let hostile = |number: i64| TlsSession {
        domain: "hostile.test".to_owned(),
        mx: format!("{number}.{}", "x".repeat(1000)),
        ..session(DAY, number)
    };
    for _ in 0..2 {
        count(&bench, 0..ROWS_MAX + 500, hostile);
    }
    bench.queue.count_tls_sessions(vec![session(DAY, 1)]);
    bench.queue.barrier().unwrap();
    let of_hostile = "FROM tls_results WHERE domain = 'hostile.test'";
    assert_eq!(bench.number(&format!("SELECT count(*) {of_hostile} AND mx <> ''")), DOMAIN_ROWS_MAX);
    // The others by result, and each session is in one of them.
    assert_eq!(bench.number(&format!("SELECT count(*) {of_hostile} AND mx = ''")), 2);
    assert_eq!(bench.number(&format!("SELECT sum(sessions) {of_hostile}")), 2 * (ROWS_MAX + 500));
    assert_eq!(bench.number(&format!("SELECT max(length(mx)) {of_hostile}")), 255);
    assert_eq!(bench.text("SELECT mx FROM tls_results WHERE domain = 'd1.test'"), "mx.test");
    assert_eq!(bench.number("SELECT count(*) FROM tls_results WHERE domain = '*'"), 0);
}

#[test]
fn many_domains_whose_hosts_change_leave_a_row_to_every_other() {
    let bench = Bench::new();
    let hostile = 3 * HOST_ROWS_MAX / DOMAIN_ROWS_MAX;
    count(&bench, 0..hostile * 2 * DOMAIN_ROWS_MAX, |number| TlsSession {
        domain: format!("hostile{}.test", number % hostile),
        mx: format!("{number}.test"),
        ..session(DAY, number)
    });
    count(&bench, 0..4_000, |number| session(DAY, number));
    count(&bench, 0..4_000, |number| session(DAY, number));
    let hosts = "SELECT count(*) FROM tls_results WHERE mx <> ''";
    assert_eq!(bench.number(hosts), HOST_ROWS_MAX);
    let others = "SELECT count(*) FROM tls_results WHERE domain LIKE 'd%' AND mx = '' AND sessions = 2";
    assert_eq!(bench.number(others), 4_000);
    assert_eq!(bench.number("SELECT count(*) FROM tls_results WHERE domain = '*'"), 0);
    let all = hostile * 2 * DOMAIN_ROWS_MAX + 8_000;
    assert_eq!(bench.number("SELECT sum(sessions) FROM tls_sessions"), all);
    bench.queue.plan_tls_reports(DAY..DAY + DAY_SECS, DAY, 1).unwrap();
    assert_eq!(bench.number("SELECT count(*) FROM tls_reports WHERE domain LIKE 'd%'"), 4_000);
}

#[test]
fn so_many_kinds_of_sessions_have_rows_and_the_others_are_counted_together() {
    let bench = Bench::new();
    for day in [DAY, DAY + DAY_SECS] {
        count(&bench, 0..ROWS_MAX + 500, |number| session(day, number));
        // Those that have a row go on to be counted there.
        bench.queue.count_tls_sessions(vec![session(day, 7), session(day, ROWS_MAX + 1)]);
    }
    bench.queue.barrier().unwrap();
    let rows = "SELECT count(*) FROM tls_results WHERE domain <> '*'";
    assert_eq!(bench.number(rows), 2 * ROWS_MAX);
    let others = format!("SELECT sum(sessions) FROM tls_results WHERE domain = '*' AND day = {DAY}");
    assert_eq!(bench.number(&others), 501);
    assert_eq!(bench.number("SELECT count(*) FROM tls_results WHERE domain = '*'"), 4, "by result");
    assert_eq!(bench.number("SELECT sum(sessions) FROM tls_sessions"), 2 * (ROWS_MAX + 502));
    assert_eq!(bench.number("SELECT sessions FROM tls_results WHERE domain = 'd7.test'"), 2);
    let longest = "SELECT max(length(CAST(reason AS BLOB))) + max(length(policy_text)) FROM tls_results";
    assert_eq!(bench.number(longest), 200 + 2048);
    assert_eq!(bench.number("SELECT max(length(tlsa_base)) FROM tls_results"), 255);
    // A start counts the rows that there are.
    let bench = bench.restart();
    bench.queue.count_tls_sessions(vec![session(DAY, -1)]);
    bench.queue.barrier().unwrap();
    assert_eq!(bench.number(rows), 2 * ROWS_MAX);
    // No report is planned on the others.
    bench.queue.plan_tls_reports(DAY..DAY + DAY_SECS, DAY, 1).unwrap();
    assert_eq!(bench.number("SELECT count(*) FROM tls_reports"), ROWS_MAX);
    assert_eq!(bench.number("SELECT count(*) FROM tls_reports WHERE domain = '*'"), 0);

    // Both go once they are old, in parts that keep nobody waiting.
    let conn = bench.somebody();
    let mut purge = Purge::new(std::time::Duration::from_secs(3600));
    let (mut steps, mut left, mut longest) = (0, 2 * ROWS_MAX, std::time::Duration::ZERO);
    loop {
        let began = std::time::Instant::now();
        let more = purge.step(&conn, DAY + 7 * DAY_SECS).unwrap();
        longest = longest.max(began.elapsed());
        let now_left = bench.number(rows);
        assert!(left - now_left <= 500, "{} rows at once", left - now_left);
        (steps, left) = (steps + 1, now_left);
        if !more {
            break;
        }
    }
    println!("{ROWS_MAX} rows of each table deleted in {steps} steps, the longest of {longest:?}");
    assert_eq!(left, ROWS_MAX);
    assert_eq!(bench.number("SELECT count(*) FROM tls_reports"), 0);
}
