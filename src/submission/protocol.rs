//! The server's side of the conversation (RFC 5321, 6409): State x Command -> State, Reply, Action. Pure.
//!
//! What needs the world (the queue's room, a password's proof, the content itself) is asked for with an
//! [`Action`]; its answer comes back through one of the small functions at the end. A state holds only
//! what is legal in it, and a step takes it by value: nothing survives that a step does not hand on.

use std::sync::Arc;

use crate::mail::{Domain, Envelope, Reply};

use super::aliases::Aliases;
use super::atrn;
use super::auth::{self, Claim, Exchange, Offer, Turn};
use super::command::{Command, SyntaxError};
use super::etrn::{self, Node};
use super::extensions;
use super::private::{self, Question};
use super::rates::TooMany;
use super::users::User;
use super::{replies, transaction, vrfy};

/// Where a session stands.
///
/// ```text
///           connect
///              |
///              v
///          Connected <---------- STARTTLS from anywhere: everything is forgotten (RFC 3207 §4.2)
///              | EHLO, HELO
///              v           AUTH
///  +-------> Ready <-----------------> Authenticating
///  |           | MAIL
///  |           v
///  | RSET    Mail ---+ RCPT refused
///  | EHLO      | ^---+
///  | HELO      | RCPT
///  |           v
///  |      Recipients ---+ RCPT
///  |           |   ^----+
///  |           | DATA: 354, the content, its reply
///  +-----------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has said who they are.
    Connected,
    /// Between transactions.
    Ready(Client),
    /// Within an AUTH exchange; lines are responses now, not commands.
    Authenticating(Client, Exchange),
    /// MAIL was accepted, no recipient yet.
    Mail(Client, OpenMail),
    /// At least one recipient was accepted.
    Recipients(Client, Envelope),
}

/// Who speaks, as far as we were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// The argument of EHLO or HELO.
    pub(super) name: String,
    /// It was EHLO.
    pub(super) extended: bool,
    /// Who authenticated. A new EHLO keeps it, STARTTLS does not.
    pub(super) user: Option<Arc<User>>,
}

/// A transaction without recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenMail {
    /// Without recipients.
    pub(super) envelope: Envelope,
    /// At least one recipient was refused.
    pub(super) refused: bool,
}

/// What holds on this listener and connection at this moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    /// Our name.
    pub(super) hostname: &'a Domain,
    pub(super) tls: Tls,
    /// With `Tls::No`: the listener is bound to loopback, so that AUTH in the clear is fine.
    pub(super) loopback: bool,
    /// The client's address is in the listener's `trusted`.
    pub(super) trusted: bool,
    /// MAIL wants AUTH before it.
    pub(super) auth_required: bool,
    /// Which mechanisms AUTH has, where it is offered.
    pub(super) auth: Offer,
    /// Bytes.
    pub(super) message_size_max: u64,
    pub(super) recipients_max: usize,
    /// FUTURERELEASE: how long a message may be held; none where it is not offered.
    pub(super) hold_secs_max: Option<i64>,
    /// Unix seconds.
    pub(super) now: i64,
    pub(super) aliases: Aliases<'a>,
}

/// TLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// In use.
    Active,
    /// To be had with STARTTLS.
    Offered,
    /// To be had on this listener, but the certificate cannot be used just now.
    Unusable,
    /// Not on this listener.
    No,
}

impl Here<'_> {
    pub(super) fn auth_offered(&self) -> bool {
        match self.tls {
            Tls::Active => true,
            Tls::Offered | Tls::Unusable => false,
            Tls::No => self.loopback,
        }
    }

    /// There is a way to authenticate, now or after STARTTLS.
    pub(super) fn can_authenticate(&self) -> bool {
        self.tls == Tls::Offered || self.auth_offered()
    }

    /// May have mail relayed, and be told of what is here.
    pub(super) fn is_welcome(&self, user: Option<&Arc<User>>) -> bool {
        self.trusted || user.is_some()
    }

    /// The answer to a stranger who has to authenticate first.
    pub(super) fn auth_first(&self) -> Reply {
        if self.tls == Tls::Offered { replies::STARTTLS_FIRST } else { replies::AUTH_REQUIRED }
    }
}

/// What a command led to.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) state: State,
    /// To be sent before the action; none where the action's result gives the reply.
    pub(super) reply: Option<Reply>,
    pub(super) action: Action,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Read the next line.
    Continue,
    /// Close the connection.
    Close,
    /// Drop what was read ahead, do the handshake, go on with the state of the step.
    StartTls,
    /// MAIL: where the queue has no room for so many bytes, [`no_room`] instead of this step; where the user
    /// has sent enough within the hour, [`too_many`].
    Reserve(u64),
    /// AUTH: put it to the users, [`turn`] goes on.
    Verify(Claim),
    /// AUTH: the client has proven to be its user.
    Welcome,
    /// AUTH: it has not; count it as a failure of this name.
    Failed(String),
    /// DATA: read the content, queue it, answer.
    Receive(Envelope),
    /// ETRN: kick, answer.
    Kick(Node),
    /// ATRN: look for mail of these domains, answer; where there is some, the session ends and the connection is
    /// turned round.
    Turn(Vec<Domain>),
    /// A private command: answer.
    Ask(Question),
}

/// Takes a line that was read as a command.
pub(super) fn step(state: State, command: Result<Command, SyntaxError>, here: &Here<'_>) -> Step {
    let command = match command {
        Ok(command) => command,
        Err(SyntaxError::NotSmtp) => return Step::close(state, replies::NOT_SMTP),
        Err(error) => return unreadable(state, &error),
    };
    match command {
        Command::Ehlo(name) => hello(state, name, true, here),
        Command::Helo(name) => hello(state, name, false, here),
        Command::Noop => Step::reply(state, replies::NOOP),
        Command::Help(about) => {
            let operator = state.user().is_some_and(|user| user.operator);
            Step::reply(state, replies::help(about.as_deref(), operator))
        }
        Command::Quit => Step::close(state, replies::BYE),
        Command::Rset => Step::reply(state.without_transaction(), replies::RESET),
        Command::Starttls => starttls(state, here),
        Command::Vrfy(asked) => vrfy::vrfy(state, &asked, here),
        Command::Expn(asked) => vrfy::expn(state, &asked, here),
        Command::Etrn(node) => etrn::etrn(state, node, here),
        Command::Atrn(domains) => atrn::step(state, domains, here),
        Command::Private(command) => private::private(state, command, here),
        Command::Auth { mechanism, initial } => authenticate(state, &mechanism, initial.as_deref(), here),
        Command::Mail(mail) => transaction::mail(state, mail, here),
        Command::Rcpt(rcpt) => transaction::rcpt(state, rcpt, here),
        Command::Data => transaction::data(state),
    }
}

/// A line that is no command; as a response it ends the exchange.
fn unreadable(state: State, error: &SyntaxError) -> Step {
    match state {
        State::Authenticating(client, _) => {
            let too_long = *error == SyntaxError::TooLong;
            let reply = if too_long { replies::AUTH_TOO_LONG } else { replies::syntax(error) };
            Step::reply(State::Ready(client), reply)
        }
        state => Step::reply(state, replies::syntax(error)),
    }
}

/// Takes a line that answers a challenge; in another state than `Authenticating` it is a caller's mistake.
pub(super) fn respond(state: State, line: &[u8]) -> Step {
    match state {
        State::Authenticating(client, exchange) => turn(State::Ready(client), auth::answer(exchange, line)),
        state => Step::reply(state, replies::AUTH_BAD_RESPONSE),
    }
}

/// Goes on with an exchange, also with what came of an [`Action::Verify`]; in another state than `Ready` it is a
/// caller's mistake.
pub(super) fn turn(state: State, turn: Turn) -> Step {
    let State::Ready(client) = state else { return Step::reply(state, replies::AUTH_BAD_RESPONSE) };
    match turn {
        Turn::Challenge(reply, exchange) => Step::reply(State::Authenticating(client, exchange), reply),
        Turn::Refuse(reply) => Step::reply(State::Ready(client), reply),
        Turn::Verify(claim) => {
            Step { state: State::Ready(client), reply: None, action: Action::Verify(claim) }
        }
        Turn::Right(user) => Step {
            state: State::Ready(Client { user: Some(user), ..client }),
            reply: Some(replies::AUTH_OK),
            action: Action::Welcome,
        },
        Turn::Wrong(name) => Step {
            state: State::Ready(client),
            reply: Some(replies::AUTH_FAILED),
            action: Action::Failed(name),
        },
    }
}

/// The queue has no room for the message that [`Action::Reserve`] announced.
pub(super) fn no_room(state: State) -> Step {
    Step::reply(state.without_transaction(), replies::NO_ROOM)
}

/// The user may send no more within this hour.
pub(super) fn too_many(state: State, TooMany(an_hour): TooMany) -> Step {
    Step::reply(state.without_transaction(), replies::too_many_messages(an_hour))
}

impl Step {
    pub(super) fn reply(state: State, reply: Reply) -> Step {
        Step { state, reply: Some(reply), action: Action::Continue }
    }

    fn close(state: State, reply: Reply) -> Step {
        Step { state, reply: Some(reply), action: Action::Close }
    }
}

impl State {
    /// Who speaks; none before EHLO.
    pub(super) fn client(&self) -> Option<&Client> {
        match self {
            State::Connected => None,
            State::Ready(client)
            | State::Authenticating(client, _)
            | State::Mail(client, _)
            | State::Recipients(client, _) => Some(client),
        }
    }

    /// A mail transaction is open.
    pub(super) fn in_transaction(&self) -> bool {
        matches!(self, State::Mail(..) | State::Recipients(..))
    }

    /// Who authenticated.
    pub(super) fn user(&self) -> Option<&Arc<User>> {
        self.client().and_then(|client| client.user.as_ref())
    }

    fn without_transaction(self) -> State {
        match self {
            State::Connected => State::Connected,
            State::Ready(client)
            | State::Authenticating(client, _)
            | State::Mail(client, _)
            | State::Recipients(client, _) => State::Ready(client),
        }
    }
}

/// RFC 5321 §4.1.4: EHLO at any time; it ends a transaction as RSET does.
fn hello(state: State, name: String, extended: bool, here: &Here<'_>) -> Step {
    let user = state.user().cloned();
    let reply = replies::hello(here.hostname, &name);
    let reply = if extended {
        let lines = extensions::offered(user.as_ref(), here).join("\n");
        let text = format!("{}\n{lines}", reply.text);
        reply.with_text(text)
    } else {
        reply
    };
    Step::reply(State::Ready(Client { name, extended, user }), reply)
}

fn starttls(state: State, here: &Here<'_>) -> Step {
    match here.tls {
        Tls::Active => Step::reply(state, replies::TLS_ALREADY),
        Tls::No => Step::reply(state, replies::TLS_NOT_OFFERED),
        Tls::Unusable => Step::reply(state, replies::TLS_UNUSABLE),
        Tls::Offered => {
            Step { state: State::Connected, reply: Some(replies::TLS_READY), action: Action::StartTls }
        }
    }
}

/// RFC 4954 §4: after EHLO, once, not within a transaction, and only where nobody can listen.
fn authenticate(state: State, mechanism: &str, initial: Option<&str>, here: &Here<'_>) -> Step {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
        state => return Step::reply(state, replies::NOT_IN_TRANSACTION),
    };
    if client.user.is_some() {
        Step::reply(State::Ready(client), replies::AUTH_ALREADY)
    } else if here.auth_offered() {
        turn(State::Ready(client), auth::begin(mechanism, initial, &here.auth, here.hostname))
    } else if here.tls == Tls::Offered {
        Step::reply(State::Ready(client), replies::AUTH_NEEDS_TLS)
    } else {
        Step::reply(State::Ready(client), replies::AUTH_NOT_OFFERED)
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
