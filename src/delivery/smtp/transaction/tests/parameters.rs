//! What is asked of a host with each command: parameters where it offers them, and nothing where it cannot take the
//! message at all.

use super::*;

#[test]
fn parameters_are_given_only_where_they_are_offered() {
    let sender = parse("a@x");
    let mut to = recipient("b@y");
    to.notify = Some(Notify::NEVER);
    to.orcpt = Some("rfc822;b+2B@y".to_owned());
    let to = [&to];
    let message = Outgoing {
        body: Body::EightBitMime,
        ret: Some(Ret::Full),
        envid: Some("E+2B1"),
        ..outgoing(&sender, &to)
    };
    let all = Capabilities {
        size: true,
        eight_bit: true,
        dsn: true,
        pipelining: true,
        smtputf8: true,
        ..Capabilities::default()
    };
    let first_write = |message: &Outgoing<'_>, capabilities: &Capabilities| {
        let mut out = Vec::new();
        Transaction::new(message, capabilities, Profile::FULL, true).next(&mut out);
        String::from_utf8(out).unwrap().replace("\r\n", ";")
    };
    assert_eq!(
        first_write(&message, &all),
        "MAIL FROM:<a@x> SIZE=100 BODY=8BITMIME RET=FULL ENVID=E+2B1;RCPT TO:<b@y> NOTIFY=NEVER ORCPT=rfc822;b+2B@y;DATA;"
    );
    assert_eq!(first_write(&message, &pipelining()), "MAIL FROM:<a@x>;RCPT TO:<b@y>;DATA;");
    let broken = Outgoing { envid: Some("E\r\nRSET"), sender: None, ..message };
    assert!(first_write(&broken, &all).starts_with("MAIL FROM:<> SIZE=100 BODY=8BITMIME RET=FULL;RCPT"));
    // RFC 6533 §3: UTF-8 in ORCPT only under SMTPUTF8; otherwise it says the same in ASCII.
    let mut joerg = recipient("b@y");
    joerg.orcpt = Some("utf-8;j\u{f6}rg\\x{2B}x@y".to_owned());
    let utf8 = Outgoing { recipients: &[&joerg], smtputf8: true, ..message };
    assert!(first_write(&utf8, &all).contains("RCPT TO:<b@y> ORCPT=utf-8;j\u{f6}rg\\x{2B}x@y;"));
    let without = Capabilities { smtputf8: false, ..all };
    assert!(first_write(&utf8, &without).contains("RCPT TO:<b@y> ORCPT=utf-8;j\\x{F6}rg\\x{2B}x@y;"));
}

#[test]
fn a_message_that_the_host_cannot_take_fails_before_a_byte_is_sent() {
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = outgoing(&sender, &to);
    let limit = |size_max| Capabilities { size: true, size_max, ..Capabilities::default() };
    let refused = |message: &Outgoing<'_>, capabilities: &Capabilities| {
        let run = run_message(message, capabilities, &[]);
        assert!(run.writes.is_empty() && run.usable);
        assert_eq!(state(&run.results[0]), RecipientState::Failed);
        said(&run.results[0]).1.to_string()
    };
    assert_eq!(
        refused(&message, &limit(Some(99))),
        "552 5.3.4 the message has 100 bytes, and the host takes 99 at most"
    );
    // 8-bit content goes to a host without 8BITMIME unless the operator wants it back.
    let eight = Outgoing { body: Body::EightBitMime, eight_bit: EightBit::Bounce, ..message };
    assert_eq!(refused(&eight, &PLAIN()), "554 5.6.3 the host has no 8BITMIME, which the content needs");
    let ok = [Then::Says("250"), Then::Says("250"), Then::Says("354"), Then::Says("250")];
    for (message, eight_bit) in [
        (eight, true),
        (Outgoing { eight_bit: EightBit::Send, ..eight }, false),
        (Outgoing { body: Body::SevenBit, ..eight }, false),
    ] {
        let capabilities = Capabilities { eight_bit, ..PLAIN() };
        assert_eq!(run_message(&message, &capabilities, &ok).states(), [RecipientState::Delivered]);
    }
    let binary = Outgoing { body: Body::BinaryMime, ..message };
    assert!(refused(&binary, &PLAIN()).starts_with("554 5.6.3"));
    let ok = [Then::Says("250"), Then::Says("250"), Then::Says("354"), Then::Says("250")];
    for fits in [limit(Some(100)), limit(None)] {
        assert_eq!(run_message(&message, &fits, &ok).states(), [RecipientState::Delivered]);
    }
}

#[test]
fn addresses_beyond_ascii_need_smtputf8_unless_only_the_domain_is() {
    let plain_sender = parse("a@x");
    let domain_only = recipient("b@bücher.example");
    let local_too = recipient("bü@y");
    let to = [&domain_only, &local_too];
    let message = outgoing(&plain_sender, &to);
    let ok = [Then::Says("250"), Then::Says("250"), Then::Says("354"), Then::Says("250")];
    let run = run_message(&message, &pipelining(), &ok);
    assert_eq!(run.writes[0], "MAIL FROM:<a@x>;RCPT TO:<b@xn--bcher-kva.example>;DATA;");
    assert_eq!(run.states(), [RecipientState::Delivered, RecipientState::Failed]);
    assert!(said(&run.results[1]).1.to_string().starts_with("553 5.6.7"));

    let able = Capabilities { smtputf8: true, ..pipelining() };
    let ok = [&[Then::Says("250")][..], &ok].concat();
    let run = run_message(&message, &able, &ok);
    assert_eq!(run.writes[0], "MAIL FROM:<a@x> SMTPUTF8;RCPT TO:<b@bücher.example>;RCPT TO:<bü@y>;DATA;");

    let utf8_sender = parse("ä@x");
    let to = [&domain_only];
    let run = run_message(&outgoing(&utf8_sender, &to), &pipelining(), &[]);
    assert!(said(&run.results[0]).1.to_string().starts_with("553 5.6.7"));
    assert_eq!(said(&run.results[0]).0, Phase::Mail);
}

#[test]
fn a_utf8_header_needs_smtputf8() {
    let (sender, to, capabilities) = (parse("a@x"), recipient("b@y"), pipelining());
    let to = [&to];
    let message = Outgoing { smtputf8: true, ..outgoing(&sender, &to) };
    let TransactionResult { results, is_usable, .. } =
        Transaction::new(&message, &capabilities, Profile::FULL, false).finish();
    assert!(said(&results[0]).1.to_string().starts_with("554 5.6.9"));
    assert_eq!((state(&results[0]), is_usable), (RecipientState::Failed, true));
}

#[test]
fn an_address_that_a_hand_broke_never_reaches_the_wire() {
    let sender = parse("a@x");
    let mut broken = recipient("b@y");
    broken.address = Address::new_dangerous("b", "y>\r\nDATA\r\n");
    let to = [&broken];
    let run = run_message(&outgoing(&sender, &to), &pipelining(), &[]);
    assert!(run.writes.is_empty());
    assert!(said(&run.results[0]).1.to_string().starts_with("553 5.1.3"));
}

#[test]
fn binary_content_goes_by_bdat_where_it_may_and_nowhere_else() {
    let (sender, b, c) = (parse("a@x"), recipient("b@y"), recipient("c@y"));
    let to = [&b, &c];
    let message = Outgoing { body: Body::BinaryMime, ..outgoing(&sender, &to) };
    let says = |words: &[&'static str]| words.iter().map(|words| Then::Says(words)).collect::<Vec<_>>();
    for capabilities in [
        PLAIN(),
        Capabilities { chunking: true, ..PLAIN() },
        Capabilities { binary_mime: true, eight_bit: true, ..pipelining() },
    ] {
        let run = run_message(&message, &capabilities, &[]);
        assert!(run.writes.is_empty());
        assert!(said(&run.results[0]).1.to_string().starts_with("554 5.6.3"), "{capabilities:?}");
        assert_eq!(run.states(), [RecipientState::Failed; 2]);
    }
    let able = Capabilities { chunking: true, binary_mime: true, ..PLAIN() };
    let piped = Capabilities { pipelining: true, ..able.clone() };
    const MAIL: &str = "MAIL FROM:<a@x> BODY=BINARYMIME;";
    let run = run_message(&message, &able, &says(&["250", "250", "550 no", "250 ok"]));
    assert_eq!(run.writes, [MAIL, "RCPT TO:<b@y>;", "RCPT TO:<c@y>;", "<100 LAST>"]);
    assert_eq!(run.states(), [RecipientState::Delivered, RecipientState::Failed]);
    let run = run_message(&message, &piped, &says(&["250", "250", "250", "250 ok"]));
    assert_eq!(run.writes, [&format!("{MAIL}RCPT TO:<b@y>;RCPT TO:<c@y>;"), "<100 LAST>"]);
    assert_eq!(run.states(), [RecipientState::Delivered; 2]);
    // Nobody was accepted: no chunk is sent.
    let run = run_message(&message, &piped, &says(&["250", "550 no", "451 later"]));
    assert_eq!(run.writes.len(), 1);
    assert_eq!(run.states(), [RecipientState::Failed, RecipientState::Deferred]);
    let run = run_message(&message, &piped, &says(&["550 no", "503 x", "503 x"]));
    assert_eq!((run.writes.len(), run.states()), (1, vec![RecipientState::Failed; 2]));
    // What the host says to the chunk means what it means to the dot.
    let run = run_message(&message, &piped, &says(&["250", "250", "250", "452 4.3.1 full"]));
    assert_eq!(run.states(), [RecipientState::Deferred; 2]);
    let lost = [&says(&["250", "250", "250"])[..], &[Then::Lost]].concat();
    assert_eq!(run_message(&message, &piped, &lost).states(), [RecipientState::InDoubt; 2]);
}

#[test]
fn handling_is_passed_on_where_it_is_understood() {
    let sender = parse("a@x");
    let to = recipient("b@y");
    let to = [&to];
    let handling = Handling {
        priority: Priority::clamped(-2),
        require_tls: true,
        deliver_by: Some(DeliverBy { at: 1_000, returns: false, trace: true }),
        ..Handling::default()
    };
    let message = Outgoing { handling, now: 1_100, ..outgoing(&sender, &to) };
    let all = Capabilities {
        require_tls: true,
        mt_priority: true,
        deliver_by: Some(0),
        pipelining: true,
        ..Capabilities::default()
    };
    let written = |capabilities: &Capabilities, message: &Outgoing<'_>| {
        let mut out = Vec::new();
        Transaction::new(message, capabilities, Profile::FULL, true).next(&mut out);
        String::from_utf8(out).unwrap().lines().next().unwrap().to_owned()
    };
    assert_eq!(written(&all, &message), "MAIL FROM:<a@x> REQUIRETLS MT-PRIORITY=-2 BY=-100;NT");
    assert_eq!(written(&Capabilities::default(), &message), "MAIL FROM:<a@x>");
    let plain = Outgoing { handling: Handling::default(), ..message };
    assert_eq!(written(&all, &plain), "MAIL FROM:<a@x>");
}

#[test]
fn what_must_be_in_time_is_not_given_to_a_host_that_cannot_be() {
    let sender = parse("a@x");
    let to = recipient("b@y");
    let to = [&to];
    let by = DeliverBy { at: 1_060, returns: true, trace: false };
    let handling = Handling { deliver_by: Some(by), ..Handling::default() };
    let message = Outgoing { handling, now: 1_000, ..outgoing(&sender, &to) };
    let answer = |deliver_by: Option<i64>, message: &Outgoing<'_>| {
        let capabilities = Capabilities { deliver_by, ..Capabilities::default() };
        let mut transaction = Transaction::new(message, &capabilities, Profile::FULL, true);
        let next = transaction.next(&mut Vec::new());
        match next {
            Next::Done => said(&transaction.finish().results[0]).1.enhanced,
            _ => None,
        }
    };
    assert_eq!(answer(None, &message), Some(Enhanced(5, 3, 3)));
    assert_eq!(answer(Some(61), &message), Some(Enhanced(5, 4, 7)));
    assert_eq!(answer(Some(60), &message), None);
    let late = Outgoing { now: 1_060, ..message };
    assert_eq!(answer(Some(0), &late), Some(Enhanced(5, 4, 7)), "no time is left");
}
