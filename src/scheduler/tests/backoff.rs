//! When a lane backs off, and when its backoff ends.

use super::*;

#[test]
fn a_lane_in_trouble_waits_and_then_probes_with_one() {
    let mut lanes = lanes();
    for n in -1..5 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let (one, two) = (answered(&mut lanes, "a.test"), lanes.next(0).unwrap());
    let Some(LaneChange::BacksOff(row)) = lanes.finished(&one, &failing(), &[], 100) else { panic!() };
    assert_eq!(row.failures, 1);
    assert!((148..=172).contains(&row.backoff_until), "{}", row.backoff_until);
    // What was under way at the same time fails for the same reason: not a second failure.
    assert_eq!(lanes.finished(&two, &failing(), &[], 101), None);
    lanes.settled([RecipientId(0), RecipientId(1)]);
    lanes.check();
    assert!(lanes.next(110).is_none());
    assert!(lanes.refills(9, 110).is_empty(), "nothing is read for a lane that backs off");
    assert_eq!(lanes.next_wake(), Some(row.backoff_until));

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
        lanes.has_due(&Domain::parse("a.test").unwrap(), now, now);
        let refill = lanes.refills(9, now).pop().unwrap();
        lanes.refilled(&refill, vec![due(n, n, "a.test")], None, now);
        let job = lanes.next(now).unwrap();
        match lanes.finished(&job, &health, &[], now) {
            Some(LaneChange::BacksOff(row)) => row.backoff_until - now,
            _ => 0,
        }
    };
    assert!((48..=72).contains(&fail(&mut lanes, 1, 0, failing())));
    assert!((480..=720).contains(&fail(&mut lanes, 2, 1000, failing())));
    assert_eq!(fail(&mut lanes, 3, 2000, LaneHealth::Healthy), 0);
    assert!((48..=72).contains(&fail(&mut lanes, 4, 3000, failing())));
}

/// RFC 8689 §5: a host that does not keep its policy is left alone as any that fails, and mail that does not heed the
/// policy goes all the same: what waited already, what comes new and what comes again, one at a time.
#[test]
fn a_backoff_for_the_policy_lets_mail_pass_that_does_not_heed_it() {
    let mut lanes = lanes();
    let passing = |n| Due { tls_optional: true, ..due(n, n, "a.test") };
    (1..4).for_each(|n| lanes.add(due(n, n, "a.test"), 0));
    lanes.add(passing(4), 0);
    let first = lanes.next(0).unwrap();
    let change = lanes.finished(&first, &LaneHealth::PolicyNotKept("454 4.7.5 no".to_owned()), &[], 0);
    assert!(matches!(change, Some(LaneChange::BacksOff(row)) if row.last_reply == "454 4.7.5 no"));
    (5..7).for_each(|n| lanes.add(passing(n), 0));
    lanes.add(due(7, 7, "a.test"), 0);
    let until = lanes.state("a.test").backoff_until;
    for n in 4..7 {
        let job = lanes.next(0).expect("it passes");
        assert_eq!(ids(&job), [n]);
        assert!(lanes.next(0).is_none(), "one at a time");
        // Neither what is taken nor what fails changes what the others wait for.
        let health = if n == 5 { failing() } else { LaneHealth::Healthy };
        assert_eq!(lanes.finished(&job, &health, &[], 0), None);
        assert_eq!((lanes.state("a.test").failures, lanes.state("a.test").backoff_until), (1, until));
        lanes.check();
    }
    assert!(lanes.next(0).is_none(), "what heeds it waits");
    lanes.settled((1..7).map(RecipientId));
    lanes.wake(until);
    let refill = lanes.refills(9, until).pop().unwrap();
    lanes.refilled(&refill, vec![due(2, 2, "a.test"), due(3, 3, "a.test")], None, until);
    let probe = lanes.next(until).unwrap();
    assert!(matches!(lanes.finished(&probe, &failing(), &[], until), Some(LaneChange::BacksOff(_))));
    lanes.add(passing(8), until);
    assert!(lanes.next(until).is_none(), "a backoff for another reason is for all");
    lanes.check();
}

#[test]
fn a_kick_ends_the_backoff_of_its_lane_only() {
    let mut lanes = lanes();
    for name in ["a.test", "b.test"] {
        lanes.restore(
            BackoffRow { lane: name.to_owned(), failures: 3, backoff_until: 999, last_reply: String::new() },
            at(500),
        );
    }
    lanes.end_backoff(5, |lane| lane == "a.test");
    assert_eq!(lanes.refills(9, 5).len(), 1);
    lanes.has_due(&Domain::parse("a.test").unwrap(), 5, 5);
    let refill = lanes.refills(9, 5).pop().unwrap();
    lanes.refilled(&refill, vec![due(1, 1, "a.test")], None, 5);
    lanes.add(due(2, 2, "b.test"), 5);
    assert_eq!(&*lanes.next(5).unwrap().lane, "a.test");
    assert!(lanes.next(5).is_none());
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
    lanes.restore(row("empty.test"), at(500));
    lanes.restore(row("waits.test"), at(500));
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
fn a_row_deleted_by_hand_ends_the_backoff_and_one_not_yet_written_does_not() {
    let mut lanes = lanes();
    lanes.add(due(1, 1, "a.test"), 100);
    let job = lanes.next(100).unwrap();
    let Some(LaneChange::BacksOff(row)) = lanes.finished(&job, &failing(), &[], 100) else { panic!() };
    assert!(!lanes.end_backoff_without_row(&[], 101), "to be asked again");
    assert!(lanes.state("a.test").backoff_until > 101);
    assert!(lanes.end_backoff_without_row(std::slice::from_ref(&row), 110));
    assert!(lanes.state("a.test").backoff_until > 110);
    assert!(lanes.end_backoff_without_row(&[], 110));
    assert_eq!(lanes.state("a.test").backoff_until, 110);
}

/// The row of a lane was written by a clock that was ahead, and the relay starts with one that is right.
#[test]
fn a_lane_waits_no_longer_than_the_schedule_whatever_its_row_says() {
    for ahead in [3_600, 365 * 86_400] {
        let mut lanes = lanes();
        let lane = "a.test".to_owned();
        let row =
            BackoffRow { lane, failures: 1, backoff_until: 1_000_000 + ahead, last_reply: String::new() };
        lanes.restore(row, Moment { now: 1_000_000, steady: 50 });
        let longest = lanes.longest_wait_secs();
        assert_eq!((lanes.next_wake(), longest), (Some(50 + longest), 721), "{ahead} s ahead");
    }
}

fn accept(queue: &Queue, to: &str, received_at: i64) {
    let recipients = vec![Recipient::new(address::parse(to).unwrap())];
    let message = NewMessage {
        id: queue.new_message_id(),
        envelope: Envelope { recipients, ..Envelope::default() },
        origin: Origin::default(),
        labels: Labels::default(),
        received_at,
        expires_at: None,
        size: 3,
        tail: b"x\r\n".to_vec(),
        chunks_before: 0,
    };
    queue.accept(message).unwrap();
}

/// A board without a battery: its clock is an hour (a year) ahead at boot, one connection is refused, and then the
/// clock is set right.
#[test]
fn a_refused_connection_while_the_clock_is_ahead_holds_mail_no_longer_than_its_wait() {
    for ahead in [3_600, 365 * 86_400] {
        let folder = tempfile::tempdir().unwrap();
        let settings = QueueSettings {
            path: folder.path().join("queue.db"),
            history: Duration::from_secs(60),
            litestream: false,
        };
        let (events_in, events) = crossbeam_channel::unbounded();
        let (queue, _writer) = Queue::open(&settings, events_in).unwrap();
        let now = Clock::system().now();
        let clock = Clock::by_hand(now + ahead);
        let (scheduler, thread) =
            Scheduler::start(super::settings(), queue.clone(), events, clock.clone()).unwrap();
        let accept = |to: &str| accept(&queue, to, clock.now());
        accept("one@a.test");
        let job = scheduler.next(Duration::from_secs(20)).unwrap();
        let next_state = NextState::Retry(clock.now() + 60);
        let attempt = Attempt {
            at: clock.now(),
            duration_ms: 1,
            mx: None,
            ip: None,
            tls: None,
            tls_policy: crate::mail::TlsPolicy::None,
            dkim: None,
            source: None,
            phase: Phase::Connect,
            reply: Reply::new(421, Enhanced(4, 4, 1), "connection refused"),
            outcome: Outcome::Deferred,
        };
        let (recipient, attempt) = (job.recipients[0].id, Some(attempt));
        let results = vec![Settled { recipient, attempt, next_state, warned: false }];
        // The thread may have read it before it heard of it.
        let message = queue.fetch(job.message, &ids_of(&job)).unwrap().map(Arc::new).unwrap();
        let (reports, pending_reports) = (Vec::new(), Vec::new());
        queue.settle(Settlement {
            message,
            at: clock.now(),
            results,
            reports,
            pending_reports,
            expanded_told: false,
            tls_sessions: Vec::new(),
            dialogue: None,
        });
        scheduler.finished(&job, &failing(), &[]);
        queue.barrier().unwrap();
        clock.step(-ahead);
        accept("two@a.test");
        // It is noticed within a second; then the row waits for as long as it was to wait.
        let began = std::time::Instant::now();
        while queue.next_due_after(clock.now()).unwrap().is_some_and(|next| next > clock.now() + 60) {
            assert!(began.elapsed() < Duration::from_secs(20), "it waits for the old time");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The wait of the lane: 60 s, 20 % more at most.
        clock.advance(75);
        let mut came = Vec::new();
        while came.len() < 2 {
            let job = scheduler.next(Duration::from_secs(20)).expect("it waits for the old time");
            came.extend(ids_of(&job));
            scheduler.finished(&job, &LaneHealth::Healthy, &[]);
        }
        scheduler.stop();
        thread.join().unwrap();
    }
}
