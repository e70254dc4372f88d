//! To how many recipients a user sends: `user add --rate`, counted over a sliding hour.
//!
//! A recipient counts from its RCPT on, so that parallel sessions cannot go over the limit together, and not at all
//! where its message was not queued in the end. One that is named twice in a transaction counts once, the members of
//! an alias each. An alias with more members than the rate takes all of the rate: it can be sent to once an hour, where
//! nothing else was. The counts are kept over a reload of the config and forgotten when the relay ends.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::{TtlMap, Window};

use crate::submission::users::User;

/// As in `--rate N/h`.
const RATE_WINDOW: Duration = Duration::from_secs(3600);
/// Users counted at once, each with a KiB at most. Only users with a rate are counted; with more of them than
/// this sending within an hour, the oldest counts are forgotten.
const USERS_MAX: usize = 100_000;

/// Recipients of the last hour by user.
#[derive(Debug)]
pub(in crate::submission) struct Rates {
    by_user: Mutex<TtlMap<String, Window<Instant>, Instant>>,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { by_user: Mutex::new(TtlMap::new(USERS_MAX, RATE_WINDOW)) }
    }
}

/// The recipients of a transaction, which count until this is dropped without [`Counted::keep`].
#[derive(Debug)]
pub(in crate::submission) struct Counted<'a> {
    rates: &'a Rates,
    user: String,
    /// How many count in which slot of the user's window.
    slots: Vec<(Instant, u32)>,
}

/// The user has sent to as many recipients as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct TooMany(
    /// An hour.
    pub(in crate::submission) u32,
);

impl Rates {
    /// Whether the user may send to one more recipient. Counts nothing.
    ///
    /// # Errors
    /// The limit is reached.
    pub(in crate::submission) fn check(&self, user: &User, now: Instant) -> Result<(), TooMany> {
        let Some(rate) = user.rate else { return Ok(()) };
        let counted = self.lock().get_mut(&user.name, now).map_or(0, |window| window.count(now));
        if counted < rate.get() as usize { Ok(()) } else { Err(TooMany(rate.get())) }
    }

    /// Counts so many recipients more of `user`, beside those of the same transaction; nothing where the user has no
    /// rate.
    ///
    /// # Errors
    /// They are more than the limit; none of them was counted.
    pub(in crate::submission) fn count<'a>(
        &'a self,
        user: &User,
        recipients: usize,
        now: Instant,
        transaction: &mut Option<Counted<'a>>,
    ) -> Result<(), TooMany> {
        let Some(rate) = user.rate else { return Ok(()) };
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX).min(rate.get());
        let mut by_user = self.lock();
        let window = by_user.renew(user.name.clone(), now, || Window::new(RATE_WINDOW));
        if window.count(now) + recipients as usize > rate.get() as usize {
            return Err(TooMany(rate.get()));
        }
        let slot = window.add_many(now, recipients);
        let new = || Counted { rates: self, user: user.name.clone(), slots: Vec::new() };
        transaction.get_or_insert_with(new).add(slot, recipients);
        Ok(())
    }

    /// A panic while counting leaves a map that is still a map.
    fn lock(&self) -> MutexGuard<'_, TtlMap<String, Window<Instant>, Instant>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted<'_> {
    fn add(&mut self, slot: Instant, recipients: u32) {
        match self.slots.last_mut() {
            Some((last, count)) if *last == slot => *count += recipients,
            _ => self.slots.push((slot, recipients)),
        }
    }

    /// The message was queued.
    pub(in crate::submission) fn keep(mut self) {
        self.slots.clear();
    }
}

impl Drop for Counted<'_> {
    /// In a transaction that lasted longer than an hour, what counts no more is not given back.
    fn drop(&mut self) {
        let Some((last, _)) = self.slots.last() else { return };
        if let Some(window) = self.rates.lock().get_mut(&self.user, *last) {
            self.slots.iter().for_each(|(slot, recipients)| window.take_back_from(*slot, *recipients));
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

    fn send(rates: &Rates, user: &User, recipients: usize, now: Instant) -> Result<(), TooMany> {
        let mut transaction = None;
        rates.count(user, recipients, now, &mut transaction)?;
        transaction.into_iter().for_each(Counted::keep);
        Ok(())
    }

    #[test]
    fn a_user_sends_to_so_many_an_hour_and_others_to_their_own() {
        let start = Instant::now();
        let rates = Rates::default();
        let at = |secs| start + Duration::from_secs(secs);
        let app = user("app", 10);
        let send = |user: &User, recipients, secs| send(&rates, user, recipients, at(secs));
        assert_eq!(send(&app, 4, 0), Ok(()));
        assert_eq!(send(&app, 7, 1800), Err(TooMany(10)), "a part is not taken");
        assert_eq!(send(&app, 6, 1800), Ok(()));
        assert_eq!((rates.check(&app, at(1801)), send(&app, 1, 1801)), (Err(TooMany(10)), Err(TooMany(10))));
        assert_eq!(send(&app, 1, 3600), Err(TooMany(10)));
        assert_eq!(send(&user("other", 1), 1, 3600), Ok(()));
        assert_eq!((rates.check(&app, at(3660)), send(&app, 5, 3660)), (Ok(()), Err(TooMany(10))));
        assert_eq!(send(&app, 4, 3660), Ok(()), "the first four are an hour old");
        assert_eq!(send(&app, 1, 3661), Err(TooMany(10)));
        let free = user("free", 0);
        assert_eq!((rates.check(&free, start), send(&free, 1_000_000, 0)), (Ok(()), Ok(())));
        assert_eq!(rates.lock().count(at(3661)), 2, "who has no rate is not counted");
    }

    #[test]
    fn what_was_not_queued_does_not_count_and_what_is_under_way_does() {
        let start = Instant::now();
        let rates = Rates::default();
        let app = user("app", 5);
        let mut under_way = None;
        rates.count(&app, 2, start, &mut under_way).unwrap();
        rates.count(&app, 2, start, &mut under_way).unwrap();
        assert!(send(&rates, &app, 2, start).is_err(), "a second session must wait for the first");
        assert!(rates.count(&app, 2, start, &mut under_way).is_err(), "and so must the first");
        assert!(send(&rates, &app, 1, start).is_ok());
        drop(under_way);
        assert!(send(&rates, &app, 5, start).is_err() && send(&rates, &app, 4, start).is_ok());
    }

    /// A transaction that lasts gives back what it took, and nothing of what others sent since.
    #[test]
    fn a_transaction_that_fails_late_gives_back_its_own() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        for (ends_after_an_hour, left) in [(false, 5), (true, 5)] {
            let rates = Rates::default();
            let app = user("app", 10);
            let mut slow = None;
            rates.count(&app, 5, at(0), &mut slow).unwrap();
            send(&rates, &app, 5, at(1_800)).unwrap();
            if ends_after_an_hour {
                // The five of the slow one are counted no more.
                rates.check(&app, at(3_700)).unwrap();
            }
            drop(slow);
            let now = at(3_700);
            assert!(send(&rates, &app, left + 1, now).is_err() && send(&rates, &app, left, now).is_ok());
        }
    }

    #[test]
    fn an_alias_with_more_members_than_the_rate_takes_all_of_it() {
        let start = Instant::now();
        let rates = Rates::default();
        let app = user("app", 10);
        assert_eq!(send(&rates, &app, 5_000, start), Ok(()));
        assert_eq!(send(&rates, &app, 1, start), Err(TooMany(10)));
        let other = user("other", 10);
        assert_eq!(send(&rates, &other, 1, start), Ok(()));
        assert_eq!(send(&rates, &other, 5_000, start), Err(TooMany(10)));
        assert_eq!(send(&rates, &other, 5_000, start + Duration::from_secs(3_700)), Ok(()));
    }

    #[test]
    fn no_more_users_are_counted_than_may_be() {
        let start = Instant::now();
        let rates = Rates::default();
        for number in 0..USERS_MAX + 500 {
            send(&rates, &user(&format!("u{number}"), 1), 1, start).unwrap();
        }
        let kept = rates.lock().count(start);
        assert!((USERS_MAX * 3 / 4..=USERS_MAX).contains(&kept), "{kept}");
        assert!(
            send(&rates, &user(&format!("u{}", USERS_MAX + 499), 1), 1, start).is_err(),
            "the last is known"
        );
    }
}
