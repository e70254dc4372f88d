//! A message and what comes of it, as the tests of the queue want them.

use std::sync::Arc;

use crate::mail::{
    Attempt, Enhanced, Envelope, Labels, Outcome, Phase, Recipient, Reply, TlsPolicy, address,
};
use crate::queue::admin::{Action, Filter, Order};
use crate::queue::shared::now_us;
use crate::queue::*;

pub(in crate::queue) const DELIVERED: NextState = NextState::Finished(Finished::Delivered);

/// From `app@example.org`, whole in one piece, due now.
pub(in crate::queue) fn message(queue: &Queue, to: &[&str], content: &[u8]) -> NewMessage {
    let now = now_us() / 1_000_000;
    NewMessage {
        id: queue.new_message_id(),
        envelope: Envelope {
            sender: Some(address::parse("app@example.org").unwrap()),
            recipients: to.iter().map(|to| Recipient::new(address::parse(to).unwrap())).collect(),
            ..Envelope::default()
        },
        origin: Origin { user: Some("app".to_owned()), client: Some([127, 0, 0, 1].into()), helo: None },
        labels: Labels::default(),
        received_at: now,
        expires_at: Some(now + 1000),
        size: content.len() as u64,
        tail: content.to_vec(),
        chunks_before: 0,
    }
}

fn attempt(outcome: Outcome) -> Attempt {
    let reply = match outcome {
        Outcome::Delivered => Reply::new(250, Enhanced(2, 0, 0), "taken"),
        _ => Reply::new(451, Enhanced(4, 7, 1), "come back later"),
    };
    Attempt {
        at: now_us() / 1_000_000,
        duration_ms: 12,
        mx: Some("mx.example.com".to_owned()),
        ip: Some([192, 0, 2, 1].into()),
        tls: Some("none".to_owned()),
        tls_policy: TlsPolicy::None,
        dkim: None,
        source: Some([192, 0, 2, 25].into()),
        phase: Phase::EndOfData,
        reply,
        outcome,
    }
}

pub(in crate::queue) fn settlement(
    message: &Arc<QueuedMessage>,
    results: Vec<(RecipientId, NextState)>,
) -> Settlement {
    let result = |(recipient, next_state)| {
        let outcome = if next_state == DELIVERED { Outcome::Delivered } else { Outcome::Deferred };
        Settled { recipient, attempt: Some(attempt(outcome)), next_state, warned: false }
    };
    Settlement {
        message: message.clone(),
        at: now_us() / 1_000_000,
        results: results.into_iter().map(result).collect(),
        reports: vec![],
        pending_reports: vec![],
        expanded_told: false,
        tls_sessions: vec![],
        dialogue: None,
    }
}

/// Changes of all that a filter selects, at once.
pub(in crate::queue) trait ChangeAll: AdminStore {
    fn change_all(&self, action: Action, which: &Filter) -> Result<usize, QueueError> {
        let selected = self.select(action, which, 0)?;
        let order = Order { action, which, these: &selected.ids, login: "ann", uid: 1000, reason: None };
        let changed = self.change(&order, &|| true);
        changed.failed.map_or(Ok(changed.recipients), Err)
    }

    fn kick(&self, which: &Filter) -> Result<usize, QueueError> {
        self.change_all(Action::Kick, which)
    }

    fn hold(&self, which: &Filter) -> Result<usize, QueueError> {
        self.change_all(Action::Hold, which)
    }

    fn release(&self, which: &Filter) -> Result<usize, QueueError> {
        self.change_all(Action::Release, which)
    }

    fn bounce(&self, which: &Filter) -> Result<usize, QueueError> {
        self.change_all(Action::Bounce, which)
    }

    fn remove(&self, which: &Filter) -> Result<usize, QueueError> {
        self.change_all(Action::Remove, which)
    }
}

impl<T: AdminStore + ?Sized> ChangeAll for T {}
