//! Submission: the SMTP server. It takes mail from applications and answers 250 once the queue has it on disk.
//!
//! The wings, top first. A wing imports only wings that stand below it, and no two files import each other.
//!
//! - `session`: listeners accept connections, the pool runs a session on each, the session's loop acts
//! - `protocol`: what is answered to a command, and what follows from it; pure
//! - `message`: the content: where it ends, what its header lacks, its way into the queue
//! - `auth`: the exchanges of AUTH; pure
//! - `limits`: bad commands, failed logins, recipients an hour, bytes in the queue, ETRN, sessions at once
//! - `users`: the users file, and passwords held against it
//! - `wire`: lines in, replies out, in the clear or over TLS
//! - `replies`: every reply by name
//! - `syntax`: a line of bytes read into a command; pure. And `ports`: the traits to the other rooms
//!
//! A command's way: `wire/connection.rs` cuts the line, `syntax/parse.rs` reads it, `protocol/dispatch.rs` decides,
//! `session/conversation.rs` sends the reply and acts. Which file turns away which attack is in `docs/security.md`.

mod auth;
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod message;
mod ports;
mod protocol;
mod replies;
mod session;
mod syntax;
#[cfg(test)]
mod tests;
pub mod users;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;

use crate::clock::Clock;
use crate::config::{ListenAddress, SubmissionSettings};
use crate::queue::Queue;

use session::authority;
use session::certificate_watch;
use session::listeners::Listeners;
use session::lockout_watch;
use session::service::{Ports, Service, SessionResources};
use session::sockets::Sockets;
use users::{Directory, Users};

pub use limits::networks::counted_for;
pub use ports::{OnDemand, OperatorQueries, OperatorQuery, ReversedConnection, WaitingMail};
pub use session::service::StartError;
pub(crate) use session::unix_socket;
pub use wire::{certificate, tls};

/// The running room: listeners and sessions. Dropping it stops nothing; [`Submission::stop`] does.
pub struct Submission {
    resources: Arc<SessionResources>,
    sockets: Sockets,
    listeners: Mutex<Listeners>,
}

impl Submission {
    /// Opens every `[[listen]]` address and begins to accept; `inherited` are sockets that are open already.
    /// `operator_queries` answers operators, and connections that ATRN reverses go to `on_demand`.
    ///
    /// # Errors
    /// Nothing listens then.
    pub fn start(
        settings: &SubmissionSettings,
        inherited: Vec<Socket>,
        users: Arc<Users>,
        queue: Queue,
        operator_queries: Arc<dyn OperatorQueries>,
        on_demand: Arc<dyn OnDemand>,
        clock: Clock,
    ) -> Result<Submission, StartError> {
        let ports = Ports { queue: Arc::new(queue), operator_queries, on_demand, clock };
        Submission::start_with(settings, inherited, Box::new(users), ports)
    }

    fn start_with(
        settings: &SubmissionSettings,
        inherited: Vec<Socket>,
        users: Box<dyn Directory>,
        ports: Ports,
    ) -> Result<Submission, StartError> {
        let service = Service::new(settings, users, ports.clock.now(), None)?;
        let sockets = Sockets::new(inherited, &settings.listen)?;
        let resources = Arc::new(SessionResources::new(service, ports)?);
        // Before the first login.
        lockout_watch::watch(&resources).map_err(StartError::Threads)?;
        let listeners = Listeners::start(&settings.listen, &sockets, &resources)?;
        authority::watch(&resources).map_err(StartError::Threads)?;
        certificate_watch::watch(&resources).map_err(StartError::Threads)?;
        Ok(Submission { resources, sockets, listeners: Mutex::new(listeners) })
    }

    /// Where it listens, in the order of the settings; the port the system chose where they say 0.
    pub fn listening_at(&self) -> Vec<ListenAddress> {
        self.listeners().addresses()
    }

    /// Those that are IP addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listening_at().iter().filter_map(ListenAddress::ip).collect()
    }

    /// Until when the certificate in use holds, in Unix seconds; None without one.
    pub fn certificate_ends_at(&self) -> Option<i64> {
        self.resources.service().certificate.as_ref()?.ends_at()
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.resources.sessions.count()
    }

    /// Sessions since the start, those that were refused a place apart.
    pub fn sessions_began(&self) -> u64 {
        self.resources.sessions.began()
    }

    /// Goes over to new settings: certificate, limits, aliases and what listeners allow hold for sessions that
    /// begin from now on; who may send (users, `trusted`) holds for all at once. It listens where a start with these
    /// settings would, and is refused what that would be; the sessions of listeners that are gone go on.
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
        let before = self.resources.service().certificate.clone();
        let service = Service::new(settings, users, self.resources.ports.clock.now(), before.as_ref())?;
        self.sockets.all_listed(&settings.listen)?;
        self.listeners().reload(&settings.listen, service, &self.sockets, &self.resources)
    }

    /// Closes the listeners and ends all sessions with 421: those that wait for a command at once, those that read
    /// content after `grace`; what is left a second later is cut off. Gives how many that were; what they had not
    /// been told 250 for is not queued.
    pub fn stop(&self, grace: Duration) -> usize {
        let listeners = std::mem::take(&mut *self.listeners());
        listeners.stop();
        let cut_off = self.resources.sessions.stop(grace);
        lockout_watch::finish(&self.resources);
        cut_off
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
