//! Fetches the policy of a domain over HTTPS (RFC 8461 §3.3).

use crate::delivery::https::{Https, HttpsError};
use crate::delivery::sts::policy::{BYTES_MAX, Policy, PolicyError};

/// Why there is no policy to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error("{0}")]
    NoAnswer(HttpsError),
    /// Another status than 200: a redirect too, which nobody may follow.
    #[error("the server answered with HTTP status {0}")]
    Status(u16),
    /// It may be what a user put there (RFC 8461 §3.2).
    #[error("the server gave the media type \"{0}\" instead of text/plain")]
    MediaType(String),
    /// It cannot be read.
    #[error("the server gave no policy: {0}")]
    Invalid(PolicyError),
    /// The relay could not ask.
    #[error("the server was not asked: {0}")]
    NotAsked(String),
}

/// Where the policy of a domain is.
pub fn url_of(domain: &str) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}

/// The policy as it is now. Takes a minute at most.
///
/// # Errors
/// There is none, or it cannot be had.
pub fn fetch(https: &Https, domain: &str) -> Result<Policy, FetchError> {
    let answer = match https.get(&url_of(domain), BYTES_MAX) {
        Ok(answer) => answer,
        Err(HttpsError::TooLong) => return Err(FetchError::Invalid(PolicyError::TooLong)),
        Err(error) => return Err(FetchError::NoAnswer(error)),
    };
    if answer.status != 200 {
        return Err(FetchError::Status(answer.status));
    }
    if answer.media_type != "text/plain" {
        let shown = answer.media_type.chars().take(80).collect();
        return Err(FetchError::MediaType(shown));
    }
    Policy::parse(&answer.body).map_err(FetchError::Invalid)
}
