//! The mail transaction: MAIL, RCPT and DATA (RFC 5321 §3.3, RFC 6409). Pure, a part of `protocol.rs`.
//!
//! Here it is decided who may send and to whom: nobody relays without a credential or a trusted network.

use crate::mail::{Address, Envelope, Recipient, Reply};

use super::auth;
use super::command::{ForwardPath, Mail, Rcpt};
use super::protocol::{Action, Client, Here, OpenMail, State, Step};
use super::replies;

pub(super) fn mail(state: State, mail: Mail, here: &Here<'_>) -> Step {
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

pub(super) fn rcpt(state: State, rcpt: Rcpt, here: &Here<'_>) -> Step {
    let (client, mut envelope) = match state {
        State::Mail(client, open) => (client, open.envelope),
        State::Recipients(client, envelope) => (client, envelope),
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
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

pub(super) fn data(state: State) -> Step {
    match state {
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
        state => Step::reply(state, replies::MAIL_FIRST),
    }
}

/// An address that needs no SMTPUTF8. (A U-label alone could be sent as A-label, but was not asked to be.)
fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}
