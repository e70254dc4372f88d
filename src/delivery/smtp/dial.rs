//! Connecting to a host: its next address, raced by its first address of the other family (`race.rs`).
//!
//! An address that failed is not tried again. One that was given up because the other was faster stays among those to
//! try, since nothing is known of it.

mod race;

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::stop::Stop;
use crate::delivery::smtp::wire::{Fault, Timeouts, Wire};
use race::{Place, Race, Target, race};

/// The result of [`dial`].
pub(in crate::delivery) struct Dialled {
    /// The address that is connected, or that failed last.
    pub(in crate::delivery) endpoint: Endpoint,
    /// The connection to it.
    pub(in crate::delivery) wire: Result<Wire, Fault>,
    /// The other address, if it failed too.
    pub(in crate::delivery) beside: Option<(Endpoint, Fault)>,
}

/// Connects to `first`, or to its host's first address of the other family in `rest`. `rest` keeps only what was not
/// tried, or was given up. `from` gives the local address for an endpoint; none: the system chooses.
pub(in crate::delivery) fn dial(
    first: Endpoint,
    rest: &mut VecDeque<Endpoint>,
    from: impl Fn(&Endpoint) -> Option<IpAddr>,
    timeouts: Timeouts,
    stop: &Stop,
) -> Dialled {
    let target = |endpoint: &Endpoint| Target { to: endpoint.address, from: from(endpoint) };
    let second_at = rest
        .iter()
        .position(|other| other.is_same_host(&first) && other.address.is_ipv4() != first.address.is_ipv4());
    let Race { won, faults } = race(target(&first), second_at.map(|at| target(&rest[at])), timeouts, stop);
    let [first_fault, second_fault] = faults;
    let wire = |tcp| {
        let mut wire = Wire::opened(tcp)?;
        wire.heed(stop.clone());
        Ok(wire)
    };
    let second_is_over = second_fault.is_some() || matches!(won, Some((Place::Second, _)));
    let second = second_at.filter(|_| second_is_over).and_then(|at| rest.remove(at));
    match (won, second) {
        (Some((Place::Second, tcp)), Some(second)) => {
            let beside = match first_fault {
                Some(fault) => Some((first, fault)),
                None => {
                    rest.push_front(first);
                    None
                }
            };
            Dialled { endpoint: second, wire: wire(tcp), beside }
        }
        (Some((_, tcp)), second) => {
            Dialled { endpoint: first, wire: wire(tcp), beside: second.zip(second_fault) }
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use super::race::HEAD_START;
    use super::race::tests::{black_hole, timeouts};
    use super::*;
    use crate::config::RouteTls;

    fn endpoint(address: SocketAddr, host: &str) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            address,
            tls: RouteTls::Opportunistic,
            policy: crate::mail::TlsPolicy::None,
            dane: None,
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
        let dialled = dial(first, &mut endpoints, |_| None, timeouts(wait), &Stop::default());
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
