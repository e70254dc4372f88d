//! The relay is killed at each of its system calls that write, or it is told there that the disk is broken or full.
//!
//! strace counts the calls of each thread and strikes at the first thread's Nth call of one kind, for every N until
//! the relay comes through unhurt. Each time three messages are handed in, one that is delivered, one that is deferred
//! and one that bounces; then the relay starts again without strace, and what was acknowledged must come to its end.
//! Sessions talk more than deliveries, and before them; so that the calls of deliveries are struck too, there are lives
//! that find the messages in the queue. `cargo test` tries a few N, `.ci/run` all of them (`KILL_EVERY=1`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::client::queue_id;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Client, Config, Db, Relay, World, free_port, mail, notice, wait_for};
use crate::harness::skipped::may_trace;

/// The calls that change a file.
const WRITING: [&str; 6] = ["pwrite64", "fsync", "fdatasync", "ftruncate", "unlink", "openat"];
/// The calls by which something is heard from or told to the world.
const TALKING: [&str; 2] = ["sendto", "recvfrom"];
/// How many relays are tried at the same time: they mostly wait.
const AT_ONCE: usize = 4;

/// Three recipients: who takes mail, who puts it off, who refuses it.
const RECIPIENTS: [&str; 3] = ["you@takes.test", "you@defers.test", "you@refuses.test"];

struct Hosts {
    world: World,
    _hosts: [FakeMx; 4],
}

impl Hosts {
    fn new() -> Hosts {
        let mut world = World::new();
        let hosts = [
            world.host("takes.test", Script::new()),
            world.host("defers.test", Script::new().on(At::Rcpt("you"), Act::Say("451 4.7.1 later"))),
            world.host("refuses.test", Script::new().on(At::Rcpt("you"), Act::Say("550 5.1.1 no such user"))),
            world.host("app.test", Script::new()),
        ];
        Hosts { world, _hosts: hosts }
    }

    fn relay(&self) -> Relay {
        let config = self.world.configured(Config::new().set("delivery.workers", "4"));
        Relay::prepare(config.set("limits.sessions_per_client", "100"))
    }
}

/// What the relay that is struck does.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// It takes the messages, and delivers them.
    Taking,
    /// It finds them in the queue.
    Delivering,
}

/// Where strace strikes: at the Nth call of this name, with this (`signal=KILL`, `error=EIO`).
struct Strike<'a> {
    life: Life,
    call: &'a str,
    blow: &'a str,
    at: usize,
}

/// What an acknowledged message is known by: the place of its recipient in [`RECIPIENTS`], and its queue id.
type Acknowledged = (usize, String);

#[test]
fn killed_at_any_system_call_it_keeps_what_it_acknowledged() {
    if !may_trace() {
        return;
    }
    let hosts = Hosts::new();
    let taking = WRITING.iter().chain(&TALKING).map(|call| (Life::Taking, call));
    let delivering = TALKING.iter().map(|call| (Life::Delivering, call));
    let points = taking.chain(delivering).map(|(life, call)| {
        let points = at_every_call(&hosts, life, call, "signal=KILL");
        assert!(points > 0 || *call == "fdatasync", "{life:?}: {call} was never struck");
        format!("{life:?} {call} {points}")
    });
    notice(&format!("killed at system calls: {}", points.collect::<Vec<_>>().join(", ")));
}

#[test]
fn a_write_that_fails_at_any_time_is_never_acknowledged() {
    if !may_trace() {
        return;
    }
    let hosts = Hosts::new();
    let mut points = Vec::new();
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fsync", "EIO"),
        ("fdatasync", "EIO"),
        ("fdatasync", "ENOSPC"),
        ("ftruncate", "EIO"),
    ] {
        let struck = at_every_call(&hosts, Life::Taking, call, &format!("error={error}"));
        points.push(format!("{call} {error} {struck}"));
    }
    notice(&format!("failed system calls: {}", points.join(", ")));
}

/// Strikes at each call of this name until there are no more; how many times.
fn at_every_call(hosts: &Hosts, life: Life, call: &str, blow: &str) -> usize {
    let every: usize = std::env::var("KILL_EVERY").ok().and_then(|every| every.parse().ok()).unwrap_or(23);
    let next = AtomicUsize::new(1);
    let end = AtomicUsize::new(usize::MAX);
    let struck = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(every, Ordering::SeqCst);
                    if at >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    if strike(hosts, &Strike { life, call, blow, at }) {
                        struck.fetch_add(1, Ordering::SeqCst);
                    } else {
                        end.fetch_min(at, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    struck.into_inner()
}

/// One life of a relay with a blow in it, and the life after. Whether the blow fell.
fn strike(hosts: &Hosts, strike: &Strike<'_>) -> bool {
    let mut relay = hosts.relay();
    let mut acknowledged = match strike.life {
        Life::Taking => Vec::new(),
        Life::Delivering => in_the_queue(&mut relay),
    };
    let inject = format!("--inject={}:{}:when={}", strike.call, strike.blow, strike.at);
    let trace = relay.path("trace");
    let only = format!("--trace={}", strike.call);
    relay.spawn_under_strace(&["-o", trace.to_str().unwrap(), &only, &inject]);
    if acknowledged.is_empty() {
        acknowledged = hand_in(&mut relay);
    }
    if acknowledged.len() == RECIPIENTS.len() {
        let until = Instant::now() + SOON;
        while relay.is_running() && !is_settled(&relay) {
            assert!(Instant::now() < until, "{inject}: not settled\n{}", relay.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    if relay.is_running() {
        relay.terminate();
        wait_for("the relay to end", SOON, || (!relay.is_running()).then_some(()));
    }
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    let fell = trace.contains("(INJECTED)") || trace.contains("killed by SIGKILL");

    relay.start_again();
    for (recipient, id) in &acknowledged {
        let what = format!("{inject}: {} ({id}) to come to its end", RECIPIENTS[*recipient]);
        relay.wait_until(&what, SOON, |db| is_at_its_end(db, *recipient, id).then_some(()));
    }
    relay.kill();
    let db = relay.db();
    assert_eq!(db.row("PRAGMA integrity_check", []).as_deref(), Some("ok"), "{inject}");
    assert_eq!(db.rows("SELECT * FROM stuck", []), Vec::<String>::new(), "{inject}");
    fell
}

/// A relay that reaches nobody takes the three messages and stops; then they are due.
fn in_the_queue(relay: &mut Relay) -> Vec<Acknowledged> {
    let config = relay.config();
    relay.write_config(&config.clone().set("delivery.port", free_port().to_string()));
    relay.spawn();
    let acknowledged = hand_in(relay);
    relay.wait_until("three deferrals", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 3).then_some(())
    });
    relay.stop();
    relay.write_config(&config);
    let db = relay.db_for_writing();
    db.execute("UPDATE recipients SET next_attempt_at = unixepoch()", []);
    db.execute("DELETE FROM backoffs", []);
    acknowledged
}

/// Hands in the three messages, as far as the relay lives; what it acknowledged.
fn hand_in(relay: &mut Relay) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let until = Instant::now() + SOON;
    let mut client = loop {
        match Client::connect(relay.clear) {
            Ok(client) => break client,
            Err(_) if !relay.is_running() => return acknowledged,
            Err(error) => assert!(Instant::now() < until, "{error}\n{}", relay.log()),
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    if client.say("EHLO app.test").is_err() {
        return acknowledged;
    }
    for (at, recipient) in RECIPIENTS.iter().enumerate() {
        match client.transact("me@app.test", "", &[recipient], &mail("all's well")) {
            Ok(reply) if reply.code == 250 => acknowledged.push((at, queue_id(&reply.text))),
            Ok(_) | Err(_) => break,
        }
    }
    acknowledged
}

/// Whether all three messages and the bounce have had their try.
fn is_settled(relay: &Relay) -> bool {
    let db = relay.db();
    db.number("SELECT count(*) FROM history WHERE state IN ('delivered', 'failed')", []) == 3
        && db.number("SELECT count(*) FROM recipients WHERE last_reply LIKE '451 4.7.1%'", []) == 1
}

/// Whether a message has come to what its host makes of it; a refused one with its bounce delivered.
fn is_at_its_end(db: &Db, recipient: usize, id: &str) -> bool {
    let count = |sql: &str| db.number(sql, [id]);
    match recipient {
        0 => count("SELECT count(*) FROM history WHERE queue_id = ? AND state = 'delivered'") == 1,
        1 => count("SELECT count(*) FROM queue WHERE queue_id = ? AND last_reply LIKE '451 4.7.1%'") == 1,
        _ => {
            count("SELECT count(*) FROM history WHERE queue_id = ? AND state = 'failed'") == 1
                && db.ended("me@app.test").as_deref() == Some("delivered")
        }
    }
}
