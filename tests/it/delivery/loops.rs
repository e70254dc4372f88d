//! Mail that leads back to this relay, end to end: by an MX that is one of its listeners, and by a way that only the
//! message itself shows.

use std::net::{IpAddr, SocketAddr};

use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::{SENDER, answers, wait_for_end, world_with_sender};

/// A `[[listen]]` on the port of MX hosts, which trusts this machine.
fn listener(at: SocketAddr) -> String {
    format!("address = \"{at}\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]")
}

#[test]
fn an_mx_where_this_relay_listens_is_a_loop_at_once_whatever_it_is_called() {
    let (mut world, home) = world_with_sender();
    let ours = world.address("some-name.test");
    world.zone(|zone| {
        zone.mx("a.test", 10, "some-name.test")
            .mx("b.test", 10, "other.test")
            .address("other.test", ours.ip())
    });
    let relay = world.relay(Config::new().retry(&["1s"]).listener(&listener(ours)));
    for recipient in ["you@a.test", "you@b.test", &format!("you@[{}]", ours.ip())] {
        let id = relay.submit(SENDER, &[recipient], &mail("round"));
        wait_for_end(&relay, recipient, "failed");
        let rows = answers(&relay, recipient);
        assert_eq!(rows, ["554 5.4.6"], "{id}: one round for {recipient}");
    }
    home.wait_for_messages(3, SOON);
}

#[test]
fn another_program_on_this_machine_is_no_loop() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let elsewhere: IpAddr = "127.0.0.200".parse().unwrap();
    let relay = world.relay(Config::new().listener(&listener(SocketAddr::new(elsewhere, world.mx_port))));
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    mx.wait_for_messages(1, SOON);
}

/// As behind NAT or a forwarded port: nothing but the message tells.
#[test]
fn a_message_that_comes_back_is_known_by_our_own_received_field() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("round"));
    let left = mx.wait_for_messages(1, SOON).remove(0).content;
    assert!(left.starts_with(b"Received: "), "{}", String::from_utf8_lossy(&left));
    let answer = |recipient: &str, content: &[u8]| {
        let mut client = relay.client();
        let reply = client.transact(SENDER, "", &[recipient], content).unwrap();
        format!("{} {}", reply.code, &reply.text[..5])
    };
    assert_eq!(answer("you@a.test", &left), "554 5.4.6");
    // A list sends it on to others, twice at most.
    let mut content = left;
    for (pass, expected) in [(2, true), (3, true), (4, false)] {
        let accepted = answer(&format!("member{pass}@a.test"), &content);
        assert_eq!(accepted.starts_with("250"), expected, "pass {pass}: {accepted}");
        if expected {
            content = mx.wait_for_messages(pass, SOON).remove(pass - 1).content;
        }
    }
}
