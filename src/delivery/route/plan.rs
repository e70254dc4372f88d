//! The route of a recipient domain: which hosts to try, in which order.
//!
//! Pure apart from the lookups it asks for. A configured relay comes before everything, MX and
//! address literals included. Otherwise MX per RFC 5321 §5.1: preference order, random among equals,
//! A and AAAA where there is no MX; a null MX (RFC 7505) fails at once; our own name or source
//! address cuts the list at its preference, so that mail cannot circle.
//!
//! What fails for good is what somebody said on purpose: NXDOMAIN, a null MX, MX hosts that do not exist, that
//! have only addresses we never deliver to, or that are this relay. Anything that a broken resolver can
//! cause is temporary, and so is everything DNS says about a configured relay, whose name is the operator's
//! to repair. Relays may stand in `prohibited_networks`: the operator wrote them there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::{DeliverySettings, RelayHost, Route, RouteTls, Routes};
use crate::mail::Domain;

use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::delivery::route::source_addresses::{self, SourceAddresses};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{NoRoute, NoRouteReason};

/// MX hosts of one attempt.
pub const MX_HOSTS_MAX: usize = 5;
/// Addresses of one attempt.
pub const ADDRESSES_MAX: usize = 10;

/// Hears each step of the planning, for `explain` and the debug log; a deaf one costs nothing.
pub type Trace<'a> = dyn FnMut(fmt::Arguments<'_>) + 'a;

/// Whom to try for mail to `domain` that `user` submitted (none: nobody who logged in), best first; at most
/// [`ADDRESSES_MAX`], never none.
///
/// `random` gives a number below its argument. Lookups are the only thing here that takes time.
///
/// # Errors
/// Says why there is nobody to try and whether that is for good.
pub fn plan(
    domain: &Domain,
    user: Option<&str>,
    routes: &Routes,
    settings: &DeliverySettings,
    lookup: &dyn Lookup,
    random: &mut dyn FnMut(usize) -> usize,
    trace: &mut Trace<'_>,
) -> Result<Vec<Endpoint>, NoRoute> {
    let route = routes.find(domain);
    match route {
        Some(route) => trace(format_args!("[[route]] domain = \"{}\" matches {domain}", route.domain)),
        None => trace(format_args!("no [[route]] matches {domain}")),
    }
    let sources = SourceAddresses::of(user, route, settings);
    if !sources.addresses.is_empty() {
        trace(format_args!("leaves from {}: {}", Listed(&sources.addresses), sources.config_key));
    }
    let mut planner = Planner { domain, route, routes, sources, settings, lookup, random, trace };
    match (route, domain.ip()) {
        (Some(route), _) if !route.relay.is_empty() => planner.by_relay(&route.relay),
        (_, Some(literal)) => planner.by_literal(literal),
        _ => planner.by_mx(),
    }
}

struct Planner<'a> {
    domain: &'a Domain,
    route: Option<&'a Route>,
    routes: &'a Routes,
    sources: SourceAddresses,
    settings: &'a DeliverySettings,
    lookup: &'a dyn Lookup,
    random: &'a mut dyn FnMut(usize) -> usize,
    trace: &'a mut Trace<'a>,
}

/// A host that is left to try, with the addresses that may be tried.
struct Host {
    name: String,
    port: u16,
    addresses: Vec<IpAddr>,
    preference: u16,
}

/// The first reason of each kind why a host is of no use.
#[derive(Default)]
struct Setbacks {
    temporary: Option<(String, String)>,
    permanent: Option<(String, String)>,
}

impl Setbacks {
    fn note(&mut self, permanent: bool, host: &str, why: String) {
        let place = if permanent { &mut self.permanent } else { &mut self.temporary };
        place.get_or_insert_with(|| (host.to_owned(), why));
    }
}

impl Planner<'_> {
    /// The relays in their order, no MX lookup.
    fn by_relay(&mut self, relays: &[RelayHost]) -> Result<Vec<Endpoint>, NoRoute> {
        (self.trace)(format_args!("its relays in order, no MX lookup"));
        let named: Vec<&str> = relays
            .iter()
            .filter(|relay| relay.host.ip().is_none())
            .map(|relay| relay.host.as_str())
            .collect();
        let mut found = self.lookup.addresses(&named).into_iter();
        let mut setbacks = Setbacks::default();
        let mut hosts = Vec::new();
        for (turn, relay) in (0..).zip(relays) {
            let name = relay.host.as_str();
            let port = relay.port;
            if let Some(ip) = relay.host.ip() {
                let (name, addresses) = (ip.to_string(), vec![ip]);
                hosts.push(Host { name, port, addresses, preference: turn });
                continue;
            }
            match found.next().unwrap_or(Err(DnsError::NoData)) {
                Ok(addresses) => hosts.push(Host { preference: turn, ..self.host(name, port, addresses) }),
                Err(error) => {
                    (self.trace)(format_args!("{name}: {error}"));
                    setbacks.note(error_is_about_the_name(&error), name, error.to_string());
                }
            }
        }
        if !hosts.is_empty() {
            return self.endpoints(hosts, true);
        }
        // Never permanent: the relay's name is the operator's, not the recipient's.
        Err(match (setbacks.temporary, setbacks.permanent) {
            (Some((host, why)), _) => no_route(
                NoRouteReason::LookupFailed,
                format!("cannot look up the relay {host}: {why}"),
                Some(host),
            ),
            (None, Some((host, why))) => no_route(
                NoRouteReason::RelayUnknown,
                format!("the relay {host} has no address: {why}"),
                Some(host),
            ),
            (None, None) => {
                no_route(NoRouteReason::RelayUnknown, "the route names no relay".to_owned(), None)
            }
        })
    }

    /// `user@[192.0.2.1]`: that address alone.
    fn by_literal(&mut self, ip: IpAddr) -> Result<Vec<Endpoint>, NoRoute> {
        (self.trace)(format_args!("address literal: no lookup"));
        let host = self.host(&ip.to_string(), self.settings.port, vec![ip]);
        if self.is_own(&host.addresses) {
            return Err(self.loops_back());
        }
        match self.permitted(host) {
            Ok(host) => self.endpoints(vec![host], false),
            Err(why) => Err(no_route(NoRouteReason::Unroutable, format!("{}: {why}", self.domain), None)),
        }
    }

    fn by_mx(&mut self) -> Result<Vec<Endpoint>, NoRoute> {
        let mut setbacks = Setbacks::default();
        let mut exchangers = self.exchangers(&mut setbacks)?;
        let own = exchangers.iter().find(|(_, name)| source_addresses::is_our_name(name, self.settings));
        if let Some(&(preference, _)) = own {
            self.cut(&mut exchangers, preference)?;
        }
        exchangers.truncate(MX_HOSTS_MAX);
        let names: Vec<&str> = exchangers.iter().map(|(_, name)| name.as_str()).collect();
        let found = self.lookup.addresses(&names);

        let mut hosts = Vec::new();
        for ((preference, name), found) in exchangers.iter().zip(found) {
            match found {
                Ok(addresses) => hosts.push((*preference, self.host(name, self.settings.port, addresses))),
                Err(error) => {
                    (self.trace)(format_args!("{name}: {error}"));
                    if error == DnsError::NoSuchDomain && *name == self.domain.as_str() {
                        return Err(self.no_such_domain());
                    }
                    setbacks.note(error_is_about_the_name(&error), name, error.to_string());
                }
            }
        }
        if let Some(preference) = hosts.iter().find(|(_, host)| self.is_own(&host.addresses)).map(|(p, _)| *p)
        {
            self.cut(&mut hosts, preference)?;
        }
        let mut usable = Vec::new();
        for (preference, host) in hosts {
            let name = host.name.clone();
            match self.permitted(host) {
                Ok(host) => usable.push(Host { preference, ..host }),
                Err(why) => setbacks.note(true, &name, why),
            }
        }
        if !usable.is_empty() {
            return self.endpoints(usable, false);
        }
        Err(match (setbacks.temporary, setbacks.permanent) {
            (Some((host, why)), _) => no_route(
                NoRouteReason::LookupFailed,
                format!("cannot look up the mail host {host}: {why}"),
                Some(host),
            ),
            (None, permanent) => {
                let (host, why) = permanent.unzip();
                let about = host.as_deref().unwrap_or_default();
                let why = why.unwrap_or_default();
                let text = format!("no mail host of {} can be used: {about}: {why}", self.domain);
                no_route(NoRouteReason::Unroutable, text, host)
            }
        })
    }

    /// The MX hosts, best first; the domain itself where it has no MX (RFC 5321 §5.1, "implicit MX").
    fn exchangers(&mut self, setbacks: &mut Setbacks) -> Result<Vec<(u16, String)>, NoRoute> {
        let domain = self.domain;
        let mut records = match self.lookup.mx(domain.as_str()) {
            Ok(records) => records,
            Err(DnsError::NoData) => {
                (self.trace)(format_args!("{domain} has no MX: its own addresses"));
                return Ok(vec![(0, domain.as_str().to_owned())]);
            }
            Err(DnsError::NoSuchDomain) => return Err(self.no_such_domain()),
            Err(DnsError::Temporary(why)) => {
                let text = format!("cannot look up the mail hosts of {domain}: {why}");
                return Err(no_route(NoRouteReason::LookupFailed, text, None));
            }
        };
        // RFC 7505 §3: one record, its host the root.
        if matches!(records.as_slice(), [(_, host)] if host == ".") {
            (self.trace)(format_args!("{domain} has a null MX"));
            return Err(no_route(NoRouteReason::NullMx, format!("{domain} accepts no mail (null MX)"), None));
        }
        shuffle(&mut records, self.random);
        // Stable: equals keep the order of the shuffle.
        records.sort_by_key(|(preference, _)| *preference);
        (self.trace)(format_args!("MX of {domain}: {}", ListedMx(&records)));
        let mut exchangers: Vec<(u16, String)> = Vec::with_capacity(records.len());
        for (preference, host) in records {
            // An address where a name must stand is a common slip (RFC 5321 §5.1 wants a name): no such host.
            // Neither is looked up, nor what is not a host name at all: `.`, blanks, control characters.
            match Domain::parse(&host) {
                Ok(name) if name.ip().is_none() && host.parse::<IpAddr>().is_err() => {
                    if !exchangers.iter().any(|(_, known)| known == name.as_str()) {
                        exchangers.push((preference, name.as_str().to_owned()));
                    }
                }
                _ => {
                    (self.trace)(format_args!("{host:?} left out: not the name of a host"));
                    setbacks.note(
                        true,
                        &host.escape_default().to_string(),
                        "not the name of a host".to_owned(),
                    );
                }
            }
        }
        Ok(exchangers)
    }

    /// RFC 5321 §5.1: where we are on the list ourselves, only better hosts may be tried.
    fn cut<T>(&mut self, hosts: &mut Vec<(u16, T)>, preference: u16) -> Result<(), NoRoute> {
        (self.trace)(format_args!("this relay is on the list: preference {preference} and worse left out"));
        hosts.retain(|(of, _)| *of < preference);
        if hosts.is_empty() { Err(self.loops_back()) } else { Ok(()) }
    }

    fn is_own(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|ip| source_addresses::is_ours(*ip, self.settings, self.routes))
    }

    /// IPv6 and IPv4 by turns, each in random order: a host with many addresses shares out its load, and a family
    /// that does not work costs one address of the attempt, not all. `::ffff:192.0.2.1` counts as 192.0.2.1, lest
    /// it slip through `prohibited_networks`.
    fn host(&mut self, name: &str, port: u16, addresses: Vec<IpAddr>) -> Host {
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

    /// The host without the addresses that are never delivered to; says so where none is left.
    fn permitted(&mut self, mut host: Host) -> Result<Host, String> {
        let before = host.addresses.clone();
        host.addresses.retain(|ip| {
            let network = self.settings.prohibited_networks.iter().find(|network| network.contains(ip));
            if let Some(network) = network {
                (self.trace)(format_args!("{ip} left out: prohibited_networks has {network}"));
            }
            // No host is found under these, whatever the config says; `::` would be this machine.
            network.is_none() && !ip.is_unspecified() && !ip.is_multicast()
        });
        if host.addresses.is_empty() {
            Err(format!("mail is never delivered to {}", Listed(&before)))
        } else {
            Ok(host)
        }
    }

    /// The hosts' addresses that a source address reaches, within the bound, every host its share.
    fn endpoints(&mut self, mut hosts: Vec<Host>, relay: bool) -> Result<Vec<Endpoint>, NoRoute> {
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

    fn no_such_domain(&mut self) -> NoRoute {
        no_route(
            NoRouteReason::NoSuchDomain,
            format!("the domain {} does not exist (NXDOMAIN)", self.domain),
            None,
        )
    }

    fn loops_back(&mut self) -> NoRoute {
        let text =
            format!("mail for {} would come back to this relay ({})", self.domain, self.settings.hostname);
        no_route(NoRouteReason::Loop, text, None)
    }
}

fn no_route(why: NoRouteReason, text: String, mx: Option<String>) -> NoRoute {
    NoRoute { why, text, mx }
}

fn error_is_about_the_name(error: &DnsError) -> bool {
    match error {
        DnsError::NoSuchDomain | DnsError::NoData => true,
        DnsError::Temporary(_) => false,
    }
}

/// How many addresses of each host are tried: an equal share first, then what is left to the best. With at most
/// [`MX_HOSTS_MAX`] hosts the share is two, one of each family, so that no host and no family is crowded out.
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

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], random: &mut dyn FnMut(usize) -> usize) {
    for last in (1..items.len()).rev() {
        items.swap(last, random(last + 1).min(last));
    }
}

/// Items with commas between.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct ListedMx<'a>(&'a [(u16, String)]);

impl fmt::Display for ListedMx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (preference, host)) in self.0.iter().enumerate() {
            write!(f, "{}{preference} {host}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
