//! Worker quota: how many of the workers the lanes of each standing may have (pure).
//!
//! A host that accepts connections and never speaks holds its worker until the deadline, minutes later, and nobody can
//! tell it from a good one before. So workers are divided by what is known of a lane's host:
//!
//! - *responsive*: it has answered lately. Any worker that is free.
//! - *untested*: nothing is known, or it has fallen silent. All but those that are reserved for responsive lanes, so
//!   that however many silent hosts there are, responsive ones find a worker.
//! - *failing*: the last try failed. The same, and half of the workers at most.
//!
//! Reserved are as many workers as responsive lanes had at once in the last minute, but either side has an eighth of
//! all: a relay that is busy with good hosts is as busy with them when silent ones come, and one with ten thousand new
//! domains and nothing else puts nearly all of its workers on them. (A fixed half for each side needs no memory, and
//! was measured with `cargo bench --bench silent`: mail to a thousand new hosts took 1.7 times as long.)

/// How long the most that responsive lanes had at once is remembered: this long at least, twice as long at most.
const PERIOD_SECS: i64 = 30;

/// What is known of a lane's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It has answered lately.
    Responsive,
    /// It has not, or it is silent now.
    Untested,
    /// The last try failed.
    Failing,
}

impl Standing {
    pub(super) const ALL: [Standing; 3] = [Standing::Responsive, Standing::Untested, Standing::Failing];
}

/// Jobs under way, and how many there may be.
#[derive(Debug)]
pub(super) struct WorkerQuota {
    workers: usize,
    /// By standing.
    in_flight: [usize; 3],
    /// Since when `most` counts.
    since: i64,
    /// The most that responsive lanes had at once: in this period, and in the one before.
    most: usize,
    most_before: usize,
}

impl WorkerQuota {
    pub(super) fn new(workers: usize) -> WorkerQuota {
        WorkerQuota { workers, in_flight: [0; 3], since: i64::MIN, most: 0, most_before: 0 }
    }

    pub(super) fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
    }

    /// Whether a lane of this standing may have one more worker, should one be free.
    pub(super) fn may_start(&self, standing: Standing) -> bool {
        let others = self.in_flight(Standing::Untested) + self.in_flight(Standing::Failing);
        let has_room = others < self.workers.saturating_sub(self.reserved()).max(1);
        match standing {
            Standing::Responsive => true,
            Standing::Untested => has_room,
            Standing::Failing => has_room && self.in_flight(Standing::Failing) < (self.workers / 2).max(1),
        }
    }

    /// Workers that only responsive lanes get.
    fn reserved(&self) -> usize {
        let least = (self.workers / 8).max(1);
        self.most.max(self.most_before).clamp(least, self.workers.saturating_sub(least).max(least))
    }

    pub(super) fn in_flight(&self, standing: Standing) -> usize {
        self.in_flight[standing as usize]
    }

    /// A job starts.
    pub(super) fn starts(&mut self, standing: Standing) {
        self.in_flight[standing as usize] += 1;
        self.see();
    }

    /// A job ended.
    pub(super) fn ends(&mut self, standing: Standing) {
        self.in_flight[standing as usize] = self.in_flight(standing).saturating_sub(1);
    }

    /// A lane with so many jobs under way has another standing from now on.
    pub(super) fn moves(&mut self, from: Standing, to: Standing, in_flight: usize) {
        self.in_flight[from as usize] = self.in_flight(from).saturating_sub(in_flight);
        self.in_flight[to as usize] += in_flight;
        self.see();
    }

    /// Time passes.
    pub(super) fn pass(&mut self, now: i64) {
        if now < self.since.saturating_add(PERIOD_SECS) {
            return;
        }
        // After a long pause both are over.
        let is_next = now < self.since.saturating_add(2 * PERIOD_SECS);
        self.most_before = if is_next { self.most } else { 0 };
        (self.since, self.most) = (now, 0);
        self.see();
    }

    fn see(&mut self) {
        self.most = self.most.max(self.in_flight(Standing::Responsive));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts what may start; says how many did.
    fn start_all(quota: &mut WorkerQuota, standing: Standing) -> usize {
        let before = quota.in_flight.iter().sum::<usize>();
        let mut in_flight = before;
        while in_flight < quota.workers && quota.may_start(standing) {
            quota.starts(standing);
            in_flight += 1;
        }
        in_flight - before
    }

    #[test]
    fn new_hosts_get_all_but_an_eighth_and_failing_ones_half() {
        let mut quota = WorkerQuota::new(128);
        assert_eq!(start_all(&mut quota, Standing::Failing), 64);
        assert_eq!(start_all(&mut quota, Standing::Untested), 48);
        assert_eq!(start_all(&mut quota, Standing::Responsive), 16);
        let mut quota = WorkerQuota::new(128);
        assert_eq!(start_all(&mut quota, Standing::Untested), 112);
        assert!(!quota.may_start(Standing::Failing), "the reserved ones are not theirs either");
    }

    #[test]
    fn what_responsive_lanes_had_lately_is_reserved_for_them_for_a_while() {
        let mut quota = WorkerQuota::new(128);
        quota.pass(1_000);
        (0..40).for_each(|_| quota.starts(Standing::Responsive));
        (0..40).for_each(|_| quota.ends(Standing::Responsive));
        assert_eq!(start_all(&mut quota, Standing::Untested), 88);
        quota.pass(1_030);
        assert!(!quota.may_start(Standing::Untested));
        quota.pass(1_060);
        assert_eq!(start_all(&mut quota, Standing::Untested), 24, "they had no use for them in between");
    }

    #[test]
    fn an_eighth_is_left_however_much_the_responsive_had() {
        let mut quota = WorkerQuota::new(128);
        (0..128).for_each(|_| quota.starts(Standing::Responsive));
        (0..128).for_each(|_| quota.ends(Standing::Responsive));
        assert_eq!(start_all(&mut quota, Standing::Failing), 16);
        assert!(!quota.may_start(Standing::Untested), "it is for both together");
    }

    #[test]
    fn few_workers_are_divided_too_and_one_serves_everybody() {
        let parts = |workers| {
            let mut quota = WorkerQuota::new(workers);
            let untested = start_all(&mut quota, Standing::Untested);
            (untested, start_all(&mut quota, Standing::Responsive))
        };
        assert_eq!([parts(1), parts(2), parts(3), parts(8)], [(1, 0), (1, 1), (2, 1), (7, 1)]);
    }

    #[test]
    fn a_lane_takes_its_jobs_along_when_its_standing_changes() {
        let mut quota = WorkerQuota::new(8);
        (0..3).for_each(|_| quota.starts(Standing::Responsive));
        quota.moves(Standing::Responsive, Standing::Failing, 3);
        assert_eq!(quota.in_flight, [0, 0, 3]);
        assert!(quota.may_start(Standing::Failing));
        quota.ends(Standing::Failing);
        quota.moves(Standing::Failing, Standing::Responsive, 2);
        assert_eq!(quota.in_flight, [2, 0, 0]);
    }
}
