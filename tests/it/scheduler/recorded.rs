//! What is delivered and not yet recorded is delivered again after a kill: how much that can be.

use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::SENDER;

const CONNECTIONS: usize = 4;
const MESSAGES: usize = 100;

/// Somebody holds the database, so that nothing can be recorded, and the relay is killed. What it had delivered by then
/// comes again: that of the group that was being committed, and one message a connection.
#[test]
fn deliveries_do_not_run_ahead_of_their_records() {
    let mut world = World::new();
    let busy = Act::SayAndClose("421 4.3.2 not now");
    let mx = world.host("a.test", Script::new().first(1, At::Greeting, busy));
    let config =
        Config::new().retry(&["1h"]).set("delivery.connections_per_destination", CONNECTIONS.to_string());
    let mut relay = world.relay(config);
    let mut client = relay.client();
    for number in 0..MESSAGES {
        client.submit(SENDER, &[&format!("you{number}@a.test")], &mail("one"));
    }
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
    let delivered = settled_count(&mx);
    relay.kill();
    hand.execute("ROLLBACK", []);
    let recorded = usize::try_from(hand.number("SELECT count(*) FROM history", [])).unwrap();
    let ahead = delivered - recorded;
    assert!(ahead <= 2 * CONNECTIONS, "{delivered} delivered, {recorded} recorded");
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
