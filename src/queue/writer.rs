//! The writer: one thread owns the store and commits in groups.
//!
//! It takes all that waits, has it written in one transaction, and answers each once all of it is on disk: one
//! fsync for all of them. One bad operation does not spoil the others.
//!
//! When it cannot write:
//! - busy (somebody holds the database): waits a few seconds, then refuses what can come again (new
//!   mail, 451) and keeps what cannot (outcomes), in order, until it can be written;
//! - full: refuses new mail at once (452), and goes on trying to write the outcomes, which free room;
//! - an I/O error: ends. It is never tried again, see [`Failure::Fatal`]; all who wait are told that it
//!   failed, and the process is to exit and start again from what the disk holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::contract::{Effect, Failure, Store};
use super::error::AcceptError;
use super::op::{Incoming, Op};
use super::rows::Event;
use super::shared::{Shared, WriterState};

/// Operations and content bytes of one group at most; what comes later makes the next one.
const GROUP_OPS_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Outcomes that are tried one by one, twice a second, while the disk is full.
const TRIED_WHILE_FULL: usize = 32;
/// How often the writer looks round: changes from outside, old history.
const TICK: Duration = Duration::from_millis(500);
/// How long `stop` waits for the database before it gives up on the outcomes that it still holds.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Since when, and why, nothing can be written.
struct Stall {
    since: Instant,
    why: AcceptError,
}

/// What the writer needs beside its store.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) ops: Receiver<Op>,
    pub(super) events: Sender<Event>,
    /// How long submission waits for a busy database.
    pub(super) busy_patience: Duration,
}

pub(super) struct Writer<'s> {
    store: Box<dyn Store + 's>,
    parts: Parts,
    /// What is to be written next; while stalled, what is kept.
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
    /// What made it end before: nothing may be written any more.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            self.gather();
            self.write()?;
            note(self.store.tidy())?;
            if Instant::now() >= self.next_tick {
                self.look_round()?;
            }
            if let Some(since) = self.stopping {
                if self.group.is_empty() && self.parts.ops.is_empty() {
                    return note(self.store.close()).map(drop);
                }
                if self.stall.is_some() && since.elapsed() > STOP_PATIENCE {
                    return Err(format!("{} outcomes could not be written before the end", self.group.len()));
                }
            }
        }
    }

    /// For the simulation: one group of what waits.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.gather();
        self.write()
    }

    /// Waits for work where there is none, and takes all that waits.
    fn gather(&mut self) {
        // A busy database is waited for in BEGIN, a full one here.
        let full = self.stall.as_ref().is_some_and(|stall| stall.why == AcceptError::Full);
        if (self.group.is_empty() || full) && self.stopping.is_none() {
            match self.parts.ops.recv_deadline(self.next_tick) {
                Ok(op) => self.take(op),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = Some(Instant::now()),
            }
        }
        // While stalled everything is taken, so that nobody waits in the channel for an answer: what is
        // kept are outcomes of the attempts in flight, and no new ones start.
        while self.stall.is_some() || (self.group.len() < GROUP_OPS_MAX && self.group_bytes < GROUP_BYTES_MAX)
        {
            match self.parts.ops.try_recv() {
                Ok(op) => self.take(op),
                Err(_) => break,
            }
        }
    }

    fn take(&mut self, op: Op) {
        match op {
            Op::Stop => self.stopping = Some(Instant::now()),
            Op::Backoffs => {}
            op => {
                self.group_bytes += op.bytes();
                self.group.push(op);
            }
        }
    }

    /// Writes the group, or keeps of it what cannot be refused.
    fn write(&mut self) -> Result<(), String> {
        let backoffs_changed = self.parts.shared.backoffs_changed();
        if self.group.is_empty() && !backoffs_changed && self.stall.is_none() {
            return Ok(());
        }
        if let Some(Stall { why: AcceptError::Full, .. }) = self.stall {
            self.refuse(AcceptError::Full);
            return self.write_one_by_one();
        }
        let mut group = std::mem::take(&mut self.group);
        let written = self.commit(&mut group);
        self.group.append(&mut group);
        match written {
            Ok(()) => self.recovered(),
            Err(Failure::Busy(error)) => self.stalled(AcceptError::Busy, &error),
            Err(Failure::Full(error)) => self.stalled(AcceptError::Full, &error),
            Err(failure) => return Err(failure.to_string()),
        }
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
        Ok(())
    }

    /// The disk is full: an outcome alone may still fit, since it frees what its message took. Some are
    /// tried each time; those that do not fit go to the end.
    fn write_one_by_one(&mut self) -> Result<(), String> {
        for _ in 0..self.group.len().clamp(1, TRIED_WHILE_FULL) {
            // Where nothing is left to be tried: whether anything can be written at all.
            let mut alone: Vec<Op> = self.group.drain(..self.group.len().min(1)).collect();
            if alone.is_empty() {
                self.parts.shared.take_ids(1);
            }
            let written = self.commit(&mut alone);
            self.group.append(&mut alone);
            match written {
                // What is left goes as a group again.
                Ok(()) => {
                    self.recovered();
                    break;
                }
                Err(Failure::Busy(_) | Failure::Full(_)) => {}
                Err(failure) => return Err(failure.to_string()),
            }
        }
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
        Ok(())
    }

    /// One transaction for the whole group; on success every operation is answered and gone from it. One
    /// that cannot be applied is taken out, and the rest is applied again without it.
    fn commit(&mut self, group: &mut Vec<Op>) -> Result<(), Failure> {
        let backoffs = self.parts.shared.take_backoffs();
        let effects = loop {
            match self.store.commit(group, &backoffs, self.parts.shared.last_id()) {
                Ok(effects) => break effects,
                Err(Failure::Operation { at, why }) => {
                    if let Some(instead) = give_up(group.remove(at), &why) {
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

    /// It is on disk: tells whoever waits, and the scheduler.
    fn answer(&mut self, op: Op, effect: Effect) {
        // Whoever asked, or the scheduler, may be gone: what is written is written.
        match (op, effect) {
            (Op::Chunk { ack, .. } | Op::IntendDot { ack, .. } | Op::Barrier { ack }, _) => {
                let _ = ack.send(Ok(()));
            }
            (Op::Accept { message, ack }, _) => {
                let _ = ack.send(Ok(()));
                self.tell_accepted(*message);
            }
            (Op::PendingReports { notice, ack, .. }, _) => {
                let _ = ack.send(Ok(()));
                self.tell_accepted(*notice);
            }
            (Op::Settle(outcomes), Effect::Settled(settled)) => {
                self.tell(Event::Settled(settled));
                for notice in outcomes.notices {
                    self.tell_accepted(notice);
                }
            }
            (Op::Hold { .. }, Effect::Settled(settled)) => self.tell(Event::Settled(settled)),
            (Op::Kick { kick, asker, now, ack }, Effect::Kicked { kicked, more }) => {
                if ack.is_some() || !more {
                    self.tell(Event::Kicked(kick.clone()));
                }
                if more {
                    self.group.push(Op::Kick { kick, asker, now, ack: None });
                }
                if let Some(ack) = ack {
                    let _ = ack.send(Ok(kicked));
                }
            }
            // The scheduler knows nothing of what the sweep finds.
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

    /// Nothing could be written just now.
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

    /// Tells all who can come again to do so; newcomers hear it without asking the writer.
    fn refuse(&mut self, why: AcceptError) {
        let state = if why == AcceptError::Full { WriterState::Full } else { WriterState::Busy };
        if self.parts.shared.state() != state {
            log::error!("queue: {why}: new mail is refused until it can be written again");
        }
        self.parts.shared.set_state(state);
        let shared = &self.parts.shared;
        self.group.retain(|op| {
            if op.can_be_refused() {
                // Whoever is answered finds it counted.
                shared.count_refused(why);
                op.refuse(why);
            }
            !op.can_be_refused()
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

    /// Twice a second: has somebody else written, is there history to forget.
    fn look_round(&mut self) -> Result<(), String> {
        self.next_tick = Instant::now() + TICK;
        if note(self.store.tick())?.unwrap_or(false) {
            self.parts.shared.count_outside_change();
            self.tell(Event::ChangedOutside);
        }
        // A part of the old history each time, and more while nobody wants anything.
        while self.stall.is_none() && self.stopping.is_none() {
            let more = note(self.store.purge())?.unwrap_or(false);
            if !more || !self.parts.ops.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// For what can wait: only a failure that says that the disk cannot be trusted ends the writer.
fn note<T>(result: Result<T, Failure>) -> Result<Option<T>, String> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Fatal(why)) => Err(why),
        Err(failure) => {
            log::warn!("queue: {failure}");
            Ok(None)
        }
    }
}

/// An operation that cannot be applied: its sender is told. An outcome has none, and its recipients must
/// not be tried again as if nothing had happened: they are held, for the operator to look at.
fn give_up(op: Op, error: &str) -> Option<Op> {
    log::error!("queue: an operation could not be written and is left out: {error}");
    op.refuse(AcceptError::Failed);
    match op {
        Op::Settle(outcomes) => Some(Op::Hold {
            recipients: outcomes.results.iter().map(|row| row.recipient).collect(),
            why: format!("held: what came of the last attempt could not be recorded: {error}"),
        }),
        _ => None,
    }
}
