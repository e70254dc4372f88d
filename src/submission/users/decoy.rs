//! Verifiers of names that do not exist, so that an answer to a wrong name looks like one to a
//! right name: the same salt and cost each time it is asked, over restarts too.
//!
//! SCRAM shows salt and iterations to whoever asks (RFC 5802 §5.1); were they new each time, or always the
//! same ones, anybody could sort names into right and wrong.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::verifier::{ITERATIONS, SALT_BYTES, SALT_BYTES_MAX, Verifier};

const SECRET_BYTES: usize = 32;

/// What decoys are made from; kept in the users file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct DecoySecret([u8; SECRET_BYTES]);

impl DecoySecret {
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn new() -> Result<DecoySecret, aws_lc_rs::error::Unspecified> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret)?;
        Ok(DecoySecret(secret))
    }
}

/// Makes them.
#[derive(Debug, Clone)]
pub(super) struct Decoys {
    key: hmac::Key,
    /// Iterations and length of the salt of every user, sorted: a decoy is like one of them.
    shapes: Vec<(NonZeroU32, usize)>,
}

impl Decoys {
    /// Decoys like these verifiers, in their proportions.
    pub(super) fn like<'a>(verifiers: impl Iterator<Item = &'a Verifier>, secret: &DecoySecret) -> Decoys {
        let mut shapes: Vec<_> = verifiers.map(|real| (real.iterations, real.salt.len())).collect();
        if shapes.is_empty() {
            shapes.push((ITERATIONS, SALT_BYTES));
        }
        shapes.sort_unstable();
        Decoys { key: hmac::Key::new(hmac::HMAC_SHA512, &secret.0), shapes }
    }

    /// The verifier of a name that is no user's. No password fits it.
    pub(super) fn verifier(&self, name: &str) -> Verifier {
        let sign = |label: &[u8]| {
            let mut context = hmac::Context::with_key(&self.key);
            context.update(label);
            context.update(name.as_bytes());
            context.sign()
        };
        let pick = u32::from_be_bytes(first(sign(b"shape:").as_ref()));
        // A place in the sorted list, so that a user more or less hardly ever changes it.
        let place = (u64::from(pick) * self.shapes.len() as u64) >> 32;
        let (iterations, salt_bytes) = self.shapes[place as usize];
        let salt = sign(b"salt:").as_ref()[..salt_bytes.min(SALT_BYTES_MAX)].to_vec();
        Verifier { iterations, salt, ..Verifier::default() }
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut start = [0; N];
    start.copy_from_slice(&bytes[..N]);
    start
}

impl fmt::Display for DecoySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for DecoySecret {
    type Err = String;

    fn from_str(text: &str) -> Result<DecoySecret, String> {
        let secret = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        secret
            .map(DecoySecret)
            .ok_or_else(|| format!("the decoy secret is not base64 of {SECRET_BYTES} bytes"))
    }
}

/// Nothing of it belongs in a log.
impl fmt::Debug for DecoySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecoySecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(iterations: u32, salt_bytes: usize) -> Verifier {
        let iterations = NonZeroU32::new(iterations).unwrap();
        Verifier { iterations, salt: vec![0; salt_bytes], ..Verifier::default() }
    }

    #[test]
    fn a_decoy_is_the_same_each_time_and_another_for_each_name() {
        let secret = DecoySecret([7; 32]);
        let decoys = || Decoys::like([real(4096, 16)].iter(), &secret);
        let one = decoys().verifier("nobody");
        assert_eq!(one, decoys().verifier("nobody"));
        assert_ne!(one.salt, decoys().verifier("nobody2").salt);
        assert_ne!(one.salt, Decoys::like([].iter(), &DecoySecret([8; 32])).verifier("nobody").salt);
        assert_eq!(secret.to_string().parse(), Ok(secret));
        assert!("c2hvcnQ=".parse::<DecoySecret>().is_err() && "*".parse::<DecoySecret>().is_err());
    }

    #[test]
    fn decoys_are_as_costly_as_users_in_the_same_proportion() {
        let users = [real(40_000, 16), real(4096, 64), real(40_000, 16), real(40_000, 16)];
        let decoys = Decoys::like(users.iter(), &DecoySecret([7; 32]));
        let made: Vec<_> = (0..1000).map(|n| decoys.verifier(&n.to_string())).collect();
        let cheap = made.iter().filter(|decoy| decoy.iterations.get() == 4096).count();
        assert!((200..300).contains(&cheap), "{cheap} of 1000 are like the one user in four");
        assert!(made.iter().all(|decoy| (decoy.iterations.get() == 4096) == (decoy.salt.len() == 64)));
        let none = Decoys::like([].iter(), &DecoySecret([7; 32])).verifier("x");
        assert_eq!((none.iterations, none.salt.len()), (ITERATIONS, SALT_BYTES));
    }

    #[test]
    fn nobody_has_a_password_for_a_decoy() {
        let decoy = Decoys::like([real(4096, 16)].iter(), &DecoySecret([7; 32])).verifier("nobody");
        assert!(!decoy.accepts(b"") && !decoy.accepts(b"pencil"));
    }
}
