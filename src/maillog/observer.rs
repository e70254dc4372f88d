//! Who hears of what the mail log tells, whether a line of it is written or not: the counters of `[metrics]`.
//!
//! One place knows of everything that happens to mail, and it is this log. Rooms below it tell it, and do not know who
//! else listens. Where nobody does, it costs a look at an empty cell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::mail::{Address, Attempt, Reply};

/// What happened.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A message is on disk.
    Accepted {
        /// How many recipients it has.
        recipients: usize,
        /// Its size.
        bytes: u64,
    },
    /// An attempt ended for one recipient.
    Attempted {
        /// The recipient.
        recipient: &'a Address,
        /// The attempt.
        attempt: &'a Attempt,
    },
    /// And a host refused what we send, by a block list or another policy.
    RefusedByPolicy,
    /// The lifetime of a recipient ended before its next attempt.
    Expired {
        /// The recipient.
        recipient: &'a Address,
        /// Of its last attempt, codes first.
        last_reply: Option<&'a str>,
    },
    /// A recipient was returned to the sender, as an operator asked.
    Returned,
    /// A report to a sender was queued, of this kind.
    Reported(&'a str),
    /// A command of a transaction, or the content, was refused with this reply.
    Refused(&'a Reply),
    /// A client was disconnected, or refused before it could begin.
    TurnedAway,
    /// A login failed.
    LoginFailed,
    /// A client's TLS handshake failed.
    HandshakeFailed,
}

/// Whoever hears of it. Called in the way of mail, so it must not wait.
pub trait Observer: Send + Sync {
    /// It happened.
    fn see(&self, seen: &Seen<'_>);
}

/// Whether anybody hears of it.
pub fn is_observed() -> bool {
    IS_ON.load(Ordering::Relaxed) && OBSERVER.get().is_some()
}

static IS_ON: AtomicBool = AtomicBool::new(false);

static OBSERVER: OnceLock<Arc<dyn Observer>> = OnceLock::new();

/// From now on this one hears of everything. The first that is given stays, as the log does.
pub fn observe_with(observer: Arc<dyn Observer>) {
    let _ = OBSERVER.set(observer);
    IS_ON.store(true, Ordering::Relaxed);
}

/// From now on nobody hears of anything, until [`observe_with`] is called again.
pub fn observe_no_more() {
    IS_ON.store(false, Ordering::Relaxed);
}

pub(super) fn observe(seen: &Seen<'_>) {
    if is_observed()
        && let Some(observer) = OBSERVER.get()
    {
        observer.see(seen);
    }
}
