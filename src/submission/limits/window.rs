//! How many in the last while: counts in slots of time, so that many cost no more memory than few. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Slots that make up the whole window.
const SLOTS: u32 = 60;

/// A sliding window of [`SLOTS`] slots and the one that has begun: it forgets nothing early, and
/// everything a slot late at most. At most `SLOTS + 1` pairs of numbers, however many are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::submission) struct Window {
    /// Slot and count, oldest first.
    slots: VecDeque<(u32, u32)>,
}

/// Turns times into slots: windows of one length that are counted from one start.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Slots {
    start: Instant,
    length: Duration,
}

impl Slots {
    /// Of windows as long as this, a minute or more.
    pub(in crate::submission) fn new(start: Instant, window: Duration) -> Slots {
        Slots { start, length: window / SLOTS }
    }

    /// The slot that holds `now`; a time before the start is in the first.
    pub(in crate::submission) fn at(&self, now: Instant) -> u32 {
        let slots = now.saturating_duration_since(self.start).as_millis() / self.length.as_millis();
        u32::try_from(slots).unwrap_or(u32::MAX)
    }
}

impl Window {
    /// How many count now.
    pub(in crate::submission) fn count(&mut self, now: u32) -> usize {
        while self.slots.front().is_some_and(|(slot, _)| now - now.min(*slot) > SLOTS) {
            self.slots.pop_front();
        }
        self.slots.iter().map(|(_, count)| *count as usize).sum()
    }

    /// One more.
    pub(in crate::submission) fn add(&mut self, now: u32) {
        match self.slots.back_mut() {
            // Threads may come a moment out of order: what is late counts as now.
            Some((slot, count)) if *slot >= now => *count = count.saturating_add(1),
            _ => {
                self.count(now);
                self.slots.push_back((now, 1));
            }
        }
    }

    /// So many of the newest never happened.
    pub(in crate::submission) fn take_back(&mut self, mut many: u32) {
        while let Some((_, count)) = self.slots.back_mut().filter(|_| many > 0) {
            let taken = many.min(*count);
            *count -= taken;
            many -= taken;
            if *count == 0 {
                self.slots.pop_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let start = Instant::now();
        let slots = Slots::new(start, Duration::from_secs(3600));
        let at = |secs| slots.at(start + Duration::from_secs(secs));
        let mut window = Window::default();
        window.add(at(59));
        window.add(at(60));
        window.add(at(1800));
        assert_eq!(window.count(at(3600 + 59)), 3, "not a second early");
        assert_eq!(window.count(at(3660)), 2);
        assert_eq!(window.count(at(3720)), 1);
        assert_eq!(window.count(at(9000)), 0);
        assert_eq!(window, Window::default());
    }

    #[test]
    fn many_cost_no_more_memory_than_few() {
        let mut window = Window::default();
        (0..100_000).for_each(|n| window.add(n / 100));
        assert_eq!(window.slots.len(), SLOTS as usize + 1);
        assert_eq!(window.count(999), 6100);
    }

    #[test]
    fn the_newest_are_taken_back() {
        let mut window = Window::default();
        [1, 1, 2, 3].into_iter().for_each(|slot| window.add(slot));
        window.take_back(2);
        assert_eq!(window.slots, [(1, 2)]);
        window.take_back(9);
        assert_eq!(window, Window::default());
    }

    #[test]
    fn a_clock_read_out_of_order_counts_all_the_same() {
        let mut window = Window::default();
        window.add(7);
        window.add(6);
        assert_eq!(window.count(5), 2);
    }
}
