//! The queue without the disk: the rows that matter to scheduling, changed as the writer changes them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mail::{Body, Domain, Handling, Priority, Speaker, address};
use crate::queue::{
    Due, DueCursor, DueDomains, Fate, Finished, LaneRow, MessageId, Origin, QueueError, QueuedMessage,
    QueuedRecipient, RecipientId, Settled,
};
use crate::scheduler::reader::Rows;

/// Most messages are ordinary.
pub(super) fn priority(message: MessageId) -> Priority {
    Priority::clamped([0, 0, -4, 0, 3, 0, 0, 0, -1, 0][message.0.rem_euclid(10) as usize])
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) message: i64,
    pub(super) domain: Domain,
    pub(super) held: bool,
    pub(super) attempts: u32,
    pub(super) next: i64,
}

#[derive(Default)]
pub(super) struct Model {
    /// When each message came, and when it expires.
    pub(super) messages: BTreeMap<i64, (i64, i64)>,
    pub(super) recipients: BTreeMap<i64, Row>,
    pub(super) history: BTreeMap<i64, Finished>,
    pub(super) lanes: BTreeMap<String, LaneRow>,
    last_id: i64,
}

impl Model {
    /// A message to these domains; gives what the scheduler is told.
    pub(super) fn accept(&mut self, domains: &[Domain], now: i64, expires_at: i64, cached: bool) -> Vec<Due> {
        let message = self.last_id + 1;
        self.last_id += 1 + domains.len() as i64;
        self.messages.insert(message, (now, expires_at));
        let ids = message + 1..;
        for (id, domain) in ids.clone().zip(domains) {
            let row = Row { message, domain: domain.clone(), held: false, attempts: 0, next: now };
            self.recipients.insert(id, row);
        }
        let all: Vec<RecipientId> = ids.take(domains.len()).map(RecipientId).collect();
        let fresh = self.fetch(MessageId(message), &all).filter(|_| cached).map(Arc::new);
        let mut due: Vec<Due> = all.iter().map(|id| self.due_row(id.0)).collect();
        due.iter_mut().for_each(|due| due.fresh = fresh.clone());
        due
    }

    /// A message with those of its recipients that wait.
    pub(super) fn fetch(&self, message: MessageId, recipients: &[RecipientId]) -> Option<QueuedMessage> {
        let (received_at, expires_at) = *self.messages.get(&message.0)?;
        let waiting = |id: &&RecipientId| self.recipients.get(&id.0).is_some_and(|row| !row.held);
        let recipient = |id: &RecipientId| QueuedRecipient {
            id: *id,
            address: address::parse(&format!("u@{}", self.recipients[&id.0].domain.as_str())).unwrap(),
            domain: self.recipients[&id.0].domain.clone(),
            attempts: self.recipients[&id.0].attempts,
            notify: None,
            orcpt: None,
            expanded: Vec::new(),
            last_reply: None,
            last_mx: None,
            last_said_by: Speaker::default(),
            warned_at: None,
            to_bounce: false,
        };
        let recipients: Vec<QueuedRecipient> = recipients.iter().filter(waiting).map(recipient).collect();
        (!recipients.is_empty()).then(|| QueuedMessage {
            id: message,
            sender: None,
            origin: Origin::default(),
            received_at,
            expires_at,
            size: 1,
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling { priority: priority(message), ..Handling::default() },
            recipients,
            content: None,
        })
    }

    /// Commits a settlement; gives what the scheduler is told.
    pub(super) fn settle(&mut self, results: &[Settled]) -> Vec<(RecipientId, Option<i64>)> {
        let mut told = Vec::new();
        for result in results {
            let id = result.recipient.0;
            let mut next = None;
            if let Some(row) = self.recipients.get_mut(&id) {
                match result.fate {
                    Fate::Retry(at) => {
                        row.attempts += 1;
                        row.next = at;
                        next = (!row.held).then_some(at);
                    }
                    Fate::Hold => row.held = true,
                    Fate::Finished(how) => self.finish(id, how),
                }
            }
            told.push((result.recipient, next));
        }
        told
    }

    pub(super) fn finish(&mut self, id: i64, how: Finished) {
        assert!(self.recipients.remove(&id).is_some(), "{id} is finished and does not wait");
        assert!(self.history.insert(id, how).is_none(), "{id} is finished twice");
    }

    fn due_row(&self, id: i64) -> Due {
        let row = &self.recipients[&id];
        Due {
            recipient: RecipientId(id),
            message: MessageId(row.message),
            domain: row.domain.clone(),
            due_at: row.next,
            attempts: row.attempts,
            priority: priority(MessageId(row.message)),
            fresh: None,
        }
    }

    fn queued(&self) -> impl Iterator<Item = (&i64, &Row)> {
        self.recipients.iter().filter(|(_, row)| !row.held)
    }

    fn behind(&self, domain: Option<&Domain>, after: DueCursor, until: i64, limit: usize) -> Vec<Due> {
        let mut places: Vec<DueCursor> = self
            .queued()
            .filter(|(_, row)| domain.is_none_or(|domain| row.domain == *domain))
            .map(|(id, row)| DueCursor { at: row.next, id: *id })
            .filter(|place| *place > after && place.at <= until)
            .collect();
        places.sort_unstable();
        places.iter().take(limit).map(|place| self.due_row(place.id)).collect()
    }
}

impl Rows for Model {
    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        Ok(self.behind(None, after, until, limit))
    }

    fn due_in_domain(&self, domain: &Domain, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        let mut due = self.behind(Some(domain), DueCursor::default(), until, usize::MAX);
        due.sort_by_key(|due| Reverse(due.priority));
        due.truncate(limit);
        Ok(due)
    }

    fn urgent(&self, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        let mut due = self.behind(None, DueCursor::default(), until, usize::MAX);
        due.retain(|due| due.priority > Priority::NORMAL);
        due.sort_by_key(|due| Reverse(due.priority));
        due.truncate(limit);
        Ok(due)
    }

    fn due_domains(&self, after: &str, until: i64, max: usize) -> Result<DueDomains, QueueError> {
        let names: BTreeSet<&Domain> = self.recipients.values().map(|row| &row.domain).collect();
        let mut found = DueDomains { due: Vec::new(), searched: None };
        let mut behind = names.into_iter().filter(|domain| domain.as_str() > after);
        for domain in behind.by_ref().take(max) {
            let oldest =
                self.queued().filter(|(_, row)| row.domain == *domain).map(|(_, row)| row.next).min();
            found.due.extend(oldest.filter(|at| *at <= until).map(|at| (domain.clone(), at)));
            found.searched = Some(domain.as_str().to_owned());
        }
        found.searched = found.searched.filter(|_| behind.next().is_some());
        Ok(found)
    }

    fn next_due_after(&self, time: i64) -> Result<Option<i64>, QueueError> {
        Ok(self.queued().map(|(_, row)| row.next).filter(|next| *next > time).min())
    }

    fn expired(&self, now: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        let past = |row: &Row| self.messages[&row.message].1 <= now;
        Ok(self.queued().filter(|(_, row)| past(row)).take(limit).map(|(id, _)| self.due_row(*id)).collect())
    }

    fn lanes(&self) -> Result<Vec<LaneRow>, QueueError> {
        Ok(self.lanes.values().cloned().collect())
    }
}
