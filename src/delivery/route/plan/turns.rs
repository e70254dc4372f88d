//! Whose turn it is among hosts of which an attempt has room for a few.
//!
//! The best is in every attempt. The others follow each other from one attempt to the next, so that each is reached.
//! Nothing is stored: the number of the attempt says whose turn it is. Within an attempt hosts are tried in the order
//! of their preference all the same (RFC 5321 §5.1).

/// All of them, which come best first, in the order of their turns: whoever takes the first `places` of them has the
/// best, and those that the attempt before had no room for.
pub(super) fn in_turn<T>(mut all: Vec<T>, places: usize, attempts: u32) -> Vec<T> {
    if all.len() > places {
        let others = &mut all[1..];
        let first = start(others.len(), places - 1, attempts);
        others.rotate_left(first);
    }
    all
}

/// Where the turn begins among so many, each attempt taking `places`.
pub(super) fn start(count: usize, places: usize, attempts: u32) -> usize {
    // A usize has 32 bits at least; the product of the remainders fits into twice as many.
    let (count, places) = (count.max(1) as u64, places as u64);
    (u64::from(attempts) % count * places % count) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_and_the_best_always() {
        for count in 1..60 {
            for max in 2..=20 {
                let all: Vec<usize> = (0..count).collect();
                let rounds = (count as u32).div_ceil(max as u32 - 1);
                for first in [0, 1, 7, u32::MAX - rounds] {
                    let mut reached = std::collections::BTreeSet::new();
                    for attempts in first..first + rounds {
                        let mut now = in_turn(all.clone(), max, attempts);
                        now.truncate(max);
                        assert_eq!((now.len(), now[0]), (count.min(max), 0));
                        let new: Vec<usize> =
                            now.iter().filter(|one| !reached.contains(*one)).copied().collect();
                        let unreached = count - reached.len();
                        // What was not reached before comes first.
                        assert!(new.len() >= unreached.min(max - 1), "{count} {max} {attempts}: {now:?}");
                        reached.extend(now);
                    }
                    assert_eq!(reached.len(), count, "{count} hosts, {max} at a time");
                }
            }
        }
    }
}
