//! Lanes whose hosts never speak, or have fallen silent, and those that are known to answer.

use super::*;

/// With a lane `good.test` that has answered and has nothing to do, and 128 workers.
fn responsive() -> Lanes {
    let mut lanes = Lanes::new(SchedulerSettings { workers: 128, ..settings() }, 7);
    lanes.add(due(0, 0, "good.test"), 0);
    let job = lanes.next(0).unwrap();
    end(&mut lanes, &job, &LaneHealth::Unchanged, 0);
    assert_eq!(lanes.states(), [], "a lane with nothing to do is forgotten");
    lanes
}

/// Ends a job, and its settlement is on disk.
fn end(lanes: &mut Lanes, job: &Job, health: &LaneHealth, now: i64) {
    lanes.finished(job, health, &[], now);
    lanes.settled(ids_of(job));
}

/// So many new lanes with a message each.
fn add_new(lanes: &mut Lanes, count: i64, now: i64) {
    for n in 10_000..10_000 + count {
        lanes.add(due(n, n, &format!("new{n}.test")), now);
    }
}

fn start_all(lanes: &mut Lanes, now: i64) -> Vec<Job> {
    std::iter::from_fn(|| lanes.next(now)).collect()
}

#[test]
fn however_many_new_hosts_are_silent_a_responsive_one_finds_a_worker_at_once() {
    let mut lanes = responsive();
    add_new(&mut lanes, 1_000, 0);
    assert_eq!(start_all(&mut lanes, 0).len(), 112, "all but an eighth");
    assert!(!lanes.has_turns());
    for n in 1..=20 {
        lanes.add(due(n, n, "good.test"), 1);
    }
    assert!(lanes.has_turns());
    // Two at once, as many as a lane may have, whatever waits before them.
    assert_eq!(start_all(&mut lanes, 1).iter().map(|job| &*job.lane).collect::<Vec<_>>(), ["good.test"; 2]);
    lanes.check();
}

#[test]
fn new_hosts_take_turns_by_age_and_each_that_ends_makes_room_for_the_next() {
    let mut lanes = responsive();
    add_new(&mut lanes, 1_000, 0);
    let mut under_way = start_all(&mut lanes, 0);
    for n in 0..888 {
        let job = under_way.remove(0);
        end(&mut lanes, &job, &if n % 2 == 0 { LaneHealth::Healthy } else { failing() }, 0);
        let next = lanes.next(0).unwrap();
        assert_eq!(ids(&next), [10_112 + n]);
        assert!(lanes.next(0).is_none());
        under_way.push(next);
    }
    lanes.check();
}

#[test]
fn a_newsletter_to_new_hosts_gets_nearly_all_of_the_workers_and_what_answered_uses_the_rest() {
    let mut lanes = Lanes::new(SchedulerSettings { workers: 128, ..settings() }, 7);
    add_new(&mut lanes, 5_000, 0);
    for n in 0..1_000 {
        lanes.add(due(n, n, &format!("new{}.test", 10_000 + n)), 0);
    }
    let first = start_all(&mut lanes, 0);
    assert_eq!(first.len(), 112);
    first.iter().for_each(|job| end(&mut lanes, job, &LaneHealth::Healthy, 0));
    assert!(start_all(&mut lanes, 0).len() >= 112 + 16);
    lanes.check();
}

#[test]
fn what_responsive_lanes_had_lately_is_not_given_to_new_ones() {
    let mut lanes = responsive();
    for n in 1..=200 {
        lanes.add(due(n, n, &format!("good{}.test", n % 20)), 0);
    }
    // They answer one by one, and then two at once in each of 20 lanes.
    (0..20).for_each(|_| {
        let job = lanes.next(0).unwrap();
        end(&mut lanes, &job, &LaneHealth::Healthy, 0);
    });
    let good = start_all(&mut lanes, 0);
    assert_eq!(good.len(), 40);
    add_new(&mut lanes, 1_000, 1);
    assert_eq!(start_all(&mut lanes, 1).len(), 88);
    good.iter().for_each(|job| end(&mut lanes, job, &LaneHealth::Healthy, 2));
    assert_eq!(start_all(&mut lanes, 2).len(), 40, "all of them are for the responsive ones again");
    lanes.check();
}

#[test]
fn trouble_makes_a_responsive_lane_a_failing_one() {
    let mut lanes = responsive();
    lanes.add(due(1, 1, "good.test"), 0);
    let job = lanes.next(0).unwrap();
    end(&mut lanes, &job, &failing(), 0);
    assert_eq!(lanes.state("good.test").limit, 1);
    add_new(&mut lanes, 1_000, 1_000);
    assert_eq!(start_all(&mut lanes, 1_000).len(), 112);
    lanes.wake(1_000);
    lanes.has_due(&Domain::parse("good.test").unwrap(), 1_000, 1_000);
    let refill = lanes.refills(9, 1_000).pop().unwrap();
    lanes.refilled(&refill, vec![due(2, 2, "good.test")], None, 1_000);
    assert!(lanes.next(1_000).is_none(), "no worker is kept for it any more");
    lanes.check();
}

#[test]
fn a_responsive_host_that_falls_silent_counts_as_untested_until_it_speaks() {
    let mut lanes = responsive();
    for n in 1..=9 {
        lanes.add(due(n, n, "good.test"), 100);
    }
    let silent = start_all(&mut lanes, 100);
    assert_eq!(silent.len(), 2);
    lanes.wake(129);
    assert_eq!(lanes.state("good.test").limit, 2);
    lanes.wake(130);
    assert_eq!(lanes.state("good.test").limit, 1, "nothing was heard for half a minute");
    lanes.check();
    add_new(&mut lanes, 1_000, 130);
    assert_eq!(start_all(&mut lanes, 130).len(), 110, "its two are part of the quota");
    // The lane goes on when something is heard, a refusal too.
    end(&mut lanes, &silent[0], &LaneHealth::Unchanged, 140);
    assert_eq!(lanes.state("good.test").limit, 2);
    let started: Vec<Job> = start_all(&mut lanes, 140);
    assert_eq!(
        started.iter().map(|job| &*job.lane).collect::<Vec<_>>(),
        ["new10110.test", "new10111.test", "good.test"]
    );
    lanes.check();
    // And is watched again.
    lanes.wake(169);
    assert_eq!(lanes.state("good.test").limit, 2);
    lanes.wake(170);
    assert_eq!(lanes.state("good.test").limit, 1);
    lanes.check();
}

#[test]
fn a_busy_host_that_answers_now_and_then_is_not_taken_for_silent() {
    let mut lanes = responsive();
    for n in 1..=99 {
        lanes.add(due(n, n, "good.test"), 0);
    }
    let (mut slow, mut now) = (start_all(&mut lanes, 0), 0);
    while now < 300 {
        now += 20;
        let job = slow.remove(0);
        end(&mut lanes, &job, &LaneHealth::Healthy, now);
        slow.push(lanes.next(now).unwrap());
        lanes.wake(now);
        assert_eq!(lanes.state("good.test").limit, 2, "at {now}");
        lanes.check();
    }
}

#[test]
fn failing_lanes_share_half_of_the_workers() {
    let mut lanes = lanes();
    for n in 0..8 {
        let name = format!("bad{n}.test");
        lanes.restore(
            BackoffRow { lane: name.clone(), failures: 1, backoff_until: 0, last_reply: String::new() },
            at(0),
        );
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
    assert!(lanes.next(1).is_some(), "a place freed is taken by the next failing lane");
}

#[test]
fn failing_lanes_without_a_free_worker_cost_the_others_nothing() {
    let mut lanes = lanes();
    for n in 0..1000 {
        let name = format!("bad{n}.test");
        let row = BackoffRow { lane: name.clone(), failures: 1, backoff_until: 0, last_reply: String::new() };
        lanes.restore(row, at(0));
        lanes.add(due(n, n, &name), 1);
        lanes.wake(1);
        lanes.refills(9, 1).iter().for_each(|refill| lanes.refilled(refill, vec![due(n, n, &name)], None, 1));
    }
    lanes.add(due(5000, 5000, "good.test"), 1);
    let bad: Vec<Job> = (0..4).map(|_| lanes.next(1).unwrap()).collect();
    let good = lanes.next(1).unwrap();
    assert_eq!(&*good.lane, "good.test");
    assert!(!lanes.has_turns(), "nobody is woken for those whose quota is used up");
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
fn an_idle_lane_stays_responsive_for_half_an_hour() {
    let limit_after = |secs: i64| {
        let mut lanes = responsive();
        lanes.add(due(1, 1, "good.test"), secs);
        lanes.state("good.test").limit
    };
    assert_eq!((limit_after(1_799), limit_after(1_800)), (2, 1));
}
