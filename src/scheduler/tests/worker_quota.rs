//! Lanes whose hosts never speak, or have fallen silent, and those that are known to answer.

use super::*;

/// With a lane `good.test` that has answered and has nothing to do, and 128 workers.
fn proved() -> Lanes {
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
fn however_many_new_hosts_are_silent_a_proved_one_finds_a_worker_at_once() {
    let mut lanes = proved();
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
    let mut lanes = proved();
    add_new(&mut lanes, 1_000, 0);
    let mut under_way = start_all(&mut lanes, 0);
    for n in 0..888 {
        let job = under_way.remove(0);
        end(&mut lanes, &job, &if n % 2 == 0 { LaneHealth::Healthy } else { trouble() }, 0);
        let next = lanes.next(0).unwrap();
        assert_eq!(ids(&next), [10_112 + n]);
        assert!(lanes.next(0).is_none());
        under_way.push(next);
    }
    lanes.check();
}

#[test]
fn a_newsletter_to_new_hosts_gets_nearly_all_of_the_workers_and_what_it_proved_uses_the_rest() {
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
fn what_proved_lanes_had_lately_is_not_given_to_new_ones() {
    let mut lanes = proved();
    for n in 1..=200 {
        lanes.add(due(n, n, &format!("good{}.test", n % 20)), 0);
    }
    // Proved one by one, and then two at once in each of 20 lanes.
    (0..20).for_each(|_| {
        let job = lanes.next(0).unwrap();
        end(&mut lanes, &job, &LaneHealth::Healthy, 0);
    });
    let good = start_all(&mut lanes, 0);
    assert_eq!(good.len(), 40);
    add_new(&mut lanes, 1_000, 1);
    assert_eq!(start_all(&mut lanes, 1).len(), 88);
    good.iter().for_each(|job| end(&mut lanes, job, &LaneHealth::Healthy, 2));
    assert_eq!(start_all(&mut lanes, 2).len(), 40, "all of them are for the proved ones again");
    lanes.check();
}

#[test]
fn a_proof_is_lost_with_trouble_and_the_lane_stands_with_the_doubtful() {
    let mut lanes = proved();
    lanes.add(due(1, 1, "good.test"), 0);
    let job = lanes.next(0).unwrap();
    end(&mut lanes, &job, &trouble(), 0);
    assert_eq!(lanes.state("good.test").limit, 1);
    add_new(&mut lanes, 1_000, 1_000);
    assert_eq!(start_all(&mut lanes, 1_000).len(), 112);
    lanes.wake(1_000);
    lanes.has_due(&Domain::parse("good.test").unwrap(), 1_000);
    let refill = lanes.refills(9, 1_000).pop().unwrap();
    lanes.refilled(&refill, vec![due(2, 2, "good.test")], None, 1_000);
    assert!(lanes.next(1_000).is_none(), "no worker is kept for it any more");
    lanes.check();
}

#[test]
fn a_proved_host_that_falls_silent_counts_as_unproved_until_it_speaks() {
    let mut lanes = proved();
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
    assert_eq!(start_all(&mut lanes, 130).len(), 110, "its two are part of the share");
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
    let mut lanes = proved();
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
