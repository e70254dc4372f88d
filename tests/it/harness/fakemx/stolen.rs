//! Somebody else's certificates: shown by a host that has not their keys, and signs with what is no signature.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{Error, ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion};

use super::script::{Certificate, vouched_for};

impl Certificate {
    /// This certificate on a host without its key, which says that its signatures are of this kind.
    pub(crate) fn stolen(
        &self,
        version: &'static SupportedProtocolVersion,
        scheme: SignatureScheme,
    ) -> Certificate {
        let algorithm = match scheme {
            SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PSS_SHA256 => SignatureAlgorithm::RSA,
            _ => SignatureAlgorithm::ECDSA,
        };
        let key = CertifiedKey::new(self.chain.clone(), Arc::new(NoKey(algorithm, scheme)));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        Certificate { config: Arc::new(config), chain: self.chain.clone(), ca_pem: self.ca_pem.clone() }
    }

    /// Good for these names, with an RSA key of 1024 bits that nobody has.
    pub(crate) fn rsa_1024(names: &[&str]) -> Certificate {
        let (leaf, ca_pem) = vouched_for(names, &Rsa1024::default());
        Certificate { chain: vec![leaf], ca_pem, ..Certificate::for_names(names) }
    }

    /// No certificate at all.
    pub(crate) fn unreadable() -> Certificate {
        let chain = vec![CertificateDer::from(b"not in DER".to_vec())];
        Certificate { chain, ..Certificate::for_names(&[]) }
    }
}

/// Signs everything in the same way.
#[derive(Debug, Clone, Copy)]
struct NoKey(SignatureAlgorithm, SignatureScheme);

impl SigningKey for NoKey {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(*self))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0
    }
}

impl Signer for NoKey {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![0x5a; 128])
    }

    fn scheme(&self) -> SignatureScheme {
        self.1
    }
}

/// An RSAPublicKey (RFC 8017 §A.1.1): a modulus of 1024 bits, and 65537.
struct Rsa1024(Vec<u8>);

impl Default for Rsa1024 {
    fn default() -> Rsa1024 {
        let modulus = [0xc5; 128];
        Rsa1024([&[0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00], &modulus[..], &[0x02, 0x03, 1, 0, 1]].concat())
    }
}

impl rcgen::PublicKeyData for Rsa1024 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}
