//! One lane: who waits in it, and how many of its jobs may be under way.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::SchedulerSettings;
use crate::mail::{Domain, Priority};
use crate::queue::{Due, DueCursor, Place};

use super::Lanes;
use super::worker_quota::Standing;

/// How long after its backoff the trouble of a lane is remembered in which nothing waits. Longer than the longest
/// wait of a message by default, so that what is tried again finds its lane as it left it.
const TROUBLE_KEPT_SECS: i64 = 6 * 3600;

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// By priority, the highest first, and in the order in which they are due.
    pub(super) waiting: VecDeque<Due>,
    /// Jobs under way.
    pub(super) jobs_in_flight: usize,
    /// Troubles in a row; 0 is healthy.
    pub(super) failures: u32,
    pub(super) backoff_until: i64,
    /// When that was decided.
    pub(super) backed_off_at: i64,
    /// That was for its TLS policy alone.
    pub(super) for_policy: bool,
    /// Its backoff was ended by a kick: should the host fail again, that is no step of the schedule.
    pub(super) kicked: bool,
    /// Its host has answered lately, whatever it said. Until then the lane has one job at a time, and only a
    /// part of the workers (`worker_quota`): its host may be one that accepts connections and never speaks.
    pub(super) responsive: bool,
    /// Jobs at once that it has earned: each answer doubles it, trouble takes it back to one.
    pub(super) earned: usize,
    /// Since when its host is silent: since a job ended, or since one began while there was no other; none: no job
    /// began yet.
    pub(super) silent_since: Option<i64>,
    /// Stands among those whose silence is watched.
    pub(super) watched: bool,
    /// Jobs at once, where the operator says so in `[[destination]]`.
    pub(super) at_once: Option<usize>,
    /// Until then it has at most so many jobs at once: its hosts are at their limit.
    pub(super) at_limit: Option<(i64, usize)>,
    /// The database may hold due recipients that are not here.
    pub(super) more: bool,
    /// All that is due before this place is here or in flight, or was seen to; only of use in a lane of many domains.
    pub(super) read_to: DueCursor,
    /// In a lane of one domain: what comes before this place is suspended, in line or in flight, and is not read again.
    pub(super) passed: Option<Place>,
    /// From here its rows are read once more when the read under way is through or has filled the line: somebody may
    /// have changed what it is past.
    pub(super) again: Option<Place>,
    /// How often something was left to the database, so that a read that it crossed is known.
    pub(super) times_left: u64,
    /// Is in `to_refill`.
    pub(super) refill_requested: bool,
    /// Recipients in flight, until their settlement is on disk.
    pub(super) recipients_in_flight: usize,
    /// Its place among the turns of its standing. Entries there with other numbers are stale.
    pub(super) turn: Option<Turn>,
    /// Its domain, where the lane is one domain's; none for a route.
    pub(super) domain: Option<Domain>,
}

/// A lane's place among those that wait for a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) priority: Priority,
    pub(super) number: u64,
    /// Among whose turns it waits.
    pub(super) standing: Standing,
}

/// How a lane is at this moment: what an operator is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneState {
    /// Its name.
    pub lane: Arc<str>,
    /// Troubles in a row; 0 is healthy.
    pub failures: u32,
    /// It backs off until then: a steady second in [`Lanes`], Unix seconds as [`crate::scheduler::Scheduler`] gives it.
    pub backoff_until: i64,
    /// Jobs under way.
    pub jobs_in_flight: usize,
    /// Jobs that may be under way at once.
    pub limit: usize,
    /// Recipients in line in memory.
    pub waiting: usize,
    /// More may wait in the database.
    pub more: bool,
}

impl Lane {
    /// `earned`: where its host is known to answer, how many jobs at once the lane had earned.
    pub(super) fn new(settings: &SchedulerSettings, name: &str, earned: Option<usize>) -> Lane {
        let (responsive, earned) = (earned.is_some(), earned.unwrap_or(1));
        Lane { at_once: given(settings, name), responsive, earned, ..Lane::default() }
    }

    /// It has nothing to do, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        let is_still = self.jobs_in_flight == 0 && self.recipients_in_flight == 0;
        is_still && self.waiting.is_empty() && !self.more && !self.refill_requested && self.turn.is_none()
    }

    /// When the trouble of a lane that has nothing to do is forgotten.
    pub(super) fn trouble_over_at(&self) -> i64 {
        self.backoff_until.saturating_add(TROUBLE_KEPT_SECS)
    }

    /// What is known of its host.
    pub(super) fn standing(&self) -> Standing {
        match (self.failures, self.responsive) {
            (0, true) => Standing::Responsive,
            (0, false) => Standing::Untested,
            _ => Standing::Failing,
        }
    }

    /// Its host answered. True where that ends its trouble, as only a message does that it took.
    pub(super) fn answers(&mut self, took_message: bool, settings: &SchedulerSettings) -> bool {
        let recovers = took_message && self.failures > 0;
        if recovers {
            (self.failures, self.backoff_until, self.kicked) = (0, 0, false);
        }
        if self.failures == 0 {
            self.responsive = true;
            self.earned = self.earned.saturating_mul(2).min(self.most(settings));
        }
        recovers
    }

    /// Troubles in a row, one more counted.
    pub(super) fn failures_now(&self) -> u32 {
        if self.kicked { self.failures.max(1) } else { self.failures.saturating_add(1) }
    }

    /// Its host is in trouble: nothing is tried before `until`.
    pub(super) fn backs_off(&mut self, until: i64, for_policy: bool, now: i64) {
        self.failures = self.failures_now();
        self.kicked = false;
        (self.responsive, self.earned) = (false, 1);
        (self.backoff_until, self.backed_off_at, self.for_policy) = (until, now, for_policy);
    }

    /// It backs off, and only from mail that heeds its TLS policy: the other is all that waits here.
    pub(super) fn lets_pass(&self, now: i64) -> bool {
        self.for_policy && self.backoff_until > now
    }

    /// What it may have at once when it has earned it.
    fn most(&self, settings: &SchedulerSettings) -> usize {
        self.at_once.unwrap_or(settings.connections_per_destination)
    }
}

/// What the operator says of this lane.
pub(super) fn given(settings: &SchedulerSettings, lane: &str) -> Option<usize> {
    settings.destinations.of_lane(lane).and_then(|destination| destination.connections)
}

pub(super) fn may_start(lane: &Lane, settings: &SchedulerSettings, now: i64) -> bool {
    !lane.waiting.is_empty()
        && lane.jobs_in_flight < at_once(lane, settings, now)
        && (lane.backoff_until <= now || lane.lets_pass(now))
}

/// How many jobs it may have at once just now.
fn at_once(lane: &Lane, settings: &SchedulerSettings, now: i64) -> usize {
    let limit = limit(lane, settings);
    match lane.at_limit {
        Some((until, room)) if now < until => room.min(limit),
        _ => limit,
    }
}

/// One at a time until its host has answered and the trouble is over, then twice as many with each answer: what
/// has just come back, a relay of ours above all, is not run over by all that waited for it.
fn limit(lane: &Lane, settings: &SchedulerSettings) -> usize {
    match lane.standing() {
        Standing::Responsive => lane.most(settings).min(lane.earned),
        Standing::Untested | Standing::Failing => 1,
    }
}

impl Lanes {
    /// How every lane is that somebody waits in, that works or that is in trouble; in no order.
    pub fn states(&self) -> Vec<LaneState> {
        self.lanes.iter().map(|(name, lane)| self.state_of(name, lane)).collect()
    }

    /// How one lane is. One that has nothing to do is healthy, and has the limit that it can come to.
    pub fn state(&self, name: &str) -> LaneState {
        match self.lanes.get_key_value(name) {
            Some((name, lane)) => self.state_of(name, lane),
            None => {
                let lane = Lane::new(&self.settings, name, Some(usize::MAX));
                self.state_of(&name.into(), &lane)
            }
        }
    }

    fn state_of(&self, name: &Arc<str>, lane: &Lane) -> LaneState {
        LaneState {
            lane: name.clone(),
            failures: lane.failures,
            backoff_until: lane.backoff_until,
            jobs_in_flight: lane.jobs_in_flight,
            limit: limit(lane, &self.settings),
            waiting: lane.waiting.len(),
            more: lane.more,
        }
    }
}
