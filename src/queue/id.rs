//! Ids: microseconds since 1970 at which the id was given out, one by one, none twice.
//!
//! They sort by time, fit SQLite's integer primary key (so that rows are appended), and need
//! no counter on disk but the highest one given out so far (`meta.last_id`), which keeps
//! the promise when the clock steps back.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

/// Digits and letters without I, L, O and U, in ASCII order, so that the text sorts as the number.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 55 bits: until the year 3111.
const QUEUE_ID_CHARS: usize = 11;
/// No larger id was ever given out: one that is there all the same is somebody's mistake.
pub(super) const ID_MAX: i64 = (1 << (5 * QUEUE_ID_CHARS)) - 1;

/// Names a message. Shown everywhere as the queue id: 11 characters of base 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub i64);

/// Names a recipient of a message; the key of `attempts` and `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecipientId(pub i64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; QUEUE_ID_CHARS];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = ALPHABET[(self.0 >> (5 * place) & 31) as usize];
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// The text is not a queue id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a queue id is {QUEUE_ID_CHARS} characters, digits and capital letters, such as 01MB1Z4QK3R")]
pub struct NotAQueueId;

impl FromStr for MessageId {
    type Err = NotAQueueId;

    fn from_str(text: &str) -> Result<MessageId, NotAQueueId> {
        if text.len() != QUEUE_ID_CHARS {
            return Err(NotAQueueId);
        }
        text.bytes()
            .try_fold(0i64, |id, byte| {
                let digit = ALPHABET.iter().position(|&a| a == byte.to_ascii_uppercase())?;
                Some(id << 5 | digit as i64)
            })
            .map(MessageId)
            .ok_or(NotAQueueId)
    }
}

/// Gives ids out.
#[derive(Debug)]
pub struct Ids {
    last: AtomicI64,
}

impl Ids {
    /// Starts after `last`, the highest id ever given out.
    pub fn after(last: i64) -> Ids {
        Ids { last: AtomicI64::new(last) }
    }

    /// The first of `count` consecutive ids; `now_us` is the clock in microseconds since 1970.
    pub fn take(&self, count: usize, now_us: i64) -> i64 {
        let count = count as i64;
        let first_after = |last: i64| now_us.max(last + 1);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let first = first_after(last);
            match self.last.compare_exchange_weak(
                last,
                first + count - 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return first,
                Err(seen) => last = seen,
            }
        }
    }

    /// The highest id given out so far.
    pub fn last(&self) -> i64 {
        self.last.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_reads_back_and_sorts_by_time() {
        let (a, b) = (MessageId(1_795_000_000_000_000), MessageId(1_795_000_000_000_001));
        assert_eq!(a.to_string().len(), 11);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert!(a.to_string() < b.to_string());
        assert_eq!("0".parse::<MessageId>(), Err(NotAQueueId));
        assert_eq!("IIIIIIIIIII".parse::<MessageId>(), Err(NotAQueueId));
    }

    #[test]
    fn no_id_is_given_out_twice_even_when_the_clock_steps_back() {
        let ids = Ids::after(0);
        assert_eq!(ids.take(3, 1000), 1000);
        assert_eq!(ids.take(1, 1000), 1003);
        assert_eq!(ids.take(1, 10), 1004);
        assert_eq!(ids.take(1, 2000), 2000);
        assert_eq!(ids.last(), 2000);
    }
}
