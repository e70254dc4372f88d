//! How much of each host we have: connections open, messages of the last minute, and what it may be given.
//!
//! Thousands of domains share a few MX hosts, so a limit per lane is none for the host. A connection
//! is opened with a [`Slot`] in hand, which counts until it is dropped, however the connection ends.
//! Who finds the host at its limit does not wait here but comes again; the lane that came first has the next slot
//! that is free, so that a busy lane cannot keep all of a host from the others.
//!
//! What a host said of it (`throttle_signal.rs`) and has earned back (`adaptive.rs`) is a setting of the host.
//! What the operator wrote in `[[destination]]` holds instead.
//!
//! # Bugs
//! A message that was within its lane's rate and found its host at its limit has used the lane's turn up: a domain
//! with a rate of its own can be somewhat slower than that while its host is at its limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::{DeliverySettings, Destination};
use crate::kit::bounded::Window;
use crate::mail::Reply;

use crate::delivery::host::adaptive::{AdaptiveLimit, Bucket, Earned, Use};
use crate::delivery::host::hosts::{Host, Hosts, lock};
use crate::delivery::host::pool::PoolKey;
use crate::delivery::host::throttle_signal::ThrottleSignal;
use crate::delivery::smtp::endpoint::Endpoint;

/// Who found a host at its limit comes again within this: the scheduler waits 1 to 2 s.
const COMES_AGAIN: Duration = Duration::from_secs(3);
/// Lanes whose turn at one host is remembered; those beyond must be lucky.
const WAITING_MAX: usize = 100;
/// How long a lane may go on with a connection that another waits for.
const TURN: Duration = Duration::from_secs(1);
/// How long to wait for a slot before asking again.
const SLOT_WAIT: Duration = Duration::from_secs(1);
/// What a rate is counted in.
const MINUTE: Duration = Duration::from_secs(60);

/// What we have of one host now.
#[derive(Debug)]
pub(super) struct HostUse {
    open: usize,
    bucket: Bucket,
    last_minute: Window<Instant>,
    /// Who found the host at its limit, the first in front, and when each last asked.
    waiting: VecDeque<(PoolKey, Instant)>,
    used_at: Instant,
}

/// Room for one connection at a host; dropped, it is free again.
pub(in crate::delivery) struct Slot {
    pub(super) hosts: Arc<Hosts>,
    pub(super) host: Arc<Host>,
    since: Instant,
}

impl Hosts {
    /// Counts a message of this lane against the rate that the operator gave the lane, where there is one.
    /// Each attempt begins so: it also sees what people changed in the table.
    ///
    /// # Errors
    /// The rate is used up, and nothing was counted: how long to wait before asking again.
    pub(in crate::delivery) fn count_in_lane(
        &self,
        lane: &Arc<str>,
        settings: &DeliverySettings,
    ) -> Result<(), Duration> {
        self.refresh();
        let given =
            settings.destinations.of_lane(lane).and_then(|destination| destination.messages_per_minute);
        let Some(per_minute) = given else { return Ok(()) };
        let now = Instant::now();
        lock(&self.lanes).renew(lane.clone(), now, || Bucket::new(now)).take(per_minute, now)
    }

    /// Room for a connection to this endpoint's host, for a message of `key`.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(in crate::delivery) fn enter(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        key: &PoolKey,
        settings: &DeliverySettings,
    ) -> Result<Slot, Duration> {
        let (host, now) = (self.host(endpoint.name()), Instant::now());
        let mut state = host.lock();
        let most = Most::of(endpoint, settings, state.settings.limit());
        state.usage.enter(key, most, now)?;
        drop(state);
        Ok(Slot::new(self.clone(), host, now))
    }
}

impl Slot {
    pub(super) fn new(hosts: Arc<Hosts>, host: Arc<Host>, since: Instant) -> Slot {
        hosts.open.fetch_add(1, Ordering::Relaxed);
        Slot { hosts, host, since }
    }

    /// Counts one more message on this connection against the host's rate.
    ///
    /// # Errors
    /// The rate is used up, and nothing was counted: how long to wait before asking again.
    pub(in crate::delivery) fn count_message(
        &self,
        endpoint: &Endpoint,
        settings: &DeliverySettings,
    ) -> Result<(), Duration> {
        let mut state = self.host.lock();
        let most = Most::of(endpoint, settings, state.settings.limit());
        state.usage.count_message(most, Instant::now())
    }

    /// Whether it is one of this endpoint's host.
    pub(in crate::delivery) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.host.name == endpoint.name()
    }

    /// The host took a message.
    pub(in crate::delivery) fn went_well(&self, settings: &DeliverySettings) {
        let mut state = self.host.lock();
        let limit = state.settings.limit();
        if !limit.is_limited() {
            return;
        }
        let limit = match limit.after_success(settings.connections_per_destination, self.hosts.now()) {
            None => return,
            Some(Earned::More(limit)) => limit,
            Some(Earned::All) => AdaptiveLimit::default(),
        };
        self.hosts.set_limit(&self.host.name, &mut state, limit, None);
    }

    /// The host said that it has too much of us. Gives how many connections we have there beside this one.
    pub(in crate::delivery) fn throttled(&self, signal: ThrottleSignal, reply: &Reply) -> usize {
        let now = self.hosts.now();
        let has_room = self.hosts.make_room_for_settings(&self.host, now);
        let mut state = self.host.lock();
        let others = state.usage.open.saturating_sub(1);
        if signal == ThrottleSignal::Unspecified && others == 0 {
            return 0;
        }
        let used = state.usage.used(Instant::now());
        if has_room && let Some(limit) = state.settings.limit().after_signal(signal, used, now) {
            self.hosts.set_limit(&self.host.name, &mut state, limit, Some(&reply.marked()));
        }
        others
    }

    /// Whether somebody else waits for a slot here and this one had it for long enough.
    pub(in crate::delivery) fn is_wanted(&self, key: &PoolKey) -> bool {
        self.since.elapsed() >= TURN && self.host.lock().usage.is_wanted_by_other(key, Instant::now())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.hosts.open.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.host.lock();
        // A count that is off by one would only slow a host down.
        state.usage.open = state.usage.open.saturating_sub(1);
    }
}

/// What a host may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Most {
    connections: usize,
    per_minute: Option<u32>,
}

impl Most {
    fn of(endpoint: &Endpoint, settings: &DeliverySettings, learnt: AdaptiveLimit) -> Most {
        let given = settings.destinations.of_mx(&endpoint.host);
        Most::given(given, settings.connections_per_destination, learnt)
    }

    /// The operator's word, else what was learnt, else the default.
    fn given(given: Option<&Destination>, default: usize, learnt: AdaptiveLimit) -> Most {
        let connections = given.and_then(|given| given.connections);
        let learnt_connections = learnt.connections.unwrap_or(default).min(default);
        Most {
            connections: connections.unwrap_or(learnt_connections).max(1),
            per_minute: given.and_then(|given| given.messages_per_minute).or(learnt.per_minute),
        }
    }
}

impl HostUse {
    pub(super) fn new(now: Instant) -> HostUse {
        HostUse {
            open: 0,
            bucket: Bucket::new(now),
            last_minute: Window::new(MINUTE),
            waiting: VecDeque::new(),
            used_at: now,
        }
    }

    /// Whether there is a connection, or was a message so lately.
    pub(super) fn is_used(&self, now: Instant, lately: Duration) -> bool {
        self.open > 0 || now.saturating_duration_since(self.used_at) < lately
    }

    /// Gives memory back while nothing happens.
    pub(super) fn rest(&mut self, now: Instant) {
        *self = HostUse { open: self.open, used_at: self.used_at, ..HostUse::new(now) };
    }

    fn used(&mut self, now: Instant) -> Use {
        let last_minute = u32::try_from(self.last_minute.count(now)).unwrap_or(u32::MAX);
        Use { connections: self.open, last_minute }
    }

    fn enter(&mut self, key: &PoolKey, most: Most, now: Instant) -> Result<(), Duration> {
        let free = most.connections.saturating_sub(self.open);
        let kept = usize::from(self.is_wanted_by_other(key, now));
        if free <= kept {
            let place = self.waiting.iter().position(|(other, _)| other == key);
            match place {
                Some(place) => self.waiting[place].1 = now,
                None if self.waiting.len() < WAITING_MAX => self.waiting.push_back((key.clone(), now)),
                None => {}
            }
            return Err(SLOT_WAIT);
        }
        self.count_message(most, now)?;
        self.waiting.retain(|(other, _)| other != key);
        self.open += 1;
        Ok(())
    }

    fn count_message(&mut self, most: Most, now: Instant) -> Result<(), Duration> {
        self.used_at = now;
        if let Some(per_minute) = most.per_minute {
            self.bucket.take(per_minute, now)?;
        }
        self.last_minute.add(now);
        Ok(())
    }

    /// Whether somebody else found the host at its limit first, and still comes.
    fn is_wanted_by_other(&mut self, key: &PoolKey, now: Instant) -> bool {
        while self.waiting.front().is_some_and(|(_, asked)| now - *asked > COMES_AGAIN) {
            self.waiting.pop_front();
        }
        self.waiting.front().is_some_and(|(first, _)| first != key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> PoolKey {
        PoolKey::new(&name.into(), &[])
    }

    fn unused() -> HostUse {
        HostUse::new(Instant::now())
    }

    const TWO: Most = Most { connections: 2, per_minute: None };

    #[test]
    fn a_host_gets_no_more_connections_than_its_limit_however_many_lanes_ask() {
        let (mut usage, now) = (unused(), Instant::now());
        assert_eq!(usage.enter(&lane("a.test"), TWO, now), Ok(()));
        assert_eq!(usage.enter(&lane("b.test"), TWO, now), Ok(()));
        assert_eq!(usage.enter(&lane("c.test"), TWO, now), Err(SLOT_WAIT));
        usage.open -= 1;
        assert_eq!(usage.enter(&lane("c.test"), TWO, now), Ok(()));
        assert_eq!(usage.open, 2);
    }

    #[test]
    fn the_lane_that_came_first_has_the_next_slot_unless_it_stays_away() {
        let (mut usage, now) = (unused(), Instant::now());
        for name in ["a.test", "a.test"] {
            usage.enter(&lane(name), TWO, now).unwrap();
        }
        for name in ["b.test", "c.test", "b.test"] {
            usage.enter(&lane(name), TWO, now).unwrap_err();
        }
        usage.open -= 1;
        assert!(usage.is_wanted_by_other(&lane("a.test"), now));
        assert!(!usage.is_wanted_by_other(&lane("b.test"), now));
        usage.enter(&lane("a.test"), TWO, now).unwrap_err();
        usage.enter(&lane("b.test"), TWO, now).unwrap();
        usage.open -= 1;
        let later = now + COMES_AGAIN + Duration::from_secs(1);
        usage.enter(&lane("d.test"), TWO, later).unwrap();
        assert!(usage.waiting.is_empty(), "c.test and a.test stayed away: {:?}", usage.waiting);
    }

    #[test]
    fn what_was_learnt_lowers_the_limit_and_the_operators_word_holds_over_both() {
        let limit = AdaptiveLimit { connections: Some(1), per_minute: Some(30), changed_at: 0 };
        let scope = crate::config::LimitScope::Mx(crate::config::DomainPattern::Any);
        let given = Destination { scope, connections: Some(5), messages_per_minute: Some(7) };
        let most = |given, learnt| {
            let Most { connections, per_minute } = Most::given(given, 2, learnt);
            (connections, per_minute)
        };
        assert_eq!(most(None, AdaptiveLimit::default()), (2, None));
        assert_eq!(most(None, limit), (1, Some(30)));
        assert_eq!(most(Some(&given), limit), (5, Some(7)));
        // Learnt under a config that allowed more.
        assert_eq!(most(None, AdaptiveLimit { connections: Some(20), ..limit }), (2, Some(30)));
    }

    #[test]
    fn a_rate_holds_for_all_connections_together() {
        let (mut usage, now) = (unused(), Instant::now());
        let most = Most { connections: 8, per_minute: Some(60) };
        assert_eq!(usage.enter(&lane("a.test"), most, now), Ok(()));
        assert_eq!(usage.count_message(most, now), Ok(()));
        assert!(usage.enter(&lane("b.test"), most, now).is_err());
        assert_eq!(usage.open, 1, "no slot without a message");
        assert_eq!(usage.enter(&lane("b.test"), most, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn only_so_many_lanes_wait_for_a_host_and_the_first_of_them_first() {
        let (mut usage, now) = (unused(), Instant::now());
        for number in 0..2 {
            usage.enter(&lane(&format!("in{number}.test")), TWO, now).unwrap();
        }
        for number in 0..1000 {
            usage.enter(&lane(&format!("w{number}.test")), TWO, now).unwrap_err();
            assert!(usage.waiting.len() <= WAITING_MAX, "{number}");
        }
        usage.open -= 1;
        usage.enter(&lane("w999.test"), TWO, now).unwrap_err();
        usage.enter(&lane("w0.test"), TWO, now).unwrap();
    }
}
