//! How much waits and how full the disk is, as numbers for monitoring. Each has its SELECT in `docs/monitoring.md`.

use serde::Serialize;

use super::id::{MessageId, RecipientId};

/// Where an age bucket of [`AgeCounts`] ends, in seconds; the last has no end. As in the view `queue_by_domain`.
pub const AGE_BOUNDS_SECS: [i64; 4] = [300, 3600, 6 * 3600, 24 * 3600];

/// How far counting has come: a part of the queue is looked at in each statement, so that none holds a snapshot for
/// long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountFrom {
    /// Messages behind this one are still to be counted, then the recipients.
    Messages(MessageId),
    /// Recipients behind this one are.
    Recipients(RecipientId),
}

impl CountFrom {
    /// Nothing is counted yet.
    pub const START: CountFrom = CountFrom::Messages(MessageId(i64::MIN));
}

/// What waits, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgeCounts {
    /// Messages.
    pub messages: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Recipients in the state `queued`, by the age of their message ([`AGE_BOUNDS_SECS`]).
    pub queued: [u64; AGE_BOUNDS_SECS.len() + 1],
    /// The same in the state `held`.
    pub held: [u64; AGE_BOUNDS_SECS.len() + 1],
}

impl AgeCounts {
    /// Both parts together.
    #[must_use]
    pub fn and(mut self, other: AgeCounts) -> AgeCounts {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.queued.iter_mut().zip(other.queued).for_each(|(count, more)| *count += more);
        self.held.iter_mut().zip(other.held).for_each(|(count, more)| *count += more);
        self
    }
}

/// What waits for one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainCount {
    /// It, as the column has it.
    pub domain: String,
    /// Recipients.
    pub recipients: u64,
    /// Those of them that are due and not suspended, whatever their lane does.
    pub due: u64,
    /// When the first of these came due, or the last backoff of its lane ended, if that was later. Unix seconds.
    pub due_since: Option<i64>,
    /// Its lane backs off.
    pub backs_off: bool,
    /// A user fetches its mail (ATRN).
    pub is_fetched: bool,
    /// Recipients that are suspended.
    pub suspended: u64,
}

/// Numbers that cost next to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SmallCounts {
    /// Lanes that back off now, those for ATRN apart.
    pub lanes_backing_off: u64,
    /// Hosts with a limit that was learnt.
    pub hosts_throttled: u64,
    /// Hosts at which a feature is left out.
    pub hosts_with_workarounds: u64,
    /// Networks and names whose logins are refused or slow now.
    pub login_locks: u64,
    /// Suspensions that count now.
    pub suspensions: u64,
    /// Failures of which senders are still to be told.
    pub pending_reports: u64,
    /// The database's pages, and those of them that are free, in bytes.
    pub database_bytes: u64,
    /// See there.
    pub database_free_bytes: u64,
}

/// The files beside the database, and its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// The write-ahead log's file.
    pub log_bytes: u64,
    /// What processes without privileges may still write.
    pub free_bytes: u64,
    /// The whole file system.
    pub size_bytes: u64,
}

/// How full database and disk are, for the command line; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// The database's pages.
    pub database_bytes: u64,
    /// Those of them that are free.
    pub database_free_bytes: u64,
    /// What processes without privileges may still write on its file system.
    pub disk_free_bytes: u64,
    /// The whole file system.
    pub disk_bytes: u64,
    /// Kept for what is queued: new mail is refused when only this is left.
    pub reserve_bytes: u64,
}
