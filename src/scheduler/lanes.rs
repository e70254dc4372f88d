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
//! Memory holds a window: of each lane's due recipients at most `Windows::lane`, of all
//! together about `Windows::all`. A lane that had to leave some in the database says so (`more`) and
//! asks to be filled again when it runs low; what comes due meanwhile stands behind those, in the
//! database too, so that a lane's turns are in the order of due time; only the urgent, and what is more urgent than
//! the last in line, joins the line at once. Nothing is lost by forgetting
//! here: the database is the truth.
//!
//! No step costs more the more lanes or recipients wait: who is hungry, who may take a turn and whose
//! backoff ends are lists of their own.
//!
//! ```text
//!   add ──> waiting ──next──> in flight ──settled──> forgotten (or due again later, from the database)
//!              │ lane in trouble: forgotten here, `more` set, read again when the backoff ends
//! ```
//!
//! Mail that is fetched with ATRN takes no turns and is not held here at all: it stays in the database until
//! somebody who fetches it claims it, which puts it in flight as a turn does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AtrnDomains, SchedulerSettings, atrn};
use crate::mail::{Domain, Priority};
use crate::queue::{Due, DueCursor, Health, Job, LaneRow, RecipientId};

use super::retry::Schedule;
use super::turns::Turns;

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
    /// All that is due before this place is here or in flight, or was seen to; only of use in a lane of many domains.
    read_to: DueCursor,
    /// How often something was left to the database, so that a read that it crossed is known.
    times_left: u64,
    /// Stands among the hungry.
    asked: bool,
    /// Recipients in flight, until their settlement is on disk.
    flying: usize,
    /// Its place in the rings of turns, or on the bench. Entries there with other tickets are void.
    turn: Option<Turn>,
    /// The domains seen here, for filling from the database: a domain's lane has one.
    domain: Option<Domain>,
}

/// A lane's place among those that wait for a turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    priority: Priority,
    ticket: u64,
    benched: bool,
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
    /// Where the lane's rows begin that are not here.
    pub after: DueCursor,
    /// How many rows there is room for.
    pub room: usize,
    /// How many due rows may be read that are here already.
    pub known: usize,
    times_left: u64,
}

/// All lanes and what is in flight.
#[derive(Debug)]
pub struct Lanes {
    windows: Windows,
    settings: SchedulerSettings,
    /// Domains whose mail is fetched.
    atrn: AtrnDomains,
    schedule: Schedule,
    random: fastrand::Rng,
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes that may have a job, in the order of their turns.
    rings: Turns,
    /// Doubtful lanes whose turn has come while the workers that doubtful lanes may have are all taken. When one
    /// comes free, they and the rings alternate, where the priority is the same.
    bench: Turns,
    bench_is_next: bool,
    /// The last ticket given out.
    tickets: u64,
    /// When backoffs end.
    alarms: BTreeSet<(i64, Arc<str>)>,
    /// Lanes that run low and have more in the database, in the order in which they said so.
    hungry: VecDeque<Arc<str>>,
    /// Every recipient that waits here or is in flight, and its lane.
    known: HashMap<RecipientId, Arc<str>>,
    /// Jobs that only bounce what is past its lifetime; they need no host and go first.
    expired: VecDeque<Job>,
    waiting: usize,
    /// Transactions under way in lanes whose last try met trouble.
    suspect_busy: usize,
}

impl Lanes {
    /// No lanes yet. `seed` determines every jitter.
    pub fn new(settings: SchedulerSettings, seed: u64) -> Lanes {
        Lanes::with_windows(settings, Windows::default(), seed)
    }

    /// The same with windows of another size, for tests.
    pub(crate) fn with_windows(settings: SchedulerSettings, windows: Windows, seed: u64) -> Lanes {
        Lanes {
            windows,
            schedule: Schedule::new(settings.schedule.clone()),
            settings,
            atrn: AtrnDomains::default(),
            random: fastrand::Rng::with_seed(seed),
            lanes: HashMap::new(),
            rings: Turns::default(),
            bench: Turns::default(),
            bench_is_next: false,
            tickets: 0,
            alarms: BTreeSet::new(),
            hungry: VecDeque::new(),
            known: HashMap::new(),
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
        self.alarms.insert((row.backoff_until, name));
    }

    /// A recipient is due. Known ones are left as they are.
    pub fn add(&mut self, due: Due, now: i64) {
        self.line_up(due, false, now);
    }

    /// In line, or left to the database. `in_order`: nothing that the lane left there comes before it.
    fn line_up(&mut self, due: Due, in_order: bool, now: i64) {
        if self.known.contains_key(&due.recipient) || self.atrn.contains(due.domain.as_str()) {
            return;
        }
        let name = self.lane_of(&due.domain);
        let room = self.room();
        let lane = self.lanes.entry(name.clone()).or_insert_with(|| Lane::new(&self.settings, &name));
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
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        self.known.insert(due.recipient, name.clone());
        let place = lane.waiting.partition_point(|other| other.priority >= due.priority);
        lane.waiting.insert(place, due);
        self.waiting += 1;
        self.enter_ring(&name, now);
    }

    /// How many a lane may hold.
    fn room(&self) -> usize {
        if self.waiting >= self.windows.all { self.windows.minimum } else { self.windows.lane }
    }

    /// The lane has something in the database, behind `after`.
    fn leave(&mut self, name: &Arc<str>, after: DueCursor) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        lane.read_to = if lane.more { lane.read_to.min(after) } else { after };
        lane.more = true;
        lane.times_left += 1;
        self.ask(name);
    }

    /// A domain has recipients due that may not be here, the first of them at `oldest`.
    pub fn has_due(&mut self, domain: &Domain, oldest: i64) {
        if self.atrn.contains(domain.as_str()) {
            return;
        }
        let name = self.lane_of(domain);
        let lane = self.lanes.entry(name.clone()).or_insert_with(|| Lane::new(&self.settings, &name));
        if lane.domain.is_none() && *name == *domain.as_str() {
            lane.domain = Some(domain.clone());
        }
        self.leave(&name, DueCursor::from(oldest.saturating_sub(1)));
    }

    /// Puts a lane among the hungry, if it is.
    fn ask(&mut self, name: &Arc<str>) {
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

    /// Recipients past their lifetime (rows of one message follow each other); those at work or in line are left alone.
    pub fn add_expired(&mut self, rows: Vec<Due>) {
        for due in rows {
            if self.known.contains_key(&due.recipient) {
                continue;
            }
            let lane = self.lane_of(&due.domain);
            self.known.insert(due.recipient, lane.clone());
            if let Some(lane) = self.lanes.get_mut(&lane) {
                lane.flying += 1;
            }
            let entry = (due.recipient, Duration::ZERO);
            match self.expired.back_mut() {
                Some(job) if job.message == due.message => job.recipients.push(entry),
                _ => {
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
        while let Some(name) = self.next_turn() {
            let may_doubt = self.may_doubt();
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            let turn = lane.turn.take();
            let (may_start, suspect) = (may_start(lane, &self.settings, now), lane.failures > 0);
            if !may_start {
                continue;
            }
            if suspect && !may_doubt {
                // Its turn stays: the half of the workers that doubtful lanes may have is taken.
                lane.turn = turn.map(|turn| Turn { benched: true, ..turn });
                if let Some(turn) = turn {
                    self.bench.push(turn.priority, name, turn.ticket);
                }
                continue;
            }
            let job = self.take_job(&name);
            self.enter_ring(&name, now);
            self.ask(&name);
            return job;
        }
        None
    }

    /// Whose turn it is. Ends: who cannot start leaves the rings, who may not goes to the bench.
    fn next_turn(&mut self) -> Option<Arc<str>> {
        let may_doubt = self.may_doubt();
        let ring = self.rings.highest(is_valid(&self.lanes));
        let bench = if may_doubt { self.bench.highest(is_valid(&self.lanes)) } else { None };
        let from_bench = bench.is_some() && (bench > ring || bench == ring && self.bench_is_next);
        self.bench_is_next = !from_bench;
        if from_bench { self.bench.pop() } else { self.rings.pop() }
    }

    /// Whether [`Lanes::claim`] would take this recipient.
    pub fn may_claim(&self, due: &Due) -> bool {
        self.atrn.contains(due.domain.as_str()) && !self.knows(due)
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
        self.known.insert(first.recipient, lane.clone());
        while claimed.len() < self.settings.recipients_per_transaction
            && let Some(due) = rows.front()
            && due.message == first.message
            && due.domain == first.domain
            && self.may_claim(due)
        {
            let Some(due) = rows.pop_front() else { break };
            claimed.push((due.recipient, self.wait(&due)));
            self.known.insert(due.recipient, lane.clone());
        }
        Some(Job { lane, message: first.message, recipients: claimed, fresh: first.fresh, expired: false })
    }

    fn wait(&mut self, due: &Due) -> Duration {
        self.schedule.wait(due.attempts.saturating_add(1), self.random.f64())
    }

    /// Whether [`Lanes::next`] may have something.
    pub fn has_turns(&self) -> bool {
        let bench_may = self.may_doubt() && !self.bench.is_empty();
        !self.rings.is_empty() || bench_may || !self.expired.is_empty()
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
        lane.flying += recipients.len();
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
        if !unsettled.is_empty() {
            // Whatever became of them, the database knows; they may still be due.
            self.settled(unsettled.iter().copied());
            match atrn::domain_of_lane(&job.lane).map(Domain::parse) {
                // Perhaps no longer to be fetched.
                Some(Ok(domain)) => self.has_due(&domain, i64::MIN),
                _ => self.leave(&job.lane, DueCursor::from(i64::MIN)),
            }
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
                lane.turn = lane.turn.filter(|turn| !turn.benched);
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
        let mut first = DueCursor::from(i64::MAX);
        for due in lane.waiting.drain(..) {
            self.known.remove(&due.recipient);
            first = first.min(DueCursor::from(due.due_at.saturating_sub(1)));
        }
        let void = lane.turn.take();
        self.sweep_turns(void);
        self.leave(name, first);
    }

    /// These are no longer in flight: their settlement is on disk.
    pub fn settled(&mut self, recipients: impl IntoIterator<Item = RecipientId>) {
        for recipient in recipients {
            let Some(name) = self.known.remove(&recipient) else { continue };
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.flying = lane.flying.saturating_sub(1);
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

    /// Lanes that backed off until `now` or earlier take turns again.
    pub fn wake(&mut self, now: i64) {
        while let Some((until, _)) = self.alarms.first()
            && *until <= now
            && let Some((_, name)) = self.alarms.pop_first()
        {
            self.enter_ring(&name, now);
            self.ask(&name);
        }
    }

    /// When the next backoff ends.
    pub fn next_alarm(&self) -> Option<i64> {
        self.alarms.first().map(|(until, _)| *until)
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
        let stands = lane.turn.is_some_and(|turn| turn.priority >= priority);
        if stands || !may_start(lane, &self.settings, now) {
            return;
        }
        self.tickets += 1;
        let void = lane.turn.replace(Turn { priority, ticket: self.tickets, benched: false });
        self.rings.push(priority, name.clone(), self.tickets);
        self.sweep_turns(void);
    }

    /// An entry became void.
    fn sweep_turns(&mut self, void: Option<Turn>) {
        if let Some(Turn { priority, benched, .. }) = void {
            let turns = if benched { &mut self.bench } else { &mut self.rings };
            turns.sweep(priority, self.lanes.len(), is_valid(&self.lanes));
        }
    }

    /// Whether a doubtful lane may have one more of the workers.
    fn may_doubt(&self) -> bool {
        self.suspect_busy < (self.settings.workers / 2).max(1)
    }

    fn drop_if_idle(&mut self, name: &Arc<str>) {
        let idle = self.lanes.get(name).is_some_and(|lane| {
            lane.waiting.is_empty()
                && lane.busy == 0
                && lane.flying == 0
                && lane.failures == 0
                && !lane.more
                && !lane.asked
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

/// Whether a ticket is the one that a lane holds.
fn is_valid(lanes: &HashMap<Arc<str>, Lane>) -> impl Fn(&str, u64) -> bool + '_ {
    |name, ticket| lanes.get(name).and_then(|lane| lane.turn).is_some_and(|turn| turn.ticket == ticket)
}

/// The place in the order of time that this one is the next behind.
fn just_before(due: &Due) -> DueCursor {
    DueCursor { id: due.recipient.0.saturating_sub(1), ..due.cursor() }
}

#[cfg(test)]
impl Lanes {
    /// Lanes whose turn can come now and the priority of it. Left out are those that wait for a doubtful lane's
    /// share, and those whose crowded time is over and that have not been woken.
    pub(crate) fn ready(&self, now: i64) -> Vec<(Arc<str>, Priority)> {
        let ready = |(name, lane): &(&Arc<str>, &Lane)| {
            let is_woken =
                lane.crowded.is_none_or(|(until, _)| !self.alarms.contains(&(until, (*name).clone())));
            let may_doubt = lane.failures == 0 || self.may_doubt();
            may_start(lane, &self.settings, now) && may_doubt && is_woken
        };
        let lanes = self.lanes.iter().filter(ready);
        lanes.filter_map(|(name, lane)| Some((name.clone(), lane.waiting.front()?.priority))).collect()
    }

    /// Entries in the rings and on the bench, void ones too.
    pub(super) fn turns_kept(&self) -> usize {
        self.rings.entries().count() + self.bench.entries().count()
    }

    /// Recounts what is kept as running sums.
    pub(crate) fn check(&self) {
        let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        assert_eq!(waiting, self.waiting, "waiting");
        let suspect: usize = self.lanes.values().filter(|lane| lane.failures > 0).map(|lane| lane.busy).sum();
        assert_eq!(suspect, self.suspect_busy, "suspect_busy");
        for (name, lane) in &self.lanes {
            let held = |turns: &Turns, benched| {
                let held = |(priority, at, ticket): &(Priority, &str, u64)| {
                    let is_held = |turn: Turn| {
                        (turn.priority, turn.ticket, turn.benched) == (*priority, *ticket, benched)
                    };
                    *at == &**name && lane.turn.is_some_and(is_held)
                };
                turns.entries().filter(held).count()
            };
            let stands = held(&self.rings, false) + held(&self.bench, true);
            assert_eq!(usize::from(lane.turn.is_some()), stands, "{name} in the rings or on the bench");
            let mut line = lane.waiting.iter().zip(lane.waiting.iter().skip(1));
            assert!(line.all(|(one, next)| one.priority >= next.priority), "{name} is out of order");
            let asked = self.hungry.iter().filter(|asked| *asked == name).count();
            assert_eq!(usize::from(lane.asked), asked, "{name} among the hungry");
            let will_ask =
                lane.asked || !lane.waiting.is_empty() || self.alarms.iter().any(|(_, at)| at == name);
            assert!(!lane.more || will_ask, "{name} has more and will never ask for it");
        }
    }
}
