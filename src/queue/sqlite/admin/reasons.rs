//! What was said, grouped by the reason in it ([`crate::mail::reason`]): the one grouping of `queue failures`,
//! `report` and the status page (the view `failures` does what SQL can). However many different replies there are, it
//! is bounded.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

use crate::mail::reason;

/// Groups that are told apart; what is beyond them counts together, one group for each `kind`.
pub(super) const REASONS_MAX: usize = 10_000;
/// The reason of those.
pub(super) const OTHERS: &str = "(other reasons)";
/// Whole replies whose group is remembered, so that it need not be found out again: the same comes often.
const REPLIES_KNOWN_MAX: usize = 65_536;

/// Groups by what differs otherwise (`K`: a state, whose words they are) and by the reason.
pub(super) struct Reasons<K, G> {
    groups: Vec<((K, String), G)>,
    places: HashMap<(K, String), usize>,
    /// By the hash of kind and reply.
    known: HashMap<u64, usize>,
    hasher: RandomState,
}

impl<K: Clone + Eq + Hash, G: Default> Reasons<K, G> {
    pub(super) fn new() -> Reasons<K, G> {
        let (places, known) = (HashMap::new(), HashMap::new());
        Reasons { groups: Vec::new(), places, known, hasher: RandomState::new() }
    }

    /// The group of this reply.
    pub(super) fn of(&mut self, kind: K, reply: &str) -> &mut G {
        self.at(kind, reply).1
    }

    /// The same, and its number.
    pub(super) fn at(&mut self, kind: K, reply: &str) -> (usize, &mut G) {
        let hash = self.hasher.hash_one((&kind, reply));
        let place = match self.known.get(&hash) {
            Some(place) => *place,
            None => {
                let place = self.place(kind, reply);
                if self.known.len() < REPLIES_KNOWN_MAX {
                    self.known.insert(hash, place);
                }
                place
            }
        };
        (place, &mut self.groups[place].1)
    }

    fn place(&mut self, kind: K, reply: &str) -> usize {
        let mut key = (kind, reason(reply));
        if self.groups.len() >= REASONS_MAX && !self.places.contains_key(&key) {
            key.1 = OTHERS.to_owned();
        }
        let groups = &mut self.groups;
        *self.places.entry(key).or_insert_with_key(|key| {
            groups.push((key.clone(), G::default()));
            groups.len() - 1
        })
    }

    /// All groups, in the order in which they were met.
    pub(super) fn into_groups(self) -> impl Iterator<Item = ((K, String), G)> {
        self.groups.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters alone: a number would be the same reason.
    fn letters(mut number: usize) -> String {
        let mut text = String::new();
        for _ in 0..5 {
            text.push(char::from(b'a' + (number % 26) as u8));
            number /= 26;
        }
        text
    }

    #[test]
    fn reasons_and_replies_beyond_the_bound_take_no_room() {
        let mut reasons = Reasons::<&str, u64>::new();
        for number in 0..REASONS_MAX + 500 {
            *reasons.of("failed", &format!("550 {}", letters(number))) += 1;
        }
        // Each of a reason that is known, and of one that is not, in other words than before.
        for number in 0..REPLIES_KNOWN_MAX {
            *reasons.of("failed", &format!("550 {} {number}", letters(number % 7))) += 1;
        }
        *reasons.of("deferred", "450 new") += 1;
        assert_eq!(reasons.known.len(), REPLIES_KNOWN_MAX);
        assert_eq!(reasons.places.len(), reasons.groups.len());
        let groups: Vec<_> = reasons.into_groups().collect();
        // One more for each kind.
        assert_eq!(groups.len(), REASONS_MAX + 2);
        let of = |kind: &str| {
            groups.iter().find(|((of, reason), _)| *of == kind && reason == OTHERS).map(|(_, count)| *count)
        };
        let all: u64 = groups.iter().map(|(_, count)| count).sum();
        assert_eq!(of("deferred"), Some(1));
        assert!(of("failed").is_some_and(|count| count >= 500), "{:?}", of("failed"));
        assert_eq!(all as usize, REASONS_MAX + 500 + REPLIES_KNOWN_MAX + 1, "each counts");
    }

    #[test]
    fn one_reason_is_one_group_of_each_kind() {
        let mut reasons = Reasons::<&str, u64>::new();
        for (kind, reply) in [
            ("remote", "451 4.7.1 <ann@a.test> is over quota"),
            ("remote", "451 4.7.1 <bob@b.test> is over quota"),
            ("remote", "451 4.7.1 <ann@a.test> is over quota"),
            ("local", "451 4.7.1 <ann@a.test> is over quota"),
        ] {
            *reasons.of(kind, reply) += 1;
        }
        let groups: Vec<_> = reasons.into_groups().collect();
        let reason = "451 4.7.1 <…> is over quota".to_owned();
        assert_eq!(groups, [(("remote", reason.clone()), 3), (("local", reason), 1)]);
    }
}
