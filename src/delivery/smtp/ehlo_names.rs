//! The name that Postrider gives itself in EHLO, by the address that a connection leaves from.

use std::net::IpAddr;

use crate::config::{DeliverySettings, Source};

/// The names for EHLO.
#[derive(Debug)]
pub struct EhloNames {
    hostname: String,
    /// The names of source addresses that have their own.
    by_address: Vec<(IpAddr, String)>,
}

impl EhloNames {
    /// `hostname`, and those of `[[source]]`.
    pub fn new(settings: &DeliverySettings) -> EhloNames {
        let named = |source: &Source| Some((source.address, source.hostname.as_ref()?.as_str().to_owned()));
        let by_address = settings.sources.iter().filter_map(named).collect();
        EhloNames { hostname: settings.hostname.as_str().to_owned(), by_address }
    }

    /// The name for a connection from this local address; none: the address is not known.
    pub fn at(&self, local: Option<IpAddr>) -> &str {
        let named = self.by_address.iter().find(|(address, _)| Some(*address) == local);
        named.map_or(&self.hostname, |(_, name)| name)
    }
}
