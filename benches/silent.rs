//! What hosts that never speak cost the others.
//!
//! `cargo bench --bench silent` sends 2,000 messages to 20 good destinations, alone and again while others, new to
//! the relay, accept every connection and say nothing: 20 messages wait for each of them. It prints both times
//! (the median of three rounds), how many workers the silent ones hold meanwhile, and how many delivery threads
//! there are at most; then, where the workers are enough for one try of each of the silent ones, when the deadline
//! has given the workers back and how many threads are left when nobody needs them any more. A line for `new`
//! tells how fast mail for 1,000 destinations goes that nobody knows and that are good.
//!
//! `SILENT=100,300,1000` and `DELAY_MS=0,20` (of each reply of a good host) pick; `COLD=1` leaves out what came
//! before, so that the good destinations are as new as the silent ones: the worst case, in which those that have
//! not had a turn wait for a deadline.
//! Bar: 100 silent ones cost at most 20 %. Machines are noisy: it prints, and asserts nothing but arrival.
//!
//! All is on loopback: each destination is an address literal below 127.0.0.0/8, and so a lane and a host of its
//! own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const GOOD: usize = 20;
const MESSAGES: usize = 2_000;
const TO_EACH_SILENT: usize = 20;
const NEW: usize = 1_000;
const SESSIONS: usize = 20;
const WORKERS: usize = 128;
/// `[delivery] reply_timeout`: how long a silent host holds a worker.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long an idle worker stays, and a little.
const IDLE: Duration = Duration::from_secs(35);
/// Past this something stands still.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let _ = rlimit::increase_nofile_limit(20_000);
    println!("{MESSAGES} messages to {GOOD} good destinations, {WORKERS} workers, deadline {DEADLINE:?}");
    println!(
        "{:>8} {:>7} {:>8} {:>8} {:>7} {:>6} {:>8} {:>10} {:>8}",
        "delay ms", "silent", "alone s", "with s", "ratio", "held", "threads", "free after", "threads"
    );
    for delay in numbers("DELAY_MS", "0,20") {
        for silent in numbers("SILENT", "100,300,1000") {
            measure(Duration::from_millis(delay as u64), silent);
        }
        newsletter(Duration::from_millis(delay as u64));
    }
}

fn numbers(name: &str, default: &str) -> Vec<usize> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(|part| part.parse().unwrap_or_else(|_| panic!("{name} is numbers"))).collect()
}

fn measure(delay: Duration, silent: usize) {
    let arrived = Arrived::default();
    let port = listen(Ipv4Addr::new(127, 2, 0, 1), 0).local_addr().expect("a port").port();
    let good: Vec<Ipv4Addr> = (0..GOOD).map(|n| address(2, n)).collect();
    good.iter().for_each(|ip| answer(listen(*ip, port), delay, &arrived));
    // Nobody accepts: the kernel does, and then there is silence.
    let hosts: Vec<Ipv4Addr> = (0..silent).map(|n| address(1, n)).collect();
    let _silent: Vec<TcpListener> = hosts.iter().map(|ip| listen(*ip, port)).collect();
    let relay = Relay::start(port);

    let is_cold = std::env::var("COLD").is_ok();
    let mut alone = Vec::new();
    if !is_cold {
        relay.deliver(&good, &arrived);
        alone = (0..3).map(|_| relay.deliver(&good, &arrived)).collect();
    }
    for _ in 0..TO_EACH_SILENT {
        relay.submit(1, 1, &hosts);
    }
    let began = Instant::now();
    let mut held = relay.held();
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(50));
        if relay.held() > held {
            (held, since) = (relay.held(), Instant::now());
        }
    }
    let with = (0..3).map(|_| relay.deliver(&good, &arrived)).collect();
    let (alone, with) = (median(alone), median(with));
    let threads = relay.threads();
    print!(
        "{:>8} {silent:>7} {alone:>8.2} {with:>8.2} {:>6.0}% {held:>6} {threads:>8}",
        delay.as_millis(),
        100.0 * with / alone
    );
    if silent > held {
        // Each that ends makes room for the next.
        println!(" {:>10} {:>8}", "-", "-");
        return;
    }
    while relay.held() > 0 {
        assert!(began.elapsed() < PATIENCE, "the deadline has not freed the workers");
        std::thread::sleep(Duration::from_millis(100));
    }
    let free_after = began.elapsed().as_secs_f64();
    std::thread::sleep(IDLE);
    println!(" {free_after:>10.1} {:>8}", relay.threads());
}

/// One message for each of many destinations that are new and good.
fn newsletter(delay: Duration) {
    let arrived = Arrived::default();
    let port = listen(Ipv4Addr::new(127, 3, 0, 1), 0).local_addr().expect("a port").port();
    let hosts: Vec<Ipv4Addr> = (0..NEW).map(|n| address(3, n)).collect();
    hosts.iter().for_each(|ip| answer(listen(*ip, port), delay, &arrived));
    let relay = Relay::start(port);
    let began = Instant::now();
    // Ten messages with a hundred recipients each: accepting them takes no time.
    hosts.chunks(NEW / 10).for_each(|part| relay.submit(1, 1, part));
    arrived.wait_for(NEW);
    let took = began.elapsed().as_secs_f64();
    println!("{:>8} {:>7} {took:>8.2} {:>31} threads", delay.as_millis(), "new", relay.threads());
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn address(net: u8, n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, net, (n / 250) as u8, (n % 250 + 1) as u8)
}

fn listen(ip: Ipv4Addr, port: u16) -> TcpListener {
    TcpListener::bind((ip, port)).unwrap_or_else(|error| panic!("listen on {ip}:{port}: {error}"))
}

/// How many messages have arrived.
#[derive(Clone, Default)]
struct Arrived(Arc<(Mutex<usize>, Condvar)>);

impl Arrived {
    fn count(&self) -> usize {
        *self.0.0.lock().expect("count")
    }

    fn one(&self) {
        *self.0.0.lock().expect("count") += 1;
        self.0.1.notify_all();
    }

    fn wait_for(&self, wanted: usize) {
        let count = self.0.0.lock().expect("count");
        let waited = self.0.1.wait_timeout_while(count, PATIENCE, |count| *count < wanted).expect("count");
        assert!(!waited.1.timed_out(), "only {} of {wanted} messages arrived in {PATIENCE:?}", waited.0);
    }
}

/// A good host, until the process ends.
fn answer(listener: TcpListener, delay: Duration, arrived: &Arrived) {
    let arrived = arrived.clone();
    let small = || std::thread::Builder::new().stack_size(64 * 1024);
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let arrived = arrived.clone();
            // A relay that ends breaks its connections off: that is the end of that one only.
            let serve = move || drop(serve(&stream, delay, &arrived));
            small().spawn(serve).expect("a thread for the connection");
        }
    };
    small().spawn(accept).expect("a thread for the host");
}

fn serve(stream: &TcpStream, delay: Duration, arrived: &Arrived) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut writer, mut reader) = (stream, BufReader::new(stream));
    let mut line = String::new();
    let mut replies = "220 good.test ESMTP\r\n".to_owned();
    loop {
        // What came together is answered together.
        if reader.buffer().is_empty() {
            std::thread::sleep(delay);
            writer.write_all(replies.as_bytes())?;
            replies.clear();
        }
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.get(..4) {
            Some("EHLO") => replies.push_str("250-good.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
            Some("DATA") => {
                writer.write_all(format!("{replies}354 go\r\n").as_bytes())?;
                replies.clear();
                while line != ".\r\n" {
                    line.clear();
                    if reader.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
                arrived.one();
                replies.push_str("250 2.0.0 ok\r\n");
            }
            _ => replies.push_str("250 2.0.0 ok\r\n"),
        }
    }
}

/// The binary of this build on a fresh queue. Ends with this value.
struct Relay {
    process: Child,
    submission: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Relay {
    /// Hosts are spoken to on this port.
    fn start(port: u16) -> Relay {
        // On a real disk, since fsync on a tmpfs is free.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the queue");
        let submission = listen(Ipv4Addr::LOCALHOST, 0).local_addr().expect("a free port");
        let text = format!(
            "hostname = \"relay.test\"\n\
             [queue]\npath = \"{}\"\n\
             [[listen]]\naddress = \"{submission}\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n\
             [limits]\nsessions_per_client = 500\n\
             [delivery]\nport = {port}\nworkers = {WORKERS}\nprohibited_networks = [\"!127.0.0.0/8\"]\n\
             reply_timeout = \"{}s\"\nattempt_deadline = \"{}s\"\n",
            directory.path().join("queue.db").display(),
            DEADLINE.as_secs(),
            DEADLINE.as_secs() + 5,
        );
        let config = directory.path().join("postrider.toml");
        fs::write(&config, text).expect("write the config");
        let log = fs::File::create(directory.path().join("log")).expect("create the log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.arg("serve").arg("--config").arg(&config).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("start postrider");
        let began = Instant::now();
        while TcpStream::connect(submission).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the relay does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Relay { process, submission, _directory: directory }
    }

    /// Seconds from the first message to the good destinations until the last has arrived.
    fn deliver(&self, good: &[Ipv4Addr], arrived: &Arrived) -> f64 {
        let wanted = arrived.count() + MESSAGES;
        let began = Instant::now();
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                scope.spawn(|| {
                    let mut session = Session::open(self.submission);
                    loop {
                        let n = sent.fetch_add(1, Ordering::Relaxed);
                        if n >= MESSAGES {
                            return;
                        }
                        session.send(&good[n % GOOD..][..1]);
                    }
                });
            }
        });
        arrived.wait_for(wanted);
        began.elapsed().as_secs_f64()
    }

    fn submit(&self, sessions: usize, messages: usize, to: &[Ipv4Addr]) {
        for _ in 0..sessions {
            let mut session = Session::open(self.submission);
            (0..messages).for_each(|_| session.send(to));
        }
    }

    /// Connections to silent hosts, 127.1.0.0/16, as proc_net(5) shows them.
    fn held(&self) -> usize {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.process.id())).unwrap_or_default();
        let is_held = |line: &&str| {
            let mut words = line.split_whitespace().skip(2);
            let (to, state) = (words.next().unwrap_or_default(), words.next());
            state == Some("01") && to.get(4..8) == Some("017F")
        };
        table.lines().filter(is_held).count()
    }

    /// Delivery threads alive.
    fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("threads");
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.flatten().map(name).filter(|name| name.trim() == "delivery").count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client's session.
struct Session(BufReader<TcpStream>);

impl Session {
    fn open(to: SocketAddr) -> Session {
        let stream = TcpStream::connect(to).expect("connect to the relay");
        stream.set_nodelay(true).expect("nodelay");
        let mut session = Session(BufReader::new(stream));
        session.reply();
        session.command("EHLO load.test\r\n");
        session
    }

    fn send(&mut self, to: &[Ipv4Addr]) {
        self.command("MAIL FROM:<app@sender.test>\r\n");
        to.iter().for_each(|ip| self.command(&format!("RCPT TO:<user@[{ip}]>\r\n")));
        self.command("DATA\r\n");
        self.command(&format!("Subject: benchmark\r\n\r\n{}.\r\n", "The quick brown fox.\r\n".repeat(50)));
    }

    fn command(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("write to the relay");
        self.reply();
    }

    /// Reads one whole reply and insists that it is a good one.
    fn reply(&mut self) {
        let mut line = String::new();
        while line.get(3..4) != Some(" ") {
            line.clear();
            self.0.read_line(&mut line).expect("read from the relay");
            assert!(line.starts_with(['2', '3']), "the relay said {line:?}");
        }
    }
}
