//! What is suspended: it takes no turn, hides nothing, and costs nothing while it waits.

use super::routes::Counted;
use super::*;
use crate::queue::{Over, SUSPENSIONS_MAX, Submitted, Suspension, Whose};
use crate::scheduler::lanes::Windows;

const NOTHING_OVER: Over = Over { deadline: 0, bounces_from: 0, messages_from: 0 };
const NOW: i64 = 1_000_000;

fn suspension(whose: Whose, until: Option<i64>) -> Suspension {
    Suspension { whose, since: 1, until, reason: None, login: String::new() }
}

fn bulk() -> Whose {
    Whose::User("bulk".to_owned())
}

/// Due at its id, of this user.
fn of(user: &str, id: i64, domain: &str) -> Due {
    let submitted = Submitted::new(Some(user.to_owned()), None).map(Arc::new);
    Due { submitted, due_at: id, ..due(id, id, domain) }
}

/// A queue, and all that reads it.
struct Room {
    queue: Counted,
    lanes: Mutex<Lanes>,
    reader: Reader,
}

impl Room {
    /// Portions and windows are a fiftieth of those of a relay, so that a few thousand rows are many.
    fn new(routes: Routes, rows: impl Iterator<Item = Due>) -> Room {
        let settings = SchedulerSettings { routes: Arc::new(routes), ..settings() };
        let queue = Counted::default();
        rows.for_each(|row| drop(queue.rows.borrow_mut().insert(row.cursor(), row)));
        let windows = Windows { lane: 2 * PAGE, all: 50 * PAGE, minimum: 10, low: 10 };
        let lanes = Mutex::new(Lanes::with_windows(settings, windows, 1));
        let portions = Portions { page: PAGE, pages: 20, refills: 50, domains: 40 };
        Room { queue, lanes, reader: Reader::new(portions, at(NOW)) }
    }

    /// As somebody with `postrider queue suspend` does, and as it is noticed.
    fn suspend(&mut self, rows: Vec<Suspension>) {
        *self.queue.suspensions.borrow_mut() = rows;
        self.is_written_to();
    }

    /// Another process writes something.
    fn is_written_to(&mut self) {
        self.reader.hear(Event::ChangedOutside, self.lanes.get_mut().unwrap(), at(NOW));
    }

    fn look(&mut self, at: Moment) {
        self.reader.look(&self.queue, &self.lanes, &|| {}, at, &NOTHING_OVER).unwrap();
    }

    /// Looks until there is nothing more to read; gives how many looks that took.
    fn settle(&mut self, now: i64) -> usize {
        for looks in 1..10_000 {
            self.look(at(now));
            if !self.reader.patience(&self.lanes, at(now)).is_zero() {
                return looks;
            }
        }
        panic!("it never comes to rest");
    }

    /// All jobs that start now are done; gives their recipients.
    fn deliver(&mut self, now: i64) -> Vec<i64> {
        let mut gone = Vec::new();
        loop {
            let Some(job) = self.lanes.get_mut().unwrap().next(now) else { return gone };
            let ids: Vec<RecipientId> = job.recipient_ids().collect();
            self.queue.rows.borrow_mut().retain(|_, due| !ids.contains(&due.recipient));
            let lanes = self.lanes.get_mut().unwrap();
            lanes.finished(&job, &LaneHealth::Healthy, &[], now);
            lanes.settled(ids.iter().copied());
            gone.extend(ids.iter().map(|id| id.0));
        }
    }
}

const PAGE: usize = 20;
const SUSPENDED: i64 = 60 * PAGE as i64;

/// So many of `bulk`, due first, then twenty of `app`, all in one lane.
fn behind_many() -> impl Iterator<Item = Due> {
    (1..=SUSPENDED + 20).map(|id| of(if id > SUSPENDED { "app" } else { "bulk" }, id, "a.test"))
}

#[test]
fn what_stands_behind_many_suspended_in_its_lane_is_found_and_then_nothing_more_is_read() {
    let by_route = Routes(vec![relay_for_all()]);
    for routes in [Routes::default(), by_route] {
        let mut room = Room::new(routes, behind_many());
        room.suspend(vec![suspension(bulk(), None)]);
        let looks = room.settle(NOW);
        assert_eq!(room.deliver(NOW), (SUSPENDED + 1..=SUSPENDED + 20).collect::<Vec<_>>());
        // Once for those that have come due, and once through the lane.
        let read = room.queue.given.take() as i64;
        assert!(read <= 2 * SUSPENDED + 5 * PAGE as i64 && looks < 60, "{read} rows in {looks} looks");
        assert_eq!(room.lanes.get_mut().unwrap().waiting(), 0);
        // At rest: the sweep, once a minute, is all that reads; it finds nobody forgotten.
        assert!((1..60).all(|secs| room.settle(NOW + secs) == 1));
        assert_eq!(room.queue.given.take(), 0);
        let looked = room.reader.look(&room.queue, &room.lanes, &|| {}, at(NOW + 61), &NOTHING_OVER).unwrap();
        assert_eq!(looked.forgotten, 0);
        assert!(room.queue.given.take() <= PAGE);
    }
}

/// Suspended ones in many domains, in one of them more than the sweep reads in a minute. A fault has lost two of `app`:
/// one that stands behind those in its domain, and one in the last domain.
#[test]
fn the_sweep_reads_little_in_a_look_and_finds_who_is_forgotten_behind_all_that_is_suspended() {
    const PAGE: usize = 10;
    let in_many = (1..=1_000).map(|id| of("bulk", id, &format!("d{}.test", id % 200)));
    let in_one = (1_001..=2_500).map(|id| of("bulk", id, "big.test"));
    let mut room = Room::new(Routes::default(), in_many.chain(in_one));
    let portions = Portions { page: PAGE, domains: 50, ..Portions::default() };
    room.reader = Reader::new(portions, at(NOW));
    room.suspend(vec![suspension(bulk(), None)]);
    room.settle(NOW);
    let lost = [of("app", 3_000, "big.test"), of("app", 3_001, "z.test")];
    room.queue.rows.borrow_mut().extend(lost.map(|due| (due.cursor(), due)));
    room.queue.given.take();
    let (mut found, mut read_by_minute) = (0, Vec::new());
    for minute in 1..=3 {
        let mut in_minute = 0;
        for _ in 0..300 {
            let at = at(NOW + minute * 61);
            found += room.reader.look(&room.queue, &room.lanes, &|| {}, at, &NOTHING_OVER).unwrap().forgotten;
            // Little, so that what happens meanwhile is heard.
            let read = room.queue.given.take();
            assert!(read < 2 * PAGE, "{read} rows in a look");
            in_minute += read;
        }
        read_by_minute.push(in_minute);
    }
    assert_eq!(found, 2, "{read_by_minute:?}");
    assert!(read_by_minute.iter().all(|read| *read < 102 * PAGE), "{read_by_minute:?}");
    assert!(read_by_minute[1] > 90 * PAGE, "the second minute goes on where the first one ended");
    assert_eq!(room.deliver(NOW + 300), [3_000, 3_001]);
}

/// The lane has more than its window, in two priorities, and suspended ones between them; one is requeued.
#[test]
fn no_one_is_lost_between_suspended_ones_and_what_comes_meanwhile() {
    let rows = (1..=360).map(|id| {
        let user = if id % 3 == 0 { "app" } else { "bulk" };
        Due { priority: Priority::clamped(-(id % 2)), ..of(user, id, "a.test") }
    });
    let mut room = Room::new(Routes::default(), rows);
    room.suspend(vec![suspension(bulk(), None)]);
    room.settle(NOW);
    let job = room.lanes.get_mut().unwrap().next(NOW).unwrap();
    let gone: Vec<RecipientId> = job.recipient_ids().collect();
    room.lanes.get_mut().unwrap().finished(&job, &LaneHealth::Unchanged, &gone, NOW);
    // Urgent, and before all that was passed.
    let urgent = Due { priority: Priority::clamped(5), ..of("app", 20_000, "a.test") };
    room.queue.rows.borrow_mut().insert(urgent.cursor(), urgent.clone());
    room.reader.hear(Event::Accepted(vec![urgent]), room.lanes.get_mut().unwrap(), at(NOW));
    let mut found = Vec::new();
    for secs in 0..100 {
        room.settle(NOW + secs);
        found.extend(room.deliver(NOW + secs));
    }
    found.sort_unstable();
    let wanted: Vec<i64> = (1..=360).filter(|id| id % 3 == 0).chain([20_000]).collect();
    assert_eq!(found, wanted);
    room.suspend(Vec::new());
    for secs in 100..200 {
        room.settle(NOW + secs);
        found.extend(room.deliver(NOW + secs));
    }
    assert_eq!(found.len(), 361, "all of them are resumed");
}

#[test]
fn a_suspended_domain_is_not_read_and_its_fresh_mail_waits_until_it_is_resumed_or_over() {
    let domain = |name: &str| Whose::Domain(name.to_owned());
    for (whose, until) in [(domain("a.test"), None), (domain("*.test"), Some(NOW + 50))] {
        let mut room = Room::new(Routes::default(), (1..=600).map(|id| of("app", id, "a.test")));
        room.suspend(vec![suspension(whose, until)]);
        room.settle(NOW);
        // What had come due, and no refill.
        assert!(room.queue.given.take() <= 20 * PAGE);
        let fresh = of("app", 40_000, "a.test");
        room.queue.rows.borrow_mut().insert(fresh.cursor(), fresh.clone());
        room.reader.hear(Event::Accepted(vec![fresh]), room.lanes.get_mut().unwrap(), at(NOW));
        room.settle(NOW + 49);
        assert_eq!(room.deliver(NOW + 49), [0; 0]);
        assert_eq!(room.lanes.get_mut().unwrap().waiting(), 0, "it takes no room in memory");
        if until.is_none() {
            room.suspend(Vec::new());
        }
        // Nobody wrote where the time is over.
        room.settle(NOW + 50);
        assert!(!room.deliver(NOW + 50).is_empty());
    }
}

/// A cron job, or an operator's bulk change in parts: before each look the database is another one.
#[test]
fn a_process_that_writes_all_the_time_keeps_nobody_from_what_stands_behind_many_suspended() {
    for routes in [Routes::default(), Routes(vec![relay_for_all()])] {
        let mut room = Room::new(routes, behind_many());
        room.suspend(vec![suspension(bulk(), None)]);
        let mut gone = Vec::new();
        for look in 0..200 {
            if look == 20 {
                // Somebody releases one that the lane is past.
                let early = Due { due_at: 900, ..of("app", 9_000, "a.test") };
                room.queue.rows.borrow_mut().insert(early.cursor(), early);
            }
            room.is_written_to();
            room.look(at(NOW));
            gone.extend(room.deliver(NOW));
        }
        gone.sort_unstable();
        assert_eq!(gone, (SUSPENDED + 1..=SUSPENDED + 20).chain([9_000]).collect::<Vec<_>>());
    }
}

#[test]
fn urgent_mail_behind_many_urgent_that_are_suspended_goes_first_and_they_are_not_read_each_time() {
    let urgent = |due: Due| Due { priority: Priority::clamped(5), ..due };
    let suspended = (1..=SUSPENDED).map(|id| urgent(of("bulk", id, "a.test")));
    let normal = (2_001..=2_200).map(|id| of("app", id, "b.test"));
    let last = urgent(of("app", 3_000, "c.test"));
    let mut room = Room::new(Routes(vec![relay_for_all()]), suspended.chain(normal).chain([last]));
    room.suspend(vec![suspension(bulk(), None)]);
    room.settle(NOW);
    assert_eq!(room.deliver(NOW)[0], 3_000);
    room.queue.given.take();
    let mut gone = 0;
    for _ in 0..20 {
        room.settle(NOW);
        gone += room.deliver(NOW).len();
    }
    let read = room.queue.given.take();
    assert!(gone >= 100 && read < SUSPENDED as usize, "{read} rows for {gone}");
    // One that comes later is told apart all the same.
    let next = urgent(of("app", 4_000, "d.test"));
    room.queue.rows.borrow_mut().insert(next.cursor(), next.clone());
    room.reader.hear(Event::Accepted(vec![next]), room.lanes.get_mut().unwrap(), at(NOW));
    assert_eq!(room.deliver(NOW)[0], 4_000);
}

#[test]
fn one_that_was_over_by_a_clock_that_was_ahead_is_in_force_again_when_that_is_set_right() {
    let mut room = Room::new(Routes::default(), [of("bulk", 1, "a.test")].into_iter());
    room.suspend(vec![suspension(bulk(), Some(NOW + 7_200))]);
    room.settle(NOW);
    room.settle(NOW + 10_800);
    assert_eq!(room.deliver(NOW + 10_800), [1], "it is over by this clock");
    let later = of("bulk", 2, "a.test");
    room.queue.rows.borrow_mut().insert(later.cursor(), later.clone());
    room.look(Moment { now: NOW + 60, steady: NOW + 10_860 });
    room.reader.hear(Event::Accepted(vec![later]), room.lanes.get_mut().unwrap(), at(NOW + 10_860));
    assert_eq!(room.deliver(NOW + 10_860), [0; 0]);
}

/// Written by hand: the queue takes no more than the bound.
#[test]
fn one_beyond_the_bound_is_in_force_when_another_is_over() {
    let mut rows: Vec<Suspension> =
        (1..SUSPENSIONS_MAX).map(|n| suspension(Whose::User(n.to_string()), None)).collect();
    rows.insert(0, suspension(Whose::Tag("first".to_owned()), Some(NOW + 50)));
    rows.push(suspension(bulk(), None));
    let mut room = Room::new(Routes::default(), [].into_iter());
    room.suspend(rows);
    let is_on = |room: &mut Room| room.lanes.get_mut().unwrap().suspensions().has(&bulk());
    room.look(at(NOW));
    assert!(!is_on(&mut room));
    room.look(at(NOW + 50));
    assert!(is_on(&mut room));
}

#[test]
fn what_is_suspended_cannot_be_claimed_and_a_page_of_it_hides_nothing() {
    let mut lanes = lanes_without("a.test");
    let rows = vec![suspension(bulk(), None)];
    lanes.set_suspensions(crate::queue::Suspensions::on(rows, NOW));
    let mut rows: VecDeque<Due> = [of("bulk", 1, "a.test"), of("app", 2, "a.test")].into();
    let job = lanes.claim(&mut rows).unwrap();
    assert_eq!((ids(&job), rows.len()), (vec![2], 0));
}

/// One that comes back since its host has no room was in flight when it was suspended.
#[test]
fn what_comes_back_without_an_attempt_waits_too() {
    let mut lanes = lanes();
    lanes.add(of("bulk", 1, "a.test"), NOW);
    let job = lanes.next(NOW).unwrap();
    lanes.set_suspensions(crate::queue::Suspensions::on(vec![suspension(bulk(), None)], NOW));
    let at_limit = LaneHealth::AtLimit(Duration::from_secs(1));
    lanes.finished(&job, &at_limit, &job.recipient_ids().collect::<Vec<_>>(), NOW);
    assert!(lanes.next(NOW + 5).is_none() && lanes.waiting() == 0);
}
