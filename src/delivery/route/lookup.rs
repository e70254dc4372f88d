//! What delivery asks of DNS, and what it may hear: the resolver (`dns.rs`) answers, or a table in tests.

use std::net::IpAddr;

/// Why a lookup gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// NXDOMAIN: no such name, for any type. Also what cannot be a name at all.
    #[error("no such domain (NXDOMAIN)")]
    NoSuchDomain,
    /// The name exists without records of this type.
    #[error("no such records")]
    NoData,
    /// Nothing was learnt: SERVFAIL, REFUSED, a time-out … The text says which.
    #[error("{0}")]
    Temporary(String),
}

/// What route planning asks of DNS; the resolver, or a table in tests.
pub trait Lookup {
    /// The MX records of a domain as (preference, host), in no order. Hosts are in lower case
    /// without the last dot; the root, which a null MX has (RFC 7505), is `.`.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list.
    fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError>;

    /// Whether DNSSEC proves the MX records of a domain (RFC 8689 §4.2.1 asks for it).
    ///
    /// # Errors
    /// See [`DnsError`]: it could not be found out.
    fn mx_is_signed(&self, domain: &str) -> Result<bool, DnsError> {
        let _ = domain;
        Ok(false)
    }

    /// The A and AAAA records of each host, in the order of `hosts`.
    ///
    /// # Errors
    /// See [`DnsError`], for each host; never an empty list. `Temporary` only where no address was
    /// learnt: one address family is enough.
    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>>;
}
