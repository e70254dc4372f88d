//! Which reports a settlement causes: a bounce, a delay warning and a delivery report, at most one of each, within
//! the sender's limit (`report_limit.rs`).

use crate::config::DeliverySettings;
use crate::mail::{Address, Outcome};
use crate::maillog;
use crate::queue::{
    Finished, NewMessage, NextState, PendingReport, Queue, QueuedMessage, RecipientId, Settled,
};

use crate::delivery::report::bounce::{self, ReportContext, ReportKind, ReportedRecipient};
use crate::delivery::report::report_limit::ReportLimits;

/// What reporting adds to a settlement.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Reports {
    /// The reports themselves, each with the word for what it is.
    pub(in crate::delivery) written: Vec<(&'static str, NewMessage)>,
    /// Failures left to the sender's next summary.
    pub(in crate::delivery) pending_reports: Vec<PendingReport>,
    /// The aliases of the recipients are reported as expanded, now or in the summary.
    pub(in crate::delivery) expanded_told: bool,
}

/// Writes the reports that these results cause. A delay warning that exceeds the limit is postponed: its results
/// lose their mark (`warned`), so that the next attempt is due one.
pub(in crate::delivery) fn compose(
    settings: &DeliverySettings,
    queue: &Queue,
    limits: &ReportLimits,
    now: i64,
    message: &QueuedMessage,
    results: &mut [Settled],
) -> Reports {
    let mut reports = Reports::default();
    let postponed = {
        let reported = reported(message, results);
        match &message.sender {
            Some(sender) if !reported.is_empty() => {
                let reporter =
                    Reporter { settings, queue, limits, now, message, sender, reported: &reported };
                reporter.write(&mut reports)
            }
            _ => Vec::new(),
        }
    };
    for result in results.iter_mut().filter(|result| postponed.contains(&result.recipient)) {
        result.warned = false;
    }
    reports
}

/// The recipients to report on, and the aliases that are now known to be expanded.
fn reported<'a>(message: &'a QueuedMessage, results: &'a [Settled]) -> Vec<ReportedRecipient<'a>> {
    let mut reported = Vec::new();
    // The results are in the order of the recipients, and may be of some of them alone.
    let mut recipients = message.recipients.iter();
    for result in results {
        let Some(recipient) = recipients.find(|recipient| recipient.id == result.recipient) else { continue };
        let attempt = result.attempt.as_ref();
        reported.extend(recipient.expanded.iter().map(|alias| ReportedRecipient {
            recipient,
            attempt: None,
            outcome: Outcome::Relayed,
            expanded: Some(alias),
        }));
        let outcome = match result.next_state {
            NextState::Finished(Finished::Delivered) => Outcome::Delivered,
            NextState::Finished(Finished::Relayed) => Outcome::Relayed,
            NextState::Finished(Finished::Failed) => Outcome::Failed,
            NextState::Finished(Finished::Expired) => Outcome::Expired,
            NextState::Retry(_) if result.warned => Outcome::Deferred,
            NextState::Retry(_) | NextState::Hold(_) | NextState::Finished(Finished::Removed) => continue,
        };
        if message.sender.is_none() && matches!(outcome, Outcome::Failed | Outcome::Expired) {
            let last_reply = attempt.map(|attempt| attempt.reply.to_string());
            let last_reply = last_reply.as_deref().or(recipient.last_reply.as_deref());
            maillog::dead_end(message.id, &recipient.address, last_reply);
        }
        // RFC 3461 §5.2.1: a host with DSN reports the delivery itself.
        if outcome != Outcome::Delivered && bounce::wanted_of(message, recipient.notify, outcome) {
            reported.push(ReportedRecipient { recipient, attempt, outcome, expanded: None });
        }
    }
    reported
}

struct Reporter<'a> {
    settings: &'a DeliverySettings,
    queue: &'a Queue,
    limits: &'a ReportLimits,
    now: i64,
    message: &'a QueuedMessage,
    sender: &'a Address,
    reported: &'a [ReportedRecipient<'a>],
}

impl Reporter<'_> {
    /// Gives the recipients whose delay warning is postponed.
    fn write(&self, reports: &mut Reports) -> Vec<RecipientId> {
        let Reporter { settings, message, now, reported, .. } = *self;
        let original = beginning(self.queue, message);
        let ends_at = message.ends_at(settings.lifetimes);
        let mut postponed = Vec::new();
        for kind in ReportKind::ALL {
            let id = self.queue.new_message_id();
            let hostname = &settings.hostname;
            let original = &original;
            let context = ReportContext { id, hostname, now, message, ends_at, reported, original };
            let Some(report) = bounce::report(kind, &context) else { continue };
            if !self.limits.admit(self.queue, self.sender, now, settings.bounces_per_sender) {
                let limit = settings.bounces_per_sender.unwrap_or_default();
                maillog::report_suppressed(message.id, self.sender, kind.name(), limit);
                let about = context.about(kind);
                match kind {
                    ReportKind::Delay => {
                        postponed.extend(about.iter().map(|reported| reported.recipient.id));
                    }
                    ReportKind::Bounce | ReportKind::Success => {
                        reports.pending_reports.extend(about.into_iter().map(pending_report));
                    }
                }
                continue;
            }
            let written = report.into_message(id, now);
            maillog::report_queued(message.id, &written, kind.name());
            reports.written.push((kind.name(), written));
        }
        reports.expanded_told = reported.iter().any(|reported| reported.expanded.is_some());
        postponed
    }
}

/// One line of the summary to come.
fn pending_report(reported: &ReportedRecipient<'_>) -> PendingReport {
    if let Some(expanded) = reported.expanded {
        return PendingReport { address: expanded.alias.clone(), state: "expanded", reply: None };
    }
    let reply = reported.attempt.map(|attempt| attempt.reply.to_string());
    PendingReport {
        address: reported.recipient.address.clone(),
        state: reported.outcome.as_str(),
        reply: reply.or_else(|| reported.recipient.last_reply.clone()),
    }
}

/// As much of the content as a report may return; nothing where it cannot be read, since a report without the
/// original is better than none.
fn beginning(queue: &Queue, message: &QueuedMessage) -> Vec<u8> {
    let mut beginning = match &message.content {
        Some(content) => content.bytes.clone(),
        None => queue.content(message.id).next().and_then(Result::ok).unwrap_or_default(),
    };
    beginning.truncate(bounce::RETURNED_BYTES_MAX);
    beginning
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Attempt, Body, Handling, Phase, Recipient, Reply, TlsPolicy, address};
    use crate::queue::{MessageId, Origin, QueuedRecipient};

    /// The first recipient has no answer, since it is requeued or settled before.
    #[test]
    fn a_part_of_the_recipients_is_reported_by_its_own_names() {
        let recipient =
            |id, text| QueuedRecipient::new(RecipientId(id), Recipient::new(address::parse(text).unwrap()));
        let message = QueuedMessage {
            id: MessageId(1),
            sender: Some(address::parse("me@app.test").unwrap()),
            origin: Origin::default(),
            received_at: 0,
            expires_at: None,
            size: 0,
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
            recipients: vec![recipient(1, "waits@a.test"), recipient(2, "fails@a.test")],
            content: None,
        };
        let attempt = Attempt {
            at: 0,
            duration_ms: 0,
            mx: None,
            ip: None,
            tls: None,
            tls_policy: TlsPolicy::None,
            dkim: None,
            source: None,
            phase: Phase::Rcpt,
            reply: Reply::bare(550, "no"),
            outcome: Outcome::Failed,
        };
        let next_state = NextState::Finished(Finished::Failed);
        let failed = Settled { recipient: RecipientId(2), attempt: Some(attempt), next_state, warned: false };
        let results = [failed];
        let reported: Vec<&str> =
            reported(&message, &results).iter().map(|reported| reported.recipient.address.as_ref()).collect();
        assert_eq!(reported, ["fails@a.test"]);
    }
}
