//! Plays a dialogue against a relay that runs, and remembers what was answered to which command.
//!
//! `C: ` a line that the client says, `C| ` one that goes with the command before it; `S: ` how the whole reply
//! must begin, its lines joined by ` / ` and codes said once. `* starttls` and `* implicit` connect there instead
//! of to the listener in the clear that trusts loopback; `* handshake` begins TLS; `* login NAME`; `* closed`
//! expects the end. EHLO is said by the player, except behind `* silent`. `#` begins a comment.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;

use rustls::{ClientConnection, StreamOwned};

use crate::harness::client;
use crate::harness::fakemx::SOON;
use crate::harness::relay::Relay;

/// A command's verb, and the code it was answered with. The verb of a greeting is `connect`.
pub type Answer = (String, u16);

/// Where dialogues are played.
pub struct Theatre<'a> {
    relay: &'a Relay,
    answers: Mutex<Vec<Answer>>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Stream {
    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// One session on the stage.
struct Session<'a> {
    theatre: &'a Theatre<'a>,
    stream: BufReader<Stream>,
    /// What the next reply answers.
    verb: String,
    last_code: u16,
}

impl<'a> Theatre<'a> {
    pub fn new(relay: &'a Relay) -> Theatre<'a> {
        Theatre { relay, answers: Mutex::default() }
    }

    /// What was answered in all dialogues so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap().clone()
    }

    /// Plays one dialogue; gives the last answer.
    pub fn play(&self, dialogue: &str) -> Result<Answer, String> {
        let mut lines = dialogue.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
        let address = match lines.peek() {
            Some(&"* starttls") => self.relay.starttls,
            Some(&"* implicit") => self.relay.implicit,
            _ => self.relay.clear,
        };
        let mut session = self.open(address);
        if address == self.relay.implicit {
            session.handshake();
        }
        session.read()?;
        if address != self.relay.clear {
            lines.next();
        }
        if lines.next_if_eq(&"* silent").is_none() {
            session.say("EHLO client.test");
            session.read()?;
        }
        for line in lines {
            match line.split_at(2) {
                ("C:", said) => session.say(said.strip_prefix(' ').unwrap_or(said)),
                ("C|", said) => session.say_more(said.strip_prefix(' ').unwrap_or(said)),
                ("S:", expected) => {
                    let found = session.read()?;
                    if !found.starts_with(expected.trim_start()) {
                        return Err(format!("{line}\n  but it was S: {found}"));
                    }
                }
                _ if line == "* handshake" => session.handshake(),
                _ if line == "* closed" => session.expect_end()?,
                _ => match line.strip_prefix("* login ") {
                    Some(name) => session.login(name)?,
                    None => return Err(format!("{line} is no line of a dialogue")),
                },
            }
        }
        Ok((session.verb, session.last_code))
    }

    fn open(&self, address: SocketAddr) -> Session<'_> {
        let stream = TcpStream::connect_timeout(&address, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = BufReader::new(Stream::Plain(stream));
        Session { theatre: self, stream, verb: "connect".to_owned(), last_code: 0 }
    }
}

impl Session<'_> {
    fn say(&mut self, line: &str) {
        // What follows a 354 or a 334 belongs to the command before.
        if !matches!(self.last_code, 334 | 354) {
            self.verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        }
        self.say_more(line);
    }

    /// A line that is no command.
    fn say_more(&mut self, line: &str) {
        self.stream.get_mut().say(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// A whole reply: `250 2.1.5 one / two`.
    fn read(&mut self) -> Result<String, String> {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(format!("the connection ended behind {}", self.verb)),
                Ok(_) => {}
                Err(error) => return Err(format!("behind {}: {error}", self.verb)),
            }
            let line = line.strip_suffix("\r\n").ok_or_else(|| format!("no CR LF: {line:?}"))?;
            let (code, rest) = line.split_at(3);
            self.last_code = code.parse().map_err(|_| format!("no reply: {line}"))?;
            match said.is_empty() {
                true => said = format!("{code} {}", &rest[1..]),
                false => said.push_str(&format!(" / {}", &rest[1..])),
            }
            if rest.starts_with(' ') {
                self.theatre.answers.lock().unwrap().push((self.verb.clone(), self.last_code));
                return Ok(said);
            }
        }
    }

    fn expect_end(&mut self) -> Result<(), String> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            other => Err(format!("the connection goes on: {other:?}")),
        }
    }

    fn login(&mut self, name: &str) -> Result<(), String> {
        self.say(&client::auth_plain(name));
        match self.read()? {
            ok if ok.starts_with("235") => Ok(()),
            other => Err(format!("login {name}: {other}")),
        }
    }

    fn handshake(&mut self) {
        let connection = client::tls(self.theatre.relay);
        let Stream::Plain(stream) = self.stream.get_ref() else { panic!("TLS twice") };
        let stream = StreamOwned::new(connection, stream.try_clone().unwrap());
        *self.stream.get_mut() = Stream::Tls(Box::new(stream));
    }
}
