//! Whether a host would take mail from here: connect, greeting, EHLO, TLS as mail would use it, QUIT. No mail is sent,
//! and nobody logs in.

use std::net::IpAddr;
use std::time::Instant;

use rustls::pki_types::CertificateDer;

use crate::delivery::smtp::connector::{Connector, TlsResult};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::profile::Profile;
use crate::delivery::smtp::tls::Encryption;

/// A host that is ready for MAIL.
#[derive(Debug)]
pub struct Probed {
    /// The local address of the connection.
    pub from: Option<IpAddr>,
    /// Whether the host says to EHLO that it knows STARTTLS, or TLS came first.
    pub offers_tls: bool,
    /// What the connection was in.
    pub tls: Encryption,
    /// The certificate that the host showed, and its chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Why it does not hold for the host's name; looked at under `TlsPolicy::StsTesting` alone.
    pub refusal: Option<String>,
}

/// Asks one endpoint, until `deadline`; QUIT has its own second.
///
/// # Errors
/// Where it ended.
pub fn probe(connector: &Connector, endpoint: &Endpoint, deadline: Instant) -> Result<Probed, Failure> {
    let endpoint = Endpoint { login: None, ..endpoint.clone() };
    let opened = connector.open(&endpoint, Profile::FULL, deadline).map_err(|failed| failed.failure)?;
    let probed = Probed {
        from: opened.connection.wire.source(),
        offers_tls: opened.tls != TlsResult::NotOffered,
        tls: opened.connection.tls,
        chain: opened.connection.wire.peer_chain(),
        refusal: opened.connection.refusal.as_ref().map(ToString::to_string),
    };
    opened.connection.quit();
    Ok(probed)
}
