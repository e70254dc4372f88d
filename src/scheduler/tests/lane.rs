//! How many jobs a lane may have at once.

use super::*;

#[test]
fn a_lane_never_has_more_jobs_than_its_limit() {
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

#[test]
fn a_lane_has_one_job_until_its_host_has_answered_something() {
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
fn a_lane_at_its_limit_goes_on_with_what_it_has_and_tries_one_more_later() {
    let mut lanes = lanes();
    for n in 0..10 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let good = answered(&mut lanes, "a.test");
    let at_limit = lanes.next(0).unwrap();
    let back = [at_limit.recipients[0].0];
    let wait = LaneHealth::AtLimit(Duration::from_millis(200));
    assert_eq!(lanes.finished(&at_limit, &wait, &back, 0), None, "no trouble, and nothing for the disk");
    assert!(lanes.next(0).is_none(), "what it has is one");
    lanes.finished(&good, &LaneHealth::Healthy, &[], 0);
    lanes.next(0).unwrap();
    assert!(lanes.next(0).is_none(), "one for one");
    assert!(lanes.refills(9, 0).is_empty(), "who was requeued is in line, and nothing is read for it");
    lanes.wake(1);
    assert!(lanes.next(1).is_some(), "one more");
    lanes.check();
}

#[test]
fn who_was_requeued_goes_before_those_who_came_due_later() {
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
fn a_lane_at_its_limit_without_any_job_is_woken() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 0);
    let job = lanes.next(0).unwrap();
    lanes.finished(&job, &LaneHealth::AtLimit(Duration::from_secs(5)), &[RecipientId(1)], 0);
    lanes.wake(4);
    assert!(lanes.next(4).is_none());
    assert_eq!(lanes.next_wake(), Some(5));
    lanes.wake(5);
    assert_eq!(ids(&lanes.next(5).unwrap()), [1]);
}

#[test]
fn the_operators_limit_of_a_lane_holds_and_changes_with_the_config() {
    let pattern = DomainPattern::Exactly("a.test".to_owned());
    let limited = |connections| {
        let scope = crate::config::LimitScope::Domain(pattern.clone());
        let given =
            crate::config::Destination { scope, connections: Some(connections), messages_per_minute: None };
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
    assert_eq!(
        (state.failures, state.jobs_in_flight, state.limit, state.waiting, state.more),
        (0, 1, 1, 3, false)
    );
    lanes.finished(&job, &failing(), &[RecipientId(0)], 0);
    let state = lanes.state("a.test");
    assert_eq!(
        (state.failures, state.jobs_in_flight, state.limit, state.waiting, state.more),
        (1, 0, 1, 0, true)
    );
    assert!(state.backoff_until > 0);
    assert_eq!(lanes.states(), [state]);
    let unknown = lanes.state("unknown.test");
    assert_eq!(
        (&*unknown.lane, unknown.failures, unknown.jobs_in_flight, unknown.limit),
        ("unknown.test", 0, 0, 2)
    );
}

/// How many of its jobs may be under way just now.
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
    flying.drain(..).for_each(|job| drop(lanes.finished(&job, &failing(), &[], 0)));
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
