//! What goes over the wire whatever the command: the length of reply lines, and the protocol that TLS is for.

use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::config::ListenTls;
use crate::mail::Domain;
use crate::submission::tests::client::{Player, tls_client};
use crate::submission::tests::doubles::{MemoryQueue, settings, start};

/// RFC 5321 §4.5.3.1.5, with the CR LF.
const REPLY_LINE_BYTES_MAX: usize = 512;

/// All lines of a reply.
fn lines(player: &mut Player) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = player.line().expect("a reply");
        let last = line.as_bytes().get(3) == Some(&b' ');
        lines.push(line);
        if last {
            return lines;
        }
    }
}

#[test]
fn no_reply_line_is_longer_than_512_octets_whatever_the_client_says() {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = settings(certificates.path());
    settings.listen[0].tls = ListenTls::Off;
    settings.listen[0].trusted = vec!["127.0.0.0/8".parse().unwrap()];
    settings.limits.errors = 100;
    let label = "l".repeat(63);
    settings.hostname = Domain::parse(&[&*label, &label, &label, &"l".repeat(62)].join(".")).unwrap();
    let longest = format!("{}@{label}.{label}.{label}.{}", "u".repeat(64), "l".repeat(61));
    let members = ["a", "b"].map(|end| crate::mail::address::parse(&format!("{longest}{end}")).unwrap());
    settings.aliases.insert("long".to_owned(), members.to_vec());
    settings.aliases.insert("one".to_owned(), members[..1].to_vec());
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    let mut player = Player::connect(submission.addresses()[0]);
    let is_short = |said: &[String], command: &str| {
        for line in said {
            assert!(line.len() + 2 <= REPLY_LINE_BYTES_MAX, "{command:.20}: {} octets", line.len() + 2);
        }
    };
    is_short(&lines(&mut player), "greeting");
    let name = "n".repeat(255);
    let long = "x".repeat(490);
    let commands = [
        format!("HELO {name}"),
        format!("EHLO {}", "\u{20ac}".repeat(85)),
        format!("MAIL FROM:<a@b.example> {}", "K".repeat(1900)),
        format!("MAIL FROM:<a@b.example> {}=1", "K".repeat(1900)),
        format!("ETRN {}", "e".repeat(490)),
        format!("ETRN @{label}.{label}.{label}.{}", "l".repeat(60)),
        "ETRN #unheard-of".to_owned(),
        "EXPN long".to_owned(),
        "VRFY one".to_owned(),
        format!("VRFY {long}"),
        "HELP".to_owned(),
        "HELP MAIL".to_owned(),
        format!("HELP {long}"),
        format!("NOOP {long}"),
        format!("XADR {long}"),
        long.clone(),
        "MAIL FROM:<a@b.example>".to_owned(),
        "RCPT TO:<one>".to_owned(),
        format!("RCPT TO:<a@b.example> {}", "P".repeat(1900)),
    ];
    for command in &commands {
        player.send(format!("{command}\r\n").as_bytes());
        is_short(&lines(&mut player), command);
    }
}

#[test]
fn ehlo_is_a_line_and_then_extensions_however_long_the_name() {
    let certificates = tempfile::tempdir().unwrap();
    let settings = settings(certificates.path());
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    let mut player = Player::connect(submission.addresses()[0]);
    player.reply();
    player.send(format!("EHLO {}\r\n", "n".repeat(255)).as_bytes());
    assert_eq!(lines(&mut player)[1], "250-PIPELINING");
}

/// ALPACA: who names another protocol thought that he speaks to another server.
#[test]
fn a_client_that_names_another_protocol_gets_no_handshake() {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = settings(certificates.path());
    settings.listen[0].tls = ListenTls::Implicit;
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    let address = submission.addresses()[0];
    for (named, taken) in [
        (&[][..], true),
        (&["smtp"], true),
        (&["http/1.1", "smtp"], true),
        (&["http/1.1"], false),
        (&["h2", "http/1.1"], false),
        (&["imap"], false),
        (&["SMTP"], false),
    ] {
        let mut config = (*tls_client(certificates.path())).clone();
        config.alpn_protocols = named.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("relay.example").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        let mut outcome = Ok(());
        while tls.is_handshaking() && outcome.is_ok() {
            outcome = tls.complete_io(&mut tcp).map(|_| ());
        }
        assert_eq!(outcome.is_ok(), taken, "{named:?}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains("NoApplicationProtocol"), "{named:?}: {error}");
        }
    }
}
