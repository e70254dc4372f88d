//! What does not go at the first try: when it is tried again, over restarts too, what is held or returned instead,
//! and what nobody knows.

use std::net::SocketAddr;

use crate::harness::db::Db;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{
    SENDER, assert_report, bounce, text, unfolded, wait_for_attempts, wait_for_end, world_with_sender,
};

const MAILBOX_FULL: Act = Act::Say("452 4.2.2 mailbox full");

/// One number of one recipient's row.
fn number_of(relay: &Relay, column: &str, address: &str) -> i64 {
    relay.db().number(&format!("SELECT {column} FROM recipients WHERE address = ?"), [address])
}

fn wait_for_state(relay: &Relay, address: &str, state: &str) {
    relay.wait_until(&format!("{address} to be {state}"), SOON, |db| {
        let now = db.row("SELECT state FROM recipients WHERE address = ?", [address]);
        (now.as_deref() == Some(state)).then_some(())
    });
}

// ---- when ----------------------------------------------------------------------------------------

/// Greylisting hosts and one-time codes want the second try soon.
#[test]
fn by_default_the_first_retry_is_after_about_a_minute() {
    let mut world = World::new();
    let _mx = world.host("grey.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 greylisted")));
    world.closed_mx("dead.test", 10, "mx.dead.test");
    let relay = world.relay(Config::new().unset("retry.schedule"));
    relay.submit(SENDER, &["you@grey.test", "you@dead.test"], &mail("soon"));
    for address in ["you@grey.test", "you@dead.test"] {
        wait_for_attempts(&relay, address, "deferred", 1);
        let wait = number_of(&relay, "next_attempt_at - last_attempt_at", address);
        assert!((48..=73).contains(&wait), "{address}: {wait} s");
    }
    // The lane of the dead one backs off by its own count; the other's host is well.
    let lane = relay.wait_until("the lane's row", SOON, |db| {
        db.row("SELECT lane, failures, backoff_until - changed_at BETWEEN 47 AND 73 FROM backoffs", [])
    });
    assert_eq!(lane, "dead.test|1|1");
    assert_eq!(relay.db().number("SELECT count(*) FROM backoffs", []), 1);
}

#[test]
fn a_message_that_waits_does_not_hold_up_others_of_its_lane() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("slow@"), MAILBOX_FULL));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["slow@a.test"], &mail("slow"));
    wait_for_attempts(&relay, "slow@a.test", "deferred", 1);
    relay.submit(SENDER, &["quick@a.test"], &mail("quick"));
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "quick@a.test", "delivered");
    assert_eq!(number_of(&relay, "attempts", "slow@a.test"), 1);
}

#[test]
fn a_messages_wait_and_a_lanes_backoff_survive_a_restart() {
    let mut world = World::new();
    let grey = world.host("grey.test", Script::new().first(1, At::Rcpt("@"), MAILBOX_FULL));
    world.zone(|zone| zone.mx("dead.test", 10, "mx.dead.test"));
    let dead: SocketAddr = world.address("mx.dead.test");
    let mut relay = world.relay(Config::new().retry(&["5s"]));
    relay.submit(SENDER, &["you@grey.test", "first@dead.test"], &mail("patience"));
    wait_for_attempts(&relay, "you@grey.test", "deferred", 1);
    wait_for_attempts(&relay, "first@dead.test", "deferred", 1);
    let backoff = relay.wait_until("the lane's row", SOON, |db| {
        let until = db.number("SELECT backoff_until FROM backoffs WHERE lane = 'dead.test'", []);
        (until > 0).then_some(until)
    });
    let next = number_of(&relay, "next_attempt_at", "you@grey.test");
    relay.kill();

    // The host is back before its lane's time: nobody asks it yet, not even for mail that comes now.
    let back = FakeMx::start_at(dead, vec![Script::new()]);
    relay.start_again();
    relay.submit(SENDER, &["second@dead.test"], &mail("fresh"));
    grey.wait_for_messages(1, SOON);
    back.wait_for_messages(2, SOON);
    relay.wait_until_empty();
    let tried = |address: &str| {
        relay.db().number(
            "SELECT max(a.at) FROM attempts a JOIN history h ON h.recipient_id = a.recipient_id
             WHERE h.address = ?",
            [address],
        )
    };
    assert!(tried("you@grey.test") >= next, "tried at {}, not before {next}", tried("you@grey.test"));
    for address in ["first@dead.test", "second@dead.test"] {
        assert!(tried(address) >= backoff, "{address} tried at {}, not before {backoff}", tried(address));
    }
    assert_eq!(relay.db().attempts("second@dead.test", "deferred"), 0, "{}", relay.db().dump());
    assert_eq!(relay.db().number("SELECT count(*) FROM backoffs", []), 0, "it works again");
}

/// What is queued has no end of its own: a raised lifetime and a reload help it.
#[test]
fn a_lifetime_that_is_raised_holds_for_what_is_queued() {
    let (mut world, home) = world_with_sender();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), MAILBOX_FULL));
    let relay = world.relay(Config::new().retry(&["1s"]).set("queue.lifetime", "\"4s\""));
    relay.submit(SENDER, &["you@a.test"], &mail("longer"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    let ends = |db: &Db| db.number("SELECT ends_at - received_at FROM message_ends", []);
    assert_eq!(ends(&relay.db()), 4);
    relay.write_config(&relay.config().set("queue.lifetime", "\"1d\""));
    relay.signal("HUP");
    relay.wait_until("the new lifetime to be shown", SOON, |db| (ends(db) == 86_400).then_some(()));
    relay.wait_until("a try after the old lifetime", SOON, |db| {
        let late =
            "SELECT max(a.at) - m.received_at > 5 FROM attempts a, messages m WHERE a.outcome = 'deferred'";
        (db.number(late, []) == 1).then_some(())
    });
    assert_eq!(relay.db().ended("you@a.test"), None);
    assert_eq!(home.messages().len(), 0, "nobody was told of an end");
    // And one that is lowered ends it at the next try.
    relay.write_config(&relay.config().set("queue.lifetime", "\"2s\""));
    relay.signal("HUP");
    wait_for_end(&relay, "you@a.test", "expired");
}

/// A board whose clock is 20 days ahead when it starts: mail has its try, and nothing is ended by that clock.
#[test]
fn a_start_with_a_clock_far_ahead_ends_nothing() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new().first(2, At::Rcpt("@"), MAILBOX_FULL));
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("patience"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    relay.stop();
    // All that was written, 20 days ago.
    for sql in [
        "UPDATE meta SET value = value - 1728000 WHERE key = 'time'",
        "UPDATE messages SET received_at = received_at - 1728000",
        "UPDATE recipients SET next_attempt_at = next_attempt_at - 1728000, last_attempt_at = last_attempt_at - 1728000",
    ] {
        assert_eq!(relay.db_for_writing().execute(sql, []), 1, "{sql}");
    }
    relay.start_again();
    // It is tried, and what would be an expiry is one more deferral.
    wait_for_attempts(&relay, "you@a.test", "deferred", 2);
    relay.run_ok(&["queue", "kick", "--all"]);
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(relay.logged(&["WARN", "the clock is", "ahead of where it was"]).len(), 1, "{}", relay.log());
    assert_eq!(home.messages().len(), 0);
}

// ---- by rule -------------------------------------------------------------------------------------

#[test]
fn a_retry_rule_changes_the_delay_holds_or_bounces() {
    let (mut world, home) = world_with_sender();
    let script = Script::new()
        .first(
            1,
            At::Rcpt("grey@"),
            Act::Say("450-4.7.1 You are GREYLISTED,\r\n450 4.7.1 come back in 2 seconds"),
        )
        .first(1, At::Rcpt("list@"), Act::Say("550 5.7.1 blocked using zen.example"))
        .on(At::Rcpt("full@"), MAILBOX_FULL)
        .on(At::Rcpt("gone@"), Act::Say("550 5.1.1 no such user"));
    let mx = world.host("a.test", script);
    let special = world.host("b.test", Script::new().first(1, At::Rcpt("@"), MAILBOX_FULL));
    let config = Config::new()
        .rule("text = \"greylisted, come back in * sec\"\ndelay = \"1s\"")
        .rule("code = \"5xx\"\ntext = \"blocked using\"\naction = \"hold\"")
        .rule("domain = \"b.test\"\ndelay = \"2s\"")
        .rule("enhanced = \"x.2.2\"\naction = \"bounce\"")
        .rule("domain = \"*.test\"\ndelay = \"1d\"");
    let relay = world.relay(config);

    // Nobody but the rule brings it back within the hour.
    relay.submit(SENDER, &["grey@a.test"], &mail("delay"));
    wait_for_end(&relay, "grey@a.test", "delivered");
    // The first that fits wins: the next one would bounce it.
    relay.submit(SENDER, &["full@b.test"], &mail("first wins"));
    special.wait_for_messages(1, SOON);
    wait_for_end(&relay, "full@b.test", "delivered");
    assert_eq!(home.messages(), []);

    // A permanent failure that a person is to look at.
    relay.submit(SENDER, &["list@a.test"], &mail("hold"));
    wait_for_state(&relay, "list@a.test", "held");
    let row = relay.db().row("SELECT last_reply, last_reply_source FROM recipients", []);
    assert_eq!(row.as_deref(), Some("550 5.7.1 blocked using zen.example|remote"));
    assert_eq!(relay.db().attempts("list@a.test", "deferred"), 1);
    // Whose hold it is, wherever somebody looks; what an operator held is another matter.
    let id = relay.db().row("SELECT queue_id FROM messages", []).unwrap();
    for (arguments, words) in [
        (&["queue", "list"][..], "(held by [[retry.rule]] 2) 550 5.7.1 blocked"),
        (
            &["queue", "show", &id],
            "held; held by [[retry.rule]] 2; not tried until `postrider queue release`\n",
        ),
        (&["queue", "summary"], "1 held (1 rule)"),
        (&["explain", "you@a.test"], "    1 recipient held by [[retry.rule]] 2\n"),
        (&["explain", "you@a.test"], "the lane backs off as well"),
    ] {
        let said = relay.run_ok(arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let of_operator = ["queue", "release", "--held-by", "operator"];
    assert!(relay.run_ok(&of_operator).contains("0 recipients released"));
    assert_eq!(relay.json(&["queue", "list", "--held-by", "rule"])[0]["held_reason"], "[[retry.rule]] 2");
    relay.run_ok(&["queue", "release", "--held-by", "rule"]);
    wait_for_end(&relay, "list@a.test", "delivered");
    assert_eq!(mx.messages().len(), 2);

    // A temporary one that nobody wants to wait for: the class is permanent then (RFC 3464 §2.3.4).
    relay.submit(SENDER, &["full@a.test"], &mail("bounce"));
    assert_report(&bounce(&home), "full@a.test", "5.2.2", "smtp; 452 4.2.2 mailbox full");
    wait_for_end(&relay, "full@a.test", "failed");
    // A rule that names only a domain does not keep alive what is dead.
    relay.submit(SENDER, &["gone@a.test"], &mail("gone"));
    wait_for_end(&relay, "gone@a.test", "failed");
    let ruled = relay.logged(&["[[retry.rule]] 4 ", " bounce ", "to=<full@a.test>"]);
    assert_eq!(ruled.len(), 1);
}

#[test]
fn new_retry_rules_are_taken_at_sighup() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(2, At::Rcpt("@"), MAILBOX_FULL));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["one@a.test"], &mail("one"));
    wait_for_attempts(&relay, "one@a.test", "deferred", 1);
    relay.write_config(&relay.config().rule("code = \"45x\"\ndelay = \"1s\""));
    relay.signal("HUP");
    wait_for("the reload", SOON, || relay.logged(&[log::RELOADED]).pop());
    relay.submit(SENDER, &["two@a.test"], &mail("two"));
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "two@a.test", "delivered");
}

// ---- in doubt ------------------------------------------------------------------------------------

/// A relay killed when the host has the final dot and has not answered it; one of the recipients had been refused.
/// Started again, and the host takes what comes.
fn killed_after_the_dot(policy: &str) -> (World, FakeMx, FakeMx, Relay) {
    let (mut world, home) = world_with_sender();
    let script = Script::new().on(At::Rcpt("nobody@"), Act::Say("550 5.1.1 no such user")).first(
        1,
        At::Dot,
        Act::Stall,
    );
    let mx = world.host("a.test", script);
    let mut relay = world.relay(Config::new().set("delivery.in_doubt", format!("{policy:?}")));
    relay.submit(SENDER, &["you@a.test", "nobody@a.test"], &mail("doubt"));
    wait_for("the final dot", SOON, || {
        mx.seen().iter().any(|seen| seen.raw_content.ends_with(b"\r\n.\r\n")).then_some(())
    });
    relay.kill();
    assert_eq!(mx.messages(), [], "it has not answered");
    relay.start_again();
    (world, home, mx, relay)
}

/// Of the one who was refused nothing is in doubt: whatever the policy, the sender hears of it.
fn assert_refused_one_bounces(relay: &Relay, home: &FakeMx) {
    assert_report(&bounce(home), "nobody@a.test", "5.1.1", "smtp; 550 5.1.1 no such user");
    wait_for_end(relay, "nobody@a.test", "failed");
}

#[test]
fn in_doubt_retry_sends_again_after_a_kill() {
    let (_world, home, mx, relay) = killed_after_the_dot("retry");
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_refused_one_bounces(&relay, &home);
    let dots = mx.seen().iter().filter(|seen| seen.raw_content.ends_with(b"\r\n.\r\n")).count();
    assert_eq!(dots, 2, "perhaps twice, never lost");
}

#[test]
fn in_doubt_hold_waits_for_a_person_after_a_kill() {
    let (_world, home, mx, relay) = killed_after_the_dot("hold");
    wait_for_state(&relay, "you@a.test", "held");
    assert_refused_one_bounces(&relay, &home);
    let doubt = "SELECT phase, reply_source, code, enhanced FROM attempts WHERE outcome = 'in_doubt'";
    assert_eq!(relay.db().rows(doubt, []), ["end_of_data|local|451|4.4.2"]);
    assert_eq!(mx.messages(), [], "not sent again by itself");
    relay.run_ok(&["queue", "release", "--all"]);
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
}

#[test]
fn in_doubt_assume_delivered_never_sends_again_after_a_kill() {
    let (_world, home, mx, relay) = killed_after_the_dot("assume-delivered");
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_refused_one_bounces(&relay, &home);
    relay.wait_until_empty();
    assert_eq!(relay.db().attempts("you@a.test", "in_doubt"), 1);
    assert_eq!(mx.messages(), []);
}

/// The first host refused after the dot, so nothing was in doubt when the relay was killed in front of the second.
#[test]
fn what_a_host_refused_after_the_dot_is_not_in_doubt() {
    let mut world = World::new();
    let closing = Script::new().on(At::Dot, Act::SayAndClose("421 4.3.2 shutting down"));
    let _first = world.mx("a.test", 10, "mx1.a.test", closing);
    let second = world.mx("a.test", 20, "mx2.a.test", Script::new().first(1, At::Mail, Act::Stall));
    let mut relay = world.relay(Config::new().set("delivery.in_doubt", "\"assume-delivered\""));
    relay.submit(SENDER, &["you@a.test"], &mail("no doubt"));
    second.wait_for_command("MAIL", SOON);
    relay.kill();
    relay.start_again();
    second.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(relay.db().attempts("you@a.test", "in_doubt"), 0);
}

#[test]
fn in_doubt_assume_delivered_holds_for_a_lost_connection_too() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Dot, Act::Close));
    let relay = world.relay(Config::new().retry(&["1s"]).set("delivery.in_doubt", "\"assume-delivered\""));
    relay.submit(SENDER, &["you@a.test"], &mail("lost"));
    wait_for_end(&relay, "you@a.test", "delivered");
    let tried = relay.db().rows("SELECT phase, outcome, reply_source FROM attempts", []);
    assert_eq!(tried, ["end_of_data|in_doubt|local"]);
    assert_eq!(mx.seen().len(), 1);
}

// ---- returned by hand ----------------------------------------------------------------------------

/// A relay with mail that cannot go: put off by its host, held, and to a host that is down (the lane backs off).
fn three_that_wait() -> (World, FakeMx, FakeMx, Relay) {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    world.closed_mx("dead.test", 10, "mx.dead.test");
    let relay = world.relay(Config::new());
    for address in ["later@a.test", "held@a.test", "later@dead.test"] {
        relay.submit(SENDER, &[address], &mail("waits"));
        wait_for_attempts(&relay, address, "deferred", 1);
    }
    let db = relay.db_for_writing();
    assert_eq!(db.execute("UPDATE recipients SET state = 'held' WHERE address = 'held@a.test'", []), 1);
    (world, home, mx, relay)
}

fn assert_returned(relay: &Relay, home: &FakeMx) {
    let bounces: Vec<String> = home.wait_for_messages(3, SOON).iter().map(text).collect();
    for (address, last) in [
        ("later@a.test", "451 4.7.1 later"),
        ("later@dead.test", "421 4.4.1 "),
        ("held@a.test", "451 4.7.1 later"),
    ] {
        let about =
            bounces.iter().find(|bounce| bounce.contains(&format!("Final-Recipient: rfc822; {address}\r\n")));
        let about = about.unwrap_or_else(|| panic!("no bounce for {address}: {bounces:#?}"));
        assert_report(about, address, "5.3.0", "x-postrider; 554 5.3.0 ");
        assert!(unfolded(about).contains(last), "no {last:?} in {about}");
        wait_for_end(relay, address, "failed");
    }
    relay.wait_until_empty();
    assert_eq!(home.messages().len(), 3, "each once");
    assert_eq!(relay.db().rows("SELECT * FROM stuck", []), Vec::<String>::new());
}

#[test]
fn queue_bounce_returns_mail_while_the_relay_runs() {
    let (_world, home, _mx, relay) = three_that_wait();
    assert!(relay.run_ok(&["queue", "bounce", "--all"]).starts_with("3 "));
    assert_returned(&relay, &home);
    let output = relay.run(&["queue", "bounce", "01MB1Z4QK3R"]);
    assert_eq!(output.status.code(), Some(1), "nothing is known of it");
}

#[test]
fn queue_bounce_without_the_relay_returns_mail_at_the_next_start() {
    let (_world, home, mx, mut relay) = three_that_wait();
    relay.stop();
    assert!(relay.run_ok(&["queue", "bounce", "--domain", "a.test"]).starts_with("2 "));
    assert!(relay.run_ok(&["queue", "bounce", "--all"]).starts_with("1 "));
    let list = relay.json(&["queue", "list"]);
    assert!(list.len() == 3 && list.iter().all(|line| line["next_attempt"] == "bounce"), "{list:?}");
    let before = mx.seen().len();
    relay.start_again();
    assert_returned(&relay, &home);
    assert_eq!(mx.seen().len(), before, "none was tried once more");
}

#[test]
fn what_is_to_be_returned_can_still_be_held_or_tried() {
    let (_world, home, _mx, mut relay) = three_that_wait();
    relay.stop();
    relay.run_ok(&["queue", "bounce", "--all"]);
    relay.run_ok(&["queue", "hold", "--domain", "a.test"]);
    relay.run_ok(&["queue", "kick", "--domain", "dead.test"]);
    relay.start_again();
    wait_for_attempts(&relay, "later@dead.test", "deferred", 2);
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients WHERE state = 'held'", []), 2);
    assert_eq!(home.messages(), []);
}

// ---- whose words ---------------------------------------------------------------------------------

#[test]
fn what_we_say_of_a_silent_host_is_not_put_in_its_mouth() {
    let (mut world, home) = world_with_sender();
    let _mx = world.host("a.test", Script::new().on(At::Mail, Act::Stall));
    let config = Config::new()
        .retry(&["1s"])
        .set("queue.lifetime", "\"2s\"")
        .set("delivery.reply_timeout", "\"300ms\"");
    let relay = world.relay(config);
    relay.submit(SENDER, &["you@a.test"], &mail("silence"));
    let report = bounce(&home);
    assert_report(&report, "you@a.test", "4.4.2", "Diagnostic-Code: x-postrider; 421 4.4.2 ");
    assert!(!report.contains("Remote-MTA:") && !report.contains("smtp;"), "{report}");
    wait_for_end(&relay, "you@a.test", "expired");
    let said = "SELECT DISTINCT phase, reply_source, code, enhanced FROM attempts WHERE mx = 'mx.a.test'";
    assert_eq!(relay.db().rows(said, []), ["mail|local|421|4.4.2"]);
    assert!(!relay.logged(&["reply_source=local", "reply=421 4.4.2 "]).is_empty());
    let failures = relay.db().row("SELECT mx, reply_source FROM failures WHERE phase = 'mail'", []);
    assert_eq!(failures.as_deref(), Some("mx.a.test|local"));
}
