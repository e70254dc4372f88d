//! Where mail may go, end to end: an MX that points at this machine or into its network, in any form.

use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::{SENDER, answers, wait_for_end};

#[test]
fn what_is_set_adds_to_the_base_and_nothing_is_delivered_there_in_any_form() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    // The host stands on 127.0.0.2.
    let inside = [
        ("plain", "127.0.0.2"),
        ("mapped", "::ffff:127.0.0.2"),
        ("nat64", "64:ff9b::127.0.0.2"),
        ("6to4", "2002:7f00:2::1"),
        ("link-local", "169.254.169.254"),
        ("link-local-6", "fe80::1"),
        ("this-network", "0.0.0.1"),
        ("set", "198.51.100.1"),
        ("private", "10.0.0.1"),
    ];
    for (name, ip) in inside {
        let (domain, host) = (format!("{name}.test"), format!("mx.{name}.test"));
        world.zone(|zone| zone.mx(&domain, 10, &host).address(&host, ip.parse().unwrap()));
    }
    let config = Config::new()
        .set("delivery.prohibited_networks", "[\"198.51.100.0/24\"]")
        .set("delivery.private_networks", "\"refuse\"");
    let relay = world.relay(config);
    for (name, ip) in inside {
        let recipient = format!("you@{name}.test");
        relay.submit("", &[&recipient], &mail("inside"));
        wait_for_end(&relay, &recipient, "failed");
        assert_eq!(answers(&relay, &recipient), ["550 5.4.4"], "{ip}");
    }
    assert!(mx.seen().is_empty(), "nobody was spoken to");
    // Taken away on purpose, and named by a route.
    let taken = world.relay(Config::new().set("delivery.prohibited_networks", "[\"!127.0.0.0/8\"]"));
    taken.submit(SENDER, &["you@a.test"], &mail("here"));
    mx.wait_for_messages(1, SOON);
    let routed = world.relay(
        Config::new()
            .set("delivery.prohibited_networks", "[]")
            .route(&format!("domain = \"a.test\"\nrelay = [\"[127.0.0.2]:{}\"]", world.mx_port)),
    );
    routed.submit(SENDER, &["you@a.test"], &mail("here"));
    mx.wait_for_messages(2, SOON);
}
