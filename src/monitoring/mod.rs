//! Monitoring: what can be read of the relay over HTTP, by programs and by people. Off unless `[metrics] listen` says
//! where.
//!
//! `http.rs` is the server. `ROUTES` says which path is answered by what: a function that looks at the
//! [`MonitoringContext`] and changes nothing. Mail never waits for any of it.

pub mod http;
pub mod live;
pub mod metrics;
pub mod page;
pub mod readiness;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::config::{Generation, ListenAddress, MetricsSettings};
use crate::delivery::Workers;
use crate::queue::Queue;
use crate::scheduler::Scheduler;

use http::Server;
pub use http::{Request, Response, Status};
use page::PageCounts;
use readiness::Readiness;

pub use http::StartError;
use metrics::{Metrics, RelayNumbers};

/// What answers can look at.
pub struct MonitoringContext {
    /// The queue.
    pub queue: Queue,
    /// What is tried when.
    pub scheduler: Scheduler,
    /// What delivers, and by which settings.
    pub workers: Workers,
    /// Whether a message could be committed.
    pub readiness: Arc<Readiness>,
    /// What the status page shows.
    pub counts: PageCounts,
    /// The config in use.
    pub config: Arc<Mutex<Generation>>,
    /// The database.
    pub queue_path: PathBuf,
    /// The time.
    pub clock: Clock,
    /// What other rooms count.
    pub numbers: Box<dyn Fn() -> RelayNumbers + Send + Sync>,
    /// What waits, as it was counted last.
    pub metrics: Metrics,
}

/// Answers a request for one path.
type Handler = fn(&MonitoringContext, &Request) -> Response;

/// Which path is answered by what, and what it is for. A path that ends with `/` has all below it.
const ROUTES: &[(&str, Handler, &str)] = &[
    ("/", page::status, "how it stands with the relay, for people"),
    ("/message/", page::message, "with a queue id behind it: all that is known of a message"),
    ("/livez", lives, "200 while the relay works"),
    ("/readyz", readiness::ready, "200 while a message could be committed, or 503 and why not"),
    ("/live", live::answer, "connections and busy lanes at this moment, in JSON, for `postrider top`"),
    ("/metrics", metrics, "metrics for Prometheus"),
];

/// The running room.
pub struct Monitoring {
    server: Server,
    counts: PageCounts,
    /// It listens somewhere.
    is_on: AtomicBool,
}

impl Monitoring {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// Nothing listens then.
    pub fn start(settings: &MetricsSettings, context: MonitoringContext) -> Result<Monitoring, StartError> {
        let (clock, counts) = (context.clock.clone(), context.counts.clone());
        let context = Arc::new(context);
        let answer = move |request: &Request| answer(&context, request);
        let monitoring = Monitoring {
            server: Server::new(Box::new(answer), clock),
            counts,
            is_on: AtomicBool::new(false),
        };
        monitoring.reload(settings)?;
        Ok(monitoring)
    }

    /// Where it listens, in the order of the settings.
    pub fn listening_at(&self) -> Vec<ListenAddress> {
        self.server.listening_at()
    }

    /// Goes over to these settings.
    ///
    /// # Errors
    /// It listens where it did before.
    pub fn reload(&self, settings: &MetricsSettings) -> Result<(), StartError> {
        count(settings);
        let done = self.server.reload(settings);
        let was_on = self.is_on.load(Ordering::Relaxed);
        let is_on = if done.is_ok() { !settings.listen.is_empty() } else { was_on };
        self.is_on.store(is_on, Ordering::Relaxed);
        // What was begun ends where nobody can ask for it.
        if !is_on && (was_on || !settings.listen.is_empty()) {
            metrics::end();
        }
        done
    }

    /// Closes the listeners and cuts connections off.
    pub fn stop(&self) {
        self.server.stop();
        self.counts.stop();
    }
}

/// Counts what happens from now on, where the settings want to know. To be called before the rooms start.
pub fn count(settings: &MetricsSettings) {
    if !settings.listen.is_empty() {
        metrics::begin();
    }
}

fn answer(context: &MonitoringContext, request: &Request) -> Response {
    let is_it = |path: &str| {
        request.path == path || path.len() > 1 && path.ends_with('/') && request.path.starts_with(path)
    };
    match ROUTES.iter().find(|(path, ..)| is_it(path)) {
        Some((_, handler, _)) => handler(context, request),
        None => {
            let known: String = ROUTES.iter().map(|(path, _, what)| format!("{path}  {what}\n")).collect();
            Response::text(Status::NotFound, format!("nothing is here; there is\n{known}"))
        }
    }
}

/// Whether the process does its work, as systemd's watchdog is told.
fn lives(context: &MonitoringContext, _: &Request) -> Response {
    if context.scheduler.is_alive() {
        Response::text(Status::Ok, "live\n")
    } else {
        Response::text(Status::Unavailable, "the scheduler does not answer\n")
    }
}

/// All that is counted.
fn metrics(context: &MonitoringContext, request: &Request) -> Response {
    let numbers = RelayNumbers { is_ready: context.readiness.ask().is_ok(), ..(context.numbers)() };
    let scrape =
        context.metrics.scrape(&context.queue, &numbers, context.clock.now(), request.accept.as_deref());
    match scrape {
        Ok(scrape) => Response::of(Status::Ok, scrape.content_type, scrape.text),
        Err(error) => Response::text(Status::Unavailable, format!("{error}\n")),
    }
}
