//! `postrider serve`: wires the rooms, tells systemd, hears signals, drains at the end.
//!
//! [`Relay`] is the whole relay in one value; `demo` and the tests start the same one.

pub(super) mod inherited;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded, select, tick};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use socket2::Socket;

use super::check;
use super::log_output;
use super::on_demand::OnDemand;
use super::operator_queries::OperatorInfo;
use super::output::{self, print};
use crate::clock::Clock;
use crate::config::{self, Generation, ListenAddress, MetricsSettings, Settings};
use crate::delivery::https::Https;
use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::route::source_addresses;
use crate::delivery::smtp::connection::Connector;
use crate::delivery::{DeliveryContext, Jobs, Signing, Workers, settle_doubts};
use crate::monitoring::metrics::{Metrics, RelayNumbers};
use crate::monitoring::page::PageCounts;
use crate::monitoring::readiness::{READY, Readiness};
use crate::monitoring::{self, Monitoring, MonitoringContext};
use crate::queue::{Event, Job, LaneHealth, Queue, QueueError, RecipientId, WriterHandle};
use crate::scheduler::Scheduler;
use crate::submission::Submission;
use crate::submission::users::{self, Attributes, Users};

/// After SIGTERM, content that a client is sending has this long to come to its end.
const CLIENTS_GRACE: Duration = Duration::from_secs(2);
/// A host that was given content has this long to answer. Without an answer the outcome is in doubt.
const HOSTS_GRACE: Duration = Duration::from_secs(3);
/// Then attempts have this long to be settled, at most (systemd's TimeoutStopSec is longer than all of it).
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// The user of a start without a config file.
const FIRST_USER: &str = "app";
/// How often it is looked whether systemd is to hear of something.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Events that the queue's writer may be ahead of the scheduler.
const EVENTS_MAX: usize = 4096;

/// What moves the mail that is queued, and may be under way with some already.
struct Engine {
    scheduler: Scheduler,
    scheduler_thread: JoinHandle<()>,
    workers: Workers,
    users: Arc<Users>,
}

/// What can be reached from outside.
struct Doors {
    operator_info: Arc<OperatorInfo>,
    submission: Arc<Submission>,
    on_demand: Arc<OnDemand>,
    monitoring: Monitoring,
    readiness: Arc<Readiness>,
}

/// A relay that runs.
pub struct Relay {
    queue: Queue,
    writer: WriterHandle,
    scheduler: Scheduler,
    scheduler_thread: JoinHandle<()>,
    workers: Workers,
    operator_info: Arc<OperatorInfo>,
    submission: Arc<Submission>,
    on_demand: Arc<OnDemand>,
    monitoring: Monitoring,
    readiness: Arc<Readiness>,
    /// `[metrics]` in use.
    metrics: Mutex<MetricsSettings>,
}

impl Relay {
    /// Starts everything; returns when every listener listens.
    ///
    /// # Errors
    /// Says which room could not start and what to do.
    pub fn start(settings: &Settings, clock: Clock) -> anyhow::Result<Relay> {
        Relay::start_with(settings, clock, resolver(settings)?, Vec::new())
    }

    /// [`Relay::start`] with names from elsewhere than DNS (a reload asks DNS again), and with sockets that are open
    /// already.
    ///
    /// # Errors
    /// As there.
    pub(super) fn start_with(
        settings: &Settings,
        clock: Clock,
        lookup: Arc<dyn Lookup + Send + Sync>,
        inherited: Vec<Socket>,
    ) -> anyhow::Result<Relay> {
        let (events_to, events) = bounded(EVENTS_MAX);
        let (queue, writer) = Queue::open(&settings.queue, events_to)?;
        let started = Engine::start(settings, lookup, &queue, events, &clock).and_then(|engine| {
            match Doors::open(settings, inherited, &queue, &engine, &clock) {
                Ok(doors) => Ok((engine, doors)),
                Err(error) => {
                    engine.stop();
                    Err(error)
                }
            }
        });
        match started {
            Ok((engine, doors)) => Ok(Relay::of(queue, writer, engine, doors, &settings.metrics)),
            Err(error) => {
                // What is not closed in order looks like a crash to the next start.
                if let Err(error) = writer.stop() {
                    log::error!("{error}");
                }
                Err(error)
            }
        }
    }

    fn of(
        queue: Queue,
        writer: WriterHandle,
        engine: Engine,
        doors: Doors,
        metrics: &MetricsSettings,
    ) -> Relay {
        let Engine { scheduler, scheduler_thread, workers, users: _ } = engine;
        let Doors { operator_info, submission, on_demand, monitoring, readiness } = doors;
        Relay {
            queue,
            writer,
            scheduler,
            scheduler_thread,
            workers,
            operator_info,
            submission,
            on_demand,
            monitoring,
            readiness,
            metrics: Mutex::new(metrics.clone()),
        }
    }

    /// The IP addresses where it listens, in the order of the config (a port 0 is shown as what it became).
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.submission.addresses()
    }

    /// Where `[metrics]` listens, in the same way.
    pub(super) fn watched_at(&self) -> Vec<ListenAddress> {
        self.monitoring.listening_at()
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes new settings; the queue's path stays as it is. Where the users file is no list of users, the users stay
    /// what they were, and all else is taken: the two are separate.
    ///
    /// # Errors
    /// As [`Relay::start`]; the old settings stay then.
    pub fn reload(&self, settings: &Settings) -> anyhow::Result<()> {
        let setup = setup(settings, resolver(settings)?)?;
        let users = self.on_demand.users();
        let (users, trouble) = if users.path() == settings.submission.users_file {
            let trouble = users.reload().err();
            (users, trouble)
        } else {
            let (users, trouble) = users.moved_to(&settings.submission.users_file)?;
            (Arc::new(users), trouble)
        };
        self.monitoring.reload(&settings.metrics)?;
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.submission.reload(&settings.submission, users.clone()) {
            if let Err(error) = self.monitoring.reload(&metrics) {
                log::error!("{error} (nothing listens there until the next reload)");
            }
            return Err(error.into());
        }
        *metrics = settings.metrics.clone();
        if let Some(error) = trouble {
            log::error!("{error} (the users of before stay)");
        }
        self.on_demand.set_users(users);
        self.workers.reconfigure(setup);
        self.scheduler.reconfigure(settings.scheduler.clone());
        self.queue.show_config(&settings.routes, settings.delivery.lifetimes);
        self.operator_info.generation().advance(self.operator_info.clock.now());
        Ok(())
    }

    /// No new mail, no new attempts; content that is on its way, in or out, has a few seconds to get there, and
    /// nothing else is waited for. Then the queue closes.
    ///
    /// # Errors
    /// Where the queue's writer failed.
    pub fn stop(self) -> anyhow::Result<()> {
        let content_until = Instant::now() + HOSTS_GRACE;
        self.readiness.stop();
        self.on_demand.stop();
        self.scheduler.stop();
        self.workers.stop(content_until);
        self.submission.stop(CLIENTS_GRACE);
        let left = self.workers.drain(content_until + SETTLE_MAX);
        if left > 0 {
            log::warn!("{left} attempts could not be broken off; their mail stays queued");
        }
        self.monitoring.stop();
        // The thread hears of the stop at its next tick.
        let _ = self.scheduler_thread.join();
        self.writer.stop()?;
        Ok(())
    }
}

impl Engine {
    fn start(
        settings: &Settings,
        lookup: Arc<dyn Lookup + Send + Sync>,
        queue: &Queue,
        events: Receiver<Event>,
        clock: &Clock,
    ) -> anyhow::Result<Engine> {
        let lifetimes = settings.delivery.lifetimes;
        if let Some(last) = queue.last_time() {
            clock.begin_after(last, lifetimes.messages.min(lifetimes.bounces));
        }
        let setup = setup(settings, lookup)?;
        monitoring::count(&settings.metrics);
        settle_doubts(queue, settings.delivery.in_doubt, clock.now())?;
        let users = Arc::new(Users::load(&settings.submission.users_file)?);
        let (scheduler, scheduler_thread) =
            Scheduler::start(settings.scheduler.clone(), queue.clone(), events, clock.clone())?;
        queue.show_config(&settings.routes, lifetimes);
        // Before the first worker: mail that is fetched must not go out in between.
        scheduler.set_atrn(users.atrn_domains())?;
        let workers = Workers::start(setup, queue.clone(), Box::new(scheduler.clone()), clock.clone());
        Ok(Engine { scheduler, scheduler_thread, workers, users })
    }

    /// After a start that failed.
    fn stop(self) {
        let content_until = Instant::now() + HOSTS_GRACE;
        self.scheduler.stop();
        self.workers.stop(content_until);
        self.workers.drain(content_until + SETTLE_MAX);
    }
}

impl Doors {
    fn open(
        settings: &Settings,
        inherited: Vec<Socket>,
        queue: &Queue,
        engine: &Engine,
        clock: &Clock,
    ) -> anyhow::Result<Doors> {
        let Engine { scheduler, workers, users, .. } = engine;
        let on_demand = OnDemand::start(users.clone(), scheduler.clone(), workers.clone())?;
        let operator_info = Arc::new(OperatorInfo {
            queue: queue.clone(),
            scheduler: scheduler.clone(),
            workers: workers.clone(),
            generation: Arc::new(Mutex::new(Generation::first(clock.now()))),
            clock: clock.clone(),
        });
        let submission = Arc::new(Submission::start(
            &settings.submission,
            inherited,
            users.clone(),
            queue.clone(),
            operator_info.clone(),
            on_demand.clone(),
            clock.clone(),
        )?);
        let readiness = Arc::new(Readiness::new(queue.clone()));
        let context = MonitoringContext {
            queue: queue.clone(),
            scheduler: scheduler.clone(),
            workers: workers.clone(),
            readiness: readiness.clone(),
            numbers: numbers(&submission, workers, &operator_info),
            metrics: Metrics::default(),
            counts: PageCounts::new(settings.queue.path.clone(), scheduler.clone(), clock.clone()),
            config: operator_info.generation.clone(),
            queue_path: settings.queue.path.clone(),
            clock: clock.clone(),
        };
        let monitoring = Monitoring::start(&settings.metrics, context)?;
        Ok(Doors { operator_info, submission, on_demand, monitoring, readiness })
    }
}

/// What rooms count that monitoring does not know.
fn numbers(
    submission: &Arc<Submission>,
    workers: &Workers,
    operator_info: &Arc<OperatorInfo>,
) -> Box<dyn Fn() -> RelayNumbers + Send + Sync> {
    let (submission, workers, operator_info) = (submission.clone(), workers.clone(), operator_info.clone());
    let started_at = operator_info.clock.now();
    Box::new(move || {
        let config = operator_info.generation();
        let (generation, loaded_at) = (config.number(), config.loaded_at());
        drop(config);
        RelayNumbers {
            sessions: submission.sessions(),
            sessions_began: submission.sessions_began(),
            connections_out: workers.open_connections(),
            // Whoever has it knows better.
            is_ready: false,
            certificate_not_after: submission.certificate_ends_at(),
            log_lines_dropped: log_output::dropped(),
            generation,
            loaded_at,
            started_at,
        }
    })
}

fn resolver(settings: &Settings) -> anyhow::Result<Arc<dyn Lookup + Send + Sync>> {
    Ok(Arc::new(Resolver::new(&settings.dns).context("[dns]")?))
}

/// What an attempt needs, from the settings.
fn setup(settings: &Settings, lookup: Arc<dyn Lookup + Send + Sync>) -> anyhow::Result<DeliveryContext> {
    // It may get the address later, so this keeps nobody from starting; what should leave from there waits.
    for (ip, error) in source_addresses::unusable(&settings.delivery, &settings.routes) {
        log::error!("nothing can be sent from {ip}: {error}; {}", source_addresses::REMEDY);
    }
    Ok(DeliveryContext {
        settings: settings.delivery.clone(),
        routes: settings.routes.clone(),
        https: Arc::new(Https::new(&settings.delivery, Arc::clone(&lookup))?),
        signing: Signing::new(settings.delivery.keyring.clone()),
        lookup,
        connector: Connector::new(&settings.delivery)?,
    })
}

/// The scheduler is where workers get their jobs.
impl Jobs for Scheduler {
    fn next(&self, patience: Duration) -> Option<Job> {
        Scheduler::next(self, patience)
    }

    fn finished(&self, job: &Job, health: &LaneHealth, unsettled: &[RecipientId]) {
        Scheduler::finished(self, job, health, unsettled);
    }

    fn stopping(&self) -> bool {
        Scheduler::stopping(self)
    }
}

/// Runs until SIGTERM or SIGINT. `config` is `--config`, `sockets` are those that the process was started with.
///
/// # Errors
/// Where it cannot start, or had to stop because the disk failed.
pub fn run(config: Option<&Path>, sockets: Vec<Socket>) -> anyhow::Result<()> {
    let loaded = config::load(config)?;
    log_output::start("info", loaded.settings.log).context(log_output::NO_THREAD)?;
    loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    look_at_certificate(&loaded.settings);
    look_at_users(&loaded.settings);
    raise_descriptor_limit(&loaded.settings);
    let signals = signals()?;
    if loaded.is_built_in() {
        config::make_built_in_directory().map_err(anyhow::Error::msg)?;
    }
    let first_password = if loaded.is_built_in() { first_user(&loaded.settings)? } else { None };
    let settings = &loaded.settings;
    let relay = Relay::start_with(settings, Clock::system(), resolver(settings)?, sockets)?;
    relay.operator_info.generation().read_from(&loaded, config.map(Path::to_owned));
    announce(&relay, &loaded.origin());
    if let (Some(password), Some(address)) = (first_password, relay.addresses().first()) {
        // The relay does not end for want of a reader: it has been started.
        if let Err(error) = welcome(&password, *address) {
            log::warn!(
                "the password of the first user could not be shown ({error}); postrider user passwd {FIRST_USER} \
                 gives another one"
            );
        }
    }
    let mut status = String::new();
    tell_status(&relay.readiness, &mut status);
    notify(&[sd_notify::NotifyState::Ready]);

    let (pulse, look) = (tick(watchdog_interval()), tick(STATUS_EVERY));
    let failed = relay.writer.failed().clone();
    let verdict = loop {
        select! {
            recv(signals) -> signal => match signal {
                Ok(SIGHUP) => reload(&relay, config),
                Ok(SIGTERM | SIGINT) => break Ok(()),
                _ => {}
            },
            recv(failed) -> why => {
                break Err(why.unwrap_or_else(|_| QueueError::Writer("it ended".to_owned())));
            }
            recv(pulse) -> _ => if relay.scheduler.is_alive() {
                notify(&[sd_notify::NotifyState::Watchdog]);
            },
            recv(look) -> _ => tell_status(&relay.readiness, &mut status)
        }
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    match verdict {
        Ok(()) => {
            log::info!("stopping: no new mail; content on its way has {} s", HOSTS_GRACE.as_secs());
            relay.stop()?;
            log::info!("stopped");
            Ok(())
        }
        // What is in memory is not trusted to be on disk any more: no drain, a new start reads what the disk
        // holds.
        Err(error) => Err(anyhow::Error::from(error).context("stopped at once")),
    }
}

/// SIGTERM, SIGINT and SIGHUP as values. A second SIGTERM or SIGINT ends the process at once.
fn signals() -> anyhow::Result<Receiver<i32>> {
    let (to, signals) = bounded(8);
    let mut caught =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).context("catch signals")?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut asked_to_stop = false;
        for signal in caught.forever() {
            if signal != SIGHUP && std::mem::replace(&mut asked_to_stop, true) {
                log::warn!("asked to stop a second time: stopping at once; what is queued stays queued");
                log_output::flush();
                std::process::exit(1);
            }
            if to.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(signals)
}

/// SIGHUP: a bad new config is logged, and the old one stays.
fn reload(relay: &Relay, config: Option<&Path>) {
    let outcome = config::load(config).map_err(anyhow::Error::from).and_then(|loaded| {
        loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        look_at_certificate(&loaded.settings);
        look_at_users(&loaded.settings);
        relay.reload(&loaded.settings)?;
        log_output::configure(loaded.settings.log);
        relay.operator_info.generation().read_from(&loaded, config.map(Path::to_owned));
        Ok(())
    });
    match outcome {
        Ok(()) => log::info!("config reloaded"),
        Err(error) => {
            let text = format!("the new config is not used, the old one stays: {}", output::whole(&error));
            text.lines().for_each(|line| log::error!("{line}"));
        }
    }
}

/// What clients would find out first: it has expired, or is somebody else's.
fn look_at_certificate(settings: &Settings) {
    let Some(tls) = &settings.submission.tls else { return };
    for finding in check::certificate::look_at(tls, &settings.hostname) {
        match finding.level {
            check::Level::Ok => {}
            check::Level::Warning => log::warn!("certificate: {}", finding.text),
            check::Level::Problem => log::error!("certificate: {}", finding.text),
        }
    }
}

fn look_at_users(settings: &Settings) {
    if let Some(missing) = check::users_missing(settings) {
        log::warn!("users: {missing}");
    }
}

fn announce(relay: &Relay, config: &str) {
    log::info!("postrider {} started, config: {config}", env!("CARGO_PKG_VERSION"));
    for address in relay.submission.listening_at() {
        log::info!("listening on {address}");
    }
    for address in relay.monitoring.listening_at() {
        log::info!("metrics and status page on {address}");
    }
}

/// Without a config file and without users: makes one, so that a first message can be sent. Gives its password.
fn first_user(settings: &Settings) -> anyhow::Result<Option<String>> {
    let file = &settings.submission.users_file;
    if !users::list(file)?.is_empty() {
        return Ok(None);
    }
    let password = users::random_password()?;
    users::add(file, FIRST_USER, &password, &Attributes::default())?;
    Ok(Some(password))
}

/// The one thing printed to standard output: what a person needs to send a first message.
fn welcome(password: &str, address: std::net::SocketAddr) -> anyhow::Result<()> {
    print(&format!(
        "Postrider listens on {address} (STARTTLS, self-signed certificate) and keeps its queue in {dir}/queue.db.\n\
         A first user was made; the password is shown this once:\n\n    \
         user      {FIRST_USER}\n    password  {password}\n\n\
         Send a first message:\n\n    \
         printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | \\\n         \
         curl --url smtp://{address} --ssl-reqd --insecure --user '{FIRST_USER}:{password}' \\\n         \
         --mail-from you@example.com --mail-rcpt you@example.com --upload-file -\n\n\
         Then see what became of it: postrider queue list\n\n",
        dir = config::BUILT_IN_DIRECTORY,
    ))
}

/// See [`check::descriptors_wanted`].
fn raise_descriptor_limit(settings: &Settings) {
    let wanted = check::descriptors_wanted(settings);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => log::warn!(
            "only {limit} descriptors are allowed, {wanted} may be needed: raise LimitNOFILE or lower [limits] sessions"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("cannot raise the limit of descriptors: {error}"),
    }
}

/// What `systemctl status` shows, when it has changed: what `/readyz` says.
fn tell_status(readiness: &Readiness, told: &mut String) {
    let status = readiness.known().err().unwrap_or_else(|| READY.to_owned());
    if status != *told {
        notify(&[sd_notify::NotifyState::Status(&status)]);
        *told = status;
    }
}

/// Where there is no systemd this does nothing.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("cannot notify systemd: {error}");
    }
}

/// Half of what systemd asks for; a slow pulse where it asks for nothing.
fn watchdog_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(Duration::from_secs(60), |asked| asked / 2)
}
