//! The server over real sockets: what is answered, who is kept out, and that nobody who is slow is in the way.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::config::SocketAccess;

const SOON: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef";

fn settings(listen: &[&str]) -> MetricsSettings {
    let address = |text: &&str| match text.strip_prefix("unix:") {
        Some(path) => ListenAddress::Unix(path.into()),
        None => ListenAddress::Ip(text.parse().unwrap()),
    };
    MetricsSettings {
        listen: listen.iter().map(address).collect(),
        access: SocketAccess { mode: 0o600, group: None },
        token_file: None,
    }
}

/// `/slow` takes until `go` is dropped.
fn server(settings: &MetricsSettings) -> (Server, crossbeam_channel::Sender<()>) {
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let answer = move |request: &Request| {
        if request.path == "/slow" {
            let _ = wait.recv();
        }
        match request.path.as_str() {
            "/panic" => panic!("as asked"),
            "/large" => Response::text(Status::Ok, "x".repeat(8 << 20)),
            path => Response::text(Status::Ok, path.to_owned()),
        }
    };
    let server = Server::new(Box::new(answer), Clock::system());
    server.reload(settings).unwrap();
    (server, go)
}

fn first(server: &Server) -> SocketAddr {
    server.listening_at().iter().find_map(ListenAddress::ip).unwrap()
}

fn asked(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    asked(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn get_and_head_are_answered_and_nothing_else() {
    let (server, _go) = server(&settings(&["127.0.0.1:0"]));
    let address = first(&server);
    assert!(get(address, "/a?b=c").ends_with("\r\n\r\n/a"));
    let head = asked(address, "HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(
        status(&head) == "200" && head.contains("Content-Length: 2\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI"] {
        let answer = asked(
            address,
            &format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"),
        );
        assert!(
            status(&answer) == "405" && answer.contains("\r\nAllow: GET, HEAD\r\n"),
            "{method}: {answer}"
        );
    }
    assert_eq!(status(&asked(address, "EHLO me\r\n\r\n")), "400");
    assert_eq!(status(&asked(address, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")), "421");
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    // It may be cut off before it has all been sent.
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(huge.as_bytes());
    let mut answer = [0; 12];
    assert!(stream.read_exact(&mut answer).is_err() || &answer == b"HTTP/1.1 431");
    // A panic ends one connection.
    let _ = std::panic::catch_unwind(|| get(address, "/panic"));
    assert_eq!(status(&get(address, "/a")), "200");
    server.stop();
}

#[test]
fn slow_and_silent_clients_keep_nobody_out_and_hold_up_no_end() {
    let (server, go) = server(&settings(&["127.0.0.1:0"]));
    let address = first(&server);
    let mut slow: Vec<TcpStream> = Vec::new();
    for at in 0..3 * connections::CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).unwrap();
        match at % 3 {
            // Silent from the start, within the header, or deaf to the answer.
            0 => {}
            1 => stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap(),
            _ => stream.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(),
        }
        slow.push(stream);
    }
    let began = Instant::now();
    assert_eq!(status(&get(address, "/quick")), "200");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "before any of them is out of time: {:?}",
        began.elapsed()
    );
    // One whose end is only half closed is answered.
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("/half"), "{answer}");
    // With all of them at work a newcomer is told so.
    let mut busy: Vec<TcpStream> = Vec::new();
    let sent_away = (0..2 * connections::CONNECTIONS_MAX).find_map(|_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = stream.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = [0; 12];
        let found = stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 503";
        busy.push(stream);
        found.then_some(())
    });
    assert!(sent_away.is_some());
    // And who is at work holds up no end.
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(TcpStream::connect(address).is_err());
    drop(go);
}

#[test]
fn a_client_that_drips_is_out_of_time() {
    let (server, _go) = server(&settings(&["127.0.0.1:0"]));
    let mut stream = TcpStream::connect(first(&server)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let began = Instant::now();
    let mut answer = [0; 12];
    stream.write_all(b"GET / HTTP/1.1\r\nA: ").unwrap();
    // A byte now and then, for as long as it is listened to.
    while stream.read_exact(&mut answer).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        assert!(began.elapsed() < SOON, "it goes on");
        let _ = stream.write_all(b"x");
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    server.stop();
}

fn through(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: any.test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn listeners_open_close_and_move_with_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    let unix = |path: &Path| format!("unix:{}", path.display());
    let (server, _go) = server(&settings(&["127.0.0.1:0", &unix(&one)]));
    let address = first(&server);
    assert_eq!(status(&through(&one).unwrap()), "200");
    let stays = settings(&["127.0.0.1:0", &unix(&other)]);
    server.reload(&stays).unwrap();
    assert!(first(&server) == address && !one.exists() && through(&other).is_ok(), "it stays, it moves");
    // Other rights of the same path are another socket.
    let mut wider = stays.clone();
    wider.access.mode = 0o666;
    server.reload(&wider).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&other).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o666);
    // What cannot be had leaves all as it was.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let error = server.reload(&settings(&[&unix(&one), &port.to_string()])).unwrap_err().to_string();
    assert!(error.starts_with(&format!("metrics.listen {port}: ")), "{error}");
    assert!(!one.exists() && status(&through(&other).unwrap()) == "200");
    assert_eq!(status(&get(first(&server), "/")), "200");
    // A token is asked for from then on, at addresses alone; one that is not there changes nothing.
    let token = folder.path().join("token");
    let guarded = MetricsSettings { token_file: Some(token.clone()), ..wider.clone() };
    assert!(matches!(server.reload(&guarded), Err(StartError::Token(_))));
    assert_eq!(status(&get(first(&server), "/")), "200");
    std::fs::write(&token, TOKEN).unwrap();
    server.reload(&guarded).unwrap();
    assert_eq!(status(&get(first(&server), "/")), "401");
    let bearer = format!("GET / HTTP/1.1\r\nHost: any.test\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    assert_eq!(status(&asked(first(&server), &bearer)), "200");
    assert_eq!(status(&through(&other).unwrap()), "200");
    server.reload(&settings(&[])).unwrap();
    assert!(server.listening_at().is_empty() && !other.exists());
}
