//! What a long queue costs: a million recipients that wait, in 10,000 lanes.
//!
//! `cargo bench --bench backlog` fills a database by SQL, starts the relay on it beside one with an empty queue,
//! and says how long the start took, what it keeps in memory, and how fast fresh mail flows through either,
//! in turns. Shapes of the same number of rows:
//!
//! - `deferred`: each is due within the next hours, half of the lanes back off. What a relay has after a bad day.
//! - `dead`: half of them are due for one domain whose host refuses the connection.
//! - `due` (only when asked for): all are due since yesterday in lanes that nobody knows yet, and no name server
//!   answers. The first try of each lane waits for the name server: minutes.
//!
//! In each, 10,000 more are due in 100 lanes of a host that takes them; it says how far the order in which
//! they went strayed from the order in which they were due.
//!
//! `ROWS=100000` scales it, `SHAPES=deferred` picks, `MESSAGES=5000` and `ROUNDS=3` are for the fresh mail.
//! Bars: ready in 5 s, 200 MiB, 90 %. Machines are noisy: it prints, and asserts nothing but arrival.

#[path = "relay/load.rs"]
mod load;
#[allow(dead_code, reason = "what only the comparison with Postfix uses")]
#[path = "relay/peer.rs"]
mod peer;
#[allow(dead_code, reason = "the same")]
#[path = "relay/process.rs"]
mod process;
#[path = "relay/sink.rs"]
mod sink;
#[allow(dead_code, reason = "nothing here is in TLS")]
#[path = "relay/stream.rs"]
mod stream;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

use load::Load;
use peer::Peer;
use sink::Sink;

const SCHEMA: &str = include_str!("../queue-schema.sql");
const LANES: usize = 10_000;
/// Recipients that are due and can be delivered, and their lanes.
const ALIVE: usize = 10_000;
const ALIVE_LANES: usize = 100;
const SESSIONS: usize = 20;
/// Past this something stands still.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let rows: usize = number("ROWS", 1_000_000);
    let shapes = std::env::var("SHAPES").unwrap_or_else(|_| "deferred,dead".to_owned());
    println!("{rows} recipients in {LANES} lanes; fresh mail of 4 KB over {SESSIONS} sessions");
    println!(
        "{:>9} {:>7} {:>8} {:>13} {:>9} {:>9} {:>9} {:>6} {:>12}",
        "shape",
        "fill s",
        "ready s",
        "resident MiB",
        "peak MiB",
        "fresh/s",
        "empty/s",
        "ratio",
        "due strayed"
    );
    for shape in shapes.split(',') {
        measure(shape, rows);
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn measure(shape: &str, rows: usize) {
    let directory = peer::directory();
    let began = Instant::now();
    fill(&directory.path().join("queue.db"), shape, rows).expect("fill the database");
    let filled = began.elapsed();

    let began = Instant::now();
    let long = start(directory);
    let ready = began.elapsed();
    // What can be delivered of it has gone out, and the rest has found its place.
    long.sink.wait_for(ALIVE, PATIENCE);
    std::thread::sleep(Duration::from_secs(5));
    let strayed = strayed(&long);
    let resident = long.process.resident_mib();

    let empty = start(peer::directory());
    let (mut fresh, mut compared) = (0.0, 0.0);
    let rounds = number("ROUNDS", 3);
    for _ in 0..rounds {
        compared += rate(&empty) / rounds as f64;
        fresh += rate(&long) / rounds as f64;
    }
    println!(
        "{shape:>9} {:>7.1} {:>8.2} {resident:>13.1} {:>9.1} {fresh:>9.0} {compared:>9.0} {:>5.0}% {strayed:>12}",
        filled.as_secs_f64(),
        ready.as_secs_f64(),
        long.process.peak_mib(),
        100.0 * fresh / compared,
    );
}

/// A relay on this directory, with or without a queue in it. Nobody answers its questions about names.
fn start(directory: tempfile::TempDir) -> Peer {
    let sink = Sink::start();
    let mut config = "[dns]\nservers = [\"127.0.0.1:1\"]\ntimeout = \"1s\"\n".to_owned();
    let dead = "[[route]]\ndomain = \"dead.test\"\nrelay = [\"[127.0.0.1]:1\"]\ntls = \"off\"\n";
    config.push_str(dead);
    let alive = (0..ALIVE_LANES).map(|lane| format!("alive{lane}.test"));
    for domain in alive.chain(["receiver.test".to_owned()]) {
        config.push_str(&format!("[[route]]\ndomain = \"{domain}\"\n{}", sink.as_relay()));
    }
    peer::postrider_on(directory, sink, &config).expect("the relay starts")
}

/// Fresh messages delivered a second.
fn rate(peer: &Peer) -> f64 {
    let messages = number("MESSAGES", 5_000);
    let warm = peer.sink.count() + 20;
    Load::new(peer.address, 4, 20).run();
    peer.sink.wait_for(warm, PATIENCE);
    let began = Instant::now();
    Load::new(peer.address, SESSIONS, messages).run();
    peer.sink.wait_for(warm + messages, PATIENCE);
    let took = began.elapsed();
    // The last settlements are not the other relay's to pay for.
    std::thread::sleep(Duration::from_millis(500));
    messages as f64 / took.as_secs_f64()
}

/// Rows as the relay would have left them, by SQL: seconds instead of an hour.
fn fill(path: &Path, shape: &str, rows: usize) -> rusqlite::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000; PRAGMA user_version = 1;",
    )?;
    conn.execute_batch(SCHEMA)?;
    let (domain, due) = match shape {
        "deferred" => ("'lane' || (n * 7919 % :lanes) || '.test'", ":now + 1800 + n * 104729 % 14400"),
        "due" => ("'lane' || (n * 7919 % :lanes) || '.test'", ":now - 86400 + n * 104729 % 80000"),
        "dead" => (
            "iif(n % 2, 'dead.test', 'lane' || (n * 7919 % :lanes) || '.test')",
            "iif(n % 2, :now - 86400 + n * 104729 % 80000, :now + 1800 + n * 104729 % 14400)",
        ),
        other => panic!("SHAPES knows deferred, due and dead, not {other}"),
    };
    // The alive ones come last, so that they are due after all the others, and each second has one of them.
    let all = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :rows + :alive),
        each(n, id, domain, due) AS (
            SELECT n, (:now - 100000) * 1000000 + n, iif(n < :rows, DOMAIN, 'alive' || (n % :alive_lanes) || '.test'),
                   iif(n < :rows, DUE, :now - 70000 + (n - :rows) * 6) FROM numbers)"
        .replace("DOMAIN", domain)
        .replace("DUE", due);
    let run = |sql: &str| {
        let mut statement = conn.prepare(&format!("{all} {sql}"))?;
        let values = [
            (":rows", rows),
            (":now", now as usize),
            (":lanes", LANES),
            (":alive", ALIVE),
            (":alive_lanes", ALIVE_LANES),
        ];
        for (name, value) in values {
            if let Some(at) = statement.parameter_index(name)? {
                statement.raw_bind_parameter(at, value as i64)?;
            }
        }
        statement.raw_execute()
    };
    conn.execute_batch("BEGIN")?;
    run("INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
         SELECT id, 'Q' || n, 'app@sender.test', :now - 100000, 500, '7bit', 0 FROM each")?;
    run(
        "INSERT INTO content SELECT id, 0, CAST(replace(hex(zeroblob(250)), '00', char(13) || char(10)) AS BLOB) FROM each",
    )?;
    run("INSERT INTO recipients (id, message_id, address, domain, attempts, next_attempt_at, last_attempt_at, last_reply)
         SELECT id, id, 'd' || due || '@' || domain, domain, 3, due, :now - 90000, '451 4.4.1 connection timed out'
         FROM each")?;
    if shape == "deferred" {
        run("INSERT OR IGNORE INTO backoffs SELECT domain, 3, :now + 1800 + n % 1800, '451 4.4.1 connection timed out', :now
             FROM each WHERE n < :rows AND n % 2")?;
    }
    conn.execute_batch("COMMIT")?;
    // Nobody's fsync is to pay for these pages later.
    std::fs::File::open(path).and_then(|file| file.sync_all()).expect("sync the database");
    Ok(())
}

/// By how many places, at most, a recipient of the living lanes went out before one that was due earlier, in its
/// own lane and among all of them.
fn strayed(peer: &Peer) -> String {
    let Some(directory) = &peer.directory else { return String::new() };
    let conn = Connection::open(directory.path().join("queue.db")).expect("open the database");
    let worst = |partition: &str| -> i64 {
        let sql = format!(
            "WITH went AS (
                 SELECT h.address, row_number() OVER ({partition} ORDER BY a.id) AS place,
                        row_number() OVER ({partition} ORDER BY h.recipient_id) AS wanted
                 FROM history h JOIN attempts a ON a.recipient_id = h.recipient_id WHERE h.address LIKE 'd%@alive%')
             SELECT coalesce(max(abs(place - wanted)), 0) FROM went"
        );
        conn.query_row(&sql, [], |row| row.get(0)).expect("read the history")
    };
    format!("{} / {}", worst("PARTITION BY substr(h.address, instr(h.address, '@'))"), worst(""))
}
