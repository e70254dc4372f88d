//! Where connections leave from, end to end: addresses by user and by route, the name that goes with each, and two
//! families of which one swallows everything.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::fakemx::{FakeMx, SOON, Script, Seen};
use crate::harness::log;
use crate::harness::relay::{Client, Config, Relay, World, mail};
use crate::harness::sender::{SENDER, wait_for_attempts};
use crate::harness::skipped::skipped;

/// The address of a host in every family but IPv4; none where this machine has no IPv6.
fn v6(world: &World) -> Option<SocketAddr> {
    let address = SocketAddr::new("::1".parse().unwrap(), world.mx_port);
    if TcpListener::bind(address).is_err() {
        skipped("no IPv6 on loopback");
        return None;
    }
    Some(address)
}

/// A listener whose queue is full: every further SYN is swallowed.
struct BlackHole {
    _listener: Socket,
    _filled: Vec<TcpStream>,
}

impl BlackHole {
    fn at(address: SocketAddr) -> BlackHole {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let probe = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let filled: Vec<TcpStream> = std::iter::from_fn(probe).take(16).collect();
        assert!(filled.len() < 16, "its queue never fills");
        BlackHole { _listener: listener, _filled: filled }
    }
}

/// A session of a user who logged in.
fn client_of(relay: &Relay, user: &str) -> Client {
    let mut client = relay.client();
    client.log_in(user);
    client
}

/// The EHLO names of a connection, each once.
fn names(seen: &Seen) -> BTreeSet<&str> {
    seen.commands.iter().filter_map(|line| line.strip_prefix("EHLO ")).collect()
}

#[test]
fn an_ipv6_address_that_swallows_packets_does_not_cost_the_connect_timeout() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let Some(six) = v6(&world) else { return };
    world.zone(|zone| zone.address("mx.a.test", six.ip()));
    let _hole = BlackHole::at(six);
    let relay = world.relay(Config::new().set("delivery.connect_timeout", "\"20s\""));
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    mx.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    let tries = relay.db().rows("SELECT outcome, mx, ip, phase FROM attempts", []);
    assert_eq!(tries, [format!("delivered|mx.a.test|{}|end_of_data", mx.address.ip())]);
    let took = relay.db().number("SELECT duration_ms FROM attempts", []);
    assert!((200..10_000).contains(&took), "{took} ms");
    assert_eq!(relay.logged(&[log::HOST_IN_TROUBLE]), [""; 0], "nobody failed");
}

#[test]
fn both_families_fail_and_both_are_told() {
    let mut world = World::new();
    world.closed_mx("a.test", 10, "mx.a.test");
    let Some(six) = v6(&world) else { return };
    world.zone(|zone| zone.address("mx.a.test", six.ip()));
    let _hole = BlackHole::at(six);
    let relay = world.relay(Config::new().set("delivery.connect_timeout", "\"1s\""));
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    let ip = "127.0.0.2";
    let tries = relay.db().rows("SELECT ip, phase, code, enhanced, reply_source FROM attempts", []);
    assert_eq!(tries, [format!("{ip}|connect|421|4.4.1|local")]);
    let swallowed = format!("mx.a.test[{six}]");
    let told = relay.logged(&[log::HOST_IN_TROUBLE, &swallowed, "phase=connect", "reply=421 4.4.1"]);
    assert_eq!(told.len(), 1);
}

#[test]
fn the_mail_of_two_users_leaves_from_their_own_addresses_and_never_shares_a_connection() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let config = Config::new()
        .set("delivery.source_addresses", "[\"127.0.0.1\"]")
        // The less there is, the greater the temptation to share.
        .set("delivery.connections_per_destination", "1")
        .source("address = \"127.0.0.50\"\nhostname = \"out50.test\"\nusers = [\"news\"]")
        .source("address = \"127.0.0.51\"\nhostname = \"out51.test\"\nusers = [\"shop\"]");
    let relay = world.relay(config);
    let users = ["news", "shop", "app"];
    users[..2].iter().for_each(|user| relay.add_user_with(user, &[]));
    let mut clients = users.map(|user| client_of(&relay, user));
    for number in 0..5 {
        for (user, client) in users.iter().zip(&mut clients) {
            client.submit(SENDER, &[&format!("{user}{number}@a.test")], &mail("hello"));
        }
    }
    mx.wait_for_messages(15, SOON);
    relay.wait_until_empty();
    let seen = mx.seen();
    for message in mx.messages() {
        let to = &message.rcpts[0];
        let (from, name) = match () {
            () if to.contains("news") => ("127.0.0.50", "out50.test"),
            () if to.contains("shop") => ("127.0.0.51", "out51.test"),
            () => ("127.0.0.1", "relay.test"),
        };
        let on = &seen[message.connection];
        assert_eq!((on.client.as_str(), names(on)), (from, BTreeSet::from([name])), "{to}");
    }
    // The host may see the next before it has noticed that the last is over.
    assert!(mx.most_open() <= 2, "{}", mx.most_open());
    let tries = relay.db().rows("SELECT outcome, count(*) FROM attempts GROUP BY outcome", []);
    assert_eq!(tries, ["delivered|15"]);
}

#[test]
fn connections_of_a_route_leave_from_its_own_addresses() {
    let mut world = World::new();
    let relay_address = world.address("up.test");
    let up = FakeMx::start_at(relay_address, vec![Script::new()]);
    let to = format!("relay = [\"up.test:{}\"]\ntls = \"off\"", relay_address.port());
    let config = Config::new()
        .set("delivery.connections_per_destination", "1")
        .route(&format!("domain = \"a.test\"\n{to}\nsource_addresses = [\"127.0.0.52\"]"))
        .route(&format!("domain = \"b.test\"\n{to}\nsource_addresses = [\"127.0.0.53\"]"))
        .source("address = \"127.0.0.53\"\nhostname = \"out53.test\"")
        .source("address = \"127.0.0.54\"\nusers = [\"news\"]");
    let relay = world.relay(config);
    relay.add_user_with("news", &[]);
    let mut client = relay.client();
    for number in 0..3 {
        for domain in ["a.test", "b.test"] {
            client.submit(SENDER, &[&format!("you{number}@{domain}")], &mail("hello"));
        }
    }
    client_of(&relay, "news").submit(SENDER, &["news@b.test"], &mail("hello"));
    up.wait_for_messages(7, SOON);
    let seen = up.seen();
    for message in up.messages() {
        let to = &message.rcpts[0];
        let (from, name) = match () {
            () if to.contains("@a.test") => ("127.0.0.52", "relay.test"),
            // The user's own goes before the route's.
            () if to.contains("news@") => ("127.0.0.54", "relay.test"),
            () => ("127.0.0.53", "out53.test"),
        };
        let on = &seen[message.connection];
        assert_eq!((on.client.as_str(), names(on)), (from, BTreeSet::from([name])), "{to}");
    }
}

#[test]
fn hosts_of_a_family_without_a_source_address_are_not_tried() {
    let mut world = World::new();
    let four = world.host("dual.test", Script::new());
    let Some(six) = v6(&world) else { return };
    let never = FakeMx::start_at(six, vec![Script::new()]);
    world.zone(|zone| {
        zone.address("mx.dual.test", six.ip())
            .mx("six.test", 10, "mx.six.test")
            .address("mx.six.test", six.ip())
    });
    let relay = world.relay(Config::new().set("delivery.source_addresses", "[\"127.0.0.1\"]"));
    relay.submit(SENDER, &["you@dual.test"], &mail("hello"));
    relay.submit(SENDER, &["you@six.test"], &mail("hello"));
    four.wait_for_messages(1, SOON);
    wait_for_attempts(&relay, "you@six.test", "deferred", 1);
    let tries =
        relay.db().rows("SELECT phase, reply_source, reply FROM attempts WHERE outcome = 'deferred'", []);
    let reply = "451 4.3.5 no source address of the family of mx.six.test (::1): mail leaves from 127.0.0.1";
    assert_eq!(tries, [format!("dns|local|{reply}")]);
    assert_eq!(never.seen().len(), 0);
}

#[test]
fn an_address_that_this_machine_does_not_have_holds_up_its_own_mail_alone_and_is_told_everywhere() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    // TEST-NET-3.
    let gone = "203.0.113.201";
    let config = Config::new()
        .set("delivery.source_addresses", "[\"127.0.0.1\"]")
        .source(&format!("address = \"{gone}\"\nhostname = \"out.test\"\nusers = [\"news\", \"nobody\"]"));
    let relay = world.relay(config);
    relay.add_user_with("news", &[]);
    client_of(&relay, "news").submit(SENDER, &["news@a.test"], &mail("hello"));
    wait_for_attempts(&relay, "news@a.test", "deferred", 1);
    let tries = relay.db().rows("SELECT mx, phase, code, enhanced, reply_source FROM attempts", []);
    assert_eq!(tries, ["mx.a.test|connect|451|4.3.5|local"]);
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    mx.wait_for_messages(1, SOON);
    assert_eq!(relay.logged(&[log::LANE_BACKS_OFF]), [""; 0], "the destination is well");
    assert_eq!(relay.logged(&[log::NO_SOURCE, gone]).len(), 1);

    let check = relay.run(&["check", "--json"]);
    assert_eq!(check.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let found = |level: &str, text: &str| {
        let mut findings = found["findings"].as_array().unwrap().iter();
        findings.any(|finding| {
            let says = finding["text"].as_str().is_some_and(|said| said.contains(text));
            finding["about"] == "sources" && finding["level"] == level && says
        })
    };
    assert!(
        found("problem", gone) && found("warning", "nobody"),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
}

#[test]
fn explain_shows_where_mail_would_leave_from_and_under_which_name() {
    let mut world = World::new();
    let host = world.address("mx.a.test");
    world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
    let config = Config::new()
        .set("delivery.source_addresses", "[\"127.0.0.1\", \"127.0.0.3\"]")
        .source("address = \"127.0.0.3\"\nhostname = \"out3.test\"")
        .source("address = \"127.0.0.50\"\nhostname = \"out50.test\"\nusers = [\"news\"]");
    let relay = world.relay(config);
    let from = |arguments: &[&str]| {
        let told = relay.json(&[&["explain", "you@a.test"], arguments].concat());
        let hop = &told[0]["endpoints"][0];
        assert_eq!(hop["address"], host.to_string());
        hop["from"].clone()
    };
    let source = |address: &str, ehlo: &str| serde_json::json!({ "address": address, "ehlo": ehlo });
    let of_all = [source("127.0.0.1", "relay.test"), source("127.0.0.3", "out3.test")];
    assert_eq!(from(&[]), serde_json::json!(of_all));
    assert_eq!(from(&["--user", "news"]), serde_json::json!([source("127.0.0.50", "out50.test")]));
}
