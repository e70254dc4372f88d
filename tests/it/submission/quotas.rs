//! How much a user may send: recipients an hour (`--rate`).

use crate::harness::relay::{Client, Config, Relay, World, mail};
use crate::harness::sender::SENDER;

/// What came of MAIL, each RCPT and the content: the codes.
fn send(client: &mut Client, recipients: usize) -> Vec<u16> {
    let mut codes = vec![client.say(&format!("MAIL FROM:<{SENDER}>")).unwrap().code];
    for number in 0..recipients {
        codes.push(client.say(&format!("RCPT TO:<r{number}@nowhere.test>")).unwrap().code);
    }
    if codes[1..].contains(&250) {
        client.expect("DATA", "354");
        client.write(&crate::harness::client::on_the_wire(&mail("hello"))).unwrap();
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
    let world = World::new();
    let relay = world.relay(Config::new());
    relay.add_user_with("limited", &["--rate", "5/h"]);
    let (mut one, mut other) = (logged_in(&relay, "limited"), logged_in(&relay, "limited"));
    one.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    one.expect("RCPT TO:<first@nowhere.test>", "250 2.1.5");
    // Five in all, whoever of the two sends: what is over is for later, and the rest is queued.
    assert_eq!(send(&mut other, 6), [250, 250, 250, 250, 250, 450, 450, 250]);
    one.expect("RCPT TO:<second@nowhere.test>", "450 4.7.1");
    // A transaction that is given up gives its own back, and no more than that.
    one.expect("RSET", "250");
    assert_eq!(send(&mut one, 2), [250, 250, 450, 250]);
    one.expect(&format!("MAIL FROM:<{SENDER}>"), "450 4.7.1");
    let refused = relay.logged(&["refused RCPT", "user=limited", "reply=450 4.7.1 Your rate of 5 recipients"]);
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert_eq!(relay.logged(&["refused MAIL", "user=limited", "450 4.7.1"]).len(), 1);
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients", []), 5);
}
