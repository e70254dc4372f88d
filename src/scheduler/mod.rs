//! The scheduler: when each recipient is tried.
//!
//! What decides is pure: [`lanes`] (whose turn) and [`retry`] (how long to wait). Round it stand one
//! thread, which hears from the queue and reads what has come due, and the workers, which
//! take jobs straight from under the lock, so that no hand-over stands between two messages.

mod atrn_claims;
pub mod lanes;
pub(crate) mod reader;
pub mod retry;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::{Clock, Moment};
use crate::config::{AtrnDomains, SchedulerSettings, atrn};
use crate::mail::{Domain, LOCAL_MARK};
use crate::maillog;
use crate::queue::{BackoffRow, Event, Job, LaneHealth, Over, Queue, QueueError, RecipientId, Suspensions};

pub use atrn_claims::AtrnClaims;
use lanes::{LaneChange, LaneState, Lanes};
use reader::{Looked, Portions, Reader};

/// How long the thread sleeps at most: an external edit is noticed, and a writable database used again, within this.
const TICK: Duration = Duration::from_secs(1);
/// Events taken in one go, so that one lock serves many.
const EVENTS_AT_ONCE: usize = 1_000;
/// How often the queue looks for rows that break an invariant; it reads all of them.
const STUCK_SECS: i64 = 3600;
/// A thread silent for longer hangs: systemd may restart us.
const ALIVE_MAX: Duration = Duration::from_secs(60);
/// Until when a lane that waits for ATRN is shown to back off: 9999-12-31 23:59:59.
const FOR_EVER: i64 = 253_402_300_799;

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
        let at = clock.moment();
        for row in queue.backoffs()? {
            lanes.restore(row, at);
        }
        let suspensions = Suspensions::on(queue.suspensions(at.now)?, at.now);
        suspensions.not_in(&Suspensions::default()).iter().for_each(maillog::suspended);
        lanes.set_suspensions(suspensions);
        if queue.is_ahead_of(at.now) {
            // What it showed before, nobody knows.
            queue.clock_was_set_back(at.now, at.now, lanes.longest_wait_secs());
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
                && let Some(job) = lanes.next(inner.clock.steady())
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
    pub fn finished(&self, job: &Job, health: &LaneHealth, unsettled: &[RecipientId]) {
        let inner = &*self.inner;
        let at = inner.clock.moment();
        let mut lanes = inner.lock();
        let change = lanes.finished(job, health, unsettled, at.steady);
        if lanes.has_turns() {
            inner.work.notify_one();
        }
        drop(lanes);
        match change {
            Some(LaneChange::BacksOff(row)) => {
                let said = row.last_reply.strip_prefix(LOCAL_MARK).unwrap_or(&row.last_reply);
                maillog::lane_backs_off(&row.lane, row.backoff_until - at.steady, said);
                inner.queue.set_backoff(BackoffRow { backoff_until: at.unix(row.backoff_until), ..row });
            }
            Some(LaneChange::Recovered) => {
                maillog::lane_recovered(&job.lane);
                inner.queue.clear_backoff(&job.lane);
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
        let rows = inner.queue.backoffs()?;
        let lanes = inner.lock();
        // Those of the last process too.
        let known = rows.iter().filter_map(|row| atrn::domain_of_lane(&row.lane)).chain(before.names());
        for gone in known.filter(|domain| !lanes.atrn().contains(domain)) {
            inner.queue.clear_backoff(&atrn::lane(gone));
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
        let at = self.inner.clock.moment();
        self.inner.lock().states().into_iter().map(|state| in_unix_seconds(state, at)).collect()
    }

    /// How one lane is.
    pub fn lane(&self, name: &str) -> LaneState {
        in_unix_seconds(self.inner.lock().state(name), self.inner.clock.moment())
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

fn in_unix_seconds(state: LaneState, at: Moment) -> LaneState {
    LaneState { backoff_until: at.unix(state.backoff_until), ..state }
}

impl Inner {
    /// Writes the row of `backoffs` by which people see that the mail of a domain waits for ATRN.
    fn show_waiting(&self, domains: &AtrnDomains, domain: &str) {
        let (lane, last_reply) = (atrn::lane(domain).to_string(), domains.notice(domain));
        self.queue.set_backoff(BackoffRow { lane, failures: 0, backoff_until: FOR_EVER, last_reply });
    }

    /// Writes those rows again that somebody deleted.
    fn show_missing(&self) -> Result<(), QueueError> {
        let rows = self.queue.backoffs()?;
        let lanes = self.lock();
        for domain in lanes.atrn().names() {
            let lane = atrn::lane(domain);
            // In the order of their names.
            if rows.binary_search_by(|row| row.lane.as_str().cmp(&lane)).is_err() {
                self.show_waiting(lanes.atrn(), domain);
            }
        }
        Ok(())
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

/// The thread: hears events, and looks.
struct Thread {
    inner: Arc<Inner>,
    reader: Reader,
    next_stuck: i64,
    /// The queue is looking for stuck rows.
    stuck: Option<JoinHandle<()>>,
}

impl Thread {
    fn new(inner: Arc<Inner>) -> Thread {
        let at = inner.clock.moment();
        Thread {
            inner,
            reader: Reader::new(Portions::default(), at),
            next_stuck: at.steady + STUCK_SECS,
            stuck: None,
        }
    }

    fn run(&mut self, events: &Receiver<Event>) {
        while !self.inner.stopping.load(Relaxed) {
            *self.inner.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let at = self.inner.clock.moment();
            if let Err(error) = self.look(at) {
                // Nothing is lost: the rows stay due and are read from the start.
                log::error!("the queue cannot be read: {error}");
                self.reader.start_again(&self.inner.lanes);
                std::thread::sleep(TICK);
            }
            self.inner.work.notify_one();
            let wake = self.reader.patience(&self.inner.lanes, at).min(TICK);
            match events.recv_timeout(wake) {
                Ok(first) => {
                    let more = events.try_iter().take(EVENTS_AT_ONCE);
                    self.hear(std::iter::once(first).chain(more));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hear(&mut self, events: impl Iterator<Item = Event>) {
        let inner = self.inner.clone();
        let mut lanes = inner.lock();
        for event in events {
            if let Some(recovered) = self.reader.hear(event, &mut lanes, inner.clock.moment()) {
                inner.queue.clear_backoff(&recovered);
            }
        }
        if lanes.has_turns() {
            inner.work.notify_one();
        }
    }

    fn look(&mut self, at: Moment) -> Result<(), QueueError> {
        if self.inner.renamed.swap(false, Relaxed) {
            self.reader.start_again(&self.inner.lanes);
        }
        if self.reader.backoffs_changed() {
            self.inner.show_missing()?;
        }
        let inner = &*self.inner;
        let confirmed = inner.clock.confirmed();
        inner.queue.set_time(confirmed);
        let ended = Over::at(confirmed, inner.lock().lifetimes());
        let ready = || inner.work.notify_one();
        let Looked { over, forgotten, set_back_from, suspended, resumed } =
            self.reader.look(&*inner.queue, &inner.lanes, &ready, at, &ended)?;
        suspended.iter().for_each(maillog::suspended);
        resumed.iter().for_each(|row| maillog::resumed(row, at.now));
        if let Some(before) = set_back_from {
            inner.queue.clock_was_set_back(before, at.now, inner.lock().longest_wait_secs());
        }
        over.iter().for_each(|lane| inner.queue.clear_backoff(lane));
        if forgotten > 0 {
            log::error!(
                "sweep: {forgotten} recipients were overdue and nobody's; they are in line again (a bug: please report)"
            );
        }
        // While the clock is doubted, what is past its lifetime by it is no fault; nor is it just afterwards.
        if !inner.clock.is_confirmed() {
            self.next_stuck = at.steady + STUCK_SECS;
        }
        if self.next_stuck <= at.steady {
            self.next_stuck = at.steady + STUCK_SECS;
            self.look_for_stuck(at.now);
        }
        Ok(())
    }

    /// Has the queue look for stuck rows: it reads all of them, so a thread of its own waits for that.
    fn look_for_stuck(&mut self, now: i64) {
        if self.stuck.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let queue = self.inner.queue.clone();
        let look = move || {
            if let Err(error) = queue.sweep(now) {
                log::error!("the queue cannot be looked through: {error}");
            }
            if let Err(error) = queue.look_for_damage() {
                log::error!("the queue cannot be checked for damage: {error}");
            }
        };
        match std::thread::Builder::new().name("stuck".to_owned()).spawn(look) {
            Ok(looking) => self.stuck = Some(looking),
            Err(error) => log::error!("cannot start the look for stuck rows ({error})"),
        }
    }
}
