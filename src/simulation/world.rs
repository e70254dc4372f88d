//! The world of one seed, and the events that can happen in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Clock, Moment, STEP_SECS};
use crate::config::{DeliverySettings, DomainPattern, InDoubt, RelayHost, Route, Routes, SchedulerSettings};
use crate::delivery;
use crate::mail::{
    Domain, Envelope, Handling, Hold, Labels, Lifetimes, Priority, Recipient, Release, address,
};
use crate::queue::{
    BackoffRow, ByHand, Disk, Event, Finished, Hand, Job, Kick, LaneHealth, NewMessage, NextState, Origin,
    Over, QueuedMessage, RecipientId, Settlement, Suspension, Suspensions, Whose,
};
use crate::scheduler::lanes::{LaneChange, Lanes, Windows};
use crate::scheduler::reader::{Portions, Reader};

use super::hosts::{DEADLINE_SECS, DOMAINS, Hosts, domain};

/// The longest lifetimes.
const LIFETIME_SECS: i64 = 2 * 3600;
const BOUNCE_LIFETIME_SECS: i64 = 1800;
/// How long at most a sender asks that a message be held (RFC 4865).
const RELEASE_SECS: i64 = 3000;
/// More rounds than this at one moment mean an endless loop.
const ROUNDS_MAX: usize = 3_000;
const WINDOWS: Windows = Windows { lane: 6, all: 20, minimum: 2, low: 3 };
const PORTIONS: Portions = Portions { page: 4, pages: 2, refills: 2, domains: 3 };

/// A job in the hands of a worker.
pub(super) struct Flight {
    pub(super) job: Job,
    pub(super) message: Option<QueuedMessage>,
    /// The host says nothing before this time.
    pub(super) silent_until: i64,
}

pub(super) struct World<'d> {
    pub(super) random: fastrand::Rng,
    /// Unix seconds, as the system has them.
    pub(super) now: i64,
    pub(super) clock: Clock,
    /// Somebody set the clock forward and will set it back after this steady second, by so much.
    ahead: Option<(i64, i64)>,
    /// How often the clock was set.
    steps: u32,
    /// Whose next try somebody set by hand: a promise, whatever becomes of the clock.
    pub(super) promised: BTreeSet<RecipientId>,
    pub(super) delivery: DeliverySettings,
    pub(super) settings: SchedulerSettings,
    hosts: Hosts,
    disk: &'d Disk,
    pub(super) queue: ByHand<'d>,
    pub(super) lanes: Mutex<Lanes>,
    reader: Reader,
    pub(super) flying: Vec<Flight>,
    /// Recipients whose settlement is with the writer and not on disk yet.
    pub(super) unwritten: Vec<RecipientId>,
    /// Events of commits that the scheduler has not taken yet.
    events: VecDeque<Event>,
    /// Lanes in trouble, by the simulation's own account, and until when each backs off.
    pub(super) troubled: BTreeMap<Arc<str>, i64>,
    /// What is suspended, by the simulation's own account.
    pub(super) suspended: Vec<Suspension>,
    /// Transactions at once that each lane has earned since the start, by the simulation's own account. A lane whose
    /// hosts never answered has no entry.
    pub(super) earned: BTreeMap<Arc<str>, usize>,
    /// How many turns other lanes of the same priority had while this lane was ready.
    pub(super) passed_over: BTreeMap<(Arc<str>, Priority), usize>,
    /// How many recipients were accepted. At every moment each waits or is in the history.
    pub(super) accepted: i64,
}

impl<'d> World<'d> {
    pub(super) fn new(seed: u64, delivery: DeliverySettings, disk: &'d Disk) -> World<'d> {
        let mut random = fastrand::Rng::with_seed(seed);
        let in_doubt = [InDoubt::Retry, InDoubt::Hold, InDoubt::AssumeDelivered][random.usize(..3)];
        let settings = SchedulerSettings {
            workers: random.usize(1..10),
            connections_per_destination: random.usize(1..5),
            recipients_per_transaction: random.usize(1..4),
            destinations: Arc::default(),
            schedule: [60, 300, 900, 1800].map(Duration::from_secs).to_vec(),
            longest_rule_delay: Duration::ZERO,
            lifetimes: Lifetimes { messages: LIFETIME_SECS, bounces: BOUNCE_LIFETIME_SECS },
            routes: Arc::new(routes(random.usize(..3))),
        };
        let now = 1_000_000;
        let delivery = DeliverySettings { lifetimes: settings.lifetimes, ..delivery };
        World {
            hosts: Hosts::new(&mut random),
            lanes: Mutex::new(Lanes::with_windows(settings.clone(), WINDOWS, random.u64(..))),
            reader: Reader::new(PORTIONS, Moment { now, steady: now }),
            random,
            now,
            clock: Clock::by_hand(now),
            ahead: None,
            steps: 0,
            promised: BTreeSet::new(),
            delivery: DeliverySettings { in_doubt, ..delivery },
            disk,
            queue: ByHand::start(disk, now, settings.lifetimes),
            settings,
            flying: Vec::new(),
            unwritten: Vec::new(),
            events: VecDeque::new(),
            troubled: BTreeMap::new(),
            suspended: Vec::new(),
            earned: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            accepted: 0,
        }
    }

    /// One event, picked by the seed.
    pub(super) fn step(&mut self) {
        match self.random.u32(..100) {
            0..20 => self.accept(),
            20..45 => drop(self.take_turn()),
            45..62 => self.land(),
            62..74 => self.commit(),
            74..82 => self.hear(),
            82..89 => self.look(),
            89..93 => self.pass(1..120),
            93 => self.pass(600..7200),
            94 => self.hosts.change(&mut self.random),
            95 if self.random.u32(..3) == 0 => self.suspend(),
            95 => self.hand(),
            96 => self.kick(),
            97 if self.random.u32(..3) == 0 => self.set_clock(),
            97 => self.panic(),
            98 => self.reload(),
            _ if self.random.u32(..4) == 0 => self.crash(),
            _ => self.settle_down(),
        }
    }

    /// Time passes. Threads are never slow by minutes, so all that was done is on disk and its events are taken.
    fn pass(&mut self, secs: std::ops::Range<i64>) {
        self.commit();
        while let Some(event) = self.events.pop_front() {
            self.hear_one(event);
        }
        let secs = self.random.i64(secs);
        self.advance(secs);
    }

    fn advance(&mut self, secs: i64) {
        self.clock.advance(secs);
        self.see_time();
        if let Some((_, secs)) = self.ahead.take_if(|(until, _)| *until <= self.clock.steady()) {
            self.step_clock(-secs);
        }
    }

    fn see_time(&mut self) {
        self.now = self.clock.now();
        self.clock.confirmed();
        self.queue.set_now(self.now);
        self.resume(|row, now| !row.is_on(now));
    }

    /// Somebody sets the clock: far forward for a few minutes, or back for good.
    fn set_clock(&mut self) {
        if self.steps >= 2 || self.ahead.is_some() {
            return;
        }
        self.steps += 1;
        let secs = match self.random.bool() {
            true => {
                let secs = self.random.i64(3600..6 * 3600);
                self.ahead = Some((self.clock.steady() + self.random.i64(60..1200), secs));
                secs
            }
            false => -self.random.i64(120..6 * 3600),
        };
        self.step_clock(secs);
    }

    fn step_clock(&mut self, secs: i64) {
        self.clock.step(secs);
        self.see_time();
        // The thread looks every second, and what it asks for then is written.
        self.look();
        self.commit();
    }

    fn over(&self) -> Over {
        Over::at(self.clock.confirmed(), self.settings.lifetimes)
    }

    fn any_domain(&mut self) -> Domain {
        // Some domains get more mail than others.
        let most = self.random.usize(1..=DOMAINS);
        domain(self.random.usize(..most))
    }

    /// A client submits a message. The next commit accepts it.
    fn accept(&mut self) {
        let count = self.random.usize(1..6);
        let user =
            |domain: Domain| Recipient::new(address::parse(&format!("u@{}", domain.as_str())).unwrap());
        let recipients = (0..count).map(|_| user(self.any_domain())).collect();
        let release = (self.random.u32(..10) == 0).then(|| {
            let at = self.now + self.random.i64(60..RELEASE_SECS);
            Release { at, asked: Hold::Until(at) }
        });
        // Most messages have the normal priority.
        let priority = Priority::clamped([0, 0, -4, 0, 3, 0, 0, 0, -1, 0][self.random.usize(..10)]);
        let handling = Handling { priority, release, ..Handling::default() };
        let sender = Some(address::parse("app@d0.test").unwrap());
        let envelope = Envelope { sender, recipients, handling, ..Envelope::default() };
        let cached = self.random.bool();
        let mut message = self.message(envelope);
        message.origin.user = [None, Some("app"), Some("bulk")][self.random.usize(..3)].map(str::to_owned);
        message.labels.tag = (self.random.u32(..4) == 0).then(|| "news".to_owned());
        self.queue.accept(message, cached);
    }

    fn message(&self, envelope: Envelope) -> NewMessage {
        NewMessage {
            id: self.queue.new_message_id(),
            envelope,
            origin: Origin::default(),
            labels: Labels::default(),
            received_at: self.now,
            expires_at: None,
            size: 3,
            tail: b"x\r\n".to_vec(),
            chunks_before: 0,
        }
    }

    /// A free worker takes the next job, if there is one.
    fn take_turn(&mut self) -> bool {
        if self.flying.len() >= self.settings.workers {
            return false;
        }
        let lanes = self.lanes.get_mut().unwrap();
        let steady = self.clock.steady();
        let ready = lanes.ready(steady);
        let Some(job) = lanes.next(steady) else {
            assert!(ready.is_empty(), "a worker is free, ready and without a turn: {ready:?}");
            return false;
        };
        self.may_start(&job);
        self.is_fair(&job, &ready);
        let ids: Vec<RecipientId> = job.recipient_ids().collect();
        let message = match &job.fresh {
            Some(fresh) => {
                let mut part = QueuedMessage::clone(fresh);
                part.recipients.retain(|recipient| ids.contains(&recipient.id));
                Some(part)
            }
            // As in the real worker, recipients that the operator wants bounced come as expired.
            None => self.queue.fetch(job.message, &ids).and_then(|mut message| {
                message.recipients.retain(|recipient| job.expired || !recipient.to_bounce);
                (!message.recipients.is_empty()).then_some(message)
            }),
        };
        let hangs = !job.expired && message.as_ref().is_some_and(|message| self.hosts.are_silent(message));
        let silent_until = if hangs { steady + DEADLINE_SECS } else { steady };
        self.flying.push(Flight { job, message, silent_until });
        true
    }

    /// An attempt ends with the host's replies.
    fn land(&mut self) {
        let mut can_end: Vec<usize> = (0..self.flying.len()).collect();
        can_end.retain(|at| self.flying[*at].silent_until <= self.clock.steady());
        let Some(at) = self.random.choice(can_end) else { return };
        let Flight { job, message, .. } = self.flying.swap_remove(at);
        let ids: Vec<RecipientId> = job.recipient_ids().collect();
        let Some(message) = message else { return self.finish(&job, &LaneHealth::Unchanged, &ids) };
        if !job.expired && self.hosts.have_no_room(&message, &mut self.random) {
            return self.finish(&job, &LaneHealth::AtLimit(Duration::from_millis(200)), &ids);
        }
        let (said, health) = self.hosts.answers(&message, &mut self.random);
        let results =
            delivery::decide(&job, &message, &self.delivery, (self.now, self.clock.confirmed()), said);
        let settled = |id: &RecipientId| results.iter().any(|result| result.recipient == *id);
        let unsettled: Vec<RecipientId> = ids.into_iter().filter(|id| !settled(id)).collect();
        let failed = |result: &crate::queue::Settled| {
            matches!(result.next_state, NextState::Finished(Finished::Failed | Finished::Expired))
        };
        let mut reports = Vec::new();
        if let Some(sender) = message.sender.clone().filter(|_| results.iter().any(failed)) {
            let envelope = Envelope { recipients: vec![Recipient::new(sender)], ..Envelope::default() };
            reports.push(("bounce", self.message(envelope)));
        }
        // As in the real worker: the job is settled first, then finished.
        self.unwritten.extend(results.iter().map(|result| result.recipient));
        self.queue.settle(Settlement {
            message: Arc::new(message),
            at: self.now,
            results,
            reports,
            expanded_told: false,
            tls_sessions: Vec::new(),
            dialogue: None,
            pending_reports: Vec::new(),
        });
        self.finish(&job, if job.expired { &LaneHealth::Unchanged } else { &health }, &unsettled);
    }

    fn finish(&mut self, job: &Job, health: &LaneHealth, unsettled: &[RecipientId]) {
        let at = self.clock.moment();
        let change = self.lanes.get_mut().unwrap().finished(job, health, unsettled, at.steady);
        if !job.expired && matches!(health, LaneHealth::Healthy | LaneHealth::Unchanged) {
            let earned = self.earned.entry(job.lane.clone()).or_insert(1);
            *earned = (*earned * 2).min(self.settings.connections_per_destination);
        }
        match change {
            Some(LaneChange::BacksOff(row)) => {
                assert!(row.backoff_until > at.steady);
                self.troubled.insert(job.lane.clone(), row.backoff_until);
                self.earned.remove(&job.lane);
                self.queue.set_backoff(BackoffRow { backoff_until: at.unix(row.backoff_until), ..row });
            }
            Some(LaneChange::Recovered) => {
                self.troubled.remove(&job.lane);
                self.queue.clear_backoff(&job.lane);
            }
            None => {}
        }
    }

    /// The writer commits the waiting operations.
    fn commit(&mut self) {
        for event in self.queue.commit() {
            match &event {
                Event::Accepted(rows) => self.accepted += rows.len() as i64,
                Event::Kicked(kick) => self.forgive_kicked(kick),
                _ => {}
            }
            self.events.push_back(event);
        }
        self.unwritten.clear();
    }

    fn hear(&mut self) {
        for _ in 0..self.random.usize(1..5) {
            let Some(event) = self.events.pop_front() else { return };
            self.hear_one(event);
        }
    }

    fn hear_one(&mut self, event: Event) {
        if let Event::Kicked(kick) = &event {
            self.forgive_kicked(kick);
        }
        if let Some(lane) = self.reader.hear(event, self.lanes.get_mut().unwrap(), self.clock.moment()) {
            self.queue.clear_backoff(&lane);
        }
    }

    fn look(&mut self) {
        let (at, over) = (self.clock.moment(), self.over());
        let looked = self.reader.look(self.queue.reads(), &self.lanes, &|| {}, at, &over).unwrap();
        if let Some(before) = looked.set_back_from {
            self.queue.clock_was_set_back(before, at.now, self.lanes.get_mut().unwrap().longest_wait_secs());
            self.begin_suspensions_at(at.now);
        }
        assert_eq!(looked.forgotten, 0, "the sweep found what was nobody's");
        for lane in looked.over {
            assert!(self.troubled.remove(&lane).is_some(), "{lane} was in no trouble");
            self.queue.clear_backoff(&lane);
        }
    }

    /// A person changes the queue with `sqlite3` or `postrider queue`.
    fn hand(&mut self) {
        let ids: Vec<RecipientId> = self.queue.waiting().iter().map(|row| row.recipient).collect();
        for _ in 0..self.random.usize(1..4) {
            let Some(id) = self.random.choice(&ids).copied() else { return };
            let hand = match self.random.u32(..7) {
                0 => Hand::Hold,
                1 => Hand::Release,
                2 => Hand::Try(self.now),
                3 => {
                    self.promised.insert(id);
                    Hand::Try(self.now + 900)
                }
                4 => Hand::Bounce,
                5 => Hand::Remove,
                _ => {
                    if let Some(lane) = self.queue.delete_a_lane() {
                        self.forgive(&|name| *name == *lane);
                    }
                    continue;
                }
            };
            self.queue.hand(id, hand);
        }
        self.events.push_back(Event::ChangedOutside);
    }

    /// Somebody suspends something, or resumes all of it; within two seconds it is noticed.
    fn suspend(&mut self) {
        if self.random.u32(..3) == 0 {
            self.resume(|_, _| true);
        } else {
            let whose = match self.random.u32(..5) {
                0 => Whose::User("bulk".to_owned()),
                1 => Whose::Tag("news".to_owned()),
                2 => Whose::domain("*.some.test").unwrap(),
                _ => Whose::domain(self.any_domain().as_str()).unwrap(),
            };
            let until = self.random.bool().then(|| self.now + self.random.i64(1..3600));
            let (reason, login) = (None, String::new());
            let row = Suspension { whose, since: self.now, until, reason, login };
            self.queue.suspend(&row);
            self.suspended.retain(|other| other.whose != row.whose);
            self.suspended.push(row);
        }
        self.events.push_back(Event::ChangedOutside);
        while let Some(event) = self.events.pop_front() {
            self.hear_one(event);
        }
        self.look();
    }

    /// The clock was set back: what was suspended by the clock before is suspended for as long, from now on.
    fn begin_suspensions_at(&mut self, now: i64) {
        for row in self.suspended.iter_mut().filter(|row| row.since > now + STEP_SECS) {
            row.until = row.until.map(|until| now + (until - row.since).max(0));
            row.since = now;
        }
    }

    /// These are resumed; what is over goes from the table, as the real one purges it.
    fn resume(&mut self, is_meant: impl Fn(&Suspension, i64) -> bool) {
        let (gone, left) =
            std::mem::take(&mut self.suspended).into_iter().partition(|row| is_meant(row, self.now));
        self.suspended = left;
        let gone: Vec<Suspension> = gone;
        gone.iter().for_each(|row| self.queue.resume(&row.whose));
    }

    /// These lanes no longer back off. The scheduler may notice it from now on.
    fn forgive(&mut self, is_meant: &dyn Fn(&str) -> bool) {
        for (_, until) in self.troubled.iter_mut().filter(|(lane, _)| is_meant(lane)) {
            *until = (*until).min(self.clock.steady());
        }
    }

    fn forgive_kicked(&mut self, kick: &Kick) {
        let (Kick::Domain(domain) | Kick::DomainAndBelow(domain)) = kick else { return };
        let own = self.lanes.get_mut().unwrap().lane_of(domain);
        let below = format!(".{}", domain.as_str());
        let all_below = matches!(kick, Kick::DomainAndBelow(_));
        self.forgive(&|lane| *lane == *own || all_below && lane.ends_with(&below));
    }

    /// A client asks for a kick with ETRN.
    fn kick(&mut self) {
        let kick = match self.random.bool() {
            true => Kick::Domain(self.any_domain()),
            false => Kick::DomainAndBelow(Domain::parse("some.test").unwrap()),
        };
        self.queue.kick(kick);
    }

    /// An attempt panics: none of its recipients is settled.
    fn panic(&mut self) {
        if let Some(Flight { job, .. }) = self.flying.pop() {
            let ids: Vec<RecipientId> = job.recipient_ids().collect();
            self.finish(&job, &LaneHealth::Failing("451 4.3.0 panic".to_owned()), &ids);
        }
    }

    /// SIGHUP with other routes: domains change lanes, while jobs under way keep the names of their lanes. Lifetimes
    /// change too, for what is queued.
    fn reload(&mut self) {
        let part = [1, 2, 4][self.random.usize(..3)];
        let lifetimes = Lifetimes { messages: LIFETIME_SECS / part, bounces: BOUNCE_LIFETIME_SECS / part };
        (self.settings.lifetimes, self.delivery.lifetimes) = (lifetimes, lifetimes);
        self.queue.show_lifetimes(lifetimes);
        self.settings.routes = Arc::new(routes(self.random.usize(..3)));
        self.lanes.get_mut().unwrap().reconfigure(self.settings.clone());
        self.reader.start_again(&self.lanes);
        self.passed_over.clear();
    }

    /// kill -9 and a new start: only what is on disk is left.
    fn crash(&mut self) {
        self.flying.clear();
        self.unwritten.clear();
        self.events.clear();
        self.passed_over.clear();
        self.earned.clear();
        self.queue = ByHand::start(self.disk, self.now, self.settings.lifetimes);
        let mut lanes = Lanes::with_windows(self.settings.clone(), WINDOWS, self.random.u64(..));
        let rows = self.queue.reads().backoffs().unwrap();
        let (at, longest) = (self.clock.moment(), lanes.longest_wait_secs());
        let until = |row: &BackoffRow| at.steady + (row.backoff_until - at.now).min(longest);
        self.troubled = rows.iter().map(|row| (row.lane.as_str().into(), until(row))).collect();
        rows.into_iter().for_each(|row| lanes.restore(row, at));
        let rows = self.queue.reads().suspensions(at.now).unwrap();
        lanes.set_suspensions(Suspensions::on(rows, at.now));
        if self.queue.is_ahead_of(at.now) {
            self.queue.clock_was_set_back(at.now, at.now, longest);
            self.begin_suspensions_at(at.now);
        }
        self.lanes = Mutex::new(lanes);
        self.reader = Reader::new(PORTIONS, at);
    }

    /// Every thread runs until none has work at this moment. Whatever still waits must have a reason.
    fn settle_down(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "no end of work at {}: {:?}", self.now, self.overdue());
            self.commit();
            while let Some(event) = self.events.pop_front() {
                self.hear_one(event);
            }
            self.look();
            while self.take_turn() {}
            let can_end = |flight: &Flight| flight.silent_until <= self.clock.steady();
            let idle = !self.flying.iter().any(can_end) && self.events.is_empty();
            if idle && !self.reader.patience(&self.lanes, self.clock.moment()).is_zero() {
                // Some reads are only tried again after a second.
                if round % 2 == 1 && self.overdue().is_none() {
                    return;
                }
                self.advance(1);
            }
            let under_way = self.flying.len();
            for _ in 0..under_way {
                self.land();
            }
        }
    }

    /// Time passes until the last lifetime is over. Then every recipient must be finished, except those that are held.
    pub(super) fn run_dry(&mut self) {
        self.commit();
        if let Some((_, secs)) = self.ahead.take() {
            self.step_clock(-secs);
        }
        for row in self.queue.waiting().iter().filter(|row| row.held) {
            self.queue.hand(row.recipient, Hand::Release);
        }
        // Some stay: what is suspended ends with its lifetime, like the rest.
        if self.random.bool() {
            self.resume(|_, _| true);
        }
        self.events.push_back(Event::ChangedOutside);
        let lifetimes = RELEASE_SECS + LIFETIME_SECS + BOUNCE_LIFETIME_SECS;
        // Mail that came while the clock was ahead lives longer by as much, and a new time is doubted for an hour.
        let ahead = self.queue.waiting().iter().map(|row| row.ends_at - self.now).max().unwrap_or(0).max(0);
        let end = self.clock.steady() + lifetimes + ahead + 2 * 3600 + 2 * DEADLINE_SECS;
        while self.clock.steady() < end {
            self.settle_down();
            self.check();
            self.is_settled();
            let secs = self.random.i64(60..1200);
            self.advance(secs);
        }
        self.is_over();
    }
}

/// No routes, or relays for some or all of the domains, so that one lane gathers several domains.
fn routes(which: usize) -> Routes {
    let relay = RelayHost { host: Domain::parse("relay.test").unwrap(), port: 587 };
    let route = |domain: DomainPattern| Route {
        domain,
        relay: vec![relay.clone()],
        tls: None,
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
