//! Input that is too much, or comes too slowly: what a client may use up of the relay, and what it is told at the end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::abuse::{RECIPIENT, begin, recipients, shake_hands};
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, World, wait_for};
use crate::harness::sender::SENDER;

// ---- too much ---------------------------------------------------------------------------------------

#[test]
fn long_lines_are_refused_and_endless_ones_end_the_session() {
    let relay = World::new().relay(Config::new());
    let mut client = relay.client();
    for length in [2 << 10, 12_287, 16 << 10, 64 << 10] {
        for head in ["NOOP ", "MAIL FROM:<", ""] {
            client.expect(&format!("{head}{}", "x".repeat(length)), "500");
            client.expect("NOOP", "250 2.0.0 Ok");
            if head.is_empty() {
                client = relay.client(); // ten errors are the end of a session
            }
        }
    }
    let start = Instant::now();
    let endless = [b'x'; 64 << 10];
    let mut sent = 0;
    while client.write(&endless).is_ok() {
        sent += endless.len();
        assert!(sent < 64 << 20, "it goes on reading");
    }
    assert!(start.elapsed() < SOON);
    assert_eq!(client.reply().map(|reply| reply.code).unwrap_or(421), 421);
    // In content any line is fine.
    relay.submit(SENDER, &[RECIPIENT], &[b"Subject: x\r\n\r\n", &[b'x'; 100_000][..], b"\r\n"].concat());
}

/// TLS itself allows 16 MB for the first message of a handshake.
#[test]
fn a_handshake_without_end_is_cut_off() {
    let relay = World::new().relay(Config::new());
    let mut stream = TcpStream::connect(relay.implicit).unwrap();
    // Records of a ClientHello (type 1) that says it has 0xffffff bytes.
    let record = |begin: &[u8]| {
        let mut body = begin.to_vec();
        body.resize(16_384, 0);
        [&[0x16, 3, 1, 0x40, 0][..], &body].concat()
    };
    let mut sent = 0;
    while sent < 4 << 20
        && stream.write_all(&record(if sent == 0 { &[1, 0xff, 0xff, 0xff] } else { &[] })).is_ok()
    {
        sent += 16_384;
    }
    assert!(sent < 4 << 20, "it goes on reading");
    wait_for("the line of it", SOON, || relay.logged(&["TLS handshake failed"]).into_iter().next());
}

#[test]
fn ten_thousand_recipients_are_452_from_the_limit_on() {
    let relay = World::new().relay(Config::new());
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    let mut taken = 0;
    for hundred in 0..100 {
        let lines: String =
            (0..100).map(|n| format!("RCPT TO:<r{}@a.test>\r\n", hundred * 100 + n)).collect();
        client.write(lines.as_bytes()).unwrap();
        for _ in 0..100 {
            let reply = client.reply().unwrap();
            match reply.code {
                250 => taken += 1,
                _ => assert_eq!((reply.code, &reply.text[..6]), (452, "4.5.3 ")),
            }
        }
    }
    assert_eq!(taken, 1000);
    client.expect("DATA", "354");
    client.write(b"Subject: many\r\n\r\n.\r\n").unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    assert_eq!(recipients(&relay), 1000);
}

#[test]
fn headers_without_end_are_552_and_the_session_goes_on() {
    let relay = World::new().relay(Config::new());
    let mut client = relay.client();
    let many = b"X-Field: and another of these fields\r\n".repeat(40_000);
    let one = [b"Subject: ".to_vec(), vec![b'x'; 1_500_000]].concat();
    let folded = [b"Subject: x\r\n".to_vec(), b" and on it goes\r\n".repeat(80_000)].concat();
    for header in [&many, &one, &folded] {
        begin(&mut client);
        client.expect("DATA", "354");
        client.write(header).unwrap();
        client.write(b"\r\n.\r\n").unwrap();
        let reply = client.reply().unwrap();
        assert_eq!((reply.code, &reply.text[..6]), (552, "5.3.4 "));
        begin(&mut client);
        client.write(format!("BDAT {} LAST\r\n", header.len()).as_bytes()).unwrap();
        client.write(header).unwrap();
        assert_eq!(client.reply().unwrap().code, 552);
    }
    client.expect("NOOP", "250");
    assert_eq!(recipients(&relay), 0);
}

#[test]
fn a_thousand_idle_sessions_are_held_and_the_next_client_gets_421_at_once() {
    // Both ends are here and there.
    rlimit::increase_nofile_limit(4096).unwrap();
    let config = Config::new().set("limits.sessions", "1000").set("limits.sessions_per_client", "1000");
    let relay = World::new().relay(config);
    // The harness's own first connections have to be gone.
    let mut idle = Vec::new();
    let start = Instant::now();
    while idle.len() < 1000 {
        match Client::connect(relay.clear) {
            Ok(client) => idle.push(client),
            Err(error) => assert!(start.elapsed() < SOON, "{} sessions, then {error}", idle.len()),
        }
    }
    let start = Instant::now();
    let refused = Client::connect(relay.clear).err().expect("one too many").to_string();
    assert!(refused.starts_with("421 4.3.2 "), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for client in idle.iter_mut().step_by(100) {
        client.expect("EHLO app.test", "250");
    }
    drop(idle);
    wait_for("room for one more", SOON, || Client::connect(relay.clear).ok());
}

// ---- too slow -----------------------------------------------------------------------------------------

/// Limits on time that a test can wait for.
const SHORT: &str = "\"1s\"";

/// Sends `bytes` one by one until the relay has had enough; how long that took.
fn drip(mut stream: &TcpStream, bytes: impl Iterator<Item = u8>) -> Duration {
    let start = Instant::now();
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        // The pace is the point here. Each byte comes well within the idle time-out.
        std::thread::sleep(Duration::from_millis(50));
        assert!(start.elapsed() < SOON, "it has endless patience");
    }
    start.elapsed()
}

#[test]
fn a_byte_now_and_then_keeps_no_session_in_a_command_in_content_in_a_chunk_or_under_tls() {
    let relay = World::new().relay(Config::new().set("limits.idle_timeout", SHORT));
    let forever = || std::iter::repeat(b'x');
    std::thread::scope(|scope| {
        scope.spawn(|| drip(relay.client().stream(), forever()));
        scope.spawn(|| {
            let mut client = relay.client();
            begin(&mut client);
            client.expect("DATA", "354");
            drip(client.stream(), forever());
        });
        scope.spawn(|| {
            let mut client = relay.client();
            begin(&mut client);
            client.write(b"BDAT 100000 LAST\r\n").unwrap();
            drip(client.stream(), forever());
        });
        // The client's hello, and then its record, in drips.
        scope.spawn(|| {
            let stream = TcpStream::connect(relay.implicit).unwrap();
            drip(&stream, [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(forever()));
        });
        scope.spawn(|| {
            let mut tls = shake_hands(&relay, TcpStream::connect(relay.implicit).unwrap());
            tls.conn.writer().write_all(&b"NOOP\r\n".repeat(400)).unwrap();
            let mut record = Vec::new();
            tls.conn.write_tls(&mut record).unwrap();
            drip(&tls.sock, record.into_iter());
        });
    });
    assert_eq!(recipients(&relay), 0);
}

#[test]
fn a_session_has_an_end_whatever_its_client_does() {
    let relay = World::new().relay(Config::new().set("limits.session_timeout", SHORT));
    let mut client = relay.client();
    let start = Instant::now();
    let last = loop {
        let reply = client.say("NOOP").unwrap();
        if reply.code != 250 {
            break reply;
        }
        assert!(start.elapsed() < SOON, "it has endless patience");
    };
    assert_eq!((last.code, &last.text[..6]), (421, "4.4.2 "));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let relay =
        World::new().relay(Config::new().set("limits.idle_timeout", SHORT).set("limits.sessions", "1"));
    let mut stream = wait_for("a place", SOON, || {
        let mut stream = TcpStream::connect(relay.clear).ok()?;
        let mut code = [0; 3];
        stream.read_exact(&mut code).ok()?;
        (&code == b"220").then_some(stream)
    });
    stream.set_write_timeout(Some(SOON)).unwrap();
    let start = Instant::now();
    let commands = b"HELP\r\n".repeat(10_000);
    while stream.write_all(&commands).is_ok() {}
    assert!(start.elapsed() < SOON, "nobody ended it");
    wait_for("its place", SOON, || Client::connect(relay.clear).ok());
}
