//! Lanes: which job is next (pure: no clock, no thread, no database).
//!
//! A lane is one destination's line. Lanes take turns, one transaction a turn, so that ten
//! thousand newsletters to one domain do not stand before a password reset to another. Each has
//! a limit of transactions at once, and backs off as a whole when its host is in trouble,
//! apart from the retry time of each message. A lane whose hosts have no room for more of us keeps
//! what it has for a moment; who found no room is read from the database again.
//!
//! Priority (RFC 6710) comes before all turns: a lane's line is ordered by it, lanes whose first message has a
//! higher one take their turns first, and in a full window the urgent takes the place of the ordinary.
//!
//! Memory holds a window: of each lane's due recipients at most [`LANE_WINDOW`], of all
//! together about [`WINDOW`]. A lane that had to leave some in the database says so (`more`) and
//! is filled again when it runs low. Nothing is lost by forgetting here: the database is the truth.
//!
//! ```text
//!   add ──> waiting ──next──> in flight ──settled──> forgotten (or due again later, from the database)
//!              │ lane in trouble: forgotten here, `more` set, read again when the backoff ends
//! ```
//!
//! Mail that is fetched with ATRN takes no turns and is not held here at all: it stays in the database until
//! somebody who fetches it claims it, which puts it in flight as a turn does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AtrnDomains, SchedulerSettings, atrn};
use crate::mail::{Domain, Priority};
use crate::queue::{Due, Health, Job, LaneRow, RecipientId};

use super::retry::Schedule;

/// Recipients of one lane in memory at most.
pub const LANE_WINDOW: usize = 2_000;
/// Recipients in memory at most, but for `LANE_MINIMUM` a lane.
pub const WINDOW: usize = 50_000;
/// What a lane may always hold, so that a full window never locks a lane out.
const LANE_MINIMUM: usize = 10;
/// Void entries that a ring may hold beside as many as there are lanes.
const RING_SLACK: usize = 64;
/// A lane with fewer waiting than this, and more in the database, is filled again.
const LANE_LOW: usize = 500;

#[derive(Debug, Default)]
struct Lane {
    /// By priority, the highest first, and in the order of coming.
    waiting: VecDeque<Due>,
    /// Transactions under way.
    busy: usize,
    /// Troubles in a row; 0 is healthy.
    failures: u32,
    backoff_until: i64,
    /// A transaction ended in an answer since the lane is here. Until then it has one at a time, so that
    /// many hosts that accept connections and never speak do not take all the workers at once.
    answered: bool,
    /// Transactions at once, where the operator says so in `[[destination]]`.
    at_once: Option<usize>,
    /// Until then it has at most so many transactions at once: its hosts have no room for more of us.
    crowded: Option<(i64, usize)>,
    /// The database may hold due recipients that are not here.
    more: bool,
    /// Its place in the rings of turns: the ring and the ticket. Entries with other tickets are void.
    turn: Option<(Priority, u64)>,
    /// The domains seen here, for filling from the database: a domain's lane has one.
    domain: Option<Domain>,
}

/// A change of a lane's health that belongs on disk and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneChange {
    /// Backs off now.
    BacksOff(LaneRow),
    /// Works again.
    Recovered,
}

/// How a lane is at this moment: what an operator is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneState {
    /// Its name.
    pub lane: Arc<str>,
    /// Troubles in a row; 0 is healthy.
    pub failures: u32,
    /// Unix seconds; it backs off until then.
    pub backoff_until: i64,
    /// Transactions under way.
    pub busy: usize,
    /// Transactions that may be under way at once.
    pub limit: usize,
    /// Recipients in line in memory.
    pub waiting: usize,
    /// More may wait in the database.
    pub more: bool,
}

/// What a lane needs read from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refill {
    /// The lane.
    pub lane: Arc<str>,
    /// Its domain, where all of the lane is one domain.
    pub domain: Option<Domain>,
    /// How many rows to read: room in the lane plus those that will be recognised as in flight.
    pub limit: usize,
}

/// All lanes and what is in flight.
#[derive(Debug)]
pub struct Lanes {
    settings: SchedulerSettings,
    /// Domains whose mail is fetched.
    atrn: AtrnDomains,
    schedule: Schedule,
    random: fastrand::Rng,
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes that may have a job, in the order of their turns; a ring for each priority that waits.
    rings: BTreeMap<Reverse<Priority>, VecDeque<(Arc<str>, u64)>>,
    /// The last ticket given out.
    tickets: u64,
    /// When backoffs end.
    alarms: BTreeSet<(i64, Arc<str>)>,
    /// Lanes that said `more`.
    hungry: HashSet<Arc<str>>,
    /// Every recipient that waits here or is in flight.
    known: HashSet<RecipientId>,
    /// Jobs that only bounce what is past its lifetime; they need no host and go first.
    expired: VecDeque<Job>,
    waiting: usize,
    /// Transactions under way in lanes whose last try met trouble.
    suspect_busy: usize,
}

impl Lanes {
    /// No lanes yet. `seed` determines every jitter.
    pub fn new(settings: SchedulerSettings, seed: u64) -> Lanes {
        Lanes {
            schedule: Schedule::new(settings.schedule.clone()),
            settings,
            atrn: AtrnDomains::default(),
            random: fastrand::Rng::with_seed(seed),
            lanes: HashMap::new(),
            rings: BTreeMap::new(),
            tickets: 0,
            alarms: BTreeSet::new(),
            hungry: HashSet::new(),
            known: HashSet::new(),
            expired: VecDeque::new(),
            waiting: 0,
            suspect_busy: 0,
        }
    }

    /// Takes new settings. What waits is forgotten (the caller reads it again), since lanes may be named anew.
    pub fn reconfigure(&mut self, settings: SchedulerSettings) {
        self.schedule = Schedule::new(settings.schedule.clone());
        self.settings = settings;
        for (name, lane) in &mut self.lanes {
            lane.at_once = given(&self.settings, name);
        }
        self.forget_waiting();
    }

    /// Takes the domains whose mail is fetched; gives those of before. What waits is forgotten (the caller reads it
    /// again), since lanes are named anew.
    pub fn set_atrn(&mut self, domains: AtrnDomains) -> AtrnDomains {
        self.forget_waiting();
        std::mem::replace(&mut self.atrn, domains)
    }

    /// The domains whose mail is fetched.
    pub fn atrn(&self) -> &AtrnDomains {
        &self.atrn
    }

    /// A lane that was backing off when the process ended.
    pub fn restore(&mut self, row: LaneRow) {
        if atrn::domain_of_lane(&row.lane).is_some() {
            return;
        }
        let name: Arc<str> = row.lane.into();
        let lane = self.lanes.entry(name.clone()).or_insert_with(|| Lane::new(&self.settings, &name));
        (lane.failures, lane.backoff_until, lane.more) = (row.failures, row.backoff_until, true);
        self.hungry.insert(name.clone());
        self.alarms.insert((row.backoff_until, name));
    }

    /// A recipient is due. Known ones are left as they are.
    pub fn add(&mut self, due: Due, now: i64) {
        if self.known.contains(&due.recipient) || self.atrn.contains(due.domain.as_str()) {
            return;
        }
        let name = self.lane_of(&due.domain);
        let full = self.waiting >= WINDOW;
        let lane = self.lanes.entry(name.clone()).or_insert_with(|| Lane::new(&self.settings, &name));
        if lane.domain.is_none() && *name == *due.domain.as_str() {
            lane.domain = Some(due.domain.clone());
        }
        let room = if full { LANE_MINIMUM } else { LANE_WINDOW };
        let backs_off = lane.backoff_until > now;
        if backs_off || lane.waiting.len() >= room {
            lane.more = true;
            self.hungry.insert(name.clone());
            // The last in line goes back to the database where it is less urgent.
            let gives_way = |last: &Due| !backs_off && last.priority < due.priority;
            if !lane.waiting.back().is_some_and(gives_way) {
                return;
            }
            let Some(last) = lane.waiting.pop_back() else { return };
            self.known.remove(&last.recipient);
            self.waiting -= 1;
        }
        self.known.insert(due.recipient);
        let place = lane.waiting.partition_point(|other| other.priority >= due.priority);
        lane.waiting.insert(place, due);
        self.waiting += 1;
        self.enter_ring(&name, now);
    }

    /// Recipients past their lifetime (rows of one message follow each other); those at work or in line are left alone.
    pub fn add_expired(&mut self, rows: Vec<Due>) {
        for due in rows {
            if !self.known.insert(due.recipient) {
                continue;
            }
            let entry = (due.recipient, Duration::ZERO);
            match self.expired.back_mut() {
                Some(job) if job.message == due.message => job.recipients.push(entry),
                _ => {
                    let lane = self.lane_of(&due.domain);
                    let (message, recipients) = (due.message, vec![entry]);
                    self.expired.push_back(Job { lane, message, recipients, fresh: None, expired: true });
                }
            }
        }
    }

    /// The next job, and its lane's turn is over. None: nothing may start now.
    pub fn next(&mut self, now: i64) -> Option<Job> {
        if let Some(job) = self.expired.pop_front() {
            return Some(job);
        }
        let mut kept = Vec::new();
        let job = loop {
            let Some(name) = self.next_turn() else { break None };
            let (may_start, suspect) = match self.lanes.get(&name) {
                Some(lane) => (may_start(lane, &self.settings, now), lane.failures > 0),
                None => continue,
            };
            if !may_start {
                continue;
            }
            if suspect && self.suspect_busy >= (self.settings.workers / 2).max(1) {
                // Its turn stays: the half of the workers that doubtful lanes may have is taken.
                kept.push(name);
                continue;
            }
            let job = self.take_job(&name);
            self.enter_ring(&name, now);
            break job;
        };
        kept.iter().for_each(|name| self.enter_ring(name, now));
        job
    }

    /// Takes the next lane out of the rings, void entries with it.
    fn next_turn(&mut self) -> Option<Arc<str>> {
        loop {
            let mut ring = self.rings.first_entry()?;
            let Some((name, ticket)) = ring.get_mut().pop_front() else {
                ring.remove();
                continue;
            };
            if let Some(lane) = self.lanes.get_mut(&name)
                && lane.turn.is_some_and(|(_, valid)| valid == ticket)
            {
                lane.turn = None;
                return Some(name);
            }
        }
    }

    /// Whether [`Lanes::claim`] would take this recipient.
    pub fn may_claim(&self, due: &Due) -> bool {
        self.atrn.contains(due.domain.as_str()) && !self.known.contains(&due.recipient)
    }

    /// The next job for somebody who fetches mail, from the front of `rows`; what is in flight already, or no longer
    /// to be fetched, is passed over. None: `rows` is used up.
    pub fn claim(&mut self, rows: &mut VecDeque<Due>) -> Option<Job> {
        let first = loop {
            let due = rows.pop_front()?;
            if self.may_claim(&due) {
                break due;
            }
        };
        let lane = atrn::lane(first.domain.as_str());
        let mut claimed = vec![(first.recipient, self.wait(&first))];
        self.known.insert(first.recipient);
        while claimed.len() < self.settings.recipients_per_transaction
            && let Some(due) = rows.front()
            && due.message == first.message
            && due.domain == first.domain
            && self.may_claim(due)
        {
            let Some(due) = rows.pop_front() else { break };
            claimed.push((due.recipient, self.wait(&due)));
            self.known.insert(due.recipient);
        }
        Some(Job { lane, message: first.message, recipients: claimed, fresh: first.fresh, expired: false })
    }

    fn wait(&mut self, due: &Due) -> Duration {
        self.schedule.wait(due.attempts.saturating_add(1), self.random.f64())
    }

    /// Whether [`Lanes::next`] may have something.
    pub fn has_turns(&self) -> bool {
        self.rings.values().any(|ring| !ring.is_empty()) || !self.expired.is_empty()
    }

    fn take_job(&mut self, name: &Arc<str>) -> Option<Job> {
        let lane = self.lanes.get_mut(name)?;
        let first = lane.waiting.pop_front()?;
        let message = first.message;
        let mut recipients = Vec::with_capacity(1);
        let mut wait = |due: &Due| {
            (due.recipient, self.schedule.wait(due.attempts.saturating_add(1), self.random.f64()))
        };
        recipients.push(wait(&first));
        while recipients.len() < self.settings.recipients_per_transaction
            && lane.waiting.front().is_some_and(|due| due.message == message)
        {
            let Some(due) = lane.waiting.pop_front() else { break };
            recipients.push(wait(&due));
        }
        lane.busy += 1;
        self.suspect_busy += usize::from(lane.failures > 0);
        self.waiting -= recipients.len();
        Some(Job { lane: name.clone(), message, recipients, fresh: first.fresh, expired: false })
    }

    /// A job ended. `unsettled` are its recipients that no settlement will name (gone or held meanwhile).
    pub fn finished(
        &mut self,
        job: &Job,
        health: &Health,
        unsettled: &[RecipientId],
        now: i64,
    ) -> Option<LaneChange> {
        for recipient in unsettled {
            self.known.remove(recipient);
        }
        if job.expired {
            return None;
        }
        let lane = self.lanes.get_mut(&job.lane)?;
        lane.busy = lane.busy.saturating_sub(1);
        if lane.failures > 0 {
            self.suspect_busy = self.suspect_busy.saturating_sub(1);
        }
        lane.answered |= matches!(health, Health::Healthy | Health::Unchanged);
        let change = match health {
            Health::Healthy if lane.failures > 0 => {
                // The others of this lane still under way no longer count as doubtful.
                self.suspect_busy = self.suspect_busy.saturating_sub(lane.busy);
                lane.failures = 0;
                lane.backoff_until = 0;
                Some(LaneChange::Recovered)
            }
            // Transactions that were under way together fail together: that is one failure.
            Health::Trouble(reply) if lane.backoff_until <= now => {
                if lane.failures == 0 {
                    self.suspect_busy += lane.busy;
                }
                lane.failures += 1;
                let wait = self.schedule.wait(lane.failures, self.random.f64()).as_secs() as i64;
                lane.backoff_until = now + wait;
                self.alarms.insert((lane.backoff_until, job.lane.clone()));
                let row = LaneRow {
                    lane: job.lane.to_string(),
                    failures: lane.failures,
                    backoff_until: lane.backoff_until,
                    last_reply: reply.clone(),
                };
                self.park(&job.lane);
                Some(LaneChange::BacksOff(row))
            }
            Health::Crowded(wait) => {
                // Its other transactions go on; one more is tried when the time is over. Who was put back is
                // read again: of a job not everything that waits in line is known.
                let until = now + wait.as_secs_f64().ceil().max(1.0) as i64;
                lane.crowded = Some((until, lane.busy));
                lane.more = true;
                self.hungry.insert(job.lane.clone());
                self.alarms.insert((until, job.lane.clone()));
                None
            }
            _ => None,
        };
        self.enter_ring(&job.lane, now);
        self.drop_if_idle(&job.lane);
        change
    }

    /// A lane backs off: what waits in it is left to the database until then.
    fn park(&mut self, name: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        self.waiting -= lane.waiting.len();
        for due in lane.waiting.drain(..) {
            self.known.remove(&due.recipient);
        }
        lane.more = true;
        self.hungry.insert(name.clone());
    }

    /// These are no longer in flight: their settlement is on disk.
    pub fn settled(&mut self, recipients: impl IntoIterator<Item = RecipientId>) {
        for recipient in recipients {
            self.known.remove(&recipient);
        }
    }

    /// Lanes that `is_meant` names forget their backoff. They stay doubtful, one transaction at a time,
    /// until they succeed.
    pub fn end_backoff(&mut self, now: i64, is_meant: impl Fn(&str) -> bool) {
        let meant: Vec<Arc<str>> = self.lanes.keys().filter(|name| is_meant(name)).cloned().collect();
        for name in meant {
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.backoff_until = lane.backoff_until.min(now);
            }
            self.enter_ring(&name, now);
        }
    }

    /// Forgets what waits, not what is in flight; the caller reads it again from the database.
    pub fn forget_waiting(&mut self) {
        let names: Vec<Arc<str>> = self.lanes.keys().cloned().collect();
        for name in names {
            self.park(&name);
        }
        for job in std::mem::take(&mut self.expired) {
            self.settled(job.recipients.iter().map(|(recipient, _)| *recipient));
        }
    }

    /// Lanes that backed off until `now` or earlier take turns again.
    pub fn wake(&mut self, now: i64) {
        while let Some((until, _)) = self.alarms.first()
            && *until <= now
            && let Some((_, name)) = self.alarms.pop_first()
        {
            self.enter_ring(&name, now);
        }
    }

    /// When the next backoff ends.
    pub fn next_alarm(&self) -> Option<i64> {
        self.alarms.first().map(|(until, _)| *until)
    }

    /// Lanes that run low and may have more in the database.
    pub fn refills(&self, now: i64) -> Vec<Refill> {
        let hungry = self.hungry.iter().filter_map(|name| {
            let lane = self.lanes.get(name)?;
            let wanted = lane.more
                && lane.backoff_until <= now
                && lane.waiting.len() < LANE_LOW
                // Of before its mail was to be fetched: nothing enters it any more.
                && !self.atrn.contains(name);
            // Any window that is full must first drain, unless the lane has next to nothing.
            let allowed = self.waiting < WINDOW || lane.waiting.is_empty();
            let room = if self.waiting < WINDOW { LANE_WINDOW } else { LANE_MINIMUM };
            (wanted && allowed).then(|| Refill {
                lane: name.clone(),
                domain: lane.domain.clone().or_else(|| self.domain_of_lane(name)),
                limit: room + lane.waiting.len() + lane.busy * self.settings.recipients_per_transaction,
            })
        });
        hungry.collect()
    }

    /// The rows of a refill; `all` says that the database has no further due ones for this lane.
    pub fn refilled(&mut self, refill: &Refill, rows: Vec<Due>, all: bool, now: i64) {
        if all {
            if let Some(lane) = self.lanes.get_mut(&refill.lane) {
                lane.more = false;
            }
            self.hungry.remove(&refill.lane);
        }
        // add() sets `more` again should the lane not hold them all.
        for due in rows {
            self.add(due, now);
        }
        self.drop_if_idle(&refill.lane);
    }

    /// Whether a due recipient is accounted for: in line, in flight, to be fetched, or left to a lane that will read it.
    pub fn accounts_for(&self, due: &Due) -> bool {
        self.known.contains(&due.recipient)
            || self.atrn.contains(due.domain.as_str())
            || self.lanes.get(&self.lane_of(&due.domain)).is_some_and(|lane| lane.more)
    }

    /// How every lane is that somebody waits in, that works or that is in trouble; in no order.
    pub fn states(&self) -> Vec<LaneState> {
        self.lanes.iter().map(|(name, lane)| self.state_of(name, lane)).collect()
    }

    /// How one lane is. One that nothing is known of is healthy and idle.
    pub fn state(&self, name: &str) -> LaneState {
        match self.lanes.get_key_value(name) {
            Some((name, lane)) => self.state_of(name, lane),
            None => self.state_of(&name.into(), &Lane::new(&self.settings, name)),
        }
    }

    fn state_of(&self, name: &Arc<str>, lane: &Lane) -> LaneState {
        LaneState {
            lane: name.clone(),
            failures: lane.failures,
            backoff_until: lane.backoff_until,
            busy: lane.busy,
            limit: limit(lane, &self.settings),
            waiting: lane.waiting.len(),
            more: lane.more,
        }
    }

    /// Recipients in line here.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The lane a domain's mail waits in; the name is shared where the lane exists.
    pub fn lane_of(&self, domain: &Domain) -> Arc<str> {
        if self.atrn.contains(domain.as_str()) {
            return atrn::lane(domain.as_str());
        }
        if self.settings.routes.0.is_empty()
            && let Some((name, _)) = self.lanes.get_key_value(domain.as_str())
        {
            return name.clone();
        }
        self.settings.routes.lane(domain)
    }

    fn domain_of_lane(&self, name: &str) -> Option<Domain> {
        let domain = Domain::parse(name).ok()?;
        (*self.settings.routes.lane(&domain) == *name).then_some(domain)
    }

    fn enter_ring(&mut self, name: &Arc<str>, now: i64) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let Some(priority) = lane.waiting.front().map(|due| due.priority) else { return };
        // One that stands in the ring of a lower priority moves up.
        let stands = lane.turn.is_some_and(|(ring, _)| ring >= priority);
        if stands || !may_start(lane, &self.settings, now) {
            return;
        }
        self.tickets += 1;
        let void = lane.turn.replace((priority, self.tickets));
        self.rings.entry(Reverse(priority)).or_default().push_back((name.clone(), self.tickets));
        if let Some((ring, _)) = void {
            self.sweep_ring(ring);
        }
    }

    /// Drops void entries once they are the larger part of a ring, so that it never grows without end.
    fn sweep_ring(&mut self, priority: Priority) {
        let Some(ring) = self.rings.get_mut(&Reverse(priority)) else { return };
        if ring.len() > 2 * self.lanes.len() + RING_SLACK {
            let lanes = &self.lanes;
            ring.retain(|(name, ticket)| {
                lanes.get(name).and_then(|lane| lane.turn).is_some_and(|(_, valid)| valid == *ticket)
            });
        }
    }

    fn drop_if_idle(&mut self, name: &Arc<str>) {
        let idle = self.lanes.get(name).is_some_and(|lane| {
            lane.waiting.is_empty()
                && lane.busy == 0
                && lane.failures == 0
                && !lane.more
                && lane.turn.is_none()
        });
        if idle {
            self.lanes.remove(name);
        }
    }
}

impl Lane {
    fn new(settings: &SchedulerSettings, name: &str) -> Lane {
        Lane { at_once: given(settings, name), ..Lane::default() }
    }
}

/// What the operator says of this lane.
fn given(settings: &SchedulerSettings, lane: &str) -> Option<usize> {
    settings.destinations.of_lane(lane).and_then(|destination| destination.connections)
}

fn may_start(lane: &Lane, settings: &SchedulerSettings, now: i64) -> bool {
    !lane.waiting.is_empty() && lane.busy < at_once(lane, settings, now) && lane.backoff_until <= now
}

/// How many transactions it may have at once just now.
fn at_once(lane: &Lane, settings: &SchedulerSettings, now: i64) -> usize {
    let limit = if lane.answered { limit(lane, settings) } else { 1 };
    match lane.crowded {
        Some((until, room)) if now < until => room.min(limit),
        _ => limit,
    }
}

/// A lane whose last try met trouble is probed with one.
fn limit(lane: &Lane, settings: &SchedulerSettings) -> usize {
    match lane.failures {
        0 => lane.at_once.unwrap_or(settings.connections_per_destination),
        _ => 1,
    }
}

#[cfg(test)]
impl Lanes {
    /// Entries in the rings, void ones too.
    pub(super) fn turns_kept(&self) -> usize {
        self.rings.values().map(VecDeque::len).sum()
    }

    /// Recounts what is kept as running sums.
    pub(super) fn check(&self) {
        let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        assert_eq!(waiting, self.waiting, "waiting");
        let suspect: usize = self.lanes.values().filter(|lane| lane.failures > 0).map(|lane| lane.busy).sum();
        assert_eq!(suspect, self.suspect_busy, "suspect_busy");
        for (name, lane) in &self.lanes {
            let valid =
                |at: &(Arc<str>, u64)| lane.turn.is_some_and(|(_, ticket)| at.0 == *name && at.1 == ticket);
            let entries = self.rings.values().flatten().filter(|at| valid(at)).count();
            assert_eq!(entries, usize::from(lane.turn.is_some()), "{name} in the rings");
            let ordered = lane.waiting.iter().zip(lane.waiting.iter().skip(1));
            assert!(
                ordered.clone().all(|(one, next)| one.priority >= next.priority),
                "{name} is out of order"
            );
            assert!(!lane.more || self.hungry.contains(name), "{name} says more and is not hungry");
        }
    }
}
