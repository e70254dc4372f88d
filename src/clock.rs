//! The clock that is handed to every room that needs one: the system's, or one moved by hand in tests.
//!
//! It tells three times, all in seconds:
//! - [`Clock::now`], the system's: what people see, and when mail is due;
//! - [`Clock::steady`], which never steps: for waits in memory;
//! - [`Clock::confirmed`], for all that ends mail (its lifetime, `BY`, the delay warning, the end of history). A
//!   system clock that steps forward by more than a minute is doubted until the new time has held for an hour; until
//!   then the confirmed time goes on from where it was. A clock that runs 14 days ahead for a minute ends nothing.
//!
//! A clock that steps back is believed at once: that only makes mail live longer.
//!
//! # Bugs
//! Mail that was accepted while the clock was behind counts its lifetime from that time once the clock is right.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A system clock moves by so much without being doubted.
pub const STEP_SECS: i64 = 60;
/// For how long a new time must hold to be believed.
const CONFIRMED_AFTER_SECS: i64 = 3600;
/// At a start, how far the clock may at most be ahead of the last time that was written, whatever the lifetimes are.
const AHEAD_AT_START_SECS_MAX: i64 = 86_400;

/// Tells the time in Unix seconds. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    confirmed: Arc<Mutex<Confirmed>>,
}

#[derive(Debug, Clone)]
enum Source {
    /// Counts from this moment, at which it was so many Unix seconds.
    System(Instant, i64),
    /// The system's time and the steady one.
    ByHand(Arc<(AtomicI64, AtomicI64)>),
}

impl Clock {
    /// The system's.
    pub fn system() -> Clock {
        let now = system_now();
        Clock::of(Source::System(Instant::now(), now), now)
    }

    /// A clock that stands at `now` until [`Clock::advance`] or [`Clock::step`].
    pub fn by_hand(now: i64) -> Clock {
        Clock::of(Source::ByHand(Arc::new((AtomicI64::new(now), AtomicI64::new(now)))), now)
    }

    fn of(source: Source, now: i64) -> Clock {
        Clock { source, confirmed: Arc::new(Mutex::new(Confirmed::new(now, now))) }
    }

    /// Unix seconds, as the system has them.
    pub fn now(&self) -> i64 {
        match &self.source {
            Source::System(..) => system_now(),
            Source::ByHand(times) => times.0.load(Ordering::SeqCst),
        }
    }

    /// Seconds that pass whatever is done to the system's clock. They begin at the Unix seconds of the start.
    pub fn steady(&self) -> i64 {
        match &self.source {
            Source::System(began, at) => {
                at.saturating_add(i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX))
            }
            Source::ByHand(times) => times.1.load(Ordering::SeqCst),
        }
    }

    /// The system's time and the steady one.
    pub fn moment(&self) -> Moment {
        Moment { now: self.now(), steady: self.steady() }
    }

    /// Unix seconds, for what ends mail. Logs when the system's clock stepped.
    pub fn confirmed(&self) -> i64 {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let steady = self.steady();
        if let Some(step) = confirmed.look(self.now(), steady) {
            step.log();
        }
        confirmed.at(steady)
    }

    /// Whether the system's time is the confirmed one.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed();
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).doubt.is_none()
    }

    /// For a start: the confirmed time that the last process wrote last. A clock that is ahead of it by more than
    /// `lifetime_secs` (an hour at least, a day at most) is doubted.
    pub fn begin_after(&self, last_written: i64, lifetime_secs: i64) {
        let most = lifetime_secs.clamp(CONFIRMED_AFTER_SECS, AHEAD_AT_START_SECS_MAX);
        if self.now().saturating_sub(last_written) > most {
            let steady = self.steady();
            *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) =
                Confirmed::new(last_written, steady);
        }
        self.confirmed();
    }

    /// Time passes on a clock moved by hand; on the system's it does so by itself.
    pub fn advance(&self, secs: i64) {
        self.step(secs);
        if let Source::ByHand(times) = &self.source {
            times.1.fetch_add(secs, Ordering::SeqCst);
        }
    }

    /// Somebody sets the clock, and no time passes: only of one moved by hand.
    pub fn step(&self, secs: i64) {
        if let Source::ByHand(times) = &self.source {
            times.0.fetch_add(secs, Ordering::SeqCst);
        }
    }
}

/// One moment on two time lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Unix seconds, as the system has them.
    pub now: i64,
    /// See [`Clock::steady`].
    pub steady: i64,
}

impl Moment {
    /// A steady second as Unix seconds.
    pub fn unix(&self, steady: i64) -> i64 {
        self.now.saturating_add(steady.saturating_sub(self.steady))
    }
}

fn system_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What the system's clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Forward, by so many seconds.
    Forward(i64),
    /// Back, by so many.
    Back(i64),
    /// From a doubted time to the one that was believed.
    Returned,
    /// A new time, so many seconds ahead, has held.
    Held(i64),
}

impl Step {
    fn log(self) {
        match self {
            Step::Forward(secs) => log::warn!(
                "the clock is {secs} s ahead of where it was: mail is not ended by it until it has held for an hour"
            ),
            Step::Back(secs) => log::warn!("the clock was set back by {secs} s"),
            Step::Returned => log::warn!("the clock is back where it was"),
            Step::Held(secs) => {
                log::warn!(
                    "the clock has been {secs} s ahead for an hour, and counts for the end of mail too"
                );
            }
        }
    }
}

/// The time that counts for what ends mail (pure).
#[derive(Debug)]
struct Confirmed {
    /// What is added to the steady seconds.
    offset: i64,
    doubt: Option<Doubt>,
}

/// A time ahead that has not held for long enough.
#[derive(Debug)]
struct Doubt {
    offset: i64,
    /// Since this steady second.
    since: i64,
}

impl Confirmed {
    fn new(now: i64, steady: i64) -> Confirmed {
        Confirmed { offset: now.saturating_sub(steady), doubt: None }
    }

    fn at(&self, steady: i64) -> i64 {
        steady.saturating_add(self.offset)
    }

    /// Takes notice of the system's time.
    fn look(&mut self, now: i64, steady: i64) -> Option<Step> {
        let offset = now.saturating_sub(steady);
        let ahead = offset.saturating_sub(self.offset);
        if ahead <= STEP_SECS {
            self.offset = offset;
            let doubted = self.doubt.take().is_some();
            let is_back = ahead < -STEP_SECS;
            return if is_back { Some(Step::Back(-ahead)) } else { doubted.then_some(Step::Returned) };
        }
        match &mut self.doubt {
            Some(doubt) if (offset - doubt.offset).abs() <= STEP_SECS => {
                doubt.offset = offset;
                if steady.saturating_sub(doubt.since) < CONFIRMED_AFTER_SECS {
                    return None;
                }
                (self.offset, self.doubt) = (offset, None);
                Some(Step::Held(ahead))
            }
            doubt => {
                *doubt = Some(Doubt { offset, since: steady });
                Some(Step::Forward(ahead))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_step_forward_counts_once_it_has_held_for_an_hour() {
        let clock = Clock::by_hand(1_000_000);
        clock.step(14 * DAY);
        assert_eq!((clock.now(), clock.confirmed()), (1_000_000 + 14 * DAY, 1_000_000));
        clock.advance(3599);
        assert_eq!((clock.confirmed(), clock.is_confirmed()), (1_003_599, false));
        clock.advance(1);
        assert_eq!((clock.confirmed(), clock.is_confirmed()), (1_003_600 + 14 * DAY, true));
    }

    #[test]
    fn a_step_forward_and_back_never_happened() {
        let clock = Clock::by_hand(1_000_000);
        clock.step(14 * DAY);
        assert_eq!(clock.confirmed(), 1_000_000);
        clock.advance(60);
        clock.step(-14 * DAY);
        assert_eq!((clock.confirmed(), clock.is_confirmed()), (1_000_060, true));
        clock.advance(7200);
        assert_eq!(clock.confirmed(), 1_007_260);
    }

    #[test]
    fn a_step_back_counts_at_once_and_the_steady_time_goes_on() {
        let clock = Clock::by_hand(1_000_000);
        clock.step(-500_000);
        assert_eq!((clock.confirmed(), clock.steady()), (500_000, 1_000_000));
        clock.advance(5);
        assert_eq!((clock.now(), clock.confirmed(), clock.steady()), (500_005, 500_005, 1_000_005));
    }

    #[test]
    fn at_a_start_a_clock_far_ahead_of_what_was_written_is_doubted() {
        for (ahead, lifetime, doubted) in [
            (3600, 5, false),
            (3601, 5, true),
            (DAY, 5 * DAY, false),
            (14 * DAY, 5 * DAY, true),
            (-14 * DAY, 5 * DAY, false),
        ] {
            let clock = Clock::by_hand(100 * DAY);
            clock.begin_after(100 * DAY - ahead, lifetime);
            assert_eq!(clock.is_confirmed(), !doubted, "{ahead} s ahead");
            clock.advance(3600);
            assert_eq!(clock.confirmed(), 100 * DAY + 3600, "{ahead} s ahead, an hour later");
        }
    }

    proptest! {
        /// Whatever is done to the clock: the confirmed time is never ahead of the system's by more than what counts
        /// as no step, goes forward only with time that passed or with a time that held for an hour, and is the
        /// system's an hour after the last step at the latest.
        #[test]
        fn no_step_shorter_than_an_hour_moves_the_confirmed_time_forward(
            moves in proptest::collection::vec((1i64..1800, prop_oneof![Just(0i64), -400 * DAY..400 * DAY, -90i64..90]), 1..40)
        ) {
            let clock = Clock::by_hand(1000 * DAY);
            let (mut last, mut last_step) = (clock.confirmed(), clock.steady() - CONFIRMED_AFTER_SECS);
            for (passed, step) in moves {
                clock.step(step);
                if step.abs() > STEP_SECS {
                    last_step = clock.steady();
                }
                clock.confirmed();
                clock.advance(passed);
                let now = clock.confirmed();
                prop_assert!(now <= clock.now() + STEP_SECS);
                let held = clock.steady() - last_step >= CONFIRMED_AFTER_SECS;
                prop_assert!(held || now - last <= passed + STEP_SECS, "{} s in {passed} s", now - last);
                prop_assert!(!held || now == clock.now());
                last = now;
            }
            clock.advance(CONFIRMED_AFTER_SECS);
            prop_assert_eq!(clock.confirmed(), clock.now());
        }
    }
}
