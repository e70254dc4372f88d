//! The work of the scheduler's thread: it takes the queue's events, reads recipients that have come due, fills lanes
//! that run low, and sweeps. It has no thread and no clock of its own: the simulation steps it by hand.
//!
//! One look reads a bounded number of rows, so that events are taken between two looks however much is due.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Moment, STEP_SECS};
use crate::config::atrn;
use crate::mail::Priority;
use crate::queue::{
    Due, DueCursor, Event, ExpiryCursor, Kick, Over, Place, QueueError, Reads, RecipientId, Suspension,
    Suspensions,
};

use super::lanes::{Lanes, Refill, just_before};
use super::sweep::Sweep;

/// How often recipients past their lifetime are looked for.
const EXPIRY_SECS: i64 = 60;

/// Jobs that only bounce and wait in memory, beyond which no more are read; a look adds a page of recipients.
const EXPIRED_JOBS_MAX: usize = 5_000;

/// How much one look reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portions {
    /// Rows of one statement.
    pub(crate) page: usize,
    /// Pages of one look. When more is due at once, the survey finds the rest domain by domain.
    pub(crate) pages: usize,
    /// Lanes filled in one look.
    pub(crate) refills: usize,
    /// Domains surveyed in one look, two steps of an index each.
    pub(crate) domains: usize,
}

impl Default for Portions {
    fn default() -> Portions {
        Portions { page: 1_000, pages: 20, refills: 50, domains: 2_000 }
    }
}

/// The result of a look.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Lanes whose trouble is over and in which nothing waits. The caller clears their rows in `backoffs`.
    pub(crate) over: Vec<Arc<str>>,
    /// How many overdue recipients the sweep found that no lane accounted for: each is a bug.
    pub(crate) forgotten: usize,
    /// The clock was set back since the last look, and would show this otherwise: what was written in the future is to
    /// be mended ([`crate::queue::Queue::clock_was_set_back`]).
    pub(crate) set_back_from: Option<i64>,
    /// What is suspended from now on.
    pub(crate) suspended: Vec<Suspension>,
    /// What is suspended no longer.
    pub(crate) resumed: Vec<Suspension>,
}

/// How far the due recipients have been read.
#[derive(Debug)]
pub(crate) struct Reader {
    portions: Portions,
    /// Every recipient due up to here has been read.
    cursor: DueCursor,
    /// No recipient comes due before this.
    next_due: i64,
    /// The last domain that the survey looked at, while it runs: so much was due at once that it goes by domain.
    survey: Option<String>,
    /// How far the search for recipients that bounce without a further try has come, while it runs.
    expiry: Option<ExpiryCursor>,
    next_expiry: i64,
    sweep: Sweep,
    urgent: Urgent,
    /// Another process wrote to the database. A lane whose row it deleted no longer backs off.
    backoffs_changed: bool,
    /// The same, perhaps to `suspensions`.
    suspensions_changed: bool,
    /// The moment of the last look.
    looked_at: Moment,
}

pub(super) fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// A reader that has read nothing yet.
    pub(crate) fn new(portions: Portions, at: Moment) -> Reader {
        Reader {
            portions,
            cursor: DueCursor::default(),
            next_due: i64::MIN,
            survey: None,
            expiry: None,
            next_expiry: i64::MIN,
            sweep: Sweep::new(at.steady),
            urgent: Urgent::default(),
            backoffs_changed: false,
            suspensions_changed: false,
            looked_at: at,
        }
    }

    /// How long the thread may wait for an event before the next look. [`Duration::MAX`] means that only an event
    /// can bring work.
    pub(crate) fn patience(&self, lanes: &Mutex<Lanes>, at: Moment) -> Duration {
        let lanes = lock(lanes);
        if lanes.has_refills() || self.survey.is_some() || self.urgent.is_on_its_way {
            return Duration::ZERO;
        }
        let wakes = self.next_due <= at.now || lanes.next_wake().is_some_and(|wake| wake <= at.steady);
        if wakes || self.sweep.is_running() || self.expiry.is_some() {
            Duration::from_millis(50)
        } else {
            Duration::MAX
        }
    }

    /// Takes one event. For a kick it gives the lane whose row in `backoffs` the caller clears: the queue knows
    /// domains but not the lanes of routes, and a row may still be on its way to the queue.
    pub(crate) fn hear(&mut self, event: Event, lanes: &mut Lanes, at: Moment) -> Option<String> {
        match event {
            Event::Accepted(rows) => {
                for due in rows {
                    if due.due_at > at.now {
                        self.comes_due(due.due_at);
                    } else {
                        lanes.add(due, at.steady);
                    }
                }
            }
            Event::Settled(rows) => {
                rows.iter().filter_map(|(_, next)| *next).for_each(|next| self.comes_due(next));
                lanes.settled(rows.into_iter().map(|(recipient, _)| recipient));
            }
            Event::Kicked(kick) => {
                let own = match &kick {
                    Kick::Domain(domain) | Kick::DomainAndBelow(domain) => lanes.lane_of(domain),
                    Kick::Lane(lane, _) => lane.as_str().into(),
                };
                lanes.end_backoff(at.steady, |lane| *lane == *own || is_below(&kick, lane));
                self.read_again();
                // A lane of ATRN keeps its row, which shows people that the domain's mail is fetched.
                return atrn::domain_of_lane(&own).is_none().then(|| own.to_string());
            }
            Event::ChangedOutside => {
                lanes.forget_waiting();
                (self.backoffs_changed, self.suspensions_changed) = (true, true);
                // The operator may have asked for bounces.
                self.expiry = Some(ExpiryCursor::default());
                self.read_again();
            }
        }
        None
    }

    /// Whether another process wrote, perhaps to `backoffs`, since the last look.
    pub(crate) fn backoffs_changed(&self) -> bool {
        self.backoffs_changed
    }

    /// Notes that a recipient comes due at this time and must be read then.
    fn comes_due(&mut self, at: i64) {
        self.next_due = self.next_due.min(at);
        self.cursor = self.cursor.min(DueCursor::from(at - 1));
    }

    /// Forgets all that was read: everything that is due is read again from the start.
    pub(crate) fn start_again(&mut self, lanes: &Mutex<Lanes>) {
        lock(lanes).forget_waiting();
        self.expiry = Some(ExpiryCursor::default());
        self.read_again();
    }

    fn read_again(&mut self) {
        self.cursor = DueCursor::default();
        self.next_due = i64::MIN;
        self.survey = None;
        self.urgent = Urgent::default();
    }

    /// Reads the recipients that have come due since the last look, fills lanes that run low, and finds recipients
    /// that are `over`. Calls `ready` when there may be work.
    pub(crate) fn look(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        ready: &dyn Fn(),
        at: Moment,
        over: &Over,
    ) -> Result<Looked, QueueError> {
        let Moment { now, steady } = at;
        let before = std::mem::replace(&mut self.looked_at, at);
        let before = before.unix(steady);
        let set_back_from = (before.saturating_sub(now) > STEP_SECS).then_some(before);
        if before.abs_diff(now) > STEP_SECS.unsigned_abs() {
            // What is long overdue by the new time only is no bug.
            self.sweep = Sweep::new(steady);
        }
        if self.backoffs_changed {
            let rows = rows.backoffs()?;
            self.backoffs_changed = !lock(lanes).end_backoff_without_row(&rows, steady);
        }
        // What had ended by the clock before may be in force by this one.
        self.suspensions_changed |= set_back_from.is_some();
        let (suspended, resumed) = self.see_suspensions(rows, lanes, now)?;
        let woken = lock(lanes).wake(steady);
        let mut looked = Looked { over: woken, forgotten: 0, set_back_from, suspended, resumed };
        if self.next_due <= now {
            self.read_due(rows, lanes, ready, at)?;
        }
        if self.urgent.is_on_its_way {
            self.read_urgent(rows, lanes, at)?;
            ready();
        }
        if let Some(after) = self.survey.take() {
            self.survey = survey(rows, lanes, self.portions, &after, at)?;
        }
        let refills = lock(lanes).refills(self.portions.refills, steady);
        let (of_many, of_one): (Vec<Refill>, Vec<Refill>) =
            refills.into_iter().partition(|refill| refill.domain.is_none());
        for refill in of_one {
            fill(rows, lanes, &refill, at)?;
            ready();
        }
        if !of_many.is_empty() {
            let urgent = self.urgent.read(rows, lanes, self.portions, now)?;
            let found = rows_of_lanes(rows, lanes, self.portions, &of_many, urgent, now)?;
            let mut locked = lock(lanes);
            for (refill, (found, searched)) in of_many.iter().zip(found) {
                locked.refilled(refill, found, searched, steady);
            }
            drop(locked);
            ready();
        }
        if self.next_expiry <= steady && self.expiry.is_none() {
            self.next_expiry = steady + EXPIRY_SECS;
            self.expiry = Some(ExpiryCursor::default());
        }
        // What is over is not read faster than it is returned: after a long outage it may be all of the queue.
        if let Some(after) = self.expiry.filter(|_| lock(lanes).expired_waiting() < EXPIRED_JOBS_MAX) {
            let found = rows.expired(after, over, self.portions.page)?;
            self.expiry = found.searched;
            lock(lanes).add_expired(found.due, steady);
        }
        // While the survey runs, a recipient that no lane accounts for is no bug.
        if self.survey.is_none() {
            looked.forgotten = self.sweep.step(rows, lanes, self.portions, at)?;
        }
        Ok(looked)
    }

    /// Takes what somebody suspended or resumed, and what is over; gives what is suspended now and was not before, and
    /// the other way round.
    fn see_suspensions(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        now: i64,
    ) -> Result<(Vec<Suspension>, Vec<Suspension>), QueueError> {
        if !self.suspensions_changed && !lock(lanes).suspensions().has_ended(now) {
            return Ok((Vec::new(), Vec::new()));
        }
        let is = Suspensions::on(rows.suspensions(now)?, now);
        self.suspensions_changed = false;
        let was = lock(lanes).set_suspensions(is.clone());
        let (suspended, ended) = (is.not_in(&was), was.not_in(&is));
        let resumed: Vec<Suspension> = ended.into_iter().filter(|row| !is.has(&row.whose)).collect();
        if is != was {
            // As at a start: what waited is forgotten, and what was suspended is read.
            self.read_again();
        }
        Ok((suspended, resumed))
    }

    fn read_urgent(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        Moment { now, steady }: Moment,
    ) -> Result<(), QueueError> {
        let urgent = self.urgent.read(rows, lanes, self.portions, now)?;
        let mut locked = lock(lanes);
        urgent.into_iter().for_each(|due| locked.add(due, steady));
        Ok(())
    }

    fn read_due(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        ready: &dyn Fn(),
        Moment { now, steady }: Moment,
    ) -> Result<(), QueueError> {
        if self.cursor == DueCursor::default() {
            // A read from the start may take many pages, so urgent recipients are read first.
            self.read_urgent(rows, lanes, Moment { now, steady })?;
        }
        for _ in 0..self.portions.pages {
            let page = rows.due(self.cursor, now, self.portions.page)?;
            let next_page = next_page(&page, self.portions.page);
            let mut locked = lock(lanes);
            page.into_iter().for_each(|due| locked.add(due, steady));
            drop(locked);
            ready();
            self.cursor = next_page.unwrap_or_else(|| DueCursor::from(now));
            if next_page.is_none() {
                self.next_due = rows.next_due_after(now)?.unwrap_or(i64::MAX);
                return Ok(());
            }
        }
        // The backlog is long, and may all be of one dead lane. Other recipients must not wait until it has been read.
        self.survey = Some(String::new());
        self.cursor = DueCursor::from(now);
        self.next_due = rows.next_due_after(now)?.unwrap_or(i64::MAX);
        Ok(())
    }
}

/// Has the lanes of the next domains after this one read their due rows. Gives the domain that it came to.
fn survey(
    rows: &dyn Reads,
    lanes: &Mutex<Lanes>,
    portions: Portions,
    after: &str,
    Moment { now, steady }: Moment,
) -> Result<Option<String>, QueueError> {
    let mut found = rows.due_domains(after, now, portions.domains)?;
    found.due.sort_by_key(|(_, oldest)| *oldest);
    let mut lanes = lock(lanes);
    found.due.iter().for_each(|(domain, oldest)| lanes.has_due(domain, *oldest, steady));
    Ok(found.searched)
}

/// Fills a lane of one domain, whose rows stand together.
fn fill(rows: &dyn Reads, lanes: &Mutex<Lanes>, refill: &Refill, at: Moment) -> Result<(), QueueError> {
    let Some(domain) = &refill.domain else { return Ok(()) };
    // The read is from the start, or from behind what is suspended there: it also gives rows that are in memory.
    let limit = refill.room + refill.known;
    let found = rows.due_in_domain(domain, refill.passed, at.now, limit)?;
    let searched = found.last().filter(|_| found.len() == limit).map(Due::cursor);
    lock(lanes).refilled(refill, found, searched, at.steady);
    Ok(())
}

/// How far the urgent are read.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Those before this place are suspended: they stay where they are, and are not read each time.
    passed: Option<Place>,
    /// So far there were only such, and more are to be read.
    is_on_its_way: bool,
    /// [`Lanes::urgent_left`] when that was seen.
    left: u64,
}

impl Urgent {
    /// The first of them that are due and not suspended, a look's rows at most.
    pub(super) fn read(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        portions: Portions,
        now: i64,
    ) -> Result<Vec<Due>, QueueError> {
        let left = lock(lanes).urgent_left();
        if self.left != left {
            *self = Urgent { left, ..Urgent::default() };
        }
        let (mut found, mut after) = (Vec::new(), self.passed);
        self.is_on_its_way = false;
        for _ in 0..portions.pages {
            let page = rows.urgent(after, now, portions.page)?;
            let next = page.last().filter(|_| page.len() == portions.page).map(Due::place);
            let lanes = lock(lanes);
            found.extend(page.into_iter().filter(|due| !lanes.is_suspended(due)));
            drop(lanes);
            let Some(next) = next else {
                self.is_on_its_way = false;
                break;
            };
            after = Some(next);
            if found.is_empty() {
                self.passed = after;
            }
            self.is_on_its_way = found.is_empty();
        }
        Ok(found)
    }
}

/// Rows of a lane, and how far its rows are searched with them; none: all that are due.
type Part = (Vec<Due>, Option<DueCursor>);

/// The search for the rows of a lane that gathers many domains.
struct Search<'r> {
    refill: &'r Refill,
    found: Vec<Due>,
    /// Rows up to here are found; none: all that are due.
    searched: Option<DueCursor>,
    urgent: HashSet<RecipientId>,
    /// Rows found but those of low priority: normal rows behind them go first.
    enough: usize,
}

impl Search<'_> {
    /// Where the search has to go on.
    fn goes_on_at(&self) -> Option<DueCursor> {
        self.searched.filter(|_| self.enough <= self.refill.room)
    }

    /// Whether the rows behind this place come next.
    fn has_come_to(&self, cursor: DueCursor) -> bool {
        self.searched.is_some_and(|searched| searched >= cursor)
    }

    fn take(&mut self, due: Due) {
        if self.searched.is_some_and(|searched| due.cursor() > searched)
            && !self.urgent.contains(&due.recipient)
        {
            self.enough += usize::from(due.priority >= Priority::NORMAL);
            self.found.push(due);
        }
    }

    /// The rows that there is room for, and how far the lane is searched with them.
    fn ended(mut self) -> Part {
        self.found.sort_by_key(|due| Reverse(due.priority));
        // Rows without room are read again later, with all rows behind them.
        let left = self.found.split_off(self.refill.room.min(self.found.len()));
        let first_left = left.iter().map(just_before).min();
        (self.found, first_left.into_iter().chain(self.searched).min())
    }
}

/// Reads rows of lanes that gather many domains each. They are picked out of all rows that are due, a part each time;
/// one walk serves all these lanes, since each would meet the rows of the others. The `urgent` come first wherever they
/// stand, then, within this part, normal before low ones.
pub(super) fn rows_of_lanes(
    rows: &dyn Reads,
    lanes: &Mutex<Lanes>,
    portions: Portions,
    refills: &[Refill],
    urgent: Vec<Due>,
    now: i64,
) -> Result<Vec<Part>, QueueError> {
    let search = |refill| Search {
        refill,
        found: Vec::new(),
        searched: Some(refill.after),
        urgent: HashSet::new(),
        enough: 0,
    };
    let mut searches: Vec<Search<'_>> = refills.iter().map(search).collect();
    let by_lane: HashMap<&str, usize> =
        refills.iter().enumerate().map(|(at, refill)| (&*refill.lane, at)).collect();
    // Rows that are not in memory, each with the place of its lane among `searches`.
    let wanted = |rows: Vec<Due>| {
        let lanes = lock(lanes);
        let with_lane = |due: Due| {
            let at = *by_lane.get(&*lanes.lane_of(&due.domain))?;
            (!lanes.knows(&due) && !lanes.is_suspended(&due)).then_some((at, due))
        };
        rows.into_iter().filter_map(with_lane).collect::<Vec<(usize, Due)>>()
    };
    for (at, due) in wanted(urgent) {
        searches[at].urgent.insert(due.recipient);
        searches[at].enough += 1;
        searches[at].found.push(due);
    }
    for _ in 0..portions.pages {
        let Some(cursor) = searches.iter().filter_map(Search::goes_on_at).min() else { break };
        let page = rows.due(cursor, now, portions.page)?;
        let next = next_page(&page, portions.page);
        for (at, due) in wanted(page) {
            if searches[at].has_come_to(cursor) {
                searches[at].take(due);
            }
        }
        for search in searches.iter_mut().filter(|search| search.has_come_to(cursor)) {
            search.searched = search.searched.max(next).filter(|_| next.is_some());
        }
    }
    Ok(searches.into_iter().map(Search::ended).collect())
}

/// Where the next page begins; none after the last page.
fn next_page(rows: &[Due], page: usize) -> Option<DueCursor> {
    rows.last().filter(|_| rows.len() == page).map(Due::cursor)
}

/// Whether the lane's domain is below the domain of an ETRN `@domain`.
fn is_below(kick: &Kick, lane: &str) -> bool {
    match kick {
        Kick::Domain(_) | Kick::Lane(..) => false,
        Kick::DomainAndBelow(domain) => {
            lane.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
    }
}
