//! Where a connection goes and how it is made: one address of one host. `route` makes them, `smtp` connects to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Login, RouteTls};
use crate::mail::TlsPolicy;

use crate::delivery::smtp::tls::dane::Tlsa;

/// One address of one host, and how to connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host's name, for the log, SNI and certificate verification; for a literal the address as text,
    /// without brackets.
    pub host: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Whether TLS is required, and what the certificate must prove.
    pub tls: RouteTls,
    /// Which policy says so.
    pub policy: TlsPolicy,
    /// What its certificate must be held against, in the place of names and roots.
    pub dane: Option<Arc<Tlsa>>,
    /// PEM roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// AUTH, on a configured relay.
    pub login: Option<Login>,
    /// A configured relay: a refusal before MAIL is never a bounce.
    pub relay: bool,
    /// Lower is better; hosts with the same preference are equivalent. Each relay of a route has its own.
    pub preference: u16,
    /// Local addresses, of either family, that connections leave from by turns; empty: the system chooses.
    pub sources: Arc<[IpAddr]>,
}

impl Endpoint {
    /// Whether mail may go in the clear where TLS fails. A password never does, unless TLS is off.
    pub fn may_be_plaintext(&self) -> bool {
        self.tls == RouteTls::Opportunistic && self.login.is_none()
    }

    /// Whether the certificate must hold for the host.
    pub fn must_verify(&self) -> bool {
        matches!(self.tls, RouteTls::Verify | RouteTls::Implicit) || self.dane.is_some()
    }

    /// The host's name in tables and limits. Relays have their port in it, which distinguishes several on one machine;
    /// all MX hosts have the same port.
    pub fn name(&self) -> String {
        match self.relay {
            true => format!("{}:{}", self.host, self.address.port()),
            false => self.host.clone(),
        }
    }

    /// Whether a connection to the other endpoint goes to the same host, is opened in the same way and leaves from the
    /// same sources.
    pub(in crate::delivery) fn is_same_host(&self, other: &Endpoint) -> bool {
        let Endpoint { host, address, tls, policy, dane, ca_file, login, relay, preference: _, sources } =
            self;
        *host == other.host
            && address.port() == other.address.port()
            && (*tls, *policy, *relay) == (other.tls, other.policy, other.relay)
            && (dane, ca_file, login) == (&other.dane, &other.ca_file, &other.login)
            && *sources == other.sources
    }
    /// The local addresses that can reach it: those of its family. None: the system chooses.
    pub fn usable_sources(&self) -> impl Iterator<Item = IpAddr> {
        self.sources.iter().copied().filter(|source| source.is_ipv4() == self.address.is_ipv4())
    }
}
