//! The writer's operations, and how a message or a settlement becomes one.
//!
//! The calling thread prepares everything that needs no database here, since there are many callers and one writer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::Routes;
use crate::mail::{Address, Attempt, Labels, Lifetimes, reply};

use super::error::AcceptError;
use super::host_setting::HostSetting;
use super::id::Ids;
use super::login_rows::LoginChanges;
use super::rows::{
    Asker, CachedContent, Due, Kick, Kickable, Kicked, NewMessage, NextState, PendingReport, QueuedMessage,
    QueuedRecipient, Settled, Settlement,
};
use super::sts_policy::{StsPolicyNote, StsPolicyRow};
use super::suspension::Submitted;
use super::tls_rows::{TlsReportDue, TlsReportRow, TlsSession};
use super::{MessageId, RecipientId};

/// Bytes of fresh messages that are kept in memory: content, envelope and overhead.
pub(super) const CACHE_BYTES: usize = 64 << 20;
/// Bytes that a cached message and each of its recipients take beside the content: the structs, their strings and
/// the scheduler's entry, estimated high.
const CACHED_MESSAGE_BYTES: usize = 1024;
const CACHED_RECIPIENT_BYTES: usize = 512;

/// The channel for an answer. If it is dropped without one, the caller reads [`AcceptError::Failed`].
pub(super) type Ack<T> = Sender<Result<T, AcceptError>>;

/// An operation for the writer.
pub(super) enum Op {
    /// A piece of content ahead of its message.
    Chunk { message: MessageId, seq: u32, data: Vec<u8>, ack: Ack<()> },
    /// The message is complete.
    Accept { message: Box<Incoming>, ack: Ack<()> },
    /// Delete the content so far: the client went away before the end of it.
    Discard(MessageId),
    /// The settlement of a job.
    Settle(Box<Outcomes>),
    /// The final dot is about to be sent for these recipients. Without a time: it was sent, and was refused.
    IntendDot { recipients: Vec<RecipientId>, at: Option<i64>, ack: Ack<()> },
    /// Make these recipients due now. A large kick is done in parts; all parts but the first have no `ack`.
    Kick { kick: Kick, asker: Asker, now: i64, kickable: Kickable, ack: Option<Ack<Kicked>> },
    /// The summary of a sender's failures up to this row of `pending_reports`.
    PendingReports { sender: String, up_to: i64, report: Box<Incoming>, ack: Ack<()> },
    /// Count sessions that no settlement counts.
    TlsSessions(Vec<TlsSession>),
    /// Plan reports on the TLS of these days.
    PlanTlsReports { days: Range<i64>, after: i64, spread_secs: i64, ack: Ack<()> },
    /// What came of a report on TLS, and the mail that carries it.
    TlsReport { change: Box<TlsReportChange>, mail: Option<Box<Incoming>>, ack: Ack<()> },
    /// Hold these recipients: something is wrong, and the operator has to look.
    Hold { recipients: Vec<RecipientId>, why: String },
    /// Remember a throttle or a workaround of a host.
    SetHostSetting(HostSetting),
    /// Forget a throttle or a workaround of a host.
    ClearHostSetting { mx: String, setting: &'static str },
    /// Remember a domain's MTA-STS policy.
    SetStsPolicy(Box<StsPolicyRow>),
    /// Note something of one that is known.
    NoteStsPolicy { domain: String, note: StsPolicyNote },
    /// What is kept of logins has changed.
    Logins { changes: Box<LoginChanges>, ack: Ack<()> },
    /// Writes nothing. Its answer says that all operations before it are on disk.
    Barrier { ack: Ack<()> },
    /// What of the config people see in the tables: the `[[route]]`s and lifetimes in use.
    Config { routes: Routes, lifetimes: Lifetimes },
    /// The clock was set back: waits that were written in the future begin now. Done in parts, where they are many.
    ClockSetBack { before: i64, now: i64, longest_secs: i64 },
    /// Repair what the view `stuck` shows.
    Repair { now: i64 },
    /// Wakes the writer: backoffs changed in [`super::shared::Shared`].
    Backoffs,
    /// Write the waiting operations and end.
    Stop,
}

impl Op {
    /// Whether a caller waits for the answer and can be told to come again. Other operations are kept.
    pub(super) fn can_be_refused(&self) -> bool {
        matches!(
            self,
            Op::Chunk { .. }
                | Op::Accept { .. }
                | Op::IntendDot { .. }
                | Op::PendingReports { .. }
                | Op::PlanTlsReports { .. }
                | Op::TlsReport { .. }
                | Op::Logins { .. }
                | Op::Barrier { .. }
        ) || matches!(self, Op::Kick { ack: Some(_), .. })
    }

    /// Whether it brings new mail, which a full disk has no room for.
    pub(super) fn is_mail(&self) -> bool {
        matches!(
            self,
            Op::Chunk { .. }
                | Op::Accept { .. }
                | Op::PendingReports { .. }
                | Op::TlsReport { mail: Some(_), .. }
        )
    }

    /// Tells the caller that the operation was not done. A caller that no longer waits is no failure.
    pub(super) fn refuse(&self, error: AcceptError) {
        match self {
            Op::Chunk { ack, .. }
            | Op::Accept { ack, .. }
            | Op::IntendDot { ack, .. }
            | Op::Barrier { ack }
            | Op::Logins { ack, .. }
            | Op::PlanTlsReports { ack, .. }
            | Op::TlsReport { ack, .. }
            | Op::PendingReports { ack, .. } => {
                let _ = ack.send(Err(error));
            }
            Op::Kick { ack: Some(ack), .. } => {
                let _ = ack.send(Err(error));
            }
            _ => {}
        }
    }

    /// Bytes of content, roughly. They bound a group.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Op::Chunk { data, .. } => data.len(),
            Op::Accept { message, .. } => message.tail().len(),
            Op::PendingReports { report, .. } => report.tail().len(),
            Op::TlsReport { mail: Some(mail), .. } => mail.tail().len(),
            Op::Settle(outcomes) => {
                let reports: usize = outcomes.reports.iter().map(|(_, report)| report.tail().len()).sum();
                reports + outcomes.dialogue.as_ref().map_or(0, String::len)
            }
            _ => 0,
        }
    }
}

/// A complete message on its way to the disk.
pub(super) struct Incoming {
    pub(super) message: Arc<QueuedMessage>,
    pub(super) queue_id: String,
    pub(super) client: Option<String>,
    pub(super) labels: Labels,
    pub(super) chunks_before: u32,
    /// The rows that the scheduler gets after the commit.
    pub(super) due: Vec<Due>,
    /// The last piece, where it is not in the cache.
    tail: Vec<u8>,
}

impl Incoming {
    /// Gives the recipients their ids and takes the content into the cache where it fits.
    pub(super) fn new(new: NewMessage, ids: &Ids, now_us: i64, cache: &Arc<AtomicUsize>) -> Incoming {
        let NewMessage { id, envelope, origin, labels, received_at, expires_at, size, tail, chunks_before } =
            new;
        let first_id = ids.take(envelope.recipients.len(), now_us);
        let recipients: Vec<QueuedRecipient> = (first_id..)
            .zip(envelope.recipients)
            .map(|(id, recipient)| QueuedRecipient::new(RecipientId(id), recipient))
            .collect();
        let due_at = envelope.handling.released_at(received_at);
        // A message that is held for release (RFC 4865) is not cached: it would take room until its time comes.
        let (content, tail) = if chunks_before == 0 && due_at <= received_at {
            match take_from(cache, tail.capacity(), recipients.len()) {
                Some(cost) => {
                    (Some(Arc::new(CachedContent { bytes: tail, cost, budget: cache.clone() })), vec![])
                }
                None => (None, tail),
            }
        } else {
            (None, tail)
        };
        let client = origin.client.map(|ip| ip.to_string());
        let message = Arc::new(QueuedMessage {
            id,
            sender: envelope.sender,
            origin,
            received_at,
            expires_at,
            size,
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            ret: envelope.ret,
            envid: envelope.envid,
            handling: envelope.handling,
            recipients,
            content,
        });
        let submitted = Submitted::new(message.origin.user.clone(), labels.tag.clone()).map(Arc::new);
        let due = message
            .recipients
            .iter()
            .map(|recipient| Due {
                recipient: recipient.id,
                message: id,
                domain: recipient.domain.clone(),
                due_at,
                attempts: 0,
                priority: message.handling.priority,
                tls_optional: message.handling.tls_optional,
                submitted: submitted.clone(),
                fresh: message.content.is_some().then(|| message.clone()),
            })
            .collect();
        Incoming { queue_id: id.to_string(), client, labels, chunks_before, due, tail, message }
    }

    pub(super) fn tail(&self) -> &[u8] {
        self.message.content.as_ref().map_or(&self.tail, |content| &content.bytes)
    }
}

/// Takes a message's bytes from the cache's budget; none if they do not fit.
fn take_from(budget: &AtomicUsize, content_bytes: usize, recipients: usize) -> Option<usize> {
    let cost = content_bytes + CACHED_MESSAGE_BYTES + CACHED_RECIPIENT_BYTES * recipients;
    budget
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost))
        .ok()
        .map(|_| cost)
}

/// What came of a report on TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsReportChange {
    /// The row that was due.
    pub due: TlsReportDue,
    /// What takes its place.
    pub rows: Vec<TlsReportRow>,
    /// Unix seconds.
    pub at: i64,
}

/// A settlement on its way to the disk.
pub(super) struct Outcomes {
    pub(super) message: Arc<QueuedMessage>,
    pub(super) at: i64,
    pub(super) results: Vec<OutcomeRow>,
    pub(super) reports: Vec<(&'static str, Incoming)>,
    pub(super) pending_reports: Vec<PendingReport>,
    pub(super) expanded_told: bool,
    pub(super) tls_sessions: Vec<TlsSession>,
    /// What was said in it; the rows of failed attempts name it by [`AttemptRow::dialogue_id`].
    pub(super) dialogue: Option<String>,
    /// Dropped with it, once it is on disk.
    _recording: Option<Sender<Infallible>>,
}

/// A settlement on its way to the disk, for whoever must not run ahead of it.
#[derive(Debug)]
pub struct Recording(Receiver<Infallible>);

impl Recording {
    /// Waits until it is on disk, or until nothing is written any more.
    pub fn wait(&self) {
        // Nothing is ever sent: the other side is dropped.
        let _ = self.0.recv();
    }

    /// Whether [`Recording::wait`] would not wait.
    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        matches!(self.0.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }
}

/// The outcome of one recipient, as text for the store.
pub(super) struct OutcomeRow {
    pub(super) recipient: RecipientId,
    pub(super) attempt: Option<AttemptRow>,
    pub(super) next_state: NextState,
    pub(super) warned: bool,
}

/// Bytes of a reply in a row: a line as a host may say it (RFC 5321 §4.5.3.1.5).
const REPLY_BYTES_MAX: usize = 512;

/// As much of a reply as a row keeps. The whole of a longer one is kept once, in `replies`.
pub(super) fn in_a_row(reply: &str) -> Cow<'_, str> {
    reply::cut(reply, REPLY_BYTES_MAX)
}

/// A row of `attempts`.
pub(super) struct AttemptRow {
    pub(super) id: i64,
    pub(super) at: i64,
    pub(super) duration_ms: i64,
    pub(super) mx: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) tls: Option<String>,
    pub(super) tls_policy: &'static str,
    pub(super) dkim: Option<Arc<str>>,
    pub(super) source_address: Option<String>,
    pub(super) phase: &'static str,
    pub(super) code: u16,
    pub(super) enhanced: Option<String>,
    pub(super) reply: String,
    /// Where it is longer than a row keeps.
    pub(super) whole_reply: Option<String>,
    pub(super) outcome: &'static str,
    pub(super) reply_source: &'static str,
    /// Of the dialogue that it was a part of.
    pub(super) dialogue_id: Option<i64>,
}

impl Outcomes {
    pub(super) fn new(settlement: Settlement, ids: &Ids, now_us: i64, cache: &Arc<AtomicUsize>) -> Outcomes {
        let Settlement { message, at, results, reports, pending_reports, expanded_told, .. } = settlement;
        let Settlement { tls_sessions, dialogue, .. } = settlement;
        let first_id = ids.take(results.len(), now_us);
        let dialogue_id = dialogue.is_some().then_some(first_id);
        let row = |(id, settled)| OutcomeRow::new(settled, id, dialogue_id);
        let results = (first_id..).zip(results).map(row).collect();
        let incoming = |report| Incoming::new(report, ids, now_us, cache);
        let reports = reports.into_iter().map(|(kind, report)| (kind, incoming(report))).collect();
        Outcomes {
            message,
            at,
            results,
            reports,
            pending_reports,
            expanded_told,
            tls_sessions,
            dialogue,
            _recording: None,
        }
    }

    /// The same, with word of when it is on disk.
    pub(super) fn announced(self) -> (Outcomes, Recording) {
        let (recording, announced) = bounded(0);
        (Outcomes { _recording: Some(recording), ..self }, Recording(announced))
    }
}

impl OutcomeRow {
    fn new(settled: Settled, id: i64, dialogue_id: Option<i64>) -> OutcomeRow {
        let Settled { recipient, attempt, next_state, warned } = settled;
        let attempt = attempt.map(|attempt| AttemptRow::new(attempt, id, dialogue_id));
        OutcomeRow { recipient, attempt, next_state, warned }
    }
}

impl AttemptRow {
    fn new(attempt: Attempt, id: i64, dialogue_id: Option<i64>) -> AttemptRow {
        let dialogue_id = dialogue_id.filter(|_| attempt.is_failure());
        let whole = attempt.reply.to_string();
        let (reply, whole_reply) = match in_a_row(&whole) {
            Cow::Borrowed(_) => (whole, None),
            Cow::Owned(cut) => (cut, Some(whole)),
        };
        AttemptRow {
            id,
            at: attempt.at,
            duration_ms: i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX),
            mx: attempt.mx,
            ip: attempt.ip.map(|ip| ip.to_string()),
            tls: attempt.tls,
            tls_policy: attempt.tls_policy.as_str(),
            dkim: attempt.dkim,
            source_address: attempt.source.map(|ip| ip.to_string()),
            phase: attempt.phase.as_str(),
            code: attempt.reply.code,
            enhanced: attempt.reply.enhanced.map(|enhanced| enhanced.to_string()),
            reply,
            whole_reply,
            outcome: attempt.outcome.as_str(),
            reply_source: attempt.reply.reply_source.as_str(),
            dialogue_id,
        }
    }
}

/// The sender as `messages.sender` has it: empty for the null sender.
pub(super) fn sender_text(sender: Option<&Address>) -> &str {
    sender.map_or("", AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Envelope, Recipient, address};
    use crate::queue::Origin;

    fn message(ids: &Ids, cache: &Arc<AtomicUsize>, bytes: usize) -> Incoming {
        let recipient = Recipient::new(address::parse("you@a.test").unwrap());
        let envelope = Envelope { recipients: vec![recipient], ..Envelope::default() };
        let new = NewMessage {
            id: MessageId(1),
            envelope,
            origin: Origin { user: None, client: None, helo: None },
            labels: Labels::default(),
            received_at: 0,
            expires_at: None,
            size: bytes as u64,
            tail: vec![b'x'; bytes],
            chunks_before: 0,
        };
        Incoming::new(new, ids, 0, cache)
    }

    #[test]
    fn no_more_content_of_fresh_messages_is_in_memory_than_may_be() {
        let (ids, cache) = (Ids::after(0), Arc::new(AtomicUsize::new(CACHE_BYTES)));
        let cached = |incoming: &Incoming| incoming.message.content.is_some();
        let large: Vec<Incoming> = (0..1000).map(|_| message(&ids, &cache, 256 << 10)).collect();
        let bytes: usize = large.iter().filter(|one| cached(one)).map(|one| one.tail().len()).sum();
        assert!((60 << 20..=CACHE_BYTES).contains(&bytes), "{bytes}");
        assert!(
            large.iter().all(|one| one.tail().len() == 256 << 10),
            "what is not cached comes from the disk"
        );
        // What goes makes room again, to the byte.
        drop(large);
        assert_eq!(cache.load(Ordering::Relaxed), CACHE_BYTES);
        // Many small ones count with what they take beside their content.
        let small: Vec<Incoming> = (0..100_000).map(|_| message(&ids, &cache, 1)).collect();
        let kept = small.iter().filter(|one| cached(one)).count();
        assert!(kept * (CACHED_MESSAGE_BYTES + CACHED_RECIPIENT_BYTES) <= CACHE_BYTES, "{kept}");
    }
}
