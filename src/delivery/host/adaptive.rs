//! What a host that throttles us is given: connections at once and messages in a minute (pure).
//!
//! Each throttle signal halves what we had when it came (multiplicative decrease), each minute that goes
//! well gives a little back (additive increase), and once all is back nothing is remembered. That is how TCP
//! finds the room on a line that it shares with others, and a host's patience is such a line.
//! "Too many connections" while there is one is about the rate, whatever it says.

use std::time::{Duration, Instant};

use crate::delivery::host::throttle_signal::ThrottleSignal;

/// Signals that come within this of the last belong to it: what was open then is still being answered.
const ONE_SIGNAL_SECS: i64 = 10;
/// How long all must have gone well before a little is given back.
const EARN_SECS: i64 = 60;
/// What is given back: one connection, and so many messages a minute.
const EARNED_PER_MINUTE: u32 = 10;
/// A rate that has come so far is a limit no longer.
const FREE_PER_MINUTE: u32 = 600;
/// How much of a rate may be used at once, so that a rate of many a second does not need an alarm for each.
const BURST_SECS: f64 = 2.0;

/// What a host is given; none: as the config says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::delivery) struct AdaptiveLimit {
    /// Connections at once.
    pub(in crate::delivery) connections: Option<usize>,
    /// Messages (transactions) a minute.
    pub(in crate::delivery) per_minute: Option<u32>,
    /// When it was last changed, Unix seconds.
    pub(in crate::delivery) changed_at: i64,
}

/// What we had of a host when it gave the signal.
#[derive(Debug, Clone, Copy)]
pub(in crate::delivery) struct Use {
    /// Connections open, the one that heard the signal included.
    pub(in crate::delivery) connections: usize,
    /// Messages of the last minute.
    pub(in crate::delivery) last_minute: u32,
}

/// What a minute that went well brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Earned {
    /// More than before.
    More(AdaptiveLimit),
    /// All: nothing is to be remembered of this host any more.
    All,
}

impl AdaptiveLimit {
    /// Whether it is less than the config says.
    pub(in crate::delivery) fn is_limited(self) -> bool {
        self.connections.is_some() || self.per_minute.is_some()
    }

    /// After a signal; none where it belongs to the one before.
    pub(in crate::delivery) fn after_signal(
        self,
        signal: ThrottleSignal,
        used: Use,
        now: i64,
    ) -> Option<AdaptiveLimit> {
        // A clock that was set back must not keep signals from being heard.
        if self.is_limited() && (0..ONE_SIGNAL_SECS).contains(&(now - self.changed_at)) {
            return None;
        }
        let had = self.connections.map_or(used.connections, |limit| limit.min(used.connections));
        let mut limit = AdaptiveLimit { changed_at: now, ..self };
        if signal == ThrottleSignal::Rate || had <= 1 {
            let had = self.per_minute.map_or(used.last_minute, |limit| limit.min(used.last_minute.max(2)));
            limit.per_minute = Some((had / 2).clamp(1, FREE_PER_MINUTE));
        } else {
            limit.connections = Some((had / 2).max(1));
        }
        Some(limit)
    }

    /// After a message that the host took; `most` is how many connections it may have at all. None: no minute
    /// has gone by yet.
    pub(in crate::delivery) fn after_success(self, most: usize, now: i64) -> Option<Earned> {
        if (0..EARN_SECS).contains(&(now - self.changed_at)) {
            return None;
        }
        let limit = AdaptiveLimit {
            connections: self.connections.map(|had| had + 1).filter(|more| *more < most),
            per_minute: self
                .per_minute
                .map(|had| had + EARNED_PER_MINUTE)
                .filter(|more| *more < FREE_PER_MINUTE),
            changed_at: now,
        };
        let all = limit.connections.is_none() && limit.per_minute.is_none();
        Some(if all { Earned::All } else { Earned::More(limit) })
    }
}

/// Keeps a rate: so many a minute, a few of them at once after a rest.
#[derive(Debug)]
pub(in crate::delivery) struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    /// One that was not used for so long is as one that was never used: it fills in the time of one message at the
    /// longest.
    pub(super) const FULL_AFTER: Duration = Duration::from_secs(60);

    /// One that was not used for long.
    pub(in crate::delivery) fn new(now: Instant) -> Bucket {
        Bucket { tokens: f64::INFINITY, filled_at: now }
    }

    /// Takes one, or says how long to wait for the next.
    pub(in crate::delivery) fn take(&mut self, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let a_second = f64::from(per_minute.max(1)) / 60.0;
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * a_second).min((BURST_SECS * a_second).max(1.0));
        self.filled_at = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / a_second));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Use = Use { connections: 8, last_minute: 100 };

    fn throttled(limit: AdaptiveLimit, signal: ThrottleSignal, used: Use, now: i64) -> AdaptiveLimit {
        limit.after_signal(signal, used, now).unwrap()
    }

    #[test]
    fn each_signal_halves_the_connections_down_to_one_and_then_the_rate() {
        let mut limit = AdaptiveLimit::default();
        for (at, connections) in [(100, 4), (200, 2), (300, 1)] {
            limit = throttled(limit, ThrottleSignal::Connections, FULL, at);
            assert_eq!((limit.connections, limit.per_minute), (Some(connections), None));
        }
        limit = throttled(limit, ThrottleSignal::Connections, FULL, 400);
        assert_eq!((limit.connections, limit.per_minute), (Some(1), Some(50)));
    }

    #[test]
    fn what_counts_is_what_was_open_and_not_what_would_have_been_allowed() {
        let few = Use { connections: 3, last_minute: 7 };
        assert_eq!(
            throttled(AdaptiveLimit::default(), ThrottleSignal::Connections, few, 0).connections,
            Some(1)
        );
        assert_eq!(throttled(AdaptiveLimit::default(), ThrottleSignal::Rate, few, 0).per_minute, Some(3));
    }

    #[test]
    fn a_signal_about_the_rate_halves_it_down_to_one_a_minute_and_leaves_the_connections() {
        let mut limit = AdaptiveLimit::default();
        for (at, per_minute) in [(100, 50), (200, 25), (300, 12), (400, 6), (500, 3), (600, 1), (700, 1)] {
            limit = throttled(limit, ThrottleSignal::Rate, FULL, at);
            assert_eq!((limit.connections, limit.per_minute), (None, Some(per_minute)));
        }
        // A host that was hardly used and throttles all the same is not stopped altogether.
        let idle = Use { connections: 1, last_minute: 0 };
        assert_eq!(throttled(limit, ThrottleSignal::Rate, idle, 800).per_minute, Some(1));
    }

    #[test]
    fn signals_that_come_together_are_one() {
        let limit = throttled(AdaptiveLimit::default(), ThrottleSignal::Connections, FULL, 100);
        assert_eq!(limit.after_signal(ThrottleSignal::Connections, FULL, 109), None);
        assert!(limit.after_signal(ThrottleSignal::Connections, FULL, 110).is_some());
        assert!(limit.after_signal(ThrottleSignal::Connections, FULL, 50).is_some(), "the clock went back");
    }

    #[test]
    fn each_minute_that_goes_well_gives_a_connection_and_ten_messages_back() {
        let mut limit = AdaptiveLimit { connections: Some(5), per_minute: Some(585), changed_at: 0 };
        assert_eq!(limit.after_success(8, 59), None);
        for (at, connections, per_minute) in [(60, Some(6), Some(595)), (120, Some(7), None)] {
            let Some(Earned::More(more)) = limit.after_success(8, at) else { panic!("at {at}") };
            assert_eq!((more.connections, more.per_minute, more.changed_at), (connections, per_minute, at));
            limit = more;
        }
        assert_eq!(limit.after_success(8, 179), None);
        assert_eq!(limit.after_success(8, 180), Some(Earned::All));
    }

    /// A host that takes 3 connections at once, in a day of steady use: it is not bothered more than
    /// every few minutes, and gets what it takes for most of the time.
    #[test]
    fn a_steady_limit_is_found_and_kept_to() {
        let (mut limit, mut signals, mut given) = (AdaptiveLimit::default(), 0, 0);
        for minute in 0..1440 {
            let now = minute * 60;
            let connections = limit.connections.unwrap_or(8);
            if connections > 3 {
                signals += 1;
                limit =
                    throttled(limit, ThrottleSignal::Connections, Use { connections, last_minute: 50 }, now);
            } else {
                given += connections;
                match limit.after_success(8, now) {
                    Some(Earned::More(more)) => limit = more,
                    Some(Earned::All) => panic!("all back at a host that takes 3"),
                    None => {}
                }
            }
        }
        assert!(signals < 1440 / 2, "{signals}");
        assert!(given > 1440 * 3 / 2, "{given}");
    }

    #[test]
    fn a_bucket_that_was_forgotten_gives_no_less_than_a_new_one() {
        let start = Instant::now();
        for per_minute in [1, 60, 600] {
            let mut bucket = Bucket::new(start);
            let burst =
                |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(per_minute, now).is_ok()).count();
            let new = burst(&mut bucket, start);
            let later = start + Bucket::FULL_AFTER;
            assert_eq!(burst(&mut bucket, later), new);
        }
    }

    #[test]
    fn a_bucket_gives_so_many_a_minute_and_says_when_the_next_is_there() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take(30, start), Ok(()));
        let wait = bucket.take(30, start).unwrap_err();
        assert!((1.9..2.1).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(bucket.take(30, start + wait + Duration::from_millis(1)), Ok(()));
        // An hour at 600 a minute, asked for ten times a tick: no more than an hour's worth and the first burst.
        let mut bucket = Bucket::new(start);
        let ticks = (0..36_000u32).map(|tick| start + Duration::from_millis(100) * tick);
        let taken = ticks.map(|now| (0..10).filter(|_| bucket.take(600, now).is_ok()).count()).sum::<usize>();
        assert!((35_900..=36_020).contains(&taken), "{taken}");
    }
}
