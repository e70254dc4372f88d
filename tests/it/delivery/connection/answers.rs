//! What each answer in the transaction decides, and for whom.

use super::*;

#[test]
fn every_recipient_gets_its_own_answer() {
    for offers in [&["PIPELINING"][..], &[]] {
        let script = Script::new()
            .offering(offers)
            .on(At::Rcpt("<gone@"), Act::Say("550-5.1.1 no such\r\n550 5.1.1 user"))
            .on(At::Rcpt("<grey@"), Act::Say("451 4.7.1 later"))
            .on(At::Rcpt("<odd@"), Act::Say("571 odd"));
        let mx = FakeMx::start(script);
        let mut connection = open(&mx).unwrap();
        let results = send(&mut connection, &["ok@b", "gone@b", "grey@b", "odd@b", "fine@b"]);
        use RecipientState::{Deferred, Delivered, Failed};
        assert_eq!(states(&results), [Delivered, Failed, Deferred, Failed, Delivered]);
        assert_eq!(said(&results[1]).1.to_string(), "550 5.1.1 no such user");
        assert_eq!((said(&results[1]).0, said(&results[0]).0), (Phase::Rcpt, Phase::EndOfData));
        assert_eq!(mx.messages()[0].rcpts, ["RCPT TO:<ok@b>", "RCPT TO:<fine@b>"]);
        assert!(connection.is_usable());
    }
}

#[test]
fn a_transaction_is_closed_however_it_ended() {
    for offers in [&["PIPELINING"][..], &[]] {
        let script = Script::new().offering(offers).on(At::Rcpt("<gone@"), Act::Say("550 5.1.1 no"));
        let mx = FakeMx::start(script);
        let mut connection = open(&mx).unwrap();
        assert_eq!(states(&send(&mut connection, &["gone@b"])), [RecipientState::Failed]);
        assert!(connection.is_usable());
        assert_eq!(states(&send(&mut connection, &["ok@b"])), [RecipientState::Delivered]);
        assert!(mx.seen()[0].verbs().ends_with(&["RSET", "MAIL", "RCPT", "DATA", "RSET"]));
    }
}

#[test]
fn a_host_that_wants_content_for_nobody_gets_the_dot_alone() {
    let script = Script::new()
        .on(At::Rcpt("b@"), Act::Say("550 5.1.1 no"))
        .on(At::Data, Act::Say("354 go"))
        .on(At::Dot, Act::Say("554 5.5.1 nobody"));
    let mx = FakeMx::start(script);
    let mut connection = open(&mx).unwrap();
    assert_eq!(
        only(&send(&mut connection, &["b@b"])),
        (Phase::Rcpt, RecipientState::Failed, "550 5.1.1 no".to_owned())
    );
    assert!(connection.is_usable());
    assert_eq!(mx.seen()[0].raw_content, b".\r\n");
}

#[test]
fn too_many_recipients_go_into_the_next_transaction() {
    use RecipientState::{Delivered, Failed, NextTransaction};
    let script = Script::new()
        .on(At::Rcpt("<c@"), Act::Say("552 5.5.3 too many"))
        .on(At::Rcpt("<d@"), Act::Say("452 4.5.3 too many"));
    let mx = FakeMx::start(script);
    let results = send(&mut open(&mx).unwrap(), &["b@b", "c@b", "d@b"]);
    assert_eq!(states(&results), [Delivered, NextTransaction, NextTransaction]);

    let mx = FakeMx::start(Script::new().on(At::Rcpt("<c@"), Act::Say("552 5.2.2 full")));
    assert_eq!(states(&send(&mut open(&mx).unwrap(), &["c@b", "b@b"])), [Failed, Delivered]);
}

#[test]
fn each_place_has_its_meaning() {
    use Phase::{Data, EndOfData, Mail};
    use RecipientState::{Deferred, Failed, HostTrouble, InDoubt};
    for (at, phase, says) in [
        (
            At::Mail,
            Mail,
            [("451 a", Deferred), ("550 b", Failed), ("421 c", HostTrouble), ("354 d", HostTrouble)],
        ),
        (
            At::Rcpt("b@"),
            Phase::Rcpt,
            [("450 a", Deferred), ("571 b", Failed), ("421 c", HostTrouble), ("150 d", HostTrouble)],
        ),
        (
            At::Data,
            Data,
            [("451 a", Deferred), ("554 b", Failed), ("421 c", HostTrouble), ("250 d", HostTrouble)],
        ),
        (
            At::Dot,
            EndOfData,
            [("452 a", Deferred), ("552 b", Failed), ("421 c", HostTrouble), ("354 d", InDoubt)],
        ),
    ] {
        for (words, state) in says {
            let outcome = send_one(Script::new().on(at, Act::Say(words)));
            assert_eq!(outcome, (phase, state, words.to_owned()), "{at:?}");
        }
    }
}

#[test]
fn a_connection_lost_before_the_whole_content_decides_nothing() {
    for (at, phase) in [(At::Mail, Phase::Mail), (At::Rcpt("b@"), Phase::Rcpt), (At::Data, Phase::Data)] {
        let (lost_in, state, words) = send_one(Script::new().on(at, Act::Close));
        assert_eq!((lost_in, state), (phase, RecipientState::HostTrouble), "{at:?}");
        assert!(words.starts_with("421 4.4.2 the host closed the connection while waiting"), "{words}");
    }
    let mx = FakeMx::start(Script::new().on(At::Content(1000), Act::Reset));
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(4 << 20);
    let mut connection = open(&mx).unwrap();
    let results =
        deliver(&mut connection, &outgoing(&sender, &[&to], &content[..40_000_008]), &content[..40_000_008]);
    assert_eq!((said(&results[0]).0, state(&results[0])), (Phase::EndOfData, RecipientState::HostTrouble));
    assert!(!connection.is_usable());
}

#[test]
fn an_answer_lost_after_the_dot_is_in_doubt() {
    for act in [Act::Close, Act::Reset, Act::Say("huh"), Act::Say("150 one moment")] {
        let (phase, state, _) = send_one(Script::new().on(At::Dot, act.clone()));
        assert_eq!((phase, state), (Phase::EndOfData, RecipientState::InDoubt), "{act:?}");
    }
}

#[test]
fn a_refusal_in_the_middle_of_the_content_is_heard() {
    let script = Script::new().on(At::Content(1000), Act::SayAndClose("552 5.3.4 too big"));
    assert_eq!(
        send_one_big(script),
        (Phase::EndOfData, RecipientState::Failed, "552 5.3.4 too big".to_owned())
    );
}

/// A message larger than the socket buffers.
fn send_one_big(script: Script) -> (Phase, RecipientState, String) {
    let mx = FakeMx::start(script);
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(1 << 20);
    only(&deliver(&mut open(&mx).unwrap(), &outgoing(&sender, &[&to], &content), &content))
}

#[test]
fn replies_of_all_shapes_are_read() {
    let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 2.0.0 done\r\n".to_vec()].concat();
    for (raw, state, words) in [
        (b"250\r\n".to_vec(), RecipientState::Delivered, "250"),
        (b"250 caf\xe9 \0\n".to_vec(), RecipientState::Delivered, "250 caf\\xE9 \\x00"),
        (b"550-5.7.1 one\r\n550 5.7.1 two\r\n".to_vec(), RecipientState::Failed, "550 5.7.1 one two"),
        (b"471 odd\r\n".to_vec(), RecipientState::Deferred, "471 odd"),
        (b"699 odd\r\n".to_vec(), RecipientState::InDoubt, "699 odd"),
    ] {
        let outcome = send_one(Script::new().on(At::Dot, Act::Raw(raw)));
        assert_eq!(outcome, (Phase::EndOfData, state, words.to_owned()));
    }
    assert_eq!(send_one(Script::new().on(At::Dot, Act::Raw(lines(100)))).1, RecipientState::Delivered);
    let (_, state, words) = send_one(Script::new().on(At::Dot, Act::Raw(lines(101))));
    assert_eq!(state, RecipientState::InDoubt);
    assert!(words.ends_with("longer than 100 lines or 64 KiB"), "{words}");
}

#[test]
fn a_message_over_the_hosts_size_fails_without_being_tried() {
    let mx = FakeMx::start(Script::new().offering(&["SIZE 10"]));
    let mut connection = open(&mx).unwrap();
    let (phase, state, words) = only(&send(&mut connection, &["b@b"]));
    assert_eq!((phase, state), (Phase::Mail, RecipientState::Failed));
    assert_eq!(words, "552 5.3.4 the message has 22 bytes, and the host takes 10 at most");
    connection.quit();
    assert_eq!(mx.wait_for_closed(1, SOON)[0].verbs(), ["EHLO", "QUIT"]);
}

#[test]
fn content_that_cannot_be_read_defers_and_sends_no_dot() {
    for content_fails in [true, false] {
        let mx = FakeMx::start(Script::new());
        let mut connection = open(&mx).unwrap();
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let mut chunks = 0;
        let mut content = || {
            chunks += 1;
            match (chunks, content_fails) {
                (1, _) => Ok(Some(Cow::Borrowed(&b"x\r\n"[..]))),
                (_, true) => Err(io::Error::other("disk on fire")),
                (_, false) => Ok(None),
            }
        };
        let mut before_dot =
            |_: &[usize]| if content_fails { Ok(()) } else { Err(io::Error::other("disk on fire")) };
        let to = [&to];
        let message = outgoing(&sender, &to, b"x\r\n");
        let outcome = only(&connection.deliver(&message, &mut content, &mut before_dot, soon()).results);
        let words = "451 4.3.0 Postrider could not send the content: disk on fire".to_owned();
        assert_eq!(outcome, (Phase::EndOfData, RecipientState::Deferred, words));
        assert!(!connection.is_usable());
        let seen = &mx.wait_for_closed(1, SOON)[0];
        assert!(!seen.raw_content.ends_with(b".\r\n"));
        assert!(mx.messages().is_empty());
    }
}
