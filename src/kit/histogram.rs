//! How often something took how long, or was how large: a histogram that many threads add to without a lock.
//!
//! Its bounds are given once, in the smallest unit that counts (microseconds, pieces); values are whole numbers of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a [`Histogram`] had counted at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Each bound, and how many were at it or below, and above the one before.
    pub buckets: Vec<(u64, u64)>,
    /// How many were above the last bound.
    pub beyond: u64,
    /// All values together.
    pub sum: u64,
}

impl Histogram {
    /// An empty one; the bounds rise.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub fn add(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let beyond = self.counts[self.bounds.len()].load(Ordering::Relaxed);
        Counted {
            buckets: self.bounds.iter().copied().zip(counts).collect(),
            beyond,
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Counted {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_the_first_bound_that_it_does_not_pass() {
        let histogram = Histogram::new(&[1, 10, 100]);
        [0, 1, 2, 10, 11, 100, 101, 5_000].into_iter().for_each(|value| histogram.add(value));
        let counted = histogram.counted();
        assert_eq!(counted.buckets, [(1, 2), (10, 2), (100, 2)]);
        assert_eq!((counted.beyond, counted.count(), counted.sum), (2, 8, 5_225));
    }
}
