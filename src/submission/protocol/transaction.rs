//! The mail transaction: MAIL, RCPT, DATA and BDAT (RFC 5321 §3.3, RFC 6409, RFC 3030). Pure, a part of
//! `protocol/dispatch.rs`.
//!
//! This file decides who may send: nobody relays without a credential or a trusted network. To whom is in
//! `recipients.rs`.

use crate::mail::{Address, Body, Envelope, Reply};

use crate::submission::protocol::extensions;
use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::recipients::Addressed;
use crate::submission::protocol::senders::may_send_as;
use crate::submission::protocol::state::{Action, Client, OpenMail, State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::{Chunk, Mail, Rcpt};

pub(in crate::submission) fn mail(state: State, mail: Mail, context: &PolicyContext<'_>) -> Transition {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Transition::reply(state, replies::EHLO_FIRST),
        state => return Transition::reply(state, replies::NESTED_MAIL),
    };
    let granted = mail_allowed(&client, &mail, context)
        .and_then(|()| extensions::granted(&mail, client.user.as_ref(), context));
    let (handling, reply) = match granted {
        Ok(granted) => granted,
        Err(reply) => return Transition::reply(State::Ready(client), reply),
    };
    let size = mail.size.unwrap_or(0);
    let envelope = Envelope {
        sender: mail.sender,
        recipients: Vec::new(),
        body: mail.body,
        smtputf8: mail.smtputf8,
        ret: mail.ret,
        envid: mail.envid,
        handling,
    };
    Transition {
        state: State::Mail(client, OpenMail { addressed: Addressed::new(envelope), refused: false }),
        reply: Some(reply),
        action: Action::Reserve(size),
    }
}

fn mail_allowed(client: &Client, mail: &Mail, context: &PolicyContext<'_>) -> Result<(), Reply> {
    // RFC 4954 §6: on every listener, whatever its `auth`. A stranger's mail goes nowhere, not even to an alias: its
    // bounces and reports would go to whom the stranger names as the sender.
    if !context.is_welcome(client.user.as_ref()) {
        return Err(context.auth_first());
    }
    if mail.size.is_some_and(|size| size > context.message_size_max) {
        return Err(replies::TOO_BIG);
    }
    if mail.sender.as_ref().is_some_and(|sender| !mail.smtputf8 && !is_ascii(sender)) {
        return Err(replies::SENDER_NEEDS_SMTPUTF8);
    }
    match &client.user {
        Some(user) if !may_send_as(user, mail.sender.as_ref()) => Err(replies::SENDER_NOT_YOURS),
        _ => Ok(()),
    }
}

pub(in crate::submission) fn rcpt(state: State, rcpt: Rcpt, context: &PolicyContext<'_>) -> Transition {
    let (client, addressed) = match state {
        State::Mail(client, open) => (client, open.addressed),
        State::Recipients(client, addressed) => (client, addressed),
        State::Connected => return Transition::reply(state, replies::EHLO_FIRST),
        State::Chunks(_) => return Transition::reply(state, replies::CHUNKS_BEGUN),
        state => return Transition::reply(state, replies::MAIL_FIRST),
    };
    // MAIL saw to it. Should a way be found round that, it still ends here.
    if !context.is_welcome(client.user.as_ref()) {
        return Transition::reply(not_added(client, addressed), context.auth_first());
    }
    let has_rate = client.user.as_ref().is_some_and(|user| user.rate.is_some());
    let new = if has_rate { addressed.new_recipients(&rcpt, context) } else { 0 };
    if new > 0 {
        let state = not_added(client, addressed);
        return Transition { state, reply: None, action: Action::Count(new, Box::new(rcpt)) };
    }
    add(client, addressed, rcpt, context)
}

/// A RCPT whose recipients the user's rate allows.
pub(in crate::submission) fn counted(state: State, rcpt: Rcpt, context: &PolicyContext<'_>) -> Transition {
    match state {
        State::Mail(client, open) => add(client, open.addressed, rcpt, context),
        State::Recipients(client, addressed) => add(client, addressed, rcpt, context),
        state => Transition::reply(state, replies::MAIL_FIRST),
    }
}

/// A RCPT whose recipients the rate does not allow.
pub(in crate::submission) fn not_counted(
    state: State,
    rcpt: &Rcpt,
    reply: Reply,
    context: &PolicyContext<'_>,
) -> Transition {
    let (client, mut addressed) = match state {
        State::Mail(client, open) => (client, open.addressed),
        State::Recipients(client, addressed) => (client, addressed),
        state => return Transition::reply(state, reply),
    };
    addressed.refuse(rcpt, &reply, context);
    Transition::reply(not_added(client, addressed), reply)
}

fn add(client: Client, mut addressed: Addressed, rcpt: Rcpt, context: &PolicyContext<'_>) -> Transition {
    match addressed.add(rcpt, context) {
        Ok(reply) => Transition::reply(State::Recipients(client, addressed), reply),
        Err(reply) => Transition::reply(not_added(client, addressed), reply),
    }
}

/// The transaction behind a RCPT that was refused, as far as is known.
fn not_added(client: Client, addressed: Addressed) -> State {
    if addressed.envelope().recipients.is_empty() {
        State::Mail(client, OpenMail { addressed, refused: true })
    } else {
        State::Recipients(client, addressed)
    }
}

pub(in crate::submission) fn data(state: State) -> Transition {
    match state {
        State::Recipients(_, ref addressed) if addressed.envelope().body == Body::BinaryMime => {
            Transition::reply(state, replies::BINARY_NEEDS_BDAT)
        }
        State::Recipients(client, addressed) => Transition {
            state: State::Ready(client),
            reply: Some(replies::SEND_CONTENT),
            action: Action::Receive(addressed.into_envelope()),
        },
        State::Mail(client, open) if open.refused => {
            Transition::reply(State::Mail(client, open), replies::NO_VALID_RECIPIENTS)
        }
        State::Connected => Transition::reply(state, replies::EHLO_FIRST),
        State::Mail(..) => Transition::reply(state, replies::RCPT_FIRST),
        State::Chunks(_) => Transition::reply(state, replies::CHUNKS_BEGUN),
        state => Transition::reply(state, replies::MAIL_FIRST),
    }
}

/// RFC 3030 §2. A chunk follows whatever we think of it, and must not be read as commands.
pub(in crate::submission) fn bdat(state: State, chunk: Chunk) -> Transition {
    let (client, envelope) = match state {
        State::Recipients(client, addressed) => (client, Some(addressed.into_envelope())),
        State::Chunks(client) => (client, None),
        state => {
            let reply = match &state {
                State::Connected => replies::EHLO_FIRST,
                State::Mail(_, open) if open.refused => replies::NO_VALID_RECIPIENTS,
                State::Mail(..) => replies::RCPT_FIRST,
                _ => replies::MAIL_FIRST,
            };
            return Transition { state, reply: Some(reply), action: Action::Skip(chunk.bytes) };
        }
    };
    let state = if chunk.last { State::Ready(client) } else { State::Chunks(client) };
    Transition { state, reply: None, action: Action::ReceiveChunk(chunk, envelope) }
}

/// An address that needs no SMTPUTF8. (A U-label alone could be sent as A-label, but was not asked to be.)
pub(super) fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}
