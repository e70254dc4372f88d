//! The line before the hashing of passwords: only so many hashes run at once, so that a flood of wrong passwords
//! cannot take the processors from the mail, and an honest login does not wait behind the flood.
//!
//! Who has logged in from its address before goes first; all others take turns by network, each network with a line
//! of its own that has a bound. So a login from elsewhere waits for one hash of each network that waits, however many
//! guesses those have sent. Whoever's turn it is asks first whether the answer is known by now: an application that
//! opens fifty connections at once with one password pays for the hashes that begin before the first of them ends.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Logins of one network that wait: more than `[limits] sessions_per_client` is by default, so that an application
/// server that opens all its connections at once has room.
const WAITING_PER_NETWORK: usize = 64;
/// Logins that wait in all.
const WAITING_MAX: usize = 1024;

/// Where a login comes from, as far as the line is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) enum LoginSource {
    /// Somebody logged in by this name from there before.
    Known,
    /// A network.
    Network(IpAddr),
}

/// Runs hashes.
pub(super) struct Hashing {
    state: Mutex<State>,
    called: Condvar,
}

struct State {
    free: usize,
    line: Line,
    next_ticket: u64,
    /// Tickets whose turn it is and who have not noticed yet.
    called: HashSet<u64>,
}

/// Who waits, in the order of their turns. Pure.
#[derive(Debug, Default)]
struct Line {
    known: VecDeque<u64>,
    networks: VecDeque<(IpAddr, VecDeque<u64>)>,
    waiting: usize,
}

impl Line {
    /// False: there is no room.
    fn push(&mut self, from: LoginSource, ticket: u64) -> bool {
        if self.waiting >= WAITING_MAX {
            return false;
        }
        match from {
            LoginSource::Known => self.known.push_back(ticket),
            LoginSource::Network(network) => {
                match self.networks.iter_mut().find(|(other, _)| *other == network) {
                    Some((_, tickets)) if tickets.len() >= WAITING_PER_NETWORK => return false,
                    Some((_, tickets)) => tickets.push_back(ticket),
                    None => self.networks.push_back((network, VecDeque::from([ticket]))),
                }
            }
        }
        self.waiting += 1;
        true
    }

    fn pop(&mut self) -> Option<u64> {
        let ticket = self.known.pop_front().or_else(|| {
            let (network, mut tickets) = self.networks.pop_front()?;
            let ticket = tickets.pop_front();
            if !tickets.is_empty() {
                self.networks.push_back((network, tickets));
            }
            ticket
        })?;
        self.waiting -= 1;
        Some(ticket)
    }
}

impl Hashing {
    /// So many at once.
    pub(super) fn new(places: usize) -> Hashing {
        let state = State { free: places, line: Line::default(), next_ticket: 0, called: HashSet::new() };
        Hashing { state: Mutex::new(state), called: Condvar::new() }
    }

    /// Does the work when it is its turn, unless its result is `known` by then; none: too many wait already.
    pub(super) fn run<T>(
        &self,
        from: LoginSource,
        known: impl FnOnce() -> Option<T>,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
        } else {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            if !state.line.push(from, ticket) {
                return None;
            }
            while !state.called.remove(&ticket) {
                state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(state);
        // Hashing does not panic; if it ever did, its place would be lost with its session.
        let result = known().unwrap_or_else(work);
        let mut state = self.lock();
        match state.line.pop() {
            Some(ticket) => {
                state.called.insert(ticket);
                self.called.notify_all();
            }
            None => state.free += 1,
        }
        Some(result)
    }

    /// Every change is one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    fn network(n: u8) -> LoginSource {
        LoginSource::Network(IpAddr::from([10, n, 0, 0]))
    }

    #[test]
    fn only_so_many_run_at_once() {
        let hashing = Hashing::new(2);
        let inside = Mutex::new((0, 0));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (hashing, inside) = (&hashing, &inside);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let ran = hashing.run(
                            network(n),
                            || None,
                            || {
                                {
                                    let mut counts = inside.lock().unwrap();
                                    counts.0 += 1;
                                    counts.1 = counts.1.max(counts.0);
                                }
                                std::thread::yield_now();
                                inside.lock().unwrap().0 -= 1;
                            },
                        );
                        assert!(ran.is_some());
                    }
                });
            }
        });
        assert!((1..=2).contains(&inside.lock().unwrap().1));
        let state = hashing.lock();
        assert_eq!((state.free, state.line.waiting, state.called.len()), (2, 0, 0));
    }

    #[test]
    fn networks_take_turns_the_known_go_first_and_each_line_has_a_bound() {
        let mut line = Line::default();
        let flood = (0..200).filter(|n| line.push(network(1), *n)).count();
        assert_eq!(flood, WAITING_PER_NETWORK);
        assert!(
            line.push(network(2), 200) && line.push(network(3), 300) && line.push(LoginSource::Known, 400)
        );
        let order: Vec<u64> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(order[..6], [400, 0, 200, 300, 1, 2]);
        assert_eq!(order.len(), WAITING_PER_NETWORK + 3);
        let full = (0..10_000).filter(|n| line.push(LoginSource::Known, *n)).count();
        assert_eq!(full, WAITING_MAX);
    }

    /// Fifty connections of one application, the same password on each.
    #[test]
    fn what_is_known_when_its_turn_comes_is_not_worked_out_again() {
        let hashing = Hashing::new(2);
        let (remembered, hashes) = (AtomicBool::new(false), AtomicUsize::new(0));
        let together = Barrier::new(50);
        std::thread::scope(|scope| {
            for _ in 0..50 {
                let (hashing, remembered, hashes, together) = (&hashing, &remembered, &hashes, &together);
                scope.spawn(move || {
                    let known = || remembered.load(Ordering::SeqCst).then_some(true);
                    let work = || {
                        hashes.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(10));
                        remembered.store(true, Ordering::SeqCst);
                        true
                    };
                    together.wait();
                    assert_eq!(hashing.run(network(1), known, work), Some(true));
                });
            }
        });
        assert!((1..=2).contains(&hashes.into_inner()));
    }

    /// Two hundred guesses wait; an honest login waits for no more than a few hashes.
    #[test]
    fn an_honest_login_does_not_wait_behind_a_flood() {
        const HASH: Duration = Duration::from_millis(10);
        let hashing = Hashing::new(2);
        std::thread::scope(|scope| {
            for n in 0..200u8 {
                let hashing = &hashing;
                scope.spawn(move || hashing.run(network(n % 10), || None, || std::thread::sleep(HASH)));
            }
            let begin = Instant::now();
            while hashing.lock().line.waiting < 20 && begin.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            let begin = Instant::now();
            assert!(hashing.run(network(77), || None, || ()).is_some());
            assert!(begin.elapsed() < 40 * HASH, "{:?}", begin.elapsed());
        });
    }
}
