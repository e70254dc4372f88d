//! Domains with more MX hosts than an attempt has room for, end to end: whom mail reaches, and when it comes back.

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::{SENDER, wait_for_attempts, world_with_sender};

/// A host that takes no mail (RFC 7504).
fn refusing() -> Script {
    Script::new().on(At::Greeting, Act::Say("554 5.7.1 no mail here"))
}

/// Six MX of `a.test`, made by `bad`, and a good one behind them.
fn six_and_a_good_one(world: &mut World, bad: impl Fn(&mut World, u16, &str)) -> FakeMx {
    for number in 1..=6 {
        bad(world, number, &format!("mx{number}.a.test"));
    }
    world.mx("a.test", 7, "good.a.test", Script::new())
}

#[test]
fn names_that_do_not_exist_do_not_hide_the_good_host() {
    let mut world = World::new();
    let good = six_and_a_good_one(&mut world, |world, preference, name| {
        world.zone(|zone| zone.mx("a.test", preference, name));
    });
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    good.wait_for_messages(1, SOON);
    relay.wait_until_empty();
}

#[test]
fn behind_six_that_refuse_the_seventh_is_reached_and_nothing_bounces() {
    let mut world = World::new();
    let hosts = std::cell::RefCell::new(Vec::new());
    let good = six_and_a_good_one(&mut world, |world, preference, name| {
        hosts.borrow_mut().push(world.mx("a.test", preference, name, refusing()));
    });
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    good.wait_for_messages(1, SOON);
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    relay.wait_until_empty();
}

/// The other side: a list that was asked as a whole has spoken for the domain.
#[test]
fn where_every_host_refuses_mail_bounces_at_once() {
    let (mut world, home) = world_with_sender();
    let _hosts: Vec<FakeMx> =
        (1..=5).map(|n| world.mx("a.test", n, &format!("mx{n}.a.test"), refusing())).collect();
    // A name that is no host is none that could have taken the mail.
    world.zone(|zone| zone.mx("a.test", 9, "nosuch.a.test"));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    home.wait_for_messages(1, SOON);
}

/// A host that cannot be looked up today might have taken it.
#[test]
fn a_host_that_could_not_be_asked_keeps_mail_from_bouncing() {
    use crate::harness::dns_server::Fault;
    let (mut world, home) = world_with_sender();
    let _refuses = world.mx("a.test", 10, "mx.a.test", refusing());
    world.zone(|zone| zone.mx("a.test", 20, "broken.a.test").fault("broken.a.test", Fault::Servfail));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    assert!(home.messages().is_empty());
}
