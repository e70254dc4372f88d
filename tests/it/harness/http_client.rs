//! A client of `[metrics] listen`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, free_port, wait_for};

/// For a listener of `[metrics]`.
pub fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A config with such listeners.
pub fn watched(config: Config, listen: &[SocketAddr]) -> Config {
    let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
    config.set("metrics.listen", format!("{listen:?}"))
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The fields, each with its line end.
    pub head: String,
    pub body: String,
}

/// GET of a path; panics where there is no answer.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    get_with(address, path, "")
}

/// The same with more fields, each with its line end.
pub fn get_with(address: SocketAddr, path: &str, fields: &str) -> Answer {
    // A relay that starts listens for mail a moment before it listens here.
    wait_for(&format!("an answer from {address}{path}"), SOON, || match ask(address, path, fields) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        answer => Some(answer.unwrap_or_else(|error| panic!("{address}{path}: {error}"))),
    })
}

/// As [`get`]; an error where nobody answers.
pub fn try_get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    ask(address, path, "")
}

fn ask(address: SocketAddr, path: &str, fields: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head: format!("{fields}\r\n"), body: body.to_owned() })
}
