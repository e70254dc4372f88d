//! The client's side of SMTP, as far as `sendmail` needs it: one message to the relay of this machine.
//!
//! A message goes to all of its recipients or to none: whoever calls is told by one number, and tries again with all.
//! More recipients than the relay takes at once go in several transactions, after it was asked about all of them. Where
//! it takes some of these and not the rest, the text says how many have the message, and the number is none after
//! which callers try again with all.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain as Family, SockAddr, Socket, Type};

use super::exit;
use crate::mail::{Address, Domain};

/// Where the relay listens unless `POSTRIDER_SUBMIT` says otherwise.
const DEFAULT: &str = "unix:/run/postrider/submit.sock";
/// Longer than the relay needs for a commit on a slow disk (RFC 5321 §4.5.3.2).
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
/// How long it is tried again where the relay has too many sessions: cron and PHP try nothing again.
const CROWDED: Duration = Duration::from_secs(30);
/// The same where nobody listens: a relay that is restarted, also after a crash (`RestartSec=5` of the service).
const RESTARTED: Duration = Duration::from_secs(8);
/// Between two tries, at most.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Of a reply, more than any relay says.
const REPLY_BYTES_MAX: u64 = 64 << 10;

/// Where the relay listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Unix(PathBuf),
    /// On loopback: what goes there cannot be overheard.
    Loopback(SocketAddr),
}

impl Target {
    /// Reads `unix:/path`, or an address of loopback and a port.
    pub(super) fn read(text: Option<&str>) -> Result<Target, Failure> {
        let text = text.unwrap_or(DEFAULT);
        let address =
            text.parse().ok().filter(|address: &SocketAddr| address.ip().to_canonical().is_loopback());
        let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'));
        path.map(|path| Target::Unix(path.into())).or(address.map(Target::Loopback)).ok_or_else(|| {
            let why =
                format!("POSTRIDER_SUBMIT={text}: write unix:/path, or an address of loopback and a port");
            Failure::new(exit::CONFIG, why)
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Loopback(address) => address.fmt(f),
        }
    }
}

/// Why it was not sent to all, and the number that says so (sysexits(3)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// The same, where some of the recipients have the message.
    fn after(mut self, sent: usize, all: usize) -> Failure {
        if sent > 0 {
            self.code = exit::UNAVAILABLE;
            self.text += &format!("; the first {sent} of {all} recipients have it: send to the others alone");
        }
        self
    }

    /// A refusal: later, or for good.
    fn refused(to: &str, reply: &Reply, permanent: u8) -> Failure {
        let code = match reply.code {
            500..=599 if reply.code == 552 => exit::UNAVAILABLE,
            500..=599 => permanent,
            _ => exit::TEMPORARY,
        };
        Failure::new(code, format!("{to}: {} {}", reply.code, reply.text.replace('\n', " ")))
    }
}

/// What is sent beside the content.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// None: the null sender.
    pub(super) sender: Option<&'a Address>,
    pub(super) recipients: &'a [Address],
    pub(super) body: Option<&'a str>,
    pub(super) ret: Option<&'a str>,
    pub(super) envid: Option<&'a str>,
    pub(super) notify: Option<&'a str>,
}

struct Reply {
    code: u16,
    text: String,
}

/// A connection on which EHLO was said.
pub(super) struct Client {
    stream: BufReader<Socket>,
    verbose: bool,
    /// What the relay calls itself, which is the domain of names that have none.
    pub(super) hostname: String,
    /// The keywords of EHLO, in capitals, with their arguments.
    offered: Vec<String>,
}

/// Connects, without a word.
///
/// # Errors
/// The relay is down, or this user may not send.
pub(super) fn connect(target: &Target) -> Result<Socket, Failure> {
    let open = || {
        let (family, address) = match target {
            Target::Unix(path) => (Family::UNIX, SockAddr::unix(path)?),
            Target::Loopback(address) => (Family::for_address(*address), (*address).into()),
        };
        let socket = Socket::new(family, Type::STREAM, None)?;
        socket.set_write_timeout(Some(REPLY_TIMEOUT))?;
        socket.connect(&address)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(exit::NO_PERMISSION, format!("this user may not send mail by {target}: {error}"))
        }
        _ => Failure::new(exit::TEMPORARY, format!("the relay cannot be reached at {target}: {error}")),
    })
}

impl Client {
    /// Connects, and hears what the relay calls itself and offers. It is tried again where the relay has no room, or is
    /// being started.
    ///
    /// # Errors
    /// Nothing can be sent now.
    pub(super) fn greet(target: &Target, verbose: bool) -> Result<Client, Failure> {
        let begin = Instant::now();
        // Not all of a burst at the same time.
        let mut pause = Duration::from_millis(50 + u64::from(std::process::id() % 64) * 4);
        loop {
            match Client::try_to_greet(target, verbose) {
                Ok(client) => return Ok(client),
                Err((_, patience)) if begin.elapsed() + pause < patience => std::thread::sleep(pause),
                Err((failure, _)) => return Err(failure),
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Once; or why not, and how long it may be tried again.
    fn try_to_greet(target: &Target, verbose: bool) -> Result<Client, (Failure, Duration)> {
        let patience = |failure: Failure| match failure.code {
            exit::TEMPORARY => (failure, RESTARTED),
            _ => (failure, Duration::ZERO),
        };
        let stream = BufReader::new(connect(target).map_err(patience)?);
        let mut client = Client { stream, verbose, hostname: String::new(), offered: Vec::new() };
        let greeting = client.reply().map_err(patience)?;
        if greeting.code != 220 {
            let patience = if greeting.code == 421 { CROWDED } else { Duration::ZERO };
            return Err((Failure::refused("the relay", &greeting, exit::TEMPORARY), patience));
        }
        let hello = client.say("EHLO localhost").map_err(patience)?;
        let mut lines = hello.text.lines();
        let hostname = lines.next().and_then(|line| line.split(' ').next()).unwrap_or_default().to_owned();
        if hello.code != 250 || Domain::parse(&hostname).is_err() {
            return Err((Failure::refused("the relay", &hello, exit::TEMPORARY), Duration::ZERO));
        }
        client.offered = lines.map(str::to_ascii_uppercase).collect();
        client.hostname = hostname;
        Ok(client)
    }

    /// How large a message may be, where the relay says.
    pub(super) fn size_max(&self) -> Option<u64> {
        let size = self.offered.iter().find_map(|line| line.strip_prefix("SIZE "))?;
        size.trim().parse().ok().filter(|size| *size > 0)
    }

    fn offers(&self, keyword: &str) -> bool {
        self.offered.iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// Says goodbye.
    pub(super) fn quit(mut self) {
        // How it takes that changes nothing.
        let _ = self.say("QUIT");
    }

    /// Sends one message. When it returns, the relay has said 250.
    ///
    /// # Errors
    /// Nothing was sent; or the relay's answer to the content was lost, or it has the message for some, which is said.
    pub(super) fn send(&mut self, envelope: &Envelope<'_>, content: &[u8]) -> Result<(), Failure> {
        let all = envelope.recipients;
        let mut taken = self.begin(envelope, all)?;
        if taken < all.len() {
            // Whoever is refused is refused before anything is sent.
            let mut asked = taken;
            while asked < all.len() {
                self.say("RSET")?;
                asked += self.begin(envelope, &all[asked..])?;
            }
            self.say("RSET")?;
            taken = self.begin(envelope, all)?;
        }
        let mut sent = 0;
        loop {
            self.hand_over(content).map_err(|failure| failure.after(sent, all.len()))?;
            sent += taken;
            if sent == all.len() {
                return Ok(());
            }
            taken = self.begin(envelope, &all[sent..]).map_err(|failure| failure.after(sent, all.len()))?;
        }
    }

    /// Begins a transaction; how many of the recipients the relay takes in it.
    fn begin(&mut self, envelope: &Envelope<'_>, recipients: &[Address]) -> Result<usize, Failure> {
        let mail = self.mail_command(envelope);
        let reply = self.say(&mail)?;
        if reply.code != 250 {
            return Err(Failure::refused("the sender", &reply, exit::NO_PERMISSION));
        }
        let notify = envelope.notify.filter(|_| self.offers("DSN"));
        let notify = notify.map_or(String::new(), |notify| format!(" NOTIFY={notify}"));
        for (taken, recipient) in recipients.iter().enumerate() {
            let reply = self.say(&format!("RCPT TO:<{recipient}>{notify}"))?;
            // RFC 5321 §4.5.3.1.10: the rest goes in another transaction.
            if taken > 0 && reply.code == 452 && reply.text.starts_with("4.5.3") {
                return Ok(taken);
            }
            if !matches!(reply.code, 250 | 251) {
                return Err(Failure::refused(&format!("<{recipient}>"), &reply, exit::NO_USER));
            }
        }
        Ok(recipients.len())
    }

    /// The content, to those who were named.
    fn hand_over(&mut self, content: &[u8]) -> Result<(), Failure> {
        let reply = self.say("DATA")?;
        if reply.code != 354 {
            return Err(Failure::refused("the message", &reply, exit::UNAVAILABLE));
        }
        self.write(&dotted(content)).map_err(|error| lost(&error))?;
        match self.reply() {
            Ok(reply) if reply.code == 250 => Ok(()),
            Ok(reply) => Err(Failure::refused("the message", &reply, exit::BAD_DATA)),
            Err(Failure { code, text }) => {
                Err(Failure::new(code, format!("{text}; the relay may have the message all the same")))
            }
        }
    }

    fn mail_command(&self, envelope: &Envelope<'_>) -> String {
        let sender = envelope.sender.map(ToString::to_string).unwrap_or_default();
        let mut command = format!("MAIL FROM:<{sender}>");
        let utf8 = !sender.is_ascii() || envelope.recipients.iter().any(|to| !to.to_string().is_ascii());
        let parameters = [
            ("SMTPUTF8", utf8.then(|| "SMTPUTF8".to_owned())),
            ("8BITMIME", envelope.body.map(|body| format!("BODY={body}"))),
            ("DSN", envelope.ret.map(|ret| format!("RET={ret}"))),
            ("DSN", envelope.envid.map(|envid| format!("ENVID={}", xtext(envid)))),
        ];
        for (keyword, parameter) in parameters {
            if let Some(parameter) = parameter.filter(|_| self.offers(keyword)) {
                command.push(' ');
                command.push_str(&parameter);
            }
        }
        command
    }

    /// Says a line and hears the reply.
    fn say(&mut self, line: &str) -> Result<Reply, Failure> {
        self.show("C:", line);
        self.write(format!("{line}\r\n").as_bytes()).map_err(|error| lost(&error))?;
        self.reply()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn reply(&mut self) -> Result<Reply, Failure> {
        let mut text = Vec::new();
        let mut lines = (&mut self.stream).take(REPLY_BYTES_MAX);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).map_err(|error| lost(&error))?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let (Some(code), true) = (code, line.ends_with('\n')) else {
                return Err(lost(&io::ErrorKind::UnexpectedEof.into()));
            };
            text.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                let reply = Reply { code, text: text.join("\n") };
                self.show("S:", &format!("{code} {}", reply.text));
                return Ok(reply);
            }
        }
    }

    /// `-v`.
    fn show(&self, who: &str, said: &str) {
        if self.verbose {
            // A caller that does not listen is no reason to keep its mail.
            let _ = writeln!(io::stdout(), "{who} {said}");
        }
    }
}

fn lost(error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(exit::TEMPORARY, format!("the connection to the relay was lost: {why}"))
}

/// RFC 5321 §4.5.2: a line that begins with a dot gets one more; and the line that ends it all.
fn dotted(content: &[u8]) -> Vec<u8> {
    let mut dotted = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            dotted.push(b'.');
        }
        dotted.extend_from_slice(line);
    }
    dotted.extend_from_slice(b".\r\n");
    dotted
}

/// RFC 3461 §4.
fn xtext(text: &str) -> String {
    let coded = |byte: u8| match byte {
        b'+' | b'=' => format!("+{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    text.bytes().map(coded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to() {
        for (text, expected) in [
            (None, "unix:/run/postrider/submit.sock"),
            (Some("unix:/tmp/a b.sock"), "unix:/tmp/a b.sock"),
            (Some("127.0.0.1:587"), "127.0.0.1:587"),
            (Some("[::1]:25"), "[::1]:25"),
        ] {
            assert_eq!(Target::read(text).unwrap().to_string(), expected);
        }
        for text in ["192.0.2.1:587", "0.0.0.0:587", "unix:relative", "localhost:25", "127.0.0.1", ""] {
            assert_eq!(Target::read(Some(text)).unwrap_err().code, exit::CONFIG, "{text}");
        }
    }

    #[test]
    fn a_dot_at_the_begin_of_a_line_is_doubled() {
        assert_eq!(dotted(b".\r\na\r\n..b\r\nc.\r\n"), b"..\r\na\r\n...b\r\nc.\r\n.\r\n");
        assert_eq!(dotted(b""), b".\r\n");
        assert_eq!(xtext("a+b=c"), "a+2Bb+3Dc");
    }

    #[test]
    fn a_refusal_says_whether_to_try_again() {
        for (code, permanent, expected) in [
            (451, exit::NO_USER, exit::TEMPORARY),
            (421, exit::NO_USER, exit::TEMPORARY),
            (550, exit::NO_USER, exit::NO_USER),
            (530, exit::NO_PERMISSION, exit::NO_PERMISSION),
            (552, exit::BAD_DATA, exit::UNAVAILABLE),
            (999, exit::BAD_DATA, exit::TEMPORARY),
        ] {
            let failure = Failure::refused("x", &Reply { code, text: "no\nmore".to_owned() }, permanent);
            assert_eq!(failure, Failure::new(expected, format!("x: {code} no more")), "{code}");
        }
    }
}
