//! How many bytes of a user's mail may be in the queue: `user add --quota`.
//!
//! A message reserves its bytes before they are queued: what MAIL says with SIZE (RFC 1870) at MAIL, the rest as the
//! content comes. Mail that is held until later (RFC 4865) counts as all that waits does.

use crate::mail::Reply;
use crate::queue::{AcceptError, QuotaError};

use crate::submission::ports::MessageQueue;
use crate::submission::replies;
use crate::submission::users::User;

/// The part of a user's quota that a message on its way has; given back when this is dropped.
pub(in crate::submission) struct QuotaShare<'a> {
    queue: &'a dyn MessageQueue,
    user: String,
    quota: u64,
    bytes: u64,
}

impl<'a> QuotaShare<'a> {
    /// With nothing in it; none where the user has no quota.
    pub(in crate::submission) fn of(queue: &'a dyn MessageQueue, user: &User) -> Option<QuotaShare<'a>> {
        let quota = user.quota?.get();
        Some(QuotaShare { queue, user: user.name.clone(), quota, bytes: 0 })
    }

    /// Has at least so many bytes from now on.
    ///
    /// # Errors
    /// The answer to the client; the share is what it was.
    pub(in crate::submission) fn grow_to(&mut self, bytes: u64) -> Result<(), Reply> {
        // It would be too much at any time.
        if bytes > self.quota {
            return Err(replies::TOO_BIG);
        }
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.queue.reserve_quota(&self.user, self.quota, more).map_err(|error| match error {
                QuotaError::Reached => replies::quota_reached(self.quota),
                QuotaError::Unknown => replies::not_queued(AcceptError::Failed),
            })?;
            self.bytes += more;
        }
        Ok(())
    }
}

impl Drop for QuotaShare<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.queue.release_quota(&self.user, self.bytes);
        }
    }
}
