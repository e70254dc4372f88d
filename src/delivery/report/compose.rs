//! Whom to tell of a settlement: its bounce, its delay warning and its delivery report, at most one each, and
//! what becomes of them where the sender has had enough (`flood.rs`).

use crate::mail::{Address, Outcome};
use crate::maillog;
use crate::queue::{
    Finished, NewMessage, NextState, PendingReport, Queue, QueuedMessage, RecipientId, Settled,
};

use crate::delivery::Setup;
use crate::delivery::report::bounce::{self, Kind, Notice, Told};
use crate::delivery::report::report_limit::Floods;

/// What goes into the settlement.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Notices {
    pub(in crate::delivery) written: Vec<NewMessage>,
    /// Failures that no report of their own tells of.
    pub(in crate::delivery) pending_reports: Vec<PendingReport>,
    /// The aliases that the recipients stand for were told of.
    pub(in crate::delivery) expanded_told: bool,
}

/// Writes what these results cause. A warning that is not written takes its mark (`warned`) from the results.
pub(in crate::delivery) fn write(
    setup: &Setup,
    queue: &Queue,
    floods: &Floods,
    now: i64,
    message: &QueuedMessage,
    results: &mut [Settled],
) -> Notices {
    let mut notices = Notices::default();
    let put_off = {
        let told = told(message, results);
        match &message.sender {
            Some(sender) if !told.is_empty() => {
                let round = Round { setup, queue, floods, now, message, sender, told: &told };
                round.write(&mut notices)
            }
            _ => Vec::new(),
        }
    };
    for result in results.iter_mut().filter(|result| put_off.contains(&result.recipient)) {
        result.warned = false;
    }
    notices
}

/// What happened to whom, and of which aliases that is the first news.
fn told<'a>(message: &'a QueuedMessage, results: &'a [Settled]) -> Vec<Told<'a>> {
    let mut told = Vec::new();
    for (recipient, result) in message.recipients.iter().zip(results) {
        let attempt = result.attempt.as_ref();
        let outcome = Outcome::Relayed;
        let aliases = recipient.expanded.iter();
        told.extend(aliases.map(|alias| Told { recipient, attempt: None, outcome, expanded: Some(alias) }));
        let outcome = match result.next_state {
            NextState::Finished(Finished::Delivered) => Outcome::Delivered,
            NextState::Finished(Finished::Relayed) => Outcome::Relayed,
            NextState::Finished(Finished::Failed) => Outcome::Failed,
            NextState::Finished(Finished::Expired) => Outcome::Expired,
            NextState::Retry(_) if result.warned => Outcome::Deferred,
            NextState::Retry(_) | NextState::Hold | NextState::Finished(Finished::Removed) => continue,
        };
        if message.sender.is_none() && matches!(outcome, Outcome::Failed | Outcome::Expired) {
            let why = attempt.map(|attempt| attempt.reply.to_string());
            maillog::dead_end(
                message.id,
                &recipient.address,
                why.as_deref().or(recipient.last_reply.as_deref()),
            );
        }
        // A host that takes part in DSN tells of the delivery itself (RFC 3461 §5.2.1).
        if outcome != Outcome::Delivered && bounce::wanted_of(message, recipient.notify, outcome) {
            told.push(Told { recipient, attempt, outcome, expanded: None });
        }
    }
    told
}

struct Round<'a> {
    setup: &'a Setup,
    queue: &'a Queue,
    floods: &'a Floods,
    now: i64,
    message: &'a QueuedMessage,
    sender: &'a Address,
    told: &'a [Told<'a>],
}

impl Round<'_> {
    /// Gives the recipients whose warning is put off.
    fn write(&self, notices: &mut Notices) -> Vec<RecipientId> {
        let Round { message, now, told, .. } = *self;
        let settings = &self.setup.settings;
        let original = beginning(self.queue, message);
        let mut put_off = Vec::new();
        for kind in Kind::ALL {
            let id = self.queue.new_message_id();
            let notice = Notice { id, hostname: &settings.hostname, now, message, told, original: &original };
            let Some(report) = bounce::report(kind, &notice) else { continue };
            if !self.floods.admit(self.queue, self.sender, now, settings.bounces_per_sender) {
                let limit = settings.bounces_per_sender.unwrap_or_default();
                maillog::suppressed(message.id, self.sender, kind.name(), limit);
                let about = notice.about(kind);
                match kind {
                    Kind::Delay => put_off.extend(about.iter().map(|told| told.recipient.id)),
                    Kind::Bounce | Kind::Success => {
                        notices.pending_reports.extend(about.into_iter().map(pending_reports))
                    }
                }
                continue;
            }
            let written = report.into_message(id, now, settings.bounce_lifetime);
            maillog::notified(message.id, &written, kind.name());
            notices.written.push(written);
        }
        // Reported, or to be: once in any case.
        notices.expanded_told = told.iter().any(|told| told.expanded.is_some());
        put_off
    }
}

/// A line of the summary to come.
fn pending_reports(told: &Told<'_>) -> PendingReport {
    if let Some(expanded) = told.expanded {
        return PendingReport { address: expanded.alias.clone(), state: "expanded", reply: None };
    }
    let reply = told.attempt.map(|attempt| attempt.reply.to_string());
    PendingReport {
        address: told.recipient.address.clone(),
        state: told.outcome.as_str(),
        reply: reply.or_else(|| told.recipient.last_reply.clone()),
    }
}

/// As much of the content as a report may return.
fn beginning(queue: &Queue, message: &QueuedMessage) -> Vec<u8> {
    let mut beginning = match &message.content {
        Some(content) => content.bytes.clone(),
        // A report without the original is better than none.
        None => queue.content(message.id).next().and_then(Result::ok).unwrap_or_default(),
    };
    beginning.truncate(bounce::RETURNED_BYTES_MAX);
    beginning
}
