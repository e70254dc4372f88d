//! What must hold of the lanes whenever nobody is at them, for tests.

use std::sync::Arc;

use crate::mail::Priority;

use super::{Lane, Lanes, Turn, Turns, may_start};

impl Lanes {
    /// Lanes whose turn can come now and the priority of it. Left out are those that wait for a doubtful lane's
    /// share, and those whose crowded time is over and that have not been woken.
    pub(crate) fn ready(&self, now: i64) -> Vec<(Arc<str>, Priority)> {
        let ready = |(name, lane): &(&Arc<str>, &Lane)| {
            let is_woken =
                lane.crowded.is_none_or(|(until, _)| !self.alarms.contains(&(until, (*name).clone())));
            let may_doubt = lane.failures == 0 || self.may_doubt();
            may_start(lane, &self.settings, now) && may_doubt && is_woken
        };
        let lanes = self.lanes.iter().filter(ready);
        lanes.filter_map(|(name, lane)| Some((name.clone(), lane.waiting.front()?.priority))).collect()
    }

    /// Entries in the rings and on the bench, void ones too.
    pub(in crate::scheduler) fn turns_kept(&self) -> usize {
        self.rings.entries().count() + self.bench.entries().count()
    }

    /// Recounts what is kept as running sums.
    pub(crate) fn check(&self) {
        let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        assert_eq!(waiting, self.waiting, "waiting");
        let suspect: usize = self.lanes.values().filter(|lane| lane.failures > 0).map(|lane| lane.busy).sum();
        assert_eq!(suspect, self.suspect_busy, "suspect_busy");
        for (name, lane) in &self.lanes {
            let held = |turns: &Turns, benched| {
                let held = |(priority, at, ticket): &(Priority, &str, u64)| {
                    let is_held = |turn: Turn| {
                        (turn.priority, turn.ticket, turn.benched) == (*priority, *ticket, benched)
                    };
                    *at == &**name && lane.turn.is_some_and(is_held)
                };
                turns.entries().filter(held).count()
            };
            let stands = held(&self.rings, false) + held(&self.bench, true);
            assert_eq!(usize::from(lane.turn.is_some()), stands, "{name} in the rings or on the bench");
            let mut line = lane.waiting.iter().zip(lane.waiting.iter().skip(1));
            assert!(line.all(|(one, next)| one.priority >= next.priority), "{name} is out of order");
            let asked = self.hungry.iter().filter(|asked| *asked == name).count();
            assert_eq!(usize::from(lane.asked), asked, "{name} among the hungry");
            let will_ask =
                lane.asked || !lane.waiting.is_empty() || self.alarms.iter().any(|(_, at)| at == name);
            assert!(!lane.more || will_ask, "{name} has more and will never ask for it");
        }
    }
}
