//! The contract of a store: what a database must do to be the queue.
//!
//! `sqlite` is one; another goes into a folder beside it. Everything else in this room (verbs, the writer's loop,
//! groups, stalls, events, the cache) is the same for any store, and the suite in `tests/contract` runs against each.
//! A store has three sides: [`Store`] for the one thread that writes, [`Reads`] for the many that look, [`AdminStore`]
//! for the command line, which comes as any other process does. [`OpenStore`] is what opening one gives.
//!
//! A store for several relays needs more: `Claims` (which relay has a recipient), `StoreFailure::Unknown` (a commit
//! whose answer was lost) and `StoreFailure::Fenced` (another relay took over). They come with that second store:
//! nothing would construct them today.
//!
//! What a store promises:
//! - a group is one transaction: when [`Store::commit`] returns, all of it is on disk; after an error none of it is;
//! - a failure says what to do next ([`StoreFailure`]); what cannot be told apart counts as fatal, and is never tried
//!   again;
//! - only one process at a time has a store opened, and ids at or below [`OpenStore::last_id`] were given out before;
//! - reads see what was committed before they began, and hold nothing between two calls;
//! - what another process changed is noticed within two seconds ([`Store::changed_outside`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::mail::tlsrpt::report::Counted;
use crate::mail::{Domain, Lifetimes};

use super::admin_rows::{
    Changed, ConfigInUse, DialogueLine, DiskRoom, FailureLine, Line, LoginFailureLine, OldestLine, Order,
    Selected, Shown, Summary,
};
use super::error::QueueError;
use super::filter::{Action, Filter};
use super::gauge_rows::{AgeCounts, CountFrom, DiskUse, DomainCount, Fill, LaneCount, SmallCounts};
use super::held::HeldCount;
use super::op::Op;
use super::operator_rows::{Change, KickLine, OperatorLine};
use super::overview_rows::{DomainWaiting, FailureGroup, MinuteCount, PolicyCount, Refusal, TlsFailure};
use super::quotas::BytesByUser;
use super::rows::{
    Asker, BackoffRow, Due, DueCursor, DueDomains, Expired, ExpiryCursor, Fetched, Kick, Kickable, Kicked,
    Over, PendingReports, Place, Sweep,
};
use super::suspension::{Suspended, Suspension, SuspensionLine, Whose};
use super::traffic_rows::{GroupBy, Traffic, Wanted};
use super::{HostSetting, LoginRows, MessageId, RecipientId, StsPolicyRow, TlsReportDue};

/// Backoffs to be written (or forgotten), by lane.
pub(super) type Backoffs = BTreeMap<String, Option<BackoffRow>>;

/// What many threads read through.
pub(super) type SharedReads = Arc<dyn Reads + Send + Sync>;

/// A store that is recovered, up to date, and this process's alone until it is dropped.
pub(super) trait OpenStore: Send {
    /// For all threads.
    fn reads(&self) -> SharedReads;
    /// The highest id ever given out.
    fn last_id(&self) -> i64;
    /// The confirmed time of the last commit, Unix seconds; none where nothing was committed yet.
    fn last_time(&self) -> Option<i64>;
    /// Where the store ended since what it had open is not in its place any more, so that a start by itself makes it
    /// worse: keeps what would be lost with this process, and says so.
    fn rescue(&self) -> Option<String> {
        None
    }
    /// For the writer's thread, once.
    fn store(&self) -> Result<Box<dyn Store + '_>, StoreFailure>;
}

/// What each commit leaves on the disk for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// Ids up to this one were given out.
    pub(super) last_id: i64,
    /// The confirmed time, Unix seconds; none while nobody has said it.
    pub(super) time: Option<i64>,
}

/// What the one writing thread asks. No call but [`Store::commit`] makes anybody wait for its answer.
pub(super) trait Store {
    /// Writes the group, what became of backoffs, and the marks, in one transaction. Gives an effect for each
    /// operation, in their order.
    fn commit(
        &mut self,
        group: &[Op],
        backoffs: &Backoffs,
        marks: Marks,
    ) -> Result<Vec<Effect>, StoreFailure>;
    /// Whether so many bytes of mail leave the reserve alone, asked again when they are about to be written.
    fn has_room(&self, bytes: u64) -> bool;
    /// Called after each group, once everybody has been answered: for upkeep that would have made them wait.
    fn tidy(&mut self) -> Result<(), StoreFailure>;
    /// Called twice a second: whether another process has written since the last time.
    fn changed_outside(&mut self) -> Result<bool, StoreFailure>;
    /// Deletes a small part of what is older than `[queue] history` at the confirmed time `now`; false when there is
    /// nothing to do for now.
    fn purge(&mut self, now: i64) -> Result<bool, StoreFailure>;
    /// The last call.
    fn close(&mut self) -> Result<(), StoreFailure>;
}

/// What an operation did, for its answer and the scheduler.
pub(super) enum Effect {
    Done,
    /// Of each recipient of a settlement the time of its next try, and whether its message is gone with the last of
    /// them.
    Settled {
        next: Vec<(RecipientId, Option<i64>)>,
        is_gone: bool,
    },
    /// What the kick came to, and how many of its recipients were seen to; the others are to be asked for again.
    Kicked {
        kicked: Kicked,
        moved: usize,
    },
    /// A part of it is done, and the rest is to be asked for again.
    Partly,
}

/// Why a store could not do what it was asked to. The texts are the store's own, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoreFailure {
    /// Somebody else holds it: later.
    #[error("{0}")]
    Busy(String),
    /// No room: later, once something was freed.
    #[error("{0}")]
    Full(String),
    /// The group's operation `at` is to blame (a constraint, a value); the others can go on without it.
    #[error("{why}")]
    Operation { at: usize, why: String },
    /// The disk or the database cannot be trusted any more. Never tried again: after a failed fsync
    /// the kernel may have dropped the pages and would report success for data that is not there.
    #[error("{0}")]
    Fatal(String),
}

/// What is read from the queue. Each call is short and holds nothing afterwards; an error says that the database
/// cannot be read.
pub trait Reads: Debug {
    /// Whether `bytes` more of mail leave the reserve alone that is kept for outcomes. Takes a microsecond.
    fn has_room(&self, bytes: u64) -> bool;

    /// Why no mail at all is taken for want of room, for people; none where there is room.
    fn why_no_room(&self) -> Option<String>;

    /// Who else holds the lock that every write needs, for people; none where nobody does, or nobody knows.
    fn lock_holder(&self) -> Option<String>;

    // What is due.

    /// Recipients (state `queued`) behind `after` that are due at `until` or before, in order of time and
    /// id. Of a full page the last one's [`Due::cursor`] leads to the next; a plain time as `after` means
    /// behind all of that second.
    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Result<Vec<Due>, QueueError>;

    /// The first of one domain that are due at `until` or before: by priority, the highest first, then by time.
    /// `after`: only those behind this place in that order.
    fn due_in_domain(
        &self,
        domain: &Domain,
        after: Option<Place>,
        until: i64,
        limit: usize,
    ) -> Result<Vec<Due>, QueueError>;

    /// The first behind `after` (none: of all) that are due at `until` or before and have a priority above the normal
    /// one, the highest first. However many others wait, they are not looked at.
    fn urgent(&self, after: Option<Place>, until: i64, limit: usize) -> Result<Vec<Due>, QueueError>;

    /// Of the next `max` domains after the name `after` those that have recipients (state `queued`) due at `until`
    /// or before. Costs a step a domain, however many recipients each has.
    fn due_domains(&self, after: &str, until: i64, max: usize) -> Result<DueDomains, QueueError>;

    /// When the next recipient after `time` is due.
    fn next_due_after(&self, time: i64) -> Result<Option<i64>, QueueError>;

    /// Recipients that bounce without a further try: those that an operator wants returned, then those (state
    /// `queued`) whose message is over, the oldest of each kind first. At most `limit` rows, rounded up to whole
    /// messages.
    fn expired(&self, after: ExpiryCursor, over: &Over, limit: usize) -> Result<Expired, QueueError>;

    /// Recipients whose final dot was about to be sent when the last process ended, by message. Only of use
    /// before the first attempt: later these are in flight.
    fn in_doubt(&self) -> Result<Vec<(MessageId, Vec<RecipientId>)>, QueueError>;

    /// What of this kick is the asker's, and waits.
    fn kickable(&self, kick: &Kick, asker: &Asker, now: i64) -> Result<Kickable, QueueError>;

    // Messages.

    /// The message with those of `recipients` that still wait. `Queue::fetch` puts recipients with unusable addresses
    /// on hold.
    fn message(&self, id: MessageId, recipients: &[RecipientId]) -> Result<Fetched, QueueError>;

    /// Whether there is such a message, waiting or in `history`.
    fn knows(&self, message: MessageId) -> Result<bool, QueueError>;

    /// Bytes of its content; none when it is gone.
    fn size(&self, message: MessageId) -> Result<Option<u64>, QueueError>;

    /// A piece of its content; none when it is gone.
    fn chunk(&self, message: MessageId, seq: u32) -> Result<Option<Vec<u8>>, QueueError>;

    // What is remembered of lanes and hosts.

    /// The rows of `backoffs`, also those whose time is over.
    fn backoffs(&self) -> Result<Vec<BackoffRow>, QueueError>;

    /// What is held to at each host: limits, and features that are left out there.
    fn host_settings(&self) -> Result<Vec<HostSetting>, QueueError>;

    /// What is suspended at `now`, the oldest first; at most [`super::SUSPENSIONS_MAX`].
    fn suspensions(&self, now: i64) -> Result<Vec<Suspension>, QueueError>;

    /// What is kept of the domain's MTA-STS policy, also where its time is over.
    fn sts_policy(&self, domain: &str) -> Result<Option<StsPolicyRow>, QueueError>;

    /// Domains whose policy is to be fetched again: it holds at `now`, mail went by it since `used_since`, and it is a
    /// day old or has half of its life behind it. The oldest `limit` of them.
    fn sts_policies_due(&self, now: i64, used_since: i64, limit: usize) -> Result<Vec<String>, QueueError>;

    /// What is kept of logins: the rows of `login_failures` and `known_logins`.
    fn logins(&self) -> Result<LoginRows, QueueError>;

    // What senders were told.

    /// When this sender was sent reports after `after`, the last `limit` of them, the oldest first. `sender` as
    /// `reports` has it: in lower case, the domain in A-labels.
    fn reports_since(&self, sender: &str, after: i64, limit: usize) -> Result<Vec<i64>, QueueError>;

    /// Senders with failures that came at `until` or before and are still to be told of; or that came in the `future`,
    /// since the clock was set back.
    fn pending_report_senders(
        &self,
        until: i64,
        future: i64,
        limit: usize,
    ) -> Result<Vec<String>, QueueError>;

    /// All that this sender is still to be told of, the first `limit` of it listed; none where that is nothing.
    fn pending_reports(&self, sender: &str, limit: usize) -> Result<Option<PendingReports>, QueueError>;

    // Reports on TLS.

    /// Reports that are due at `now`, or whose time was written by a clock that was ahead; at most `limit`. Domains
    /// that are still to be asked come first.
    fn tls_reports_due(&self, now: i64, limit: usize) -> Result<Vec<TlsReportDue>, QueueError>;

    /// The sessions of a day that were counted for a domain.
    fn tls_results(&self, day: i64, domain: &str) -> Result<Vec<Counted>, QueueError>;

    // Counting, for operators: these read the whole queue.

    /// How many bytes of mail each user has in the queue.
    fn bytes_by_user(&self) -> Result<BytesByUser, QueueError>;

    /// The domains that somebody waits for, in order.
    fn domains(&self) -> Result<Vec<Domain>, QueueError>;

    /// What waits in each lane, the fullest first; `lane_of` names the lane of a domain.
    fn waiting_by_lane(&self, lane_of: &dyn Fn(&Domain) -> Arc<str>) -> Result<Vec<LaneCount>, QueueError>;

    /// Counts the next part of what waits, by age at `now`; says where the part after it begins, none where this was
    /// the last. What is added or removed meanwhile may be counted or not.
    fn count_by_age(&self, from: CountFrom, now: i64) -> Result<(AgeCounts, Option<CountFrom>), QueueError>;

    /// What waits for each of the next domains after the name `after`, in their order, and what of it is due at `now`.
    fn count_by_domain(&self, after: &str, now: i64, limit: usize) -> Result<Vec<DomainCount>, QueueError>;

    /// Numbers that cost next to nothing.
    fn small_counts(&self, now: i64) -> Result<SmallCounts, QueueError>;

    /// How full the disk is; asks the file system. None where it does not tell.
    fn disk_use(&self) -> Option<DiskUse>;

    /// Has the database checked, as far as that is cheap: about a minute, and nobody waits for it. Damage is told in
    /// the log, once; gives how much was found.
    fn look_for_damage(&self) -> Result<usize, QueueError>;

    /// Counts what the view `stuck` shows of some thousand messages from this id on, problem by problem; says where the
    /// next part begins. [`super::Queue::sweep`] goes through all of them.
    fn stuck(&self, from: MessageId) -> Result<(Sweep, Option<MessageId>), QueueError>;
}

/// What an operator looks at and changes, with or without a relay that runs. Changes are made in small
/// transactions, so that the relay's own are never long in waiting. An error says that the database cannot be read or
/// written.
pub trait AdminStore: Debug {
    /// What waits, in the order in which it came; or what of `history` has the state asked for, the latest first. At
    /// most `limit` lines.
    fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<Line>, QueueError>;

    /// How many lines [`AdminStore::list`] has without a limit.
    fn count(&self, filter: &Filter) -> Result<i64, QueueError>;

    /// The recipients that a change would be for, as they stand at one moment: how many, which, and the first `limit`
    /// of them as a list shows them.
    fn select(&self, action: Action, which: &Filter, limit: u32) -> Result<Selected, QueueError>;

    /// Recipients of the messages that are known by this, waiting ones first and then the finished, each the latest
    /// first; and how many there are in all. Fast, however long history is (a pattern of a Subject reads all of them).
    fn find(&self, wanted: &Wanted, limit: u32) -> Result<(Vec<Line>, i64), QueueError>;

    /// What went through since this time (Unix seconds), in groups where that is asked for: the first `limit` of them.
    fn traffic(&self, since: i64, by: Option<GroupBy>, limit: u32) -> Result<Traffic, QueueError>;

    /// What keeps mail from being delivered, by the reason in the last replies ([`crate::mail::reason`]), the most
    /// frequent first: of what waits and of what failed in the last day, or of what has the filter's state.
    fn failures(&self, filter: &Filter) -> Result<Vec<FailureLine>, QueueError>;

    /// What has waited longest, a line a message, or `by_lane`.
    fn oldest(&self, filter: &Filter, by_lane: bool, limit: u32) -> Result<Vec<OldestLine>, QueueError>;

    /// One message, waiting or finished; none where nothing is known of it.
    fn show(&self, id: MessageId) -> Result<Option<Shown>, QueueError>;

    /// What was said in the failed attempts of a message's recipients, waiting or finished: of each recipient the last
    /// of which that is kept; each once, in order of time. Of long ago, and of what was removed, nothing is.
    fn dialogues(&self, id: MessageId) -> Result<Vec<DialogueLine>, QueueError>;

    /// Numbers, and the `limit` domains with the most waiting.
    fn summary(&self, limit: u32) -> Result<Summary, QueueError> {
        self.summary_of(&Filter::all(), limit)
    }

    /// The same of what the filter selects. Hosts and lanes are those of the whole relay: of a part there are none.
    fn summary_of(&self, filter: &Filter, limit: u32) -> Result<Summary, QueueError>;

    // Counts for the status page. Where much waits they take a second: whoever asks keeps the answer for a while.

    /// What waits or is held for each domain.
    fn waiting_by_domain(&self) -> Result<Vec<DomainWaiting>, QueueError>;

    /// Messages that wait.
    fn messages(&self) -> Result<u64, QueueError>;

    /// What happened in each minute (since 1970) from this one on, in order; one in which nothing did is left out.
    fn by_minute(&self, from: i64) -> Result<Vec<MinuteCount>, QueueError>;

    /// Attempts since this time (Unix seconds) that did not end in delivery, by the reason in the reply
    /// ([`crate::mail::reason`]), the most frequent first.
    fn failure_groups(&self, since: i64, limit: u32) -> Result<Vec<FailureGroup>, QueueError>;

    /// Attempts that did not end in delivery, the latest first: at most `limit`, of the last few thousand attempts.
    fn refusals(&self, limit: u32) -> Result<Vec<Refusal>, QueueError>;

    /// The process of the relay that has the queue, as far as the system tells.
    fn in_use_by(&self) -> Option<u32>;

    /// Sessions of the day of `now` (Unix seconds) by the policy they were under, the most first.
    fn tls_policies(&self, now: i64) -> Result<Vec<PolicyCount>, QueueError>;

    /// Domains with which TLS failed on the day of `now` (Unix seconds), those with the most sessions first.
    fn tls_failures(&self, now: i64, limit: u32) -> Result<Vec<TlsFailure>, QueueError>;

    /// How many bytes of mail each user has in the queue.
    fn bytes_by_user(&self) -> Result<BytesByUser, QueueError>;

    /// The last `limit` kicks, the latest first, and how many are kept.
    fn kicks(&self, limit: u32) -> Result<(Vec<KickLine>, i64), QueueError>;

    /// The rows of `backoffs`, also those whose time is over.
    fn backoffs(&self) -> Result<Vec<BackoffRow>, QueueError>;

    /// What is held to at each host.
    fn host_settings(&self) -> Result<Vec<HostSetting>, QueueError>;

    /// What is kept of the domain's MTA-STS policy.
    fn sts_policy(&self, domain: &str) -> Result<Option<StsPolicyRow>, QueueError>;

    /// The sessions of a day (when it began, Unix seconds) that were counted for a domain.
    fn tls_results(&self, day: i64, domain: &str) -> Result<Vec<Counted>, QueueError>;

    /// Failed logins that have an effect now, what lasts longest first.
    fn login_failures(&self) -> Result<Vec<LoginFailureLine>, QueueError>;

    /// Has those of these names and networks (written as they are listed), or all, count no more; gives how many rows
    /// that were. The relay notices within a second.
    fn lift(&self, of: Option<&[String]>) -> Result<usize, QueueError>;

    /// The config that the relay uses, or used last; none where no relay has run here yet.
    fn config_in_use(&self) -> Result<Option<ConfigInUse>, QueueError>;

    /// How many recipients that wait are of messages whose lifetime would be over by these.
    fn over_at(&self, now: i64, lifetimes: Lifetimes) -> Result<i64, QueueError>;

    /// Whether a relay has room for new mail, as far as that shows from outside.
    fn disk_room(&self) -> Result<DiskRoom, QueueError>;

    /// How full database and disk are; none where the file system does not say.
    fn fill(&self) -> Result<Option<Fill>, QueueError>;

    /// What the database finds wrong with itself; reads the whole of it.
    fn damage(&self) -> Result<Vec<String>, QueueError>;

    /// Makes a change ([`Action`]) of the recipients that were selected for it, and of no others: one that came since
    /// is not among them, and one whose state, last reply or host is no longer what the filter asks for is left alone.
    /// It is made in parts, each of them with its count on record; `goes_on` is asked before each.
    fn change(&self, order: &Order<'_>, goes_on: &dyn Fn() -> bool) -> Changed;

    /// Has what waits and what comes for a domain, of a user or with a tag wait until it is resumed or its time is
    /// over; in the place of what was said of the same before. The relay notices within two seconds.
    ///
    /// # Errors
    /// Also where as many as count are suspended already.
    fn suspend(&self, what: &Suspension) -> Result<Suspended, QueueError>;

    /// Has what is suspended go on, one or all; gives how many suspensions that were.
    fn resume(&self, what: Option<&Whose>) -> Result<usize, QueueError>;

    /// What is suspended, and how much waits behind each.
    fn suspensions(&self) -> Result<Vec<SuspensionLine>, QueueError>;

    /// What is suspended, without a look at what waits.
    fn suspended_now(&self) -> Result<Vec<Suspension>, QueueError>;

    /// Whether mail of this user waits or is in history.
    fn knows_user(&self, name: &str) -> Result<bool, QueueError>;

    /// How many of these recipients are suspended.
    fn suspended_of(&self, these: &[(MessageId, RecipientId)]) -> Result<i64, QueueError>;

    /// What holds mail, the most first: in all the queue by kind, or of one domain by reason (the first twenty).
    fn held(&self, domain: Option<&Domain>) -> Result<Vec<HeldCount>, QueueError>;

    /// What operators changed since this time (Unix seconds), the latest first, at most `limit` of it; and how much it
    /// is in all.
    fn operator_log(&self, since: i64, limit: u32) -> Result<(Vec<OperatorLine>, i64), QueueError>;

    /// Puts on record what else an operator did. The relay that runs, or the next that starts, writes it to its log.
    fn record(&self, change: &Change) -> Result<(), QueueError>;
}
