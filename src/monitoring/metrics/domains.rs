//! What came of recipients, by their domain: for the domains with the most of them, the rest as `other`.
//!
//! Whoever delivers only puts the domain into a channel, and goes on where that is full. The counting is done by the
//! scrape. A count never falls while its domain is shown: a domain that comes among the first begins with 0, and one
//! that leaves takes its series with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::mail::Domain;

use super::exposition::LABEL_BYTES_MAX;

/// Domains that are shown.
pub(super) const SHOWN_MAX: usize = 50;
/// Domains of which it is counted how much they get, to see which come among those that are shown.
const RIVALS_MAX: usize = 1_000;
/// What happened between two scrapes; beyond, it counts as `other`. 3 MB, and what the domains take: 20 MB at worst.
const WAITING_MAX: usize = 65_536;
/// How often what was counted for the order of domains is halved, so that a large mailing of last month is forgotten.
const HALVED_EVERY: Duration = Duration::from_secs(600);

/// The label of all domains that have none of their own.
pub(super) const OTHER: &str = "other";

/// Whether a domain can have a label of its own: it is one, and its label nobody else's.
pub(super) fn is_label(name: &str) -> bool {
    let is_whole = Domain::parse(name).is_ok_and(|domain| domain.as_str() == name);
    is_whole && name != OTHER && name.len() <= LABEL_BYTES_MAX
}

/// What becomes of a recipient.
pub(super) const OUTCOMES: [&str; 3] = ["delivered", "deferred", "bounced"];

type Counts = [u64; OUTCOMES.len()];

/// Counts by domain.
#[derive(Debug)]
pub(super) struct Domains {
    /// A domain, and what became of a recipient there.
    happened: Sender<(String, usize)>,
    uncounted: Receiver<(String, usize)>,
    /// What found no room there.
    missed: [AtomicU64; OUTCOMES.len()],
    state: Mutex<Ranking>,
}

#[derive(Debug)]
struct Ranking {
    shown: HashMap<String, Shown>,
    /// How often each was met lately.
    rivals: HashMap<String, u64>,
    other: Counts,
    halved_at: Instant,
}

#[derive(Debug, Default)]
struct Shown {
    counts: Counts,
    lately: u64,
}

impl Domains {
    pub(super) fn new() -> Domains {
        let ranking = Ranking {
            shown: HashMap::new(),
            rivals: HashMap::new(),
            other: Counts::default(),
            halved_at: Instant::now(),
        };
        let (happened, uncounted) = bounded(WAITING_MAX);
        Domains { happened, uncounted, missed: Default::default(), state: Mutex::new(ranking) }
    }

    /// This became of a recipient of this domain; `outcome` is a place in [`OUTCOMES`]. Never waits.
    pub(super) fn add(&self, domain: &str, outcome: usize) {
        if self.happened.try_send((domain.to_owned(), outcome)).is_err() {
            self.missed[outcome].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that are shown with their counts, and `other`.
    pub(super) fn all(&self) -> Vec<(String, Counts)> {
        // Counting does not panic half-way.
        let mut ranking = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (domain, outcome) in self.uncounted.try_iter() {
            ranking.count(&domain, outcome);
        }
        for (other, missed) in ranking.other.iter_mut().zip(&self.missed) {
            *other += missed.swap(0, Ordering::Relaxed);
        }
        ranking.halve(Instant::now());
        let shown = ranking.shown.iter().map(|(domain, shown)| (domain.clone(), shown.counts));
        shown.chain([(OTHER.to_owned(), ranking.other)]).collect()
    }
}

impl Ranking {
    fn count(&mut self, domain: &str, outcome: usize) {
        let domain = Domain::parse(domain).map_or_else(|_| OTHER.to_owned(), |domain| domain.to_string());
        if !is_label(&domain) || !self.shown.contains_key(&domain) && !self.rises(&domain) {
            self.other[outcome] += 1;
            return;
        }
        let shown = self.shown.entry(domain).or_default();
        shown.counts[outcome] += 1;
        shown.lately += 1;
    }

    /// Whether there is room for it, or it was met twice as often lately as the last of those shown, which gives way.
    fn rises(&mut self, domain: &str) -> bool {
        if self.shown.len() < SHOWN_MAX {
            return true;
        }
        if self.rivals.len() >= RIVALS_MAX && !self.rivals.contains_key(domain) {
            // Those met once go; if all were met more often, the newcomer has to come again.
            self.rivals.values_mut().for_each(|count| *count -= 1);
            self.rivals.retain(|_, count| *count > 0);
            return false;
        }
        let met = self.rivals.entry(domain.to_owned()).or_default();
        *met += 1;
        let met = *met;
        let last = self.shown.iter().min_by_key(|(_, shown)| shown.lately);
        let Some((last, lately)) = last.map(|(last, shown)| (last.clone(), shown.lately)) else {
            return true;
        };
        if met <= 2 * lately {
            return false;
        }
        self.shown.remove(&last);
        self.rivals.remove(domain);
        self.shown.insert(domain.to_owned(), Shown { lately: met, ..Shown::default() });
        true
    }

    fn halve(&mut self, now: Instant) {
        if now.saturating_duration_since(self.halved_at) < HALVED_EVERY {
            return;
        }
        self.halved_at = now;
        self.shown.values_mut().for_each(|shown| shown.lately /= 2);
        self.rivals.values_mut().for_each(|count| *count /= 2);
        self.rivals.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(domains: &Domains, name: &str) -> Option<Counts> {
        domains.all().into_iter().find(|(domain, _)| domain == name).map(|(_, counts)| counts)
    }

    #[test]
    fn the_domains_with_the_most_mail_are_shown_and_no_count_falls() {
        let domains = Domains::new();
        (0..SHOWN_MAX).for_each(|number| domains.add(&format!("small{number}.test"), 0));
        assert_eq!(of(&domains, "small7.test"), Some([1, 0, 0]));
        // A large one that comes late, and under two spellings.
        let mut other = 0;
        for round in 0..20 {
            domains.add(if round % 2 == 0 { "LARGE.test" } else { "large.test" }, 1);
            let now = of(&domains, "other").unwrap()[1];
            assert!(now >= other, "{now} after {other}");
            other = now;
        }
        assert_eq!((of(&domains, "large.test"), other), (Some([0, 18, 0]), 2));
        assert_eq!(domains.all().len(), SHOWN_MAX + 1);
    }

    #[test]
    fn no_more_domains_are_kept_than_may_be_however_many_come() {
        let domains = Domains::new();
        for number in 0..10_000 {
            domains.add(&format!("d{number}.test"), number % 3);
            if number % 1_000 == 0 {
                domains.all();
            }
        }
        let all = domains.all();
        assert_eq!(all.len(), SHOWN_MAX + 1);
        assert_eq!(all.iter().flat_map(|(_, counts)| counts).sum::<u64>(), 10_000);
        let ranking = domains.state.lock().unwrap();
        assert!(ranking.rivals.len() <= RIVALS_MAX, "{}", ranking.rivals.len());
    }

    #[test]
    fn what_nobody_scrapes_is_counted_together() {
        let domains = Domains::new();
        (0..WAITING_MAX + 9).for_each(|_| domains.add("a.test", 2));
        let counts = (of(&domains, "a.test"), of(&domains, OTHER));
        assert_eq!(counts, (Some([0, 0, WAITING_MAX as u64]), Some([0, 0, 9])));
    }

    #[test]
    fn no_two_domains_have_the_same_label() {
        let domains = Domains::new();
        ["other", "OTHER", "[192.0.2.7]", "\"\n", ""].into_iter().for_each(|name| domains.add(name, 0));
        let all = domains.all();
        assert_eq!(all, [("[192.0.2.7]".to_owned(), [1, 0, 0]), (OTHER.to_owned(), [4, 0, 0])]);
        assert!(!is_label(&format!("{}.test", "a.".repeat(200))));
    }
}
