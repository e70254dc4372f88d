//! The world of one seed: what can happen next, and what must hold after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::{
    DeliverySettings, DomainPattern, InDoubt, RelayHost, Route, RouteTls, Routes, SchedulerSettings,
};
use crate::delivery;
use crate::mail::{Domain, Enhanced, Outcome, Priority, Reply};
use crate::queue::{Event, Finished, Health, Job, Kick, QueuedMessage, RecipientId, Settled};
use crate::scheduler::lanes::{LaneChange, Lanes, Windows};
use crate::scheduler::reader::{Portions, Reader};

use super::model::{self, Model};

const DOMAINS: usize = 9;
const LIFETIME_SECS: i64 = 2 * 3600;
/// What is past its lifetime is looked for once a minute.
const EXPIRY_SLACK_SECS: i64 = 61;
/// More rounds than this at one moment mean that something spins.
const ROUNDS_MAX: usize = 3_000;
const WINDOWS: Windows = Windows { lane: 6, all: 20, minimum: 2, low: 3 };
const PORTIONS: Portions = Portions { page: 4, pages: 2, refills: 2, domains: 3 };

/// How a host answers, for as long as the seed lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Good,
    Dead,
    /// Refuses the first try of each recipient, as greylisting does.
    Grey,
    Refuses,
    /// Anything, each time anew.
    Fickle,
    /// Has room for us only now and then.
    Narrow,
}

struct Flight {
    job: Job,
    message: Option<QueuedMessage>,
}

pub(super) struct World {
    random: fastrand::Rng,
    now: i64,
    delivery: DeliverySettings,
    settings: SchedulerSettings,
    hosts: BTreeMap<Domain, Host>,
    model: Model,
    lanes: Mutex<Lanes>,
    reader: Reader,
    flying: Vec<Flight>,
    /// Handed to the writer and not on disk yet.
    unwritten: VecDeque<Vec<Settled>>,
    /// On disk, and not heard by the scheduler yet.
    events: VecDeque<Event>,
    /// Since when each lane is in trouble, as we see it: until when it backs off.
    troubled: BTreeMap<Arc<str>, i64>,
    /// Turns that others of the same priority had while a lane was ready.
    passed_over: BTreeMap<(Arc<str>, Priority), usize>,
    accepted: BTreeSet<i64>,
}

impl World {
    pub(super) fn new(seed: u64, delivery: DeliverySettings) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let kinds =
            [Host::Good, Host::Good, Host::Dead, Host::Grey, Host::Refuses, Host::Fickle, Host::Narrow];
        let hosts = (0..DOMAINS).map(|n| (domain(n), kinds[random.usize(..kinds.len())])).collect();
        let in_doubt = [InDoubt::Retry, InDoubt::Hold, InDoubt::AssumeDelivered][random.usize(..3)];
        let settings = SchedulerSettings {
            workers: random.usize(1..6),
            connections_per_destination: random.usize(1..4),
            recipients_per_transaction: random.usize(1..4),
            destinations: Arc::default(),
            schedule: [60, 300, 900, 1800].map(Duration::from_secs).to_vec(),
            routes: Arc::new(routes(random.usize(..3))),
        };
        let now = 1_000_000;
        World {
            lanes: Mutex::new(Lanes::with_windows(settings.clone(), WINDOWS, random.u64(..))),
            reader: Reader::new(PORTIONS, now),
            random,
            now,
            delivery: DeliverySettings { in_doubt, ..delivery },
            settings,
            hosts,
            model: Model::default(),
            flying: Vec::new(),
            unwritten: VecDeque::new(),
            events: VecDeque::new(),
            troubled: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    /// Whatever comes next.
    pub(super) fn step(&mut self) {
        match self.random.u32(..100) {
            0..20 => self.accept(),
            20..45 => drop(self.take_turn()),
            45..62 => self.land(),
            62..74 => self.commit(),
            74..82 => self.hear(),
            82..90 => self.look(),
            90..94 => self.pass(1..120),
            94 => self.pass(600..7200),
            95 => self.hand(),
            96 => self.kick(),
            97 => self.panic(),
            98 => self.reload(),
            _ if self.random.u32(..4) == 0 => self.crash(),
            _ => self.settle_down(),
        }
    }

    /// Time passes. Threads are slow, but not by minutes: what is on disk has been heard of.
    fn pass(&mut self, secs: std::ops::Range<i64>) {
        while let Some(event) = self.events.pop_front() {
            self.hear_one(event);
        }
        self.now += self.random.i64(secs);
    }

    fn any_domain(&mut self) -> Domain {
        // Some are written to more than others.
        let most = self.random.usize(1..=DOMAINS);
        domain(self.random.usize(..most))
    }

    fn accept(&mut self) {
        let count = self.random.usize(1..6);
        let domains: Vec<Domain> = (0..count).map(|_| self.any_domain()).collect();
        let cached = self.random.bool();
        let due = self.model.accept(&domains, self.now, self.now + LIFETIME_SECS, cached);
        self.accepted.extend(due.iter().map(|due| due.recipient.0));
        self.events.push_back(Event::Accepted(due));
    }

    /// A worker takes the next job, if one is free and there is one.
    fn take_turn(&mut self) -> bool {
        if self.flying.len() >= self.settings.workers {
            return false;
        }
        let lanes = self.lanes.get_mut().unwrap();
        let ready = lanes.ready(self.now);
        let Some(job) = lanes.next(self.now) else {
            assert!(ready.is_empty(), "ready and without a turn: {ready:?}");
            return false;
        };
        self.may_start(&job);
        self.is_fair(&job, &ready);
        let ids: Vec<RecipientId> = job.recipients.iter().map(|(id, _)| *id).collect();
        let message = match &job.fresh {
            Some(fresh) => {
                let mut part = QueuedMessage::clone(fresh);
                part.recipients.retain(|recipient| ids.contains(&recipient.id));
                Some(part)
            }
            None => self.model.fetch(job.message, &ids),
        };
        self.flying.push(Flight { job, message });
        true
    }

    /// A job that starts breaks no limit, and nobody has it already.
    fn may_start(&self, job: &Job) {
        for (recipient, _) in &job.recipients {
            let is_in = |job: &Job| job.recipients.iter().any(|(other, _)| other == recipient);
            assert!(!self.flying.iter().any(|flight| is_in(&flight.job)), "{recipient:?} flies twice");
            let settling = self.unwritten.iter().flatten().any(|result| result.recipient == *recipient);
            assert!(!settling, "{recipient:?} is tried again before its settlement is on disk");
        }
        if job.expired {
            return;
        }
        let turns = |flight: &&Flight| !flight.job.expired;
        let busy = self.flying.iter().filter(turns).filter(|flight| flight.job.lane == job.lane).count();
        let Some(backoff_until) = self.troubled.get(&job.lane) else {
            assert!(busy < self.settings.connections_per_destination, "too many at once in {}", job.lane);
            return;
        };
        assert!(*backoff_until <= self.now, "{} backs off and has a turn", job.lane);
        assert!(busy == 0, "{} is in doubt and has more than one at once", job.lane);
        let doubtful =
            self.flying.iter().filter(turns).filter(|flight| self.troubled.contains_key(&flight.job.lane));
        assert!(
            doubtful.count() < (self.settings.workers / 2).max(1),
            "doubtful lanes have too many workers"
        );
    }

    /// Nobody is before the more urgent; and among equals no lane that is ready waits for more turns than there are
    /// lanes, twice since bench and rings alternate.
    fn is_fair(&mut self, job: &Job, ready: &[(Arc<str>, Priority)]) {
        if job.expired {
            return;
        }
        let priority = model::priority(job.message);
        let highest = ready.iter().map(|(_, priority)| *priority).max();
        assert!(Some(priority) >= highest, "{} has a turn before the more urgent", job.lane);
        self.passed_over.retain(|lane, _| ready.contains(lane));
        for lane in ready.iter().filter(|(_, equal)| *equal == priority) {
            let turns = self.passed_over.entry(lane.clone()).or_default();
            *turns = if lane.0 == job.lane { 0 } else { *turns + 1 };
            assert!(*turns <= 2 * (DOMAINS + 2), "{} was ready and passed over {turns} times", lane.0);
        }
    }

    /// An attempt ends with whatever the host says.
    fn land(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let Flight { job, message } = self.flying.swap_remove(self.random.usize(..self.flying.len()));
        let ids: Vec<RecipientId> = job.recipients.iter().map(|(id, _)| *id).collect();
        let Some(message) = message else { return self.finish(&job, &Health::Unchanged, &ids) };
        if !job.expired && self.has_no_room(&message) {
            return self.finish(&job, &Health::Crowded(Duration::from_millis(200)), &ids);
        }
        let (said, health) = self.answers(&message);
        let results = delivery::decide(&job, &message, &self.delivery, self.now, said);
        let settled = |id: &RecipientId| results.iter().any(|result| result.recipient == *id);
        let unsettled: Vec<RecipientId> = ids.into_iter().filter(|id| !settled(id)).collect();
        // Settled first, finished then, as a worker does.
        self.unwritten.push_back(results);
        self.finish(&job, if job.expired { &Health::Unchanged } else { &health }, &unsettled);
    }

    /// The hosts have no room for one more of us: the job is put back.
    fn has_no_room(&mut self, message: &QueuedMessage) -> bool {
        let is_narrow = |domain: &Domain| self.hosts[domain] == Host::Narrow;
        message.recipients.iter().all(|recipient| is_narrow(&recipient.domain)) && self.random.bool()
    }

    fn answers(&mut self, message: &QueuedMessage) -> (Vec<(Outcome, Reply)>, Health) {
        let trouble = Health::Trouble("421 4.4.1 no".to_owned());
        let mut health = Health::Unchanged;
        let mut said = Vec::new();
        for recipient in &message.recipients {
            let kind = match self.hosts[&recipient.domain] {
                Host::Fickle => [Host::Good, Host::Dead, Host::Refuses, Host::Fickle][self.random.usize(..4)],
                Host::Grey if recipient.attempts > 0 => Host::Good,
                kind => kind,
            };
            let outcome = match kind {
                Host::Good | Host::Narrow => Outcome::Delivered,
                Host::Dead | Host::Grey => Outcome::Deferred,
                Host::Refuses => Outcome::Failed,
                Host::Fickle => Outcome::InDoubt,
            };
            health = match (kind, health) {
                (Host::Dead, _) => trouble.clone(),
                (Host::Good | Host::Narrow, Health::Unchanged) => Health::Healthy,
                (_, health) => health,
            };
            said.push((outcome, Reply::new(450, Enhanced(4, 0, 0), "as scripted")));
        }
        (said, health)
    }

    fn finish(&mut self, job: &Job, health: &Health, unsettled: &[RecipientId]) {
        match self.lanes.get_mut().unwrap().finished(job, health, unsettled, self.now) {
            Some(LaneChange::BacksOff(row)) => {
                assert!(row.backoff_until > self.now);
                self.troubled.insert(job.lane.clone(), row.backoff_until);
                self.model.lanes.insert(row.lane.clone(), row);
            }
            Some(LaneChange::Recovered) => {
                self.troubled.remove(&job.lane);
                self.model.lanes.remove(&*job.lane);
            }
            None => {}
        }
    }

    fn commit(&mut self) {
        let Some(results) = self.unwritten.pop_front() else { return };
        let told = self.model.settle(&results);
        self.events.push_back(Event::Settled(told));
    }

    fn hear(&mut self) {
        for _ in 0..self.random.usize(1..5) {
            let Some(event) = self.events.pop_front() else { return };
            self.hear_one(event);
        }
    }

    fn hear_one(&mut self, event: Event) {
        let lanes = self.lanes.get_mut().unwrap();
        if let Event::Kicked(Kick::Domain(domain)) = &event {
            // Whoever is meant backs off no longer.
            let lane = lanes.lane_of(domain);
            self.troubled.entry(lane).and_modify(|until| *until = (*until).min(self.now));
        }
        if let Some(lane) = self.reader.hear(event, lanes, self.now) {
            self.model.lanes.remove(&lane);
        }
    }

    fn look(&mut self) {
        let forgotten = self.reader.look(&self.model, &self.lanes, &|| {}, self.now).unwrap();
        assert_eq!(forgotten, 0, "the sweep found what was nobody's");
    }

    /// A person with `sqlite3`: holds, releases, brings forward, puts off or removes.
    fn hand(&mut self) {
        let ids: Vec<i64> = self.model.recipients.keys().copied().collect();
        for _ in 0..self.random.usize(1..4) {
            let Some(id) = self.random.choice(&ids) else { return };
            match (self.random.u32(..6), self.model.recipients.get_mut(id)) {
                (0, Some(row)) => row.held = true,
                (1, Some(row)) => row.held = false,
                (2, Some(row)) => row.next = self.now,
                (3, Some(row)) => row.next = self.now + 900,
                (4, Some(_)) => self.model.finish(*id, Finished::Removed),
                _ => {
                    if let Some((lane, _)) = self.model.lanes.pop_first() {
                        self.forgive(&lane);
                    }
                }
            }
        }
        self.events.push_back(Event::ChangedOutside);
    }

    /// The row by which a lane backs off is gone: from now on the scheduler may notice.
    fn forgive(&mut self, lane: &str) {
        if let Some(until) = self.troubled.get_mut(lane) {
            *until = (*until).min(self.now);
        }
    }

    /// ETRN.
    fn kick(&mut self) {
        let domain = self.any_domain();
        for row in self.model.recipients.values_mut().filter(|row| row.domain == domain && !row.held) {
            row.next = row.next.min(self.now);
        }
        if self.model.lanes.remove(domain.as_str()).is_some() {
            self.forgive(domain.as_str());
        }
        self.events.push_back(Event::Kicked(Kick::Domain(domain)));
    }

    /// An attempt panics: nothing of it is settled.
    fn panic(&mut self) {
        if let Some(Flight { job, .. }) = self.flying.pop() {
            let ids: Vec<RecipientId> = job.recipients.iter().map(|(id, _)| *id).collect();
            self.finish(&job, &Health::Trouble("451 4.3.0 panic".to_owned()), &ids);
        }
    }

    /// SIGHUP with other routes: lanes are named anew, those under way keep their names.
    fn reload(&mut self) {
        if !self.flying.is_empty() {
            return;
        }
        self.settings.routes = Arc::new(routes(self.random.usize(..3)));
        self.lanes.get_mut().unwrap().reconfigure(self.settings.clone());
        self.reader.start_again(&self.lanes);
        self.passed_over.clear();
    }

    /// kill -9 and a new start: what is on disk is all there is.
    fn crash(&mut self) {
        self.flying.clear();
        self.unwritten.clear();
        self.events.clear();
        self.passed_over.clear();
        let mut lanes = Lanes::with_windows(self.settings.clone(), WINDOWS, self.random.u64(..));
        self.model.lanes.values().for_each(|row| lanes.restore(row.clone()));
        let rows = self.model.lanes.values();
        self.troubled = rows.map(|row| (row.lane.as_str().into(), row.backoff_until)).collect();
        self.lanes = Mutex::new(lanes);
        self.reader = Reader::new(PORTIONS, self.now);
    }

    /// Every thread runs until none has anything to do at this moment; what is left must have a reason.
    fn settle_down(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "no end of work at {}: {:?}", self.now, self.overdue());
            while let Some(event) = self.events.pop_front() {
                self.hear_one(event);
            }
            self.look();
            while self.take_turn() {}
            let idle = self.flying.is_empty() && self.unwritten.is_empty() && self.events.is_empty();
            if idle && !self.reader.patience(&self.lanes, self.now).is_zero() {
                // A second later: what could not be read yet is read now.
                if round % 2 == 1 && self.overdue().is_none() {
                    return;
                }
                self.now += 1;
            }
            while !self.flying.is_empty() {
                self.land();
            }
            while !self.unwritten.is_empty() {
                self.commit();
            }
        }
    }

    /// One that is due or past its lifetime, and nothing keeps it from being tried or bounced.
    fn overdue(&self) -> Option<String> {
        let lanes = self.lanes.lock().unwrap();
        let overdue = |(id, row): (&i64, &super::model::Row)| {
            let backs_off =
                self.troubled.get(&lanes.lane_of(&row.domain)).is_some_and(|until| *until >= self.now);
            let (_, expires_at) = self.model.messages[&row.message];
            let due = row.next < self.now && !backs_off || expires_at + EXPIRY_SLACK_SECS < self.now;
            let what = || format!("{id} in {}: {row:?}, expires {expires_at}", lanes.lane_of(&row.domain));
            (!row.held && due).then(what)
        };
        self.model.recipients.iter().find_map(overdue)
    }

    /// What holds at every moment.
    pub(super) fn check(&self) {
        let lanes = self.lanes.lock().unwrap();
        lanes.check();
        assert!(self.flying.len() <= self.settings.workers);
        for id in &self.accepted {
            let waits = self.model.recipients.contains_key(id);
            let finished = self.model.history.contains_key(id);
            assert!(waits != finished, "{id}: waits {waits}, finished {finished}");
        }
    }

    /// Time passes until the last lifetime is over: all must have ended, but for what a person holds.
    pub(super) fn run_dry(&mut self) {
        for row in self.model.recipients.values_mut() {
            row.held = false;
        }
        self.events.push_back(Event::ChangedOutside);
        let end = self.now + LIFETIME_SECS + 3600;
        while self.now < end {
            self.settle_down();
            self.check();
            let late = self.overdue();
            assert!(late.is_none(), "{late:?} is overdue at {} and nobody has it", self.now);
            self.now += self.random.i64(60..1200);
        }
        let held = |row: &super::model::Row| row.held && self.delivery.in_doubt == InDoubt::Hold;
        let left: Vec<&i64> =
            self.model.recipients.iter().filter(|(_, row)| !held(row)).map(|(id, _)| id).collect();
        assert!(left.is_empty(), "past their lifetime and not finished: {left:?}");
    }
}

/// Two of them lie below one name.
fn domain(n: usize) -> Domain {
    let below = if n % 4 == 1 { "some.test" } else { "test" };
    Domain::parse(&format!("d{n}.{below}")).unwrap()
}

/// None, or relays: for all, or for some of the domains, so that one lane gathers several.
fn routes(which: usize) -> Routes {
    let relay = RelayHost { host: Domain::parse("relay.test").unwrap(), port: 587 };
    let route = |domain: DomainPattern| Route {
        domain,
        relay: vec![relay.clone()],
        tls: RouteTls::Opportunistic,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    };
    let some = DomainPattern::Below("some.test".to_owned());
    Routes(match which {
        0 => Vec::new(),
        1 => vec![route(some)],
        _ => vec![route(some), route(DomainPattern::Any)],
    })
}
