//! How much of a host we take, end to end: the limit per MX host, what is learnt from complaints, the operator's
//! own limits, and the share of the workers that doubtful destinations may have.

use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// What a host with too many connections says.
const TOO_MANY: &str = "421 4.7.0 mx.a.test Error: too many connections from 127.0.0.1";
/// Long enough that transactions meet.
const A_WHILE: Duration = Duration::from_millis(150);

/// Takes its time over every message.
fn slow() -> Script {
    Script::new().on(At::Dot, Act::Later(A_WHILE, Box::new(Act::Say("250 2.0.0 taken"))))
}

fn submit(relay: &Relay, domain: &str, count: usize) {
    let mut client = relay.client();
    for number in 0..count {
        client.submit(SENDER, &[&format!("you{number}@{domain}")], &mail(&format!("number {number}")));
    }
}

fn tries(relay: &Relay) -> Vec<String> {
    relay.db().rows("SELECT outcome, count(*) FROM attempts GROUP BY outcome ORDER BY outcome", [])
}

/// A host that serves two domains.
fn shared_host(world: &mut World, script: Script) -> FakeMx {
    world.zone(|zone| zone.mx("b.test", 10, "mx.a.test"));
    world.host("a.test", script)
}

#[test]
fn two_domains_that_share_a_host_never_have_more_connections_there_than_one_may() {
    let mut world = World::new();
    let mx = shared_host(&mut world, slow());
    let relay = world.relay(Config::new().set("delivery.connections_per_destination", "3"));
    submit(&relay, "a.test", 15);
    submit(&relay, "b.test", 15);
    mx.wait_for_messages(30, SOON);
    relay.wait_until_empty();
    assert_eq!(mx.most_open(), 3);
    assert_eq!(tries(&relay), ["delivered|30"], "whoever found no room made no attempt");
    assert_eq!(relay.logged(&[log::LANE_BACKS_OFF]), [""; 0], "a full host is no trouble");
}

#[test]
fn a_busy_domain_does_not_keep_a_host_from_another() {
    let mut world = World::new();
    let mx = shared_host(&mut world, slow());
    let relay = world.relay(Config::new().set("delivery.connections_per_destination", "1"));
    submit(&relay, "a.test", 60);
    mx.wait_for_messages(1, SOON);
    submit(&relay, "b.test", 1);
    relay.wait_until("b.test to have its turn", SOON, |db| db.ended("you0@b.test"));
    let waiting = relay.db().number("SELECT count(*) FROM recipients WHERE domain = 'a.test'", []);
    assert!(waiting > 0, "b.test had to wait for all of a.test");
    assert_eq!(mx.most_open(), 1);
}

#[test]
fn a_host_of_the_same_preference_takes_what_another_has_no_room_for_and_the_backup_does_not() {
    let mut world = World::new();
    let one = world.mx("a.test", 10, "mx1.a.test", slow());
    let two = world.mx("a.test", 10, "mx2.a.test", slow());
    let backup = world.mx("a.test", 20, "mx3.a.test", slow());
    let config = Config::new().destination("mx = \"*.a.test\"\nconnections = 2");
    let relay = world.relay(config.set("delivery.connections_per_destination", "6"));
    submit(&relay, "a.test", 24);
    relay.wait_until_empty();
    assert_eq!((one.most_open(), two.most_open()), (2, 2));
    assert_eq!(backup.seen().len(), 0);
    assert_eq!(tries(&relay), ["delivered|24"]);
}

#[test]
fn a_host_that_complains_of_connections_is_given_fewer_and_loses_no_mail_by_it() {
    let mut world = World::new();
    let mx = world.host("a.test", slow().at_most(2, TOO_MANY));
    let mut relay = world.relay(Config::new());
    submit(&relay, "a.test", 40);
    mx.wait_for_messages(40, SOON);
    relay.wait_until_empty();
    assert!(mx.sent_away() > 0, "it was never crowded");
    assert!(mx.sent_away() < 15, "{} times sent away", mx.sent_away());
    assert_eq!(tries(&relay), ["delivered|40"]);
    let learnt = "SELECT mx, setting, value <= 4, last_reply FROM host_settings";
    let row = format!("mx.a.test|connections|1|{TOO_MANY}");
    relay.wait_until("the limit to be kept", SOON, |db| (db.row(learnt, [])? == row).then_some(()));

    // Known to whoever asks, and to the next process.
    let told = relay.json(&["queue", "summary"])[0]["hosts"][0].clone();
    assert_eq!((&told["mx"], &told["last_reply"]), (&"mx.a.test".into(), &TOO_MANY.into()));
    let before = mx.sent_away();
    relay.stop();
    relay.db_for_writing().execute("UPDATE host_settings SET value = 2, changed_at = unixepoch()", []);
    relay.start_again();
    submit(&relay, "a.test", 20);
    mx.wait_for_messages(60, SOON);
    assert_eq!(mx.sent_away(), before, "the limit was forgotten");
}

#[test]
fn a_limit_is_earned_back_and_then_forgotten() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let mut relay = world.relay(Config::new().set("delivery.connections_per_destination", "4"));
    relay.stop();
    let rows = "INSERT INTO host_settings VALUES
        ('mx.a.test', 'connections', 2, '421 4.7.0 slow down', unixepoch() - 61, NULL),
        ('mx.a.test', 'messages_per_minute', 595, '421 4.7.0 slow down', unixepoch() - 61, NULL)";
    relay.db_for_writing().execute(rows, []);
    relay.start_again();
    submit(&relay, "a.test", 1);
    mx.wait_for_messages(1, SOON);
    let given = "SELECT setting, value, last_reply FROM host_settings";
    let more = ["connections|3|421 4.7.0 slow down"];
    relay.wait_until("one more", SOON, |db| (db.rows(given, []) == more).then_some(()));
    relay.stop();
    relay.db_for_writing().execute("UPDATE host_settings SET changed_at = unixepoch() - 61", []);
    relay.start_again();
    submit(&relay, "a.test", 1);
    relay.wait_until("nothing to remember", SOON, |db| {
        (db.number("SELECT count(*) FROM host_settings", []) == 0).then_some(())
    });
}

/// How long the relay may take to notice what people write.
const NOTICED: Duration = Duration::from_secs(2);

fn edit(relay: &Relay, sql: &str) {
    relay.db_for_writing().execute(sql, []);
    std::thread::sleep(NOTICED);
}

#[test]
fn a_limit_of_connections_that_somebody_writes_changes_or_deletes_holds_while_the_relay_runs() {
    let mut world = World::new();
    let mx = shared_host(&mut world, slow());
    let relay = world.relay(Config::new().set("delivery.connections_per_destination", "5"));
    let most = |count: usize| {
        let before = mx.messages().len();
        submit(&relay, "a.test", count);
        mx.wait_for_messages(before + count, SOON);
        relay.wait_until_empty();
        mx.most_open()
    };
    edit(&relay, "INSERT INTO host_settings VALUES ('mx.a.test', 'connections', 1, NULL, unixepoch(), NULL)");
    assert_eq!(most(8), 1, "written");
    edit(&relay, "UPDATE host_settings SET value = 2");
    assert_eq!(most(20), 2, "changed");
    edit(&relay, "DELETE FROM host_settings");
    wait_for("more than that", SOON, || (most(20) > 2).then_some(()));
}

#[test]
fn a_rate_that_somebody_writes_changes_or_deletes_holds_while_the_relay_runs() {
    let mut world = World::new();
    // Each domain is a lane of its own: who was put off to the next minute is not looked at again before.
    for domain in ["b", "c", "d", "e", "f"] {
        world.zone(|zone| zone.mx(&format!("{domain}.test"), 10, "mx.a.test"));
    }
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let waits = |domain: &str| {
        submit(&relay, domain, 1);
        std::thread::sleep(NOTICED);
        let left = format!("SELECT attempts FROM recipients WHERE domain = '{domain}'");
        assert_eq!(relay.db().rows(&left, []), ["0"], "{domain} does not wait");
    };
    let goes = |domain: &str| {
        let before = mx.messages().len();
        submit(&relay, domain, 1);
        mx.wait_for_messages(before + 1, SOON);
    };
    edit(
        &relay,
        "INSERT INTO host_settings VALUES ('mx.a.test', 'messages_per_minute', 1, NULL, unixepoch(), NULL)",
    );
    goes("a.test");
    waits("b.test");
    edit(&relay, "UPDATE host_settings SET value = 600");
    goes("c.test");
    edit(&relay, "UPDATE host_settings SET value = 1");
    // What the higher rate left over, at the most one.
    goes("d.test");
    waits("e.test");
    edit(&relay, "DELETE FROM host_settings");
    goes("f.test");
}

#[test]
fn a_complaint_of_the_pace_slows_the_next_messages_down() {
    let mut world = World::new();
    let rule = Act::Say("450 4.7.1 Error: too much mail from 127.0.0.1");
    let mx = world.host("a.test", Script::new().first(1, At::Mail, rule));
    let _other = world.host("b.test", Script::new());
    let mut relay = world.relay(Config::new().retry(&["1s"]));
    submit(&relay, "a.test", 1);
    mx.wait_for_messages(1, SOON);
    let given = "SELECT setting, value FROM host_settings";
    relay.wait_until("a slower pace", SOON, |db| {
        (db.row(given, [])? == "messages_per_minute|1").then_some(())
    });
    relay.wait_until_empty();
    // One a minute: the next one waits, and that is no attempt.
    submit(&relay, "a.test", 1);
    // What came later and may go has gone, and a relay that stops lets attempts end: this one was not begun.
    submit(&relay, "b.test", 1);
    relay.wait_until("other mail to go", SOON, |db| db.ended("you0@b.test"));
    relay.stop();
    assert_eq!(relay.db().rows("SELECT domain, attempts FROM recipients", []), ["a.test|0"]);
    assert_eq!(mx.messages().len(), 1);
}

#[test]
fn the_operators_limits_hold_for_a_domain_and_for_a_host() {
    let mut world = World::new();
    let mx = shared_host(&mut world, slow());
    let config = Config::new()
        .destination("domain = \"a.test\"\nconnections = 1")
        .destination("domain = \"b.test\"\nmessages_per_minute = 60");
    let relay = world.relay(config);
    submit(&relay, "a.test", 6);
    mx.wait_for_messages(6, SOON);
    assert_eq!(mx.most_open(), 1);
    let start = Instant::now();
    submit(&relay, "b.test", 5);
    mx.wait_for_messages(11, SOON);
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "5 messages at one a second took {:?}",
        start.elapsed()
    );
    relay.wait_until_empty();
    assert_eq!(tries(&relay), ["delivered|11"]);
}

#[test]
fn hosts_that_hang_leave_threads_for_good_ones_and_give_theirs_back_at_the_deadline() {
    const HUNG: usize = 12;
    let mut world = World::new();
    let hung: Vec<FakeMx> = (0..HUNG)
        .map(|number| world.host(&format!("hung{number}.test"), Script::new().on(At::Greeting, Act::Stall)))
        .collect();
    let good = world.host("good.test", Script::new());
    let config =
        Config::new().set("delivery.workers", "16").set("delivery.attempt_deadline", "\"8s\"").retry(&["1s"]);
    let relay = world.relay(config);
    for number in 0..HUNG {
        submit(&relay, &format!("hung{number}.test"), 10);
    }
    let held = || hung.iter().map(|mx| mx.seen().iter().filter(|seen| !seen.closed).count()).sum::<usize>();
    wait_for("all of them to hang", SOON, || (held() == HUNG).then_some(()));
    // Nobody knows yet which of them will never speak. Good mail finds a thread all the same.
    submit(&relay, "good.test", 50);
    good.wait_for_messages(50, SOON);
    let nothing = relay.db().number("SELECT count(*) FROM backoffs", []);
    assert_eq!((nothing, held()), (0, HUNG), "good mail waited for the deadline of others");

    // After the deadline they are known, and although they are due again and again half of the workers is all
    // that they get.
    let all = HUNG as i64;
    relay.wait_until("every host to be found hanging", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs", []) >= all).then_some(())
    });
    wait_for("half of the workers to hang again", SOON, || (held() == 8).then_some(()));
    let tries = || hung.iter().map(|mx| mx.seen().len()).sum::<usize>();
    let before = tries();
    submit(&relay, "good.test", 50);
    good.wait_for_messages(100, SOON);
    assert_eq!((tries(), held()), (before, 8), "good mail waited for the deadline of others");
    // And theirs come back: the others have their second try.
    let again = |mx: &FakeMx| mx.seen().len() > 1;
    wait_for("second tries everywhere", Duration::from_secs(60), || hung.iter().all(again).then_some(()));
}
