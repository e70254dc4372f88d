//! What went through the relay since a time, in numbers, and how mail is found: what the command line asks and is
//! shown.

use serde::Serialize;

/// By what mail is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The Message-ID of its header, as [`crate::mail::labels::message_id`] has it.
    MessageId(String),
    /// How its Subject begins; with a `*`, which stands for anything, the whole of it.
    Subject(String),
    /// Its label.
    Tag(String),
}

/// By what the recipients of a [`Traffic`] are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// Who submitted the message.
    User,
    /// The recipient's domain.
    Domain,
    /// The message's label.
    Tag,
    /// The host that was asked last.
    Host,
}

/// What went through the relay since a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// UTC.
    pub since: String,
    /// All that was submitted.
    pub total: TrafficLine,
    /// Postrider's own bounces and reports: in no other line.
    pub own: TrafficLine,
    /// By what was asked for, those with the most recipients first.
    pub groups: Vec<TrafficLine>,
    /// How many groups there are in all.
    pub groups_total: usize,
    /// Why mail was put off or came back, the most frequent reasons first.
    pub reasons: Vec<Reason>,
    /// How many reasons there are in all.
    pub reasons_total: usize,
}

/// Recipients, of one group or all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TrafficLine {
    /// The group; none: of all, or of those that have no user, tag or host. Beyond 10,000 the rest is `(others)`.
    pub name: Option<String>,
    /// Accepted since then.
    pub accepted: u64,
    /// Delivered since then, whenever they were accepted.
    pub delivered: u64,
    /// Seconds from accepted to delivered that half of them took at most; beyond a minute to three in a hundred.
    pub median_secs: Option<u32>,
    /// The same of 95 in 100 of them.
    pub p95_secs: Option<u32>,
    /// Waiting now, whenever they were accepted.
    pub waiting: u64,
    /// Of these, tried since then.
    pub deferred: u64,
    /// Refused for good since then.
    pub bounced: u64,
    /// Returned since then, at the end of their lifetime.
    pub expired: u64,
    /// Taken out by an operator since then.
    pub removed: u64,
}

impl TrafficLine {
    /// How many waited already at that time: with those accepted since they are all that were finished or wait.
    pub fn waited_before(&self) -> u64 {
        let TrafficLine { accepted, delivered, waiting, bounced, expired, removed, .. } = self;
        (delivered + waiting + bounced + expired + removed).saturating_sub(*accepted)
    }
}

/// Why mail was put off or came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Recipients with it.
    pub recipients: u64,
    /// `deferred`, `failed` or `expired`.
    pub state: String,
    /// Whether the words are the host's (`remote`) or Postrider's (`local`).
    pub reply_source: Option<String>,
    /// The reason in what was said ([`crate::mail::reason`]).
    pub reply: String,
}
