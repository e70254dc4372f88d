//! Connecting to a host, with a head start for the first of two addresses.
//!
//! A host with addresses of both families is not waited for twice: should the first address not answer within
//! [`HEAD_START`], the other family's first is tried beside it, the connection that stands first is taken, and the
//! other closed (RFC 8305 §5). So a family that swallows packets costs a quarter of a second and not
//! `connect_timeout`. One thread does both: the sockets do not block, and poll(2) waits for them.
//!
//! What failed and what was merely given up are told apart: nothing is known of an address that was given up, so
//! it stays among those to try.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Socket, Type};

use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::wire::{Fault, Timeouts, Wire, fault_of, remaining};

/// RFC 8305 §5, "Connection Attempt Delay", as §8 recommends it.
const HEAD_START: Duration = Duration::from_millis(250);

/// What came of it.
pub(in crate::delivery) struct Dialled {
    /// The one that is connected, or that failed last.
    pub(in crate::delivery) endpoint: Endpoint,
    /// The connection to it.
    pub(in crate::delivery) wire: Result<Wire, Fault>,
    /// The other, where it failed too.
    pub(in crate::delivery) beside: Option<(Endpoint, Fault)>,
}

/// Connects to `first`, or to the address of the other family that its host has in `rest`. Both are gone from
/// `rest` then, but for one of which nothing is known yet. `from` gives the local address for a remote one.
pub(in crate::delivery) fn dial(
    first: Endpoint,
    rest: &mut VecDeque<Endpoint>,
    from: impl Fn(&Endpoint) -> Option<IpAddr>,
    timeouts: Timeouts,
) -> Dialled {
    let way = |endpoint: &Endpoint| Way { to: endpoint.address, from: from(endpoint) };
    let place = rest
        .iter()
        .position(|other| other.is_same_host(&first) && other.address.is_ipv4() != first.address.is_ipv4());
    let Race { won, faults } = race(way(&first), place.map(|place| way(&rest[place])), timeouts);
    let [first_fault, second_fault] = faults;
    let second_is_over = second_fault.is_some() || matches!(won, Some((Turn::Second, _)));
    let second = place.filter(|_| second_is_over).and_then(|place| rest.remove(place));
    match (won, second) {
        (Some((Turn::Second, tcp)), Some(second)) => {
            let beside = match first_fault {
                Some(fault) => Some((first, fault)),
                None => {
                    rest.push_front(first);
                    None
                }
            };
            Dialled { endpoint: second, wire: Wire::opened(tcp), beside }
        }
        (Some((_, tcp)), second) => {
            Dialled { endpoint: first, wire: Wire::opened(tcp), beside: second.zip(second_fault) }
        }
        (None, second) => {
            let failed = |fault: Option<Fault>| fault.unwrap_or(Fault::TimedOut);
            match second {
                Some(second) => {
                    let beside = Some((first, failed(first_fault)));
                    Dialled { endpoint: second, wire: Err(failed(second_fault)), beside }
                }
                None => Dialled { endpoint: first, wire: Err(failed(first_fault)), beside: None },
            }
        }
    }
}

/// Where to, and from which local address; none: the system chooses.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: SocketAddr,
    from: Option<IpAddr>,
}

/// Where a way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

/// How a race ended.
struct Race {
    won: Option<(Turn, TcpStream)>,
    /// Of each that failed; one that was given up, or not begun, has none.
    faults: [Option<Fault>; 2],
}

/// The second begins when the first has had its head start, and not at all if that has failed by then.
fn race(first: Way, second: Option<Way>, timeouts: Timeouts) -> Race {
    let (second_at, mut waiting) = (Instant::now() + HEAD_START, second);
    let mut faults = [None, None];
    let mut runners = Vec::with_capacity(2);
    let mut begin = Some((Turn::First, first));
    loop {
        if let Some((turn, way)) = begin.take() {
            match Runner::begin(turn, way, timeouts) {
                Ok(runner) => runners.push(runner),
                Err(fault) => faults[turn as usize] = Some(fault),
            }
        }
        if runners.is_empty() {
            return Race { won: None, faults };
        }
        let next = waiting.map(|_| second_at);
        let ready = match ready(&runners, next, timeouts.deadline) {
            Ok(ready) => ready,
            Err(error) => {
                let all = runners.iter().map(|runner| runner.turn as usize);
                all.for_each(|turn| faults[turn] = Some(Fault::lost(error.into())));
                return Race { won: None, faults };
            }
        };
        let mut running = Vec::with_capacity(2);
        // The first comes first where both are ready.
        for (runner, ready) in runners.into_iter().zip(ready) {
            let turn = runner.turn;
            match runner.step(ready, timeouts.deadline) {
                Ok(Step::Connected(tcp)) => return Race { won: Some((turn, tcp)), faults },
                Ok(Step::Running(runner)) => running.push(runner),
                Err(fault) => faults[turn as usize] = Some(fault),
            }
        }
        runners = running;
        // Where the first has failed there is nobody left to race: the caller goes on to the next.
        if !runners.is_empty() && Instant::now() >= second_at {
            begin = waiting.take().map(|way| (Turn::Second, way));
        }
    }
}

/// A connection that is being made.
struct Runner {
    turn: Turn,
    socket: Socket,
    until: Instant,
}

enum Step {
    Running(Runner),
    Connected(TcpStream),
}

impl Runner {
    fn begin(turn: Turn, way: Way, timeouts: Timeouts) -> Result<Runner, Fault> {
        let until = Instant::now() + timeouts.wait;
        remaining(until, timeouts.deadline)?;
        let family = socket2::Domain::for_address(way.to);
        let socket = Socket::new(family, Type::STREAM, None).map_err(Fault::lost)?;
        socket.set_nonblocking(true).map_err(Fault::lost)?;
        if let Some(from) = way.from {
            let bound = socket.bind(&SocketAddr::new(from, 0).into());
            bound.map_err(|error| Fault::NoSource(from, error.to_string()))?;
        }
        match socket.connect(&way.to.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => {
                Err(fault_of(error, timeouts.deadline))
            }
            _ => Ok(Runner { turn, socket, until }),
        }
    }

    /// How it stands, once poll(2) was asked.
    fn step(self, ready: bool, deadline: Instant) -> Result<Step, Fault> {
        if !ready {
            return remaining(self.until, deadline).map(|_| Step::Running(self));
        }
        let socket = self.socket;
        let error = socket.take_error().and_then(|error| error.map_or(Ok(()), Err));
        let tcp = error.and_then(|()| socket.set_nonblocking(false)).map(|()| TcpStream::from(socket));
        tcp.map(Step::Connected).map_err(|error| fault_of(error, deadline))
    }
}

/// Waits until one of them has an answer, or the first moment that something is to be done. Which have one.
fn ready(runners: &[Runner], next: Option<Instant>, deadline: Instant) -> Result<Vec<bool>, Errno> {
    let moments = runners.iter().map(|runner| runner.until).chain(next);
    let wait = moments.fold(deadline, Instant::min).saturating_duration_since(Instant::now());
    // Out of range is longer than anybody waits: for ever, then.
    let wait = Timespec::try_from(wait).ok();
    let mut asked: Vec<PollFd<'_>> =
        runners.iter().map(|runner| PollFd::new(&runner.socket, PollFlags::OUT)).collect();
    match poll(&mut asked, wait.as_ref()) {
        Ok(_) => Ok(asked.iter().map(|asked| !asked.revents().is_empty()).collect()),
        Err(Errno::INTR) => Ok(vec![false; runners.len()]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::RouteTls;

    const SOON: Duration = Duration::from_secs(20);

    fn timeouts(wait: Duration) -> Timeouts {
        Timeouts { wait, deadline: Instant::now() + SOON }
    }

    /// A listener whose queue is full: the kernel swallows every further SYN, as a network does that loses
    /// packets.
    struct BlackHole {
        address: SocketAddr,
        _listener: Socket,
        _filled: Vec<TcpStream>,
    }

    fn black_hole(ip: &str) -> BlackHole {
        let address = SocketAddr::new(ip.parse().unwrap(), 0);
        let listener = Socket::new(socket2::Domain::for_address(address), Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let probe = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let filled: Vec<TcpStream> = std::iter::from_fn(probe).take(16).collect();
        assert!(filled.len() < 16, "its queue never fills");
        BlackHole { address, _listener: listener, _filled: filled }
    }

    fn listener(ip: &str) -> TcpListener {
        TcpListener::bind((ip, 0)).unwrap()
    }

    /// An address where nobody listens.
    fn closed(ip: &str) -> SocketAddr {
        listener(ip).local_addr().unwrap()
    }

    fn way(to: SocketAddr) -> Way {
        Way { to, from: None }
    }

    fn winner(race: &Race) -> Option<Turn> {
        race.won.as_ref().map(|(turn, _)| *turn)
    }

    #[test]
    fn the_first_is_taken_where_it_answers_and_the_second_is_not_begun() {
        let (first, second) = (listener("127.0.0.1"), listener("127.0.0.2"));
        let ways = (way(first.local_addr().unwrap()), way(second.local_addr().unwrap()));
        let race = race(ways.0, Some(ways.1), timeouts(SOON));
        assert_eq!(winner(&race), Some(Turn::First));
        assert!(race.faults.iter().all(Option::is_none));
        second.set_nonblocking(true).unwrap();
        assert_eq!(second.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_first_that_swallows_packets_costs_the_head_start_and_is_not_held_to_have_failed() {
        let (hole, second) = (black_hole("127.0.0.1"), listener("127.0.0.2"));
        let began = Instant::now();
        let race = race(way(hole.address), Some(way(second.local_addr().unwrap())), timeouts(SOON));
        let took = began.elapsed();
        assert_eq!(winner(&race), Some(Turn::Second));
        assert!(race.faults.iter().all(Option::is_none));
        assert!(took >= HEAD_START && took < SOON / 4, "{took:?}");
    }

    #[test]
    fn a_first_that_refuses_is_told_at_once_and_the_second_left_to_the_caller() {
        let race = race(way(closed("127.0.0.1")), Some(way(closed("127.0.0.2"))), timeouts(SOON));
        assert!(matches!(race.faults, [Some(Fault::Lost(Some(_))), None]), "{:?}", race.faults);
    }

    #[test]
    fn a_second_that_refuses_leaves_the_first_its_time() {
        let hole = black_hole("127.0.0.1");
        let began = Instant::now();
        let wait = HEAD_START * 2;
        let race = race(way(hole.address), Some(way(closed("127.0.0.2"))), timeouts(wait));
        assert!(
            matches!(race.faults, [Some(Fault::TimedOut), Some(Fault::Lost(Some(_)))]),
            "{:?}",
            race.faults
        );
        assert!(began.elapsed() >= wait);
    }

    #[test]
    fn two_that_swallow_packets_end_with_the_stage_or_the_attempt() {
        let (one, other) = (black_hole("127.0.0.1"), black_hole("127.0.0.2"));
        let wait = HEAD_START * 2;
        let ended = race(way(one.address), Some(way(other.address)), timeouts(wait));
        assert!(matches!(ended.faults, [Some(Fault::TimedOut), Some(Fault::TimedOut)]), "{:?}", ended.faults);
        let timeouts = Timeouts { wait: SOON, deadline: Instant::now() + wait };
        let ended = race(way(one.address), Some(way(other.address)), timeouts);
        assert!(matches!(ended.faults, [Some(Fault::Deadline), Some(Fault::Deadline)]), "{:?}", ended.faults);
    }

    #[test]
    fn a_connection_leaves_from_its_source_and_from_no_other() {
        let host = listener("127.0.0.1");
        let to = host.local_addr().unwrap();
        let race_from =
            |from: &str| race(Way { to, from: Some(from.parse().unwrap()) }, None, timeouts(SOON));
        let (_, tcp) = race_from("127.0.0.9").won.unwrap();
        assert_eq!(tcp.local_addr().unwrap().ip().to_string(), "127.0.0.9");
        // TEST-NET-3: hardly anybody has it.
        let faults = race_from("203.0.113.201").faults;
        assert!(
            matches!(&faults[0], Some(Fault::NoSource(from, _)) if from.to_string() == "203.0.113.201"),
            "{faults:?}"
        );
    }

    fn endpoint(address: SocketAddr, host: &str) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            address,
            tls: RouteTls::Opportunistic,
            ca_file: None,
            login: None,
            relay: false,
            preference: 10,
            sources: std::sync::Arc::default(),
        }
    }

    /// Dials the first; the addresses reached, failed beside it, and left.
    fn dialled(mut endpoints: VecDeque<Endpoint>, wait: Duration) -> (String, Option<String>, Vec<String>) {
        let first = endpoints.pop_front().unwrap();
        let dialled = dial(first, &mut endpoints, |_| None, timeouts(wait));
        let shown = |endpoint: &Endpoint| endpoint.address.to_string();
        let reached =
            format!("{} {}", shown(&dialled.endpoint), if dialled.wire.is_ok() { "ok" } else { "failed" });
        (
            reached,
            dialled.beside.as_ref().map(|(other, _)| shown(other)),
            endpoints.iter().map(shown).collect(),
        )
    }

    #[test]
    fn an_address_that_was_given_up_stays_among_those_to_try_and_one_that_failed_does_not() {
        if TcpListener::bind("[::1]:0").is_err() {
            // Said where all can see it: print macros are for failed tests only.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"skipped: delivery::smtp::dial: no IPv6 on loopback\n",
            );
            return;
        }
        // One port for all: only the addresses of a host differ.
        let pairs = std::iter::repeat_with(|| {
            let hole = black_hole("::1");
            TcpListener::bind(("127.0.0.2", hole.address.port())).map(|four| (hole, four))
        });
        let (hole, _four) = pairs.take(20).flatten().next().expect("no port is free on both");
        let port = hole.address.port();
        let at = |ip: &str, host: &str| endpoint(SocketAddr::new(ip.parse().unwrap(), port), host);
        let list = |all: &[Endpoint]| all.iter().cloned().collect::<VecDeque<_>>();
        let (one, two, other) =
            (at("::1", "mx.test"), at("127.0.0.2", "mx.test"), at("127.0.0.2", "mx2.test"));
        let shown = |endpoint: &Endpoint| endpoint.address.to_string();
        let wait = HEAD_START * 3;

        let (reached, beside, left) = dialled(list(&[one.clone(), two.clone(), other.clone()]), wait);
        assert_eq!((reached, beside), (format!("{} ok", shown(&two)), None));
        assert_eq!(left, [shown(&one), shown(&other)]);

        let (reached, beside, left) = dialled(list(&[one.clone(), other.clone()]), wait);
        assert_eq!(
            (reached, beside),
            (format!("{} failed", shown(&one)), None),
            "another host has its own turn"
        );
        assert_eq!(left, [shown(&other)]);

        let closed = at("127.0.0.3", "mx.test");
        let (reached, beside, left) = dialled(list(&[one.clone(), closed.clone(), other.clone()]), wait);
        assert_eq!((reached, beside), (format!("{} failed", shown(&closed)), Some(shown(&one))));
        assert_eq!(left, [shown(&other)]);
    }
}
