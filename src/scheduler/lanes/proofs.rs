//! Proofs: which idle lanes' hosts have answered lately. A lane is forgotten when it has nothing to do; that its
//! host speaks is not, or the next message to it would stand in line with those to hosts that nobody knows.

use std::collections::HashSet;
use std::sync::Arc;

/// How long a proof is remembered: this long at least, twice as long at most.
const PERIOD_SECS: i64 = 1_800;
/// Proofs of one period at most; with more the period ends before its time.
const PROOFS_MAX: usize = 10_000;

/// Lanes by name, in two generations.
#[derive(Debug)]
pub(super) struct Proofs {
    since: i64,
    young: HashSet<Arc<str>>,
    old: HashSet<Arc<str>>,
}

impl Proofs {
    pub(super) fn new() -> Proofs {
        Proofs { since: i64::MIN, young: HashSet::new(), old: HashSet::new() }
    }

    pub(super) fn remember(&mut self, name: &Arc<str>) {
        self.young.insert(name.clone());
        if self.young.len() >= PROOFS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.young.remove(name);
        self.old.remove(name);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.young.contains(name) || self.old.contains(name)
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
        proofs.remember(&"a.test".into());
        proofs.pass(PERIOD_SECS);
        assert!(proofs.has("a.test"));
        proofs.remember(&"b.test".into());
        proofs.pass(2 * PERIOD_SECS);
        assert!(!proofs.has("a.test") && proofs.has("b.test"));
        proofs.forget("b.test");
        assert!(!proofs.has("b.test"));
    }

    #[test]
    fn however_many_lanes_there_are_the_proofs_take_bounded_room_and_the_last_are_kept() {
        let mut proofs = Proofs::new();
        for n in 0..50_000 {
            proofs.remember(&format!("d{n}.test").into());
        }
        assert!(proofs.young.len() + proofs.old.len() <= 2 * PROOFS_MAX);
        assert!(proofs.has("d49999.test") && proofs.has("d41000.test"));
    }
}
