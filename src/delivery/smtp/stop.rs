//! How whoever waits for a host hears that the relay stops.
//!
//! A host that is silent before the content is given up at once: nothing has happened, and the mail is due at the
//! next start. One that answers may still be given the content for a moment. Behind the first byte of the content the
//! host has until a time that is set with the stop, since a message that it was given whole and did not answer is in
//! doubt (RFC 1047).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::delivery::smtp::wire::Fault;

/// How often a wait looks whether the relay stops: so long a host may be silent then.
pub(in crate::delivery) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// No content is begun where the host would have less time than this for it.
const CONTENT_MIN: Duration = Duration::from_secs(2);

/// Whether the relay stops. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<OnceLock<Instant>>);

impl Stop {
    /// The relay stops. Hosts that were given content have until then.
    pub(in crate::delivery) fn begin(&self, content_until: Instant) {
        // The first one counts.
        let _ = self.0.set(content_until);
    }

    /// The relay stops.
    pub fn has_begun(&self) -> bool {
        self.0.get().is_some()
    }

    /// Whether a host that is silent may be waited for.
    ///
    /// # Errors
    /// `Stopping` where the relay stops, and the host was given no content, or its time is over.
    pub(in crate::delivery) fn check(&self, content_begun: bool) -> Result<(), Fault> {
        if content_begun || !self.has_begun() {
            self.check_time(Duration::ZERO)
        } else {
            Err(Fault::Stopping)
        }
    }

    /// Whether anything may be read at all.
    ///
    /// # Errors
    /// `Stopping` where the relay stops and all time is over.
    pub(in crate::delivery) fn check_end(&self) -> Result<(), Fault> {
        self.check_time(Duration::ZERO)
    }

    /// Whether content may be begun.
    ///
    /// # Errors
    /// `Stopping` where the relay stops, and little time is left.
    pub(in crate::delivery) fn check_content(&self) -> Result<(), Fault> {
        self.check_time(CONTENT_MIN)
    }

    fn check_time(&self, least: Duration) -> Result<(), Fault> {
        match self.0.get() {
            Some(until) if Instant::now() + least >= *until => Err(Fault::Stopping),
            _ => Ok(()),
        }
    }
}
