//! What must hold in every world, as seen from outside the scheduler.

use std::sync::Arc;

use crate::clock::STEP_SECS;
use crate::config::InDoubt;
use crate::mail::Priority;
use crate::queue::{Job, RecipientId, Waits};

use super::hosts::DOMAINS;
use super::world::{Flight, World};

/// The reader looks for recipients past their lifetime once a minute.
const EXPIRY_SLACK_SECS: i64 = 61;

impl World<'_> {
    /// The jobs under way, without those that only bounce.
    fn under_way(&self) -> impl Iterator<Item = &Flight> {
        self.flying.iter().filter(|flight| !flight.job.expired)
    }

    /// A job that starts breaks no limit, and no worker has one of its recipients already.
    pub(super) fn may_start(&self, job: &Job) {
        for recipient in job.recipient_ids() {
            let is_in = |job: &Job| job.recipient_ids().any(|other| other == recipient);
            assert!(!self.flying.iter().any(|flight| is_in(&flight.job)), "{recipient:?} flies twice");
            let settling = self.unwritten.contains(&recipient);
            assert!(!settling, "{recipient:?} is tried again before its settlement is on disk");
        }
        if job.expired {
            return;
        }
        let ids: Vec<RecipientId> = job.recipient_ids().collect();
        let suspended = |row: &Waits| ids.contains(&row.recipient) && self.is_suspended(row);
        if !self.suspended.is_empty()
            && let Some(row) = self.queue.waiting().into_iter().find(suspended)
        {
            panic!("{row:?} is suspended and has a turn");
        }
        let workers = self.settings.workers;
        let busy = self.under_way().filter(|flight| flight.job.lane == job.lane).count();
        let earned = self.earned.get(&job.lane).copied().unwrap_or(1);
        if let Some(backoff_until) = self.troubled.get(&job.lane) {
            assert!(*backoff_until <= self.clock.steady(), "{} backs off and has a turn", job.lane);
            assert!(busy == 0, "{} is failing and has more than one at once", job.lane);
            let failing = self.under_way().filter(|flight| self.troubled.contains_key(&flight.job.lane));
            assert!(failing.count() < (workers / 2).max(1), "failing lanes have too many workers");
        }
        assert!(busy < earned, "{busy} and one more at once in {}, which has earned {earned}", job.lane);
        // However many hosts never answer, some workers are left for those that do.
        if !self.earned.contains_key(&job.lane) && workers > 1 {
            let untested = self.under_way().filter(|flight| !self.earned.contains_key(&flight.job.lane));
            let reserved = (workers / 8).max(1);
            assert!(untested.count() < workers - reserved, "lanes that never answered have too many workers");
        }
    }

    /// No lane has a turn before a more urgent one. Among lanes of equal priority, one that is ready waits for at most
    /// twice as many turns as there are lanes: twice, since a lane takes a new place when its quota class changes.
    pub(super) fn is_fair(&mut self, job: &Job, ready: &[(Arc<str>, Priority)]) {
        if job.expired {
            return;
        }
        // A lane whose wait at a host's limit has just ended is not in `ready`; it is not checked.
        let taken = ready.iter().find(|(lane, _)| *lane == job.lane);
        let Some((_, priority)) = taken else { return };
        let highest = ready.iter().map(|(_, priority)| priority).max();
        assert!(Some(priority) >= highest, "{} has a turn before the more urgent", job.lane);
        self.passed_over.retain(|lane, _| ready.contains(lane));
        for lane in ready.iter().filter(|(_, equal)| equal == priority) {
            let turns = self.passed_over.entry(lane.clone()).or_default();
            *turns = if lane.0 == job.lane { 0 } else { *turns + 1 };
            assert!(*turns <= 2 * (DOMAINS + 2), "{} was ready and passed over {turns} times", lane.0);
        }
    }

    /// Whether something means it that somebody has suspended.
    fn is_suspended(&self, row: &Waits) -> bool {
        let by = row.submitted.as_ref();
        let (user, tag) = (by.and_then(|by| by.user.as_deref()), by.and_then(|by| by.tag.as_deref()));
        self.suspended.iter().any(|other| other.whose.covers(row.domain.as_str(), user, tag))
    }

    /// Gives a recipient that is due or past its lifetime although nothing keeps it from being tried or bounced.
    pub(super) fn overdue(&self) -> Option<String> {
        if self.all_hang() {
            return None;
        }
        let lanes = self.lanes.lock().unwrap();
        let overdue = |row: &Waits| {
            let lane = lanes.lane_of(&row.domain);
            let flies = |flight: &Flight| flight.job.recipient_ids().any(|id| id == row.recipient);
            if row.held && !row.to_bounce || self.flying.iter().any(flies) {
                return None;
            }
            let backs_off = self.troubled.get(&lane).is_some_and(|until| *until >= self.clock.steady());
            // Jobs with silent hosts may use up the lane's limit or its quota of workers.
            let hangs = self.under_way().any(|flight| flight.job.lane == lane) || !lanes.has_quota(&lane);
            let is_due =
                row.next < self.now && !backs_off && !hangs && !row.to_bounce && !self.is_suspended(row);
            let ends = row.to_bounce || row.ends_at + EXPIRY_SLACK_SECS < self.clock.confirmed();
            (is_due || ends).then(|| format!("in {lane}: {row:?}"))
        };
        self.queue.waiting().iter().find_map(overdue)
    }

    /// The invariants of every moment.
    pub(super) fn check(&self) {
        self.lanes.lock().unwrap().check();
        assert!(self.flying.len() <= self.settings.workers);
        let (waiting, finished) = self.queue.counts();
        assert_eq!(waiting + finished, self.accepted, "{waiting} wait, {finished} are finished");
    }

    /// The invariants of the tables at every moment: the view `stuck` is empty.
    pub(super) fn check_tables(&self) {
        let mut wrong = self.queue.wrong();
        // Hours may have passed without a run, so a recipient may well be past its lifetime.
        wrong.retain(|what| !what.starts_with("an hour past its lifetime"));
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    /// The invariants once every thread has run out of work: no recipient is late, and the view `stuck` is empty.
    pub(super) fn is_settled(&self) {
        let late = self.overdue();
        assert!(late.is_none(), "{late:?} is overdue at {} and nobody has it", self.now);
        let long = self.waits_too_long();
        assert!(long.is_none(), "{long:?} at {}", self.now);
        let mut wrong = self.queue.wrong();
        // The view knows no clock but the system's.
        wrong.retain(|what| self.clock.is_confirmed() || !what.starts_with("an hour past its lifetime"));
        // A recipient in a job with a silent host may be past its lifetime: a worker took it before the reader looked.
        let ids = self.flying.iter().flat_map(|flight| flight.job.recipient_ids());
        let flying: Vec<String> = ids.map(|id| format!(" {} of", id.0)).collect();
        wrong.retain(|what| !flying.iter().any(|id| what.contains(id)));
        assert!(wrong.is_empty() || self.all_hang(), "{wrong:?}");
    }

    /// Whether silent hosts hold all workers, so that none is left for other work.
    fn all_hang(&self) -> bool {
        self.flying.len() >= self.settings.workers
    }

    /// No wait is longer than the longest of the config (±20 %), but for mail that is to be released later.
    pub(super) fn waits_too_long(&self) -> Option<Waits> {
        let longest = self.lanes.lock().unwrap().longest_wait_secs() + STEP_SECS;
        self.queue.waiting().into_iter().find(|row| {
            !row.held
                && !row.released_later
                && !self.promised.contains(&row.recipient)
                && row.next > self.now + longest
        })
    }

    /// The invariant once all lifetimes are over: nothing waits but what is held.
    pub(super) fn is_over(&self) {
        let may_stay = |row: &Waits| row.held && self.delivery.in_doubt == InDoubt::Hold;
        let left: Vec<Waits> = self.queue.waiting().into_iter().filter(|row| !may_stay(row)).collect();
        assert!(left.is_empty(), "past their lifetime and not finished: {left:?}");
    }
}
