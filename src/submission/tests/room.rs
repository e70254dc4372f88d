//! The room as a whole over loopback sockets: limits, stopping, reloading, hostile clients, a real client.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::config::{ListenAddress, ListenSettings, ListenTls, SubmissionSettings};
use crate::mail::address;
use crate::submission::session::service::Service;
use crate::submission::tests::client::{Player, tls_client};
use crate::submission::tests::doubles::{MemoryQueue, ports, settings, start, verify};
use crate::submission::{StartError, Submission};

/// Trusted, in the clear.
fn open_settings(certificates: &tempfile::TempDir) -> SubmissionSettings {
    let mut settings = settings(certificates.path());
    settings.listen[0].tls = ListenTls::Off;
    settings.listen[0].trusted = vec!["127.0.0.0/8".parse().unwrap()];
    settings
}

struct Room {
    queue: Arc<MemoryQueue>,
    submission: Submission,
    settings: SubmissionSettings,
    certificates: tempfile::TempDir,
}

fn room(change: impl FnOnce(&mut SubmissionSettings)) -> Room {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = open_settings(&certificates);
    change(&mut settings);
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    Room { queue, submission, settings, certificates }
}

impl Room {
    fn player(&self) -> Player {
        Player::connect(self.submission.addresses()[0])
    }

    fn greeted(&self) -> Player {
        let mut player = self.player();
        assert!(player.reply().starts_with("220 "));
        player
    }

    /// A client that may send content now.
    fn at_data(&self) -> Player {
        let mut player = self.greeted();
        player.command("EHLO client.example");
        player.command("MAIL FROM:<a@client.example>");
        player.command("RCPT TO:<b@example.net>");
        assert!(player.command("DATA").starts_with("354 "));
        player
    }

    /// Sessions end a moment after their connections.
    fn wait_for_sessions(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.submission.sessions() != count {
            assert!(Instant::now() < deadline, "{} sessions", self.submission.sessions());
            thread::yield_now();
        }
    }
}

#[test]
fn a_client_beyond_the_limits_gets_421_at_once() {
    let room = room(|settings| settings.limits.sessions = 2);
    let mut first = room.greeted();
    let second = room.greeted();
    assert_eq!(room.player().reply(), "421 4.3.2 Too many sessions, try again later");
    drop(second);
    room.wait_for_sessions(1);
    room.greeted();
    assert!(first.command("NOOP").starts_with("250 "));
}

#[test]
fn a_client_beyond_its_own_limit_gets_421_at_once() {
    let room = room(|settings| settings.limits.sessions_per_client = 1);
    let _first = room.greeted();
    assert_eq!(room.player().reply(), "421 4.3.2 Too many sessions from your address, try again later");
}

#[test]
fn stopping_ends_silent_sessions_and_lets_a_message_finish() {
    let room = Arc::new(room(|_| ()));
    let mut idle = room.greeted();
    idle.command("EHLO client.example");
    let mut within = room.greeted();
    within.command("EHLO client.example");
    within.command("MAIL FROM:<a@b>");
    let mut busy = room.at_data();
    let stopper = Arc::clone(&room);
    let stop = thread::spawn(move || stopper.submission.stop(Duration::from_secs(20)));
    assert_eq!(idle.reply(), "421 4.3.2 Service shutting down, try again later");
    assert_eq!(idle.line(), None);
    assert_eq!(within.reply(), "421 4.3.2 Service shutting down, try again later");
    assert_eq!(within.line(), None);
    busy.send(b"Subject: last\r\n\r\nbody\r\n.\r\n");
    assert!(busy.reply().starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(busy.reply(), "421 4.3.2 Service shutting down, try again later");
    drop(busy);
    assert_eq!(stop.join().unwrap(), 0);
    assert_eq!(room.queue.accepted.lock().unwrap().len(), 1);
    assert!(room.submission.addresses().is_empty());
}

#[test]
fn content_that_does_not_end_in_time_gets_421_and_is_not_queued() {
    let room = room(|_| ());
    let mut stuck = room.at_data();
    stuck.send(b"Subject: half\r\n");
    let mut active = room.at_data();
    let sending = active.sender();
    let stopped = Arc::new(AtomicBool::new(false));
    let (still, times) = (Arc::clone(&stopped), 2000);
    let sender = thread::spawn(move || {
        // Until the relay has ended, or 20 s are over.
        for _ in (0..times).take_while(|_| !still.load(Ordering::SeqCst)) {
            if (&sending).write_all(b"and so on\r\n").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(room.submission.stop(Duration::from_millis(50)), 0, "all heard of it");
    stopped.store(true, Ordering::SeqCst);
    assert_eq!(room.submission.sessions(), 0);
    for client in [&mut stuck, &mut active] {
        assert_eq!(client.reply(), "421 4.3.2 Service shutting down, try again later");
    }
    sender.join().unwrap();
    assert!(room.queue.accepted.lock().unwrap().is_empty());
}

#[test]
fn a_reload_holds_for_new_sessions_but_who_is_trusted_for_all() {
    let room = room(|_| ());
    let mut old = room.greeted();
    let mut changed = room.settings.clone();
    changed.limits.message_size = 4711;
    changed.aliases.insert("new".to_owned(), vec![address::parse("new@example.com").unwrap()]);
    changed.listen.push(changed.listen[0].clone());
    room.submission.reload_with(&changed, Box::new(verify)).unwrap();
    old.command("EHLO client.example");
    assert!(old.command("MAIL FROM:<a@b> SIZE=4712").starts_with("250 "));
    let mut new = room.greeted();
    new.command("EHLO client.example");
    assert!(new.command("MAIL FROM:<a@b> SIZE=4712").starts_with("552 "));
    assert!(old.command("RSET").starts_with("250 "));
    // The added listener listens, and closing it again closes it.
    let addresses = room.submission.addresses();
    assert_eq!(addresses.len(), 2);
    let mut added = Player::connect(addresses[1]);
    assert!(added.reply().starts_with("220 "));
    added.command("EHLO client.example");
    let mut distrusted = room.settings.clone();
    distrusted.listen[0].trusted.clear();
    room.submission.reload_with(&distrusted, Box::new(verify)).unwrap();
    assert_eq!(room.submission.addresses(), addresses[..1]);
    assert!(std::net::TcpStream::connect(addresses[1]).is_err());
    for mut client in [old, new, added] {
        assert!(client.command("MAIL FROM:<a@b>").starts_with("530 "));
    }
}

#[test]
fn a_bad_reload_changes_nothing() {
    let room = room(|_| ());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut changed = room.settings.clone();
    changed.limits.message_size = 4711;
    let mut listen = changed.listen[0].clone();
    listen.address = taken.local_addr().unwrap().into();
    changed.listen.push(listen);
    let error = room.submission.reload_with(&changed, Box::new(verify)).unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains("another program listens there"), "{error}");
    let mut player = room.greeted();
    player.command("EHLO client.example");
    assert!(player.command("MAIL FROM:<a@b> SIZE=4712").starts_with("250 "));
}

/// Who is at the other end of a connection to the port, by each family; none: nobody takes it.
fn families_at(port: u16) -> [bool; 2] {
    let greets = |ip: &str| {
        let connected = std::net::TcpStream::connect((ip, port));
        connected
            .is_ok_and(|stream| std::io::Read::read(&mut &stream, &mut [0; 4]).is_ok_and(|read| read > 0))
    };
    [greets("127.0.0.1"), greets("::1")]
}

/// Every change from one set of addresses at a port to another: what listens afterwards is what a start would have.
#[test]
fn a_reload_listens_where_a_start_would() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        let skipped = b"skipped: submission::tests::room: no IPv6 on loopback\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), skipped);
        return;
    }
    let sets: [(&[&str], [bool; 2]); 6] = [
        (&[], [false, false]),
        (&["[::]"], [true, true]),
        (&["[::]", "0.0.0.0"], [true, true]),
        (&["0.0.0.0", "[::]"], [true, true]),
        (&["127.0.0.1"], [true, false]),
        (&["[::1]", "0.0.0.0"], [true, true]),
    ];
    let room = room(|_| ());
    for (before, _) in sets {
        for (after, expected) in sets {
            let port = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
            let with = |ips: &[&str]| {
                let mut settings = room.settings.clone();
                let one = settings.listen[0].clone();
                let at = ips.iter().map(|ip| ListenAddress::Ip(format!("{ip}:{port}").parse().unwrap()));
                settings.listen.extend(at.map(|address| ListenSettings { address, ..one.clone() }));
                settings
            };
            room.submission.reload_with(&with(before), Box::new(verify)).unwrap();
            let client = (!before.is_empty() && expected[0] && families_at(port)[0])
                .then(|| Player::connect(([127, 0, 0, 1], port).into()));
            room.submission.reload_with(&with(after), Box::new(verify)).unwrap();
            assert_eq!(families_at(port), expected, "{before:?} -> {after:?}");
            assert_eq!(room.submission.addresses().len(), 1 + after.len(), "{before:?} -> {after:?}");
            // A session of a listener whose socket was exchanged goes on, and is trusted as before.
            if let Some(mut client) = client.filter(|_| before == ["[::]"] && after.contains(&"[::]")) {
                assert!(client.reply().starts_with("220 "));
                client.command("EHLO client.example");
                assert!(client.command("MAIL FROM:<a@b>").starts_with("250 "), "{before:?} -> {after:?}");
            }
        }
    }
}

/// Also where a listener had to be closed before the new one could be tried.
#[test]
fn a_reload_that_fails_leaves_what_it_had_closed() {
    let room = room(|_| ());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |addresses: &[std::net::SocketAddr]| {
        let mut settings = room.settings.clone();
        let one = settings.listen[0].clone();
        settings
            .listen
            .extend(addresses.iter().map(|&at| ListenSettings { address: at.into(), ..one.clone() }));
        settings
    };
    room.submission.reload_with(&with(&[free]), Box::new(verify)).unwrap();
    let addresses = room.submission.addresses();
    let wide = ([0, 0, 0, 0], free.port()).into();
    let changed = with(&[wide, taken.local_addr().unwrap()]);
    room.submission.reload_with(&changed, Box::new(verify)).unwrap_err();
    assert_eq!(room.submission.addresses(), addresses);
    let mut player = Player::connect(free);
    assert!(player.reply().starts_with("220 "));
    player.command("EHLO client.example");
    assert!(player.command("MAIL FROM:<a@b>").starts_with("250 "));
    // The two cannot be had together, by a start neither.
    let error = room.submission.reload_with(&with(&[free, wide]), Box::new(verify)).unwrap_err();
    assert!(error.to_string().contains("another [[listen]] takes the connections"), "{error}");
    assert!(Player::connect(free).reply().starts_with("220 "));
}

/// The places of those who make room for others are few.
#[test]
fn who_is_sent_away_and_does_not_read_is_cut_off() {
    let room = room(|settings| {
        settings.limits.sessions = 4;
        settings.limits.idle_timeout = Duration::from_secs(60);
        settings.listen[0].trusted.clear();
        settings.listen[0].auth_required = false;
    });
    let at = room.submission.addresses()[0];
    let mut greedy: Vec<Player> = (0..3).map(|_| Player::connect_from([127, 0, 0, 2], at)).collect();
    // The oldest has to go first. More is answered than the buffers of both ends hold, and none of it is read.
    assert!(greedy[0].reply().starts_with("220 "));
    let socket = greedy[0].sender();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while (&socket).write_all(&b"EHLO a\r\n".repeat(500)).is_ok() {}
    let begin = Instant::now();
    let mut newcomer = Player::connect_from([127, 0, 0, 3], at);
    assert!(newcomer.reply().starts_with("220 "));
    room.wait_for_sessions(3);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    drop((newcomer, greedy, socket));
}

#[test]
fn a_listener_with_tls_needs_a_certificate() {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = settings(certificates.path());
    settings.tls = None;
    let queue = Arc::new(MemoryQueue::default());
    let error = Submission::start_with(&settings, Vec::new(), Box::new(verify), ports(&queue)).err().unwrap();
    assert!(error.to_string().contains("no [tls] certificate"), "{error}");
}

#[test]
fn a_panic_ends_one_session_and_leaves_nothing_behind() {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = open_settings(&certificates);
    settings.limits.sessions = 1;
    let queue = Arc::new(MemoryQueue::default());
    let verify = |_: &str, _: &[u8]| panic!("a verifier that panics");
    let submission = Submission::start_with(&settings, Vec::new(), Box::new(verify), ports(&queue)).unwrap();
    let mut player = Player::connect(submission.addresses()[0]);
    player.reply();
    player.command("EHLO client.example");
    player.send(b"AUTH PLAIN AGEAYg==\r\n");
    assert_eq!(player.line(), None);
    // Its place is free again, though not quite at once.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !Player::connect(submission.addresses()[0]).reply().starts_with("220 ") {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_large_message_goes_to_the_queue_in_chunks_and_arrives_whole() {
    let room = room(|settings| settings.limits.message_size = 10 << 20);
    let mut player = room.at_data();
    let header = "Date: x\r\nMessage-ID: <m>\r\n\r\n";
    let body: String = (0..40_000).map(|n| format!("{n}{}\r\n", ".x".repeat(n % 40))).collect();
    player.send(format!("{header}{body}.\r\n").as_bytes());
    assert!(player.reply().starts_with("250 2.0.0 Ok: queued as "));
    let accepted = room.queue.accepted.lock().unwrap();
    let (message, content) = &accepted[0];
    assert!(message.chunks_before > 4);
    let content = std::str::from_utf8(content).unwrap();
    assert!(
        content
            .starts_with("Received: from client.example ([127.0.0.1])\r\n\tby relay.example with ESMTP id ")
    );
    assert!(content.contains("\r\n\tfor <b@example.net>; "));
    assert!(content.ends_with(&format!(" +0000\r\n{header}{body}")));
}

#[test]
fn a_client_that_vanishes_leaves_no_chunks() {
    let room = room(|_| ());
    let mut player = room.at_data();
    player.send(&b"Subject: vanishing\r\n\r\n".repeat(40_000));
    // Chunks are in the queue before the connection ends.
    let deadline = Instant::now() + Duration::from_secs(10);
    while room.queue.chunk_bytes() < 512 << 10 {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    drop(player);
    room.wait_for_sessions(0);
    assert_eq!(room.queue.chunk_bytes(), 0);
    assert!(room.queue.accepted.lock().unwrap().is_empty());
}

#[test]
fn a_message_that_the_queue_refuses_leaves_no_chunks() {
    let room = room(|_| ());
    let mut player = room.at_data();
    room.queue.failing.store(true, Ordering::SeqCst);
    player.send(&[&b"\r\n"[..], &b"refused\r\n".repeat(60_000), b".\r\n"].concat());
    assert!(player.reply().starts_with("451 4.3.0 "));
    assert_eq!(room.queue.chunk_bytes(), 0);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    use std::io::Write as _;
    let room = room(|settings| settings.limits.idle_timeout = Duration::from_millis(300));
    let mut stream = std::net::TcpStream::connect(room.submission.addresses()[0]).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let commands = b"HELP\r\n".repeat(10_000);
    // Once nobody reads at the other end, writing fails: the session is over.
    while stream.write_all(&commands).is_ok() {}
    room.wait_for_sessions(0);
}

#[test]
fn a_client_that_drips_is_dropped_in_a_command_and_in_content() {
    let room = room(|settings| settings.limits.idle_timeout = Duration::from_millis(500));
    let drip = |mut player: Player| {
        let start = Instant::now();
        // Each byte comes well within the idle time-out, and the whole does not.
        while room.submission.sessions() > 0 && start.elapsed() < Duration::from_secs(10) {
            player.send_quietly(b"x");
            thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    };
    assert!(drip(room.greeted()) < Duration::from_secs(5));
    assert!(drip(room.at_data()) < Duration::from_secs(5));
    assert!(room.queue.accepted.lock().unwrap().is_empty());
}

#[test]
fn many_clients_at_once_are_all_served() {
    let room = room(|_| ());
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let mut player = room.at_data();
                for _ in 0..5 {
                    player.send(b"Subject: one of many\r\n\r\nbody\r\n.\r\n");
                    assert!(player.reply().starts_with("250 "));
                    player.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n");
                    assert!((player.reply() + &player.reply()).starts_with("250 "));
                    assert!(player.reply().starts_with("354 "));
                }
            });
        }
    });
    let mut ids: Vec<_> = room.queue.accepted.lock().unwrap().iter().map(|(m, _)| m.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 150);
}

#[test]
fn a_session_resumes_tls() {
    let room = room(|settings| settings.listen[0].tls = ListenTls::Implicit);
    let config = tls_client(room.certificates.path());
    for connection in 0..2 {
        let mut player = room.player();
        player.start_tls(Arc::clone(&config));
        assert!(player.reply().starts_with("220 "));
        assert!(player.command("QUIT").starts_with("221 "));
        assert_eq!(player.line(), None);
        assert_eq!(player.resumed(), connection > 0);
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_454_and_the_session_goes_on() {
    let room = room(|settings| settings.listen[0].tls = ListenTls::Starttls);
    // What rustls takes as a configuration and then refuses to make a connection with.
    let tls = room.submission.resources.service().tls.clone().unwrap();
    let mut broken = ServerConfig::clone(&tls);
    broken.max_fragment_size = Some(1);
    let service = Service::new(&room.settings, Box::new(verify), 0, None).unwrap();
    let service = Service { tls: Some(Arc::new(broken)), ..service };
    room.submission.resources.set_service(Arc::new(service));
    let mut player = room.greeted();
    player.command("EHLO client.example");
    assert!(player.command("STARTTLS").starts_with("454 4.7.0 "));
    assert!(player.command("MAIL FROM:<a@client.example>").starts_with("250 "), "the EHLO still counts");
}

#[test]
fn lettre_submits_with_starttls_and_auth() {
    use lettre::Transport as _;
    use lettre::transport::smtp::authentication::Credentials;
    use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
    let room = room(|settings| {
        settings.listen[0].tls = ListenTls::Starttls;
        settings.listen[0].trusted.clear();
    });
    let (certificate, _) = crate::submission::wire::tls::self_signed_paths(room.certificates.path());
    let certificate = Certificate::from_pem(&std::fs::read(certificate).unwrap()).unwrap();
    let tls = TlsParameters::builder("relay.example".into()).add_root_certificate(certificate).build_rustls();
    let transport = lettre::SmtpTransport::builder_dangerous("127.0.0.1")
        .port(room.submission.addresses()[0].port())
        .tls(Tls::Required(tls.unwrap()))
        .credentials(Credentials::new("app".into(), "secret".into()))
        .build();
    let message = lettre::Message::builder()
        .from("a@client.example".parse().unwrap())
        .to("b@example.net".parse().unwrap())
        .bcc("c@example.net".parse().unwrap())
        .subject("from lettre")
        .body("hello\n.\nthere\n".to_owned())
        .unwrap();
    transport.send(&message).unwrap();
    let accepted = room.queue.accepted.lock().unwrap();
    let (message, content) = &accepted[0];
    let content = std::str::from_utf8(content).unwrap();
    assert_eq!(message.envelope.recipients.len(), 2);
    assert_eq!(message.origin.user.as_deref(), Some("app"));
    assert!(content.contains(" with ESMTPSA id "), "{content}");
    assert!(!content.contains("c@example.net") && !content.contains("\tfor "), "{content}");
    assert!(content.contains("hello\r\n.\r\nthere\r\n"), "{content}");
}

#[test]
fn chunks_go_to_the_queue_as_they_come_and_a_reset_or_a_lost_client_takes_them_back() {
    let room = room(|settings| settings.limits.message_size = 10 << 20);
    let body = b"0123456789abcdef0123456789abcd\r\n".repeat(20_000);
    let begin = |player: &mut Player| {
        player.command("EHLO client.example");
        player.command("MAIL FROM:<a@client.example>");
        player.command("RCPT TO:<b@example.net>");
        player.send(b"BDAT 30\r\nDate: x\r\nMessage-ID: <m>\r\n\r\n\r\n");
        assert_eq!(player.reply(), "250 2.0.0 30 octets received");
        player.send(format!("BDAT {}\r\n", body.len()).as_bytes());
        player.send(&body);
        assert_eq!(player.reply(), format!("250 2.0.0 {} octets received", body.len()));
    };
    let mut player = room.greeted();
    begin(&mut player);
    assert!(room.queue.chunk_bytes() >= 512 << 10, "a session holds a chunk, not a message");
    assert!(player.command("RSET").starts_with("250 "));
    assert_eq!(room.queue.chunk_bytes(), 0, "after RSET");
    begin(&mut player);
    drop(player);
    room.wait_for_sessions(0);
    assert_eq!(room.queue.chunk_bytes(), 0, "after the client is gone");
    assert!(room.queue.accepted.lock().unwrap().is_empty());
    let mut player = room.greeted();
    begin(&mut player);
    assert!(player.command("BDAT 0 LAST").starts_with("250 2.0.0 Ok: queued as "));
    let accepted = room.queue.accepted.lock().unwrap();
    assert!(accepted[0].1.ends_with(&[b"\r\nDate: x\r\nMessage-ID: <m>\r\n\r\n\r\n", &body[..]].concat()));
}

/// rustls reads on until a record is whole: the deadline has to hold below it.
#[test]
fn a_client_that_drips_within_a_tls_record_is_dropped() {
    use std::io::Write as _;
    let room = room(|settings| {
        settings.listen[0].tls = ListenTls::Implicit;
        settings.limits.idle_timeout = Duration::from_millis(300);
    });
    let mut player = room.player();
    player.start_tls(tls_client(room.certificates.path()));
    assert!(player.reply().starts_with("220 "));
    let (record, mut socket) = player.sealed(&b"NOOP\r\n".repeat(200));
    let start = Instant::now();
    for byte in record {
        if room.submission.sessions() == 0 {
            break;
        }
        let _ = socket.write_all(&[byte]);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_session_ends_after_its_time_whatever_its_client_does() {
    let room = room(|settings| settings.limits.session_timeout = Duration::from_millis(300));
    let mut busy = room.greeted();
    let mut sending = room.at_data();
    let start = Instant::now();
    let last = loop {
        sending.send_quietly(b"a line of content that comes fast enough for the content's own deadline\r\n");
        let reply = busy.command("NOOP");
        if !reply.starts_with("250 ") {
            break reply;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    assert_eq!(last, "421 4.4.2 Your session has lasted long enough, connect again");
    assert_eq!(busy.line(), None);
    while room.submission.sessions() > 0 {
        sending.send_quietly(b"x");
        thread::yield_now();
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(sending.reply(), "421 4.4.2 Your session has lasted long enough, connect again");
    assert!(room.queue.accepted.lock().unwrap().is_empty());
}
