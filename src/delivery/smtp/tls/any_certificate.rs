//! The verifier for where any certificate will do: TLS is optional there, or has to encrypt and nothing else.
//!
//! No chain is looked at. That the host has the key of its certificate is checked where it can be, and a signature that
//! is wrong ends the handshake (RFC 8446 §4.4.3). Keys, signatures and certificates that the TLS library does not check
//! at all (RSA of 1024 bits, SHA-1, Ed448, version 1) are taken as they are, since the mail would go in the clear
//! otherwise (RFC 7435).
//!
//! Without that check the certificate may be anybody's. So a verifier remembers that it once went without: nothing that
//! began or was resumed with it counts as verified from then on. Each host has a verifier of its own, and a new one
//! after that (`Trust::handshake`).

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::RsaParameters;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm,
    UnixTime, alg_id,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};

/// Signatures that are offered behind those that can be checked: what some hosts have is nothing better, and they say
/// nothing to whoever offers none of theirs.
const OFFERED_UNCHECKED: [SignatureScheme; 3] =
    [SignatureScheme::ED448, SignatureScheme::ECDSA_SHA1_Legacy, SignatureScheme::RSA_PKCS1_SHA1];
/// RSA keys whose signatures can be checked.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Why it was not checked that a host has the key of its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchecked {
    /// An RSA key of so many bits.
    Rsa(u32),
    /// A key of another kind.
    Key,
    /// The kind of the signature.
    Scheme(SignatureScheme),
    /// A certificate that cannot be read.
    Certificate,
}

impl fmt::Display for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unchecked::Rsa(bits) => write!(f, "RSA {bits}"),
            Unchecked::Key => f.write_str("unknown kind of key"),
            Unchecked::Scheme(SignatureScheme::Unknown(number)) => {
                write!(f, "signature scheme {number:#06x}")
            }
            Unchecked::Scheme(scheme) => write!(f, "{scheme:?}"),
            Unchecked::Certificate => f.write_str("unreadable certificate"),
        }
    }
}

/// Accepts every certificate of one host.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    checks: Arc<WebPkiServerVerifier>,
    unchecked: OnceLock<Unchecked>,
}

impl AnyCertificate {
    /// `checks` says what can be checked.
    pub(super) fn new(checks: Arc<WebPkiServerVerifier>) -> AnyCertificate {
        AnyCertificate { checks, unchecked: OnceLock::new() }
    }

    /// Why a handshake went on without a check, once one did.
    pub(super) fn unchecked(&self) -> Option<Unchecked> {
        self.unchecked.get().copied()
    }

    fn take(
        &self,
        checked: Result<HandshakeSignatureValid, Error>,
        certificate: &CertificateDer<'_>,
        scheme: SignatureScheme,
    ) -> Result<HandshakeSignatureValid, Error> {
        checked.or_else(|error| {
            let why = beyond_checking(certificate, scheme, &error).ok_or(error)?;
            self.unchecked.get_or_init(|| why);
            Ok(HandshakeSignatureValid::assertion())
        })
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.take(self.checks.verify_tls12_signature(message, cert, dss), cert, dss.scheme)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.take(self.checks.verify_tls13_signature(message, cert, dss), cert, dss.scheme)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.checks.supported_verify_schemes();
        schemes.extend(
            OFFERED_UNCHECKED.iter().filter(|scheme| !schemes.contains(scheme)).copied().collect::<Vec<_>>(),
        );
        schemes
    }
}

/// What of it the TLS library does not check, where that is why it failed; none: the signature is wrong.
fn beyond_checking(
    certificate: &CertificateDer<'_>,
    scheme: SignatureScheme,
    error: &Error,
) -> Option<Unchecked> {
    if ParsedCertificate::try_from(certificate).is_err() {
        return Some(Unchecked::Certificate);
    }
    let rsa = rsa_bits(certificate).filter(|bits| !RSA_BITS.contains(bits)).map(Unchecked::Rsa);
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => rsa,
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. },
        ) => Some(rsa.unwrap_or(Unchecked::Key)),
        Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
            Some(rsa.unwrap_or(Unchecked::Scheme(scheme)))
        }
        _ => None,
    }
}

/// The size of the certificate's key, where it is an RSA key.
fn rsa_bits(certificate: &CertificateDer<'_>) -> Option<u32> {
    let key = RsaKey::default();
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.verify_signature(&key, &[], &[]).ok()?;
    key.0.get().copied()
}

/// Takes the place of an algorithm, to be given the key of a certificate; verifies nothing.
#[derive(Debug, Default)]
struct RsaKey(OnceLock<u32>);

impl SignatureVerificationAlgorithm for RsaKey {
    fn verify_signature(
        &self,
        key: &[u8],
        _message: &[u8],
        _signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let bits = RsaParameters::public_modulus_len(key).map_err(|_| InvalidSignature)?;
        self.0.set(bits).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_PKCS1_SHA256
    }
}
