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

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{ListenSettings, SubmissionSettings};
use crate::queue::Queue;

use session::authority;
use session::listener::Listener;
use session::service::{Ports, Service, SessionResources};
use session::sockets::Sockets;
use users::{Directory, Users};

pub use ports::{OnDemand, OperatorQueries, OperatorQuery, ReversedConnection, WaitingMail};
pub use session::service::StartError;
pub use wire::tls;

/// The running room: listeners and sessions. Dropping it stops nothing; [`Submission::stop`] does.
pub struct Submission {
    resources: Arc<SessionResources>,
    sockets: Sockets,
    listeners: Mutex<Vec<Listener>>,
}

impl Submission {
    /// Opens every `[[listen]]` address and begins to accept; `inherited` are sockets that are open already.
    /// `operator_queries` answers operators, and connections that ATRN reverses go to `on_demand`.
    ///
    /// # Errors
    /// Nothing listens then.
    pub fn start(
        settings: &SubmissionSettings,
        inherited: Vec<TcpListener>,
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
        inherited: Vec<TcpListener>,
        users: Box<dyn Directory>,
        ports: Ports,
    ) -> Result<Submission, StartError> {
        let service = Service::new(settings, users)?;
        let sockets = Sockets::new(inherited, &settings.listen)?;
        let open = |listen| sockets.open(listen, &settings.listen);
        let opened = settings.listen.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let resources = Arc::new(SessionResources::new(service, ports)?);
        authority::watch(&resources).map_err(StartError::Threads)?;
        let mut listeners = Vec::new();
        for (listen, socket) in settings.listen.iter().zip(opened) {
            listeners.push(Listener::start(listen, socket, &resources)?);
        }
        Ok(Submission { resources, sockets, listeners: Mutex::new(listeners) })
    }

    /// Where it listens, in the order of the settings; the port the system chose where they say 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners().iter().map(Listener::local_address).collect()
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.resources.sessions.count()
    }

    /// Goes over to new settings: certificate, limits, aliases and what listeners allow hold for sessions that
    /// begin from now on; who may send (users, `trusted`) holds for all at once. Listeners whose address stays go on
    /// listening, new ones are opened and those that are gone are closed (their sessions go on), unless systemd has
    /// their socket.
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
        self.sockets.all_listed(&settings.listen)?;
        let mut listeners = self.listeners();
        let mut old = std::mem::take(&mut *listeners);
        let known: Vec<SocketAddr> = old.iter().map(Listener::configured_address).collect();
        let opened = self.open_new(&settings.listen, known);
        let mut opened = match opened {
            Ok(opened) => opened.into_iter(),
            Err(error) => {
                *listeners = old;
                return Err(error);
            }
        };
        self.resources.set_service(service);
        for listen in &settings.listen {
            match old.iter().position(|listener| listener.configured_address() == listen.address) {
                Some(place) => {
                    let listener = old.remove(place);
                    listener.set(listen);
                    listeners.push(listener);
                }
                None => {
                    if let Some(socket) = opened.next() {
                        listeners.push(Listener::start(listen, socket, &self.resources)?);
                    }
                }
            }
        }
        old.into_iter().for_each(Listener::retire);
        Ok(())
    }

    /// Closes the listeners and ends all sessions with 421: those that wait for a command at once, those that read
    /// content after `grace`; what is left a second later is cut off. Gives how many that were; what they had not
    /// been told 250 for is not queued.
    pub fn stop(&self, grace: Duration) -> usize {
        let listeners = std::mem::take(&mut *self.listeners());
        listeners.into_iter().for_each(Listener::stop);
        self.resources.sessions.stop(grace)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the addresses of `listen` that are not among `known`, all or none.
    fn open_new(
        &self,
        listen: &[ListenSettings],
        mut known: Vec<SocketAddr>,
    ) -> Result<Vec<TcpListener>, StartError> {
        let mut opened = Vec::new();
        for one in listen {
            match known.iter().position(|address| *address == one.address) {
                Some(place) => drop(known.remove(place)),
                None => opened.push(self.sockets.open(one, listen)?),
            }
        }
        Ok(opened)
    }
}
