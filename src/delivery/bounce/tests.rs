//! Golden messages, the rules one by one, and the structure under hostile input.

use proptest::prelude::*;

use super::*;
use crate::mail::{DeliverBy, Enhanced, Handling, Hold, Phase, Priority, Release, Reply, Speaker, address};
use crate::queue::{Origin, RecipientId};

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
    let told = [Told { recipient, attempt: Some(attempt), outcome: attempt.outcome }];
    let hostname = hostname();
    let report = write(&notice(message, &hostname, &told)).unwrap();
    check(&report, 1);
    String::from_utf8(report.content).unwrap()
}

/// Panics where a report is not what RFC 5322, 2046, 3464 and 6522 want; gives the parts' bodies.
fn check(report: &Report, recipients: usize) -> Vec<Vec<u8>> {
    let content = &report.content;
    assert_eq!(report.envelope.sender, None);
    assert_eq!(report.envelope.body == Body::EightBitMime, !content.is_ascii());
    assert!(has_lines(content), "lines: {}", String::from_utf8_lossy(content));
    let (header, body) = split(content);
    let header = fields_of(&header);
    for name in
        ["Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
    {
        assert_eq!(header.iter().filter(|(known, _)| known == name).count(), 1, "{name} in {header:?}");
    }
    // RFC 2045 §6.4.
    let encoding =
        header.iter().find(|(name, _)| name == "Content-Transfer-Encoding").map(|(_, value)| value.as_str());
    assert_eq!(encoding, (!body.is_ascii()).then_some("8bit"));
    assert_eq!(header.len(), 8 + usize::from(encoding.is_some()), "{header:?}");
    let kind = &header.iter().find(|(name, _)| name == "Content-Type").unwrap().1;
    assert!(kind.starts_with("multipart/report; report-type=delivery-status; boundary="), "{kind}");
    let boundary = kind.split('"').nth(1).unwrap();
    assert!(boundary.len() <= 70);

    let text = body.as_slice();
    let delimiter = format!("--{boundary}");
    let text = text.strip_prefix(format!("{delimiter}\r\n").as_bytes()).unwrap();
    let text = text.strip_suffix(format!("\r\n{delimiter}--\r\n").as_bytes()).unwrap();
    let mut parts = vec![Vec::new()];
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(delimiter.as_bytes()) {
            assert_eq!(line, format!("{delimiter}\r\n").as_bytes());
            parts.push(Vec::new());
        } else {
            parts.last_mut().unwrap().extend_from_slice(line);
        }
    }
    assert!(parts.len() == 2 || parts.len() == 3);
    let mut bodies = Vec::new();
    for (part, kinds) in parts.iter().zip([
        &["text/plain; charset=utf-8"][..],
        &["message/delivery-status"],
        &["message/rfc822", "text/rfc822-headers"],
    ]) {
        let (header, body) = split(part);
        let header = fields_of(&header);
        let kind = &header.iter().find(|(name, _)| name == "Content-Type").unwrap().1;
        assert!(kinds.contains(&kind.as_str()), "{kind}");
        let encoding = &header.iter().find(|(name, _)| name == "Content-Transfer-Encoding").unwrap().1;
        assert_eq!(header.len(), 2);
        assert!(encoding == "8bit" || body.is_ascii());
        bodies.push(body);
    }
    let groups: Vec<_> = std::str::from_utf8(&bodies[1])
        .unwrap()
        .trim_end()
        .split("\r\n\r\n")
        .map(|group| fields_of(format!("{group}\r\n").as_bytes()))
        .collect();
    assert_eq!(groups.len(), recipients + 1, "{groups:?}");
    assert!(groups[0].iter().any(|(name, _)| name == "Reporting-MTA"));
    for group in &groups[1..] {
        for name in ["Final-Recipient", "Action", "Status", "Diagnostic-Code"] {
            assert_eq!(group.iter().filter(|(known, _)| known == name).count(), 1, "{name} in {group:?}");
        }
        for (name, _) in group {
            let known = [
                "Original-Recipient",
                "Final-Recipient",
                "Action",
                "Status",
                "Remote-MTA",
                "Diagnostic-Code",
                "Last-Attempt-Date",
                "Will-Retry-Until",
            ];
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }
    bodies
}

/// Header with its last CR LF, and what follows the empty line.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let at = memmem::find(bytes, b"\r\n\r\n").expect("an empty line");
    (bytes[..at + 2].to_vec(), bytes[at + 4..].to_vec())
}

/// Names and unfolded values.
fn fields_of(header: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(header).unwrap();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.strip_suffix("\r\n").unwrap().split("\r\n") {
        if let Some(more) = line.strip_prefix(' ') {
            assert!(!more.trim().is_empty(), "an empty continuation in {text}");
            let value = &mut fields.last_mut().unwrap().1;
            value.push(' ');
            value.push_str(more);
        } else {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{name}");
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    fields
}

fn golden(file: &str) -> String {
    file.replace('\n', "\r\n")
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
        Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed },
        Told { recipient: &unknown, attempt: Some(&no_domain), outcome: Outcome::Failed },
        Told { recipient: &late, attempt: None, outcome: Outcome::Expired },
    ];
    let hostname = hostname();
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 3);
    assert_eq!(report.envelope.recipients[0].address.to_string(), "ann@sender.test");
    assert_eq!(String::from_utf8(report.content).unwrap(), golden(include_str!("golden/bounce.eml")));
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
    let told = [Told { recipient: &returned, attempt: None, outcome: Outcome::Failed }];
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
    let content = about(delay_warning, &message, &recipient("bob@a.test"), &attempt);
    assert_eq!(content, golden(include_str!("golden/delay.eml")));
}

#[test]
fn a_success_report_says_delivered_or_relayed() {
    let mut message = message(Some("ann@sender.test"));
    message.ret = Some(Ret::Full);
    let asked = |text| QueuedRecipient { notify: Notify::from_word("SUCCESS"), ..recipient(text) };
    let (bob, carl) = (asked("bob@a.test"), asked("carl@a.test"));
    let ok = Reply::new(250, Enhanced(2, 0, 0), "queued as 1234");
    let (delivered, relayed) =
        (attempt(Phase::Dot, ok.clone(), Outcome::Delivered), attempt(Phase::Dot, ok, Outcome::Relayed));
    let told = [
        Told { recipient: &bob, attempt: Some(&delivered), outcome: Outcome::Delivered },
        Told { recipient: &carl, attempt: Some(&relayed), outcome: Outcome::Relayed },
    ];
    let hostname = hostname();
    let report = success_report(&notice(&message, &hostname, &told)).unwrap();
    check(&report, 2);
    assert_eq!(String::from_utf8(report.content).unwrap(), golden(include_str!("golden/success.eml")));
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
    let to_never = Told { recipient: &never, attempt: Some(&refused), outcome: Outcome::Failed };
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
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed }];
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
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed }];
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
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed }];
    let message =
        QueuedMessage { ret: Some(Ret::Full), size: 10_000_000, ..message(Some("ann@sender.test")) };
    let report = bounce(&notice(&message, &hostname, &told)).unwrap();
    let parts = check(&report, 1);
    assert!(parts[2].ends_with(b"Subject: lunch\r\n"), "the header alone: the content is not all there");
}

#[test]
fn addresses_beyond_ascii_stay_lawful() {
    let content = about(
        bounce,
        &message(Some("\u{7528}\u{6237}@b\u{fc}cher.test")),
        &recipient("j\u{f6}rg+x@b\u{fc}cher.test"),
        &refused(),
    );
    assert!(content.contains("To: \u{7528}\u{6237}@xn--bcher-kva.test\r\n"), "{content}");
    assert!(
        content.contains("Final-Recipient: utf-8; j\\x{F6}rg\\x{2B}x@b\\x{FC}cher.test\r\n"),
        "{content}"
    );
    // Only a local part beyond ASCII needs SMTPUTF8.
    let bob = recipient("bob@b\u{fc}cher.test");
    let (refused, hostname) = (refused(), hostname());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed }];
    for (sender, smtputf8) in [("\u{7528}@a.test", true), ("ann@b\u{fc}cher.test", false)] {
        let report = bounce(&notice(&message(Some(sender)), &hostname, &told)).unwrap();
        assert_eq!(report.envelope.smtputf8, smtputf8, "{sender}");
        assert!(
            memmem::find(&report.content, b"Final-Recipient: rfc822; bob@xn--bcher-kva.test\r\n").is_some()
        );
    }
}

#[test]
fn odd_but_lawful_hosts_and_senders_get_their_bounce() {
    let (bob, refused) = (recipient("bob@a.test"), refused());
    let told = [Told { recipient: &bob, attempt: Some(&refused), outcome: Outcome::Failed }];
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
        status::Said::of(&Told { recipient: &bob, attempt: Some(&attempt), outcome })
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
    ) {
        let mut message = message(Some("ann@sender.test"));
        message.envid = envid;
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
        let told = [Told { recipient: &bob, attempt: tried.then_some(&attempt), outcome: Outcome::Failed }];
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
    let told = [Told { recipient: &recipient, attempt: None, outcome: Outcome::Expired }];
    let hostname = hostname();
    let id = MessageId(1_795_000_000_000_001);
    let notice =
        Notice { id, hostname: &hostname, now: NOW, message: &message, told: &told, original: ORIGINAL };
    let report = bounce(&notice).unwrap();
    let text = String::from_utf8(report.content).unwrap();
    assert!(text.contains("Future-Release-Request: for;3540\r\n"), "{text}");
    assert!(text.contains("Deliver-By-Date: Sat, 21 Nov 2026 11:59:59 +0000\r\n"), "{text}");
    assert!(text.contains("Status: 5.4.7\r\n"), "{text}");
    // RFC 8689 §5: protected as the message was, and without its body.
    assert!(text.contains("Subject: lunch") && !text.contains("At noon?"), "{text}");
    let wanted = Handling { priority: Priority::clamped(3), require_tls: true, ..Handling::default() };
    assert_eq!(report.envelope.handling, wanted);
}
