//! Hosts that are odd on purpose or by accident, where one thing of delivery meets another: nothing is lost,
//! falsely delivered, bounced for nothing or tried for ever, and no host keeps more of us than its share.

use std::time::Duration;

use crate::delivery::bdat::{chunking, world_with};
use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script, Seen};
use crate::harness::relay::{Config, Relay, World, mail, wait_for, write_secret};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

const MAILBOX: &str = "you@a.test";

/// Three chunks and a bit.
fn large() -> Vec<u8> {
    let line = [&[b'x'; 900][..], b"\r\n"].concat();
    [mail("large"), line.repeat(3 * (1 << 20) / line.len() + 100)].concat()
}

/// The verbs that matter here, of all connections, in the order in which they came.
fn ways(mx: &FakeMx) -> Vec<String> {
    let seen = mx.seen();
    let verbs = seen.iter().flat_map(Seen::verbs).filter(|verb| ["RSET", "DATA", "BDAT"].contains(verb));
    verbs.map(str::to_owned).collect()
}

fn host_settings(relay: &Relay) -> Vec<String> {
    relay.db().rows("SELECT setting, value FROM host_settings", [])
}

/// Each would be in doubt, tried again, and in doubt again where it is not the first of its connection.
#[test]
fn a_host_that_swallows_what_comes_in_one_go_leaves_one_message_in_doubt_and_no_more() {
    let (world, mx) = world_with(chunking().on(At::Bdat, Act::Close));
    let relay = world.relay(Config::new().retry(&["1s"]));
    let mut client = relay.client();
    for number in 1..=5 {
        let to = format!("you{number}@a.test");
        client.submit(SENDER, &[&to], &mail("small"));
        wait_for_end(&relay, &to, "delivered");
    }
    assert_eq!(ways(&mx).iter().filter(|verb| *verb == "BDAT").count(), 1, "{:?}", ways(&mx));
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts WHERE outcome = 'in_doubt'", []), 1);
    assert_eq!(mx.messages().len(), 5, "each once");
}

/// RFC 3030 §2: RSET clears away what a refused chunk leaves behind.
#[test]
fn a_refusal_of_what_came_in_one_go_is_cleared_away_and_the_next_goes_so() {
    let script = chunking().first(1, At::Dot, Act::Say("250 2.0.0 ok")).first(
        1,
        At::Dot,
        Act::Say("554 5.7.1 not that one"),
    );
    let (mut world, mx) = world_with(script);
    let _home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    for (number, state) in ["delivered", "failed", "delivered", "delivered"].iter().enumerate() {
        let to = format!("you{number}@a.test");
        client.submit(SENDER, &[&to], &mail("small"));
        wait_for_end(&relay, &to, state);
    }
    assert_eq!(ways(&mx), ["DATA", "RSET", "BDAT", "RSET", "BDAT", "RSET", "BDAT", "RSET"]);
    assert_eq!(mx.seen().len(), 1);
}

/// "550 <pipelines@a.test>: no such user" is no complaint about PIPELINING: the others have their message once,
/// and that one its refusal at the first try.
#[test]
fn a_refusal_that_quotes_an_address_is_about_the_address() {
    let refusal = "550 <pipelines@a.test>: Recipient address rejected: User unknown";
    let (mut world, mx) = world_with(chunking().on(At::Rcpt("pipelines@"), Act::Say(refusal)));
    let _home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    for number in 1..=2 {
        let good = format!("you{number}@a.test");
        client.submit(SENDER, &["pipelines@a.test", &good], &mail("small"));
        wait_for_end(&relay, &good, "delivered");
        relay.wait_until("the refusal", SOON, |db| {
            (db.attempts("pipelines@a.test", "failed") == number).then_some(())
        });
    }
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts WHERE mx = 'mx.a.test'", []), 4);
    assert_eq!(ways(&mx), ["DATA", "RSET", "BDAT", "RSET"]);
    assert_eq!((mx.messages().len(), mx.seen().len()), (2, 1));
    assert!(host_settings(&relay).is_empty(), "{:?}", host_settings(&relay));
}

#[test]
fn a_host_that_refuses_the_first_chunk_and_closes_has_not_failed_at_bdat() {
    let (mut world, mx) = world_with(chunking().on(At::Chunk(1), Act::SayAndClose("552 5.3.4 too big")));
    let _home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &[MAILBOX], &large());
    wait_for_end(&relay, MAILBOX, "failed");
    mx.wait_for_closed(1, SOON);
    assert_eq!(mx.seen().len(), 1, "nobody was left to connect again for");
    assert!(host_settings(&relay).is_empty(), "{:?}", host_settings(&relay));
}

/// A batch that breaks, then, command by command, a chunk that does: by DATA and command by command, in one
/// attempt and with no more than these connections.
#[test]
fn a_host_that_fails_at_batches_and_at_bdat_gets_the_message_in_the_same_attempt() {
    let script = chunking().in_a_batch(At::Rcpt(""), Act::Close).on(At::Bdat, Act::Close);
    let (world, mx) = world_with(script);
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &[MAILBOX], &large());
    wait_for_end(&relay, MAILBOX, "delivered");
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 1);
    assert_eq!((mx.messages().len(), mx.seen().len()), (1, 3));
}

/// The first of two relays lets nobody in: its words are told, its mail goes to the second in the same attempt.
#[test]
fn a_relay_that_refuses_the_login_leaves_the_mail_to_the_next_of_the_list() {
    let mut world = World::new();
    let mut relay_at = |name: &str, script: Script| {
        let script = script.tls(&Certificate::for_names(&[name]));
        FakeMx::start_at(world.address(name), vec![script])
    };
    let wants_login = || Script::new().offering(&["PIPELINING", "CHUNKING", "AUTH PLAIN"]);
    let refused = wants_login().on(At::Auth, Act::Say("535 5.7.8 not you"));
    let first = relay_at("one.up.test", refused);
    let second = relay_at("two.up.test", wants_login());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    write_secret(&file, "geheim\n");
    let route = format!(
        "domain = \"*\"\nrelay = [\"one.up.test:{port}\", \"two.up.test:{port}\"]\ntls = \"encrypt\"\n\
         username = \"me\"\npassword_file = {file:?}",
        port = world.mx_port
    );
    let relay = world.relay(Config::new().route(&route));
    relay.submit(SENDER, &[MAILBOX], &mail("small"));
    wait_for_end(&relay, MAILBOX, "delivered");
    assert_eq!((first.messages().len(), second.messages().len()), (0, 1));
    assert_eq!(relay.db().rows("SELECT mx, outcome FROM attempts", []), ["two.up.test|delivered"]);
    assert!(relay.log().contains("535 5.7.8 not you"), "{}", relay.log());
}

/// However often the attempt begins anew at the host, one deadline holds over all of it.
#[test]
fn a_host_that_is_always_nearly_too_late_has_no_more_than_the_attempts_deadline() {
    let nearly = Duration::from_millis(1200);
    let later = |words| Act::Later(nearly, Box::new(Act::Say(words)));
    let script = chunking()
        .in_a_batch(At::Rcpt(""), Act::Close)
        .on(At::Greeting, later("220 hello"))
        .on(At::Mail, later("250 2.1.0 ok"))
        .on(At::Rcpt(""), later("250 2.1.5 ok"));
    let (world, mx) = world_with(script);
    let config = Config::new().set("delivery.reply_timeout", "\"2s\"");
    let relay = world.relay(config.set("delivery.attempt_deadline", "\"4s\""));
    relay.submit(SENDER, &[MAILBOX], &mail("small"));
    wait_for_attempts(&relay, MAILBOX, "deferred", 1);
    let row = "SELECT duration_ms BETWEEN 3500 AND 5500, reply LIKE '421 4.4.2 %' FROM attempts";
    assert_eq!(relay.db().rows(row, []), ["1|1"], "{}", relay.db().dump());
    assert_eq!((mx.seen().len(), mx.messages().len()), (2, 0));
}

/// Each recipient of each try has the beginning of the words in a row; their whole stands once, cut too.
#[test]
fn words_without_end_are_cut() {
    let line = [&b"554-5.7.1 "[..], &[0xff; 600], b"\r\n"].concat();
    let words = [line.repeat(90), b"554 5.7.1 no\r\n".to_vec()].concat();
    let (mut world, mx) = world_with(chunking().on(At::Dot, Act::Raw(words)));
    let home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &[MAILBOX, "her@a.test"], &mail("small"));
    wait_for_end(&relay, MAILBOX, "failed");
    let longest = |sql: &str| relay.db().number(sql, []);
    let (row, whole) =
        (longest("SELECT max(length(reply)) FROM attempts"), longest("SELECT length(reply) FROM replies"));
    assert!((512..530).contains(&row) && (4000..4100).contains(&whole), "{row} and {whole}");
    assert_eq!(longest("SELECT count(*) FROM replies"), 1, "two recipients were told the same");
    assert!(relay.db().row("SELECT reply FROM attempts", []).unwrap().ends_with(" [...]"));
    assert!(home.wait_for_messages(1, SOON)[0].content.len() < 32_000);
    assert!(mx.messages().is_empty());
}

/// RFC 9422 §3: what a host says it will refuse is not tried, within one message either.
#[test]
fn the_transactions_of_one_message_keep_to_the_hosts_limit_of_a_connection() {
    let (world, mx) = world_with(Script::new().offering(&["PIPELINING", "LIMITS RCPTMAX=1 MAILMAX=2"]));
    let relay = world.relay(Config::new().retry(&["1s"]));
    let to = ["one@a.test", "two@a.test", "three@a.test"];
    relay.submit(SENDER, &to, &mail("small"));
    to.iter().for_each(|to| wait_for_end(&relay, to, "delivered"));
    let mails = |seen: &Seen| seen.verbs().iter().filter(|verb| **verb == "MAIL").count();
    assert_eq!(mx.seen().iter().map(mails).collect::<Vec<_>>(), [2, 1]);
}

/// The only worker always has something to do; the connection to a host of long ago is closed all the same.
#[test]
fn idle_connections_are_closed_however_much_there_is_to_do() {
    const BUSY: usize = 60;
    let (mut world, mx) = world_with(Script::new());
    let slowly = Act::Later(Duration::from_millis(200), Box::new(Act::Say("250 2.0.0 ok")));
    let busy = world.host("busy.test", Script::new().on(At::Dot, slowly));
    let relay = world.relay(Config::new().set("delivery.workers", "1"));
    let mut client = relay.client();
    client.submit(SENDER, &[MAILBOX], &mail("small"));
    wait_for_end(&relay, MAILBOX, "delivered");
    (0..BUSY)
        .for_each(|number| drop(client.submit(SENDER, &[&format!("you{number}@busy.test")], &mail("small"))));
    wait_for("the end of the idle connection", SOON, || mx.seen()[0].closed.then_some(()));
    assert!(busy.messages().len() < BUSY, "the worker had time for it");
    assert_eq!(mx.seen()[0].verbs().last(), Some(&"QUIT"));
}
