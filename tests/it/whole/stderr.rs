//! Stderr is a pipe that nobody reads: mail goes on, and what is missing of the log is said once somebody reads.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, Relay, World, mail, wait_for};
use crate::harness::sink;

const CLIENTS: u64 = 8;
/// More than the pipe and the relay's buffer have room for.
const MESSAGES: u64 = 1600;
/// What is said where lines are missing.
const DROPPED: &str = " lines of the log were dropped here";

/// A relay in `world` whose log goes at debug level into a pipe; and the end of the pipe to read from.
fn start(world: &World) -> (Relay, PipeReader) {
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let (reader, writer) = std::io::pipe().unwrap();
    relay.spawn_logging_to(&[("RUST_LOG", "debug")], writer);
    relay.wait_until_ready();
    (relay, reader)
}

/// Everybody submits until so many are acknowledged.
fn submit(messages: u64, address: SocketAddr) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(move || {
                let mut client = Client::connect(address).unwrap();
                client.expect("EHLO app.test", "250");
                for _ in 0..messages / CLIENTS {
                    client.submit("me@app.test", &["you@a.test"], &mail("hello"));
                }
            });
        }
    });
}

/// A world with a host that counts what it takes.
fn world() -> (World, Arc<AtomicU64>) {
    let mut world = World::new();
    world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let take = move |_: usize, _: &[String], _: &[u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        "250 2.0.0 taken"
    };
    sink::start(world.address("mx.a.test"), Arc::new(|_: &str| "250 2.1.5 ok"), Arc::new(take));
    (world, taken)
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_mail_and_what_is_missing_is_counted() {
    let (world, taken) = world();
    let (mut relay, reader) = start(&world);
    submit(MESSAGES, relay.clear);
    wait_for("all to be delivered", SOON, || (taken.load(Ordering::Relaxed) >= MESSAGES).then_some(()));

    let (lines, read) = std::sync::mpsc::channel();
    let drain = std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            let _ = lines.send(line.unwrap());
        }
    });
    let told = std::iter::from_fn(|| read.recv_timeout(SOON).ok()).find(|line| line.contains(DROPPED));
    let told = told.expect("it is said that lines are missing");
    let count = told.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 1000), "{told}");
    assert!(told.contains("ERROR"), "{told}");

    relay.stop();
    drain.join().unwrap();
    let rest: Vec<String> = read.try_iter().collect();
    assert!(rest.last().is_some_and(|line| line.ends_with("stopped")), "{:?}", rest.last());
    assert!(!rest.iter().any(|line| line.contains(DROPPED)), "nothing is missing behind the note");
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_relay_from_ending() {
    let (world, _) = world();
    let (mut relay, _unread) = start(&world);
    // The pipe alone is full.
    submit(MESSAGES / 8, relay.clear);
    relay.stop_within(Duration::from_secs(10));
}
