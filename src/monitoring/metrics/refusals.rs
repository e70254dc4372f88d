//! Refusals by their reply: class and enhanced code, without a lock and without more rows than there are.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mail::{Enhanced, Reply};

/// Replies that are counted apart. What Postrider says to clients has some 40; those beyond count as `other`.
const ROWS_MAX: usize = 64;

/// How often each was given.
#[derive(Debug)]
pub(super) struct Refusals {
    /// A reply ([`key_of`]; 0: free) and its count.
    rows: [(AtomicU64, AtomicU64); ROWS_MAX],
    /// Of 4xx, and of all others.
    beyond: [AtomicU64; 2],
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals { rows: std::array::from_fn(|_| Default::default()), beyond: Default::default() }
    }
}

/// Class, whether it has an enhanced code, and that: never 0.
fn key_of(reply: &Reply) -> u64 {
    let enhanced = reply.enhanced.map_or(0, |Enhanced(class, subject, detail)| {
        1 << 40 | u64::from(class) << 32 | u64::from(subject) << 16 | u64::from(detail)
    });
    let class = Some(reply.code / 100).filter(|class| matches!(class, 2 | 4 | 5)).unwrap_or(0);
    1 << 63 | u64::from(class) << 48 | enhanced
}

fn class(number: u64) -> &'static str {
    match number {
        2 => "2xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

impl Refusals {
    /// One more.
    pub(super) fn add(&self, reply: &Reply) {
        let key = key_of(reply);
        let is_it = |row: &&(AtomicU64, AtomicU64)| {
            let taken = row.0.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok() || taken == Err(key)
        };
        let row = self.rows.iter().find(is_it).map(|(_, count)| count);
        let beyond = &self.beyond[usize::from(reply.code / 100 != 4)];
        row.unwrap_or(beyond).fetch_add(1, Ordering::Relaxed);
    }

    /// Class, enhanced code (`none`, or `other` beyond the bound) and count of each that was given.
    pub(super) fn all(&self) -> Vec<(&'static str, String, u64)> {
        let row = |(key, count): &(AtomicU64, AtomicU64)| {
            let key = Some(key.load(Ordering::Relaxed)).filter(|key| *key != 0)?;
            let part = |shift: u32| key >> shift & 0xffff;
            let enhanced = match key >> 40 & 1 {
                0 => "none".to_owned(),
                _ => format!("{}.{}.{}", part(32) & 0xff, part(16), part(0)),
            };
            Some((class(part(48) & 0x7fff), enhanced, count.load(Ordering::Relaxed)))
        };
        let beyond = self.beyond.iter().zip(["4xx", "5xx"]).filter_map(|(count, class)| {
            let count = Some(count.load(Ordering::Relaxed)).filter(|count| *count > 0)?;
            Some((class, "other".to_owned(), count))
        });
        self.rows.iter().map_while(row).chain(beyond).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_has_a_row_until_there_are_too_many() {
        let refusals = Refusals::default();
        refusals.add(&Reply::new(550, Enhanced(5, 7, 1), "no"));
        refusals.add(&Reply::new(550, Enhanced(5, 7, 1), "again"));
        refusals.add(&Reply::new(451, Enhanced(4, 3, 0), "later"));
        refusals.add(&Reply::bare(500, "what"));
        let row = |class, enhanced: &str, count| (class, enhanced.to_owned(), count);
        assert_eq!(refusals.all(), [row("5xx", "5.7.1", 2), row("4xx", "4.3.0", 1), row("5xx", "none", 1)]);
        for number in 0..10_000 {
            refusals.add(&Reply::new(400 + 100 * (number % 2), Enhanced(4, number, 999), "hostile"));
        }
        let all = refusals.all();
        assert_eq!(all.len(), ROWS_MAX + 2);
        assert_eq!(all.iter().map(|(.., count)| count).sum::<u64>(), 10_004);
        assert_eq!(all[ROWS_MAX].1, "other");
    }
}
