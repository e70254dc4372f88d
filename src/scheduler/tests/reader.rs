//! What the thread reads first, from a real queue.

use super::*;

#[test]
fn a_kick_leaves_the_row_by_which_people_see_that_a_domain_is_fetched() {
    let mut lanes = lanes_without("a.test");
    let mut reader = Reader::new(Portions::default(), at(0));
    let mut kick = |domain: &str, lanes: &mut Lanes| {
        reader.hear(Event::Kicked(Kick::Domain(Domain::parse(domain).unwrap())), lanes, at(0))
    };
    assert_eq!(kick("a.test", &mut lanes), None);
    assert_eq!(kick("b.test", &mut lanes).as_deref(), Some("b.test"));
}

/// A queue with so many newsletters for `big.test`, then a message of ordinary and one of high priority.
fn queue_with_newsletters(folder: &std::path::Path, count: i64) -> (Queue, Receiver<Event>) {
    let path = folder.join("queue.db");
    let settings = QueueSettings { path, history: Duration::from_secs(60), litestream: false };
    let (events_in, events) = crossbeam_channel::unbounded();
    let (queue, writer) = Queue::open(&settings, events_in).unwrap();
    let accept = |received_at: i64, to: &[String], priority: i64| {
        let handling = Handling { priority: Priority::clamped(priority), ..Handling::default() };
        let recipients = to.iter().map(|to| Recipient::new(address::parse(to).unwrap())).collect();
        let message = NewMessage {
            id: queue.new_message_id(),
            envelope: Envelope { recipients, handling, ..Envelope::default() },
            origin: Origin::default(),
            labels: Labels::default(),
            received_at,
            expires_at: None,
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
    lanes.lock().unwrap().has_due(&Domain::parse("big.test").unwrap(), 1_000, 1_000);
    let refill = lanes.lock().unwrap().refills(1, 9_000).pop().unwrap();
    let fill = |room: usize| {
        let mut refill = refill.clone();
        refill.room = room;
        rows_of_lanes(&*queue, &lanes, Portions::default(), &[refill], Vec::new(), 9_000)
            .unwrap()
            .pop()
            .unwrap()
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
    let (scheduler, thread) = Scheduler::start(settings(), queue.clone(), events, Clock::system()).unwrap();
    let job = scheduler.next(Duration::from_secs(20)).unwrap();
    let message = queue.fetch(job.message, &ids_of(&job)).unwrap().unwrap();
    assert_eq!(message.recipients[0].address.to_string(), "urgent@big.test");
    scheduler.stop();
    thread.join().unwrap();
}
