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
use crate::mail::tlsrpt::report::Counted;
use crate::queue::contract::Reads;
use crate::queue::error::QueueError;
use crate::queue::gauge_rows::{AgeCounts, CountFrom, DiskUse, DomainCount, SmallCounts};
use crate::queue::quotas::BytesByUser;
use crate::queue::rows::{
    Asker, BackoffRow, Due, DueCursor, DueDomains, Expired, ExpiryCursor, Fetched, Kick, Kickable, LaneCount,
    Over, PendingReports, Place,
};
use crate::queue::{
    HostSetting, LoginRows, MessageId, RecipientId, StsPolicyRow, Suspension, Sweep, TlsReportDue,
};

use super::failure::{RECOVER, is_damage};
use super::integrity::Found;
use super::space::Space;
use super::{
    backoffs, counts, due, gauges, host_settings, integrity, kick, locks, logins, message, reports,
    sts_policies, suspensions, sweep, tls_reports, tls_results,
};

/// Where a connection to read with comes from.
pub(super) trait Source: Debug {
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> std::result::Result<T, QueueError>;

    fn has_room(&self, bytes: u64) -> bool;

    fn look_for_damage(&self) -> std::result::Result<usize, QueueError>;

    fn why_no_room(&self) -> Option<String>;

    fn disk_use(&self) -> Option<DiskUse>;

    fn lock_holder(&self) -> Option<String>;
}

type Answer<T> = std::result::Result<T, QueueError>;

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
    /// It was said that rows stand in it which its tables would refuse.
    odd_rows_told: AtomicBool,
    space: Arc<Space>,
}

impl Readers {
    pub(super) fn new(path: &Path, space: Arc<Space>) -> Readers {
        Readers {
            path: path.to_owned(),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            damage_told: AtomicBool::new(false),
            odd_rows_told: AtomicBool::new(false),
            space,
        }
    }

    /// One loud line, once.
    fn tell_damage(&self, what: &str) {
        if !self.damage_told.swap(true, Ordering::Relaxed) {
            log::error!("queue: THE DATABASE {} IS DAMAGED: {what}; {RECOVER}", self.path.display());
        }
    }

    /// Nothing is lost by it, and what cannot be read is held: once.
    fn tell_odd_rows(&self, what: &str) {
        if !self.odd_rows_told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "queue: {} has rows that its tables would refuse, written past their checks: {what}; \
                 `postrider sql -c 'PRAGMA integrity_check'` lists them",
                self.path.display()
            );
        }
    }

    /// No connection is kept any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Source for Readers {
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Answer<T> {
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

    fn look_for_damage(&self) -> Answer<usize> {
        let found = open_reader(&self.path).and_then(|mut conn| integrity::look(&mut conn));
        let found = match found {
            Err(error) if is_damage(&error) => Found { damage: vec![error.to_string()], ..Found::default() },
            found => found?,
        };
        found.damage.first().into_iter().for_each(|first| self.tell_damage(first));
        found.odd_rows.first().into_iter().for_each(|first| self.tell_odd_rows(first));
        Ok(found.damage.len())
    }

    fn why_no_room(&self) -> Option<String> {
        self.space.why_no_room()
    }

    fn disk_use(&self) -> Option<DiskUse> {
        self.space.disk_use()
    }

    fn lock_holder(&self) -> Option<String> {
        locks::writer(&self.path).strip_prefix(": ").map(str::to_owned)
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

    fn lock_holder(&self) -> Option<String> {
        Source::lock_holder(self)
    }

    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Answer<Vec<Due>> {
        self.read(|conn| due::due(conn, after, until, limit))
    }

    fn due_in_domain(
        &self,
        domain: &Domain,
        after: Option<Place>,
        until: i64,
        limit: usize,
    ) -> Answer<Vec<Due>> {
        self.read(|conn| due::due_in_domain(conn, domain, after, until, limit))
    }

    fn urgent(&self, after: Option<Place>, until: i64, limit: usize) -> Answer<Vec<Due>> {
        self.read(|conn| due::urgent(conn, after, until, limit))
    }

    fn due_domains(&self, after: &str, until: i64, max: usize) -> Answer<DueDomains> {
        self.read(|conn| due::due_domains(conn, after, until, max))
    }

    fn next_due_after(&self, time: i64) -> Answer<Option<i64>> {
        self.read(|conn| due::next_due_after(conn, time))
    }

    fn expired(&self, after: ExpiryCursor, over: &Over, limit: usize) -> Answer<Expired> {
        self.read(|conn| due::expired(conn, after, over, limit))
    }

    fn in_doubt(&self) -> Answer<Vec<(MessageId, Vec<RecipientId>)>> {
        self.read(message::in_doubt)
    }

    fn kickable(&self, kick: &Kick, asker: &Asker, now: i64) -> Answer<Kickable> {
        self.read(|conn| kick::kickable(conn, kick, asker, now))
    }

    fn message(&self, id: MessageId, recipients: &[RecipientId]) -> Answer<Fetched> {
        self.read(|conn| message::fetch(conn, id, recipients))
    }

    fn knows(&self, message: MessageId) -> Answer<bool> {
        self.read(|conn| message::is_known(conn, message))
    }

    fn size(&self, message: MessageId) -> Answer<Option<u64>> {
        self.read(|conn| message::size(conn, message))
    }

    fn chunk(&self, message: MessageId, seq: u32) -> Answer<Option<Vec<u8>>> {
        self.read(|conn| message::chunk(conn, message, seq))
    }

    fn backoffs(&self) -> Answer<Vec<BackoffRow>> {
        self.read(backoffs::read)
    }

    fn host_settings(&self) -> Answer<Vec<HostSetting>> {
        self.read(host_settings::read)
    }

    fn suspensions(&self, now: i64) -> Answer<Vec<Suspension>> {
        self.read(|conn| suspensions::read(conn, now))
    }

    fn sts_policy(&self, domain: &str) -> Answer<Option<StsPolicyRow>> {
        self.read(|conn| sts_policies::read(conn, domain))
    }

    fn sts_policies_due(&self, now: i64, used_since: i64, limit: usize) -> Answer<Vec<String>> {
        self.read(|conn| sts_policies::due(conn, now, used_since, limit))
    }

    fn logins(&self) -> Answer<LoginRows> {
        self.read(logins::read)
    }

    fn reports_since(&self, sender: &str, after: i64, limit: usize) -> Answer<Vec<i64>> {
        self.read(|conn| reports::since(conn, sender, after, limit))
    }

    fn pending_report_senders(&self, until: i64, future: i64, limit: usize) -> Answer<Vec<String>> {
        self.read(|conn| reports::senders(conn, until, future, limit))
    }

    fn pending_reports(&self, sender: &str, limit: usize) -> Answer<Option<PendingReports>> {
        self.read(|conn| reports::pending(conn, sender, limit))
    }

    fn tls_reports_due(&self, now: i64, limit: usize) -> Answer<Vec<TlsReportDue>> {
        self.read(|conn| tls_reports::due(conn, now, limit))
    }

    fn tls_results(&self, day: i64, domain: &str) -> Answer<Vec<Counted>> {
        self.read(|conn| tls_results::of_domain(conn, day, domain))
    }

    fn bytes_by_user(&self) -> Answer<BytesByUser> {
        self.read(counts::by_user)
    }

    fn domains(&self) -> Answer<Vec<Domain>> {
        self.read(counts::domains)
    }

    fn waiting_by_lane(&self, lane_of: &dyn Fn(&Domain) -> Arc<str>) -> Answer<Vec<LaneCount>> {
        self.read(|conn| counts::by_lane(conn, lane_of))
    }

    fn count_by_age(&self, from: CountFrom, now: i64) -> Answer<(AgeCounts, Option<CountFrom>)> {
        self.read(|conn| gauges::by_age(conn, from, now))
    }

    fn count_by_domain(&self, after: &str, now: i64, limit: usize) -> Answer<Vec<DomainCount>> {
        self.read(|conn| gauges::by_domain(conn, after, now, limit))
    }

    fn small_counts(&self, now: i64) -> Answer<SmallCounts> {
        self.read(|conn| gauges::small(conn, now))
    }

    fn disk_use(&self) -> Option<DiskUse> {
        Source::disk_use(self)
    }

    fn look_for_damage(&self) -> Answer<usize> {
        Source::look_for_damage(self)
    }

    fn stuck(&self, from: MessageId) -> Answer<(Sweep, Option<MessageId>)> {
        self.read(|conn| sweep::look(conn, from))
    }
}
