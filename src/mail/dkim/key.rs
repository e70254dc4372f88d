//! Private keys: read from PEM, made new, and what they sign.
//!
//! RSA of 2048 to 8192 bits (RFC 8301 §3.2 asks for 1024 at least and names 2048; shorter ones are refused) and Ed25519
//! (RFC 8463).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Columns of a line of PEM (RFC 7468 §2).
const PEM_COLUMNS: usize = 64;

/// How a signature is made: the tag `a=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 6376 §3.3.1).
    RsaSha256,
    /// PureEdDSA over a SHA-256 (RFC 8463 §3).
    Ed25519Sha256,
}

impl Algorithm {
    /// As the tag `a=` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa-sha256",
            Algorithm::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    /// As the tag `k=` of a record has it.
    pub fn key_type(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa",
            Algorithm::Ed25519Sha256 => "ed25519",
        }
    }
}

/// Why a file is no key to sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block in it.
    #[error("there is no PEM block (-----BEGIN PRIVATE KEY-----) in it")]
    NoPem,
    /// A PEM block without an end, or with what is no base64.
    #[error("its PEM block is damaged")]
    Damaged,
    /// It asks for a passphrase.
    #[error("it is encrypted; `openssl pkey -in FILE -out PLAIN-FILE` takes the passphrase off")]
    Encrypted,
    /// The public half, a certificate, an OpenSSH file.
    #[error("it has a {0}, where a private key is needed")]
    NotPrivate(String),
    /// ECDSA and others, which DKIM does not know.
    #[error("its kind is not one of DKIM's: RSA or Ed25519")]
    Kind,
    /// RFC 8301 §3.2.
    #[error("its RSA key is too short or too long: 2048 to 8192 bits are needed")]
    Size,
    /// Inconsistent.
    #[error("the key is damaged ({0})")]
    Rejected(String),
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A private key.
pub struct Key(Pair);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, public {})", self.algorithm().as_str(), STANDARD.encode(self.public()))
    }
}

impl Key {
    /// Reads PEM: PKCS#8 of either kind, or PKCS#1 of an RSA key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(text: &str) -> Result<Key, KeyError> {
        let Pem { label, der } = Pem::first_of(text)?;
        match label {
            "PRIVATE KEY" => Key::from_pkcs8(&der),
            "RSA PRIVATE KEY" => {
                RsaKeyPair::from_der(&der).map(|pair| Key(Pair::Rsa(Box::new(pair)))).map_err(rejected_rsa)
            }
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
            "EC PRIVATE KEY" | "DSA PRIVATE KEY" | "EC PARAMETERS" | "DH PARAMETERS" => Err(KeyError::Kind),
            other => Err(KeyError::NotPrivate(other.to_lowercase())),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Key, KeyError> {
        if contains(der, RSA_ENCRYPTION) {
            let pair = RsaKeyPair::from_pkcs8(der).map_err(rejected_rsa)?;
            return Ok(Key(Pair::Rsa(Box::new(pair))));
        }
        if contains(der, ED25519) {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
            let pair = pair.map_err(|error| KeyError::Rejected(error.to_string()))?;
            return Ok(Key(Pair::Ed25519(Box::new(pair))));
        }
        Err(KeyError::Kind)
    }

    /// A new key: RSA of 2048 bits, or Ed25519. None where the system has no random numbers.
    pub fn generate(algorithm: Algorithm) -> Option<Key> {
        match algorithm {
            Algorithm::RsaSha256 => Key::generate_rsa(2048),
            Algorithm::Ed25519Sha256 => Some(Key(Pair::Ed25519(Box::new(Ed25519KeyPair::generate().ok()?)))),
        }
    }

    /// A new RSA key of 2048, 3072 or 4096 bits; none of another length, or where the system has no random numbers.
    pub fn generate_rsa(bits: usize) -> Option<Key> {
        let sizes = [(2048, KeySize::Rsa2048), (3072, KeySize::Rsa3072), (4096, KeySize::Rsa4096)];
        let (_, size) = sizes.into_iter().find(|(size, _)| *size == bits)?;
        Some(Key(Pair::Rsa(Box::new(RsaKeyPair::generate(size).ok()?))))
    }

    /// As PKCS#8 in PEM; none where the library does not give it.
    pub fn to_pem(&self) -> Option<String> {
        let der = match &self.0 {
            Pair::Rsa(pair) => pkcs8(&**pair)?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pkcs8(&**pair)?.as_ref().to_vec(),
        };
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = (0..text.len())
            .step_by(PEM_COLUMNS)
            .map(|at| &text[at..text.len().min(at + PEM_COLUMNS)])
            .collect();
        Some(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Pair::Rsa(_) => Algorithm::RsaSha256,
            Pair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// Bits of an RSA modulus, 256 of Ed25519.
    pub fn bits(&self) -> usize {
        match &self.0 {
            Pair::Rsa(pair) => pair.public_modulus_len() * 8,
            Pair::Ed25519(_) => 256,
        }
    }

    /// The public half as the tag `p=` of a record has it, before base64: SubjectPublicKeyInfo of an RSA key, as all
    /// signers and verifiers have it (RFC 6376 errata 3017), and the 32 bytes of an Ed25519 key (RFC 8463 §4).
    pub fn public(&self) -> Vec<u8> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let der: Option<PublicKeyX509Der<'_>> = pair.public_key().as_der().ok();
                der.map(|der| der.as_ref().to_vec()).unwrap_or_default()
            }
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// Signs `data`; none where the library fails, which it does not with a key that it took.
    pub fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ed25519(pair) => {
                Some(pair.try_sign(digest(&SHA256, data).as_ref()).ok()?.as_ref().to_vec())
            }
        }
    }
}

/// Object identifiers as they stand in a key: rsaEncryption (RFC 8017 §A.1), id-Ed25519 (RFC 8410 §3).
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// Whether the head of a PKCS#8 structure names this algorithm.
fn contains(der: &[u8], identifier: &[u8]) -> bool {
    memchr::memmem::find(&der[..der.len().min(32)], identifier).is_some()
}

fn rejected_rsa(error: aws_lc_rs::error::KeyRejected) -> KeyError {
    match error.to_string().as_str() {
        "TooSmall" | "TooLarge" => KeyError::Size,
        other => KeyError::Rejected(other.to_owned()),
    }
}

fn pkcs8<'a>(pair: &impl AsDer<Pkcs8V1Der<'a>>) -> Option<Pkcs8V1Der<'a>> {
    pair.as_der().ok()
}

/// A block of RFC 7468.
struct Pem<'t> {
    label: &'t str,
    der: Vec<u8>,
}

impl Pem<'_> {
    /// The first private key in the text, else the first block. What stands outside blocks is passed over.
    fn first_of(text: &str) -> Result<Pem<'_>, KeyError> {
        let mut first = None;
        let mut rest = text;
        while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
            let (label, body) = begun.split_once("-----").ok_or(KeyError::Damaged)?;
            let (body, after) = body.split_once("-----END ").ok_or(KeyError::Damaged)?;
            rest = after;
            // RFC 1421's way to encrypt, which PKCS#1 files still have.
            if body.contains("ENCRYPTED") {
                return Err(KeyError::Encrypted);
            }
            let is_private = label.ends_with("PRIVATE KEY");
            if first.is_none() || is_private {
                let base64: String = body.split_ascii_whitespace().collect();
                let der = STANDARD.decode(base64).map_err(|_| KeyError::Damaged)?;
                first = Some(Pem { label, der });
            }
            if is_private {
                break;
            }
        }
        first.ok_or(KeyError::NoPem)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519 as VERIFY_ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_new_key_is_read_again_and_its_signatures_hold() {
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let key = Key::generate(algorithm).unwrap();
            let pem = key.to_pem().unwrap();
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            let again = Key::from_pem(&pem).unwrap();
            assert_eq!((again.algorithm(), again.public()), (algorithm, key.public()));
            let signature = again.sign(b"data").unwrap();
            let held = match algorithm {
                Algorithm::RsaSha256 => {
                    assert_eq!(key.bits(), 2048);
                    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public())
                        .verify(b"data", &signature)
                }
                Algorithm::Ed25519Sha256 => UnparsedPublicKey::new(&VERIFY_ED25519, key.public())
                    .verify(digest(&SHA256, b"data").as_ref(), &signature),
            };
            assert_eq!(held, Ok(()), "{algorithm:?}");
        }
    }

    #[test]
    fn what_is_no_key_says_what_it_is() {
        let block = |label: &str, body: &str| {
            format!("text\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        let table = [
            (String::new(), KeyError::NoPem),
            ("MIIB".to_owned(), KeyError::NoPem),
            ("-----BEGIN PRIVATE KEY-----\nMIIB\n".to_owned(), KeyError::Damaged),
            (block("PRIVATE KEY", "!!!"), KeyError::Damaged),
            (block("ENCRYPTED PRIVATE KEY", "MIIB"), KeyError::Encrypted),
            (block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nMIIB"), KeyError::Encrypted),
            (block("EC PRIVATE KEY", "MIIB"), KeyError::Kind),
            (block("PUBLIC KEY", "MIIB"), KeyError::NotPrivate("public key".to_owned())),
            (block("CERTIFICATE", "MIIB"), KeyError::NotPrivate("certificate".to_owned())),
            (block("PRIVATE KEY", "MIIB"), KeyError::Kind),
        ];
        for (text, why) in table {
            assert_eq!(Key::from_pem(&text).unwrap_err(), why, "{text}");
        }
        let openssh = Key::from_pem(&block("OPENSSH PRIVATE KEY", "AAAA")).unwrap_err();
        assert_eq!(openssh, KeyError::NotPrivate("openssh private key".to_owned()));
    }

    /// PKCS#8 has PKCS#1 in it, behind 26 bytes where the key has 2048 bits.
    #[test]
    fn a_key_of_rsa_is_the_same_in_pkcs1_and_in_pkcs8() {
        let key = Key::generate(Algorithm::RsaSha256).unwrap();
        let pem = key.to_pem().unwrap();
        let inner = STANDARD.encode(&Pem::first_of(&pem).unwrap().der[26..]);
        let pkcs1 = format!("-----BEGIN RSA PRIVATE KEY-----\n{inner}\n-----END RSA PRIVATE KEY-----\n");
        for text in [pem, pkcs1] {
            let read = Key::from_pem(&text).unwrap();
            assert_eq!((read.algorithm(), read.public()), (Algorithm::RsaSha256, key.public()));
            assert_eq!(read.sign(b"data"), key.sign(b"data"));
        }
    }
}
