//! What strangers put into the log and on an operator's terminal: no field that is not theirs, nothing that reads as
//! something else, no password, and no more lines than a person reads.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, PASSWORD, USER, World, mail, wait_for};

/// The `name=value` fields of a line up to the reply, which is free text and last.
fn fields(line: &str) -> Vec<(&str, &str)> {
    let line = line.split(" reply=").next().unwrap();
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

#[test]
fn an_address_cannot_forge_fields_of_a_line() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("refused"), Act::Say("550 5.1.1 no")));
    let relay = world.relay(Config::new());
    let forged = [
        "\"x> size=1 nrcpt=99 client=9.9.9.9 user=root\"",
        "\"x> relay=evil tls=TLSv1_3 reply=250 ok\"",
        "\"x\\\" user=root\"",
        "\"refused> outcome=delivered reply=250\"",
    ];
    for local in forged {
        let address = format!("{local}@a.test");
        let id = relay.submit(&address, &[&address], &mail("hello"));
        let ended = || relay.logged(&[&id, "phase="]).into_iter().next();
        let ended = wait_for("the line of the attempt", SOON, ended);
        let accepted = relay.logged(&[&id, "accepted"]).remove(0);
        let fields_of = |line| fields(line).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            fields_of(&accepted),
            ["from", "size", "nrcpt", "client", "user", "message-id"],
            "{accepted}"
        );
        assert_eq!(fields_of(&ended), ["to", "relay", "tls", "phase", "ms", "reply_source"], "{ended}");
        let values = fields(&accepted);
        assert_eq!((values[3].1, values[4].1), ("127.0.0.1", "-"), "{accepted}");
    }
    assert_eq!(mx.messages().len(), 3, "and they are delivered as they are");
    let sent = &mx.messages()[0];
    assert!(sent.mail.contains(forged[0]) && sent.rcpts[0].contains(forged[0]), "{:?}", sent.mail);
}

/// Directions of writing, joiners, tags and the like.
const UNSEEN: [char; 6] = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}', '\u{e0041}', '\u{ad}'];

#[test]
fn what_cannot_be_seen_is_shown_escaped_wherever_an_operator_looks() {
    let mut world = World::new();
    let said: String = UNSEEN.iter().map(|c| format!("a{c}b ")).collect();
    let reply: &'static str = format!("450 4.2.1 {said}").leak();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt(""), Act::Say(reply)));
    let relay = world.relay(Config::new());
    let id = relay.submit("me@app.test", &["you@a.test"], &mail(&said));
    wait_for("the line of the attempt", SOON, || relay.logged(&[&id, "deferred"]).into_iter().next());
    let db = relay.db();
    let view = |sql: &str| db.rows(sql, []).join(" ");
    let looks = [
        ("log", relay.log()),
        ("list", relay.run_ok(&["queue", "list"])),
        ("show", relay.run_ok(&["queue", "show", &id])),
        ("json", relay.run_ok(&["queue", "list", "--json"])),
        ("view queue", view("SELECT last_reply FROM queue")),
        ("view failures", view("SELECT group_concat(reply) FROM failures")),
    ];
    for (what, text) in looks {
        assert!(!text.contains(UNSEEN), "{what}: {text:?}");
        // JSON escapes the backslash once more; `failures` has … for words that are no words.
        let escaped = text.contains("a\\xE2\\x80\\xAEb") || ["json", "view failures"].contains(&what);
        assert!(escaped, "{what}: {text:?}");
    }
    // Addresses and names with them are none.
    let mut client = relay.client();
    for unseen in UNSEEN {
        client.expect(&format!("EHLO app{unseen}.test"), "501 5.5.4");
        client.expect("EHLO app.test", "250");
        client.expect(&format!("MAIL FROM:<m{unseen}e@app.test> SMTPUTF8"), "501 5.1.7");
        client.expect(&format!("MAIL FROM:<me@ap{unseen}p.test> SMTPUTF8"), "501 5.1.7");
        client = relay.client();
    }
}

#[test]
fn a_password_typed_as_a_name_is_not_logged() {
    let world = World::new();
    let relay = world.relay(Config::new());
    let secret = "correct-horse-battery";
    let log_in = |name: &str, password: &str| {
        let mut client = relay.client();
        let plain = STANDARD.encode(format!("\0{name}\0{password}"));
        client.expect(&format!("AUTH PLAIN {plain}"), "535 5.7.8");
        let mut client = relay.client();
        client.expect("AUTH LOGIN", "334");
        client.expect(&STANDARD.encode(name), "334");
        // Another one: the same again would be no new failure.
        client.expect(&STANDARD.encode(format!("{password}2")), "535 5.7.8");
    };
    log_in(secret, "app");
    log_in(USER, secret);
    let lines = wait_for("the failures", SOON, || {
        let lines = relay.logged(&["authentication failed"]);
        (lines.len() == 4).then_some(lines)
    });
    assert!(
        lines[..2].iter().all(|line| line.ends_with("authentication failed for a name that no user has")),
        "{lines:?}"
    );
    assert!(lines[2..].iter().all(|line| line.contains(&format!("{USER:?}"))), "{lines:?}");
    assert!(!relay.log().contains(secret) && !relay.log().contains(PASSWORD));
}

#[test]
fn a_flood_of_bad_handshakes_is_a_few_lines() {
    let world = World::new();
    let relay = world.relay(Config::new());
    for _ in 0..200 {
        let mut client = TcpStream::connect(relay.implicit).unwrap();
        client.write_all(b"\x16\x03\x01\x00\x05junk!").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Until it is refused: what it costs is over then.
        let _ = client.read_to_end(&mut Vec::new());
    }
    // Another line behind them all.
    relay.client().expect("AUTH PLAIN AAAA", "5");
    let lines = relay.logged(&["handshake"]);
    assert!((1..=5).contains(&lines.len()), "{} lines", lines.len());
}

#[test]
fn what_is_refused_is_told_with_client_user_addresses_and_reply() {
    let world = World::new();
    let relay =
        world.relay(Config::new().set("limits.message_size", "\"64KiB\"").set("limits.errors", "1000"));
    relay.add_user_with("shop", &["--senders", "shop@app.test"]);
    let mut client = relay.client();
    client.log_in("shop");
    client.expect("MAIL FROM:<boss@app.test>", "553");
    client.expect("MAIL FROM:<shop@app.test>", "250");
    client.expect("RCPT TO:<you@nowhere..test>", "501");
    client.expect("RCPT TO:<you@a.test>", "250");
    client.expect("DATA", "354");
    let long = format!("{}.\r\n", "sixty characters or so of it\r\n".repeat(4_000));
    client.write(long.as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().code, 552);
    let lines = |words: &[&str]| relay.logged(words).len();
    let who = "client=127.0.0.1 user=shop";
    let expected = [
        ["refused MAIL", who, "from=<boss@app.test> to=<> reply=553 5.7.1"],
        ["refused RCPT", who, "from=<shop@app.test> to=<you@nowhere..test> reply=501 5.1.3"],
        ["refused content", who, "from=<shop@app.test> to=<you@a.test> reply=552 5.3.4"],
    ];
    for words in &expected {
        assert_eq!(lines(words), 1, "{words:?}");
    }
    // A flood is not worth a line each.
    for _ in 0..100 {
        client.expect("MAIL FROM:<boss@app.test>", "553");
    }
    client.expect("QUIT", "221");
    assert_eq!(lines(&["refused "]), 30);
}
