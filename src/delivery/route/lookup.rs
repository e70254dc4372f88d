//! The lookups that delivery needs: answered by the resolver (`dns.rs`), or by a table in tests.

use std::net::IpAddr;

use crate::delivery::smtp::tls::dane::TlsaRecord;

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
    /// The zone is signed (DNSSEC), and the answer is not as it would be. Said where proofs are asked for.
    #[error("{0}")]
    Bogus(String),
}

/// The MX records of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MxRecords {
    /// Preference and host, in no order. Hosts are in lower case without the last dot; the root, which is the host of a
    /// null MX (RFC 7505), is `.`.
    pub hosts: Vec<(u16, String)>,
    /// The domain has more of them; these are the best.
    pub cut: bool,
    /// DNSSEC proves these records, and the aliases that led to them.
    pub proved: bool,
    /// Where the proved aliases of the domain lead to, if it is one.
    pub owner: Option<String>,
}

/// What DNS says of a host's TLSA records (RFC 7672 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsaAnswer {
    /// DNSSEC does not prove the host's address, or not its TLSA records: there is no DANE there. It says what is
    /// not proved.
    Insecure(&'static str),
    /// It is proved that there are none.
    Absent,
    /// These, all proved, of this TLSA base domain.
    Records {
        /// The host's name, or the one that its aliases lead to.
        base: String,
        /// At least one.
        records: Vec<TlsaRecord>,
    },
}

/// Lookups for route planning. Each blocks until it is answered.
pub trait Lookup {
    /// The MX records of a domain. Nothing is said of their proof.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list.
    fn mx(&self, domain: &str) -> Result<MxRecords, DnsError>;

    /// The same records with what DNSSEC says of them (RFC 8689 §4.2.1 asks for it), from one answer: what is proved
    /// is what is used. Where signatures are wrong or missing nothing is proved.
    ///
    /// # Errors
    /// As [`Lookup::mx`].
    fn mx_with_proof(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.mx(domain)
    }

    /// The MX records of a domain where DNSSEC says what is proved of them, and [`Lookup::validates`] is sure of that.
    ///
    /// # Errors
    /// As [`Lookup::mx`]; wrong or missing signatures in a signed domain are `Bogus`.
    fn mx_validated(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.mx_with_proof(domain)
    }

    /// Whether answers come with what proves them, so that what is not proved means something.
    ///
    /// # Errors
    /// They do not: the words say what is missing.
    fn validates(&self) -> Result<(), String> {
        Err("no DNSSEC here".to_owned())
    }

    /// What DNS says of the TLSA records of each host's port 25, in their order.
    ///
    /// # Errors
    /// `Temporary` and `Bogus`: it is not known whether there are any, since nobody answers or signatures are wrong.
    fn tlsa(&self, hosts: &[&str]) -> Vec<Result<TlsaAnswer, DnsError>> {
        hosts.iter().map(|_| Ok(TlsaAnswer::Insecure("nothing is"))).collect()
    }

    /// The A and AAAA records of each host, in the order of `hosts`.
    ///
    /// # Errors
    /// See [`DnsError`], for each host; never an empty list. `Temporary` only without an address of either family.
    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>>;

    /// The same of one host where DNSSEC says whether to believe it, as [`Lookup::mx_validated`].
    ///
    /// # Errors
    /// As [`Lookup::addresses`]; `Bogus` too where there is an address of the other family.
    fn addresses_validated(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.addresses(&[host]).pop().unwrap_or(Err(DnsError::NoData))
    }

    /// The same of the relays of a `[[route]]`, which may have an address of their own in `/etc/hosts`.
    ///
    /// # Errors
    /// As [`Lookup::addresses`].
    fn relay_addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        self.addresses(hosts)
    }

    /// The TXT records of a name, in no order: of each the strings joined without a space (RFC 7208 §3.3), bytes that
    /// are no UTF-8 replaced. Nothing is said of their proof.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list. `Temporary` too where a name has more text than is ever needed.
    fn txt(&self, name: &str) -> Result<Vec<String>, DnsError>;

    /// The names of an address (PTR), in lower case and in no order. The address's holder chose them: nothing is said
    /// of whether they lead back to it.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list.
    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, DnsError>;

    /// Where the aliases (CNAME) of a name lead to in the end, whatever is there.
    ///
    /// # Errors
    /// See [`DnsError`]; `NoData` and `NoSuchDomain`: it is no alias.
    fn alias(&self, _name: &str) -> Result<String, DnsError> {
        Err(DnsError::NoData)
    }

    /// The addresses of one family alone, for whoever must know that there are none of it.
    ///
    /// # Errors
    /// See [`DnsError`]; never an empty list.
    fn family(&self, host: &str, v6: bool) -> Result<Vec<IpAddr>, DnsError> {
        let mut found = self.addresses(&[host]).pop().unwrap_or(Err(DnsError::NoData))?;
        found.retain(|ip| ip.is_ipv6() == v6);
        if found.is_empty() { Err(DnsError::NoData) } else { Ok(found) }
    }
}

/// The name that has the PTR records of an address (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(ip: IpAddr) -> String {
    let (parts, zone): (Vec<String>, &str) = match ip.to_canonical() {
        IpAddr::V4(v4) => (v4.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(v6) => {
            let halves = v6.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
            (halves.map(|half| format!("{half:x}")).collect(), "ip6.arpa")
        }
    };
    let reversed: Vec<String> = parts.into_iter().rev().collect();
    format!("{}.{zone}", reversed.join("."))
}
