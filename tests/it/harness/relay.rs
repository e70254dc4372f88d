//! The relay as a user runs it: the built binary in a directory of its own, with a small world round it.
//!
//! ```text
//! let mut world = World::new();
//! let mx = world.host("a.test", Script::new());          // MX and address in the DNS, a host that takes mail
//! let relay = world.relay(Config::new().retry(&["1s"]));
//! relay.submit("me@app.test", &["you@a.test"], b"Subject: hello\r\n\r\nhello\r\n");
//! let messages = mx.wait_for_messages(1, SOON);
//! ```
//!
//! Hosts stand on addresses of their own in 127.0.0.0/8 and share one port, as MX hosts do. Nothing here
//! sleeps for a guessed time: what is waited for is asked for again and again, until a deadline. The log of a
//! relay is printed when its test fails.

#![allow(dead_code, reason = "a tool box: not every test uses every tool")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::OpenFlags;

use crate::harness::certificate_files;
pub use crate::harness::certificate_files::write_secret;
pub use crate::harness::client::{Client, mail};
pub use crate::harness::db::Db;
use crate::harness::fakemx::SOON;
pub use crate::harness::world::World;

/// What the relay calls itself.
pub const HOSTNAME: &str = "relay.test";
/// Who may log in.
pub const USER: &str = "app";
/// With what: characters that shells and configs like to eat. (ASCII: smtplib cannot send others.)
pub const PASSWORD: &str = "pass word/$1";
/// How often a condition is looked at again.
const TICK: Duration = Duration::from_millis(20);

/// A port that is free on every loopback address. It lies below the range from which the system takes ports
/// for connections, so nobody gets it by chance before it is used; and in a block that is this process's alone, so
/// that test processes that run at the same time are not in each other's way.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const BLOCK: u16 = 100;
    const BLOCKS: u16 = 200;
    /// The ports of the block at hand, and the locks of all blocks taken so far: they go when the process ends.
    static PORTS: Mutex<(Range<u16>, Vec<File>)> = Mutex::new((0..0, Vec::new()));
    let mut ports = PORTS.lock().unwrap();
    loop {
        let (block, taken) = &mut *ports;
        if let Some(port) = block.next() {
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return port;
            }
            continue;
        }
        let claimed = (0..BLOCKS).find_map(|number| {
            let name = std::env::temp_dir().join(format!("postrider-it-ports-{number}"));
            let file = File::options().create(true).append(true).open(name).ok()?;
            file.try_lock().ok().map(|()| (number, file))
        });
        let (number, file) = claimed.expect("no port is free");
        *block = FIRST + number * BLOCK..FIRST + (number + 1) * BLOCK;
        taken.push(file);
    }
}

/// Asks until the answer is there; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(TICK);
    }
}

/// Says something that whoever runs the tests should see, also when all goes well: what print macros say is
/// shown for failed tests only.
pub fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A config file in the making. Whatever is not set is small and quick rather than Postrider's default.
#[derive(Debug, Clone)]
pub struct Config {
    values: BTreeMap<String, String>,
    /// Those of which there may be several.
    tables: String,
}

impl Config {
    /// One retry an hour from now, so that nothing happens twice unless a test wants it.
    pub fn new() -> Config {
        let config = Config { values: BTreeMap::new(), tables: String::new() };
        config
            .retry(&["1h"])
            .set("hostname", format!("\"{HOSTNAME}\""))
            .set("delivery.prohibited_networks", "[\"!127.0.0.0/8\", \"!::1\"]")
            .set("delivery.workers", "32")
            .set("delivery.connect_timeout", "\"5s\"")
            .set("delivery.reply_timeout", "\"20s\"")
            .set("dns.timeout", "\"2s\"")
            // The zones of most tests are not signed.
            .set("delivery.dane", "false")
    }

    /// `section.key = value`, the value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Config {
        self.values.insert(key.to_owned(), value.into());
        self
    }

    /// `[retry] schedule`.
    #[must_use]
    pub fn retry(self, schedule: &[&str]) -> Config {
        self.set("retry.schedule", format!("{schedule:?}"))
    }

    /// A `[[route]]` with these lines.
    #[must_use]
    pub fn route(self, lines: &str) -> Config {
        self.table("route", lines)
    }

    /// One more `[[listen]]` with these lines.
    #[must_use]
    pub fn listener(self, lines: &str) -> Config {
        self.table("listen", lines)
    }

    /// A `[[destination]]` with these lines.
    #[must_use]
    pub fn destination(self, lines: &str) -> Config {
        self.table("destination", lines)
    }

    /// A `[[source]]` with these lines.
    #[must_use]
    pub fn source(self, lines: &str) -> Config {
        self.table("source", lines)
    }

    /// A `[[dkim]]` with these lines.
    #[must_use]
    pub fn dkim(self, lines: &str) -> Config {
        self.table("dkim", lines)
    }

    /// A `[[retry.rule]]` with these lines.
    #[must_use]
    pub fn rule(self, lines: &str) -> Config {
        self.table("retry.rule", lines)
    }

    /// Without the tables of which there may be several.
    #[must_use]
    pub fn without_tables(mut self) -> Config {
        self.tables.clear();
        self
    }

    fn table(mut self, name: &str, lines: &str) -> Config {
        self.tables.push_str(&format!(
            "
[[{name}]]
{lines}
"
        ));
        self
    }

    /// Leaves a key to Postrider's default.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Config {
        self.values.remove(key);
        self
    }

    fn text(&self, listeners: &str) -> String {
        let mut sections: BTreeMap<&str, String> = BTreeMap::new();
        for (key, value) in &self.values {
            let (section, key) = key.split_once('.').unwrap_or(("", key));
            sections.entry(section).or_default().push_str(&format!("{key} = {value}\n"));
        }
        // The keys without a section come first in TOML, and "" sorts first.
        let mut text = String::new();
        for (section, lines) in sections {
            if !section.is_empty() {
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.push_str(&lines);
        }
        text + listeners + &self.tables
    }
}

/// A relay: its directory, and the process while it runs.
pub struct Relay {
    folder: tempfile::TempDir,
    config: Config,
    /// The database.
    queue: PathBuf,
    child: Option<Child>,
    /// In the clear, loopback trusted.
    pub clear: SocketAddr,
    /// STARTTLS, AUTH required.
    pub starttls: SocketAddr,
    /// TLS from the first byte, AUTH required.
    pub implicit: SocketAddr,
}

impl Relay {
    /// Writes config, certificate and users, starts the binary and waits until it listens.
    pub fn start(config: Config) -> Relay {
        let mut relay = Relay::prepare(config);
        relay.add_user();
        relay.spawn();
        relay.wait_until_ready();
        relay
    }

    /// Everything but the start.
    pub fn prepare(config: Config) -> Relay {
        Relay::prepare_with_queue_in(None, config)
    }

    /// With the database in another directory than the rest.
    pub fn prepare_with_queue_in(directory: Option<&Path>, config: Config) -> Relay {
        let folder = tempfile::Builder::new().prefix("postrider-it-").tempdir().unwrap();
        let queue = directory.unwrap_or(folder.path()).join("queue.db");
        certificate_files::write(folder.path());
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (clear, starttls, implicit) = (address(), address(), address());
        let file = |name: &str| format!("{:?}", folder.path().join(name));
        let config = config
            .set("queue.path", format!("{queue:?}"))
            .set("users.file", file("users"))
            .set("tls.certificate", file("cert.pem"))
            .set("tls.key", file("key.pem"));
        let relay = Relay { folder, config, queue, child: None, clear, starttls, implicit };
        relay.write_config(&relay.config);
        relay
    }

    /// A file of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it was started with, to be changed and given to [`Relay::write_config`].
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Replaces the config file; the listeners stay.
    pub fn write_config(&self, config: &Config) {
        let listeners = format!(
            "\n[[listen]]\naddress = \"{}\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n\
             \n[[listen]]\naddress = \"{}\"\ntls = \"starttls\"\n\
             \n[[listen]]\naddress = \"{}\"\ntls = \"implicit\"\n",
            self.clear, self.starttls, self.implicit
        );
        write_secret(&self.path("postrider.toml"), &config.text(&listeners));
    }

    /// The binary with `arguments` and this relay's config.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(arguments).arg("--config").arg(self.path("postrider.toml"));
        // What the machine's user has set must not change what is logged.
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").current_dir(self.folder.path());
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run_to_end(self.command(arguments), b"")
    }

    /// The standard output of a run that must succeed.
    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a run that must succeed prints with `--json`: one value, or a line each.
    pub fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let text = self.run_ok(&[arguments, &["--json"]].concat());
        let values: Result<Vec<_>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        match values.unwrap_or_else(|error| panic!("{error}: {text}")).as_mut_slice() {
            [serde_json::Value::Array(lines)] => std::mem::take(lines),
            values => values.to_vec(),
        }
    }

    pub fn add_user(&self) {
        self.add_user_with(USER, &[]);
    }

    /// `user add`, with more arguments; the password is [`PASSWORD`].
    pub fn add_user_with(&self, name: &str, arguments: &[&str]) {
        let arguments = [&["user", "add", name, "--password-stdin"], arguments].concat();
        let output = run_to_end(self.command(&arguments), PASSWORD.as_bytes());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "user add: {}: {stderr}", output.status);
    }

    /// Starts the process; it may not listen yet.
    pub fn spawn(&mut self) {
        self.spawn_logging("info");
    }

    /// The same, with this much in the log: `debug` shows the dialogues.
    pub fn spawn_logging(&mut self, level: &str) {
        self.spawn_with(&[("RUST_LOG", level)]);
    }

    /// With these in its environment.
    pub fn spawn_with(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.spawn_logging_to(environment, log);
    }

    /// The same, with its log going there.
    pub fn spawn_logging_to(&mut self, environment: &[(&str, &str)], log: impl Into<Stdio>) {
        let mut command = self.command(&["serve"]);
        command.envs(environment.iter().copied());
        self.spawn_command(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
    }

    /// Starts it with this command, which becomes the relay.
    pub fn spawn_command(&mut self, command: &mut Command) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(command.spawn().unwrap());
    }

    /// Under strace, which stands aside (`-D`): the child is the relay itself.
    pub fn spawn_under_strace(&mut self, arguments: &[&str]) {
        let serve = self.command(&["serve"]);
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-q"]).args(arguments).arg("--");
        command.arg(serve.get_program()).args(serve.get_args());
        command.env_remove("NOTIFY_SOCKET").env("RUST_LOG", "info").current_dir(self.folder.path());
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.spawn_command(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        if self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
            self.child = None;
        }
        self.child.is_some()
    }

    /// Returns when every listener listens.
    pub fn wait_until_ready(&mut self) {
        for address in [self.clear, self.starttls, self.implicit] {
            wait_for(&format!("the relay to listen on {address}"), SOON, || {
                let child = self.child.as_mut().expect("it was started");
                if let Some(status) = child.try_wait().unwrap() {
                    self.child = None;
                    panic!("the relay ended at once: {status}");
                }
                TcpStream::connect(address).ok()
            });
        }
    }

    /// Sends a signal (`TERM`, `HUP`) to the process.
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        // The shell's own `kill`: sending a signal takes unsafe code or one more dependency.
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
        assert!(status.success());
    }

    /// SIGTERM, which comes too late where the process has just ended by itself.
    pub fn terminate(&self) {
        if let Some(child) = &self.child {
            let _ = Command::new("sh").arg("-c").arg(format!("kill {} 2>/dev/null", child.id())).status();
        }
    }

    /// SIGTERM; the process must end by itself, with exit code 0, within `limit`.
    pub fn stop_within(&mut self, limit: Duration) {
        self.signal("TERM");
        let status = self.wait_for_exit(limit);
        assert!(status.success(), "after SIGTERM: {status}");
    }

    pub fn stop(&mut self) {
        self.stop_within(SOON);
    }

    /// Starts it again and waits until it listens.
    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// The exit code of a process that ends by itself.
    pub fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = wait_for("the relay to end", limit, || child.try_wait().unwrap());
        self.child = None;
        status
    }

    /// Of the process that runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What it logged so far, over all starts. A thread of the relay's writes it, a moment after what it tells of, so
    /// this returns when nothing more comes.
    pub fn log(&self) -> String {
        let read = || std::fs::read(self.path("log")).unwrap_or_default();
        let mut log = read();
        for _ in 0..50 {
            std::thread::sleep(TICK);
            let longer = read();
            if longer.len() == log.len() {
                break;
            }
            log = longer;
        }
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The lines of the log that have all of these: keys with their values, or words of [`super::log`].
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let log = self.log();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(has_all).map(str::to_owned).collect()
    }

    /// The queue, to be read.
    pub fn db(&self) -> Db {
        Db::open(&self.queue, OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// The queue, to be written as an operator writes it.
    pub fn db_for_writing(&self) -> Db {
        Db::open(&self.queue, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Asks the queue until the answer is there; panics after `limit` with what the queue holds.
    pub fn wait_until<T>(&self, what: &str, limit: Duration, ask: impl Fn(&Db) -> Option<T>) -> T {
        let db = self.db();
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = ask(&db) {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited {limit:?} for {what}; the queue:\n{}", db.dump());
            std::thread::sleep(TICK);
        }
    }

    /// Returns when no recipient waits.
    pub fn wait_until_empty(&self) {
        self.wait_until("an empty queue", SOON, |db| {
            (db.number("SELECT count(*) FROM recipients", []) == 0).then_some(())
        });
    }

    /// A session on the clear listener, EHLO said.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.clear).expect("the relay listens");
        client.expect("EHLO app.test", "250");
        client
    }

    /// Submits one message on a session of its own; the queue id of the 250 reply.
    pub fn submit(&self, sender: &str, recipients: &[&str], content: &[u8]) -> String {
        let mut client = self.client();
        let id = client.submit(sender, recipients, content);
        client.expect("QUIT", "221");
        id
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(20_000).map_or(0, |(at, _)| at);
            eprintln!("---- the relay's log (the end of it):\n{}\n----", &log[from..]);
        }
    }
}

/// Runs a command to its end with this on its standard input; it may take [`SOON`].
pub fn run_to_end(mut command: Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped above");
    // It may end without reading.
    let _ = stdin.write_all(input);
    drop(stdin);
    let pid = child.id();
    let (done, is_done) = crossbeam_channel::bounded::<()>(0);
    let watchdog = std::thread::spawn(move || {
        if is_done.recv_timeout(SOON) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {pid}")).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}
