//! Lanes without a clock, a thread or a database; and, of the thread, what it reads first.

mod worker_quota;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use proptest::prelude::*;

use super::lanes::{LaneChange, Lanes};
use super::reader::Portions;
use super::{Scheduler, reader};
use crate::clock::Clock;
use crate::config::{
    AtrnDomains, DomainPattern, QueueSettings, RelayHost, Route, RouteTls, Routes, SchedulerSettings,
};
use crate::mail::{Domain, Envelope, Handling, Priority, Recipient, address};
use crate::queue::{
    BackoffRow, Due, Event, Job, Kick, LaneHealth, MessageId, NewMessage, Origin, Queue, RecipientId,
};

/// Of one lane.
const WINDOW: usize = 2_000;

fn settings() -> SchedulerSettings {
    SchedulerSettings {
        workers: 8,
        connections_per_destination: 2,
        recipients_per_transaction: 3,
        schedule: vec![Duration::from_secs(60), Duration::from_secs(600)],
        routes: Arc::new(Routes::default()),
        destinations: Arc::default(),
    }
}

fn lanes() -> Lanes {
    Lanes::new(settings(), 7)
}

fn due(recipient: i64, message: i64, domain: &str) -> Due {
    Due {
        recipient: RecipientId(recipient),
        message: MessageId(message),
        domain: Domain::parse(domain).unwrap(),
        due_at: 0,
        attempts: 0,
        priority: Priority::NORMAL,
        fresh: None,
    }
}

fn ids(job: &Job) -> Vec<i64> {
    job.recipients.iter().map(|(recipient, _)| recipient.0).collect()
}

fn trouble() -> LaneHealth {
    LaneHealth::Failing("421 4.4.1 connection refused".to_owned())
}

#[test]
fn lanes_take_turns_whatever_their_length() {
    let mut lanes = lanes();
    for n in 0..100 {
        lanes.add(due(n, n, "big.test"), 0);
    }
    lanes.add(due(1000, 1000, "small.test"), 0);
    let mut turn = || {
        let job = lanes.next(0).unwrap();
        lanes.finished(&job, &LaneHealth::Unchanged, &[], 0);
        job.lane.to_string()
    };
    let order: Vec<String> = (0..3).map(|_| turn()).collect();
    assert_eq!(order, ["big.test", "small.test", "big.test"]);
}

/// `fetched` is fetched with ATRN.
fn lanes_without(fetched: &str) -> Lanes {
    let mut lanes = lanes();
    let mut domains = AtrnDomains::default();
    domains.add(fetched, "customer");
    lanes.set_atrn(domains);
    lanes
}

#[test]
fn mail_that_is_fetched_gets_no_turn_and_takes_no_memory() {
    let mut lanes = lanes_without("a.test");
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.add(due(2, 1, "b.test"), 0);
    assert_eq!(lanes.next(0).map(|job| ids(&job)), Some(vec![2]));
    assert!(lanes.next(0).is_none());
    assert_eq!(lanes.waiting(), 0);
    assert!(lanes.accounts_for(&due(1, 1, "a.test")), "the database holds it");
    // It expires as all mail does, in its own lane.
    lanes.add_expired(vec![due(1, 1, "a.test")], 5);
    let expired = lanes.next(0).unwrap();
    assert_eq!((&*expired.lane, expired.expired), ("atrn:a.test", true));
    lanes.check();
}

#[test]
fn a_claim_takes_recipients_of_one_message_and_domain_once() {
    let mut lanes = lanes_without("a.test");
    let rows = || -> VecDeque<Due> {
        let same = (0..5).map(|n| due(n, 1, "a.test"));
        same.chain([due(9, 1, "b.test"), due(10, 2, "a.test")]).collect()
    };
    let (mut first, mut second) = (rows(), rows());
    let one = lanes.claim(&mut first).unwrap();
    assert_eq!((&*one.lane, ids(&one)), ("atrn:a.test", vec![0, 1, 2]));
    // Somebody else at the same time gets the rest, and the first who comes back nothing of it.
    assert_eq!(ids(&lanes.claim(&mut second).unwrap()), [3, 4]);
    assert_eq!(ids(&lanes.claim(&mut second).unwrap()), [10]);
    assert!(lanes.claim(&mut second).is_none());
    assert!(lanes.claim(&mut first).is_none());
    // What was given back may be claimed again. There is no backing off from who comes by himself.
    lanes.settled([RecipientId(0)]);
    assert!(lanes.finished(&one, &trouble(), &[RecipientId(1)], 0).is_none());
    assert_eq!(ids(&lanes.claim(&mut rows()).unwrap()), [0, 1]);
    lanes.check();
}

#[test]
fn a_domain_that_is_fetched_from_now_on_leaves_its_lane() {
    let mut lanes = lanes();
    for n in 0..3 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let under_way = lanes.next(0).unwrap();
    let mut domains = AtrnDomains::default();
    domains.add("a.test", "customer");
    assert_eq!(lanes.set_atrn(domains), AtrnDomains::default());
    assert!(lanes.next(0).is_none());
    assert_eq!(lanes.refills(9, 0), [], "nothing is read for it");
    assert!(!lanes.may_claim(&due(0, 0, "a.test")), "what is under way ends where it is");
    assert!(lanes.may_claim(&due(1, 1, "a.test")));
    lanes.finished(&under_way, &trouble(), &[RecipientId(0)], 0);
    assert_eq!(lanes.refills(9, 9_999), []);
    // And back.
    lanes.set_atrn(AtrnDomains::default());
    assert!(!lanes.may_claim(&due(1, 1, "a.test")));
    lanes.check();
}

#[test]
fn a_lane_never_has_more_transactions_than_its_limit() {
    let mut lanes = lanes();
    for n in 0..10 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let first = answered(&mut lanes, "a.test");
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none());
    lanes.finished(&first, &LaneHealth::Unchanged, &[], 0);
    assert!(lanes.next(0).is_some());
    lanes.check();
}

/// The first of two transactions of a lane whose first ended well.
fn answered(lanes: &mut Lanes, lane: &str) -> Job {
    let job = lanes.next(0).unwrap();
    assert_eq!(&*job.lane, lane);
    lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
    lanes.next(0).unwrap()
}

#[test]
fn a_lane_has_one_transaction_until_its_host_has_answered_something() {
    let mut lanes = lanes();
    for n in 0..10 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let first = lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none(), "it may be one that never speaks");
    lanes.finished(&first, &LaneHealth::Unchanged, &[], 0);
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_some());
    lanes.check();
}

#[test]
fn a_crowded_lane_goes_on_with_what_it_has_and_tries_one_more_later() {
    let mut lanes = lanes();
    for n in 0..10 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let good = answered(&mut lanes, "a.test");
    let crowded = lanes.next(0).unwrap();
    let back = [crowded.recipients[0].0];
    let wait = LaneHealth::AtLimit(Duration::from_millis(200));
    assert_eq!(lanes.finished(&crowded, &wait, &back, 0), None, "no trouble, and nothing for the disk");
    assert!(lanes.next(0).is_none(), "what it has is one");
    lanes.finished(&good, &LaneHealth::Healthy, &[], 0);
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none(), "one for one");
    assert!(lanes.refills(9, 0).is_empty(), "who was put back is in line, and nothing is read for it");
    lanes.wake(1);
    assert!(lanes.next(1).is_some(), "one more");
    lanes.check();
}

#[test]
fn who_was_put_back_goes_before_those_who_came_due_later() {
    let mut lanes = lanes();
    for n in 1..10 {
        lanes.add(Due { due_at: n, ..due(n, n, "a.test") }, 50);
    }
    let first = lanes.next(50).unwrap();
    lanes.finished(&first, &LaneHealth::AtLimit(Duration::from_secs(1)), &ids_of(&first), 50);
    lanes.wake(60);
    assert_eq!(ids(&lanes.next(60).unwrap()), [1]);
    lanes.check();
}

#[test]
fn a_crowded_lane_without_any_transaction_is_woken() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    lanes.finished(&job, &LaneHealth::AtLimit(Duration::from_secs(5)), &[RecipientId(1)], 0);
    lanes.wake(4);
    assert!(lanes.next(4).is_none());
    assert_eq!(lanes.next_alarm(), Some(5));
    lanes.wake(5);
    assert_eq!(ids(&lanes.next(5).unwrap()), [1]);
}

#[test]
fn the_operators_limit_of_a_lane_holds_and_changes_with_the_config() {
    let pattern = DomainPattern::Exactly("a.test".to_owned());
    let limited = |connections| {
        let whom = crate::config::Whom::Domain(pattern.clone());
        let given =
            crate::config::Destination { whom, connections: Some(connections), messages_per_minute: None };
        SchedulerSettings { destinations: Arc::new(crate::config::Destinations(vec![given])), ..settings() }
    };
    let mut lanes = Lanes::new(limited(1), 7);
    for n in 0..10 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let one = answered(&mut lanes, "a.test");
    assert!(lanes.next(0).is_none(), "one and not two");
    lanes.reconfigure(limited(3));
    let refill = lanes.refills(9, 0).pop().unwrap();
    lanes.refilled(&refill, (10..20).map(|n| due(n, n, "a.test")).collect(), None, 0);
    lanes.finished(&one, &LaneHealth::Healthy, &[], 0);
    let two = lanes.next(0).unwrap();
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none(), "earned two by now");
    lanes.finished(&two, &LaneHealth::Healthy, &[], 0);
    lanes.next(0).unwrap();
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none(), "three");
    lanes.check();
}

#[test]
fn the_state_of_a_lane_tells_trouble_work_and_limit() {
    let mut lanes = lanes();
    for n in 0..4 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let job = lanes.next(0).unwrap();
    let state = lanes.state("a.test");
    assert_eq!((state.failures, state.busy, state.limit, state.waiting, state.more), (0, 1, 1, 3, false));
    lanes.finished(&job, &trouble(), &[RecipientId(0)], 0);
    let state = lanes.state("a.test");
    assert_eq!((state.failures, state.busy, state.limit, state.waiting, state.more), (1, 0, 1, 0, true));
    assert!(state.backoff_until > 0);
    assert_eq!(lanes.states(), [state]);
    let unknown = lanes.state("unknown.test");
    assert_eq!((&*unknown.lane, unknown.failures, unknown.busy, unknown.limit), ("unknown.test", 0, 0, 2));
}

#[test]
fn recipients_of_one_message_go_together_up_to_the_limit() {
    let mut lanes = lanes();
    for n in 0..4 {
        lanes.add(due(n, 1, "a.test"), 0);
    }
    lanes.add(due(9, 2, "a.test"), 0);
    let first = lanes.next(0).unwrap();
    assert_eq!(ids(&first), [0, 1, 2]);
    lanes.finished(&first, &LaneHealth::Unchanged, &[], 0);
    assert_eq!(ids(&lanes.next(0).unwrap()), [3]);
}

#[test]
fn a_recipient_known_is_not_taken_twice_until_it_is_settled() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.add(due(1, 1, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
    assert!(lanes.next(0).is_none(), "in flight until its settlement is on disk");
    lanes.settled([RecipientId(1)]);
    lanes.add(due(1, 1, "a.test"), 0);
    assert_eq!(ids(&lanes.next(0).unwrap()), [1]);
}

#[test]
fn a_lane_in_trouble_waits_and_then_probes_with_one() {
    let mut lanes = lanes();
    for n in -1..5 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let (one, two) = (answered(&mut lanes, "a.test"), lanes.next(0).unwrap());
    let Some(LaneChange::BacksOff(row)) = lanes.finished(&one, &trouble(), &[], 100) else { panic!() };
    assert_eq!(row.failures, 1);
    assert!((148..=172).contains(&row.backoff_until), "{}", row.backoff_until);
    // What was under way at the same time fails for the same reason: not a second failure.
    assert_eq!(lanes.finished(&two, &trouble(), &[], 101), None);
    lanes.settled([RecipientId(0), RecipientId(1)]);
    lanes.check();
    assert!(lanes.next(110).is_none());
    assert!(lanes.refills(9, 110).is_empty(), "nothing is read for a lane that backs off");
    assert_eq!(lanes.next_alarm(), Some(row.backoff_until));

    let later = row.backoff_until;
    lanes.wake(later);
    let refill = lanes.refills(9, later).pop().unwrap();
    assert_eq!(refill.domain, Some(Domain::parse("a.test").unwrap()));
    lanes.refilled(&refill, (2..5).map(|n| due(n, n, "a.test")).collect(), None, later);
    let probe = lanes.next(later).unwrap();
    assert!(lanes.next(later).is_none(), "one at a time until it succeeds");
    assert_eq!(lanes.finished(&probe, &LaneHealth::Healthy, &[], later), Some(LaneChange::Recovered));
    lanes.next(later).unwrap();
    lanes.next(later).unwrap();
    lanes.check();
}

#[test]
fn the_second_failure_in_a_row_waits_longer_and_a_success_starts_again() {
    let mut lanes = lanes();
    let fail = |lanes: &mut Lanes, n: i64, now: i64, health: LaneHealth| {
        lanes.wake(now);
        lanes.has_due(&Domain::parse("a.test").unwrap(), now);
        let refill = lanes.refills(9, now).pop().unwrap();
        lanes.refilled(&refill, vec![due(n, n, "a.test")], None, now);
        let job = lanes.next(now).unwrap();
        match lanes.finished(&job, &health, &[], now) {
            Some(LaneChange::BacksOff(row)) => row.backoff_until - now,
            _ => 0,
        }
    };
    assert!((48..=72).contains(&fail(&mut lanes, 1, 0, trouble())));
    assert!((480..=720).contains(&fail(&mut lanes, 2, 1000, trouble())));
    assert_eq!(fail(&mut lanes, 3, 2000, LaneHealth::Healthy), 0);
    assert!((48..=72).contains(&fail(&mut lanes, 4, 3000, trouble())));
}

/// How many of its transactions may be under way just now.
fn under_way(lanes: &mut Lanes, under_way: &mut Vec<Job>, now: i64) -> usize {
    under_way.extend(std::iter::from_fn(|| lanes.next(now)));
    under_way.len()
}

#[test]
fn what_has_come_back_gets_more_and_more_and_not_all_at_once() {
    let routes = Arc::new(Routes(vec![relay_for_all()]));
    let most = SchedulerSettings { workers: 128, connections_per_destination: 20, routes, ..settings() };
    let mut lanes = Lanes::new(most, 7);
    for n in 0..200 {
        lanes.add(due(n, n, &format!("d{n}.test")), 0);
    }
    let mut flying = Vec::new();
    let ramp = |lanes: &mut Lanes, flying: &mut Vec<Job>, now: i64| {
        (0..6).fold(Vec::new(), |mut seen, _| {
            seen.push((under_way(lanes, flying, now), lanes.state("route:*").limit));
            lanes.finished(&flying.remove(0), &LaneHealth::Healthy, &[], now);
            seen
        })
    };
    let steps = [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (20, 20)];
    assert_eq!(ramp(&mut lanes, &mut flying, 0), steps, "a new one");
    flying.drain(..).for_each(|job| drop(lanes.finished(&job, &trouble(), &[], 0)));
    // An hour later there is one probe, and the same again.
    lanes.wake(3600);
    let refill = lanes.refills(9, 3600).pop().unwrap();
    let rest = (1000..1200).map(|n| due(n, n, &format!("d{n}.test"))).collect();
    lanes.refilled(&refill, rest, None, 3600);
    assert_eq!(ramp(&mut lanes, &mut flying, 3600), steps, "one that was in trouble");
    lanes.check();
}

#[test]
fn a_lane_that_was_idle_goes_on_with_what_it_had_earned() {
    let mut lanes = Lanes::new(SchedulerSettings { connections_per_destination: 8, ..settings() }, 7);
    for n in 0..2 {
        lanes.add(due(n, n, "a.test"), 0);
        let job = lanes.next(0).unwrap();
        lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
        lanes.settled(ids_of(&job));
    }
    assert_eq!(lanes.states(), []);
    (10..20).for_each(|n| lanes.add(due(n, n, "a.test"), 0));
    assert_eq!(under_way(&mut lanes, &mut Vec::new(), 0), 4);
}

#[test]
fn doubtful_lanes_share_half_of_the_workers() {
    let mut lanes = lanes();
    for n in 0..8 {
        let name = format!("bad{n}.test");
        lanes.restore(BackoffRow {
            lane: name.clone(),
            failures: 1,
            backoff_until: 0,
            last_reply: String::new(),
        });
        lanes.add(due(n, n, &name), 1);
        lanes.wake(1);
        lanes.refills(9, 1).iter().for_each(|refill| lanes.refilled(refill, vec![due(n, n, &name)], None, 1));
    }
    lanes.add(due(100, 100, "good.test"), 1);
    let started: Vec<Job> = std::iter::from_fn(|| lanes.next(1)).collect();
    assert_eq!(started.len(), 5);
    assert!(started.iter().any(|job| &*job.lane == "good.test"));
    lanes.check();
    lanes.finished(&started[0], &LaneHealth::Unchanged, &[], 1);
    assert!(lanes.next(1).is_some(), "a place freed is taken by the next doubtful lane");
}

#[test]
fn a_full_lane_leaves_the_rest_to_the_database_and_asks_for_it_when_low() {
    let mut lanes = lanes();
    let count = WINDOW as i64 + 10;
    for n in 0..count {
        lanes.add(due(n, n, "a.test"), 0);
    }
    assert_eq!(lanes.waiting(), WINDOW);
    assert!(lanes.refills(9, 0).is_empty());
    assert!(lanes.accounts_for(&due(count - 1, count - 1, "a.test")));
    let mut taken = 0;
    let refill = loop {
        if let Some(refill) = lanes.refills(9, 0).pop() {
            break refill;
        }
        let job = lanes.next(0).unwrap();
        taken += job.recipients.len();
        lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
        lanes.settled(job.recipients.iter().map(|(recipient, _)| *recipient));
    };
    assert!(taken < WINDOW, "asked before it ran dry");
    lanes.refilled(&refill, (taken as i64..count).map(|n| due(n, n, "a.test")).collect(), None, 0);
    assert_eq!(lanes.waiting(), count as usize - taken);
    lanes.check();
}

#[test]
fn what_comes_due_later_stands_behind_what_was_left_to_the_database() {
    let mut lanes = lanes();
    let count = WINDOW as i64 + 1;
    for n in 0..count {
        lanes.add(due(n, n, "a.test"), 0);
    }
    for _ in 0..2 {
        let job = lanes.next(0).unwrap();
        lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
    }
    lanes.add(due(count, count, "a.test"), 0);
    assert_eq!(lanes.waiting(), WINDOW - 2, "there is room, but another was due before it");
    lanes.check();
}

#[test]
fn doubtful_lanes_without_a_free_worker_cost_the_others_nothing() {
    let mut lanes = lanes();
    for n in 0..1000 {
        let name = format!("bad{n}.test");
        let row = BackoffRow { lane: name.clone(), failures: 1, backoff_until: 0, last_reply: String::new() };
        lanes.restore(row);
        lanes.add(due(n, n, &name), 1);
        lanes.wake(1);
        lanes.refills(9, 1).iter().for_each(|refill| lanes.refilled(refill, vec![due(n, n, &name)], None, 1));
    }
    lanes.add(due(5000, 5000, "good.test"), 1);
    let bad: Vec<Job> = (0..4).map(|_| lanes.next(1).unwrap()).collect();
    let good = lanes.next(1).unwrap();
    assert_eq!(&*good.lane, "good.test");
    assert!(!lanes.has_turns(), "nobody is woken for those without a share");
    lanes.finished(&good, &LaneHealth::Healthy, &[], 1);
    lanes.check();
    lanes.finished(&bad[0], &LaneHealth::Healthy, &[], 1);
    lanes.check();
    lanes.add(due(5001, 5001, "good.test"), 1);
    let next: Vec<Job> = (0..2).map(|_| lanes.next(1).unwrap()).collect();
    assert_eq!(
        next.iter().map(|job| &*job.lane).collect::<Vec<_>>(),
        ["bad4.test", "good.test"],
        "in their order"
    );
}

#[test]
fn what_no_settlement_names_is_read_again() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    lanes.finished(&job, &LaneHealth::Unchanged, &[RecipientId(1)], 0);
    assert_eq!(lanes.refills(9, 0).len(), 1);
}

#[test]
fn a_read_that_something_crossed_is_not_taken_for_all() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.forget_waiting();
    let refill = lanes.refills(9, 0).pop().unwrap();
    lanes.forget_waiting();
    lanes.refilled(&refill, Vec::new(), None, 0);
    assert_eq!(lanes.refills(9, 0).len(), 1, "it has more still");
}

#[test]
fn what_is_forgotten_is_read_again_but_not_what_is_in_flight() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.add(due(2, 2, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    lanes.forget_waiting();
    assert!(lanes.next(0).is_none());
    assert!(!lanes.has_turns() || lanes.next(0).is_none());
    lanes.finished(&job, &LaneHealth::Unchanged, &[], 0);
    let refill = lanes.refills(9, 0).pop().unwrap();
    lanes.refilled(&refill, vec![due(1, 1, "a.test"), due(2, 2, "a.test")], None, 0);
    assert_eq!(ids(&job), [1]);
    assert_eq!(ids(&lanes.next(0).unwrap()), [2]);
    lanes.check();
}

#[test]
fn a_kick_ends_the_backoff_of_its_lane_only() {
    let mut lanes = lanes();
    for name in ["a.test", "b.test"] {
        lanes.restore(BackoffRow {
            lane: name.to_owned(),
            failures: 3,
            backoff_until: 999,
            last_reply: String::new(),
        });
    }
    lanes.end_backoff(5, |lane| lane == "a.test");
    assert_eq!(lanes.refills(9, 5).len(), 1);
    lanes.has_due(&Domain::parse("a.test").unwrap(), 5);
    let refill = lanes.refills(9, 5).pop().unwrap();
    lanes.refilled(&refill, vec![due(1, 1, "a.test")], None, 5);
    lanes.add(due(2, 2, "b.test"), 5);
    assert_eq!(&*lanes.next(5).unwrap().lane, "a.test");
    assert!(lanes.next(5).is_none());
}

#[test]
fn what_is_past_its_lifetime_leaves_its_line_and_not_its_flight() {
    let mut lanes = lanes();
    lanes.add(urgent(2, "a.test", 3), 0);
    lanes.add(due(3, 3, "a.test"), 0);
    lanes.add(urgent(1, "a.test", 5), 0);
    let flies = lanes.next(0).unwrap();
    lanes.add_expired(vec![urgent(1, "a.test", 5), urgent(2, "a.test", 3)], 0);
    let expired = lanes.next(0).unwrap();
    assert_eq!((expired.expired, ids(&expired)), (true, vec![2]));
    lanes.check();
    // And what is left in line is as urgent as it is itself.
    lanes.add(urgent(4, "b.test", 1), 0);
    lanes.finished(&flies, &LaneHealth::Healthy, &[], 0);
    assert_eq!(ids(&lanes.next(0).unwrap()), [4]);
    assert_eq!(ids(&lanes.next(0).unwrap()), [3]);
    lanes.check();
}

#[test]
fn who_is_put_back_after_a_reload_is_read_into_the_lane_that_is_theirs_now() {
    let mut lanes = lanes();
    for (n, domain) in [(1, "a.test"), (2, "b.test"), (3, "b.test")] {
        lanes.add(Due { due_at: 70, ..due(n, n, domain) }, 100);
    }
    let under_way = [lanes.next(100).unwrap(), lanes.next(100).unwrap()];
    let routes = Arc::new(Routes(vec![relay_for_all()]));
    lanes.reconfigure(SchedulerSettings { routes, ..settings() });
    lanes.refills(9, 100).iter().for_each(|refill| lanes.refilled(refill, vec![], None, 100));
    for job in &under_way {
        lanes.finished(job, &LaneHealth::Unchanged, &ids_of(job), 100);
    }
    let refills = lanes.refills(9, 100);
    let places: Vec<(&str, i64, i64)> =
        refills.iter().map(|refill| (&*refill.lane, refill.after.at, refill.after.id)).collect();
    assert_eq!(places, [("route:*", 70, 0)], "from where they stand, not from the start of the queue");
    lanes.refilled(&refills[0], vec![due(1, 1, "a.test"), due(2, 2, "b.test")], None, 100);
    assert_eq!(
        lanes.next(100).map(|job| (job.lane.to_string(), ids(&job))),
        Some(("route:*".to_owned(), vec![1]))
    );
    lanes.check();
}

#[test]
fn the_trouble_of_a_lane_in_which_nothing_waits_is_forgotten_hours_later() {
    let mut lanes = lanes();
    let row = |lane: &str| BackoffRow {
        lane: lane.to_owned(),
        failures: 3,
        backoff_until: 1_000,
        last_reply: String::new(),
    };
    lanes.restore(row("empty.test"));
    lanes.restore(row("waits.test"));
    assert!(lanes.wake(1_000).is_empty());
    for refill in lanes.refills(9, 1_000) {
        let rows = if &*refill.lane == "waits.test" { vec![due(1, 1, "waits.test")] } else { vec![] };
        lanes.refilled(&refill, rows, None, 1_000);
    }
    assert!(lanes.wake(1_000 + 6 * 3600 - 1).is_empty());
    assert_eq!(lanes.state("empty.test").failures, 3);
    assert_eq!(lanes.wake(1_000 + 6 * 3600), ["empty.test".into()]);
    assert_eq!(lanes.state("empty.test").failures, 0);
    assert_eq!(lanes.state("waits.test").failures, 3);
    lanes.check();
}

#[test]
fn who_finds_no_room_after_a_reload_stands_in_the_line_that_is_theirs_now() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    let routes = Arc::new(Routes(vec![relay_for_all()]));
    lanes.reconfigure(SchedulerSettings { routes, ..settings() });
    lanes.finished(&job, &LaneHealth::AtLimit(Duration::from_secs(1)), &ids_of(&job), 0);
    let job = lanes.next(0).unwrap();
    assert_eq!((&*job.lane, ids(&job)), ("route:*", vec![1]));
    lanes.check();
}

#[test]
fn a_row_deleted_by_hand_ends_the_backoff_and_one_not_yet_written_does_not() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 100);
    let job = lanes.next(100).unwrap();
    let Some(LaneChange::BacksOff(row)) = lanes.finished(&job, &trouble(), &[], 100) else { panic!() };
    assert!(!lanes.end_backoff_without_row(&[], 101), "to be asked again");
    assert!(lanes.state("a.test").backoff_until > 101);
    assert!(lanes.end_backoff_without_row(std::slice::from_ref(&row), 110));
    assert!(lanes.state("a.test").backoff_until > 110);
    assert!(lanes.end_backoff_without_row(&[], 110));
    assert_eq!(lanes.state("a.test").backoff_until, 110);
}

#[test]
fn what_is_past_its_lifetime_needs_no_host_and_no_turn() {
    let mut lanes = lanes();
    lanes.restore(BackoffRow {
        lane: "a.test".into(),
        failures: 1,
        backoff_until: 999,
        last_reply: String::new(),
    });
    lanes.add_expired(vec![due(1, 1, "a.test"), due(2, 1, "a.test"), due(3, 3, "a.test")], 5);
    let job = lanes.next(5).unwrap();
    assert!(job.expired);
    assert_eq!(ids(&job), [1, 2]);
    assert_eq!(lanes.finished(&job, &LaneHealth::Unchanged, &[], 5), None);
    lanes.add_expired(vec![due(1, 1, "a.test")], 5);
    assert_eq!(ids(&lanes.next(5).unwrap()), [3]);
    assert!(lanes.next(5).is_none());
    lanes.check();
}

fn relay_for_all() -> Route {
    let relay = RelayHost { host: Domain::parse("relay.test").unwrap(), port: 587 };
    Route {
        domain: DomainPattern::Any,
        relay: vec![relay],
        tls: RouteTls::Opportunistic,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    }
}

#[test]
fn a_route_with_relays_is_one_lane_for_all_its_domains() {
    let routes = Arc::new(Routes(vec![relay_for_all()]));
    let mut lanes = Lanes::new(SchedulerSettings { routes, ..settings() }, 1);
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.add(due(2, 1, "b.test"), 0);
    let job = lanes.next(0).unwrap();
    assert_eq!((&*job.lane, ids(&job)), ("route:*", vec![1, 2]));
}

#[test]
fn a_kick_leaves_the_row_by_which_people_see_that_a_domain_is_fetched() {
    let mut lanes = lanes_without("a.test");
    let mut reader = reader::Reader::new(Portions::default(), 0);
    let mut kick = |domain: &str, lanes: &mut Lanes| {
        reader.hear(Event::Kicked(Kick::Domain(Domain::parse(domain).unwrap())), lanes, 0)
    };
    assert_eq!(kick("a.test", &mut lanes), None);
    assert_eq!(kick("b.test", &mut lanes).as_deref(), Some("b.test"));
}

/// The next job, answered at once.
fn one_turn(lanes: &mut Lanes) -> Option<Vec<i64>> {
    let job = lanes.next(0)?;
    lanes.finished(&job, &LaneHealth::Unchanged, &[], 0);
    Some(ids(&job))
}

fn urgent(recipient: i64, domain: &str, priority: i64) -> Due {
    Due { priority: Priority::clamped(priority), ..due(recipient, recipient, domain) }
}

#[test]
fn the_urgent_goes_before_the_ordinary_of_its_lane_and_each_in_the_order_of_coming() {
    let mut lanes = Lanes::new(SchedulerSettings { connections_per_destination: 99, ..settings() }, 7);
    for (recipient, priority) in [(1, -4), (2, 0), (3, 5), (4, 0), (5, -4), (6, 5), (7, 9)] {
        lanes.add(urgent(recipient, "a.test", priority), 0);
    }
    let order: Vec<i64> = std::iter::from_fn(|| one_turn(&mut lanes)).flatten().collect();
    assert_eq!(order, [7, 3, 6, 2, 4, 1, 5]);
    lanes.check();
}

#[test]
fn lanes_with_urgent_mail_take_their_turns_first() {
    let mut lanes = lanes();
    for n in 0..100 {
        lanes.add(urgent(n, &format!("d{n}.test"), -1), 0);
    }
    // One of them has been waiting for its turn already, the other is new.
    lanes.add(urgent(1000, "d77.test", 3), 0);
    lanes.add(urgent(1001, "new.test", 3), 0);
    lanes.check();
    let first: Vec<i64> = (0..2).flat_map(|_| one_turn(&mut lanes).unwrap()).collect();
    assert_eq!(first, [1000, 1001]);
    // The ordinary of that lane kept a turn, and only one.
    let rest: Vec<i64> = std::iter::from_fn(|| one_turn(&mut lanes)).flatten().collect();
    assert_eq!(rest.len(), 100);
    assert_eq!(rest.iter().filter(|id| **id == 77).count(), 1);
    lanes.check();
}

#[test]
fn a_full_lane_makes_room_for_the_urgent() {
    let mut lanes = lanes();
    let count = WINDOW as i64;
    for n in 0..count {
        lanes.add(due(n, n, "a.test"), 0);
    }
    lanes.add(urgent(count, "a.test", 1), 0);
    lanes.add(due(count + 1, count + 1, "a.test"), 0);
    assert_eq!(lanes.waiting(), WINDOW);
    assert_eq!(one_turn(&mut lanes), Some(vec![count]));
    // Whoever made room is left to the database.
    assert!(lanes.accounts_for(&due(count - 1, count - 1, "a.test")));
    lanes.add(due(count - 1, count - 1, "a.test"), 0);
    assert_eq!(lanes.waiting(), WINDOW - 1, "its place is where the lane is read on");
    lanes.add(urgent(count + 2, "a.test", 1), 0);
    assert_eq!(ids(&lanes.next(0).unwrap()), [count + 2], "the urgent does not wait for that");
    lanes.check();
}

/// A queue with so many newsletters for `big.test`, then a message of ordinary and one of high priority.
fn queue_with_newsletters(folder: &std::path::Path, count: i64) -> (Queue, Receiver<Event>) {
    let path = folder.join("queue.db");
    let settings = QueueSettings { path, history: Duration::from_secs(60) };
    let (events_in, events) = crossbeam_channel::unbounded();
    let (queue, writer) = Queue::open(&settings, events_in).unwrap();
    let accept = |received_at: i64, to: &[String], priority: i64| {
        let handling = Handling { priority: Priority::clamped(priority), ..Handling::default() };
        let recipients = to.iter().map(|to| Recipient::new(address::parse(to).unwrap())).collect();
        let message = NewMessage {
            id: queue.new_message_id(),
            envelope: Envelope { recipients, handling, ..Envelope::default() },
            origin: Origin::default(),
            received_at,
            expires_at: i64::MAX,
            size: 3,
            tail: b"x\r\n".to_vec(),
            chunks_before: 0,
        };
        queue.accept(message).unwrap();
    };
    accept(1_000, &(0..count).map(|n| format!("u{n}@big.test")).collect::<Vec<_>>(), -3);
    accept(5_000, &["ordinary@big.test".to_owned()], 0);
    accept(5_000, &["urgent@big.test".to_owned()], 4);
    // It goes on as long as the queue does.
    std::mem::forget(writer);
    (queue, events)
}

/// The first rows by their priority.
fn priorities(rows: &[Due]) -> Vec<i8> {
    rows.iter().take(4).map(|due| due.priority.value()).collect()
}

#[test]
fn a_relay_s_lane_is_filled_with_the_urgent_first() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, _events) = queue_with_newsletters(folder.path(), 10_000);
    let routes = Arc::new(Routes(vec![relay_for_all()]));
    let lanes = Mutex::new(Lanes::new(SchedulerSettings { routes, ..settings() }, 1));
    // It knows that it has something, and not what.
    lanes.lock().unwrap().has_due(&Domain::parse("big.test").unwrap(), 1_000);
    let refill = lanes.lock().unwrap().refills(1, 9_000).pop().unwrap();
    let fill = |room: usize| {
        let mut refill = refill.clone();
        refill.room = room;
        reader::rows_of_lane(&*queue, &lanes, Portions::default(), &refill, 9_000).unwrap()
    };
    let (rows, searched) = fill(100);
    assert_eq!((priorities(&rows), rows.len()), (vec![4, 0, -3, -3], 100));
    // It is read on where the first stands that found no room.
    assert_eq!(searched.map(|place| (place.at, place.id + 1)), Some((1_000, rows[99].recipient.0 + 1)));
    let (rows, searched) = fill(20_000);
    assert_eq!((rows.len(), searched), (10_002, None));
}

#[test]
fn after_a_start_a_password_reset_is_the_first_job_before_ten_thousand_newsletters() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, events) = queue_with_newsletters(folder.path(), 10_000);
    // As if the process had just started: it knows nothing but the database.
    while events.try_recv().is_ok() {}
    let (scheduler, thread) = Scheduler::start(settings(), queue.clone(), events, Clock::System).unwrap();
    let job = scheduler.next(Duration::from_secs(20)).unwrap();
    let message = queue.fetch(job.message, &ids_of(&job)).unwrap().unwrap();
    assert_eq!(message.recipients[0].address.to_string(), "urgent@big.test");
    scheduler.stop();
    thread.join().unwrap();
}

fn ids_of(job: &Job) -> Vec<RecipientId> {
    job.recipients.iter().map(|(recipient, _)| *recipient).collect()
}

#[test]
fn turns_that_were_given_up_for_better_ones_do_not_pile_up() {
    let mut lanes = lanes();
    lanes.add(due(0, 0, "a.test"), 0);
    for n in 1..10_000 {
        lanes.add(urgent(n, "a.test", 5), 0);
        let job = lanes.next(0).unwrap();
        assert_eq!(ids(&job), [n]);
        lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
        lanes.settled([RecipientId(n)]);
    }
    lanes.check();
    assert!(lanes.turns_kept() < 200, "{}", lanes.turns_kept());
    assert_eq!(ids(&lanes.next(0).unwrap()), [0]);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, i8),
    Next,
    Finish(u8, u8),
    Forget,
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..12, -2i8..3).prop_map(|(domain, priority)| Step::Add(domain, priority)),
        4 => Just(Step::Next),
        4 => (any::<u8>(), 0u8..3).prop_map(|(which, health)| Step::Finish(which, health)),
        1 => Just(Step::Forget),
        2 => (1u8..200).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens in whatever order: limits hold, no recipient is in two jobs, no lane that backs off
    /// gets a turn, and the running sums are right.
    #[test]
    fn invariants_hold_in_any_order(steps in steps()) {
        let mut lanes = lanes();
        let (mut now, mut next_id) = (0i64, 0i64);
        let mut flying: Vec<Job> = Vec::new();
        let mut backing_off: HashMap<String, i64> = HashMap::new();
        for step in steps {
            match step {
                Step::Add(domain, priority) => {
                    next_id += 1;
                    let due = due(next_id, next_id / 2, &format!("d{domain}.test"));
                    lanes.add(Due { priority: Priority::clamped(priority.into()), ..due }, now);
                }
                Step::Next => if let Some(job) = lanes.next(now) {
                    prop_assert!(backing_off.get(&*job.lane).is_none_or(|until| *until <= now));
                    let overlap = flying.iter().flat_map(ids).any(|id| ids(&job).contains(&id));
                    prop_assert!(!overlap);
                    flying.push(job);
                    prop_assert!(flying.len() <= 24);
                    for job in &flying {
                        prop_assert!(flying.iter().filter(|other| other.lane == job.lane).count() <= 2);
                    }
                },
                Step::Finish(which, health) if !flying.is_empty() => {
                    let job = flying.swap_remove(which as usize % flying.len());
                    let health = [LaneHealth::Healthy, LaneHealth::Unchanged, trouble()][health as usize].clone();
                    if let Some(LaneChange::BacksOff(row)) = lanes.finished(&job, &health, &[], now) {
                        backing_off.insert(row.lane, row.backoff_until);
                    } else if health == LaneHealth::Healthy {
                        backing_off.remove(&*job.lane);
                    }
                    lanes.settled(job.recipients.iter().map(|(recipient, _)| *recipient));
                }
                Step::Finish(..) => {}
                Step::Forget => lanes.forget_waiting(),
                Step::Pass(secs) => {
                    now += i64::from(secs);
                    lanes.wake(now);
                    // The database has nothing more than what was forgotten here.
                    for refill in lanes.refills(9, now) {
                        lanes.refilled(&refill, Vec::new(), None, now);
                    }
                }
            }
            lanes.check();
        }
    }
}
