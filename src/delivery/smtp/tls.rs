//! TLS client configurations, and the result of a handshake.
//!
//! Where TLS is optional any certificate is accepted, since otherwise the mail would go in the clear (RFC 7435);
//! whether it is valid is recorded. With `verify` or `implicit` on the route it must be valid for the host's name,
//! against webpki-roots and `[delivery] ca_file`, or against the route's own `ca_file` alone.
//!
//! Each set of roots has a full configuration, whose ClientHello has a post-quantum key share and may need two packets,
//! and a classical one for hosts that fail at that.
//!
//! Connections to the same name resume sessions, within one configuration only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
};

/// Host names whose sessions a configuration keeps. Some 10 KB each as a rule, but rustls keeps up to 8 tickets of a
/// name, with certificates, and a host may make each of these 64 KB.
const SESSIONS_MAX: usize = 128;

/// `ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Not readable, or not PEM.
    #[error("ca_file {0}: {1}")]
    Read(PathBuf, String),
    /// No certificate in it can be a root.
    #[error("ca_file {0}: no usable certificate in it")]
    Empty(PathBuf),
    /// rustls refuses its own defaults.
    #[error("TLS: {0}")]
    Rustls(String),
}

/// Which key exchange the ClientHello offers: the post-quantum share makes it larger than one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum ClientHelloKind {
    /// With a post-quantum key share.
    Full,
    /// Classical key exchange only.
    Classical,
}

/// TLS in use on a connection; in words `none`, or the version, and `verified` where the certificate was:
/// `TLSv1.3 verified`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// None.
    None,
    /// TLS.
    Tls {
        /// In words.
        version: &'static str,
        /// The certificate holds for the host's name.
        verified: bool,
    },
}

impl Encryption {
    /// Of this version, without a look at the certificate.
    pub(in crate::delivery) fn of_version(version: Option<ProtocolVersion>) -> Encryption {
        let version = match version {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        Encryption::Tls { version, verified: false }
    }

    /// Whether the certificate was verified.
    pub fn is_verified(self) -> bool {
        matches!(self, Encryption::Tls { verified: true, .. })
    }
}

impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encryption::None => f.write_str("none"),
            Encryption::Tls { version, verified: false } => f.write_str(version),
            Encryption::Tls { version, verified: true } => write!(f, "{version} verified"),
        }
    }
}

/// Whether an invalid certificate ends the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Proof {
    /// The certificate must be valid for the host's name.
    Required,
    /// Any certificate is accepted.
    Recorded,
}

/// The configurations for one set of roots, and the verifier that they share.
#[derive(Debug)]
pub(in crate::delivery) struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    /// Sessions are resumed within one configuration only, so that a session without a verified certificate is never
    /// taken for one with.
    configs: [(Proof, ClientHelloKind, Arc<ClientConfig>); 4],
}

impl Trust {
    fn new(roots: RootCertStore) -> Result<Trust, RootsError> {
        let words = |error: &dyn std::fmt::Display| RootsError::Rustls(error.to_string());
        let full = Arc::new(aws_lc_rs::default_provider());
        let classical = Arc::new(classical_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&full))
            .build()
            .map_err(|error| words(&error))?;
        let lenient = Arc::new(AnyCertificate(Arc::clone(&verifier)));
        let config = |proof: Proof, hello: ClientHelloKind| {
            let provider = if hello == ClientHelloKind::Full { &full } else { &classical };
            let verifier: Arc<dyn ServerCertVerifier> = match proof {
                Proof::Required => Arc::clone(&verifier) as _,
                Proof::Recorded => Arc::clone(&lenient) as _,
            };
            let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| words(&error))?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
            Ok((proof, hello, Arc::new(config)))
        };
        let configs = [
            config(Proof::Required, ClientHelloKind::Full)?,
            config(Proof::Required, ClientHelloKind::Classical)?,
            config(Proof::Recorded, ClientHelloKind::Full)?,
            config(Proof::Recorded, ClientHelloKind::Classical)?,
        ];
        Ok(Trust { verifier, configs })
    }

    /// The configuration for this proof and this ClientHello.
    pub(in crate::delivery) fn config(&self, proof: Proof, hello: ClientHelloKind) -> Arc<ClientConfig> {
        let found = self.configs.iter().find(|(p, h, _)| (*p, *h) == (proof, hello));
        // All four pairs are in the array that `new` fills.
        Arc::clone(&found.unwrap_or(&self.configs[0]).2)
    }

    /// What a finished handshake came to.
    pub(in crate::delivery) fn describe(
        &self,
        connection: &ClientConnection,
        name: &ServerName<'_>,
    ) -> Encryption {
        let verified = connection.peer_certificates().and_then(|chain| chain.split_first()).is_some_and(
            |(end_entity, intermediates)| {
                self.verifier
                    .verify_server_cert(end_entity, intermediates, name, &[], UnixTime::now())
                    .is_ok()
            },
        );
        match Encryption::of_version(connection.protocol_version()) {
            Encryption::Tls { version, .. } => Encryption::Tls { version, verified },
            Encryption::None => Encryption::None,
        }
    }
}

/// The sets of roots in use: the default, and one for each `ca_file`, read once.
#[derive(Debug)]
pub(in crate::delivery) struct Trusts {
    default: Arc<Trust>,
    of_route: Mutex<HashMap<PathBuf, Arc<Trust>>>,
}

impl Trusts {
    /// `more_roots` are added to webpki-roots.
    pub(in crate::delivery) fn new(more_roots: Option<&Path>) -> Result<Trusts, RootsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = more_roots {
            add_roots(&mut roots, file)?;
        }
        Ok(Trusts { default: Arc::new(Trust::new(roots)?), of_route: Mutex::default() })
    }

    /// The roots of a route: its own `ca_file`, or the default.
    pub(in crate::delivery) fn of(&self, ca_file: Option<&Path>) -> Result<Arc<Trust>, RootsError> {
        let Some(file) = ca_file else { return Ok(Arc::clone(&self.default)) };
        // Nothing panics while this is held, and what is inside is always whole.
        let mut of_route = self.of_route.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = of_route.get(file) {
            return Ok(Arc::clone(trust));
        }
        let mut roots = RootCertStore::empty();
        add_roots(&mut roots, file)?;
        let trust = Arc::new(Trust::new(roots)?);
        of_route.insert(file.to_owned(), Arc::clone(&trust));
        Ok(trust)
    }
}

/// The name that the certificate must be valid for: the host's name, or the address of a literal.
pub(in crate::delivery) fn peer_name(host: &str) -> Option<ServerName<'static>> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let literal = literal.strip_prefix("IPv6:").unwrap_or(literal);
    let name = literal.strip_suffix('.').unwrap_or(literal);
    ServerName::try_from(name.to_owned()).ok()
}

fn add_roots(roots: &mut RootCertStore, file: &Path) -> Result<(), RootsError> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        let words = match error {
            rustls::pki_types::pem::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        RootsError::Read(file.to_owned(), words)
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(RootsError::Empty(file.to_owned())),
        _ => Ok(()),
    }
}

fn classical_provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
    CryptoProvider { kx_groups: vec![X25519, SECP256R1, SECP384R1], ..aws_lc_rs::default_provider() }
}

/// Accepts every certificate, and checks that the host has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if is_beyond_checking(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if is_beyond_checking(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A certificate that cannot be parsed (version 1, odd extensions) is never verified; where any is accepted, it is too.
fn is_beyond_checking(cert: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(cert).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_name_is_the_host_or_its_address() {
        for (host, name) in [
            ("mx.example.com", Some("mx.example.com")),
            ("mx.example.com.", Some("mx.example.com")),
            ("mx_1.example.com", Some("mx_1.example.com")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("not a name", None),
        ] {
            let read = peer_name(host).map(|name| name.to_str().into_owned());
            assert_eq!(read.as_deref(), name, "{host}");
        }
    }

    #[test]
    fn the_smaller_hello_offers_classical_key_exchange_only() {
        let names = |provider: CryptoProvider| -> Vec<String> {
            provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect()
        };
        assert_eq!(names(aws_lc_rs::default_provider())[0], "X25519MLKEM768");
        assert!(names(classical_provider()).iter().all(|name| !name.contains("MLKEM")));
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused_with_its_name() {
        let missing = Trusts::new(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(missing.to_string().starts_with("ca_file /nonexistent/ca.pem: No such file"), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Trusts::new(Some(file.path())), Err(RootsError::Empty(_))));
    }
}
