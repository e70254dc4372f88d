//! A small HTTP/1.1 server: GET and HEAD, one request a connection, bounded in time, size and number.
//!
//! Behind a listener (`http/listener.rs`) each connection has a thread (`http/connections.rs`), at most 16 of them. A
//! request is read by `http/request.rs`, may be asked by whom `http/access.rs` says, and the answer goes out with the
//! fields of `http/response.rs`. Nothing here holds up a relay that stops: connections are cut off.

mod access;
mod connections;
mod listener;
mod request;
mod response;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{ListenAddress, MetricsSettings};
use crate::submission::unix_socket;

use access::{ReachedFrom, Token};
use connections::Connections;
use listener::{Bound, Listener};

pub use request::Request;
pub use response::{Response, Status};

/// What an answer may still take at the end.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Why it cannot listen where the settings say.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("metrics.listen {address}: {source} ({remedy})")]
    Listen {
        /// Which.
        address: ListenAddress,
        /// What the system says.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The token cannot be had.
    #[error("metrics.token_file: {0}")]
    Token(#[source] io::Error),
}

/// Answers a request.
type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// Listeners and connections.
pub(super) struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Listener>>,
}

/// What all connections share.
struct Shared {
    answer: Box<Answer>,
    clock: Clock,
    token: RwLock<Option<Token>>,
    connections: Connections,
}

impl Shared {
    fn answer(&self, request: &Request, reached: ReachedFrom) -> Response {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        access::refusal(request, reached, token.as_ref()).unwrap_or_else(|| (self.answer)(request))
    }
}

impl Server {
    /// Listens on nothing yet: see [`Server::reload`].
    pub(super) fn new(answer: Box<Answer>, clock: Clock) -> Server {
        let shared = Shared { answer, clock, token: RwLock::default(), connections: Connections::default() };
        Server { shared: Arc::new(shared), listeners: Mutex::default() }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> Option<Token> {
        self.shared.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_token(&self, token: Option<Token>) {
        *self.shared.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Where it listens, in the order of the settings; the port the system chose where they say 0.
    pub(super) fn listening_at(&self) -> Vec<ListenAddress> {
        self.listeners().iter().map(Listener::local_address).collect()
    }

    /// Goes over to these settings. A listener stays where they want the same one.
    ///
    /// # Errors
    /// It listens where it did before, as far as that can still be had.
    pub(super) fn reload(&self, settings: &MetricsSettings) -> Result<(), StartError> {
        let token = settings.token_file.as_deref().map(Token::read).transpose().map_err(StartError::Token)?;
        let wanted: Vec<Bound> = settings
            .listen
            .iter()
            .map(|address| Bound { address: address.clone(), access: settings.access.clone() })
            .collect();
        let mut listeners = self.listeners();
        let before: Vec<Bound> = listeners.iter().map(|listener| listener.bound().clone()).collect();
        // A token holds before somebody can ask without it.
        let old_token = self.token();
        if token.is_some() {
            self.set_token(token.clone());
        }
        let open = self.go_over(&mut listeners, &wanted);
        match open {
            Ok(()) => {
                self.set_token(token);
                Ok(())
            }
            Err(error) => {
                self.set_token(old_token);
                if let Err(error) = self.go_over(&mut listeners, &before) {
                    log::error!("{error} (nothing listens there until the next reload)");
                }
                Err(error)
            }
        }
    }

    /// First closes what is not wanted: its address may be wanted by another.
    fn go_over(&self, listeners: &mut Vec<Listener>, wanted: &[Bound]) -> Result<(), StartError> {
        let (mut kept, leaving): (Vec<Listener>, Vec<Listener>) =
            std::mem::take(listeners).into_iter().partition(|listener| wanted.contains(listener.bound()));
        leaving.into_iter().for_each(Listener::stop);
        for bound in wanted {
            match kept.iter().position(|listener| listener.bound() == bound) {
                Some(at) => listeners.push(kept.remove(at)),
                None => match Listener::start(bound.clone(), &self.shared) {
                    Ok(listener) => listeners.push(listener),
                    Err(source) => {
                        listeners.append(&mut kept);
                        return Err(failed(&bound.address, source));
                    }
                },
            }
        }
        Ok(())
    }

    /// Accepts no more, and cuts off who is still there.
    pub(super) fn stop(&self) {
        std::mem::take(&mut *self.listeners()).into_iter().for_each(Listener::stop);
        self.shared.connections.stop(STOP_PATIENCE);
    }
}

fn failed(address: &ListenAddress, source: io::Error) -> StartError {
    let remedy = match address {
        ListenAddress::Unix(_) => unix_socket::remedy(source.kind()),
        ListenAddress::Ip(_) => match source.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "choose another address",
        },
    };
    StartError::Listen { address: address.clone(), source, remedy }
}

#[cfg(test)]
mod tests;
