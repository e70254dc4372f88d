//! Delivery: from a job to its outcomes. Foreign replies end here.
//!
//! The workers are a bounded pool of threads, started as needed; each takes a job, carries it out
//! (`attempt`), settles it and takes the next. A connection that is still good goes to the
//! `pool`, where the next job of its lane finds it. Mail that somebody comes for (ATRN) goes out on the
//! connection that they turned round, in their own thread (`pickup`). A panic ends one attempt: it is logged,
//! its recipients stay in the queue, and the lane backs off.

#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod job;
pub mod report;
pub mod route;
pub mod smtp;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::{DeliverySettings, Routes};
use crate::queue::{Job, LaneHealth, Queue, QueuedMessage, RecipientId};

use host::hosts::Hosts;
use host::pool::Pool;
use report::report_limit::ReportLimits;
use route::lookup::Lookup;
use smtp::connection::Connector;

pub use job::atrn_handover::Turned;
#[cfg(test)]
pub(crate) use job::settle::decide;
pub use job::settle::settle_doubts;

/// How long an idle worker waits for a job before it looks after idle connections, or ends.
const PATIENCE: Duration = Duration::from_secs(1);
/// A worker idle for this long ends, unless it is the last idle one.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A worker's stack: TLS and name lookups fit well; 128 workers are 64 MiB of address space, hardly of memory.
const STACK_BYTES: usize = 512 * 1024;

/// Where jobs come from and what is told of them: the scheduler, or a list in a test.
pub trait Jobs: Send + Sync {
    /// The next job, waiting for one at most `patience`.
    fn next(&self, patience: Duration) -> Option<Job>;
    /// A job ended; `unsettled` are its recipients that no settlement will name.
    fn finished(&self, job: &Job, health: &LaneHealth, unsettled: &[RecipientId]);
    /// No job will come any more.
    fn stopping(&self) -> bool;
}

/// What an attempt needs; swapped as a whole on reload.
pub struct Setup {
    /// `[delivery]`.
    pub settings: DeliverySettings,
    /// `[[route]]`.
    pub routes: Arc<Routes>,
    /// Name lookups.
    pub lookup: Box<dyn Lookup + Send + Sync>,
    /// Opens connections.
    pub connector: Connector,
}

/// The workers; a clone is another handle to the same ones.
#[derive(Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    setup: RwLock<Arc<Setup>>,
    queue: Queue,
    jobs: Box<dyn Jobs>,
    clock: Clock,
    pool: Pool,
    report_limits: ReportLimits,
    /// Threads alive.
    alive: AtomicUsize,
    /// Threads that wait for a job.
    idle: AtomicUsize,
}

impl Workers {
    /// Starts the first worker; each that finds work and nobody idle starts another.
    pub fn start(mut setup: Setup, queue: Queue, jobs: Box<dyn Jobs>, clock: Clock) -> Workers {
        let hosts = Arc::new(Hosts::new(queue.clone(), clock.clone()));
        setup.connector.share(hosts.clone());
        let shared = Arc::new(Shared {
            setup: RwLock::new(Arc::new(setup)),
            queue,
            jobs,
            clock,
            pool: Pool::new(hosts),
            report_limits: ReportLimits::default(),
            alive: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
        });
        shared.start_worker();
        Workers { shared }
    }

    /// Takes new settings for the attempts that begin from now on (SIGHUP).
    pub fn reconfigure(&self, mut setup: Setup) {
        setup.connector.share(self.shared.pool.hosts.clone());
        *self.shared.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
        self.shared.pool.hosts.forget_alerts();
        self.shared.pool.close_all();
    }

    /// What attempts that begin now go by.
    pub fn setup(&self) -> Arc<Setup> {
        self.shared.setup()
    }

    /// Waits until every attempt under way has ended, at most until `deadline`; the caller has told the
    /// jobs to stop. Says how many were still under way.
    pub fn drain(&self, deadline: Instant) -> usize {
        while self.shared.alive.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.pool.close_all();
        self.shared.alive.load(Ordering::Acquire)
    }
}

impl Shared {
    fn setup(&self) -> Arc<Setup> {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts one more worker unless there are as many as may be.
    fn start_worker(self: &Arc<Self>) {
        let most = self.setup().settings.workers;
        let counted = |alive: usize| (alive < most).then_some(alive + 1);
        if self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted).is_err() {
            return;
        }
        self.idle.fetch_add(1, Ordering::AcqRel);
        let shared = self.clone();
        let started = std::thread::Builder::new()
            .name("delivery".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work());
        if let Err(error) = started {
            self.idle.fetch_sub(1, Ordering::AcqRel);
            self.alive.fetch_sub(1, Ordering::AcqRel);
            log::error!("cannot start a delivery thread ({error}); raise the limit of processes (TasksMax)");
        }
    }

    fn work(self: Arc<Self>) {
        let mut idle_since = Instant::now();
        loop {
            let settings = &self.setup().settings;
            self.report_limits.send_summaries(&self.queue, self.clock.now(), settings);
            let Some(job) = self.jobs.next(PATIENCE) else {
                if self.jobs.stopping() {
                    break;
                }
                self.pool.close_idle();
                if idle_since.elapsed() < IDLE_MAX {
                    continue;
                }
                // The last idle worker stays: it is the one that hears of the next job.
                let others = |idle: usize| (idle > 1).then(|| idle - 1);
                if self.idle.fetch_update(Ordering::AcqRel, Ordering::Acquire, others).is_ok() {
                    self.alive.fetch_sub(1, Ordering::AcqRel);
                    return;
                }
                idle_since = Instant::now();
                continue;
            };
            if self.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.start_worker();
            }
            let setup = self.setup();
            self.carry_out(&setup, &job, |message, now| {
                job::attempt::attempt(&setup, &self.queue, &self.pool, &self.clock, &job, message, now)
            });
            self.pool.close_idle();
            self.idle.fetch_add(1, Ordering::AcqRel);
            idle_since = Instant::now();
        }
        self.idle.fetch_sub(1, Ordering::AcqRel);
        self.alive.fetch_sub(1, Ordering::AcqRel);
    }

    /// One job from its first byte to its settlement, tried with `attempt`. Whatever happens in it, the jobs hear
    /// that it ended. False: the connection it went over is not to be used any more.
    fn carry_out(
        &self,
        setup: &Setup,
        job: &Job,
        attempt: impl FnOnce(&QueuedMessage, i64) -> job::attempt::Answers,
    ) -> bool {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            job::settle::carry_out(setup, &self.queue, &self.report_limits, &self.clock, job, attempt)
        }));
        match outcome {
            Ok(done) => {
                self.jobs.finished(job, &done.health, &done.unsettled);
                !matches!(done.health, LaneHealth::Failing(_))
            }
            Err(_) => {
                // The panic's own words are in the log already. Nothing was settled: the recipients stay
                // queued as they were, and the backoff keeps a message that does this from doing it at once again.
                log::error!(
                    "{}: an attempt in lane {} panicked (a bug: please report)",
                    job.message,
                    job.lane
                );
                let all: Vec<RecipientId> = job.recipients.iter().map(|(recipient, _)| *recipient).collect();
                let health = LaneHealth::Failing("451 4.3.0 internal error of the relay".to_owned());
                self.jobs.finished(job, &health, &all);
                false
            }
        }
    }
}
