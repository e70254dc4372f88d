//! What the writer is asked to do, and how a message or a settlement becomes such an operation.
//!
//! All that can be worked out before is worked out here, in the thread that asks: there are many of
//! them and one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use crate::config::Routes;
use crate::mail::Address;

use super::error::AcceptError;
use super::host_setting::HostSetting;
use super::id::Ids;
use super::rows::{
    Asker, CachedContent, Due, Kick, Kicked, NewMessage, NextState, PendingReport, QueuedMessage,
    QueuedRecipient, Settled, Settlement,
};
use super::{MessageId, RecipientId};

/// Content of fresh messages that is kept in memory, with what its envelope takes.
pub(super) const CACHE_BYTES: usize = 64 << 20;
/// What a cached message takes beside its content, and what each of its recipients does: the
/// structs, their strings and the scheduler's entry, generously.
const CACHED_MESSAGE_BYTES: usize = 1024;
const CACHED_RECIPIENT_BYTES: usize = 512;

/// Where an answer goes. Dropped unanswered it reads as [`AcceptError::Failed`].
pub(super) type Ack<T> = Sender<Result<T, AcceptError>>;

/// An operation for the writer.
pub(super) enum Op {
    /// A piece of content ahead of its message.
    Chunk { message: MessageId, seq: u32, data: Vec<u8>, ack: Ack<()> },
    /// The message is complete.
    Accept { message: Box<Incoming>, ack: Ack<()> },
    /// The client went away before the end of its content.
    Discard(MessageId),
    /// What came of a job.
    Settle(Box<Outcomes>),
    /// The final dot is about to be sent for these; without a time: it was, and refused.
    IntendDot { recipients: Vec<RecipientId>, at: Option<i64>, ack: Ack<()> },
    /// Try these now. A large one is done in parts; all but the first have no `ack`.
    Kick { kick: Kick, asker: Asker, now: i64, ack: Option<Ack<Kicked>> },
    /// The summary of what a sender was not told one by one, up to this row of `pending_reports`.
    PendingReports { sender: String, up_to: i64, notice: Box<Incoming>, ack: Ack<()> },
    /// Something is wrong with these: the operator has to look.
    Hold { recipients: Vec<RecipientId>, why: String },
    /// What is held to at a host.
    SetHostSetting(HostSetting),
    /// That is no longer needed.
    ClearHostSetting { mx: String, setting: &'static str },
    /// Nothing: its answer says that what came before it is on disk.
    Barrier { ack: Ack<()> },
    /// The `[[route]]`s that are in use.
    Routes(Routes),
    /// Repair what the view `stuck` shows.
    Repair { now: i64 },
    /// Backoffs changed: look into [`super::shared::Shared`].
    Backoffs,
    /// Write what waits and end.
    Stop,
}

impl Op {
    /// Somebody waits for the answer, and can be told to come again. The others are kept.
    pub(super) fn can_be_refused(&self) -> bool {
        matches!(
            self,
            Op::Chunk { .. }
                | Op::Accept { .. }
                | Op::IntendDot { .. }
                | Op::PendingReports { .. }
                | Op::Barrier { .. }
        ) || matches!(self, Op::Kick { ack: Some(_), .. })
    }

    /// Tells whoever waits that it was not done. One that nobody waits for any more is no failure.
    pub(super) fn refuse(&self, error: AcceptError) {
        match self {
            Op::Chunk { ack, .. }
            | Op::Accept { ack, .. }
            | Op::IntendDot { ack, .. }
            | Op::Barrier { ack }
            | Op::PendingReports { ack, .. } => {
                let _ = ack.send(Err(error));
            }
            Op::Kick { ack: Some(ack), .. } => {
                let _ = ack.send(Err(error));
            }
            _ => {}
        }
    }

    /// Bytes of content, roughly: bounds a group.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Op::Chunk { data, .. } => data.len(),
            Op::Accept { message, .. } => message.tail().len(),
            Op::PendingReports { notice, .. } => notice.tail().len(),
            Op::Settle(outcomes) => outcomes.notices.iter().map(|notice| notice.tail().len()).sum(),
            _ => 0,
        }
    }
}

/// A complete message on its way to the disk.
pub(super) struct Incoming {
    pub(super) message: Arc<QueuedMessage>,
    pub(super) queue_id: String,
    pub(super) client: Option<String>,
    pub(super) chunks_before: u32,
    /// What the scheduler is told after the commit.
    pub(super) due: Vec<Due>,
    /// The last piece, where it is not in the cache.
    tail: Vec<u8>,
}

impl Incoming {
    /// Gives the recipients their ids and takes the content into the cache where it fits.
    pub(super) fn new(new: NewMessage, ids: &Ids, now_us: i64, cache: &Arc<AtomicUsize>) -> Incoming {
        let NewMessage { id, envelope, origin, received_at, expires_at, size, tail, chunks_before } = new;
        let first_id = ids.take(envelope.recipients.len(), now_us);
        let recipients: Vec<QueuedRecipient> = (first_id..)
            .zip(envelope.recipients)
            .map(|(id, recipient)| QueuedRecipient::new(RecipientId(id), recipient))
            .collect();
        let due_at = envelope.handling.released_at(received_at);
        // What waits for its release is not fresh any more when its time comes.
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
                fresh: message.content.is_some().then(|| message.clone()),
            })
            .collect();
        Incoming { queue_id: id.to_string(), client, chunks_before, due, tail, message }
    }

    pub(super) fn tail(&self) -> &[u8] {
        self.message.content.as_ref().map_or(&self.tail, |content| &content.bytes)
    }
}

/// Takes a message's share from the cache's budget; none where it does not fit.
fn take_from(budget: &AtomicUsize, content_bytes: usize, recipients: usize) -> Option<usize> {
    let cost = content_bytes + CACHED_MESSAGE_BYTES + CACHED_RECIPIENT_BYTES * recipients;
    budget
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost))
        .ok()
        .map(|_| cost)
}

/// A settlement on its way to the disk.
pub(super) struct Outcomes {
    pub(super) message: Arc<QueuedMessage>,
    pub(super) at: i64,
    pub(super) results: Vec<OutcomeRow>,
    pub(super) notices: Vec<Incoming>,
    pub(super) pending_reports: Vec<PendingReport>,
    pub(super) expanded_told: bool,
}

/// What came of one recipient, with its texts.
pub(super) struct OutcomeRow {
    pub(super) recipient: RecipientId,
    pub(super) attempt: Option<AttemptRow>,
    pub(super) next_state: NextState,
    pub(super) warned: bool,
}

/// A row of `attempts`.
pub(super) struct AttemptRow {
    pub(super) id: i64,
    pub(super) at: i64,
    pub(super) duration_ms: i64,
    pub(super) mx: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) tls: Option<String>,
    pub(super) phase: &'static str,
    pub(super) code: u16,
    pub(super) enhanced: Option<String>,
    pub(super) reply: String,
    pub(super) outcome: &'static str,
    pub(super) reply_source: &'static str,
}

impl Outcomes {
    pub(super) fn new(settlement: Settlement, ids: &Ids, now_us: i64, cache: &Arc<AtomicUsize>) -> Outcomes {
        let Settlement { message, at, results, notices, pending_reports, expanded_told } = settlement;
        let first_id = ids.take(results.len(), now_us);
        let results = (first_id..).zip(results).map(|(id, settled)| OutcomeRow::new(settled, id)).collect();
        let notices = notices.into_iter().map(|notice| Incoming::new(notice, ids, now_us, cache)).collect();
        Outcomes { message, at, results, notices, pending_reports, expanded_told }
    }
}

impl OutcomeRow {
    fn new(settled: Settled, id: i64) -> OutcomeRow {
        let Settled { recipient, attempt, next_state, warned } = settled;
        let attempt = attempt.map(|attempt| AttemptRow {
            id,
            at: attempt.at,
            duration_ms: i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX),
            mx: attempt.mx,
            ip: attempt.ip.map(|ip| ip.to_string()),
            tls: attempt.tls,
            phase: attempt.phase.as_str(),
            code: attempt.reply.code,
            enhanced: attempt.reply.enhanced.map(|enhanced| enhanced.to_string()),
            reply: attempt.reply.to_string(),
            outcome: attempt.outcome.as_str(),
            reply_source: attempt.reply.reply_source.as_str(),
        });
        OutcomeRow { recipient, attempt, next_state, warned }
    }
}

/// The sender as `messages.sender` has it: empty for the null sender.
pub(super) fn sender_text(sender: Option<&Address>) -> &str {
    sender.map_or("", AsRef::as_ref)
}
