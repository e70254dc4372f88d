//! ATRN (RFC 2645, On-Demand Mail Relay): whether a client may turn its connection round, and with what it is then
//! handed over. Delivering is another room's: whoever starts submission says with [`OnDemand`] who does it.
//!
//! What the client said before our 250 is never taken for an answer of the server that it becomes: while
//! something is left unread ATRN is refused.

use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use rustls::ServerConnection;

use crate::mail::{Domain, Reply};

use crate::submission::protocol::state::{Action, Here, State, Step};
use crate::submission::replies;
use crate::submission::session::conversation::{End, Flow, Session};
use crate::submission::syntax::command::SyntaxError;

/// How it is written.
pub(in crate::submission) const USAGE: &str = "ATRN [domain,domain…]";

/// Who keeps the mail that is fetched, and delivers it.
pub trait OnDemand: Send + Sync {
    /// Whether mail waits for one of these domains, and the user may fetch it now.
    fn look(&self, user: &str, domains: &[Domain]) -> Waiting;
    /// Delivers it on the connection; returns when that is over. Should somebody else have fetched it by
    /// now, it says QUIT (RFC 2645 §5.2.1).
    fn hand_over(&self, turned: Turned);
}

/// What [`OnDemand::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
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
pub struct Turned {
    /// The socket; nothing that came over it is left unread.
    pub socket: Arc<TcpStream>,
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

impl Waiting {
    /// What the client is told.
    pub(in crate::submission) fn reply(self) -> Reply {
        match self {
            Waiting::Mail => replies::TURNING,
            Waiting::Nothing => replies::NO_MAIL,
            Waiting::NotTheirs => replies::ATRN_REFUSED,
            Waiting::Unknown => replies::ATRN_NOT_NOW,
        }
    }
}

/// `domain,domain…`; none: all that the user has.
pub(in crate::submission) fn parse(arguments: &str) -> Result<Vec<Domain>, SyntaxError> {
    let arguments = arguments.trim_start_matches(' ');
    if arguments.is_empty() {
        return Ok(Vec::new());
    }
    let domains: Result<Vec<Domain>, _> = arguments.split(',').map(Domain::parse).collect();
    domains.map_err(|_| SyntaxError::Usage(USAGE))
}

/// RFC 2645 §5.2: after AUTH, not within a transaction, for domains that are the user's.
pub(in crate::submission) fn step(state: State, mut domains: Vec<Domain>, here: &Here<'_>) -> Step {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
        state => return Step::reply(state, replies::NOT_IN_TRANSACTION),
    };
    let reply = match &client.user {
        None if here.can_authenticate() => here.auth_first(),
        None => replies::NOT_OFFERED,
        Some(user) if user.atrn.is_empty() => replies::NOT_OFFERED,
        Some(user) => {
            if domains.is_empty() {
                domains.extend(user.atrn.iter().filter_map(|name| Domain::parse(name).ok()));
            }
            if domains.iter().all(|domain| user.atrn.iter().any(|own| own == domain.as_str())) {
                domains.sort();
                domains.dedup();
                return Step { state: State::Ready(client), reply: None, action: Action::Turn(domains) };
            }
            replies::ATRN_REFUSED
        }
    };
    Step::reply(State::Ready(client), reply)
}

/// Whose mail is to be handed over, and to whom.
pub(in crate::submission) struct Turning {
    name: String,
    user: String,
    domains: Vec<Domain>,
}

impl Session<'_> {
    /// ATRN: whatever there is to be refused is refused here; a connection turns round only for mail that waits.
    pub(in crate::submission) fn turn_round(&mut self, state: State, domains: Vec<Domain>) -> Flow {
        let Some((name, user)) = state
            .client()
            .and_then(|client| client.user.as_ref().map(|user| (client.name.clone(), user.name.clone())))
        else {
            return Ok(state);
        };
        if self.wire.has_input() {
            self.say(&replies::ATRN_NOT_LAST)?;
            return Ok(state);
        }
        let waiting = self.on_demand.look(&user, &domains);
        self.say(&waiting.reply())?;
        if waiting == Waiting::Mail { Err(End::Turned(Turning { name, user, domains })) } else { Ok(state) }
    }

    pub(in crate::submission) fn hand_over(self, turning: Turning) {
        let Turning { name, user, domains } = turning;
        // The client is gone already where this fails.
        let Ok((socket, tls)) = self.wire.into_parts() else { return };
        let client = self.client;
        self.on_demand.hand_over(Turned { socket, tls, client, name, user, domains });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_stand_between_commas_and_nothing_else() {
        let read = |text: &str| {
            parse(text).map(|domains| domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read("").as_deref(), Ok(""));
        assert_eq!(read("Example.COM").as_deref(), Ok("example.com"));
        assert_eq!(read("example.org,bücher.example").as_deref(), Ok("example.org xn--bcher-kva.example"));
        for bad in
            ["a.example,", ",a.example", "a.example b.example", "a.example, b.example", "@a.example", "a..b"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
