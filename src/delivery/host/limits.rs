//! How much of each host we have: connections open, messages of the last minute, and what it may be given.
//!
//! Thousands of domains share a few MX hosts, so a limit per lane is none for the host. A connection
//! is opened with a [`Slot`] in hand, which counts until it is dropped, however the connection ends.
//! Who finds the host at its limit does not wait here but comes again; the lane that came first has the next slot
//! that is free, so that a busy lane cannot keep all of a host from the others.
//!
//! What a host said of it (`throttle_signal`) and has earned back (`adaptive`) is told to the queue, which
//! remembers it across restarts. What the operator wrote in `[[destination]]` holds instead.
//!
//! # Bugs
//! A message that was within its lane's rate and found its host at its limit has used the lane's turn up: a domain
//! with a rate of its own can be somewhat slower than that while its host is at its limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{DeliverySettings, Destination};
use crate::mail::Reply;
use crate::maillog;
use crate::queue::{DestinationRow, Queue};

use crate::delivery::host::adaptive::{AdaptiveLimit, Bucket, Earned, Use};
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
/// A host not used for this long, of which nothing was learnt, is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// All hosts in use, and those of which something was learnt.
pub(in crate::delivery) struct Hosts {
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    /// Of lanes to which the operator gave a rate.
    lanes: Mutex<HashMap<Arc<str>, Bucket>>,
    swept_at: Mutex<Instant>,
}

struct Host {
    /// As the `destinations` table has it.
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: usize,
    limit: AdaptiveLimit,
    bucket: Bucket,
    minute: Minute,
    /// Who found the host at its limit, the first in front, and when each last asked.
    waiting: VecDeque<(PoolKey, Instant)>,
    used_at: Instant,
}

/// Messages of the last minute: those of this one, and the share of the one before that it still covers.
#[derive(Debug)]
struct Minute {
    began: Instant,
    now: u32,
    before: u32,
}

/// Room for one connection at a host; dropped, it is free again.
pub(in crate::delivery) struct Slot {
    host: Arc<Host>,
    since: Instant,
}

impl Hosts {
    /// With what was learnt before the last process ended.
    pub(in crate::delivery) fn new(rows: Vec<DestinationRow>) -> Hosts {
        let now = Instant::now();
        let learnt = rows.into_iter().map(|row| {
            let limit = AdaptiveLimit {
                connections: row.connections.map(|limit| limit.max(1) as usize),
                per_minute: row.messages_per_minute.map(|limit| limit.max(1)),
                changed_at: row.changed_at,
            };
            (row.mx.clone(), Arc::new(Host { name: row.mx, state: Mutex::new(State::new(limit, now)) }))
        });
        Hosts { hosts: Mutex::new(learnt.collect()), lanes: Mutex::default(), swept_at: Mutex::new(now) }
    }

    /// Room for a connection to this endpoint's host, for a message of `key`.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(in crate::delivery) fn enter(
        &self,
        endpoint: &Endpoint,
        key: &PoolKey,
        settings: &DeliverySettings,
    ) -> Result<Slot, Duration> {
        let (host, now) = (self.host(endpoint), Instant::now());
        let most = Most::of(endpoint, settings);
        let mut state = host.lock();
        state.enter(key, &most, now)?;
        drop(state);
        Ok(Slot { host, since: now })
    }

    /// Whether a message of this lane may go now, where the operator gave the lane a rate.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(in crate::delivery) fn start_in_lane(
        &self,
        lane: &Arc<str>,
        settings: &DeliverySettings,
    ) -> Result<(), Duration> {
        let given =
            settings.destinations.of_lane(lane).and_then(|destination| destination.messages_per_minute);
        let Some(per_minute) = given else { return Ok(()) };
        let now = Instant::now();
        let mut lanes = lock(&self.lanes);
        lanes.entry(lane.clone()).or_insert_with(|| Bucket::new(now)).take(per_minute, now)
    }

    /// Forgets hosts that are not in use. For every second: it looks at them once a minute.
    pub(in crate::delivery) fn forget_unused(&self) {
        let now = Instant::now();
        {
            let mut swept_at = lock(&self.swept_at);
            if now - *swept_at < FORGET_AFTER {
                return;
            }
            *swept_at = now;
        }
        let is_used = |host: &Arc<Host>| {
            let state = host.lock();
            state.limit.is_limited() || state.open > 0 || now - state.used_at < FORGET_AFTER
        };
        // Whoever has a handle got it under this lock, and is about to use it.
        lock(&self.hosts).retain(|_, host| Arc::strong_count(host) > 1 || is_used(host));
        // A pattern may give a rate to as many lanes as there are domains.
        lock(&self.lanes).retain(|_, bucket| !bucket.is_full(now));
    }

    fn host(&self, endpoint: &Endpoint) -> Arc<Host> {
        let name = endpoint.name();
        let mut hosts = lock(&self.hosts);
        if let Some(host) = hosts.get(&name) {
            return host.clone();
        }
        let state = Mutex::new(State::new(AdaptiveLimit::default(), Instant::now()));
        let host = Arc::new(Host { name: name.clone(), state });
        hosts.insert(name, host.clone());
        host
    }
}

impl Slot {
    /// Whether one more message may go on this connection now.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(in crate::delivery) fn start(
        &self,
        endpoint: &Endpoint,
        settings: &DeliverySettings,
    ) -> Result<(), Duration> {
        self.host.lock().start(&Most::of(endpoint, settings), Instant::now())
    }

    /// Whether it is one of this endpoint's host.
    pub(in crate::delivery) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.host.name == endpoint.name()
    }

    /// The host took a message.
    pub(in crate::delivery) fn went_well(&self, settings: &DeliverySettings, queue: &Queue, now: i64) {
        let mut state = self.host.lock();
        if !state.limit.is_limited() {
            return;
        }
        match state.limit.after_success(settings.connections_per_destination, now) {
            None => return,
            Some(Earned::More(limit)) => {
                state.limit = limit;
                queue.remember_destination(self.host.row(limit, None));
            }
            Some(Earned::All) => {
                state.limit = AdaptiveLimit::default();
                queue.forget_destination(&self.host.name);
            }
        }
        maillog::host_limits(&self.host.name, state.limit.connections, state.limit.per_minute, None);
    }

    /// The host said that it has too much of us. Gives how many connections we have there beside this one.
    pub(in crate::delivery) fn throttled(
        &self,
        signal: ThrottleSignal,
        reply: &Reply,
        queue: &Queue,
        now: i64,
    ) -> usize {
        let mut state = self.host.lock();
        let others = state.open.saturating_sub(1);
        if signal == ThrottleSignal::Unspecified && others == 0 {
            return 0;
        }
        let used = Use { connections: state.open, last_minute: state.minute.messages(Instant::now()) };
        if let Some(limit) = state.limit.after_signal(signal, used, now) {
            state.limit = limit;
            let reply = reply.to_string();
            maillog::host_limits(&self.host.name, limit.connections, limit.per_minute, Some(&reply));
            queue.remember_destination(self.host.row(limit, Some(reply)));
        }
        others
    }

    /// Whether somebody else waits for a slot here and this one had it for long enough.
    pub(in crate::delivery) fn is_wanted(&self, key: &PoolKey) -> bool {
        self.since.elapsed() >= TURN && self.host.lock().is_wanted_by_other(key, Instant::now())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.host.lock();
        state.open = state.open.saturating_sub(1);
    }
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn row(&self, limit: AdaptiveLimit, last_reply: Option<String>) -> DestinationRow {
        DestinationRow {
            mx: self.name.clone(),
            connections: limit.connections.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
            messages_per_minute: limit.per_minute,
            last_reply,
            changed_at: limit.changed_at,
        }
    }
}

/// Nothing panics while these are held, and a count that is off by one would only slow a host down.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the config says of a host.
struct Most<'a> {
    default: usize,
    given: Option<&'a Destination>,
}

impl Most<'_> {
    fn of<'a>(endpoint: &Endpoint, settings: &'a DeliverySettings) -> Most<'a> {
        Most {
            default: settings.connections_per_destination,
            given: settings.destinations.of_mx(&endpoint.host),
        }
    }

    /// The operator's word, else what was learnt, else the default.
    fn connections(&self, limit: &AdaptiveLimit) -> usize {
        let given = self.given.and_then(|given| given.connections);
        given.unwrap_or_else(|| limit.connections.unwrap_or(self.default).min(self.default)).max(1)
    }

    fn per_minute(&self, limit: &AdaptiveLimit) -> Option<u32> {
        self.given.and_then(|given| given.messages_per_minute).or(limit.per_minute)
    }
}

impl State {
    fn new(limit: AdaptiveLimit, now: Instant) -> State {
        State {
            open: 0,
            limit,
            bucket: Bucket::new(now),
            minute: Minute { began: now, now: 0, before: 0 },
            waiting: VecDeque::new(),
            used_at: now,
        }
    }

    fn enter(&mut self, key: &PoolKey, most: &Most<'_>, now: Instant) -> Result<(), Duration> {
        let free = most.connections(&self.limit).saturating_sub(self.open);
        let kept = usize::from(self.is_wanted_by_other(key, now));
        if free <= kept {
            let place = self.waiting.iter().position(|(other, _)| other == key);
            match place {
                Some(place) => self.waiting[place].1 = now,
                None if self.waiting.len() < WAITING_MAX => {
                    self.waiting.push_back((key.clone(), now));
                }
                None => {}
            }
            return Err(SLOT_WAIT);
        }
        self.start(most, now)?;
        self.waiting.retain(|(other, _)| other != key);
        self.open += 1;
        Ok(())
    }

    fn start(&mut self, most: &Most<'_>, now: Instant) -> Result<(), Duration> {
        self.used_at = now;
        if let Some(per_minute) = most.per_minute(&self.limit) {
            self.bucket.take(per_minute, now)?;
        }
        self.minute.count(now);
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

impl Minute {
    const LONG: Duration = Duration::from_secs(60);

    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now = self.now.saturating_add(1);
    }

    fn messages(&mut self, now: Instant) -> u32 {
        self.turn(now);
        let left = 1.0 - (now - self.began).as_secs_f64() / Self::LONG.as_secs_f64();
        self.now.saturating_add((f64::from(self.before) * left.clamp(0.0, 1.0)) as u32)
    }

    fn turn(&mut self, now: Instant) {
        let since = now - self.began;
        if since >= Self::LONG {
            self.before = if since < Self::LONG * 2 { self.now } else { 0 };
            (self.began, self.now) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> PoolKey {
        PoolKey::new(&name.into(), &[])
    }

    fn state() -> State {
        State::new(AdaptiveLimit::default(), Instant::now())
    }

    const TWO: Most<'_> = Most { default: 2, given: None };

    #[test]
    fn a_host_gets_no_more_connections_than_its_limit_however_many_lanes_ask() {
        let (mut state, now) = (state(), Instant::now());
        assert_eq!(state.enter(&lane("a.test"), &TWO, now), Ok(()));
        assert_eq!(state.enter(&lane("b.test"), &TWO, now), Ok(()));
        assert_eq!(state.enter(&lane("c.test"), &TWO, now), Err(SLOT_WAIT));
        state.open -= 1;
        assert_eq!(state.enter(&lane("c.test"), &TWO, now), Ok(()));
        assert_eq!(state.open, 2);
    }

    #[test]
    fn the_lane_that_came_first_has_the_next_slot_unless_it_stays_away() {
        let (mut state, now) = (state(), Instant::now());
        for name in ["a.test", "a.test"] {
            state.enter(&lane(name), &TWO, now).unwrap();
        }
        for name in ["b.test", "c.test", "b.test"] {
            state.enter(&lane(name), &TWO, now).unwrap_err();
        }
        state.open -= 1;
        assert!(state.is_wanted_by_other(&lane("a.test"), now));
        assert!(!state.is_wanted_by_other(&lane("b.test"), now));
        state.enter(&lane("a.test"), &TWO, now).unwrap_err();
        state.enter(&lane("b.test"), &TWO, now).unwrap();
        state.open -= 1;
        let later = now + COMES_AGAIN + Duration::from_secs(1);
        state.enter(&lane("d.test"), &TWO, later).unwrap();
        assert!(state.waiting.is_empty(), "c.test and a.test stayed away: {:?}", state.waiting);
    }

    #[test]
    fn what_was_learnt_lowers_the_limit_and_the_operators_word_holds_over_both() {
        let limit = AdaptiveLimit { connections: Some(1), per_minute: Some(30), changed_at: 0 };
        let whom = crate::config::Whom::Mx(crate::config::DomainPattern::Any);
        let given = Destination { whom, connections: Some(5), messages_per_minute: Some(7) };
        assert_eq!(
            (TWO.connections(&AdaptiveLimit::default()), TWO.per_minute(&AdaptiveLimit::default())),
            (2, None)
        );
        assert_eq!((TWO.connections(&limit), TWO.per_minute(&limit)), (1, Some(30)));
        let most = Most { default: 2, given: Some(&given) };
        assert_eq!((most.connections(&limit), most.per_minute(&limit)), (5, Some(7)));
        // Learnt under a config that allowed more.
        let limit = AdaptiveLimit { connections: Some(20), ..limit };
        assert_eq!(TWO.connections(&limit), 2);
    }

    #[test]
    fn a_rate_holds_for_all_connections_together() {
        let (mut state, now) = (state(), Instant::now());
        state.limit.per_minute = Some(60);
        let most = Most { default: 8, given: None };
        assert_eq!(state.enter(&lane("a.test"), &most, now), Ok(()));
        assert_eq!(state.start(&most, now), Ok(()));
        assert!(state.enter(&lane("b.test"), &most, now).is_err());
        assert_eq!(state.open, 1, "no slot without a message");
        assert_eq!(state.enter(&lane("b.test"), &most, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn the_last_minute_slides() {
        let start = Instant::now();
        let mut minute = Minute { began: start, now: 0, before: 0 };
        (0..10).for_each(|_| minute.count(start));
        assert_eq!(minute.messages(start + Duration::from_secs(59)), 10);
        let next = start + Duration::from_secs(60);
        minute.count(next);
        assert_eq!(minute.messages(next), 11);
        assert_eq!(minute.messages(next + Duration::from_secs(30)), 6);
        assert_eq!(minute.messages(next + Duration::from_secs(300)), 0);
    }
}
