//! How fast: messages accepted and delivered a second, CPU and memory, beside Postfix where it is installed.
//!
//! `cargo bench --bench relay` starts the relay, a load generator and a sink on loopback, every 250 after an
//! fsync, and drives 4 KB messages through it over 1, 20 and 100 sessions, each one connection, no TLS. The
//! same generator then talks to Postfix, which relays to the same sink, and to the sink itself, which says
//! what the generator and the sink could do with nothing in between.
//!
//! Machines are shared and noisy: only ratios of one run mean something.
//! `MESSAGES=20000` sets how many a round sends, `SESSIONS=20` the rounds, `ROUNDS=3` repeats them,
//! `PIPELINE=1` lets the generator pipeline, `ONLY=postrider` leaves the peers out.

mod load;
#[allow(dead_code, reason = "the backlog's bench has uses of its own for it")]
mod peer;
mod sink;

use std::time::{Duration, Instant};

use peer::Peer;

/// Past this a round has failed: something is lost or stands still.
const ROUND_MAX: Duration = Duration::from_secs(300);

struct Measured {
    accepted_per_sec: f64,
    delivered_per_sec: f64,
    cpu_ms_per_message: f64,
    peak_mib: f64,
}

fn main() {
    let messages: usize = number("MESSAGES", 10_000);
    let rounds: usize = number("ROUNDS", 1);
    let sessions: Vec<usize> = match std::env::var("SESSIONS") {
        Ok(list) => list.split(',').map(|word| word.parse().expect("SESSIONS=1,20,100")).collect(),
        Err(_) => vec![1, 20, 100],
    };
    let pipeline = number("PIPELINE", 0) == 1;
    let only = std::env::var("ONLY").ok();
    println!("{messages} messages of 4 KB a round, one connection a session, no TLS, pipelining {pipeline}");
    println!(
        "{:>9} {:>12} {:>11} {:>11} {:>12} {:>9}",
        "sessions", "", "accepted/s", "delivered/s", "CPU ms/msg", "peak MiB"
    );
    for _ in 0..rounds {
        for &sessions in &sessions {
            // One session is bound by latency: fewer messages say the same.
            let messages = if sessions == 1 { messages / 5 } else { messages };
            let ours = row("postrider", sessions, &only, peer::postrider, messages, pipeline);
            let theirs = row("postfix", sessions, &only, peer::postfix, messages, pipeline);
            row("sink alone", sessions, &only, || Some(Peer::sink_alone()), messages, pipeline);
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                println!(
                    "{sessions:>9} {:>12} {:>10.1}x {:>10.1}x {:>11.2}x {:>8.2}x",
                    "ratio",
                    ours.accepted_per_sec / theirs.accepted_per_sec,
                    ours.delivered_per_sec / theirs.delivered_per_sec,
                    ours.cpu_ms_per_message / theirs.cpu_ms_per_message,
                    ours.peak_mib / theirs.peak_mib,
                );
            }
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// One line of the table: a fresh peer, a fresh sink, one round.
fn row(
    name: &str,
    sessions: usize,
    only: &Option<String>,
    start: impl FnOnce() -> Option<Peer>,
    messages: usize,
    pipeline: bool,
) -> Option<Measured> {
    if only.as_deref().is_some_and(|only| only != name) {
        return None;
    }
    let Some(peer) = start() else {
        println!("{sessions:>9} {name:>12} not installed, left out");
        return None;
    };
    let measured = round(&peer, sessions, messages, pipeline);
    println!(
        "{sessions:>9} {name:>12} {:>11.0} {:>11.0} {:>12.3} {:>9.1}",
        measured.accepted_per_sec, measured.delivered_per_sec, measured.cpu_ms_per_message, measured.peak_mib
    );
    Some(measured)
}

fn round(peer: &Peer, sessions: usize, messages: usize, pipeline: bool) -> Measured {
    // Connections, threads and caches are warm before the clock runs.
    load::run(peer.address, sessions.min(4), 20, pipeline);
    peer.sink.wait_for(20, ROUND_MAX);
    let (cpu_before, seen_before) = (peer.cpu_ms(), peer.sink.count());
    let began = Instant::now();
    load::run(peer.address, sessions, messages, pipeline);
    let accepted = began.elapsed();
    peer.sink.wait_for(seen_before + messages, ROUND_MAX);
    let delivered = began.elapsed();
    // The relay's last settlements are part of its work.
    std::thread::sleep(Duration::from_millis(300));
    let count = messages as f64;
    Measured {
        accepted_per_sec: count / accepted.as_secs_f64(),
        delivered_per_sec: count / delivered.as_secs_f64(),
        cpu_ms_per_message: (peer.cpu_ms() - cpu_before) / count,
        peak_mib: peer.peak_mib(),
    }
}
