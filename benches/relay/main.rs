//! How fast: messages accepted and delivered a second, CPU and memory, beside Postfix where it is installed.
//!
//! `cargo bench --bench relay` starts the relay, a load generator and a sink on loopback, every 250 after an
//! fsync. The same generator then talks to Postfix, which relays to the same sink, and to the sink itself,
//! which says what the generator and the sink could do with nothing in between. The shapes:
//!
//! - `plain`: 4 KB over 1, 20 and 100 sessions, each one connection, no TLS. The others, with 20 sessions, differ
//!   in:
//! - `latency`: the receiving host waits 50 ms before each reply, as a network would: pipelined commands are
//!   answered together. What counts is round trips a message and connections a host.
//! - `latency-chunking`: the same, and the host offers CHUNKING as most of the large ones do, which Postfix's
//!   client has no use for.
//! - `destinations`: 100 recipient domains, each with a host at an address of its own, routed by a `[[route]]`
//!   each here and a line of the transport map each there. No name is looked up on either side.
//! - `megabyte`: messages of 1 MB.
//! - `connections`: a connection to the relay for each message.
//! - `tls`: STARTTLS on both sides, AUTH PLAIN, without which nothing is taken. Postfix has its users from Cyrus
//!   SASL's database.
//! - `tls-connections`: the same with a connection for each message, so accepted/s are handshakes a second too,
//!   none resumed.
//!
//! # What is the same, and what is not
//! Both relays get the same messages, certificate, disk and number of connections to each destination (20, which
//! is Postfix's default and more than ours). Both write a log to a file. Otherwise both do what they do by
//! default and keep connections as they like. What is set in Postfix beyond its defaults is printed, and there so
//! that it is not handicapped: processes and connections enough, from the first message on, and connections reused
//! in TLS, too. With TLS each takes what it prefers: ours X25519MLKEM768, Debian 12's OpenSSL knows only X25519.
//! Ours looks a password up in verifiers and caches that it held; Cyrus SASL has it in clear text. Memory is the
//! highest sum over a relay's processes, looked at four times a second, pages they share counted once.
//!
//! Machines are shared and noisy: only ratios of one run mean something, and the last table has them alone. A busy
//! machine takes more from our one writing thread than from Postfix's many processes: CPU time a message is the
//! steadiest of the numbers.
//!
//! `SHAPES=latency,tls` picks, `MESSAGES=20000` says how many a round of `plain` sends (others a share of it),
//! `SESSIONS=20` the rounds of `plain`, `ROUNDS=3` repeats all, `CONNECTIONS=8` is for both relays,
//! `PIPELINE=1` lets the generator pipeline, `ONLY=postrider` leaves the peers out,
//! `DKIM=rsa,ed25519` has ours sign with such keys,
//! `METRICS=1` runs ours a second time beside it, with `[metrics]`, which is read once a second (what that costs),
//! `STS=off`, `none`, `testing` or `enforce` has ours find hosts by MX records, without MTA-STS or with it and such
//! policies (`enforce` in `tls` alone, as it needs a certificate that holds),
//! `POSTFIX="smtp_tls_connection_reuse=no; …"` sets more in Postfix.

mod dns;
mod load;
#[allow(dead_code, reason = "the backlog's bench looks into the directory")]
mod peer;
mod postfix;
mod postrider;
#[allow(dead_code, reason = "the backlog's bench has other questions about memory")]
mod process;
mod round;
mod shape;
#[allow(dead_code, reason = "the other benches have no shape")]
mod sink;
mod stream;

use peer::Peer;
use process::Process;
use round::{Measured, round};
use shape::Shape;
use stream::Keys;

/// Connections at once to each destination, for both relays.
const CONNECTIONS: usize = 20;

/// What is the same in all rounds.
struct Run {
    keys: Keys,
    connections: usize,
    pipeline: bool,
    only: Option<String>,
}

fn main() {
    let sessions: Vec<usize> = match std::env::var("SESSIONS") {
        Ok(list) => list.split(',').map(|word| word.parse().expect("SESSIONS=1,20,100")).collect(),
        Err(_) => vec![1, 20, 100],
    };
    let run = Run {
        keys: Keys::new(),
        connections: number("CONNECTIONS", CONNECTIONS),
        pipeline: number("PIPELINE", 0) == 1,
        only: std::env::var("ONLY").ok(),
    };
    let list = std::env::var("SHAPES").ok();
    let shapes = shape::chosen(list.as_deref(), number("MESSAGES", 10_000), &sessions);
    println!("at most {} connections to each destination, pipelining {}", run.connections, run.pipeline);
    println!("Postfix beyond its defaults: {}", postfix::settings(run.connections));
    let mut ratios = Vec::new();
    for _ in 0..number("ROUNDS", 1) {
        for shape in &shapes {
            let Shape { sessions, messages, bytes, about, .. } = shape;
            println!(
                "\n{}: {messages} messages of {bytes} bytes over {sessions} sessions; {about}",
                shape.name
            );
            println!(
                "{:>16} {:>11} {:>11} {:>8} {:>11} {:>9}",
                "", "accepted/s", "delivered/s", "MB/s", "CPU ms/msg", "peak MiB"
            );
            ratios.extend(run.compare(shape).map(|(ours, theirs)| (shape.name.clone(), ours, theirs)));
        }
    }
    print_ratios(&ratios);
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

impl Run {
    /// All peers in turn; gives both relays' numbers where both ran.
    fn compare(&self, shape: &Shape) -> Option<(Measured, Measured)> {
        let (keys, connections) = (&self.keys, self.connections);
        let ours = self.row("postrider", shape, || postrider::postrider(shape, keys, connections, false));
        if number("METRICS", 0) == 1 {
            let watched =
                self.row("postrider+scrape", shape, || postrider::postrider(shape, keys, connections, true));
            if let (Some(ours), Some(watched)) = (&ours, &watched) {
                let cpu = watched.cpu_ms_per_message / ours.cpu_ms_per_message;
                println!("{:>16} {cpu:>33.3}x CPU", "metrics cost");
            }
        }
        let theirs = self.row("postfix", shape, || postfix::postfix(shape, keys, connections));
        // Where the sink waits on purpose it says nothing of what could be done.
        if shape.delay.is_zero() {
            self.row("sink alone", shape, || Some(sink_alone(shape, keys)));
        }
        Some((ours?, theirs?))
    }

    /// One line of the table: a fresh peer, a fresh sink, one round.
    fn row(&self, name: &str, shape: &Shape, start: impl FnOnce() -> Option<Peer>) -> Option<Measured> {
        if self.only.as_deref().is_some_and(|only| !name.starts_with(only)) {
            return None;
        }
        let peer = start()?;
        let measured = round(&peer, shape, &self.keys, self.pipeline);
        println!(
            "{name:>16} {:>11.0} {:>11.0} {:>8.1} {:>11.3} {:>9.1}",
            measured.accepted_per_sec,
            measured.delivered_per_sec,
            measured.delivered_per_sec * shape.bytes as f64 / 1e6,
            measured.cpu_ms_per_message,
            measured.peak_mib
        );
        Some(measured)
    }
}

/// Nothing in between.
fn sink_alone(shape: &Shape, keys: &Keys) -> Peer {
    let sink = shape.sink(keys);
    Peer { address: sink.address, sink, process: Process::None, directory: None }
}

/// What another machine may be compared by.
fn print_ratios(ratios: &[(String, Measured, Measured)]) {
    if ratios.is_empty() {
        return;
    }
    println!("\nPostrider : Postfix");
    println!("{:>16} {:>11} {:>11} {:>11} {:>9}", "", "accepted/s", "delivered/s", "CPU a msg", "peak mem");
    for (name, ours, theirs) in ratios {
        println!(
            "{name:>16} {:>10.1}x {:>10.1}x {:>10.2}x {:>8.2}x",
            ours.accepted_per_sec / theirs.accepted_per_sec,
            ours.delivered_per_sec / theirs.delivered_per_sec,
            ours.cpu_ms_per_message / theirs.cpu_ms_per_message,
            ours.peak_mib / theirs.peak_mib,
        );
    }
}
