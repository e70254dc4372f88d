//! The window: which recipients of a lane are in memory, and which stay in the database until there is room.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::mail::{Domain, Priority};
use crate::queue::{Due, DueCursor, Place, RecipientId};

use super::Lanes;

/// How many recipients are held in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Recipients of one lane at most.
    pub(crate) lane: usize,
    /// Recipients of all lanes at most. A lane may hold `minimum` even beyond that.
    pub(crate) all: usize,
    /// Recipients that a lane may always hold, so that a full window never locks a lane out.
    pub(crate) minimum: usize,
    /// A lane is filled again when fewer recipients than this wait and the database has more.
    pub(crate) low: usize,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { lane: 2_000, all: 50_000, minimum: 10, low: 500 }
    }
}

/// A request to read rows of a lane from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refill {
    /// The lane.
    pub lane: Arc<str>,
    /// The domain of the lane. None for the lane of a route with a pattern, which gathers many.
    pub domain: Option<Domain>,
    /// The lane's rows that are not in memory come after this.
    pub after: DueCursor,
    /// In the lane of a domain: those that are neither in memory nor suspended come after this.
    pub passed: Option<Place>,
    /// How many rows the lane has room for.
    pub room: usize,
    /// How many of the rows read may be in memory already.
    pub known: usize,
    times_left: u64,
}

impl Lanes {
    /// Adds a recipient that is due. A recipient that is known already is left as it is.
    pub fn add(&mut self, due: Due, now: i64) {
        self.line_up(due, false, now);
    }

    /// Puts a recipient in line, or leaves it to the database. `in_order` says that the lane has left nothing in the
    /// database that comes before this recipient.
    pub(super) fn line_up(&mut self, due: Due, in_order: bool, now: i64) {
        if self.known.contains_key(&due.recipient)
            || self.atrn.contains(due.domain.as_str())
            || self.suspensions.cover(&due)
        {
            return;
        }
        let name = self.lane_of(&due.domain);
        let room = self.window_size();
        let lane = self.lane_mut(&name, now);
        if lane.domain.is_none() && *name == *due.domain.as_str() {
            lane.domain = Some(due.domain.clone());
        }
        let goes_before_last = lane.waiting.back().is_some_and(|last| last.priority < due.priority);
        // A fresh message whose content is in memory, an urgent one, or one that may pass a backoff, does not wait
        // until a backlog has been read.
        let waits_for_nothing = in_order
            || due.tls_optional
            || due.fresh.is_some()
            || due.priority > Priority::NORMAL
            || goes_before_last;
        let is_full = lane.waiting.len() >= room;
        let is_kept_back = lane.backoff_until > now && !(lane.for_policy && due.tls_optional);
        if is_kept_back || is_full && !goes_before_last || lane.more && !waits_for_nothing {
            self.leave(&name, place_before(&due));
            return;
        }
        // In a full lane the last in line, which is less urgent, goes back to the database.
        if is_full && let Some(last) = lane.waiting.pop_back() {
            self.known.remove(&last.recipient);
            self.waiting -= 1;
            self.leave(&name, place_before(&last));
        }
        self.know(&due, &name, false);
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        // A requeued recipient takes its old place, not one behind recipients that came due later.
        let place = lane.waiting.partition_point(|other| other.place() < due.place());
        lane.waiting.insert(place, due);
        self.waiting += 1;
        self.enter_turns(&name, now);
    }

    /// Takes a recipient out of its lane's line.
    pub(super) fn leave_line(&mut self, recipient: RecipientId, name: &Arc<str>, now: i64) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let Some(at) = lane.waiting.iter().position(|due| due.recipient == recipient) else { return };
        lane.waiting.remove(at);
        self.waiting -= 1;
        // When the next in line is less urgent, the lane needs a new place among the turns.
        let front = lane.waiting.front().map(|due| due.priority);
        let stale = lane.turn.take_if(|turn| Some(turn.priority) != front);
        self.sweep_turns(stale);
        self.enter_turns(name, now);
        self.request_refill(name);
    }

    /// The window of a lane now: how many recipients it may hold.
    fn window_size(&self) -> usize {
        if self.waiting >= self.windows.all { self.windows.minimum } else { self.windows.lane }
    }

    /// Notes that the lane has rows in the database behind `place`.
    pub(super) fn leave(&mut self, name: &Arc<str>, place: Place) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let (_, after) = place;
        lane.passed = lane.passed.map(|passed| passed.min(place));
        lane.read_to = if lane.more { lane.read_to.min(after) } else { after };
        lane.more = true;
        lane.times_left += 1;
        let (Reverse(priority), _) = place;
        self.urgent_left += u64::from(priority > Priority::NORMAL);
        self.request_refill(name);
    }

    /// Notes that the lane may have rows in the database behind `place`. Where its read has come past it, that goes on
    /// first, and begins again afterwards: were it set back each time that somebody else writes, what stands behind
    /// many that are suspended would never be reached.
    fn may_have(&mut self, name: &Arc<str>, place: Place) {
        let is_of_one = self.single_domain(name).is_some();
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let (_, after) = place;
        let is_past = match is_of_one {
            true => lane.passed.is_some_and(|passed| place < passed),
            false => after < lane.read_to,
        };
        if lane.more && is_past {
            lane.again = Some(lane.again.map_or(place, |again| again.min(place)));
            self.request_refill(name);
        } else {
            self.leave(name, place);
        }
    }

    /// Notes that a domain has due recipients that may not be in memory, the first of them due at `oldest`.
    pub fn has_due(&mut self, domain: &Domain, oldest: i64, now: i64) {
        if let Some(name) = self.lane_to_read(domain, now) {
            self.may_have(&name, (Reverse(Priority::HIGHEST), DueCursor::from(oldest.saturating_sub(1))));
        }
    }

    /// Notes that a domain has due recipients in the database behind `place`. The lane to which the domain belongs
    /// now will read them.
    pub(super) fn leave_in(&mut self, domain: &Domain, place: Place, now: i64) {
        if let Some(name) = self.lane_to_read(domain, now) {
            self.leave(&name, place);
        }
    }

    /// The lane that reads the domain's rows; none where nobody does.
    fn lane_to_read(&mut self, domain: &Domain, now: i64) -> Option<Arc<str>> {
        if self.atrn.contains(domain.as_str()) || self.suspensions.cover_domain(domain.as_str()) {
            return None;
        }
        let name = self.lane_of(domain);
        let lane = self.lane_mut(&name, now);
        if lane.domain.is_none() && *name == *domain.as_str() {
            lane.domain = Some(domain.clone());
        }
        Some(name)
    }

    /// Puts a lane in `to_refill` if it runs low and may be filled.
    pub(super) fn request_refill(&mut self, name: &Arc<str>) {
        let full = self.waiting >= self.windows.all;
        if let Some(lane) = self.lanes.get_mut(name)
            && lane.more
            && !lane.refill_requested
            && lane.waiting.len() < self.windows.low
            // A full window has to drain first, unless nothing waits in this lane.
            && (!full || lane.waiting.is_empty())
            // A lane that backs off asks when its backoff ends.
            && (lane.failures == 0 || !self.wakes.contains(&(lane.backoff_until, name.clone())))
        {
            lane.refill_requested = true;
            self.to_refill.push_back(name.clone());
        }
    }

    /// Gives at most `max` lanes that run low and may have more in the database. The caller reads their rows and
    /// hands them to [`Lanes::refilled`].
    pub fn refills(&mut self, max: usize, now: i64) -> Vec<Refill> {
        let mut refills = Vec::new();
        while refills.len() < max
            && let Some(name) = self.to_refill.pop_front()
        {
            let room = self.window_size();
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.refill_requested = false;
            // A lane that backs off asks again when its backoff ends.
            if !lane.more || lane.backoff_until > now || lane.waiting.len() >= room {
                continue;
            }
            let (after, known) = (lane.read_to, lane.waiting.len() + lane.recipients_in_flight);
            let (room, times_left) = (room - lane.waiting.len(), lane.times_left);
            let passed = lane.passed;
            let domain = lane.domain.clone().or_else(|| self.single_domain(&name));
            let is_left = |domain: &Domain| {
                self.suspensions.cover_domain(domain.as_str()) || self.lane_of(domain) != name
            };
            if domain.as_ref().is_some_and(is_left) {
                // Nothing of it may go. Or the lane dates from before a reload, and the mail of its domain waits in
                // another lane now.
                self.lanes.entry(name.clone()).and_modify(|lane| lane.more = false);
                self.drop_if_idle(&name);
                continue;
            }
            refills.push(Refill { lane: name, domain, after, passed, room, known, times_left });
        }
        refills
    }

    /// Whether lanes wait to be filled: [`Lanes::refills`] would give some.
    pub fn has_refills(&self) -> bool {
        !self.to_refill.is_empty()
    }

    /// Takes the rows of a refill. `searched` says how far the database was searched; none means to the end of what
    /// is due.
    pub fn refilled(&mut self, refill: &Refill, rows: Vec<Due>, searched: Option<DueCursor>, now: i64) {
        let before = self.known.len();
        let passed = refill.domain.as_ref().and_then(|_| self.passed_with(&rows));
        let mut passes = false;
        if let Some(lane) = self.lanes.get_mut(&refill.lane)
            // If the lane left rows to the database during the read, it must read again from the first of them.
            && lane.times_left == refill.times_left
        {
            lane.more = searched.is_some();
            lane.read_to = searched.unwrap_or(lane.read_to);
            passes = passed > lane.passed;
            lane.passed = lane.passed.max(passed);
        }
        // line_up() sets `more` again if the lane cannot hold all rows.
        for due in rows {
            self.line_up(due, true, now);
        }
        let room = self.window_size();
        if let Some(lane) = self.lanes.get_mut(&refill.lane)
            && (!lane.more || lane.waiting.len() >= room)
            && let Some(place) = lane.again.take()
        {
            self.leave(&refill.lane, place);
        }
        if refill.domain.is_some() && searched.is_some() && self.known.len() == before && !passes {
            // The read gave nothing new: recipients past their lifetime stand first. Try again in a second.
            self.wakes.insert((now + 1, refill.lane.clone()));
        } else {
            self.request_refill(&refill.lane);
        }
        self.drop_if_idle(&refill.lane);
    }

    /// A lane backs off: its waiting recipients are left to the database until the backoff ends.
    pub(super) fn return_to_database(&mut self, name: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        self.waiting -= lane.waiting.len();
        // The most urgent of them, and the first in time.
        let priority = lane.waiting.front().map_or(Priority::LOWEST, |due| due.priority);
        let mut first = DueCursor::from(i64::MAX);
        for due in lane.waiting.drain(..) {
            self.known.remove(&due.recipient);
            first = first.min(DueCursor::from(due.due_at.saturating_sub(1)));
        }
        let stale = lane.turn.take();
        self.sweep_turns(stale);
        self.leave(name, (Reverse(priority), first));
    }

    /// Forgets all waiting recipients, but not those in flight. The caller reads them again from the database: what
    /// somebody changed before the place that a lane has passed is found so.
    pub fn forget_waiting(&mut self) {
        let mut names: Vec<Arc<str>> = self.lanes.keys().cloned().collect();
        names.sort_unstable(); // as in end_backoff
        for name in names {
            self.return_to_database(&name);
        }
        for job in std::mem::take(&mut self.expired) {
            self.settled(job.recipient_ids());
        }
    }

    /// Whether the recipient is in line or in flight.
    pub fn knows(&self, due: &Due) -> bool {
        self.known.contains_key(&due.recipient)
    }

    /// Whether a domain needs no sweep: its lane will read its due recipients, a client fetches them with ATRN, or they
    /// are suspended.
    pub fn will_read(&self, domain: &Domain) -> bool {
        self.atrn.contains(domain.as_str())
            || self.suspensions.cover_domain(domain.as_str())
            || self.lanes.get(&self.lane_of(domain)).is_some_and(|lane| lane.more)
    }

    /// Whether a due recipient is accounted for: in line, in flight, to be fetched, suspended, or left to a lane that
    /// reads it.
    pub fn accounts_for(&self, due: &Due) -> bool {
        self.knows(due) || self.suspensions.cover(due) || self.will_read(&due.domain)
    }

    /// How many recipients are in line, in all lanes.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

/// The place behind which this recipient comes next.
pub(super) fn place_before(due: &Due) -> Place {
    (Reverse(due.priority), just_before(due))
}

/// The cursor behind which this recipient comes next.
pub(crate) fn just_before(due: &Due) -> DueCursor {
    DueCursor { id: due.recipient.0.saturating_sub(1), ..due.cursor() }
}
