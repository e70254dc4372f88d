//! The scheduler: when each recipient is tried.
//!
//! What decides is pure: [`lanes`] (whose turn) and [`retry`] (how long to wait). Round it stand one
//! thread, which hears from the queue and reads what has come due, and the workers, which
//! take jobs straight from under the lock, so that no hand-over stands between two messages.

pub mod lanes;
mod pickup;
pub mod retry;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::Clock;
use crate::config::{AtrnDomains, SchedulerSettings, atrn};
use crate::mail::{Domain, Priority};
use crate::maillog;
use crate::queue::{Due, DueCursor, Event, Health, Job, Kick, LaneRow, Queue, QueueError, RecipientId};

use lanes::{LaneChange, LaneState, Lanes, Refill, WINDOW};
pub use pickup::Pickup;

/// How long the thread sleeps at most: an external edit is noticed, and a writable database used again, within this.
const TICK: Duration = Duration::from_secs(1);
/// Rows read at a time.
const PAGE: usize = 1_000;
/// Events taken in one go, so that one lock serves many.
const EVENTS_AT_ONCE: usize = 1_000;
/// How often what is past its lifetime is looked for.
const EXPIRY_SECS: i64 = 60;
/// How often the sweep runs, and how long overdue a recipient must be for it to care.
const SWEEP_SECS: i64 = 60;
/// How often the queue looks for rows that break an invariant; it reads all of them.
const STUCK_SECS: i64 = 3600;
/// A thread silent for longer hangs: systemd may restart us.
const ALIVE_MAX: Duration = Duration::from_secs(60);
/// Until when a lane that waits for ATRN is shown to back off: 9999-12-31 23:59:59.
const FOR_EVER: i64 = 253_402_300_799;
/// What is due beyond this many pages is read in the next round, so that events are heard in between.
const PAGES_PER_TICK: usize = 50;

/// Why the scheduler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lanes cannot be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No thread to be had.
    #[error("cannot start the scheduler's thread: {0}; raise the limit of processes (TasksMax)")]
    Thread(std::io::Error),
}

/// The handle that workers and `serve` hold.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    lanes: Mutex<Lanes>,
    work: Condvar,
    queue: Queue,
    clock: Clock,
    stopping: AtomicBool,
    /// Lanes are named anew: the thread is to read what is due from the start.
    renamed: AtomicBool,
    /// When the thread last began a round.
    pulse: Mutex<Instant>,
}

impl Scheduler {
    /// Starts the thread; what was backing off when the last process ended still does.
    ///
    /// # Errors
    /// Where the lanes cannot be read or the thread not be started.
    pub fn start(
        settings: SchedulerSettings,
        queue: Queue,
        events: Receiver<Event>,
        clock: Clock,
    ) -> Result<(Scheduler, JoinHandle<()>), StartError> {
        let mut lanes = Lanes::new(settings, fastrand::u64(..));
        for row in queue.lanes()? {
            lanes.restore(row);
        }
        let scheduler = Scheduler { inner: Arc::new(Inner::new(lanes, queue, clock)) };
        let mut thread = Thread::new(scheduler.inner.clone());
        let handle = std::thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || thread.run(&events))
            .map_err(StartError::Thread)?;
        Ok((scheduler, handle))
    }

    /// The next job, waiting for one at most `patience`. None: nothing came, or the relay stops.
    pub fn next(&self, patience: Duration) -> Option<Job> {
        let inner = &*self.inner;
        let mut lanes = inner.lock();
        let deadline = Instant::now() + patience;
        loop {
            if inner.stopping.load(Relaxed) {
                return None;
            }
            // While outcomes cannot be written, nothing new is tried: it would be delivered over and over.
            if inner.queue.writable()
                && let Some(job) = lanes.next(inner.clock.now())
            {
                if lanes.has_turns() {
                    inner.work.notify_one();
                }
                return Some(job);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            lanes = inner.work.wait_timeout(lanes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A job ended; see [`Lanes::finished`].
    pub fn finished(&self, job: &Job, health: &Health, unsettled: &[RecipientId]) {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut lanes = inner.lock();
        let change = lanes.finished(job, health, unsettled, now);
        if lanes.has_turns() {
            inner.work.notify_one();
        }
        drop(lanes);
        match change {
            Some(LaneChange::BacksOff(row)) => {
                maillog::lane_backs_off(&row.lane, row.backoff_until - now, &row.last_reply);
                inner.queue.set_lane(row);
            }
            Some(LaneChange::Recovered) => {
                maillog::lane_recovered(&job.lane);
                inner.queue.clear_lane(&job.lane);
            }
            None => {}
        }
    }

    /// Takes new settings (SIGHUP).
    pub fn reconfigure(&self, settings: SchedulerSettings) {
        self.inner.lock().reconfigure(settings);
        self.inner.renamed.store(true, Relaxed);
    }

    /// Takes the domains whose mail waits for ATRN from now on: they get no turns, and what waits in them is shown
    /// to do so. What is under way by MX ends there.
    ///
    /// # Errors
    /// Where the lanes cannot be read; the domains hold all the same, only people do not see it.
    pub fn set_atrn(&self, domains: AtrnDomains) -> Result<(), QueueError> {
        let inner = &*self.inner;
        let before = inner.lock().set_atrn(domains);
        inner.renamed.store(true, Relaxed);
        let rows = inner.queue.lanes()?;
        let lanes = inner.lock();
        // Those of the last process too.
        let known = rows.iter().filter_map(|row| atrn::domain_of_lane(&row.lane)).chain(before.names());
        for gone in known.filter(|domain| !lanes.atrn().contains(domain)) {
            inner.queue.clear_lane(&atrn::lane(gone));
        }
        lanes.atrn().names().for_each(|domain| inner.show_waiting(lanes.atrn(), domain));
        Ok(())
    }

    /// The domains whose mail waits for ATRN.
    pub fn atrn_domains(&self) -> AtrnDomains {
        self.inner.lock().atrn().clone()
    }

    /// The lane that mail for `domain` waits in.
    pub fn lane_of(&self, domain: &Domain) -> Arc<str> {
        self.inner.lock().lane_of(domain)
    }

    /// How every lane is that somebody waits in, that works or that is in trouble; in no order.
    pub fn lanes(&self) -> Vec<LaneState> {
        self.inner.lock().states()
    }

    /// How one lane is.
    pub fn lane(&self, name: &str) -> LaneState {
        self.inner.lock().state(name)
    }

    /// Whether [`Scheduler::stop`] was called.
    pub fn stopping(&self) -> bool {
        self.inner.stopping.load(Relaxed)
    }

    /// Whether the thread has looked at the queue lately: what the watchdog asks.
    pub fn is_alive(&self) -> bool {
        let last = self.inner.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed() < ALIVE_MAX
    }

    /// No further jobs; workers that wait are let go, and the thread ends.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Relaxed);
        drop(self.inner.lock());
        self.inner.work.notify_all();
    }
}

impl Inner {
    /// Writes the row of `lanes` by which people see that the mail of a domain waits for ATRN.
    fn show_waiting(&self, domains: &AtrnDomains, domain: &str) {
        let (lane, last_reply) = (atrn::lane(domain).to_string(), domains.notice(domain));
        self.queue.set_lane(LaneRow { lane, failures: 0, backoff_until: FOR_EVER, last_reply });
    }

    fn new(lanes: Lanes, queue: Queue, clock: Clock) -> Inner {
        Inner {
            lanes: Mutex::new(lanes),
            work: Condvar::new(),
            queue,
            clock,
            stopping: AtomicBool::new(false),
            renamed: AtomicBool::new(false),
            pulse: Mutex::new(Instant::now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // A panic under the lock leaves at worst a count off by one job; the queue on disk is untouched.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only the thread knows.
struct Thread {
    inner: Arc<Inner>,
    /// Everything due up to here has been seen.
    cursor: DueCursor,
    /// No recipient comes due before this.
    next_due: i64,
    /// When to look for what bounces without a further try.
    next_expiry: i64,
    next_sweep: i64,
    next_stuck: i64,
    /// Somebody else wrote: a lane whose row they deleted no longer backs off.
    lanes_changed: bool,
}

impl Thread {
    fn new(inner: Arc<Inner>) -> Thread {
        let now = inner.clock.now();
        Thread {
            inner,
            cursor: DueCursor::from(i64::MIN),
            next_due: i64::MIN,
            next_expiry: i64::MIN,
            next_sweep: now + SWEEP_SECS,
            next_stuck: now + STUCK_SECS,
            lanes_changed: false,
        }
    }

    fn run(&mut self, events: &Receiver<Event>) {
        while !self.inner.stopping.load(Relaxed) {
            *self.inner.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let now = self.inner.clock.now();
            if let Err(error) = self.look(now) {
                // Nothing is lost: the rows stay due and are read at the next tick.
                log::error!("the queue cannot be read: {error}");
            }
            self.inner.work.notify_one();
            match events.recv_timeout(self.patience(now)) {
                Ok(first) => {
                    let more = events.try_iter().take(EVENTS_AT_ONCE);
                    self.hear(std::iter::once(first).chain(more));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn patience(&self, now: i64) -> Duration {
        let alarm = self.inner.lock().next_alarm().unwrap_or(i64::MAX);
        let wake = self.next_due.min(alarm);
        if wake <= now { Duration::from_millis(50) } else { TICK }
    }

    fn hear(&mut self, events: impl Iterator<Item = Event>) {
        let inner = self.inner.clone();
        let now = inner.clock.now();
        let mut lanes = inner.lock();
        for event in events {
            match event {
                Event::Accepted(rows) => {
                    for due in rows {
                        if due.due_at > now {
                            self.comes_due(due.due_at);
                        } else {
                            lanes.add(due, now);
                        }
                    }
                }
                Event::Settled(rows) => {
                    for next in rows.iter().filter_map(|(_, next)| *next) {
                        self.comes_due(next);
                    }
                    lanes.settled(rows.into_iter().map(|(recipient, _)| recipient));
                }
                Event::Kicked(kick) => {
                    let own = match &kick {
                        Kick::Domain(domain) | Kick::DomainAndBelow(domain) => lanes.lane_of(domain),
                        Kick::Lane(lane, _) => lane.as_str().into(),
                    };
                    lanes.end_backoff(now, |lane| *lane == *own || is_below(&kick, lane));
                    // The lane of a route, since the queue knows only domains; and a row still on its way there.
                    inner.queue.clear_lane(&own);
                    self.read_again();
                }
                Event::ChangedOutside => {
                    lanes.forget_waiting();
                    self.lanes_changed = true;
                    // Perhaps an operator wants something returned.
                    self.next_expiry = i64::MIN;
                    self.read_again();
                }
            }
        }
        if lanes.has_turns() {
            inner.work.notify_one();
        }
    }

    /// A recipient is to be read when this time comes.
    fn comes_due(&mut self, at: i64) {
        self.next_due = self.next_due.min(at);
        self.cursor = self.cursor.min(DueCursor::from(at - 1));
    }

    /// Whatever is due is read from the start.
    fn read_again(&mut self) {
        self.cursor = DueCursor::from(i64::MIN);
        self.next_due = i64::MIN;
    }

    /// Reads what has come due since the last look, what hungry lanes want, and what is past its lifetime.
    fn look(&mut self, now: i64) -> Result<(), QueueError> {
        if self.inner.renamed.swap(false, Relaxed) {
            self.read_again();
            self.next_expiry = i64::MIN;
        }
        if std::mem::take(&mut self.lanes_changed) {
            let rows = self.inner.queue.lanes()?;
            let mut lanes = self.inner.lock();
            lanes.end_backoff(now, |lane| !rows.iter().any(|row| row.lane == lane));
            for domain in lanes.atrn().names() {
                let lane = atrn::lane(domain);
                // In the order of their names.
                if rows.binary_search_by(|row| row.lane.as_str().cmp(&lane)).is_err() {
                    self.inner.show_waiting(lanes.atrn(), domain);
                }
            }
        }
        self.inner.lock().wake(now);
        if self.next_due <= now {
            self.read_due(now)?;
        }
        let refills = self.inner.lock().refills(now);
        for refill in refills {
            self.refill(&refill, now)?;
        }
        if self.next_expiry <= now {
            let rows = self.inner.queue.expired(now, PAGE)?;
            // A full page: the rest at the next look.
            self.next_expiry = if rows.len() < PAGE { now + EXPIRY_SECS } else { now };
            self.inner.lock().add_expired(rows);
        }
        if self.next_sweep <= now {
            self.next_sweep = now + SWEEP_SECS;
            self.sweep(now)?;
        }
        if self.next_stuck <= now {
            self.next_stuck = now + STUCK_SECS;
            self.inner.queue.sweep(now)?;
        }
        Ok(())
    }

    fn read_due(&mut self, now: i64) -> Result<(), QueueError> {
        if self.cursor == DueCursor::from(i64::MIN) {
            // From the start it may be a long way: the urgent go first.
            let urgent = self.inner.queue.urgent(now, WINDOW)?;
            let mut lanes = self.inner.lock();
            urgent.into_iter().for_each(|due| lanes.add(due, now));
        }
        for _ in 0..PAGES_PER_TICK {
            let rows = self.inner.queue.due(self.cursor, now, PAGE)?;
            let next_page = next_page(&rows);
            let mut lanes = self.inner.lock();
            rows.into_iter().for_each(|due| lanes.add(due, now));
            drop(lanes);
            self.inner.work.notify_one();
            self.cursor = next_page.unwrap_or_else(|| DueCursor::from(now));
            if next_page.is_none() {
                self.next_due = self.inner.queue.next_due_after(now)?.unwrap_or(i64::MAX);
                break;
            }
        }
        Ok(())
    }

    fn refill(&self, refill: &Refill, now: i64) -> Result<(), QueueError> {
        let queue = &self.inner.queue;
        let (rows, all) = match &refill.domain {
            Some(domain) => {
                let rows = queue.due_in_domain(domain, now, refill.limit)?;
                let all = rows.len() < refill.limit;
                (rows, all)
            }
            None => self.rows_of_lane(refill, now)?,
        };
        self.inner.lock().refilled(refill, rows, all, now);
        self.inner.work.notify_one();
        Ok(())
    }

    /// A route's lane gathers many domains: its rows are picked out of everything that is due.
    fn rows_of_lane(&self, refill: &Refill, now: i64) -> Result<(Vec<Due>, bool), QueueError> {
        let of_lane = |rows: Vec<Due>| {
            let lanes = self.inner.lock();
            rows.into_iter().filter(|due| lanes.lane_of(&due.domain) == refill.lane).collect::<Vec<Due>>()
        };
        // The urgent first: in the order of time they could stand behind everything else.
        let urgent = self.inner.queue.urgent(now, WINDOW)?;
        let all_urgent = urgent.len() < WINDOW;
        let mut found = of_lane(urgent);
        found.truncate(refill.limit);
        let mut low = Vec::new();
        let mut cursor = DueCursor::from(i64::MIN);
        for pages in 0.. {
            if found.len() >= refill.limit {
                return Ok((found, false));
            }
            if low.len() >= refill.limit && pages >= PAGES_PER_TICK {
                // Far enough behind the low ones: there is plenty to do, and what comes due later finds its place.
                break;
            }
            let rows = self.inner.queue.due(cursor, now, PAGE)?;
            let next = next_page(&rows);
            for due in of_lane(rows) {
                match due.priority.cmp(&Priority::NORMAL) {
                    Ordering::Less if low.len() < refill.limit => low.push(due),
                    Ordering::Equal => found.push(due),
                    // The urgent are there already.
                    Ordering::Less | Ordering::Greater => {}
                }
            }
            match next {
                Some(next) => cursor = next,
                None => {
                    let all = all_urgent && found.len() + low.len() <= refill.limit;
                    found.extend(low);
                    return Ok((found, all));
                }
            }
        }
        found.extend(low);
        Ok((found, false))
    }

    /// Checks, knowing nothing of how the lanes came to be as they are, that every recipient long overdue is
    /// accounted for. What is not is put in line, logged as an error and so seen.
    fn sweep(&self, now: i64) -> Result<(), QueueError> {
        let mut page = Some(DueCursor::from(i64::MIN));
        let mut forgotten = 0usize;
        while let Some(cursor) = page {
            let rows = self.inner.queue.due(cursor, now - SWEEP_SECS, PAGE)?;
            page = next_page(&rows);
            let mut lanes = self.inner.lock();
            for due in rows {
                if !lanes.accounts_for(&due) {
                    forgotten += 1;
                    lanes.add(due, now);
                }
            }
        }
        if forgotten > 0 {
            log::error!(
                "sweep: {forgotten} recipients were overdue and nobody's; they are in line again (a bug: please report)"
            );
        }
        Ok(())
    }
}

/// Where the next page begins; none behind the last.
fn next_page(rows: &[Due]) -> Option<DueCursor> {
    rows.last().filter(|_| rows.len() == PAGE).map(Due::cursor)
}

/// Whether a lane is below the domain of an ETRN `@domain`.
fn is_below(kick: &Kick, lane: &str) -> bool {
    match kick {
        Kick::Domain(_) | Kick::Lane(..) => false,
        Kick::DomainAndBelow(domain) => {
            lane.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
    }
}
