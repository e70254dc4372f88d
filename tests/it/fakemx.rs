//! A scripted receiving host: it says what the test tells it to, and remembers what it was told.
//!
//! ```text
//! let mx = FakeMx::start(Script::new().on(At::Rcpt("bad@"), Act::Say("550 5.1.1 no such user")));
//! … deliver to mx.address …
//! let messages = mx.wait_for_messages(1, SOON);
//! ```
//!
//! Without rules it greets, offers PIPELINING, SIZE, 8BITMIME and DSN, and takes everything. A rule
//! says what happens instead of the ordinary answer at one place of the dialogue; the first rule that
//! fits (and is not used up) holds. Real sockets on port 0, one thread a connection; nothing sleeps but [`Act::Later`].

#![allow(dead_code, reason = "a tool box: not every test uses every tool")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// Long enough for anything that should happen at once, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A place in the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Before the client has said anything.
    Greeting,
    Ehlo,
    Helo,
    Starttls,
    /// Instead of the handshake, once the client has begun it; the connection is over then.
    Handshake,
    Auth,
    Mail,
    /// RCPT whose line holds this text.
    Rcpt(&'static str),
    Data,
    /// After so many bytes of content, before its end. With `Act::Say` the rest is still read.
    Content(usize),
    /// At BDAT, before the chunk is read; what comes then is read as commands.
    Bdat,
    /// After the chunk of this number in its transaction, from 1; not for the last, which is [`At::Dot`].
    Chunk(usize),
    /// After the final dot, or the last chunk.
    Dot,
    Rset,
    Quit,
}

/// What happens there instead of the ordinary answer.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// A reply; CR LF is put behind it. A 2xx or 354 means to this host what it says.
    Say(&'static str),
    /// These bytes as they are.
    Raw(Vec<u8>),
    /// Nothing; the connection is closed, after what the client still has to say was read.
    Close,
    /// Nothing; the connection is reset: whatever the client says next fails.
    Reset,
    /// A reply, then the connection is closed.
    SayAndClose(&'static str),
    /// Nothing; the connection stays open and silent until the client closes it or the fake stops.
    Stall,
    /// Nothing more is read or said until the fake stops.
    Asleep,
    /// One byte of an endless reply each time this passes.
    Drip(Duration),
    /// After this time, the other.
    Later(Duration, Box<Act>),
}

#[derive(Debug, Clone)]
struct Rule {
    at: At,
    /// How many times it does not hold yet, over all connections.
    spare: Option<Arc<AtomicUsize>>,
    /// How many times more it holds, over all connections; none: always.
    times: Option<Arc<AtomicUsize>>,
    act: Act,
    /// Only where commands came together.
    batched: bool,
}

/// How a fake behaves on a connection.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    offers: Vec<String>,
    rules: Vec<Rule>,
    tls: Option<Arc<ServerConfig>>,
    implicit: bool,
    at_most: Option<(usize, &'static str)>,
    small_hellos: bool,
    gate: Option<Gate>,
}

/// Whoever holds logins against what is known: hears the AUTH command, asks with challenges (base 64; none: the
/// client is gone), and says the last reply.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Verify>);

type Verify = dyn Fn(&str, Ask<'_>) -> String + Send + Sync;

/// Sends a challenge and gives the response as it came.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&str) -> Option<String>;

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Script {
    /// Takes everything.
    pub(crate) fn new() -> Script {
        let offers = ["PIPELINING", "SIZE 50000000", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];
        let offers = offers.map(str::to_owned).to_vec();
        Script {
            offers,
            rules: Vec::new(),
            tls: None,
            implicit: false,
            at_most: None,
            small_hellos: false,
            gate: None,
        }
    }

    /// These EHLO keywords and no others (STARTTLS comes with [`Script::tls`]).
    pub(crate) fn offering(mut self, keywords: &[&str]) -> Script {
        self.offers = keywords.iter().map(|keyword| (*keyword).to_owned()).collect();
        self
    }

    /// Offers STARTTLS too, with this certificate.
    pub(crate) fn tls(mut self, certificate: &Certificate) -> Script {
        self.tls = Some(Arc::clone(&certificate.config));
        self
    }

    /// TLS from the first byte.
    pub(crate) fn implicit_tls(self, certificate: &Certificate) -> Script {
        Script { implicit: true, ..self.tls(certificate) }
    }

    /// Closes the connection on a ClientHello that is larger than middleboxes of old expected: on one with a
    /// post-quantum key share.
    pub(crate) fn small_hellos(self) -> Script {
        Script { small_hellos: true, ..self }
    }

    /// So many connections at once; those beyond hear this instead of a greeting.
    pub(crate) fn at_most(mut self, connections: usize, reply: &'static str) -> Script {
        self.at_most = Some((connections, reply));
        self
    }

    /// Logins are really verified: by this.
    pub(crate) fn gate(mut self, gate: impl Fn(&str, Ask<'_>) -> String + Send + Sync + 'static) -> Script {
        self.gate = Some(Gate(Arc::new(gate)));
        self
    }

    /// Always, at this place.
    pub(crate) fn on(mut self, at: At, act: Act) -> Script {
        self.rules.push(Rule { at, spare: None, times: None, act, batched: false });
        self
    }

    /// Always, at this place, once commands came together on the connection.
    pub(crate) fn in_a_batch(mut self, at: At, act: Act) -> Script {
        self.rules.push(Rule { at, spare: None, times: None, act, batched: true });
        self
    }

    /// The first `times` times, at this place, counted over all connections; then the next rule
    /// or the ordinary answer.
    pub(crate) fn first(mut self, times: usize, at: At, act: Act) -> Script {
        let times = Some(Arc::new(AtomicUsize::new(times)));
        self.rules.push(Rule { at, spare: None, times, act, batched: false });
        self
    }

    /// Always, at this place, but for the first `spared` times.
    pub(crate) fn after(mut self, spared: usize, at: At, act: Act) -> Script {
        let spare = Some(Arc::new(AtomicUsize::new(spared)));
        self.rules.push(Rule { at, spare, times: None, act, batched: false });
        self
    }

    /// Before all other rules.
    fn at_once(mut self, at: At, act: Act) -> Script {
        self.rules.insert(0, Rule { at, spare: None, times: None, act, batched: false });
        self
    }

    fn act(&self, batched: bool, fits: impl Fn(At) -> bool) -> Option<Act> {
        let used = |times: &Arc<AtomicUsize>| {
            times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        self.rules
            .iter()
            .find(|rule| {
                let is_spared = || rule.spare.as_ref().is_some_and(used);
                let is_meant = fits(rule.at) && (batched || !rule.batched);
                is_meant && !is_spared() && rule.times.as_ref().is_none_or(used)
            })
            .map(|rule| rule.act.clone())
    }
}

/// A certificate for some names, and the CA that vouches for it.
pub(crate) struct Certificate {
    config: Arc<ServerConfig>,
    /// The CA's certificate, for `ca_file`.
    pub(crate) ca_pem: String,
}

impl Certificate {
    /// Good for these names (or addresses), and for no others.
    pub(crate) fn for_names(names: &[&str]) -> Certificate {
        Certificate::on(names, rustls::crypto::aws_lc_rs::default_provider(), rustls::ALL_VERSIONS)
    }

    /// The same, on a server that knows no post-quantum key exchange.
    pub(crate) fn classical(names: &[&str]) -> Certificate {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        Certificate::on(names, provider, rustls::ALL_VERSIONS)
    }

    /// The same, on a server that knows no TLS 1.3.
    pub(crate) fn tls12(names: &[&str]) -> Certificate {
        Certificate::on(names, rustls::crypto::aws_lc_rs::default_provider(), &[&rustls::version::TLS12])
    }

    fn on(
        names: &[&str],
        provider: rustls::crypto::CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Certificate {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Certificate { config: Arc::new(config), ca_pem }
    }
}

/// A message that the fake answered for with 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Whether it came in TLS.
    pub(crate) tls: bool,
    /// The whole MAIL line.
    pub(crate) mail: String,
    /// The whole RCPT lines that were accepted.
    pub(crate) rcpts: Vec<String>,
    /// The content, dots undone, without the final dot.
    pub(crate) content: Vec<u8>,
}

/// What happened on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The client's IP address.
    pub(crate) client: String,
    /// The address of ours that it connected to.
    pub(crate) host: Option<IpAddr>,
    /// Every command line without its end, in order; challenge answers of AUTH too.
    pub(crate) commands: Vec<String>,
    /// What each read from the socket brought, before TLS is undone; shows what left in one write.
    pub(crate) reads: Vec<usize>,
    /// TLS was established.
    pub(crate) tls: bool,
    /// By resuming a session of an earlier connection.
    pub(crate) resumed: bool,
    /// Bytes of the ClientHello, where the fake looked.
    pub(crate) hello: usize,
    /// Commands came together.
    pub(crate) batched: bool,
    /// What the client wrote between 354 and the reply to the dot, as it came, the final dot too.
    pub(crate) raw_content: Vec<u8>,
    /// The connection is over.
    pub(crate) closed: bool,
}

impl Seen {
    /// The verbs of the commands: `["EHLO", "MAIL", …]`.
    pub(crate) fn verbs(&self) -> Vec<&str> {
        self.commands.iter().map(|line| line.split(' ').next().unwrap_or("")).collect()
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    messages: Vec<Message>,
    /// Of the connections that are open.
    sockets: Vec<Option<TcpStream>>,
    stopping: bool,
    /// Connections in dialogue, those not counted that were sent away; and the most there were.
    open: usize,
    most_open: usize,
    sent_away: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until<T>(&self, limit: Duration, what: &str, done: impl Fn(&State) -> Option<T>) -> T {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(result) = done(&state) {
                return result;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = std::mem::take(&mut state.seen);
                drop(state);
                panic!("waited {limit:?} for {what}; seen: {seen:#?}");
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// The running host; stops when dropped.
pub(crate) struct FakeMx {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl FakeMx {
    /// Behaves by `script` on every connection.
    pub(crate) fn start(script: Script) -> FakeMx {
        FakeMx::start_each(vec![script])
    }

    /// Behaves by the first script on the first connection and so on; the last holds for all that follow.
    pub(crate) fn start_each(scripts: Vec<Script>) -> FakeMx {
        FakeMx::start_at("127.0.0.1:0".parse().unwrap(), scripts)
    }

    /// The same, at this address (`127.0.0.2:2525`: hosts that share a port, as MX hosts do).
    pub(crate) fn start_at(address: SocketAddr, scripts: Vec<Script>) -> FakeMx {
        FakeMx::start_choosing(address, move |number, _| scripts[number.min(scripts.len() - 1)].clone())
    }

    /// Many hosts in one: behaves on every loopback address as `scripts` says for it.
    pub(crate) fn start_everywhere(port: u16, scripts: HashMap<IpAddr, Script>) -> FakeMx {
        let choose = move |_, host| match scripts.get(&host) {
            Some(script) => script.clone(),
            None => panic!("nobody is meant to be at {host}"),
        };
        FakeMx::start_choosing((Ipv4Addr::UNSPECIFIED, port).into(), choose)
    }

    /// The script for a connection: by its number, and the address of ours that it came to.
    fn start_choosing(
        address: SocketAddr,
        choose: impl Fn(usize, IpAddr) -> Script + Send + 'static,
    ) -> FakeMx {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let listener = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &choose, &shared)
        });
        FakeMx { address, shared, listener: Some(listener) }
    }

    /// No listener: behaves by `script` on this one connection.
    pub(crate) fn turned(opened: Opened, script: Script) -> FakeMx {
        let stream = match opened {
            Opened::Clear(tcp) => Stream { plain: Some(tcp), tls: None, turned: None },
            Opened::Tls(tls) => Stream { plain: None, tls: None, turned: Some(*tls) },
        };
        let shared = Arc::new(Shared::default());
        let tcp = stream.tcp().unwrap().try_clone().unwrap();
        let address = tcp.local_addr().unwrap();
        shared.change(|state| {
            state.sockets.push(Some(tcp));
            state.seen.push(Seen { tls: stream.turned.is_some(), ..Seen::default() });
        });
        let listener = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || play(0, script, shared, stream, false)
        });
        FakeMx { address, shared, listener: Some(listener) }
    }

    /// The messages taken so far, as soon as there are `count` of them. Panics after `limit`.
    pub(crate) fn wait_for_messages(&self, count: usize, limit: Duration) -> Vec<Message> {
        self.shared.wait_until(limit, &format!("{count} messages"), |state| {
            (state.messages.len() >= count).then(|| state.messages.clone())
        })
    }

    /// The messages taken so far.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.shared.state.lock().unwrap().messages.clone()
    }

    /// What happened on each connection so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// The same, as soon as there were `count` connections and all are over. Panics after `limit`.
    pub(crate) fn wait_for_closed(&self, count: usize, limit: Duration) -> Vec<Seen> {
        self.shared.wait_until(limit, &format!("{count} closed connections"), |state| {
            let closed = state.seen.iter().filter(|seen| seen.closed).count();
            (closed >= count && closed == state.seen.len()).then(|| state.seen.clone())
        })
    }

    /// The most connections that were in dialogue at once.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.state.lock().unwrap().most_open
    }

    /// How many connections were too many for [`Script::at_most`].
    pub(crate) fn sent_away(&self) -> usize {
        self.shared.state.lock().unwrap().sent_away
    }

    /// As soon as the fake has seen a command that begins with `start`, on any connection. Panics after `limit`.
    pub(crate) fn wait_for_command(&self, start: &str, limit: Duration) {
        self.shared.wait_until(limit, start, |state| {
            state
                .seen
                .iter()
                .flat_map(|seen| &seen.commands)
                .any(|line| line.starts_with(start))
                .then_some(())
        });
    }
}

impl Drop for FakeMx {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.stopping = true;
            for socket in state.sockets.iter().flatten() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        let _ = TcpStream::connect(self.address); // wakes accept()
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn accept(listener: &TcpListener, choose: &dyn Fn(usize, IpAddr) -> Script, shared: &Arc<Shared>) {
    let mut sessions = Vec::new();
    for tcp in listener.incoming() {
        let Ok(tcp) = tcp else { break };
        let Ok(host) = tcp.local_addr().map(|address| address.ip()) else { continue };
        let number = {
            let mut state = shared.state.lock().unwrap();
            if state.stopping {
                break;
            }
            state.sockets.push(Some(tcp.try_clone().unwrap()));
            let client = tcp.peer_addr().map_or_else(|_| String::new(), |peer| peer.ip().to_string());
            state.seen.push(Seen { client, host: Some(host), ..Seen::default() });
            state.seen.len() - 1
        };
        // Outside the lock: it may panic.
        let mut script = choose(number, host);
        let away = {
            let mut state = shared.state.lock().unwrap();
            let away = script.at_most.filter(|(most, _)| state.open >= *most).map(|(_, reply)| reply);
            state.open += usize::from(away.is_none());
            state.sent_away += usize::from(away.is_some());
            state.most_open = state.most_open.max(state.open);
            away
        };
        shared.changed.notify_all();
        if let Some(reply) = away {
            script = script.at_once(At::Greeting, Act::SayAndClose(reply));
        }
        let shared = Arc::clone(shared);
        sessions.push(std::thread::spawn(move || {
            tcp.set_nodelay(true).unwrap();
            let stream = Stream { plain: Some(tcp), tls: None, turned: None };
            play(number, script, shared, stream, away.is_none());
        }));
    }
    for session in sessions {
        session.join().unwrap();
    }
}

/// One connection from greeting to end; `counts` says whether it is one of [`State::open`].
fn play(number: usize, script: Script, shared: Arc<Shared>, stream: Stream, counts: bool) {
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

struct Stream {
    plain: Option<TcpStream>,
    tls: Option<StreamOwned<ServerConnection, TcpStream>>,
    /// A connection that this host opened as a client and turned round.
    turned: Option<StreamOwned<ClientConnection, TcpStream>>,
}

/// What a client has in its hands when it turns a connection round (ATRN).
pub(crate) enum Opened {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if let Some(turned) = &mut self.turned {
            return turned.read(room);
        }
        match (&mut self.tls, &mut self.plain) {
            (Some(tls), _) => tls.read(room),
            (None, Some(tcp)) => tcp.read(room),
            (None, None) => Ok(0),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(turned) = &mut self.turned {
            return turned.write_all(bytes).and_then(|()| turned.flush());
        }
        match (&mut self.tls, &mut self.plain) {
            (Some(tls), _) => tls.write_all(bytes).and_then(|()| tls.flush()),
            (None, Some(tcp)) => tcp.write_all(bytes),
            (None, None) => Ok(()),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        let turned = self.turned.as_ref().map(|turned| &turned.sock);
        turned.or(self.tls.as_ref().map(|tls| &tls.sock)).or(self.plain.as_ref())
    }

    fn shutdown(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = tcp.shutdown(Shutdown::Write);
            // What the client has sent and nobody read would turn the close into a reset, which can
            // overtake the last reply.
            let _ = tcp.set_read_timeout(Some(Duration::from_millis(500)));
            let mut reader = tcp;
            let _ = io::copy(&mut reader, &mut io::sink());
        }
    }
}

/// A ClientHello that is larger has a post-quantum key share (1,216 bytes).
const LARGE_HELLO: usize = 1000;

/// How long the record is that begins what the client sends next; it stays unread.
fn first_record(tcp: &TcpStream) -> io::Result<usize> {
    let mut head = [0; 5];
    let until = Instant::now() + SOON;
    loop {
        match tcp.peek(&mut head)? {
            5 => return Ok(usize::from(u16::from_be_bytes([head[3], head[4]]))),
            0 => return Ok(0),
            // The rest is on its way: what was looked at is there still, so that looking again would not wait.
            _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            _ => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
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
        let (mail, rcpts) = (self.mail.take().unwrap_or_default(), std::mem::take(&mut self.rcpts));
        let content = std::mem::take(&mut self.chunked);
        self.chunks = 0;
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
        let words = match &act {
            None => ordinary.to_owned(),
            Some(Act::Say(reply) | Act::SayAndClose(reply)) => (*reply).to_owned(),
            Some(Act::Raw(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Some(_) => String::new(),
        };
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
