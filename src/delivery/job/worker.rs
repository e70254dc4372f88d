//! The workers: a bounded pool of threads, started as needed; each takes a job, carries it out, settles it and takes
//! the next. A connection that is still good goes to the pool, where the next job of its lane finds it. A panic ends
//! one attempt: it is logged, its recipients stay in the queue, and the lane backs off.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::mail::LOCAL_MARK;
use crate::queue::{Job, LaneHealth, Queue, RecipientId};

use crate::delivery::host::hosts::Hosts;
use crate::delivery::host::pool::{Pool, PooledConnection};
use crate::delivery::job::attempt;
use crate::delivery::job::context::{DeliveryContext, Resources};
use crate::delivery::job::settle::{Begun, Done, ids_of};
use crate::delivery::report::report_limit::ReportLimits;
use crate::delivery::report::tls_reports::{Sending, TlsReports};
use crate::delivery::smtp::connection::OpenFailure;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::stop::Stop;
use crate::delivery::sts::policies::Policies;

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

/// The workers; a clone is another handle to the same ones.
#[derive(Clone)]
pub struct Workers {
    pub(in crate::delivery) shared: Arc<Shared>,
}

/// What all workers share.
pub(in crate::delivery) struct Shared {
    context: RwLock<Arc<DeliveryContext>>,
    resources: Resources,
    jobs: Box<dyn Jobs>,
    /// Threads alive.
    alive: AtomicUsize,
    /// Threads that wait for a job.
    idle: AtomicUsize,
    /// What all connections heed.
    stop: Stop,
}

/// How the mail of a job is to go.
pub(in crate::delivery) enum Way<'a> {
    /// To the hosts of its lane.
    ToHosts,
    /// Over this connection, which its client turned round.
    Turned { connection: &'a mut PooledConnection, deadline: Instant },
    /// Nowhere: the client that turned its connection round did not take it from there.
    Refused { endpoint: &'a Endpoint, failure: OpenFailure },
}

impl Workers {
    /// Starts the first worker; each that finds work and nobody idle starts another.
    pub fn start(mut context: DeliveryContext, queue: Queue, jobs: Box<dyn Jobs>, clock: Clock) -> Workers {
        let stop = Stop::default();
        context.connector.begin(stop.clone(), 0);
        let resources = Resources {
            pool: Pool::new(Arc::new(Hosts::new(queue.clone(), clock.clone()))),
            report_limits: ReportLimits::default(),
            policies: Policies::new(queue.clone(), clock.clone()),
            tls_reports: TlsReports::default(),
            queue,
            clock,
        };
        let shared = Arc::new(Shared {
            context: RwLock::new(Arc::new(context)),
            resources,
            jobs,
            alive: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            stop,
        });
        shared.start_worker();
        Workers { shared }
    }

    /// Takes new settings for the attempts that begin from now on (SIGHUP).
    pub fn reconfigure(&self, mut context: DeliveryContext) {
        // First: what an attempt of before uses now, or opens until it ends, is not kept after it.
        let generation = self.shared.resources.pool.close_all();
        context.connector.begin(self.shared.stop.clone(), generation);
        *self.shared.context.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(context);
        self.shared.resources.pool.hosts.forget_alerts();
    }

    /// What attempts that begin now go by.
    pub fn context(&self) -> Arc<DeliveryContext> {
        self.shared.context()
    }

    /// Connections to hosts that are open now, those that nobody uses just now too.
    pub fn open_connections(&self) -> usize {
        self.shared.resources.pool.hosts.open_connections()
    }

    /// Attempts that only wait for a host end: nothing has happened, and their mail stays due. Those whose host was
    /// given content may wait for its answer until then.
    pub fn stop(&self, content_until: Instant) {
        self.shared.stop.begin(content_until);
    }

    /// Waits until every attempt under way has ended, at most until `deadline`; the caller has told the
    /// jobs to stop. Says how many were still under way.
    pub fn drain(&self, deadline: Instant) -> usize {
        while self.shared.alive.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.resources.pool.close_all();
        self.shared.alive.load(Ordering::Acquire)
    }
}

impl Shared {
    pub(in crate::delivery) fn context(&self) -> Arc<DeliveryContext> {
        self.context.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts one more worker unless there are as many as may be.
    fn start_worker(self: &Arc<Self>) {
        let most = self.context().settings.workers;
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
        let Resources { queue, clock, pool, report_limits, policies, .. } = &self.resources;
        let mut idle_since = Instant::now();
        loop {
            let context = self.context();
            report_limits.send_summaries(queue, clock.now(), &context.settings);
            if context.settings.mta_sts {
                policies.refresh(&context.https);
            }
            drop(context);
            self.send_tls_reports();
            let Some(job) = self.jobs.next(PATIENCE) else {
                if self.jobs.stopping() {
                    break;
                }
                pool.close_idle();
                self.look_at_dnssec();
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
            self.carry_out(&self.context(), &job, Way::ToHosts);
            pool.close_idle();
            self.idle.fetch_add(1, Ordering::AcqRel);
            idle_since = Instant::now();
        }
        self.idle.fetch_sub(1, Ordering::AcqRel);
        self.alive.fetch_sub(1, Ordering::AcqRel);
    }

    /// Soon after the start, and once an hour: whoever reads the log is to know before mail goes.
    fn look_at_dnssec(&self) {
        let context = self.context();
        if context.settings.dane && context.routes.leave_some_to_policies() {
            // It is logged there, and asked for again by each plan.
            let _ = context.lookup.validates();
        }
    }

    /// Where reports on TLS are due: in a thread of its own, since web servers may be slow, which ends with them.
    fn send_tls_reports(self: &Arc<Self>) {
        let context = self.context();
        let Resources { queue, clock, tls_reports, .. } = &self.resources;
        if !tls_reports.is_due(queue, clock, &context.settings) {
            return;
        }
        let shared = self.clone();
        let started = std::thread::Builder::new().name("tls-reports".to_owned()).spawn(move || {
            let Resources { queue, clock, tls_reports, .. } = &shared.resources;
            let Some(_running) = tls_reports.begin() else { return };
            let DeliveryContext { settings, lookup, https, .. } = &*context;
            let sending = Sending { settings, lookup: &**lookup, https, queue, clock, stop: &shared.stop };
            tls_reports.note(sending.send_due());
        });
        if let Err(error) = started {
            log::error!(
                "cannot start a thread for TLS reports ({error}); raise the limit of processes (TasksMax)"
            );
        }
    }

    /// One job from its first byte to its settlement. Whatever happens in it, the jobs hear that it ended. False: the
    /// connection it went over is not to be used any more.
    pub(in crate::delivery) fn carry_out(&self, context: &DeliveryContext, job: &Job, way: Way<'_>) -> bool {
        match catch_unwind(AssertUnwindSafe(|| carry_out(context, &self.resources, job, way))) {
            Ok(done) => {
                self.jobs.finished(job, &done.health, &done.unsettled);
                !matches!(done.health, LaneHealth::Failing(_))
            }
            Err(_) => {
                // The panic's own words are in the log already. Nothing was settled: the recipients stay
                // queued as they were, and the backoff keeps a message that does this from doing it at once again.
                let (message, lane) = (job.message, &job.lane);
                log::error!(queue_id:% = message; "{message}: an attempt in lane {lane} panicked (a bug: please report)");
                let health =
                    LaneHealth::Failing(format!("{LOCAL_MARK}451 4.3.0 internal error of the relay"));
                self.jobs.finished(job, &health, &ids_of(job));
                false
            }
        }
    }
}

/// Reads the message, tries it, settles it.
fn carry_out(context: &DeliveryContext, resources: &Resources, job: &Job, way: Way<'_>) -> Done {
    let Some(begun) = Begun::begin(context, resources, job) else {
        return Done { health: LaneHealth::Unchanged, unsettled: ids_of(job) };
    };
    if begun.is_expired() {
        return begun.expire();
    }
    let answers = match way {
        Way::ToHosts => attempt::attempt(&begun),
        Way::Turned { connection, deadline } => attempt::attempt_on_reversed(&begun, connection, deadline),
        Way::Refused { endpoint, failure } => attempt::refused(&begun, endpoint, failure),
    };
    begun.finish(answers)
}
