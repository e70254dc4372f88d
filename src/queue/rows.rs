//! What goes into the queue and comes out of it: the row types that the other rooms share.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::mail::{
    Address, Attempt, Body, Domain, Envelope, Expanded, Handling, Labels, Lifetimes, Notify, Peer, Priority,
    Recipient, ReplySource, Ret,
};

use super::held::HeldBy;
use super::id::{MessageId, RecipientId};
use super::suspension::Submitted;
use super::tls_rows::TlsSession;

/// Where a message came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Who authenticated; none from a trusted network and for our own bounces.
    pub user: Option<String>,
    /// Where it came from; none for our own bounces.
    pub client: Option<Peer>,
    /// What the client called itself.
    pub helo: Option<String>,
}

/// A message about to be queued.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// From [`super::Queue::new_message_id`].
    pub id: MessageId,
    /// Sender, recipients (at least one), parameters.
    pub envelope: Envelope,
    /// Where it came from.
    pub origin: Origin,
    /// What it can be found by.
    pub labels: Labels,
    /// Unix seconds.
    pub received_at: i64,
    /// Unix seconds; undelivered then, it bounces. None: at the end of the lifetime that the config gives it.
    pub expires_at: Option<i64>,
    /// Bytes of content in all, streamed chunks included.
    pub size: u64,
    /// The last piece of the content: all of it for a message of one chunk. CR LF line ends, dots not doubled.
    pub tail: Vec<u8>,
    /// How many chunks went ahead of `tail` through [`super::Queue::append_chunk`].
    pub chunks_before: u32,
}

/// A queued message with those of its recipients that were asked for.
#[derive(Debug, Clone)]
pub struct QueuedMessage {
    /// Its id; the queue id in text.
    pub id: MessageId,
    /// None: the null sender.
    pub sender: Option<Address>,
    /// Where it came from.
    pub origin: Origin,
    /// Unix seconds.
    pub received_at: i64,
    /// Unix seconds: its end, where that is not the end of its lifetime.
    pub expires_at: Option<i64>,
    /// Bytes of content.
    pub size: u64,
    /// BODY.
    pub body: Body,
    /// SMTPUTF8 was given.
    pub smtputf8: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID.
    pub envid: Option<String>,
    /// MT-PRIORITY, REQUIRETLS, FUTURERELEASE, DELIVERBY.
    pub handling: Handling,
    /// The recipients asked for, those still waiting (state `queued`).
    pub recipients: Vec<QueuedRecipient>,
    /// The content, while the cache of fresh messages keeps it; otherwise [`super::Queue::content`] reads it.
    pub content: Option<Arc<CachedContent>>,
}

impl QueuedMessage {
    /// When it is returned to its sender, Unix seconds, with the lifetimes that are configured now.
    pub fn ends_at(&self, lifetimes: Lifetimes) -> i64 {
        let from = self.handling.released_at(self.received_at);
        let end = || from.saturating_add(lifetimes.of(self.sender.is_none()));
        let returns_at = self.handling.returns_at().unwrap_or(i64::MAX);
        self.expires_at.unwrap_or_else(end).min(returns_at)
    }
}

/// Content in memory; gives its bytes back to the cache's budget when dropped.
#[derive(Debug)]
pub struct CachedContent {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What was taken from the budget: the bytes, and what the envelope takes in memory.
    pub(super) cost: usize,
    pub(super) budget: Arc<std::sync::atomic::AtomicUsize>,
}

impl Drop for CachedContent {
    fn drop(&mut self) {
        self.budget.fetch_add(self.cost, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A recipient that waits.
#[derive(Debug, Clone)]
pub struct QueuedRecipient {
    /// Its id.
    pub id: RecipientId,
    /// The address as it goes into RCPT.
    pub address: Address,
    /// What routing looks at.
    pub domain: Domain,
    /// Tries so far.
    pub attempts: u32,
    /// NOTIFY.
    pub notify: Option<Notify>,
    /// ORCPT.
    pub orcpt: Option<String>,
    /// Aliases whose sender is still to be told that they were expanded.
    pub expanded: Vec<Expanded>,
    /// What was said last.
    pub last_reply: Option<String>,
    /// The host that it was about.
    pub last_mx: Option<String>,
    /// Whose words `last_reply` is.
    pub last_reply_source: ReplySource,
    /// When the sender was told of the delay.
    pub warned_at: Option<i64>,
    /// An operator wants it returned to the sender: it bounces, without a further try.
    pub to_bounce: bool,
}

impl QueuedRecipient {
    /// One that nothing has happened to yet.
    pub fn new(id: RecipientId, recipient: Recipient) -> QueuedRecipient {
        QueuedRecipient {
            id,
            domain: Domain::of(&recipient.address),
            address: recipient.address,
            attempts: 0,
            notify: recipient.notify,
            orcpt: recipient.orcpt,
            expanded: recipient.expanded,
            last_reply: None,
            last_mx: None,
            last_reply_source: ReplySource::Local,
            warned_at: None,
            to_bounce: false,
        }
    }
}

/// A recipient whose time has come: all that the scheduler keeps of it.
#[derive(Debug, Clone)]
pub struct Due {
    /// The recipient.
    pub recipient: RecipientId,
    /// Its message.
    pub message: MessageId,
    /// What routing looks at.
    pub domain: Domain,
    /// `next_attempt_at`, Unix seconds.
    pub due_at: i64,
    /// Tries so far.
    pub attempts: u32,
    /// Its message's.
    pub priority: Priority,
    /// Its message does not heed the TLS policy of its domain.
    pub tls_optional: bool,
    /// By whom, and with which tag, its message was submitted; none where neither is known.
    pub submitted: Option<Arc<Submitted>>,
    /// The whole message, while it is fresh and in memory.
    pub fresh: Option<Arc<QueuedMessage>>,
}

/// One transaction to carry out: a message and those of its recipients that share a lane.
#[derive(Debug, Clone)]
pub struct Job {
    /// The destination's name: a recipient domain, or `route:` and the route's pattern.
    pub lane: Arc<str>,
    /// The message.
    pub message: MessageId,
    /// The recipients.
    pub recipients: Vec<JobRecipient>,
    /// The whole message, while it is fresh and in memory.
    pub fresh: Option<Arc<QueuedMessage>>,
    /// Past its lifetime, or to be returned by an operator's wish: bounce it with what was said last, without
    /// another try.
    pub expired: bool,
}

impl Job {
    /// The ids of its recipients.
    pub fn recipient_ids(&self) -> impl Iterator<Item = RecipientId> {
        self.recipients.iter().map(|recipient| recipient.id)
    }
}

/// A recipient of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRecipient {
    /// Its id.
    pub id: RecipientId,
    /// How long to wait before the next try, should this one be deferred.
    pub retry_wait: Duration,
    /// It was suspended when its lifetime was over.
    pub suspended: bool,
}

/// What a job says about its lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneHealth {
    /// The destination took a message.
    Healthy,
    /// Nothing was learnt about the destination.
    Unchanged,
    /// The destination is unreachable, unwilling or broken: back off. The text says how, codes first.
    Failing(String),
    /// The destination does not do what its TLS policy asks for (DANE, MTA-STS): back off, but for mail with
    /// `TLS-Required: No`, which goes all the same (RFC 8689 §5).
    PolicyNotKept(String),
    /// The destination has as many connections or messages from us as it allows: the recipients of the job that no
    /// settlement names are tried again after this wait. That was no attempt, and the lane's other jobs go on.
    AtLimit(Duration),
}

/// How a recipient leaves an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextState {
    /// Stays queued; next try at this time (Unix seconds).
    Retry(i64),
    /// Waits for the operator.
    Hold(HeldBy),
    /// Moves to `history`.
    Finished(Finished),
}

/// The states of `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Accepted by the host responsible from here on.
    Delivered,
    /// Accepted by a host that offers no DSN, where a success report was asked for.
    Relayed,
    /// Refused for good.
    Failed,
    /// Past its lifetime.
    Expired,
    /// Taken out by the operator.
    Removed,
}

impl Finished {
    /// The word in `history.state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Finished::Delivered => "delivered",
            Finished::Relayed => "relayed",
            Finished::Failed => "failed",
            Finished::Expired => "expired",
            Finished::Removed => "removed",
        }
    }
}

/// What came of one recipient.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The recipient.
    pub recipient: RecipientId,
    /// The try; none where there was none (expired while waiting).
    pub attempt: Option<Attempt>,
    /// What becomes of it.
    pub next_state: NextState,
    /// The sender is told of the delay by one of the reports of this settlement.
    pub warned: bool,
}

/// What came of a job. Committed in one transaction.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The message (its recipients may be a part only).
    pub message: Arc<QueuedMessage>,
    /// Unix seconds.
    pub at: i64,
    /// One for each recipient of the job.
    pub results: Vec<Settled>,
    /// Bounces, warnings and reports that this causes, each with the word for what it is.
    pub reports: Vec<(&'static str, NewMessage)>,
    /// Failures that none of them tells of, since the sender has had too many reports: a summary will.
    pub pending_reports: Vec<PendingReport>,
    /// Among them the report of the aliases that these recipients stand for: it is not owed any more.
    pub expanded_told: bool,
    /// Sessions with hosts that the job had, to be counted.
    pub tls_sessions: Vec<TlsSession>,
    /// What was said in the attempt, where it failed for some of these: kept with them.
    pub dialogue: Option<String>,
}

/// A failure that is not reported on its own: a row of `pending_reports` to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingReport {
    /// The recipient, or an alias that was expanded.
    pub address: Address,
    /// As `history` has it, or `expanded`.
    pub state: &'static str,
    /// What was said last.
    pub reply: Option<String>,
}

/// The rows of `pending_reports` of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingReports {
    /// The sender, as the first of the messages had it.
    pub return_path: String,
    /// The last of them: later ones are for another summary.
    pub up_to: i64,
    /// How many messages they are about.
    pub messages: u64,
    /// How many they are.
    pub recipients: u64,
    /// When the first came, Unix seconds.
    pub first_at: i64,
    /// One of the messages required TLS (RFC 8689).
    pub require_tls: bool,
    /// The first of them.
    pub listed: Vec<PendingReportRow>,
}

/// One row of `pending_reports`, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingReportRow {
    /// The message.
    pub queue_id: String,
    /// The recipient.
    pub address: String,
    /// What became of it.
    pub state: String,
    /// What was said.
    pub reply: Option<String>,
}

/// A lane that backs off: a row of `backoffs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackoffRow {
    /// The lane's name.
    pub lane: String,
    /// Failures in a row.
    pub failures: u32,
    /// Unix seconds; no try before.
    pub backoff_until: i64,
    /// What was said.
    pub last_reply: String,
}

/// Whose mail an ETRN asks to have tried now. Shown as it is asked for (RFC 1985 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kick {
    /// This domain (ETRN `example.com`).
    Domain(Domain),
    /// This domain and all below it (ETRN `@example.com`, RFC 1985 §5).
    DomainAndBelow(Domain),
    /// A lane by its name, and the domains whose mail waits in it (ETRN `#lane`).
    Lane(String, Vec<Domain>),
}

impl fmt::Display for Kick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kick::Domain(domain) => write!(f, "{domain}"),
            Kick::DomainAndBelow(domain) => write!(f, "@{domain}"),
            Kick::Lane(lane, _) => write!(f, "#{lane}"),
        }
    }
}

/// Who asks for a kick; recorded with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asker {
    /// Who authenticated; none on a trusted network.
    pub user: Option<String>,
    /// Where they are.
    pub client: Option<Peer>,
    /// How much of what waits they may kick.
    pub scope: KickScope,
}

/// How much of what waits somebody may kick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KickScope {
    /// All of it.
    #[default]
    All,
    /// What they sent themselves (by their user; without one, from their address), and all for these domains.
    Own(Vec<String>),
}

/// What a kick came to; the number is how many recipients wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kicked {
    /// Nothing waits.
    Nothing,
    /// All were due before, and no lane of theirs backed off: they are in line or under way.
    UnderWay(usize),
    /// All are due now.
    Started(usize),
    /// More than one transaction moves: they become due part by part.
    InParts(usize),
    /// All that waits, so many, is suspended, and stays as it is.
    Suspended(usize),
}

impl Kicked {
    /// How many recipients wait.
    pub fn waiting(self) -> usize {
        match self {
            Kicked::Nothing | Kicked::Suspended(_) => 0,
            Kicked::UnderWay(waiting) | Kicked::Started(waiting) | Kicked::InParts(waiting) => waiting,
        }
    }
}

/// What of somebody's kick there is, looked for before it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kickable {
    /// How many recipients wait that are not suspended.
    pub waiting: usize,
    /// How many are: a kick is no resume.
    pub suspended: usize,
    /// Those of the others that are not due yet; a number each, however many wait.
    pub to_move: Vec<RecipientId>,
}

/// What the writer tells the scheduler, in the order of the commits.
#[derive(Debug)]
pub enum Event {
    /// New messages are on disk; their recipients are due now, or when the message is released.
    Accepted(Vec<Due>),
    /// These are no longer in flight; with the next try's time where there is one.
    Settled(Vec<(RecipientId, Option<i64>)>),
    /// These domains were kicked: their recipients are due now, their lanes' backoff is forgotten.
    Kicked(Kick),
    /// Somebody else wrote to the database: forget what waits in memory and read it again.
    ChangedOutside,
}

/// A place in the order in which recipients are due: behind this one. Many can be due in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    /// `next_attempt_at`, Unix seconds.
    pub at: i64,
    /// The recipient's id, within that second.
    pub id: i64,
}

/// Before everything.
impl Default for DueCursor {
    fn default() -> DueCursor {
        DueCursor::from(i64::MIN)
    }
}

/// Behind all that is due at this second.
impl From<i64> for DueCursor {
    fn from(at: i64) -> DueCursor {
        DueCursor { at, id: i64::MAX }
    }
}

/// A place in the line of one domain or lane: by priority, the highest first, then by due time and id.
pub type Place = (Reverse<Priority>, DueCursor);

impl Due {
    /// Behind this one.
    pub fn cursor(&self) -> DueCursor {
        DueCursor { at: self.due_at, id: self.recipient.0 }
    }

    /// Its place in the line of its lane.
    pub fn place(&self) -> Place {
        (Reverse(self.priority), self.cursor())
    }
}

/// Domains that have recipients due, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDomains {
    /// Each domain, and when its first recipient was due (Unix seconds).
    pub due: Vec<(Domain, i64)>,
    /// The last domain looked at; none at the end.
    pub searched: Option<String>,
}

/// Where a look for what bounces without a further try goes on; the default is its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryCursor {
    /// Behind this recipient, among those that an operator wants returned.
    Returned(i64),
    /// Behind this time and message, among those of this kind that are past their end.
    Over(Ending, i64, i64),
}

/// What ends a message that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A time of its own: `BY=…;R`, or a person's.
    Deadline,
    /// The lifetime of bounces.
    BounceLifetime,
    /// The lifetime of other messages.
    Lifetime,
}

/// The times up to which messages are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Those with a time of their own, up to this one.
    pub deadline: i64,
    /// Bounces whose lifetime began at this time or before.
    pub bounces_from: i64,
    /// Other messages whose lifetime began at this time or before.
    pub messages_from: i64,
}

impl Over {
    /// At the confirmed time `now`.
    pub fn at(now: i64, lifetimes: Lifetimes) -> Over {
        Over {
            deadline: now,
            bounces_from: now.saturating_sub(lifetimes.bounces),
            messages_from: now.saturating_sub(lifetimes.messages),
        }
    }

    /// The time that counts for one kind.
    pub(super) fn of(&self, ending: Ending) -> i64 {
        match ending {
            Ending::Deadline => self.deadline,
            Ending::BounceLifetime => self.bounces_from,
            Ending::Lifetime => self.messages_from,
        }
    }
}

impl Default for ExpiryCursor {
    fn default() -> ExpiryCursor {
        ExpiryCursor::Returned(i64::MIN)
    }
}

/// Recipients that bounce without a further try.
#[derive(Debug, Clone)]
pub struct Expired {
    /// Those of one message follow each other.
    pub due: Vec<Due>,
    /// Where to go on; none at the end.
    pub searched: Option<ExpiryCursor>,
}

/// A message as it was read, and what of it cannot be sent since a person has spoilt it.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// With those of the recipients asked for that still wait; none where none does.
    pub message: Option<QueuedMessage>,
    /// Recipients that cannot be sent: they are to be held.
    pub spoilt: Vec<Spoilt>,
}

/// A recipient that cannot be sent since a person has spoilt a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    /// The recipient.
    pub recipient: RecipientId,
    /// Why, for whoever looks at it.
    pub why: String,
}

/// What the view `stuck` showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Each problem, in the view's words, and how many rows have it. Empty when all is well.
    pub problems: Vec<(String, u64)>,
}
