//! TLS client configurations, and the result of a handshake.
//!
//! Where TLS is optional any certificate is accepted, since otherwise the mail would go in the clear (RFC 7435);
//! whether it is valid is recorded, and whether the host proved that it is its own (`any_certificate.rs`). With
//! `verify` or `implicit` on the route it must be valid for the host's name, against webpki-roots and `[delivery]
//! ca_file`, or against the route's own `ca_file` alone.
//!
//! Each set of roots has a full configuration, whose ClientHello has a post-quantum key share and may need two packets,
//! and a classical one for hosts that fail at that.
//!
//! Connections to the same name resume sessions, within one configuration only. Where any certificate will do each name
//! has a configuration of its own, and a new one after a handshake that proved nothing: such sessions are not resumed.

mod any_certificate;
pub mod dane;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore};

use crate::kit::bounded::TtlMap;

use any_certificate::AnyCertificate;
pub use any_certificate::Unchecked;
use dane::{ByTlsa, Tlsa};

/// Host names whose sessions are kept for each proof and ClientHello. Some 10 KB each as a rule, but rustls keeps up to
/// [`TICKETS_MAX`] tickets of a name, with certificates, and a host may make each of these 64 KB.
const NAMES_MAX: usize = 128;
/// Tickets that rustls keeps of a name; it counts the room for names in these.
const TICKETS_MAX: usize = 8;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::delivery) enum ClientHelloKind {
    /// With a post-quantum key share.
    Full,
    /// Classical key exchange only.
    Classical,
}

/// TLS in use on a connection; in words `none`, or the version and what is known of the host: `TLSv1.3 verified`,
/// `TLSv1.2 signature not checked (RSA 1024)`, and `TLSv1.3` alone where the certificate does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// None.
    None,
    /// TLS.
    Tls {
        /// In words.
        version: &'static str,
        /// Who is there.
        peer: Peer,
    },
}

/// What is known of who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nothing: it has the key of a certificate that does not hold for the host's name.
    Unverified,
    /// It has the key of a certificate that holds for the host's name.
    Verified,
    /// It has the key of a certificate that the host's TLSA records mean (RFC 7672).
    Dane,
    /// Less than nothing: the certificate may be somebody else's, however well it holds.
    Unchecked(Unchecked),
}

impl Encryption {
    /// Of this version, without a look at the certificate.
    pub(in crate::delivery) fn of_version(version: Option<ProtocolVersion>) -> Encryption {
        let version = match version {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        Encryption::Tls { version, peer: Peer::Unverified }
    }

    /// Whether the certificate was verified, by whatever roots.
    pub fn is_verified(self) -> bool {
        matches!(self, Encryption::Tls { peer: Peer::Verified | Peer::Dane, .. })
    }
}

impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encryption::None => f.write_str("none"),
            Encryption::Tls { version, peer: Peer::Unverified } => f.write_str(version),
            Encryption::Tls { version, peer: Peer::Verified } => write!(f, "{version} verified"),
            Encryption::Tls { version, peer: Peer::Dane } => write!(f, "{version} verified by DANE"),
            Encryption::Tls { version, peer: Peer::Unchecked(why) } => {
                write!(f, "{version} signature not checked ({why})")
            }
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

/// A handshake with one host: its configuration, and what takes its certificate where any will do.
pub(in crate::delivery) struct Handshake {
    pub(in crate::delivery) config: Arc<ClientConfig>,
    any: Option<Arc<AnyCertificate>>,
    /// It ends where the host does not prove what its TLSA records mean.
    by_dane: bool,
}

/// The configurations for one set of roots, and the verifier that they share.
pub(in crate::delivery) struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    /// Where the certificate must hold. Sessions are resumed within one configuration only, so that a session without a
    /// verified certificate is never taken for one with.
    full: Arc<ClientConfig>,
    classical: Arc<ClientConfig>,
    /// Where any will do: of each name.
    any: Mutex<OfHosts>,
}

/// Configurations by name and ClientHello.
type OfHosts =
    TtlMap<(ServerName<'static>, ClientHelloKind), (Arc<ClientConfig>, Arc<AnyCertificate>), Instant>;

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    fn new(roots: RootCertStore) -> Result<Trust, RootsError> {
        let words = |error: &dyn std::fmt::Display| RootsError::Rustls(error.to_string());
        let full = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&full))
            .build()
            .map_err(|error| words(&error))?;
        let config = |provider: Arc<CryptoProvider>| {
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| words(&error))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
                .with_no_client_auth();
            config.resumption = Resumption::in_memory_sessions(NAMES_MAX * TICKETS_MAX);
            Ok(Arc::new(config))
        };
        let (full, classical) = (config(full)?, config(Arc::new(classical_provider()))?);
        let any = Mutex::new(TtlMap::new(2 * NAMES_MAX, Duration::MAX));
        Ok(Trust { verifier, full, classical, any })
    }

    /// The handshake with this host.
    pub(in crate::delivery) fn handshake(
        &self,
        proof: Proof,
        hello: ClientHelloKind,
        name: &ServerName<'static>,
    ) -> Handshake {
        let strict = match hello {
            ClientHelloKind::Full => &self.full,
            ClientHelloKind::Classical => &self.classical,
        };
        if proof == Proof::Required {
            return Handshake { config: Arc::clone(strict), any: None, by_dane: false };
        }
        let new = || {
            let any = Arc::new(AnyCertificate::new(Arc::clone(&self.verifier)));
            let mut config = ClientConfig::clone(strict);
            config.dangerous().set_certificate_verifier(Arc::clone(&any) as _);
            config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
            (Arc::new(config), any)
        };
        // Nothing panics while this is held, and what is inside is always whole.
        let mut of_hosts = self.any.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = of_hosts.renew((name.clone(), hello), Instant::now(), new);
        if of_host.1.unchecked().is_some() {
            // Its sessions are gone with it.
            *of_host = new();
        }
        let (config, any) = of_host.clone();
        Handshake { config, any: Some(any), by_dane: false }
    }

    /// The handshake with a host that has these TLSA records. No session is kept: the next connection proves it anew.
    pub(in crate::delivery) fn by_dane(&self, tlsa: &Arc<Tlsa>, hello: ClientHelloKind) -> Handshake {
        let strict = match hello {
            ClientHelloKind::Full => &self.full,
            ClientHelloKind::Classical => &self.classical,
        };
        let mut config = ClientConfig::clone(strict);
        let verifier = ByTlsa { tlsa: Arc::clone(tlsa), checks: Arc::clone(&self.verifier) };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.resumption = Resumption::disabled();
        Handshake { config: Arc::new(config), any: None, by_dane: true }
    }

    /// What is wrong with the certificate of a finished handshake; none: it holds for this name.
    pub(in crate::delivery) fn refusal(
        &self,
        connection: &ClientConnection,
        name: &ServerName<'_>,
    ) -> Option<rustls::Error> {
        match connection.peer_certificates().and_then(|chain| chain.split_first()) {
            Some((end_entity, intermediates)) => {
                let now = UnixTime::now();
                self.verifier.verify_server_cert(end_entity, intermediates, name, &[], now).err()
            }
            None => Some(rustls::Error::NoCertificatesPresented),
        }
    }

    /// What a finished handshake came to.
    pub(in crate::delivery) fn describe(
        &self,
        handshake: &Handshake,
        connection: &ClientConnection,
        name: &ServerName<'_>,
    ) -> (Encryption, Option<rustls::Error>) {
        let mut refusal = None;
        let peer = match handshake.any.as_ref().and_then(|any| any.unchecked()) {
            Some(why) => Peer::Unchecked(why),
            None if handshake.by_dane => Peer::Dane,
            None => {
                refusal = self.refusal(connection, name);
                if refusal.is_none() { Peer::Verified } else { Peer::Unverified }
            }
        };
        let encryption = match Encryption::of_version(connection.protocol_version()) {
            Encryption::Tls { version, .. } => Encryption::Tls { version, peer },
            Encryption::None => Encryption::None,
        };
        (encryption, refusal)
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

    /// A host that gives as many and as large tickets as TLS allows.
    #[derive(Debug)]
    struct Tickets {
        given: std::sync::atomic::AtomicU32,
        bytes: usize,
    }

    /// Eight of them are what rustls takes at once.
    const TICKET_BYTES: usize = 8_000;

    impl rustls::server::ProducesTickets for Tickets {
        fn enabled(&self) -> bool {
            true
        }
        fn lifetime(&self) -> u32 {
            3600
        }
        /// Filled up; the length stands in front.
        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            self.given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let length = u32::try_from(plain.len()).ok()?;
            let mut ticket = [&length.to_be_bytes()[..], plain].concat();
            ticket.resize(self.bytes.max(ticket.len()), 7);
            Some(ticket)
        }
        fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
            let (length, rest) = cipher.split_first_chunk::<4>()?;
            Some(rest.get(..u32::from_be_bytes(*length) as usize)?.to_vec())
        }
    }

    /// Shakes hands over memory; whether a session was resumed.
    fn resumes(trust: &Trust, server: &Arc<rustls::ServerConfig>, name: &str) -> std::io::Result<bool> {
        let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
        let name = peer_name(name).unwrap();
        let client = trust.handshake(Proof::Recorded, ClientHelloKind::Classical, &name).config;
        let mut client = ClientConnection::new(client, name).unwrap();
        loop {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut to_server).unwrap();
            }
            let mut sent = &to_server[..];
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut to_client).unwrap();
            }
            let mut sent = &to_client[..];
            while !sent.is_empty() {
                client.read_tls(&mut sent)?;
                client.process_new_packets().unwrap();
            }
            if to_client.is_empty() {
                return Ok(client.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
            }
        }
    }

    #[test]
    fn sessions_of_no_more_hosts_are_kept_than_may_be() {
        let made = rcgen::generate_simple_self_signed(vec!["mx.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let tickets = Arc::new(Tickets { given: 0.into(), bytes: TICKET_BYTES });
        (server.ticketer, server.send_tls13_tickets) = (tickets.clone() as _, 8);
        let server = Arc::new(server);
        let trust = Trusts::new(None).unwrap().of(None).unwrap();
        let hosts: Vec<String> = (0..2 * NAMES_MAX + 72).map(|number| format!("mx{number}.test")).collect();
        for name in &hosts {
            assert!(!resumes(&trust, &server, name).unwrap());
        }
        assert_eq!(tickets.given.load(std::sync::atomic::Ordering::Relaxed) as usize, 8 * hosts.len());
        // The last first: each handshake may put another host out.
        let kept = hosts.iter().rev().take_while(|name| resumes(&trust, &server, name).unwrap()).count();
        assert!((NAMES_MAX..=2 * NAMES_MAX).contains(&kept), "{kept} of {}", hosts.len());
    }
}
