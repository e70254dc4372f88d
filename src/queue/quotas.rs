//! How many bytes of each user's mail are in the queue, for those who have a quota (`user add --quota`).
//!
//! The database is the truth, and memory has a sum that is not below it. Whoever asks first counts: one look at the
//! rows of `messages`, on a connection that reads. From then on what is accepted is added and what leaves the queue is
//! taken off. What this process does not see (somebody removes mail with `postrider queue` or SQL) or cannot tell
//! (what is written at the very moment of the count) leaves the sum too high at most, so that a quota is never
//! exceeded. It is counted again before anybody is refused, and after another process has written; of the time a
//! twentieth ([`REST`]) at most, so that a long queue is not read over and over for one who sends on at his quota.
//! Only mail that a person inserts with SQL may go uncounted for that long.
//!
//! Who sends reserves what is coming, and keeps that until it is committed or given up: two sessions never exceed a
//! quota together. Until the first user with a quota sends, nothing is counted and nobody pays for it; afterwards a
//! message costs its user's place in a map.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::error::{QueueError, QuotaError};

/// After a count there is none for so many times what it took.
const REST: u32 = 20;

/// Bytes by user.
pub type BytesByUser = HashMap<String, u64>;

#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// Somebody with a quota has sent.
    is_used: AtomicBool,
    /// Groups that the writer has begun to commit.
    groups: AtomicU64,
    state: Mutex<State>,
    /// Held by who counts.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Those with mail in the queue, or on its way.
    users: HashMap<String, Account>,
    last_count: Option<Count>,
    /// What was accepted while it is being counted.
    meanwhile: Option<BytesByUser>,
}

#[derive(Debug, Default)]
struct Account {
    queued: u64,
    reserved: u64,
}

/// A count of the database.
#[derive(Debug)]
struct Count {
    /// What left the queue with these groups may be left out of it already.
    groups: u64,
    /// How often another process had written when it began.
    outside_changes: u64,
    /// There is no other before.
    next: Instant,
}

/// Whose bytes, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    pub(super) user: &'a str,
    pub(super) quota: u64,
}

impl Quotas {
    /// Reserves `bytes` more for mail of the user's that is on its way. `count` asks the database for what is queued.
    pub(super) fn reserve(
        &self,
        share: Share<'_>,
        bytes: u64,
        outside_changes: u64,
        count: impl FnOnce() -> Result<BytesByUser, QueueError>,
    ) -> Result<(), QuotaError> {
        {
            let mut state = self.lock();
            let may_count = state.may_count(Instant::now());
            let is_current =
                state.last_count.as_ref().is_some_and(|last| last.outside_changes == outside_changes);
            if (is_current || !may_count) && state.reserve(share, bytes) {
                return Ok(());
            }
            if !may_count {
                return Err(QuotaError::Reached);
            }
        }
        self.count(outside_changes, count).map_err(|_| QuotaError::Unknown)?;
        if self.lock().reserve(share, bytes) { Ok(()) } else { Err(QuotaError::Reached) }
    }

    /// Gives back what was reserved: it is committed, or will not come.
    pub(super) fn release(&self, user: &str, bytes: u64) {
        self.lock().change(user, |account| account.reserved = account.reserved.saturating_sub(bytes));
    }

    fn count(
        &self,
        outside_changes: u64,
        count: impl FnOnce() -> Result<BytesByUser, QueueError>,
    ) -> Result<(), QueueError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut state = self.lock();
            if !state.may_count(Instant::now()) {
                // Somebody else has counted meanwhile.
                return Ok(());
            }
            state.meanwhile = Some(BytesByUser::new());
        }
        // What was committed before is counted, what is committed from now on is added.
        self.is_used.store(true, Ordering::SeqCst);
        let begin = Instant::now();
        let counted = count();
        let groups = self.groups.load(Ordering::SeqCst);
        let mut state = self.lock();
        let meanwhile = state.meanwhile.take().unwrap_or_default();
        state.set(counted?, meanwhile);
        let next = Instant::now() + REST * begin.elapsed();
        state.last_count = Some(Count { groups, outside_changes, next });
        Ok(())
    }

    // What the writer tells.

    /// It begins to commit a group.
    pub(super) fn group_begins(&self) {
        self.groups.fetch_add(1, Ordering::SeqCst);
    }

    /// A message of the user's was committed with the last group. (Before its session gives its reservation back.)
    pub(super) fn accepted(&self, user: Option<&str>, bytes: u64) {
        let Some(user) = user.filter(|_| self.is_used.load(Ordering::SeqCst)) else { return };
        let mut state = self.lock();
        state.change(user, |account| account.queued = account.queued.saturating_add(bytes));
        if let Some(meanwhile) = &mut state.meanwhile {
            add(meanwhile, user, bytes);
        }
    }

    /// A message of the user's left the queue with the last group.
    pub(super) fn left(&self, user: Option<&str>, bytes: u64) {
        let Some(user) = user.filter(|_| self.is_used.load(Ordering::SeqCst)) else { return };
        let mut state = self.lock();
        let group = self.groups.load(Ordering::SeqCst);
        if state.last_count.as_ref().is_some_and(|last| group > last.groups) {
            state.change(user, |account| account.queued = account.queued.saturating_sub(bytes));
        }
    }

    /// A panic elsewhere leaves sums that are not below the truth: what was to be taken off is still there.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_count(&self, now: Instant) -> bool {
        self.last_count.as_ref().is_none_or(|last| now >= last.next)
    }

    /// Whether it fits; then it is reserved.
    fn reserve(&mut self, share: Share<'_>, bytes: u64) -> bool {
        let taken =
            self.users.get(share.user).map_or(0, |account| account.queued.saturating_add(account.reserved));
        let fits = taken.saturating_add(bytes) <= share.quota;
        if fits {
            self.change(share.user, |account| account.reserved = account.reserved.saturating_add(bytes));
        }
        fits
    }

    fn change(&mut self, user: &str, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.users.get_mut(user) {
            change(account);
            if (account.queued, account.reserved) == (0, 0) {
                self.users.remove(user);
            }
            return;
        }
        let mut account = Account::default();
        change(&mut account);
        if (account.queued, account.reserved) != (0, 0) {
            self.users.insert(user.to_owned(), account);
        }
    }

    /// What was counted takes the place of what was known.
    fn set(&mut self, counted: BytesByUser, meanwhile: BytesByUser) {
        self.users.retain(|_, account| {
            account.queued = 0;
            account.reserved > 0
        });
        for (user, bytes) in counted.into_iter().chain(meanwhile) {
            self.change(&user, |account| account.queued = account.queued.saturating_add(bytes));
        }
    }
}

/// Adds to a user's bytes.
pub(super) fn add(by_user: &mut BytesByUser, user: &str, bytes: u64) {
    match by_user.get_mut(user) {
        Some(sum) => *sum = sum.saturating_add(bytes),
        None => drop(by_user.insert(user.to_owned(), bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const APP: Share<'_> = Share { user: "app", quota: 100 };

    fn queued(bytes: u64) -> impl FnOnce() -> Result<BytesByUser, QueueError> {
        move || Ok(BytesByUser::from([("app".to_owned(), bytes), ("other".to_owned(), 1_000)]))
    }

    fn never() -> Result<BytesByUser, QueueError> {
        panic!("it is counted again")
    }

    /// A count that took so long that there is no other within the test.
    fn long(bytes: u64) -> impl FnOnce() -> Result<BytesByUser, QueueError> {
        move || {
            std::thread::sleep(Duration::from_millis(500));
            queued(bytes)()
        }
    }

    #[test]
    fn what_is_reserved_and_what_is_queued_never_exceed_the_quota_together() {
        let quotas = Quotas::default();
        quotas.reserve(APP, 30, 0, queued(40)).unwrap();
        quotas.reserve(APP, 30, 0, never).unwrap();
        assert_eq!(quotas.reserve(APP, 1, 0, queued(40)), Err(QuotaError::Reached));
        // One is committed, the other given up.
        quotas.group_begins();
        quotas.accepted(Some("app"), 30);
        quotas.release("app", 30);
        quotas.release("app", 30);
        assert_eq!(quotas.reserve(APP, 31, 0, queued(70)), Err(QuotaError::Reached));
        quotas.reserve(APP, 30, 0, never).unwrap();
        let other = Share { user: "other", quota: 999 };
        assert_eq!(quotas.reserve(other, 0, 0, queued(70)), Err(QuotaError::Reached));
    }

    #[test]
    fn what_leaves_the_queue_makes_room_at_once() {
        let quotas = Quotas::default();
        quotas.reserve(APP, 1, 0, long(99)).unwrap();
        quotas.release("app", 1);
        quotas.group_begins();
        quotas.left(Some("app"), 60);
        quotas.left(None, 60);
        quotas.reserve(APP, 61, 0, never).unwrap();
        assert_eq!(quotas.reserve(APP, 1, 0, never), Err(QuotaError::Reached), "it was counted a moment ago");
    }

    #[test]
    fn what_others_removed_is_found_before_anybody_is_refused() {
        let quotas = Quotas::default();
        quotas.reserve(APP, 0, 0, queued(100)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        quotas.reserve(APP, 100, 0, queued(0)).unwrap();
        // And what others added, once it is known that they wrote.
        std::thread::sleep(Duration::from_millis(20));
        quotas.release("app", 100);
        assert_eq!(quotas.reserve(APP, 1, 1, queued(100)), Err(QuotaError::Reached));
    }

    /// What the writer commits while it is counted may be in the count or not: it is added, and nothing is taken off
    /// that may be left out already.
    #[test]
    fn a_count_beside_the_writer_is_never_too_low() {
        let quotas = Quotas::default();
        quotas.reserve(APP, 0, 0, queued(0)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        // The group is committed, and the writer has not come to say so yet.
        quotas.group_begins();
        let counted = || {
            quotas.accepted(Some("app"), 50);
            long(10)()
        };
        quotas.reserve(APP, 0, 1, counted).unwrap();
        quotas.left(Some("app"), 20);
        assert_eq!(quotas.reserve(APP, 41, 1, never), Err(QuotaError::Reached));
        quotas.reserve(APP, 40, 1, never).unwrap();
        quotas.release("app", 40);
        quotas.group_begins();
        quotas.left(Some("app"), 20);
        quotas.reserve(APP, 60, 1, never).unwrap();
    }

    #[test]
    fn a_queue_that_cannot_be_read_lets_nobody_in_uncounted() {
        let quotas = Quotas::default();
        let fails = || Err(QueueError::Database("no".to_owned()));
        assert_eq!(quotas.reserve(APP, 1, 0, fails), Err(QuotaError::Unknown));
        quotas.reserve(APP, 1, 0, queued(99)).unwrap();
    }

    #[test]
    fn nothing_is_kept_of_those_who_have_nothing_queued_and_nothing_before_it_is_used() {
        let quotas = Quotas::default();
        quotas.accepted(Some("app"), 10);
        assert!(quotas.lock().users.is_empty());
        quotas.reserve(APP, 10, 0, || Ok(BytesByUser::new())).unwrap();
        quotas.group_begins();
        quotas.accepted(Some("app"), 10);
        quotas.release("app", 10);
        quotas.group_begins();
        quotas.left(Some("app"), 10);
        quotas.left(Some("nobody"), 10);
        assert!(quotas.lock().users.is_empty());
    }
}
