//! What senders are told, end to end: which reports there are, in which form, and how many.

use crate::client::mail;
use crate::delivery::{SENDER, bounce, text, unfolded, wait_for_end, world_with_sender};
use crate::fakemx::{Act, At, SOON, Script};
use crate::relay::{Config, HOSTNAME};

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

/// RFC 6533: the same failure told to a sender in ASCII, whose host knows no extension at all, and to one beyond it.
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
