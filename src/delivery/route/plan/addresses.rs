//! The addresses of the hosts on a route: their order, which of them may be tried, and how many of each host.

use std::net::{IpAddr, SocketAddr};

use crate::config::RouteTls;
use crate::mail::TlsPolicy;

use crate::delivery::route::lookup::DnsError;
use crate::delivery::route::own_addresses;
use crate::delivery::route::plan::{ADDRESSES_MAX, Listed, Planner, no_route, reason_to_wait, turns};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{NoRoute, NoRouteReason};

/// A host that may be tried, with its addresses.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) preference: u16,
}

impl Planner<'_> {
    /// Whether one of the host's addresses is this relay's own.
    pub(super) fn is_own(&self, host: &Host) -> bool {
        let is_ours = |ip: &IpAddr| own_addresses::is_ours(*ip, host.port, self.settings, self.routes);
        host.addresses.iter().any(is_ours)
    }

    /// Whether no mail would go to a host of which this is said: it has no address, none that is permitted, or one that
    /// is this relay's own.
    pub(super) fn is_final(&self, said: &Result<Vec<IpAddr>, DnsError>) -> bool {
        match said {
            Ok(addresses) => {
                let is_prohibited =
                    |ip: &IpAddr| self.settings.prohibited_networks.reason(ip.to_canonical()).is_some();
                let port = self.settings.port;
                let is_ours =
                    |ip: &IpAddr| own_addresses::is_ours(ip.to_canonical(), port, self.settings, self.routes);
                addresses.iter().all(is_prohibited) || addresses.iter().any(is_ours)
            }
            Err(error) => reason_to_wait(error).is_none(),
        }
    }

    /// The relay without the addresses where this relay itself listens.
    ///
    /// # Errors
    /// Says so where none is left.
    pub(super) fn elsewhere(&mut self, mut host: Host) -> Result<Host, String> {
        host.addresses.retain(|ip| {
            let ours = own_addresses::is_listener(*ip, host.port, &self.settings.listen);
            if ours {
                (self.trace)(format_args!("{ip} left out: this relay listens there"));
            }
            !ours
        });
        if host.addresses.is_empty() { Err("this relay itself listens there".to_owned()) } else { Ok(host) }
    }

    /// A host with its addresses in the order in which they are tried: IPv6 and IPv4 alternate, each in the order of
    /// their ranks, so that load is spread and a broken family costs one address, not all. `::ffff:192.0.2.1` counts
    /// as 192.0.2.1, so that it cannot evade `prohibited_networks`.
    pub(super) fn host(&mut self, name: &str, port: u16, addresses: Vec<IpAddr>) -> Host {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        (self.trace)(format_args!("{name}: {}", Listed(&addresses)));
        let (mut v6, mut v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
        v6.sort_by_cached_key(|ip| self.rank_of_address(*ip));
        v4.sort_by_cached_key(|ip| self.rank_of_address(*ip));
        let turns = v6.len().max(v4.len());
        let addresses = (0..turns).flat_map(|turn| [v6.get(turn), v4.get(turn)]).flatten().copied().collect();
        Host { name: name.to_owned(), port, addresses, preference: 0 }
    }

    fn rank_of_address(&self, ip: IpAddr) -> u64 {
        match ip {
            IpAddr::V4(v4) => (self.rank)(&v4.octets()),
            IpAddr::V6(v6) => (self.rank)(&v6.octets()),
        }
    }

    /// The host without its prohibited addresses.
    ///
    /// # Errors
    /// Says so where none is left.
    pub(super) fn permitted(&mut self, mut host: Host) -> Result<Host, String> {
        let before = host.addresses.clone();
        host.addresses.retain(|ip| {
            let reason = self.settings.prohibited_networks.reason(*ip);
            if let Some(why) = &reason {
                (self.trace)(format_args!("{ip} left out: {why}"));
            }
            reason.is_none()
        });
        if host.addresses.is_empty() {
            Err(format!("mail is never delivered to {}", Listed(&before)))
        } else {
            Ok(host)
        }
    }

    /// The hosts with the addresses that can be reached from one of the source addresses.
    ///
    /// # Errors
    /// Says so where none is left.
    pub(super) fn reachable(&mut self, mut hosts: Vec<Host>) -> Result<Vec<Host>, NoRoute> {
        let all = hosts.first().map(|host| (host.name.clone(), host.addresses.clone()));
        for host in &mut hosts {
            host.addresses.retain(|ip| {
                let reached = self.sources.reaches(*ip);
                if !reached {
                    (self.trace)(format_args!("{ip} left out: no source address of its family"));
                }
                reached
            });
        }
        hosts.retain(|host| !host.addresses.is_empty());
        match all {
            Some((name, addresses)) if hosts.is_empty() => {
                let text = format!(
                    "no source address of the family of {name} ({}): mail leaves from {}",
                    Listed(&addresses),
                    Listed(&self.sources.addresses)
                );
                Err(no_route(NoRouteReason::NoSource, text, Some(name)))
            }
            _ => Ok(hosts),
        }
    }

    /// The addresses of the hosts, at most [`ADDRESSES_MAX`], each host its share.
    pub(super) fn endpoints(&self, hosts: Vec<Host>, relay: bool) -> Vec<Endpoint> {
        let counts: Vec<usize> = hosts.iter().map(|host| host.addresses.len()).collect();
        let tls = self.route.and_then(|route| route.tls);
        let mut endpoints = Vec::new();
        for (mut host, share) in hosts.into_iter().zip(shares(&counts)) {
            // Those that the attempt before had no room for come first.
            let first = turns::start(host.addresses.len(), share, self.request.attempts);
            if host.addresses.len() > share {
                host.addresses.rotate_left(first);
            }
            for ip in host.addresses.into_iter().take(share) {
                endpoints.push(Endpoint {
                    host: host.name.clone(),
                    address: SocketAddr::new(ip, host.port),
                    tls: tls.unwrap_or(RouteTls::Opportunistic),
                    policy: if tls.is_some() { TlsPolicy::Route } else { TlsPolicy::None },
                    dane: None,
                    ca_file: self.route.and_then(|route| route.ca_file.clone()),
                    login: self.route.filter(|_| relay).and_then(|route| route.login.clone()),
                    relay,
                    preference: host.preference,
                    sources: self.sources.addresses.clone(),
                });
            }
        }
        endpoints.truncate(ADDRESSES_MAX);
        endpoints
    }
}

/// How many addresses of each host are tried: an equal share for each, and the rest for the best hosts. With
/// [`MX_HOSTS_MAX`](super::MX_HOSTS_MAX) hosts the share is two, one of each family, so that no host and no family is
/// left out.
fn shares(counts: &[usize]) -> Vec<usize> {
    let equal = (ADDRESSES_MAX / counts.len().max(1)).max(1);
    let mut shares: Vec<usize> = counts.iter().map(|&count| count.min(equal)).collect();
    let mut room = ADDRESSES_MAX.saturating_sub(shares.iter().sum());
    for (share, count) in shares.iter_mut().zip(counts) {
        let more = (count - *share).min(room);
        *share += more;
        room -= more;
    }
    shares
}
