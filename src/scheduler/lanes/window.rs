//! The window: what of each lane is in memory, and what is left to the database until there is room.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::mail::{Domain, Priority};
use crate::queue::{Due, DueCursor, RecipientId};

use super::Lanes;

/// How much is held in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Recipients of one lane at most.
    pub(crate) lane: usize,
    /// Recipients at most, but for `minimum` a lane.
    pub(crate) all: usize,
    /// What a lane may always hold, so that a full window never locks a lane out.
    pub(crate) minimum: usize,
    /// A lane with fewer waiting than this, and more in the database, is filled again.
    pub(crate) low: usize,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { lane: 2_000, all: 50_000, minimum: 10, low: 500 }
    }
}

/// What a lane needs read from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refill {
    /// The lane.
    pub lane: Arc<str>,
    /// Its domain, where all of the lane is one domain.
    pub domain: Option<Domain>,
    /// Where the lane's rows begin that are not here.
    pub after: DueCursor,
    /// How many rows there is room for.
    pub room: usize,
    /// How many due rows may be read that are here already.
    pub known: usize,
    times_left: u64,
}

impl Lanes {
    /// A recipient is due. Known ones are left as they are.
    pub fn add(&mut self, due: Due, now: i64) {
        self.line_up(due, false, now);
    }

    /// In line, or left to the database. `in_order`: nothing that the lane left there comes before it.
    pub(super) fn line_up(&mut self, due: Due, in_order: bool, now: i64) {
        if self.known.contains_key(&due.recipient) || self.atrn.contains(due.domain.as_str()) {
            return;
        }
        let name = self.lane_of(&due.domain);
        let room = self.room();
        let lane = self.lane_mut(&name, now);
        if lane.domain.is_none() && *name == *due.domain.as_str() {
            lane.domain = Some(due.domain.clone());
        }
        let goes_before_last = lane.waiting.back().is_some_and(|last| last.priority < due.priority);
        // What is fresh and in memory, or urgent, does not wait for a backlog to be read.
        let waits_for_nothing =
            in_order || due.fresh.is_some() || due.priority > Priority::NORMAL || goes_before_last;
        let is_full = lane.waiting.len() >= room;
        if lane.backoff_until > now || is_full && !goes_before_last || lane.more && !waits_for_nothing {
            self.leave(&name, just_before(&due));
            return;
        }
        // The last in line goes back to the database where it is less urgent.
        if is_full && let Some(last) = lane.waiting.pop_back() {
            self.known.remove(&last.recipient);
            self.waiting -= 1;
            self.leave(&name, just_before(&last));
        }
        self.know(&due, &name, false);
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        // Who was put back stands where they stood, not behind those who came due later.
        let place = lane.waiting.partition_point(|other| place_in_line(other) < place_in_line(&due));
        lane.waiting.insert(place, due);
        self.waiting += 1;
        self.enter_ring(&name, now);
    }

    /// Takes one out of its line.
    pub(super) fn leave_line(&mut self, recipient: RecipientId, name: &Arc<str>, now: i64) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let Some(at) = lane.waiting.iter().position(|due| due.recipient == recipient) else { return };
        lane.waiting.remove(at);
        self.waiting -= 1;
        // Where the next in line is less urgent, the lane takes another place.
        let front = lane.waiting.front().map(|due| due.priority);
        let void = lane.turn.take_if(|turn| Some(turn.priority) != front);
        self.sweep_turns(void);
        self.enter_ring(name, now);
        self.ask(name);
    }

    /// How many a lane may hold.
    fn room(&self) -> usize {
        if self.waiting >= self.windows.all { self.windows.minimum } else { self.windows.lane }
    }

    /// The lane has something in the database, behind `after`.
    pub(super) fn leave(&mut self, name: &Arc<str>, after: DueCursor) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        lane.read_to = if lane.more { lane.read_to.min(after) } else { after };
        lane.more = true;
        lane.times_left += 1;
        self.ask(name);
    }

    /// A domain has recipients due that may not be here, the first of them at `oldest`.
    pub fn has_due(&mut self, domain: &Domain, oldest: i64, now: i64) {
        self.leave_in(domain, DueCursor::from(oldest.saturating_sub(1)), now);
    }

    /// A domain has recipients due that are not here, behind `after`; they are left to the lane that is theirs now.
    pub(super) fn leave_in(&mut self, domain: &Domain, after: DueCursor, now: i64) {
        if self.atrn.contains(domain.as_str()) {
            return;
        }
        let name = self.lane_of(domain);
        let lane = self.lane_mut(&name, now);
        if lane.domain.is_none() && *name == *domain.as_str() {
            lane.domain = Some(domain.clone());
        }
        self.leave(&name, after);
    }

    /// Puts a lane among the hungry, if it is.
    pub(super) fn ask(&mut self, name: &Arc<str>) {
        let full = self.waiting >= self.windows.all;
        if let Some(lane) = self.lanes.get_mut(name)
            && lane.more
            && !lane.asked
            && lane.waiting.len() < self.windows.low
            // A window that is full must first drain, unless the lane has nothing.
            && (!full || lane.waiting.is_empty())
            // One that backs off asks when that ends.
            && (lane.failures == 0 || !self.alarms.contains(&(lane.backoff_until, name.clone())))
        {
            lane.asked = true;
            self.hungry.push_back(name.clone());
        }
    }

    /// Lanes that run low and may have more in the database, `max` at most: the caller reads it and says what
    /// it [found](Lanes::refilled).
    pub fn refills(&mut self, max: usize, now: i64) -> Vec<Refill> {
        let mut refills = Vec::new();
        while refills.len() < max
            && let Some(name) = self.hungry.pop_front()
        {
            let room = self.room();
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.asked = false;
            // One that backs off asks again when that ends.
            if !lane.more || lane.backoff_until > now || lane.waiting.len() >= room {
                continue;
            }
            let (after, known) = (lane.read_to, lane.waiting.len() + lane.flying);
            let (room, times_left) = (room - lane.waiting.len(), lane.times_left);
            let domain = lane.domain.clone().or_else(|| self.domain_of_lane(&name));
            if domain.as_ref().is_some_and(|domain| self.lane_of(domain) != name) {
                // Of before the lanes were named anew: its domain's mail waits in another.
                self.lanes.entry(name.clone()).and_modify(|lane| lane.more = false);
                self.drop_if_idle(&name);
                continue;
            }
            refills.push(Refill { lane: name, domain, after, room, known, times_left });
        }
        refills
    }

    /// Whether lanes wait to be filled.
    pub fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// The rows of a refill, and up to where the database was searched: to the end of what is due, where none.
    pub fn refilled(&mut self, refill: &Refill, rows: Vec<Due>, searched: Option<DueCursor>, now: i64) {
        let before = self.known.len();
        if let Some(lane) = self.lanes.get_mut(&refill.lane)
            // Otherwise something was left to the database while it was read: what is behind it is read again.
            && lane.times_left == refill.times_left
        {
            lane.more = searched.is_some();
            lane.read_to = searched.unwrap_or(lane.read_to);
        }
        // line_up() sets `more` again should the lane not hold them all.
        for due in rows {
            self.line_up(due, true, now);
        }
        if refill.domain.is_some() && searched.is_some() && self.known.len() == before {
            // Nothing new for now: those past their lifetime stand before it. Not at once again.
            self.alarms.insert((now + 1, refill.lane.clone()));
        } else {
            self.ask(&refill.lane);
        }
        self.drop_if_idle(&refill.lane);
    }

    /// A lane backs off: what waits in it is left to the database until then.
    pub(super) fn park(&mut self, name: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        self.waiting -= lane.waiting.len();
        let mut first = DueCursor::from(i64::MAX);
        for due in lane.waiting.drain(..) {
            self.known.remove(&due.recipient);
            first = first.min(DueCursor::from(due.due_at.saturating_sub(1)));
        }
        let void = lane.turn.take();
        self.sweep_turns(void);
        self.leave(name, first);
    }

    /// Forgets what waits, not what is in flight; the caller reads it again from the database.
    pub fn forget_waiting(&mut self) {
        let mut names: Vec<Arc<str>> = self.lanes.keys().cloned().collect();
        names.sort_unstable(); // as in end_backoff
        for name in names {
            self.park(&name);
        }
        for job in std::mem::take(&mut self.expired) {
            self.settled(job.recipients.iter().map(|(recipient, _)| *recipient));
        }
    }

    /// Whether it waits here or is in flight.
    pub fn knows(&self, due: &Due) -> bool {
        self.known.contains_key(&due.recipient)
    }

    /// Whether all that a domain has due is left to a lane that will read it, or to who fetches it.
    pub fn will_read(&self, domain: &Domain) -> bool {
        self.atrn.contains(domain.as_str())
            || self.lanes.get(&self.lane_of(domain)).is_some_and(|lane| lane.more)
    }

    /// How many recipients of a domain may be here or in flight.
    pub fn known_of(&self, domain: &Domain) -> usize {
        self.lanes.get(&self.lane_of(domain)).map_or(0, |lane| lane.waiting.len() + lane.flying)
    }

    /// Whether a due recipient is accounted for: in line, in flight, to be fetched, or left to a lane that will read it.
    pub fn accounts_for(&self, due: &Due) -> bool {
        self.knows(due) || self.will_read(&due.domain)
    }

    /// Recipients in line here.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

/// The order of a line.
pub(super) fn place_in_line(due: &Due) -> (Reverse<Priority>, DueCursor) {
    (Reverse(due.priority), due.cursor())
}

/// The place in the order of time that this one is the next behind.
pub(super) fn just_before(due: &Due) -> DueCursor {
    DueCursor { id: due.recipient.0.saturating_sub(1), ..due.cursor() }
}
