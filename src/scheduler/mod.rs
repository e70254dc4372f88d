//! The scheduler: when each recipient is tried.
//!
//! What decides is pure: [`lanes`] (whose turn) and [`retry`] (how long to wait). Round it stand one
//! thread, which hears from the queue and reads what has come due, and the workers, which
//! take jobs straight from under the lock, so that no hand-over stands between two messages.

pub mod lanes;
pub mod retry;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::Clock;
use crate::config::SchedulerSettings;
use crate::maillog;
use crate::queue::{Due, DueCursor, Event, Health, Job, Kick, Queue, QueueError, RecipientId};

use lanes::{LaneChange, Lanes, Refill};

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
/// Pages read in one look, so that events are heard in between. When more than that is due at once, the rest is
/// found lane by lane.
const PAGES_PER_LOOK: usize = 20;
/// Lanes filled in one look.
const REFILLS_PER_LOOK: usize = 50;
/// Domains surveyed in one look, in ten times as many steps of an index.
const DOMAINS_PER_LOOK: usize = 2_000;

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
        let inner = Inner {
            lanes: Mutex::new(lanes),
            work: Condvar::new(),
            queue,
            clock,
            stopping: AtomicBool::new(false),
            renamed: AtomicBool::new(false),
            pulse: Mutex::new(Instant::now()),
        };
        let scheduler = Scheduler { inner: Arc::new(inner) };
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
            if inner.stopping.load(Ordering::Relaxed) {
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
        self.inner.renamed.store(true, Ordering::Release);
    }

    /// Whether [`Scheduler::stop`] was called.
    pub fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Relaxed)
    }

    /// Whether the thread has looked at the queue lately: what the watchdog asks.
    pub fn is_alive(&self) -> bool {
        let last = self.inner.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed() < ALIVE_MAX
    }

    /// No further jobs; workers that wait are let go, and the thread ends.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
        drop(self.inner.lock());
        self.inner.work.notify_all();
    }
}

impl Inner {
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
    /// So much was due at once that it is looked for domain by domain: the last one looked at.
    survey: Option<String>,
    next_expiry: i64,
    /// The last domain that the sweep looked at, while it runs.
    sweep: Option<String>,
    next_sweep: i64,
    next_stuck: i64,
    /// The queue is looking for stuck rows.
    stuck: Option<JoinHandle<()>>,
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
            survey: None,
            sweep: None,
            stuck: None,
            next_expiry: i64::MIN,
            next_sweep: now + SWEEP_SECS,
            next_stuck: now + STUCK_SECS,
            lanes_changed: false,
        }
    }

    fn run(&mut self, events: &Receiver<Event>) {
        while !self.inner.stopping.load(Ordering::Relaxed) {
            *self.inner.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let now = self.inner.clock.now();
            if let Err(error) = self.look(now) {
                // Nothing is lost: the rows stay due and are read from the start.
                log::error!("the queue cannot be read: {error}");
                self.inner.lock().forget_waiting();
                self.read_again();
                std::thread::sleep(TICK);
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
        let lanes = self.inner.lock();
        if lanes.is_hungry() || self.survey.is_some() {
            return Duration::ZERO;
        }
        let wake = self.next_due.min(lanes.next_alarm().unwrap_or(i64::MAX));
        if wake <= now || self.sweep.is_some() { Duration::from_millis(50) } else { TICK }
    }

    fn hear(&mut self, events: impl Iterator<Item = Event>) {
        let inner = self.inner.clone();
        let now = inner.clock.now();
        let mut lanes = inner.lock();
        for event in events {
            match event {
                Event::Accepted(rows) => rows.into_iter().for_each(|due| lanes.add(due, now)),
                Event::Settled(rows) => {
                    for next in rows.iter().filter_map(|(_, next)| *next) {
                        self.next_due = self.next_due.min(next);
                        self.cursor = self.cursor.min(DueCursor::from(next - 1));
                    }
                    lanes.settled(rows.into_iter().map(|(recipient, _)| recipient));
                }
                Event::Kicked(kick) => {
                    let (Kick::Domain(domain) | Kick::DomainAndBelow(domain)) = &kick;
                    let own = lanes.lane_of(domain);
                    lanes.end_backoff(now, |lane| *lane == *own || is_below(&kick, lane));
                    if *own != *domain.as_str() {
                        // The lane of a route: the queue knows only domains.
                        inner.queue.clear_lane(&own);
                    }
                    self.read_again();
                }
                Event::ChangedOutside => {
                    lanes.forget_waiting();
                    self.lanes_changed = true;
                    self.read_again();
                }
            }
        }
        if lanes.has_turns() {
            inner.work.notify_one();
        }
    }

    /// Whatever is due is read from the start.
    fn read_again(&mut self) {
        self.cursor = DueCursor::from(i64::MIN);
        self.next_due = i64::MIN;
        self.survey = None;
    }

    /// Reads what has come due since the last look, what hungry lanes want, and what is past its lifetime.
    fn look(&mut self, now: i64) -> Result<(), QueueError> {
        if self.inner.renamed.swap(false, Ordering::AcqRel) {
            self.read_again();
        }
        if std::mem::take(&mut self.lanes_changed) {
            let rows = self.inner.queue.lanes()?;
            self.inner.lock().end_backoff(now, |lane| !rows.iter().any(|row| row.lane == lane));
        }
        self.inner.lock().wake(now);
        if self.next_due <= now {
            self.read_due(now)?;
        }
        if let Some(after) = self.survey.take() {
            self.survey = self.survey(&after, now)?;
        }
        let refills = self.inner.lock().refills(REFILLS_PER_LOOK, now);
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
            self.sweep.get_or_insert_default();
        }
        if let Some(after) = self.sweep.take() {
            self.sweep = self.sweep(&after, now)?;
        }
        if self.next_stuck <= now {
            self.next_stuck = now + STUCK_SECS;
            self.look_for_stuck(now);
        }
        Ok(())
    }

    fn read_due(&mut self, now: i64) -> Result<(), QueueError> {
        for _ in 0..PAGES_PER_LOOK {
            let rows = self.inner.queue.due(self.cursor, now, PAGE)?;
            let next_page = next_page(&rows);
            let mut lanes = self.inner.lock();
            rows.into_iter().for_each(|due| lanes.add(due, now));
            drop(lanes);
            self.inner.work.notify_one();
            self.cursor = next_page.unwrap_or_else(|| DueCursor::from(now));
            if next_page.is_none() {
                self.next_due = self.inner.queue.next_due_after(now)?.unwrap_or(i64::MAX);
                return Ok(());
            }
        }
        // A long backlog; perhaps all of one dead lane. What else is due must not wait until it has been read.
        self.survey = Some(String::new());
        self.cursor = DueCursor::from(now);
        self.next_due = self.inner.queue.next_due_after(now)?.unwrap_or(i64::MAX);
        Ok(())
    }

    /// Has the lanes of the domains after this one read what they have due; says how far it came.
    fn survey(&self, after: &str, now: i64) -> Result<Option<String>, QueueError> {
        let mut found = self.inner.queue.due_domains(after, now, DOMAINS_PER_LOOK)?;
        found.due.sort_by_key(|(_, oldest)| *oldest);
        let mut lanes = self.inner.lock();
        found.due.iter().for_each(|(domain, oldest)| lanes.has_due(domain, *oldest));
        Ok(found.searched)
    }

    fn refill(&self, refill: &Refill, now: i64) -> Result<(), QueueError> {
        let (rows, searched) = match &refill.domain {
            Some(domain) => {
                // From the start: those that are here already are passed over.
                let limit = refill.room + refill.known;
                let rows = self.inner.queue.due_in_domain(domain, now, limit)?;
                let searched = rows.last().filter(|_| rows.len() == limit).map(Due::cursor);
                (rows, searched)
            }
            None => self.rows_of_lane(refill, now)?,
        };
        self.inner.lock().refilled(refill, rows, searched, now);
        self.inner.work.notify_one();
        Ok(())
    }

    /// A route's lane gathers many domains: its rows are picked out of everything that is due, a part each time.
    fn rows_of_lane(&self, refill: &Refill, now: i64) -> Result<(Vec<Due>, Option<DueCursor>), QueueError> {
        let (mut found, mut cursor) = (Vec::new(), refill.after);
        for _ in 0..PAGES_PER_LOOK {
            let rows = self.inner.queue.due(cursor, now, PAGE)?;
            let next = next_page(&rows);
            let lanes = self.inner.lock();
            let of_lane = |due: &Due| lanes.lane_of(&due.domain) == refill.lane && !lanes.knows(due);
            found.extend(rows.into_iter().filter(of_lane));
            drop(lanes);
            if found.len() > refill.room {
                found.truncate(refill.room);
                return Ok((found.clone(), found.last().map(Due::cursor).or(Some(cursor))));
            }
            match next {
                Some(next) => cursor = next,
                None => return Ok((found, None)),
            }
        }
        Ok((found, Some(cursor)))
    }

    /// Checks, knowing nothing of how the lanes came to be as they are, that every recipient long overdue is
    /// accounted for. What is not is put in line, logged as an error and so seen. A part of the domains each
    /// time; what a lane is going to read is not read here too.
    fn sweep(&self, after: &str, now: i64) -> Result<Option<String>, QueueError> {
        let queue = &self.inner.queue;
        let found = queue.due_domains(after, now - SWEEP_SECS, DOMAINS_PER_LOOK)?;
        let mut forgotten = 0usize;
        for (domain, _) in &found.due {
            let mut page = Some(DueCursor::default());
            while let Some(cursor) = page
                && !self.inner.lock().will_read(domain)
            {
                let rows = queue.due_in_domain_after(domain, cursor, now - SWEEP_SECS, PAGE)?;
                page = next_page(&rows);
                let mut lanes = self.inner.lock();
                for due in rows {
                    if !lanes.accounts_for(&due) {
                        forgotten += 1;
                        lanes.add(due, now);
                    }
                }
            }
        }
        if forgotten > 0 {
            log::error!(
                "sweep: {forgotten} recipients were overdue and nobody's; they are in line again (a bug: please report)"
            );
        }
        Ok(found.searched)
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
        };
        match std::thread::Builder::new().name("stuck".to_owned()).spawn(look) {
            Ok(looking) => self.stuck = Some(looking),
            Err(error) => log::error!("cannot start the look for stuck rows ({error})"),
        }
    }
}

/// Where the next page begins; none behind the last.
fn next_page(rows: &[Due]) -> Option<DueCursor> {
    rows.last().filter(|_| rows.len() == PAGE).map(Due::cursor)
}

/// Whether a lane is below the domain of an ETRN `@domain`.
fn is_below(kick: &Kick, lane: &str) -> bool {
    match kick {
        Kick::Domain(_) => false,
        Kick::DomainAndBelow(domain) => {
            lane.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
    }
}
