//! What is known of hosts: one record for each, in one place.
//!
//! A [`Host`] has what we have of it now (`limits.rs`), what it is given and spared (`settings.rs`, and across
//! restarts the table `host_settings`), and what the operator was told of it (`relay_alerts.rs`). It is read before a
//! conversation and written after it, by the attempt alone.
//!
//! The table is read at the start, and again when somebody else has written to the database: whatever people change,
//! delete or add there holds from the next attempt on. What we learn ourselves is written a moment later by the
//! queue; a reading that may have missed it is followed by another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::RouteTls;
use crate::kit::bounded::TtlMap;
use crate::mail::Reply;
use crate::maillog;
use crate::queue::{HOST_SETTINGS_MAX, HostSetting, Queue, Setting};

use crate::delivery::host::adaptive::{AdaptiveLimit, Bucket};
use crate::delivery::host::limits::Room;
use crate::delivery::host::profile::{Feature, Known, Lesson};
use crate::delivery::host::relay_alerts::Alert;
use crate::delivery::host::settings::{Settings, lifetime_secs};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::profile::{Profile, TlsLevel};

/// A host not used for this long, of which nothing was learnt, is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Hosts in memory. Past this all are forgotten that are not in use and have no row in the table.
const HOSTS_MAX: usize = 10_000;
/// From one look for hosts to forget to the next, while there are so many.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was told to the queue is on disk after this.
const WRITTEN_AFTER: Duration = Duration::from_secs(2);
/// Lanes whose rate is kept at once; one that is forgotten may have a message at once again.
const LANES_MAX: usize = 10_000;

/// All hosts in use, and those of which something was learnt.
#[derive(Debug)]
pub(in crate::delivery) struct Hosts {
    clock: Clock,
    /// None: what is learnt ends with this value.
    queue: Option<Queue>,
    known: Mutex<Records>,
    /// When something was last told to the queue.
    told_at: Mutex<Option<Instant>>,
    /// Of lanes to which the operator gave a rate.
    pub(super) lanes: Mutex<TtlMap<Arc<str>, Bucket, Instant>>,
}

#[derive(Debug)]
struct Records {
    hosts: HashMap<String, Arc<Host>>,
    swept_at: Instant,
    /// The queue's count when the table was read.
    outside_changes: u64,
    /// Something of ours was perhaps not in the table yet when it was read.
    read_again_at: Option<Instant>,
}

/// One host: an MX by its name, a relay by name and port.
#[derive(Debug)]
pub(in crate::delivery) struct Host {
    pub(super) name: String,
    state: Mutex<HostState>,
}

#[derive(Debug)]
pub(super) struct HostState {
    pub(super) room: Room,
    pub(super) settings: Settings,
    /// Whether it took a batch of commands last time, or did no better without: if a connection breaks there, it is
    /// not for that.
    took_batch: bool,
    pub(super) alert: Option<Alert>,
}

impl Hosts {
    /// Those of the table, and those that are to come into it.
    pub(in crate::delivery) fn new(queue: Queue, clock: Clock) -> Hosts {
        let hosts = Hosts { queue: Some(queue), ..Hosts::in_memory(clock) };
        if let Some(queue) = &hosts.queue {
            hosts.read(queue, &mut lock(&hosts.known));
        }
        hosts
    }

    /// None yet, and none that outlive this value.
    pub(in crate::delivery) fn in_memory(clock: Clock) -> Hosts {
        let known = Records {
            hosts: HashMap::new(),
            swept_at: Instant::now(),
            outside_changes: 0,
            read_again_at: None,
        };
        Hosts {
            clock,
            queue: None,
            known: Mutex::new(known),
            told_at: Mutex::default(),
            lanes: Mutex::new(TtlMap::new(LANES_MAX, Bucket::FULL_AFTER)),
        }
    }

    /// Reads the table again if somebody else has written since. For the beginning of each attempt.
    pub(super) fn refresh(&self) {
        let Some(queue) = &self.queue else { return };
        let mut known = lock(&self.known);
        let is_changed = queue.outside_changes() != known.outside_changes;
        if is_changed || known.read_again_at.is_some_and(|at| at <= Instant::now()) {
            self.read(queue, &mut known);
        }
    }

    fn read(&self, queue: &Queue, known: &mut Records) {
        known.outside_changes = queue.outside_changes();
        let again_at = lock(&self.told_at).map(|at| at + WRITTEN_AFTER);
        known.read_again_at = again_at.filter(|at| *at > Instant::now());
        match queue.host_settings() {
            Ok(rows) => known.replace_settings(rows),
            // What is in memory goes on; at worst it is learnt again.
            Err(error) => log::error!("what was learnt of hosts cannot be read: {error}"),
        }
    }

    /// Forgets hosts that are not in use. For every second: it looks at them once a minute.
    pub(in crate::delivery) fn forget_unused(&self) {
        let mut known = lock(&self.known);
        if known.swept_at.elapsed() >= FORGET_AFTER {
            known.sweep(FORGET_AFTER);
        }
    }

    /// What was told of relays is told again: the operator has changed the config.
    pub(in crate::delivery) fn forget_alerts(&self) {
        lock(&self.known).hosts.values().for_each(|host| host.lock().alert = None);
    }

    /// The record of this host, empty where nothing was known of it.
    pub(super) fn host(&self, name: String) -> Arc<Host> {
        let mut known = lock(&self.known);
        if let Some(host) = known.hosts.get(&name) {
            return host.clone();
        }
        if known.hosts.len() >= HOSTS_MAX && known.swept_at.elapsed() >= LOOK_EVERY {
            known.sweep(Duration::ZERO);
        }
        let host = Arc::new(Host::new(name.clone()));
        known.hosts.insert(name, host.clone());
        host
    }

    /// What is known of a host to which a connection stands.
    pub(in crate::delivery) fn known_of(&self, mx: &str) -> Known {
        let single_write = self.recall(mx, Feature::SingleWrite).is_none();
        let profile = Profile { single_write, ..Profile::FULL };
        Known { profile, pipelining_proved: self.took_batch(mx) }
    }

    /// What is known of a host that a connection is to be opened to. Where it is time to try a feature again, this is
    /// the connection that does.
    pub(in crate::delivery) fn known_to_open(&self, mx: &str, endpoint: &Endpoint) -> Known {
        let tls = match endpoint.tls {
            RouteTls::Off => None,
            _ => self.recall(mx, Feature::Tls),
        };
        let profile = Profile {
            tls: match tls {
                Some(Setting::Plaintext) => TlsLevel::Plaintext,
                Some(Setting::NoPostQuantum) => TlsLevel::NoPostQuantum,
                _ => TlsLevel::Full,
            },
            pipelining: self.recall(mx, Feature::Pipelining).is_none(),
            chunking: self.recall(mx, Feature::Chunking).is_none(),
            // The first message of a connection never goes in one.
            single_write: true,
        };
        Known { profile, pipelining_proved: self.took_batch(mx) }
    }

    /// Takes in what the conversations of an attempt say of a host.
    pub(in crate::delivery) fn remember(&self, mx: &str, lessons: Vec<Lesson>) {
        for lesson in lessons {
            match lesson {
                Lesson::Works(feature) => {
                    if feature == Feature::Pipelining {
                        self.set_took_batch(mx, true);
                    }
                    self.ended(mx, feature);
                }
                Lesson::LeaveOut(setting, failure) => self.found(mx, setting, &failure.reply()),
                Lesson::PipeliningProved => self.set_took_batch(mx, true),
                Lesson::PipeliningSuspected => self.set_took_batch(mx, false),
            }
        }
    }

    /// What is left out at this host. Nothing too for the one connection that is to try the feature again.
    fn recall(&self, mx: &str, feature: Feature) -> Option<Setting> {
        // Of most hosts nothing is known, and nothing is to be remembered for having asked.
        let host = lock(&self.known).hosts.get(mx).cloned()?;
        host.lock().settings.in_force(feature.name(), self.clock.now())
    }

    /// The feature that this leaves out failed at the host like this, and it does without.
    fn found(&self, mx: &str, setting: Setting, why: &Reply) {
        let (host, now) = (self.host(mx.to_owned()), self.clock.now());
        if !self.has_room_for_settings(&host, now) {
            return;
        }
        let mut state = host.lock();
        let (row, is_news) = state.settings.found(mx, setting, why, now);
        self.tell(|queue| queue.set_host_setting(row));
        drop(state);
        if is_news {
            maillog::workaround_on(mx, setting, lifetime_secs(setting), why);
        }
    }

    /// The feature works at the host.
    fn ended(&self, mx: &str, feature: Feature) {
        let Some(host) = lock(&self.known).hosts.get(mx).cloned() else { return };
        let mut state = host.lock();
        let Some(setting) = state.settings.ended(feature.name(), self.clock.now()) else { return };
        self.tell(|queue| queue.clear_host_setting(mx, setting.name()));
        drop(state);
        maillog::workaround_off(mx, setting);
    }

    fn took_batch(&self, mx: &str) -> bool {
        let host = lock(&self.known).hosts.get(mx).cloned();
        host.is_some_and(|host| host.lock().took_batch)
    }

    fn set_took_batch(&self, mx: &str, took_batch: bool) {
        self.host(mx.to_owned()).lock().took_batch = took_batch;
    }

    /// Holds the host, whose state is given, to this limit, and remembers it.
    pub(super) fn set_limit(
        &self,
        mx: &str,
        state: &mut HostState,
        limit: AdaptiveLimit,
        reply: Option<&str>,
    ) {
        let (written, deleted) = state.settings.set_limit(mx, limit, reply);
        self.tell(|queue| {
            written.into_iter().for_each(|row| queue.set_host_setting(row));
            deleted.into_iter().for_each(|name| queue.clear_host_setting(mx, name));
        });
        maillog::host_limits(mx, limit.connections, limit.per_minute, reply);
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Whether one more host may have a setting: so many are read at the next start.
    pub(super) fn has_room_for_settings(&self, host: &Host, now: i64) -> bool {
        if !host.lock().settings.is_empty() {
            return true;
        }
        let known = lock(&self.known);
        if known.hosts.len() < HOST_SETTINGS_MAX || known.with_settings() < HOST_SETTINGS_MAX {
            return true;
        }
        // Those that nobody has sent to since.
        known.hosts.values().for_each(|host| host.lock().settings.forget_expired(now));
        known.with_settings() < HOST_SETTINGS_MAX
    }

    /// While the host's state is held, so that what is written last was learnt last.
    fn tell(&self, change: impl FnOnce(&Queue)) {
        if let Some(queue) = &self.queue {
            change(queue);
            *lock(&self.told_at) = Some(Instant::now());
        }
    }
}

impl Records {
    fn replace_settings(&mut self, rows: Vec<HostSetting>) {
        let mut read: HashMap<String, Settings> = HashMap::new();
        for row in rows {
            read.entry(row.mx.clone()).or_default().add(row);
        }
        for (name, host) in &self.hosts {
            host.lock().settings = read.remove(name).unwrap_or_default();
        }
        for (name, settings) in read {
            let host = Host::new(name.clone());
            host.lock().settings = settings;
            self.hosts.insert(name, Arc::new(host));
        }
    }

    fn with_settings(&self) -> usize {
        self.hosts.values().filter(|host| !host.lock().settings.is_empty()).count()
    }

    /// Forgets hosts that were not used for so long and have nothing to be remembered for.
    fn sweep(&mut self, unused: Duration) {
        let now = Instant::now();
        self.swept_at = now;
        let has_room = self.hosts.len() < HOSTS_MAX;
        self.hosts.retain(|_, host| {
            let mut state = host.lock();
            // Whoever has a handle got it under the lock of `known`, and is about to use it.
            let is_in_use = Arc::strong_count(host) > 1 || state.room.is_used(now, unused);
            if !is_in_use {
                state.room.rest(now);
            }
            let is_noted = state.took_batch || state.alert.is_some();
            is_in_use || !state.settings.is_empty() || has_room && is_noted
        });
    }
}

impl Host {
    fn new(name: String) -> Host {
        let state = HostState {
            room: Room::new(Instant::now()),
            settings: Settings::default(),
            took_batch: false,
            alert: None,
        };
        Host { name, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HostState> {
        lock(&self.state)
    }
}

/// Nothing panics while these are held, and what is half done is learnt again.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::smtp::failure::Failure;
    use Feature::{Chunking, Pipelining, SingleWrite, Tls};
    use Setting::{NoChunking, NoPipelining, NoPostQuantum, Plaintext};

    const BROKEN: Reply = Reply::bare(421, "broken");

    fn in_memory() -> Hosts {
        Hosts::in_memory(Clock::by_hand(0))
    }

    fn count(hosts: &Hosts) -> usize {
        lock(&hosts.known).hosts.len()
    }

    #[test]
    fn a_feature_is_left_out_at_the_host_that_failed_at_it_until_it_works() {
        let hosts = in_memory();
        for (setting, feature) in [(NoPostQuantum, Tls), (NoPipelining, Pipelining), (NoChunking, Chunking)] {
            assert_eq!(hosts.recall("mx.test", feature), None);
            hosts.found("mx.test", setting, &BROKEN);
            assert_eq!(hosts.recall("mx.test", feature), Some(setting));
            assert_eq!(hosts.recall("mx2.test", feature), None);
            hosts.ended("mx.test", feature);
            assert_eq!(hosts.recall("mx.test", feature), None);
        }
        assert_eq!(count(&hosts), 1, "nothing is remembered for having been asked");
    }

    #[test]
    fn memory_is_bounded_and_settings_that_nobody_needs_make_room() {
        let hosts = in_memory();
        for number in 0..=HOST_SETTINGS_MAX {
            hosts.found(&format!("mx{number}.test"), Plaintext, &BROKEN);
        }
        let with_settings = || lock(&hosts.known).with_settings();
        assert_eq!(with_settings(), HOST_SETTINGS_MAX);
        hosts.clock.advance(3600);
        hosts.found("late.test", Plaintext, &BROKEN);
        assert_eq!(with_settings(), 1);
        hosts.found("last.test", Plaintext, &BROKEN);
        assert_eq!(with_settings(), 2);
    }

    #[test]
    fn hosts_that_are_not_in_use_are_forgotten_those_with_settings_last() {
        let hosts = in_memory();
        let sweep = |unused| lock(&hosts.known).sweep(unused);
        hosts.set_took_batch("trusted.test", true);
        hosts.found("settings.test", NoChunking, &BROKEN);
        let used = hosts.host("used.test".to_owned());
        drop(hosts.host("lately.test".to_owned()));
        sweep(FORGET_AFTER);
        assert_eq!(count(&hosts), 4, "all were used a moment ago");
        sweep(Duration::ZERO);
        assert_eq!(count(&hosts), 3, "nothing is known of lately.test");
        drop(used);
        (0..HOSTS_MAX).for_each(|number| hosts.set_took_batch(&format!("mx{number}.test"), true));
        sweep(Duration::ZERO);
        assert_eq!(count(&hosts), 1);
        assert_eq!(hosts.recall("settings.test", Chunking), Some(NoChunking));
    }

    /// A failure of no consequence here.
    fn broken() -> Failure {
        Failure::NoMoreRecipients
    }

    fn endpoint(tls: RouteTls) -> Endpoint {
        Endpoint {
            host: "mx.test".to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls,
            ca_file: None,
            login: None,
            relay: false,
            preference: 0,
            sources: Arc::default(),
        }
    }

    #[test]
    fn what_was_learnt_is_what_the_next_connection_goes_by() {
        let hosts = in_memory();
        let to_open = |tls| hosts.known_to_open("mx.test", &endpoint(tls));
        assert_eq!(to_open(RouteTls::Opportunistic), Known::NOTHING);
        assert_eq!(count(&hosts), 0, "nothing is remembered for having been asked");
        let all = [NoPipelining, NoChunking, NoPostQuantum, Setting::NoSingleWrite];
        hosts.remember("mx.test", all.map(|setting| Lesson::LeaveOut(setting, broken())).to_vec());
        let profile =
            Profile { tls: TlsLevel::NoPostQuantum, pipelining: false, chunking: false, single_write: true };
        assert_eq!(to_open(RouteTls::Opportunistic).profile, profile);
        assert_eq!(to_open(RouteTls::Off).profile, Profile { tls: TlsLevel::Full, ..profile });
        assert!(!hosts.known_of("mx.test").profile.single_write);
        hosts.remember("mx.test", vec![Lesson::LeaveOut(Plaintext, broken())]);
        assert_eq!(to_open(RouteTls::Opportunistic).profile.tls, TlsLevel::Plaintext);
        let works = [Tls, Pipelining, Chunking, SingleWrite].map(Lesson::Works);
        hosts.remember("mx.test", works.to_vec());
        assert_eq!(to_open(RouteTls::Opportunistic).profile, Profile::FULL);
        assert!(hosts.known_of("mx.test").pipelining_proved, "it took a batch");
        hosts.remember("mx.test", vec![Lesson::PipeliningSuspected]);
        assert!(!hosts.known_of("mx.test").pipelining_proved, "twice in a row it may be to blame");
        hosts.remember("mx.test", vec![Lesson::PipeliningProved]);
        assert!(to_open(RouteTls::Off).pipelining_proved);
    }
}
