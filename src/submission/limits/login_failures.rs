//! Failed logins by client address: a client that guesses passwords is sent away, and nobody else is.
//!
//! IPv6 clients count by /64, which is one customer's: whoever has one address of it has all.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::{TtlMap, Window};

use super::networks;

/// How long a failure counts.
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
/// Addresses remembered at once; each costs a KiB at most. In a flood from more, the oldest are forgotten.
const FAILURE_ADDRESSES_MAX: usize = 10_000;

/// Failed logins of the last ten minutes, by client.
#[derive(Debug)]
pub(in crate::submission) struct LoginFailures {
    by_client: Mutex<TtlMap<IpAddr, Window<Instant>, Instant>>,
}

impl Default for LoginFailures {
    fn default() -> LoginFailures {
        LoginFailures { by_client: Mutex::new(TtlMap::new(FAILURE_ADDRESSES_MAX, FAILURE_WINDOW)) }
    }
}

impl LoginFailures {
    /// Counts one more failure.
    pub(in crate::submission) fn record(&self, client: IpAddr, now: Instant) {
        self.lock().renew(networks::client(client), now, || Window::new(FAILURE_WINDOW)).add(now);
    }

    /// How many failures of this client count now.
    pub(in crate::submission) fn count(&self, client: IpAddr, now: Instant) -> usize {
        self.lock().get_mut(&networks::client(client), now).map_or(0, |window| window.count(now))
    }

    /// So many failures of this client were no guesses: it knew the password after all.
    pub(in crate::submission) fn forgive(&self, client: IpAddr, many: u32, now: Instant) {
        if let Some(window) = self.lock().get_mut(&networks::client(client), now) {
            window.take_back(many);
        }
    }

    /// A panic while counting leaves a map that is still a map.
    fn lock(&self) -> MutexGuard<'_, TtlMap<IpAddr, Window<Instant>, Instant>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_by_address_for_ten_minutes() {
        let start = Instant::now();
        let failures = LoginFailures::default();
        let at = |secs| start + Duration::from_secs(secs);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        failures.record(client, start);
        failures.record(client, at(300));
        assert_eq!(failures.count(client, at(600)), 2);
        assert_eq!(failures.count(client, at(610)), 1);
        assert_eq!(failures.count("192.0.2.2".parse().unwrap(), at(300)), 0);
        failures.forgive(client, 1, at(610));
        assert_eq!(failures.count(client, at(610)), 0);
    }

    #[test]
    fn an_ipv6_customer_has_one_count_and_neighbours_have_their_own() {
        let start = Instant::now();
        let failures = LoginFailures::default();
        let count = |client: &str| failures.count(client.parse().unwrap(), start);
        failures.record("2001:db8::1".parse().unwrap(), start);
        failures.record("2001:db8::ffff:0:0:2".parse().unwrap(), start);
        assert_eq!(count("2001:db8::3"), 2);
        assert_eq!(count("2001:db8:0:1::1"), 0);
        // Mapped IPv4 addresses share a /64 and nothing else.
        failures.record("::ffff:192.0.2.1".parse().unwrap(), start);
        assert_eq!((count("192.0.2.1"), count("::ffff:192.0.2.2")), (1, 0));
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_and_not_collected() {
        let start = Instant::now();
        let failures = LoginFailures::default();
        for n in 0..FAILURE_ADDRESSES_MAX as u32 + 50 {
            failures.record(IpAddr::V4(n.into()), start);
        }
        assert!(failures.lock().count(start) <= FAILURE_ADDRESSES_MAX);
    }
}
