//! `postrider health`, as a container's health check runs it.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Output;

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, Relay};

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
        stream.write_all(b"421 4.3.2 too many\r\n").unwrap();
    });
    let (code, text) = said(&relay.run(&["health"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("it said \"421 4.3.2 too many\""), "{text}");
    answers.join().unwrap();
}
