//! Backoff: what the end of a job says about its lane, and when the lane is tried again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::queue::{BackoffRow, Due, Job, LaneHealth, RecipientId};

use super::window::place_before;
use super::{Lane, Lanes, RecipientEntry, Standing};

/// A lane with jobs under way that hears nothing for so long counts as untested.
const SILENCE_SECS: i64 = 30;
/// Within this the row of a lane that backs off is on disk.
const ROW_WRITTEN_SECS: i64 = 5;

/// A change of a lane that belongs on disk and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneChange {
    /// Backs off now, until a steady second.
    BacksOff(BackoffRow),
    /// Works again.
    Recovered,
}

impl Lanes {
    /// A job ended. `unsettled` are its recipients that no settlement will name (gone or held meanwhile, or
    /// requeued).
    pub fn finished(
        &mut self,
        job: &Job,
        health: &LaneHealth,
        unsettled: &[RecipientId],
        now: i64,
    ) -> Option<LaneChange> {
        for recipient in unsettled {
            self.requeue(*recipient, job, health, now);
        }
        if job.expired {
            return None;
        }
        let lane = self.lanes.get_mut(&job.lane)?;
        let was = lane.standing();
        lane.jobs_in_flight = lane.jobs_in_flight.saturating_sub(1);
        lane.silent_since = Some(now);
        self.quota.ends(was);
        let change = match health {
            LaneHealth::Healthy | LaneHealth::Unchanged => {
                // What passes a backoff proves nothing for the rest.
                let took_message = *health == LaneHealth::Healthy && !lane.lets_pass(now);
                lane.answers(took_message, &self.settings).then_some(LaneChange::Recovered)
            }
            LaneHealth::Failing(reply) => self.back_off(&job.lane, reply, false, now),
            LaneHealth::PolicyNotKept(reply) => self.back_off(&job.lane, reply, true, now),
            LaneHealth::AtLimit(wait) => {
                // Its other jobs go on; one more is tried when the time is over.
                let until = now + wait.as_secs_f64().ceil().max(1.0) as i64;
                lane.at_limit = Some((until, lane.jobs_in_flight));
                self.wakes.insert((until, job.lane.clone()));
                None
            }
        };
        self.change_standing(&job.lane, was);
        self.enter_turns(&job.lane, now);
        self.drop_if_idle(&job.lane);
        change
    }

    /// A recipient of a job that was not tried stands in line again; or, whatever became of it, the database knows,
    /// and it may still be due. In either case perhaps in another lane than before.
    fn requeue(&mut self, recipient: RecipientId, job: &Job, health: &LaneHealth, now: i64) {
        let Some(known) = self.forget(recipient) else { return };
        let RecipientEntry { domain, due_at, attempts, priority, tls_optional, submitted, .. } = known;
        let (message, fresh) = (job.message, job.fresh.clone());
        let due =
            Due { recipient, message, domain, due_at, attempts, priority, tls_optional, submitted, fresh };
        match health {
            LaneHealth::AtLimit(_) if !job.expired => self.line_up(due, true, now),
            _ => self.leave_in(&due.domain, place_before(&due), now),
        }
    }

    /// One more failure. None while the lane backs off already: jobs that were under way together fail
    /// together, and that is one failure. `for_policy`: for its TLS policy alone.
    fn back_off(&mut self, name: &Arc<str>, reply: &str, for_policy: bool, now: i64) -> Option<LaneChange> {
        let lane = self.lanes.get_mut(name).filter(|lane| lane.backoff_until <= now)?;
        let wait = self.schedule.wait(lane.failures_now(), self.random.f64()).as_secs() as i64;
        lane.backs_off(now + wait, for_policy, now);
        let passes = |due: &&Due| for_policy && due.tls_optional;
        let passing: Vec<Due> = lane.waiting.iter().filter(passes).cloned().collect();
        let row = BackoffRow {
            lane: name.to_string(),
            failures: lane.failures,
            backoff_until: lane.backoff_until,
            last_reply: reply.to_owned(),
        };
        self.wakes.insert((lane.backoff_until, name.clone()));
        self.responsive.remove(name, now);
        self.return_to_database(name);
        for due in passing {
            self.line_up(due, true, now);
        }
        Some(LaneChange::BacksOff(row))
    }

    /// A lane had another standing before: its jobs count elsewhere now, and it waits among other turns.
    /// The caller lets it enter them.
    fn change_standing(&mut self, name: &Arc<str>, was: Standing) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let is = lane.standing();
        if is == was {
            return;
        }
        self.quota.moves(was, is, lane.jobs_in_flight);
        let stale = lane.turn.take();
        self.sweep_turns(stale);
        self.watch(name);
    }

    /// From now on the silence of this lane's host is noticed; only that of a responsive lane needs to be.
    pub(super) fn watch(&mut self, name: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(name)
            && lane.standing() == Standing::Responsive
            && lane.jobs_in_flight > 0
            && !lane.watched
            && let Some(silent_since) = lane.silent_since
        {
            lane.watched = true;
            self.watched.insert((silent_since + SILENCE_SECS, name.clone()));
        }
    }

    /// Lanes that have jobs under way of which none ends are not responsive any more, until one does.
    fn notice_silence(&mut self, now: i64) {
        while let Some((until, _)) = self.watched.first()
            && *until <= now
            && let Some((_, name)) = self.watched.pop_first()
        {
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.watched = false;
            let was = lane.standing();
            let is_silent = lane.silent_since.is_none_or(|silent_since| silent_since + SILENCE_SECS <= now);
            if lane.jobs_in_flight > 0 && was == Standing::Responsive && is_silent {
                lane.responsive = false;
                self.responsive.remove(&name, now);
                self.change_standing(&name, was);
                self.enter_turns(&name, now);
            } else {
                self.watch(&name);
            }
        }
    }

    /// Lanes that `is_meant` names forget their backoff. They count as failing, one job at a time, until
    /// their host takes a message.
    pub fn end_backoff(&mut self, now: i64, is_meant: impl Fn(&str) -> bool) {
        let mut meant: Vec<Arc<str>> = self.lanes.keys().filter(|name| is_meant(name)).cloned().collect();
        meant.sort_unstable(); // not in a random order, so that a simulation comes again
        for name in meant {
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.kicked |= lane.backoff_until > now;
                lane.backoff_until = lane.backoff_until.min(now);
            }
            self.enter_turns(&name, now);
            self.request_refill(&name);
        }
    }

    /// Somebody may have deleted rows of `backoffs`: a lane that has none (`rows` are in the order of their names)
    /// backs off no longer. False: of some the row may still be on its way to the disk, and this is to be asked
    /// again.
    pub fn end_backoff_without_row(&mut self, rows: &[BackoffRow], now: i64) -> bool {
        let has_row = |name: &str| rows.binary_search_by(|row| row.lane.as_str().cmp(name)).is_ok();
        let without = |(name, lane): (&Arc<str>, &Lane)| {
            (lane.backoff_until > now && !has_row(name)).then(|| (name.clone(), lane.backed_off_at))
        };
        let without: Vec<(Arc<str>, i64)> = self.lanes.iter().filter_map(without).collect();
        let is_young = |at: i64| now - at < ROW_WRITTEN_SECS;
        let meant: HashSet<&str> =
            without.iter().filter(|(_, at)| !is_young(*at)).map(|(name, _)| &**name).collect();
        self.end_backoff(now, |name| meant.contains(name));
        meant.len() == without.len()
    }

    /// Lanes that backed off until `now` or earlier take turns again; those that hang are noticed. Gives the lanes
    /// whose trouble is long over, and that nobody waits in: their rows are to be cleared.
    pub fn wake(&mut self, now: i64) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        self.quota.pass(now);
        self.notice_silence(now);
        while let Some((until, _)) = self.wakes.first()
            && *until <= now
            && let Some((_, name)) = self.wakes.pop_first()
        {
            self.enter_turns(&name, now);
            self.request_refill(&name);
            let is_over = |lane: &Lane| lane.is_idle() && lane.failures > 0 && lane.trouble_over_at() <= now;
            if self.lanes.get(&name).is_some_and(is_over) {
                self.lanes.remove(&name);
                over.push(name);
            } else {
                self.drop_if_idle(&name);
            }
        }
        over
    }

    /// When a lane is to be looked at again.
    pub fn next_wake(&self) -> Option<i64> {
        self.wakes.first().map(|(until, _)| *until)
    }
}
