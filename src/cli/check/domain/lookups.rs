//! The look-ups of the doctor: the resolver's, as long as there is time; and as SPF asks for them.

use std::net::IpAddr;
use std::time::Instant;

use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords, TlsaAnswer};
use crate::mail::spf::Names;

/// The resolver until a moment, after which nothing is asked any more.
pub(super) struct InTime<'a> {
    resolver: &'a Resolver,
    until: Instant,
}

impl<'a> InTime<'a> {
    pub(super) fn new(resolver: &'a Resolver, until: Instant) -> InTime<'a> {
        InTime { resolver, until }
    }

    fn checked<T>(&self, ask: impl FnOnce() -> Result<T, DnsError>) -> Result<T, DnsError> {
        if Instant::now() < self.until {
            return ask();
        }
        Err(DnsError::Temporary("there was no time left to ask; the DNS server is slow".to_owned()))
    }
}

impl Lookup for InTime<'_> {
    fn mx(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.checked(|| Lookup::mx(self.resolver, domain))
    }

    fn mx_with_proof(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.checked(|| self.resolver.mx_with_proof(domain))
    }

    fn mx_validated(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.checked(|| self.resolver.mx_validated(domain))
    }

    fn validates(&self) -> Result<(), String> {
        self.checked(|| Ok(self.resolver.validates())).unwrap_or_else(|late| Err(late.to_string()))
    }

    fn tlsa(&self, hosts: &[&str]) -> Vec<Result<TlsaAnswer, DnsError>> {
        match self.checked(|| Ok(self.resolver.tlsa(hosts))) {
            Ok(found) => found,
            Err(late) => hosts.iter().map(|_| Err(late.clone())).collect(),
        }
    }

    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        match self.checked(|| Ok(Lookup::addresses(self.resolver, hosts))) {
            Ok(found) => found,
            Err(late) => hosts.iter().map(|_| Err(late.clone())).collect(),
        }
    }

    fn addresses_validated(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.checked(|| self.resolver.addresses_validated(host))
    }

    fn relay_addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        match self.checked(|| Ok(self.resolver.relay_addresses(hosts))) {
            Ok(found) => found,
            Err(late) => hosts.iter().map(|_| Err(late.clone())).collect(),
        }
    }

    fn txt(&self, name: &str) -> Result<Vec<String>, DnsError> {
        self.checked(|| self.resolver.txt(name))
    }

    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, DnsError> {
        self.checked(|| self.resolver.reverse(ip))
    }

    fn alias(&self, name: &str) -> Result<String, DnsError> {
        self.checked(|| self.resolver.alias(name))
    }

    fn family(&self, host: &str, v6: bool) -> Result<Vec<IpAddr>, DnsError> {
        self.checked(|| self.resolver.family(host, v6))
    }
}

/// Of what there is none the list is empty.
pub(super) fn or_none<T>(found: Result<Vec<T>, DnsError>) -> Result<Vec<T>, String> {
    match found {
        Ok(found) => Ok(found),
        Err(DnsError::NoSuchDomain | DnsError::NoData) => Ok(Vec::new()),
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => Err(why),
    }
}

/// As SPF asks.
pub(super) struct ForSpf<'a>(pub(super) &'a InTime<'a>);

impl Names for ForSpf<'_> {
    fn txt(&self, name: &str) -> Result<Vec<String>, String> {
        or_none(self.0.txt(name))
    }

    fn addresses(&self, name: &str, v6: bool) -> Result<Vec<IpAddr>, String> {
        or_none(self.0.family(name, v6))
    }

    fn mx(&self, name: &str) -> Result<Vec<String>, String> {
        let mut hosts = or_none(Lookup::mx(self.0, name).map(|records| records.hosts))?;
        hosts.sort();
        Ok(hosts.into_iter().map(|(_, host)| host).collect())
    }

    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, String> {
        or_none(self.0.reverse(ip))
    }
}
