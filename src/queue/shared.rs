//! What the writer and its callers share in memory: the writer's state, ids, changed backoffs, counts.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::kit::histogram::Histogram;

use super::contract::{Backoffs, Marks};
use super::error::AcceptError;
use super::id::Ids;
use super::op::CACHE_BYTES;
use super::quotas::Quotas;
use super::rows::BackoffRow;

/// The state of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum WriterState {
    Good,
    Busy,
    Full,
    Dead,
}

/// From a commit without a disk to one that a person would notice, in microseconds.
const COMMIT_MICROS: &[u64] = &[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];
/// Up to `GROUP_OPS_MAX` of the writer.
const COMMIT_OPS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// How long commits took and how large they were, since the start.
#[derive(Debug)]
pub struct Commits {
    /// Microseconds, of those that succeeded.
    pub micros: Histogram,
    /// Operations of each.
    pub operations: Histogram,
}

impl Commits {
    /// One more.
    pub(super) fn add(&self, took: Duration, operations: usize) {
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.operations.add(operations as u64);
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) commits: Commits,
    ids: Ids,
    /// The bytes that are left of the cache's budget.
    pub(super) cache: Arc<AtomicUsize>,
    pub(super) quotas: Quotas,
    state: AtomicU8,
    writable: Mutex<bool>,
    writable_again: Condvar,
    backoffs: Mutex<Backoffs>,
    backoffs_changed: AtomicBool,
    refused_busy: AtomicU64,
    refused_full: AtomicU64,
    outside_changes: AtomicU64,
    /// The confirmed time, Unix seconds; [`i64::MIN`] while nobody has said it.
    time: AtomicI64,
}

/// A panic elsewhere leaves these values whole: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(last_id: i64) -> Shared {
        let commits =
            Commits { micros: Histogram::new(COMMIT_MICROS), operations: Histogram::new(COMMIT_OPS) };
        Shared {
            commits,
            ids: Ids::after(last_id),
            cache: Arc::new(AtomicUsize::new(CACHE_BYTES)),
            quotas: Quotas::default(),
            state: AtomicU8::new(WriterState::Good as u8),
            writable: Mutex::new(true),
            writable_again: Condvar::new(),
            backoffs: Mutex::default(),
            backoffs_changed: AtomicBool::new(false),
            refused_busy: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            outside_changes: AtomicU64::new(0),
            time: AtomicI64::new(i64::MIN),
        }
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    pub(super) fn take_ids(&self, count: usize) -> i64 {
        self.ids.take(count, now_us())
    }

    /// What the next commit leaves for the next start.
    pub(super) fn marks(&self) -> Marks {
        Marks { last_id: self.ids.last(), time: self.time() }
    }

    pub(super) fn set_time(&self, confirmed: i64) {
        self.time.store(confirmed, Ordering::Relaxed);
    }

    /// The confirmed time; none while nobody has said it.
    pub(super) fn time(&self) -> Option<i64> {
        Some(self.time.load(Ordering::Relaxed)).filter(|time| *time != i64::MIN)
    }

    pub(super) fn state(&self) -> WriterState {
        match self.state.load(Ordering::Acquire) {
            0 => WriterState::Good,
            1 => WriterState::Busy,
            2 => WriterState::Full,
            _ => WriterState::Dead,
        }
    }

    pub(super) fn set_state(&self, state: WriterState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// The error to answer at once, while the writer cannot write. It is counted.
    pub(super) fn refusal(&self) -> Result<(), AcceptError> {
        let error = match self.state() {
            WriterState::Good => return Ok(()),
            WriterState::Busy => AcceptError::Busy,
            WriterState::Full => AcceptError::Full,
            WriterState::Dead => AcceptError::Failed,
        };
        self.count_refused(error);
        Err(error)
    }

    pub(super) fn count_refused(&self, why: AcceptError) {
        match why {
            AcceptError::Busy => self.refused_busy.fetch_add(1, Ordering::Relaxed),
            AcceptError::Full => self.refused_full.fetch_add(1, Ordering::Relaxed),
            AcceptError::Failed => 0,
        };
    }

    /// How many operations were refused because the database was busy, and because the disk was full.
    pub(super) fn refused(&self) -> (u64, u64) {
        (self.refused_busy.load(Ordering::Relaxed), self.refused_full.load(Ordering::Relaxed))
    }

    pub(super) fn count_outside_change(&self) {
        self.outside_changes.fetch_add(1, Ordering::Release);
    }

    /// How often the writer found that another process had written.
    pub(super) fn outside_changes(&self) -> u64 {
        self.outside_changes.load(Ordering::Acquire)
    }

    pub(super) fn set_writable(&self, writable: bool) {
        *lock(&self.writable) = writable;
        self.writable_again.notify_all();
    }

    pub(super) fn writable(&self) -> bool {
        *lock(&self.writable)
    }

    pub(super) fn wait_writable(&self, timeout: Duration) -> bool {
        let writable = lock(&self.writable);
        let (writable, _) = self
            .writable_again
            .wait_timeout_while(writable, timeout, |writable| !*writable)
            .unwrap_or_else(PoisonError::into_inner);
        *writable
    }

    pub(super) fn backoff_changed(&self, lane: String, row: Option<BackoffRow>) {
        lock(&self.backoffs).insert(lane, row);
        self.backoffs_changed.store(true, Ordering::Release);
    }

    pub(super) fn backoffs_changed(&self) -> bool {
        self.backoffs_changed.load(Ordering::Acquire)
    }

    pub(super) fn take_backoffs(&self) -> Backoffs {
        if !self.backoffs_changed.swap(false, Ordering::AcqRel) {
            return Backoffs::new();
        }
        std::mem::take(&mut lock(&self.backoffs))
    }

    /// Puts back backoffs that could not be written. A row that has changed since is newer and stays.
    pub(super) fn keep_backoffs(&self, backoffs: Backoffs) {
        if backoffs.is_empty() {
            return;
        }
        let mut now = lock(&self.backoffs);
        for (lane, row) in backoffs {
            now.entry(lane).or_insert(row);
        }
        self.backoffs_changed.store(true, Ordering::Release);
    }
}

/// The time in microseconds since 1970; 0 if the clock is set before that.
pub(super) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_one_backoff_to_be_written_and_none_once_it_is() {
        let shared = Shared::new(0);
        let row = |lane: usize, failures: u32| BackoffRow {
            lane: format!("d{lane}.test"),
            failures,
            backoff_until: 0,
            last_reply: String::new(),
        };
        for failures in 1..100 {
            (0..10).for_each(|lane| {
                shared.backoff_changed(row(lane, failures).lane.clone(), Some(row(lane, failures)))
            });
        }
        let taken = shared.take_backoffs();
        assert_eq!(taken.len(), 10);
        // A commit that failed gives them back; what changed meanwhile stays as it is.
        shared.backoff_changed("d0.test".to_owned(), None);
        shared.keep_backoffs(taken);
        let again = shared.take_backoffs();
        assert_eq!((again.len(), again["d0.test"].is_none()), (10, true));
        assert!(shared.take_backoffs().is_empty() && lock(&shared.backoffs).is_empty());
    }
}
