//! How many messages a user sends: `user add --rate`, counted over a sliding hour.
//!
//! A message counts from its MAIL on, so that parallel sessions cannot go over the limit together,
//! and not at all where it was not queued in the end. The counts are kept over a reload of the config and
//! forgotten when the relay ends.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::{TtlMap, Window};

use crate::submission::users::User;

/// As in `--rate N/h`.
const RATE_WINDOW: Duration = Duration::from_secs(3600);
/// Users counted at once, each with a KiB at most. Only users with a rate are counted; with more of them than
/// this sending within an hour, the oldest counts are forgotten.
const USERS_MAX: usize = 100_000;

/// Messages of the last hour by user.
#[derive(Debug)]
pub(in crate::submission) struct Rates {
    by_user: Mutex<TtlMap<String, Window<Instant>, Instant>>,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { by_user: Mutex::new(TtlMap::new(USERS_MAX, RATE_WINDOW)) }
    }
}

/// One message that counts, until this is dropped without [`Counted::keep`].
#[derive(Debug)]
pub(in crate::submission) struct Counted<'a> {
    rates: &'a Rates,
    user: String,
    at: Instant,
    kept: bool,
}

/// The user has sent as many messages as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct TooMany(
    /// An hour.
    pub(in crate::submission) u32,
);

impl Rates {
    /// Counts one more message of `user`; nothing to count where the user has no rate.
    ///
    /// # Errors
    /// The limit is reached; nothing was counted.
    pub(in crate::submission) fn count(
        &self,
        user: &User,
        now: Instant,
    ) -> Result<Option<Counted<'_>>, TooMany> {
        let Some(rate) = user.rate else { return Ok(None) };
        let mut by_user = self.lock();
        let window = by_user.renew(user.name.clone(), now, || Window::new(RATE_WINDOW));
        if window.count(now) >= rate.get() as usize {
            return Err(TooMany(rate.get()));
        }
        window.add(now);
        Ok(Some(Counted { rates: self, user: user.name.clone(), at: now, kept: false }))
    }

    /// A panic while counting leaves a map that is still a map.
    fn lock(&self) -> MutexGuard<'_, TtlMap<String, Window<Instant>, Instant>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted<'_> {
    /// The message was queued.
    pub(in crate::submission) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Some(window) = self.rates.lock().get_mut(&self.user, self.at)
        {
            window.take_back(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn user(name: &str, rate: u32) -> User {
        User { name: name.into(), rate: NonZeroU32::new(rate), ..User::default() }
    }

    #[test]
    fn a_user_sends_so_many_an_hour_and_others_their_own() {
        let start = Instant::now();
        let rates = Rates::default();
        let at = |secs| start + Duration::from_secs(secs);
        let send = |user: &User, secs| rates.count(user, at(secs)).map(|counted| counted.unwrap().keep());
        let app = user("app", 2);
        assert_eq!(send(&app, 0), Ok(()));
        assert_eq!(send(&app, 1800), Ok(()));
        assert_eq!(send(&app, 1801), Err(TooMany(2)));
        assert_eq!(send(&app, 3600), Err(TooMany(2)));
        assert_eq!(send(&user("other", 1), 3600), Ok(()));
        assert_eq!(send(&app, 3660), Ok(()), "the first is an hour old");
        assert_eq!(send(&app, 3661), Err(TooMany(2)));
        assert!(rates.count(&user("free", 0), start).unwrap().is_none());
    }

    #[test]
    fn what_was_not_queued_does_not_count_and_what_is_under_way_does() {
        let start = Instant::now();
        let rates = Rates::default();
        let app = user("app", 1);
        let under_way = rates.count(&app, start).unwrap();
        assert!(rates.count(&app, start).is_err(), "a second session must wait for the first");
        drop(under_way);
        rates.count(&app, start).unwrap().unwrap().keep();
        assert!(rates.count(&app, start).is_err());
    }
}
