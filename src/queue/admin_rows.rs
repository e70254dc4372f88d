//! What the command line asks of the queue and is shown. Times are UTC text, as the views give them.

use serde::Serialize;

use crate::mail::Lifetimes;

use super::error::QueueError;
use super::filter::{Action, Filter};
use super::gauge_rows::Fill;
use super::id::{MessageId, RecipientId};
use super::suspension::{SuspendedBy, SuspensionLine};

/// What somebody changed with the command line: a row of `operator_log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `kick`, `hold`, `release`, `remove`, `bounce`, `suspend`, `resume`; `user add`, `user passwd`, `user set`,
    /// `user remove`, `user lift`.
    pub action: &'static str,
    /// A queue id, a domain, `all` or what else was asked for; a user's name, an address or a network; what is
    /// suspended, as `domain example.com`.
    pub target: String,
    /// Recipients, users, or locks of logins.
    pub count: usize,
    /// Who logged in to the machine.
    pub login: String,
    /// As which the command runs.
    pub uid: u32,
}

/// A change of recipients that were selected before: what [`Selected::ids`] gave, or some of it.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// What is done with them.
    pub action: Action,
    /// What selected them; on record as the target.
    pub which: &'a Filter,
    /// Them.
    pub these: &'a [(MessageId, RecipientId)],
    /// Who logged in to the machine.
    pub login: &'a str,
    /// As which the command runs.
    pub uid: u32,
}

/// How far a change came.
#[derive(Debug, Default)]
pub struct Changed {
    /// Recipients that were changed.
    pub recipients: usize,
    /// Recipients that were looked at: the others of them had changed meanwhile, and were left alone.
    pub looked_at: usize,
    /// Why it ended before its end.
    pub failed: Option<QueueError>,
}

/// Recipients that are kept from being delivered for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct FailureLine {
    /// The reply without what differs from one recipient to the next.
    pub reason: String,
    /// Who said it: `remote` or `local`.
    pub reply_source: String,
    /// How many.
    pub recipients: i64,
    /// Of these, how many still wait.
    pub waiting: i64,
    /// And how many have failed.
    pub failed: i64,
    /// How many hosts said it.
    pub hosts: usize,
    /// How many senders it is about.
    pub senders: usize,
    /// One of the hosts.
    pub mx: Option<String>,
    /// One of the messages.
    pub queue_id: String,
    /// What was said of it.
    pub last_reply: String,
}

/// A message, or a lane, that has waited for long.
#[derive(Debug, Clone, Serialize)]
pub struct OldestLine {
    /// Its queue id, or the lane.
    pub of: String,
    /// Seconds since it came, or the oldest of the lane did.
    pub age: i64,
    /// How many wait.
    pub recipients: i64,
    /// How many of these are suspended.
    pub suspended: i64,
    /// Of a message: its sender.
    pub sender: Option<String>,
    /// What was said last, of its first recipient or of the lane; `(local)` before words of Postrider's own.
    pub last_reply: Option<String>,
}

/// What a change would be for.
#[derive(Debug, Clone, Serialize)]
pub struct Selected {
    /// Recipients.
    pub recipients: i64,
    /// Their messages.
    pub messages: i64,
    /// Their lanes.
    pub lanes: i64,
    /// The first of them, the oldest mail first.
    pub first: Vec<Line>,
    /// All of them, in the same order.
    #[serde(skip)]
    pub ids: Vec<(MessageId, RecipientId)>,
}

/// One recipient, waiting or finished.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Its message.
    pub queue_id: String,
    /// Envelope sender; empty: the null sender.
    pub sender: String,
    /// Address.
    pub recipient: String,
    /// `queued`, `held`, or a state of history.
    pub state: String,
    /// Tries so far.
    pub attempts: u32,
    /// UTC, `held`, `suspended`, `ATRN` or `bounce`; none when finished.
    pub next_attempt: Option<String>,
    /// What was said of it last, codes first.
    pub last_reply: Option<String>,
    /// What was said at its destination, which waits as a whole for that; `(local)` before words of Postrider's own.
    pub lane_reply: Option<String>,
    /// The host that it is about.
    pub last_mx: Option<String>,
    /// Whose words the last reply is: `remote` or `local`.
    pub reply_source: Option<String>,
    /// When its message came, UTC.
    pub received: String,
    /// When it was finished, UTC; none: it waits.
    pub finished: Option<String>,
    /// Seconds since it came, or until it was finished.
    pub age: i64,
    /// Bytes of content.
    pub size: i64,
    /// Its id; what its attempts are found by.
    #[serde(skip)]
    pub(crate) id: i64,
}

/// One try.
#[derive(Debug, Clone, Serialize)]
pub struct Try {
    /// When it began, UTC.
    pub at: String,
    /// How long it took.
    pub duration_ms: i64,
    /// Host.
    pub mx: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Our address.
    pub source_address: Option<String>,
    /// `none`, or version and `verified` or `signature not checked (why)`.
    pub tls: Option<String>,
    /// Which policy said what TLS had to be: `none`, `dane`, `sts-testing`, `sts-enforce`, `requiretls` or `route`.
    pub tls_policy: String,
    /// The DKIM keys that signed, `example.com/s1,example.com/s2`; none where none did.
    pub dkim: Option<String>,
    /// Where it ended.
    pub phase: String,
    /// What was said.
    pub reply: String,
    /// What that meant.
    pub outcome: String,
    /// Whose words the reply is: `host` or `postrider`.
    pub reply_source: String,
}

/// A message with all that is known of it.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its name.
    pub queue_id: String,
    /// The envelope, while it waits; none once it is all finished.
    pub message: Option<Envelope>,
    /// What is still known of it once it is all finished.
    pub finished: Option<FinishedMessage>,
    /// Every recipient with its tries.
    pub recipients: Vec<ShownRecipient>,
    /// What happened, in order of time.
    pub story: Vec<StoryLine>,
    /// The header of its content, as far as it is in the first chunk.
    pub header: Option<String>,
}

/// A message that is all finished.
#[derive(Debug, Clone, Serialize)]
pub struct FinishedMessage {
    /// Empty: the null sender.
    pub sender: String,
    /// Who authenticated.
    pub user: Option<String>,
    /// Where it came from.
    pub client: Option<String>,
    /// UTC.
    pub received: String,
    /// Bytes.
    pub size: i64,
    /// What it can be found by.
    #[serde(flatten)]
    pub labels: ShownLabels,
}

/// What a message can be found by.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShownLabels {
    /// Message-ID of its header, without angle brackets.
    pub header_message_id: Option<String>,
    /// Where it is kept.
    pub subject: Option<String>,
    /// Its application's own.
    pub tag: Option<String>,
}

/// How a recipient was finished.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    /// UTC. In JSON it is the line that says so.
    #[serde(skip)]
    pub finished: String,
    /// `operator` or `outcome`.
    pub finished_by: Option<String>,
    /// TLS of the attempt that ended it.
    pub tls: Option<String>,
    /// Our address on its connection.
    pub source_address: Option<String>,
}

/// Something that happened to a message.
#[derive(Debug, Clone, Serialize)]
pub struct StoryLine {
    /// UTC.
    pub at: String,
    /// `accepted`; the outcome of an attempt; `bounce`, `delay warning` or `delivery report`; what an operator did; how
    /// a recipient was finished.
    pub what: String,
    /// Whom it was about; none: all.
    pub recipient: Option<String>,
    /// More of it.
    pub words: String,
}

/// What was said in the last failed attempt of some recipients of a message in which anything was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DialogueLine {
    /// When the attempt began, UTC.
    pub at: String,
    /// Whose last it was.
    pub recipients: Vec<String>,
    /// Line by line.
    pub dialogue: String,
    /// A later one failed before anything was said (in DNS, say): when, where and why.
    pub later: Option<String>,
}

/// A recipient with its tries.
#[derive(Debug, Clone, Serialize)]
pub struct ShownRecipient {
    /// It.
    #[serde(flatten)]
    pub line: Line,
    /// How it was finished; none: it waits.
    #[serde(flatten)]
    pub end: Option<End>,
    /// What it waits behind.
    pub suspended: Vec<SuspendedBy>,
    /// In their order.
    pub tries: Vec<Try>,
}

/// What the `messages` row says.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope {
    /// Empty: the null sender.
    pub sender: String,
    /// Who authenticated.
    pub user: Option<String>,
    /// Where it came from.
    pub client: Option<String>,
    /// What the client called itself.
    pub helo: Option<String>,
    /// UTC.
    pub received: String,
    /// UTC; none while no relay has said how long mail lives.
    pub expires: Option<String>,
    /// Bytes.
    pub size: i64,
    /// BODY.
    pub body: String,
    /// ENVID.
    pub envid: Option<String>,
    /// MT-PRIORITY.
    pub priority: i64,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// `TLS-Required: No`.
    pub tls_optional: bool,
    /// UTC; held until then (FUTURERELEASE).
    pub release: Option<String>,
    /// UTC (DELIVERBY).
    pub deliver_by: Option<String>,
    /// `R` or `N`, and `T`.
    pub deliver_by_mode: Option<String>,
    /// What it can be found by.
    #[serde(flatten)]
    pub labels: ShownLabels,
}

/// A row of `host_settings`.
#[derive(Debug, Clone, Serialize)]
pub struct HostLine {
    /// The host.
    pub mx: String,
    /// `connections`, `messages_per_minute`, `tls`, `pipelining`, `chunking` or `single_write`.
    pub setting: String,
    /// A number, or how the feature is used: `no-post-quantum`, `plaintext` or `off`.
    pub value: String,
    /// What the host answered before.
    pub last_reply: Option<String>,
    /// Since when, UTC.
    pub changed: Option<String>,
    /// When the feature is tried again, UTC.
    pub retry: Option<String>,
}

/// All in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Messages that wait.
    pub messages: i64,
    /// Bytes of their content.
    pub bytes: i64,
    /// Recipients that wait.
    pub recipients: i64,
    /// Of these, held.
    pub held: i64,
    /// Of these, due now.
    pub due: i64,
    /// Of these, due but for the backoff of their destination.
    pub backing_off: i64,
    /// Of these, waiting until somebody fetches them (ATRN).
    pub to_fetch: i64,
    /// Of these, suspended.
    pub suspended: i64,
    /// What is suspended.
    pub suspensions: Vec<SuspensionLine>,
    /// How many of these there are.
    pub suspensions_total: i64,
    /// The domains with the most waiting, and how many there are.
    pub domains: Vec<DomainLine>,
    /// All of them.
    pub domains_total: i64,
    /// Limits of hosts, and features that are left out there; the latest first.
    pub hosts: Vec<HostLine>,
    /// How many of these there are.
    pub hosts_total: i64,
    /// Lanes that back off, those in trouble for longest first.
    pub lanes: Vec<LaneLine>,
    /// How many of these there are.
    pub lanes_total: i64,
    /// Kicks (ETRN and `queue kick`) of the last hour.
    pub kicks_last_hour: i64,
    /// Why a relay refuses new mail (452) for want of room; none where there is room.
    pub new_mail_refused: Option<String>,
    /// How full database and disk are.
    pub fill: Option<Fill>,
}

/// The room on the disk as it shows from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskRoom {
    /// New mail is taken.
    Enough,
    /// There is room, but the ballast is missing: a quota may keep a relay that runs from making it.
    NoBallast(String),
    /// A relay refuses new mail, and why.
    Full(String),
}

/// A lane that backs off: nothing is sent there until then.
#[derive(Debug, Clone, Serialize)]
pub struct LaneLine {
    /// A recipient domain, or `route:` and the pattern of a route.
    pub lane: String,
    /// Troubles in a row.
    pub failures: i64,
    /// UTC.
    pub until: String,
    /// What was said last.
    pub last_reply: String,
}

/// A line of the view `queue_by_domain`.
#[derive(Debug, Clone, Serialize)]
pub struct DomainLine {
    /// Recipient domain.
    pub domain: String,
    /// Recipients that wait, and of these by the age of their messages.
    pub total: i64,
    /// Under five minutes.
    pub under_5m: i64,
    /// Under an hour.
    pub under_1h: i64,
    /// Under six hours.
    pub under_6h: i64,
    /// Under a day.
    pub under_1d: i64,
    /// Older.
    pub older: i64,
    /// Held.
    pub held: i64,
    /// UTC; `suspended` where all that is not held is, `ATRN` where it is fetched.
    pub next_attempt: Option<String>,
    /// Suspended.
    pub suspended: i64,
}

/// A row of `kicks`.
#[derive(Debug, Clone, Serialize)]
pub struct KickLine {
    /// When, UTC.
    pub at: String,
    /// What was asked for: `example.com`, `@example.com`, `#lane`, a queue id or `all`.
    pub node: String,
    /// Who authenticated.
    pub user: Option<String>,
    /// From where; none: the command line.
    pub client: Option<String>,
    /// How many recipients waited.
    pub recipients: i64,
}

/// Failed logins that have an effect now: a row of `login_failures`.
#[derive(Debug, Clone, Serialize)]
pub struct LoginFailureLine {
    /// An address, an IPv6 /64, a /24 or a /48; none: from anywhere.
    pub network: Option<String>,
    /// A user's name; none: by any name.
    pub name: Option<String>,
    /// `refused`, or `slow`.
    pub effect: String,
    /// How many.
    pub failures: i64,
    /// When the first of them was, UTC.
    pub since: String,
    /// When the effect is over, UTC.
    pub until: String,
}

/// What the queue knows of the config that the relay uses, or used last.
#[derive(Debug, Clone)]
pub struct ConfigInUse {
    /// `[[route]]`s, in order.
    pub routes: Vec<RouteInUse>,
    /// How long mail is tried.
    pub lifetimes: Lifetimes,
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInUse {
    /// Its pattern.
    pub domain: String,
    /// The smarthosts; none: by MX.
    pub relay: Option<String>,
}
