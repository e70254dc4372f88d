//! What senders are told, end to end: which reports there are, in which form, and how many.

use crate::harness::client::mail;
use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::log;
use crate::harness::relay::{Config, HOSTNAME, Relay, wait_for};
use crate::harness::sender::{SENDER, bounce, text, unfolded, world_with_sender};

#[test]
fn mail_to_a_list_reaches_each_member_once_and_the_list_is_told_of() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set(
        "aliases.team",
        format!("[\"one@a.test\", \"two@a.test\", \"one@A.TEST\", \"team@{HOSTNAME}\"]"),
    ));
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.expect("RCPT TO:<team> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;team@relay.test", "250 2.1.5");
    client.expect("RCPT TO:<two@a.test> NOTIFY=FAILURE", "250 2.1.5");
    client.expect("DATA", "354");
    client.write(b"Subject: x\r\n\r\nx\r\n").unwrap();
    client.expect(".", "250 2.0.0");
    relay.wait_until_empty();
    let messages = mx.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(
        messages[0].rcpts,
        [
            "RCPT TO:<one@a.test> NOTIFY=FAILURE ORCPT=rfc822;team@relay.test",
            "RCPT TO:<two@a.test> NOTIFY=FAILURE ORCPT=rfc822;team@relay.test"
        ]
    );
    // RFC 3461 section 5.2.7.3 (c).
    let report = bounce(&home);
    let status = "Original-Recipient: rfc822; team@relay.test\r\nFinal-Recipient: rfc822; team@relay.test\r\n\
        Action: expanded\r\nStatus: 2.0.0\r\n";
    assert!(report.contains(status), "{report}");
    assert_eq!(home.messages().len(), 1);
}

#[test]
fn that_a_list_was_expanded_is_told_once_though_a_member_is_put_off() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new().first(2, At::Rcpt("one@"), Act::Say("451 4.7.1 not yet")));
    let aliases = Config::new().retry(&["1s"]).set("aliases.team", "[\"one@a.test\", \"two@a.test\"]");
    let relay = world.relay(aliases);
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.expect("RCPT TO:<team@relay.test> NOTIFY=SUCCESS", "250 2.1.5");
    client.expect("DATA", "354");
    client.write(b"Subject: x\r\n\r\nx\r\n").unwrap();
    client.expect(".", "250 2.0.0");
    mx.wait_for_messages(2, SOON);
    relay.wait_until_empty();
    assert!(bounce(&home).contains("Action: expanded\r\n"));
    assert_eq!(home.messages().len(), 1);
}

/// RFC 6533: the same failure told to a sender in ASCII, whose host knows no extension at all, and to one beyond
/// it.
#[test]
fn a_report_of_utf8_mail_reaches_every_sender_it_can() {
    let (mut world, _) = world_with_sender();
    let plain = world.host("plain.test", Script::new().offering(&["PIPELINING"]));
    let offers = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN"];
    let modern = world.host("modern.test", Script::new().offering(&offers));
    let refusing =
        Script::new().offering(&offers).on(At::Rcpt("@"), Act::Say("550 5.1.1 unbekannter Empf\u{e4}nger"));
    let mx = world.host("a.test", refusing);
    let relay = world.relay(Config::new());
    let original = "Date: Mon, 3 Nov 2025 10:00:00 +0100\r\nMessage-ID: <u@app.test>\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nH\u{f6}\r\n.";
    let mut client = relay.client();
    for sender in ["me@plain.test", "m\u{e9}@modern.test"] {
        client.expect(&format!("MAIL FROM:<{sender}> SMTPUTF8 BODY=8BITMIME RET=FULL"), "250");
        client.expect("RCPT TO:<j\u{f6}rg@a.test> ORCPT=utf-8;j\\x{F6}rg\\x{2B}x@old.test", "250");
        client.expect("DATA", "354");
        client.expect(original, "250");
    }
    let told = &plain.wait_for_messages(1, SOON)[0];
    let report = unfolded(&text(told));
    assert!(told.content.is_ascii() && told.mail.starts_with("MAIL FROM:<>"), "{}\n{report}", told.mail);
    for part in [
        "Content-Type: message/delivery-status",
        "Original-Recipient: utf-8; j\\x{F6}rg\\x{2B}x@old.test",
        "Final-Recipient: utf-8; j\\x{F6}rg@a.test",
        "unbekannter Empf\\x{E4}nger",
        "Content-Type: message/global\r\nContent-Transfer-Encoding: quoted-printable",
        "Subject: Gr=C3=BC=C3=9Fe\r\n",
    ] {
        assert!(report.contains(part), "no {part:?} in:\n{report}");
    }
    let told = &modern.wait_for_messages(1, SOON)[0];
    assert!(told.mail.starts_with("MAIL FROM:<>") && told.mail.contains(" SMTPUTF8"), "{}", told.mail);
    assert!(told.mail.contains(" BODY=8BITMIME"), "{}", told.mail);
    let report = unfolded(&text(told));
    for part in [
        "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit",
        "Original-Recipient: utf-8; j\u{f6}rg+x@old.test",
        "Final-Recipient: utf-8; j\u{f6}rg@a.test",
        "unbekannter Empf\u{e4}nger",
        "Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit",
        "Subject: Gr\u{fc}\u{df}e\r\n",
    ] {
        assert!(report.contains(part), "no {part:?} in:\n{report}");
    }
    // What the host was given of the original recipient.
    let rcpt = mx.seen()[0].commands.iter().find(|line| line.starts_with("RCPT")).cloned();
    assert_eq!(rcpt.as_deref(), Some("RCPT TO:<j\u{f6}rg@a.test> ORCPT=utf-8;j\\x{F6}rg\\x{2B}x@old.test"));
}

/// Queue ids and recipients that wait to be told of.
fn pending_reports(relay: &Relay) -> i64 {
    relay.db().number("SELECT count(*) FROM pending_reports WHERE state = 'failed'", [])
}

fn wait_for_unreported(relay: &Relay, count: i64) {
    relay.wait_until(&format!("{count} failures to be gathered"), SOON, |db| {
        (db.number("SELECT count(*) FROM pending_reports", []) == count).then_some(())
    });
}

fn on_one_line(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// A stolen password sends in an innocent's name: they get the limit and one summary, and nothing is lost.
#[test]
fn a_flood_of_failures_is_few_bounces_and_one_summary() {
    let (mut world, home) = world_with_sender();
    let other = world.host("other.test", Script::new());
    let refusing = Script::new().on(At::Rcpt("@"), Act::Say("550 5.1.1 no such user"));
    let _mx = world.host("a.test", refusing);
    let config = Config::new().set("delivery.bounces_per_sender", "3");
    let mut relay = world.relay(config);
    let mut client = relay.client();
    for number in 0..6 {
        // However the letters are written, it is one mailbox.
        let sender = if number % 2 == 0 { SENDER } else { "Me@APP.test" };
        client.submit(sender, &[&format!("user{number}@a.test")], &mail("flood"));
        relay.wait_until("its end", SOON, |db| db.ended(&format!("user{number}@a.test")));
    }
    home.wait_for_messages(3, SOON);
    wait_for_unreported(&relay, 3);
    // It is no affair of other senders.
    client.submit("she@other.test", &["user@a.test"], &mail("other"));
    other.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    assert!(!relay.logged(&[log::SUPPRESSED, "<Me@APP.test>"]).is_empty());
    let failed = relay
        .db()
        .number("SELECT count(*) FROM history WHERE state = 'failed' AND reply LIKE '550 5.1.1%'", []);
    assert_eq!(failed, 7, "each with its reply: {}", relay.db().dump());

    // A restart forgets neither the count nor what is to be told.
    drop(client);
    relay.kill();
    relay.start_again();
    relay.submit(SENDER, &["user6@a.test", "user7@a.test"], &mail("flood"));
    wait_for_unreported(&relay, 5);
    assert_eq!(home.messages().len(), 3);

    // The hour is over.
    relay.db_for_writing().execute("UPDATE pending_reports SET at = at - 3600", []);
    let summary = text(&home.wait_for_messages(4, SOON)[3]);
    for part in [
        "Subject: Undelivered mail: 4 more messages\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "4 more messages, 5 recipients in all",
        "<user3@a.test> failed\r\n    550 5.1.1 no such user\r\n",
        "<user7@a.test> failed\r\n",
    ] {
        assert!(on_one_line(&summary).contains(&on_one_line(part)), "no {part:?} in:\n{summary}");
    }
    for queue_id in relay
        .db()
        .rows("SELECT DISTINCT queue_id FROM history WHERE address IN ('user3@a.test', 'user7@a.test')", [])
    {
        assert!(summary.contains(&queue_id), "no {queue_id} in:\n{summary}");
    }
    assert_eq!(pending_reports(&relay), 0);
    assert_eq!(relay.logged(&["messages=4", "recipients=5"]).len(), 1);
    relay.wait_until_empty();
    assert_eq!(home.messages().len(), 4, "told once");

    // In the next hour bounces go out again.
    relay.db_for_writing().execute("UPDATE reports SET at = at - 3600", []);
    relay.kill();
    relay.start_again();
    relay.submit(SENDER, &["user8@a.test"], &mail("later"));
    let bounce = text(&home.wait_for_messages(5, SOON)[4]);
    assert!(bounce.contains("Final-Recipient: rfc822; user8@a.test\r\n"), "{bounce}");
}

/// A warning that there was no room for is given with a later try; without a limit there is room for all.
#[test]
fn a_delay_warning_beyond_the_limit_is_put_off_and_a_limit_may_be_off() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("slow.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 not yet")));
    let _refusing = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("550 5.1.1 no")));
    let config = Config::new().retry(&["1s"]).set("queue.delay_warning", "\"1s\"");
    let mut relay = world.relay(config.set("delivery.bounces_per_sender", "1"));
    relay.submit(SENDER, &["user@a.test"], &mail("uses up the hour"));
    home.wait_for_messages(1, SOON);
    relay.submit(SENDER, &["you@slow.test"], &mail("slow"));
    wait_for("the warning to be suppressed", SOON, || {
        (!relay.logged(&[log::SUPPRESSED, "<me@app.test>"]).is_empty()).then_some(())
    });
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients WHERE warned_at IS NOT NULL", []), 0);
    assert_eq!(relay.db().number("SELECT count(*) FROM pending_reports", []), 0, "it may still be delivered");

    relay.stop();
    relay.write_config(&relay.config().set("delivery.bounces_per_sender", "\"off\""));
    relay.start_again();
    let warning = text(&home.wait_for_messages(2, SOON)[1]);
    assert!(warning.contains("Action: delayed\r\n"), "{warning}");
    // Told once, also across a restart.
    relay.stop();
    let tries = relay.db().attempts("you@slow.test", "deferred");
    relay.start_again();
    relay.wait_until("two more tries", SOON, |db| {
        (db.attempts("you@slow.test", "deferred") >= tries + 2).then_some(())
    });
    assert_eq!(home.messages().len(), 2);
    assert!(!mx.seen().is_empty());
    for number in 0..3 {
        relay.submit(SENDER, &[&format!("u{number}@a.test")], &mail("more"));
    }
    home.wait_for_messages(5, SOON);
}
