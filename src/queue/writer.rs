//! The writer: one thread owns the store and commits operations in groups.
//!
//! It takes all waiting operations, writes them in one transaction with one fsync, and answers each of them once the
//! whole group is on disk. Outcomes go first, and a group that has some takes little mail beside them: connections wait
//! for them. One bad operation does not spoil the others.
//!
//! When it cannot write:
//! - busy (another process holds the database): it waits a few seconds, then refuses operations that can come again
//!   (new mail, 451) and keeps the others (outcomes), in order, until they can be written;
//! - full: it refuses new mail at once (452), and goes on trying to write the outcomes, which free room;
//! - the disk does not answer (an fsync of many seconds): see `slow`;
//! - an I/O error: it ends, and never tries again, see [`StoreFailure::Fatal`]. Every waiting caller is told that the
//!   operation failed, and the process must exit and start again from what is on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::contract::{Effect, Store, StoreFailure};
use super::error::AcceptError;
use super::op::{Incoming, Op};
use super::rows::{Event, QueuedMessage};
use super::shared::{Shared, WriterState};
use super::slow::Call;

/// Operations and content bytes of one group at most. Later operations go into the next group.
const GROUP_OPS_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Messages that are written beside outcomes in one group, or as many as there are outcomes.
const MAIL_BESIDE_OUTCOMES: usize = 16;
/// Outcomes that are tried one by one, twice a second, while the disk is full.
const TRIED_WHILE_FULL: usize = 32;
/// How often the writer looks for changes by other processes and for old history.
const TICK: Duration = Duration::from_millis(500);
/// How long [`Op::Stop`] waits for the database before the outcomes that are left are given up.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A time in which nothing can be written: since when, and why.
struct Stall {
    since: Instant,
    why: AcceptError,
}

/// What the writer needs beside its store.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) ops: Receiver<Op>,
    pub(super) events: Sender<Event>,
    pub(super) call: Arc<Call>,
    /// How long submission waits for a busy database.
    pub(super) busy_patience: Duration,
}

pub(super) struct Writer<'s> {
    store: Box<dyn Store + 's>,
    parts: Parts,
    /// The operations to be written next; while stalled, those that are kept.
    group: Vec<Op>,
    group_bytes: usize,
    stall: Option<Stall>,
    /// Set by [`Op::Stop`].
    stopping: Option<Instant>,
    next_tick: Instant,
}

impl<'s> Writer<'s> {
    pub(super) fn new(store: Box<dyn Store + 's>, parts: Parts) -> Writer<'s> {
        Writer {
            store,
            parts,
            group: Vec::new(),
            group_bytes: 0,
            stall: None,
            stopping: None,
            next_tick: Instant::now(),
        }
    }

    /// Writes until it is told to stop.
    ///
    /// # Errors
    /// The failure that made the writer end early. Nothing may be written after it.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            self.gather();
            self.write()?;
            unless_fatal(self.timed(|store| store.tidy()))?;
            if Instant::now() >= self.next_tick {
                self.look_round()?;
            }
            if let Some(since) = self.stopping {
                // What came while a call lasted is not in the channel any more.
                if self.group.is_empty() && self.parts.ops.is_empty() && !self.parts.call.has_kept() {
                    return unless_fatal(self.timed(|store| store.close())).map(drop);
                }
                if self.stall.is_some() && since.elapsed() > STOP_PATIENCE {
                    return Err(format!("{} outcomes could not be written before the end", self.group.len()));
                }
            }
        }
    }

    /// A call that may take long: others see that it lasts.
    fn timed<T>(&mut self, act: impl FnOnce(&mut (dyn Store + 's)) -> T) -> T {
        self.parts.call.time(&self.parts.shared, || act(&mut *self.store))
    }

    /// For the simulation: writes one group of the waiting operations.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.gather();
        self.write()
    }

    /// Waits for an operation if there is none, then takes all that wait.
    fn gather(&mut self) {
        for op in self.parts.call.take_kept() {
            self.add(op);
        }
        // A busy database is waited for in the store's own busy time-out, a full one here.
        let full = self.stall.as_ref().is_some_and(|stall| stall.why == AcceptError::Full);
        if (self.group.is_empty() || full) && self.stopping.is_none() {
            match self.parts.ops.recv_deadline(self.next_tick) {
                Ok(op) => self.add(op),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = Some(Instant::now()),
            }
        }
        // While stalled every operation is taken, so that no caller waits in the channel for an answer. Only the
        // outcomes of attempts in flight are kept, and no new attempts start, so the group stays small.
        while self.stall.is_some() || (self.group.len() < GROUP_OPS_MAX && self.group_bytes < GROUP_BYTES_MAX)
        {
            match self.parts.ops.try_recv() {
                Ok(op) => self.add(op),
                Err(_) => break,
            }
        }
    }

    /// Adds an operation to the group.
    fn add(&mut self, op: Op) {
        match op {
            Op::Stop => self.stopping = Some(Instant::now()),
            Op::Backoffs => {}
            op => {
                self.group_bytes += op.bytes();
                self.group.push(op);
            }
        }
    }

    /// Writes the group, or keeps those of its operations that cannot be refused.
    fn write(&mut self) -> Result<(), String> {
        let backoffs_changed = self.parts.shared.backoffs_changed();
        if self.group.is_empty() && !backoffs_changed && self.stall.is_none() {
            return Ok(());
        }
        if let Some(Stall { why: AcceptError::Full, .. }) = self.stall {
            self.refuse(AcceptError::Full);
            return self.write_one_by_one();
        }
        self.refuse_what_has_no_room();
        let mut later = self.put_outcomes_first();
        let mut group = std::mem::take(&mut self.group);
        let written = self.commit(&mut group);
        self.group.append(&mut group);
        self.group.append(&mut later);
        match written {
            Ok(()) => self.recovered(),
            Err(StoreFailure::Busy(error)) => self.stalled(AcceptError::Busy, &error),
            Err(StoreFailure::Full(error)) => self.stalled(AcceptError::Full, &error),
            Err(failure) => return Err(failure.to_string()),
        }
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
        Ok(())
    }

    /// A connection waits for each outcome, and sends nothing meanwhile: outcomes go first, and with them only so much
    /// mail that their commit is short. Gives the rest, in its order, for the next group.
    fn put_outcomes_first(&mut self) -> Vec<Op> {
        let is_outcome = |op: &Op| matches!(op, Op::Settle(_));
        if self.stall.is_some() || !self.group.iter().any(is_outcome) {
            return Vec::new();
        }
        let (outcomes, mut others): (Vec<Op>, Vec<Op>) = self.group.drain(..).partition(is_outcome);
        let most = outcomes.len().max(MAIL_BESIDE_OUTCOMES);
        let cut = others.iter().enumerate().filter(|(_, op)| op.is_mail()).nth(most).map(|(at, _)| at);
        let later = cut.map_or_else(Vec::new, |at| others.split_off(at));
        self.group = outcomes;
        self.group.append(&mut others);
        later
    }

    /// The disk is full. A single outcome may still fit, since it frees the room of its message. Each call tries
    /// some outcomes one by one; an outcome that does not fit goes to the end.
    fn write_one_by_one(&mut self) -> Result<(), String> {
        for _ in 0..self.group.len().clamp(1, TRIED_WHILE_FULL) {
            // With no outcome left, a probe shows whether anything can be written at all: an id is taken, so that
            // this commit has the last id to write.
            let mut single: Vec<Op> = self.group.drain(..self.group.len().min(1)).collect();
            if single.is_empty() {
                self.parts.shared.take_ids(1);
            }
            let written = self.commit(&mut single);
            self.group.append(&mut single);
            match written {
                // There is room again: the others go as a group.
                Ok(()) => {
                    self.recovered();
                    break;
                }
                Err(StoreFailure::Busy(_) | StoreFailure::Full(_)) => {}
                Err(failure) => return Err(failure.to_string()),
            }
        }
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
        Ok(())
    }

    /// Writes the whole group in one transaction. On success every operation is answered and the group is empty. An
    /// operation that cannot be applied is taken out, and the others are applied again without it.
    fn commit(&mut self, group: &mut Vec<Op>) -> Result<(), StoreFailure> {
        let backoffs = self.parts.shared.take_backoffs();
        let effects = loop {
            let marks = self.parts.shared.marks();
            self.parts.shared.quotas.group_begins();
            let began = Instant::now();
            match self.timed(|store| store.commit(group, &backoffs, marks)) {
                Ok(effects) => {
                    self.parts.shared.commits.add(began.elapsed(), group.len());
                    break effects;
                }
                Err(StoreFailure::Operation { at, why }) => {
                    if let Some(instead) = hold_instead(group.remove(at), &why) {
                        group.insert(at, instead);
                    }
                }
                Err(failure) => {
                    self.parts.shared.keep_backoffs(backoffs);
                    return Err(failure);
                }
            }
        };
        for (op, effect) in group.drain(..).zip(effects) {
            self.answer(op, effect);
        }
        Ok(())
    }

    /// The operation is on disk: tells the caller that waits for it, and the scheduler.
    fn answer(&mut self, op: Op, effect: Effect) {
        // The caller or the scheduler may be gone; a failed send changes nothing.
        match (op, effect) {
            (
                Op::Chunk { ack, .. }
                | Op::IntendDot { ack, .. }
                | Op::Logins { ack, .. }
                | Op::PlanTlsReports { ack, .. }
                | Op::Barrier { ack },
                _,
            ) => {
                let _ = ack.send(Ok(()));
            }
            (Op::Accept { message, ack }, _) => {
                let QueuedMessage { origin, size, .. } = &*message.message;
                self.parts.shared.quotas.accepted(origin.user.as_deref(), *size);
                let _ = ack.send(Ok(()));
                self.tell_accepted(*message);
            }
            (Op::PendingReports { report, ack, .. }, _) => {
                let _ = ack.send(Ok(()));
                self.tell_accepted(*report);
            }
            (Op::TlsReport { mail, ack, .. }, effect) => {
                let _ = ack.send(Ok(()));
                if let (Some(mail), Effect::Done) = (mail, effect) {
                    self.tell_accepted(*mail);
                }
            }
            (Op::Settle(outcomes), Effect::Settled { next, is_gone }) => {
                if is_gone {
                    let QueuedMessage { origin, size, .. } = &*outcomes.message;
                    self.parts.shared.quotas.left(origin.user.as_deref(), *size);
                }
                self.tell(Event::Settled(next));
                for (_, report) in outcomes.reports {
                    self.tell_accepted(report);
                }
            }
            (Op::Hold { .. }, Effect::Settled { next, .. }) => self.tell(Event::Settled(next)),
            (Op::Kick { kick, asker, now, mut kickable, ack }, Effect::Kicked { kicked, moved }) => {
                kickable.to_move.drain(..moved.min(kickable.to_move.len()));
                let more = !kickable.to_move.is_empty();
                // Where nothing waits that is the asker's, no backoff is theirs to end.
                let is_kick = if ack.is_some() { kicked.waiting() > 0 } else { !more };
                if is_kick {
                    self.tell(Event::Kicked(kick.clone()));
                }
                if more {
                    self.group.push(Op::Kick { kick, asker, now, kickable, ack: None });
                }
                if let Some(ack) = ack {
                    let _ = ack.send(Ok(kicked));
                }
            }
            (op @ Op::ClockSetBack { .. }, Effect::Partly) => self.group.push(op),
            (Op::ClockSetBack { .. }, _) => self.tell(Event::ChangedOutside),
            // The scheduler does not know the rows that were repaired, so it reads everything again.
            (Op::Repair { .. }, _) => self.tell(Event::ChangedOutside),
            _ => {}
        }
    }

    fn tell_accepted(&self, message: Incoming) {
        self.tell(Event::Accepted(message.due));
    }

    fn tell(&self, event: Event) {
        let _ = self.parts.events.send(event);
    }

    /// The group could not be written now. Decides what is refused and what is kept.
    fn stalled(&mut self, why: AcceptError, error: &str) {
        if self.stall.as_ref().is_none_or(|stall| stall.why != why) {
            log::warn!("queue: cannot write ({error}); {} operations wait", self.group.len());
            let since = self.stall.as_ref().map_or_else(Instant::now, |stall| stall.since);
            self.stall = Some(Stall { since, why });
            self.parts.shared.set_writable(false);
        }
        let since = self.stall.as_ref().map_or(Duration::ZERO, |stall| stall.since.elapsed());
        match why {
            AcceptError::Busy if since < self.parts.busy_patience && self.stopping.is_none() => {}
            AcceptError::Busy => self.refuse(AcceptError::Busy),
            _ => self.refuse(AcceptError::Full),
        }
    }

    /// Many sessions may each have found room for its own mail only. Outcomes need what is left.
    fn refuse_what_has_no_room(&mut self) {
        let mail: usize = self.group.iter().filter(|op| op.is_mail()).map(Op::bytes).sum();
        if mail > 0 && !self.store.has_room(mail as u64) {
            self.refuse_those(AcceptError::Full, Op::is_mail);
        }
    }

    /// Refuses every operation that can come again. The shared state refuses later ones before they reach the writer.
    fn refuse(&mut self, why: AcceptError) {
        let state = if why == AcceptError::Full { WriterState::Full } else { WriterState::Busy };
        if self.parts.shared.state() != state {
            log::error!("queue: {why}: new mail is refused until it can be written again");
        }
        self.parts.shared.set_state(state);
        self.refuse_those(why, Op::can_be_refused);
    }

    fn refuse_those(&mut self, why: AcceptError, are_refused: fn(&Op) -> bool) {
        let shared = &self.parts.shared;
        self.group.retain(|op| {
            let is_refused = are_refused(op);
            if is_refused {
                // Counted first, so that a caller that has its answer finds it counted.
                shared.count_refused(why);
                op.refuse(why);
            }
            !is_refused
        });
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
    }

    fn recovered(&mut self) {
        if let Some(stall) = self.stall.take() {
            log::warn!("queue: writes again, after {:.1} s", stall.since.elapsed().as_secs_f32());
            self.parts.shared.set_state(WriterState::Good);
            self.parts.shared.set_writable(true);
        }
    }

    /// Twice a second: notices changes by other processes and deletes old history.
    fn look_round(&mut self) -> Result<(), String> {
        self.next_tick = Instant::now() + TICK;
        if unless_fatal(self.timed(|store| store.changed_outside()))?.unwrap_or(false) {
            self.parts.shared.count_outside_change();
            self.tell(Event::ChangedOutside);
        }
        // Each time a part of the old history goes, and more of it while no operation waits.
        while self.stall.is_none() && self.stopping.is_none() {
            // Nothing is old while nobody has said how late it is.
            let Some(now) = self.parts.shared.time() else { break };
            let more = unless_fatal(self.timed(|store| store.purge(now)))?.unwrap_or(false);
            if !more || !self.parts.ops.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// For upkeep, which can wait: only a failure that says that the disk cannot be trusted ends the writer.
fn unless_fatal<T>(result: Result<T, StoreFailure>) -> Result<Option<T>, String> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StoreFailure::Fatal(why)) => Err(why),
        // The store has said so, and says when it is over.
        Err(StoreFailure::Full(_)) => Ok(None),
        Err(failure) => {
            log::warn!("queue: {failure}");
            Ok(None)
        }
    }
}

/// Gives up an operation that cannot be applied, and tells its caller. No caller waits for an outcome, and its
/// recipients must not be tried again as if nothing had happened: they are held for the operator to look at.
fn hold_instead(op: Op, error: &str) -> Option<Op> {
    log::error!("queue: an operation could not be written and is left out: {error}");
    op.refuse(AcceptError::Failed);
    match op {
        Op::Settle(outcomes) => Some(Op::Hold {
            recipients: outcomes.results.iter().map(|row| row.recipient).collect(),
            why: format!("what came of the last attempt could not be recorded: {error}"),
        }),
        _ => None,
    }
}
