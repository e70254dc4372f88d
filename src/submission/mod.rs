//! Submission: mail is taken from applications here, and hostile bytes end here.
//!
//! Listener threads accept connections and the session pool runs each on a thread of its own:
//! `wire` reads lines, `command` understands them, `protocol` decides, `session` acts, `content`,
//! `chunk` and `intake` take the message, and 250 is said once the queue has it on disk.
//!
//! What is refused here, and where: relaying for strangers (`transaction`), smuggled ends of data
//! (`content`), clear text slipped under TLS (`wire`), control characters in commands (`command`),
//! guessed passwords (`failures`), others' addresses (`senders`), floods of messages (`rates`) and of sessions
//! (`pool`), loops (`header`), silence (`session`).

mod auth;
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod message;
mod protocol;
mod replies;
mod session;
mod syntax;
#[cfg(test)]
mod tests;
pub mod users;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::config::{Limits, ListenSettings, ListenTls, SubmissionSettings};
use crate::mail::{Address, Domain};
use crate::queue::Queue;

use limits::failures::Failures;
use limits::rates::Rates;
use message::intake::MessageQueue;
pub use protocol::atrn::{OnDemand, Turned, Waiting};
use session::listener::Listener;
use session::pool::Pool;
use users::{Directory, Users};
use wire::handshake::Handshakes;
pub use wire::tls;

pub use protocol::operator_commands::{Insight, Question};

/// The running room: listeners and sessions. Dropping it stops nothing; [`Submission::stop`] does.
pub struct Submission {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Listener>>,
}

/// Why submission cannot start, or cannot go over to new settings.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("[[listen]] address {address}: {source} ({remedy})")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The system gives no threads.
    #[error("starting threads: {0} (raise TasksMax)")]
    Threads(#[source] std::io::Error),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] wire::tls::TlsError),
    /// A listener wants TLS and there is no certificate.
    #[error("[[listen]] address {0} has TLS, but there is no [tls] certificate (set one, or tls = \"off\")")]
    NoCertificate(SocketAddr),
}

/// What listeners and sessions share.
struct Shared {
    service: RwLock<Arc<Service>>,
    queue: Arc<dyn MessageQueue>,
    on_demand: Arc<dyn OnDemand>,
    failures: Failures,
    rates: Rates,
    handshakes: Handshakes,
    kicks: protocol::etrn::Recent,
    insight: Arc<dyn Insight>,
    pool: Arc<Pool>,
}

/// What a session has to go by; a reload makes a new one for the sessions that begin after it.
struct Service {
    hostname: Domain,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    aliases: BTreeMap<String, Vec<Address>>,
    lifetime: Duration,
    users: Box<dyn Directory>,
}

impl Service {
    fn new(settings: &SubmissionSettings, users: Box<dyn Directory>) -> Result<Service, StartError> {
        let tls = match &settings.tls {
            Some(certificate) => Some(wire::tls::server_config(certificate, &settings.hostname)?),
            None => None,
        };
        let without = |listen: &&ListenSettings| listen.tls != ListenTls::Off && tls.is_none();
        if let Some(listen) = settings.listen.iter().find(without) {
            return Err(StartError::NoCertificate(listen.address));
        }
        Ok(Service {
            hostname: settings.hostname.clone(),
            tls,
            limits: settings.limits.clone(),
            aliases: settings.aliases.clone(),
            lifetime: settings.lifetime,
            users,
        })
    }
}

impl Shared {
    fn service(&self) -> Arc<Service> {
        // Only ever replaced whole, so there is nothing half done behind a poisoned lock.
        Arc::clone(&self.service.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Submission {
    /// Binds every `[[listen]]` address and begins to accept. `insight` answers operators, and connections that
    /// ATRN turns round go to `on_demand`.
    ///
    /// # Errors
    /// Nothing listens then.
    pub fn start(
        settings: &SubmissionSettings,
        users: Arc<Users>,
        queue: Queue,
        insight: Arc<dyn Insight>,
        on_demand: Arc<dyn OnDemand>,
    ) -> Result<Submission, StartError> {
        Submission::start_with(settings, Box::new(users), Arc::new(queue), insight, on_demand)
    }

    fn start_with(
        settings: &SubmissionSettings,
        users: Box<dyn Directory>,
        queue: Arc<dyn MessageQueue>,
        insight: Arc<dyn Insight>,
        on_demand: Arc<dyn OnDemand>,
    ) -> Result<Submission, StartError> {
        let service = Service::new(settings, users)?;
        let sockets = settings.listen.iter().map(session::listener::bind).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            service: RwLock::new(Arc::new(service)),
            queue,
            on_demand,
            failures: Failures::new(Instant::now()),
            rates: Rates::new(Instant::now()),
            handshakes: Handshakes::start().map_err(StartError::Threads)?,
            kicks: protocol::etrn::Recent::default(),
            insight,
            pool: Pool::new(),
        });
        let mut listeners = Vec::new();
        for (listen, socket) in settings.listen.iter().zip(sockets) {
            listeners.push(Listener::start(listen, socket, &shared)?);
        }
        Ok(Submission { shared, listeners: Mutex::new(listeners) })
    }

    /// Where it listens, in the order of the settings; the port the system chose where they say 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners().iter().map(Listener::local_address).collect()
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.shared.pool.sessions()
    }

    /// Goes over to new settings: certificate, users, limits, aliases and what listeners allow hold for
    /// sessions that begin from now on. Listeners whose address stays go on listening, new ones
    /// are opened and those that are gone are closed (their sessions go on).
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn reload(&self, settings: &SubmissionSettings, users: Arc<Users>) -> Result<(), StartError> {
        self.reload_with(settings, Box::new(users))
    }

    fn reload_with(
        &self,
        settings: &SubmissionSettings,
        users: Box<dyn Directory>,
    ) -> Result<(), StartError> {
        let service = Service::new(settings, users)?;
        let mut listeners = self.listeners();
        let mut old = std::mem::take(&mut *listeners);
        let known: Vec<SocketAddr> = old.iter().map(Listener::configured_address).collect();
        let opened = open_new(&settings.listen, known);
        let mut opened = match opened {
            Ok(opened) => opened.into_iter(),
            Err(error) => {
                *listeners = old;
                return Err(error);
            }
        };
        *self.shared.service.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(service);
        for listen in &settings.listen {
            match old.iter().position(|listener| listener.configured_address() == listen.address) {
                Some(place) => {
                    let listener = old.remove(place);
                    listener.set(listen);
                    listeners.push(listener);
                }
                None => {
                    if let Some(socket) = opened.next() {
                        listeners.push(Listener::start(listen, socket, &self.shared)?);
                    }
                }
            }
        }
        old.into_iter().for_each(Listener::stop);
        Ok(())
    }

    /// Closes the listeners and ends all sessions: idle ones at once with 421, those within a transaction
    /// when it is done, and those not done after `patience` by cutting them off. Gives how many
    /// were cut off; what they had not been told 250 for is not queued.
    pub fn stop(&self, patience: Duration) -> usize {
        let listeners = std::mem::take(&mut *self.listeners());
        listeners.into_iter().for_each(Listener::stop);
        self.shared.pool.stop(patience)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds the addresses of `listen` that are not among `known`, all or none.
fn open_new(
    listen: &[ListenSettings],
    mut known: Vec<SocketAddr>,
) -> Result<Vec<std::net::TcpListener>, StartError> {
    let mut opened = Vec::new();
    for listen in listen {
        match known.iter().position(|address| *address == listen.address) {
            Some(place) => drop(known.remove(place)),
            None => opened.push(session::listener::bind(listen)?),
        }
    }
    Ok(opened)
}
