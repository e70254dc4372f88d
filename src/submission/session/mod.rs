//! Sessions: listeners accept connections, the pool runs them, and each session's loop acts.
//!
//! `conversation` is the loop; `transfer` brings content in, `login` verifies, `etrn` and `atrn` carry those
//! commands out. They all work on the [`Session`] defined here.

mod atrn;
pub(in crate::submission) mod authority;
mod conversation;
mod etrn;
mod listener;
pub(in crate::submission) mod listeners;
pub(in crate::submission) mod lockout_watch;
mod login;
mod pool;
pub(in crate::submission) mod service;
pub(in crate::submission) mod sockets;
mod transfer;
pub(crate) mod unix_socket;

use std::net::{IpAddr, Ipv4Addr};

use rustls::ServerConnection;

use crate::config::ListenSettings;
use crate::mail::{Domain, Peer, Reply};
use crate::maillog;
use crate::sasl::ChannelBinding;

use crate::submission::limits::login_failures::Permit;
use crate::submission::limits::quotas::QuotaShare;
use crate::submission::limits::rates::Counted;
use crate::submission::limits::sessions::{Authority, SessionHandle};
use crate::submission::message::chunk::ChunkReader;
use crate::submission::message::intake::Intake;
use crate::submission::protocol::state::State;
use crate::submission::replies;
use crate::submission::session::service::{Service, SessionResources};
use crate::submission::wire::connection::{Wire, WireError};

/// All that a session works with.
struct Session<'a> {
    wire: Wire,
    client: Peer,
    service: &'a Service,
    listener: &'a ListenSettings,
    resources: &'a SessionResources,
    handle: &'a SessionHandle,
    /// Who connected to a socket in the file system.
    local_user: Option<String>,
    scratch: SessionScratch<'a>,
}

/// What changes in the course of a session and is not the protocol's state.
#[derive(Default)]
struct SessionScratch<'a> {
    /// Made before the 220 to STARTTLS, for the handshake behind it.
    handshake: Option<Box<ServerConnection>>,
    /// Of the TLS connection.
    channel: Option<ChannelBinding>,
    /// The recipients of the message under way, in their user's rate.
    rate_reservation: Option<Counted<'a>>,
    /// What it has of its user's quota, until its content begins.
    quota_share: Option<QuotaShare<'a>>,
    /// The login that is being checked.
    permit: Option<Permit<'a>>,
    /// The name that failed to authenticate last, and how many times in a row.
    failed: (String, u32),
    /// The message that chunks are coming of.
    incoming: Option<Incoming<'a>>,
}

/// A message of which chunks have come.
struct Incoming<'a> {
    intake: Intake<'a>,
    reader: ChunkReader,
}

/// Why a session ends. The reply that says so was given already.
enum End {
    /// QUIT.
    Quit,
    /// We sent the client away; it may not have noticed yet.
    SentAway,
    /// The connection ended by itself.
    Lost,
    /// ATRN: the client is the server from now on.
    Reversed {
        /// What the client called itself.
        name: String,
        /// Who authenticated.
        user: String,
        /// Whose mail is to be handed over.
        domains: Vec<Domain>,
    },
}

/// How the session's loop goes on.
type Flow = Result<State, End>;

impl Session<'_> {
    fn say(&mut self, reply: &Reply) -> Result<(), End> {
        log::debug!("{}: S: {reply}", self.client);
        self.wire.reply(reply).map_err(|_| End::Lost)
    }

    /// What logins are counted by. None are offered at a socket in the file system, where there is no address.
    fn address(&self) -> IpAddr {
        self.client.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Its client has logged in, or is trusted.
    fn is_known(&self) -> bool {
        self.handle.is_trusted() || matches!(self.handle.authority(), Authority::User(_))
    }

    /// A last reply before we close.
    fn send_away(&mut self, reply: &Reply) -> End {
        match self.say(reply) {
            Ok(()) => End::SentAway,
            Err(end) => end,
        }
    }

    /// The session's end, where nothing more can be read.
    fn no_more_input(&mut self, error: WireError) -> End {
        match error {
            WireError::Flood => {
                maillog::turned_away(self.client, "line without end");
                self.send_away(&replies::LINE_WITHOUT_END)
            }
            // Somebody else ended our reading.
            WireError::Closed if self.handle.farewell().is_some() => self.say_farewell(),
            // SessionTable::stop did.
            WireError::Closed if self.handle.is_stopping() => self.send_away(&replies::SHUTTING_DOWN),
            WireError::TimedOut if self.wire.is_over() && self.is_known() => {
                maillog::turned_away(self.client, "session too long");
                self.send_away(&replies::SESSION_TOO_LONG)
            }
            WireError::TimedOut => self.send_away(&replies::TIMED_OUT),
            WireError::Closed | WireError::NothingSaid | WireError::Io(_) => End::Lost,
        }
    }
}
