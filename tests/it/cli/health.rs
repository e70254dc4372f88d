//! `postrider health`, as a container's health check runs it.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::fakemx::SOON;
use crate::harness::namespaces::{As, inside};
use crate::harness::relay::{Client, Config, Relay, wait_for};

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_relay_is_healthy_while_it_answers_whatever_its_config_says_now() {
    let mut relay = Relay::start(Config::new());
    let health = ["health"];
    assert_eq!(said(&relay.run(&health)), (Some(0), "ok: 3 listeners answer\n".to_owned()));
    assert_eq!(relay.run(&["health", "--ready"]).status.code(), Some(0));
    // Nobody's log fills up with it.
    assert_eq!(relay.logged(&["client 127"]), [""; 0]);
    relay.write_config(&relay.config().set("limits.recipients", "0"));
    assert_eq!(relay.run(&health).status.code(), Some(0));
    relay.stop_within(SOON);
    let (code, text) = said(&relay.run(&health));
    assert_eq!(code, Some(1));
    assert!(text.starts_with(&format!("postrider: {} does not answer", relay.clear)), "{text}");
    // Docker keeps 2 for itself.
    relay.write_config(&relay.config().set("queue", "1"));
    assert_eq!(relay.run(&health).status.code(), Some(1));
}

#[test]
fn a_relay_without_room_is_alive_and_not_ready() {
    let relay = Relay::start(Config::new());
    relay.db_for_writing().execute("INSERT INTO meta VALUES ('mail_refused_since', 1)", []);
    assert_eq!(relay.run(&["health"]).status.code(), Some(0));
    let (code, text) = said(&relay.run(&["health", "--ready"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("new mail is refused (452)"), "{text}");
}

#[test]
fn what_answers_otherwise_is_not_healthy() {
    let relay = Relay::prepare(Config::new());
    let listener = TcpListener::bind(relay.clear).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"554 5.3.2 not here\r\n").unwrap();
    });
    let (code, text) = said(&relay.run(&["health"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("it said \"554 5.3.2 not here\""), "{text}");
    answers.join().unwrap();
}

/// As in a network of containers; the default is `[::]:587`.
#[test]
fn a_machine_without_ipv6_is_asked_over_ipv4() {
    if !inside(As::AnyUser, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        return;
    }
    let config = Config::new().listener("address = \"[::]:2587\"\ntls = \"off\"");
    let relay = Relay::start(config);
    for health in [&["health"][..], &["health", "--ready"]] {
        assert_eq!(said(&relay.run(health)), (Some(0), "ok: 4 listeners answer\n".to_owned()));
    }
}

/// A restart would end the sessions of all, and mend nothing.
#[test]
fn a_relay_with_too_many_sessions_is_alive() {
    let relay = Relay::start(Config::new().set("limits.sessions_per_client", "1"));
    // The sessions in which it was waited for may still be there.
    let _first = wait_for("a session", SOON, || Client::connect(relay.clear).ok());
    // Clients are counted by whether they are trusted where they come in.
    let _second = wait_for("another, or none", SOON, || match Client::connect(relay.starttls) {
        Ok(client) => Some(Some(client)),
        Err(error) => error.to_string().contains("421").then_some(None),
    });
    assert_eq!(said(&relay.run(&["health"])), (Some(0), "ok: 3 listeners answer\n".to_owned()));
    assert!(relay.logged(&["4.3.2 Too many sessions from your address"]).len() >= 3, "{}", relay.log());
}

/// The very case that a health check is for.
#[test]
fn a_relay_that_takes_nobody_is_told_in_time() {
    let relay = Relay::prepare(Config::new());
    let path = relay.path("submit.sock");
    let config = format!("[[listen]]\naddress = \"unix:{}\"\n", path.display());
    std::fs::write(relay.path("postrider.toml"), config).unwrap();
    let address = SockAddr::unix(&path).unwrap();
    let hung = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    hung.bind(&address).unwrap();
    hung.listen(0).unwrap();
    let waiting = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&address).map(|()| client)
    };
    let _full: Vec<Socket> = std::iter::from_fn(|| waiting().ok()).collect();
    let begin = Instant::now();
    let (code, text) = said(&relay.run(&["health"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("does not answer") && text.contains("submit.sock"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}
