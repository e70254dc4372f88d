//! The fields for programs, one by one and under hostile input.

use proptest::prelude::*;

use crate::delivery::report::bounce::tests::*;

/// RFC 3464 §2.2.4, RFC 3461 §9.2.
#[test]
fn a_report_says_whence_the_message_came_and_every_line_of_the_reply() {
    let mut message = message(Some("ann@sender.test"));
    message.envid = Some("two+20+20spaces".to_owned());
    message.origin.client = Some("2001:db8::7".parse().unwrap());
    let content = about(bounce, &message, &recipient("\"b  (o)b\"@a.test"), &refused());
    assert!(content.contains("Received-From-MTA: dns; [IPv6:2001:db8::7]\r\n"), "{content}");
    assert!(content.contains("Original-Envelope-Id: two  spaces\r\n"), "{content}");
    assert!(content.contains("Final-Recipient: rfc822; \"b  (o)b\"@a.test\r\n"), "{content}");
    message.origin.helo = Some("app.local".to_owned());
    let content = about(bounce, &message, &recipient("bob@A.test"), &refused());
    assert!(
        content.contains("Received-From-MTA: dns; app.local ([IPv6:2001:db8::7])\r\nArrival"),
        "{content}"
    );
    assert!(content.contains("Final-Recipient: rfc822; bob@A.test\r\n"), "letter by letter: {content}");
    let diagnostic = "Diagnostic-Code: smtp; 550-5.1.1 <bob@a.test>: Recipient address rejected:\r\n \
        User unknown in virtual mailbox table\r\n 550 5.1.1 See https://postmaster.a.test/";
    assert!(content.contains(diagnostic), "{content}");
    assert!(content.contains("\r\nFinal-Log-ID: 1K0HC0NYC00\r\n"), "{content}");
}

#[test]
fn original_recipients_are_shown_without_their_encoding() {
    let ascii = |orcpt| Charset::Ascii.original_recipient(orcpt);
    let utf8 = |orcpt| Charset::Utf8.original_recipient(orcpt);
    for (orcpt, in_ascii, in_utf8) in [
        ("rfc822;a+2Bb@c.test", "rfc822; a+b@c.test", "rfc822; a+b@c.test"),
        ("utf-8;j\\x{F6}rg@c.test", "utf-8; j\\x{F6}rg@c.test", "utf-8; j\u{f6}rg@c.test"),
        ("UTF-8;j\u{f6}rg@c.test", "UTF-8; j\\x{F6}rg@c.test", "UTF-8; j\u{f6}rg@c.test"),
        ("utf-8;a\\x{2B}b@c.test", "utf-8; a\\x{2B}b@c.test", "utf-8; a+b@c.test"),
        // What does not conform is copied as it is: a surrogate, a line end, no address.
        ("utf-8;\\x{D800}@c.test", "utf-8; \\x{D800}@c.test", "utf-8; \\x{D800}@c.test"),
        ("utf-8;a\\x{0A}b@c.test", "utf-8; a\\x{0A}b@c.test", "utf-8; a\\x{0A}b@c.test"),
        ("utf-8;j\\x{F6}rg", "utf-8; j\\x{F6}rg", "utf-8; j\\x{F6}rg"),
    ] {
        assert_eq!(ascii(orcpt).as_deref(), Some(in_ascii), "{orcpt}");
        assert_eq!(utf8(orcpt).as_deref(), Some(in_utf8), "{orcpt}");
    }
    for none in ["rfc822", "rfc822;", "rf c822;a@b", "rfc822;+20+00"] {
        assert_eq!((ascii(none), utf8(none)), (None, None), "{none}");
    }
}

#[test]
fn odd_but_lawful_hosts_and_senders_get_their_bounce() {
    let (bob, refused) = (recipient("bob@a.test"), refused());
    let reported = [failed(&bob, &refused)];
    for host in ["localhost", "host_1.test", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
        for sender in ["\"a b\"@sender.test", "a@[192.0.2.1]", "a@b_c.test", "o'x!#$%@localhost"] {
            let hostname = Domain::parse(host).unwrap();
            check(&bounce(&context(&message(Some(sender)), &hostname, &reported)).unwrap(), 1);
        }
    }
}

#[test]
fn the_status_has_the_class_of_the_outcome() {
    let status = |code, enhanced, outcome| {
        let attempt = attempt(
            Phase::Rcpt,
            Reply { code, enhanced, text: "x".into(), reply_source: ReplySource::Remote },
            outcome,
        );
        let bob = recipient("bob@a.test");
        last_reply::LastReply::of(&ReportedRecipient {
            recipient: &bob,
            attempt: Some(&attempt),
            outcome,
            expanded: None,
        })
        .status(outcome)
        .to_string()
    };
    assert_eq!(status(550, Some(Enhanced(5, 7, 1)), Outcome::Failed), "5.7.1");
    assert_eq!(status(571, None, Outcome::Failed), "5.0.0");
    assert_eq!(status(451, Some(Enhanced(4, 7, 1)), Outcome::Expired), "4.7.1");
    assert_eq!(status(451, None, Outcome::Expired), "4.0.0");
    assert_eq!(status(554, Some(Enhanced(5, 3, 2)), Outcome::Deferred), "4.3.2");
    assert_eq!(status(250, None, Outcome::Relayed), "2.0.0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a host, a client or a hand in the database wrote: a lawful message with no field but ours.
    #[test]
    fn hostile_words_break_nothing(
        text in "(?s).{0,300}|[a-z]{1000,3000}|(\r\n(To|Action|\\.|--=_01M[A-Z0-9]*): x){1,5}",
        mx in proptest::option::of("(?s).{0,60}"),
        row in proptest::option::of("(?s)[0-9]{0,4} .{0,80}"),
        envid in proptest::option::of("(?s).{0,40}|(\\+0[DA])+X: y"),
        orcpt in proptest::option::of("(?s).{0,40}|rfc822;(\\+0[DA])+X: y|utf-8;(?s).{0,20}"),
        original in proptest::collection::vec(any::<u8>(), 0..400),
        full in any::<bool>(),
        now in any::<i64>(),
        tried in any::<bool>(),
        utf8 in any::<bool>(),
        helo in proptest::option::of("(?s).{0,40}"),
    ) {
        let mut message = message(Some(if utf8 { "\u{7528}@a.test" } else { "ann@sender.test" }));
        message.envid = envid;
        message.smtputf8 = utf8;
        message.origin = Origin { user: None, client: Some([192, 0, 2, 9].into()), helo };
        message.size = original.len() as u64;
        message.ret = full.then_some(Ret::Full);
        message.received_at = now;
        let mut bob = recipient("bob@a.test");
        (bob.orcpt, bob.last_reply, bob.last_mx) = (orcpt, row, mx.clone());
        let attempt = Attempt {
            mx,
            at: now,
            ..attempt(Phase::Data, Reply::bare(550, "").with_text(text), Outcome::Failed)
        };
        let reported = [ReportedRecipient { recipient: &bob, attempt: tried.then_some(&attempt), outcome: Outcome::Failed, expanded: None }];
        let hostname = hostname();
        let context = ReportContext { now, original: &original, ..context(&message, &hostname, &reported) };
        check(&bounce(&context).unwrap(), 1);
    }
}

#[test]
fn a_report_repeats_the_times_that_were_asked_for() {
    let handling = Handling {
        release: Some(Release { at: NOW - 60, asked: Hold::For(3540) }),
        deliver_by: Some(DeliverBy { at: NOW - 1, returns: true, trace: false }),
        priority: Priority::clamped(3),
        require_tls: true,
        tls_optional: false,
    };
    let message = QueuedMessage { handling, ret: Some(Ret::Full), ..message(Some("ann@sender.test")) };
    let recipient = recipient("bob@a.test");
    let reported = [ReportedRecipient {
        recipient: &recipient,
        attempt: None,
        outcome: Outcome::Expired,
        expanded: None,
    }];
    let hostname = hostname();
    let id = MessageId(1_795_000_000_000_001);
    let context = ReportContext {
        id,
        hostname: &hostname,
        now: NOW,
        message: &message,
        ends_at: NOW + 428_400,
        reported: &reported,
        original: ORIGINAL,
    };
    let report = bounce(&context).unwrap();
    let text = String::from_utf8(report.content).unwrap();
    assert!(text.contains("Future-Release-Request: for;3540\r\n"), "{text}");
    assert!(text.contains("Deliver-By-Date: Sat, 21 Nov 2026 11:59:59 +0000\r\n"), "{text}");
    assert!(text.contains("Status: 5.4.7\r\n"), "{text}");
    let late = DeliverBy { at: NOW - 1, returns: false, trace: false };
    let handling = Handling { deliver_by: Some(late), ..Handling::default() };
    let slow = QueuedMessage { handling, ..message.clone() };
    let busy = attempt(Phase::Rcpt, Reply::new(451, Enhanced(4, 3, 2), "busy"), Outcome::Deferred);
    assert!(about(delay_warning, &slow, &recipient, &busy).contains("Status: 4.4.7\r\n"));
    // RFC 8689 §5: protected as the message was, and without its body.
    assert!(text.contains("Subject: lunch") && !text.contains("At noon?"), "{text}");
    let wanted = Handling { priority: Priority::clamped(3), require_tls: true, ..Handling::default() };
    assert_eq!(report.envelope.handling, wanted);
}
