//! The server's side of the conversation (RFC 5321, 6409): State x Command -> State, Reply, Action. Pure.
//!
//! What needs the world (the queue's room, a password's proof, the content itself) is asked for with an
//! [`Action`]; its answer comes back through one of the small functions at the end. A state holds only
//! what is legal in it, and a step takes it by value: nothing survives that a step does not hand on.

use std::sync::Arc;

use crate::mail::{Address, Body, Domain, Envelope, Recipient, Reply, address};
use crate::queue::Kick;

use super::aliases::Aliases;
use super::auth::{self, Credentials, Exchange, Turn};
use super::command::{Chunk, Command, ForwardPath, Mail, Node, Rcpt, SyntaxError};
use super::replies;
use super::users::User;

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
    /// BDAT has brought content, and there is more to come. The envelope went with the first chunk.
    Chunks(Client),
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
    /// Bytes.
    pub(super) message_size_max: u64,
    pub(super) recipients_max: usize,
    pub(super) aliases: Aliases<'a>,
}

/// TLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// In use.
    Active,
    /// To be had with STARTTLS.
    Offered,
    /// Not on this listener.
    No,
}

impl Here<'_> {
    fn auth_offered(&self) -> bool {
        match self.tls {
            Tls::Active => true,
            Tls::Offered => false,
            Tls::No => self.loopback,
        }
    }

    /// May have mail relayed, and be told of what is here.
    fn is_welcome(&self, user: Option<&Arc<User>>) -> bool {
        self.trusted || user.is_some()
    }

    /// The answer to a stranger who has to authenticate first.
    fn auth_first(&self) -> Reply {
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
    /// MAIL: where the queue has no room for so many bytes, [`no_room`] instead of this step.
    Reserve(u64),
    /// AUTH: [`verified`] goes on.
    Verify(Credentials),
    /// DATA: read the content, queue it, answer.
    Receive(Envelope),
    /// BDAT: read a chunk, answer; the envelope comes with the first. Where the answer is a refusal, the
    /// transaction is over ([`chunk_refused`]). With the last chunk, queue the message.
    ReceiveChunk(Chunk, Option<Envelope>),
    /// BDAT that is refused: read so many bytes and forget them, and only then reply (RFC 3030 §2).
    Skip(u64),
    /// ETRN: kick, answer.
    Kick(Kick, String),
}

/// Takes a line that was read as a command.
pub(super) fn step(state: State, command: Result<Command, SyntaxError>, here: &Here<'_>) -> Step {
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
        Command::Help(about) => Step::reply(state, replies::help(about.as_deref())),
        Command::Quit => Step::close(state, replies::BYE),
        Command::Rset => Step::reply(state.without_transaction(), replies::RESET),
        Command::Starttls => starttls(state, here),
        Command::Vrfy(asked) => vrfy(state, &asked, here),
        Command::Etrn(node) => etrn(state, node, here),
        Command::Auth { mechanism, initial } => authenticate(state, &mechanism, initial.as_deref(), here),
        Command::Mail(mail) => self::mail(state, mail, here),
        Command::Rcpt(rcpt) => self::rcpt(state, rcpt, here),
        Command::Data => data(state),
        Command::Bdat(chunk) => bdat(state, chunk),
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
        State::Authenticating(client, exchange) => turn(client, auth::answer(exchange, line)),
        state => Step::reply(state, replies::AUTH_BAD_RESPONSE),
    }
}

/// Takes the result of [`Action::Verify`].
pub(super) fn verified(state: State, user: Option<Arc<User>>) -> Step {
    match (state, user) {
        (State::Ready(client), Some(user)) => {
            Step::reply(State::Ready(Client { user: Some(user), ..client }), replies::AUTH_OK)
        }
        (state, _) => Step::reply(state, replies::AUTH_FAILED),
    }
}

/// A chunk was refused: the rest of the message is, too (RFC 3030 §2).
pub(super) fn chunk_refused(state: State) -> State {
    state.without_transaction()
}

/// The queue has no room for the message that [`Action::Reserve`] announced.
pub(super) fn no_room(state: State) -> Step {
    Step::reply(state.without_transaction(), replies::NO_ROOM)
}

impl Step {
    fn reply(state: State, reply: Reply) -> Step {
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
            | State::Recipients(client, _)
            | State::Chunks(client) => Some(client),
        }
    }

    /// A mail transaction is open.
    pub(super) fn in_transaction(&self) -> bool {
        matches!(self, State::Mail(..) | State::Recipients(..) | State::Chunks(..))
    }

    fn user(&self) -> Option<&Arc<User>> {
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
    let reply = if extended { with_extensions(reply, user.as_ref(), here) } else { reply };
    Step::reply(State::Ready(Client { name, extended, user }), reply)
}

/// Adds the extensions that hold for this client at this moment, and no others.
fn with_extensions(hello: Reply, user: Option<&Arc<User>>, here: &Here<'_>) -> Reply {
    let welcome = here.is_welcome(user);
    let mut text = hello.text.clone().into_owned();
    text.push_str(&format!("\nPIPELINING\nSIZE {}", here.message_size_max));
    for (holds, keyword) in [
        (true, "8BITMIME"),
        (true, "SMTPUTF8"),
        (true, "DSN"),
        (true, "ENHANCEDSTATUSCODES"),
        (true, "CHUNKING"),
        (true, "BINARYMIME"),
        (welcome, "ETRN"),
        (welcome, "VRFY"),
        (here.tls == Tls::Offered, "STARTTLS"),
    ] {
        if holds {
            text.push('\n');
            text.push_str(keyword);
        }
    }
    if here.auth_offered() && user.is_none() {
        text.push_str("\nAUTH ");
        text.push_str(auth::MECHANISMS);
    }
    text.push_str("\nHELP");
    hello.with_text(text)
}

fn starttls(state: State, here: &Here<'_>) -> Step {
    match here.tls {
        Tls::Active => Step::reply(state, replies::TLS_ALREADY),
        Tls::No => Step::reply(state, replies::TLS_NOT_OFFERED),
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
        turn(client, auth::begin(mechanism, initial))
    } else if here.tls == Tls::Offered {
        Step::reply(State::Ready(client), replies::AUTH_NEEDS_TLS)
    } else {
        Step::reply(State::Ready(client), replies::AUTH_NOT_OFFERED)
    }
}

fn turn(client: Client, turn: Turn) -> Step {
    match turn {
        Turn::Challenge(reply, exchange) => Step::reply(State::Authenticating(client, exchange), reply),
        Turn::Refuse(reply) => Step::reply(State::Ready(client), reply),
        Turn::Verify(credentials) => {
            Step { state: State::Ready(client), reply: None, action: Action::Verify(credentials) }
        }
    }
}

/// RFC 5321 §3.5. A stranger learns nothing: the answer is the same whatever exists.
fn vrfy(state: State, asked: &str, here: &Here<'_>) -> Step {
    let reply = if here.is_welcome(state.user()) {
        verify_name(asked, &here.aliases)
    } else {
        replies::VRFY_NOT_FOR_STRANGERS
    };
    Step::reply(state, reply)
}

fn verify_name(asked: &str, aliases: &Aliases<'_>) -> Reply {
    let asked = asked.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(asked);
    let name = if asked.contains('@') {
        let Ok(address) = address::parse(asked) else { return replies::VRFY_BAD_ADDRESS };
        match aliases.alias_of(&address) {
            Some(name) => name,
            None => return replies::CANNOT_VERIFY,
        }
    } else {
        asked.to_ascii_lowercase()
    };
    match aliases.members(&name) {
        Some([mailbox]) => replies::verified(mailbox),
        // A list: EXPN names its members, VRFY the list (RFC 5321 §3.5.1).
        Some(_) => replies::verified(&Address::new_dangerous(name, aliases.hostname.as_str())),
        None => replies::NO_SUCH_USER,
    }
}

/// RFC 1985 §5.1: after EHLO, not within a transaction.
fn etrn(state: State, node: Node, here: &Here<'_>) -> Step {
    let reply = match (&state, node) {
        (State::Connected, _) => replies::EHLO_FIRST,
        (state, _) if state.in_transaction() => replies::NOT_IN_TRANSACTION,
        (state, _) if !here.is_welcome(state.user()) => here.auth_first(),
        (_, Node::Queue(name)) => replies::node_not_allowed(&name),
        (_, Node::Kick(kick)) => {
            let node = match &kick {
                Kick::Domain(domain) => domain.to_string(),
                Kick::DomainAndBelow(domain) => format!("@{domain}"),
            };
            return Step { state, reply: None, action: Action::Kick(kick, node) };
        }
    };
    Step::reply(state, reply)
}

fn mail(state: State, mail: Mail, here: &Here<'_>) -> Step {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
        state => return Step::reply(state, replies::NESTED_MAIL),
    };
    if let Err(reply) = mail_allowed(&client, &mail, here) {
        return Step::reply(State::Ready(client), reply);
    }
    let size = mail.size.unwrap_or(0);
    let envelope = Envelope {
        sender: mail.sender,
        recipients: Vec::new(),
        body: mail.body,
        smtputf8: mail.smtputf8,
        ret: mail.ret,
        envid: mail.envid,
    };
    Step {
        state: State::Mail(client, OpenMail { envelope, refused: false }),
        reply: Some(replies::SENDER_OK),
        action: Action::Reserve(size),
    }
}

fn mail_allowed(client: &Client, mail: &Mail, here: &Here<'_>) -> Result<(), Reply> {
    if here.auth_required && !here.is_welcome(client.user.as_ref()) {
        return Err(here.auth_first());
    }
    if mail.size.is_some_and(|size| size > here.message_size_max) {
        return Err(replies::TOO_BIG);
    }
    if mail.sender.as_ref().is_some_and(|sender| !mail.smtputf8 && !is_ascii(sender)) {
        return Err(replies::SENDER_NEEDS_SMTPUTF8);
    }
    match &client.user {
        Some(user) if !auth::may_send_as(user, mail.sender.as_ref()) => Err(replies::SENDER_NOT_YOURS),
        _ => Ok(()),
    }
}

fn rcpt(state: State, rcpt: Rcpt, here: &Here<'_>) -> Step {
    let (client, mut envelope) = match state {
        State::Mail(client, open) => (client, open.envelope),
        State::Recipients(client, envelope) => (client, envelope),
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
        State::Chunks(_) => return Step::reply(state, replies::CHUNKS_BEGUN),
        state => return Step::reply(state, replies::MAIL_FIRST),
    };
    let reply = match recipients_of(&client, &envelope, rcpt, here) {
        Ok(recipients) => {
            envelope.recipients.extend(recipients);
            return Step::reply(State::Recipients(client, envelope), replies::RECIPIENT_OK);
        }
        Err(reply) => reply,
    };
    let state = if envelope.recipients.is_empty() {
        State::Mail(client, OpenMail { envelope, refused: true })
    } else {
        State::Recipients(client, envelope)
    };
    Step::reply(state, reply)
}

/// The recipients that a RCPT adds: one, or those its alias leads to.
fn recipients_of(
    client: &Client,
    envelope: &Envelope,
    rcpt: Rcpt,
    here: &Here<'_>,
) -> Result<Vec<Recipient>, Reply> {
    let alias = match &rcpt.to {
        ForwardPath::Local(name) => Some(name.clone()),
        ForwardPath::Mailbox(address) => here.aliases.alias_of(address),
    };
    let addresses = match (alias, rcpt.to) {
        (Some(name), _) => {
            let mut members = here.aliases.expand(&name).ok_or(replies::NO_SUCH_USER)?;
            if members.is_empty() {
                return Err(replies::ALIAS_LOOP);
            }
            // Who is a recipient already gets one copy.
            members.retain(|member| envelope.recipients.iter().all(|known| known.address != *member));
            members
        }
        (None, ForwardPath::Mailbox(_)) if !here.is_welcome(client.user.as_ref()) => {
            return Err(replies::NO_RELAYING);
        }
        (None, ForwardPath::Mailbox(address)) => vec![address],
        (None, ForwardPath::Local(_)) => return Err(replies::NO_SUCH_USER),
    };
    if addresses.iter().any(|address| !envelope.smtputf8 && !is_ascii(address)) {
        return Err(replies::RECIPIENT_NEEDS_SMTPUTF8);
    }
    // A first alias with more members than that is let through: asked again it would be no smaller.
    let known = envelope.recipients.len();
    if known > 0 && known + addresses.len() > here.recipients_max {
        return Err(replies::TOO_MANY_RECIPIENTS);
    }
    let recipient = |address| Recipient { address, notify: rcpt.notify, orcpt: rcpt.orcpt.clone() };
    Ok(addresses.into_iter().map(recipient).collect())
}

fn data(state: State) -> Step {
    match state {
        State::Recipients(_, ref envelope) if envelope.body == Body::BinaryMime => {
            Step::reply(state, replies::BINARY_NEEDS_BDAT)
        }
        State::Recipients(client, envelope) => Step {
            state: State::Ready(client),
            reply: Some(replies::SEND_CONTENT),
            action: Action::Receive(envelope),
        },
        State::Mail(client, open) if open.refused => {
            Step::reply(State::Mail(client, open), replies::NO_VALID_RECIPIENTS)
        }
        State::Connected => Step::reply(state, replies::EHLO_FIRST),
        State::Mail(..) => Step::reply(state, replies::RCPT_FIRST),
        State::Chunks(_) => Step::reply(state, replies::CHUNKS_BEGUN),
        state => Step::reply(state, replies::MAIL_FIRST),
    }
}

/// RFC 3030 §2. A chunk follows whatever we think of it, and must not be read as commands.
fn bdat(state: State, chunk: Chunk) -> Step {
    let (client, envelope) = match state {
        State::Recipients(client, envelope) => (client, Some(envelope)),
        State::Chunks(client) => (client, None),
        state => {
            let reply = match &state {
                State::Connected => replies::EHLO_FIRST,
                State::Mail(_, open) if open.refused => replies::NO_VALID_RECIPIENTS,
                State::Mail(..) => replies::RCPT_FIRST,
                _ => replies::MAIL_FIRST,
            };
            return Step { state, reply: Some(reply), action: Action::Skip(chunk.bytes) };
        }
    };
    let state = if chunk.last { State::Ready(client) } else { State::Chunks(client) };
    Step { state, reply: None, action: Action::ReceiveChunk(chunk, envelope) }
}

/// An address that needs no SMTPUTF8. (A U-label alone could be sent as A-label, but was not asked to be.)
fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
