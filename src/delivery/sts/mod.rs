//! MTA-STS (RFC 8461): what a domain says by TXT record and HTTPS of how mail to it must go; found, fetched and kept.
//! What that means for the hosts of an attempt is decided in `job/tls_policy.rs`.

pub mod fetch;
pub mod policies;
pub mod policy;
pub mod record;
pub mod step;
