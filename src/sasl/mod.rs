//! The cryptography of SASL mechanisms (RFC 4422), for both ends: submission verifies with it, and delivery logs
//! in with it.
//!
//! Pure but for [`nonce`]. The exchanges themselves belong to `submission/auth` and `delivery/smtp/login`.

mod cram_md5;
pub(crate) mod scram;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(crate) use cram_md5::CramMd5;
pub(crate) use scram::ChannelBinding;

/// 144 random bits in base64, for a message id or a SCRAM nonce; none where the system has no random numbers.
pub(crate) fn nonce() -> Option<String> {
    let mut bytes = [0; 18];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}
