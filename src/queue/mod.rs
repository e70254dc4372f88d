//! The queue: the only durable truth, and the only SQL.
//!
//! [`Queue`] has the verbs: what it has written goes through one writer thread, which commits in groups; what it
//! reads ([`Reads`]) is asked by each thread for itself. What is accepted here survives `kill -9`, a power cut and a
//! full disk. [`admin`] and [`shell`] are for people, with or without the relay
//! running.
//!
//! `rows`, `overview_rows`, `host_setting`, `sts_policy`, `login_rows`, `id` and `error` are what everybody outside
//! sees; `op`, `writer` and `shared` the same for any store; `contract` what a store must do; `sqlite` the one there
//! is, with its schema in `queue-schema.sql`.

pub mod admin;
mod admin_rows;
mod content;
mod contract;
mod copy_rows;
mod error;
mod filter;
pub mod gauge_rows;
mod host_setting;
pub mod id;
mod login_rows;
mod op;
mod open;
mod overview_rows;
mod quotas;
pub mod rows;
mod shared;
pub mod shell;
mod shell_rows;
mod slow;
mod sqlite;
mod sts_policy;
pub mod suspension;
pub mod tls_rows;
mod traffic_rows;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::clock::STEP_SECS;
use crate::config::{QueueSettings, Routes};
use crate::mail::Lifetimes;

pub use content::ContentReader;
pub use contract::{AdminStore, Reads};
pub use error::{AcceptError, QueueError, QuotaError};
pub use gauge_rows::LaneCount;
pub use host_setting::{HOST_SETTINGS_MAX, HostSetting, Setting};
pub use id::{MessageId, RecipientId};
pub use login_rows::{KnownLoginRow, LoginChanges, LoginFailureRow, LoginRows};
pub use op::{Recording, TlsReportChange};
pub use open::WriterHandle;
pub use quotas::BytesByUser;
pub use rows::{
    Asker, BackoffRow, CachedContent, Due, DueCursor, DueDomains, Ending, Event, Expired, ExpiryCursor,
    Fetched, Finished, Job, JobRecipient, Kick, KickScope, Kickable, Kicked, LaneHealth, NewMessage,
    NextState, Origin, Over, PendingReport, PendingReportRow, PendingReports, Place, QueuedMessage,
    QueuedRecipient, Settled, Settlement, Spoilt, Sweep,
};
pub use shared::Commits;
#[cfg(test)]
pub(crate) use sqlite::by_hand::{ByHand, Disk, Hand, Waits};
pub use sts_policy::{STS_POLICIES_MAX, StsPolicyNote, StsPolicyRow};
pub use suspension::{SUSPENSIONS_MAX, Submitted, Suspension, Suspensions, Whose, by_and_why};
pub use tls_rows::{TlsReportDue, TlsReportRow, TlsReportState, TlsSession};

use contract::{OpenStore, SharedReads};
use op::{Ack, Incoming, Op, Outcomes};
use quotas::Share;
use shared::{Shared, now_us};

/// The queue's verbs; a clone is another handle to the same queue. It reads as what it is, a handle on a store's
/// [`Reads`].
#[derive(Debug, Clone)]
pub struct Queue {
    ops: Sender<Op>,
    shared: Arc<Shared>,
    reads: SharedReads,
    last_time: Option<i64>,
}

/// How often something was refused since the start, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// The database was busy.
    pub busy: u64,
    /// The disk was full.
    pub full: u64,
}

/// A commit that was asked for by [`Queue::probe`].
#[derive(Debug)]
pub struct Probe(Result<Receiver<Result<(), AcceptError>>, AcceptError>);

impl Probe {
    /// How it went; none while it lasts.
    pub fn answer(&self) -> Option<Result<(), AcceptError>> {
        match &self.0 {
            Err(error) => Some(Err(*error)),
            Ok(answer) => match answer.try_recv() {
                Ok(answer) => Some(answer),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(AcceptError::Failed)),
            },
        }
    }
}

impl Queue {
    /// Opens the queue, makes it where there is none, recovers it, and starts its writer.
    ///
    /// What happens is told to `events` in the order of the commits. Its receiver must go on taking
    /// whatever else it does: the writer waits for room there.
    ///
    /// # Errors
    /// The file cannot be used, belongs to another relay that runs, or to a newer version.
    pub fn open(
        settings: &QueueSettings,
        events: Sender<Event>,
    ) -> Result<(Queue, WriterHandle), QueueError> {
        Queue::start(Box::new(sqlite::Database::open(settings)?), open::BUSY_PATIENCE, events)
    }

    fn start(
        store: Box<dyn OpenStore>,
        busy_patience: Duration,
        events: Sender<Event>,
    ) -> Result<(Queue, WriterHandle), QueueError> {
        let (reads, shared) = (store.reads(), Arc::new(Shared::new(store.last_id())));
        let last_time = store.last_time();
        let (ops, writer) = open::start(store, shared.clone(), busy_patience, events)?;
        Ok((Queue { ops, shared, reads, last_time }, writer))
    }

    // Accepting.

    /// A new id, never used before.
    pub fn new_message_id(&self) -> MessageId {
        MessageId(self.shared.take_ids(1))
    }

    /// Whether a message of `size` bytes fits without touching the reserve that is kept for outcomes. Asks the
    /// file system each time (a microsecond).
    pub fn has_room(&self, size: u64) -> bool {
        self.shared.state() != shared::WriterState::Full && self.reads.has_room(size)
    }

    /// Why no new mail is taken just now, for people; none where it is.
    pub fn why_refused(&self) -> Option<String> {
        let said = |error: AcceptError| Some(error.to_string());
        match self.shared.state() {
            shared::WriterState::Good => self.reads.why_no_room(),
            shared::WriterState::Full => self.reads.why_no_room().or(said(AcceptError::Full)),
            shared::WriterState::Busy => said(AcceptError::Busy),
            shared::WriterState::Dead => said(AcceptError::Failed),
        }
    }

    /// Writes a piece of a message's content ahead of it; `seq` counts from 0, pieces are of at most 256 KiB.
    /// Returns once it is on disk, so that a session never has more than one piece in memory.
    ///
    /// # Errors
    /// It was not written; the session is to [`Queue::discard`] what went before.
    pub fn append_chunk(&self, message: MessageId, seq: u32, data: Vec<u8>) -> Result<(), AcceptError> {
        self.room_for(data.len())?;
        self.ask(|ack| Op::Chunk { message, seq, data, ack })
    }

    /// Forgets the pieces of a message that does not become one.
    pub fn discard(&self, message: MessageId) {
        self.tell(Op::Discard(message));
    }

    /// Makes it durable: when this returns, the message is on disk and the 250 may be said.
    ///
    /// # Errors
    /// The message is not in the queue.
    pub fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        self.room_for(message.tail.len())?;
        let message = Box::new(self.incoming(message));
        self.ask(|ack| Op::Accept { message, ack })
    }

    fn room_for(&self, bytes: usize) -> Result<(), AcceptError> {
        self.shared.refusal()?;
        if self.reads.has_room(bytes as u64) {
            return Ok(());
        }
        self.shared.count_refused(AcceptError::Full);
        Err(AcceptError::Full)
    }

    /// Reserves `bytes` more of a user's quota for mail that is on its way, beside what is queued and what is reserved
    /// already. Costs a look at a map; now and then the user's mail is counted in the database.
    ///
    /// # Errors
    /// That would be more than the quota; or the queue cannot be read.
    pub fn reserve_quota(&self, user: &str, quota: u64, bytes: u64) -> Result<(), QuotaError> {
        let count = || self.reads.bytes_by_user();
        self.shared.quotas.reserve(Share { user, quota }, bytes, self.shared.outside_changes(), count)
    }

    /// Gives back what was reserved, once [`Queue::accept`] has returned or will not be called.
    pub fn release_quota(&self, user: &str, bytes: u64) {
        self.shared.quotas.release(user, bytes);
    }

    fn incoming(&self, message: NewMessage) -> Incoming {
        Incoming::new(message, self.shared.ids(), now_us(), &self.shared.cache)
    }

    /// How long commits took, and how many operations each had, since the start.
    pub fn commits(&self) -> &Commits {
        &self.shared.commits
    }

    /// How often mail was refused since the start, and why.
    pub fn refused(&self) -> Refused {
        let (busy, full) = self.shared.refused();
        Refused { busy, full }
    }

    /// Has the writer make a commit that changes nothing but its own notes. Never waits: see [`Probe::answer`].
    pub fn probe(&self) -> Probe {
        // A group that had nothing to write would prove nothing.
        self.shared.take_ids(1);
        let (ack, answer) = bounded(1);
        Probe(self.ops.try_send(Op::Barrier { ack }).map(|()| answer).map_err(|error| match error {
            TrySendError::Full(_) => AcceptError::Busy,
            TrySendError::Disconnected(_) => AcceptError::Failed,
        }))
    }

    // Lanes.

    /// Remembers that a lane backs off. Never waits; written within a second, the last word counts.
    pub fn set_backoff(&self, row: BackoffRow) {
        self.shared.backoff_changed(row.lane.clone(), Some(row));
        // Wakes the writer; where there is no room it is awake.
        let _ = self.ops.try_send(Op::Backoffs);
    }

    /// Forgets a lane's backoff. Never waits.
    pub fn clear_backoff(&self, lane: &str) {
        self.shared.backoff_changed(lane.to_owned(), None);
        let _ = self.ops.try_send(Op::Backoffs);
    }

    /// Shows people which lane a domain's mail waits in (table `routes`), and when mail ends (table `meta`): the
    /// `[[route]]`s and the lifetimes in use.
    pub fn show_config(&self, routes: &Routes, lifetimes: Lifetimes) {
        self.tell(Op::Config { routes: routes.clone(), lifetimes });
    }

    // Time.

    /// The confirmed time of the last commit of the last process, Unix seconds; none in a new queue.
    pub fn last_time(&self) -> Option<i64> {
        self.last_time
    }

    /// Whether something in the queue was written while the clock was more than a minute ahead of `now`.
    pub fn is_ahead_of(&self, now: i64) -> bool {
        self.shared.ids().last() / 1_000_000 > now.saturating_add(STEP_SECS)
    }

    /// The system's clock was set back, from `before` to `now`. What had come due is due. What waits for a time that
    /// was worked out by the clock before waits from now on, as long as it was to wait and `longest_secs` at most. A
    /// time that somebody chose stays.
    pub fn clock_was_set_back(&self, before: i64, now: i64, longest_secs: i64) {
        self.tell(Op::ClockSetBack { before, now, longest_secs });
    }

    /// Tells the confirmed time ([`crate::clock::Clock::confirmed`]): what is older than `[queue] history` then is
    /// forgotten, and the next start reads it from the disk. For every second; costs nothing.
    pub fn set_time(&self, confirmed: i64) {
        self.shared.set_time(confirmed);
    }

    // Host settings.

    /// Remembers one, in the place of what its host and setting had. Waits only while very much else waits.
    pub fn set_host_setting(&self, row: HostSetting) {
        self.tell(Op::SetHostSetting(row));
    }

    /// Forgets one, by its host and [`Setting::name`].
    pub fn clear_host_setting(&self, mx: &str, setting: &'static str) {
        self.tell(Op::ClearHostSetting { mx: mx.to_owned(), setting });
    }

    // Policies of domains.

    /// Remembers what was fetched, in the place of what was known of its domain.
    pub fn set_sts_policy(&self, row: StsPolicyRow) {
        self.tell(Op::SetStsPolicy(Box::new(row)));
    }

    /// Notes something of a policy that is known.
    pub fn note_sts_policy(&self, domain: &str, note: StsPolicyNote) {
        self.tell(Op::NoteStsPolicy { domain: domain.to_owned(), note });
    }

    /// How often somebody else was found to have written to the database, since the start. Costs nothing: for
    /// whoever holds rows in memory that people edit.
    pub fn outside_changes(&self) -> u64 {
        self.shared.outside_changes()
    }

    // Logins.

    /// Writes what changed of [`Reads::logins`]; on disk when it returns.
    ///
    /// # Errors
    /// It was not written, and may be tried again.
    pub fn note_logins(&self, changes: LoginChanges) -> Result<(), AcceptError> {
        // No mail is refused by this, so nothing is counted.
        if self.shared.state() != shared::WriterState::Good {
            return Err(AcceptError::Busy);
        }
        self.ask(|ack| Op::Logins { changes: Box::new(changes), ack })
    }

    // Delivering.

    /// The message with those of `recipients` that still wait (state `queued`); none where none does.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn fetch(
        &self,
        message: MessageId,
        recipients: &[RecipientId],
    ) -> Result<Option<QueuedMessage>, QueueError> {
        let fetched = self.reads.message(message, recipients)?;
        for Spoilt { recipient, why } in fetched.spoilt {
            log::error!(queue_id:% = message; "{message}: recipient {} is {why}", recipient.0);
            self.tell(Op::Hold { recipients: vec![recipient], why });
        }
        Ok(fetched.message)
    }

    /// The content in chunks, read one by one.
    pub fn content(&self, message: MessageId) -> ContentReader {
        ContentReader::new(self.reads.clone(), message)
    }

    /// Records that the final dot is about to be sent for these; on disk when it returns.
    ///
    /// # Errors
    /// It was not written: the dot must not be sent.
    pub fn intend_dot(&self, recipients: &[RecipientId]) -> Result<(), AcceptError> {
        self.shared.refusal()?;
        let (recipients, at) = (recipients.to_vec(), Some(now_us() / 1_000_000));
        self.ask(|ack| Op::IntendDot { recipients, at, ack })
    }

    /// Takes [`Queue::intend_dot`] back, for those who were refused after it; on disk when it returns.
    ///
    /// # Errors
    /// It was not written: no other dot may be sent for them before they are settled.
    pub fn recall_dot(&self, recipients: &[RecipientId]) -> Result<(), AcceptError> {
        self.shared.refusal()?;
        let recipients = recipients.to_vec();
        self.ask(|ack| Op::IntendDot { recipients, at: None, ack })
    }

    /// Returns once everything that was told before it is on disk.
    ///
    /// # Errors
    /// It may not be: the database cannot be written just now.
    pub fn barrier(&self) -> Result<(), AcceptError> {
        self.shared.refusal()?;
        self.ask(|ack| Op::Barrier { ack })
    }

    /// Hands over what came of a job. It is written whatever it takes, or the process ends; waits only
    /// while very much else waits.
    ///
    /// Whoever delivers what the same connection or thread delivers next waits for the [`Recording`] before: a process
    /// that is killed repeats what was delivered and not recorded.
    pub fn settle(&self, settlement: Settlement) -> Recording {
        let outcomes = Outcomes::new(settlement, self.shared.ids(), now_us(), &self.shared.cache);
        let (outcomes, recording) = outcomes.announced();
        self.tell(Op::Settle(Box::new(outcomes)));
        recording
    }

    // Telling senders.

    /// Queues the summary of [`Reads::pending_reports`] and forgets its rows, up to `up_to`; on disk when it returns.
    ///
    /// # Errors
    /// It was not written, and the rows are still there.
    pub fn send_pending_reports(
        &self,
        sender: &str,
        up_to: i64,
        report: NewMessage,
    ) -> Result<(), AcceptError> {
        self.room_for(report.tail.len())?;
        let (sender, report) = (sender.to_owned(), Box::new(self.incoming(report)));
        self.ask(|ack| Op::PendingReports { sender, up_to, report, ack })
    }

    // Reports on TLS.

    /// Counts sessions that no settlement counts ([`Settlement::tls_sessions`]). Waits only while very much else waits.
    pub fn count_tls_sessions(&self, sessions: Vec<TlsSession>) {
        self.tell(Op::TlsSessions(sessions));
    }

    /// Plans a report on each domain with sessions on a day in `days` that has none yet; they come due `after`, spread
    /// over `spread_secs`. On disk when it returns.
    ///
    /// # Errors
    /// It was not written.
    pub fn plan_tls_reports(
        &self,
        days: std::ops::Range<i64>,
        after: i64,
        spread_secs: i64,
    ) -> Result<(), AcceptError> {
        self.shared.refusal()?;
        self.ask(|ack| Op::PlanTlsReports { days, after, spread_secs, ack })
    }

    /// Writes what came of a report, and queues its mail with it; on disk when it returns. Where the row is due no more
    /// nothing is written and no mail queued.
    ///
    /// # Errors
    /// It was not written.
    pub fn change_tls_report(
        &self,
        change: TlsReportChange,
        mail: Option<NewMessage>,
    ) -> Result<(), AcceptError> {
        self.room_for(mail.as_ref().map_or(0, |mail| mail.tail.len()))?;
        let mail = mail.map(|mail| Box::new(self.incoming(mail)));
        self.ask(|ack| Op::TlsReport { change: Box::new(change), mail, ack })
    }

    /// Makes what waits for these domains due now, forgets the backoff of their lanes and records who asked
    /// (table `kicks`).
    ///
    /// # Errors
    /// It was not written.
    pub fn kick(&self, kick: &Kick, asker: &Asker) -> Result<Kicked, AcceptError> {
        self.shared.refusal()?;
        let now = now_us() / 1_000_000;
        // Looked for here, however long that takes: the writer has better things to do.
        let kickable = self.reads.kickable(kick, asker, now).map_err(|error| {
            log::error!("the queue cannot be read: {error}");
            AcceptError::Failed
        })?;
        let (kick, asker) = (kick.clone(), asker.clone());
        self.ask(|ack| Op::Kick { kick, asker, now, kickable, ack: Some(ack) })
    }

    /// False while outcomes cannot be written: start no attempts then, they would be repeated.
    pub fn writable(&self) -> bool {
        self.shared.writable()
    }

    /// Waits until outcomes can be written; false when they still cannot after `timeout`.
    pub fn wait_writable(&self, timeout: Duration) -> bool {
        self.shared.wait_writable(timeout)
    }

    // Upkeep.

    /// Counts what the view `stuck` shows, logs it as an error and has it repaired. Reads the whole queue, in
    /// short statements: seconds where it is long, for once an hour and a thread that has the time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn sweep(&self, now: i64) -> Result<Sweep, QueueError> {
        let mut found = BTreeMap::new();
        let mut from = Some(MessageId(i64::MIN));
        while let Some(first) = from {
            let (part, next) = self.stuck(first)?;
            part.problems
                .into_iter()
                .for_each(|(problem, count)| *found.entry(problem).or_default() += count);
            from = next;
        }
        let sweep = Sweep { problems: found.into_iter().collect() };
        for (problem, count) in &sweep.problems {
            log::error!("queue: {problem}: {count} (SELECT * FROM stuck)");
        }
        if !sweep.problems.is_empty() {
            self.tell(Op::Repair { now });
        }
        Ok(sweep)
    }

    /// Asks the writer and waits for its answer.
    fn ask<T>(&self, op: impl FnOnce(Ack<T>) -> Op) -> Result<T, AcceptError> {
        let (ack, answer) = bounded(1);
        // A writer that has ended answers nobody: both calls fail at once.
        self.ops.send(op(ack)).map_err(|_| AcceptError::Failed)?;
        answer.recv().map_err(|_| AcceptError::Failed)?
    }

    fn tell(&self, op: Op) {
        // A writer that has ended has said so, and the process with it.
        let _ = self.ops.send(op);
    }
}

impl Deref for Queue {
    type Target = dyn Reads + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.reads
    }
}
