//! Connections that read, and what is asked through them.
//!
//! Every read is one short statement on a connection of its own: none holds a snapshot while a network
//! is waited for, which would keep the write-ahead log growing.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Result};

use crate::mail::Domain;
use crate::queue::contract::Reads;
use crate::queue::error::QueueError;
use crate::queue::quotas::BytesByUser;
use crate::queue::rows::{
    BackoffRow, Due, DueCursor, DueDomains, Expired, ExpiryCursor, Fetched, LaneCount, Over, PendingReports,
};
use crate::queue::{HostSetting, MessageId, RecipientId, Sweep};

use super::failure::{RECOVER, is_damage};
use super::space::Space;
use super::{backoffs, counts, due, host_settings, integrity, message, reports, sweep};

/// Where a connection to read with comes from.
pub(super) trait Source: Debug {
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> std::result::Result<T, QueueError>;

    fn has_room(&self, bytes: u64) -> bool;

    fn look_for_damage(&self) -> std::result::Result<usize, QueueError>;

    fn why_no_room(&self) -> Option<String>;
}

type Found<T> = std::result::Result<T, QueueError>;

/// Connections kept open; more are opened while more read at once.
const KEPT_MAX: usize = 16;

/// Reading connections that nobody uses just now.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    closed: AtomicBool,
    /// It was said that the database is damaged.
    damage_told: AtomicBool,
    space: Arc<Space>,
}

impl Readers {
    pub(super) fn new(path: &Path, space: Arc<Space>) -> Readers {
        Readers {
            path: path.to_owned(),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            damage_told: AtomicBool::new(false),
            space,
        }
    }

    /// One loud line, once.
    fn tell_damage(&self, what: &str) {
        if !self.damage_told.swap(true, Ordering::Relaxed) {
            log::error!("queue: THE DATABASE {} IS DAMAGED: {what}; {RECOVER}", self.path.display());
        }
    }

    /// No connection is kept any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Source for Readers {
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Found<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = idle.map_or_else(|| open_reader(&self.path), Ok);
        let (conn, found) = match conn.and_then(|conn| query(&conn).map(|found| (conn, found))) {
            Ok(read) => read,
            Err(error) => {
                if is_damage(&error) {
                    self.tell_damage(&error.to_string());
                }
                return Err(error.into());
            }
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_MAX && !self.closed.load(Ordering::Relaxed) {
            idle.push(conn);
        }
        Ok(found)
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.space.has_room(bytes)
    }

    fn look_for_damage(&self) -> Found<usize> {
        let found = open_reader(&self.path).and_then(|mut conn| integrity::look(&mut conn));
        let problems = match found {
            Err(error) if is_damage(&error) => vec![error.to_string()],
            found => found?,
        };
        problems.first().into_iter().for_each(|first| self.tell_damage(first));
        Ok(problems.len())
    }

    fn why_no_room(&self) -> Option<String> {
        self.space.why_no_room()
    }
}

pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(Duration::from_secs(5))?;
    // Otherwise a statement is planned anew whenever another value is bound that a partial index might hang on.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // What the writer commits makes a reader's cache worthless: a small one does.
    conn.execute_batch("PRAGMA cache_size = -512; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF;")?;
    Ok(conn)
}

impl<S: Source> Reads for S {
    fn has_room(&self, bytes: u64) -> bool {
        Source::has_room(self, bytes)
    }

    fn why_no_room(&self) -> Option<String> {
        Source::why_no_room(self)
    }

    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Found<Vec<Due>> {
        self.read(|conn| due::due(conn, after, until, limit))
    }

    fn due_in_domain(&self, domain: &Domain, until: i64, limit: usize) -> Found<Vec<Due>> {
        self.read(|conn| due::due_in_domain(conn, domain, until, limit))
    }

    fn urgent(&self, until: i64, limit: usize) -> Found<Vec<Due>> {
        self.read(|conn| due::urgent(conn, until, limit))
    }

    fn due_domains(&self, after: &str, until: i64, max: usize) -> Found<DueDomains> {
        self.read(|conn| due::due_domains(conn, after, until, max))
    }

    fn next_due_after(&self, time: i64) -> Found<Option<i64>> {
        self.read(|conn| due::next_due_after(conn, time))
    }

    fn expired(&self, after: ExpiryCursor, over: &Over, limit: usize) -> Found<Expired> {
        self.read(|conn| due::expired(conn, after, over, limit))
    }

    fn in_doubt(&self) -> Found<Vec<(MessageId, Vec<RecipientId>)>> {
        self.read(message::in_doubt)
    }

    fn message(&self, id: MessageId, recipients: &[RecipientId]) -> Found<Fetched> {
        self.read(|conn| message::fetch(conn, id, recipients))
    }

    fn size(&self, message: MessageId) -> Found<Option<u64>> {
        self.read(|conn| message::size(conn, message))
    }

    fn chunk(&self, message: MessageId, seq: u32) -> Found<Option<Vec<u8>>> {
        self.read(|conn| message::chunk(conn, message, seq))
    }

    fn backoffs(&self) -> Found<Vec<BackoffRow>> {
        self.read(backoffs::read)
    }

    fn host_settings(&self) -> Found<Vec<HostSetting>> {
        self.read(host_settings::read)
    }

    fn reports_since(&self, sender: &str, after: i64, limit: usize) -> Found<Vec<i64>> {
        self.read(|conn| reports::since(conn, sender, after, limit))
    }

    fn pending_report_senders(&self, until: i64, future: i64, limit: usize) -> Found<Vec<String>> {
        self.read(|conn| reports::senders(conn, until, future, limit))
    }

    fn pending_reports(&self, sender: &str, limit: usize) -> Found<Option<PendingReports>> {
        self.read(|conn| reports::pending(conn, sender, limit))
    }

    fn bytes_by_user(&self) -> Found<BytesByUser> {
        self.read(counts::by_user)
    }

    fn domains(&self) -> Found<Vec<Domain>> {
        self.read(counts::domains)
    }

    fn waiting_by_lane(&self, lane_of: &dyn Fn(&Domain) -> Arc<str>) -> Found<Vec<LaneCount>> {
        self.read(|conn| counts::by_lane(conn, lane_of))
    }

    fn look_for_damage(&self) -> Found<usize> {
        Source::look_for_damage(self)
    }

    fn stuck(&self, from: MessageId) -> Found<(Sweep, Option<MessageId>)> {
        self.read(|conn| sweep::look(conn, from))
    }
}
