//! What is known of hosts: one record for each, in one place.
//!
//! A [`Host`] has what we have of it now (`limits.rs`), its settings (`settings.rs`, and across restarts the table
//! `host_settings`), and what the operator was told of it (`relay_alerts.rs`). It is read before a conversation and
//! written after it, by the attempt alone, through the `Slot` that each connection holds.
//!
//! The table is read at the start, and again when somebody else has written to the database: whatever people change,
//! delete or add there holds from the next attempt on. What we learn ourselves is written a moment later by the
//! queue; a reading that may have missed it is followed by another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::kit::bounded::TtlMap;
use crate::maillog;
use crate::queue::{HOST_SETTINGS_MAX, HostSetting, Queue};

use crate::delivery::host::adaptive::{AdaptiveLimit, Bucket};
use crate::delivery::host::limits::HostUse;
use crate::delivery::host::relay_alerts::Alert;
use crate::delivery::host::settings::Settings;

/// A host not used for this long, of which nothing was learnt, is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Hosts in memory. Past this all are forgotten that are not in use and have no row in the table.
const HOSTS_MAX: usize = 10_000;
/// From one look for hosts to forget to the next, while there are so many.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was written to the queue is assumed on disk after this; a later reading mends it.
const WRITTEN_AFTER: Duration = Duration::from_secs(2);
/// Lanes whose rate is kept at once; one that is forgotten may have a message at once again.
const LANES_MAX: usize = 10_000;

/// All hosts in use, and those of which something was learnt.
#[derive(Debug)]
pub(in crate::delivery) struct Hosts {
    clock: Clock,
    queue: Queue,
    records: Mutex<Records>,
    /// Connections that have a slot, at all hosts together.
    pub(super) open: AtomicUsize,
    /// A reading of the table sooner than [`WRITTEN_AFTER`] after this may have missed what was written.
    last_write_at: Mutex<Option<Instant>>,
    /// Of lanes to which the operator gave a rate. Here, although a lane is no host: whoever is held to a
    /// rate asks here, and these too have to outlive an attempt and be bounded.
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
    pub(super) usage: HostUse,
    pub(super) settings: Settings,
    /// See `profile::HostKnowledge`.
    pub(super) pipelining_proved: bool,
    pub(super) alert: Option<Alert>,
}

impl Hosts {
    /// Those of the table, and those that are to come into it.
    pub(in crate::delivery) fn new(queue: Queue, clock: Clock) -> Hosts {
        let records = Records {
            hosts: HashMap::new(),
            swept_at: Instant::now(),
            outside_changes: 0,
            read_again_at: None,
        };
        let lanes = Mutex::new(TtlMap::new(LANES_MAX, Bucket::FULL_AFTER));
        let hosts = Hosts {
            clock,
            queue,
            records: Mutex::new(records),
            open: AtomicUsize::new(0),
            last_write_at: Mutex::default(),
            lanes,
        };
        hosts.read(&mut lock(&hosts.records));
        hosts
    }

    /// Reads the table again if somebody else has written since. For the beginning of each attempt.
    pub(super) fn refresh(&self) {
        let mut records = lock(&self.records);
        let is_changed = self.queue.outside_changes() != records.outside_changes;
        if is_changed || records.read_again_at.is_some_and(|at| at <= Instant::now()) {
            self.read(&mut records);
        }
    }

    fn read(&self, records: &mut Records) {
        records.outside_changes = self.queue.outside_changes();
        match self.queue.host_settings() {
            Ok(rows) => records.replace_settings(rows),
            // What is in memory goes on; at worst it is learnt again.
            Err(error) => log::error!("what was learnt of hosts cannot be read: {error}"),
        }
        // Asked last: what was written while the table was read is read the next time.
        let again_at = lock(&self.last_write_at).map(|at| at + WRITTEN_AFTER);
        records.read_again_at = again_at.filter(|at| *at > Instant::now());
    }

    /// Connections that are open now, those that nobody uses just now too.
    pub(in crate::delivery) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Forgets hosts that are not in use. For every second: it looks at them once a minute.
    pub(in crate::delivery) fn forget_unused(&self) {
        let mut records = lock(&self.records);
        if records.swept_at.elapsed() >= FORGET_AFTER {
            records.sweep(FORGET_AFTER);
        }
    }

    /// What was told of relays is told again: the operator has changed the config.
    pub(in crate::delivery) fn forget_alerts(&self) {
        lock(&self.records).hosts.values().for_each(|host| host.lock().alert = None);
    }

    /// The record of this host, empty where nothing was known of it.
    pub(super) fn host(&self, name: String) -> Arc<Host> {
        let mut records = lock(&self.records);
        if let Some(host) = records.hosts.get(&name) {
            return host.clone();
        }
        if records.hosts.len() >= HOSTS_MAX && records.swept_at.elapsed() >= LOOK_EVERY {
            records.sweep(Duration::ZERO);
        }
        let host = Arc::new(Host::new(name.clone()));
        records.hosts.insert(name, host.clone());
        host
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
        self.write(|queue| {
            written.into_iter().for_each(|row| queue.set_host_setting(row));
            deleted.into_iter().for_each(|name| queue.clear_host_setting(mx, name));
        });
        maillog::host_limits(mx, limit.connections, limit.per_minute, reply);
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Makes room for one more host with settings; false where all that have some are in use. At most
    /// [`HOST_SETTINGS_MAX`] hosts have settings, since only so many are loaded at the start. Beyond, those go whose
    /// settings changed the longest ago: what such a host was like is found out once more.
    pub(super) fn make_room_for_settings(&self, host: &Host, now: i64) -> bool {
        if !host.lock().settings.is_empty() {
            return true;
        }
        let records = lock(&self.records);
        if records.hosts.len() < HOST_SETTINGS_MAX || records.count_with_settings() < HOST_SETTINGS_MAX {
            return true;
        }
        // Those that nobody has sent to since.
        records.hosts.values().for_each(|host| host.lock().settings.forget_expired(now));
        if records.count_with_settings() < HOST_SETTINGS_MAX {
            return true;
        }
        let forgotten = records.forget_oldest_settings(HOST_SETTINGS_MAX / 10);
        drop(records);
        let is_room = !forgotten.is_empty();
        self.write(|queue| {
            forgotten.iter().for_each(|(mx, setting)| queue.clear_host_setting(mx, setting));
        });
        is_room
    }

    /// While the host's state is held, so that what is written last was learnt last.
    pub(super) fn write(&self, change: impl FnOnce(&Queue)) {
        change(&self.queue);
        *lock(&self.last_write_at) = Some(Instant::now());
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

    /// Of so many hosts that nobody uses. Gives the rows that are to go.
    fn forget_oldest_settings(&self, count: usize) -> Vec<(String, &'static str)> {
        let unused = |host: &&Arc<Host>| Arc::strong_count(host) == 1 && !host.lock().settings.is_empty();
        let mut hosts: Vec<&Arc<Host>> = self.hosts.values().filter(unused).collect();
        hosts.sort_by_cached_key(|host| host.lock().settings.changed_at());
        let forget = |host: &Arc<Host>| {
            let names = std::mem::take(&mut host.lock().settings).names();
            names.into_iter().map(|name| (host.name.clone(), name)).collect::<Vec<_>>()
        };
        hosts.into_iter().take(count).flat_map(forget).collect()
    }

    fn count_with_settings(&self) -> usize {
        self.hosts.values().filter(|host| !host.lock().settings.is_empty()).count()
    }

    /// Forgets hosts that were not used for so long and have nothing to be remembered for.
    fn sweep(&mut self, unused: Duration) {
        let now = Instant::now();
        self.swept_at = now;
        let has_room = self.hosts.len() < HOSTS_MAX;
        self.hosts.retain(|_, host| {
            let mut state = host.lock();
            // Whoever has a handle got it under the lock of the records, and is about to use it.
            let is_in_use = Arc::strong_count(host) > 1 || state.usage.is_used(now, unused);
            // Its rate and its turns are still needed where it was used a moment ago.
            if !is_in_use && !state.usage.is_used(now, FORGET_AFTER) {
                state.usage.rest(now);
            }
            let is_noted = state.pipelining_proved || state.alert.is_some();
            is_in_use || !state.settings.is_empty() || has_room && is_noted
        });
    }
}

impl Host {
    fn new(name: String) -> Host {
        let state = HostState {
            usage: HostUse::new(Instant::now()),
            settings: Settings::default(),
            pipelining_proved: false,
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
pub(super) mod tests {
    use super::*;
    use crate::config::QueueSettings;
    use crate::delivery::host::limits::Slot;
    use crate::delivery::host::profile::Lesson;
    use crate::delivery::smtp::failure::Failure;
    use crate::queue::Setting;

    /// Hosts with a queue of their own.
    pub(in crate::delivery::host) struct Bench {
        pub(in crate::delivery::host) clock: Clock,
        pub(in crate::delivery::host) queue: Queue,
        hosts: Arc<Hosts>,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        pub(in crate::delivery::host) fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let settings = QueueSettings {
                path: folder.path().join("queue.db"),
                history: Duration::from_secs(60),
                litestream: false,
            };
            let (events, _) = crossbeam_channel::unbounded();
            let (queue, writer) = Queue::open(&settings, events).unwrap();
            // It goes on as long as the queue does.
            std::mem::forget(writer);
            let clock = Clock::by_hand(0);
            let hosts = Arc::new(Hosts::new(queue.clone(), clock.clone()));
            Bench { clock, queue, hosts, _folder: folder }
        }

        pub(in crate::delivery::host) fn slot(&self, mx: &str) -> Slot {
            Bench::slot_of(&self.hosts, mx)
        }

        pub(in crate::delivery::host) fn slot_of(hosts: &Arc<Hosts>, mx: &str) -> Slot {
            Slot::new(hosts.clone(), hosts.host(mx.to_owned()), Instant::now())
        }

        fn leave_out(&self, mx: &str, setting: Setting) {
            self.slot(mx).remember(vec![Lesson::LeaveOut(setting, Failure::NoMoreRecipients)]);
        }

        fn count(&self) -> usize {
            lock(&self.hosts.records).hosts.len()
        }
    }

    #[test]
    fn memory_is_bounded_and_settings_that_nobody_needs_make_room() {
        let bench = Bench::new();
        for number in 0..HOST_SETTINGS_MAX {
            let row = HostSetting {
                mx: format!("mx{number}.test"),
                setting: Setting::Plaintext,
                last_reply: None,
                changed_at: number as i64,
                retry_at: Some(i64::MAX),
            };
            bench.hosts.host(row.mx.clone()).lock().settings.add(row);
        }
        // The one in use stays, although it is among the oldest.
        let used = bench.slot("mx0.test");
        bench.leave_out("one-more.test", Setting::Plaintext);
        let count_with_settings = || lock(&bench.hosts.records).count_with_settings();
        assert_eq!(count_with_settings(), HOST_SETTINGS_MAX - HOST_SETTINGS_MAX / 10 + 1);
        let is_known = |mx: &str| !bench.slot(mx).host.lock().settings.is_empty();
        assert!(is_known("one-more.test") && is_known("mx0.test") && !is_known("mx1.test"));
        assert!(is_known(&format!("mx{}.test", HOST_SETTINGS_MAX - 1)), "the latest stay");
        drop(used);
        bench.queue.barrier().unwrap();
        let rows = bench.queue.host_settings().unwrap();
        assert_eq!(rows.iter().map(|row| row.mx.as_str()).collect::<Vec<_>>(), ["one-more.test"]);
    }

    #[test]
    fn hosts_that_are_not_in_use_are_forgotten_those_with_settings_last() {
        let bench = Bench::new();
        let sweep = |unused| lock(&bench.hosts.records).sweep(unused);
        let prove = |mx: &str| bench.slot(mx).remember(vec![Lesson::PipeliningProved]);
        prove("proved.test");
        bench.leave_out("settings.test", Setting::NoChunking);
        let used = bench.slot("used.test");
        drop(bench.slot("lately.test"));
        sweep(FORGET_AFTER);
        assert_eq!(bench.count(), 4, "all were used a moment ago");
        sweep(Duration::ZERO);
        assert_eq!(bench.count(), 3, "nothing is known of lately.test");
        drop(used);
        (0..HOSTS_MAX).for_each(|number| prove(&format!("mx{number}.test")));
        sweep(Duration::ZERO);
        assert_eq!(bench.count(), 1);
        assert!(!bench.slot("settings.test").host.lock().settings.is_empty());
    }

    /// What we wrote ourselves is no reason to read, and a reading that comes before it is on disk loses nothing for
    /// long.
    #[test]
    fn a_reading_that_may_have_missed_what_was_just_learnt_is_followed_by_another() {
        let bench = Bench::new();
        bench.leave_out("mx.test", Setting::NoChunking);
        bench.hosts.read(&mut lock(&bench.hosts.records));
        // As if the row had not been there yet.
        lock(&bench.hosts.records).replace_settings(Vec::new());
        bench.queue.barrier().unwrap();
        let again_at = lock(&bench.hosts.records).read_again_at.unwrap();
        assert!(again_at <= Instant::now() + WRITTEN_AFTER);
        let is_known = || !bench.slot("mx.test").host.lock().settings.is_empty();
        bench.hosts.refresh();
        assert!(!is_known(), "it is not time yet");
        lock(&bench.hosts.records).read_again_at = Some(Instant::now());
        bench.hosts.refresh();
        assert!(is_known());
    }

    #[test]
    fn hosts_that_nobody_uses_make_room_when_there_are_too_many() {
        let bench = Bench::new();
        let one_more = |number: usize| {
            drop(bench.slot(&format!("mx{number}.test")));
            lock(&bench.hosts.records).swept_at -= LOOK_EVERY;
        };
        (0..HOSTS_MAX + 500).for_each(one_more);
        assert!(bench.count() <= HOSTS_MAX, "{}", bench.count());
    }

    #[test]
    fn the_rates_of_no_more_lanes_are_kept_than_may_be() {
        let bench = Bench::new();
        let folder = tempfile::tempdir().unwrap();
        let mut settings = crate::config::built_in(folder.path()).unwrap().settings.delivery;
        settings.destinations = Arc::new(crate::config::Destinations(vec![crate::config::Destination {
            scope: crate::config::LimitScope::Domain(crate::config::DomainPattern::Any),
            connections: None,
            messages_per_minute: Some(60),
        }]));
        for number in 0..LANES_MAX + 500 {
            bench.hosts.count_in_lane(&format!("d{number}.test").into(), &settings).unwrap();
        }
        let mut lanes = lock(&bench.hosts.lanes);
        let kept = lanes.count(Instant::now());
        assert!((LANES_MAX * 3 / 4..=LANES_MAX).contains(&kept), "{kept}");
    }
}
