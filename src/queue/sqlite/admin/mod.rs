//! The command line's connection: looks and changes as anybody with `sqlite3` makes them.

mod change;
mod find;
mod grouped;
mod kicks;
mod look;
mod overview;
mod reasons;
mod story;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::mail::tlsrpt::report::Counted;
use crate::mail::{Domain, Lifetimes};
use crate::queue::admin_rows::{
    Changed, ConfigInUse, DialogueLine, DiskRoom, FailureLine, Line, LoginFailureLine, OldestLine, Order,
    Selected, Shown, Summary,
};
use crate::queue::contract::AdminStore;
use crate::queue::error::QueueError;
use crate::queue::filter::{Action, Filter};
use crate::queue::gauge_rows::Fill;
use crate::queue::held::HeldCount;
use crate::queue::operator_rows::{Change, KickLine, OperatorLine};
use crate::queue::overview_rows::{
    DomainWaiting, FailureGroup, MinuteCount, PolicyCount, Refusal, TlsFailure,
};
use crate::queue::quotas::BytesByUser;
use crate::queue::rows::BackoffRow;
use crate::queue::shared::now_us;
use crate::queue::suspension::{Suspended, SuspensionLine};
use crate::queue::traffic_rows::{GroupBy, Traffic, Wanted};
use crate::queue::{HostSetting, MessageId, RecipientId, SUSPENSIONS_MAX, StsPolicyRow, Suspension, Whose};

use super::failure::{explain, is_full};
use super::files::{in_use_by, may_use, real, refuse_foreign_log};
use super::readers::open_reader;
use super::{
    backoffs, checkpoints, counts, dialogues, filter, host_settings, integrity, logins, migrate,
    operator_log, routes, space, sts_policies, suspensions, tls_results,
};

#[cfg(test)]
pub(super) use change::remove_one;

/// How long somebody else's transaction is waited for, and in which steps.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(2);

/// A connection of somebody beside the relay: to look, and to `write`. On a full disk the ballast is given up for who
/// wants to write and cannot; who looks leaves it alone.
///
/// # Errors
/// There is no queue here, or this user may not use it so.
pub(super) fn connect(path: &Path, write: bool) -> Result<Connection, QueueError> {
    // SQLite's own words for these would not help. It is not opened to find out: to close it again would take
    // SQLite's locks from a relay in the same process (the demo's), see `files`.
    may_use(path, write).map_err(|source| QueueError::File {
        path: path.to_owned(),
        remedy: match source.kind() {
            std::io::ErrorKind::NotFound => {
                "no queue here yet: start `postrider serve`, or name its --config"
            }
            _ => "run this as the user that owns the queue",
        },
        source,
    })?;
    refuse_foreign_log(path)?;
    let opened = match open(path, write) {
        Err(error) if write && is_full(&error) && space::give_up_ballast(path) => open(path, write),
        opened => opened,
    };
    opened.map_err(|error| explain(path, error))
}

fn open(path: &Path, write: bool) -> rusqlite::Result<Connection> {
    let mut conn = if write {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    } else {
        open_reader(path)
    }?;
    conn.busy_handler(Some(wait))?;
    // Foreign keys as the relay has them. The relay is the one that checkpoints; where none runs, SQLite does it when
    // this connection is closed.
    let pragmas = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA wal_autocheckpoint = 0";
    conn.execute_batch(if write { pragmas } else { "" })?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    if write {
        checkpoints::leave_them_to_litestream(&conn)?;
    }
    Ok(conn)
}

/// Somebody else's transaction is waited for in many short steps: a relay under load has the lock nearly always, and in
/// SQLite's own steps of a tenth of a second its pauses are missed.
fn wait(times: i32) -> bool {
    std::thread::sleep(STEP);
    STEP * times.unsigned_abs() < PATIENCE
}

/// A connection of an operator.
#[derive(Debug)]
pub(in crate::queue) struct Admin {
    conn: Connection,
    path: PathBuf,
}

impl Admin {
    /// To look, and to `write`.
    ///
    /// # Errors
    /// There is no queue here, or this user may not use it so.
    pub(in crate::queue) fn open(path: &Path, write: bool) -> Result<Admin, QueueError> {
        // What is beside it is where it is itself.
        let path = real(path);
        let admin = Admin { conn: connect(&path, write)?, path };
        migrate::must_be_current(&admin.conn, &admin.path)?;
        admin.try_to(filter::add_functions)?;
        Ok(admin)
    }

    fn try_to<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, QueueError> {
        act(&self.conn).map_err(|error| explain(&self.path, error))
    }

    /// Bytes of a page, how many pages there are, and how many of them are free.
    fn pages(&self) -> Result<(u32, (u32, u32)), QueueError> {
        let number = |pragma| self.try_to(|conn| conn.pragma_query_value(None, pragma, |row| row.get(0)));
        Ok((number("page_size")?, (number("page_count")?, number("freelist_count")?)))
    }
}

fn now_secs() -> i64 {
    now_us() / 1_000_000
}

impl AdminStore for Admin {
    fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<Line>, QueueError> {
        self.try_to(|conn| look::list(conn, filter, limit))
    }

    fn count(&self, filter: &Filter) -> Result<i64, QueueError> {
        self.try_to(|conn| look::count(conn, filter))
    }

    fn select(&self, action: Action, which: &Filter, limit: u32) -> Result<Selected, QueueError> {
        self.try_to(|conn| look::selected(conn, which, change::of(action), limit))
    }

    fn find(&self, wanted: &Wanted, limit: u32) -> Result<(Vec<Line>, i64), QueueError> {
        self.try_to(|conn| find::find(conn, wanted, limit))
    }

    fn traffic(&self, since: i64, by: Option<GroupBy>, limit: u32) -> Result<Traffic, QueueError> {
        self.try_to(|conn| traffic::traffic(conn, since, by, limit))
    }

    fn failures(&self, filter: &Filter) -> Result<Vec<FailureLine>, QueueError> {
        self.try_to(|conn| grouped::failures(conn, filter))
    }

    fn oldest(&self, filter: &Filter, by_lane: bool, limit: u32) -> Result<Vec<OldestLine>, QueueError> {
        self.try_to(|conn| grouped::oldest(conn, filter, by_lane, limit))
    }

    fn show(&self, id: MessageId) -> Result<Option<Shown>, QueueError> {
        self.try_to(|conn| look::show(conn, id))
    }

    fn dialogues(&self, id: MessageId) -> Result<Vec<DialogueLine>, QueueError> {
        self.try_to(|conn| dialogues::of_message(conn, id))
    }

    fn summary_of(&self, filter: &Filter, limit: u32) -> Result<Summary, QueueError> {
        let new_mail_refused = match self.disk_room()? {
            DiskRoom::Enough => None,
            DiskRoom::NoBallast(why) | DiskRoom::Full(why) => Some(why),
        };
        let fill = self.fill()?;
        self.try_to(|conn| Ok(Summary { new_mail_refused, fill, ..look::summary(conn, filter, limit)? }))
    }

    fn waiting_by_domain(&self) -> Result<Vec<DomainWaiting>, QueueError> {
        self.try_to(overview::by_domain)
    }

    fn messages(&self) -> Result<u64, QueueError> {
        self.try_to(overview::messages)
    }

    fn by_minute(&self, from: i64) -> Result<Vec<MinuteCount>, QueueError> {
        self.try_to(|conn| overview::by_minute(conn, from))
    }

    fn failure_groups(&self, since: i64, limit: u32) -> Result<Vec<FailureGroup>, QueueError> {
        self.try_to(|conn| overview::failures(conn, since, limit))
    }

    fn refusals(&self, limit: u32) -> Result<Vec<Refusal>, QueueError> {
        self.try_to(|conn| overview::refusals(conn, limit))
    }

    fn in_use_by(&self) -> Option<u32> {
        in_use_by(&self.path)
    }

    fn tls_policies(&self, now: i64) -> Result<Vec<PolicyCount>, QueueError> {
        self.try_to(|conn| overview::policies(conn, now))
    }

    fn tls_failures(&self, now: i64, limit: u32) -> Result<Vec<TlsFailure>, QueueError> {
        self.try_to(|conn| overview::tls_failures(conn, now, limit))
    }

    fn bytes_by_user(&self) -> Result<BytesByUser, QueueError> {
        self.try_to(counts::by_user)
    }

    fn tls_results(&self, day: i64, domain: &str) -> Result<Vec<Counted>, QueueError> {
        self.try_to(|conn| tls_results::of_domain(conn, day, domain))
    }

    fn kicks(&self, limit: u32) -> Result<(Vec<KickLine>, i64), QueueError> {
        self.try_to(|conn| kicks::read(conn, limit))
    }

    fn backoffs(&self) -> Result<Vec<BackoffRow>, QueueError> {
        self.try_to(backoffs::read)
    }

    fn host_settings(&self) -> Result<Vec<HostSetting>, QueueError> {
        self.try_to(host_settings::read)
    }

    fn sts_policy(&self, domain: &str) -> Result<Option<StsPolicyRow>, QueueError> {
        self.try_to(|conn| sts_policies::read(conn, domain))
    }

    fn login_failures(&self) -> Result<Vec<LoginFailureLine>, QueueError> {
        self.try_to(logins::list)
    }

    fn lift(&self, of: Option<&[String]>) -> Result<usize, QueueError> {
        self.part(&mut 1, |conn, _| logins::lift(conn, of))
    }

    fn config_in_use(&self) -> Result<Option<ConfigInUse>, QueueError> {
        self.try_to(routes::read)
    }

    fn over_at(&self, now: i64, lifetimes: Lifetimes) -> Result<i64, QueueError> {
        self.try_to(|conn| routes::over_at(conn, now, lifetimes))
    }

    fn disk_room(&self) -> Result<DiskRoom, QueueError> {
        let (page_bytes, pages) = self.pages()?;
        let noted = "SELECT datetime(value, 'unixepoch') FROM meta WHERE key = 'mail_refused_since'";
        let since = self.try_to(|conn| conn.query_row(noted, [], |row| row.get(0)).optional())?;
        Ok(space::seen_from_outside(&self.path, page_bytes, pages, since))
    }

    fn fill(&self) -> Result<Option<Fill>, QueueError> {
        let (page_bytes, pages) = self.pages()?;
        Ok(space::fill(&self.path, page_bytes, pages))
    }

    /// What `PRAGMA quick_check` finds.
    fn damage(&self) -> Result<Vec<String>, QueueError> {
        self.try_to(integrity::quick)
    }

    fn change(&self, order: &Order<'_>, goes_on: &dyn Fn() -> bool) -> Changed {
        self.change_in_parts(order, goes_on)
    }

    fn suspend(&self, what: &Suspension) -> Result<Suspended, QueueError> {
        let now = now_secs();
        let is_new = |conn: &Connection| {
            let known = suspensions::read(conn, now)?;
            Ok(known.len() >= SUSPENSIONS_MAX && known.iter().all(|row| row.whose != what.whose))
        };
        if self.try_to(is_new)? {
            return Err(QueueError::TooManySuspensions);
        }
        let replaced = self.part(&mut 1, |conn, _| {
            let part = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            let replaced = suspensions::write(&part, what)?;
            part.commit().map(|()| replaced)
        })?;
        let behind = self.try_to(|conn| suspensions::behind(conn, std::slice::from_ref(what)))?;
        let behind = behind.get(&what.whose).copied().unwrap_or_default();
        Ok(Suspended { replaced, recipients: behind.recipients, expires_at: behind.first_end })
    }

    fn resume(&self, what: Option<&Whose>) -> Result<usize, QueueError> {
        self.part(&mut 1, |conn, _| {
            let part = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            let resumed = suspensions::delete(&part, what, now_secs())?;
            part.commit().map(|()| resumed)
        })
    }

    fn suspensions(&self) -> Result<Vec<SuspensionLine>, QueueError> {
        self.try_to(|conn| suspensions::list(conn, now_secs()))
    }

    fn suspended_now(&self) -> Result<Vec<Suspension>, QueueError> {
        self.try_to(|conn| suspensions::read(conn, now_secs()))
    }

    fn knows_user(&self, name: &str) -> Result<bool, QueueError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM messages WHERE user = ?1) OR EXISTS (SELECT 1 FROM history WHERE user = ?1)";
        self.try_to(|conn| conn.query_row(sql, [name], |row| row.get(0)))
    }

    fn suspended_of(&self, these: &[(MessageId, RecipientId)]) -> Result<i64, QueueError> {
        self.try_to(|conn| match suspensions::count(conn, now_secs())? {
            0 => Ok(0),
            _ => look::count_suspended(conn, these),
        })
    }

    fn operator_log(&self, since: i64, limit: u32) -> Result<(Vec<OperatorLine>, i64), QueueError> {
        self.try_to(|conn| operator_log::list(conn, since, limit))
    }

    fn held(&self, domain: Option<&Domain>) -> Result<Vec<HeldCount>, QueueError> {
        self.try_to(|conn| look::held_of(conn, domain.map(Domain::as_str)))
    }

    fn record(&self, change: &Change) -> Result<(), QueueError> {
        self.part(&mut 1, |conn, _| operator_log::record(conn, change))
    }
}
