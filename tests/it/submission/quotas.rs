//! How much a user may send: recipients an hour (`--rate`), bytes in the queue (`--quota`).

use std::sync::Barrier;

use crate::harness::client::on_the_wire;
use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Client, Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// What came of MAIL, each RCPT and the content: the codes.
fn send(client: &mut Client, recipients: usize) -> Vec<u16> {
    let mut codes = vec![client.say(&format!("MAIL FROM:<{SENDER}>")).unwrap().code];
    for number in 0..recipients {
        codes.push(client.say(&format!("RCPT TO:<r{number}@a.test>")).unwrap().code);
    }
    if codes[1..].contains(&250) {
        client.expect("DATA", "354");
        client.write(&on_the_wire(&mail("hello"))).unwrap();
        codes.push(client.reply().unwrap().code);
    } else {
        client.expect("RSET", "250");
    }
    codes
}

fn logged_in(relay: &Relay, user: &str) -> Client {
    let mut client = relay.client();
    client.log_in(user);
    client
}

#[test]
fn a_rate_counts_the_recipients_of_a_message() {
    let mut world = World::new();
    world.closed_mx("a.test", 10, "mx.a.test");
    let relay = world.relay(Config::new());
    relay.add_user_with("limited", &["--rate", "5/h"]);
    let (mut one, mut other) = (logged_in(&relay, "limited"), logged_in(&relay, "limited"));
    one.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    one.expect("RCPT TO:<first@a.test>", "250 2.1.5");
    // Five in all, whoever of the two sends: what is over is for later, and the rest is queued.
    assert_eq!(send(&mut other, 6), [250, 250, 250, 250, 250, 450, 450, 250]);
    one.expect("RCPT TO:<second@a.test>", "450 4.7.1");
    // A transaction that is given up gives its own back, and no more than that.
    one.expect("RSET", "250");
    assert_eq!(send(&mut one, 2), [250, 250, 450, 250]);
    one.expect(&format!("MAIL FROM:<{SENDER}>"), "450 4.7.1");
    let refused =
        relay.logged(&["refused RCPT", "user=limited", "reply=450 4.7.1 Your rate of 5 recipients"]);
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert_eq!(relay.logged(&["refused MAIL", "user=limited", "450 4.7.1"]).len(), 1);
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients", []), 5);
}

/// A message of about so many bytes to `a.test`: MAIL with these parameters to the end; the code that decided.
fn submit(client: &mut Client, parameters: &str, bytes: usize) -> u16 {
    submit_to(client, "you@a.test", parameters, bytes)
}

fn submit_to(client: &mut Client, recipient: &str, parameters: &str, bytes: usize) -> u16 {
    let content = format!("Subject: much\r\n\r\n{}", "0123456789abcde\r\n".repeat(bytes / 17));
    client.transact(SENDER, parameters, &[recipient], content.as_bytes()).unwrap().code
}

const KB: usize = 1_000;

fn queued(relay: &Relay) -> i64 {
    relay.db().number("SELECT coalesce(sum(size), 0) FROM messages WHERE user = 'limited'", [])
}

#[test]
fn a_quota_bounds_what_waits_and_what_goes_makes_room() {
    let mut world = World::new();
    let mx = world.host("b.test", Script::new());
    world.closed_mx("a.test", 10, "mx.a.test");
    let mut relay = world.relay(Config::new());
    relay.add_user_with("limited", &["--quota", "100kB"]);
    let mut client = logged_in(&relay, "limited");
    // What is delivered counts no more.
    for number in 1..=3 {
        assert_eq!(submit_to(&mut client, "you@b.test", "", 60 * KB), 250);
        assert_eq!(mx.wait_for_messages(number, SOON).len(), number);
        relay.wait_until_empty();
    }
    // Deferred mail counts, and mail for later does, and so does what an operator holds.
    assert_eq!(submit(&mut client, "", 30 * KB), 250);
    assert_eq!(submit(&mut client, " HOLDFOR=86400", 30 * KB), 250);
    assert_eq!(submit(&mut client, "", 30 * KB), 250);
    relay.run_ok(&["queue", "hold", "--all"]);
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE=30000"), "452 4.7.1");
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE=30000 HOLDFOR=86400"), "452 4.7.1");
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE=100001"), "552 5.3.4");
    assert_eq!(submit(&mut client, "", 30 * KB), 452, "without SIZE it is known at the end");
    assert_eq!(submit(&mut client, "", 2_000 * KB), 552, "and what never fits is too big");
    let waits = queued(&relay);
    assert!((90_000..100_000).contains(&waits), "{waits}");
    let listed = relay.run_ok(&["user", "list"]);
    assert!(listed.contains("limited  quota 100kB (9") && listed.contains(" % used)"), "{listed}");
    let checked = String::from_utf8(relay.run(&["check"]).stdout).unwrap();
    assert!(checked.contains("limited has used 9"), "{checked}");
    let refused = relay.logged(&["refused MAIL", "user=limited", "452 4.7.1", "your quota of 100kB"]);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(relay.logged(&["refused content", "user=limited", "reply=452 4.7.1"]).len(), 1);

    // Over a restart it is the same.
    relay.stop();
    relay.start_again();
    let mut client = logged_in(&relay, "limited");
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE=30000"), "452 4.7.1");
    // An operator makes room: by removing, by SQL, by a larger quota.
    let ids = relay.db().rows("SELECT queue_id FROM messages ORDER BY id", []);
    relay.run_ok(&["queue", "remove", &ids[0]]);
    let mut takes = |what: &str, parameters: &str| {
        wait_for(what, SOON, || (submit(&mut client, parameters, 30 * KB) == 250).then_some(()));
    };
    takes("room behind queue remove", " HOLDFOR=86400");
    let db = relay.db_for_writing();
    for table in ["recipients", "content"] {
        db.execute(&format!("DELETE FROM {table} WHERE message_id = (SELECT min(id) FROM messages)"), []);
    }
    db.execute("DELETE FROM messages WHERE id = (SELECT min(id) FROM messages)", []);
    drop(db);
    takes("room behind DELETE", " HOLDFOR=86400");
    relay.run_ok(&["user", "set", "limited", "--quota", "130kB"]);
    takes("room in a larger quota", " HOLDFOR=86400");
}

/// However many send at the same moment, and in whatever way.
#[test]
fn sessions_of_a_user_do_not_exceed_the_quota_together() {
    let mut world = World::new();
    world.closed_mx("a.test", 10, "mx.a.test");
    let relay = world.relay(Config::new());
    relay.add_user_with("limited", &["--quota", "1MB"]);
    let (sessions, size) = (8, 300 * KB);
    let together = Barrier::new(sessions);
    let codes: Vec<u16> = std::thread::scope(|scope| {
        let send = |number: usize| {
            let (relay, together) = (&relay, &together);
            move || {
                let mut client = logged_in(relay, "limited");
                let parameters =
                    if number.is_multiple_of(2) { format!(" SIZE={size}") } else { String::new() };
                together.wait();
                submit(&mut client, &parameters, size)
            }
        };
        let threads: Vec<_> = (0..sessions).map(|number| scope.spawn(send(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let taken = codes.iter().filter(|code| **code == 250).count();
    assert!(codes.iter().all(|code| matches!(code, 250 | 452)), "{codes:?}");
    assert!((1..=3).contains(&taken), "{codes:?}");
    let waits = queued(&relay);
    assert!(waits <= 1_000_000 && waits >= (taken * size) as i64 - 100, "{waits} with {codes:?}");
    // What was refused has left nothing behind.
    let mut client = logged_in(&relay, "limited");
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE={}", 1_000_000 - waits), "250");
    client.expect("RSET", "250");
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE={}", 1_000_001 - waits), "452 4.7.1");
    assert_eq!(relay.db().number("SELECT count(*) FROM partial_messages", []), 0);
}
