//! The addresses of the hosts on a route: their order, which of them may be tried, and how many of each host.

use std::net::{IpAddr, SocketAddr};

use crate::config::RouteTls;

use crate::delivery::route::plan::{ADDRESSES_MAX, Listed, Planner, no_route};
use crate::delivery::route::source_addresses;
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
    /// Whether one of the addresses is this relay's own.
    pub(super) fn is_own(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|ip| source_addresses::is_ours(*ip, self.settings, self.routes))
    }

    /// A host with its addresses in the order in which they are tried: IPv6 and IPv4 alternate, each in random order,
    /// so that load is spread and a broken family costs one address, not all. `::ffff:192.0.2.1` counts as 192.0.2.1,
    /// so that it cannot evade `prohibited_networks`.
    pub(super) fn host(&mut self, name: &str, port: u16, addresses: Vec<IpAddr>) -> Host {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        (self.trace)(format_args!("{name}: {}", Listed(&addresses)));
        let (mut v6, mut v4): (Vec<_>, Vec<_>) = addresses.iter().partition(|ip| ip.is_ipv6());
        shuffle(&mut v6, self.random);
        shuffle(&mut v4, self.random);
        let turns = v6.len().max(v4.len());
        let addresses = (0..turns).flat_map(|turn| [v6.get(turn), v4.get(turn)]).flatten().copied().collect();
        Host { name: name.to_owned(), port, addresses, preference: 0 }
    }

    /// The host without its prohibited addresses.
    ///
    /// # Errors
    /// Says so where none is left.
    pub(super) fn permitted(&mut self, mut host: Host) -> Result<Host, String> {
        let before = host.addresses.clone();
        host.addresses.retain(|ip| {
            let network = self.settings.prohibited_networks.iter().find(|network| network.contains(ip));
            if let Some(network) = network {
                (self.trace)(format_args!("{ip} left out: prohibited_networks has {network}"));
            }
            // Never a host, whatever the config says; `::` would be this machine.
            network.is_none() && !ip.is_unspecified() && !ip.is_multicast()
        });
        if host.addresses.is_empty() {
            Err(format!("mail is never delivered to {}", Listed(&before)))
        } else {
            Ok(host)
        }
    }

    /// The addresses that can be reached from one of the source addresses, at most [`ADDRESSES_MAX`], each host its
    /// share.
    pub(super) fn endpoints(&mut self, mut hosts: Vec<Host>, relay: bool) -> Result<Vec<Endpoint>, NoRoute> {
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
        if let (true, Some((name, addresses))) = (hosts.is_empty(), all) {
            let text = format!(
                "no source address of the family of {name} ({}): mail leaves from {}",
                Listed(&addresses),
                Listed(&self.sources.addresses)
            );
            return Err(no_route(NoRouteReason::NoSource, text, Some(name)));
        }
        let counts: Vec<usize> = hosts.iter().map(|host| host.addresses.len()).collect();
        let mut endpoints = Vec::new();
        for (host, share) in hosts.into_iter().zip(shares(&counts)) {
            for ip in host.addresses.into_iter().take(share) {
                endpoints.push(Endpoint {
                    host: host.name.clone(),
                    address: SocketAddr::new(ip, host.port),
                    tls: self.route.map_or(RouteTls::Opportunistic, |route| route.tls),
                    ca_file: self.route.and_then(|route| route.ca_file.clone()),
                    login: self.route.filter(|_| relay).and_then(|route| route.login.clone()),
                    relay,
                    preference: host.preference,
                    sources: self.sources.addresses.clone(),
                });
            }
        }
        endpoints.truncate(ADDRESSES_MAX);
        Ok(endpoints)
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

/// Fisher-Yates.
pub(super) fn shuffle<T>(items: &mut [T], random: &mut dyn FnMut(usize) -> usize) {
    for last in (1..items.len()).rev() {
        items.swap(last, random(last + 1).min(last));
    }
}
