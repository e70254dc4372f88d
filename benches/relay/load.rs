//! The load generator: sessions that send one message after another, each on a connection of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sends `messages` over `sessions` connections and returns when the last 250 is there.
pub(crate) fn run(to: SocketAddr, sessions: usize, messages: usize, pipeline: bool) {
    let sent = AtomicUsize::new(0);
    let content = content();
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            scope.spawn(|| {
                let mut session = Session::open(to);
                while sent.fetch_add(1, Ordering::Relaxed) < messages {
                    session.send(&content, pipeline);
                }
                session.command("QUIT\r\n", b'2');
            });
        }
    });
}

/// 4 KB with its header.
fn content() -> Vec<u8> {
    let mut content =
        b"From: <app@sender.test>\r\nTo: <user@receiver.test>\r\nSubject: benchmark\r\n\r\n".to_vec();
    while content.len() < 4096 {
        content.extend_from_slice(b"The quick brown fox jumps over the lazy dog, again and again.\r\n");
    }
    content.extend_from_slice(b".\r\n");
    content
}

struct Session {
    reader: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl Session {
    fn open(to: SocketAddr) -> Session {
        let stream = TcpStream::connect(to).expect("connect to the relay");
        stream.set_nodelay(true).expect("nodelay");
        let mut session = Session { reader: BufReader::new(stream), line: Vec::new() };
        session.reply(b'2');
        session.command("EHLO load.test\r\n", b'2');
        session
    }

    fn send(&mut self, content: &[u8], pipeline: bool) {
        let commands = [
            ("MAIL FROM:<app@sender.test>\r\n", b'2'),
            ("RCPT TO:<user@receiver.test>\r\n", b'2'),
            ("DATA\r\n", b'3'),
        ];
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
        self.reader.get_mut().write_all(bytes).expect("write to the relay");
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
