//! The health of a lane: what the end of a job says of it, and when its backoff ends.

use std::collections::HashSet;
use std::sync::Arc;

use crate::queue::{BackoffRow, Due, Job, LaneHealth, RecipientId};

use super::window::just_before;
use super::{Known, Lane, Lanes, Standing};

/// A lane with transactions under way that hears nothing for so long counts as unproved.
const SILENCE_SECS: i64 = 30;
/// Within this the row of a lane that backs off is on disk.
const ROW_WRITTEN_SECS: i64 = 5;

/// A change of a lane's health that belongs on disk and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneChange {
    /// Backs off now.
    BacksOff(BackoffRow),
    /// Works again.
    Recovered,
}

impl Lanes {
    /// A job ended. `unsettled` are its recipients that no settlement will name (gone or held meanwhile).
    pub fn finished(
        &mut self,
        job: &Job,
        health: &LaneHealth,
        unsettled: &[RecipientId],
        now: i64,
    ) -> Option<LaneChange> {
        for recipient in unsettled {
            let Some(known) = self.lands(*recipient) else { continue };
            let Known { domain, due_at, attempts, priority, .. } = known;
            let (recipient, message, fresh) = (*recipient, job.message, job.fresh.clone());
            let due = Due { recipient, message, domain, due_at, attempts, priority, fresh };
            // Put back; or whatever became of it the database knows, and it may still be due. In either case perhaps
            // in another lane than before.
            match health {
                LaneHealth::AtLimit(_) if !job.expired => self.line_up(due, true, now),
                _ => self.leave_in(&due.domain, just_before(&due)),
            }
        }
        if job.expired {
            return None;
        }
        let lane = self.lanes.get_mut(&job.lane)?;
        lane.busy = lane.busy.saturating_sub(1);
        lane.heard_at = now;
        self.shares.ends(lane.standing());
        let was = lane.standing();
        let change = match health {
            LaneHealth::Healthy if lane.failures > 0 => {
                lane.failures = 0;
                lane.backoff_until = 0;
                lane.answers(&self.settings);
                Some(LaneChange::Recovered)
            }
            LaneHealth::Healthy | LaneHealth::Unchanged if lane.failures == 0 => {
                lane.answers(&self.settings);
                None
            }
            // Transactions that were under way together fail together: that is one failure.
            LaneHealth::Failing(reply) if lane.backoff_until <= now => {
                lane.fails();
                let wait = self.schedule.wait(lane.failures, self.random.f64()).as_secs() as i64;
                (lane.backoff_until, lane.backed_off_at) = (now + wait, now);
                let row = BackoffRow {
                    lane: job.lane.to_string(),
                    failures: lane.failures,
                    backoff_until: lane.backoff_until,
                    last_reply: reply.clone(),
                };
                self.alarms.insert((lane.backoff_until, job.lane.clone()));
                self.proofs.forget(&job.lane);
                self.park(&job.lane);
                Some(LaneChange::BacksOff(row))
            }
            LaneHealth::AtLimit(wait) => {
                // Its other transactions go on; one more is tried when the time is over.
                let until = now + wait.as_secs_f64().ceil().max(1.0) as i64;
                lane.crowded = Some((until, lane.busy));
                self.alarms.insert((until, job.lane.clone()));
                None
            }
            _ => None,
        };
        self.stands_anew(&job.lane, was);
        self.enter_ring(&job.lane, now);
        self.drop_if_idle(&job.lane);
        change
    }

    /// A lane had another standing before: its transactions count elsewhere now, and it waits in another ring. The
    /// caller lets it enter.
    fn stands_anew(&mut self, name: &Arc<str>, was: Standing) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let is = lane.standing();
        if is == was {
            return;
        }
        self.shares.moves(was, is, lane.busy);
        let void = lane.turn.take();
        self.sweep_turns(void);
        self.watch(name);
    }

    /// From now on somebody looks whether the host of this lane falls silent; only that of a proved one can.
    pub(super) fn watch(&mut self, name: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(name)
            && lane.standing() == Standing::Proved
            && lane.busy > 0
            && !lane.watched
        {
            lane.watched = true;
            self.watched.insert((lane.heard_at + SILENCE_SECS, name.clone()));
        }
    }

    /// Lanes that have transactions under way of which none ends are not proved any more, until one does.
    fn notice_silence(&mut self, now: i64) {
        while let Some((until, _)) = self.watched.first()
            && *until <= now
            && let Some((_, name)) = self.watched.pop_first()
        {
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.watched = false;
            let was = lane.standing();
            if lane.busy > 0 && was == Standing::Proved && lane.heard_at + SILENCE_SECS <= now {
                lane.proved = false;
                self.proofs.forget(&name);
                self.stands_anew(&name, was);
                self.enter_ring(&name, now);
            } else {
                self.watch(&name);
            }
        }
    }

    /// Lanes that `is_meant` names forget their backoff. They stay doubtful, one transaction at a time,
    /// until they succeed.
    pub fn end_backoff(&mut self, now: i64, is_meant: impl Fn(&str) -> bool) {
        let mut meant: Vec<Arc<str>> = self.lanes.keys().filter(|name| is_meant(name)).cloned().collect();
        meant.sort_unstable(); // not in a random order, so that a simulation comes again
        for name in meant {
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.backoff_until = lane.backoff_until.min(now);
            }
            self.enter_ring(&name, now);
            self.ask(&name);
        }
    }

    /// Somebody may have deleted rows of `lanes`: whoever has none (`rows` are in the order of their names) backs off no
    /// longer. False: of some the row may still be on its way to the disk, and this is to be asked again.
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
        self.shares.pass(now);
        self.proofs.pass(now);
        self.notice_silence(now);
        while let Some((until, _)) = self.alarms.first()
            && *until <= now
            && let Some((_, name)) = self.alarms.pop_first()
        {
            self.enter_ring(&name, now);
            self.ask(&name);
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

    /// When the next backoff ends.
    pub fn next_alarm(&self) -> Option<i64> {
        self.alarms.first().map(|(until, _)| *until)
    }
}
