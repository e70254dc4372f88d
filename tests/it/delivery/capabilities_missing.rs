//! Content and addresses that a host has not offered to take: sent all the same, changed where that changes
//! nothing, or returned with the reason (RFC 6152 §3, RFC 6531 §3.5, RFC 1870). Binary content is in `binary.rs`.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, Relay, mail};
use crate::harness::sender::{SENDER, bounce, text, unfolded, wait_for_end, world_with_sender};

const OLD: &[&str] = &["PIPELINING", "SIZE"];

fn eight_bit() -> Vec<u8> {
    [mail("caf\u{e9}"), b"H\xe9 in Latin-1.\r\n".to_vec()].concat()
}

/// Submits with these parameters of MAIL.
fn submit(relay: &Relay, sender: &str, parameters: &str, to: &str, content: &[u8]) {
    let reply = relay.client().transact(sender, parameters, &[to], content).unwrap();
    assert_eq!(reply.code, 250, "{}", reply.text);
}

#[test]
fn eight_bits_go_out_as_they_are_unless_told_otherwise() {
    let (mut world, _home) = world_with_sender();
    let old = world.host("old.test", Script::new().offering(OLD));
    let relay = world.relay(Config::new());
    let content = eight_bit();
    // Announced or not.
    for (parameters, count) in [(" BODY=8BITMIME", 1), ("", 2)] {
        submit(&relay, SENDER, parameters, "you@old.test", &content);
        let arrived = old.wait_for_messages(count, SOON).pop().unwrap();
        assert!(arrived.content.ends_with(&content), "{:?}", arrived.content.escape_ascii().to_string());
        assert!(!arrived.mail.contains("BODY"), "{}", arrived.mail);
    }
}

#[test]
fn eight_bits_come_back_from_a_host_without_8bitmime_where_the_operator_wants_it() {
    let (mut world, home) = world_with_sender();
    let old = world.host("old.test", Script::new().offering(OLD));
    let able = world.host("able.test", Script::new());
    let relay = world.relay(Config::new().set("delivery.eight_bit", "\"bounce\""));
    submit(&relay, SENDER, "", "you@old.test", &eight_bit());
    let report = unfolded(&bounce(&home));
    for field in ["Action: failed", "Status: 5.6.3", "Diagnostic-Code: x-postrider; "] {
        assert!(report.contains(field), "no {field:?} in {report}");
    }
    wait_for_end(&relay, "you@old.test", "failed");
    submit(&relay, SENDER, "", "you@able.test", &eight_bit());
    assert!(able.wait_for_messages(1, SOON)[0].mail.ends_with(" BODY=8BITMIME"));
    // What only calls itself so goes anywhere.
    submit(&relay, SENDER, " BODY=8BITMIME", "you@old.test", &mail("plain"));
    let arrived = old.wait_for_messages(1, SOON);
    assert!(arrived.len() == 1 && arrived[0].content.ends_with(&mail("plain")));
}

#[test]
fn a_domain_beyond_ascii_goes_as_its_a_labels_to_a_host_without_smtputf8() {
    let (mut world, home) = world_with_sender();
    let old = world.host("xn--bcher-kva.test", Script::new());
    let relay = world.relay(Config::new());
    submit(&relay, "me@b\u{fc}cher.test", " SMTPUTF8", "you@B\u{dc}CHER.test", &mail("hello"));
    let arrived = old.wait_for_messages(1, SOON).remove(0);
    assert!(arrived.mail.starts_with("MAIL FROM:<me@xn--bcher-kva.test> ") && !arrived.mail.contains("UTF8"));
    assert_eq!(arrived.rcpts, ["RCPT TO:<you@xn--bcher-kva.test>"]);
    let text = String::from_utf8_lossy(&arrived.content);
    assert!(arrived.content.is_ascii() && text.contains("for <you@xn--bcher-kva.test>"), "{text}");
    wait_for_end(&relay, "you@B\u{dc}CHER.test", "delivered");
    assert!(home.messages().is_empty());
}

#[test]
fn what_needs_smtputf8_comes_back_from_a_host_without_it() {
    // RFC 6531 §4.2: 5.6.7 is about an address, 5.6.9 about the header.
    for (to, content, status) in [
        ("\u{7528}\u{6237}@old.test", mail("hello"), "5.6.7"),
        ("you@old.test", mail("gr\u{fc}\u{df}e"), "5.6.9"),
        // With a domain that would do as A-labels, the header is still what it is.
        ("you@b\u{fc}cher.test", mail("gr\u{fc}\u{df}e"), "5.6.9"),
    ] {
        let (mut world, home) = world_with_sender();
        let old = world.host("old.test", Script::new());
        let idn = world.host("xn--bcher-kva.test", Script::new());
        let relay = world.relay(Config::new());
        submit(&relay, SENDER, " SMTPUTF8 BODY=8BITMIME", to, &content);
        let report = unfolded(&bounce(&home));
        assert!(report.contains(&format!("Status: {status}")), "{to}: {report}");
        wait_for_end(&relay, to, "failed");
        assert!(old.messages().is_empty() && idn.messages().is_empty());
    }
}

/// The sender's address cannot be written; its report has nowhere to go but a host that can.
#[test]
fn a_sender_beyond_ascii_gets_the_message_back_from_a_host_without_smtputf8() {
    let (mut world, _) = world_with_sender();
    let home = world.host("able.test", Script::new().offering(&["8BITMIME", "SMTPUTF8"]));
    let old = world.host("old.test", Script::new());
    let relay = world.relay(Config::new());
    submit(&relay, "j\u{fc}rgen@able.test", " SMTPUTF8", "you@old.test", &mail("hello"));
    let report = unfolded(&text(&home.wait_for_messages(1, SOON)[0]));
    assert!(report.contains("Status: 5.6.7"), "{report}");
    assert!(old.messages().is_empty());
}

// ---- size -----------------------------------------------------------------------------------------

/// RFC 1870 §5: with the CR LF of every line, without the dots of the transfer, our own fields included.
#[test]
fn the_size_that_is_declared_is_that_of_the_content() {
    let (mut world, _home) = world_with_sender();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let dotted = [mail("dotted"), b".\r\n..\r\n.x\r\n".repeat(100)].concat();
    let long = [mail("long"), b"0123456789abcdef\r\n".repeat(40_000)].concat();
    for (number, content) in [mail("small"), dotted, long].iter().enumerate() {
        submit(&relay, SENDER, "", "you@a.test", content);
        let arrived = mx.wait_for_messages(number + 1, SOON).pop().unwrap();
        assert_eq!(arrived.mail, format!("MAIL FROM:<{SENDER}> SIZE={}", arrived.content.len()));
        assert!(arrived.content.ends_with(content));
    }
}

/// The limit that a host announces is the 552 that it would say, to one byte; and as with that (RFC 5321 §4.2.1)
/// no other host of the domain is asked: a backup would only hand it to the same host.
#[test]
fn a_message_over_the_hosts_limit_comes_back_without_being_sent() {
    let (mut world, home) = world_with_sender();
    let mx = world.mx("a.test", 10, "mx1.a.test", Script::new().offering(&["PIPELINING", "SIZE 1000"]));
    let backup = world.mx("a.test", 20, "mx2.a.test", Script::new());
    let relay = world.relay(Config::new());
    // What our fields add is seen in a first one.
    let head = mail("x");
    submit(&relay, SENDER, "", "you@a.test", &head);
    let added = mx.wait_for_messages(1, SOON)[0].content.len() - head.len();
    let padded = |bytes: usize| {
        let room = bytes - added - head.len();
        [&head[..], &vec![b'x'; room - 2], b"\r\n"].concat()
    };
    submit(&relay, SENDER, "", "you@a.test", &padded(1000));
    assert_eq!(mx.wait_for_messages(2, SOON)[1].content.len(), 1000);
    submit(&relay, SENDER, "", "her@a.test", &padded(1001));
    let report = unfolded(&bounce(&home));
    assert!(report.contains("Status: 5.3.4"), "{report}");
    let row = relay.wait_until("its end", SOON, |db| {
        db.row("SELECT code, enhanced, reply_source FROM attempts WHERE outcome = 'failed'", [])
    });
    assert_eq!(row, "552|5.3.4|local");
    wait_for_end(&relay, "her@a.test", "failed");
    let mails = mx.seen().into_iter().flat_map(|seen| seen.commands).filter(|line| line.starts_with("MAIL"));
    assert_eq!((mails.count(), backup.seen().len()), (2, 0));
}

#[test]
fn a_552_is_final_wherever_it_is_said() {
    for at in [At::Mail, At::Rcpt("you@"), At::Data, At::Dot] {
        let (mut world, home) = world_with_sender();
        let too_big = Act::Say("552 5.3.4 message too big for us");
        let mx = world.mx("a.test", 10, "mx1.a.test", Script::new().on(at, too_big));
        let backup = world.mx("a.test", 20, "mx2.a.test", Script::new());
        let relay = world.relay(Config::new());
        submit(&relay, SENDER, "", "you@a.test", &mail("big"));
        let report = unfolded(&bounce(&home));
        assert!(
            report.contains("Status: 5.3.4") && report.contains("552 5.3.4 message too big for us"),
            "{report}"
        );
        assert!(mx.messages().is_empty() && backup.seen().is_empty(), "{at:?}");
    }
}
