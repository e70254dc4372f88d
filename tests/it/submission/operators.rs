//! Operators ask over SMTP, a client kicks with ETRN: on real lanes, queue and config files.

use std::process::Command;

use rustix::fs::{Mode, OFlags};

use crate::harness::client::{Client, mail};
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, wait_for};
use crate::harness::sender::SENDER;

/// A session of an operator.
fn operator(relay: &Relay) -> Client {
    relay.add_user_with("op", &["--operator"]);
    let mut client = relay.client();
    client.log_in("op");
    client
}

/// The lines of an answer, without their codes.
fn lines(client: &mut Client, command: &str) -> Vec<String> {
    let reply = client.expect(command, "250 2.0.0");
    reply.text.lines().map(|line| line.strip_prefix("2.0.0 ").expect(command).to_owned()).collect()
}

#[test]
fn xsta_and_xcir_tell_what_waits_where_and_why() {
    let mut world = World::new();
    world.closed_mx("down.test", 10, "mx.down.test");
    let _slow = world.host("later.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let upstream = world.address("up.test");
    let route =
        format!("domain = \"*.routed.test\"\nrelay = [\"up.test:{}\"]\ntls = \"off\"", upstream.port());
    let relay = world.relay(Config::new().route(&route));
    relay.submit(SENDER, &["a@down.test", "b@down.test", "c@later.test"], &mail("one"));
    relay.submit(SENDER, &["a@x.routed.test", "b@y.routed.test"], &mail("two"));
    relay.wait_until("a first try each", SOON, |db| {
        db.row("SELECT 1 WHERE (SELECT count(*) FROM recipients WHERE attempts > 0) = 5", [])
    });
    let mut client = operator(&relay);

    let all = lines(&mut client, "XSTA");
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(all[0], "3 lanes, 5 recipients wait");
    let down = all[1].strip_prefix("down.test: 1 messages, 2 recipients, ").unwrap();
    // Whichever is later.
    assert!(down.starts_with("next due 20") || down.starts_with("its lane backs off until 20"), "{down}");
    let one = lines(&mut client, "XSTA route:*.routed.test");
    assert!(one.len() == 1 && one[0].starts_with("route:*.routed.test: 1 messages, 2 recipients"), "{one:?}");
    assert_eq!(lines(&mut client, "XSTA idle.test"), ["idle.test: nothing waits"]);

    let down = lines(&mut client, "XCIR down.test");
    assert!(down[0].starts_with("down.test: backing off until 20"), "{down:?}");
    // The reason is on disk within a second of the trouble.
    wait_for("the reason", SOON, || {
        lines(&mut client, "XCIR down.test")[0].contains("0 of 1 connections busy").then_some(())?;
        lines(&mut client, "XCIR down.test")[0].contains(" in line: (local) 421 4.4.1 ").then_some(())
    });
    let open = lines(&mut client, "XCIR later.test");
    assert_eq!(open, ["later.test: open, 0 of 8 connections busy, 0 in line"]);
    let all = lines(&mut client, "XCIR");
    assert!(all[0].contains(" 2 in trouble, 0 connections busy"), "{all:?}");
    assert!(all[1..3].iter().all(|line| line.contains(": backing off until ")), "trouble first: {all:?}");
}

#[test]
fn xadr_routes_as_a_delivery_would() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set("aliases.root", "[\"ops@a.test\"]"));
    let mut client = operator(&relay);
    let told = lines(&mut client, "XADR you@a.test");
    assert_eq!(told[0], "you@a.test");
    assert!(told.iter().any(|line| line.contains("mx.a.test at 127.0.0.2:")), "{told:?}");
    assert_eq!(told.last().map(|line| line.trim()), Some("lane: a.test"), "{told:?}");
    assert_eq!(lines(&mut client, "XADR root")[0], "ops@a.test");
    let told = lines(&mut client, "XADR you@nowhere.test");
    assert!(told.iter().any(|line| line.contains("would bounce at once: 550 5.1.2")), "{told:?}");
    // What `postrider explain` says.
    let explained = relay.run_ok(&["explain", "you@a.test"]);
    assert_eq!(explained.lines().collect::<Vec<_>>(), lines(&mut client, "XADR you@a.test"));
}

#[test]
fn xgen_tells_when_the_file_on_disk_differs_and_when_it_was_reloaded() {
    let world = World::new();
    let relay = world.relay(Config::new());
    let mut client = operator(&relay);
    let told = lines(&mut client, "XGEN");
    assert_eq!(told[0], format!("postrider {}", env!("CARGO_PKG_VERSION")));
    assert!(told[1].contains("postrider.toml, generation 1, loaded 20"), "{told:?}");
    assert_eq!(told[2], "file on disk: as it was loaded");

    relay.write_config(&relay.config().set("limits.errors", "17"));
    let told = lines(&mut client, "XGEN");
    assert!(told[2].contains("differs from what is loaded"), "{told:?}");
    relay.signal("HUP");
    wait_for("the second generation", SOON, || {
        let told = lines(&mut client, "XGEN");
        (told[1].contains("generation 2, ") && told[2].ends_with("as it was loaded")).then_some(())
    });
    // A bad one is not used.
    relay.write_config(&relay.config().set("limits.errors", "\"many\""));
    relay.signal("HUP");
    wait_for("the refusal in the log", SOON, || relay.logged(&[log::NOT_RELOADED]).pop());
    let told = lines(&mut client, "XGEN");
    assert!(told[1].contains("generation 2, ") && told[2].contains("differs"), "{told:?}");
}

#[test]
fn a_config_file_that_cannot_be_read_holds_up_nobody_but_who_asks_for_it() {
    let (world, at) = (World::new(), address());
    let relay = world.relay(watched(Config::new(), &[at]));
    let mut client = operator(&relay);
    // Whoever reads a pipe waits for its writer.
    let file = relay.path("postrider.toml");
    std::fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let asks = std::thread::spawn(move || lines(&mut client, "XGEN"));
    let open = || rustix::fs::open(&file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
    let writer = wait_for("XGEN to read it", SOON, open);
    for path in ["/", "/metrics", "/live"] {
        assert_eq!(get(at, path).status, 200, "{path}");
    }
    drop(writer);
    assert!(asks.join().unwrap()[2].contains("differs"));
}

#[test]
fn etrn_kicks_a_lane_by_its_name_and_each_kick_is_on_record() {
    let mut world = World::new();
    let upstream = world.address("up.test");
    let route =
        format!("domain = \"*.routed.test\"\nrelay = [\"up.test:{}\"]\ntls = \"off\"", upstream.port());
    let relay = world.relay(Config::new().route(&route));
    relay.submit(SENDER, &["a@x.routed.test", "b@y.routed.test"], &mail("waits"));
    relay.wait_until("a first try each", SOON, |db| {
        db.row("SELECT 1 WHERE (SELECT count(*) FROM recipients WHERE attempts > 0) = 2", [])
    });
    let mx = FakeMx::start_at(upstream, vec![Script::new()]);
    let mut client = relay.client();
    client.expect("ETRN #route:*.elsewhere.test", "459 4.5.4");
    client.expect("ETRN #x.routed.test", "459 4.5.4");
    client.expect("ETRN #route:*.routed.test", "253 2.0.0 Ok, 2 ");
    mx.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    client.expect("ETRN #route:*.routed.test", "458 4.7.1");
    client.expect("ETRN @routed.test", "251 2.0.0");
    relay.run_ok(&["queue", "kick", "--domain", "x.routed.test"]);

    let on_record = relay.db().rows("SELECT node, client, recipients FROM kicks ORDER BY id", []);
    assert_eq!(
        on_record,
        ["#route:*.routed.test|127.0.0.1|2", "@routed.test|127.0.0.1|0", "x.routed.test||0"],
        "{on_record:?}"
    );
    let shown = relay.json(&["queue", "kicks", "--limit", "2"]);
    let nodes: Vec<&str> = shown.iter().filter_map(|kick| kick["node"].as_str()).collect();
    assert_eq!(nodes, ["x.routed.test", "@routed.test"], "the latest first");
    assert_eq!(relay.json(&["queue", "summary"])[0]["kicks_last_hour"], 3);
    assert_eq!(relay.logged(&["kick #route:*.routed.test: 2 ", "127.0.0.1"]).len(), 1);
}
