//! What both ends of an AUTH exchange calculate (RFC 4422): submission checks with it, delivery logs in with it.
//!
//! Pure but for [`nonce`]. The exchanges themselves, who says what when, belong to the rooms that hold them.

mod cram_md5;
pub(crate) mod scram;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(crate) use cram_md5::CramMd5;
pub(crate) use scram::ChannelBinding;

/// 144 random bits, in characters that a message id and a SCRAM nonce may hold; none where the system has no
/// random numbers.
pub(crate) fn nonce() -> Option<String> {
    let mut bytes = [0; 18];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}
