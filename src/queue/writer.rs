//! The writer: one thread owns the only writing connection of the relay and commits in groups.
//!
//! It takes all that waits, applies it in one transaction, commits with `synchronous=FULL` and then
//! answers each: one fsync for all of them. One bad operation does not spoil the others.
//!
//! When it cannot write:
//! - busy (somebody holds the database): waits a few seconds, then refuses what can come again (new
//!   mail, 451) and keeps what cannot (outcomes), in order, until it can be written;
//! - full: refuses new mail at once (452), and goes on trying to write the outcomes, which free room;
//! - an I/O error: ends. It is never tried again, see [`Trouble::Fatal`]; all who wait are told that it
//!   failed, and the process is to exit and start again from what the disk holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::{Connection, Statement};

use super::error::{AcceptError, Trouble};
use super::op::{Incoming, Op};
use super::rows::Event;
use super::shared::{Shared, WriterState};
use crate::queue::sqlite::purge::Purge;
use crate::queue::sqlite::store::{Effect, Store};

/// Operations and content bytes of one group at most; what comes later makes the next one.
const GROUP_OPS_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Outcomes that are tried one by one, twice a second, while the disk is full.
const TRIED_WHILE_FULL: usize = 32;
/// How often the writer looks round: changes from outside, free pages, history.
const TICK: Duration = Duration::from_millis(500);
/// How long BEGIN waits for somebody else's transaction before the writer sees to those who wait.
pub(super) const BEGIN_PATIENCE: Duration = Duration::from_millis(250);
/// How long `stop` waits for the database before it gives up on the outcomes that it still holds.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Pages of the write-ahead log at which they are copied into the database. A page that was written
/// again meanwhile is copied once, so a long log saves work: 64 MiB.
const CHECKPOINT_PAGES: u32 = 16_000;
/// The same while the disk is nearly full.
const CHECKPOINT_PAGES_TIGHT: u32 = 1_000;

/// Since when, and why, nothing can be written.
struct Stall {
    since: Instant,
    why: AcceptError,
}

/// What the writer needs beside its connection.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) ops: Receiver<Op>,
    pub(super) events: Sender<Event>,
    /// Pages in the write-ahead log, as the last commit left it.
    pub(super) wal_pages: Arc<AtomicU32>,
    /// `[queue] history`.
    pub(super) history: Duration,
    /// How long submission waits for a busy database.
    pub(super) busy_patience: Duration,
}

pub(super) struct Writer<'c> {
    conn: &'c Connection,
    store: Store<'c>,
    data_version: Statement<'c>,
    free_pages: Statement<'c>,
    page_bytes: u64,
    parts: Parts,
    /// What is to be written next; while stalled, what is kept.
    group: Vec<Op>,
    group_bytes: usize,
    stall: Option<Stall>,
    /// Set by [`Op::Stop`].
    stopping: Option<Instant>,
    next_tick: Instant,
    seen_version: i64,
    saved_id: i64,
    checkpoint_at: u32,
    purge: Purge,
}

impl<'c> Writer<'c> {
    pub(super) fn new(conn: &'c Connection, parts: Parts) -> rusqlite::Result<Writer<'c>> {
        let mut data_version = conn.prepare("PRAGMA data_version")?;
        let seen_version = data_version.query_row([], |row| row.get(0))?;
        Ok(Writer {
            conn,
            store: Store::new(conn)?,
            data_version,
            free_pages: conn.prepare("PRAGMA freelist_count")?,
            page_bytes: conn.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0))?.into(),
            group: Vec::new(),
            group_bytes: 0,
            stall: None,
            stopping: None,
            next_tick: Instant::now(),
            seen_version,
            saved_id: 0,
            checkpoint_at: CHECKPOINT_PAGES,
            purge: Purge::new(parts.history),
            parts,
        })
    }

    /// Writes until it is told to stop.
    ///
    /// # Errors
    /// What made it end before: nothing may be written any more.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            self.gather();
            self.write()?;
            self.checkpoint_if_long()?;
            if Instant::now() >= self.next_tick {
                self.look_round()?;
            }
            if let Some(since) = self.stopping {
                if self.group.is_empty() && self.parts.ops.is_empty() {
                    return self.close();
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
            Err((Trouble::Busy, error)) => self.stalled(AcceptError::Busy, &error),
            Err((Trouble::Full, error)) => self.stalled(AcceptError::Full, &error),
            Err((Trouble::Fatal | Trouble::Operation, error)) => return Err(error.to_string()),
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
                Err((Trouble::Busy | Trouble::Full, _)) => {}
                Err((_, error)) => return Err(error.to_string()),
            }
        }
        self.group_bytes = self.group.iter().map(Op::bytes).sum();
        Ok(())
    }

    /// One transaction for the whole group; on success every operation is answered and gone from it. One
    /// that cannot be applied is taken out, and the rest is applied again without it.
    fn commit(&mut self, group: &mut Vec<Op>) -> Result<(), (Trouble, rusqlite::Error)> {
        let backoffs = self.parts.shared.take_backoffs();
        let result = loop {
            match self.try_commit(group, &backoffs) {
                Ok(effects) => break Ok(effects),
                Err((Trouble::Operation, error, Some(at))) => {
                    if let Some(instead) = give_up(group.remove(at), &error) {
                        group.insert(at, instead);
                    }
                }
                Err((trouble, error, _)) => break Err((trouble, error)),
            }
        };
        match result {
            Ok(effects) => {
                for (op, effect) in group.drain(..).zip(effects) {
                    self.answer(op, effect);
                }
                Ok(())
            }
            Err(trouble) => {
                self.parts.shared.keep_backoffs(backoffs);
                Err(trouble)
            }
        }
    }

    /// The third of the error is which operation it was.
    fn try_commit(
        &mut self,
        group: &[Op],
        backoffs: &super::shared::Backoffs,
    ) -> Result<Vec<Effect>, (Trouble, rusqlite::Error, Option<usize>)> {
        let blame = |error: rusqlite::Error| (Trouble::of_commit(&error), error, None);
        self.store.begin().map_err(blame)?;
        let mut effects = Vec::with_capacity(group.len());
        for (at, op) in group.iter().enumerate() {
            match self.store.apply(op) {
                Ok(effect) => effects.push(effect),
                Err(error) => {
                    self.store.roll_back();
                    return Err((Trouble::of(&error), error, Some(at)));
                }
            }
        }
        let last_id = self.parts.shared.last_id();
        let finished = (|| {
            for (lane, row) in backoffs {
                self.store.lane(lane, row.as_ref())?;
            }
            if last_id > self.saved_id {
                self.store.save_last_id(last_id)?;
            }
            self.store.commit()
        })();
        if let Err(error) = finished {
            self.store.roll_back();
            return Err(blame(error));
        }
        self.saved_id = last_id;
        Ok(effects)
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
    fn stalled(&mut self, why: AcceptError, error: &rusqlite::Error) {
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

    /// Copies the write-ahead log into the database once it is long: after the answers, so that
    /// nobody waits for it but those who came during it.
    fn checkpoint_if_long(&mut self) -> Result<(), String> {
        let pages = self.parts.wal_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_at {
            return Ok(());
        }
        let threshold =
            if self.parts.shared.space.is_tight() { CHECKPOINT_PAGES_TIGHT } else { CHECKPOINT_PAGES };
        let result = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        // What a reader still looks at stays in the log; it is tried again when the log has grown by as much.
        let all = matches!(result, Ok((in_log, copied)) if in_log == copied);
        self.checkpoint_at = if all { threshold } else { pages.saturating_add(threshold) };
        self.parts.wal_pages.store(if all { 0 } else { pages }, Ordering::Relaxed);
        self.note(result.map(drop))
    }

    /// Twice a second: has somebody else written, how many pages are free, is there history to forget.
    fn look_round(&mut self) -> Result<(), String> {
        self.next_tick = Instant::now() + TICK;
        let version = self.data_version.query_row([], |row| row.get(0));
        let free_pages: rusqlite::Result<u32> = self.free_pages.query_row([], |row| row.get(0));
        match (version, free_pages) {
            (Ok(version), Ok(free_pages)) => {
                if version != self.seen_version {
                    self.seen_version = version;
                    self.parts.shared.count_outside_change();
                    self.tell(Event::ChangedOutside);
                }
                self.parts.shared.space.set_free_in_database(u64::from(free_pages) * self.page_bytes);
            }
            (Err(error), _) | (_, Err(error)) => self.note(Err(error))?,
        }
        if self.parts.shared.space.is_tight() {
            self.checkpoint_at = self.checkpoint_at.min(CHECKPOINT_PAGES_TIGHT);
        }
        // A part of the old history each time, and more while nobody wants anything.
        while self.stall.is_none() && self.stopping.is_none() {
            match self.purge.step(self.conn) {
                Ok(true) if self.parts.ops.is_empty() => {}
                Ok(_) => break,
                Err(error) => {
                    self.store.roll_back();
                    self.note(Err(error))?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// For what can wait: only an error that says that the disk cannot be trusted ends the writer.
    fn note(&self, result: rusqlite::Result<()>) -> Result<(), String> {
        match result {
            Err(error) if Trouble::of(&error) == Trouble::Fatal => Err(error.to_string()),
            Err(error) => {
                log::warn!("queue: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn close(self) -> Result<(), String> {
        // Others may be reading: then the log stays, and the next start finds it.
        self.note(self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
    }
}

/// An operation that cannot be applied: its sender is told. An outcome has none, and its recipients must
/// not be tried again as if nothing had happened: they are held, for the operator to look at.
fn give_up(op: Op, error: &rusqlite::Error) -> Option<Op> {
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
