//! The route to a recipient's domain: which hosts to try, in which order.
//!
//! Pure apart from its lookups. A configured relay comes before MX records and address literals. Otherwise MX per RFC
//! 5321 §5.1: in order of preference, random among equals; the domain's own addresses where there is no MX. A null MX
//! (RFC 7505) fails at once. Our own name or source address cuts the list at its preference, so that mail cannot loop.
//!
//! Permanent failures are those that a domain's owner caused: NXDOMAIN, a null MX, and MX hosts that do not exist, that
//! have only prohibited addresses, or that are this relay. All that a broken resolver can cause is temporary, and so
//! is any failure of a configured relay's name, which the operator has to correct. Relays may be in
//! `prohibited_networks`, since the operator named them.

mod addresses;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use crate::config::{DeliverySettings, RelayHost, Route, Routes};
use crate::mail::Domain;

use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::delivery::route::source_addresses::{self, SourceAddresses};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{NoRoute, NoRouteReason};
use addresses::Host;

/// MX hosts in one attempt.
pub const MX_HOSTS_MAX: usize = 5;
/// Addresses in one attempt.
pub const ADDRESSES_MAX: usize = 10;

/// Gets each step of the planning, for `explain` and the debug log.
pub type Trace<'a> = dyn FnMut(fmt::Arguments<'_>) + 'a;

/// The endpoints to try for mail to `domain` that `user` submitted (none: without a login), best first; 1 to
/// [`ADDRESSES_MAX`].
///
/// `random` gives a number below its argument. Only the lookups take time.
///
/// # Errors
/// Says why there is no endpoint to try.
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

/// The first temporary and the first permanent reason why a host cannot be used, each with the host.
#[derive(Default)]
struct Unusable {
    temporary: Option<(String, String)>,
    permanent: Option<(String, String)>,
}

impl Unusable {
    fn note(&mut self, permanent: bool, host: &str, why: String) {
        let place = if permanent { &mut self.permanent } else { &mut self.temporary };
        place.get_or_insert_with(|| (host.to_owned(), why));
    }
}

impl Planner<'_> {
    /// The relays in their order, without an MX lookup.
    fn by_relay(&mut self, relays: &[RelayHost]) -> Result<Vec<Endpoint>, NoRoute> {
        (self.trace)(format_args!("its relays in order, no MX lookup"));
        let named: Vec<&str> = relays
            .iter()
            .filter(|relay| relay.host.ip().is_none())
            .map(|relay| relay.host.as_str())
            .collect();
        let mut found = self.lookup.addresses(&named).into_iter();
        let mut unusable = Unusable::default();
        let mut hosts = Vec::new();
        for (preference, relay) in (0..).zip(relays) {
            let name = relay.host.as_str();
            let port = relay.port;
            if let Some(ip) = relay.host.ip() {
                let (name, addresses) = (ip.to_string(), vec![ip]);
                hosts.push(Host { name, port, addresses, preference });
                continue;
            }
            match found.next().unwrap_or(Err(DnsError::NoData)) {
                Ok(addresses) => hosts.push(Host { preference, ..self.host(name, port, addresses) }),
                Err(error) => {
                    (self.trace)(format_args!("{name}: {error}"));
                    unusable.note(error_is_about_the_name(&error), name, error.to_string());
                }
            }
        }
        if !hosts.is_empty() {
            return self.endpoints(hosts, true);
        }
        // Never permanent: the operator chose the relay's name.
        Err(match (unusable.temporary, unusable.permanent) {
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

    /// `user@[192.0.2.1]`: only that address.
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
        let mut unusable = Unusable::default();
        let mut exchangers = self.exchangers(&mut unusable)?;
        let own = exchangers.iter().find(|(_, name)| source_addresses::is_our_name(name, self.settings));
        if let Some(&(preference, _)) = own {
            self.cut(&mut exchangers, preference)?;
        }
        exchangers.truncate(MX_HOSTS_MAX);
        let mut hosts = self.look_up(&exchangers, &mut unusable)?;
        if let Some(preference) = hosts.iter().find(|(_, host)| self.is_own(&host.addresses)).map(|(p, _)| *p)
        {
            self.cut(&mut hosts, preference)?;
        }
        let mut usable = Vec::new();
        for (preference, host) in hosts {
            let name = host.name.clone();
            match self.permitted(host) {
                Ok(host) => usable.push(Host { preference, ..host }),
                Err(why) => unusable.note(true, &name, why),
            }
        }
        if !usable.is_empty() {
            return self.endpoints(usable, false);
        }
        Err(match (unusable.temporary, unusable.permanent) {
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

    /// The MX hosts with their addresses.
    fn look_up(
        &mut self,
        exchangers: &[(u16, String)],
        unusable: &mut Unusable,
    ) -> Result<Vec<(u16, Host)>, NoRoute> {
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
                    unusable.note(error_is_about_the_name(&error), name, error.to_string());
                }
            }
        }
        Ok(hosts)
    }

    /// The MX hosts, best first; the domain itself where it has no MX (RFC 5321 §5.1, "implicit MX").
    fn exchangers(&mut self, unusable: &mut Unusable) -> Result<Vec<(u16, String)>, NoRoute> {
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
        // RFC 7505 §3: a single record whose host is the root.
        if matches!(records.as_slice(), [(_, host)] if host == ".") {
            (self.trace)(format_args!("{domain} has a null MX"));
            return Err(no_route(NoRouteReason::NullMx, format!("{domain} accepts no mail (null MX)"), None));
        }
        addresses::shuffle(&mut records, self.random);
        // A stable sort: equal preferences keep their random order.
        records.sort_by_key(|(preference, _)| *preference);
        (self.trace)(format_args!("MX of {domain}: {}", ListedMx(&records)));
        let mut exchangers: Vec<(u16, String)> = Vec::with_capacity(records.len());
        for (preference, host) in records {
            // RFC 5321 §5.1 wants a host name. An address is a common mistake; `.`, blanks and control characters
            // occur too. None of them is looked up.
            match Domain::parse(&host) {
                Ok(name) if name.ip().is_none() && host.parse::<IpAddr>().is_err() => {
                    if !exchangers.iter().any(|(_, known)| known == name.as_str()) {
                        exchangers.push((preference, name.as_str().to_owned()));
                    }
                }
                _ => {
                    (self.trace)(format_args!("{host:?} left out: not the name of a host"));
                    unusable.note(
                        true,
                        &host.escape_default().to_string(),
                        "not the name of a host".to_owned(),
                    );
                }
            }
        }
        Ok(exchangers)
    }

    /// RFC 5321 §5.1: if this relay is on the list, only better hosts may be tried.
    fn cut<T>(&mut self, hosts: &mut Vec<(u16, T)>, preference: u16) -> Result<(), NoRoute> {
        (self.trace)(format_args!("this relay is on the list: preference {preference} and worse left out"));
        hosts.retain(|(of, _)| *of < preference);
        if hosts.is_empty() { Err(self.loops_back()) } else { Ok(()) }
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
