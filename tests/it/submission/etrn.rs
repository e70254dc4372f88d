//! Kicks: whose mail they move, how often they may come, and that they take no step of the schedule.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Client, Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// Who asks, and how many of a destination's three recipients are theirs: one of the user `app`, one of the user
/// `other`, one that 127.0.0.1 sent without a login.
const CASES: [(&str, Option<&str>, [u8; 4], usize); 7] = [
    ("d0.test", Some("app"), [127, 0, 0, 1], 1),
    ("d1.test", Some("other"), [127, 0, 0, 9], 1),
    ("d2.test", Some("stranger"), [127, 0, 0, 1], 0),
    ("d3.test", Some("customer"), [127, 0, 0, 9], 3),
    ("d4.test", Some("op"), [127, 0, 0, 9], 3),
    ("d5.test", None, [127, 0, 0, 1], 1),
    ("d6.test", None, [127, 0, 0, 9], 0),
];

fn client(relay: &Relay, user: Option<&str>, source: [u8; 4]) -> Client {
    let mut client = Client::connect_from(source, relay.clear).unwrap();
    client.expect("EHLO app.test", "250");
    if let Some(user) = user {
        client.log_in(user);
    }
    client
}

fn number(relay: &Relay, sql: &str) -> i64 {
    relay.db().number(sql, [])
}

#[test]
fn a_kick_moves_and_counts_what_is_the_askers() {
    let mut world = World::new();
    for (domain, ..) in CASES {
        world.closed_mx(domain, 10, &format!("mx.{domain}"));
    }
    let relay = world.relay(Config::new());
    relay.add_user_with("other", &[]);
    relay.add_user_with("stranger", &[]);
    relay.add_user_with("customer", &["--etrn", "d3.test"]);
    relay.add_user_with("op", &["--operator"]);
    let to: Vec<String> = CASES.iter().map(|(domain, ..)| format!("you@{domain}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for user in [Some("app"), Some("other"), None] {
        client(&relay, user, [127, 0, 0, 1]).submit(SENDER, &to, &mail("waits"));
    }
    // Put off by hand, so that all of it is to be moved.
    relay.wait_until("the lanes to back off", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs", []) == CASES.len() as i64).then_some(())
    });
    relay.db_for_writing().execute("UPDATE recipients SET next_attempt_at = unixepoch() + 5000", []);
    for (domain, user, source, theirs) in CASES {
        let reply = client(&relay, user, source).say(&format!("ETRN {domain}")).unwrap();
        let expected = match theirs {
            0 => (251, format!("2.0.0 Ok, no messages waiting for {domain}")),
            n => (253, format!("2.0.0 Ok, {n} pending messages for {domain} started")),
        };
        assert_eq!((reply.code, reply.text), expected, "{user:?}");
        let moved =
            format!("SELECT count(*) FROM recipients WHERE domain = '{domain}' AND kicked_attempts = 1");
        assert_eq!(number(&relay, &moved), theirs as i64, "{domain} {user:?}");
        let still = format!(
            "SELECT count(*) FROM backoffs WHERE lane = '{domain}' AND backoff_until > unixepoch() + 600"
        );
        // Tried and failed again by now, perhaps: then for another hour.
        assert!(theirs > 0 || number(&relay, &still) == 1, "{domain}: the backoff is not theirs to end");
    }
    // Whoever else asks for a destination that was asked for hears so, but for an operator.
    for n in 1..=34 {
        client(&relay, None, [127, 0, 1, n]).expect("ETRN @d3.test", "458 4.7.1");
    }
    client(&relay, Some("op"), [127, 0, 0, 9]).expect("ETRN d3.test", "25");
}

/// Kicked six times within the first wait, the mail still waits no longer than that.
#[test]
fn a_kick_takes_no_step_of_the_schedule() {
    let mut world = World::new();
    let mut busy = Script::new();
    for _ in 0..20 {
        busy = busy.first(20, At::Rcpt("@"), Act::Say("451 4.7.1 later"));
    }
    let _mx = world.host("a.test", busy);
    world.closed_mx("closed.test", 10, "mx.closed.test");
    let relay = world.relay(Config::new().retry(&["6m", "1h", "4h"]));
    relay.submit(SENDER, &["you@a.test", "you@closed.test"], &mail("waits"));
    for tries in 1..=7 {
        for domain in ["a.test", "closed.test"] {
            let tried = format!(
                "SELECT count(*) FROM attempts WHERE recipient_id = (SELECT id FROM recipients WHERE domain = '{domain}')"
            );
            wait_for(&format!("try {tries} of {domain}"), SOON, || {
                (number(&relay, &tried) >= tries).then_some(())
            });
        }
        relay.wait_until("the backoff", SOON, |db| {
            let backs_off =
                "SELECT count(*) FROM backoffs WHERE lane = 'closed.test' AND backoff_until > unixepoch()";
            (db.number(backs_off, []) == 1).then_some(())
        });
        if tries <= 6 {
            relay.run_ok(&["queue", "kick", "--all"]);
        }
    }
    let longest = 6 * 60 * 6 / 5;
    let wait = "SELECT max(next_attempt_at) - unixepoch() FROM recipients";
    assert!((60..=longest).contains(&number(&relay, wait)), "{}", number(&relay, wait));
    let backoff = "SELECT backoff_until - unixepoch() FROM backoffs WHERE lane = 'closed.test'";
    assert!((60..=longest).contains(&number(&relay, backoff)), "{}", number(&relay, backoff));
    // How often it was tried is not hidden by that.
    assert_eq!(number(&relay, "SELECT min(attempts) FROM recipients"), 7);
}
