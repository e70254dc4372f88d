//! Plays the dialogues of `tests/golden/` against the real listener, pool and session over loopback
//! sockets, with a queue in memory. Each file is one rule, named by what goes wrong.
//!
//! # Format
//! `#` a comment. `C: ` a line the client sends, `C| ` bytes without CR LF of their own; both know
//! `\r \n \t \0 \\ \xHH`, and `{name*count}` repeats. Neighbouring client lines leave in one write.
//! `S: ` a line the server must send, `…` at its end standing for anything. `* ` a directive:
//!
//! - `listen KEY=VALUE…` before all else: `tls=starttls|off|implicit`, `auth=optional`, `trusted`, and the
//!   limits `size errors recipients hops idle_ms session_ms auth_failures`;
//! - `starttls`: the client's handshake; `closed`: the server has ended the connection; `reconnect`: another one;
//! - `full`, `room`: the queue has room or not; `fails`, `works`: whether accepting works;
//! - `nothing queued`; `queued from=<…> to=<…>,<…> body=… …` followed by `Q: ` lines, the content behind our
//!   Received field; `kicked … by …`: what the queue was asked to try, and by whom.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::clock::Clock;
use crate::config::{CertificateSettings, Limits, ListenSettings, ListenTls, SubmissionSettings};
use crate::mail::{Domain, Expanded, Notify, Priority, Ret, address};
use crate::queue::{AcceptError, Asker, Kick, Kicked, MessageId, NewMessage};
use crate::submission::Submission;
use crate::submission::ports::{
    MessageQueue, OnDemand, OperatorQueries, OperatorQuery, ReversedConnection, WaitingMail,
};
use crate::submission::session::service::Ports;
use crate::submission::users::{Directory, Known, User, Verifier};
use crate::submission::wire::tls;

/// The queue's double.
#[derive(Default)]
pub(in crate::submission) struct MemoryQueue {
    pub(in crate::submission) accepted: Mutex<Vec<(NewMessage, Vec<u8>)>>,
    chunks: Mutex<BTreeMap<(MessageId, u32), Vec<u8>>>,
    kicked: Mutex<Vec<(Kick, Asker)>>,
    last_id: AtomicI64,
    pub(in crate::submission) full: AtomicBool,
    pub(in crate::submission) failing: AtomicBool,
}

impl MemoryQueue {
    /// Bytes of chunks that belong to no message.
    pub(in crate::submission) fn chunk_bytes(&self) -> usize {
        self.chunks.lock().unwrap().values().map(Vec::len).sum()
    }
}

impl MessageQueue for MemoryQueue {
    fn new_message_id(&self) -> MessageId {
        MessageId(self.last_id.fetch_add(1, Ordering::SeqCst) + 1)
    }
    fn has_room(&self, _bytes: u64) -> bool {
        !self.full.load(Ordering::SeqCst)
    }
    fn append_chunk(&self, id: MessageId, seq: u32, data: Vec<u8>) -> Result<(), AcceptError> {
        assert!(data.len() <= crate::submission::message::intake::CHUNK_BYTES);
        self.chunks.lock().unwrap().insert((id, seq), data);
        Ok(())
    }
    fn discard(&self, id: MessageId) {
        self.chunks.lock().unwrap().retain(|(of, _), _| *of != id);
    }
    fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(AcceptError::Full);
        }
        if self.failing.load(Ordering::SeqCst) {
            return Err(AcceptError::Busy);
        }
        let mut content = Vec::new();
        let mut chunks = self.chunks.lock().unwrap();
        for seq in 0..message.chunks_before {
            content.extend(chunks.remove(&(message.id, seq)).unwrap());
        }
        content.extend_from_slice(&message.tail);
        assert_eq!(content.len() as u64, message.size);
        self.accepted.lock().unwrap().push((message, content));
        Ok(())
    }
    fn kick(&self, kick: &Kick, asker: &Asker) -> Result<Kicked, AcceptError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(AcceptError::Busy);
        }
        self.kicked.lock().unwrap().push((kick.clone(), asker.clone()));
        Ok(match kick.to_string().trim_start_matches('@') {
            "waiting.example" | "#route:*" => Kicked::Started(7),
            "busy.example" => Kicked::UnderWay(7),
            "many.example" => Kicked::InParts(7000),
            _ => Kicked::Nothing,
        })
    }
}

/// The other rooms' double: says what it was asked.
struct Echo;

impl OperatorQueries for Echo {
    fn answer(&self, query: &OperatorQuery) -> Result<Vec<String>, String> {
        match query {
            OperatorQuery::Route(addresses) => {
                Ok(addresses.iter().map(|to| format!("route of {to}")).collect())
            }
            OperatorQuery::Waiting(None) => Ok((1..=60).map(|n| format!("lane {n}: 1 messages")).collect()),
            OperatorQuery::Waiting(Some(lane)) if lane == "broken" => Err("the database is busy".to_owned()),
            other => Ok(vec![format!("{other:?}")]),
        }
    }

    fn domains_of_lane(&self, lane: &str) -> Result<Option<Vec<Domain>>, String> {
        Ok((lane == "route:*").then(|| vec![Domain::parse("waiting.example").unwrap()]))
    }
}

/// Who keeps the mail that is fetched: `waiting.example` has some, `busy.example` cannot be read, and
/// `lost.example` was taken from its user meanwhile.
struct Shelf;

impl OnDemand for Shelf {
    fn look(&self, _user: &str, domains: &[Domain]) -> WaitingMail {
        let named = |name: &str| domains.iter().any(|domain| domain.as_str() == name);
        match () {
            () if named("lost.example") => WaitingMail::NotTheirs,
            () if named("busy.example") => WaitingMail::Unknown,
            () if named("waiting.example") => WaitingMail::Mail,
            () => WaitingMail::Nothing,
        }
    }

    /// Takes the greeting and says what it was given, in the clear only.
    fn hand_over(&self, connection: ReversedConnection) {
        let mut greeting = String::new();
        let mut socket = &*connection.socket;
        BufReader::new(socket).read_line(&mut greeting).unwrap();
        let domains: Vec<&str> = connection.domains.iter().map(Domain::as_str).collect();
        let (user, name) = (connection.user, connection.name);
        write!(socket, "{user} at {name} fetches {} after {greeting}", domains.join(",")).unwrap();
    }
}

/// Passwords alone: all that most tests want.
impl<F: Fn(&str, &[u8]) -> Option<Arc<User>> + Send + Sync> Directory for F {
    fn with_password(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        self(name, password)
    }
    fn with_cram_md5(&self, _name: &str, _challenge: &[u8], _digest: &[u8; 16]) -> Option<Arc<User>> {
        None
    }
    fn with_scram(&self, _name: &str) -> Known {
        // Not even that of a user, as if somebody had stolen it: every proof is wrong.
        Known { user: None, verifier: Verifier::default() }
    }
    fn has_cram_md5(&self) -> bool {
        false
    }
    fn has_atrn(&self) -> bool {
        false
    }
}

/// Everybody's password is `secret`; `op` is an operator, and `slow` has a rate.
pub(in crate::submission) fn verify(name: &str, password: &[u8]) -> Option<Arc<User>> {
    let (senders, atrn): (&[&str], &[&str]) = match name {
        "app" | "op" | "slow" | "vip" | "bulk" => (&[], &[]),
        "news" => (&["news@example.com", "*@news.example"], &[]),
        "customer" => (&[], &["waiting.example", "empty.example"]),
        "unlucky" => (&[], &["busy.example", "lost.example"]),
        _ => return None,
    };
    let [senders, atrn] = [senders, atrn].map(|list| list.iter().map(|&text| text.to_owned()).collect());
    let (priority, priority_max) = match name {
        "vip" => (None, Priority::new(5)),
        "bulk" => (Priority::new(-4), None),
        _ => (None, None),
    };
    let operator = name == "op";
    let rate = (name == "slow").then(|| 2.try_into().unwrap());
    let name = name.to_owned();
    let user = User { name, operator, senders, atrn, rate, priority, priority_max, ..User::default() };
    (password == b"secret").then(|| Arc::new(user))
}

/// Settings with one listener on a free port of loopback.
pub(in crate::submission) fn settings(certificates: &Path) -> SubmissionSettings {
    let to = |text: &str| address::parse(text).unwrap();
    SubmissionSettings {
        hostname: Domain::parse("relay.example").unwrap(),
        listen: vec![ListenSettings {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: ListenTls::Starttls,
            auth_required: true,
            trusted: Vec::new(),
        }],
        tls: Some(CertificateSettings::SelfSigned { directory: certificates.to_owned() }),
        users_file: "unused".into(),
        aliases: BTreeMap::from([
            ("root".to_owned(), vec![to("ops@example.com")]),
            ("postmaster".to_owned(), vec![to("root@relay.example")]),
            ("maverick".to_owned(), vec![to("j.maverick@server.example")]),
            ("team".to_owned(), vec![to("a@example.com"), to("root@relay.example"), to("b@example.com")]),
            ("circle".to_owned(), vec![to("circle@relay.example")]),
            ("müller".to_owned(), vec![to("müller@example.com")]),
        ]),
        limits: Limits {
            message_size: 1 << 20,
            recipients: 100,
            sessions: 100,
            sessions_per_client: 100,
            errors: 10,
            auth_failures: 5,
            received_hops: 50,
            idle_timeout: Duration::from_secs(20),
            session_timeout: Duration::from_secs(600),
            future_release: Some(Duration::from_secs(2_592_000)),
        },
        lifetime: Duration::from_secs(432_000),
    }
}

/// The doubles, at a time that stands still.
pub(in crate::submission) fn ports(queue: &Arc<MemoryQueue>) -> Ports {
    let queue: Arc<MemoryQueue> = Arc::clone(queue);
    let clock = Clock::by_hand(1_795_000_000);
    Ports { queue, operator_queries: Arc::new(Echo), on_demand: Arc::new(Shelf), clock }
}

/// Starts submission with the doubles.
pub(in crate::submission) fn start(settings: &SubmissionSettings, queue: &Arc<MemoryQueue>) -> Submission {
    Submission::start_with(settings, Box::new(verify), ports(queue)).unwrap()
}

/// A TLS client that trusts only the certificate made in `certificates`.
pub(in crate::submission) fn tls_client(certificates: &Path) -> Arc<ClientConfig> {
    tls_client_of(certificates, rustls::DEFAULT_VERSIONS)
}

/// The same, with these versions of TLS alone.
pub(in crate::submission) fn tls_client_of(
    certificates: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (certificate, _) = tls::self_signed_paths(certificates);
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub(in crate::submission) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    None,
}

impl Read for ClientStream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            ClientStream::Plain(stream) => stream.read(buf),
            ClientStream::Tls(stream) => stream.read(buf),
            ClientStream::None => Ok(0),
        }
    }
}

/// A scripted client.
pub(in crate::submission) struct Player {
    stream: BufReader<ClientStream>,
}

impl Player {
    pub(in crate::submission) fn connect(address: SocketAddr) -> Player {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Player { stream: BufReader::new(ClientStream::Plain(stream)) }
    }

    /// From an address of its own, such as another one of 127.0.0.0/8.
    pub(in crate::submission) fn connect_from(source: [u8; 4], address: SocketAddr) -> Player {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Player { stream: BufReader::new(ClientStream::Plain(stream)) }
    }

    /// RFC 9266, from the client's side.
    pub(in crate::submission) fn channel_binding(&self) -> [u8; 32] {
        let ClientStream::Tls(stream) = self.stream.get_ref() else { panic!("no TLS") };
        stream.conn.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).unwrap()
    }

    pub(in crate::submission) fn start_tls(&mut self, config: Arc<ClientConfig>) {
        let ClientStream::Plain(stream) = std::mem::replace(self.stream.get_mut(), ClientStream::None) else {
            panic!("TLS twice")
        };
        let name = ServerName::try_from("relay.example").unwrap();
        let mut tls = StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).unwrap();
        }
        *self.stream.get_mut() = ClientStream::Tls(Box::new(tls));
    }

    pub(in crate::submission) fn send(&mut self, bytes: &[u8]) {
        match self.stream.get_mut() {
            ClientStream::Plain(stream) => stream.write_all(bytes).unwrap(),
            ClientStream::Tls(stream) => {
                stream.write_all(bytes).unwrap();
                stream.flush().unwrap();
            }
            ClientStream::None => panic!("no connection"),
        }
    }

    /// As [`Player::send`], to a server that may be gone.
    pub(in crate::submission) fn send_quietly(&mut self, bytes: &[u8]) {
        if let ClientStream::Plain(stream) = self.stream.get_mut() {
            let _ = stream.write_all(bytes);
        }
    }

    /// What would go over the wire for these bytes, and the socket under TLS to send it on as slowly as one likes.
    pub(in crate::submission) fn sealed(&mut self, bytes: &[u8]) -> (Vec<u8>, TcpStream) {
        let ClientStream::Tls(stream) = self.stream.get_mut() else { panic!("no TLS") };
        stream.conn.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut sealed).unwrap();
        }
        (sealed, stream.sock.try_clone().unwrap())
    }

    /// The handshake was an abbreviated one.
    pub(in crate::submission) fn resumed(&self) -> bool {
        let ClientStream::Tls(stream) = self.stream.get_ref() else { return false };
        stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// A line without its CR LF; none at the end of the connection.
    pub(in crate::submission) fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("waiting for the server: {error}"),
        }
        let line = String::from_utf8(line).unwrap();
        Some(line.strip_suffix("\r\n").expect("lines end in CR LF").to_owned())
    }

    /// The last line of a reply.
    pub(in crate::submission) fn reply(&mut self) -> String {
        loop {
            let line = self.line().expect("a reply");
            if line.as_bytes().get(3) == Some(&b' ') {
                return line;
            }
        }
    }

    /// Sends a command, gives the last line of its reply.
    pub(in crate::submission) fn command(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }
}

struct Dialogue {
    queue: Arc<MemoryQueue>,
    submission: Submission,
    player: Player,
    certificates: tempfile::TempDir,
}

fn set_up(listen: &str) -> Dialogue {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = settings(certificates.path());
    for option in listen.split_whitespace() {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || value.parse().unwrap();
        match (key, value) {
            ("tls", "starttls") => settings.listen[0].tls = ListenTls::Starttls,
            ("tls", "implicit") => settings.listen[0].tls = ListenTls::Implicit,
            ("tls", "off") => settings.listen[0].tls = ListenTls::Off,
            ("auth", "optional") => settings.listen[0].auth_required = false,
            ("trusted", _) => settings.listen[0].trusted = vec!["127.0.0.0/8".parse().unwrap()],
            ("size", _) => settings.limits.message_size = value.parse().unwrap(),
            ("errors", _) => settings.limits.errors = number(),
            ("recipients", _) => settings.limits.recipients = number(),
            ("hops", _) => settings.limits.received_hops = number(),
            ("auth_failures", _) => settings.limits.auth_failures = number(),
            ("session_ms", _) => {
                settings.limits.session_timeout = Duration::from_millis(value.parse().unwrap());
            }
            ("idle_ms", _) => settings.limits.idle_timeout = Duration::from_millis(value.parse().unwrap()),
            _ => panic!("unknown option {option}"),
        }
    }
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    let mut player = Player::connect(submission.addresses()[0]);
    if settings.listen[0].tls == ListenTls::Implicit {
        player.start_tls(tls_client(certificates.path()));
    }
    Dialogue { queue, submission, player, certificates }
}

/// `\r`, `\xHH` and the like, and `{text*count}`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escape = rest.chars().next().expect("an escape");
                rest = &rest[1..];
                match escape {
                    'r' => out.push(b'\r'),
                    'n' => out.push(b'\n'),
                    't' => out.push(b'\t'),
                    '0' => out.push(0),
                    'x' => {
                        out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                        rest = &rest[2..];
                    }
                    other => out.push(other as u8),
                }
            }
            '{' => {
                let (repeat, after) = rest.split_once('}').expect("a closing brace");
                let (text, count) = repeat.rsplit_once('*').expect("text*count");
                out.extend(unescape(text).repeat(count.parse().unwrap()));
                rest = after;
            }
            c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    out
}

/// An accepted message as a `queued` directive writes it.
fn shown(message: &NewMessage) -> String {
    let envelope = &message.envelope;
    let to: Vec<String> = envelope.recipients.iter().map(|r| format!("<{}>", r.address)).collect();
    let mut text = format!(
        "queued from=<{}> to={} body={}",
        envelope.sender.as_ref().map_or("", AsRef::as_ref),
        to.join(","),
        envelope.body.as_str()
    );
    let user = message.origin.user.as_deref();
    let (priority, by) = (envelope.handling.priority, envelope.handling.deliver_by);
    let released_at = envelope.handling.released_at(message.received_at);
    let parameters = [
        ("user", user.map(str::to_owned)),
        ("smtputf8", envelope.smtputf8.then(|| "1".to_owned())),
        ("ret", envelope.ret.map(|ret| Ret::as_str(ret).to_owned())),
        ("envid", envelope.envid.clone()),
        ("notify", envelope.recipients.first().and_then(|r| r.notify).map(Notify::to_word)),
        ("orcpt", envelope.recipients.first().and_then(|r| r.orcpt.clone())),
        ("expanded", envelope.recipients.first().and_then(|r| Expanded::to_text(&r.expanded))),
        ("requiretls", envelope.handling.require_tls.then(|| "1".to_owned())),
        ("priority", (priority != Priority::NORMAL).then(|| priority.to_string())),
        ("hold", envelope.handling.release.map(|release| release.asked.to_string())),
        // Seconds from the release.
        ("by", by.map(|by| format!("{};{}", by.at - released_at, by.mode()))),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            write!(text, " {name}={value}").unwrap();
        }
    }
    text
}

/// The content behind our Received field, as `Q: ` lines.
fn shown_content(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.pop(), Some(""), "content ends in CR LF");
    assert!(lines[0].starts_with("Received: from "), "{}", lines[0]);
    let behind =
        lines.iter().skip(1).position(|line| !line.starts_with(['\t', ' '])).map_or(lines.len(), |n| n + 1);
    lines[behind..]
        .iter()
        .map(|line| line.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
        .collect()
}

fn matches(expected: &str, found: &str) -> bool {
    match expected.strip_suffix('…') {
        Some(start) => found.starts_with(start),
        None => found == expected,
    }
}

fn play(script: &str) {
    let mut lines =
        script.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).peekable();
    let listen = match lines.peek() {
        Some((_, line)) if line.starts_with("* listen") => lines.next().map_or("", |(_, line)| &line[8..]),
        _ => "",
    };
    let mut dialogue = set_up(listen);
    let mut to_send = Vec::new();
    while let Some((number, line)) = lines.next() {
        let at = format!("line {}: {line}", number + 1);
        let (mark, rest) = line.split_at(2);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match mark {
            "C:" => to_send.extend([unescape(rest).as_slice(), b"\r\n"].concat()),
            "C|" => to_send.extend(unescape(rest)),
            "S:" => {
                let found = dialogue.player.line().unwrap_or_else(|| panic!("{at}\nthe connection ended"));
                assert!(matches(rest, &found), "{at}\nbut it was  S: {found}");
            }
            "* " => {
                let mut content = Vec::new();
                while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("Q:")) {
                    content.push(line[2..].strip_prefix(' ').unwrap_or("").to_owned());
                }
                direct(&mut dialogue, rest, &content, &at);
            }
            _ => panic!("{at}\nis no line of a dialogue"),
        }
        let more = matches!(lines.peek(), Some((_, next)) if next.starts_with('C'));
        if !more && !to_send.is_empty() {
            dialogue.player.send(&std::mem::take(&mut to_send));
        }
    }
    assert_eq!(
        dialogue.queue.accepted.lock().unwrap().len(),
        0,
        "messages were queued that the dialogue does not name"
    );
    drop(dialogue.player);
    dialogue.submission.stop(Duration::from_secs(10));
    assert_eq!(dialogue.queue.chunk_bytes(), 0, "chunks without a message are left");
}

fn direct(dialogue: &mut Dialogue, directive: &str, content: &[String], at: &str) {
    let word = directive.split(' ').next().unwrap_or_default();
    match word {
        "starttls" => dialogue.player.start_tls(tls_client(dialogue.certificates.path())),
        "closed" => assert_eq!(dialogue.player.line(), None, "{at}"),
        "reconnect" => dialogue.player = Player::connect(dialogue.submission.addresses()[0]),
        "full" => dialogue.queue.full.store(true, Ordering::SeqCst),
        "room" => dialogue.queue.full.store(false, Ordering::SeqCst),
        "fails" => dialogue.queue.failing.store(true, Ordering::SeqCst),
        "works" => dialogue.queue.failing.store(false, Ordering::SeqCst),
        "nothing" => assert_eq!(dialogue.queue.accepted.lock().unwrap().len(), 0, "{at}"),
        "queued" => {
            let mut accepted = dialogue.queue.accepted.lock().unwrap();
            assert!(!accepted.is_empty(), "{at}\nbut nothing was queued");
            let (message, found) = accepted.remove(0);
            assert_eq!(shown(&message), directive, "{at}");
            if !content.is_empty() {
                let found = shown_content(&found);
                let same =
                    found.len() == content.len() && content.iter().zip(&found).all(|(e, f)| matches(e, f));
                assert!(same, "{at}\nbut the content was\n{}", found.join("\n"));
            }
        }
        "kicked" => {
            let mut kicked = dialogue.queue.kicked.lock().unwrap();
            assert!(!kicked.is_empty(), "{at}\nbut nothing was kicked");
            let (kick, asker) = kicked.remove(0);
            let by = asker.user.unwrap_or_else(|| asker.client.unwrap().to_string());
            assert_eq!(format!("kicked {kick} by {by}"), directive, "{at}");
        }
        _ => panic!("{at}\nis no directive"),
    }
}

#[test]
fn dialogues() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() > 30, "dialogues are missing from {}", directory.display());
    let mut failed = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        if std::panic::catch_unwind(|| play(&script)).is_err() {
            failed.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    assert!(failed.is_empty(), "these dialogues went wrong (see above): {failed:?}");
}
