//! MTA-STS policies in the database.

use rusqlite::Connection;

use super::*;
use crate::queue::sqlite::migrate::SCHEMA;
use crate::queue::sqlite::sts_policies;

#[test]
fn policies_outlive_the_process_end_and_are_bounded() {
    let bench = Bench::new();
    let now = 1_000_000_000;
    let row = |domain: &str, fetched_at: i64, max_age: i64| StsPolicyRow {
        domain: domain.to_owned(),
        id: "1".to_owned(),
        mode: "enforce".to_owned(),
        mx: "mx.a.test *.b.test".to_owned(),
        max_age,
        fetched_at,
        expires_at: fetched_at + max_age,
        used_at: fetched_at,
        last_error: None,
    };
    bench.queue.set_sts_policy(row("a.test", now - 90_000, 604_800));
    bench.queue.set_sts_policy(row("short.test", now - 50, 100));
    bench.queue.set_sts_policy(row("new.test", now - 50, 604_800));
    bench.queue.set_sts_policy(row("over.test", now - 101, 100));
    bench.queue.note_sts_policy("a.test", StsPolicyNote::Failed { at: now, why: "no answer".to_owned() });
    bench.queue.note_sts_policy("a.test", StsPolicyNote::Used(now));
    bench.queue.note_sts_policy("gone.test", StsPolicyNote::Used(now));
    let bench = bench.restart();
    let noted = StsPolicyRow {
        used_at: now,
        last_error: Some("no answer".to_owned()),
        ..row("a.test", now - 90_000, 604_800)
    };
    assert_eq!(bench.queue.sts_policy("a.test").unwrap(), Some(noted));
    assert_eq!(bench.queue.sts_policy("gone.test").unwrap(), None, "a note makes no row");
    let due = |used_since| bench.queue.sts_policies_due(now, used_since, 10).unwrap();
    assert_eq!(
        due(0),
        ["short.test", "a.test"],
        "a day old, or half over; not what is over; what failed comes last"
    );
    assert_eq!(due(now), ["a.test"], "not what nobody uses");

    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    for number in 0..STS_POLICIES_MAX as i64 + 50 {
        sts_policies::write(&conn, &row(&format!("{number}.test"), number, 1000)).unwrap();
    }
    let count = |conn: &Connection| {
        conn.query_row("SELECT count(*), min(used_at) FROM mta_sts_policies", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
        })
    };
    assert_eq!(count(&conn).unwrap(), (STS_POLICIES_MAX as i64, Some(50)), "those used the longest ago went");
    let of_mode =
        |domain: &str, mode: &str| StsPolicyRow { mode: mode.to_owned(), ..row(domain, 20_000, 1000) };
    sts_policies::write(&conn, &of_mode("testing.test", "testing")).unwrap();
    sts_policies::write(&conn, &of_mode("enforce.test", "enforce")).unwrap();
    assert!(sts_policies::read(&conn, "testing.test").unwrap().is_none(), "what enforces nothing goes first");
    assert_eq!(count(&conn).unwrap(), (STS_POLICIES_MAX as i64, Some(51)));
    while sts_policies::delete_expired(&conn, 6_000, 500).unwrap() {}
    assert_eq!(count(&conn).unwrap().1, Some(5_001));
}
