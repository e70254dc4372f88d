//! What the status page asks of the queue: counts by domain and by minute, failures in groups, TLS of a day.

/// What waits for one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainWaiting {
    /// The recipients'.
    pub domain: String,
    /// Recipients.
    pub waiting: u64,
    /// Of these, held.
    pub held: u64,
    /// Of these, suspended.
    pub suspended: u64,
    /// Of these, due by their own time and not suspended.
    pub due: u64,
    /// The first time at which one of them that is not suspended is due, Unix seconds; none: all are held or suspended.
    pub next_attempt_at: Option<i64>,
    /// When the first of them came, Unix seconds.
    pub oldest: i64,
}

/// What happened in one minute, in recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinuteCount {
    /// Minutes since 1970.
    pub minute: i64,
    /// Recipients of messages that were accepted.
    pub accepted: u64,
    /// Attempts that a host took.
    pub delivered: u64,
    /// Attempts that will be made again.
    pub deferred: u64,
    /// Attempts that ended it.
    pub failed: u64,
}

/// Failed attempts of one outcome, one phase and one reason ([`crate::mail::reason`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// Attempts.
    pub times: u64,
    /// Their recipients.
    pub recipients: u64,
    /// There are so many recipients and hosts that not all of them were counted.
    pub is_full: bool,
    /// `deferred`, `failed`, `expired` or `in_doubt`.
    pub outcome: String,
    /// Where it was said.
    pub phase: String,
    /// How many hosts said it.
    pub hosts: u64,
    /// One of them.
    pub mx: Option<String>,
    /// What they said, without what differs.
    pub reply: String,
    /// Whether it was said by the host, and not by us.
    pub is_remote: bool,
    /// When it was said last, UTC.
    pub last: String,
}

/// An attempt that did not end in delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Unix seconds.
    pub at: i64,
    /// The host.
    pub mx: Option<String>,
    /// What was said.
    pub reply: String,
    /// Whether it was said by the host, and not by us.
    pub is_remote: bool,
}

/// Sessions of today with one domain in which TLS failed in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// The recipients', or a smarthost.
    pub domain: String,
    /// Which policy was in force: as `attempts.tls_policy`.
    pub policy: String,
    /// A result type of RFC 8460 §4.3.
    pub result: String,
    /// How many.
    pub sessions: u64,
    /// What one of them failed with; may be empty.
    pub reason: String,
}

/// Sessions of today under one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyCount {
    /// As `attempts.tls_policy`.
    pub policy: String,
    /// All of them.
    pub sessions: u64,
    /// Those in which TLS was not as the policy wants it.
    pub failed: u64,
}
