//! The first promise: after 250 a message is never lost, `kill -9` included.
//!
//! Twenty connections submit without a pause while the relay is killed at random moments and started again on
//! the same database. At the end it drains, and everything that was answered with 250 is looked for.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::relay::{Client, Config, Db, Relay, World, notice};
use crate::harness::sink;

const CONNECTIONS: u64 = 20;
const KILLS: usize = 25;
/// Where mail goes. The last puts off what comes, half of the time.
const DOMAINS: [&str; 5] = ["one.test", "two.test", "three.test", "four.test", "grey.test"];
/// Every so manieth message is longer than one chunk of the queue (256 KiB).
const LONG_EVERY: u64 = 40;
/// How long the last relay may take to deliver what is left.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// A message to one recipient, by its own id and the recipient's address.
type Copy = (u64, String);

/// What arrived, and how often.
#[derive(Default)]
struct Arrivals {
    copies: Mutex<HashMap<Copy, u32>>,
    /// Ids of messages whose content was not what was sent.
    damaged: Mutex<Vec<u64>>,
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut world = World::new();
    let arrivals = Arc::new(Arrivals::default());
    for domain in DOMAINS {
        let name = format!("mx.{domain}");
        world.zone(|zone| zone.mx(domain, 10, &name));
        start_sink(world.address(&name), domain, &arrivals);
    }
    // Bounces would show that the relay gave up on something; there must be none.
    world.closed_mx("app.test", 10, "mx.app.test");
    let config = Config::new()
        .retry(&["1s"])
        .set("limits.sessions_per_client", "100")
        .set("delivery.connections_per_destination", "4");
    let mut relay = world.relay(config);

    let began = Instant::now();
    let acknowledged = submit_while_killing(&mut relay, &mut random);
    println!("{KILLS} kills in {:.1} s; draining", began.elapsed().as_secs_f64());

    let deadline = Instant::now() + DRAIN_MAX;
    let db = relay.db();
    while Instant::now() < deadline && db.number("SELECT count(*) FROM recipients", []) > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let queued = queued_copies(&db);
    relay.stop();
    assert_sound(&relay, KILLS);

    let arrived = arrivals.copies.lock().unwrap();
    let lost: Vec<&Copy> =
        acknowledged.iter().filter(|copy| !arrived.contains_key(*copy) && !queued.contains(*copy)).collect();
    let duplicates: u32 = arrived.values().map(|times| times - 1).sum();
    let unasked = arrived.keys().filter(|copy| !acknowledged.contains(*copy)).count();
    notice(&format!(
        "{KILLS} kills: {} acknowledged, {} delivered, {} still queued, {duplicates} duplicates, \
         {unasked} delivered whose 250 was lost, {:.1} s",
        acknowledged.len(),
        arrived.len(),
        queued.len(),
        began.elapsed().as_secs_f64(),
    ));
    assert_eq!(lost, Vec::<&Copy>::new(), "acknowledged and lost");
    assert_eq!(*arrivals.damaged.lock().unwrap(), Vec::<u64>::new(), "arrived damaged");
    assert!(acknowledged.len() > 500, "too little was submitted to prove anything: {}", acknowledged.len());
    let given_up = relay.db().rows("SELECT * FROM history WHERE state NOT IN ('delivered', 'relayed')", []);
    assert_eq!(given_up, Vec::<String>::new(), "given up");
}

/// Twenty connections submit all the time while the relay is killed and started again; what was acknowledged.
fn submit_while_killing(relay: &mut Relay, random: &mut fastrand::Rng) -> HashSet<Copy> {
    let stop = AtomicBool::new(false);
    let address = relay.clear;
    std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let (stop, seed) = (&stop, random.u64(..));
                scope.spawn(move || submit_until(stop, address, number, seed))
            })
            .collect();
        // The submitters end whatever happens here, or the scope would never end.
        let stopper = StopOnDrop(&stop);
        for kill in 0..KILLS {
            // Mostly under full load; one time in five at once, while it may still be starting.
            let early = kill > 0 && random.u8(..5) == 0;
            if !early {
                relay.wait_until_ready();
            }
            let moment = Duration::from_millis(if early { random.u64(0..80) } else { random.u64(20..500) });
            // The one sleep of the tests: the moment of the kill is what is random here.
            std::thread::sleep(moment);
            relay.kill();
            assert_sound(relay, kill);
            relay.spawn();
        }
        relay.wait_until_ready();
        drop(stopper);
        submitters.into_iter().flat_map(|submitter| submitter.join().unwrap()).collect()
    })
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The database is whole and breaks no invariant, as the crash left it.
fn assert_sound(relay: &Relay, kill: usize) {
    // Killed before it had made one.
    if !relay.path("queue.db").exists() {
        return;
    }
    let db = relay.db();
    assert_eq!(db.row("PRAGMA integrity_check", []).as_deref(), Some("ok"), "after kill {kill}");
    assert_eq!(db.rows("SELECT * FROM stuck", []), Vec::<String>::new(), "after kill {kill}");
}

/// Submits until told to stop, over a new connection whenever one breaks; what was answered with 250 to the dot.
fn submit_until(stop: &AtomicBool, address: SocketAddr, number: u64, seed: u64) -> Vec<Copy> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged = Vec::new();
    let mut sequence = 0;
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = Client::connect(address) else {
            // It is being started again.
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let _ = client.say("EHLO app.test");
        while !stop.load(Ordering::SeqCst) {
            sequence += 1;
            let id = sequence * CONNECTIONS + number;
            let mut recipients: Vec<String> = Vec::new();
            for _ in 0..random.usize(1..4) {
                let recipient =
                    format!("r{}@{}", random.u8(..5), random.choice(DOMAINS).unwrap_or(DOMAINS[0]));
                if !recipients.contains(&recipient) {
                    recipients.push(recipient);
                }
            }
            let names: Vec<&str> = recipients.iter().map(String::as_str).collect();
            match client.transact("me@app.test", "", &names, &content(id)) {
                Ok(reply) if reply.code == 250 => {
                    acknowledged.extend(recipients.into_iter().map(|recipient| (id, recipient)));
                }
                // Refused, so nobody promised anything; the session may not be usable any more.
                Ok(_) | Err(_) => break,
            }
        }
    }
    acknowledged
}

/// The content of a message, all of it from its id, so that the receiver knows what it must be.
fn content(id: u64) -> Vec<u8> {
    let lines = if id.is_multiple_of(LONG_EVERY) { 6_000 } else { 5 + id % 30 };
    let mut text =
        format!("Date: Mon, 3 Nov 2025 10:00:00 +0000\r\nMessage-ID: <{id}@app.test>\r\nX-Id: {id}\r\n\r\n");
    for line in 0..lines {
        text.push_str(&format!(".{id:016x} {line:08} the quick brown fox jumps over the lazy dog\r\n"));
    }
    text.into_bytes()
}

/// The id in a content, whatever header was put in front.
fn id_of(content: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(&content[..content.len().min(4096)]);
    head.lines().find_map(|line| line.strip_prefix("X-Id: ")?.parse().ok())
}

fn start_sink(address: SocketAddr, domain: &'static str, arrivals: &Arc<Arrivals>) {
    let asked = AtomicU64::new(0);
    let judge = move |_: &str| {
        let puts_off = domain == "grey.test" && asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if puts_off { "451 4.7.1 Greylisted" } else { "250 2.1.5 Ok" }
    };
    let arrivals = Arc::clone(arrivals);
    let take = move |recipients: &[String], taken: &[u8]| {
        let id = id_of(taken).unwrap_or(0);
        let sent = content(id);
        // Only a Received field may have come in front: Date and Message-ID are there.
        if !taken.ends_with(&sent) {
            arrivals.damaged.lock().unwrap().push(id);
        }
        let mut copies = arrivals.copies.lock().unwrap();
        for recipient in recipients {
            *copies.entry((id, recipient.clone())).or_insert(0) += 1;
        }
        "250 2.0.0 Taken"
    };
    sink::start(address, Arc::new(judge), Arc::new(take));
}

/// What still waits.
fn queued_copies(db: &Db) -> HashSet<Copy> {
    let mut statement =
        db.0.prepare(
            "SELECT r.address, (SELECT data FROM content c WHERE c.message_id = r.message_id AND c.seq = 0) \
             FROM recipients r",
        )
        .unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    rows.filter_map(|row| {
        let (address, head) = row.unwrap();
        id_of(&head).map(|id| (id, address))
    })
    .collect()
}
