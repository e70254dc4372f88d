//! Lanes: which job is next (pure: no clock, no thread, no database).
//!
//! A lane is a destination's queue: a domain's, or that of a route with relays. Lanes take turns, one job a
//! turn, so that ten thousand newsletters to one domain do not delay a password reset to another. Each lane has a
//! limit of jobs at once (`lane`), and backs off as a whole while its host is in trouble (`backoff`), apart
//! from the retry time of each message. How many of the workers a lane may get depends on whether its host is known
//! to answer (`worker_quota`). A lane whose hosts are at their limit goes on with the jobs it has; recipients
//! that such a host did not take are requeued in their old place.
//!
//! Priority (RFC 6710) comes before all turns: a lane is ordered by it, lanes whose first message has a higher one
//! take their turns first, and in a full window urgent mail takes the place of ordinary mail.
//!
//! Memory holds a window (`window`): of each lane's due recipients at most `Windows::lane`, of all together about
//! `Windows::all`. A lane that left some in the database notes it (`more`) and asks to be filled again when it runs
//! low. What comes due meanwhile is left in the database behind them, so that a lane's turns are in the order of due
//! time; only what is urgent, or more urgent than the last recipient in the lane, joins at once. Nothing is lost by
//! forgetting here: the database is the truth.
//!
//! No step costs more the more lanes or recipients wait: there are lists of the lanes that need filling, of those
//! that may take a turn and of those whose backoff ends.
//!
//! ```text
//!   add ──> waiting ──next──> in flight ──settled──> forgotten (or due again later, from the database)
//!              │ lane backs off: forgotten here, `more` set, read again when the backoff ends
//! ```
//!
//! A lane that backs off because its hosts do not keep their TLS policy lets mail pass that does not heed it
//! (`TLS-Required: No`), one job at a time.
//!
//! `now` is a steady second everywhere here ([`crate::clock::Clock::steady`]): whatever is done to the system's clock,
//! no lane waits longer for it.
//!
//! Mail that is suspended takes none either and is not held here (`suspended`).
//!
//! Mail that is fetched with ATRN takes no turns and is not held here: it stays in the database until somebody who
//! fetches it claims it (`claims`), which puts it in flight as a turn does.

mod backoff;
mod claims;
mod lane;
mod suspended;
mod window;
mod worker_quota;

#[cfg(test)]
mod check;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::config::{AtrnDomains, Route, SchedulerSettings, atrn};
use crate::kit::bounded::TtlMap;
use crate::mail::{Domain, Lifetimes, Priority};
use crate::queue::{BackoffRow, Due, Job, JobRecipient, RecipientId, Submitted, Suspensions};

use super::retry::Schedule;
use super::turns::Turns;

pub use backoff::LaneChange;
pub use lane::LaneState;
use lane::{Lane, Turn, given, may_start};
pub use window::Refill;
pub(crate) use window::{Windows, just_before};
use worker_quota::{Standing, WorkerQuota};

/// How long it is remembered that the host of an idle lane answered.
const RESPONSIVE_KEPT: Duration = Duration::from_secs(1_800);
/// Of how many idle lanes that is remembered.
const RESPONSIVE_MAX: usize = 20_000;

/// What is known of a recipient that waits here or is in flight.
#[derive(Debug)]
struct RecipientEntry {
    lane: Arc<str>,
    domain: Domain,
    due_at: i64,
    attempts: u32,
    priority: Priority,
    tls_optional: bool,
    submitted: Option<Arc<Submitted>>,
    /// In flight; otherwise in its lane's line.
    in_flight: bool,
}

/// All lanes and what is in flight.
#[derive(Debug)]
pub struct Lanes {
    windows: Windows,
    settings: SchedulerSettings,
    /// Domains whose mail is fetched.
    atrn: AtrnDomains,
    /// Whose mail is not tried.
    suspensions: Suspensions,
    schedule: Schedule,
    random: fastrand::Rng,
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes that may have a job, in the order of their turns, by standing. While the quota of one standing is
    /// used up its turns wait, and cost the others nothing.
    turns: [Turns; 3],
    quota: WorkerQuota,
    /// Idle lanes whose host has answered lately, and how many jobs at once each had earned. A lane is
    /// forgotten when it has nothing to do; were this forgotten too, its next message would wait with those to
    /// hosts that nobody knows.
    responsive: TtlMap<Arc<str>, usize, i64>,
    /// Until when the host of a responsive lane, with jobs under way, may be silent.
    watched: BTreeSet<(i64, Arc<str>)>,
    /// The number of the last turn given out.
    last_turn: u64,
    /// When lanes are to be looked at again: when a backoff ends, a host may take more, a refill that gave nothing is
    /// due again, or past trouble is to be forgotten.
    wakes: BTreeSet<(i64, Arc<str>)>,
    /// Lanes that run low and have more in the database: the first is filled first.
    to_refill: VecDeque<Arc<str>>,
    /// Every recipient that waits here or is in flight.
    known: HashMap<RecipientId, RecipientEntry>,
    /// How often something urgent was left to the database: what was known of the urgent there no longer holds then.
    urgent_left: u64,
    /// Jobs that only bounce what is past its lifetime; they need no host and go first.
    expired: VecDeque<Job>,
    waiting: usize,
}

impl Lanes {
    /// No lanes yet. `seed` determines every jitter.
    pub fn new(settings: SchedulerSettings, seed: u64) -> Lanes {
        Lanes::with_windows(settings, Windows::default(), seed)
    }

    /// The same with windows of another size, for tests.
    pub(crate) fn with_windows(settings: SchedulerSettings, windows: Windows, seed: u64) -> Lanes {
        Lanes {
            quota: WorkerQuota::new(settings.workers),
            windows,
            schedule: Schedule::new(settings.schedule.clone()),
            settings,
            atrn: AtrnDomains::default(),
            suspensions: Suspensions::default(),
            random: fastrand::Rng::with_seed(seed),
            lanes: HashMap::new(),
            turns: Default::default(),
            responsive: TtlMap::new(RESPONSIVE_MAX, RESPONSIVE_KEPT),
            watched: BTreeSet::new(),
            last_turn: 0,
            wakes: BTreeSet::new(),
            to_refill: VecDeque::new(),
            known: HashMap::new(),
            urgent_left: 0,
            expired: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Takes new settings. What waits is forgotten (the caller reads it again), since lanes may be named anew.
    pub fn reconfigure(&mut self, settings: SchedulerSettings) {
        self.schedule = Schedule::new(settings.schedule.clone());
        self.settings = settings;
        self.quota.set_workers(self.settings.workers);
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

    /// No wait that the config gives to a recipient or a lane is longer, in seconds.
    pub fn longest_wait_secs(&self) -> i64 {
        Schedule::new(vec![self.settings.longest_rule_delay]).longest_secs().max(self.schedule.longest_secs())
    }

    /// How long mail is tried.
    pub fn lifetimes(&self) -> Lifetimes {
        self.settings.lifetimes
    }

    /// The domains whose mail is fetched.
    pub fn atrn(&self) -> &AtrnDomains {
        &self.atrn
    }

    /// A lane that was backing off when the process ended. It waits no longer than the schedule ever has a lane wait,
    /// whatever the clock was when its row was written.
    pub fn restore(&mut self, row: BackoffRow, at: Moment) {
        if atrn::domain_of_lane(&row.lane).is_some() {
            return;
        }
        let name: Arc<str> = row.lane.into();
        let new = || Lane::new(&self.settings, &name, None);
        let lane = self.lanes.entry(name.clone()).or_insert_with(new);
        let left = row.backoff_until.saturating_sub(at.now).min(self.schedule.longest_secs());
        let until = at.steady.saturating_add(left);
        (lane.failures, lane.backoff_until, lane.more) = (row.failures, until, true);
        self.wakes.insert((until, name));
    }

    /// Recipients past their lifetime (rows of one message follow each other): they leave their line. Those at work
    /// are left alone.
    pub fn add_expired(&mut self, rows: Vec<Due>, now: i64) {
        for due in rows {
            match self.known.get(&due.recipient) {
                Some(known) if known.in_flight => continue,
                Some(known) => self.leave_line(due.recipient, &known.lane.clone(), now),
                None => {}
            }
            let lane = self.lane_of(&due.domain);
            self.know(&due, &lane, true);
            if let Some(lane) = self.lanes.get_mut(&lane) {
                lane.recipients_in_flight += 1;
            }
            let entry = JobRecipient { id: due.recipient, retry_wait: Duration::ZERO };
            match self.expired.back_mut() {
                Some(job) if job.message == due.message => job.recipients.push(entry),
                _ => {
                    let (message, recipients) = (due.message, vec![entry]);
                    self.expired.push_back(Job { lane, message, recipients, fresh: None, expired: true });
                }
            }
        }
    }

    /// How many jobs wait that only bounce.
    pub fn expired_waiting(&self) -> usize {
        self.expired.len()
    }

    /// The next job, and its lane's turn is over. None: nothing may start now.
    pub fn next(&mut self, now: i64) -> Option<Job> {
        if let Some(job) = self.expired.pop_front() {
            return Some(job);
        }
        self.quota.pass(now);
        while let Some(name) = self.next_turn() {
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.turn = None;
            if !may_start(lane, &self.settings, now) {
                continue;
            }
            let job = self.take_job(&name, now);
            self.enter_turns(&name, now);
            self.request_refill(&name);
            return job;
        }
        None
    }

    /// Whose turn it is: of those that a worker may be given to, the most urgent, and who has waited longest.
    fn next_turn(&mut self) -> Option<Arc<str>> {
        let mut best = None;
        for standing in Standing::ALL {
            if self.quota.may_start(standing)
                && let Some((priority, number)) = self.turns[standing as usize].first(is_valid(&self.lanes))
            {
                best = best.max(Some((priority, Reverse(number), standing)));
            }
        }
        let (_, _, standing) = best?;
        self.turns[standing as usize].pop()
    }

    /// Whether [`Lanes::next`] may have something.
    pub fn has_turns(&self) -> bool {
        let may = |standing: &Standing| {
            self.quota.may_start(*standing) && !self.turns[*standing as usize].is_empty()
        };
        Standing::ALL.iter().any(may) || !self.expired.is_empty()
    }

    fn take_job(&mut self, name: &Arc<str>, now: i64) -> Option<Job> {
        let lane = self.lanes.get_mut(name)?;
        let first = lane.waiting.pop_front()?;
        let message = first.message;
        let mut recipients = Vec::with_capacity(1);
        // The wait after this attempt is drawn now and travels in the job.
        let mut take = |due: &Due| {
            self.known.entry(due.recipient).and_modify(|known| known.in_flight = true);
            let retry_wait = self.schedule.wait(due.attempts.saturating_add(1), self.random.f64());
            JobRecipient { id: due.recipient, retry_wait }
        };
        recipients.push(take(&first));
        while recipients.len() < self.settings.recipients_per_transaction
            && lane.waiting.front().is_some_and(|due| due.message == message)
        {
            let Some(due) = lane.waiting.pop_front() else { break };
            recipients.push(take(&due));
        }
        if lane.jobs_in_flight == 0 {
            lane.silent_since = Some(now);
        }
        lane.jobs_in_flight += 1;
        lane.recipients_in_flight += recipients.len();
        self.quota.starts(lane.standing());
        self.waiting -= recipients.len();
        self.watch(name);
        Some(Job { lane: name.clone(), message, recipients, fresh: first.fresh, expired: false })
    }

    /// These are no longer in flight: their settlement is on disk.
    pub fn settled(&mut self, recipients: impl IntoIterator<Item = RecipientId>) {
        for recipient in recipients {
            self.forget(recipient);
        }
    }

    /// Forgets one that is in flight no longer; none where that is known already.
    fn forget(&mut self, recipient: RecipientId) -> Option<RecipientEntry> {
        let known = self.known.remove(&recipient)?;
        if let Some(lane) = self.lanes.get_mut(&known.lane) {
            lane.recipients_in_flight = lane.recipients_in_flight.saturating_sub(1);
            self.drop_if_idle(&known.lane);
        }
        Some(known)
    }

    fn know(&mut self, due: &Due, lane: &Arc<str>, in_flight: bool) {
        let Due { due_at, attempts, priority, tls_optional, .. } = *due;
        let (lane, domain, submitted) = (lane.clone(), due.domain.clone(), due.submitted.clone());
        let entry =
            RecipientEntry { lane, domain, due_at, attempts, priority, tls_optional, submitted, in_flight };
        self.known.insert(due.recipient, entry);
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

    /// The only domain whose mail waits in this lane: its own lane, or that of a route for it alone. None for the lane
    /// of a route with a pattern, which gathers many.
    fn single_domain(&self, name: &str) -> Option<Domain> {
        let domain = Domain::parse(name.strip_prefix(Route::LANE_PREFIX).unwrap_or(name)).ok()?;
        (*self.settings.routes.lane(&domain) == *name).then_some(domain)
    }

    /// The lane of this name, a new one where there is none.
    fn lane_mut(&mut self, name: &Arc<str>, now: i64) -> &mut Lane {
        let new = || Lane::new(&self.settings, name, self.responsive.get(name, now).copied());
        self.lanes.entry(name.clone()).or_insert_with(new)
    }

    fn enter_turns(&mut self, name: &Arc<str>, now: i64) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let Some(priority) = lane.waiting.front().map(|due| due.priority) else { return };
        // One that waits with a lower priority moves up.
        let stands = lane.turn.is_some_and(|turn| turn.priority >= priority);
        if stands || !may_start(lane, &self.settings, now) {
            return;
        }
        self.last_turn += 1;
        let standing = lane.standing();
        let stale = lane.turn.replace(Turn { priority, number: self.last_turn, standing });
        self.turns[standing as usize].push(priority, name.clone(), self.last_turn);
        self.sweep_turns(stale);
    }

    /// A lane gave up this turn: its entry is stale.
    fn sweep_turns(&mut self, stale: Option<Turn>) {
        if let Some(Turn { priority, standing, .. }) = stale {
            let turns = &mut self.turns[standing as usize];
            turns.sweep(priority, self.lanes.len(), is_valid(&self.lanes));
        }
    }

    /// A lane with nothing to do is forgotten; one in trouble some time later, see [`Lanes::wake`].
    fn drop_if_idle(&mut self, name: &Arc<str>) {
        let Some(lane) = self.lanes.get(name).filter(|lane| lane.is_idle()) else { return };
        if lane.failures > 0 {
            self.wakes.insert((lane.trouble_over_at(), name.clone()));
            return;
        }
        if lane.responsive
            && let Some(silent_since) = lane.silent_since
        {
            self.responsive.insert(name.clone(), lane.earned, silent_since);
        }
        self.lanes.remove(name);
    }
}

/// Whether a turn's number is that of the turn which the lane has.
fn is_valid(lanes: &HashMap<Arc<str>, Lane>) -> impl Fn(&str, u64) -> bool + '_ {
    |name, number| lanes.get(name).and_then(|lane| lane.turn).is_some_and(|turn| turn.number == number)
}
