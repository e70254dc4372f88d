//! Who may have how many of the sessions, and who makes room for whom. Pure.
//!
//! Whoever connects is a stranger until it logs in. Strangers fill three quarters of `[limits] sessions` at most, they
//! and users together seven eighths, so that trusted clients, this machine among them, always find room. Where the
//! strangers' part is full, a newcomer takes the place of one from the network that has most of them: whoever opens
//! many sessions takes them from himself. Networks are compared as wholes first (/24, /48), then by client (an
//! address, a /64); the oldest session of the greediest goes.

use std::collections::HashMap;
use std::net::IpAddr;

use super::networks;

/// What a session's client has shown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Stranger,
    User,
    /// By its network: the listener trusts it, or it is this machine.
    Trusted,
}

/// How many sessions of each class there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) strangers: usize,
    pub(super) users: usize,
    pub(super) trusted: usize,
}

impl Counts {
    /// That of one class.
    pub(super) fn of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Stranger => &mut self.strangers,
            Class::User => &mut self.users,
            Class::Trusted => &mut self.trusted,
        }
    }

    /// Whether one more of this class has room where there may be `max` in all.
    pub(super) fn has_room(&self, class: Class, max: usize) -> bool {
        let untrusted = self.strangers + self.users;
        untrusted + self.trusted < max
            && match class {
                Class::Trusted => true,
                Class::User => untrusted < max - max / 8,
                Class::Stranger => untrusted < max - max / 8 && self.strangers < max - max / 4,
            }
    }
}

/// Whose session ends so that `newcomer` has a place: one of the greediest network, where that has at least two more
/// than the newcomer's. None where the newcomer is as greedy as any. `strangers` are numbered by age.
pub(super) fn who_makes_room(strangers: &[(u64, IpAddr)], newcomer: IpAddr) -> Option<u64> {
    let networks = Crowd::of(strangers.iter().map(|(number, ip)| (*number, networks::around(*ip))));
    let home = networks::around(newcomer);
    let greedier = networks.greediest(networks.count(home) + 2);
    let round = greedier.map_or(home, |(network, _)| network);
    let inside = strangers.iter().filter(|(_, ip)| networks::around(*ip) == round);
    let clients = Crowd::of(inside.map(|(number, ip)| (*number, networks::client(*ip))));
    // Where no other network has more than the newcomer's, client against client within it.
    let at_least = if greedier.is_some() { 1 } else { clients.count(networks::client(newcomer)) + 2 };
    clients.greediest(at_least).map(|(_, oldest)| oldest)
}

/// Networks, with how many sessions each has and the oldest of them.
struct Crowd(HashMap<IpAddr, (usize, u64)>);

impl Crowd {
    fn of(sessions: impl Iterator<Item = (u64, IpAddr)>) -> Crowd {
        let mut crowd = HashMap::new();
        for (number, network) in sessions {
            let (count, oldest) = crowd.entry(network).or_insert((0, number));
            *count += 1;
            *oldest = number.min(*oldest);
        }
        Crowd(crowd)
    }

    fn count(&self, network: IpAddr) -> usize {
        self.0.get(&network).map_or(0, |(count, _)| *count)
    }

    /// The network with most sessions and its oldest one, where they are `at_least` so many.
    fn greediest(&self, at_least: usize) -> Option<(IpAddr, u64)> {
        let most = self.0.iter().max_by_key(|(_, (count, oldest))| (*count, u64::MAX - *oldest))?;
        let (network, (count, oldest)) = most;
        (*count >= at_least).then_some((*network, *oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_class_has_a_part_that_no_other_can_fill() {
        for max in [1, 2, 3, 8, 500, 100_000] {
            let mut counts = Counts::default();
            for class in [Class::Stranger, Class::User, Class::Trusted] {
                while counts.has_room(class, max) {
                    *counts.of(class) += 1;
                }
            }
            let Counts { strangers, users, trusted } = counts;
            assert_eq!(strangers + users + trusted, max, "{counts:?}");
            assert_eq!((strangers, strangers + users), (max - max / 4, max - max / 8), "{counts:?}");
        }
    }

    #[test]
    fn the_greediest_network_makes_room_and_among_equals_nobody_does() {
        // Ten addresses of one network with two each, against one with one.
        let crowd: Vec<(u64, IpAddr)> = (0..20).map(|n| (n, ip(&format!("192.0.2.{}", n % 10)))).collect();
        assert_eq!(who_makes_room(&crowd, ip("198.51.100.1")), Some(0), "from outside");
        assert_eq!(who_makes_room(&crowd, ip("192.0.2.77")), Some(0), "a new client of the same network");
        assert_eq!(who_makes_room(&crowd, ip("192.0.2.3")), None, "one of them");
        // A whole /48, each session from a /64 of its own.
        let six: Vec<(u64, IpAddr)> = (0..20).map(|n| (n, ip(&format!("2001:db8:1:{n}::1")))).collect();
        assert_eq!(who_makes_room(&six, ip("2001:db8:2::1")), Some(0), "each /64 has one, their /48 has 20");
        assert_eq!(who_makes_room(&six, ip("2001:db8:1:77::1")), None, "one more of them");
    }
}
