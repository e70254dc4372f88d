//! BINARYMIME from end to end: taken by BDAT, kept byte for byte, delivered by BDAT or returned (RFC 3030).

use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Config, World};
use crate::harness::sender::SENDER;

/// A header of ours, then every byte there is, with line ends of every kind.
fn binary() -> Vec<u8> {
    let all: Vec<u8> = (0..=255).collect();
    [
        &b"From: <me@app.test>\r\nSubject: binary\r\nMIME-Version: 1.0\r\n\r\n\r\n.\r\n\n.\n\r.\r"[..],
        &all.repeat(3000),
    ]
    .concat()
}

#[test]
fn binary_content_arrives_byte_for_byte_and_comes_back_where_the_host_cannot_take_it() {
    let mut world = World::new();
    let sender = world.host("app.test", Script::new());
    let able = world.host("able.test", Script::new().offering(&["PIPELINING", "CHUNKING", "BINARYMIME"]));
    let unable = world.host("unable.test", Script::new().offering(&["PIPELINING", "CHUNKING", "8BITMIME"]));
    let relay = world.relay(Config::new());
    let content = binary();
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}> BODY=BINARYMIME SIZE={}", content.len()), "250");
    client.expect("RCPT TO:<you@able.test>", "250");
    client.expect("RCPT TO:<you@unable.test>", "250");
    client.expect("DATA", "503 5.5.1");
    let (first, second) = content.split_at(100_000);
    for (piece, last) in [(first, ""), (second, " LAST")] {
        client.write(format!("BDAT {}{last}\r\n", piece.len()).as_bytes()).unwrap();
        client.write(piece).unwrap();
        assert_eq!(client.reply().unwrap().code, 250);
    }
    let arrived = &able.wait_for_messages(1, SOON)[0];
    assert!(arrived.mail.ends_with(" BODY=BINARYMIME"), "{}", arrived.mail);
    assert!(arrived.content.ends_with(&content[content.len() - 768_000..]), "its body is another");
    assert!(arrived.content.starts_with(b"Received: "));
    // RFC 3030 §3: where it cannot be converted it goes back, 5.6.3.
    let bounce = &sender.wait_for_messages(1, SOON)[0];
    let text = String::from_utf8_lossy(&bounce.content);
    assert!(text.contains("Status: 5.6.3") && text.contains("you@unable.test"), "{text}");
    assert!(unable.messages().is_empty());
    relay.wait_until_empty();
}

/// Some clients call everything BINARYMIME where it is offered. What is in lines goes anywhere.
#[test]
fn content_that_is_binary_in_name_only_goes_to_any_host() {
    let mut world = World::new();
    let mx = world.host("unable.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}> BODY=BINARYMIME"), "250");
    client.expect("RCPT TO:<you@unable.test>", "250");
    let content = "Subject: h\u{e9}llo\r\n\r\nin lines\r\n";
    client.write(format!("BDAT {} LAST\r\n{content}", content.len()).as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    let arrived = &mx.wait_for_messages(1, SOON)[0];
    assert!(arrived.mail.ends_with(" BODY=8BITMIME"), "{}", arrived.mail);
    assert!(arrived.content.ends_with(content.as_bytes()));
}
