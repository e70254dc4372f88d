//! A client that submits within TLS: some extensions are offered to nobody else.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use crate::harness::client::{self, on_the_wire};
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Relay, USER};
use crate::harness::sender::SENDER;

/// A session in TLS from the first byte, logged in.
pub struct TlsClient {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// As the user of the tests.
    pub fn log_in(relay: &Relay) -> TlsClient {
        let mut client = TlsClient::connect(relay, relay.implicit);
        client.expect(&client::auth_plain(USER), "235");
        client
    }

    /// After EHLO, and without a login.
    pub fn connect(relay: &Relay, address: SocketAddr) -> TlsClient {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut client = TlsClient { stream: BufReader::new(StreamOwned::new(client::tls(relay), stream)) };
        client.reply();
        client.expect("EHLO app.test", "250");
        client
    }

    /// The next reply.
    pub fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the relay hung up: {text}");
            text.push_str(&line);
            if line.as_bytes()[3] == b' ' {
                return text;
            }
        }
    }

    /// Says this, and gives the reply, which begins so.
    pub fn expect(&mut self, line: &str, start: &str) -> String {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let reply = self.reply();
        assert!(reply.starts_with(start), "{line}: {reply}");
        reply
    }

    /// Submits with these parameters of MAIL.
    pub fn submit(&mut self, parameters: &str, to: &str, content: &[u8]) {
        self.expect(&format!("MAIL FROM:<{SENDER}> {parameters}"), "250");
        self.expect(&format!("RCPT TO:<{to}>"), "250");
        self.expect("DATA", "354");
        self.stream.get_mut().write_all(&on_the_wire(content)).unwrap();
        let reply = self.reply();
        assert!(reply.starts_with("250"), "{reply}");
    }
}
