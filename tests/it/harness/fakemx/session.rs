//! One connection of a fake from greeting to end.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

use super::script::{Act, At, Gate, Script};
use super::stream::{Stream, first_record};
use super::{Message, Seen, Shared, State};

/// A ClientHello that is larger has a post-quantum key share (1,216 bytes).
const LARGE_HELLO: usize = 1000;

/// One connection from greeting to end; `counts` says whether it is one of [`State::open`].
pub(super) fn play(number: usize, script: Script, shared: Arc<Shared>, stream: Stream, counts: bool) {
    let (ahead, rcpts, chunked) = (Vec::new(), Vec::new(), Vec::new());
    let (mail, chunks, reset, batched) = (None, 0, false, false);
    let mut session =
        Session { number, script, shared, stream, ahead, mail, rcpts, chunks, chunked, reset, batched };
    // However it ended: the test looks at what was seen.
    let _ = session.run();
    session.shared.change(|state| state.open -= usize::from(counts));
    if !session.reset {
        session.stream.shutdown();
    }
    let Session { shared, stream, .. } = session;
    drop(shared.state.lock().unwrap().sockets[number].take());
    drop(stream);
    shared.change(|state| state.seen[number].closed = true);
}

/// The end of a connection.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Over {
        Over
    }
}

struct Session {
    number: usize,
    script: Script,
    shared: Arc<Shared>,
    stream: Stream,
    /// Bytes read and not yet used.
    ahead: Vec<u8>,
    mail: Option<String>,
    rcpts: Vec<String>,
    /// Chunks of this transaction, and what they brought.
    chunks: usize,
    chunked: Vec<u8>,
    /// To be cut off rudely.
    reset: bool,
    /// Commands came together.
    batched: bool,
}

impl Session {
    fn run(&mut self) -> Result<(), Over> {
        if self.script.implicit {
            self.handshake()?;
        }
        self.answer(|at| at == At::Greeting, "220 fake.example ESMTP")?;
        loop {
            let line = self.line()?;
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let mut lines = vec!["fake.example".to_owned()];
                    lines.extend(self.script.offers.iter().cloned());
                    if self.script.tls.is_some() && self.stream.tls.is_none() {
                        lines.push("STARTTLS".to_owned());
                    }
                    let last = lines.pop().unwrap_or_default();
                    let mut reply: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
                    reply.push_str(&format!("250 {last}"));
                    self.answer(|at| at == At::Ehlo, &reply)?;
                }
                "HELO" => drop(self.answer(|at| at == At::Helo, "250 fake.example")?),
                "STARTTLS" => {
                    if self.answer(|at| at == At::Starttls, "220 go ahead")?.starts_with('2') {
                        self.handshake()?;
                    }
                }
                "AUTH" => self.auth(&line)?,
                "MAIL" => {
                    if self.answer(|at| at == At::Mail, "250 2.1.0 sender ok")?.starts_with('2') {
                        self.mail = Some(line);
                    }
                }
                "RCPT" if self.mail.is_none() => self.say("503 5.5.1 MAIL first")?,
                "RCPT" if self.rcpts.len() >= self.script.recipients_max => {
                    self.say("452 4.5.3 too many recipients")?;
                }
                "RCPT" => {
                    let fits = |at| matches!(at, At::Rcpt(text) if line.contains(text));
                    if self.answer(fits, "250 2.1.5 recipient ok")?.starts_with('2') {
                        self.rcpts.push(line);
                    }
                }
                "DATA" => self.data()?,
                "BDAT" => self.bdat(&line)?,
                "RSET" => {
                    self.answer(|at| at == At::Rset, "250 2.0.0 reset")?;
                    (self.mail, self.rcpts) = (None, Vec::new());
                    (self.chunks, self.chunked) = (0, Vec::new());
                }
                "QUIT" => {
                    self.answer(|at| at == At::Quit, "221 2.0.0 bye")?;
                    return Ok(());
                }
                _ => self.say("500 5.5.2 what?")?,
            }
        }
    }

    fn handshake(&mut self) -> Result<(), Over> {
        if let Some(act) = self.script.act(false, |at| at == At::Handshake) {
            self.more()?;
            self.perform(act)?;
            return Err(Over);
        }
        let hello = self.stream.tcp().map_or(Ok(0), first_record)?;
        self.see(|seen| seen.hello = hello);
        if self.script.small_hellos && hello > LARGE_HELLO {
            self.more()?;
            return Err(Over);
        }
        let (Some(config), Some(tcp)) = (self.script.tls.clone(), self.stream.plain.take()) else {
            return Err(Over);
        };
        let tls = ServerConnection::new(config).map_err(|_| Over)?;
        let mut tls = StreamOwned::new(tls, tcp);
        tls.flush()?;
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        let resumed = tls.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        self.stream.tls = Some(tls);
        self.ahead.clear();
        self.see(|seen| (seen.tls, seen.resumed) = (true, resumed));
        Ok(())
    }

    fn auth(&mut self, line: &str) -> Result<(), Over> {
        if let Some(Gate(gate)) = self.script.gate.clone() {
            let mut ask = |challenge: &str| {
                self.say(&format!("334 {challenge}")).ok()?;
                self.line().ok()
            };
            let reply = gate(line, &mut ask);
            return self.answer(|at| at == At::Auth, &reply).map(drop);
        }
        if line.eq_ignore_ascii_case("AUTH LOGIN") {
            for challenge in ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"] {
                self.say(challenge)?;
                self.line()?;
            }
        }
        self.answer(|at| at == At::Auth, "235 2.7.0 welcome").map(drop)
    }

    fn data(&mut self) -> Result<(), Over> {
        let nobody = self.rcpts.is_empty();
        let ordinary = if nobody { "554 5.5.1 no valid recipients" } else { "354 go ahead" };
        if !self.answer(|at| at == At::Data, ordinary)?.starts_with('3') {
            return Ok(());
        }
        let content = self.content()?;
        self.took(content)
    }

    /// One chunk. After one that it refused it takes no other until RSET.
    fn bdat(&mut self, line: &str) -> Result<(), Over> {
        if let Some(act) = self.script.act(self.batched, |at| at == At::Bdat) {
            return self.perform(act);
        }
        let (size, last) = match line[5..].strip_suffix(" LAST") {
            Some(size) => (size, true),
            None => (&line[5..], false),
        };
        let size: usize = size.parse().map_err(|_| Over)?;
        while self.ahead.len() < size {
            self.more()?;
        }
        let content: Vec<u8> = self.ahead.drain(..size).collect();
        if self.rcpts.is_empty() {
            return self.say("503 5.5.1 no valid recipients");
        }
        self.see(|seen| seen.raw_content.extend_from_slice(&content));
        self.chunked.extend_from_slice(&content);
        self.chunks += 1;
        if !last {
            let chunk = At::Chunk(self.chunks);
            if !self.answer(|at| at == chunk, "250 2.0.0 chunk taken")?.starts_with('2') {
                self.rcpts.clear();
            }
            return Ok(());
        }
        let content = std::mem::take(&mut self.chunked);
        self.chunks = 0;
        self.took(content)
    }

    /// All of a message was read: it is kept where the answer means yes.
    fn took(&mut self, content: Vec<u8>) -> Result<(), Over> {
        let (mail, rcpts) = (self.mail.take().unwrap_or_default(), std::mem::take(&mut self.rcpts));
        let message =
            Message { connection: self.number, tls: self.stream.tls.is_some(), mail, rcpts, content };
        self.answer_and(
            |at| at == At::Dot,
            "250 2.0.0 queued",
            |state, yes| state.messages.extend(yes.then_some(message)),
        )
        .map(drop)
    }

    /// Reads lines to the one that is a dot alone.
    fn content(&mut self) -> Result<Vec<u8>, Over> {
        let mut content = Vec::new();
        let mut interrupted = false;
        loop {
            let line = self.raw_line()?;
            self.see(|seen| seen.raw_content.extend_from_slice(&line));
            if line == b".\r\n" {
                return Ok(content);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            if !interrupted
                && let Some(act) = self
                    .script
                    .act(self.batched, |at| matches!(at, At::Content(after) if content.len() >= after))
            {
                interrupted = true;
                self.perform(act)?;
            }
        }
    }

    /// Gives the answer of the script, or the ordinary one; the words that were said.
    fn answer(&mut self, fits: impl Fn(At) -> bool, ordinary: &str) -> Result<String, Over> {
        self.answer_and(fits, ordinary, |_, _| ())
    }

    /// The same; `record` gets to know whether they mean yes before the client can hear them.
    fn answer_and(
        &mut self,
        fits: impl Fn(At) -> bool,
        ordinary: &str,
        record: impl FnOnce(&mut State, bool),
    ) -> Result<String, Over> {
        let mut act = self.script.act(self.batched, fits);
        while let Some(Act::Later(pause, next)) = act {
            self.pause(pause)?;
            act = Some(*next);
        }
        let words = act.as_ref().map_or_else(|| ordinary.to_owned(), Act::words);
        self.shared.change(|state| record(state, words.starts_with('2')));
        match act {
            None => self.say(ordinary)?,
            Some(act) => self.perform(act)?,
        }
        Ok(words)
    }

    fn perform(&mut self, act: Act) -> Result<(), Over> {
        match act {
            Act::Say(reply) => self.say(reply),
            Act::Raw(bytes) => Ok(self.stream.write(&bytes)?),
            Act::Close => Err(Over),
            Act::Reset => {
                if let Some(tcp) = self.stream.tcp() {
                    socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO))?;
                }
                self.reset = true;
                Err(Over)
            }
            Act::SayAndClose(reply) => {
                self.say(reply)?;
                Err(Over)
            }
            Act::Stall => loop {
                self.more()?;
                self.ahead.clear();
            },
            Act::Asleep => loop {
                self.pause(Duration::from_secs(3600))?;
            },
            Act::Drip(pause) => loop {
                self.stream.write(b"2")?;
                self.pause(pause)?;
            },
            Act::Later(pause, act) => {
                self.pause(pause)?;
                self.perform(*act)
            }
            Act::Then(acts) => acts.into_iter().try_for_each(|act| self.perform(act)),
        }
    }

    /// Waits, but not past the end of the fake.
    fn pause(&self, pause: Duration) -> Result<(), Over> {
        let state = self.shared.state.lock().unwrap();
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, pause, |state| !state.stopping).unwrap();
        if state.stopping { Err(Over) } else { Ok(()) }
    }

    fn say(&mut self, reply: &str) -> Result<(), Over> {
        Ok(self.stream.write(format!("{reply}\r\n").as_bytes())?)
    }

    /// The next command.
    fn line(&mut self) -> Result<String, Over> {
        let line = self.raw_line()?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        self.batched |= !self.ahead.is_empty();
        let batched = self.batched;
        self.see(|seen| {
            seen.commands.push(text.clone());
            seen.batched = batched;
        });
        Ok(text)
    }

    fn raw_line(&mut self) -> Result<Vec<u8>, Over> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.ahead[searched..].windows(2).position(|pair| pair == b"\r\n") {
                return Ok(self.ahead.drain(..searched + end + 2).collect());
            }
            searched = self.ahead.len().saturating_sub(1);
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Over> {
        let mut room = [0; 64 * 1024];
        let count = self.stream.read(&mut room)?;
        if count == 0 {
            return Err(Over);
        }
        self.see(|seen| seen.reads.push(count));
        self.ahead.extend_from_slice(&room[..count]);
        Ok(())
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        self.shared.change(|state| change(&mut state.seen[self.number]));
    }
}
