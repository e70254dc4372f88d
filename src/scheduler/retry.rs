//! When to try again: the schedule of `[retry]`, for messages and for lanes alike (pure).
//!
//! Each wait is spread by 20 % either way, so that what failed together does not come back
//! together (RFC 5321 §4.5.4.1 asks for at least 30 minutes on the whole; the first steps are
//! short for greylisting and one-time codes, the later ones make up for it).

use std::time::Duration;

/// The waits after the first, second, third … failure; the last repeats.
#[derive(Debug, Clone)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// A schedule; an empty one waits an hour each time.
    pub fn new(steps: Vec<Duration>) -> Schedule {
        Schedule(if steps.is_empty() { vec![Duration::from_secs(3600)] } else { steps })
    }

    /// How long to wait after `failures` failures in a row (at least one). `spread` in 0..1 is where in
    /// the range of ±20 % this wait falls. At least one second.
    pub fn wait(&self, failures: u32, spread: f64) -> Duration {
        let step = (failures.max(1) as usize - 1).min(self.0.len() - 1);
        self.0[step].mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0)).max(Duration::from_secs(1))
    }

    /// No wait is longer than this, in seconds.
    pub fn longest_secs(&self) -> i64 {
        let longest = self.0.iter().max().copied().unwrap_or_default().mul_f64(1.2);
        i64::try_from(longest.as_secs()).unwrap_or(i64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_follow_each_other_and_the_last_repeats() {
        let schedule = Schedule::new(vec![Duration::from_secs(60), Duration::from_secs(300)]);
        let middle = |failures| schedule.wait(failures, 0.5).as_secs();
        assert_eq!([middle(0), middle(1), middle(2), middle(3), middle(99)], [60, 60, 300, 300, 300]);
    }

    #[test]
    fn a_wait_is_spread_by_a_fifth_and_never_below_a_second() {
        let schedule = Schedule::new(vec![Duration::from_secs(100), Duration::from_millis(1)]);
        assert_eq!(schedule.wait(1, 0.0).as_secs(), 80);
        assert_eq!(schedule.wait(1, 1.0).as_secs(), 120);
        assert_eq!(schedule.wait(2, 0.5).as_secs(), 1);
    }
}
