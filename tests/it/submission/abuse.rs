//! Input that nobody should send, said to a started relay: each class with the answer it must get, and
//! nothing more than that answer.
//!
//! The dialogues in `tests/golden/` hold the wording; here is what a dialogue cannot show: packets, time,
//! numbers, and what the next host gets to see.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use crate::harness::client;
use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Client, Config, Relay, World, mail};
use crate::harness::sender::SENDER;

pub(super) const RECIPIENT: &str = "you@a.test";

/// MAIL and RCPT; content may follow.
pub(super) fn begin(client: &mut Client) {
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.expect(&format!("RCPT TO:<{RECIPIENT}>"), "250");
}

pub(super) fn recipients(relay: &Relay) -> i64 {
    relay.db().number("SELECT (SELECT count(*) FROM recipients) + (SELECT count(*) FROM history)", [])
}

// ---- smuggling (CVE-2023-51764, -51765, -51766 and later variants) ------------------------------

/// Everything that a server somewhere has taken, or may take, for the end of the content, but for the one
/// that is.
fn look_alikes() -> Vec<String> {
    let ends = [
        "\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n\r", "\r\0\n", "\0\r\n", "\x0b", "\x0c", "\u{85}",
        "\u{2028}",
    ];
    let dots = [".", ". ", ".\t", ".\0", "\0.", " .", "\u{ff0e}"];
    let mut all = Vec::new();
    for before in ends {
        for dot in dots {
            all.extend(ends.iter().map(|after| format!("{before}{dot}{after}")));
        }
    }
    all.retain(|look_alike| !look_alike.contains("\r\n.\r\n"));
    all
}

/// What follows the look-alike: a transaction, for whoever believes that the content is over.
const SMUGGLED: &str =
    "MAIL FROM:<evil@app.test>\r\nRCPT TO:<victim@a.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n";

#[test]
fn nothing_but_the_true_end_of_data_ends_it_whole_or_in_pieces() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set("delivery.messages_per_connection", "1000"));
    let mut client = relay.client();
    let look_alikes = look_alikes();
    assert!(look_alikes.len() > 900, "{}", look_alikes.len());
    for (number, look_alike) in look_alikes.iter().enumerate() {
        begin(&mut client);
        client.expect("DATA", "354");
        let whole = format!("Subject: {number}\r\n\r\nouter{look_alike}{SMUGGLED}.\r\n");
        if number.is_multiple_of(2) {
            client.write(whole.as_bytes()).unwrap();
        } else {
            // Each byte round the look-alike in a packet of its own.
            let from = whole.find("outer").unwrap() + 4;
            let (before, rest) = whole.as_bytes().split_at(from);
            let (pieces, after) = rest.split_at(look_alike.len() + 3);
            client.write(before).unwrap();
            for piece in pieces.chunks(1) {
                client.write(piece).unwrap();
            }
            client.write(after).unwrap();
        }
        let reply = client.reply().unwrap();
        // A NUL is in no message at all, and ends none.
        let (code, words) = if look_alike.contains('\0') { (554, "NUL") } else { (250, "queued as") };
        assert_eq!(reply.code, code, "{look_alike:?}: {}", reply.text);
        assert!(reply.text.contains(words), "{look_alike:?}");
        // In step: the reply is the content's, and the only one.
        client.expect("NOOP", "250 2.0.0 Ok");
    }
    let count = look_alikes.iter().filter(|look_alike| !look_alike.contains('\0')).count();
    let messages = mx.wait_for_messages(count, SOON);
    assert_eq!(messages.len(), count);
    for message in &messages {
        assert_eq!(message.rcpts, [format!("RCPT TO:<{RECIPIENT}>")]);
        assert!(message.content.ends_with(b"smuggled\r\n"));
        // What the next host gets has one kind of line end, whatever it takes for one.
        let text = String::from_utf8_lossy(&message.content).replace("\r\n", "");
        assert!(!text.contains(['\r', '\n']), "{text:?}");
    }
    relay.wait_until_empty();
    assert_eq!(recipients(&relay), count as i64);
}

#[test]
fn no_end_of_data_ends_a_chunk_and_the_next_host_sees_none() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set("delivery.messages_per_connection", "1000"));
    let mut client = relay.client();
    let mut look_alikes: Vec<String> = look_alikes().into_iter().step_by(7).collect();
    look_alikes.retain(|look_alike| !look_alike.contains('\0'));
    // In a chunk the true one is none either.
    look_alikes.push("\r\n.\r\n".to_owned());
    for (number, look_alike) in look_alikes.iter().enumerate() {
        let content = format!("Subject: {number}\r\n\r\nouter{look_alike}{SMUGGLED}.\r\nQUIT\r\n");
        // Cut within the look-alike, over two chunks, pipelined.
        let cut = content.find("outer").unwrap() + 5 + look_alike.len() / 2;
        begin(&mut client);
        let (first, last) = content.as_bytes().split_at(cut);
        client.write(format!("BDAT {}\r\n", first.len()).as_bytes()).unwrap();
        client.write(first).unwrap();
        client.write(format!("BDAT {} LAST\r\n", last.len()).as_bytes()).unwrap();
        client.write(last).unwrap();
        assert!(client.reply().unwrap().text.ends_with("octets received"));
        assert!(client.reply().unwrap().text.contains("queued as"), "{look_alike:?}");
        client.expect("NOOP", "250 2.0.0 Ok");
    }
    let messages = mx.wait_for_messages(look_alikes.len(), SOON);
    for message in &messages {
        assert_eq!(message.rcpts, [format!("RCPT TO:<{RECIPIENT}>")]);
        assert!(message.content.ends_with(b"smuggled\r\n.\r\nQUIT\r\n"), "dots are doubled on the way");
    }
    relay.wait_until_empty();
    assert_eq!(recipients(&relay), look_alikes.len() as i64);
}

#[test]
fn a_refused_chunk_is_never_read_as_commands() {
    let relay = World::new().relay(Config::new());
    let mut client = relay.client();
    let content = format!("{SMUGGLED}.\r\n");
    for size in [content.len(), content.len() - 1] {
        client.write(format!("BDAT {size} LAST\r\n{}", &content[..size]).as_bytes()).unwrap();
        assert_eq!(client.reply().unwrap().text, "5.5.1 Say MAIL first");
        client.expect("NOOP", "250 2.0.0 Ok");
    }
    client.write(format!("BDAT many LAST\r\n{content}").as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().code, 501);
    assert!(client.is_closed(), "where the content ends cannot be told");
    assert_eq!(recipients(&relay), 0);
}

// ---- STARTTLS injection (CVE-2011-0411) -----------------------------------------------------------

pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(super) fn shake_hands(relay: &Relay, stream: TcpStream) -> TlsStream {
    let mut tls = StreamOwned::new(client::tls(relay), stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }
    tls
}

/// What comes up to the end of a line.
fn line(stream: &mut impl std::io::Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn what_came_in_the_clear_is_not_executed_under_tls() {
    let relay = World::new().relay(Config::new());
    let mut stream = TcpStream::connect(relay.starttls).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    line(&mut stream);
    let injected = "EHLO evil.test\r\nNOOP\r\nMAIL FROM:<evil@app.test>\r\n";
    stream.write_all(format!("STARTTLS\r\n{injected}").as_bytes()).unwrap();
    assert!(line(&mut stream).starts_with("220 "));
    let mut tls = shake_hands(&relay, stream);
    // The first answer is to the first thing said under TLS, and nothing of before is known.
    tls.write_all(b"MAIL FROM:<me@app.test>\r\n").unwrap();
    assert_eq!(line(&mut tls), "503 5.5.1 Say EHLO first\r\n");
    tls.write_all(b"NOOP\r\n").unwrap();
    assert_eq!(line(&mut tls), "250 2.0.0 Ok\r\n");
}

// ---- bytes that have no place in a command --------------------------------------------------------

#[test]
fn control_bytes_in_any_argument_are_500_and_one_reply() {
    let relay = World::new().relay(Config::new().set("limits.errors", "10000"));
    let mut client = relay.client();
    let commands = [
        "EHLO app.|test",
        "HELO app.|test",
        "MAIL FROM:<me|@app.test>",
        "MAIL FROM:<me@app|.test>",
        "MAIL FROM:<me@app.test> SIZE=1|0",
        "MAIL FROM:<me@app.test> ENVID=a|b",
        "MAIL FROM:<me@app.test>|",
        "RCPT TO:<you|@a.test>",
        "RCPT TO:<\"you|\"@a.test>",
        "RCPT TO:<you@a.test> ORCPT=rfc822;y|ou@a.test",
        "RCPT TO:<you@a.test> NOTIFY=NEVER|",
        "VRFY ro|ot",
        "EXPN ro|ot",
        "HELP MA|IL",
        "NOOP |",
        "ETRN a.|test",
        "AUTH PL|AIN",
        "AUTH PLAIN AG|EAYg==",
        "BDAT 1| LAST",
        "DATA|",
        "RSET|",
        "QUIT|",
        "|QUIT",
        "STARTTLS|",
    ];
    // CR LF ends a line, here as everywhere; all others do not.
    let bytes: &[&[u8]] = &[
        b"\0",
        b"\x01",
        b"\t",
        b"\x0b",
        b"\x1b",
        b"\x7f",
        b"\r",
        b"\n",
        b"\n\r",
        b"\r\0\n",
        b"\xff",
        b"\xc3",
        b"\xc0\x8d",
    ];
    for command in commands {
        for bad in bytes {
            let (head, tail) = command.split_once('|').unwrap();
            // A bare CR at the very end would make CR CR LF: judged as a CR in the line.
            let line = [head.as_bytes(), bad, tail.as_bytes(), b"\r\n"].concat();
            let shown = line.escape_ascii().to_string();
            client.write(&line).unwrap();
            let reply = client.reply().unwrap();
            assert_eq!(reply.code, 500, "{shown}: {}", reply.text);
            client.expect("NOOP", "250 2.0.0 Ok");
        }
    }
    // C1 controls are characters of UTF-8, but of no address.
    client.expect("MAIL FROM:<me\u{85}@app.test> SMTPUTF8", "501");
    client.expect("EHLO app\u{9b}.test", "501");
    assert_eq!(recipients(&relay), 0);
}

#[test]
fn bytes_that_are_not_utf8_are_refused_in_commands_and_kept_in_content() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    client.write(b"MAIL FROM:<caf\xe9@app.test>\r\n").unwrap();
    assert_eq!(client.reply().unwrap().code, 500);
    begin(&mut client);
    client.expect("DATA", "354");
    client.write(b"Subject: caf\xe9 \xff\r\n\r\ncaf\xe9 \xc3\x28\r\n.\r\n").unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    let message = &mx.wait_for_messages(1, SOON)[0];
    assert!(message.content.ends_with(b"\r\nSubject: caf\xe9 \xff\r\n\r\ncaf\xe9 \xc3\x28\r\n"));
}

#[test]
fn eight_bits_without_8bitmime_are_taken_and_marked() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    let content = "Subject: plain\r\n\r\nB\u{fc}cher\r\n".as_bytes();
    let reply = client.transact(SENDER, "", &[RECIPIENT], content).unwrap();
    assert_eq!(reply.code, 250);
    let message = &mx.wait_for_messages(1, SOON)[0];
    assert!(message.mail.ends_with(" BODY=8BITMIME"), "{}", message.mail);
    assert!(message.content.ends_with(content));
}

// ---- open-relay tricks ----------------------------------------------------------------------------

/// Each is a way to write a recipient; the last ones are our own names, as [aliases] has them.
const PATHS: &[&str] = &[
    "<victim@b.test>",
    "<@relay.test:victim@b.test>",
    "<@a.test,@relay.test:victim@b.test>",
    "<victim%b.test@relay.test>",
    "<victim%b.test>",
    "<b.test!victim>",
    "<b.test!victim@relay.test>",
    "<victim@b.test@relay.test>",
    "<relay.test@victim@b.test>",
    "<\"victim@b.test\">",
    "<\"victim@b.test\"@relay.test>",
    "<victim@\"b.test\">",
    "<root@b.test>",
    "<root@relay.test.b.test>",
    "<root%b.test@relay.test>",
    "<root@b.test>@relay.test",
    "<root@relay.test@b.test>",
    "<@relay.test:root@b.test>",
    "<@b.test:victim@relay.test>",
    "<root\u{ff20}b.test>",
    "<victim@b\u{3002}test>",
    "<victim@b\u{ff0e}test>",
    "<victim@[127.0.0.1]>",
    "<victim@[IPv6:::1]>",
    "<victim@relay.test:25>",
    "<postmaster@b.test>",
    "<>",
    "<@>",
    "<root >",
    "< root>",
    "victim@b.test",
    "root",
    "<victim@b.test",
    "victim@b.test>",
    "<<victim@b.test>>",
    "\"root\" <victim@b.test>",
    "<root> <victim@b.test>",
    "<root>,<victim@b.test>",
    "(root) <victim@b.test>",
    "<root>",
    "<postmaster>",
    "<root@relay.test>",
    "<@b.test:root@relay.test>",
];

/// On every kind of listener, with and without `auth = "optional"`, one command at a time and all in one write.
#[test]
fn a_stranger_reaches_nobody_on_any_listener() {
    let address = || SocketAddr::from(([127, 0, 0, 1], crate::harness::relay::free_port()));
    let (starttls, off) = (address(), address());
    let optional = |address: SocketAddr, tls: &str| {
        format!("address = \"{address}\"\ntls = \"{tls}\"\nauth = \"optional\"\ntrusted = [\"192.0.2.0/24\"]")
    };
    let config = Config::new()
        .listener(&optional(starttls, "starttls"))
        .listener(&optional(off, "off"))
        .set("aliases.root", "[\"ops@a.test\"]")
        .set("aliases.postmaster", "[\"ops@a.test\"]")
        .set("limits.errors", "1000");
    let relay = World::new().relay(config);
    for address in [starttls, off, relay.starttls] {
        let mut client =
            crate::harness::relay::wait_for("the listener", SOON, || Client::connect(address).ok());
        client.expect("EHLO stranger.test", "250");
        for mail in ["MAIL FROM:<>", "MAIL FROM:<me@app.test>", "MAIL FROM:<me@app.test> RET=HDRS ENVID=x"] {
            client.expect(mail, "530 5.7.0");
        }
        for path in PATHS {
            let reply = client.say(&format!("RCPT TO:{path}")).unwrap();
            assert!(matches!(reply.code, 501 | 503), "{path}: {} {}", reply.code, reply.text);
            let all = format!(
                "MAIL FROM:<me@app.test>\r\nRCPT TO:{path} NOTIFY=SUCCESS\r\nBDAT 9 LAST\r\nSubject:\nRSET\r\n"
            );
            client.write(all.as_bytes()).unwrap();
            let codes = [(); 4].map(|()| client.reply().unwrap().code);
            assert!(matches!(codes, [530, 501 | 503, 503, 250]), "{path}: {codes:?}");
        }
        client.expect("DATA", "503");
    }
    let mut tls = shake_hands(&relay, TcpStream::connect(relay.implicit).unwrap());
    assert!(line(&mut tls).starts_with("220 "));
    tls.write_all(b"HELO stranger.test\r\nMAIL FROM:<>\r\nRCPT TO:<root>\r\n").unwrap();
    let replies = [(); 3].map(|()| line(&mut tls));
    assert!(replies[1].starts_with("530 5.7.0 ") && replies[2].starts_with("503 "), "{replies:?}");
    assert_eq!(recipients(&relay), 0);
}

#[test]
fn a_local_part_is_never_read_as_a_route() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let to = ["victim%b.test@a.test", "b.test!victim@a.test", "\"victim@b.test\"@a.test"];
    relay.submit(SENDER, &to, &mail("routes"));
    let mut rcpts = mx.wait_for_messages(1, SOON)[0].rcpts.clone();
    rcpts.sort();
    let mut expected = to.map(|to| format!("RCPT TO:<{to}>"));
    expected.sort();
    assert_eq!(rcpts, expected);
}

// ---- mail that goes round in circles --------------------------------------------------------------------

#[test]
fn a_message_that_has_been_everywhere_is_554_5_4_6() {
    let relay = World::new().relay(Config::new());
    let mut client = relay.client();
    let hops =
        |count: usize| [b"Received: from a by b\r\n".repeat(count), b"Subject: x\r\n\r\n".to_vec()].concat();
    let reply = client.transact(SENDER, "", &[RECIPIENT], &hops(51)).unwrap();
    assert_eq!((reply.code, &reply.text[..6]), (554, "5.4.6 "));
    client.submit(SENDER, &[RECIPIENT], &hops(50));
}

/// A slip in the config, which the operator can mend: nothing goes round, and nothing comes back for it.
#[test]
fn mail_whose_route_leads_to_this_relay_itself_waits() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    relay.stop();
    let (ip, port) = (relay.clear.ip(), relay.clear.port());
    let route = format!("domain = \"loop.test\"\nrelay = [\"[{ip}]:{port}\"]\ntls = \"off\"");
    relay.write_config(&relay.config().route(&route));
    relay.start_again();
    relay.submit(SENDER, &["you@loop.test"], &mail("round and round"));
    relay.wait_until("a try", SOON, |db| (db.attempts("you@loop.test", "deferred") == 1).then_some(()));
    let db = relay.db();
    assert_eq!(db.rows("SELECT code || ' ' || enhanced FROM attempts", []), ["451 4.4.4"], "{}", db.dump());
    assert_eq!(db.number("SELECT count(*) FROM messages", []), 1, "{}", db.dump());
}

// ---- hosts that misbehave while they are told off -------------------------------------------------------

/// Not the client's but the next host's: what it says is quoted, and must not write lines of its own.
#[test]
fn a_reply_full_of_control_bytes_cannot_write_into_the_bounce() {
    let mut world = World::new();
    let sender = world.host("app.test", Script::new());
    let _mx = world.host(
        "a.test",
        Script::new().on(
            At::Rcpt("you@"),
            Act::Raw(b"550 5.1.1 no\rBcc: evil@app.test\x1b[2J\0 caf\xe9\r\n".to_vec()),
        ),
    );
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &[RECIPIENT], &mail("quoted"));
    let bounce = &sender.wait_for_messages(1, SOON)[0];
    let text = String::from_utf8_lossy(&bounce.content);
    assert!(!text.contains(['\x1b', '\0']) && !text.contains("\nBcc:"), "{text}");
}
