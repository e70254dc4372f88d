//! The lookups that delivery needs: answered by the resolver (`dns.rs`), or by a table in tests.

use std::net::IpAddr;

/// Why a lookup gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// NXDOMAIN: the name does not exist, for any type. Also for text that cannot be a name.
    #[error("no such domain (NXDOMAIN)")]
    NoSuchDomain,
    /// The name exists without records of this type.
    #[error("no such records")]
    NoData,
    /// No answer: SERVFAIL, REFUSED, a time-out … The text says which.
    #[error("{0}")]
    Temporary(String),
}

/// Lookups for route planning. Each blocks until it is answered.
pub trait Lookup {
    /// The MX records of a domain as (preference, host), in no order. Hosts are in lower case without the last dot;
    /// the root, which is the host of a null MX (RFC 7505), is `.`.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list.
    fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError>;

    /// Whether DNSSEC proves the MX records of a domain (RFC 8689 §4.2.1 asks for it).
    ///
    /// # Errors
    /// See [`DnsError`].
    fn mx_is_signed(&self, domain: &str) -> Result<bool, DnsError> {
        let _ = domain;
        Ok(false)
    }

    /// The A and AAAA records of each host, in the order of `hosts`.
    ///
    /// # Errors
    /// See [`DnsError`], for each host; never an empty list. `Temporary` only without an address of either family.
    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>>;
}
