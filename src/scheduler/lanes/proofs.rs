//! Proofs: which idle lanes' hosts have answered lately. A lane is forgotten when it has nothing to do; that its
//! host speaks is not, or the next message to it would stand in line with those to hosts that nobody knows.

use std::collections::HashMap;
use std::sync::Arc;

/// How long a proof is remembered: this long at least, twice as long at most.
const PERIOD_SECS: i64 = 1_800;
/// Proofs of one period at most; with more the period ends before its time.
const PROOFS_MAX: usize = 10_000;

/// Lanes by name, and how many transactions at once each had earned, in two generations.
#[derive(Debug)]
pub(super) struct Proofs {
    since: i64,
    young: HashMap<Arc<str>, usize>,
    old: HashMap<Arc<str>, usize>,
}

impl Proofs {
    pub(super) fn new() -> Proofs {
        Proofs { since: i64::MIN, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn remember(&mut self, name: &Arc<str>, ramp: usize) {
        self.young.insert(name.clone(), ramp);
        if self.young.len() >= PROOFS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.young.remove(name);
        self.old.remove(name);
    }

    pub(super) fn of(&self, name: &str) -> Option<usize> {
        self.young.get(name).or_else(|| self.old.get(name)).copied()
    }

    /// Time passes.
    pub(super) fn pass(&mut self, now: i64) {
        if now >= self.since.saturating_add(PERIOD_SECS) {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_remembered_for_half_an_hour_and_not_for_ever() {
        let mut proofs = Proofs::new();
        proofs.pass(0);
        proofs.remember(&"a.test".into(), 4);
        proofs.pass(PERIOD_SECS);
        assert_eq!(proofs.of("a.test"), Some(4));
        proofs.remember(&"b.test".into(), 1);
        proofs.pass(2 * PERIOD_SECS);
        assert_eq!((proofs.of("a.test"), proofs.of("b.test")), (None, Some(1)));
        proofs.forget("b.test");
        assert_eq!(proofs.of("b.test"), None);
    }

    #[test]
    fn however_many_lanes_there_are_the_proofs_take_bounded_room_and_the_last_are_kept() {
        let mut proofs = Proofs::new();
        for n in 0..50_000 {
            proofs.remember(&format!("d{n}.test").into(), 1);
        }
        assert!(proofs.young.len() + proofs.old.len() <= 2 * PROOFS_MAX);
        assert!(proofs.of("d49999.test").is_some() && proofs.of("d41000.test").is_some());
    }
}
