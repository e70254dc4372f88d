//! Two connections at the same time, with a head start for the first (Happy Eyeballs, RFC 8305 §5).
//!
//! If the first address does not answer within [`HEAD_START`], the second is tried beside it. The connection that is
//! made first is taken, and the other closed. So an address family that loses packets costs a quarter of a second and
//! not `connect_timeout`. One thread does both: the sockets do not block, and poll(2) waits for them.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Socket, Type};

use crate::delivery::smtp::stop::{LOOK_EVERY, Stop};
use crate::delivery::smtp::wire::{Fault, Timeouts, fault_of, remaining};

/// RFC 8305 §8: the recommended "Connection Attempt Delay".
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// The remote address, and the local one; none: the system chooses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Second,
}

/// The result of [`race`].
pub(super) struct Race {
    pub(super) won: Option<(Place, TcpStream)>,
    /// The fault of each that failed; none for one that was given up or not begun.
    pub(super) faults: [Option<Fault>; 2],
}

/// Connects to `first`, and to `second` if `first` has neither connected nor failed after its head start.
pub(super) fn race(first: Target, second: Option<Target>, timeouts: Timeouts, stop: &Stop) -> Race {
    let (second_at, mut waiting) = (Instant::now() + HEAD_START, second);
    let mut faults = [None, None];
    let mut connecting = Vec::with_capacity(2);
    let mut begin = Some((Place::First, first));
    loop {
        if let Some((place, target)) = begin.take() {
            match Connecting::begin(place, target, timeouts) {
                Ok(one) => connecting.push(one),
                Err(fault) => faults[place as usize] = Some(fault),
            }
        }
        if connecting.is_empty() {
            return Race { won: None, faults };
        }
        if let Err(fault) = stop.check(false) {
            connecting.iter().for_each(|one| faults[one.place as usize] = Some(fault.clone()));
            return Race { won: None, faults };
        }
        let next = waiting.map(|_| second_at);
        let ready = match ready(&connecting, next, timeouts.deadline) {
            Ok(ready) => ready,
            Err(error) => {
                let all = connecting.iter().map(|one| one.place as usize);
                all.for_each(|place| faults[place] = Some(Fault::lost(error.into())));
                return Race { won: None, faults };
            }
        };
        let mut running = Vec::with_capacity(2);
        // If both are ready, the first is taken.
        for (one, ready) in connecting.into_iter().zip(ready) {
            let place = one.place;
            match one.progress(ready, timeouts.deadline) {
                Ok(Progress::Connected(tcp)) => return Race { won: Some((place, tcp)), faults },
                Ok(Progress::Running(one)) => running.push(one),
                Err(fault) => faults[place as usize] = Some(fault),
            }
        }
        connecting = running;
        // If the first has failed, the caller goes on to the next address.
        if !connecting.is_empty() && Instant::now() >= second_at {
            begin = waiting.take().map(|target| (Place::Second, target));
        }
    }
}

/// A connection that is being made.
struct Connecting {
    place: Place,
    socket: Socket,
    until: Instant,
}

enum Progress {
    Running(Connecting),
    Connected(TcpStream),
}

impl Connecting {
    fn begin(place: Place, target: Target, timeouts: Timeouts) -> Result<Connecting, Fault> {
        let until = Instant::now() + timeouts.wait;
        remaining(until, timeouts.deadline)?;
        let family = socket2::Domain::for_address(target.to);
        let socket = Socket::new(family, Type::STREAM, None).map_err(Fault::lost)?;
        socket.set_nonblocking(true).map_err(Fault::lost)?;
        if let Some(from) = target.from {
            let bound = socket.bind(&SocketAddr::new(from, 0).into());
            bound.map_err(|error| Fault::NoSource(from, error.to_string()))?;
        }
        match socket.connect(&target.to.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => {
                Err(fault_of(error, timeouts.deadline))
            }
            _ => Ok(Connecting { place, socket, until }),
        }
    }

    /// `ready` is what poll(2) said of its socket.
    fn progress(self, ready: bool, deadline: Instant) -> Result<Progress, Fault> {
        if !ready {
            return remaining(self.until, deadline).map(|_| Progress::Running(self));
        }
        let socket = self.socket;
        let error = socket.take_error().and_then(|error| error.map_or(Ok(()), Err));
        let tcp = error.and_then(|()| socket.set_nonblocking(false)).map(|()| TcpStream::from(socket));
        tcp.map(Progress::Connected).map_err(|error| fault_of(error, deadline))
    }
}

/// Waits until a socket is ready, a time-out is over, `next` has come or it is time to look at the stop. Says which
/// sockets are ready.
fn ready(connecting: &[Connecting], next: Option<Instant>, deadline: Instant) -> Result<Vec<bool>, Errno> {
    let moments = connecting.iter().map(|one| one.until).chain(next);
    let wait = moments.fold(deadline, Instant::min).saturating_duration_since(Instant::now());
    let wait = Timespec::try_from(wait.min(LOOK_EVERY)).ok();
    let mut asked: Vec<PollFd<'_>> =
        connecting.iter().map(|one| PollFd::new(&one.socket, PollFlags::OUT)).collect();
    match poll(&mut asked, wait.as_ref()) {
        Ok(_) => Ok(asked.iter().map(|asked| !asked.revents().is_empty()).collect()),
        Err(Errno::INTR) => Ok(vec![false; connecting.len()]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    pub(in crate::delivery::smtp::dial) fn timeouts(wait: Duration) -> Timeouts {
        Timeouts { wait, deadline: Instant::now() + SOON }
    }

    /// A listener whose queue is full: the kernel swallows every further SYN, as a network does that loses
    /// packets.
    pub(in crate::delivery::smtp::dial) struct BlackHole {
        pub(in crate::delivery::smtp::dial) address: SocketAddr,
        _listener: Socket,
        _filled: Vec<TcpStream>,
    }

    pub(in crate::delivery::smtp::dial) fn black_hole(ip: &str) -> BlackHole {
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

    fn target(to: SocketAddr) -> Target {
        Target { to, from: None }
    }

    fn race(first: Target, second: Option<Target>, timeouts: Timeouts) -> Race {
        super::race(first, second, timeouts, &Stop::default())
    }

    #[test]
    fn a_stop_ends_the_wait_for_both() {
        let (one, other, stop) = (black_hole("127.0.0.1"), black_hole("127.0.0.2"), Stop::default());
        let began = Instant::now();
        let ended = std::thread::scope(|scope| {
            let (targets, stop) = ((target(one.address), target(other.address)), &stop);
            let racing = scope.spawn(move || super::race(targets.0, Some(targets.1), timeouts(SOON), stop));
            stop.begin(began + SOON);
            racing.join().unwrap()
        });
        assert_eq!(ended.faults[0], Some(Fault::Stopping));
        assert!(began.elapsed() < SOON / 4, "{:?}", began.elapsed());
    }

    fn winner(race: &Race) -> Option<Place> {
        race.won.as_ref().map(|(place, _)| *place)
    }

    #[test]
    fn the_first_is_taken_where_it_answers_and_the_second_is_not_begun() {
        let (first, second) = (listener("127.0.0.1"), listener("127.0.0.2"));
        let targets = (target(first.local_addr().unwrap()), target(second.local_addr().unwrap()));
        let race = race(targets.0, Some(targets.1), timeouts(SOON));
        assert_eq!(winner(&race), Some(Place::First));
        assert!(race.faults.iter().all(Option::is_none));
        second.set_nonblocking(true).unwrap();
        assert_eq!(second.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_first_that_swallows_packets_costs_the_head_start_and_is_not_held_to_have_failed() {
        let (hole, second) = (black_hole("127.0.0.1"), listener("127.0.0.2"));
        let began = Instant::now();
        let race = race(target(hole.address), Some(target(second.local_addr().unwrap())), timeouts(SOON));
        let took = began.elapsed();
        assert_eq!(winner(&race), Some(Place::Second));
        assert!(race.faults.iter().all(Option::is_none));
        assert!(took >= HEAD_START && took < SOON / 4, "{took:?}");
    }

    #[test]
    fn a_first_that_refuses_is_told_at_once_and_the_second_left_to_the_caller() {
        let race = race(target(closed("127.0.0.1")), Some(target(closed("127.0.0.2"))), timeouts(SOON));
        assert!(matches!(race.faults, [Some(Fault::Lost(Some(_))), None]), "{:?}", race.faults);
    }

    #[test]
    fn a_second_that_refuses_leaves_the_first_its_time() {
        let hole = black_hole("127.0.0.1");
        let began = Instant::now();
        let wait = HEAD_START * 2;
        let race = race(target(hole.address), Some(target(closed("127.0.0.2"))), timeouts(wait));
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
        let ended = race(target(one.address), Some(target(other.address)), timeouts(wait));
        assert!(matches!(ended.faults, [Some(Fault::TimedOut), Some(Fault::TimedOut)]), "{:?}", ended.faults);
        let timeouts = Timeouts { wait: SOON, deadline: Instant::now() + wait };
        let ended = race(target(one.address), Some(target(other.address)), timeouts);
        assert!(matches!(ended.faults, [Some(Fault::Deadline), Some(Fault::Deadline)]), "{:?}", ended.faults);
    }

    #[test]
    fn a_connection_leaves_from_its_source_and_from_no_other() {
        let host = listener("127.0.0.1");
        let to = host.local_addr().unwrap();
        let race_from =
            |from: &str| race(Target { to, from: Some(from.parse().unwrap()) }, None, timeouts(SOON));
        let (_, tcp) = race_from("127.0.0.9").won.unwrap();
        assert_eq!(tcp.local_addr().unwrap().ip().to_string(), "127.0.0.9");
        // TEST-NET-3: hardly anybody has it.
        let faults = race_from("203.0.113.201").faults;
        assert!(
            matches!(&faults[0], Some(Fault::NoSource(from, _)) if from.to_string() == "203.0.113.201"),
            "{faults:?}"
        );
    }
}
