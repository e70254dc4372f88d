//! How many reports one sender gets: `[delivery] bounces_per_sender` in any hour.
//!
//! Somebody who sends with a stolen password to ten thousand strangers, in the name of an innocent sender, would
//! have that sender flooded with bounces. What exceeds the limit is not reported one by one: its failures become
//! rows of `pending_reports`, and an hour after the first of them one summary lists them (`bounce/summary.rs`).
//! A delay warning over the limit is postponed to the next attempt that is due one.
//!
//! Memory is a window on the table `reports`, whose rows commit with each report, so a restart forgets nothing.
//! The decision ([`admits`]) is pure.
//!
//! # Bugs
//! The number of senders is not limited: a forged sender for each message gets a bounce for each message.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::clock::STEP_SECS;
use crate::config::DeliverySettings;
use crate::kit::bounded::TtlMap;
use crate::mail::{Address, address};
use crate::maillog;
use crate::queue::{Queue, QueueError};

use crate::delivery::report::bounce::summary::{LISTED_MAX, Summary, summary};

/// The time that the limit counts over, and that a summary waits.
const WINDOW_SECS: i64 = 3600;
/// Senders kept in memory; the others are read from the table again.
const SENDERS_MAX: usize = 10_000;
/// From one look for due summaries to the next.
const SUMMARIES_EVERY: Duration = Duration::from_secs(5);
/// Summaries of one look.
const SUMMARIES_MAX: usize = 100;

/// When each sender got its reports of the last hour.
#[derive(Debug)]
pub(in crate::delivery) struct ReportLimits {
    /// Unix seconds, the oldest first, by [`address::folded`].
    recent: Mutex<TtlMap<String, VecDeque<i64>, i64>>,
    next_summaries: Mutex<Option<Instant>>,
}

impl Default for ReportLimits {
    fn default() -> ReportLimits {
        let window = Duration::from_secs(WINDOW_SECS.unsigned_abs());
        ReportLimits {
            recent: Mutex::new(TtlMap::new(SENDERS_MAX, window)),
            next_summaries: Mutex::default(),
        }
    }
}

/// Whether one more report goes out now: fewer than `limit` went out in the hour that ends now.
fn admits(recent: &mut VecDeque<i64>, now: i64, limit: usize) -> bool {
    // What was written by a clock that was ahead counts as written now: it counts for an hour, and not until that time.
    recent.iter_mut().for_each(|at| *at = (*at).min(now));
    while recent.front().is_some_and(|at| *at <= now - WINDOW_SECS) {
        recent.pop_front();
    }
    let fits = recent.len() < limit;
    if fits {
        recent.push_back(now);
    }
    fits
}

impl ReportLimits {
    /// Whether this sender gets one more report now, which is then counted. Always without a `limit`.
    pub(in crate::delivery) fn admit(
        &self,
        queue: &Queue,
        sender: &Address,
        now: i64,
        limit: Option<usize>,
    ) -> bool {
        let Some(limit) = limit else { return true };
        let key = address::folded(sender);
        let known = self.recent.lock().unwrap_or_else(PoisonError::into_inner).get(&key, now).is_some();
        // The table is read without the lock.
        let read = if known { Vec::new() } else { read(queue, &key, now, limit) };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        admits(recent.renew(key, now, || read.into()), now, limit)
    }

    /// Queues the summaries that are due: every few seconds, by whichever worker comes first.
    pub(in crate::delivery) fn send_summaries(&self, queue: &Queue, now: i64, settings: &DeliverySettings) {
        let mut next = match self.next_summaries.try_lock() {
            Ok(next) => next,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another worker is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        if next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| summarize(settings, queue, now))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("pending_reports cannot be read: {error}; tried again"),
            // The panic message is in the log already, and this worker has other work.
            Err(_) => log::error!("a summary of pending_reports panicked (a bug: please report)"),
        }
        *next = Some(Instant::now() + SUMMARIES_EVERY);
    }
}

fn read(queue: &Queue, key: &str, now: i64, limit: usize) -> Vec<i64> {
    queue.reports_since(key, now - WINDOW_SECS, limit).unwrap_or_else(|error| {
        log::error!("the last reports to {key} cannot be read: {error}");
        Vec::new()
    })
}

/// Writes the summaries that are due. Each commits with the deletion of the rows that it lists.
fn summarize(settings: &DeliverySettings, queue: &Queue, now: i64) -> Result<(), QueueError> {
    for sender in queue.pending_report_senders(now - WINDOW_SECS, now + STEP_SECS, SUMMARIES_MAX)? {
        let Some(pending) = queue.pending_reports(&sender, LISTED_MAX)? else { continue };
        let (id, hostname) = (queue.new_message_id(), &settings.hostname);
        let Some(report) = summary(&Summary { id, hostname, now, pending: &pending }) else {
            log::error!("{sender:?} in the table pending_reports is no address: its rows stay");
            continue;
        };
        let message = report.into_message(id, now);
        match queue.send_pending_reports(&sender, pending.up_to, message) {
            Ok(()) => {
                maillog::summary_queued(id, &pending.return_path, pending.messages, pending.recipients);
            }
            // The disk is full, or the database busy: the rows stay for the next look.
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
        let mut reports = Vec::new();
        // One a minute for three hours.
        for minute in 0..180 {
            if admits(&mut recent, minute * 60, 10) {
                reports.push(minute * 60);
            }
        }
        assert_eq!(reports.len(), 30, "{reports:?}");
        for from in 0..180 {
            let hour = from * 60..from * 60 + WINDOW_SECS;
            assert!(reports.iter().filter(|at| hour.contains(at)).count() <= 10);
        }
        assert!(recent.len() <= 10, "memory is bounded by the limit");
    }

    #[test]
    fn a_clock_that_steps_back_lets_nobody_in_for_an_hour_and_no_longer() {
        let mut recent = VecDeque::from([50_000_000, 50_000_000]);
        assert!(!admits(&mut recent, 1000, 2));
        assert!(!admits(&mut recent, 999 + WINDOW_SECS, 2));
        assert!(admits(&mut recent, 1000 + WINDOW_SECS, 2));
    }

    #[test]
    fn no_more_senders_are_kept_in_memory_than_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, writer) = crate::queue::Queue::open(
            &crate::config::QueueSettings {
                path: folder.path().join("queue.db"),
                history: Duration::from_secs(60),
                litestream: false,
            },
            crossbeam_channel::unbounded().0,
        )
        .unwrap();
        let limits = ReportLimits::default();
        for number in 0..SENDERS_MAX + 200 {
            let sender = address::parse(&format!("s{number}@a.test")).unwrap();
            assert!(limits.admit(&queue, &sender, 1000, Some(1)));
        }
        let kept = limits.recent.lock().unwrap().count(1000);
        assert!((SENDERS_MAX * 3 / 4..=SENDERS_MAX).contains(&kept), "{kept}");
        let last = address::parse(&format!("S{}@A.test", SENDERS_MAX + 199)).unwrap();
        assert!(!limits.admit(&queue, &last, 1000, Some(1)), "who came last is known");
        writer.stop().unwrap();
    }
}
