//! Where a connection goes and how it is made: one address of one host. `route` makes them, `smtp` connects to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Login, RouteTls};

/// One address of one host, and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host's name, for the log, SNI and certificate verification; for a literal the address as text,
    /// without brackets.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// What TLS must be.
    pub tls: RouteTls,
    /// PEM roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// AUTH, on a configured relay.
    pub login: Option<Login>,
    /// A configured relay: nothing it says before MAIL is ever a bounce.
    pub relay: bool,
    /// Less is better; hosts of the same preference stand in for each other. Relays have none alike.
    pub preference: u16,
    /// Local addresses, of either family, that connections leave from by turns; empty: the system chooses.
    pub sources: Arc<[IpAddr]>,
}

impl Endpoint {
    /// Whether mail may go in the clear where TLS fails. A password never does, unless TLS is off.
    pub fn may_be_plaintext(&self) -> bool {
        self.tls == RouteTls::Opportunistic && self.login.is_none()
    }

    /// Whether the certificate must hold for the host's name.
    pub fn must_verify(&self) -> bool {
        matches!(self.tls, RouteTls::Verify | RouteTls::Implicit)
    }

    /// What the tables call the host. MX hosts all have one port; the port of a relay tells it from others on the
    /// same machine.
    pub fn name(&self) -> String {
        match self.relay {
            true => format!("{}:{}", self.host, self.address.port()),
            false => self.host.clone(),
        }
    }

    /// Whether a connection to the other would be one to the same host, opened in the same way, from the same
    /// sources.
    pub(in crate::delivery) fn is_same_host(&self, other: &Endpoint) -> bool {
        let Endpoint { host, address, tls, ca_file, login, relay, preference: _, sources } = self;
        *host == other.host
            && address.port() == other.address.port()
            && (*tls, *relay) == (other.tls, other.relay)
            && (ca_file, login) == (&other.ca_file, &other.login)
            && *sources == other.sources
    }
    /// The local addresses that can reach it: those of its family. None: the system chooses.
    pub fn usable_sources(&self) -> impl Iterator<Item = IpAddr> {
        self.sources.iter().copied().filter(|source| source.is_ipv4() == self.address.is_ipv4())
    }
}
