//! What is kept of a password: a SCRAM-SHA-256 verifier in the form of RFC 5803.
//!
//! From it PLAIN, LOGIN and SCRAM-SHA-256 can all be checked, and none of them can be answered:
//! who steals the file still has to guess (RFC 5802 §9).
//!
//! Passwords are used as the bytes that arrive. For printable ASCII that is what SASLprep
//! (RFC 4013) gives; other text is not normalized here, so a password beyond ASCII works where
//! the client sends the same bytes that `user add` was given.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::{constant_time, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sasl::scram::{self, ITERATIONS_MAX, ITERATIONS_MIN, KEY_BYTES, Keys};

const SCHEME: &str = "SCRAM-SHA-256";
pub(super) const SALT_BYTES: usize = 16;
pub(super) const SALT_BYTES_MAX: usize = 64;

/// For new verifiers. One check costs some 10 ms of a processor, which a guesser pays for each
/// guess and an application once in five minutes (see the cache in `users.rs`). More would let a
/// flood of logins with wrong passwords from many addresses take the machine.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(40_000).expect("not zero");

/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803 §3).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: [u8; KEY_BYTES],
    pub(crate) server_key: [u8; KEY_BYTES],
}

impl Verifier {
    /// Of a new password, with a fresh salt.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn of(password: &[u8]) -> Result<Verifier, aws_lc_rs::error::Unspecified> {
        let mut salt = vec![0; SALT_BYTES];
        rand::fill(&mut salt)?;
        Ok(Verifier::derive(password, &salt, ITERATIONS))
    }

    fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let Keys { stored, server, .. } = Keys::derive(password, salt, iterations);
        Verifier { iterations, salt: salt.to_owned(), stored_key: stored, server_key: server }
    }

    /// Whether this is the password. Takes the same time either way.
    pub(super) fn accepts(&self, password: &[u8]) -> bool {
        let keys = Keys::derive(password, &self.salt, self.iterations);
        constant_time::verify_slices_are_equal(&keys.stored, &self.stored_key).is_ok()
    }

    /// Whether `proof` shows that its sender has the password. Takes the same time either way.
    pub(in crate::submission) fn is_proven(&self, auth_message: &[u8], proof: &[u8]) -> bool {
        scram::is_proven(&self.stored_key, auth_message, proof)
    }

    /// What proves us to the client.
    pub(in crate::submission) fn signature(&self, auth_message: &[u8]) -> [u8; KEY_BYTES] {
        scram::signature(&self.server_key, auth_message)
    }

    /// What a client that has the password sends.
    #[cfg(test)]
    pub(in crate::submission) fn proof(&self, password: &[u8], auth_message: &[u8]) -> [u8; KEY_BYTES] {
        Keys::derive(password, &self.salt, self.iterations).proof(auth_message)
    }
}

/// Of no password: stands in where there is no user, so that a wrong name costs what a wrong
/// password does.
impl Default for Verifier {
    fn default() -> Verifier {
        Verifier {
            iterations: ITERATIONS,
            salt: vec![0; SALT_BYTES],
            stored_key: [0; KEY_BYTES],
            server_key: [0; KEY_BYTES],
        }
    }
}

/// A random password: 20 characters without look-alikes, 100 bits.
///
/// # Errors
/// The system gives no random numbers.
pub(super) fn random_password() -> Result<String, aws_lc_rs::error::Unspecified> {
    // 32 characters, so that each takes five bits of a byte, and none is likelier than another.
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 20];
    rand::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect())
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        write!(
            f,
            "{SCHEME}${}:{}${}:{}",
            self.iterations,
            base64(&self.salt),
            base64(&self.stored_key),
            base64(&self.server_key)
        )
    }
}

impl FromStr for Verifier {
    type Err = String;

    fn from_str(text: &str) -> Result<Verifier, String> {
        let parts = || {
            let rest = text.strip_prefix(SCHEME)?.strip_prefix('$')?;
            let (cost, keys) = rest.split_once('$')?;
            Some((cost.split_once(':')?, keys.split_once(':')?))
        };
        let Some(((iterations, salt), (stored_key, server_key))) = parts() else {
            return Err(format!("the verifier is not {SCHEME}$iterations:salt$StoredKey:ServerKey"));
        };
        let iterations = iterations
            .parse::<u32>()
            .ok()
            .filter(|count| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(count))
            .and_then(NonZeroU32::new)
            .ok_or_else(|| format!("the iterations are not between {ITERATIONS_MIN} and {ITERATIONS_MAX}"))?;
        let bytes = |text: &str| STANDARD.decode(text).ok();
        let key = |text: &str| bytes(text).and_then(|bytes| bytes.try_into().ok());
        let salt = bytes(salt).filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()));
        match (salt, key(stored_key), key(server_key)) {
            (Some(salt), Some(stored_key), Some(server_key)) => {
                Ok(Verifier { iterations, salt, stored_key, server_key })
            }
            _ => Err("the verifier's salt or keys are not base64 of the right length".to_owned()),
        }
    }
}

/// Nothing of it belongs in a log.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_takes_the_password_and_no_other() {
        let verifier = Verifier::derive(b"pencil", &[7; 16], NonZeroU32::new(4096).unwrap());
        assert!(verifier.accepts(b"pencil"));
        assert!(!verifier.accepts(b"pencil "));
    }

    #[test]
    fn a_verifier_reads_back_and_a_bent_one_is_refused() {
        let verifier = Verifier::derive(b"secret", &[7; 16], NonZeroU32::new(4096).unwrap());
        let text = verifier.to_string();
        assert_eq!(text.parse(), Ok(verifier));
        for bent in [
            String::new(),
            "secret".to_owned(),
            text.replace("256$4096", "1$4096"),
            text.replace("$4096:", "$4095:"),
            text.replace("$4096:", "$1000001:"),
            text.replace("$4096:", "$:"),
            text.replacen('=', "", 1),
            text.trim_end_matches('=').to_owned(),
            text.replacen(":B", ":*", 1),
            format!("{text}A"),
        ] {
            assert!(bent.parse::<Verifier>().is_err(), "{bent}");
        }
    }

    #[test]
    fn two_verifiers_of_one_password_differ() {
        let (one, other) = (Verifier::of(b"secret").unwrap(), Verifier::of(b"secret").unwrap());
        assert_ne!(one.salt, other.salt);
        assert_ne!(one.stored_key, other.stored_key);
    }
}
