//! The route to a recipient's domain: which hosts to try, in which order.
//!
//! Pure apart from its lookups. A configured relay comes before MX records and address literals. Otherwise MX per RFC
//! 5321 §5.1: in order of preference, random among equals; the domain's own addresses where there is no MX. A null MX
//! (RFC 7505) fails at once. Our own name or address (`own_addresses.rs`) cuts the list at its preference, so that mail
//! cannot loop.
//!
//! One attempt has room for [`MX_HOSTS_MAX`] hosts that can be used; those that cannot take none of it. Where there are
//! more, the best host is in every attempt and the others take turns (`turns.rs`), so that the next attempt reaches
//! hosts that this one does not.
//!
//! Permanent failures are those that a domain's owner caused: NXDOMAIN, a null MX, and MX hosts that do not exist, that
//! have only prohibited addresses, or that are this relay. They are permanent where the whole list was seen. All that
//! a broken resolver can cause is temporary, and so is any failure of a configured relay's name, which the operator has
//! to correct. Relays may be in `prohibited_networks`, since the operator named them.

mod addresses;
mod dane;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use crate::config::{DeliverySettings, RelayHost, Route, Routes};
use crate::mail::Domain;

use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords};
use crate::delivery::route::own_addresses;
use crate::delivery::route::source_addresses::SourceAddresses;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{NoRoute, NoRouteReason, NoSafeHost};
use addresses::Host;
pub use dane::{DaneFinding, DaneFindings};

/// MX hosts that are tried in one attempt.
pub const MX_HOSTS_MAX: usize = 5;
/// MX hosts whose addresses are looked up for one attempt.
pub const MX_LOOKUPS_MAX: usize = 20;
/// Addresses in one attempt.
pub const ADDRESSES_MAX: usize = 10;

/// Gets each step of the planning, for `explain` and the debug log.
pub type Trace<'a> = dyn FnMut(fmt::Arguments<'_>) + 'a;
/// Gives a name, or the octets of an address, its rank.
pub type Rank<'a> = dyn Fn(&[u8]) -> u64 + 'a;

/// What is to be sent, as far as the way depends on it.
#[derive(Clone, Copy)]
pub struct PlanRequest<'a> {
    /// The recipients' domain.
    pub domain: &'a Domain,
    /// Who submitted it; none: nobody who logged in.
    pub user: Option<&'a str>,
    /// Attempts before this one: whose turn it is among the hosts.
    pub attempts: u32,
    /// Whether the plan must say if DNSSEC proves its hosts (REQUIRETLS).
    pub with_proof: bool,
    /// Whether DANE may have a say.
    pub dane: bool,
}

/// Whom to try.
#[derive(Debug, Default)]
pub struct Plan {
    /// Best first; 1 to [`ADDRESSES_MAX`].
    pub endpoints: Vec<Endpoint>,
    /// Every host that the mail could go to is among them: if all of them refuse, so does the domain.
    pub whole: bool,
    /// DNSSEC proves that these are the domain's hosts; false where nobody asked.
    pub proved: bool,
    /// What TLSA records say of the hosts.
    pub dane: DaneFindings,
    /// Hosts that would have been asked before these, and that a policy leaves out.
    pub left_out: Vec<NoSafeHost>,
}

/// The endpoints to try now.
///
/// `rank` orders hosts of the same preference and addresses of the same host; it gives the same rank to the same
/// name or address in all attempts of a message, so that turns come round. Only the lookups take time.
///
/// # Errors
/// Says why there is no endpoint to try.
pub fn plan(
    request: &PlanRequest<'_>,
    routes: &Routes,
    settings: &DeliverySettings,
    lookup: &dyn Lookup,
    rank: &Rank<'_>,
    trace: &mut Trace<'_>,
) -> Result<Plan, NoRoute> {
    let PlanRequest { domain, user, .. } = *request;
    let route = routes.find(domain);
    match route {
        Some(route) => trace(format_args!("[[route]] domain = \"{}\" matches {domain}", route.domain)),
        None => trace(format_args!("no [[route]] matches {domain}")),
    }
    let sources = SourceAddresses::of(user, route, settings);
    if !sources.addresses.is_empty() {
        trace(format_args!("leaves from {}: {}", Listed(&sources.addresses), sources.config_key));
    }
    let mut planner = Planner {
        request: *request,
        domain,
        route,
        routes,
        sources,
        settings,
        lookup,
        rank,
        trace,
        dane: false,
        mx_owner: None,
    };
    match (route, domain.ip()) {
        (Some(route), _) if !route.relay.is_empty() => planner.by_relay(&route.relay),
        (_, Some(literal)) => planner.by_literal(literal),
        _ => planner.by_mx(),
    }
}

/// A message's own order of names and addresses.
pub fn rank_of(message: i64) -> impl Fn(&[u8]) -> u64 {
    move |item| {
        let mut hasher = DefaultHasher::new();
        (message, item).hash(&mut hasher);
        hasher.finish()
    }
}

struct Planner<'a> {
    request: PlanRequest<'a>,
    domain: &'a Domain,
    route: Option<&'a Route>,
    routes: &'a Routes,
    sources: SourceAddresses,
    settings: &'a DeliverySettings,
    lookup: &'a dyn Lookup,
    rank: &'a Rank<'a>,
    trace: &'a mut Trace<'a>,
    /// DANE has a say.
    dane: bool,
    /// The name that has the domain's MX records, where proved aliases lead to another.
    mx_owner: Option<String>,
}

/// The MX hosts of a domain.
struct Exchangers {
    /// With their preferences, best first.
    hosts: Vec<(u16, String)>,
    cut: bool,
    proved: bool,
    /// The domain has no MX, and is its own host.
    implicit: bool,
}

/// A host by its preference: with its addresses, or its name and why it has none.
type FoundHost = (u16, Result<Host, (String, DnsError)>);

/// The first temporary and the first permanent reason why a host cannot be used, each with the host.
#[derive(Default)]
struct Unusable {
    temporary: Option<(String, String, NoRouteReason)>,
    permanent: Option<(String, String)>,
}

impl Unusable {
    fn note(&mut self, host: &str, why: String) {
        self.permanent.get_or_insert_with(|| (host.to_owned(), why));
    }

    fn note_error(&mut self, host: &str, error: &DnsError) {
        match reason_to_wait(error) {
            Some(reason) => {
                self.temporary.get_or_insert_with(|| (host.to_owned(), error.to_string(), reason));
            }
            None => self.note(host, error.to_string()),
        }
    }
}

impl Planner<'_> {
    /// The relays in their order, without an MX lookup.
    fn by_relay(&mut self, relays: &[RelayHost]) -> Result<Plan, NoRoute> {
        (self.trace)(format_args!("its relays in order, no MX lookup"));
        let named: Vec<&str> = relays
            .iter()
            .filter(|relay| relay.host.ip().is_none())
            .map(|relay| relay.host.as_str())
            .collect();
        let mut found = self.lookup.relay_addresses(&named).into_iter();
        let mut unusable = Unusable::default();
        let mut hosts = Vec::new();
        for (preference, relay) in (0..).zip(relays) {
            let name = relay.host.as_str();
            let port = relay.port;
            let host = match relay.host.ip() {
                Some(ip) => Host { name: ip.to_string(), port, addresses: vec![ip], preference },
                None => match found.next().unwrap_or(Err(DnsError::NoData)) {
                    Ok(addresses) => Host { preference, ..self.host(name, port, addresses) },
                    Err(error) => {
                        (self.trace)(format_args!("{name}: {error}"));
                        unusable.note_error(name, &error);
                        continue;
                    }
                },
            };
            match self.elsewhere(host) {
                Ok(host) => hosts.push(host),
                Err(why) => unusable.note(name, why),
            }
        }
        if !hosts.is_empty() {
            let hosts = self.reachable(hosts)?;
            let whole = hosts.len() == relays.len().min(ADDRESSES_MAX);
            let chosen = self.choose(hosts, ADDRESSES_MAX, self.request.attempts);
            return Ok(Plan { endpoints: self.endpoints(chosen, true), whole, ..Plan::default() });
        }
        // Never permanent: the operator chose the relay's name.
        Err(match (unusable.temporary, unusable.permanent) {
            (Some((host, why, reason)), _) => {
                no_route(reason, format!("cannot look up the relay {host}: {why}"), Some(host))
            }
            (None, Some((host, why))) => no_route(
                NoRouteReason::RelayUnknown,
                format!("the relay {host} has no address to send to: {why}"),
                Some(host),
            ),
            (None, None) => {
                no_route(NoRouteReason::RelayUnknown, "the route names no relay".to_owned(), None)
            }
        })
    }

    /// `user@[192.0.2.1]`: only that address.
    fn by_literal(&mut self, ip: IpAddr) -> Result<Plan, NoRoute> {
        (self.trace)(format_args!("address literal: no lookup"));
        let host = self.host(&ip.to_string(), self.settings.port, vec![ip]);
        if self.is_own(&host) {
            return Err(self.loops_back());
        }
        match self.permitted(host) {
            Ok(host) => {
                let hosts = self.reachable(vec![host])?;
                Ok(Plan { endpoints: self.endpoints(hosts, false), whole: true, ..Plan::default() })
            }
            Err(why) => Err(no_route(NoRouteReason::Unroutable, format!("{}: {why}", self.domain), None)),
        }
    }

    fn by_mx(&mut self) -> Result<Plan, NoRoute> {
        let mut unusable = Unusable::default();
        self.dane = self.wants_dane();
        let Exchangers { mut hosts, cut, proved, implicit } = self.exchangers(&mut unusable)?;
        let own = hosts.iter().find(|(_, name)| own_addresses::is_our_name(name, self.settings));
        if let Some(&(preference, _)) = own
            && !self.cut(&mut hosts, preference)
        {
            return Err(self.loops_back());
        }
        let seen = hosts.len() <= MX_LOOKUPS_MAX && !cut;
        // The hosts take turns where they are looked up, if that is not all of them, else where they are chosen.
        let attempts = self.request.attempts;
        let (turn_to_look_up, turn_to_try) = if seen { (0, attempts) } else { (attempts, 0) };
        let mut hosts = turns::in_turn(hosts, MX_HOSTS_MAX, turn_to_look_up);
        hosts.truncate(MX_LOOKUPS_MAX);
        let mut found = self.look_up(hosts, proved, implicit)?;
        let is_own = |(_, host): &&FoundHost| host.as_ref().is_ok_and(|host| self.is_own(host));
        let own = found.iter().filter(is_own).map(|(preference, _)| *preference).min();
        if let Some(preference) = own
            && !self.cut(&mut found, preference)
        {
            return Err(if seen { self.loops_back() } else { self.not_seen_whole() });
        }
        let mut usable = Vec::new();
        for (preference, host) in found {
            match host {
                Err((name, error)) => {
                    unusable.note_error(&name, &error);
                }
                Ok(host) => {
                    let name = host.name.clone();
                    match self.permitted(host) {
                        Ok(host) => usable.push(Host { preference, ..host }),
                        Err(why) => unusable.note(&name, why),
                    }
                }
            }
        }
        if usable.is_empty() {
            return Err(self.none_usable(unusable, seen));
        }
        let permitted = usable.len();
        let usable = self.reachable(usable)?;
        let all_reached = usable.len() == permitted;
        let more = usable.len().saturating_sub(MX_HOSTS_MAX);
        if more > 0 {
            (self.trace)(format_args!("{more} more hosts: their turn comes in later attempts"));
        }
        // A host that no source address reaches was not asked: the operator may add one.
        let whole = seen && unusable.temporary.is_none() && all_reached && more == 0;
        let chosen = self.choose(usable, MX_HOSTS_MAX, turn_to_try);
        let dane = self.dane_of(&chosen, proved || implicit);
        Ok(Plan { endpoints: self.endpoints(chosen, false), whole, proved, dane, left_out: Vec::new() })
    }

    /// Those of the hosts whose turn it is, best first.
    fn choose(&self, hosts: Vec<Host>, max: usize, attempts: u32) -> Vec<Host> {
        let mut chosen = turns::in_turn(hosts, max, attempts);
        chosen.truncate(max);
        chosen.sort_by_cached_key(|host| (host.preference, (self.rank)(host.name.as_bytes())));
        chosen
    }

    /// Why no MX host can be used. `seen`: all of them were looked up.
    fn none_usable(&mut self, unusable: Unusable, seen: bool) -> NoRoute {
        match (unusable.temporary, unusable.permanent) {
            (Some((host, why, reason)), _) => {
                no_route(reason, format!("cannot look up the mail host {host}: {why}"), Some(host))
            }
            (None, _) if !seen => self.not_seen_whole(),
            (None, permanent) => {
                let (host, why) = permanent.unzip();
                let about = host.as_deref().unwrap_or_default();
                let why = why.unwrap_or_default();
                let text = format!("no mail host of {} can be used: {about}: {why}", self.domain);
                no_route(NoRouteReason::Unroutable, text, host)
            }
        }
    }

    /// The MX hosts with their addresses, or why there are none.
    fn look_up(
        &mut self,
        hosts: Vec<(u16, String)>,
        proved: bool,
        implicit: bool,
    ) -> Result<Vec<FoundHost>, NoRoute> {
        let names: Vec<&str> = hosts.iter().map(|(_, name)| name.as_str()).collect();
        let mut addresses = self.lookup.addresses(&names);
        if self.dane && (proved || implicit) {
            // What ends a message of a signed domain has to be proved: anybody can say that there is nothing.
            let asked_again: Vec<usize> = (0..names.len())
                .filter(|at| addresses.get(*at).is_some_and(|said| self.is_final(said)))
                .collect();
            let names: Vec<&str> = asked_again.iter().map(|at| names[*at]).collect();
            let proved = if names.is_empty() { Vec::new() } else { self.lookup.addresses_validated(&names) };
            for (at, proved) in asked_again.into_iter().zip(proved) {
                addresses[at] = proved;
            }
        }
        let mut found = Vec::with_capacity(hosts.len());
        for ((preference, name), addresses) in hosts.into_iter().zip(addresses) {
            match addresses {
                Ok(addresses) => {
                    found.push((preference, Ok(self.host(&name, self.settings.port, addresses))))
                }
                Err(error) => {
                    (self.trace)(format_args!("{name}: {error}"));
                    if error == DnsError::NoSuchDomain && implicit {
                        return Err(self.no_such_domain());
                    }
                    found.push((preference, Err((name, error))));
                }
            }
        }
        Ok(found)
    }

    /// The MX hosts, best first; the domain itself where it has no MX (RFC 5321 §5.1, "implicit MX").
    fn exchangers(&mut self, unusable: &mut Unusable) -> Result<Exchangers, NoRoute> {
        let domain = self.domain;
        let found = match (self.dane, self.request.with_proof) {
            (true, _) => self.lookup.mx_validated(domain.as_str()),
            // RFC 8689 §4.2.1: a proof that is merely late, or wrong, is waited for. Where no answer here ever comes
            // with one there is nothing to wait for.
            (false, true) if self.lookup.validates().is_ok() => self.lookup.mx_validated(domain.as_str()),
            (false, true) => self.lookup.mx_with_proof(domain.as_str()),
            (false, false) => self.lookup.mx(domain.as_str()),
        };
        let MxRecords { hosts: mut records, cut, proved, owner } = match found {
            Ok(records) => records,
            Err(DnsError::NoData) => {
                (self.trace)(format_args!("{domain} has no MX: its own addresses"));
                let hosts = vec![(0, domain.as_str().to_owned())];
                return Ok(Exchangers { hosts, cut: false, proved: false, implicit: true });
            }
            Err(DnsError::NoSuchDomain) => return Err(self.no_such_domain()),
            Err(error) => {
                let reason = reason_to_wait(&error).unwrap_or(NoRouteReason::LookupFailed);
                let text = format!("cannot look up the mail hosts of {domain}: {error}");
                return Err(no_route(reason, text, None));
            }
        };
        self.mx_owner = owner;
        // RFC 7505 §3: a single record whose host is the root.
        if matches!(records.as_slice(), [(_, host)] if host == ".") {
            (self.trace)(format_args!("{domain} has a null MX"));
            return Err(no_route(NoRouteReason::NullMx, format!("{domain} accepts no mail (null MX)"), None));
        }
        records.sort_by_cached_key(|(preference, host)| (*preference, (self.rank)(host.as_bytes())));
        (self.trace)(format_args!("MX of {domain}: {}", ListedMx(&records)));
        let mut hosts: Vec<(u16, String)> = Vec::with_capacity(records.len());
        let mut known = BTreeSet::new();
        for (preference, host) in records {
            // RFC 5321 §5.1 wants a host name. An address is a common mistake; `.`, blanks and control characters
            // occur too. None of them is looked up.
            match Domain::parse(&host) {
                Ok(name) if name.ip().is_none() && host.parse::<IpAddr>().is_err() => {
                    if known.insert(name.as_str().to_owned()) {
                        hosts.push((preference, name.as_str().to_owned()));
                    }
                }
                _ => {
                    (self.trace)(format_args!("{host:?} left out: not the name of a host"));
                    let why = "not the name of a host".to_owned();
                    unusable.note(&host.escape_default().to_string(), why);
                }
            }
        }
        Ok(Exchangers { hosts, cut, proved, implicit: false })
    }

    /// RFC 5321 §5.1: if this relay is on the list, only better hosts may be tried.
    /// False where none is left.
    fn cut<T>(&mut self, hosts: &mut Vec<(u16, T)>, preference: u16) -> bool {
        (self.trace)(format_args!("this relay is on the list: preference {preference} and worse left out"));
        hosts.retain(|(of, _)| *of < preference);
        !hosts.is_empty()
    }

    fn not_seen_whole(&self) -> NoRoute {
        let text = format!(
            "no mail host of {} that was looked at can be used, and there are more: they are looked at in later attempts",
            self.domain
        );
        no_route(NoRouteReason::NotSeenWhole, text, None)
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

/// None where the error is about the name itself: waiting changes nothing.
fn reason_to_wait(error: &DnsError) -> Option<NoRouteReason> {
    match error {
        DnsError::NoSuchDomain | DnsError::NoData => None,
        DnsError::Temporary(_) => Some(NoRouteReason::LookupFailed),
        DnsError::Bogus(_) => Some(NoRouteReason::Bogus),
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
