//! The recipients of an open transaction: RCPT, the members of aliases, and what the sender asked to be told. Pure.
//!
//! A RCPT costs what it brings that is new: a mailbox is found by its key, and an alias of many members that was named
//! before is not expanded again. What a transaction holds is bounded by `[limits] recipients`, the first alias (whose
//! length is the operator's business) apart: mailboxes and expansions to be reported count together.

use std::collections::{HashMap, HashSet};

use crate::mail::{Address, Envelope, Expanded, Notify, Recipient, Reply};

use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::transaction::is_ascii;
use crate::submission::replies;
use crate::submission::syntax::command::{ForwardPath, Rcpt};

/// An envelope while recipients are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Addressed {
    envelope: Envelope,
    /// Where a mailbox is in the envelope.
    places: HashMap<String, usize>,
    /// Aliases of several members, or of none, that were named.
    lists: HashMap<String, List>,
    /// Expansions that are to be reported, as text.
    expansions: HashSet<String>,
}

/// What came of an alias that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum List {
    /// Its members are recipients, one of them at this place, and report what this asks for at least.
    Taken(usize, Option<Notify>),
    /// It will be refused again: recipients do not become fewer.
    Refused(Reply),
}

impl Addressed {
    /// To whoever is in the envelope.
    pub(in crate::submission) fn new(envelope: Envelope) -> Addressed {
        let places = envelope
            .recipients
            .iter()
            .enumerate()
            .map(|(place, known)| (key(&known.address), place))
            .collect();
        Addressed { envelope, places, lists: HashMap::new(), expansions: HashSet::new() }
    }

    pub(in crate::submission) fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    pub(in crate::submission) fn into_envelope(self) -> Envelope {
        self.envelope
    }

    /// How many recipients a RCPT would add; none where it will be refused.
    pub(super) fn new_recipients(&self, rcpt: &Rcpt, context: &PolicyContext<'_>) -> usize {
        let members = match (alias(rcpt, context), &rcpt.to) {
            (Some(name), _) if self.lists.contains_key(&name) => return 0,
            (Some(name), _) => context.aliases.expand(&name).unwrap_or_default(),
            (None, ForwardPath::Mailbox(address)) => vec![address.clone()],
            (None, ForwardPath::Local(_)) => return 0,
        };
        self.check(&members, context.recipients_max).unwrap_or(0)
    }

    /// Remembers the refusal of an alias: until the transaction ends it is not expanded again.
    pub(super) fn refuse(&mut self, rcpt: &Rcpt, reply: &Reply, context: &PolicyContext<'_>) {
        if let Some(name) = alias(rcpt, context) {
            self.lists.insert(name, List::Refused(reply.clone()));
        }
    }

    /// Adds the recipients of a RCPT: one, or the members of its alias.
    pub(super) fn add(&mut self, rcpt: Rcpt, context: &PolicyContext<'_>) -> Result<Reply, Reply> {
        match (alias(&rcpt, context), &rcpt.to) {
            (Some(name), _) => self.add_alias(&name, &rcpt, context),
            (None, ForwardPath::Mailbox(address)) => {
                self.add_mailbox(address.clone(), &rcpt, context.recipients_max)
            }
            (None, ForwardPath::Local(_)) => Err(replies::NO_SUCH_USER),
        }
    }

    fn add_mailbox(&mut self, address: Address, rcpt: &Rcpt, max: usize) -> Result<Reply, Reply> {
        self.check(std::slice::from_ref(&address), max)?;
        self.merge(address, rcpt.notify, rcpt.orcpt.as_ref());
        Ok(replies::RECIPIENT_OK)
    }

    fn add_alias(&mut self, name: &str, rcpt: &Rcpt, context: &PolicyContext<'_>) -> Result<Reply, Reply> {
        // RFC 3461 §5.2.7.3 (c): members take the parameters over but for SUCCESS, which is answered for the alias.
        // NEVER holds for all.
        let of_members = rcpt.notify.map(|notify| Notify { success: false, ..notify });
        let place = match self.lists.get(name) {
            Some(List::Refused(reply)) => return Err(reply.clone()),
            Some(List::Taken(place, known)) if either(*known, of_members) == *known => *place,
            _ => {
                let members = context.aliases.expand(name).ok_or(replies::NO_SUCH_USER)?;
                if let [mailbox] = members.as_slice() {
                    // §5.2.7.2: one address takes them all over.
                    return self
                        .add_mailbox(mailbox.clone(), rcpt, context.recipients_max)
                        .map(|_| replies::forwarded(mailbox));
                }
                self.add_members(name, members, of_members, rcpt, context.recipients_max)?
            }
        };
        self.expand(name, place, rcpt, context)?;
        Ok(replies::RECIPIENT_OK)
    }

    /// Adds several members, and gives the place of one.
    fn add_members(
        &mut self,
        name: &str,
        members: Vec<Address>,
        notify: Option<Notify>,
        rcpt: &Rcpt,
        max: usize,
    ) -> Result<usize, Reply> {
        if let Err(reply) = self.check(&members, max) {
            self.lists.insert(name.to_owned(), List::Refused(reply.clone()));
            return Err(reply);
        }
        let known = match self.lists.get(name) {
            Some(List::Taken(_, known)) => either(*known, notify),
            _ => notify,
        };
        let mut first = None;
        for member in members {
            let place = self.merge(member, notify, rcpt.orcpt.as_ref());
            first.get_or_insert(place);
        }
        let place = first.ok_or(replies::ALIAS_LOOP)?;
        self.lists.insert(name.to_owned(), List::Taken(place, known));
        Ok(place)
    }

    /// Whether these can be recipients too, and how many of them are not there yet.
    fn check(&self, addresses: &[Address], max: usize) -> Result<usize, Reply> {
        if addresses.is_empty() {
            return Err(replies::ALIAS_LOOP);
        }
        if !self.envelope.smtputf8 && !addresses.iter().all(is_ascii) {
            return Err(replies::RECIPIENT_NEEDS_SMTPUTF8);
        }
        // A first alias with more members than that is let through: asked again it would be no smaller.
        let new = addresses.iter().filter(|address| !self.places.contains_key(&key(address))).count();
        if !self.envelope.recipients.is_empty() && new > 0 && self.count() + new > max {
            return Err(replies::TOO_MANY_RECIPIENTS);
        }
        Ok(new)
    }

    /// Recipients and reports beside theirs.
    fn count(&self) -> usize {
        self.envelope.recipients.len() + self.expansions.len()
    }

    /// Adds a recipient, or what is asked for one that is there: it gets one copy, and the sender every report asked
    /// for.
    fn merge(&mut self, address: Address, notify: Option<Notify>, orcpt: Option<&String>) -> usize {
        let recipients = &mut self.envelope.recipients;
        let place = *self.places.entry(key(&address)).or_insert(recipients.len());
        match recipients.get_mut(place) {
            Some(known) => known.notify = either(known.notify, notify),
            None => recipients.push(Recipient { notify, orcpt: orcpt.cloned(), ..Recipient::new(address) }),
        }
        place
    }

    /// Notes that the sender is to be told that an alias of several members was expanded, where SUCCESS was asked for.
    fn expand(
        &mut self,
        name: &str,
        place: usize,
        rcpt: &Rcpt,
        context: &PolicyContext<'_>,
    ) -> Result<(), Reply> {
        if !rcpt.notify.is_some_and(|notify| notify.success) || self.envelope.sender.is_none() {
            return Ok(());
        }
        let alias = match &rcpt.to {
            ForwardPath::Mailbox(address) => address.clone(),
            ForwardPath::Local(_) => Address::new_dangerous(name, context.aliases.hostname.as_str()),
        };
        let expanded = Expanded { alias, orcpt: rcpt.orcpt.clone() };
        let text = Expanded::to_text(std::slice::from_ref(&expanded)).unwrap_or_default();
        if self.expansions.contains(&text) {
            return Ok(());
        }
        // The first is that of an alias that was let through.
        if !self.expansions.is_empty() && self.count() >= context.recipients_max {
            return Err(replies::TOO_MANY_RECIPIENTS);
        }
        self.expansions.insert(text);
        if let Some(carrier) = self.envelope.recipients.get_mut(place) {
            carrier.expanded.push(expanded);
        }
        Ok(())
    }
}

/// The local name that a RCPT is for, in lower case; none for an address elsewhere.
fn alias(rcpt: &Rcpt, context: &PolicyContext<'_>) -> Option<String> {
    match &rcpt.to {
        ForwardPath::Local(name) => Some(name.to_lowercase()),
        ForwardPath::Mailbox(address) => context.aliases.alias_of(address),
    }
}

/// The same for the same mailbox: the local part as it is (RFC 5321 §2.4), the domain without regard to case.
fn key(address: &Address) -> String {
    format!("{}@{}", address.user(), address.domain().to_ascii_lowercase())
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

#[cfg(test)]
mod tests;
