//! What comes back of the original, and that it fits.

use crate::delivery::report::bounce::tests::*;

#[test]
fn ret_decides_what_is_returned() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let reported = [failed(&bob, &refused)];
    let third = |ret: Option<Ret>, original: &[u8]| {
        let message = QueuedMessage { ret, size: original.len() as u64, ..message(Some("ann@sender.test")) };
        let report = bounce(&ReportContext { original, ..context(&message, &hostname, &reported) }).unwrap();
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
    let reported = [failed(&bob, &refused)];
    let id = MessageId(1_795_000_000_000_001);
    let original = format!("Subject: s\r\n\r\n--=_{id}--\r\n--=_{id}.x\r\n\r\nhello\r\n");
    let message = QueuedMessage {
        ret: Some(Ret::Full),
        size: original.len() as u64,
        ..message(Some("ann@sender.test"))
    };
    let report =
        bounce(&ReportContext { original: original.as_bytes(), ..context(&message, &hostname, &reported) })
            .unwrap();
    assert_eq!(check(&report, 1)[2], original.as_bytes());
}

#[test]
fn the_first_bytes_of_a_large_message_are_enough() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let reported = [failed(&bob, &refused)];
    let message =
        QueuedMessage { ret: Some(Ret::Full), size: 10_000_000, ..message(Some("ann@sender.test")) };
    let report = bounce(&context(&message, &hostname, &reported)).unwrap();
    let parts = check(&report, 1);
    assert!(parts[2].ends_with(b"Subject: lunch\r\n"), "the header alone: the content is not all there");
}

/// A header in UTF-8 that came without SMTPUTF8, or none in UTF-8 at all, is no header of RFC 6532.
#[test]
fn a_broken_header_is_returned_all_the_same() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let reported = [failed(&bob, &refused)];
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
            let context = ReportContext { original: &original, ..context(&message, &hostname, &reported) };
            let report = bounce(&context).unwrap();
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
    let reported = [failed(&bob, &refused)];
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
                bounce(&ReportContext { original: beginning, ..context(&message, &hostname, &reported) })
                    .unwrap();
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
    let reported: Vec<ReportedRecipient<'_>> = many
        .iter()
        .map(|recipient| ReportedRecipient {
            recipient,
            attempt: Some(&wordy),
            outcome: Outcome::Failed,
            expanded: None,
        })
        .collect();
    let report = bounce(&context(&message(Some("ann@sender.test")), &hostname, &reported)).unwrap();
    check(&report, 1000);
    assert!(report.content.len() < 1024 * 1024, "{}", report.content.len());
}

/// RFC 2045 §6.4: parts marked as binary cannot stand in one that is not.
#[test]
fn of_binary_mail_only_the_header_comes_back() {
    let (bob, refused, hostname) = (recipient("bob@a.test"), refused(), hostname());
    let reported = [failed(&bob, &refused)];
    let message =
        QueuedMessage { body: Body::BinaryMime, ret: Some(Ret::Full), ..message(Some("ann@sender.test")) };
    let report = bounce(&context(&message, &hostname, &reported)).unwrap();
    assert!(check(&report, 1)[2].ends_with(b"Subject: lunch\r\n"));
}
