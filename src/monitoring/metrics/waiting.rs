//! What waits in the queue, counted for a scrape.
//!
//! Counting reads all of the queue: a few milliseconds for a short one, seconds for a million. So a thread of its own
//! does it, which lives as long as that takes; a scrape waits for it for a moment and then shows what was counted last,
//! with its age. Counting takes a twentieth of the time at most, and holds no snapshot for longer than a part takes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::gauge_rows::{AgeCounts, CountFrom, DomainCount};
use crate::queue::{Queue, QueueError};

use super::domains::{SHOWN_MAX, is_label};

/// How long a scrape waits for fresh counts.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same where there are none yet.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// After counting for so long, so many times that is rested.
const REST: u32 = 20;
/// Counts are shown for so long at least, or for twice as long as it is rested.
const STALE_MIN: Duration = Duration::from_secs(600);
/// Domains that a statement counts.
const DOMAINS: usize = 100;

/// What waited when it was counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Waiting {
    pub(super) ages: AgeCounts,
    pub(super) domains: u64,
    /// Recipients whose time has come, whose lane does not back off, and that nobody fetches.
    pub(super) due: u64,
    /// The same, but that their lane backs off.
    pub(super) backing_off: u64,
    /// Recipients that are suspended.
    pub(super) suspended: u64,
    /// How long the first of those that are due has been so, in seconds.
    pub(super) oldest_due_secs: u64,
    /// Domains with the most recipients, the first [`SHOWN_MAX`].
    pub(super) top: Vec<(String, u64)>,
    /// Recipients of all others.
    pub(super) other: u64,
}

impl Waiting {
    /// Counts all of it.
    fn count(queue: &Queue, now: i64) -> Result<Waiting, QueueError> {
        let mut waiting = Waiting::default();
        let mut from = Some(CountFrom::START);
        while let Some(part) = from {
            let (counts, next) = queue.count_by_age(part, now)?;
            (waiting.ages, from) = (waiting.ages.and(counts), next);
        }
        let mut after = String::new();
        loop {
            let counts = queue.count_by_domain(&after, now, DOMAINS)?;
            let Some(last) = counts.last() else { return Ok(waiting) };
            // A domain that is no text sorts elsewhere than what is shown of it.
            if last.domain == after {
                return Ok(waiting);
            }
            last.domain.clone_into(&mut after);
            counts.into_iter().for_each(|count| waiting.add(count, now));
            waiting.cut();
        }
    }

    pub(super) fn add(&mut self, count: DomainCount, now: i64) {
        self.domains += 1;
        self.suspended += count.suspended;
        match () {
            () if count.is_fetched => {}
            () if count.backs_off => self.backing_off += count.due,
            () => {
                self.due += count.due;
                let secs = count.due_since.map_or(0, |since| now.saturating_sub(since).max(0).unsigned_abs());
                self.oldest_due_secs = self.oldest_due_secs.max(secs);
            }
        }
        match is_label(&count.domain) {
            true => self.top.push((count.domain, count.recipients)),
            false => self.other += count.recipients,
        }
    }

    /// Keeps the first; of equals those that come first by name.
    pub(super) fn cut(&mut self) {
        self.top.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        self.other += self.top.drain(SHOWN_MAX.min(self.top.len())..).map(|(_, count)| count).sum::<u64>();
    }
}

/// The last counts, and who makes the next.
#[derive(Debug, Default)]
pub(super) struct Counter {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Counted>,
    is_counting: bool,
    /// The queue could not be read the last time, and that was said.
    has_failed: bool,
}

#[derive(Debug, Clone)]
struct Counted {
    waiting: Arc<Waiting>,
    began: Instant,
    took: Duration,
}

impl Counter {
    /// What waits, and how long ago that was counted; none where it could not be counted, or not for so long that it
    /// says nothing of now.
    pub(super) fn waiting(&self, queue: &Queue, now: i64) -> Option<(Arc<Waiting>, Duration)> {
        let queue = queue.clone();
        self.counted_by(move || Waiting::count(&queue, now))
    }

    fn counted_by(
        &self,
        count: impl FnOnce() -> Result<Waiting, QueueError> + Send + 'static,
    ) -> Option<(Arc<Waiting>, Duration)> {
        let mut state = lock(&self.state.0);
        let asked = Instant::now();
        let is_rested =
            state.last.as_ref().is_none_or(|last| last.began.elapsed() >= last.took.saturating_mul(REST));
        if is_rested && !state.is_counting {
            state.is_counting = self.start(count);
        }
        let patience = if state.last.is_some() { PATIENCE } else { FIRST_PATIENCE };
        let done = |state: &mut State| state.is_counting;
        let state = self.state.1.wait_timeout_while(state, patience, done);
        let state = state.unwrap_or_else(PoisonError::into_inner).0;
        // What began after the question is fresh.
        let age = |began: Instant| asked.saturating_duration_since(began);
        let known = state.last.as_ref().filter(|last| !state.has_failed && !last.is_stale(age(last.began)));
        known.map(|last| (last.waiting.clone(), age(last.began)))
    }

    fn start(&self, count: impl FnOnce() -> Result<Waiting, QueueError> + Send + 'static) -> bool {
        let state = self.state.clone();
        let count = move || {
            let under_way = UnderWay(state);
            let began = Instant::now();
            let counted = count();
            let mut state = lock(&under_way.0.0);
            match counted {
                Ok(waiting) => {
                    let (waiting, took) = (Arc::new(waiting), began.elapsed());
                    state.last = Some(Counted { waiting, began, took });
                    state.has_failed = false;
                }
                Err(error) if !std::mem::replace(&mut state.has_failed, true) => {
                    log::error!("metrics: what waits cannot be counted: {error}");
                }
                Err(_) => {}
            }
        };
        let started = std::thread::Builder::new().name("metrics".to_owned()).spawn(count);
        started.is_ok()
    }
}

impl Counted {
    /// It should have been counted again long ago: what is shown must not look like now.
    fn is_stale(&self, age: Duration) -> bool {
        age > STALE_MIN.max(self.took.saturating_mul(REST * 2))
    }
}

/// A thread that counts; however it ends, another one may begin.
struct UnderWay(Arc<(Mutex<State>, Condvar)>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0.0).is_counting = false;
        self.0.1.notify_all();
    }
}

/// Each change is one step.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(domain: &str, recipients: u64, due: u64, due_since: Option<i64>) -> DomainCount {
        DomainCount {
            domain: domain.to_owned(),
            recipients,
            due,
            due_since,
            backs_off: false,
            is_fetched: false,
            suspended: 0,
        }
    }

    fn unreadable() -> QueueError {
        QueueError::Database("disk I/O error".to_owned())
    }

    #[test]
    fn what_cannot_be_counted_any_more_is_not_shown_as_if_it_could() {
        let counter = Counter::default();
        let well = || Ok(Waiting { domains: 7, ..Waiting::default() });
        let ask = |count: fn() -> Result<Waiting, QueueError>| {
            if let Some(last) = &mut lock(&counter.state.0).last {
                last.took = Duration::ZERO;
            }
            let counted = counter.counted_by(count).map(|(waiting, _)| waiting.domains);
            let until = Instant::now() + Duration::from_secs(20);
            while lock(&counter.state.0).is_counting && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            counted
        };
        assert_eq!(ask(well), Some(7));
        ask(|| Err(unreadable()));
        assert_eq!(counter.counted_by(|| Err(unreadable())), None, "the queue cannot be read");
        ask(well);
        assert_eq!(ask(well), Some(7));
        // One that panics keeps no other from counting.
        ask(|| panic!("on purpose"));
        assert_eq!(ask(|| Ok(Waiting { domains: 8, ..Waiting::default() })), Some(8));
    }

    #[test]
    fn what_was_counted_long_ago_is_stale() {
        let counted = |took| Counted { waiting: Arc::default(), began: Instant::now(), took };
        let secs = Duration::from_secs;
        assert!(!counted(secs(1)).is_stale(STALE_MIN) && counted(secs(1)).is_stale(STALE_MIN + secs(1)));
        assert!(!counted(secs(60)).is_stale(secs(2400)) && counted(secs(60)).is_stale(secs(2401)));
    }

    #[test]
    fn what_is_due_is_what_could_go_now() {
        let mut waiting = Waiting::default();
        waiting.add(count("a.test", 9, 4, Some(70)), 100);
        waiting.add(DomainCount { backs_off: true, ..count("b.test", 5, 5, Some(1)) }, 100);
        waiting.add(DomainCount { is_fetched: true, ..count("c.test", 3, 3, Some(1)) }, 100);
        waiting.add(count("d.test", 1, 0, None), 100);
        waiting.cut();
        assert_eq!((waiting.due, waiting.backing_off, waiting.oldest_due_secs), (4, 5, 30));
        assert_eq!(
            (waiting.domains, waiting.top[0].clone(), waiting.other),
            (4, ("a.test".to_owned(), 9), 0)
        );
    }

    #[test]
    fn only_the_first_domains_have_a_label_however_many_there_are() {
        let mut waiting = Waiting::default();
        for number in 0..10_000_u64 {
            waiting.add(count(&format!("d{number}.test"), number, 0, None), 0);
            waiting.cut();
        }
        for odd in ["other", "a\nb", "", "UPPER.test"] {
            waiting.add(count(odd, 1_000_000, 0, None), 0);
        }
        waiting.cut();
        assert_eq!((waiting.top.len(), waiting.top[0].1), (SHOWN_MAX, 9_999));
        let all: u64 = waiting.top.iter().map(|(_, count)| count).sum::<u64>() + waiting.other;
        assert_eq!(all, (0..10_000).sum::<u64>() + 4_000_000);
    }
}
