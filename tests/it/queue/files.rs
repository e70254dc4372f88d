//! The files of the queue, taken away from a relay that runs.

use std::time::{Duration, Instant};

use crate::harness::client::Client;
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// What is acknowledged after that went into a file that is gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_queue_that_is_removed_ends_the_relay_before_it_acknowledges_more() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("before"));
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        std::fs::remove_file(relay.path(name)).unwrap();
    }
    let removed = Instant::now();
    let mut acknowledged = removed;
    // Without a pause, until nobody listens any more.
    wait_for("the relay to refuse", SOON, || {
        let mut client = match Client::connect(relay.clear) {
            Ok(client) => client,
            Err(_) => return Some(()),
        };
        let _ = client.say("EHLO app.test");
        if client.transact(SENDER, "", &["you@a.test"], &mail("after")).is_ok_and(|reply| reply.code == 250) {
            acknowledged = Instant::now();
        }
        None
    });
    assert!(acknowledged - removed < NOTICED_WITHIN, "{:?}", acknowledged - removed);
    assert_eq!(relay.wait_for_exit(SOON).code(), Some(1));
    let [line] = &relay.logged(&["ERROR", "queue.db is gone"])[..] else { panic!("one line: {}", relay.log()) };
    assert!(line.contains("the database that was in use is removed"), "{line}");
}
