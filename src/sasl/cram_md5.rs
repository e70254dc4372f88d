//! CRAM-MD5 (RFC 2195): the digest of a challenge under a password, and the verifier that a server keeps. Pure.
//!
//! A server keeps not the password but the two MD5 states that HMAC begins with (RFC 2104 §4), outer then inner, in
//! the form of Dovecot's CRAM-MD5 scheme. With CRAM-MD5 they are worth as much as the password, and the password can
//! be guessed from them at the speed of MD5.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time;
use md5::block_api::Md5Core;
use md5::digest::block_api::{Buffer, CoreProxy as _};
use md5::digest::common::hazmat::SerializableState as _;
use md5::{Digest as _, Md5};

const BLOCK_BYTES: usize = 64;
const STATE_BYTES: usize = 16;

/// The MD5 states behind `key XOR opad` and `key XOR ipad`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CramMd5 {
    outer: [u8; STATE_BYTES],
    inner: [u8; STATE_BYTES],
}

impl CramMd5 {
    pub(crate) fn of(password: &[u8]) -> CramMd5 {
        let mut key = [0; BLOCK_BYTES];
        match key.get_mut(..password.len()) {
            Some(start) => start.copy_from_slice(password),
            // RFC 2104 §2: longer keys are hashed first.
            None => key[..STATE_BYTES].copy_from_slice(&Md5::digest(password)),
        }
        CramMd5 {
            outer: state_behind(key.map(|byte| byte ^ 0x5c)),
            inner: state_behind(key.map(|byte| byte ^ 0x36)),
        }
    }

    /// Whether `digest` is the digest of `challenge` under the password. In constant time.
    pub(crate) fn accepts(&self, challenge: &[u8], digest: &[u8; STATE_BYTES]) -> bool {
        constant_time::verify_slices_are_equal(&self.digest(challenge), digest).is_ok()
    }

    /// The HMAC-MD5 of `challenge` under the password.
    pub(crate) fn digest(&self, challenge: &[u8]) -> [u8; STATE_BYTES] {
        let inner = after(&self.inner).chain_update(challenge).finalize();
        after(&self.outer).chain_update(inner).finalize().into()
    }
}

/// The verifier of no password: a check for an unknown user takes as long as any other.
impl Default for CramMd5 {
    fn default() -> CramMd5 {
        CramMd5 { outer: [0; STATE_BYTES], inner: [0; STATE_BYTES] }
    }
}

fn state_behind(block: [u8; BLOCK_BYTES]) -> [u8; STATE_BYTES] {
    let (core, _) = Md5::new_with_prefix(block).decompose();
    let mut state = [0; STATE_BYTES];
    state.copy_from_slice(&core.serialize()[..STATE_BYTES]);
    state
}

/// A hash in this state, which has taken one block.
fn after(state: &[u8; STATE_BYTES]) -> Md5 {
    let mut serialized = Md5Core::default().serialize();
    serialized[..STATE_BYTES].copy_from_slice(state);
    serialized[STATE_BYTES..].copy_from_slice(&1_u64.to_le_bytes());
    let core = Md5Core::deserialize(&serialized).expect("every 24 bytes are a state and a count");
    Md5::compose(core, Buffer::<Md5Core>::default())
}

/// 64 hexadecimal digits.
impl fmt::Display for CramMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outer.iter().chain(&self.inner).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for CramMd5 {
    type Err = String;

    fn from_str(text: &str) -> Result<CramMd5, String> {
        let half = |text: &str| {
            let is_hex = text.len() == 2 * STATE_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            u128::from_str_radix(text, 16).ok().filter(|_| is_hex).map(u128::to_be_bytes)
        };
        let halves = text.split_at_checked(2 * STATE_BYTES);
        match halves.map(|(outer, inner)| (half(outer), half(inner))) {
            Some((Some(outer), Some(inner))) => Ok(CramMd5 { outer, inner }),
            _ => Err("cram-md5= is not 64 hexadecimal digits".to_owned()),
        }
    }
}

/// Shows nothing, for logs.
impl fmt::Debug for CramMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CramMd5(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 16] {
        u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
    }

    /// RFC 2195 §2.
    #[test]
    fn the_example_of_rfc_2195_verifies() {
        let secret = CramMd5::of(b"tanstaaftanstaaf");
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        assert!(secret.accepts(challenge, &bytes("b913a602c7eda7a495b4e6e7334d3890")));
        assert!(!secret.accepts(challenge, &bytes("b913a602c7eda7a495b4e6e7334d3891")));
        assert!(!secret.accepts(b"<other>", &bytes("b913a602c7eda7a495b4e6e7334d3890")));
        assert!(!CramMd5::default().accepts(challenge, &bytes("b913a602c7eda7a495b4e6e7334d3890")));
    }

    /// RFC 2202 §2, cases 2, 3, 6 and 7: short and long keys, short and long data.
    #[test]
    fn the_examples_of_rfc_2202_verify() {
        let long = [0xaa; 80];
        for (key, data, digest) in [
            (&b"Jefe"[..], &b"what do ya want for nothing?"[..], "750c783e6ab0b503eaa86e310a5db738"),
            (&long[..16], &[0xdd; 50], "56be34521d144c88dbb8c733f0e8b3f6"),
            (
                &long,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd",
            ),
            (
                &long,
                b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data",
                "6f630fad67cda0ee1fb1f562db3aa53e",
            ),
        ] {
            assert!(CramMd5::of(key).accepts(data, &bytes(digest)), "{digest}");
        }
    }

    #[test]
    fn a_secret_reads_back_and_a_bent_one_is_refused() {
        let secret = CramMd5::of(b"secret");
        let text = secret.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse(), Ok(secret.clone()));
        assert_eq!(text.to_uppercase().parse(), Ok(secret));
        for bent in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}0"),
            text.replacen(&text[..1], "+", 1),
            text.replacen(&text[..1], "g", 1),
        ] {
            assert!(bent.parse::<CramMd5>().is_err(), "{bent}");
        }
    }
}
