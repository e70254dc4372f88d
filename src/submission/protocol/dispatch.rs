//! The server's side of the conversation (RFC 5321, 6409): state and command in; state, reply and action out. Pure.
//!
//! What needs the world (room in the queue, the check of a password, the content itself) is asked for with an
//! [`Action`]; its answer comes back through one of the small functions here.

use crate::mail::Reply;

use crate::submission::auth::{self, AuthStep};
use crate::submission::limits::rates::TooMany;
use crate::submission::protocol::policy::{PolicyContext, Tls};
use crate::submission::protocol::state::{Action, Client, State, Transition};
use crate::submission::protocol::{atrn, etrn, extensions, operator_commands, transaction, vrfy};
use crate::submission::replies;
use crate::submission::syntax::command::{Command, Rcpt, SyntaxError};

/// Takes a line that was read as a command.
pub(in crate::submission) fn step(
    state: State,
    command: Result<Command, SyntaxError>,
    context: &PolicyContext<'_>,
) -> Transition {
    let command = match command {
        Ok(command) => command,
        Err(SyntaxError::NotSmtp) => return Transition::close(state, replies::NOT_SMTP),
        // What follows is content: somebody else's words, and none of them a command.
        Err(error @ SyntaxError::ChunkSize) => return Transition::close(state, replies::syntax(&error)),
        Err(error) => return unreadable(state, &error),
    };
    match command {
        Command::Ehlo(name) => hello(state, name, true, context),
        Command::Helo(name) => hello(state, name, false, context),
        Command::Noop => Transition::reply(state, replies::NOOP),
        Command::Help(about) => {
            let operator = state.user().is_some_and(|user| user.operator);
            Transition::reply(state, replies::help(about.as_deref(), operator))
        }
        Command::Quit => Transition::close(state, replies::BYE),
        Command::Rset => Transition::reply(state.without_transaction(), replies::RESET),
        Command::Starttls => starttls(state, context),
        Command::Vrfy(asked) => vrfy::vrfy(state, &asked, context),
        Command::Expn(asked) => vrfy::expn(state, &asked, context),
        Command::Etrn(node) => etrn::etrn(state, node, context),
        Command::Atrn(domains) => atrn::step(state, domains, context),
        Command::Operator(command) => operator_commands::operator(state, command, context),
        Command::Auth { mechanism, initial } => authenticate(state, &mechanism, initial.as_deref(), context),
        Command::Mail(mail) => transaction::mail(state, mail, context),
        Command::Rcpt(rcpt) => transaction::rcpt(state, rcpt, context),
        Command::Data => transaction::data(state),
        Command::Bdat(chunk) => transaction::bdat(state, chunk),
    }
}

/// A line that is no command; as a response it ends the exchange.
fn unreadable(state: State, error: &SyntaxError) -> Transition {
    match state {
        State::Authenticating(client, _) => {
            let too_long = *error == SyntaxError::TooLong;
            let reply = if too_long { replies::AUTH_TOO_LONG } else { replies::syntax(error) };
            Transition::reply(State::Ready(client), reply)
        }
        state => Transition::reply(state, replies::syntax(error)),
    }
}

/// Takes a line that answers a challenge; in another state than `Authenticating` it is a caller's mistake.
pub(in crate::submission) fn respond(state: State, line: &[u8]) -> Transition {
    match state {
        State::Authenticating(client, exchange) => {
            auth_step(State::Ready(client), auth::answer(exchange, line))
        }
        state => Transition::reply(state, replies::AUTH_BAD_RESPONSE),
    }
}

/// Goes on with an exchange, also with what came of an [`Action::Verify`]; in another state than `Ready` it is a
/// caller's mistake.
pub(in crate::submission) fn auth_step(state: State, step: AuthStep) -> Transition {
    let State::Ready(client) = state else { return Transition::reply(state, replies::AUTH_BAD_RESPONSE) };
    match step {
        AuthStep::Challenge(reply, exchange) => {
            Transition::reply(State::Authenticating(client, exchange), reply)
        }
        AuthStep::Refuse(reply) => Transition::reply(State::Ready(client), reply),
        AuthStep::Verify(claim) => {
            Transition { state: State::Ready(client), reply: None, action: Action::Verify(claim) }
        }
        AuthStep::LoggedIn(user) => Transition {
            state: State::Ready(Client { user: Some(user), ..client }),
            reply: Some(replies::AUTH_OK),
            action: Action::LoggedIn,
        },
        AuthStep::Failed(name) => Transition {
            state: State::Ready(client),
            reply: Some(replies::AUTH_FAILED),
            action: Action::LoginFailed(name),
        },
    }
}

/// A chunk was refused: the rest of the message is, too (RFC 3030 §2).
pub(in crate::submission) fn chunk_refused(state: State) -> State {
    state.without_transaction()
}

/// The queue has no room for the message that [`Action::Reserve`] announced.
pub(in crate::submission) fn no_room(state: State) -> Transition {
    Transition::reply(state.without_transaction(), replies::NO_ROOM)
}

/// MAIL: the message finds no room in the user's quota.
pub(in crate::submission) fn no_room_in_quota(state: State, reply: Reply) -> Transition {
    Transition::reply(state.without_transaction(), reply)
}

/// MAIL: the user may send to nobody more within this hour.
pub(in crate::submission) fn too_many(state: State, TooMany(an_hour): TooMany) -> Transition {
    Transition::reply(state.without_transaction(), replies::rate_reached(an_hour))
}

/// RCPT: the user may send to those of [`Action::Count`] within this hour.
pub(in crate::submission) fn counted(state: State, rcpt: Rcpt, context: &PolicyContext<'_>) -> Transition {
    transaction::counted(state, rcpt, context)
}

/// RCPT: the user may not. The recipients before it stay.
pub(in crate::submission) fn not_counted(
    state: State,
    rcpt: &Rcpt,
    TooMany(an_hour): TooMany,
    context: &PolicyContext<'_>,
) -> Transition {
    transaction::not_counted(state, rcpt, replies::rate_reached(an_hour), context)
}

/// RFC 5321 §4.1.4: EHLO at any time; it ends a transaction as RSET does.
fn hello(state: State, name: String, extended: bool, context: &PolicyContext<'_>) -> Transition {
    let user = state.user().cloned();
    let reply = replies::hello(context.hostname, &name);
    let reply = if extended {
        let lines = extensions::offered(user.as_ref(), context).join("\n");
        let text = format!("{}\n{lines}", reply.text);
        reply.with_text(text)
    } else {
        reply
    };
    Transition::reply(State::Ready(Client { name, extended, user }), reply)
}

fn starttls(state: State, context: &PolicyContext<'_>) -> Transition {
    match context.tls {
        Tls::Active => Transition::reply(state, replies::TLS_ALREADY),
        Tls::No => Transition::reply(state, replies::TLS_NOT_OFFERED),
        Tls::Unusable => Transition::reply(state, replies::TLS_UNUSABLE),
        Tls::Offered => {
            Transition { state: State::Connected, reply: Some(replies::TLS_READY), action: Action::StartTls }
        }
    }
}

/// RFC 4954 §4: after EHLO, once, not within a transaction, and only where the connection cannot be overheard.
fn authenticate(
    state: State,
    mechanism: &str,
    initial: Option<&str>,
    context: &PolicyContext<'_>,
) -> Transition {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Transition::reply(state, replies::EHLO_FIRST),
        state => return Transition::reply(state, replies::NOT_IN_TRANSACTION),
    };
    if client.user.is_some() {
        Transition::reply(State::Ready(client), replies::AUTH_ALREADY)
    } else if context.auth_offered() {
        auth_step(State::Ready(client), auth::begin(mechanism, initial, &context.auth, context.hostname))
    } else if context.tls == Tls::Offered {
        Transition::reply(State::Ready(client), replies::AUTH_NEEDS_TLS)
    } else {
        Transition::reply(State::Ready(client), replies::AUTH_NOT_OFFERED)
    }
}
