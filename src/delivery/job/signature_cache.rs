//! Signatures made a moment ago, so that a message to many lanes is signed once.
//!
//! What is kept is found by all that was signed: the whole header, the hash of the body and the names of the keys. So
//! it never serves other content or other keys; and it goes with the keys at a reload. It serves for `FRESH_SECS`: `t=`
//! is never of the future, and `x=` is an hour behind it at least.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kit::bounded::TtlMap;
use crate::mail::dkim::SigningTime;

/// Messages whose signatures are kept.
const KEPT_MAX: usize = 1000;
/// Bytes of the signatures of one. Two have 1,500; a header of thousands of fields names each of them in `h=`.
const KEPT_BYTES_MAX: usize = 16 << 10;
/// How old they may be.
const FRESH_SECS: i64 = 300;

/// The SHA-256 of what was signed and by whom.
pub(super) type SignedId = [u8; 32];

/// The cache.
pub(super) struct SignatureCache(Mutex<Map>);

type Map = TtlMap<SignedId, Arc<Kept>, i64>;

struct Kept {
    at: SigningTime,
    /// Held while they are made, so that others wait for them rather than make the same. None: not made yet, or too
    /// large to be kept.
    fields: Mutex<Option<Arc<str>>>,
}

impl Default for SignatureCache {
    fn default() -> SignatureCache {
        SignatureCache(Mutex::new(TtlMap::new(KEPT_MAX, Duration::from_secs(FRESH_SECS.unsigned_abs()))))
    }
}

impl SignatureCache {
    /// The fields that were made of this, or what `make` makes. `now`: steady seconds; `at`: when a signature of now is
    /// made.
    ///
    /// # Errors
    /// Those of `make`; they are not kept.
    pub(super) fn find_or_make<E>(
        &self,
        id: SignedId,
        now: i64,
        at: SigningTime,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<Arc<str>, E> {
        let kept = self.entry(id, now, at);
        // A panic while it was held left nothing.
        let mut fields = kept.fields.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fields) = &*fields {
            return Ok(fields.clone());
        }
        let made: Arc<str> = make()?.into();
        if made.len() <= KEPT_BYTES_MAX {
            *fields = Some(made.clone());
        }
        Ok(made)
    }

    fn entry(&self, id: SignedId, now: i64, at: SigningTime) -> Arc<Kept> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = map.get(&id, now).filter(|kept| kept.at.may_serve(at, FRESH_SECS)) {
            return kept.clone();
        }
        let kept = Arc::new(Kept { at, fields: Mutex::new(None) });
        map.insert(id, kept.clone(), now);
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn get(cache: &SignatureCache, id: u8, now: i64, at: SigningTime, made: &str) -> String {
        let make = || Ok::<_, Infallible>(made.to_owned());
        cache.find_or_make([id; 32], now, at, make).unwrap().to_string()
    }

    #[test]
    fn one_is_kept_while_it_is_fresh_by_every_clock() {
        for (steps, earliest, latest, kept) in [
            (0, NOW, NOW + 9, true),
            (299, NOW + 299, NOW + 9 + 300, true),
            (300, NOW, NOW + 9, false),
            // The clock was put back: its t= would be of the future.
            (1, NOW - 1, NOW + 9, false),
            (1, NOW, NOW + 8, false),
            // It was put forward: its x= may be over.
            (1, NOW + 301, NOW + 301, false),
            (1, NOW, NOW + 9 + 301, false),
        ] {
            let cache = SignatureCache::default();
            assert_eq!(get(&cache, 1, 50, SigningTime::between(NOW, NOW + 9), "old"), "old");
            let at = SigningTime::between(earliest, latest);
            let wanted = if kept { "old" } else { "new" };
            assert_eq!(get(&cache, 1, 50 + steps, at, "new"), wanted, "{steps} {earliest} {latest}");
            assert_eq!(get(&cache, 2, 50, at, "other"), "other");
        }
    }

    #[test]
    fn twenty_that_want_it_at_once_have_it_made_once_and_a_failure_is_not_kept() {
        let (cache, made, barrier) = (SignatureCache::default(), AtomicUsize::new(0), Barrier::new(20));
        let failed = cache.find_or_make([1; 32], 0, NOW.into(), || Err("no"));
        assert_eq!(failed, Err("no"));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    barrier.wait();
                    let make = || Ok::<_, Infallible>(made.fetch_add(1, Ordering::Relaxed).to_string());
                    assert_eq!(&*cache.find_or_make([1; 32], 0, NOW.into(), make).unwrap(), "0");
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn no_more_are_kept_than_may_be_and_none_that_is_large() {
        let cache = SignatureCache::default();
        for number in 0..KEPT_MAX * 3 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let make = || Ok::<_, Infallible>("x".repeat(KEPT_BYTES_MAX + number % 2));
            let _ = cache.find_or_make(id, 0, NOW.into(), make);
        }
        let mut map = cache.0.lock().unwrap();
        assert!(map.count(0) <= KEPT_MAX);
        let large = |kept: &Arc<Kept>| kept.fields.lock().unwrap().as_ref().map_or(0, |fields| fields.len());
        let bytes = map.bytes(|kept| size_of::<Kept>() + large(kept));
        assert!((1 << 20..17 << 20).contains(&bytes), "{bytes}");
    }
}
