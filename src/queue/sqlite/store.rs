//! The store that writes: one transaction for a group, and the upkeep of the database.
//!
//! An error leaves the operations as they were, to be applied again.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Result, Statement};

use crate::queue::RecipientId;
use crate::queue::contract::{Backoffs, Effect, Marks, Store, StoreFailure};
use crate::queue::op::{Op, Outcomes};

use super::accept::Accept;
use super::checkpoints::{Checkpoints, passive};
use super::failure::{of_operation, of_transaction, of_upkeep};
use super::files::Files;
use super::purge::Purge;
use super::readers::Readers;
use super::settle::Settle;
use super::space::Space;
use super::{backoffs, host_settings, kick, reports, routes, sweep};

/// Pages of the write-ahead log at which they are copied into the database. A page that was written
/// again meanwhile is copied once, so a long log saves work: 64 MiB.
const CHECKPOINT_PAGES: u32 = 16_000;
/// The same while the disk is nearly full.
const CHECKPOINT_PAGES_TIGHT: u32 = 1_000;

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
    data_version: Statement<'c>,
    free_pages: Statement<'c>,
    space: Arc<Space>,
    /// Closed with the store: an open reader would keep the log from being emptied.
    readers: Arc<Readers>,
    seen_version: i64,
    saved: Marks,
    checkpoint_at: u32,
    purge: Purge,
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
            data_version,
            free_pages: conn.prepare("PRAGMA freelist_count")?,
            space,
            readers,
            seen_version,
            saved: Marks { last_id: 0, time: None },
            checkpoint_at: CHECKPOINT_PAGES,
            purge: Purge::new(history),
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
            effects.push(self.apply(op).map_err(|error| of_operation(at, &error))?);
        }
        self.finish(backoffs, marks).map_err(|error| of_transaction(&error))?;
        Ok(effects)
    }

    fn apply(&mut self, op: &Op) -> Result<Effect> {
        match op {
            Op::Chunk { message, seq, data, .. } => self.accept.chunk(*message, *seq, data)?,
            Op::Accept { message, .. } => self.accept.accept(message)?,
            Op::Discard(message) => self.accept.discard(*message)?,
            Op::Settle(outcomes) => return self.settle(outcomes).map(Effect::Settled),
            Op::IntendDot { recipients, at, .. } => self.settle.set_doubt(recipients, *at)?,
            Op::Kick { kick, asker, now, ack } => {
                let (kicked, more) = kick::kick(self.conn, kick, *now, ack.is_some())?;
                // Its further parts are the same kick.
                if ack.is_some() {
                    kick::record(self.conn, kick, asker, *now, kicked)?;
                }
                return Ok(Effect::Kicked { kicked, more });
            }
            Op::Hold { recipients, why } => {
                self.settle.hold(recipients, why)?;
                return Ok(Effect::Settled(recipients.iter().map(|recipient| (*recipient, None)).collect()));
            }
            Op::PendingReports { sender, up_to, report, .. } => {
                reports::delete_pending(self.conn, sender, *up_to)?;
                self.accept.accept(report)?;
            }
            Op::SetHostSetting(row) => host_settings::write(self.conn, row)?,
            Op::ClearHostSetting { mx, setting } => host_settings::delete(self.conn, mx, setting)?,
            Op::Config { routes, lifetimes } => routes::write(self.conn, routes, *lifetimes)?,
            Op::Repair { now } => sweep::repair(self.conn, *now)?,
            Op::Barrier { .. } | Op::Backoffs | Op::Stop => {}
        }
        Ok(Effect::Done)
    }

    fn settle(&mut self, outcomes: &Outcomes) -> Result<Vec<(RecipientId, Option<i64>)>> {
        let settled = self.settle.settle(outcomes)?;
        for report in &outcomes.reports {
            self.accept.accept(report)?;
            reports::record(self.conn, report, outcomes.at)?;
        }
        reports::gather(self.conn, outcomes)?;
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
    fn checkpoint_if_long(&mut self) -> Result<()> {
        let pages = self.space.log_pages();
        if pages < self.checkpoint_at {
            return Ok(());
        }
        let threshold = if self.space.is_tight() { CHECKPOINT_PAGES_TIGHT } else { CHECKPOINT_PAGES };
        let result = match self.disk {
            Some(OnDisk { files, checkpoints }) => checkpoints.run(self.conn, files),
            None => passive(self.conn),
        };
        // What a reader still looks at stays in the log; it is tried again when the log has grown by as much.
        let all = matches!(result, Ok((in_log, copied)) if in_log == copied);
        self.checkpoint_at = if all { threshold } else { pages.saturating_add(threshold) };
        if all {
            self.space.log_is_copied();
        }
        result.map(drop)
    }

    /// Nothing is acknowledged that only a removed or overwritten file has.
    fn files_are_there(&self) -> std::result::Result<(), StoreFailure> {
        let Some(OnDisk { files, checkpoints }) = self.disk else { return Ok(()) };
        let content = || if checkpoints.are_ours() { files.check_content() } else { Ok(()) };
        let checked = files.check(self.space.log_pages() > 0).and_then(|()| content());
        checked.map_err(|why| {
            StoreFailure::Fatal(format!(
                "{why}; stop whatever did that, put the database back together with its -wal file, then start again"
            ))
        })
    }

    fn look_round(&mut self) -> Result<bool> {
        let version = self.data_version.query_row([], |row| row.get(0))?;
        let free_pages: u32 = self.free_pages.query_row([], |row| row.get(0))?;
        self.space.set_free_pages(free_pages);
        if self.space.is_tight() {
            self.checkpoint_at = self.checkpoint_at.min(CHECKPOINT_PAGES_TIGHT);
        }
        Ok(std::mem::replace(&mut self.seen_version, version) != version)
    }
}

impl Store for SqliteStore<'_> {
    fn commit(
        &mut self,
        group: &[Op],
        backoffs: &Backoffs,
        marks: Marks,
    ) -> std::result::Result<Vec<Effect>, StoreFailure> {
        self.begin.execute([]).map_err(|error| of_transaction(&error))?;
        let written = self.write(group, backoffs, marks);
        if written.is_err() {
            self.roll_back();
        }
        self.files_are_there()?;
        written
    }

    fn tidy(&mut self) -> std::result::Result<(), StoreFailure> {
        self.checkpoint_if_long().map_err(of_upkeep)
    }

    fn changed_outside(&mut self) -> std::result::Result<bool, StoreFailure> {
        self.files_are_there()?;
        if let Some(OnDisk { files, checkpoints }) = self.disk {
            checkpoints.keep(files);
        }
        self.look_round().map_err(of_upkeep)
    }

    fn purge(&mut self, now: i64) -> std::result::Result<bool, StoreFailure> {
        self.purge.step(self.conn, now).map_err(|error| {
            self.roll_back();
            of_upkeep(error)
        })
    }

    fn close(&mut self) -> std::result::Result<(), StoreFailure> {
        self.files_are_there()?;
        self.readers.close();
        // Others may be reading: then the log stays, and the next start finds it.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(of_upkeep)?;
        self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(of_upkeep)?;
        Ok(())
    }
}
