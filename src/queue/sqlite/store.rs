//! The store that writes: one transaction for a group, and the upkeep of the database.
//!
//! An error leaves the operations as they were, to be applied again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error, Result, Statement};

use crate::queue::contract::{Backoffs, Effect, Marks, Store, StoreFailure};
use crate::queue::op::{Op, Outcomes};

use super::accept::Accept;
use super::checkpoints::{self, CHECKPOINT_PAGES, Checkpoints, NOOP, PASSIVE};
use super::failure::of_transaction;
use super::files::Files;
use super::purge::Purge;
use super::readers::Readers;
use super::settle::Settle;
use super::space::Space;
use super::tls_results::TlsResults;
use super::{
    backoffs, clock_set_back, host_settings, kick, logins, operator_log, reports, routes, sts_policies,
    sweep, tls_reports,
};

/// The pages of the database are counted twice a second, and whenever the log has so many more: 256 KiB.
const COUNTED_PAGES: u32 = 64;
/// The log's file is cut back to this.
const LOG_FILE_BYTES: u64 = 64 << 20;
/// How often the operator hears that Litestream does not copy the log.
const LITESTREAM_TOLD: Duration = Duration::from_secs(3600);
/// A checkpoint that a reader keeps from its end is tried again after this, and after so many times what it took.
const CHECKPOINT_AGAIN: Duration = Duration::from_millis(500);
const CHECKPOINT_REST: u32 = 20;

/// What there is of a database that is in files.
#[derive(Clone, Copy)]
pub(super) struct OnDisk<'c> {
    pub(super) files: &'c Files,
    pub(super) checkpoints: &'c Checkpoints,
}

/// The relay's only writing connection, and its statements.
pub(super) struct SqliteStore<'c> {
    conn: &'c Connection,
    /// None: the database is in memory, for the simulation.
    disk: Option<OnDisk<'c>>,
    begin: Statement<'c>,
    commit: Statement<'c>,
    save_last_id: Statement<'c>,
    save_time: Statement<'c>,
    accept: Accept<'c>,
    settle: Settle<'c>,
    tls_results: TlsResults<'c>,
    data_version: Statement<'c>,
    pages: Statement<'c>,
    free_pages: Statement<'c>,
    space: Arc<Space>,
    /// Closed with the store: an open reader would keep the log from being emptied.
    readers: Arc<Readers>,
    seen_version: i64,
    saved: Marks,
    /// Where the disk has room.
    checkpoint_pages: u32,
    checkpoint_at: u32,
    /// Pages of the log when those of the database were counted.
    counted_at: u32,
    /// While the log is long all the same.
    next_checkpoint: Instant,
    litestream_told: Option<Instant>,
    purge: Purge,
    /// What `meta` says of the refusal of mail; none: not known.
    noted_refusal: Option<Option<i64>>,
    /// There may be lines to write: at the start, and when somebody else has written.
    operator_log_waits: bool,
}

impl<'c> SqliteStore<'c> {
    /// `history` is how long `[queue] history` keeps what is finished.
    pub(super) fn new(
        conn: &'c Connection,
        disk: Option<OnDisk<'c>>,
        space: Arc<Space>,
        readers: Arc<Readers>,
        history: Duration,
    ) -> Result<SqliteStore<'c>> {
        let mut data_version = conn.prepare("PRAGMA data_version")?;
        let seen_version = data_version.query_row([], |row| row.get(0))?;
        let checkpoint_pages = disk.map_or(CHECKPOINT_PAGES, |disk| disk.checkpoints.pages);
        Ok(SqliteStore {
            conn,
            disk,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            save_last_id: conn.prepare(
                "INSERT INTO meta (key, value) VALUES ('last_id', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
            )?,
            save_time: conn.prepare(
                "INSERT INTO meta (key, value) VALUES ('time', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?,
            accept: Accept::new(conn)?,
            settle: Settle::new(conn)?,
            tls_results: TlsResults::new(conn)?,
            data_version,
            pages: conn.prepare("PRAGMA page_count")?,
            free_pages: conn.prepare("PRAGMA freelist_count")?,
            space,
            readers,
            seen_version,
            saved: Marks { last_id: 0, time: None },
            checkpoint_pages,
            checkpoint_at: checkpoint_pages,
            counted_at: 0,
            next_checkpoint: Instant::now(),
            litestream_told: None,
            purge: Purge::new(history),
            noted_refusal: None,
            operator_log_waits: true,
        })
    }

    fn write(
        &mut self,
        group: &[Op],
        backoffs: &Backoffs,
        marks: Marks,
    ) -> std::result::Result<Vec<Effect>, StoreFailure> {
        let mut effects = Vec::with_capacity(group.len());
        for (at, op) in group.iter().enumerate() {
            effects.push(self.apply(op).map_err(|error| self.space.judge(at, &error))?);
        }
        self.finish(backoffs, marks).map_err(|error| of_transaction(self.space.judge(0, &error)))?;
        Ok(effects)
    }

    fn apply(&mut self, op: &Op) -> Result<Effect> {
        match op {
            Op::Chunk { message, seq, data, .. } => self.accept.chunk(*message, *seq, data)?,
            Op::Accept { message, .. } => self.accept.accept(message)?,
            Op::Discard(message) => self.accept.discard(*message)?,
            Op::Settle(outcomes) => return self.settle(outcomes),
            Op::IntendDot { recipients, at, .. } => self.settle.set_doubt(recipients, *at)?,
            Op::Kick { kick, asker, now, kickable, ack } => {
                let (kicked, moved) = kick::kick(self.conn, kick, kickable, *now, ack.is_some())?;
                // Its further parts are the same kick.
                if ack.is_some() {
                    kick::record(self.conn, kick, asker, *now, kicked)?;
                }
                return Ok(Effect::Kicked { kicked, moved });
            }
            Op::Hold { recipients, why } => {
                self.settle.hold(recipients, why)?;
                let next = recipients.iter().map(|recipient| (*recipient, None)).collect();
                return Ok(Effect::Settled { next, is_gone: false });
            }
            Op::PendingReports { sender, up_to, report, .. } => {
                reports::delete_pending(self.conn, sender, *up_to)?;
                self.accept.accept(report)?;
            }
            Op::TlsSessions(sessions) => self.tls_results.count(sessions, self.space.refuses_mail())?,
            Op::PlanTlsReports { days, after, spread_secs, .. } => {
                tls_reports::plan(self.conn, days.start, days.end, *after, *spread_secs)?;
            }
            Op::TlsReport { change, mail, .. } => {
                if !tls_reports::change(self.conn, change)? {
                    return Ok(Effect::Partly);
                }
                mail.iter().try_for_each(|mail| self.accept.accept(mail))?;
            }
            Op::SetHostSetting(row) => host_settings::write(self.conn, row)?,
            Op::ClearHostSetting { mx, setting } => host_settings::delete(self.conn, mx, setting)?,
            Op::SetStsPolicy(row) => sts_policies::write(self.conn, row)?,
            Op::NoteStsPolicy { domain, note } => sts_policies::note(self.conn, domain, note)?,
            Op::Logins { changes, .. } => logins::write(self.conn, changes)?,
            Op::Config { routes, lifetimes } => routes::write(self.conn, routes, *lifetimes)?,
            Op::ClockSetBack { before, now, longest_secs } => {
                return clock_set_back::mend(self.conn, *before, *now, *longest_secs)
                    .map(|is_all| if is_all { Effect::Done } else { Effect::Partly });
            }
            Op::Repair { now } => sweep::repair(self.conn, *now)?,
            Op::Barrier { .. } | Op::Backoffs | Op::Stop => {}
        }
        Ok(Effect::Done)
    }

    fn settle(&mut self, outcomes: &Outcomes) -> Result<Effect> {
        let settled = self.settle.settle(outcomes, self.space.refuses_mail())?;
        for (kind, report) in &outcomes.reports {
            self.accept.accept(report)?;
            reports::record(self.conn, (kind, report), outcomes.message.id, outcomes.at)?;
        }
        reports::gather(self.conn, outcomes)?;
        self.tls_results.count(&outcomes.tls_sessions, self.space.refuses_mail())?;
        Ok(settled)
    }

    fn finish(&mut self, backoffs: &Backoffs, marks: Marks) -> Result<()> {
        for (lane, row) in backoffs {
            backoffs::write(self.conn, lane, row.as_ref())?;
        }
        // So that none is used twice when the clock steps back.
        if marks.last_id > self.saved.last_id {
            self.save_last_id.execute([marks.last_id])?;
        }
        if marks.time != self.saved.time {
            self.save_time.execute([marks.time])?;
        }
        self.commit.execute([])?;
        self.saved = marks;
        Ok(())
    }

    /// After an error; SQLite may have rolled back by itself.
    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            log::error!("queue: rollback: {error}");
        }
    }

    /// Copies the write-ahead log into the database once it is long.
    fn checkpoint_if_long(&mut self) -> std::result::Result<(), StoreFailure> {
        let pages = self.space.log_pages();
        if pages < self.checkpoint_at {
            return Ok(());
        }
        let tight = self.space.checkpoint_pages();
        let threshold = tight.unwrap_or(self.checkpoint_pages);
        let start = Instant::now();
        let result = self.copy_log_unless_copied(pages);
        self.next_checkpoint = Instant::now() + CHECKPOINT_AGAIN.max(start.elapsed() * CHECKPOINT_REST);
        // What a reader still looks at stays in the log; it is tried again when the log has grown by as much, and while
        // it is long.
        let all = matches!(result, Ok(true));
        self.checkpoint_at = if all { threshold } else { pages.saturating_add(threshold) };
        if all {
            self.space.log_is_copied();
            self.shorten_log(tight)?;
        }
        result.map(drop)
    }

    fn is_litestreams(&self) -> bool {
        self.disk.is_some_and(|disk| disk.checkpoints.are_litestreams())
    }

    /// Where the log of so many pages is Litestream's to copy, that is told: it has not done so.
    fn copy_log_unless_copied(&mut self, pages: u32) -> std::result::Result<bool, StoreFailure> {
        if !self.is_litestreams() {
            return self.copy_log(PASSIVE);
        }
        let (in_log, copied) =
            checkpoints::copy(self.conn, NOOP).map_err(|error| self.space.judge(0, &error))?;
        let all = in_log == copied && in_log >= 0 || self.copy_log(PASSIVE)?;
        let is_told = self.litestream_told.is_some_and(|told| told.elapsed() < LITESTREAM_TOLD);
        if in_log > copied && all && !is_told {
            self.litestream_told = Some(Instant::now());
            log::warn!(
                "queue: Litestream has not copied the write-ahead log, which had {} MB, into the database: the relay \
                 has, and Litestream will begin with a snapshot; see that it runs",
                self.space.log_file_bytes(pages) >> 20
            );
        }
        Ok(all)
    }

    /// Nothing is acknowledged that only a removed or overwritten file has.
    fn files_are_there(&self) -> std::result::Result<(), StoreFailure> {
        let Some(OnDisk { files, checkpoints }) = self.disk else { return Ok(()) };
        let content = || if checkpoints.are_ours() { files.check_content() } else { Ok(()) };
        let checked = files.check(self.space.log_pages() > 0).and_then(|()| content());
        // A checkpoint of somebody else changes the database, and may empty the log.
        let checked =
            checked.or_else(|why| if checkpoints.were_lost() { files.check(false) } else { Err(why) });
        checked.map_err(|why| {
            files.note_taken();
            StoreFailure::Fatal(format!(
                "{why}; stop whatever did that, put the database back together with its -wal file, then start again"
            ))
        })
    }

    /// Gives the room of a long log back where the disk is nearly full. A part stays, for what must be written when not
    /// a byte is left.
    fn shorten_log(&mut self, tight: Option<u32>) -> std::result::Result<(), StoreFailure> {
        if self.is_litestreams() {
            return Ok(());
        }
        let bytes = tight.map_or(LOG_FILE_BYTES, |pages| self.space.log_file_bytes(pages));
        let shorten = |store: &mut Self| -> Result<()> {
            store.conn.pragma_update(None, "journal_size_limit", i64::try_from(bytes).unwrap_or(i64::MAX))?;
            if tight.is_some() && store.space.log_file_is_longer(bytes) {
                // The first commit after a checkpoint cuts the file.
                store.save_last_id.execute([store.saved.last_id])?;
            }
            Ok(())
        };
        shorten(self).map_err(|error| self.judge(&error))
    }

    /// Copies what of the log may be copied; whether that was all. What it needs is there: the ballast is given for it.
    fn copy_log(&self, mode: &str) -> std::result::Result<bool, StoreFailure> {
        loop {
            let copied = match self.disk {
                Some(OnDisk { files, checkpoints }) if mode == PASSIVE => checkpoints.run(self.conn, files),
                _ => checkpoints::copy(self.conn, mode),
            };
            match copied.map_err(|error| self.space.judge(0, &error)) {
                // Neither is known while another process has the lock.
                Ok((in_log, copied)) => return Ok(in_log == copied && in_log >= 0),
                Err(StoreFailure::Full(why)) if self.space.give_ballast(&why) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Costs a transaction of its own, for each of which SQLite parses the statement anew.
    fn count_pages(&mut self) -> Result<()> {
        self.counted_at = self.space.log_pages();
        let count = |statement: &mut Statement<'_>| statement.query_row([], |row| row.get(0));
        self.space.set_pages(count(&mut self.pages)?, count(&mut self.free_pages)?);
        Ok(())
    }

    fn look_round(&mut self) -> std::result::Result<bool, StoreFailure> {
        let version =
            self.data_version.query_row([], |row| row.get(0)).map_err(|error| self.judge(&error))?;
        self.count_pages().map_err(|error| self.judge(&error))?;
        if let Some(tight) = self.space.checkpoint_pages() {
            self.checkpoint_at = self.checkpoint_at.min(tight);
        }
        let is_long = self.space.log_pages() >= self.checkpoint_pages || self.space.refuses_mail();
        if is_long && self.space.log_pages() > 0 && Instant::now() >= self.next_checkpoint {
            self.checkpoint_at = 0;
            self.checkpoint_if_long()?;
        }
        self.space.watch();
        self.note_refusal()?;
        let is_changed = std::mem::replace(&mut self.seen_version, version) != version;
        if is_changed || self.operator_log_waits {
            self.operator_log_waits = self.tell_operator_log()?;
        }
        Ok(is_changed)
    }

    /// For those who look from outside. What cannot be written now is tried again.
    fn note_refusal(&mut self) -> std::result::Result<(), StoreFailure> {
        let since = self.space.refused_since();
        if self.noted_refusal == Some(since) {
            return Ok(());
        }
        let sql = match since {
            Some(_) => "INSERT OR REPLACE INTO meta VALUES ('mail_refused_since', ?1)",
            None => "DELETE FROM meta WHERE key = 'mail_refused_since' AND ?1 IS NULL",
        };
        match self.conn.execute(sql, [since]).map_err(|error| self.judge(&error)) {
            Ok(_) => self.noted_refusal = Some(since),
            Err(StoreFailure::Full(_) | StoreFailure::Busy(_)) => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Whether there may be more to tell. What cannot be written now is told later.
    fn tell_operator_log(&self) -> std::result::Result<bool, StoreFailure> {
        match operator_log::tell(self.conn).map_err(|error| self.judge(&error)) {
            Err(StoreFailure::Full(_) | StoreFailure::Busy(_)) => Ok(true),
            told => told,
        }
    }

    fn judge(&self, error: &Error) -> StoreFailure {
        self.space.judge(0, error)
    }

    fn commit_once(
        &mut self,
        group: &[Op],
        backoffs: &Backoffs,
        marks: Marks,
    ) -> std::result::Result<Vec<Effect>, StoreFailure> {
        self.begin.execute([]).map_err(|error| of_transaction(self.judge(&error)))?;
        let written = self.write(group, backoffs, marks);
        if written.is_err() {
            self.roll_back();
        }
        written
    }
}

impl Store for SqliteStore<'_> {
    fn commit(
        &mut self,
        group: &[Op],
        backoffs: &Backoffs,
        marks: Marks,
    ) -> std::result::Result<Vec<Effect>, StoreFailure> {
        if let Some(failure) = self.space.must_wait() {
            return Err(failure);
        }
        loop {
            match self.commit_once(group, backoffs, marks) {
                // The log begins anew where it can, and the group with it.
                Err(StoreFailure::Full(why)) if self.space.give_ballast(&why) => {
                    self.copy_log(PASSIVE)?;
                }
                result => {
                    self.files_are_there()?;
                    return result;
                }
            }
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.space.has_room(bytes)
    }

    fn tidy(&mut self) -> std::result::Result<(), StoreFailure> {
        if self.space.log_pages().abs_diff(self.counted_at) >= COUNTED_PAGES {
            self.count_pages().map_err(|error| self.judge(&error))?;
        }
        self.checkpoint_if_long()
    }

    fn changed_outside(&mut self) -> std::result::Result<bool, StoreFailure> {
        self.files_are_there()?;
        if let Some(OnDisk { files, checkpoints }) = self.disk {
            checkpoints.keep(files);
        }
        self.look_round()
    }

    fn purge(&mut self, now: i64) -> std::result::Result<bool, StoreFailure> {
        self.purge.step(self.conn, now).map_err(|error| {
            self.roll_back();
            self.judge(&error)
        })
    }

    fn close(&mut self) -> std::result::Result<(), StoreFailure> {
        self.files_are_there()?;
        self.readers.close();
        if self.is_litestreams() {
            return Ok(());
        }
        // Others may be reading: then the log stays, and the next start finds it.
        self.copy_log("TRUNCATE")?;
        let set = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        set.map_err(|error| self.judge(&error)).map(drop)
    }
}
