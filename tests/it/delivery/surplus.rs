//! Hosts that give a reply too many, or one before its command, over the wire: what such a host did not take is never
//! recorded as delivered, its sender is told, and the host is remembered.

use std::time::Duration;

use crate::harness::fakemx::{Act, At, Certificate, SOON, Script};
use crate::harness::relay::{Config, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_end};

const REFUSED: &str = "550 no, not that one";
const ROWS: &str = "SELECT mx, setting, value FROM host_settings";

/// A host without enhanced codes: all that it takes, it takes in the same words.
fn plain(offers: &[&str]) -> Script {
    Script::new().offering(offers)
}

/// Behind the rules of a test.
fn alike(script: Script) -> Script {
    [At::Mail, At::Rcpt(""), At::Rset]
        .into_iter()
        .fold(script, |script, at| script.on(at, Act::Say("250 ok")))
}

fn later(words: &'static str) -> Act {
    Act::Later(Duration::from_millis(60), Box::new(Act::Say(words)))
}

fn twice(words: &'static str) -> Act {
    Act::Then(vec![Act::Say(words), Act::Say(words)])
}

/// The first message is taken, the second is refused, and somewhere in between there is a reply too many. Gives the
/// relay's record of the second.
fn refuses_the_second(name: &str, script: Script, content: &[u8]) {
    let mut world = World::new();
    let mx = world.host("a.test", alike(script));
    let home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new().retry(&["1s"]));
    let mut client = relay.client();
    client.submit(SENDER, &["one@a.test"], &mail("one"));
    wait_for_end(&relay, "one@a.test", "delivered");
    client.submit(SENDER, &["two@a.test"], content);
    wait_for_end(&relay, "two@a.test", "failed");
    let bounce = home.wait_for_messages(1, SOON).remove(0);
    assert!(String::from_utf8_lossy(&bounce.content).contains("two@a.test"), "{name}");
    assert_eq!(relay.db().row(ROWS, []).as_deref(), Some("mx.a.test|reuse|off"), "{name}");
    // Since then each message has a connection of its own.
    let before = mx.seen().len();
    client.submit(SENDER, &["three@a.test"], &mail("three"));
    wait_for_end(&relay, "three@a.test", "failed");
    let last = mx.wait_for_closed(before + 1, SOON).pop().unwrap();
    assert!(last.verbs().ends_with(&["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]), "{name}: {last:?}");
    assert!(!last.batched, "{name}");
}

/// Where the late second answer to the first message stands among the answers to the second one, is all that its delay
/// changes.
#[test]
fn a_late_second_answer_to_the_content_is_never_that_of_the_next_message() {
    let certificate = &Certificate::for_names(&["mx.a.test"]);
    let refused = || Act::Then(vec![Act::Say("250 ok"), later(REFUSED)]);
    let early = || Act::Then(vec![Act::Say("250 ok"), Act::Say("354 go")]);
    std::thread::scope(|scope| {
        for offers in [&["PIPELINING", "CHUNKING"][..], &["PIPELINING"], &[]] {
            let base = move || plain(offers).first(1, At::Dot, Act::Say("250 ok"));
            // At the second of these places.
            let second = |at, ordinary, act| base().first(1, at, Act::Say(ordinary)).first(1, at, act);
            let end = |script: Script| script.on(At::Dot, Act::Say(REFUSED));
            for (name, script) in [
                ("before MAIL", end(second(At::Mail, "250 ok", twice("250 ok")))),
                ("before RCPT", end(second(At::Rcpt(""), "250 ok", twice("250 ok")))),
                ("before DATA", end(second(At::Data, "354 go", early()))),
                ("behind the dot", end(base().first(1, At::Dot, refused()))),
                ("behind the dot, in TLS", end(base().tls(certificate).first(1, At::Dot, refused()))),
            ] {
                let name = format!("{name}, {offers:?}");
                scope.spawn(move || refuses_the_second(&name, script, &mail("two")));
            }
        }
    });
}

/// 354, a part of the content is read, 250, and the refusal behind the dot. Of much content the 250 is there before the
/// dot is written, of little after it.
#[test]
fn a_yes_before_the_end_of_the_content_is_no_answer_to_it() {
    let large = [mail("large"), [&[b'x'; 900][..], b"\r\n"].concat().repeat(6000)].concat();
    let small = mail("small");
    std::thread::scope(|scope| {
        for offers in [&["PIPELINING"][..], &[]] {
            for (at, content) in [(200_000, &large), (10, &small)] {
                let script =
                    plain(offers).on(At::Content(at), Act::Say("250 ok")).on(At::Dot, later(REFUSED));
                scope.spawn(move || refuses_early(&format!("{at} {offers:?}"), script, content));
            }
        }
    });
}

fn refuses_early(name: &str, script: Script, content: &[u8]) {
    let mut world = World::new();
    let _mx = world.host("a.test", alike(script));
    let home = world.host("app.test", Script::new());
    // Each try has the same answer, so there is no end to the doubt but that of the lifetime.
    let relay = world.relay(Config::new().retry(&["1s"]).set("queue.lifetime", "\"3s\""));
    let mut client = relay.client();
    client.submit(SENDER, &["you@a.test"], content);
    wait_for_end(&relay, "you@a.test", "expired");
    home.wait_for_messages(1, SOON);
    assert_eq!(relay.db().row(ROWS, []).as_deref(), Some("mx.a.test|reuse|off"), "{name}");
}

/// Chunks are answered alike and in any number, so behind them the replies are counted up to the end of the stream.
#[test]
fn a_host_that_answers_every_chunk_twice_delivers_nothing_by_that() {
    let large = [mail("large"), [&[b'x'; 900][..], b"\r\n"].concat().repeat(6000)].concat();
    let chunks = |script: Script| {
        (1..10).fold(script, |script, number| {
            script.on(At::Chunk(number), Act::Then(vec![Act::Say("250 ok"), later("250 ok")]))
        })
    };
    let script = chunks(plain(&["PIPELINING", "CHUNKING"]).first(1, At::Dot, Act::Say("250 ok")));
    refuses_the_second("chunks", script.on(At::Dot, later(REFUSED)), &large);
}

/// Two replies are there where one is due, so neither is believed: in doubt, and tried again.
#[test]
fn a_second_answer_that_is_there_at_once_leaves_a_doubt() {
    let mut world = World::new();
    let script = plain(&["PIPELINING"]).first(1, At::Rset, Act::Raw(b"250 ok\r\n250 ok\r\n".to_vec()));
    let mx = world.host("a.test", alike(script));
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["you@a.test"], &mail("one"));
    wait_for_end(&relay, "you@a.test", "delivered");
    let outcomes = relay.db().rows("SELECT outcome FROM attempts ORDER BY id", []);
    assert_eq!(outcomes, ["in_doubt", "delivered"]);
    assert_eq!(mx.seen().len(), 2);
}

/// Several at once, at a host that is known for it: there the replies are counted.
#[test]
fn several_replies_too_many_are_told_from_answers_where_each_message_has_its_own_connection() {
    let many = || Act::Then(vec![Act::Say("250 ok"), later("250 ok"), Act::Say("250 ok"), later(REFUSED)]);
    let script = plain(&["PIPELINING"])
        .first(1, At::Dot, Act::Say("250 ok"))
        .first(1, At::Dot, Act::Then(vec![Act::Say("250 ok"), later(REFUSED)]))
        .first(3, At::Dot, many())
        .on(At::Dot, Act::Say(REFUSED));
    refuses_the_second("several", script, &mail("two"));
}

/// A host that says nothing more, or nothing that means anything, behind its answer has given it all the same: else
/// every message to it would be delivered twice.
#[test]
fn a_host_that_closes_behind_its_answer_has_given_it() {
    let closing = "421 4.7.0 enough messages on this connection";
    for (name, script) in [
        ("closes", Script::new().on(At::Dot, Act::SayAndClose("250 2.0.0 queued, bye"))),
        ("says 421 unasked", Script::new().on(At::Dot, Act::Raw(b"250 2.0.0 ok\r\n421 enough\r\n".to_vec()))),
        ("says 421 to RSET", Script::new().on(At::Rset, Act::SayAndClose(closing))),
        ("closes at RSET", Script::new().on(At::Rset, Act::Close)),
    ] {
        let mut world = World::new();
        let mx = world.host("a.test", script);
        let relay = world.relay(Config::new());
        for number in 1..=2 {
            relay.submit(SENDER, &["you@a.test"], &mail("one"));
            mx.wait_for_messages(number, SOON);
            relay.wait_until_empty();
        }
        assert_eq!((mx.messages().len(), relay.db().rows(ROWS, []).len()), (2, 0), "{name}");
    }
}

/// No RSET, no way to know: in doubt once, and then each message is closed with QUIT, which it does know.
#[test]
fn a_host_without_rset_leaves_one_doubt_and_no_more() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rset, Act::Say("502 5.5.1 what?")));
    let relay = world.relay(Config::new().retry(&["1s"]));
    for number in 1..=3 {
        relay.submit(SENDER, &["you@a.test"], &mail("one"));
        wait_for("the end", SOON, || (mx.messages().len() > number).then_some(()));
        relay.wait_until_empty();
    }
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts WHERE outcome = 'in_doubt'", []), 1);
    assert_eq!(mx.messages().len(), 4, "one came twice");
}

/// Such a host is spoken to with a connection for each message, and there a word too many behind the answer is no
/// doubt: else the message would be delivered at every try until it expires.
#[test]
fn a_word_too_many_behind_the_answer_leaves_no_doubt_for_ever() {
    const OK: &str = "250 ok";
    std::thread::scope(|scope| {
        for (name, words) in [
            ("421", &b"250 ok\r\n421 enough\r\n"[..]),
            ("garbage", b"250 ok\r\nwhat a mail\r\n"),
            ("twice", b"250 ok\r\n250 ok\r\n"),
        ] {
            scope.spawn(move || {
                let mut world = World::new();
                let rset = Act::Raw(b"250 ok\r\n250 ok\r\n".to_vec());
                let script = plain(&[]).first(1, At::Rset, rset).first(1, At::Dot, Act::Say(OK));
                let mx = world.host("a.test", alike(script.on(At::Dot, Act::Raw(words.to_vec()))));
                let relay = world.relay(Config::new().retry(&["1s"]));
                relay.submit(SENDER, &["you@a.test"], &mail("one"));
                wait_for_end(&relay, "you@a.test", "delivered");
                let outcomes = relay.db().rows("SELECT outcome FROM attempts ORDER BY id", []);
                assert_eq!(outcomes, ["in_doubt", "delivered"], "{name}");
                assert_eq!(relay.db().row(ROWS, []).as_deref(), Some("mx.a.test|reuse|off"), "{name}");
                assert_eq!(mx.seen().len(), 2, "{name}");
            });
        }
    });
}

/// A day later one connection is kept again, and its second message shows that the host has been mended.
#[test]
fn a_host_that_was_mended_has_its_connections_kept_again() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(1, At::Rset, Act::Say("502 5.5.1 what?")));
    let relay = world.relay(Config::new().retry(&["1s"]));
    let mut client = relay.client();
    client.submit(SENDER, &["one@a.test"], &mail("one"));
    wait_for_end(&relay, "one@a.test", "delivered");
    assert_eq!(relay.db().row(ROWS, []).as_deref(), Some("mx.a.test|reuse|off"));
    relay.db_for_writing().execute("UPDATE host_settings SET retry_at = unixepoch()", []);
    wait_for("the row to go", SOON, || {
        client.submit(SENDER, &["you@a.test"], &mail("again"));
        relay.wait_until_empty();
        relay.db().row(ROWS, []).is_none().then_some(())
    });
    assert!(mx.seen().last().is_some_and(|last| last.verbs().ends_with(&["MAIL", "RCPT", "DATA", "RSET"])));
}
