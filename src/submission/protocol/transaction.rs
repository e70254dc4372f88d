//! The mail transaction: MAIL, RCPT, DATA and BDAT (RFC 5321 §3.3, RFC 6409, RFC 3030). Pure, a part of
//! `protocol/dispatch.rs`.
//!
//! This file decides who may send and to whom: nobody relays without a credential or a trusted network.

use crate::mail::{Address, Body, Envelope, Expanded, Notify, Recipient, Reply};

use crate::submission::protocol::aliases::same_mailbox;
use crate::submission::protocol::extensions;
use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::senders::may_send_as;
use crate::submission::protocol::state::{Action, Client, OpenMail, State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::{Chunk, ForwardPath, Mail, Rcpt};

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
        state: State::Mail(client, OpenMail { envelope, refused: false }),
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
    let (client, mut envelope) = match state {
        State::Mail(client, open) => (client, open.envelope),
        State::Recipients(client, envelope) => (client, envelope),
        State::Connected => return Transition::reply(state, replies::EHLO_FIRST),
        State::Chunks(_) => return Transition::reply(state, replies::CHUNKS_BEGUN),
        state => return Transition::reply(state, replies::MAIL_FIRST),
    };
    let reply = match add_recipients(&client, &mut envelope, rcpt, context) {
        Ok(reply) => return Transition::reply(State::Recipients(client, envelope), reply),
        Err(reply) => reply,
    };
    let state = if envelope.recipients.is_empty() {
        State::Mail(client, OpenMail { envelope, refused: true })
    } else {
        State::Recipients(client, envelope)
    };
    Transition::reply(state, reply)
}

/// Adds the recipients of a RCPT: one, or the members of its alias.
fn add_recipients(
    client: &Client,
    envelope: &mut Envelope,
    rcpt: Rcpt,
    context: &PolicyContext<'_>,
) -> Result<Reply, Reply> {
    // MAIL saw to it. Should a way be found round that, it still ends here.
    if !context.is_welcome(client.user.as_ref()) {
        return Err(context.auth_first());
    }
    let alias = match &rcpt.to {
        ForwardPath::Local(name) => Some(name.clone()),
        ForwardPath::Mailbox(address) => context.aliases.alias_of(address),
    };
    let is_alias = alias.is_some();
    let asked_for = match &rcpt.to {
        ForwardPath::Mailbox(address) => address.clone(),
        ForwardPath::Local(name) => Address::new_dangerous(name, context.aliases.hostname.as_str()),
    };
    let addresses = match (alias, rcpt.to) {
        (Some(name), _) => context.aliases.expand(&name).ok_or(replies::NO_SUCH_USER)?,
        (None, ForwardPath::Mailbox(address)) => vec![address],
        (None, ForwardPath::Local(_)) => return Err(replies::NO_SUCH_USER),
    };
    let reply = match addresses.as_slice() {
        [] => return Err(replies::ALIAS_LOOP),
        [mailbox] if is_alias => replies::forwarded(mailbox),
        _ => replies::RECIPIENT_OK,
    };
    if addresses.iter().any(|address| !envelope.smtputf8 && !is_ascii(address)) {
        return Err(replies::RECIPIENT_NEEDS_SMTPUTF8);
    }
    let known = &envelope.recipients;
    let place_of = |address| known.iter().position(|known| same_mailbox(&known.address, address));
    let places: Vec<Option<usize>> = addresses.iter().map(place_of).collect();
    // A first alias with more members than that is let through: asked again it would be no smaller.
    let new = places.iter().filter(|place| place.is_none()).count();
    if !known.is_empty() && known.len() + new > context.recipients_max {
        return Err(replies::TOO_MANY_RECIPIENTS);
    }
    let expanded = is_expanded(addresses.len(), rcpt.notify, envelope.sender.as_ref());
    let expanded = expanded.then(|| Expanded { alias: asked_for, orcpt: rcpt.orcpt.clone() });
    let mut recipients = addressed(addresses, rcpt.notify, rcpt.orcpt.as_ref());
    if let (Some(expanded), Some(first)) = (expanded, recipients.first_mut()) {
        first.expanded.push(expanded);
    }
    merge(envelope, recipients.into_iter().zip(places));
    Ok(reply)
}

/// Adds recipients, each with its place where it is one already: it gets one copy, and the sender every report
/// asked for.
fn merge(envelope: &mut Envelope, recipients: impl Iterator<Item = (Recipient, Option<usize>)>) {
    for (recipient, place) in recipients {
        match place.and_then(|place| envelope.recipients.get_mut(place)) {
            Some(known) => {
                known.notify = either(known.notify, recipient.notify);
                for expanded in recipient.expanded {
                    if !known.expanded.contains(&expanded) {
                        known.expanded.push(expanded);
                    }
                }
            }
            None => envelope.recipients.push(recipient),
        }
    }
}

/// The parameters of a RCPT, for each member of its alias. RFC 3461 §5.2.7.2: one address takes them all over.
/// §5.2.7.3 (c): several take them over but for SUCCESS, which is answered for the alias. NEVER holds for all.
fn addressed(addresses: Vec<Address>, notify: Option<Notify>, orcpt: Option<&String>) -> Vec<Recipient> {
    let several = addresses.len() > 1;
    let notify = notify.map(|notify| Notify { success: notify.success && !several, ..notify });
    let recipient = |address| Recipient { notify, orcpt: orcpt.cloned(), ..Recipient::new(address) };
    addresses.into_iter().map(recipient).collect()
}

/// Whether the sender is to be told that an alias was expanded: it has several members, and SUCCESS was asked for.
fn is_expanded(members: usize, notify: Option<Notify>, sender: Option<&Address>) -> bool {
    members > 1 && notify.is_some_and(|notify| notify.success) && sender.is_some()
}

fn either(one: Option<Notify>, other: Option<Notify>) -> Option<Notify> {
    if one.is_none() && other.is_none() {
        return None;
    }
    let (one, other) = (one.unwrap_or(Notify::DEFAULT), other.unwrap_or(Notify::DEFAULT));
    Some(Notify {
        success: one.success || other.success,
        failure: one.failure || other.failure,
        delay: one.delay || other.delay,
    })
}

pub(in crate::submission) fn data(state: State) -> Transition {
    match state {
        State::Recipients(_, ref envelope) if envelope.body == Body::BinaryMime => {
            Transition::reply(state, replies::BINARY_NEEDS_BDAT)
        }
        State::Recipients(client, envelope) => Transition {
            state: State::Ready(client),
            reply: Some(replies::SEND_CONTENT),
            action: Action::Receive(envelope),
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
        State::Recipients(client, envelope) => (client, Some(envelope)),
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
fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    #[test]
    fn a_list_is_told_of_and_its_members_report_no_success() {
        let to = ["a@x.example", "b@x.example"].map(|text| address::parse(text).unwrap());
        let orcpt = "rfc822;team@x.example".to_owned();
        let words = |notify: &str| -> Vec<String> {
            let recipients = addressed(to.to_vec(), Notify::from_word(notify), Some(&orcpt));
            assert!(recipients.iter().all(|recipient| recipient.orcpt.as_ref() == Some(&orcpt)));
            recipients.iter().map(|recipient| recipient.notify.unwrap().to_word()).collect()
        };
        assert_eq!(words("SUCCESS"), ["NEVER", "NEVER"]);
        assert_eq!(words("SUCCESS,FAILURE"), ["FAILURE", "FAILURE"]);
        assert_eq!(words("NEVER"), ["NEVER", "NEVER"]);
        assert!(addressed(to.to_vec(), None, None).iter().all(|recipient| recipient.notify.is_none()));
        let one = addressed(to[..1].to_vec(), Notify::from_word("SUCCESS"), None);
        assert_eq!(one[0].notify.unwrap().to_word(), "SUCCESS", "a list of one is only another address");
        let told = |members, notify, sender: Option<&Address>| is_expanded(members, notify, sender);
        let (success, sender) = (Notify::from_word("SUCCESS,DELAY"), Some(&to[0]));
        assert!(told(2, success, sender));
        assert!(!told(1, success, sender) && !told(2, success, None) && !told(2, None, sender));
        assert!(!told(2, Notify::from_word("FAILURE"), sender));
    }

    #[test]
    fn a_recipient_named_twice_has_every_report_asked_for() {
        let word = |one, other| either(Notify::from_word(one), Notify::from_word(other)).map(Notify::to_word);
        assert_eq!(word("NEVER", "SUCCESS").as_deref(), Some("SUCCESS"));
        assert_eq!(word("NEVER", "").as_deref(), Some("FAILURE,DELAY"));
        assert_eq!(word("", ""), None);
    }
}
