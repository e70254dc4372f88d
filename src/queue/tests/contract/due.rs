//! What is due, what is past its lifetime, what waits where.

use super::*;
use crate::mail::{Domain, Hold, Lifetimes, Release};
use crate::queue::admin::Filter;

pub(super) fn a_page_can_end_inside_one_second(site: Site) {
    let to: Vec<String> = (0..5).map(|n| format!("u{n}@example.com")).collect();
    let due = site.accept(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let wanted = ids(&due);
    let mut seen = Vec::new();
    let mut after = DueCursor::from(0);
    loop {
        let page = site.queue.due(after, i64::MAX, 2).unwrap();
        let Some(last) = page.last() else { break };
        after = last.cursor();
        seen.extend(ids(&page));
    }
    assert_eq!(seen, wanted);
    assert_eq!(ids(&site.queue.due_in_domain(&due[0].domain, None, i64::MAX, 9).unwrap()), wanted);
    let due_between = |after: i64, until| site.queue.due(after.into(), until, 9).unwrap().len();
    assert_eq!(due_between(due[0].due_at, i64::MAX), 0, "a plain time: behind that second");
    assert_eq!(due_between(0, due[0].due_at - 1), 0);
}

pub(super) fn expired_ones_are_found_and_held_ones_are_not(site: Site) {
    let mut message = site.message(&["a@example.com", "b@example.com"], b"x\r\n");
    message.expires_at = Some(message.received_at - 5);
    let now = message.received_at;
    site.queue.accept(message).unwrap();
    let due = site.accepted();
    site.accept(&["c@example.com"]);
    site.queue.settle(settlement(
        due[0].fresh.as_ref().unwrap(),
        vec![(due[1].recipient, NextState::Hold(HeldBy::InDoubt))],
    ));
    assert_eq!(site.settled(), [(due[1].recipient, None)]);
    assert_eq!(all_expired(&site, now, 10).0, [due[0].recipient]);
}

/// With lifetimes of 100 and, for bounces, 10 s.
fn over(now: i64) -> Over {
    Over::at(now, Lifetimes { messages: 100, bounces: 10 })
}

/// A raised lifetime holds for what is queued too: nothing of it was fixed when the message came.
pub(super) fn a_message_ends_with_the_lifetime_of_now_or_at_a_time_of_its_own(site: Site) {
    let now = now_secs();
    let accept = |age: i64, sender: bool, expires_at: Option<i64>| {
        let mut message = site.message(&["a@example.com"], b"x\r\n");
        (message.received_at, message.expires_at) = (now - age, expires_at);
        message.envelope.sender = message.envelope.sender.filter(|_| sender);
        site.queue.accept(message).unwrap();
        ids(&site.accepted()).remove(0)
    };
    let mut released = site.message(&["a@example.com"], b"x\r\n");
    (released.received_at, released.expires_at) = (now - 5_000, None);
    released.envelope.handling.release = Some(Release { at: now - 50, asked: Hold::For(4_950) });
    site.queue.accept(released).unwrap();
    let released = ids(&site.accepted()).remove(0);
    let (bounce, message) = (accept(50, false, None), accept(150, true, None));
    let (longer, shorter) = (accept(5_000, true, Some(now + 5)), accept(1, true, Some(now)));
    let of = |messages, bounces| {
        let over = Over::at(now, Lifetimes { messages, bounces });
        let (mut found, mut after) = (Vec::new(), Some(ExpiryCursor::default()));
        while let Some(place) = after {
            let part = site.queue.expired(place, &over, 1).unwrap();
            found.extend(ids(&part.due));
            after = part.searched;
        }
        found
    };
    assert_eq!(of(100, 10), [shorter, bounce, message]);
    assert_eq!(of(151, 51), [shorter], "both lifetimes were raised");
    assert_eq!(of(151, 50), [shorter, bounce]);
    assert_eq!(of(50, 51), [shorter, message, released], "and lowered");
    let later = Over::at(now + 5, Lifetimes { messages: i64::MAX, bounces: i64::MAX });
    let due = site.queue.expired(ExpiryCursor::Over(Ending::Deadline, i64::MIN, i64::MAX), &later, 9);
    assert_eq!(ids(&due.unwrap().due), [shorter, longer]);
}

/// What a look in parts of this size finds, and how many parts it takes.
fn all_expired(site: &Site, now: i64, limit: usize) -> (Vec<RecipientId>, usize) {
    let (mut found, mut parts, mut after) = (Vec::new(), 0, Some(ExpiryCursor::default()));
    while let Some(place) = after {
        let part = site.queue.expired(place, &over(now), limit).unwrap();
        found.extend(ids(&part.due));
        (after, parts) = (part.searched, parts + 1);
    }
    (found, parts)
}

pub(super) fn held_mail_past_its_lifetime_is_walked_a_part_at_a_time_and_hides_nothing(site: Site) {
    let now = now_secs();
    let accept = |expired_for: i64, to: &[&str]| {
        let mut message = site.message(to, b"x\r\n");
        message.expires_at = Some(now - expired_for);
        site.queue.accept(message).unwrap();
        ids(&site.accepted())
    };
    // Ten of one second and ten of others, all held; then two that are not, and two to be returned.
    (0..10).for_each(|_| drop(accept(500, &["a@held.example"])));
    (0..10).for_each(|n| drop(accept(400 - n, &["a@held.example"])));
    let last = [accept(5, &["a@example.com"]), accept(5, &["b@example.com"])].concat();
    let returned = accept(-500, &["c@returned.example", "d@returned.example"]);
    let of = |name| Filter::domain(&Domain::parse(name).unwrap());
    assert_eq!(site.place.admin().hold(&of("held.example")).unwrap(), 20);
    assert_eq!(site.place.admin().bounce(&of("returned.example")).unwrap(), 2);
    let all: Vec<RecipientId> = returned.into_iter().chain(last).collect();
    assert_eq!(all_expired(&site, now, 1_000), (all.clone(), 4));
    let (found, parts) = all_expired(&site, now, 3);
    assert_eq!(found, all);
    assert!(parts >= 8, "{parts}");
    assert_eq!(all_expired(&site, now, 1).0, all);
}

pub(super) fn a_message_for_two_domains_of_one_lane_is_one_message_in_it(site: Site) {
    site.accept(&["a@one.test", "b@two.test", "c@other.example"]);
    site.accept(&["a@one.test"]);
    site.place.admin().hold(&Filter::domain(&Domain::parse("two.test").unwrap())).unwrap();
    let names: Vec<String> = site.queue.domains().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["one.test", "other.example", "two.test"]);
    let lane_of = |domain: &Domain| match domain.as_str().ends_with(".test") {
        true => "route:*.test".into(),
        false => domain.as_str().into(),
    };
    let lanes = site.queue.waiting_by_lane(&lane_of).unwrap();
    let shown: Vec<_> =
        lanes.iter().map(|lane| (&*lane.lane, lane.messages, lane.recipients, lane.held)).collect();
    assert_eq!(shown, [("route:*.test", 2, 3, 1), ("other.example", 1, 1, 0)]);
    assert!(lanes.iter().all(|lane| lane.next_attempt_at.is_some()), "{lanes:?}");
}

pub(super) fn a_kick_forgets_the_backoff_and_says_how_many_wait(site: Site) {
    let due = site.accept(&["a@example.com", "b@below.example.com"]);
    let later = due.iter().map(|due| (due.recipient, NextState::Retry(due.due_at + 9999))).collect();
    site.queue.settle(settlement(due[0].fresh.as_ref().unwrap(), later));
    site.settled();
    let backoff_until = due[0].due_at + 9999;
    let lane = due[0].domain.to_string();
    site.queue.set_backoff(BackoffRow { lane, failures: 1, backoff_until, last_reply: "421 no".to_owned() });
    let kick = |kick: Kick| site.queue.kick(&kick, &Asker::default());
    let due_now = || site.queue.due(DueCursor::default(), now_secs(), 9).unwrap().len();
    // What is committed next takes the backoff along.
    assert_eq!(kick(Kick::Domain(Domain::parse("nobody.example").unwrap())), Ok(Kicked::Nothing));
    assert_eq!((site.queue.backoffs().unwrap().len(), due_now()), (1, 0));
    assert_eq!(kick(Kick::Domain(due[0].domain.clone())), Ok(Kicked::Started(1)));
    assert_eq!((site.queue.backoffs().unwrap().len(), due_now()), (0, 1));
    assert_eq!(kick(Kick::Domain(due[0].domain.clone())), Ok(Kicked::UnderWay(1)));
    assert_eq!(kick(Kick::DomainAndBelow(due[0].domain.clone())), Ok(Kicked::Started(2)));
    assert_eq!(due_now(), 2);
    let asked: Vec<_> =
        site.place.admin().kicks(9).unwrap().0.into_iter().map(|kick| (kick.node, kick.recipients)).collect();
    let wanted = [("@example.com", 2), ("example.com", 1), ("example.com", 1), ("nobody.example", 0)];
    assert_eq!(asked, wanted.map(|(node, recipients)| (node.to_owned(), recipients)));
}
