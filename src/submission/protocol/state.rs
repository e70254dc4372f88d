//! Where a session stands, and what a command leads to. Pure.
//!
//! A state holds only what is legal in it. A step takes it by value: nothing survives that a step does not hand
//! on, so STARTTLS forgets everything and RSET the transaction.

use std::sync::Arc;

use crate::mail::{Domain, Envelope, Reply};

use crate::submission::auth::{Claim, Exchange};
use crate::submission::ports::OperatorQuery;
use crate::submission::protocol::recipients::Addressed;
use crate::submission::syntax::command::{Chunk, Node, Rcpt};
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
    /// The client has not said EHLO or HELO yet.
    Connected,
    /// Between transactions.
    Ready(Client),
    /// Within an AUTH exchange; lines are responses now, not commands.
    Authenticating(Client, Exchange),
    /// MAIL was accepted, no recipient yet.
    Mail(Client, OpenMail),
    /// At least one recipient was accepted.
    Recipients(Client, Addressed),
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
    pub(in crate::submission) addressed: Addressed,
    /// At least one recipient was refused.
    pub(in crate::submission) refused: bool,
}

/// What a command led to.
#[derive(Debug)]
pub(in crate::submission) struct Transition {
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
    /// MAIL: where the queue has no room for so many bytes, [`no_room`] instead of this step; where the user's quota
    /// has none, [`no_room_in_quota`]; where the user has sent enough within the hour, [`too_many`].
    Reserve(u64),
    /// RCPT of a user with a rate, which would add so many recipients: [`counted`] where the rate allows them, else
    /// [`not_counted`].
    Count(usize, Box<Rcpt>),
    /// AUTH: put it to the users, [`auth_step`] goes on.
    Verify(Claim),
    /// AUTH: the client has proven to be its user.
    LoggedIn,
    /// AUTH: it has not; count it as a failure of this name.
    LoginFailed(String),
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
    /// reversed.
    Reverse(Vec<Domain>),
    /// A private command: answer.
    Ask(OperatorQuery),
}

impl Transition {
    pub(in crate::submission) fn reply(state: State, reply: Reply) -> Transition {
        Transition { state, reply: Some(reply), action: Action::Continue }
    }

    pub(in crate::submission) fn close(state: State, reply: Reply) -> Transition {
        Transition { state, reply: Some(reply), action: Action::Close }
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

    /// Of the open transaction, until its content begins.
    pub(in crate::submission) fn envelope(&self) -> Option<&Envelope> {
        match self {
            State::Mail(_, open) => Some(open.addressed.envelope()),
            State::Recipients(_, addressed) => Some(addressed.envelope()),
            State::Connected | State::Ready(_) | State::Authenticating(..) | State::Chunks(_) => None,
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

    pub(in crate::submission) fn without_transaction(self) -> State {
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
