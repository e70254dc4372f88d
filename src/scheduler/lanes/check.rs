//! What must hold of the lanes whenever nobody is at them, for tests.

use std::sync::Arc;

use crate::mail::Priority;

use super::{Lane, Lanes, Standing, Turn, may_start};

impl Lanes {
    /// Lanes whose turn can come now and the priority of it. Left out are those whose quota of workers is used
    /// up, and those whose time at the limit is over and that have not been woken.
    pub(crate) fn ready(&self, now: i64) -> Vec<(Arc<str>, Priority)> {
        let ready = |(name, lane): &(&Arc<str>, &Lane)| {
            let is_woken =
                lane.at_limit.is_none_or(|(until, _)| !self.wakes.contains(&(until, (*name).clone())));
            let has_quota = self.quota.may_start(lane.standing());
            may_start(lane, &self.settings, now) && has_quota && is_woken
        };
        let lanes = self.lanes.iter().filter(ready);
        lanes.filter_map(|(name, lane)| Some((name.clone(), lane.waiting.front()?.priority))).collect()
    }

    /// Whether one more worker may be given to this lane.
    pub(crate) fn has_quota(&self, name: &str) -> bool {
        let standing = self.lanes.get(name).map_or(Standing::Untested, Lane::standing);
        self.quota.may_start(standing)
    }

    /// Lanes, and idle ones of which it is remembered that they answered.
    pub(in crate::scheduler) fn lanes_kept(&mut self, now: i64) -> (usize, usize) {
        (self.lanes.len(), self.responsive.count(now))
    }

    /// Entries among the turns, stale ones too.
    pub(in crate::scheduler) fn turns_kept(&self) -> usize {
        self.turns.iter().map(|turns| turns.entries().count()).sum()
    }

    /// Recounts what is kept as running sums.
    pub(crate) fn check(&self) {
        let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        assert_eq!(waiting, self.waiting, "waiting");
        for standing in Standing::ALL {
            let of_standing = |lane: &&Lane| lane.standing() == standing;
            let busy: usize = self.lanes.values().filter(of_standing).map(|lane| lane.jobs_in_flight).sum();
            assert_eq!(busy, self.quota.in_flight(standing), "{standing:?} lanes' jobs");
        }
        for (name, lane) in &self.lanes {
            let held = |standing: Standing| {
                let held = move |(priority, at, number): &(Priority, &str, u64)| {
                    let is_held = |turn: Turn| {
                        (turn.priority, turn.number, turn.standing) == (*priority, *number, standing)
                    };
                    *at == &**name && lane.turn.is_some_and(is_held)
                };
                self.turns[standing as usize].entries().filter(held).count()
            };
            let stands: usize = Standing::ALL.into_iter().map(held).sum();
            assert_eq!(usize::from(lane.turn.is_some()), stands, "{name} among the turns");
            assert!(
                lane.turn.is_none_or(|turn| turn.standing == lane.standing()),
                "{name} among the wrong turns"
            );
            let is_heard = lane.jobs_in_flight == 0 || lane.standing() != Standing::Responsive;
            assert!(is_heard || lane.watched, "{name} may be silent for ever");
            let mut line = lane.waiting.iter().zip(lane.waiting.iter().skip(1));
            assert!(line.all(|(one, next)| one.place() < next.place()), "{name} is out of order");
            let asked = self.to_refill.iter().filter(|asked| *asked == name).count();
            assert_eq!(usize::from(lane.refill_requested), asked, "{name} in to_refill");
            let will_ask = lane.refill_requested
                || !lane.waiting.is_empty()
                || self.wakes.iter().any(|(_, at)| at == name);
            assert!(!lane.more || will_ask, "{name} has more and will never ask for it");
        }
    }
}
