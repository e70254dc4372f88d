//! DomainKeys Identified Mail: signatures of a domain on its mail (RFC 6376), by RSA and Ed25519 (RFC 8301, RFC 8463).
//!
//! Pure: bytes in, bytes out; no I/O, no clock, no log. Own code on aws-lc-rs, which is linked for TLS anyway: the kept
//! crates bring a second copy of a crypto library or another DNS resolver, and what a signer needs is small.
//!
//! - `canonical`: the two ways to write a header field and a body so that small changes under way do not matter;
//! - `key`: private keys, read and made;
//! - `keyring`: the keys of all domains, and which of them sign a message;
//! - `record`: the TXT record that publishes a key, written and read;
//! - `signature`: the DKIM-Signature field;
//! - `verify`: whether a signature that a message came with holds.

pub mod canonical;
pub mod key;
pub mod keyring;
pub mod record;
pub mod signature;
pub mod verify;

pub use canonical::{BodyHash, Canonicalization};
pub use key::{Algorithm, Key, KeyError};
pub use keyring::{Keyring, NoneInForce, SigningKey, ToSign};
pub use record::{Record, RecordError};
pub use signature::{Signer, SigningTime};
pub use verify::Earlier;
