//! What is delivered and not yet recorded is delivered again after a kill: how much that can be.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::delivery::bdat::chunking;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail};
use crate::harness::sender::SENDER;

const MESSAGES: usize = 40;

/// One message of each connection; the host that offers CHUNKING has each in a single write.
#[test]
fn deliveries_do_not_run_ahead_of_their_records() {
    std::thread::scope(|scope| {
        for (script, most) in [(Script::new(), 4), (chunking(), 1)] {
            scope.spawn(move || {
                let mut world = World::new();
                let mx = world.host("a.test", refuses_once(script));
                let mut relay = world.relay(connections(most));
                let mut client = relay.client();
                for number in 0..MESSAGES {
                    client.submit(SENDER, &[&format!("you{number}@a.test")], &mail("one"));
                }
                let twice = twice_after_a_kill(&mut relay, &mx, MESSAGES);
                assert!((1..=most).contains(&twice), "{twice} over {most} connections");
            });
        }
    });
}

/// The same of the transactions of one message, at a host that takes one recipient in each, or one on each connection.
#[test]
fn the_transactions_of_a_message_do_not_run_ahead_of_their_records() {
    let one_each = || refuses_once(Script::new().recipients_max(1));
    let closing = Act::SayAndClose("250 2.0.0 taken, and no more");
    std::thread::scope(|scope| {
        for script in [one_each(), one_each().on(At::Dot, closing)] {
            scope.spawn(move || {
                let mut world = World::new();
                let mx = world.host("a.test", script);
                let mut relay = world.relay(connections(1));
                let recipients: Vec<String> = (0..6).map(|number| format!("you{number}@a.test")).collect();
                let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
                relay.client().submit(SENDER, &recipients, &mail("one"));
                let twice = twice_after_a_kill(&mut relay, &mx, recipients.len());
                assert_eq!(twice, 1, "of {}", recipients.len());
            });
        }
    });
}

fn connections(most: usize) -> Config {
    Config::new().retry(&["1h"]).set("delivery.connections_per_destination", most.to_string())
}

/// So that all mail waits together.
fn refuses_once(script: Script) -> Script {
    script.first(1, At::Greeting, Act::SayAndClose("421 4.3.2 not now"))
}

/// Somebody holds the database, so that nothing can be recorded, what waits is due, and the relay is killed. What it
/// had delivered by then comes again: how many recipients of `all`.
fn twice_after_a_kill(relay: &mut Relay, mx: &FakeMx, all: usize) -> usize {
    relay.wait_until("the backoff", SOON, |db| db.row("SELECT 1 FROM backoffs", []));
    let hand = relay.db_for_writing();
    for sql in [
        "BEGIN IMMEDIATE",
        "UPDATE recipients SET next_attempt_at = unixepoch()",
        "DELETE FROM backoffs",
        "COMMIT",
        "BEGIN IMMEDIATE",
    ] {
        hand.execute(sql, []);
    }
    mx.wait_for_messages(1, SOON);
    let delivered = settled_count(mx);
    relay.kill();
    hand.execute("ROLLBACK", []);
    assert_eq!(hand.number("SELECT count(*) FROM history", []), 0);
    hand.execute("UPDATE recipients SET next_attempt_at = unixepoch()", []);
    relay.spawn();
    relay.wait_until_ready();
    relay.wait_until_empty();
    let messages = mx.messages();
    let arrived: Vec<&String> = messages.iter().flat_map(|message| &message.rcpts).collect();
    assert_eq!(arrived.iter().collect::<HashSet<_>>().len(), all, "{arrived:?}");
    assert_eq!(arrived.len() - all, delivered, "all that was delivered before the kill came again");
    delivered
}

/// How many messages came, once no more come for a second.
fn settled_count(mx: &FakeMx) -> usize {
    let (mut count, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        let now = mx.messages().len();
        if now != count {
            (count, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    count
}
