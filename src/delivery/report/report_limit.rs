//! How many reports one sender gets: `[delivery] bounces_per_sender` in any hour.
//!
//! A stolen password that sends to ten thousand strangers in the name of an innocent would have them
//! flooded with bounces. What is beyond the limit is not written one by one: its failures are rows of
//! `pending_reports`, and an hour after the first of them one summary tells the sender of all
//! (`bounce/summary.rs`). A delay warning beyond it is only put off, until the next try that is due one.
//!
//! Memory is a window of the table `reports`, which commits with each report, so a restart forgets nothing.
//! The decision ([`admits`]) is pure. Not bounded are senders: somebody who forges a new one for each message
//! sends each one bounce.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::mail::{Address, address};
use crate::maillog;
use crate::queue::Queue;

use crate::delivery::Setup;
use crate::delivery::report::bounce::summary::{LISTED_MAX, Summary, summary};

/// What the limit counts in, and how long a summary waits.
const WINDOW_SECS: i64 = 3600;
/// Senders kept in memory; more are read again.
const SENDERS_MAX: usize = 10_000;
/// From one look for summaries to the next.
const EVERY: Duration = Duration::from_secs(5);
/// Summaries of one look.
const SUMMARIES_MAX: usize = 100;

/// When each sender got its reports of the last hour.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Floods {
    /// Unix seconds, the oldest first, by [`address::folded`].
    recent: Mutex<HashMap<String, VecDeque<i64>>>,
    next_look: Mutex<Option<Instant>>,
}

/// Whether one more report goes out now: it does while there are fewer than `limit` in the hour that ends now.
fn admits(recent: &mut VecDeque<i64>, now: i64, limit: usize) -> bool {
    while recent.front().is_some_and(|at| *at <= now - WINDOW_SECS) {
        recent.pop_front();
    }
    let fits = recent.len() < limit;
    if fits {
        recent.push_back(now);
    }
    fits
}

impl Floods {
    /// Whether this sender gets one more report now; it is counted then. Without a `limit` always.
    pub(in crate::delivery) fn admit(
        &self,
        queue: &Queue,
        sender: &Address,
        now: i64,
        limit: Option<usize>,
    ) -> bool {
        let Some(limit) = limit else { return true };
        let key = address::folded(sender);
        let known = self.recent().contains_key(&key);
        let read = if known { Vec::new() } else { self.read(queue, &key, now, limit) };
        let mut recent = self.recent();
        if recent.len() >= SENDERS_MAX && !recent.contains_key(&key) {
            recent.retain(|_, times| times.back().is_some_and(|at| *at > now - WINDOW_SECS));
            // Still too many: they are on disk, all but those whose settlement is on its way there.
            if recent.len() >= SENDERS_MAX {
                recent.clear();
            }
        }
        admits(recent.entry(key).or_insert_with(|| read.into()), now, limit)
    }

    fn read(&self, queue: &Queue, key: &str, now: i64, limit: usize) -> Vec<i64> {
        queue.reports_since(key, now - WINDOW_SECS, limit).unwrap_or_else(|error| {
            log::error!("what {key} was told lately cannot be read: {error}");
            Vec::new()
        })
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, HashMap<String, VecDeque<i64>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every few seconds, by whichever worker comes first: the summaries that are due.
    pub(in crate::delivery) fn look(&self, queue: &Queue, now: i64, setup: impl FnOnce() -> Arc<Setup>) {
        let mut next = match self.next_look.try_lock() {
            Ok(next) => next,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another worker is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        if next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let done = catch_unwind(AssertUnwindSafe(|| summarize(&setup(), queue, now)));
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("pending_reports failures cannot be told of: {error}; tried again"),
            // Its own words are in the log already; this worker has other work.
            Err(_) => log::error!("a summary of pending_reports failures panicked (a bug: please report)"),
        }
        *next = Some(Instant::now() + EVERY);
    }
}

/// Writes the summaries that are due. Each commits with the deletion of what it tells of.
fn summarize(setup: &Setup, queue: &Queue, now: i64) -> Result<(), crate::queue::QueueError> {
    for sender in queue.pending_report_senders(now - WINDOW_SECS, SUMMARIES_MAX)? {
        let Some(gathered) = queue.pending_reports(&sender, LISTED_MAX)? else { continue };
        let (id, hostname) = (queue.new_message_id(), &setup.settings.hostname);
        let report = summary(&Summary { id, hostname, now, gathered: &gathered });
        let Some(report) = report else {
            log::error!("{sender:?} in the table pending_reports is no address: its rows stay");
            continue;
        };
        let notice = report.into_message(id, now, setup.settings.bounce_lifetime);
        match queue.send_pending_reports(&sender, gathered.up_to, notice) {
            Ok(()) => maillog::summarized(id, &gathered.return_path, gathered.messages, gathered.recipients),
            // The disk is full, or the database busy: they stay, for another look.
            Err(error) => {
                log::warn!("a summary for {sender} waits: {error}");
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_has_its_limit_in_every_hour() {
        let mut recent = VecDeque::new();
        let mut told = Vec::new();
        // One a minute for three hours.
        for minute in 0..180 {
            if admits(&mut recent, minute * 60, 10) {
                told.push(minute * 60);
            }
        }
        assert_eq!(told.len(), 30, "{told:?}");
        for from in 0..180 {
            let hour = from * 60..from * 60 + WINDOW_SECS;
            assert!(told.iter().filter(|at| hour.contains(at)).count() <= 10);
        }
        assert!(recent.len() <= 10, "memory is bounded by the limit");
    }

    #[test]
    fn a_clock_that_steps_back_lets_nobody_in() {
        let mut recent = VecDeque::from([5000, 5000]);
        assert!(!admits(&mut recent, 1000, 2));
        assert!(admits(&mut recent, 5000 + WINDOW_SECS, 2));
    }
}
