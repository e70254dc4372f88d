//! The load generator: sessions that send one message after another, over one connection each or over a new one
//! for each message.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;

use crate::stream::Stream;

/// Who logs in where TLS is used.
pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "secret pass";
/// SASL PLAIN (RFC 4616) of the two.
const AUTH: &str = "AUTH PLAIN AGFwcABzZWNyZXQgcGFzcw==\r\n";

/// What to send.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
    /// Of a message, its header included.
    pub(crate) bytes: usize,
    /// How many domains take turns as the recipient's.
    pub(crate) domains: usize,
    /// MAIL, RCPT and DATA in one write.
    pub(crate) pipeline: bool,
    /// Connect and QUIT for each message.
    pub(crate) connection_each: bool,
    /// STARTTLS and AUTH first.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Load {
    /// 4 KB to one domain, a connection a session, in the clear.
    pub(crate) fn new(to: SocketAddr, sessions: usize, messages: usize) -> Load {
        let (bytes, domains) = (4096, 1);
        Load { to, sessions, messages, bytes, domains, pipeline: false, connection_each: false, tls: None }
    }

    /// Returns when the last 250 is there.
    pub(crate) fn run(&self) {
        let sent = AtomicUsize::new(0);
        let next = || Some(sent.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.messages);
        let content = content(self.bytes);
        std::thread::scope(|scope| {
            for _ in 0..self.sessions {
                scope.spawn(|| {
                    let mut session = None;
                    while let Some(number) = next() {
                        let open = session.get_or_insert_with(|| Session::open(self));
                        open.send(&recipient(number, self.domains), &content, self.pipeline);
                        if self.connection_each {
                            quit(session.take());
                        }
                    }
                    quit(session);
                });
            }
        });
    }
}

/// The domain of the recipient of that message.
pub(crate) fn domain(number: usize, domains: usize) -> String {
    if domains == 1 { "receiver.test".to_owned() } else { format!("d{}.test", number % domains) }
}

fn recipient(number: usize, domains: usize) -> String {
    format!("RCPT TO:<user@{}>\r\n", domain(number, domains))
}

fn quit(session: Option<Session>) {
    if let Some(mut session) = session {
        session.command("QUIT\r\n", b'2');
    }
}

fn content(bytes: usize) -> Vec<u8> {
    let mut content =
        b"From: <app@sender.test>\r\nTo: <user@receiver.test>\r\nSubject: benchmark\r\n\r\n".to_vec();
    while content.len() < bytes {
        content.extend_from_slice(b"The quick brown fox jumps over the lazy dog, again and again.\r\n");
    }
    content.extend_from_slice(b".\r\n");
    content
}

struct Session {
    reader: BufReader<Stream>,
    line: Vec<u8>,
}

impl Session {
    fn open(load: &Load) -> Session {
        let stream = TcpStream::connect(load.to).expect("connect to the relay");
        stream.set_nodelay(true).expect("nodelay");
        let mut session = Session { reader: BufReader::new(Stream::Clear(stream)), line: Vec::new() };
        session.reply(b'2');
        session.command("EHLO load.test\r\n", b'2');
        match &load.tls {
            Some(config) => session.log_in(config),
            None => session,
        }
    }

    fn log_in(mut self, config: &Arc<ClientConfig>) -> Session {
        self.command("STARTTLS\r\n", b'2');
        let stream = self.reader.into_inner().connect(config).expect("TLS with the relay");
        let mut session = Session { reader: BufReader::new(stream), line: self.line };
        session.command("EHLO load.test\r\n", b'2');
        session.command(AUTH, b'2');
        session
    }

    fn send(&mut self, recipient: &str, content: &[u8], pipeline: bool) {
        let commands = [("MAIL FROM:<app@sender.test>\r\n", b'2'), (recipient, b'2'), ("DATA\r\n", b'3')];
        if pipeline {
            let all: String = commands.iter().map(|(command, _)| *command).collect();
            self.write(all.as_bytes());
            commands.iter().for_each(|(_, class)| self.reply(*class));
        } else {
            commands.iter().for_each(|(command, class)| self.command(command, *class));
        }
        self.write(content);
        self.reply(b'2');
    }

    fn command(&mut self, command: &str, class: u8) {
        self.write(command.as_bytes());
        self.reply(class);
    }

    fn write(&mut self, bytes: &[u8]) {
        let stream = self.reader.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).expect("write to the relay");
    }

    /// Reads one whole reply and insists on its class.
    fn reply(&mut self, class: u8) {
        loop {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line).expect("read from the relay");
            assert!(
                read > 4 && self.line[0] == class,
                "the relay said {:?}",
                String::from_utf8_lossy(&self.line)
            );
            if self.line[3] == b' ' {
                return;
            }
        }
    }
}
