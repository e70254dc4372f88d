//! What is in memory, and what is left to the database.

use super::*;

/// Of one lane.
const WINDOW: usize = 2_000;

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
        lanes.settled(job.recipient_ids());
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
fn who_is_requeued_after_a_reload_is_read_into_the_lane_that_is_theirs_now() {
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

/// Of all lanes together.
const ALL: usize = 50_000;
/// Of each, however full the window is.
const MINIMUM: usize = 10;

#[test]
fn of_all_lanes_together_no_more_is_in_memory_than_may_be() {
    let mut lanes = lanes();
    for lane in 0..40 {
        for n in 0..WINDOW as i64 + 5 {
            let id = lane * 10_000 + n;
            lanes.add(due(id, id, &format!("d{lane}.test")), 0);
        }
        assert!(lanes.waiting() <= ALL + 40 * MINIMUM, "{}", lanes.waiting());
    }
    assert!(lanes.waiting() > ALL, "a full window locks no lane out: {}", lanes.waiting());
}

/// Of how many lanes it is remembered that they answered.
const RESPONSIVE: usize = 20_000;

#[test]
fn lanes_without_mail_are_forgotten_and_of_those_that_answered_only_so_many_are_remembered() {
    let mut lanes = lanes();
    for n in 0..RESPONSIVE as i64 + 500 {
        lanes.add(due(n, n, &format!("d{n}.test")), 0);
        let job = lanes.next(0).unwrap();
        lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
        lanes.settled(job.recipient_ids());
    }
    let (kept, responsive) = lanes.lanes_kept(0);
    assert_eq!((kept, lanes.turns_kept()), (0, 0));
    assert!((RESPONSIVE * 3 / 4..=RESPONSIVE).contains(&responsive), "{responsive}");
}
