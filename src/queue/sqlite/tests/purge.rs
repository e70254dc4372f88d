//! What is beside history goes in parts: a relay that stood still for weeks keeps nobody waiting for its writer.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::queue::sqlite::migrate::SCHEMA;
use crate::queue::sqlite::purge::Purge;

/// Old rows of each table.
const OLD: i64 = 1_300;
const NOW: i64 = 1_795_910_400;
const TABLES: [&str; 5] = ["kicks", "operator_log", "reports", "host_settings", "mta_sts_policies"];

/// Rows of every table that are a year old, and one of each that is of now.
fn filled() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    let year = 366 * 86_400;
    conn.execute_batch(&format!(
        "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {OLD})
             SELECT i, iif(i = {OLD}, {NOW}, {NOW} - {year}) AS at FROM n;
         INSERT INTO kicks SELECT i + 1, at, 'a.test', NULL, NULL, 1, NULL FROM n;
         INSERT INTO operator_log SELECT i + 1, at, 'kick', 'all', 1, 'root', 0, 1, NULL FROM n;
         INSERT INTO reports SELECT at * 1000000 + i, 'a@b.test', at, 'bounce', 1 FROM n;
         INSERT INTO host_settings (mx, setting, value, changed_at) SELECT 'mx' || i, 'connections', 1, at FROM n;
         INSERT INTO mta_sts_policies SELECT i || '.test', '1', 'none', 60, at, at + 60, at, at, '', NULL FROM n;
         -- What no relay has told of yet stays.
         UPDATE operator_log SET logged = 0 WHERE id = 1;"
    ))
    .unwrap();
    conn
}

#[test]
fn what_is_old_goes_in_parts_from_every_table() {
    let conn = filled();
    let count = |table: &str| -> i64 {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let mut purge = Purge::new(Duration::from_secs(30 * 86_400));
    let (mut steps, mut left, mut longest) = (0, TABLES.map(count), Duration::ZERO);
    assert_eq!(left, [OLD + 1; 5]);
    loop {
        let began = Instant::now();
        let more = purge.step(&conn, NOW).unwrap();
        longest = longest.max(began.elapsed());
        let now_left = TABLES.map(count);
        for (before, after) in left.into_iter().zip(now_left) {
            assert!(before - after <= 500, "{} rows of a table at once", before - after);
        }
        (steps, left) = (steps + 1, now_left);
        if !more {
            break;
        }
    }
    println!("{OLD} rows of each table deleted in {steps} steps, the longest of {longest:?}");
    assert_eq!(TABLES.map(count), [1, 2, 1, 1, 1]);
    assert!(steps > OLD / 500, "{steps}");
}
