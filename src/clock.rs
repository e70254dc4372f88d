//! The clock that is handed to every room that needs one: the system's, or one moved by hand in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time in Unix seconds.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// Stands still until moved.
    ByHand(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `now` until [`Clock::advance`].
    pub fn by_hand(now: i64) -> Clock {
        Clock::ByHand(Arc::new(AtomicI64::new(now)))
    }

    /// Unix seconds.
    pub fn now(&self) -> i64 {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            }
            Clock::ByHand(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Moves a clock by hand; the system's goes on by itself.
    pub fn advance(&self, secs: i64) {
        if let Clock::ByHand(now) = self {
            now.fetch_add(secs, Ordering::SeqCst);
        }
    }
}
