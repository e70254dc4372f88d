//! Golden messages, the rules one by one, and the structure under hostile input.

use proptest::prelude::*;

use super::grammar::check;
use super::*;
use crate::mail::{DeliverBy, Enhanced, Handling, Hold, Phase, Priority, Release, Reply, Speaker, address};
use crate::queue::{Origin, RecipientId};

fn bounce(notice: &Notice<'_>) -> Option<Report> {
    report(Kind::Bounce, notice)
}

fn delay_warning(notice: &Notice<'_>) -> Option<Report> {
    report(Kind::Delay, notice)
}

fn success_report(notice: &Notice<'_>) -> Option<Report> {
    report(Kind::Success, notice)
}

/// Sat, 21 Nov 2026 12:00:00 +0000.
const NOW: i64 = 1_795_262_400;
const ORIGINAL: &[u8] = b"Received: by relay.test\r\nFrom: Ann <ann@sender.test>\r\nTo: bob@a.test\r\n\
    Subject: lunch\r\n\r\nAt noon?\r\n";

fn hostname() -> Domain {
    Domain::parse("relay.test").unwrap()
}

fn message(sender: Option<&str>) -> QueuedMessage {
    QueuedMessage {
        id: MessageId(1_795_000_000_000_000),
        sender: sender.map(|text| address::parse(text).unwrap()),
        origin: Origin::default(),
        received_at: NOW - 3600,
        expires_at: NOW + 428_400,
        size: ORIGINAL.len() as u64,
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        handling: Handling::default(),
        recipients: Vec::new(),
        content: None,
    }
}

fn recipient(text: &str) -> QueuedRecipient {
    let address = address::parse(text).unwrap();
    QueuedRecipient {
        id: RecipientId(1),
        domain: Domain::of(&address),
        address,
        attempts: 1,
        notify: None,
        orcpt: None,
        expanded: Vec::new(),
        last_reply: None,
        last_mx: None,
        last_said_by: Speaker::Postrider,
        warned_at: None,
        to_bounce: false,
    }
}

/// Where there was a host to say it, it said so.
fn attempt(phase: Phase, reply: Reply, outcome: Outcome) -> Attempt {
    let reply = if matches!(phase, Phase::Dns | Phase::Connect) { reply } else { reply.heard() };
    Attempt {
        at: NOW - 5,
        duration_ms: 100,
        mx: Some("mx1.a.test".to_owned()),
        ip: Some("192.0.2.1".parse().unwrap()),
        tls: None,
        phase,
        reply,
        outcome,
    }
}

fn refused() -> Attempt {
    let text = "<bob@a.test>: Recipient address rejected: User unknown in virtual mailbox table\n\
        See https://postmaster.a.test/why?code=550-5.1.1&address=bob";
    attempt(Phase::Rcpt, Reply::new(550, Enhanced(5, 1, 1), text), Outcome::Failed)
}

fn notice<'a>(message: &'a QueuedMessage, hostname: &'a Domain, told: &'a [Told<'a>]) -> Notice<'a> {
    Notice { id: MessageId(1_795_000_000_000_001), hostname, now: NOW, message, told, original: ORIGINAL }
}

/// Writes a report about one recipient and checks its structure.
fn about(
    write: fn(&Notice<'_>) -> Option<Report>,
    message: &QueuedMessage,
    recipient: &QueuedRecipient,
    attempt: &Attempt,
) -> String {
    let told = [Told { recipient, attempt: Some(attempt), outcome: attempt.outcome, expanded: None }];
    let hostname = hostname();
    let report = write(&notice(message, &hostname, &told)).unwrap();
    check(&report, 1);
    String::from_utf8(report.content).unwrap()
}

/// Compares with `golden/name.eml`, whose lines end as in the repository. GOLDEN=write writes it instead.
fn assert_golden(name: &str, report: &Report) {
    let file = format!("{}/src/delivery/bounce/golden/{name}.eml", env!("CARGO_MANIFEST_DIR"));
    let content = String::from_utf8(report.content.clone()).unwrap().replace("\r\n", "\n");
    if std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
        std::fs::write(&file, &content).unwrap();
    }
    assert_eq!(content, std::fs::read_to_string(&file).unwrap(), "{name}");
}

#[test]
fn a_bounce_says_who_refused_what_in_their_words() {
    let mut message = message(Some("ann@sender.test"));
    (message.ret, message.envid) = (Some(Ret::Full), Some("lunch+2B1".to_owned()));
    let mut bob = recipient("bob@a.test");
    bob.orcpt = Some("rfc822;bob+2Blunch@old.test".to_owned());
    let (unknown, late) = (
        recipient("carl@nosuch.test"),
        QueuedRecipient {
            last_reply: Some("451 4.7.1 Greylisted, come back later".to_owned()),
            last_mx: Some("192.0.2.7".to_owned()),
            last_said_by: Speaker::Host,
            ..recipient("dora@b.test")
        },
    );
    let refused = refused();
    let no_domain = Attempt {
        mx: None,
        ip: None,
        ..attempt(
            Phase::Dns,
            Reply::new(550, Enhanced(5, 1, 2), "the domain nosuch.test does not exist (NXDOMAIN)"),
            Outcome::Failed,
        )
    };
    let told = [
        Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None },
        Told { recipient: &unknown, attempt: Some(&no_domain), outcome: Outcome::Failed, expanded: None },
        Told { recipient: &late, attempt: None, outcome: Outcome::Expired, expanded: None },
    ];
    let hostname = hostname();
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 3);
    assert_eq!(report.envelope.recipients[0].address.to_string(), "ann@sender.test");
    assert_golden("bounce", &report);
}

/// A host that fell silent has said nothing: what we say of it is never put in its mouth.
#[test]
fn our_own_words_are_not_a_hosts() {
    let message = message(Some("ann@sender.test"));
    let bob = recipient("bob@a.test");
    let silence = Reply::new(421, Enhanced(4, 4, 2), "timed out while waiting for the reply to the content");
    for (phase, who) in [
        (Phase::Dot, "This relay about mx1.a.test [192.0.2.1], after the message was sent (end of DATA):"),
        (Phase::Connect, "This relay, when it tried to connect to mx1.a.test [192.0.2.1]:"),
    ] {
        let attempt = Attempt { reply: silence.clone(), ..attempt(phase, silence.clone(), Outcome::Expired) };
        let content = about(bounce, &message, &bob, &attempt);
        assert!(content.replace("\r\n    ", " ").contains(who), "{content}");
        assert!(content.contains("Diagnostic-Code: x-postrider; 421 4.4.2 timed out"), "{content}");
        assert!(!content.contains("smtp;") && !content.contains("Remote-MTA"), "{content}");
        // The same words, heard.
        let attempt = Attempt { reply: silence.clone().heard(), ..attempt };
        let content = about(bounce, &message, &bob, &attempt);
        assert!(content.contains("Diagnostic-Code: smtp; 421 4.4.2 timed out"), "{content}");
        assert!(content.contains("Remote-MTA: dns; mx1.a.test"), "{content}");
    }
    // From the row, without an attempt at hand: what an operator returned.
    let returned = QueuedRecipient {
        last_reply: Some("554 5.3.0 returned by the operator of this relay; last reply: 451 busy".to_owned()),
        last_mx: Some("mx1.a.test".to_owned()),
        ..recipient("bob@a.test")
    };
    let told = [Told { recipient: &returned, attempt: None, outcome: Outcome::Failed, expanded: None }];
    let hostname = hostname();
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 1);
    let content = String::from_utf8(report.content).unwrap();
    assert!(content.contains("The operator of this relay returned it.\r\n"), "{content}");
    assert!(content.contains("This relay about mx1.a.test:"), "{content}");
    assert!(
        content.contains("Status: 5.3.0\r\nDiagnostic-Code: x-postrider; 554 5.3.0 returned"),
        "{content}"
    );
}

#[test]
fn a_warning_says_until_when_we_try() {
    let message = message(Some("ann@sender.test"));
    let refused = Reply::new(451, Enhanced(4, 4, 1), "connection refused");
    let attempt = attempt(Phase::Connect, refused, Outcome::Deferred);
    let bob = recipient("bob@a.test");
    let told =
        [Told { recipient: &bob, attempt: Some(&attempt), outcome: Outcome::Deferred, expanded: None }];
    let hostname = hostname();
    let report = delay_warning(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 1);
    assert_golden("delay", &report);
}

/// A relay puts nothing into mailboxes: what a host with DSN took is for that host to report.
#[test]
fn a_success_report_says_relayed_and_never_delivered() {
    let mut message = message(Some("ann@sender.test"));
    message.ret = Some(Ret::Full);
    let asked = |text| QueuedRecipient { notify: Notify::from_word("SUCCESS"), ..recipient(text) };
    let (bob, carl) = (asked("bob@a.test"), asked("carl@a.test"));
    let ok = Reply::new(250, Enhanced(2, 0, 0), "queued as 1234");
    let (delivered, relayed) =
        (attempt(Phase::Dot, ok.clone(), Outcome::Delivered), attempt(Phase::Dot, ok, Outcome::Relayed));
    let told = [
        Told { recipient: &bob, attempt: Some(&delivered), outcome: Outcome::Delivered, expanded: None },
        Told { recipient: &carl, attempt: Some(&relayed), outcome: Outcome::Relayed, expanded: None },
    ];
    let hostname = hostname();
    assert_eq!(success_report(&notice(&message, &hostname, &told[..1])), None);
    let report = success_report(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 1);
    assert_golden("success", &report);
}

/// RFC 3461 §5.2.7.3 (c): told of is the alias, whatever its members' own NOTIFY.
#[test]
fn an_alias_of_several_is_reported_as_expanded() {
    let message = message(Some("ann@sender.test"));
    let expanded = |orcpt: Option<&str>| Expanded {
        alias: address::parse("team@relay.test").unwrap(),
        orcpt: orcpt.map(str::to_owned),
    };
    let bob = QueuedRecipient { notify: Some(Notify::NEVER), ..recipient("bob@a.test") };
    let told = |expanded| Told { recipient: &bob, attempt: None, outcome: Outcome::Relayed, expanded };
    let (first, second) = (expanded(Some("rfc822;Team@relay.test")), expanded(None));
    let hostname = hostname();
    let told = [told(Some(&first)), told(Some(&second)), told(None)];
    let report = success_report(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 2);
    let text = String::from_utf8(report.content).unwrap();
    let group = "\r\n\r\nOriginal-Recipient: rfc822; Team@relay.test\r\n\
        Final-Recipient: rfc822; team@relay.test\r\nAction: expanded\r\nStatus: 2.0.0\r\n\
        Diagnostic-Code: x-postrider; 250 2.0.0 the alias was expanded";
    assert!(text.contains(group), "{text}");
    assert!(!text.contains("bob@a.test\r\nAction"), "where it leads is nobody's business: {text}");
    assert_eq!(bounce(&notice(&message, &hostname, &told)), None);
}

#[test]
fn notify_decides_who_is_told_what() {
    use Outcome::*;
    let table = [
        // NOTIFY, and whether delivered/relayed, failed/expired, deferred are told.
        (None, false, true, true),
        (Some("NEVER"), false, false, false),
        (Some("SUCCESS"), true, false, false),
        (Some("FAILURE"), false, true, false),
        (Some("DELAY"), false, false, true),
        (Some("SUCCESS,FAILURE,DELAY"), true, true, true),
    ];
    for (word, success, failure, delay) in table {
        let notify = word.map(|word| Notify::from_word(word).unwrap());
        let all =
            [Delivered, Relayed, Failed, Expired, Deferred, InDoubt].map(|outcome| wanted(notify, outcome));
        assert_eq!(all, [success, success, failure, failure, delay, false], "{word:?}");
    }
}

#[test]
fn nobody_is_told_who_does_not_want_to_be() {
    let refused = refused();
    let hostname = hostname();
    let never = QueuedRecipient { notify: Some(Notify::NEVER), ..recipient("bob@a.test") };
    let bob = recipient("carl@a.test");
    let tell = |message: &QueuedMessage, told: &[Told<'_>]| bounce(&notice(message, &hostname, told));
    let to_never =
        Told { recipient: &never, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None };
    let to_bob = Told { recipient: &bob, ..to_never };
    let deferred = Told { outcome: Outcome::Deferred, ..to_bob };
    assert_eq!(tell(&message(None), &[to_bob]), None, "the null sender");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[to_never]), None, "NEVER");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[deferred]), None, "not failed");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[]), None, "nobody");
    let report = tell(&message(Some("ann@sender.test")), &[to_never, to_bob, deferred]).unwrap();
    check(&report, 1);
    assert!(memmem::find(&report.content, b"Final-Recipient: rfc822; carl@a.test").is_some());
}

#[test]
fn ret_decides_what_is_returned() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let third = |ret: Option<Ret>, original: &[u8]| {
        let message = QueuedMessage { ret, size: original.len() as u64, ..message(Some("ann@sender.test")) };
        let report = bounce(&Notice { original, ..notice(&message, &hostname, &told) }).unwrap();
        check(&report, 1).get(2).map(|body| String::from_utf8_lossy(body).into_owned())
    };
    let header =
        "Received: by relay.test\r\nFrom: Ann <ann@sender.test>\r\nTo: bob@a.test\r\nSubject: lunch\r\n";
    assert_eq!(third(Some(Ret::Full), ORIGINAL).unwrap().as_bytes(), ORIGINAL);
    assert_eq!(third(Some(Ret::Hdrs), ORIGINAL).as_deref(), Some(header));
    assert_eq!(third(None, ORIGINAL).as_deref(), Some(header));
    // 8-bit content is returned as it came; what cannot stand in a message is not.
    let eight = "Subject: s\r\n\r\nGr\u{fc}\u{df}e\r\n".as_bytes();
    assert_eq!(third(Some(Ret::Full), eight).unwrap().as_bytes(), eight);
    let header = Some("Subject: s\r\n");
    for body in ["a\nb\r\n", "a\rb\r\n", "a\0b\r\n", "no end", &("x".repeat(999) + "\r\n")] {
        assert_eq!(
            third(Some(Ret::Full), format!("Subject: s\r\n\r\n{body}").as_bytes()).as_deref(),
            header,
            "{body:?}"
        );
    }
    let large = "Subject: s\r\n\r\n".to_owned() + &"0123456789\r\n".repeat(RETURNED_BYTES_MAX / 12);
    assert_eq!(third(Some(Ret::Full), large.as_bytes()).as_deref(), header);
    // Broken headers are encoded, endless ones cut, absent ones left out.
    assert_eq!(third(None, "Subject: \u{fc}\r\n\r\n".as_bytes()).as_deref(), Some("Subject: =C3=BC\r\n"));
    let long = format!("Subject: {}\r\n\r\n", "x".repeat(2000));
    assert!(third(None, long.as_bytes()).unwrap().lines().all(|line| line.len() <= 76));
    let endless = "X: y\r\n".repeat(RETURNED_BYTES_MAX);
    assert!(third(None, endless.as_bytes()).unwrap().len() <= RETURNED_BYTES_MAX);
    assert_eq!(third(None, b"\r\nno header\r\n"), None);
    assert_eq!(third(None, b""), None);
}

#[test]
fn an_original_that_holds_the_boundary_ends_nothing() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let id = MessageId(1_795_000_000_000_001);
    let original = format!("Subject: s\r\n\r\n--=_{id}--\r\n--=_{id}.x\r\n\r\nhello\r\n");
    let message = QueuedMessage {
        ret: Some(Ret::Full),
        size: original.len() as u64,
        ..message(Some("ann@sender.test"))
    };
    let report =
        bounce(&Notice { original: original.as_bytes(), ..notice(&message, &hostname, &told) }).unwrap();
    assert_eq!(check(&report, 1)[2], original.as_bytes());
}

#[test]
fn the_first_bytes_of_a_large_message_are_enough() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let message =
        QueuedMessage { ret: Some(Ret::Full), size: 10_000_000, ..message(Some("ann@sender.test")) };
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    let parts = check(&report, 1);
    assert!(parts[2].ends_with(b"Subject: lunch\r\n"), "the header alone: the content is not all there");
}

/// A message as it comes with SMTPUTF8: the header is UTF-8.
const UTF8_ORIGINAL: &[u8] =
    "From: J\u{f6}rg <j\u{f6}rg@b\u{fc}cher.test>\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nAt n\u{f6}\u{f6}n?\r\n"
        .as_bytes();

/// A bounce of a message in UTF-8 to this sender.
fn utf8_bounce(sender: &str, ret: Ret) -> Report {
    let message = QueuedMessage {
        smtputf8: true,
        ret: Some(ret),
        size: UTF8_ORIGINAL.len() as u64,
        ..message(Some(sender))
    };
    let mut joerg = recipient("j\u{f6}rg+x@b\u{fc}cher.test");
    joerg.orcpt = Some("utf-8;\u{1f600}\\x{2B}x@b\\x{FC}cher.test".to_owned());
    let text = "<j\u{f6}rg+x@b\u{fc}cher.test>: unbekannter Empf\u{e4}nger";
    let unknown =
        attempt(Phase::Rcpt, Reply::new(550, Enhanced(5, 1, 1), "").with_text(text), Outcome::Failed);
    let told =
        [Told { recipient: &joerg, attempt: Some(&unknown), outcome: Outcome::Failed, expanded: None }];
    let hostname = hostname();
    bounce(&Notice { original: UTF8_ORIGINAL, ..notice(&message, &hostname, &told) }).unwrap()
}

/// RFC 6533: who is reached through SMTPUTF8 only gets everything as it is.
#[test]
fn a_sender_beyond_ascii_gets_a_report_in_utf8() {
    let report = utf8_bounce("\u{7528}\u{6237}@b\u{fc}cher.test", Ret::Full);
    assert_eq!(check(&report, 1)[2], UTF8_ORIGINAL);
    assert!(report.envelope.smtputf8 && report.envelope.body == Body::EightBitMime);
    assert_golden("utf8", &report);
    let headers = utf8_bounce("\u{7528}@b.test", Ret::Hdrs);
    assert!(memmem::find(&headers.content, b"Content-Type: message/global-headers\r\n").is_some());
    assert!(check(&headers, 1)[2].ends_with("Subject: Gr\u{fc}\u{df}e\r\n".as_bytes()));
    // What is ASCII is said in the types that everybody knows.
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let report = bounce(&notice(&message(Some("\u{7528}@a.test")), &hostname, &told)).unwrap();
    check(&report, 1);
    assert!(memmem::find(&report.content, b"message/global").is_none());
}

/// Any host on the way back may lack SMTPUTF8 and 8BITMIME: nothing of the report needs them.
#[test]
fn a_sender_in_ascii_gets_the_same_report_in_ascii() {
    for (sender, ret) in [("ann@sender.test", Ret::Full), ("ann@b\u{fc}cher.test", Ret::Hdrs)] {
        let report = utf8_bounce(sender, ret);
        check(&report, 1);
        assert!(report.content.is_ascii() && !report.envelope.smtputf8, "{sender}");
        assert_eq!(report.envelope.body, Body::SevenBit);
    }
    assert_golden("utf8-in-ascii", &utf8_bounce("ann@sender.test", Ret::Full));
}

/// A header in UTF-8 that came without SMTPUTF8, or none in UTF-8 at all, is no header of RFC 6532.
#[test]
fn a_broken_header_is_returned_all_the_same() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    for sender in ["ann@sender.test", "\u{7528}@a.test"] {
        for (smtputf8, header) in [
            (false, "Subject: \u{fc}\r\n".as_bytes()),
            (true, b"Subject: \xfc\xff\r\n"),
            (true, b"Subject: a\0b\r\nX\r\n"),
            (true, b"\0\x01\x02: no field\nbare\rends\r\n"),
        ] {
            let original = [header, b"\r\nbody\r\n"].concat();
            let message = QueuedMessage {
                smtputf8,
                ret: Some(Ret::Full),
                size: original.len() as u64,
                ..message(Some(sender))
            };
            let notice = Notice { original: &original, ..notice(&message, &hostname, &told) };
            let report = bounce(&notice).unwrap();
            check(&report, 1);
            let words = String::from_utf8(report.content).unwrap();
            assert!(words.contains("Content-Type: text/rfc822-headers\r\n"), "{words}");
            assert!(words.contains("Content-Transfer-Encoding: quoted-printable\r\n"), "{words}");
        }
    }
}

/// What the original makes of a report is bounded, whatever RET says and however it has to be encoded.
#[test]
fn a_report_fits_into_what_every_host_takes() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let umlauts = "\u{fc}".repeat(60) + "\r\n";
    for (header, line) in [("Subject: s", "0123456789\r\n"), ("Subject: \u{fc}", &umlauts)] {
        for bytes in [1000, 10_000, RETURNED_BYTES_MAX - 200, RETURNED_BYTES_MAX, 2 * RETURNED_BYTES_MAX] {
            let original = format!("{header}\r\n\r\n{}", line.repeat(bytes / line.len()));
            let message = QueuedMessage {
                smtputf8: true,
                body: Body::EightBitMime,
                ret: Some(Ret::Full),
                size: original.len() as u64,
                ..message(Some("ann@sender.test"))
            };
            let beginning = &original.as_bytes()[..original.len().min(RETURNED_BYTES_MAX)];
            let report =
                bounce(&Notice { original: beginning, ..notice(&message, &hostname, &told) }).unwrap();
            check(&report, 1);
            // RFC 5321 §4.5.3.1.7.
            assert!(report.content.len() <= 64 * 1024, "{header} {bytes}: {}", report.content.len());
        }
    }
    // As much is said of many recipients as there is room for.
    let wordy = attempt(
        Phase::Rcpt,
        Reply::new(550, Enhanced(5, 7, 1), "").with_text("no entry ".repeat(400)),
        Outcome::Failed,
    );
    let many: Vec<QueuedRecipient> =
        (0..1000).map(|number| recipient(&format!("somebody{number}@a.test"))).collect();
    let told: Vec<Told<'_>> = many
        .iter()
        .map(|recipient| Told { recipient, attempt: Some(&wordy), outcome: Outcome::Failed, expanded: None })
        .collect();
    let report = bounce(&notice(&message(Some("ann@sender.test")), &hostname, &told)).unwrap();
    check(&report, 1000);
    assert!(report.content.len() < 1024 * 1024, "{}", report.content.len());
}

/// RFC 2045 §6.4: parts marked as binary cannot stand in one that is not.
#[test]
fn of_binary_mail_only_the_header_comes_back() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    let message =
        QueuedMessage { body: Body::BinaryMime, ret: Some(Ret::Full), ..message(Some("ann@sender.test")) };
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    assert!(check(&report, 1)[2].ends_with(b"Subject: lunch\r\n"));
}

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
    let ascii = |orcpt| Script::Ascii.original_recipient(orcpt);
    let utf8 = |orcpt| Script::Utf8.original_recipient(orcpt);
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
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed, expanded: None }];
    for host in ["localhost", "host_1.test", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
        for sender in ["\"a b\"@sender.test", "a@[192.0.2.1]", "a@b_c.test", "o'x!#$%@localhost"] {
            let hostname = Domain::parse(host).unwrap();
            check(&bounce(&notice(&message(Some(sender)), &hostname, &told)).unwrap(), 1);
        }
    }
}

#[test]
fn the_status_has_the_class_of_the_outcome() {
    let status = |code, enhanced, outcome| {
        let attempt =
            attempt(Phase::Rcpt, Reply { code, enhanced, text: "x".into(), said_by: Speaker::Host }, outcome);
        let bob = recipient("bob@a.test");
        status::Said::of(&Told { recipient: &bob, attempt: Some(&attempt), outcome, expanded: None })
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
        let told = [Told { recipient: &bob, attempt: tried.then_some(&attempt), outcome: Outcome::Failed, expanded: None }];
        let hostname = hostname();
        let notice = Notice { now, original: &original, ..notice(&message, &hostname, &told) };
        check(&bounce(&notice).unwrap(), 1);
    }
}

#[test]
fn a_report_repeats_the_times_that_were_asked_for() {
    let handling = Handling {
        release: Some(Release { at: NOW - 60, asked: Hold::For(3540) }),
        deliver_by: Some(DeliverBy { at: NOW - 1, returns: true, trace: false }),
        priority: Priority::clamped(3),
        require_tls: true,
    };
    let message = QueuedMessage { handling, ret: Some(Ret::Full), ..message(Some("ann@sender.test")) };
    let recipient = recipient("bob@a.test");
    let told = [Told { recipient: &recipient, attempt: None, outcome: Outcome::Expired, expanded: None }];
    let hostname = hostname();
    let id = MessageId(1_795_000_000_000_001);
    let notice =
        Notice { id, hostname: &hostname, now: NOW, message: &message, told: &told, original: ORIGINAL };
    let report = bounce(&notice).unwrap();
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
