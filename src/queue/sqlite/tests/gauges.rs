//! Counting for monitoring: in parts, and the same as one statement says.

use super::*;
use crate::queue::gauge_rows::{AGE_BOUNDS_SECS, AgeCounts, CountFrom};

/// So many that it takes several parts.
const ROWS: i64 = 45_000;

fn count(bench: &Bench, now: i64) -> (AgeCounts, usize) {
    let (mut counts, mut from, mut parts) = (AgeCounts::default(), Some(CountFrom::START), 0);
    while let Some(part) = from {
        let (more, next) = bench.queue.count_by_age(part, now).unwrap();
        (counts, from) = (counts.and(more), next);
        parts += 1;
    }
    (counts, parts)
}

#[test]
fn what_waits_is_counted_in_parts_and_nothing_twice() {
    let bench = Bench::new();
    let now = 2_000_000_000_i64;
    let fill = format!(
        "WITH RECURSIVE each(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM each WHERE value < {ROWS})
         INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
         SELECT ({now} - value * 4) * 1000000, 'x', '', 0, 7, '7bit', 0 FROM each;
         INSERT INTO recipients (id, message_id, address, domain, state, next_attempt_at)
         SELECT id + 1, id, 'a', 'd' || (id / 4000000 % 250) || '.test', iif(id / 4000000 % 9 = 0, 'held', 'queued'), 0
         FROM messages"
    );
    bench.somebody().execute_batch(&fill).unwrap();
    let (counts, parts) = count(&bench, now);
    assert_eq!((counts.messages, counts.bytes), (ROWS as u64, 7 * ROWS as u64));
    assert!(parts > 4, "{parts}");
    let mut from = 0;
    for (at, until) in AGE_BOUNDS_SECS.into_iter().chain([i64::MAX]).enumerate() {
        for (state, found) in [("queued", counts.queued[at]), ("held", counts.held[at])] {
            let sql = format!(
                "SELECT count(*) FROM recipients WHERE state = '{state}'
                 AND {now} - message_id / 1000000 >= {from} AND {now} - message_id / 1000000 < {until}"
            );
            assert_eq!(bench.number(&sql), found as i64, "{state} {at}");
        }
        from = until;
    }
    // Page by page, too.
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let domains = bench.queue.count_by_domain(&after, now, 60).unwrap();
        let Some(last) = domains.last() else { break };
        last.domain.clone_into(&mut after);
        seen.extend(domains);
    }
    assert_eq!(seen.len(), 250);
    assert_eq!(seen.iter().map(|count| count.recipients).sum::<u64>(), ROWS as u64);
    assert_eq!(seen.iter().map(|count| count.due).sum::<u64>(), counts.queued.iter().sum::<u64>());
}

/// A count of what waits must not read rows that it does not need, however long the queue is.
#[test]
fn domains_are_counted_along_their_index() {
    let bench = Bench::new();
    let (conn, sql) =
        (bench.somebody(), crate::queue::sqlite::gauges::DOMAINS.replace("is_suspended", "false"));
    let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let steps = plan.query_map(rusqlite::params![0, "", 9], |row| row.get::<_, String>(3)).unwrap();
    let plan = steps.collect::<rusqlite::Result<Vec<_>>>().unwrap().join("; ");
    assert!(plan.contains("USING COVERING INDEX recipients_of_domain"), "{plan}");
}
