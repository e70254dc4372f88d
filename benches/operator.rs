//! How long an operator waits for an answer: 50,000 recipients in 500 domains wait, and a million are in history.
//!
//! `cargo bench --bench operator`, on the file system of `target/`. Optional arguments: rows of history (1,000,000),
//! days over which they came (7). Ends with an error where mail takes 50 ms to be found, or a report of 50,000
//! recipients 200 ms.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use postrider::config::QueueSettings;
use postrider::queue::admin::{Admin, GroupBy, Wanted};
use postrider::queue::{MessageId, Queue};
use rusqlite::{Connection, Result, params};

const WAITING: i64 = 50_000;
const DOMAINS: i64 = 500;
const DAY_SECS: i64 = 86_400;
/// How often each is asked: the median counts.
const TIMES: usize = 5;

fn main() {
    let numbers: Vec<i64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let (rows, days) = (numbers.first().copied().unwrap_or(1_000_000), numbers.get(1).copied().unwrap_or(7));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory under target/");
    let path = directory.path().join("queue.db");
    let settings =
        QueueSettings { path: path.clone(), history: Duration::from_secs(30 * 86_400), litestream: false };
    let (_queue, writer) = Queue::open(&settings, crossbeam_channel::unbounded().0).expect("a queue");
    writer.stop().expect("stopped");
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    fill(&path, rows, days, now).expect("fill the queue");
    println!("{WAITING} wait in {DOMAINS} domains, {rows} are in history, {days} days of it:");

    let admin = Admin::to_read(&path).expect("open the queue");
    let middle = rows / 2;
    let id = MessageId((now - days * DAY_SECS) * 1_000_000 + middle * (days * DAY_SECS * 1_000_000 / rows));
    let found = |wanted: Wanted| admin.find(&wanted, 100).expect("find").0.len();
    let mut slow = Vec::new();
    let mut ask = |what: &str, most_ms: u128, question: &dyn Fn() -> usize| {
        let mut took: Vec<u128> = (0..TIMES)
            .map(|_| {
                let began = Instant::now();
                assert!(question() > 0, "{what}: nothing");
                began.elapsed().as_micros()
            })
            .collect();
        took.sort_unstable();
        let median = took[TIMES / 2];
        println!("{:9.2} ms  {what}", median as f64 / 1000.0);
        if median > most_ms * 1000 {
            slow.push(what.to_owned());
        }
    };
    ask("queue find MESSAGE-ID, finished", 50, &|| {
        found(Wanted::MessageId(format!("{middle:08x}.id@app.test")))
    });
    ask("queue find MESSAGE-ID, waiting", 50, &|| found(Wanted::MessageId("w77.id@app.test".to_owned())));
    ask("queue find --subject", 50, &|| found(Wanted::Subject(format!("your order {middle} "))));
    ask("queue find --tag", 50, &|| found(Wanted::Tag("shop/7".to_owned())));
    ask("queue show, finished", 50, &|| admin.show(id).expect("show").map_or(0, |shown| shown.story.len()));
    let traffic = |since: i64, by: Option<GroupBy>| {
        admin.traffic(since, by, 20).expect("report").total.delivered as usize
    };
    for (name, by) in
        [("user", GroupBy::User), ("domain", GroupBy::Domain), ("tag", GroupBy::Tag), ("host", GroupBy::Host)]
    {
        // So long as 50,000 recipients take.
        let secs = (days * DAY_SECS * 50_000 / rows).min(DAY_SECS);
        ask(&format!("report of 50,000 recipients by {name}"), 200, &|| traffic(now - secs, Some(by)));
    }
    ask("queue find --subject '*x*' (reads all)", u128::MAX / 1000, &|| {
        found(Wanted::Subject("*order 77 *".to_owned()))
    });
    ask("report of all", u128::MAX / 1000, &|| traffic(0, Some(GroupBy::Domain)));
    assert!(slow.is_empty(), "too slow: {slow:?}");
}

/// What waits came within the last hour; what is finished, evenly over the days, a twentieth of it refused.
fn fill(path: &Path, rows: i64, days: i64, now: i64) -> Result<()> {
    let conn = Connection::open(path)?;
    conn.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
    let each = "WITH RECURSIVE each (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM each WHERE n < ?1 - 1)";
    let (begin, step) = ((now - days * DAY_SECS) * 1_000_000, days * DAY_SECS * 1_000_000 / rows);
    conn.execute(
        &format!(
            "{each} INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at,
                 finished_at, attempts, size, reply, mx, reply_source, user, client, tls, source_address,
                 header_message_id, subject, tag, finished_by)
             SELECT ?2 + n * ?3, ?2 + n * ?3 + 1, 'Q' || n, 'app@sender.test', 'u' || n || '@d' || (n % {DOMAINS}) || '.test',
                 iif(n % 20, 'delivered', 'failed'), (?2 + n * ?3) / 1000000, (?2 + n * ?3) / 1000000 + n % 97, 1, 4096,
                 iif(n % 20, '250 2.0.0 queued as ' || n, '550 5.1.1 no user ' || n || ' here'),
                 'mx' || (n % {DOMAINS}) || '.test', 'remote', 'app' || (n % 7), '192.0.2.7', 'TLSv1.3 verified', '192.0.2.25',
                 printf('%08x', n) || '.id@app.test', 'Your order ' || n || ' of today', 'shop/' || (n % 50), 'outcome'
             FROM each"
        ),
        params![rows, begin, step],
    )?;
    conn.execute(
        &format!(
            "{each} INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, tls, phase, code, reply, outcome)
             SELECT ?2 + n * ?3 + 2, ?2 + n * ?3 + 1, (?2 + n * ?3) / 1000000, 12, 'mx.test', '192.0.2.1', 'none', 'rcpt', 250,
                 '250 2.0.0 queued', 'delivered' FROM each"
        ),
        params![rows, begin, step],
    )?;
    let came = (now - 3600) * 1_000_000;
    conn.execute(
        &format!(
            "{each} INSERT INTO messages (id, queue_id, sender, user, received_at, size, body, smtputf8, header_message_id, tag)
             SELECT ?2 + n * 3, 'W' || n, 'app@sender.test', 'app', ?2 / 1000000, 4096, '7bit', 0, 'w' || n || '.id@app.test', 'shop'
             FROM each"
        ),
        params![WAITING, came],
    )?;
    conn.execute(
        &format!(
            "{each} INSERT INTO recipients (id, message_id, address, domain, attempts, next_attempt_at, last_attempt_at,
                 last_reply, last_mx, last_reply_source)
             SELECT ?2 + n * 3 + 1, ?2 + n * 3, 'u' || n || '@d' || (n % {DOMAINS}) || '.test', 'd' || (n % {DOMAINS}) || '.test', 1,
                 ?2 / 1000000 + 7200, ?2 / 1000000, '451 4.7.1 ' || n || ' later', 'mx' || (n % {DOMAINS}) || '.test', 'remote'
             FROM each"
        ),
        params![WAITING, came],
    )?;
    conn.execute_batch("COMMIT")
}
