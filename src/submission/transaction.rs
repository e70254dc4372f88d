//! The mail transaction: MAIL, RCPT and DATA (RFC 5321 §3.3, RFC 6409). Pure, a part of `protocol.rs`.
//!
//! Here it is decided who may send and to whom: nobody relays without a credential or a trusted network.

use crate::mail::{Address, Envelope, Notify, Recipient, Reply};

use super::aliases::same_mailbox;
use super::command::{ForwardPath, Mail, Rcpt};
use super::extensions;
use super::protocol::{Action, Client, Here, OpenMail, State, Step};
use super::replies;
use super::senders::may_send_as;

pub(super) fn mail(state: State, mail: Mail, here: &Here<'_>) -> Step {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Step::reply(state, replies::EHLO_FIRST),
        state => return Step::reply(state, replies::NESTED_MAIL),
    };
    let granted = mail_allowed(&client, &mail, here)
        .and_then(|()| extensions::granted(&mail, client.user.as_ref(), here));
    let (handling, reply) = match granted {
        Ok(granted) => granted,
        Err(reply) => return Step::reply(State::Ready(client), reply),
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
    Step {
        state: State::Mail(client, OpenMail { envelope, refused: false }),
        reply: Some(reply),
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
        Some(user) if !may_send_as(user, mail.sender.as_ref()) => Err(replies::SENDER_NOT_YOURS),
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
    let reply = match add_recipients(&client, &mut envelope, rcpt, here) {
        Ok(reply) => return Step::reply(State::Recipients(client, envelope), reply),
        Err(reply) => reply,
    };
    let state = if envelope.recipients.is_empty() {
        State::Mail(client, OpenMail { envelope, refused: true })
    } else {
        State::Recipients(client, envelope)
    };
    Step::reply(state, reply)
}

/// Adds whom a RCPT is for: one, or those its alias leads to.
fn add_recipients(
    client: &Client,
    envelope: &mut Envelope,
    rcpt: Rcpt,
    here: &Here<'_>,
) -> Result<Reply, Reply> {
    let alias = match &rcpt.to {
        ForwardPath::Local(name) => Some(name.clone()),
        ForwardPath::Mailbox(address) => here.aliases.alias_of(address),
    };
    let welcome = here.is_welcome(client.user.as_ref());
    let is_alias = alias.is_some();
    let addresses = match (alias, rcpt.to) {
        (Some(name), _) => here.aliases.expand(&name).ok_or(replies::NO_SUCH_USER)?,
        (None, ForwardPath::Mailbox(_)) if !welcome => return Err(replies::NO_RELAYING),
        (None, ForwardPath::Mailbox(address)) => vec![address],
        (None, ForwardPath::Local(_)) => return Err(replies::NO_SUCH_USER),
    };
    let reply = match addresses.as_slice() {
        [] => return Err(replies::ALIAS_LOOP),
        // RFC 5321 §3.4: strangers are not told.
        [mailbox] if is_alias && welcome => replies::forwarded(mailbox),
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
    if !known.is_empty() && known.len() + new > here.recipients_max {
        return Err(replies::TOO_MANY_RECIPIENTS);
    }
    for (recipient, place) in addressed(addresses, rcpt.notify, rcpt.orcpt.as_ref()).into_iter().zip(places) {
        // Who is a recipient already gets one copy, and the sender every report asked for.
        match place.and_then(|place| envelope.recipients.get_mut(place)) {
            Some(known) => known.notify = either(known.notify, recipient.notify),
            None => envelope.recipients.push(recipient),
        }
    }
    Ok(reply)
}

/// The parameters of a RCPT, for those its alias leads to. RFC 3461 §5.2.7.2: one address takes them all over.
/// §5.2.7.3: several take them over but for SUCCESS, which stays with the first, so that the sender hears once
/// that the mail arrived. NEVER holds for all.
fn addressed(addresses: Vec<Address>, notify: Option<Notify>, orcpt: Option<&String>) -> Vec<Recipient> {
    let others = notify.map(|notify| Notify { success: false, ..notify });
    let notify_of = |place: usize| if place == 0 { notify } else { others };
    let recipient = |(place, address)| Recipient { address, notify: notify_of(place), orcpt: orcpt.cloned() };
    addresses.into_iter().enumerate().map(recipient).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    #[test]
    fn of_a_list_one_member_reports_success_and_never_holds_for_all() {
        let to = ["a@x.example", "b@x.example"].map(|text| address::parse(text).unwrap());
        let orcpt = "rfc822;team@x.example".to_owned();
        let words = |notify: &str| -> Vec<String> {
            let recipients = addressed(to.to_vec(), Notify::from_word(notify), Some(&orcpt));
            assert!(recipients.iter().all(|recipient| recipient.orcpt.as_ref() == Some(&orcpt)));
            recipients.iter().map(|recipient| recipient.notify.unwrap().to_word()).collect()
        };
        assert_eq!(words("SUCCESS"), ["SUCCESS", "NEVER"]);
        assert_eq!(words("SUCCESS,FAILURE"), ["SUCCESS,FAILURE", "FAILURE"]);
        assert_eq!(words("NEVER"), ["NEVER", "NEVER"]);
        assert!(addressed(to.to_vec(), None, None).iter().all(|recipient| recipient.notify.is_none()));
    }

    #[test]
    fn a_recipient_named_twice_has_every_report_asked_for() {
        let word = |one, other| either(Notify::from_word(one), Notify::from_word(other)).map(Notify::to_word);
        assert_eq!(word("NEVER", "SUCCESS").as_deref(), Some("SUCCESS"));
        assert_eq!(word("NEVER", "").as_deref(), Some("FAILURE,DELAY"));
        assert_eq!(word("", ""), None);
    }
}
