//! One connection for message after message: idle for a few seconds, for so many messages and no more, and a host
//! that closes it meanwhile has done nothing wrong.

use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_end};

/// Submits one after the other, each settled before the next; the connections that they came on.
fn deliver(relay: &Relay, mx: &FakeMx, messages: usize) -> Vec<usize> {
    let mut client = relay.client();
    for number in 1..=messages {
        client.submit(SENDER, &[&format!("r{number}@a.test")], &mail("again"));
        mx.wait_for_messages(number, SOON);
        relay.wait_until_empty();
    }
    mx.messages().iter().map(|message| message.connection).collect()
}

#[test]
fn an_idle_connection_is_closed_politely_after_a_few_seconds() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    assert_eq!(deliver(&relay, &mx, 2), [0, 0]);
    let idle_since = Instant::now();
    let seen = mx.wait_for_closed(1, SOON);
    assert_eq!(seen[0].verbs().last(), Some(&"QUIT"));
    let idle = idle_since.elapsed();
    assert!(idle >= Duration::from_secs(2) && idle < Duration::from_secs(10), "{idle:?}");
}

#[test]
fn a_connection_is_closed_after_so_many_messages() {
    let by_host: &[&str] = &["PIPELINING", "LIMITS MAILMAX=2"];
    let ordinary: &[&str] = &["PIPELINING"];
    for (offers, most) in [(ordinary, "2"), (by_host, "100")] {
        let mut world = World::new();
        let mx = world.host("a.test", Script::new().offering(offers));
        let relay = world.relay(Config::new().set("delivery.messages_per_connection", most));
        assert_eq!(deliver(&relay, &mx, 5), [0, 0, 1, 1, 2]);
        for full in &mx.seen()[..2] {
            assert_eq!(full.verbs().last(), Some(&"QUIT"), "{:?}", full.verbs());
        }
    }
}

/// RFC 5321 §3.8 lets a host close whenever it likes. The next message finds the connection gone, or hears 421 on
/// it, and goes over a fresh one: no attempt more, no backoff, nothing learnt about the host.
#[test]
fn a_host_that_closed_early_costs_nothing() {
    let soon = Duration::from_millis(100);
    let idle_421 = "421 4.4.2 idle for too long";
    for (place, act) in [
        (At::Dot, Act::SayAndClose("250 2.0.0 queued, and good bye")),
        (At::Mail, Act::SayAndClose(idle_421)),
        (At::Mail, Act::Close),
        (At::Mail, Act::Reset),
        (At::Mail, Act::Later(soon, Box::new(Act::Close))),
        (At::Rcpt("@"), Act::SayAndClose(idle_421)),
        (At::Data, Act::SayAndClose(idle_421)),
        (At::Dot, Act::Raw(format!("250 2.0.0 queued\r\n{idle_421}\r\n").into_bytes())),
    ] {
        let mut world = World::new();
        let first = match place {
            At::Dot => Script::new().on(place, act.clone()),
            _ => Script::new().after(1, place, act.clone()),
        };
        world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
        let mx = FakeMx::start_at(world.address("mx.a.test"), vec![first, Script::new()]);
        let relay = world.relay(Config::new());
        assert_eq!(deliver(&relay, &mx, 2), [0, 1], "{place:?} {act:?}");
        wait_for_end(&relay, "r2@a.test", "delivered");
        let db = relay.db();
        assert_eq!(
            db.rows("SELECT outcome FROM attempts", []),
            ["delivered", "delivered"],
            "{place:?} {act:?}"
        );
        assert_eq!(db.number("SELECT max(attempts) FROM history", []), 1);
        for table in ["backoffs", "host_settings"] {
            assert_eq!(
                db.number(&format!("SELECT count(*) FROM {table}"), []),
                0,
                "{table}: {place:?} {act:?}"
            );
        }
        assert_eq!(relay.logged(&[log::LANE_BACKS_OFF]), [""; 0]);
    }
}

/// A host that takes one recipient in a transaction, or one message on a connection, by its own words (RFC 9422) or
/// without any: each further recipient goes at once, on the next transaction or connection of the same attempt.
#[test]
fn recipients_that_a_host_takes_one_by_one_go_at_once() {
    let bye = Act::SayAndClose("250 2.0.0 queued, and good bye");
    let one = || Script::new().recipients_max(1);
    let offering = |limits: &str| Script::new().offering(&["PIPELINING", &format!("LIMITS {limits}")]);
    for (name, script, connections) in [
        ("RCPTMAX=1", offering("RCPTMAX=1"), 1),
        ("both", offering("MAILMAX=1 RCPTMAX=1"), 30),
        ("452", one(), 1),
        ("452 and closes", one().on(At::Dot, bye.clone()), 30),
        ("452, closes, no pipelining", one().offering(&[]).on(At::Dot, bye), 30),
        ("452 and 421 at the next", one().on(At::Rset, Act::SayAndClose("421 4.7.0 enough")), 30),
        ("452 and MAILMAX=3", offering("MAILMAX=3").recipients_max(1), 10),
    ] {
        let mut world = World::new();
        let mx = world.host("a.test", script);
        let relay = world.relay(Config::new().retry(&["1h"]));
        let to: Vec<String> = (0..30).map(|number| format!("r{number}@a.test")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let began = Instant::now();
        relay.submit(SENDER, &to, &mail("to all"));
        mx.wait_for_messages(30, SOON);
        relay.wait_until_empty();
        assert!(began.elapsed() < Duration::from_secs(8), "{name}: {:?}", began.elapsed());
        assert_eq!((mx.messages().len(), mx.seen().len()), (30, connections), "{name}");
        let attempts = relay.db().rows("SELECT outcome, count(*) FROM attempts GROUP BY outcome", []);
        assert_eq!(attempts, ["delivered|30"], "{name}");
        if name.contains("both") || name.contains("MAILMAX") {
            // RFC 5321 §4.1.1.10: it is we who end these.
            let seen = mx.wait_for_closed(connections, SOON);
            assert!(seen.iter().all(|seen| seen.verbs().last() == Some(&"QUIT")), "{name}: {seen:#?}");
        }
    }
}

/// What a connection in use at a reload was asked to prove is not what the new config asks for.
#[test]
fn a_connection_that_is_in_use_at_a_reload_is_closed_after_its_message() {
    let mut world = World::new();
    let slow = Act::Later(Duration::from_millis(1200), Box::new(Act::Say("250 2.0.0 ok")));
    let mx = world.host("a.test", Script::new().on(At::Dot, slow));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["r1@a.test"], &mail("before"));
    mx.wait_for_command("DATA", SOON);
    relay.signal("HUP");
    wait_for("the reload", SOON, || (!relay.logged(&["config reloaded"]).is_empty()).then_some(()));
    assert_eq!(mx.messages().len(), 0, "it is in use");
    relay.wait_until_empty();
    relay.submit(SENDER, &["r2@a.test"], &mail("after"));
    let messages = mx.wait_for_messages(2, SOON);
    assert_eq!(messages.iter().map(|message| message.connection).collect::<Vec<_>>(), [0, 1]);
}
