//! ATRN (RFC 2645): mail that a customer comes for, end to end. The customer is a client that logs in over TLS,
//! says ATRN, and is a scripted receiving host from then on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustls::StreamOwned;

use crate::harness::client;
use crate::harness::dkim::Keys;
use crate::harness::fakemx::{Act, At, FakeMx, Opened, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;
use postrider::mail::dkim::Algorithm;

const CUSTOMER: &str = "customer";
/// What the customer's host calls itself.
const NAME: &str = "mail.shop.test";

/// A relay with a customer who fetches the mail of shop.test and too.test, and another who fetches other.test.
fn relay(world: &World, config: Config) -> Relay {
    let mut relay = Relay::prepare(world.configured(config));
    relay.add_user_with(CUSTOMER, &["--atrn", "shop.test", "--atrn", "too.test"]);
    relay.add_user_with("neighbour", &["--atrn", "other.test"]);
    relay.add_user_with("op", &["--operator"]);
    relay.start_again();
    relay
}

/// A client before it turns its connection round.
struct Customer {
    stream: Opened,
}

impl Customer {
    /// Over TLS, logged in.
    fn log_in(relay: &Relay) -> Customer {
        let tls = client::tls(relay);
        let tcp = TcpStream::connect(relay.implicit).unwrap();
        Customer::on(Opened::Tls(Box::new(StreamOwned::new(tls, tcp))))
    }

    /// In the clear, on loopback.
    fn log_in_clear(relay: &Relay) -> Customer {
        Customer::on(Opened::Clear(TcpStream::connect(relay.clear).unwrap()))
    }

    fn on(stream: Opened) -> Customer {
        let mut customer = Customer { stream };
        customer.tcp().set_read_timeout(Some(SOON)).unwrap();
        assert!(customer.reply().starts_with("220 "));
        let offers = customer.say(&format!("EHLO {NAME}"));
        // Clients look for it before they log in, as in RFC 2645's own example.
        assert!(offers.contains("250-ATRN\n"), "{offers}");
        assert!(customer.say(&client::auth_plain(CUSTOMER)).starts_with("235 "));
        let offers = customer.say(&format!("EHLO {NAME}"));
        assert!(offers.contains("250-ATRN\n"), "{offers}");
        customer
    }

    /// ATRN must be accepted; from here on the customer is this host.
    fn fetch(relay: &Relay, arguments: &str, script: Script) -> FakeMx {
        Customer::log_in(relay).turn(arguments, script)
    }

    fn turn(mut self, arguments: &str, script: Script) -> FakeMx {
        let reply = self.say(&format!("ATRN{arguments}"));
        assert!(reply.starts_with("250 "), "{reply}");
        FakeMx::turned(self.stream, script)
    }

    fn say(&mut self, line: &str) -> String {
        let line = format!("{line}\r\n");
        match &mut self.stream {
            Opened::Clear(tcp) => tcp.write_all(line.as_bytes()).unwrap(),
            Opened::Tls(tls) => tls.write_all(line.as_bytes()).and_then(|()| tls.flush()).unwrap(),
        }
        self.reply()
    }

    /// Byte by byte: what follows belongs to whoever the customer is then.
    fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            while !text.ends_with("\r\n") {
                let mut byte = [0];
                match &mut self.stream {
                    Opened::Clear(tcp) => tcp.read_exact(&mut byte).unwrap(),
                    Opened::Tls(tls) => tls.read_exact(&mut byte).unwrap(),
                }
                text.push(char::from(byte[0]));
            }
            text.truncate(text.len() - 2);
            if text.as_bytes()[start + 3] == b' ' {
                return text;
            }
            text.push('\n');
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Opened::Clear(tcp) => tcp,
            Opened::Tls(tls) => &tls.sock,
        }
    }
}

/// What is fetched is signed as what is sent.
#[test]
fn mail_that_is_fetched_is_signed() {
    let mut keys = Keys::new();
    let config = Config::new().dkim(&keys.add("app.test", "s1", Algorithm::Ed25519Sha256));
    let relay = relay(&World::new(), config);
    let content = b"From: me@app.test\r\nSubject: x\r\n\r\n.body\r\n";
    relay.submit(SENDER, &["one@shop.test"], content);
    let host = Customer::fetch(&relay, "", Script::new());
    let message = host.wait_for_messages(1, SOON).remove(0);
    assert_eq!(keys.verified(&message.content), ["app.test/s1"]);
    relay.wait_until_empty();
}

/// The recipients of the messages that a host took, in order.
fn taken(host: &FakeMx) -> Vec<String> {
    let address = |line: &String| line["RCPT TO:<".len()..].split('>').next().unwrap().to_owned();
    host.messages().iter().flat_map(|message| message.rcpts.iter().map(address).collect::<Vec<_>>()).collect()
}

/// Waits until so many tries that did not end in delivery are recorded, and so many recipients are due.
fn wait_until_due(relay: &Relay, tries: i64, recipients: i64) {
    relay.wait_until("the tries", SOON, |db| {
        let failed = "SELECT count(*) FROM attempts WHERE outcome != 'delivered'";
        (db.number(failed, []) == tries).then_some(())
    });
    relay.wait_until("everything to be due", SOON, |db| {
        let due = "SELECT count(*) FROM recipients WHERE state = 'queued' AND next_attempt_at <= unixepoch()";
        (db.number(due, []) == recipients).then_some(())
    });
}

#[test]
fn what_waits_is_delivered_on_the_customers_connection_and_never_by_mx() {
    let mut world = World::new();
    let mx = world.host("shop.test", Script::new());
    let relay = relay(&world, Config::new());
    for to in ["one@shop.test", "two@too.test", "three@SHOP.test"] {
        relay.submit(SENDER, &[to], &mail(to));
    }
    relay.submit(SENDER, &["four@shop.test", "five@shop.test", "else@other.test"], &mail("several"));
    // Seen to wait, everywhere that people look.
    relay.wait_until("the lanes to be shown", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs WHERE lane LIKE 'atrn:%'", []) == 3).then_some(())
    });
    let view = "SELECT next_attempt, lane_reply FROM queue WHERE recipient = 'one@shop.test'";
    assert_eq!(relay.db().row(view, []).as_deref(), Some("ATRN|waits for ATRN by customer"));
    let listed = relay.json(&["queue", "list", "--domain", "other.test"]);
    assert_eq!(listed[0]["lane_reply"], "waits for ATRN by neighbour", "{listed:?}");
    let explained = relay.json(&["explain", "one@shop.test"]);
    assert_eq!(explained[0]["lane"], "atrn:shop.test", "{explained:?}");
    assert_eq!(explained[0]["endpoints"], serde_json::json!([]), "{explained:?}");
    let mut operator = relay.client();
    operator.log_in("op");
    for (asked, told) in [
        ("XADR one@shop.test", "waits for ATRN by customer"),
        ("XSTA atrn:other.test", "atrn:other.test: 1 "),
        ("XCIR", "atrn:shop.test: waits for ATRN by customer"),
        ("XCIR atrn:too.test", "atrn:too.test: waits for ATRN by customer"),
        ("ETRN #atrn:too.test", "too.test"),
    ] {
        let reply = operator.expect(asked, "25");
        assert!(reply.text.contains(told), "{asked}: {}", reply.text);
    }
    // Whatever people do to the rows, there is no other way out.
    relay.run_ok(&["queue", "kick", "--all"]);

    let host = Customer::fetch(&relay, "", Script::new());
    let seen = host.wait_for_closed(1, SOON);
    assert_eq!(seen[0].verbs().first(), Some(&"EHLO"), "{:?}", seen[0].commands);
    assert_eq!(seen[0].verbs().last(), Some(&"QUIT"), "{:?}", seen[0].commands);
    let mut all = taken(&host);
    all.sort();
    assert_eq!(all, ["five@shop.test", "four@shop.test", "one@shop.test", "three@SHOP.test", "two@too.test"]);
    relay.wait_until("the rest", SOON, |db| {
        (db.rows("SELECT recipient FROM queue", []) == ["else@other.test"]).then_some(())
    });
    let how = "SELECT DISTINCT mx, ip, tls, phase, outcome FROM attempts";
    assert_eq!(relay.db().rows(how, []), [format!("{NAME}|127.0.0.1|TLSv1.3|end_of_data|delivered")]);
    relay.wait_until("the lanes to be shown again", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs WHERE lane LIKE 'atrn:%'", []) == 3).then_some(())
    });
    assert!(mx.seen().is_empty(), "the MX was bothered: {:?}", mx.seen());
    let fetched = relay.logged(&["atrn: customer ", "shop.test,too.test", "mail.shop.test[127.0.0.1]"]);
    assert_eq!(fetched.len(), 1);
}

#[test]
fn what_is_suspended_is_not_fetched() {
    let relay = relay(&World::new(), Config::new());
    relay.run_ok(&["queue", "suspend", "--tag", "bulk"]);
    relay.run_ok(&["queue", "suspend", "--domain", "too.test"]);
    let lines = || relay.logged(&["suspended domain too.test"]);
    wait_for("the relay to know", SOON, || (!lines().is_empty()).then_some(()));
    relay.submit(SENDER, &["bulk@shop.test"], &[&b"X-Postrider-Tag: bulk\r\n"[..], &mail("bulk")].concat());
    relay.submit(SENDER, &["one@shop.test"], &mail("one"));
    relay.submit(SENDER, &["two@too.test"], &mail("two"));
    let host = Customer::fetch(&relay, "", Script::new());
    host.wait_for_closed(1, SOON);
    assert_eq!(taken(&host), ["one@shop.test"]);
    let attempts = "SELECT sum(attempts) FROM recipients";
    assert_eq!(relay.db().number(attempts, []), 0);
}

#[test]
fn a_customer_in_the_clear_on_loopback_gets_it_too() {
    let world = World::new();
    let relay = relay(&world, Config::new());
    relay.submit(SENDER, &["one@shop.test"], &mail("clear"));
    let host = Customer::log_in_clear(&relay).turn(" shop.test", Script::new());
    host.wait_for_closed(1, SOON);
    assert_eq!(taken(&host), ["one@shop.test"]);
    relay.wait_until_empty();
    assert_eq!(relay.db().row("SELECT tls FROM attempts", []).as_deref(), Some("none"));
}

#[test]
fn there_may_be_no_mail_and_a_domain_may_be_anothers() {
    let world = World::new();
    let relay = relay(&world, Config::new());
    let mut customer = Customer::log_in(&relay);
    assert!(customer.say("ATRN").starts_with("453 "));
    relay.submit(SENDER, &["one@shop.test", "else@other.test"], &mail("one"));
    assert!(customer.say("ATRN too.test").starts_with("453 "));
    // Nothing at all is sent where one is not theirs.
    assert!(customer.say("ATRN shop.test,other.test").starts_with("450 "));
    assert!(customer.say("ATRN x.shop.test").starts_with("450 "));
    relay.run_ok(&["queue", "hold", "--domain", "shop.test"]);
    assert!(customer.say("ATRN shop.test").starts_with("453 "), "what is held is not handed over");
    relay.run_ok(&["queue", "release", "--domain", "shop.test"]);
    let host = customer.turn(" too.test,shop.test", Script::new());
    host.wait_for_closed(1, SOON);
    assert_eq!(taken(&host), ["one@shop.test"]);
}

#[test]
fn a_connection_that_breaks_loses_nothing_and_the_rest_is_delivered_next_time() {
    let world = World::new();
    let relay = relay(&world, Config::new());
    for to in ["one@shop.test", "two@shop.test", "three@shop.test"] {
        relay.submit(SENDER, &[to], &mail(to));
    }
    // At the second message; at the third before its content, since the second is due a second later; and between
    // a dot and its answer.
    for (tries, at, delivered, outcome) in [
        (1, At::Rcpt("two@"), &["one@shop.test"][..], "deferred"),
        (2, At::Data, &[], "deferred"),
        (3, At::Dot, &[], "in_doubt"),
    ] {
        let host = Customer::fetch(&relay, "", Script::new().on(at, Act::Reset));
        host.wait_for_closed(1, SOON);
        assert_eq!(taken(&host), delivered, "{at:?}");
        wait_until_due(&relay, tries, 2);
        let last = relay.db().row("SELECT outcome FROM attempts ORDER BY id DESC", []);
        assert_eq!(last.as_deref(), Some(outcome), "{at:?}");
    }

    let last = Customer::fetch(&relay, "", Script::new());
    last.wait_for_closed(1, SOON);
    let mut rest = taken(&last);
    rest.sort();
    assert_eq!(rest, ["three@shop.test", "two@shop.test"]);
    relay.wait_until_empty();
    assert_eq!(relay.db().number("SELECT count(*) FROM backoffs WHERE lane NOT LIKE 'atrn:%'", []), 0);
}

#[test]
fn a_customer_who_does_not_greet_or_take_mail_is_recorded_and_bounces_nothing() {
    let world = World::new();
    let relay = relay(&world, Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["one@shop.test"], &mail("one"));
    let rude = Customer::fetch(&relay, "", Script::new().on(At::Greeting, Act::Say("554 5.3.2 not me")));
    rude.wait_for_closed(1, SOON);
    wait_until_due(&relay, 1, 1);
    let tried = "SELECT phase, code, outcome FROM attempts";
    assert_eq!(relay.db().rows(tried, []), ["greeting|554|deferred"]);
    let full = Script::new().on(At::Rcpt("one@"), Act::Say("452 4.2.2 mailbox full"));
    let full = Customer::fetch(&relay, "", full);
    assert_eq!(full.wait_for_closed(1, SOON)[0].verbs().last(), Some(&"QUIT"));
    wait_until_due(&relay, 2, 1);
    let refusing = Script::new().on(At::Rcpt("one@"), Act::Say("550 5.1.1 no such user"));
    Customer::fetch(&relay, "", refusing).wait_for_closed(1, SOON);
    relay.wait_until("the end", SOON, |db| db.ended("one@shop.test"));
    assert_eq!(relay.db().ended("one@shop.test").as_deref(), Some("failed"));
}

#[test]
fn two_at_once_share_the_mail_and_none_of_it_goes_twice() {
    let world = World::new();
    let relay = relay(&world, Config::new());
    for to in ["one@shop.test", "two@shop.test", "three@shop.test"] {
        relay.submit(SENDER, &[to], &mail(to));
    }
    let hanging = Customer::fetch(&relay, " shop.test", Script::new().on(At::Rcpt("one@"), Act::Stall));
    hanging.wait_for_command("RCPT", SOON);
    let second = Customer::fetch(&relay, " shop.test", Script::new());
    second.wait_for_closed(1, SOON);
    assert_eq!(taken(&second), ["two@shop.test", "three@shop.test"]);
    // All that is left is on its way to the first.
    assert!(Customer::log_in(&relay).say("ATRN shop.test").starts_with("453 "));
    drop(hanging);
    wait_until_due(&relay, 1, 1);
    let third = Customer::fetch(&relay, " shop.test", Script::new());
    third.wait_for_closed(1, SOON);
    assert_eq!(taken(&third), ["one@shop.test"]);
    relay.wait_until_empty();
}

#[test]
fn what_nobody_fetched_bounces_when_its_lifetime_is_over() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let at = address();
    let mut relay = relay(&world, watched(Config::new().set("queue.lifetime", "\"1s\""), &[at]));
    relay.submit(SENDER, &["one@shop.test"], &mail("waits"));
    relay.stop();
    relay.wait_until("its lifetime to be over", SOON, |db| {
        (db.number("SELECT count(*) FROM message_ends WHERE ends_at <= unixepoch()", []) == 1).then_some(())
    });
    // What has expired is looked for at start and then once a minute.
    relay.start_again();
    let bounce = String::from_utf8(home.wait_for_messages(1, SOON)[0].content.clone()).unwrap();
    let unfolded = bounce.replace("\r\n ", " ").replace("\r\n\t", " ");
    for part in ["Status: 4.4.7", "mail for shop.test waits here to be fetched", "nobody fetched it"] {
        assert!(unfolded.contains(part), "no {part:?} in:\n{bounce}");
    }
    relay.wait_until_empty();
    assert_eq!(relay.db().ended("one@shop.test").as_deref(), Some("expired"));
    assert_eq!(relay.db().rows("SELECT * FROM stuck", []), [""; 0]);
    // Its attempt counts as the table has it, and once.
    let page = get(at, "/metrics").body;
    for counted in [
        "postrider_attempts_total{outcome=\"expired\",phase=\"connect\"} 1\n",
        "postrider_recipients_expired_total{class=\"4xx\"} 1\n",
    ] {
        assert!(page.contains(counted), "{counted}: {page}");
    }
}

#[test]
fn a_domain_given_to_a_user_waits_from_then_on_and_one_taken_away_goes_by_mx() {
    let mut world = World::new();
    let mx = world.host("late.test", Script::new());
    let fence = world.host("fence.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["one@late.test"], &mail("by mx"));
    mx.wait_for_messages(1, SOON);
    relay.add_user_with("late", &["--atrn", "late.test"]);
    relay.wait_until("the domain to wait", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs WHERE lane = 'atrn:late.test'", []) == 1).then_some(())
    });
    relay.submit(SENDER, &["two@late.test"], &mail("waits"));
    let view = "SELECT next_attempt, lane_reply FROM queue";
    assert_eq!(relay.db().rows(view, []), ["ATRN|waits for ATRN by late"]);
    // Whoever would deliver it has had its turn when later mail has arrived.
    relay.submit(SENDER, &["you@fence.test"], &mail("later"));
    fence.wait_for_messages(1, SOON);
    assert_eq!(mx.messages().len(), 1);
    relay.run_ok(&["user", "remove", "late"]);
    let messages = mx.wait_for_messages(2, SOON);
    assert!(messages[1].rcpts[0].contains("two@late.test"), "{:?}", messages[1].rcpts);
    relay.wait_until_empty();
    relay.wait_until("the lane to be gone", SOON, |db| {
        (db.number("SELECT count(*) FROM backoffs", []) == 0).then_some(())
    });
    assert!(!relay.log().contains("a bug"), "{}", relay.log());
}

#[test]
fn a_relay_that_stops_ends_a_pickup_after_the_message_under_way() {
    let world = World::new();
    let mut relay = relay(&world, Config::new());
    for to in ["one@shop.test", "two@shop.test"] {
        relay.submit(SENDER, &[to], &mail(to));
    }
    let pause = Act::Later(Duration::from_secs(1), Box::new(Act::Say("250 2.0.0 ok, in the end")));
    let slow = Customer::fetch(&relay, "", Script::new().on(At::Dot, pause));
    slow.wait_for_command("DATA", SOON);
    relay.stop();
    assert_eq!(slow.wait_for_closed(1, SOON)[0].verbs().last(), Some(&"QUIT"));
    assert_eq!(taken(&slow), ["one@shop.test"]);
    assert_eq!(relay.db().ended("one@shop.test").as_deref(), Some("delivered"));
    assert_eq!(relay.db().rows("SELECT recipient FROM queue", []), ["two@shop.test"]);
}
