//! What sessions cost: memory of 1,000 idle ones, the answer to the one too many, and the peak of memory while
//! 20 clients send 25 MB each and all of it is delivered.
//!
//! `cargo bench --bench sessions` starts the binary of this build, each measurement in a fresh process, and
//! reads its resident memory from /proc (Linux only). The bars: 60 KB an idle session, whatever it did
//! before; 80 MB while the big messages come. Exit code 1 where one is missed.

#[path = "relay/sink.rs"]
#[allow(dead_code, reason = "the other benchmark asks it more")]
mod sink;
#[path = "relay/stream.rs"]
#[allow(dead_code, reason = "what the sink does not use of it")]
mod stream;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use sink::Sink;

const SESSIONS: usize = 1000;
const IDLE_SESSION_KB_MAX: f64 = 60.0;
const BIG_CLIENTS: usize = 20;
const BIG_BYTES: usize = 25_000_000;
const PEAK_MB_MAX: f64 = 80.0;
/// Of the 1,001st client: "at once", on a machine that is busy with a thousand others.
const ANSWER_MAX: Duration = Duration::from_secs(1);

fn main() {
    rlimit::increase_nofile_limit(8192).expect("descriptors for a thousand clients");
    let mut missed = false;
    println!("{SESSIONS} idle sessions, resident memory of the relay:");
    for (name, tls, mails) in [
        ("clear, EHLO said", false, 0),
        ("TLS, authenticated", true, 0),
        ("clear, a mail of 100 KB sent before", false, 1),
        ("TLS, authenticated, a mail of 100 KB sent before", true, 1),
    ] {
        missed |= !idle(name, tls, mails);
    }
    missed |= !big();
    std::process::exit(i32::from(missed));
}

/// Opens a thousand sessions, each having sent so many mails, and looks at what they hold while they wait.
fn idle(name: &str, tls: bool, mails: usize) -> bool {
    let relay = Relay::start();
    let config = tls_config(&relay);
    let open = || -> io::Result<Client> {
        let stream = TcpStream::connect(if tls { relay.implicit } else { relay.clear })?;
        let mut client = if tls { Client::tls(stream, &config)? } else { Client::clear(stream) };
        client.expect("220")?;
        client.say("EHLO client.test", "250")?;
        if tls {
            client.say("AUTH PLAIN AGFwcABzZWNyZXQgcGFzcw==", "235")?;
        }
        for _ in 0..mails {
            client.send_mail(100_000)?;
        }
        Ok(client)
    };
    // What the process needs once and not again (the password's proof, the first pages of everything).
    drop(open().expect("a first session"));
    relay.wait_for_delivery(mails);
    let before = relay.memory("VmRSS");
    let mut sessions = Vec::with_capacity(SESSIONS);
    let start = Instant::now();
    while sessions.len() < SESSIONS {
        match open() {
            Ok(client) => sessions.push(client),
            // Sessions that were here before may take a moment to go.
            Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{}: {error}", sessions.len()),
        }
    }
    relay.wait_for_delivery(mails * (SESSIONS + 1));
    let each = (relay.memory("VmRSS") - before) / SESSIONS as f64;
    let start = Instant::now();
    let mut refused = String::new();
    // One too many. Under TLS from the first byte there is nothing to say before the handshake: it is closed.
    let stream = TcpStream::connect(relay.clear).expect("the listener accepts");
    BufReader::new(stream).read_line(&mut refused).expect("an answer");
    let answered = start.elapsed();
    let fine = each <= IDLE_SESSION_KB_MAX && refused.starts_with("421 ") && answered < ANSWER_MAX;
    println!(
        "  {name:<50} {each:>6.1} KB each (aim: under {IDLE_SESSION_KB_MAX} KB; {:.1} MB in all); one more: {} \
         after {:.1} ms{}",
        relay.memory("VmRSS") / 1000.0,
        refused.trim_end(),
        answered.as_secs_f64() * 1000.0,
        if fine { "" } else { "  MISSED" }
    );
    fine
}

/// Big messages at once, delivered at once too.
fn big() -> bool {
    let relay = Relay::start();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..BIG_CLIENTS {
            scope.spawn(|| {
                let mut client = Client::clear(TcpStream::connect(relay.clear).expect("connect"));
                let sent: io::Result<()> = (|| {
                    client.expect("220")?;
                    client.say("EHLO client.test", "250")?;
                    client.send_mail(BIG_BYTES)
                })();
                sent.expect("a big message is taken");
            });
        }
    });
    let taken = start.elapsed();
    relay.wait_for_delivery(BIG_CLIENTS);
    let peak = relay.memory("VmHWM") / 1000.0;
    let fine = peak <= PEAK_MB_MAX;
    println!(
        "{BIG_CLIENTS} clients send {} MB each: peak {peak:.1} MB (bar: {PEAK_MB_MAX} MB); taken in {:.1} s, delivered in \
         {:.1} s{}",
        BIG_BYTES / 1_000_000,
        taken.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        if fine { "" } else { "  MISSED" }
    );
    fine
}

/// The binary with a config and a queue of its own, and a sink for what it delivers.
struct Relay {
    child: Child,
    clear: SocketAddr,
    implicit: SocketAddr,
    sink: Sink,
    directory: tempfile::TempDir,
}

impl Relay {
    fn start() -> Relay {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory under target/");
        let path = |name: &str| directory.path().join(name);
        let sink = Sink::start();
        let (clear, implicit) = (free_address(), free_address());
        let key = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
        fs::write(path("cert.pem"), key.cert.pem()).expect("write the certificate");
        fs::write(path("key.pem"), key.signing_key.serialize_pem()).expect("write the key");
        let text = format!(
            "hostname = \"relay.test\"\n\
             [queue]\npath = {:?}\n[users]\nfile = {:?}\n[tls]\ncertificate = {:?}\nkey = {:?}\n\
             [limits]\nsessions = {SESSIONS}\nsessions_per_client = {SESSIONS}\n\
             [[listen]]\naddress = \"{clear}\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n\
             [[listen]]\naddress = \"{implicit}\"\ntls = \"implicit\"\n\
             [[route]]\ndomain = \"*\"\nrelay = [\"[127.0.0.1]:{}\"]\ntls = \"off\"\n",
            path("queue.db"),
            path("users"),
            path("cert.pem"),
            path("key.pem"),
            sink.address.port()
        );
        fs::write(path("postrider.toml"), text).expect("write the config");
        let command = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
            command.args(arguments).arg("--config").arg(path("postrider.toml")).stdout(Stdio::null());
            command
        };
        let mut add = command(&["user", "add", "app", "--password-stdin"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("user add");
        let mut stdin = add.stdin.take().expect("piped above");
        stdin.write_all(b"secret pass\n").expect("the password is read");
        drop(stdin);
        assert!(add.wait().expect("user add").success());
        let log = fs::File::create(path("log")).expect("create the log");
        let child = command(&["serve"]).stderr(log).spawn().expect("start postrider");
        let relay = Relay { child, clear, implicit, sink, directory };
        let start = Instant::now();
        while [clear, implicit].into_iter().any(|address| TcpStream::connect(address).is_err()) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "it does not listen; see {:?}",
                relay.directory
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        relay
    }

    /// A line of /proc/PID/status, in KB of 1,000 bytes.
    fn memory(&self, what: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc is there");
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect(what);
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kib * 1.024
    }

    fn wait_for_delivery(&self, messages: usize) {
        self.sink.wait_for(messages, Duration::from_secs(300));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

struct Client {
    reader: BufReader<Stream>,
}

impl Client {
    fn clear(stream: TcpStream) -> Client {
        Client { reader: BufReader::with_capacity(1024, Stream::Clear(stream)) }
    }

    fn tls(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Client> {
        let name = ServerName::try_from("relay.test").expect("a name");
        let connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        let mut tls = StreamOwned::new(connection, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Client { reader: BufReader::with_capacity(1024, Stream::Tls(Box::new(tls))) })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.reader.get_mut() {
            Stream::Clear(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn say(&mut self, line: &str, code: &str) -> io::Result<()> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(code)
    }

    fn expect(&mut self, code: &str) -> io::Result<()> {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if !line.starts_with(code) {
                return Err(io::Error::other(format!("wanted {code}, got {line:?}")));
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    }

    fn send_mail(&mut self, bytes: usize) -> io::Result<()> {
        self.say("MAIL FROM:<a@client.test>", "250")?;
        self.say("RCPT TO:<b@sink.test>", "250")?;
        self.say("DATA", "354")?;
        let block = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(1000);
        self.write(b"Subject: big\r\n\r\n")?;
        let mut left = bytes;
        while left > 0 {
            let piece = &block[..left.next_multiple_of(64).min(block.len())];
            self.write(piece)?;
            left = left.saturating_sub(piece.len());
        }
        self.say(".", "250")
    }
}

/// Trusts the relay's own certificate.
fn tls_config(relay: &Relay) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    let file = relay.directory.path().join("cert.pem");
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(file).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

/// An address whose port was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
