//! What hosts get wrong and how we go round it, end to end: found out, remembered across restarts, visible, and
//! tried again once its time is over or a person says so.

use crate::delivery::bdat::{chunking, large, world_with};
use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script, Seen};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

/// Larger than a ClientHello without a post-quantum key share, smaller than one with it.
const LARGE: usize = 1000;
const ROWS: &str = "SELECT mx, setting, value FROM host_settings ORDER BY mx, setting";

/// The only MX of `a.test`; it behaves by the first script on the first connection and so on.
fn host(world: &mut World, scripts: &[(usize, Script)]) -> FakeMx {
    world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
    let each = scripts.iter().flat_map(|(times, script)| std::iter::repeat_n(script.clone(), *times));
    FakeMx::start_at(world.address("mx.a.test"), each.collect())
}

/// Each message on a connection of its own, so that each shows what is remembered.
fn config() -> Config {
    Config::new().set("delivery.messages_per_connection", "1")
}

/// Sends one to `you@a.test`; what its last connection looked like once it is delivered and over.
fn deliver(relay: &Relay, mx: &FakeMx) -> Seen {
    let before = mx.messages().len();
    relay.submit(SENDER, &["you@a.test"], &mail("one"));
    mx.wait_for_messages(before + 1, SOON);
    mx.wait_for_closed(1, SOON).pop().unwrap()
}

/// Delivers one message after another until the table is like this; gives the last connection.
fn deliver_until(relay: &Relay, mx: &FakeMx, what: &str, rows: &[&str]) -> Seen {
    wait_for(what, SOON, || {
        let seen = deliver(relay, mx);
        (relay.db().rows(ROWS, []) == rows).then_some(seen)
    })
}

fn wait_for_row(relay: &Relay, row: &str) {
    relay.wait_until(row, SOON, |db| (db.rows(ROWS, []) == [row]).then_some(()));
}

fn restart(relay: &mut Relay, sql: &str) {
    relay.stop();
    if !sql.is_empty() {
        relay.db_for_writing().execute(sql, []);
    }
    relay.start_again();
}

// ---- TLS --------------------------------------------------------------------------------------

#[test]
fn a_host_that_chokes_on_the_full_hello_is_remembered_across_a_restart_and_tried_again_later() {
    let mut world = World::new();
    let good = Script::new().tls(&Certificate::for_names(&["mx.a.test"]));
    let mx = host(&mut world, &[(5, good.clone().small_hellos()), (1, good)]);
    let mut relay = world.relay(config());
    let first = deliver(&relay, &mx);
    assert!(first.tls && first.hello < LARGE, "{first:?}");
    assert!(!mx.seen()[0].tls && mx.seen()[0].hello > LARGE, "the full one was not tried");
    wait_for_row(&relay, "mx.a.test|tls|no-post-quantum");
    let times =
        "SELECT abs(changed_at - unixepoch()) < 60, retry_at - changed_at, last_reply FROM host_settings";
    let closed = "(local) 421 4.4.2 the host closed the connection while starting TLS";
    assert_eq!(relay.db().rows(times, []), [format!("1|86400|{closed}")]);
    let told = relay.json(&["queue", "summary"])[0]["hosts"][0].clone();
    assert_eq!([&told["mx"], &told["setting"], &told["value"]], ["mx.a.test", "tls", "no-post-quantum"]);
    assert_eq!(told["last_reply"], closed);

    // The next process goes to the smaller one at once.
    restart(&mut relay, "");
    let second = deliver(&relay, &mx);
    assert!(second.tls && second.hello < LARGE && mx.seen().len() == 3, "{:?}", mx.seen());

    // After its time the full one is tried again: in vain, so it holds again.
    restart(&mut relay, "UPDATE host_settings SET changed_at = 7, retry_at = unixepoch()");
    let third = deliver(&relay, &mx);
    assert!(third.tls && third.hello < LARGE && mx.seen().len() == 5, "{:?}", mx.seen());
    let renewed =
        "SELECT count(*) FROM host_settings WHERE changed_at = 7 AND retry_at > unixepoch() + 80000";
    relay.wait_until("the renewal", SOON, |db| (db.number(renewed, []) == 1).then_some(()));

    // The host is mended, and somebody with sqlite3 says so while the relay runs.
    relay.db_for_writing().execute("UPDATE host_settings SET retry_at = unixepoch()", []);
    let last = deliver_until(&relay, &mx, "the full ClientHello", &[]);
    assert!(last.tls && last.hello > LARGE, "{last:?}");
    let on_and_off = [log::WORKAROUND_ON, log::WORKAROUND_OFF];
    for word in on_and_off {
        assert_eq!(relay.logged(&[word, "mx.a.test", "tls=no-post-quantum"]).len(), 1, "{word}");
    }
}

#[test]
fn a_host_that_fails_every_handshake_gets_clear_text_only_where_nothing_requires_tls() {
    let mut world = World::new();
    world.zone(|zone| zone.mx("secret.test", 10, "mx.a.test"));
    let good = Script::new().tls(&Certificate::for_names(&["mx.a.test"]));
    let mx = host(&mut world, &[(6, good.clone().on(At::Handshake, Act::Close)), (1, good)]);
    let mut relay = world.relay(config().route("domain = \"secret.test\"\ntls = \"encrypt\""));
    let first = deliver(&relay, &mx);
    assert_eq!((first.tls, mx.seen().len()), (false, 3), "full, without post-quantum, in the clear");
    wait_for_row(&relay, "mx.a.test|tls|plaintext");
    assert_eq!(relay.db().number("SELECT retry_at - changed_at FROM host_settings", []), 3600);

    restart(&mut relay, "");
    let second = deliver(&relay, &mx);
    assert!(!second.verbs().contains(&"STARTTLS") && mx.seen().len() == 4, "{second:?}");

    // Whatever is remembered, a route that requires TLS tries it, and keeps the mail where it fails.
    relay.submit(SENDER, &["you@secret.test"], &mail("secret"));
    wait_for_attempts(&relay, "you@secret.test", "deferred", 1);
    let seen = mx.wait_for_closed(6, SOON);
    assert_eq!((seen[4].verbs().len(), seen[5].verbs().len(), seen.len()), (2, 2, 6), "EHLO STARTTLS, twice");
    assert!(mx.messages().iter().all(|message| !message.rcpts[0].contains("secret.test")));
    assert_eq!(relay.db().rows(ROWS, []), ["mx.a.test|tls|plaintext"]);

    relay.db_for_writing().execute("UPDATE host_settings SET retry_at = unixepoch()", []);
    let last = deliver_until(&relay, &mx, "TLS to be tried again", &[]);
    assert!(last.tls, "{last:?}");
}

// ---- what people write ------------------------------------------------------------------------

/// What somebody does to the table while the relay runs, and how small messages then go.
fn edited(relay: &Relay, mx: &FakeMx, sql: &str, is_seen: impl Fn(&Seen) -> bool) {
    relay.db_for_writing().execute(sql, []);
    wait_for(sql, SOON, || is_seen(&deliver(relay, mx)).then_some(()));
}

#[test]
fn a_row_that_somebody_writes_changes_or_deletes_holds_while_the_relay_runs() {
    let mut world = World::new();
    let good = chunking().tls(&Certificate::for_names(&["mx.a.test"]));
    let mx = host(&mut world, &[(1, good)]);
    let relay = world.relay(config());
    assert!(deliver(&relay, &mx).hello > LARGE);
    let insert = |setting: &str, value: &str| {
        let why = "the host asked for it";
        format!(
            "INSERT INTO host_settings VALUES \
             ('mx.a.test', '{setting}', '{value}', '{why}', unixepoch(), 9999999999)"
        )
    };
    edited(&relay, &mx, &insert("tls", "plaintext"), |seen| !seen.tls);
    let smaller = "UPDATE host_settings SET value = 'no-post-quantum'";
    edited(&relay, &mx, smaller, |seen| seen.tls && seen.hello < LARGE);
    edited(&relay, &mx, "DELETE FROM host_settings", |seen| seen.hello > LARGE);

    edited(&relay, &mx, &insert("pipelining", "off"), |seen| !seen.batched);
    assert_eq!(relay.db().rows(ROWS, []), ["mx.a.test|pipelining|off"], "a success does not end it");
    edited(&relay, &mx, "DELETE FROM host_settings", |seen| seen.batched);
    edited(&relay, &mx, &insert("pipelining", "off"), |seen| !seen.batched);
    edited(&relay, &mx, "UPDATE host_settings SET retry_at = unixepoch()", |seen| seen.batched);
    relay.wait_until("the row to go", SOON, |db| db.rows(ROWS, []).is_empty().then_some(()));

    let nonsense = "INSERT INTO host_settings VALUES ('mx.b.test', 'tls', 'off', NULL, 0, 0)";
    assert!(relay.db_for_writing().0.execute(nonsense, []).is_err(), "the table takes what means nothing");
}

/// As above, for how content goes: large content by BDAT, small content in a single write.
#[test]
fn a_row_about_content_that_somebody_writes_changes_or_deletes_holds_while_the_relay_runs() {
    for (setting, per_connection, content) in
        [("chunking", "1", large()), ("single_write", "100", mail("small"))]
    {
        let (world, mx) = world_with(chunking());
        let relay = world.relay(Config::new().set("delivery.messages_per_connection", per_connection));
        // The last command that brings content, of two messages that share a connection where they may.
        let way = || {
            for _ in 0..2 {
                let before = mx.messages().len();
                relay.submit(SENDER, &["you@a.test"], &content);
                mx.wait_for_messages(before + 1, SOON);
                relay.wait_until_empty();
            }
            let seen = mx.seen();
            let mut verbs = seen.last().unwrap().verbs().into_iter().rev();
            if verbs.find(|verb| ["BDAT", "DATA"].contains(verb)) == Some("BDAT") { "BDAT" } else { "DATA" }
        };
        let edited = |sql: &str, wanted: &str| {
            relay.db_for_writing().execute(sql, []);
            wait_for(sql, SOON, || (way() == wanted).then_some(()));
        };
        assert_eq!(way(), "BDAT", "{setting}");
        let insert = format!(
            "INSERT INTO host_settings VALUES ('mx.a.test', '{setting}', 'off', NULL, unixepoch(), 9999999999)"
        );
        edited(&insert, "DATA");
        edited("DELETE FROM host_settings", "BDAT");
        edited(&insert, "DATA");
        edited("UPDATE host_settings SET retry_at = unixepoch()", "BDAT");
        relay.wait_until("the row to go", SOON, |db| db.rows(ROWS, []).is_empty().then_some(()));
    }
}

#[test]
fn a_doubt_after_a_single_write_is_remembered_across_a_restart() {
    let mut world = World::new();
    let mx = host(&mut world, &[(1, chunking().after(1, At::Dot, Act::Close)), (1, chunking())]);
    let mut relay = world.relay(Config::new().retry(&["1h"]));
    let send = |relay: &Relay, name: &str| relay.submit(SENDER, &[&format!("{name}@a.test")], &mail("small"));
    send(&relay, "one");
    wait_for_end(&relay, "one@a.test", "delivered");
    send(&relay, "two");
    wait_for_attempts(&relay, "two@a.test", "in_doubt", 1);
    wait_for_row(&relay, "mx.a.test|single_write|off");
    restart(&mut relay, "");
    let connections = mx.seen().len();
    for name in ["three", "four"] {
        send(&relay, name);
        wait_for_end(&relay, &format!("{name}@a.test"), "delivered");
    }
    let verbs: Vec<String> = mx.seen()[connections..].iter().map(|seen| seen.verbs().join(" ")).collect();
    assert!(verbs.iter().all(|verbs| !verbs.contains("BDAT")), "{verbs:?}");
    assert_eq!(relay.db().rows(ROWS, []), ["mx.a.test|single_write|off"]);
}

/// Garbage in the place of a handshake, before or behind our hello, or nothing at all: where TLS is optional and there
/// is no other host, the mail goes in the clear in the same attempt.
#[test]
fn a_host_that_answers_the_hello_with_garbage_gets_its_mail_in_the_clear() {
    let garbage = || b"\x00\x01garbage, and no TLS\r\n\xff".to_vec();
    let early = [b"220 go ahead\r\n".to_vec(), garbage()].concat();
    let good = || Script::new().tls(&Certificate::for_names(&["mx.a.test"]));
    for (name, script) in [
        ("garbage", good().on(At::Handshake, Act::Raw(garbage()))),
        ("a reply", good().on(At::Handshake, Act::Raw(b"500 5.5.1 what?\r\n".to_vec()))),
        ("garbage with the 220", good().on(At::Starttls, Act::Raw(early))),
        ("a second 220", good().on(At::Starttls, Act::Raw(b"220 go\r\n220 go\r\n".to_vec()))),
        ("silence", good().on(At::Handshake, Act::Stall)),
    ] {
        let mut world = World::new();
        let mx = world.host("a.test", script);
        let relay = world.relay(config().retry(&["1h"]).set("delivery.reply_timeout", "\"1s\""));
        relay.submit(SENDER, &["you@a.test"], &mail("one"));
        wait_for_end(&relay, "you@a.test", "delivered");
        let arrived = mx.wait_for_messages(1, SOON).remove(0);
        assert_eq!((arrived.tls, mx.seen().len()), (false, 3), "{name}");
        assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 1, "{name}");
    }
}

// ---- pipelining -------------------------------------------------------------------------------

/// Ways in which hosts get commands in a batch wrong.
fn broken_hosts() -> Vec<(&'static str, Script)> {
    let stray = b"354 go ahead\r\n250 2.0.0 queued, or so it seems\r\n".to_vec();
    let double = b"250 2.1.0 ok\r\n250 2.1.0 ok, as I said\r\n".to_vec();
    let improper = "503 5.5.0 Error: improper use of SMTP command pipelining";
    let rcpt = At::Rcpt("");
    vec![
        ("hangs.test", Script::new().in_a_batch(rcpt, Act::Stall)),
        ("closes.test", Script::new().in_a_batch(rcpt, Act::Close)),
        ("resets.test", Script::new().in_a_batch(At::Mail, Act::Reset)),
        ("sequence.test", Script::new().in_a_batch(rcpt, Act::Say("503 5.5.1 bad sequence of commands"))),
        ("unknown.test", Script::new().in_a_batch(At::Data, Act::Say("500 5.5.1 command unrecognized"))),
        ("improper.test", Script::new().in_a_batch(At::Mail, Act::SayAndClose(improper))),
        ("stray.test", Script::new().in_a_batch(At::Data, Act::Raw(stray))),
        ("double.test", Script::new().in_a_batch(At::Mail, Act::Raw(double))),
        (
            "nobody.test",
            // 354 although it took nobody, and the refusal of that before the dot.
            Script::new()
                .in_a_batch(rcpt, Act::Say("550 5.1.1 who?"))
                .in_a_batch(At::Data, Act::Raw(b"354 go\r\n554 5.5.1 nobody\r\n".to_vec())),
        ),
    ]
}

#[test]
fn a_host_that_gets_a_batch_wrong_has_its_mail_command_by_command_in_the_same_attempt() {
    let mut world = World::new();
    let hosts: Vec<(&str, FakeMx)> =
        broken_hosts().into_iter().map(|(domain, script)| (domain, world.host(domain, script))).collect();
    let relay = world.relay(config().set("delivery.reply_timeout", "\"2s\""));
    let all = hosts.len() as i64;
    for (round, connections) in [(1, 2), (2, 3)] {
        for (domain, _) in &hosts {
            relay.submit(SENDER, &[&format!("you{round}@{domain}")], &mail("one"));
        }
        relay.wait_until("every host to be remembered", SOON, |db| {
            (db.number("SELECT count(*) FROM host_settings WHERE value = 'off'", []) == all).then_some(())
        });
        for (domain, mx) in &hosts {
            mx.wait_for_messages(round, SOON);
            let seen = mx.wait_for_closed(connections, SOON);
            assert_eq!(seen.len(), connections, "{domain}: {seen:#?}");
            let batched: Vec<bool> = seen.iter().map(|seen| seen.batched).collect();
            assert_eq!(batched, [true, false, false][..connections], "{domain}: {seen:#?}");
            assert!(seen[0].raw_content.len() <= ".\r\n".len(), "{domain} had content after a batch");
            assert_eq!(mx.messages().len(), round, "{domain}");
            wait_for_end(&relay, &format!("you{round}@{domain}"), "delivered");
        }
    }
    // A reply where none is due is a reply too many, in a batch or not.
    let rows = relay.db().rows("SELECT mx, setting, retry_at - changed_at FROM host_settings", []);
    let (reuse, pipelining): (Vec<&String>, _) =
        rows.iter().partition(|row| ["mx.stray.", "mx.nobody."].iter().any(|host| row.starts_with(host)));
    assert!(pipelining.iter().all(|row: &&String| row.ends_with("|pipelining|86400")), "{rows:?}");
    assert!(reuse.len() == 2 && reuse.iter().all(|row| row.ends_with("|reuse|86400")), "{rows:?}");
    assert_eq!(relay.db().rows("SELECT DISTINCT outcome FROM attempts", []), ["delivered"]);
    let replies = relay.db().rows("SELECT last_reply FROM host_settings WHERE mx = 'mx.improper.test'", []);
    assert_eq!(replies, ["503 5.5.0 Error: improper use of SMTP command pipelining"]);
}

#[test]
fn after_its_time_a_batch_is_tried_again_and_used_from_then_on_where_it_works() {
    let mut world = World::new();
    let broken = Script::new().in_a_batch(At::Rcpt(""), Act::Close);
    let mx = host(&mut world, &[(4, broken), (1, Script::new())]);
    let mut relay = world.relay(config());
    deliver(&relay, &mx);
    wait_for_row(&relay, "mx.a.test|pipelining|off");
    restart(&mut relay, "UPDATE host_settings SET changed_at = 7, retry_at = unixepoch()");
    assert!(!deliver(&relay, &mx).batched);
    let batched = |seen: Vec<Seen>| seen.iter().map(|seen| seen.batched).collect::<Vec<bool>>();
    assert_eq!(batched(mx.seen()), [true, false, true, false], "tried again, in vain");
    let renewed =
        "SELECT count(*) FROM host_settings WHERE changed_at = 7 AND retry_at > unixepoch() + 80000";
    relay.wait_until("the renewal", SOON, |db| (db.number(renewed, []) == 1).then_some(()));

    relay.db_for_writing().execute("UPDATE host_settings SET retry_at = unixepoch()", []);
    assert!(deliver_until(&relay, &mx, "a batch", &[]).batched);
    assert!(deliver(&relay, &mx).batched);
    assert_eq!(relay.logged(&[log::WORKAROUND_OFF, "mx.a.test", "pipelining=off"]).len(), 1);
}

#[test]
fn ordinary_trouble_is_not_taken_for_a_batch_gone_wrong() {
    let mut world = World::new();
    let _home = world.host("app.test", Script::new());
    let policy = "503 5.5.1 say please first";
    let hosts: Vec<(&str, usize, &str, FakeMx)> = [
        ("busy.test", 1, "deferred", Script::new().on(At::Mail, Act::SayAndClose("421 4.3.2 closing"))),
        ("dead.test", 2, "deferred", Script::new().on(At::Mail, Act::Stall)),
        ("gone.test", 2, "deferred", Script::new().on(At::Rcpt(""), Act::Close)),
        ("odd.test", 2, "deferred", Script::new().on(At::Data, Act::Say("250 yes?"))),
        ("strict.test", 2, "failed", Script::new().on(At::Rcpt(""), Act::Say(policy))),
        ("lost.test", 1, "in_doubt", Script::new().on(At::Dot, Act::Close)),
        ("refusing.test", 1, "failed", Script::new().on(At::Rcpt(""), Act::Say("550 5.1.1 no such user"))),
    ]
    .into_iter()
    .map(|(domain, connections, outcome, script)| (domain, connections, outcome, world.host(domain, script)))
    .collect();
    let relay = world.relay(config().set("delivery.reply_timeout", "\"1s\""));
    for (domain, ..) in &hosts {
        relay.submit(SENDER, &[&format!("you@{domain}")], &mail("one"));
    }
    for (domain, connections, outcome, mx) in &hosts {
        wait_for_attempts(&relay, &format!("you@{domain}"), outcome, 1);
        let seen = mx.wait_for_closed(*connections, SOON);
        assert_eq!(seen.len(), *connections, "{domain}: {seen:#?}");
        assert!(seen[0].batched, "{domain}");
        assert!(!seen.last().unwrap().batched || *connections == 1, "{domain}");
    }
    assert_eq!(relay.db().rows(ROWS, []), [""; 0]);
}

#[test]
fn a_host_that_took_batches_before_and_then_breaks_off_is_not_to_blame() {
    let mut world = World::new();
    // The second message finds its connection closed: the one it shared with the first, or one of its own.
    let once = || Script::new().first(1, At::Mail, Act::Say("250 2.1.0 ok")).first(1, At::Mail, Act::Close);
    let shared = world.host("shared.test", once());
    let own = world.host("own.test", once());
    for (config, domain, mx, connections) in
        [(Config::new(), "shared.test", shared, 2), (config(), "own.test", own, 3)]
    {
        let relay = world.relay(config.retry(&["1s"]));
        for round in 1..=2 {
            relay.submit(SENDER, &[&format!("you{round}@{domain}")], &mail("one"));
            wait_for_end(&relay, &format!("you{round}@{domain}"), "delivered");
        }
        let seen = mx.wait_for_closed(connections, SOON);
        assert_eq!(seen.len(), connections, "{domain}: {seen:#?}");
        assert!(seen.iter().all(|seen| seen.batched), "{domain}: {seen:#?}");
        assert_eq!(relay.db().rows(ROWS, []), [""; 0]);
    }
}

#[test]
fn an_address_that_is_down_does_not_use_up_the_try_without_a_workaround() {
    let mut world = World::new();
    let good = Script::new().tls(&Certificate::for_names(&["mx.a.test"]));
    let mx = host(&mut world, &[(1, good)]);
    // Tried first, and refused at once: nobody listens there, or there is no IPv6.
    world.zone(|zone| zone.address("mx.a.test", "::1".parse().unwrap()));
    let mut relay = world.relay(config());
    restart(
        &mut relay,
        "INSERT INTO host_settings VALUES ('mx.a.test', 'tls', 'plaintext', '421 broken', 7, unixepoch() - 1)",
    );
    let seen = deliver(&relay, &mx);
    assert!(seen.tls, "{seen:?}");
    relay.wait_until("no row", SOON, |db| db.rows(ROWS, []).is_empty().then_some(()));
}
