//! What an operator does to a relay that runs: kicks, signals, statements in the database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::notified::Notified;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};
use crate::harness::skipped::installed;

/// What the docs promise for changes that another process makes, and a margin for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(2 + 3);

/// A relay with one recipient that was put off for an hour, and the host that will take it now.
fn put_off() -> (World, FakeMx, Relay) {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(1, At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    (world, mx, relay)
}

#[test]
fn etrn_kicks_a_domain_at_once_and_says_how_many_wait() {
    let (_world, mx, relay) = put_off();
    let mut client = relay.client();
    // RFC 1985 §5: 251 nothing waits, 253 so many do.
    client.expect("ETRN other.test", "251");
    let began = Instant::now();
    let reply = client.expect("ETRN a.test", "25");
    assert!(matches!(reply.code, 250 | 253), "{reply:?}");
    let count = reply.text.split_whitespace().any(|word| word == "1");
    assert!(count, "the count is missing: {reply:?}");
    mx.wait_for_messages(1, SOON);
    assert!(began.elapsed() < NOTICED_WITHIN, "{:?}", began.elapsed());
    wait_for_end(&relay, "you@a.test", "delivered");
    // Once a minute for one client and one domain.
    client.expect("ETRN a.test", "458");
    let kicks = relay.json(&["queue", "kicks"]);
    let nodes: Vec<&str> = kicks.iter().filter_map(|kick| kick["node"].as_str()).collect();
    assert_eq!(nodes, ["a.test", "other.test"]);
}

#[test]
fn a_next_attempt_that_another_process_writes_is_noticed() {
    // The past matters: what is due is read in order of time, and this lies behind where the reading is.
    for when in ["unixepoch()", "unixepoch() - 3600"] {
        let (_world, mx, relay) = put_off();
        let began = Instant::now();
        let update = format!("UPDATE recipients SET next_attempt_at = {when} WHERE domain = 'a.test'");
        assert_eq!(relay.db_for_writing().execute(&update, []), 1);
        mx.wait_for_messages(1, SOON);
        assert!(began.elapsed() < NOTICED_WITHIN, "{when}: {:?}", began.elapsed());
        wait_for_end(&relay, "you@a.test", "delivered");
    }
}

#[test]
fn a_recipient_that_another_process_holds_is_not_tried_until_released() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["held@a.test"], &mail("held"));
    relay.submit(SENDER, &["free@a.test"], &mail("free"));
    wait_for_attempts(&relay, "held@a.test", "deferred", 1);
    let db = relay.db_for_writing();
    assert_eq!(db.execute("UPDATE recipients SET state = 'held' WHERE address = 'held@a.test'", []), 1);
    // A try that was due before the change was noticed may still happen; then no more.
    let before = relay.db().attempts("free@a.test", "deferred");
    wait_for_attempts(&relay, "free@a.test", "deferred", before + 3);
    let held = relay.db().attempts("held@a.test", "deferred");
    wait_for_attempts(&relay, "free@a.test", "deferred", before + 5);
    assert_eq!(relay.db().attempts("held@a.test", "deferred"), held, "it is held:\n{}", relay.db().dump());
    db.execute("UPDATE recipients SET state = 'queued' WHERE address = 'held@a.test'", []);
    wait_for_attempts(&relay, "held@a.test", "deferred", held + 1);
    drop(mx);
}

/// Nonsense at the prompt is refused, what gets in all the same is held with its reason, columns of one's own are
/// nobody's business, and all other mail goes, also after a restart.
#[test]
fn what_a_hand_spoils_is_refused_or_held_and_nothing_else_waits() {
    let (_world, mx, mut relay) = put_off();
    let db = relay.db_for_writing();
    for (sql, wanted) in [
        (
            "UPDATE recipients SET next_attempt_at = 1795950000.5",
            "cannot store REAL value in INTEGER column recipients.next_attempt_at",
        ),
        (
            "UPDATE recipients SET next_attempt_at = '2026-11-29 12:00:00'",
            "cannot store TEXT value in INTEGER column recipients.next_attempt_at",
        ),
        ("UPDATE recipients SET state = 'hold'", "CHECK constraint failed: state is queued or held"),
        ("UPDATE recipients SET priority = 11", "CHECK constraint failed: priority is -9 to 9"),
    ] {
        assert_eq!(db.0.execute(sql, []).unwrap_err().to_string(), wanted, "{sql}");
    }
    db.0.execute_batch(
        "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;
         UPDATE messages SET sender = 'nobody at all';
         UPDATE recipients SET next_attempt_at = -5, attempts = -1;
         INSERT INTO recipients (id, message_id, address, domain, next_attempt_at) VALUES (5, 77, 'x@a.test', 'a.test', 1);
         ALTER TABLE messages ADD COLUMN note TEXT; ALTER TABLE recipients ADD COLUMN note TEXT;
         ALTER TABLE content ADD COLUMN note TEXT; ALTER TABLE backoffs ADD COLUMN note TEXT;
         ALTER TABLE meta ADD COLUMN note TEXT; ALTER TABLE history ADD COLUMN note TEXT;
         ALTER TABLE attempts ADD COLUMN note TEXT; ALTER TABLE host_settings ADD COLUMN note TEXT;",
    )
    .unwrap();
    relay.wait_until("both to be held", NOTICED_WITHIN, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE state = 'held'", []) == 2).then_some(())
    });
    let held = relay.json(&["queue", "list"]);
    let why = held[0]["held_reason"].as_str().unwrap();
    assert!(why.starts_with("its message cannot be read: "), "{why}");
    let orphan = relay.db().row("SELECT held_by, held_reason FROM recipients WHERE id = 5", []);
    assert_eq!(orphan.as_deref(), Some("fault|its message is missing"));
    relay.submit(SENDER, &["good@a.test"], &mail("goes"));
    mx.wait_for_messages(1, SOON);
    relay.stop();
    relay.start_again();
    relay.submit(SENDER, &["again@a.test"], &mail("goes again"));
    mx.wait_for_messages(2, SOON);
}

#[test]
fn systemd_hears_ready_when_it_listens_a_pulse_and_stopping() {
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let notified = Notified::by(&mut relay, &[("WATCHDOG_USEC", "400000")]);
    // The state that `systemctl status` shows may come before it.
    notified.hear("READY=1");
    // READY was said: a connection is taken at once, not after a while.
    std::net::TcpStream::connect(relay.clear).unwrap();
    notified.hear("WATCHDOG=1");
    relay.signal("TERM");
    notified.hear("STOPPING=1");
    assert!(relay.wait_for_exit(Duration::from_secs(30)).success());
}

#[test]
fn sigterm_lets_attempts_end_and_takes_no_new_mail() {
    let mut world = World::new();
    let slow = Act::Later(Duration::from_secs(2), Box::new(Act::Say("250 2.0.0 at last")));
    let mx = world.host("a.test", Script::new().on(At::Dot, slow));
    let mut relay = world.relay(Config::new());
    let mut idle = relay.client();
    relay.submit(SENDER, &["you@a.test"], &mail("slow"));
    mx.wait_for_command("DATA", SOON);
    relay.signal("TERM");
    // A session that is open hears of it (421) or is closed, and so is whoever comes now.
    wait_for("submission to end", SOON, || match idle.say("NOOP") {
        Ok(reply) if reply.code == 421 => Some(()),
        Ok(_) => None,
        Err(_) => Some(()),
    });
    let status = relay.wait_for_exit(Duration::from_secs(30));
    assert!(status.success(), "{status}");
    assert_eq!(mx.messages().len(), 1);
    assert_eq!(relay.db().ended("you@a.test").as_deref(), Some("delivered"), "{}", relay.db().dump());
}

#[test]
fn sigterm_does_not_wait_for_a_host_that_stalls_and_loses_nothing() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Mail, Act::Stall));
    let mut relay = world.relay(Config::new().set("delivery.reply_timeout", "\"5m\""));
    relay.submit(SENDER, &["you@a.test"], &mail("stalled"));
    mx.wait_for_command("MAIL", SOON);
    // The relay waits 30 s for attempts under way; the rest is a margin.
    relay.stop_within(Duration::from_secs(35));
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients WHERE state = 'queued'", []), 1);
}

/// The SIZE that EHLO offers, on a new session.
fn size_offered(relay: &Relay) -> String {
    let mut client = crate::harness::relay::Client::connect(relay.clear).unwrap();
    let reply = client.say("EHLO app.test").unwrap();
    let size = reply.text.lines().find_map(|line| line.strip_prefix("SIZE "));
    size.unwrap_or_else(|| panic!("no SIZE in {reply:?}")).to_owned()
}

#[test]
fn sighup_takes_new_limits_and_keeps_the_old_ones_when_the_config_is_bad() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set("limits.message_size", "\"1MiB\""));
    assert_eq!(size_offered(&relay), "1048576");
    relay.write_config(&relay.config().set("limits.message_size", "\"64KiB\""));
    relay.signal("HUP");
    wait_for("the new limit", SOON, || (size_offered(&relay) == "65536").then_some(()));

    let bad = relay.config().set("limits.message_size", "\"2MiB\"").set("limits.mesage_sise", "\"1MiB\"");
    relay.write_config(&bad);
    relay.signal("HUP");
    wait_for("the error in the log", SOON, || relay.logged(&[log::NOT_RELOADED, "mesage_sise"]).pop());
    assert_eq!(size_offered(&relay), "65536", "the old limits stay");
    relay.submit(SENDER, &["you@a.test"], &mail("still here"));
    mx.wait_for_messages(1, SOON);
}

#[test]
fn a_queue_that_waited_is_delivered_after_a_restart() {
    let (_world, mx, mut relay) = put_off();
    relay.stop();
    relay.db_for_writing().execute("UPDATE recipients SET next_attempt_at = unixepoch() - 10", []);
    relay.start_again();
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
}

#[test]
fn sqlite3_answers_what_waits_for_whom_and_why_while_the_relay_runs() {
    let (_world, _mx, relay) = put_off();
    let id = relay.db().row("SELECT queue_id FROM messages", []).unwrap();
    let sql = "SELECT queue_id, sender, recipient, state, attempts, last_reply, last_mx FROM queue";
    let wanted = format!("{id}|{SENDER}|you@a.test|queued|1|451 4.7.1 later|mx.a.test");
    assert_eq!(relay.db().rows(sql, []), [wanted.as_str()]);
    assert_eq!(
        relay.db().rows("SELECT domain, total, under_5m, held FROM queue_by_domain", []),
        ["a.test|1|1|0"]
    );
    assert_eq!(
        relay.db().rows("SELECT times, recipients, outcome, phase, mx, reply FROM failures", []),
        ["1|1|deferred|rcpt|mx.a.test|451 4.7.1 later"]
    );
    assert_eq!(relay.db().rows("SELECT * FROM stuck", []), Vec::<String>::new());
    if !installed("sqlite3") {
        return;
    }
    let output = std::process::Command::new("sqlite3").arg(relay.path("queue.db")).arg(sql).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), wanted);
}

#[test]
fn somebodys_open_write_transaction_is_answered_451_in_time_and_loses_nothing() {
    let mut world = World::new();
    let slow = Act::Later(Duration::from_secs(1), Box::new(Act::Say("250 2.0.0 ok")));
    let mx = world.host("a.test", Script::new().on(At::Dot, slow));
    let relay = world.relay(Config::new());
    // Under way when the database is locked: taken by the host while nobody can write that down.
    relay.submit(SENDER, &["before@a.test"], &mail("before"));
    mx.wait_for_command("DATA", SOON);
    let other = relay.db_for_writing();
    other.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut client = relay.client();
    let began = Instant::now();
    let reply = client.transact(SENDER, "", &["during@a.test"], &mail("during")).unwrap();
    let took = began.elapsed();
    assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{reply:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    mx.wait_for_messages(1, SOON);
    other.0.execute_batch("ROLLBACK").unwrap();

    // The session goes on, and both the old and the new are delivered, once.
    let again = wait_for("submission to work again", SOON, || {
        let reply = client.transact(SENDER, "", &["after@a.test"], &mail("after")).unwrap();
        client.expect("RSET", "250");
        (reply.code == 250).then_some(reply)
    });
    assert!(!again.text.is_empty());
    wait_for_end(&relay, "before@a.test", "delivered");
    wait_for_end(&relay, "after@a.test", "delivered");
    relay.wait_until_empty();
    let mut got: Vec<String> = mx.messages().into_iter().flat_map(|message| message.rcpts).collect();
    got.sort();
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[0].contains("after@") && got[1].contains("before@"), "{got:?}");
    assert!(!relay.logged(&[log::DATABASE_BUSY]).is_empty());
}

/// Several at a time, and beside a relay that takes mail as fast as it can.
#[test]
fn commands_beside_each_other_and_a_busy_relay_wait_their_turn() {
    let (_world, mx, relay) = put_off();
    drop(mx);
    let to: Vec<String> = (0..500).map(|n| format!("n{n}@b.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    relay.submit(SENDER, &to, &mail("many"));
    let (relay, stop) = (&relay, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let mut client = relay.client();
                while !stop.load(Ordering::Relaxed) {
                    client.submit(SENDER, &[&format!("load{n}@c.test")], &mail("load"));
                }
            });
        }
        let commands = [
            &["hold", "--all", "--yes"][..],
            &["release", "--all", "--yes"],
            &["kick", "--all", "--yes"],
            &["summary"],
        ];
        let ran: Vec<_> = commands
            .into_iter()
            .map(|command| {
                scope.spawn(move || {
                    for _ in 0..3 {
                        let ran = relay.run(&[&["queue"], command].concat());
                        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                        assert!(ran.status.success(), "{command:?}: {said}");
                    }
                })
            })
            .collect();
        let failed: Vec<_> = ran.into_iter().filter_map(|ran| ran.join().err()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{failed:?}");
    });
}
