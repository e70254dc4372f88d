//! The route of a recipient domain: which hosts to try, in which order.

use std::net::SocketAddr;

use crate::config::{Login, RouteTls};

/// One address of one host, and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host's name (or literal), for the log, SNI and certificate verification.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// What TLS must be.
    pub tls: RouteTls,
    /// PEM roots instead of the built-in ones.
    pub ca_file: Option<std::path::PathBuf>,
    /// AUTH, on a configured relay.
    pub login: Option<Login>,
    /// A configured relay: nothing it says before MAIL is ever a bounce.
    pub relay: bool,
}
