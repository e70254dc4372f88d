//! The shapes of load: what is sent, over what, to how slow and how many hosts.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::load::domain;
use crate::sink::{Manner, Sink};
use crate::stream::Keys;

/// One row of the comparison, the same for every relay.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) name: String,
    /// For the reader, after the numbers.
    pub(crate) about: &'static str,
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
    /// Of one message.
    pub(crate) bytes: usize,
    /// Recipient domains that take turns, each with a host at an address of its own.
    pub(crate) domains: usize,
    /// A new connection to the relay for each message; how the relay delivers is left to it.
    pub(crate) connection_each: bool,
    /// STARTTLS on both sides; AUTH PLAIN, without which the relay takes nothing.
    pub(crate) tls: bool,
    /// Before each of the receiving host's replies; those to pipelined commands come together.
    pub(crate) delay: Duration,
    /// The receiving host offers CHUNKING, as most of the large ones do.
    pub(crate) chunking: bool,
}

impl Shape {
    /// Each recipient domain and the address of its host: 127.0.1.1 and up.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (String, Ipv4Addr)> + use<> {
        let (domains, first) = (self.domains, Ipv4Addr::new(127, 0, 1, 1).to_bits());
        (0..domains).map(move |number| (domain(number, domains), Ipv4Addr::from_bits(first + number as u32)))
    }

    /// The receiving hosts.
    pub(crate) fn sink(&self, keys: &Keys) -> Sink {
        let tls = self.tls.then(|| keys.server.clone());
        let manner = Manner { delay: self.delay, tls, chunking: self.chunking };
        let addresses: Vec<Ipv4Addr> = self.hosts().map(|(_, address)| address).collect();
        Sink::start_at(&addresses, manner)
    }
}

/// All names, in the order of the run.
const NAMES: [&str; 8] = [
    "plain",
    "latency",
    "latency-chunking",
    "destinations",
    "megabyte",
    "connections",
    "tls",
    "tls-connections",
];

/// Those named in `list`, all for none. `messages` is what a round of `plain` sends; `plain` is run for each of
/// `sessions`, the others with 20.
pub(crate) fn chosen(list: Option<&str>, messages: usize, sessions: &[usize]) -> Vec<Shape> {
    let names: Vec<&str> = list.map_or(NAMES.to_vec(), |list| list.split(',').map(str::trim).collect());
    names.into_iter().flat_map(|name| named(name, messages, sessions)).collect()
}

fn named(name: &str, messages: usize, sessions: &[usize]) -> Vec<Shape> {
    let shape = Shape {
        name: name.to_owned(),
        about: "a connection a session, in the clear",
        sessions: 20,
        messages,
        bytes: 4096,
        domains: 1,
        connection_each: false,
        tls: false,
        delay: Duration::ZERO,
        chunking: false,
    };
    let one = match name {
        "plain" => {
            // One session is bound by latency: fewer messages say the same.
            let count = |sessions| if sessions == 1 { messages / 5 } else { messages };
            let plain = |&sessions: &usize| {
                let name = format!("plain {sessions}");
                Shape { name, sessions, messages: count(sessions), ..shape.clone() }
            };
            return sessions.iter().map(plain).collect();
        }
        "latency" => Shape {
            about: "the receiving host waits 50 ms before each reply",
            messages: messages / 5,
            delay: Duration::from_millis(50),
            ..shape
        },
        "latency-chunking" => Shape {
            about: "the same, and the host offers CHUNKING",
            messages: messages / 5,
            delay: Duration::from_millis(50),
            chunking: true,
            ..shape
        },
        "destinations" => Shape { about: "100 recipient domains, each with its host", domains: 100, ..shape },
        "megabyte" => Shape { about: "messages of 1 MB", messages: messages / 25, bytes: 1_000_000, ..shape },
        "connections" => Shape {
            about: "a connection to the relay for each message",
            messages: messages / 2,
            connection_each: true,
            ..shape
        },
        "tls" => Shape {
            about: "STARTTLS on both sides, AUTH; a connection a session",
            messages: messages / 2,
            tls: true,
            ..shape
        },
        "tls-connections" => Shape {
            about: "STARTTLS on both sides, AUTH; a connection (a full handshake) for each message",
            messages: messages / 5,
            connection_each: true,
            tls: true,
            ..shape
        },
        other => panic!("SHAPES knows {}, not {other}", NAMES.join(", ")),
    };
    vec![one]
}
