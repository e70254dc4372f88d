//! Golden messages, and who is told of what.

mod fields;
mod returned;

use memchr::memmem;

use crate::delivery::report::bounce::grammar::check;
use crate::delivery::report::bounce::*;
use crate::mail::{
    DeliverBy, Enhanced, Handling, Hold, Phase, Priority, Release, Reply, ReplySource, Ret, TlsPolicy,
    address,
};
use crate::queue::{Origin, RecipientId};

fn bounce(context: &ReportContext<'_>) -> Option<Report> {
    report(ReportKind::Bounce, context)
}

fn delay_warning(context: &ReportContext<'_>) -> Option<Report> {
    report(ReportKind::Delay, context)
}

fn success_report(context: &ReportContext<'_>) -> Option<Report> {
    report(ReportKind::Success, context)
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
        expires_at: None,
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
    let new = Recipient::new(address::parse(text).unwrap());
    QueuedRecipient { attempts: 1, ..QueuedRecipient::new(RecipientId(1), new) }
}

/// Where there was a host to say it, it said so.
fn attempt(phase: Phase, reply: Reply, outcome: Outcome) -> Attempt {
    let reply = if matches!(phase, Phase::Dns | Phase::Connect) { reply } else { reply.from_remote() };
    Attempt {
        at: NOW - 5,
        duration_ms: 100,
        mx: Some("mx1.a.test".to_owned()),
        ip: Some("192.0.2.1".parse().unwrap()),
        tls: None,
        tls_policy: TlsPolicy::None,
        dkim: None,
        source: None,
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

fn context<'a>(
    message: &'a QueuedMessage,
    hostname: &'a Domain,
    reported: &'a [ReportedRecipient<'a>],
) -> ReportContext<'a> {
    ReportContext {
        id: MessageId(1_795_000_000_000_001),
        hostname,
        now: NOW,
        message,
        ends_at: NOW + 428_400,
        reported,
        original: ORIGINAL,
    }
}

/// A recipient that a host refused.
fn failed<'a>(recipient: &'a QueuedRecipient, attempt: &'a Attempt) -> ReportedRecipient<'a> {
    ReportedRecipient { recipient, attempt: Some(attempt), outcome: Outcome::Failed, expanded: None }
}

/// Writes a report about one recipient and checks its structure.
fn about(
    write: fn(&ReportContext<'_>) -> Option<Report>,
    message: &QueuedMessage,
    recipient: &QueuedRecipient,
    attempt: &Attempt,
) -> String {
    let reported =
        [ReportedRecipient { recipient, attempt: Some(attempt), outcome: attempt.outcome, expanded: None }];
    let hostname = hostname();
    let report = write(&context(message, &hostname, &reported)).unwrap();
    check(&report, 1);
    String::from_utf8(report.content).unwrap()
}

/// Compares with `golden/name.eml`, whose lines end as in the repository. GOLDEN=write writes it instead.
fn assert_golden(name: &str, report: &Report) {
    let file = format!("{}/src/delivery/report/bounce/golden/{name}.eml", env!("CARGO_MANIFEST_DIR"));
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
            last_reply_source: ReplySource::Remote,
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
    let reported = [
        ReportedRecipient {
            recipient: &bob,
            attempt: Some(&refused),
            outcome: Outcome::Failed,
            expanded: None,
        },
        ReportedRecipient {
            recipient: &unknown,
            attempt: Some(&no_domain),
            outcome: Outcome::Failed,
            expanded: None,
        },
        ReportedRecipient { recipient: &late, attempt: None, outcome: Outcome::Expired, expanded: None },
    ];
    let hostname = hostname();
    let report = bounce(&context(&message, &hostname, &reported)).unwrap();
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
        (
            Phase::EndOfData,
            "This relay about mx1.a.test [192.0.2.1], after the message was sent (end of DATA):",
        ),
        (Phase::Connect, "This relay, when it tried to connect to mx1.a.test [192.0.2.1]:"),
    ] {
        let attempt = Attempt { reply: silence.clone(), ..attempt(phase, silence.clone(), Outcome::Expired) };
        let content = about(bounce, &message, &bob, &attempt);
        assert!(content.replace("\r\n    ", " ").contains(who), "{content}");
        assert!(content.contains("Diagnostic-Code: x-postrider; 421 4.4.2 timed out"), "{content}");
        assert!(!content.contains("smtp;") && !content.contains("Remote-MTA"), "{content}");
        // The same words, heard.
        let attempt = Attempt { reply: silence.clone().from_remote(), ..attempt };
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
    let reported =
        [ReportedRecipient { recipient: &returned, attempt: None, outcome: Outcome::Failed, expanded: None }];
    let hostname = hostname();
    let report = bounce(&context(&message, &hostname, &reported)).unwrap();
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
    let reported = [ReportedRecipient {
        recipient: &bob,
        attempt: Some(&attempt),
        outcome: Outcome::Deferred,
        expanded: None,
    }];
    let hostname = hostname();
    let report = delay_warning(&context(&message, &hostname, &reported)).unwrap();
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
    let (delivered, relayed) = (
        attempt(Phase::EndOfData, ok.clone(), Outcome::Delivered),
        attempt(Phase::EndOfData, ok, Outcome::Relayed),
    );
    let reported = [
        ReportedRecipient {
            recipient: &bob,
            attempt: Some(&delivered),
            outcome: Outcome::Delivered,
            expanded: None,
        },
        ReportedRecipient {
            recipient: &carl,
            attempt: Some(&relayed),
            outcome: Outcome::Relayed,
            expanded: None,
        },
    ];
    let hostname = hostname();
    assert_eq!(success_report(&context(&message, &hostname, &reported[..1])), None);
    let report = success_report(&context(&message, &hostname, &reported)).unwrap();
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
    let reported =
        |expanded| ReportedRecipient { recipient: &bob, attempt: None, outcome: Outcome::Relayed, expanded };
    let (first, second) = (expanded(Some("rfc822;Team@relay.test")), expanded(None));
    let hostname = hostname();
    let reported = [reported(Some(&first)), reported(Some(&second)), reported(None)];
    let report = success_report(&context(&message, &hostname, &reported)).unwrap();
    check(&report, 2);
    let text = String::from_utf8(report.content).unwrap();
    let group = "\r\n\r\nOriginal-Recipient: rfc822; Team@relay.test\r\n\
        Final-Recipient: rfc822; team@relay.test\r\nAction: expanded\r\nStatus: 2.0.0\r\n\
        Diagnostic-Code: x-postrider; 250 2.0.0 the alias was expanded";
    assert!(text.contains(group), "{text}");
    assert!(!text.contains("bob@a.test\r\nAction"), "where it leads is nobody's business: {text}");
    assert_eq!(bounce(&context(&message, &hostname, &reported)), None);
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
    let tell = |message: &QueuedMessage, reported: &[ReportedRecipient<'_>]| {
        bounce(&context(message, &hostname, reported))
    };
    let to_never = ReportedRecipient {
        recipient: &never,
        attempt: Some(&refused),
        outcome: Outcome::Failed,
        expanded: None,
    };
    let to_bob = ReportedRecipient { recipient: &bob, ..to_never };
    let deferred = ReportedRecipient { outcome: Outcome::Deferred, ..to_bob };
    assert_eq!(tell(&message(None), &[to_bob]), None, "the null sender");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[to_never]), None, "NEVER");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[deferred]), None, "not failed");
    assert_eq!(tell(&message(Some("ann@sender.test")), &[]), None, "nobody");
    let report = tell(&message(Some("ann@sender.test")), &[to_never, to_bob, deferred]).unwrap();
    check(&report, 1);
    assert!(memmem::find(&report.content, b"Final-Recipient: rfc822; carl@a.test").is_some());
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
    let reported = [ReportedRecipient {
        recipient: &joerg,
        attempt: Some(&unknown),
        outcome: Outcome::Failed,
        expanded: None,
    }];
    let hostname = hostname();
    bounce(&ReportContext { original: UTF8_ORIGINAL, ..context(&message, &hostname, &reported) }).unwrap()
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
    let reported = [failed(&bob, &refused)];
    let report = bounce(&context(&message(Some("\u{7528}@a.test")), &hostname, &reported)).unwrap();
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
