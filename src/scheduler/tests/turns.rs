//! Turns: which lane and which recipients are next.

use super::*;

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
fn what_is_past_its_lifetime_leaves_its_line_and_not_its_flight() {
    let mut lanes = lanes();
    lanes.add(urgent(2, "a.test", 3), 0);
    lanes.add(due(3, 3, "a.test"), 0);
    lanes.add(urgent(1, "a.test", 5), 0);
    let in_flight = lanes.next(0).unwrap();
    lanes.add_expired(vec![urgent(1, "a.test", 5), urgent(2, "a.test", 3)], 0);
    let expired = lanes.next(0).unwrap();
    assert_eq!((expired.expired, ids(&expired)), (true, vec![2]));
    lanes.check();
    // And what is left in line is as urgent as it is itself.
    lanes.add(urgent(4, "b.test", 1), 0);
    lanes.finished(&in_flight, &LaneHealth::Healthy, &[], 0);
    assert_eq!(ids(&lanes.next(0).unwrap()), [4]);
    assert_eq!(ids(&lanes.next(0).unwrap()), [3]);
    lanes.check();
}

#[test]
fn what_is_past_its_lifetime_needs_no_host_and_no_turn() {
    let mut lanes = lanes();
    lanes.restore(
        BackoffRow { lane: "a.test".into(), failures: 1, backoff_until: 999, last_reply: String::new() },
        at(500),
    );
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
