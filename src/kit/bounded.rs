//! Memory with a bound: a map whose entries end by themselves, and a count of the last while. Pure.
//!
//! Both take the time as a parameter, from a clock of any kind ([`Time`]), and neither is harmed by a clock that
//! steps back: what is from a later time than now is as old as what is from now.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A point in time, as a clock of the caller's gives it.
pub trait Time: Copy {
    /// How long after `earlier` it is; nothing where it is before it.
    fn since(self, earlier: Self) -> Duration;
}

/// Unix seconds.
impl Time for i64 {
    fn since(self, earlier: i64) -> Duration {
        Duration::from_secs(u64::try_from(self.saturating_sub(earlier)).unwrap_or(0))
    }
}

impl Time for Instant {
    fn since(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// A map of at most `max` entries, each gone `ttl` after it was last written.
///
/// Where there is no room for one more, the entries that are over make it, and then those that were not written
/// for the longest: an eighth of them at a time, so that a flood of new keys does not pay for each.
#[derive(Debug, Clone)]
pub struct TtlMap<K, V, T> {
    max: usize,
    ttl: Duration,
    entries: HashMap<K, Entry<V, T>>,
    /// Writes so far: the order in which entries make room.
    writes: u64,
}

#[derive(Debug, Clone)]
struct Entry<V, T> {
    value: V,
    written_at: T,
    write: u64,
}

impl<K: Eq + Hash, V, T: Time> TtlMap<K, V, T> {
    /// An empty one, for `max` entries (at least one) that last for `ttl`; [`Duration::MAX`] is for ever.
    pub fn new(max: usize, ttl: Duration) -> TtlMap<K, V, T> {
        TtlMap { max: max.max(1), ttl, entries: HashMap::new(), writes: 0 }
    }

    /// The value, unless it is over.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: T) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).filter(|entry| entry.lives(self.ttl, now)).map(|entry| &entry.value)
    }

    /// The value to be changed, unless it is over. It lasts no longer for that.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: T) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let ttl = self.ttl;
        self.entries.get_mut(key).filter(|entry| entry.lives(ttl, now)).map(|entry| &mut entry.value)
    }

    /// Writes a value.
    pub fn insert(&mut self, key: K, value: V, now: T) {
        self.make_room(&key, now);
        self.writes += 1;
        self.entries.insert(key, Entry { value, written_at: now, write: self.writes });
    }

    /// The value, which lasts as long from now on as a new one: the one there, or `new` where there is none.
    pub fn renew(&mut self, key: K, now: T, new: impl FnOnce() -> V) -> &mut V {
        self.make_room(&key, now);
        self.writes += 1;
        let (ttl, write) = (self.ttl, self.writes);
        // A value that is over is none.
        let entry = match self.entries.entry(key) {
            std::collections::hash_map::Entry::Occupied(old) if old.get().lives(ttl, now) => old.into_mut(),
            entry => entry.insert_entry(Entry { value: new(), written_at: now, write }).into_mut(),
        };
        (entry.written_at, entry.write) = (now, write);
        &mut entry.value
    }

    /// Takes a value out; none where it was over.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: T) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let ttl = self.ttl;
        self.entries.remove(key).filter(|entry| entry.lives(ttl, now)).map(|entry| entry.value)
    }

    /// Those that are not over, to be looked at and changed, in no order. They last no longer for that.
    pub fn iter_mut(&mut self, now: T) -> impl Iterator<Item = (&K, &mut V)> {
        let ttl = self.ttl;
        let living = self.entries.iter_mut().filter(move |(_, entry)| entry.lives(ttl, now));
        living.map(|(key, entry)| (key, &mut entry.value))
    }

    /// Bytes of memory: of the table as a whole, and `beside` it what hangs on each value.
    #[cfg(test)]
    pub(crate) fn bytes(&self, beside: impl Fn(&V) -> usize) -> usize {
        // A table is full at seven eighths, and has a byte more for each place.
        let places = self.entries.capacity() / 7 * 8;
        let of_values: usize = self.entries.values().map(|entry| beside(&entry.value)).sum();
        places * (size_of::<(K, Entry<V, T>)>() + 1) + of_values
    }

    /// How many are held now.
    pub fn count(&mut self, now: T) -> usize {
        self.forget_old(now);
        self.entries.len()
    }

    /// Drops what is over. Only for memory's sake: nothing that is over is ever given.
    pub fn forget_old(&mut self, now: T) {
        let ttl = self.ttl;
        self.entries.retain(|_, entry| entry.lives(ttl, now));
    }

    fn make_room(&mut self, key: &K, now: T) {
        if self.entries.len() < self.max || self.entries.contains_key(key) {
            return;
        }
        self.forget_old(now);
        let Some(surplus) = self.entries.len().checked_sub(self.max - self.max.div_ceil(8)) else { return };
        let mut writes: Vec<u64> = self.entries.values().map(|entry| entry.write).collect();
        if surplus > 0 {
            let (_, last_to_go, _) = writes.select_nth_unstable(surplus - 1);
            let last_to_go = *last_to_go;
            self.entries.retain(|_, entry| entry.write > last_to_go);
        }
    }
}

impl<V, T: Time> Entry<V, T> {
    fn lives(&self, ttl: Duration, now: T) -> bool {
        ttl == Duration::MAX || now.since(self.written_at) < ttl
    }
}

/// Parts that a window is counted in, where nobody says otherwise.
const SLOTS: u32 = 60;

/// How many in the last while: a sliding window, counted in slots, so that many cost no more memory than few.
/// It forgets nothing early, and everything a slot (a sixtieth of its length) late at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window<T> {
    length: Duration,
    slot: Duration,
    /// When each slot began and how many it counts, oldest first; at most two more than fit into the length.
    slots: VecDeque<(T, u32)>,
}

impl<T: Time> Window<T> {
    /// An empty window of this length.
    pub fn new(length: Duration) -> Window<T> {
        Window::in_slots(length, SLOTS)
    }

    /// The same in fewer slots, for less memory.
    pub fn in_slots(length: Duration, slots: u32) -> Window<T> {
        Window { length, slot: length / slots.max(1), slots: VecDeque::new() }
    }

    /// One that counts so many already, all of them since `began`.
    #[must_use]
    pub fn counting(mut self, many: u32, began: T) -> Window<T> {
        self.slots.push_back((began, many));
        self
    }

    /// How many count now.
    pub fn count(&mut self, now: T) -> usize {
        let over = self.length + self.slot;
        while self.slots.front().is_some_and(|(began, _)| now.since(*began) >= over) {
            self.slots.pop_front();
        }
        self.slots.iter().map(|(_, count)| *count as usize).sum()
    }

    /// How long ago the first that counts came; none where none does.
    pub fn first(&mut self, now: T) -> Option<Duration> {
        self.count(now);
        self.slots.front().map(|(began, _)| now.since(*began))
    }

    /// How long it takes until fewer than `limit` count, if no more come.
    pub fn below_after(&mut self, limit: usize, now: T) -> Duration {
        let mut left = self.count(now);
        let over = self.length + self.slot;
        for (began, count) in &self.slots {
            if left < limit {
                break;
            }
            left -= *count as usize;
            if left < limit {
                return over.saturating_sub(now.since(*began));
            }
        }
        Duration::ZERO
    }

    /// Bytes of memory beside the struct.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<(T, u32)>()
    }

    /// One more.
    pub fn add(&mut self, now: T) {
        self.add_many(now, 1);
    }

    /// So many more. Gives the slot in which they count, for [`Window::take_back_from`].
    pub fn add_many(&mut self, now: T, many: u32) -> T {
        let slot = self.slot;
        match self.slots.back_mut() {
            // Threads may come a moment out of order: what is late counts as now.
            Some((began, count)) if now.since(*began) < slot => {
                *count = count.saturating_add(many);
                *began
            }
            _ => {
                self.count(now);
                self.slots.push_back((now, many));
                now
            }
        }
    }

    /// So many of this slot never happened. Nothing changes where the slot counts no more.
    pub fn take_back_from(&mut self, slot: T, many: u32)
    where
        T: PartialEq,
    {
        let Some(at) = self.slots.iter().rposition(|(began, _)| *began == slot) else { return };
        match self.slots[at].1.saturating_sub(many) {
            0 => drop(self.slots.remove(at)),
            left => self.slots[at].1 = left,
        }
    }

    /// So many of the newest never happened.
    pub fn take_back(&mut self, mut many: u32) {
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
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(100);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_entry_ends_by_itself_and_lasts_longer_when_it_is_renewed() {
        let mut map = TtlMap::new(8, TTL);
        map.insert("a", 1, 0);
        map.insert("b", 1, 0);
        *map.renew("b", 60, || 0) += 1;
        assert_eq!((map.get("a", 99), map.get("a", 100), map.get("b", 159)), (Some(&1), None, Some(&2)));
        assert_eq!(map.get_mut("b", 160), None);
        assert_eq!(*map.renew("b", 160, || 7), 7, "what was over began anew");
        assert_eq!((map.remove("a", 100), map.remove("b", 160), map.count(160)), (None, Some(7), 0));
        let mut kept = TtlMap::new(8, Duration::MAX);
        kept.insert("a", (), i64::MIN);
        assert!(kept.get("a", i64::MAX).is_some());
    }

    #[test]
    fn what_is_over_makes_room_first_and_then_what_was_written_longest_ago() {
        let mut map = TtlMap::new(8, TTL);
        for key in 0..8 {
            map.insert(key, (), if key % 2 == 0 { 0 } else { 50 });
        }
        map.insert(8, (), 100);
        let held = |map: &TtlMap<i32, (), i64>| (0..20).filter(|key| map.get(key, 110).is_some()).collect();
        let all: Vec<i32> = held(&map);
        assert_eq!(all, [1, 3, 5, 7, 8]);
        map.renew(1, 110, || ());
        (9..=12).for_each(|key| map.insert(key, (), 110));
        let all: Vec<i32> = held(&map);
        assert_eq!(all, [1, 5, 7, 8, 9, 10, 11, 12], "1 is as new as they are");
        map.insert(12, (), 110);
        assert_eq!(map.count(110), 8, "a key that is there needs no room");
    }

    #[test]
    fn a_map_for_one_holds_the_last() {
        let mut map = TtlMap::new(0, TTL);
        (0..5).for_each(|key| map.insert(key, (), 0));
        assert!(map.get(&4, 0).is_some());
        assert_eq!(map.count(0), 1);
    }

    #[test]
    fn a_clock_that_steps_back_ends_nothing_early() {
        let mut map = TtlMap::new(8, TTL);
        map.insert("a", (), 1_000);
        assert!(map.get("a", 5).is_some() && map.get("a", 1_100).is_none());
        let mut window = Window::new(HOUR);
        window.add(7_000);
        window.add(6_000);
        assert_eq!(window.count(5_000), 2);
        assert_eq!(window.count(7_000 + 3_660), 0);
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut window = Window::new(HOUR);
        window.add(at(59));
        window.add(at(60));
        window.add(at(1800));
        assert_eq!(window.count(at(59 + 3600)), 3, "not a second early");
        assert_eq!(window.count(at(59 + 3660)), 1);
        assert_eq!(window.count(at(9000)), 0);
        assert_eq!(window, Window::new(HOUR));
    }

    #[test]
    fn a_window_says_when_it_is_below_a_limit() {
        let mut window = Window::in_slots(Duration::from_secs(600), 12);
        [0, 0, 60, 120, 120].into_iter().for_each(|at: i64| window.add(at));
        let after = |window: &mut Window<i64>, limit| window.below_after(limit, 120).as_secs();
        assert_eq!([6, 5, 4, 3, 2, 1].map(|limit| after(&mut window, limit)), [0, 530, 530, 590, 650, 650]);
        assert_eq!(window.first(120), Some(Duration::from_secs(120)));
        assert_eq!((window.count(649), window.count(650), window.first(900)), (5, 3, None));
        let mut old = Window::new(HOUR).counting(7, 1_000);
        assert_eq!((old.count(1_000), old.below_after(1, 1_000).as_secs(), old.count(4_660)), (7, 3_660, 0));
    }

    #[test]
    fn the_newest_are_taken_back() {
        let mut window = Window::new(HOUR);
        [0, 0, 60, 120].into_iter().for_each(|at: i64| window.add(at));
        window.take_back(2);
        assert_eq!(window.slots, [(0, 2)]);
        window.take_back(9);
        assert_eq!(window, Window::new(HOUR));
    }

    #[test]
    fn what_is_taken_back_from_its_slot_leaves_all_others() {
        let mut window = Window::new(HOUR);
        let (first, later) = (window.add_many(0, 5), window.add_many(1_800, 5));
        assert_eq!((first, later, window.add_many(1_810, 2)), (0, 1_800, 1_800));
        window.take_back_from(first, 4);
        assert_eq!(window.slots, [(0, 1), (1_800, 7)]);
        window.take_back_from(first, 4);
        assert_eq!((window.count(3_000), window.slots.len()), (7, 1));
        window.take_back_from(first, 4);
        assert_eq!(window.count(3_700), 7, "a slot that is gone has nothing to give");
    }

    proptest! {
        #[test]
        fn a_map_never_holds_more_than_it_may_and_always_what_was_written_last(
            max in 1usize..40,
            writes in prop::collection::vec((0u8..80, 0i64..40), 1..200),
        ) {
            let mut map = TtlMap::new(max, TTL);
            let mut now = 0;
            for (key, pause) in writes {
                now += pause;
                map.insert(key, now, now);
                prop_assert!(map.entries.len() <= max);
                prop_assert_eq!(map.get(&key, now), Some(&now));
            }
            for key in 0..80 {
                prop_assert!(map.get(&key, now).is_none_or(|written| now - written < 100));
            }
        }

        #[test]
        fn a_window_forgets_nothing_early_and_all_a_slot_late_at_most(
            pauses in prop::collection::vec(0i64..300, 1..400),
        ) {
            let (mut window, mut times, mut now) = (Window::new(HOUR), Vec::new(), 0);
            for pause in pauses {
                now += pause;
                window.add(now);
                times.push(now);
                let younger = |age: i64| times.iter().filter(|at| now - **at < age).count();
                let count = window.count(now);
                prop_assert!((younger(3_600)..=younger(3_660)).contains(&count));
                prop_assert!(window.slots.len() <= SLOTS as usize + 2);
            }
        }
    }
}
