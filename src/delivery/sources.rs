//! Where connections leave from: the local addresses that a message may use, and what we call ourselves there.
//!
//! The addresses of the user who submitted it (`[[source]] users`), else the route's, else those of `[delivery]`;
//! without any the system chooses. Mail that leaves from other addresses never goes over the same connection, so
//! each such set has a place of its own among a lane's idle connections.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use crate::config::{DeliverySettings, Route, Routes};

/// What a message's connections leave from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    /// By turns; empty: the system chooses.
    pub(super) from: Arc<[IpAddr]>,
    /// Which part of the config says so.
    pub(super) by: &'static str,
}

impl Leaving {
    /// Of mail that `user` submitted (none: a trusted network, or our own report) and that `route` is for.
    pub(super) fn of(user: Option<&str>, route: Option<&Route>, settings: &DeliverySettings) -> Leaving {
        let is_theirs = |users: &[String]| user.is_some_and(|user| users.iter().any(|name| name == user));
        let theirs = settings.sources.iter().filter(|source| is_theirs(&source.users));
        let theirs: Vec<IpAddr> = theirs.map(|source| source.address).collect();
        let routes = route.map_or(&[][..], |route| &route.source_addresses);
        let (from, by) = match (&theirs[..], routes) {
            ([], []) => (&settings.source_addresses[..], "delivery.source_addresses"),
            ([], routes) => (routes, "route.source_addresses"),
            (theirs, _) => (theirs, "source.users"),
        };
        // Empty for most, and then nothing is allocated.
        let from = if from.is_empty() { Arc::default() } else { from.into() };
        Leaving { from, by }
    }

    /// The name of the place where idle connections of this lane wait that may carry the message.
    pub(super) fn berth(&self, lane: &Arc<str>) -> Arc<str> {
        match &self.from[..] {
            [] => lane.clone(),
            from => format!("{lane} from {from:?}").into(),
        }
    }

    /// Whether a connection to `remote` can leave from one of them.
    pub(super) fn reaches(&self, remote: IpAddr) -> bool {
        self.from.is_empty() || of_family(&self.from, remote).next().is_some()
    }
}

/// Those of the family of `remote`.
pub fn of_family(sources: &[IpAddr], remote: IpAddr) -> impl Iterator<Item = IpAddr> {
    sources.iter().copied().filter(move |source| source.is_ipv4() == remote.is_ipv4())
}

/// Whether the config says that this is an address of this machine: mail for it would come back.
pub(super) fn is_ours(ip: IpAddr, settings: &DeliverySettings, routes: &Routes) -> bool {
    all(settings, routes).any(|ours| ours == ip)
}

/// Whether this is a name that we go by in EHLO.
pub(super) fn is_our_name(name: &str, settings: &DeliverySettings) -> bool {
    let names = settings.sources.iter().filter_map(|source| source.hostname.as_ref());
    names.chain([&settings.hostname]).any(|ours| ours.as_str() == name)
}

fn all(settings: &DeliverySettings, routes: &Routes) -> impl Iterator<Item = IpAddr> {
    let given = settings.sources.iter().map(|source| source.address);
    let of_routes = routes.0.iter().flat_map(|route| route.source_addresses.iter().copied());
    settings.source_addresses.iter().copied().chain(of_routes).chain(given)
}

/// What an operator can do about an [`unusable`] address.
pub const REMEDY: &str = "give this machine the address, or correct source_addresses and [[source]]";

/// The configured source addresses that nothing can be sent from now, each once, with what the system says.
///
/// Whatever the system says is worth telling; nothing leaves the machine.
pub fn unusable(settings: &DeliverySettings, routes: &Routes) -> Vec<(IpAddr, io::Error)> {
    let mut addresses: Vec<IpAddr> = all(settings, routes).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let bound = |ip: IpAddr| UdpSocket::bind((ip, 0)).err().map(|error| (ip, error));
    addresses.into_iter().filter_map(bound).collect()
}

/// What we call ourselves in EHLO.
#[derive(Debug)]
pub struct Names {
    hostname: String,
    /// Where it is another.
    by_address: Vec<(IpAddr, String)>,
}

impl Names {
    /// `hostname`, and those of `[[source]]`.
    pub fn new(settings: &DeliverySettings) -> Names {
        let named = |source: &crate::config::Source| {
            Some((source.address, source.hostname.as_ref()?.as_str().to_owned()))
        };
        let by_address = settings.sources.iter().filter_map(named).collect();
        Names { hostname: settings.hostname.as_str().to_owned(), by_address }
    }

    /// On a connection that leaves from this address; none: it is not known.
    pub fn at(&self, local: Option<IpAddr>) -> &str {
        let named = self.by_address.iter().find(|(address, _)| Some(*address) == local);
        named.map_or(&self.hostname, |(_, name)| name)
    }
}
