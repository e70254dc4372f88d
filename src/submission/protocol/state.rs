//! The server's side of the conversation (RFC 5321, 6409): State x Command -> State, Reply, Action. Pure.
//!
//! What needs the world (the queue's room, a password's proof, the content itself) is asked for with an
//! [`Action`]; its answer comes back through one of the small functions at the end. A state holds only
//! what is legal in it, and a step takes it by value: nothing survives that a step does not hand on.

use std::sync::Arc;

use crate::mail::{Domain, Envelope, Reply};

use crate::submission::auth::{self, Claim, Exchange, Offer, Turn};
use crate::submission::limits::rates::TooMany;
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::atrn;
use crate::submission::protocol::etrn::{self, Node};
use crate::submission::protocol::extensions;
use crate::submission::protocol::operator_commands::{self, Question};
use crate::submission::protocol::transaction;
use crate::submission::protocol::vrfy;
use crate::submission::replies;
use crate::submission::syntax::command::{Chunk, Command, SyntaxError};
use crate::submission::users::User;

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
///  |           |-----------> Chunks ---+ BDAT: a chunk, its reply
///  |           | BDAT         |  ^-----+
///  |           |              | BDAT LAST: a chunk, the message's reply; a chunk refused
///  |           | DATA: 354, the content, its reply
///  +-----------+--------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum State {
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
    /// BDAT has brought content, and there is more to come. The envelope went with the first chunk.
    Chunks(Client),
}

/// Who speaks, as far as we were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Client {
    /// The argument of EHLO or HELO.
    pub(in crate::submission) name: String,
    /// It was EHLO.
    pub(in crate::submission) extended: bool,
    /// Who authenticated. A new EHLO keeps it, STARTTLS does not.
    pub(in crate::submission) user: Option<Arc<User>>,
}

/// A transaction without recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct OpenMail {
    /// Without recipients.
    pub(in crate::submission) envelope: Envelope,
    /// At least one recipient was refused.
    pub(in crate::submission) refused: bool,
}

/// What holds on this listener and connection at this moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Here<'a> {
    /// Our name.
    pub(in crate::submission) hostname: &'a Domain,
    pub(in crate::submission) tls: Tls,
    /// With `Tls::No`: the listener is bound to loopback, so that AUTH in the clear is fine.
    pub(in crate::submission) loopback: bool,
    /// The client's address is in the listener's `trusted`.
    pub(in crate::submission) trusted: bool,
    /// MAIL wants AUTH before it.
    pub(in crate::submission) auth_required: bool,
    /// Which mechanisms AUTH has, where it is offered.
    pub(in crate::submission) auth: Offer,
    /// Bytes.
    pub(in crate::submission) message_size_max: u64,
    pub(in crate::submission) recipients_max: usize,
    /// FUTURERELEASE: how long a message may be held; none where it is not offered.
    pub(in crate::submission) hold_secs_max: Option<i64>,
    /// Unix seconds.
    pub(in crate::submission) now: i64,
    pub(in crate::submission) aliases: Aliases<'a>,
}

/// TLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) enum Tls {
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
    pub(in crate::submission) fn auth_offered(&self) -> bool {
        match self.tls {
            Tls::Active => true,
            Tls::Offered | Tls::Unusable => false,
            Tls::No => self.loopback,
        }
    }

    /// There is a way to authenticate, now or after STARTTLS.
    pub(in crate::submission) fn can_authenticate(&self) -> bool {
        self.tls == Tls::Offered || self.auth_offered()
    }

    /// May have mail relayed, and be told of what is here.
    pub(in crate::submission) fn is_welcome(&self, user: Option<&Arc<User>>) -> bool {
        self.trusted || user.is_some()
    }

    /// The answer to a stranger who has to authenticate first.
    pub(in crate::submission) fn auth_first(&self) -> Reply {
        if self.tls == Tls::Offered { replies::STARTTLS_FIRST } else { replies::AUTH_REQUIRED }
    }
}

/// What a command led to.
#[derive(Debug)]
pub(in crate::submission) struct Step {
    pub(in crate::submission) state: State,
    /// To be sent before the action; none where the action's result gives the reply.
    pub(in crate::submission) reply: Option<Reply>,
    pub(in crate::submission) action: Action,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::submission) enum Action {
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
    /// BDAT: read a chunk, answer; the envelope comes with the first. Where the answer is a refusal, the
    /// transaction is over ([`chunk_refused`]). With the last chunk, queue the message.
    ReceiveChunk(Chunk, Option<Envelope>),
    /// BDAT that is refused: read so many bytes and forget them, and only then reply (RFC 3030 §2).
    Skip(u64),
    /// ETRN: kick, answer.
    Kick(Node),
    /// ATRN: look for mail of these domains, answer; where there is some, the session ends and the connection is
    /// turned round.
    Turn(Vec<Domain>),
    /// A private command: answer.
    Ask(Question),
}

/// Takes a line that was read as a command.
pub(in crate::submission) fn step(
    state: State,
    command: Result<Command, SyntaxError>,
    here: &Here<'_>,
) -> Step {
    let command = match command {
        Ok(command) => command,
        Err(SyntaxError::NotSmtp) => return Step::close(state, replies::NOT_SMTP),
        // What follows is content: somebody else's words, and none of them a command.
        Err(error @ SyntaxError::ChunkSize) => return Step::close(state, replies::syntax(&error)),
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
        Command::Private(command) => operator_commands::private(state, command, here),
        Command::Auth { mechanism, initial } => authenticate(state, &mechanism, initial.as_deref(), here),
        Command::Mail(mail) => transaction::mail(state, mail, here),
        Command::Rcpt(rcpt) => transaction::rcpt(state, rcpt, here),
        Command::Data => transaction::data(state),
        Command::Bdat(chunk) => transaction::bdat(state, chunk),
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
pub(in crate::submission) fn respond(state: State, line: &[u8]) -> Step {
    match state {
        State::Authenticating(client, exchange) => turn(State::Ready(client), auth::answer(exchange, line)),
        state => Step::reply(state, replies::AUTH_BAD_RESPONSE),
    }
}

/// Goes on with an exchange, also with what came of an [`Action::Verify`]; in another state than `Ready` it is a
/// caller's mistake.
pub(in crate::submission) fn turn(state: State, turn: Turn) -> Step {
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

/// A chunk was refused: the rest of the message is, too (RFC 3030 §2).
pub(in crate::submission) fn chunk_refused(state: State) -> State {
    state.without_transaction()
}

/// The queue has no room for the message that [`Action::Reserve`] announced.
pub(in crate::submission) fn no_room(state: State) -> Step {
    Step::reply(state.without_transaction(), replies::NO_ROOM)
}

/// The user may send no more within this hour.
pub(in crate::submission) fn too_many(state: State, TooMany(an_hour): TooMany) -> Step {
    Step::reply(state.without_transaction(), replies::too_many_messages(an_hour))
}

impl Step {
    pub(in crate::submission) fn reply(state: State, reply: Reply) -> Step {
        Step { state, reply: Some(reply), action: Action::Continue }
    }

    fn close(state: State, reply: Reply) -> Step {
        Step { state, reply: Some(reply), action: Action::Close }
    }
}

impl State {
    /// Who speaks; none before EHLO.
    pub(in crate::submission) fn client(&self) -> Option<&Client> {
        match self {
            State::Connected => None,
            State::Ready(client)
            | State::Authenticating(client, _)
            | State::Mail(client, _)
            | State::Recipients(client, _)
            | State::Chunks(client) => Some(client),
        }
    }

    /// A mail transaction is open.
    pub(in crate::submission) fn in_transaction(&self) -> bool {
        matches!(self, State::Mail(..) | State::Recipients(..) | State::Chunks(..))
    }

    /// Who authenticated.
    pub(in crate::submission) fn user(&self) -> Option<&Arc<User>> {
        self.client().and_then(|client| client.user.as_ref())
    }

    fn without_transaction(self) -> State {
        match self {
            State::Connected => State::Connected,
            State::Ready(client)
            | State::Authenticating(client, _)
            | State::Mail(client, _)
            | State::Recipients(client, _)
            | State::Chunks(client) => State::Ready(client),
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
