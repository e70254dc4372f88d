//! The plainest SMTP client, which says what it is told to, and the mails it sends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{PASSWORD, Relay};

/// The client's end of TLS with a relay, which must show the certificate that it was given.
pub fn tls(relay: &Relay) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(relay.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// AUTH PLAIN with the initial response of a user whom [`Relay::add_user_with`] made.
pub fn auth_plain(user: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{PASSWORD}")))
}

/// A reply: its code and its whole text, lines joined by a line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

/// The plainest SMTP client: says what it is told to.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects and takes the greeting; an error where nobody listens or who listens is not welcoming.
    pub fn connect(address: SocketAddr) -> std::io::Result<Client> {
        Client::greeted(TcpStream::connect_timeout(&address, SOON)?)
    }

    /// The same from an address of its own, such as another one of 127.0.0.0/8.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> std::io::Result<Client> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into())?;
        Client::greeted(socket.into())
    }

    fn greeted(stream: TcpStream) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        let mut client = Client { reader: BufReader::new(stream) };
        let greeting = client.reply()?;
        if greeting.code != 220 {
            return Err(std::io::Error::other(format!("{} {}", greeting.code, greeting.text)));
        }
        Ok(client)
    }

    /// Writes these bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The connection under it.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Whether the relay has closed the connection, having said nothing more.
    pub fn is_closed(&mut self) -> bool {
        match self.reader.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Reads a whole reply.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a reply without CR LF: {line:?}"));
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            let code = code.unwrap_or_else(|| panic!("no reply: {line:?}"));
            text.push_str(line.get(4..).unwrap_or(""));
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, text });
            }
            text.push('\n');
        }
    }

    /// Says a line and reads the reply.
    pub fn say(&mut self, line: &str) -> std::io::Result<Reply> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// The same, where the reply must begin with `code` (`"250"`, `"25"`, `"451 4.3.0"`).
    pub fn expect(&mut self, line: &str, code: &str) -> Reply {
        let reply = self.say(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = format!("{} {}", reply.code, reply.text);
        assert!(text.starts_with(code), "{line}: wanted {code}, got {text}");
        reply
    }

    /// Logs in as a user whom [`Relay::add_user_with`] made.
    pub fn log_in(&mut self, user: &str) {
        self.expect(&auth_plain(user), "235");
    }

    /// A whole transaction; the reply that decided about it. `content` is sent as [`on_the_wire`] makes it.
    pub fn transact(
        &mut self,
        sender: &str,
        parameters: &str,
        recipients: &[&str],
        content: &[u8],
    ) -> std::io::Result<Reply> {
        let mail = self.say(&format!("MAIL FROM:<{sender}>{parameters}"))?;
        if mail.code != 250 {
            return Ok(mail);
        }
        for recipient in recipients {
            let rcpt = self.say(&format!("RCPT TO:<{recipient}>"))?;
            if !matches!(rcpt.code, 250 | 251) {
                return Ok(rcpt);
            }
        }
        let data = self.say("DATA")?;
        if data.code != 354 {
            return Ok(data);
        }
        self.write(&on_the_wire(content))?;
        self.reply()
    }

    /// Submits a message that must be taken; the queue id.
    pub fn submit(&mut self, sender: &str, recipients: &[&str], content: &[u8]) -> String {
        let eight_bit = if content.is_ascii() { "" } else { " BODY=8BITMIME" };
        let reply = self.transact(sender, eight_bit, recipients, content).unwrap();
        assert_eq!(reply.code, 250, "{}", reply.text);
        queue_id(&reply.text)
    }
}

/// The queue id in the text of the 250 reply: its last word.
pub fn queue_id(text: &str) -> String {
    let id = text.split_whitespace().last().unwrap_or_default();
    assert!(id.len() == 11 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "no queue id in {text:?}");
    id.to_owned()
}

/// Content as DATA sends it: a dot in front of each dot behind CR LF, CR LF at the end if there is none,
/// then the final dot. Bare CR and LF stay bare.
pub fn on_the_wire(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 64);
    let mut line_start = true;
    for (at, byte) in content.iter().enumerate() {
        if line_start && *byte == b'.' {
            wire.push(b'.');
        }
        wire.push(*byte);
        line_start = *byte == b'\n' && at > 0 && content[at - 1] == b'\r';
    }
    if !line_start {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// A small message with this subject.
pub fn mail(subject: &str) -> Vec<u8> {
    format!("From: <me@app.test>\r\nSubject: {subject}\r\n\r\nThis is {subject}.\r\n").into_bytes()
}

#[test]
fn only_dots_behind_a_true_line_end_are_doubled() {
    assert_eq!(on_the_wire(b".a\r\n..b\n.c\r.d\r\n"), b"..a\r\n...b\n.c\r.d\r\n.\r\n");
    assert_eq!(on_the_wire(b""), b".\r\n");
    assert_eq!(on_the_wire(b"a\n"), b"a\n\r\n.\r\n");
}
