//! The numbers of the status page and of `postrider top`: at most once a second, only while somebody looks, and each
//! part rests for many times as long as it took. The page shows what was counted last, and says how old it is; one
//! thread counts for all who look.
//!
//! The connection is opened for each round and closed after it: nothing is held while nobody looks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::atrn;
use crate::mail::Domain;
use crate::queue::admin::{
    Admin, DomainWaiting, FailureGroup, Filter, HeldCount, Line, MinuteCount, PolicyCount, Refusal,
    SuspensionLine, TlsFailure,
};
use crate::queue::{BackoffRow, HostSetting, QueueError};
use crate::scheduler::Scheduler;

/// Minutes in the plots.
pub const MINUTES: i64 = 60;
/// A message has its id before it is on disk: the counts of so many last minutes are made again.
const MINUTES_MOVING: i64 = 3;
/// Lanes that are shown.
pub(super) const LANES_MAX: usize = 12;
/// Groups of failures that are shown.
const FAILURES_MAX: u32 = 10;
/// So far back they are counted.
const FAILURES_SECS: i64 = 86_400;
/// Recipients that have waited for longest.
const OLDEST_MAX: u32 = 8;
/// Attempts that were refused last.
const REFUSALS_MAX: u32 = 30;
/// Domains with which TLS failed.
const TLS_FAILURES_MAX: u32 = 10;
/// Rows of `host_settings` that are shown of each kind.
pub(super) const HOSTS_MAX: usize = 10;
/// No part is counted more often.
const REST_MIN: Duration = Duration::from_secs(1);
/// A part rests for so many times what it took: the reader works for a twentieth of the time at most.
const REST: u32 = 20;
/// So long the first look waits for its numbers.
const FIRST_PATIENCE: Duration = Duration::from_millis(60);

/// What the page is made from.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When the part that is oldest was counted, Unix seconds.
    pub at: i64,
    /// Messages that wait.
    pub messages: u64,
    /// Their recipients.
    pub waiting: Waiting,
    /// The last hour; minutes in which nothing happened are left out.
    pub minutes: Vec<MinuteCount>,
    /// What the world refuses.
    pub failures: Vec<FailureGroup>,
    /// What was refused last, the latest first.
    pub refusals: Vec<Refusal>,
    /// What has waited for longest.
    pub oldest: Vec<Line>,
    /// Throttles and workarounds.
    pub hosts: Vec<HostSetting>,
    /// What an operator suspended.
    pub suspensions: Vec<SuspensionLine>,
    /// TLS of today.
    pub policies: Vec<PolicyCount>,
    /// And the domains with which it failed.
    pub tls_failures: Vec<TlsFailure>,
}

/// What waits, by lane and in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Recipients.
    pub recipients: u64,
    /// Of these, due, and in no lane that backs off.
    pub due: u64,
    /// Due, in a lane that backs off.
    pub backing_off: u64,
    /// Not tried until released.
    pub held: u64,
    /// Not tried until resumed.
    pub suspended: u64,
    /// By what.
    pub held_by: Vec<HeldCount>,
    /// Until a user fetches it.
    pub to_fetch: u64,
    /// The fullest.
    pub lanes: Vec<LaneLine>,
    /// Lanes in which something waits.
    pub lanes_total: usize,
    /// Of these, backing off.
    pub lanes_backing_off: usize,
}

/// A lane in which something waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneLine {
    /// Its name.
    pub lane: String,
    /// Recipients.
    pub waiting: u64,
    /// Of these, held.
    pub held: u64,
    /// Of these, suspended.
    pub suspended: u64,
    /// Of these, due by their own time and not suspended.
    pub due: u64,
    /// The first time at which one of them is due, Unix seconds.
    pub next_attempt_at: Option<i64>,
    /// When the first of them came, Unix seconds.
    pub oldest: i64,
    /// Until when it backs off, how many failures there were in a row, and the last reply.
    pub backoff: Option<(i64, u32, String)>,
    /// Who may fetch it.
    pub fetch: Option<String>,
}

/// From domains to lanes. `backoffs` are all rows, also those that are over and those of mail to be fetched.
pub(super) fn waiting(
    domains: Vec<DomainWaiting>,
    lane_of: impl Fn(&Domain) -> Arc<str>,
    backoffs: &[BackoffRow],
    now: i64,
) -> Waiting {
    let mut lanes: BTreeMap<String, LaneLine> = BTreeMap::new();
    for count in domains {
        // What a hand wrote into the column may be no domain.
        let name = Domain::parse(&count.domain)
            .map_or_else(|_| count.domain.clone(), |domain| lane_of(&domain).to_string());
        let first = LaneLine { lane: name.clone(), oldest: count.oldest, ..LaneLine::default() };
        let lane = lanes.entry(name).or_insert(first);
        lane.waiting += count.waiting;
        lane.held += count.held;
        lane.suspended += count.suspended;
        lane.due += count.due;
        lane.next_attempt_at = [lane.next_attempt_at, count.next_attempt_at].into_iter().flatten().min();
        lane.oldest = lane.oldest.min(count.oldest);
    }
    for row in backoffs {
        let Some(lane) = lanes.get_mut(&row.lane) else { continue };
        if atrn::domain_of_lane(&row.lane).is_some() {
            lane.fetch = Some(row.last_reply.clone());
        } else if row.backoff_until > now {
            lane.backoff = Some((row.backoff_until, row.failures, row.last_reply.clone()));
        }
    }
    let mut waiting = Waiting { lanes_total: lanes.len(), ..Waiting::default() };
    for lane in lanes.values() {
        waiting.recipients += lane.waiting;
        waiting.held += lane.held;
        waiting.suspended += lane.suspended;
        match (&lane.backoff, &lane.fetch) {
            (_, Some(_)) => {
                waiting.to_fetch += lane.waiting.saturating_sub(lane.held + lane.suspended);
            }
            (Some(_), None) => waiting.backing_off += lane.due,
            (None, None) => waiting.due += lane.due,
        }
        waiting.lanes_backing_off += usize::from(lane.backoff.is_some());
    }
    waiting.lanes = lanes.into_values().collect();
    waiting.lanes.sort_by(|one, other| other.waiting.cmp(&one.waiting).then(one.lane.cmp(&other.lane)));
    waiting.lanes.truncate(LANES_MAX);
    waiting
}

/// The counts of before up to where they may still change, then the new ones; the last hour of it.
pub(super) fn go_on(before: &[MinuteCount], new: Vec<MinuteCount>, from: i64, this: i64) -> Vec<MinuteCount> {
    let kept = before.iter().filter(|minute| minute.minute < from).copied();
    kept.chain(new).filter(|minute| minute.minute > this - MINUTES).collect()
}

/// When a part was counted last, and when it may be again.
#[derive(Default)]
struct Rest {
    counted: Option<(i64, Instant)>,
}

impl Rest {
    /// Counts it, unless it rests.
    fn count<T>(
        &mut self,
        value: &mut T,
        now: i64,
        read: impl FnOnce(&T) -> Result<T, QueueError>,
    ) -> Result<(), QueueError> {
        let began = Instant::now();
        if self.counted.is_some_and(|(_, until)| began < until) {
            return Ok(());
        }
        *value = read(value)?;
        self.counted = Some((now, Instant::now() + REST_MIN.max(began.elapsed() * REST)));
        Ok(())
    }
}

/// Whoever counts, and what it keeps from one round to the next.
#[derive(Default)]
pub struct Counter {
    snapshot: Snapshot,
    waiting: Rest,
    minutes: Rest,
    failures: Rest,
    suspensions: Rest,
    rest: Rest,
}

impl Counter {
    /// What was counted last.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Counts what does not rest.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub fn round(
        &mut self,
        admin: &Admin,
        lane_of: impl Fn(&Domain) -> Arc<str>,
        now: i64,
    ) -> Result<(), QueueError> {
        let Counter { snapshot, .. } = self;
        self.waiting.count(&mut snapshot.waiting, now, |_| {
            let backoffs = admin.backoffs()?;
            let waiting = waiting(admin.waiting_by_domain()?, lane_of, &backoffs, now);
            let held_by = if waiting.held > 0 { admin.held(None)? } else { Vec::new() };
            Ok(Waiting { held_by, ..waiting })
        })?;
        let this = now.div_euclid(60);
        let last = self.minutes.counted.map(|(at, _)| at.div_euclid(60) - MINUTES_MOVING);
        let from = (this - MINUTES).max(last.unwrap_or(i64::MIN));
        self.minutes.count(&mut snapshot.minutes, now, |before| {
            Ok(go_on(before, admin.by_minute(from)?, from, this))
        })?;
        self.failures.count(&mut snapshot.failures, now, |_| {
            admin.failure_groups(now - FAILURES_SECS, FAILURES_MAX)
        })?;
        self.suspensions.count(&mut snapshot.suspensions, now, |_| admin.suspensions())?;
        self.rest.count(&mut snapshot.messages, now, |_| admin.messages())?;
        snapshot.oldest = admin.list(&Filter::all(), OLDEST_MAX)?;
        snapshot.refusals = admin.refusals(REFUSALS_MAX)?;
        snapshot.hosts = admin.host_settings()?;
        snapshot.policies = admin.tls_policies(now)?;
        snapshot.tls_failures = admin.tls_failures(now, TLS_FAILURES_MAX)?;
        let counted = [&self.waiting, &self.minutes, &self.failures, &self.rest];
        snapshot.at = counted.iter().filter_map(|rest| rest.counted).map(|(at, _)| at).min().unwrap_or(now);
        Ok(())
    }
}

/// What the pages and the counting thread share.
#[derive(Default)]
struct State {
    snapshot: Option<Arc<Snapshot>>,
    /// Why there is no newer one.
    error: Option<String>,
    has_thread: bool,
    is_asked: bool,
    is_over: bool,
}

/// The numbers, and who counts them: a thread that begins with the first look.
#[derive(Clone)]
pub struct PageCounts(Arc<Inner>);

struct Inner {
    round: Box<Round>,
    state: Mutex<State>,
    changed: Condvar,
}

type Round = dyn Fn(&mut Counter) -> Result<(), QueueError> + Send + Sync;

impl PageCounts {
    /// Of the database at `path`; nothing is counted yet.
    pub fn new(path: PathBuf, scheduler: Scheduler, clock: Clock) -> PageCounts {
        PageCounts::counted_by(Box::new(move |counter| {
            counter.round(&Admin::to_read(&path)?, |domain| scheduler.lane_of(domain), clock.now())
        }))
    }

    fn counted_by(round: Box<Round>) -> PageCounts {
        PageCounts(Arc::new(Inner { round, state: Mutex::default(), changed: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step: nothing is half done behind a poisoned lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted last, and why nothing newer could be; has it counted anew. Waits only where nothing was counted
    /// yet, and not for long.
    pub(super) fn latest(&self) -> (Option<Arc<Snapshot>>, Option<String>) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.has_thread, true) {
            let counts = self.clone();
            let started =
                std::thread::Builder::new().name("page-counts".to_owned()).spawn(move || counts.count());
            if let Err(error) = started {
                state.has_thread = false;
                return (None, Some(format!("the system allows no thread for it: {error}")));
            }
        }
        state.is_asked = true;
        self.0.changed.notify_all();
        let wait = |state: &mut State| state.snapshot.is_none() && state.error.is_none();
        let waited = self.0.changed.wait_timeout_while(state, FIRST_PATIENCE, wait);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (state.snapshot.clone(), state.error.clone())
    }

    /// The thread ends after its round.
    pub fn stop(&self) {
        self.state().is_over = true;
        self.0.changed.notify_all();
    }

    /// The thread.
    fn count(&self) {
        let _ended = Ended(self);
        let mut counter = Counter::default();
        while self.wait_to_be_asked() {
            let counted = (self.0.round)(&mut counter);
            let mut state = self.state();
            match counted {
                Ok(()) => (state.snapshot, state.error) = (Some(Arc::new(counter.snapshot.clone())), None),
                Err(error) => state.error = Some(error.to_string()),
            }
            drop(state);
            self.0.changed.notify_all();
            std::thread::sleep(REST_MIN);
        }
    }

    fn wait_to_be_asked(&self) -> bool {
        let wait = |state: &mut State| !state.is_asked && !state.is_over;
        let mut state = self.0.changed.wait_while(self.state(), wait).unwrap_or_else(PoisonError::into_inner);
        state.is_asked = false;
        !state.is_over
    }
}

/// However the thread ends: the next look begins another one.
struct Ended<'a>(&'a PageCounts);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_thread = false;
        if std::thread::panicking() {
            state.error = Some("a bug in Postrider; the log has it".to_owned());
        }
        drop(state);
        self.0.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_round_that_panics_is_told_and_keeps_no_other_from_counting() {
        let rounds = AtomicUsize::new(0);
        let counts = PageCounts::counted_by(Box::new(move |_| {
            assert!(rounds.fetch_add(1, Ordering::SeqCst) > 0, "on purpose");
            Ok(())
        }));
        let until = Instant::now() + Duration::from_secs(20);
        let (mut has_counted, mut was_told) = (false, false);
        while !has_counted && Instant::now() < until {
            let (snapshot, error) = counts.latest();
            (has_counted, was_told) =
                (snapshot.is_some(), was_told || error.is_some_and(|why| why.contains("bug")));
        }
        counts.stop();
        assert!(has_counted && was_told, "{has_counted} {was_told}");
    }
}
