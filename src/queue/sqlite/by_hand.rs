//! The queue without its threads, for the simulation: the real schema in memory, the real writer taken one step
//! at a time, and what readers ask asked on its connection. Nothing is played but the disk.
//!
//! The views' clock is moved by hand: `unixepoch()` in the schema reads the table `clock` here.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::mail::{Domain, Lifetimes};
use crate::queue::gauge_rows::DiskUse;
use crate::queue::op::{Incoming, Op, Outcomes};
use crate::queue::shared::Shared;
use crate::queue::writer::{Parts, Writer};
use crate::queue::{
    AcceptError, Asker, BackoffRow, Event, Kick, MessageId, NewMessage, QueueError, QueuedMessage, Reads,
    RecipientId, Settlement, Submitted, Suspension, Whose,
};

use super::admin::remove_one;
use super::readers::{Readers, Source};
use super::space::Space;
use super::store::SqliteStore;
use super::{message, migrate, open, suspensions};

/// What is on disk.
pub(crate) struct Disk(Connection);

impl Disk {
    pub(crate) fn new() -> Disk {
        let conn = Connection::open_in_memory().unwrap();
        conn.set_prepared_statement_cache_capacity(64);
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).unwrap();
        conn.execute_batch("PRAGMA temp_store = MEMORY; CREATE TABLE clock (now INTEGER NOT NULL); INSERT INTO clock VALUES (0)")
            .unwrap();
        // A default cannot look.
        let schema = migrate::SCHEMA.replace("DEFAULT (unixepoch())", "DEFAULT 0");
        conn.execute_batch(&schema.replace("unixepoch()", "(SELECT now FROM clock)")).unwrap();
        Disk(conn)
    }
}

/// The queue on that disk, from one start to the next.
pub(crate) struct ByHand<'d> {
    conn: &'d Connection,
    writer: Writer<'d>,
    ops: Sender<Op>,
    told: Receiver<Event>,
    shared: Arc<Shared>,
    now: i64,
}

/// A recipient that waits, as the tables have it.
#[derive(Debug)]
pub(crate) struct Waits {
    pub(crate) recipient: RecipientId,
    pub(crate) domain: Domain,
    pub(crate) held: bool,
    pub(crate) to_bounce: bool,
    pub(crate) next: i64,
    pub(crate) ends_at: i64,
    /// Its sender asked for a later release.
    pub(crate) released_later: bool,
    /// What it can be suspended by, beside its domain.
    pub(crate) submitted: Option<Submitted>,
}

/// What a person with `sqlite3` or `postrider queue` does to a recipient.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hand {
    Hold,
    Release,
    Try(i64),
    Bounce,
    Remove,
}

impl<'d> ByHand<'d> {
    /// A start.
    pub(crate) fn start(disk: &'d Disk, now: i64, lifetimes: Lifetimes) -> ByHand<'d> {
        let conn = &disk.0;
        let (ops, waiting) = unbounded();
        let (tell, told) = unbounded();
        let space = Arc::new(Space::new(Path::new("/nowhere"), Arc::new(AtomicU32::new(0)), 4096));
        let readers = Arc::new(Readers::new(Path::new("/nowhere"), space.clone()));
        let store = SqliteStore::new(conn, None, space, readers, Duration::MAX).unwrap();
        let shared = Arc::new(Shared::new(open::last_id(conn).unwrap()));
        let parts = Parts {
            shared: shared.clone(),
            ops: waiting,
            events: tell,
            call: Arc::default(),
            busy_patience: Duration::ZERO,
        };
        let writer = Writer::new(Box::new(store), parts);
        let mut queue = ByHand { conn, writer, ops, told, shared, now };
        queue.set_now(now);
        queue.show_lifetimes(lifetimes);
        queue
    }

    /// See [`Queue::show_config`]; the views' routes stay as they are.
    pub(crate) fn show_lifetimes(&self, lifetimes: Lifetimes) {
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('lifetime', ?1), ('bounce_lifetime', ?2)";
        self.conn.execute(sql, params![lifetimes.messages, lifetimes.bounces]).unwrap();
    }

    pub(crate) fn set_now(&mut self, now: i64) {
        self.now = now;
        self.conn.prepare_cached("UPDATE clock SET now = ?1").unwrap().execute([now]).unwrap();
    }

    /// Ids follow the clock that is moved by hand, so that a seed comes again.
    fn now_us(&self) -> i64 {
        self.now * 1_000_000
    }

    pub(crate) fn new_message_id(&self) -> MessageId {
        MessageId(self.shared.ids().take(1, self.now_us()))
    }

    /// See [`Queue::accept`]; its answer and its event come with the next commit. `cached`: its content stays in
    /// memory.
    pub(crate) fn accept(&self, message: NewMessage, cached: bool) -> Receiver<Result<(), AcceptError>> {
        let cache = Arc::new(AtomicUsize::new(if cached { usize::MAX } else { 0 }));
        let message = Box::new(Incoming::new(message, self.shared.ids(), self.now_us(), &cache));
        let (ack, answer) = bounded(1);
        self.ops.send(Op::Accept { message, ack }).unwrap();
        answer
    }

    /// See [`Queue::settle`].
    pub(crate) fn settle(&self, settlement: Settlement) {
        let outcomes = Outcomes::new(settlement, self.shared.ids(), self.now_us(), &self.shared.cache);
        self.ops.send(Op::Settle(Box::new(outcomes))).unwrap();
    }

    /// See [`Queue::kick`].
    pub(crate) fn kick(&self, kick: Kick) {
        let (ack, _) = bounded(1);
        let (asker, now) = (Asker::default(), self.now);
        let kickable = self.reads().kickable(&kick, &asker, now).unwrap();
        let op = Op::Kick { kick, asker, now, kickable, ack: Some(ack) };
        self.ops.send(op).unwrap();
    }

    /// See [`Queue::is_ahead_of`].
    pub(crate) fn is_ahead_of(&self, now: i64) -> bool {
        self.shared.ids().last() / 1_000_000 > now + crate::clock::STEP_SECS
    }

    /// See [`Queue::clock_was_set_back`].
    pub(crate) fn clock_was_set_back(&self, before: i64, now: i64, longest_secs: i64) {
        self.ops.send(Op::ClockSetBack { before, now, longest_secs }).unwrap();
    }

    /// See [`Queue::set_backoff`].
    pub(crate) fn set_backoff(&self, row: BackoffRow) {
        self.shared.backoff_changed(row.lane.clone(), Some(row));
        self.ops.send(Op::Backoffs).unwrap();
    }

    /// See [`Queue::clear_backoff`].
    pub(crate) fn clear_backoff(&self, lane: &str) {
        self.shared.backoff_changed(lane.to_owned(), None);
        self.ops.send(Op::Backoffs).unwrap();
    }

    /// The writer commits all that was asked of it, as one group; gives what it tells the scheduler.
    pub(crate) fn commit(&mut self) -> Vec<Event> {
        if !self.ops.is_empty() {
            self.writer.step().unwrap();
        }
        self.told.try_iter().collect()
    }

    /// See [`Queue::fetch`].
    pub(crate) fn fetch(&self, message: MessageId, recipients: &[RecipientId]) -> Option<QueuedMessage> {
        let fetched = message::fetch(self.conn, message, recipients).unwrap();
        assert!(fetched.spoilt.is_empty());
        fetched.message
    }

    /// Another process writes.
    pub(crate) fn hand(&self, recipient: RecipientId, hand: Hand) {
        let (id, now) = (recipient.0, self.now);
        let update = |sql: &str, value: i64| {
            let sql = format!("UPDATE recipients SET {sql} WHERE id = ?1 AND ?2 = ?2");
            self.conn.prepare_cached(&sql).unwrap().execute(params![id, value]).unwrap();
        };
        match hand {
            Hand::Hold => update("state = 'held', bounce_requested_at = NULL", now),
            Hand::Release => {
                update("state = 'queued', next_attempt_at = ?2, bounce_requested_at = NULL", now)
            }
            Hand::Try(at) => update("next_attempt_at = ?2", at),
            Hand::Bounce => update("bounce_requested_at = ?2", now),
            Hand::Remove => {
                let message = "SELECT message_id FROM recipients WHERE id = ?1";
                let message = self.conn.query_row(message, [id], |row| row.get(0)).optional().unwrap();
                message.inspect(|message| remove_one(self.conn, id, *message).unwrap());
            }
        }
    }

    /// Another process suspends this.
    pub(crate) fn suspend(&self, row: &Suspension) {
        suspensions::write(self.conn, row).unwrap();
    }

    /// Another process resumes this.
    pub(crate) fn resume(&self, whose: &Whose) {
        suspensions::delete(self.conn, Some(whose), self.now).unwrap();
    }

    /// Another process deletes the first row of `backoffs`.
    pub(crate) fn delete_a_lane(&self) -> Option<String> {
        let first = self.reads().backoffs().unwrap().into_iter().next()?.lane;
        self.conn.execute("DELETE FROM backoffs WHERE lane = ?1", [&first]).unwrap();
        Some(first)
    }

    /// All that waits, by id.
    pub(crate) fn waiting(&self) -> Vec<Waits> {
        let sql = "SELECT r.id, r.domain, r.state = 'held', r.bounce_requested_at IS NOT NULL, r.next_attempt_at, m.ends_at,
                          coalesce(m.release_at, 0) > (SELECT now FROM clock), m.user, m.tag
                   FROM recipients r JOIN message_ends m ON m.id = r.message_id ORDER BY r.id";
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Waits {
                recipient: RecipientId(row.get(0)?),
                domain: Domain::parse(row.get_ref(1)?.as_str()?).unwrap(),
                held: row.get(2)?,
                to_bounce: row.get(3)?,
                next: row.get(4)?,
                ends_at: row.get(5)?,
                released_later: row.get(6)?,
                submitted: Submitted::new(row.get(7)?, row.get(8)?),
            })
        };
        self.conn.prepare_cached(sql).unwrap().query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    /// What the view `stuck` shows, and what else must never be, in words.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let sql = "SELECT problem || ': ' || coalesce(recipient_id, '') || ' of ' || message_id FROM stuck
             UNION ALL
             SELECT 'content of no message: ' || message_id FROM content
             WHERE message_id NOT IN (SELECT id FROM messages)
             UNION ALL
             SELECT 'tried ' || attempts || ' times by its row, not by its attempts: ' || recipient_id FROM history h
             WHERE attempts <> (SELECT count(*) FROM attempts a WHERE a.recipient_id = h.recipient_id)
             UNION ALL
             SELECT 'tried ' || attempts || ' times by its row, not by its attempts: ' || id FROM recipients r
             WHERE attempts <> (SELECT count(*) FROM attempts a WHERE a.recipient_id = r.id)";
        let mut statement = self.conn.prepare_cached(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// How many recipients wait, and how many are in the history.
    pub(crate) fn counts(&self) -> (i64, i64) {
        let sql = "SELECT (SELECT count(*) FROM recipients), (SELECT count(*) FROM history)";
        let mut statement = self.conn.prepare_cached(sql).unwrap();
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    /// What readers ask, on the writer's connection.
    pub(crate) fn reads(&self) -> &dyn Reads {
        self.conn
    }
}

impl Source for Connection {
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, QueueError> {
        Ok(query(self)?)
    }

    fn has_room(&self, _bytes: u64) -> bool {
        true
    }

    fn look_for_damage(&self) -> Result<usize, QueueError> {
        Ok(0)
    }

    fn why_no_room(&self) -> Option<String> {
        None
    }

    fn disk_use(&self) -> Option<DiskUse> {
        None
    }

    fn lock_holder(&self) -> Option<String> {
        None
    }
}
