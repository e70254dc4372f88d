//! Commands and small content in one write, to hosts with PIPELINING and CHUNKING: from the second message of a
//! connection on, so that only hosts are trusted with it that took a batch.

use crate::delivery::bdat::{chunking, world_with};
use crate::harness::fakemx::{Act, At, SOON, Script, Seen};
use crate::harness::relay::{Config, Relay, mail};
use crate::harness::sender::{SENDER, wait_for_end};

/// Messages one after the other, each to an address of its own, and each at its end before the next.
fn send(relay: &Relay, names: &[&str]) {
    let mut client = relay.client();
    for name in names {
        let to = format!("{name}@a.test");
        client.submit(SENDER, &[&to], &content(name));
        wait_for_end(relay, &to, "delivered");
    }
}

/// With what would mean something to a host that looks for dots.
fn content(name: &str) -> Vec<u8> {
    [mail(name), b".\r\n..\r\nQUIT\r\n".to_vec()].concat()
}

/// DATA and BDAT, in the order in which they came.
fn ways(seen: &[Seen]) -> Vec<&str> {
    seen.iter().flat_map(Seen::verbs).filter(|verb| matches!(*verb, "DATA" | "BDAT")).collect()
}

#[test]
fn the_second_message_of_a_connection_goes_in_one_go_and_arrives_as_it_is() {
    let (world, mx) = world_with(chunking());
    let relay = world.relay(Config::new());
    send(&relay, &["one", "two", "three"]);
    let messages = mx.wait_for_messages(3, SOON);
    for (message, name) in messages.iter().zip(["one", "two", "three"]) {
        assert!(message.content.ends_with(&content(name)), "{}", String::from_utf8_lossy(&message.content));
        assert_eq!(message.rcpts.len(), 1);
    }
    assert_eq!(mx.seen().len(), 1, "one connection");
    assert_eq!(ways(&mx.seen()), ["DATA", "BDAT", "BDAT"]);
}

/// Where an intent has to be on disk before an answer can be in doubt, it cannot be: who is accepted is not known
/// yet.
#[test]
fn not_where_doubt_is_recorded_nor_at_a_host_without_chunking() {
    let lacking = Script::new().offering(&["PIPELINING", "SIZE", "8BITMIME"]);
    let hold = Config::new().set("delivery.in_doubt", "\"hold\"");
    for (script, config) in [(chunking(), hold), (lacking, Config::new())] {
        let (world, mx) = world_with(script);
        let relay = world.relay(config);
        send(&relay, &["one", "two"]);
        mx.wait_for_messages(2, SOON);
        assert_eq!(ways(&mx.seen()), ["DATA", "DATA"]);
    }
}

#[test]
fn a_host_that_fails_at_bdat_has_the_message_by_data_in_the_same_attempt() {
    let (world, mx) = world_with(chunking().on(At::Bdat, Act::Say("502 5.5.1 not here")));
    let relay = world.relay(Config::new());
    send(&relay, &["one", "two", "three", "four"]);
    let messages = mx.wait_for_messages(4, SOON);
    assert_eq!(messages.len(), 4, "each once");
    assert_eq!(ways(&mx.seen()), ["DATA", "BDAT", "DATA", "DATA", "DATA"], "once, and remembered");
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 4, "an attempt each");
    let row = relay.db().row("SELECT setting, value, last_reply FROM host_settings", []).unwrap();
    assert_eq!(row, "chunking|off|502 5.5.1 not here");
}

#[test]
fn a_connection_lost_behind_the_content_is_in_doubt_and_tried_again() {
    let script = chunking().after(1, At::Dot, Act::Close);
    let (world, mx) = world_with(script);
    let relay = world.relay(Config::new());
    send(&relay, &["one"]);
    relay.submit(SENDER, &["two@a.test"], &content("two"));
    let row = relay.wait_until("the attempt", SOON, |db| {
        db.row("SELECT phase, outcome FROM attempts WHERE outcome <> 'delivered'", [])
    });
    assert_eq!(row, "end_of_data|in_doubt");
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients", []), 1, "it stays in the queue");
    assert_eq!(mx.messages().len(), 1);
}

#[test]
fn each_recipient_of_a_message_in_one_go_has_its_own_answer() {
    let (mut world, mx) = world_with(chunking().on(At::Rcpt("gone@a.test"), Act::Say("550 5.1.1 gone")));
    let home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    send(&relay, &["one"]);
    let to = ["two@a.test", "gone@a.test", "three@a.test"];
    relay.submit(SENDER, &to, &content("two"));
    for (address, state) in [(to[0], "delivered"), (to[1], "failed"), (to[2], "delivered")] {
        wait_for_end(&relay, address, state);
    }
    assert_eq!(mx.wait_for_messages(2, SOON)[1].rcpts.len(), 2);
    assert_eq!(ways(&mx.seen()), ["DATA", "BDAT"]);
    assert_eq!(home.wait_for_messages(1, SOON).len(), 1, "the bounce");
}
