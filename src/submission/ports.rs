//! The traits to the outside: what submission asks of rooms that it does not know.
//!
//! Whoever starts submission hands them in; tests have doubles.

use std::net::{IpAddr, TcpStream};

use rustls::ServerConnection;

use crate::mail::{Address, Domain};
use crate::queue::{
    AcceptError, Asker, Kick, Kicked, LoginChanges, LoginRows, MessageId, NewMessage, Queue, QueueError,
    QuotaError, Reads,
};

/// The queue, as far as submission uses it.
pub(in crate::submission) trait MessageQueue: Send + Sync {
    /// An id never given out before.
    fn new_message_id(&self) -> MessageId;
    /// Whether a message of so many bytes would fit.
    fn has_room(&self, bytes: u64) -> bool;
    /// Reserves so many bytes more of a user's quota.
    fn reserve_quota(&self, user: &str, quota: u64, bytes: u64) -> Result<(), QuotaError>;
    /// Gives them back, once their message is accepted or will not come.
    fn release_quota(&self, user: &str, bytes: u64);
    /// Takes the next piece of a message to come.
    fn append_chunk(&self, id: MessageId, seq: u32, data: Vec<u8>) -> Result<(), AcceptError>;
    /// Forgets the pieces of a message that will not come.
    fn discard(&self, id: MessageId);
    /// Makes the pieces a message; returns once it is on disk.
    fn accept(&self, message: NewMessage) -> Result<(), AcceptError>;
    /// Whether it has such a message, waiting or in its history; false too where that cannot be read.
    fn knows(&self, id: MessageId) -> bool;
    /// Makes what waits for a domain due now, and records who asked.
    fn kick(&self, kick: &Kick, asker: &Asker) -> Result<Kicked, AcceptError>;
    /// What is kept of logins.
    fn logins(&self) -> Result<LoginRows, QueueError>;
    /// Changes that; returns once it is on disk.
    fn note_logins(&self, changes: LoginChanges) -> Result<(), AcceptError>;
    /// How often somebody else has changed anything.
    fn outside_changes(&self) -> u64;
}

impl MessageQueue for Queue {
    fn new_message_id(&self) -> MessageId {
        Queue::new_message_id(self)
    }
    fn has_room(&self, bytes: u64) -> bool {
        Queue::has_room(self, bytes)
    }
    fn reserve_quota(&self, user: &str, quota: u64, bytes: u64) -> Result<(), QuotaError> {
        Queue::reserve_quota(self, user, quota, bytes)
    }
    fn release_quota(&self, user: &str, bytes: u64) {
        Queue::release_quota(self, user, bytes);
    }
    fn append_chunk(&self, id: MessageId, seq: u32, data: Vec<u8>) -> Result<(), AcceptError> {
        Queue::append_chunk(self, id, seq, data)
    }
    fn discard(&self, id: MessageId) {
        Queue::discard(self, id);
    }
    fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        Queue::accept(self, message)
    }
    fn knows(&self, id: MessageId) -> bool {
        Reads::knows(&**self, id).unwrap_or(false)
    }
    fn kick(&self, kick: &Kick, asker: &Asker) -> Result<Kicked, AcceptError> {
        Queue::kick(self, kick, asker)
    }
    fn logins(&self) -> Result<LoginRows, QueueError> {
        Reads::logins(&**self)
    }
    fn note_logins(&self, changes: LoginChanges) -> Result<(), AcceptError> {
        Queue::note_logins(self, changes)
    }
    fn outside_changes(&self) -> u64 {
        Queue::outside_changes(self)
    }
}

/// Answers operators, out of rooms that submission does not know.
pub trait OperatorQueries: Send + Sync {
    /// Answers an operator in lines for a person.
    ///
    /// # Errors
    /// Why it cannot be answered now, for a person too.
    fn answer(&self, query: &OperatorQuery) -> Result<Vec<String>, String>;

    /// The domains whose mail waits in this lane; none where there is no such lane.
    ///
    /// # Errors
    /// Why that cannot be told now.
    fn domains_of_lane(&self, lane: &str) -> Result<Option<Vec<Domain>>, String>;
}

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorQuery {
    /// How each of these would be routed now.
    Route(Vec<Address>),
    /// What waits, in each lane or in this one.
    Waiting(Option<String>),
    /// How the lanes are, or this one.
    Lanes(Option<String>),
    /// What is running: version and config.
    Generation,
}

/// The mail that is fetched with ATRN: where it waits, and who delivers it.
pub trait OnDemand: Send + Sync {
    /// Whether mail waits for one of these domains, and the user may fetch it now.
    fn look(&self, user: &str, domains: &[Domain]) -> WaitingMail;
    /// Delivers it on the connection; returns when that is over. Should somebody else have fetched it by
    /// now, it says QUIT (RFC 2645 §5.2.1).
    fn hand_over(&self, connection: ReversedConnection);
}

/// What [`OnDemand::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingMail {
    /// There is mail.
    Mail,
    /// There is none.
    Nothing,
    /// One of the domains is no longer this user's.
    NotTheirs,
    /// The queue cannot be read just now.
    Unknown,
}

/// A connection whose client is the server from now on.
#[derive(Debug)]
pub struct ReversedConnection {
    /// The socket; nothing that came over it is left unread.
    pub socket: TcpStream,
    /// TLS, where it is in use.
    pub tls: Option<Box<ServerConnection>>,
    /// Where the client is.
    pub client: IpAddr,
    /// What it called itself in EHLO.
    pub name: String,
    /// Who authenticated.
    pub user: String,
    /// Whose mail is to be fetched.
    pub domains: Vec<Domain>,
}
