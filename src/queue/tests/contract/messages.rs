//! The way of a message: accept, fetch, settle, history; over restarts; in chunks.

use super::*;
use crate::mail::{DeliverBy, Handling, Hold, Priority, Release};
use crate::queue::admin::Filter;

pub(super) fn a_message_goes_from_accept_to_history(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.net"]);
    let fresh = due[0].fresh.clone().unwrap();
    assert_eq!(fresh.content.as_ref().unwrap().bytes, b"Subject: x\r\n\r\nhello\r\n");
    assert_eq!(ids(&site.queue.due(DueCursor::default(), i64::MAX, 10).unwrap()), ids(&due));
    assert_eq!(ids(&site.queue.due_in_domain(&due[1].domain, None, i64::MAX, 10).unwrap()), ids(&due[1..]));
    assert_eq!(site.queue.next_due_after(0).unwrap(), Some(due[0].due_at));

    assert!(site.queue.knows(fresh.id).unwrap());
    assert!(!site.queue.knows(MessageId(fresh.id.0 - 1)).unwrap());
    let later = due[0].due_at + 60;
    site.queue.settle(settlement(
        &fresh,
        vec![(due[0].recipient, DELIVERED), (due[1].recipient, NextState::Retry(later))],
    ));
    assert_eq!(site.settled(), [(due[0].recipient, None), (due[1].recipient, Some(later))]);
    let fetched = site.queue.fetch(fresh.id, &ids(&due)).unwrap().unwrap();
    assert_eq!(fetched.recipients.len(), 1);
    assert_eq!(fetched.recipients[0].last_reply.as_deref(), Some("451 4.7.1 come back later"));
    assert_eq!((fetched.recipients[0].attempts, &fetched.origin), (1, &fresh.origin));
    let content: Vec<u8> = site.queue.content(fresh.id).flat_map(Result::unwrap).collect();
    assert_eq!(content, b"Subject: x\r\n\r\nhello\r\n");
    site.is_well();

    site.queue.settle(settlement(&Arc::new(fetched), vec![(due[1].recipient, DELIVERED)]));
    assert_eq!(site.settled(), [(due[1].recipient, None)]);
    assert!(site.queue.fetch(fresh.id, &ids(&due)).unwrap().is_none());
    assert_eq!(site.queue.size(fresh.id).unwrap(), None);
    assert!(site.queue.knows(fresh.id).unwrap(), "from its history");
    let shown = site.place.admin().show(fresh.id).unwrap().unwrap();
    assert!(shown.message.is_none() && shown.header.is_none(), "{shown:?}");
    let lines: Vec<_> = shown
        .recipients
        .iter()
        .map(|one| (&*one.line.recipient, &*one.line.state, one.line.attempts, one.tries.len()))
        .collect();
    assert_eq!(lines, [("a@example.com", "delivered", 1, 1), ("b@example.net", "delivered", 2, 2)]);
    site.is_well();
}

pub(super) fn what_was_accepted_is_there_after_a_restart(site: Site) {
    let due = site.accept(&["a@example.com"]);
    let row = BackoffRow {
        lane: "example.com".to_owned(),
        failures: 2,
        backoff_until: due[0].due_at + 60,
        last_reply: "421 4.3.2 closing".to_owned(),
    };
    site.queue.set_backoff(row.clone());
    site.queue.set_backoff(BackoffRow { lane: "gone.example".to_owned(), ..row.clone() });
    site.queue.clear_backoff("gone.example");
    let site = site.restart();
    let again = site.queue.due(DueCursor::default(), i64::MAX, 10).unwrap();
    assert_eq!(ids(&again), ids(&due));
    assert_eq!((again[0].domain.as_str(), again[0].fresh.is_none()), ("example.com", true));
    assert_eq!(site.queue.backoffs().unwrap(), [row]);
    site.is_well();
}

pub(super) fn ids_only_grow_over_restarts(site: Site) {
    let last = site.accept(&["a@example.com"])[0].recipient.0;
    let site = site.restart();
    assert!(site.queue.new_message_id().0 > last);
}

pub(super) fn only_one_process_has_a_store(site: Site) {
    let error = site.place.open().map(drop).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    site.restart();
}

pub(super) fn content_arrives_in_chunks_and_leaves_in_chunks(site: Site) {
    let mut message = site.message(&["a@example.com"], b"tail\r\n");
    let chunk = vec![b'x'; 256 << 10];
    for seq in 0..2 {
        site.queue.append_chunk(message.id, seq, chunk.clone()).unwrap();
    }
    (message.chunks_before, message.size) = (2, 2 * chunk.len() as u64 + 6);
    let id = message.id;
    site.queue.accept(message).unwrap();
    assert!(site.accepted()[0].fresh.is_none(), "only what came in one piece is kept in memory");
    let chunks: Vec<Vec<u8>> = site.queue.content(id).map(Result::unwrap).collect();
    assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [chunk.len(), chunk.len(), 6]);

    // A large report comes in one piece and is cut.
    let large = site.message(&["a@example.com"], &[b'y'; 600 << 10]);
    let large_id = large.id;
    site.queue.accept(large).unwrap();
    assert_eq!(site.queue.content(large_id).map(|chunk| chunk.unwrap().len()).sum::<usize>(), 600 << 10);
    site.is_well();
}

pub(super) fn what_had_not_arrived_whole_is_no_message(site: Site) {
    let whole = site.accept(&["a@example.com"])[0].message;
    let unfinished = site.queue.new_message_id();
    site.queue.append_chunk(unfinished, 0, vec![b'x'; 1000]).unwrap();
    let discarded = site.queue.new_message_id();
    site.queue.append_chunk(discarded, 0, vec![b'x'; 1000]).unwrap();
    site.queue.discard(discarded);
    site.queue.discard(whole);
    let mut holed = site.message(&["a@example.com"], b"x\r\n");
    holed.chunks_before = 1;
    assert_eq!(site.queue.accept(holed), Err(AcceptError::Failed), "its first chunk never came");
    site.queue.barrier().unwrap();
    assert!(site.queue.chunk(discarded, 0).unwrap().is_none());
    assert!(site.queue.chunk(unfinished, 0).unwrap().is_some());

    let site = site.restart();
    assert!(site.queue.chunk(unfinished, 0).unwrap().is_none());
    assert!(site.queue.content(whole).next().unwrap().is_ok(), "a message is not discarded");
    site.is_well();
}

pub(super) fn content_that_goes_while_it_is_read_is_an_error_and_not_a_shorter_message(site: Site) {
    let message = site.message(&["a@example.com"], &[b'y'; 600 << 10]);
    let id = message.id;
    site.queue.accept(message).unwrap();
    let mut content = site.queue.content(id);
    assert!(content.next().unwrap().is_ok());
    site.place.admin().remove(&Filter::message(id)).unwrap();
    assert!(matches!(content.next(), Some(Err(QueueError::ContentGone(gone))) if gone == id));
    assert!(content.next().is_none());
}

pub(super) fn an_id_used_twice_is_refused_and_spoils_nothing(site: Site) {
    let used = site.accept(&["a@example.com"])[0].message;
    let again = NewMessage { id: used, ..site.message(&["b@example.com"], b"x\r\n") };
    assert_eq!(site.queue.accept(again), Err(AcceptError::Failed));
    site.accept(&["c@example.com"]);
    let lines = site.place.admin().list(&Filter::all(), 10).unwrap();
    let addresses: Vec<_> = lines.iter().map(|line| &*line.recipient).collect();
    assert_eq!(addresses, ["a@example.com", "c@example.com"]);
    site.is_well();
}

pub(super) fn a_bounce_commits_with_the_outcome_that_causes_it(site: Site) {
    let due = site.accept(&["a@example.com"]);
    let fresh = due[0].fresh.clone().unwrap();
    let bounce = site.message(&["app@example.org"], b"Subject: sorry\r\n\r\n");
    let bounce_id = bounce.id;
    let mut settlement = settlement(&fresh, vec![(due[0].recipient, NextState::Finished(Finished::Failed))]);
    settlement.reports.push(("bounce", bounce));
    site.queue.settle(settlement);
    assert_eq!(site.settled(), [(due[0].recipient, None)]);
    let told = site.accepted();
    assert_eq!((told.len(), told[0].message), (1, bounce_id));
    assert!(told[0].fresh.is_some());
    site.is_well();
}

pub(super) fn an_intent_to_send_the_dot_outlives_the_process(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.com", "c@example.com", "d@example.com"]);
    let (ids, message) = (ids(&due), due[0].message);
    site.queue.intend_dot(&ids).unwrap();
    site.queue.recall_dot(&ids[3..]).unwrap();
    site.queue.settle(settlement(due[0].fresh.as_ref().unwrap(), vec![(ids[0], NextState::Retry(0))]));
    site.settled();
    drop(due);
    let site = site.restart();
    assert_eq!(site.queue.in_doubt().unwrap(), [(message, vec![ids[1], ids[2]])]);
}

pub(super) fn handling_comes_back_as_it_was_given(site: Site) {
    let mut message = site.message(&["a@example.com"], b"x\r\n");
    let now = message.received_at;
    let handling = Handling {
        priority: Priority::clamped(-9),
        require_tls: true,
        tls_optional: true,
        release: Some(Release { at: now + 500, asked: Hold::Until(now + 500) }),
        deliver_by: Some(DeliverBy { at: now + 900, returns: true, trace: true }),
    };
    message.envelope.handling = handling;
    let id = message.id;
    site.queue.accept(message).unwrap();
    let due = site.accepted().remove(0);
    assert_eq!((due.due_at, due.fresh.is_some()), (now + 500, false), "not due, and kept in no memory");
    let fetched = site.queue.fetch(id, &[due.recipient]).unwrap().unwrap();
    assert_eq!(fetched.handling, handling);
    let due_at = |until| site.queue.due(DueCursor::default(), until, 9).unwrap().len();
    assert_eq!((due_at(now + 499), due_at(now + 500)), (0, 1));
    // A kick does not free what is held until its release.
    let kicked = site.queue.kick(&Kick::Domain(due.domain), &Asker::default()).unwrap();
    assert_eq!((kicked.waiting(), due_at(now + 499)), (1, 0));
    site.is_well();
}

/// Whatever ends mail, whoever ends it, and over a restart.
pub(super) fn a_quota_is_never_exceeded_and_what_is_gone_makes_room(site: Site) {
    let accept = |site: &Site, user: &str| {
        let mut message = site.message(&["a@example.com", "b@example.com"], &[b'x'; 100]);
        message.origin.user = Some(user.to_owned());
        site.queue.accept(message).unwrap();
        site.accepted()
    };
    // There is mail before anybody with a quota sends.
    let before = accept(&site, "app");
    accept(&site, "other");
    let reserve = |site: &Site, bytes| site.queue.reserve_quota("app", 350, bytes);
    // Asked again where a count that rests may hide what somebody else has done.
    let has_room = |site: &Site, bytes| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while reserve(site, bytes).is_err() {
            assert!(std::time::Instant::now() < deadline, "{bytes} bytes find no room");
            std::thread::sleep(Duration::from_millis(10));
        }
        site.queue.release_quota("app", bytes);
    };
    assert_eq!(reserve(&site, 251), Err(QuotaError::Reached));
    reserve(&site, 150).unwrap();
    assert_eq!(reserve(&site, 101), Err(QuotaError::Reached));
    site.queue.release_quota("app", 150);
    reserve(&site, 100).unwrap();
    let second = accept(&site, "app");
    site.queue.release_quota("app", 100);
    assert_eq!(reserve(&site, 151), Err(QuotaError::Reached));
    // One recipient of two is done: the message is still there.
    let fresh = before[0].fresh.clone().unwrap();
    site.queue.settle(settlement(&fresh, vec![(before[0].recipient, DELIVERED)]));
    site.settled();
    assert_eq!(reserve(&site, 151), Err(QuotaError::Reached));
    site.queue.settle(settlement(&fresh, vec![(before[1].recipient, DELIVERED)]));
    site.settled();
    has_room(&site, 250);
    let site = site.restart();
    assert_eq!(reserve(&site, 251), Err(QuotaError::Reached));
    site.place.admin().remove(&Filter::message(second[0].message)).unwrap();
    has_room(&site, 350);
    assert_eq!(site.place.admin().bytes_by_user().unwrap(), BytesByUser::from([("other".to_owned(), 100)]));
}
