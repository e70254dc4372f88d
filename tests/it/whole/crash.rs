//! The first promise: after 250 a message is never lost, `kill -9` included.
//!
//! Twenty connections submit without a pause while the relay is killed at random moments and started again on
//! the same database. Hosts take, put off, refuse, fall silent, and go away behind the final dot. At the end the
//! relay drains, and everything that was answered with 250 is looked for. `CRASH_SEED` and `CRASH_KILLS` can be set.
//!
//! What a kill has delivered twice is at most one transaction of each connection that was open at that moment: the one
//! whose outcome is not on disk yet.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, Db, Relay, World, notice, wait_for};
use crate::harness::sink;

const CONNECTIONS: u64 = 20;
/// As many as `cargo test` has time for.
const KILLS: u64 = 25;
/// Where mail goes. Two hosts take all; the others put off, fall silent at a recipient and go away behind the dot,
/// each half of the time; the last refuses.
const DOMAINS: [&str; 6] = ["one.test", "two.test", "grey.test", "hangs.test", "drops.test", REFUSES];
const REFUSES: &str = "refuses.test";
/// Where bounces go, and to whom.
const HOME: &str = "app.test";
const SENDER: &str = "me@app.test";
/// Connections of the relay to one host.
const PER_DESTINATION: usize = 4;
/// Every so manieth message is longer than one chunk of the queue (256 KiB).
const LONG_EVERY: u64 = 40;
/// How long the last relay may take to deliver what is left.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// A message to one recipient, by its own id and the recipient's address.
type Copy = (u64, String);

/// A transaction: the number of its connection, and its own number over all.
type Transaction = (usize, usize);

/// A kill, as the hosts saw it.
struct Kill {
    /// The last connection before it.
    last_connection: usize,
    /// Connections that were open.
    open: usize,
}

/// What arrived.
#[derive(Default)]
struct Arrivals {
    /// In which transaction it came last.
    copies: Mutex<HashMap<Copy, Transaction>>,
    transactions: AtomicUsize,
    /// Of each host.
    open: OnceLock<Vec<Arc<AtomicUsize>>>,
    kills: Mutex<Vec<Kill>>,
    /// The last kill is over: hosts that put off, fell silent or went away take mail now.
    calm: AtomicBool,
    /// Copies that came again.
    duplicates: AtomicUsize,
    /// What of it came again later.
    repeated: Mutex<HashSet<Transaction>>,
    /// Ids of messages whose content was not what was sent.
    damaged: Mutex<Vec<u64>>,
}

impl Arrivals {
    fn take(&self, connection: usize, id: u64, recipients: &[String]) {
        let transaction = (connection, self.transactions.fetch_add(1, Ordering::SeqCst));
        for recipient in recipients {
            let before = self.copies.lock().unwrap().insert((id, recipient.clone()), transaction);
            if let Some(before) = before {
                self.duplicates.fetch_add(1, Ordering::SeqCst);
                self.repeated.lock().unwrap().insert(before);
            }
        }
    }

    /// Stopped first, so that no connection comes or goes while they are counted.
    fn kill(&self, relay: &mut Relay) {
        relay.signal("STOP");
        let stat = format!("/proc/{}/stat", relay.pid());
        let is_stopped = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        wait_for("the relay to stand still", SOON, || is_stopped().then_some(()));
        let open = self.open.get().unwrap().iter().map(|open| open.load(Ordering::SeqCst)).sum();
        self.kills.lock().unwrap().push(Kill { last_connection: sink::last_connection(), open });
        relay.kill();
    }

    /// In words: at most one transaction of each connection that was open at a kill.
    fn what_came_twice(&self) -> String {
        let (repeated, kills) = (self.repeated.lock().unwrap(), self.kills.lock().unwrap());
        let of_connection = |number| repeated.iter().filter(|(connection, _)| *connection == number).count();
        let too_many = repeated.iter().find(|(connection, _)| of_connection(*connection) > 1);
        assert_eq!(too_many, None, "of one connection: {repeated:?}");
        let (mut before, mut most) = (0, (0, 0));
        for (number, kill) in kills.iter().enumerate() {
            let life = before + 1..=kill.last_connection;
            let count = repeated.iter().filter(|(connection, _)| life.contains(connection)).count();
            assert!(count <= kill.open, "kill {number}: {count} with {} open", kill.open);
            (before, most) = (kill.last_connection, most.max((count, kill.open)));
        }
        let recipients = self.duplicates.load(Ordering::SeqCst);
        let (transactions, (most, open)) = (repeated.len(), most);
        format!(
            "{transactions} transactions came twice ({recipients} recipients), at most {most} after a kill, \
             with {open} connections open then"
        )
    }
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let kills = std::env::var("CRASH_KILLS").ok().map_or(KILLS, |kills| kills.parse().expect("a number"));
    let mut world = World::new();
    let arrivals = Arc::new(Arrivals::default());
    let mut open = Vec::new();
    for domain in DOMAINS.into_iter().chain([HOME]) {
        let name = format!("mx.{domain}");
        world.zone(|zone| zone.mx(domain, 10, &name));
        open.push(start_sink(world.address(&name), domain, &arrivals));
    }
    arrivals.open.set(open).unwrap();
    let config = Config::new()
        .retry(&["1s"])
        .set("limits.sessions_per_client", "100")
        .set("delivery.connections_per_destination", PER_DESTINATION.to_string())
        .set("delivery.bounces_per_sender", "\"off\"")
        .set("delivery.reply_timeout", "\"3s\"");
    let mut relay = world.relay(config);

    let began = Instant::now();
    let acknowledged = submit_while_killing(&mut relay, kills, &arrivals, &mut random);
    arrivals.calm.store(true, Ordering::SeqCst);
    println!("{kills} kills in {:.1} s; draining", began.elapsed().as_secs_f64());

    let deadline = Instant::now() + DRAIN_MAX;
    let db = relay.db();
    while Instant::now() < deadline && db.number("SELECT count(*) FROM recipients", []) > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let queued = queued_copies(&db);
    relay.stop();
    assert_sound(&relay, kills);

    let arrived = arrivals.copies.lock().unwrap();
    // A refused recipient has come to its end when its sender was told.
    let ended = |(id, recipient): &Copy| {
        let ends_at = if recipient.ends_with(REFUSES) { SENDER } else { recipient.as_str() };
        let told = (*id, ends_at.to_owned());
        arrived.contains_key(&told) || queued.contains(&told)
    };
    let lost: Vec<&Copy> =
        acknowledged.iter().filter(|copy| !queued.contains(*copy) && !ended(copy)).collect();
    let unasked = arrived.keys().filter(|copy| !acknowledged.contains(*copy) && copy.1 != SENDER).count();
    notice(&format!(
        "{kills} kills: {} acknowledged, {} delivered, {} lost, {} still queued; {}; \
         {unasked} delivered whose 250 was lost; {:.1} s",
        acknowledged.len(),
        arrived.len(),
        lost.len(),
        queued.len(),
        arrivals.what_came_twice(),
        began.elapsed().as_secs_f64(),
    ));
    assert_eq!(lost, Vec::<&Copy>::new(), "acknowledged and lost");
    assert_eq!(*arrivals.damaged.lock().unwrap(), Vec::<u64>::new(), "arrived damaged");
    assert!(
        acknowledged.len() as u64 > 20 * kills,
        "too little was submitted to prove anything: {}",
        acknowledged.len()
    );
    let given_up = "SELECT * FROM history WHERE state NOT IN ('delivered', 'relayed') AND address NOT LIKE ?";
    assert_eq!(relay.db().rows(given_up, [format!("%@{REFUSES}")]), Vec::<String>::new(), "given up");
}

/// Twenty connections submit all the time while the relay is killed and started again; what was acknowledged.
fn submit_while_killing(
    relay: &mut Relay,
    kills: u64,
    arrivals: &Arrivals,
    random: &mut fastrand::Rng,
) -> HashSet<Copy> {
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
        for kill in 0..kills {
            // Mostly under full load; one time in five at once, while it may still be starting.
            let early = kill > 0 && random.u8(..5) == 0;
            if !early {
                relay.wait_until_ready();
            }
            let moment = Duration::from_millis(if early { random.u64(0..80) } else { random.u64(20..500) });
            // The one sleep of the tests: the moment of the kill is what is random here.
            std::thread::sleep(moment);
            arrivals.kill(relay);
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
fn assert_sound(relay: &Relay, kill: u64) {
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
            match client.transact(SENDER, "", &names, &content(id)) {
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

/// The id in a content, whatever was put in front: a header, or a report.
fn id_of(content: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(&content[..content.len().min(8192)]);
    head.lines().find_map(|line| line.strip_prefix("X-Id: ")?.parse().ok())
}

/// Gives how many connections are open.
fn start_sink(address: SocketAddr, domain: &'static str, arrivals: &Arc<Arrivals>) -> Arc<AtomicUsize> {
    let every_other = || {
        let (asked, arrivals) = (AtomicU64::new(0), Arc::clone(arrivals));
        move || {
            !arrivals.calm.load(Ordering::SeqCst) && asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
        }
    };
    let (is_odd_recipient, is_odd_dot) = (every_other(), every_other());
    let judge = move |_: &str| match domain {
        REFUSES => "550 5.1.1 No such user",
        "grey.test" if is_odd_recipient() => "451 4.7.1 Greylisted",
        "hangs.test" if is_odd_recipient() => sink::HANG,
        _ => "250 2.1.5 Ok",
    };
    let arrivals = Arc::clone(arrivals);
    let take = move |connection: usize, recipients: &[String], taken: &[u8]| {
        if domain == "drops.test" && is_odd_dot() {
            return sink::DROP;
        }
        let id = id_of(taken).unwrap_or(0);
        // Only a Received field may have come in front: Date and Message-ID are there. A bounce has the header alone.
        if domain != HOME && !taken.ends_with(&content(id)) {
            arrivals.damaged.lock().unwrap().push(id);
        }
        arrivals.take(connection, id, recipients);
        "250 2.0.0 Taken"
    };
    sink::start(address, Arc::new(judge), Arc::new(take))
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
