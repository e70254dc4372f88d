//! What outlives the process of failed logins, and what people see of them: rows of the tables `login_failures` and
//! `known_logins`.
//!
//! Counting happens in memory (`login_failures.rs`) and never waits for the disk. A thread of its own comes by
//! ([`Lockouts::step`]): it heeds rows that somebody deleted, and writes what has changed, once a second at most and
//! [`ROWS_AT_ONCE`] rows at most, however many logins fail. A client that is refused is not counted on, so each of them
//! is written twice: when it is locked, and when that is over. An idle relay writes nothing.
//!
//! Times are durations in memory and Unix seconds on the disk. A clock that steps moves what is on the disk; what is
//! read at a start lasts for as long as a failure counts at most.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::{KnownLoginRow, LoginChanges, LoginFailureRow, LoginRows};

use crate::submission::ports::MessageQueue;

use super::login_failures::{FAILURES_LAST, Lockout, LoginFailures, Whom};
use super::networks::Place;

/// Rows of each table that are written in one go.
const ROWS_AT_ONCE: usize = 500;
/// How often they are written, at most.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// Times that differ by no more are the same: of rounding.
const ROUNDING_SECS: i64 = 3;

/// `network` and `name`.
type Key = (String, String);

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Now {
    pub(in crate::submission) unix: i64,
    pub(in crate::submission) instant: Instant,
}

/// What is on the disk, as far as the relay wrote it.
#[derive(Default)]
pub(in crate::submission) struct Lockouts {
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    failures: BTreeMap<Key, LoginFailureRow>,
    known: BTreeMap<Key, KnownLoginRow>,
    /// The [`LoginFailures::changes`] that it has all of.
    changes: u64,
    /// The queue's count of changes by others at which it was compared.
    outside: u64,
    at: Option<Instant>,
}

/// A row of either table.
trait Row: Clone {
    fn key(&self) -> Key;
    /// Whether it need not be written anew for `other`.
    fn says(&self, other: &Self) -> bool;
}

impl Row for LoginFailureRow {
    fn key(&self) -> Key {
        (self.network.clone(), self.name.clone())
    }

    fn says(&self, other: &LoginFailureRow) -> bool {
        self.failures == other.failures && self.until.abs_diff(other.until) <= ROUNDING_SECS as u64
    }
}

impl Row for KnownLoginRow {
    fn key(&self) -> Key {
        (self.network.clone(), self.name.clone())
    }

    fn says(&self, other: &KnownLoginRow) -> bool {
        self.last_at.abs_diff(other.last_at) <= ROUNDING_SECS as u64
    }
}

impl Lockouts {
    /// Takes over what the last process left.
    pub(in crate::submission) fn restore(
        &self,
        failures: &LoginFailures,
        queue: &dyn MessageQueue,
        now: Now,
    ) {
        let mut written = self.lock();
        written.outside = queue.outside_changes();
        let LoginRows { failures: locked, known } = match queue.logins() {
            Ok(rows) => rows,
            Err(error) => return log::warn!("login failures of before the start cannot be read: {error}"),
        };
        for row in &known {
            if let Ok(place) = row.network.parse() {
                failures.restore_known(
                    place,
                    &row.name,
                    secs(now.unix.saturating_sub(row.last_at)),
                    now.instant,
                );
            }
        }
        for row in &locked {
            let left = secs(row.until.saturating_sub(now.unix)).min(FAILURES_LAST);
            if let Some(whom) = whom(&row.network, &row.name).filter(|_| !left.is_zero()) {
                let lockout = Lockout { whom, failures: row.failures, age: Duration::ZERO, left };
                failures.restore(&lockout, now.instant);
            }
        }
        written.failures = keyed(locked);
        written.known = keyed(known);
    }

    /// Heeds what somebody deleted, and writes what has changed where it is time.
    pub(in crate::submission) fn step(
        &self,
        failures: &LoginFailures,
        queue: &dyn MessageQueue,
        limit: usize,
        now: Now,
    ) {
        let mut written = self.lock();
        if written.heed(failures, queue, now.instant)
            && written.at.is_none_or(|at| now.instant.saturating_duration_since(at) >= WRITTEN_EVERY)
        {
            written.write(failures, queue, limit, now);
        }
    }

    /// Writes what has changed: the process ends.
    pub(in crate::submission) fn finish(
        &self,
        failures: &LoginFailures,
        queue: &dyn MessageQueue,
        limit: usize,
        now: Now,
    ) {
        let mut written = self.lock();
        // What is too much for one go: a part of it, rather than a long stop.
        if written.heed(failures, queue, now.instant) {
            written.write(failures, queue, limit, now);
        }
    }

    /// A panic elsewhere leaves what was compared before.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// Rows that were written and are gone were deleted by somebody. False: that cannot be told now.
    fn heed(&mut self, failures: &LoginFailures, queue: &dyn MessageQueue, now: Instant) -> bool {
        let outside = queue.outside_changes();
        if outside == self.outside {
            return true;
        }
        let Ok(LoginRows { failures: locked, known }) = queue.logins() else { return false };
        let lifted = take_missing(&mut self.failures, &keyed(locked));
        for (network, name) in &lifted {
            if let Some(whom) = whom(network, name) {
                failures.lift(&whom, now);
            }
        }
        for (network, name) in take_missing(&mut self.known, &keyed(known)) {
            if let Ok(place) = network.parse() {
                failures.forget(place, &name, now);
            }
        }
        if !lifted.is_empty() {
            log::info!("login failures lifted: {} networks and names", lifted.len());
        }
        self.outside = outside;
        true
    }

    fn write(&mut self, failures: &LoginFailures, queue: &dyn MessageQueue, limit: usize, now: Now) {
        if failures.changes() == self.changes && self.failures.is_empty() {
            return;
        }
        self.at = Some(now.instant);
        let snapshot = failures.snapshot(limit, now.instant);
        let locked = snapshot.lockouts.into_iter().map(|lockout| row(lockout, now.unix)).collect();
        let known = snapshot.known.into_iter().map(|(place, name, age)| KnownLoginRow {
            network: place.to_string(),
            name: name.into(),
            last_at: now.unix.saturating_sub_unsigned(age.as_secs()),
        });
        let locked = Difference::between(&self.failures, keyed(locked));
        let known = Difference::between(&self.known, keyed(known.collect()));
        let changes = LoginChanges {
            new: LoginRows { failures: locked.new.clone(), known: known.new.clone() },
            changed: LoginRows { failures: locked.changed.clone(), known: known.changed.clone() },
            failures_over: locked.over.clone(),
            known_over: known.over.clone(),
        };
        // What cannot be written now is tried again in a second.
        if changes == LoginChanges::default() || queue.note_logins(changes).is_ok() {
            if locked.is_all && known.is_all {
                self.changes = snapshot.changes;
            }
            locked.apply_to(&mut self.failures);
            known.apply_to(&mut self.known);
        }
    }
}

/// How to come from what is on the disk to what is in memory.
struct Difference<R> {
    new: Vec<R>,
    over: Vec<Key>,
    changed: Vec<R>,
    /// There is no more to it.
    is_all: bool,
}

impl<R: Row> Difference<R> {
    fn between(written: &BTreeMap<Key, R>, now: BTreeMap<Key, R>) -> Difference<R> {
        let over = written.keys().filter(|key| !now.contains_key(*key)).cloned();
        let mut over: Vec<Key> = over.take(ROWS_AT_ONCE + 1).collect();
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for (key, row) in now {
            match written.get(&key) {
                None => new.push(row),
                Some(old) if !old.says(&row) => changed.push(row),
                Some(_) => {}
            }
        }
        let total = new.len() + over.len() + changed.len();
        new.truncate(ROWS_AT_ONCE);
        over.truncate(ROWS_AT_ONCE - new.len());
        changed.truncate(ROWS_AT_ONCE - new.len() - over.len());
        Difference { new, over, changed, is_all: total <= ROWS_AT_ONCE }
    }

    fn apply_to(self, written: &mut BTreeMap<Key, R>) {
        self.over.iter().for_each(|key| drop(written.remove(key)));
        written.extend(self.new.into_iter().chain(self.changed).map(|row| (row.key(), row)));
    }
}

fn keyed<R: Row>(rows: Vec<R>) -> BTreeMap<Key, R> {
    rows.into_iter().map(|row| (row.key(), row)).collect()
}

fn take_missing<R>(written: &mut BTreeMap<Key, R>, there: &BTreeMap<Key, R>) -> Vec<Key> {
    let missing: Vec<Key> = written.keys().filter(|key| !there.contains_key(*key)).cloned().collect();
    missing.iter().for_each(|key| drop(written.remove(key)));
    missing
}

fn row(lockout: Lockout, now: i64) -> LoginFailureRow {
    let Lockout { whom, failures, age, left } = lockout;
    let (network, name) = match whom {
        Whom::Place(place) => (place.to_string(), String::new()),
        Whom::Name(name) => (String::new(), name.into()),
        Whom::Login(place, name) => (place.to_string(), name.into()),
    };
    let since = now.saturating_sub_unsigned(age.as_secs());
    LoginFailureRow { network, name, failures, since, until: now.saturating_add_unsigned(left.as_secs()) }
}

fn whom(network: &str, name: &str) -> Option<Whom> {
    let place = || network.parse::<Place>().ok();
    match (network, name) {
        ("", "") => None,
        ("", name) => Some(Whom::Name(name.into())),
        (_, "") => place().map(Whom::Place),
        (_, name) => place().map(|place| Whom::Login(place, name.into())),
    }
}

/// None, where it is negative.
fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::limits::login_failures::{Begin, Login};
    use crate::submission::tests::doubles::MemoryQueue;
    use std::net::IpAddr;
    use std::sync::atomic::Ordering;

    const LIMIT: usize = 5;

    struct Site {
        queue: MemoryQueue,
        failures: LoginFailures,
        lockouts: Lockouts,
        start: Instant,
    }

    impl Site {
        fn new() -> Site {
            Site {
                queue: MemoryQueue::default(),
                failures: LoginFailures::new().unwrap(),
                lockouts: Lockouts::default(),
                start: Instant::now(),
            }
        }

        /// The next process, when the system's clock says so.
        fn restarted(self, unix: i64) -> Site {
            let Site { queue, .. } = self;
            let next = Site { queue, ..Site::new() };
            next.lockouts.restore(&next.failures, &next.queue, Now { unix, instant: next.start });
            next
        }

        fn step(&self, millis: u64) {
            let unix = 1_000_000 + millis as i64 / 1000;
            let now = Now { unix, instant: self.start + Duration::from_millis(millis) };
            self.lockouts.step(&self.failures, &self.queue, LIMIT, now);
        }

        fn guess(&self, client: [u8; 4], name: &str, secret: &str) -> bool {
            let login = Login { client: IpAddr::from(client), name, secret: Some(secret.as_bytes()) };
            match self.failures.begin(login, LIMIT) {
                Begin::Check(permit, _) => permit.failed(Some(name)),
                _ => return false,
            }
            true
        }

        fn lock(&self, client: [u8; 4], name: &str, secret: &str) {
            (0..LIMIT).for_each(|n| assert!(self.guess(client, name, &format!("{secret} {n}"))));
        }

        fn is_locked(&self, client: [u8; 4]) -> bool {
            self.failures.is_too_many(IpAddr::from(client), "anybody", LIMIT)
        }

        fn rows(&self) -> Vec<String> {
            let rows = self.queue.logins.lock().unwrap();
            let shown = |row: &LoginFailureRow| format!("{}|{}|{}", row.network, row.name, row.failures);
            rows.failures.iter().map(shown).collect()
        }

        fn delete(&self, network: &str, name: &str) {
            let mut rows = self.queue.logins.lock().unwrap();
            rows.failures.retain(|row| (&*row.network, &*row.name) != (network, name));
            rows.known.retain(|row| (&*row.network, &*row.name) != (network, name));
            self.queue.outside.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_flood_is_written_once_a_second_and_a_part_at_a_time() {
        let site = Site::new();
        for n in 0..1_200u32 {
            let [_, a, b, c] = (n << 8).to_be_bytes();
            site.lock([10 + c, a, b, 1], &format!("user {n}"), "a");
        }
        for millis in (0..1_000).step_by(50) {
            site.step(millis);
        }
        let rows = |site: &Site| (site.rows().len(), site.queue.login_writes.load(Ordering::SeqCst));
        assert_eq!(rows(&site), (ROWS_AT_ONCE, 1));
        (1..10).for_each(|secs| site.step(secs * 1_000));
        assert_eq!(rows(&site), (1_200, 3));
        // Ten thousand more guesses at one name, from everywhere: a row once a second.
        for n in 0..10_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            site.guess([20 + c % 100, a, b, 2], "app", &n.to_string());
        }
        (10_000..11_000).step_by(50).for_each(|millis| site.step(millis));
        assert_eq!(site.queue.login_writes.load(Ordering::SeqCst), 4);
        // And all of them go when they are over.
        (0..20).for_each(|n| site.step(800_000 + n * 1_000));
        assert_eq!(site.rows(), [] as [&str; 0]);
        let writes = site.queue.login_writes.load(Ordering::SeqCst);
        (0..100).for_each(|n| site.step(900_000 + n * 1_000));
        assert_eq!(site.queue.login_writes.load(Ordering::SeqCst), writes, "an idle relay writes nothing");
    }

    #[test]
    fn a_row_that_somebody_deletes_is_lifted_and_nothing_else_is() {
        let site = Site::new();
        site.lock([192, 0, 2, 1], "app", "a");
        site.lock([192, 0, 2, 2], "app", "a");
        // Not written is not deleted.
        site.queue.failing.store(true, Ordering::SeqCst);
        site.step(0);
        site.queue.outside.fetch_add(1, Ordering::SeqCst);
        site.step(1_000);
        assert!(site.is_locked([192, 0, 2, 1]) && site.rows().is_empty());
        site.queue.failing.store(false, Ordering::SeqCst);
        site.step(2_000);
        assert_eq!(site.rows(), ["|app|10", "192.0.2.1||5", "192.0.2.2||5"]);
        site.delete("192.0.2.1", "");
        site.step(2_100);
        assert!(!site.is_locked([192, 0, 2, 1]) && site.is_locked([192, 0, 2, 2]));
        // Once more: it is written again.
        site.lock([192, 0, 2, 1], "app", "b");
        site.step(3_100);
        assert!(site.is_locked([192, 0, 2, 1]));
        assert_eq!(site.rows(), ["|app|15", "192.0.2.2||5", "192.0.2.1||5"]);
    }

    #[test]
    fn a_restart_lifts_nothing_and_a_clock_that_steps_locks_nobody_for_long() {
        for (unix, is_locked) in [(1_000_100, true), (1_000_000 - 86_400, true), (1_000_000 + 86_400, false)]
        {
            let site = Site::new();
            site.failures.succeeded([192, 0, 2, 1].into(), "ann", 0);
            site.lock([192, 0, 2, 1], "app", "a");
            site.step(0);
            let site = site.restarted(unix);
            assert_eq!(site.is_locked([192, 0, 2, 1]), is_locked, "{unix}");
            assert!(!site.failures.is_too_many([192, 0, 2, 1].into(), "ann", LIMIT), "known as before");
            let whole = site.start + FAILURES_LAST;
            let snapshot = site.failures.snapshot(LIMIT, whole);
            assert!(snapshot.lockouts.is_empty(), "{unix}: {:?}", snapshot.lockouts);
            // What is over goes from the table, and what is forgotten from memory.
            site.step(700_000);
            assert!(site.rows().is_empty());
            site.delete("192.0.2.1", "ann");
            site.step(700_100);
            assert!(!site.failures.is_known([192, 0, 2, 1].into(), "ann"));
        }
    }
}
