//! What a filter selects is what a slow reading of each row selects, whatever stands in row and filter.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use super::*;
use crate::config::{DomainPattern, RelayHost, Route, Routes};
use crate::mail::{Address, Domain, Lifetimes, Recipient, Reply};
use crate::queue::admin::{Action, FailureLine, Filter, HELD_BY, Line, Order, Pattern};

/// What SQL, a shell or a person could take for something else.
const LETTERS: [&str; 16] =
    ["a", "A", "b", "%", "_", "?", "[", "]", "*", "\\", "'", "\"", " ", "\u{fc}", "\u{dc}", "\u{65e5}"];
const DOMAINS: [&str; 6] =
    ["a.test", "B.a.test", "b\u{fc}cher.test", "B\u{dc}CHER.test", "[192.0.2.1]", "fetched.test"];
const DOMAIN_FILTERS: [&str; 8] =
    ["a.test", "*.A.test", "b\u{fc}cher.test", "xn--*", "*", "[192*", "f*d.*st", "%.test*"];
const LANE_FILTERS: [&str; 8] =
    ["a.test", "route:*", "route:*.a.test", "*test", "atrn:*", "ATRN:fetched.test", "xn--_*", "*"];
const STATES: [&str; 6] = ["queued", "held", "delivered", "failed", "relayed", "finished"];
const AGE_STEP: i64 = 1000;

/// What no list shows.
struct Hidden {
    user: String,
    tag: String,
    age: i64,
}

fn text(random: &mut fastrand::Rng) -> String {
    (0..random.usize(0..4)).map(|_| LETTERS[random.usize(0..LETTERS.len())]).collect()
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn routes() -> Routes {
    let relay = RelayHost { host: Domain::parse("relay.test").unwrap(), port: 25 };
    Routes(vec![Route {
        domain: DomainPattern::Below("a.test".to_owned()),
        relay: vec![relay],
        tls: None,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    }])
}

/// Queues a message and has something become of it.
fn one(site: &Site, random: &mut fastrand::Rng) -> (String, Hidden) {
    let hidden = Hidden { user: text(random), tag: text(random), age: AGE_STEP * random.i64(0..4) };
    let mut message = site.message(&["a@a.test"], b"x\r\n");
    let local = format!("x{}", text(random));
    let to = Address::new_dangerous(&local, DOMAINS[random.usize(0..DOMAINS.len())]);
    message.envelope.recipients = vec![Recipient::new(to)];
    message.envelope.sender = some(text(random)).map(|local| Address::new_dangerous(&local, "from.test"));
    message.origin.user = some(hidden.user.clone());
    message.labels.tag = some(hidden.tag.clone());
    message.received_at -= hidden.age;
    site.queue.accept(message).unwrap();
    let due = site.accepted();
    let next = [
        DELIVERED,
        NextState::Finished(Finished::Failed),
        NextState::Retry(1),
        NextState::Hold(HeldBy::InDoubt),
    ][random.usize(0..4)];
    if random.bool() {
        let mut settlement = settlement(due[0].fresh.as_ref().unwrap(), vec![(due[0].recipient, next)]);
        let attempt = settlement.results[0].attempt.as_mut().unwrap();
        attempt.reply = Reply { text: text(random).into(), ..Reply::bare(451, "") };
        attempt.mx = some(text(random));
        site.queue.settle(settlement);
        site.settled();
    }
    (due[0].message.to_string(), hidden)
}

/// Slowly; `same`: whether two characters are.
fn is_like(pattern: &[char], text: &[char], same: fn(&char, &char) -> bool) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        (['*', pattern @ ..], text) => (0..=text.len()).any(|at| is_like(pattern, &text[at..], same)),
        ([one, pattern @ ..], [other, text @ ..]) => same(one, other) && is_like(pattern, text, same),
        _ => false,
    }
}

fn selects(filter: &Filter, line: &Line, hidden: &Hidden) -> bool {
    let compared = |pattern: &Option<Pattern>, text: &str, same| {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        pattern.as_ref().is_none_or(|pattern| is_like(&chars(pattern.as_str()), &chars(text), same))
    };
    let like = |pattern: &_, text: &str| compared(pattern, text, char::eq_ignore_ascii_case);
    let is_named = |pattern: &_, text: &str| compared(pattern, text, char::eq);
    let domain = Domain::parse(line.recipient.rsplit_once('@').unwrap().1).unwrap();
    let lane = match domain.as_str() {
        "fetched.test" => "atrn:fetched.test".to_owned(),
        _ => routes().lane(&domain).to_string(),
    };
    let reply = line.last_reply.as_deref().or(line.lane_reply.as_deref());
    let state = match (filter.state.as_deref(), &*line.state) {
        (None, state) => matches!(state, "queued" | "held"),
        (Some("finished"), state) => !matches!(state, "queued" | "held"),
        (Some(wanted), state) => wanted == state,
    };
    state
        && (filter.messages.is_empty() || filter.messages.iter().any(|id| id.to_string() == line.queue_id))
        && is_named(&filter.user, &hidden.user)
        && like(&filter.sender, &line.sender)
        && like(&filter.recipient, &line.recipient)
        && like(&filter.domain, domain.as_str())
        && like(&filter.mx, line.last_mx.as_deref().unwrap_or_default())
        && like(&filter.lane, &lane)
        && like(&filter.reply, reply.unwrap_or_default())
        && filter.older_secs.is_none_or(|secs| hidden.age >= secs)
        && is_named(&filter.tag, &hidden.tag)
        && filter.held_by.as_ref().is_none_or(|by| line.held_by.as_ref() == Some(by))
}

/// Mostly one or two options, as people use them.
fn filter() -> impl Strategy<Value = Filter> {
    fn rarely<T: std::fmt::Debug + Clone>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Option<T>> {
        proptest::option::weighted(0.15, value)
    }
    let letters =
        || proptest::collection::vec(select(&LETTERS[..]), 0..4).prop_map(|letters| letters.concat());
    let texts = move || {
        let any =
            prop_oneof![letters(), letters().prop_map(|text| format!("*{text}*")), Just("*".to_owned())];
        rarely(any.prop_map(|text| Pattern::parse(&text).unwrap()))
    };
    let within = letters().prop_filter_map("empty", |text| Pattern::within(&text).ok());
    (
        (texts(), texts(), texts(), texts(), texts()),
        rarely(select(&DOMAIN_FILTERS[..]).prop_map(|text| Pattern::domain(text).unwrap())),
        rarely(select(&LANE_FILTERS[..]).prop_map(|text| Pattern::parse(text).unwrap())),
        rarely(within),
        rarely((0..5i64).prop_map(|steps| steps * AGE_STEP - AGE_STEP / 2)),
        proptest::option::of(select(&STATES[..])),
        rarely(select(&HELD_BY[..])),
    )
        .prop_map(
            |((user, sender, recipient, mx, tag), domain, lane, reply, older_secs, state, held_by)| Filter {
                messages: Vec::new(),
                user,
                sender,
                recipient,
                domain,
                mx,
                lane,
                reply,
                older_secs,
                tag,
                state: state.map(str::to_owned),
                held_by: held_by.map(str::to_owned),
            },
        )
}

pub(super) fn a_filter_selects_what_a_slow_reading_of_each_row_does(site: Site) {
    let backoff = |lane: &str, last_reply: &str| BackoffRow {
        lane: lane.to_owned(),
        failures: 1,
        backoff_until: now_secs() + 9999,
        last_reply: last_reply.to_owned(),
    };
    site.queue.show_config(&routes(), Lifetimes { messages: 99_999, bounces: 99_999 });
    site.queue.set_backoff(backoff("a.test", "421 A_b% 'no'"));
    site.queue.set_backoff(backoff("route:*.a.test", "421 *a*\\"));
    site.queue.set_backoff(backoff("atrn:fetched.test", "450 fetch \"it\""));
    let mut random = fastrand::Rng::with_seed(11);
    let hidden: HashMap<String, Hidden> = (0..150).map(|_| one(&site, &mut random)).collect();
    site.queue.barrier().unwrap();
    let admin = site.place.admin();
    let mut lines = admin.list(&Filter::all(), 999).unwrap();
    let waiting = lines.len();
    lines.extend(admin.list(&Filter { state: Some("finished".to_owned()), ..Filter::all() }, 999).unwrap());
    assert_eq!((lines.len(), waiting > 50 && waiting < 140), (150, true));
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    let found = std::cell::Cell::new(0);
    let check = |filter: Filter| {
        let wanted = |line: &&Line| selects(&filter, line, &hidden[&line.queue_id]);
        let mut wanted: Vec<&str> = lines.iter().filter(wanted).map(|line| &*line.queue_id).collect();
        let listed = admin.list(&filter, 999).unwrap();
        let mut ids: Vec<&str> = listed.iter().map(|line| &*line.queue_id).collect();
        wanted.sort_unstable();
        ids.sort_unstable();
        prop_assert_eq!(&ids, &wanted);
        prop_assert_eq!(admin.count(&filter).unwrap(), wanted.len() as i64);
        if !filter.is_of_finished() {
            prop_assert_eq!(admin.summary_of(&filter, 9).unwrap().recipients, wanted.len() as i64);
        }
        found.set(found.get() + usize::from(!wanted.is_empty()));
        Ok(())
    };
    TestRunner::new(config).run(&filter(), check).unwrap();
    assert!(found.get() > 500, "only {} of the filters selected anything", found.get());
    let messages: Vec<MessageId> = lines[..3].iter().map(|line| line.queue_id.parse().unwrap()).collect();
    assert_eq!(admin.count(&Filter::message(messages[0])).unwrap(), 1);
    assert_eq!(admin.count(&Filter { messages, ..Filter::all() }).unwrap(), 3);
}

/// A kick forgets the backoffs that its filter may be about.
pub(super) fn a_change_is_for_what_its_filter_selects(site: Site) {
    site.accept(&["a@a.test", "b@a.test", "c@b.test"]);
    site.queue.set_backoff(BackoffRow {
        lane: "a.test".to_owned(),
        failures: 1,
        backoff_until: now_secs() + 9999,
        last_reply: "421 4.3.2 away".to_owned(),
    });
    site.queue.barrier().unwrap();
    let admin = site.place.admin();
    let away = Filter { reply: Some(Pattern::within("4.3.2 AWAY").unwrap()), ..Filter::all() };
    let would = |action, filter: &Filter| {
        let selected = admin.select(action, filter, 1).unwrap();
        let first = selected.first.into_iter().map(|line| line.recipient).collect::<Vec<_>>();
        (selected.recipients, selected.messages, selected.lanes, first.join(","))
    };
    assert_eq!(would(Action::Kick, &away), (2, 1, 1, "a@a.test".to_owned()));
    assert_eq!(would(Action::Remove, &Filter::all()), (3, 1, 2, "a@a.test".to_owned()));
    assert_eq!(would(Action::Release, &Filter::all()), (0, 0, 0, String::new()));
    assert_eq!(admin.kick(&away).unwrap(), 2);
    assert_eq!(admin.backoffs().unwrap(), []);
    assert_eq!(admin.kick(&away).unwrap(), 0, "nobody has said so of what waits now");
    let one = Filter { recipient: Some(Pattern::parse("B@*").unwrap()), ..Filter::all() };
    assert_eq!(would(Action::Hold, &one).0, 1);
    assert_eq!((admin.hold(&one).unwrap(), admin.hold(&one).unwrap()), (1, 0));
    assert_eq!(
        [Action::Kick, Action::Hold, Action::Release, Action::Bounce].map(|act| would(act, &one).0),
        [0, 0, 1, 1]
    );
    assert_eq!(admin.summary_of(&one, 9).unwrap().held, 1);
    assert_eq!((admin.bounce(&one).unwrap(), admin.release(&one).unwrap()), (1, 1));
    assert_eq!((admin.remove(&one).unwrap(), admin.summary(9).unwrap().recipients), (1, 2));
    site.is_well();
}

/// Somebody is asked in between, and answers after lunch: what came, was tried or was released meanwhile is left alone.
pub(super) fn a_change_is_for_what_was_selected_and_is_still_the_same(site: Site) {
    let settle = |due: &Due, reply: &str, mx: &str| {
        let next = NextState::Retry(now_secs() + 9999);
        let mut settlement = settlement(due.fresh.as_ref().unwrap(), vec![(due.recipient, next)]);
        let attempt = settlement.results[0].attempt.as_mut().unwrap();
        attempt.reply = Reply { text: reply.to_owned().into(), ..Reply::bare(451, "") };
        attempt.mx = Some(mx.to_owned());
        site.queue.settle(settlement);
        site.settled();
    };
    let sent = |to: &str| {
        let due = site.accept(&[to]).remove(0);
        settle(&due, "mailbox full", "mx.a.test");
        due
    };
    let dues = ["same@a.test", "other@a.test", "moved@a.test", "held@a.test"].map(sent);
    let admin = site.place.admin();
    let one = |address: &str| Filter { recipient: Some(Pattern::parse(address).unwrap()), ..Filter::all() };
    let filter = Filter {
        reply: Some(Pattern::within("FULL").unwrap()),
        mx: Some(Pattern::parse("mx.a*").unwrap()),
        state: Some("queued".to_owned()),
        ..Filter::all()
    };
    for (action, left) in [(Action::Bounce, 4), (Action::Remove, 3)] {
        let selected = admin.select(action, &filter, 0).unwrap();
        assert_eq!(selected.ids.len(), 4);
        let late = sent("late@a.test");
        settle(&dues[1], "busy", "mx.a.test");
        settle(&dues[2], "mailbox full", "mx.b.test");
        admin.hold(&one("held@*")).unwrap();
        let order =
            Order { action, which: &filter, these: &selected.ids, login: "ann", uid: 1000, reason: None };
        let changed = admin.change(&order, &|| true);
        assert!(changed.failed.is_none());
        assert_eq!((changed.recipients, changed.looked_at), (1, 4), "{action:?}");
        let said = admin.list(&Filter { state: Some("queued".to_owned()), ..Filter::all() }, 9).unwrap();
        let returned = said.iter().filter(|line| line.next_attempt.as_deref() == Some("bounce")).count();
        assert_eq!((said.len(), returned), (left, usize::from(action == Action::Bounce)), "{action:?}");
        // As before, for the next.
        admin.remove(&Filter::message(late.message)).unwrap();
        dues[1..3].iter().for_each(|due| settle(due, "mailbox full", "mx.a.test"));
        admin.release(&Filter::all()).unwrap();
        settle(&dues[0], "mailbox full", "mx.a.test");
    }
    site.is_well();
}

/// Of a lane in which all is held, and of one in which nothing was selected, the backoff stays.
pub(super) fn a_kick_ends_the_backoff_of_what_it_kicks_and_of_nothing_else(site: Site) {
    site.accept(&["a@held.test", "b@held.test", "a@some.test", "b@some.test", "a@not.test"]);
    for lane in ["held.test", "some.test", "not.test", "nobody.test"] {
        site.queue.set_backoff(BackoffRow {
            lane: lane.to_owned(),
            failures: 1,
            backoff_until: now_secs() + 9999,
            last_reply: "421 4.3.2 away".to_owned(),
        });
    }
    site.queue.barrier().unwrap();
    let admin = site.place.admin();
    let one = |address: &str| Filter { recipient: Some(Pattern::parse(address).unwrap()), ..Filter::all() };
    for address in ["*@held.test", "b@some.test"] {
        admin.hold(&one(address)).unwrap();
    }
    let left = || -> Vec<String> { admin.backoffs().unwrap().into_iter().map(|row| row.lane).collect() };
    assert_eq!((admin.kick(&one("*@held.test")).unwrap(), left().len()), (0, 4));
    assert_eq!(admin.kick(&one("*@*e*.test")).unwrap(), 1, "held ones are left alone");
    assert_eq!(left(), ["held.test", "nobody.test", "not.test"]);
    assert_eq!(admin.kick(&Filter::all()).unwrap(), 2);
    assert_eq!(left(), ["held.test", "nobody.test"]);
}

/// A thousand at a time, and what was done is on record.
pub(super) fn a_change_can_end_between_two_parts(site: Site) {
    let to: Vec<String> = (0..2_500).map(|n| format!("u{n}@a.test")).collect();
    site.accept(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let admin = site.place.admin();
    let all = Filter::all();
    let selected = admin.select(Action::Hold, &all, 3).unwrap();
    assert_eq!(
        (selected.recipients, selected.messages, selected.lanes, selected.first.len()),
        (2_500, 1, 1, 3)
    );
    let order = Order {
        action: Action::Hold,
        which: &all,
        these: &selected.ids,
        login: "ann",
        uid: 1000,
        reason: None,
    };
    let parts = std::cell::Cell::new(0);
    let changed = admin.change(&order, &|| parts.replace(parts.get() + 1) < 2);
    assert!(changed.failed.is_none());
    assert_eq!((changed.recipients, changed.looked_at), (2_000, 2_000));
    assert_eq!(admin.summary(9).unwrap().held, 2_000);
    let message = selected.ids[0].0;
    let story = admin.show(message).unwrap().unwrap().story;
    assert_eq!(story[1].words, "by ann (uid 1000): all, recipients: 2000");
    site.is_well();
}

pub(super) fn same_reasons_are_one_line_and_the_oldest_comes_first(site: Site) {
    for (n, to) in ["a@one.test", "b@one.test", "c@two.test", "d@three.test"].into_iter().enumerate() {
        let mut message = site.message(&[to], b"x\r\n");
        message.received_at -= 1000 - n as i64;
        site.queue.accept(message).unwrap();
        let due = site.accepted();
        let next =
            if n < 3 { NextState::Retry(now_secs() + 9999) } else { NextState::Finished(Finished::Failed) };
        let mut settlement = settlement(due[0].fresh.as_ref().unwrap(), vec![(due[0].recipient, next)]);
        let attempt = settlement.results[0].attempt.as_mut().unwrap();
        attempt.reply = attempt.reply.clone().with_text(format!("<{to}> is over quota, id 4FZ2QK{n}"));
        attempt.mx = Some(format!("mx{}.test", n % 2));
        site.queue.settle(settlement);
        site.settled();
    }
    let admin = site.place.admin();
    let shown = |filter: &Filter| -> Vec<(String, i64, i64, i64, usize, usize)> {
        let of = |line: FailureLine| {
            (line.reason, line.recipients, line.waiting, line.failed, line.hosts, line.senders)
        };
        admin.failures(filter).unwrap().into_iter().map(of).collect()
    };
    let reason = "451 4.7.1 <…> is over quota, id …".to_owned();
    assert_eq!(shown(&Filter::all()), [(reason.clone(), 4, 3, 1, 2, 1)]);
    let of = |state: &str| Filter { state: Some(state.to_owned()), ..Filter::all() };
    assert_eq!(shown(&of("failed")), [(reason.clone(), 1, 0, 1, 1, 1)]);
    assert_eq!(shown(&of("held")), []);
    assert_eq!(
        shown(&Filter::domain(&Domain::parse("one.test").unwrap())),
        [(reason.clone(), 2, 2, 0, 2, 1)]
    );

    // The same reasons on the status page and in a report.
    let groups = admin.failure_groups(now_secs() - 99, 9).unwrap();
    let mut groups: Vec<_> =
        groups.into_iter().map(|group| (group.reply, group.times, group.hosts)).collect();
    groups.sort_by_key(|(_, times, _)| *times);
    assert!(groups.iter().all(|(reply, ..)| *reply == reason), "{groups:?}");
    assert_eq!(groups.iter().map(|(_, times, _)| times).sum::<u64>(), 4);
    let traffic = admin.traffic(0, None, 9).unwrap();
    let reasons: Vec<_> = traffic.reasons.iter().map(|of| (&*of.state, of.recipients, &of.reply)).collect();
    assert_eq!(reasons, [("deferred", 3, &reason), ("failed", 1, &reason)]);

    let refusals = admin.refusals(3).unwrap();
    let hosts: Vec<_> = refusals.iter().map(|refusal| refusal.mx.as_deref()).collect();
    assert_eq!(hosts, [Some("mx1.test"), Some("mx0.test"), Some("mx1.test")], "the latest first");
    assert!(refusals.iter().all(|refusal| refusal.reply.contains("quota")));
    assert_eq!(admin.in_use_by(), Some(std::process::id()));

    let oldest =
        |by_lane, limit| -> Vec<(String, i64)> {
            let lines = admin.oldest(&Filter::all(), by_lane, limit).unwrap();
            assert!(lines.iter().all(|line| line.age >= 997
                && line.last_reply.as_ref().is_some_and(|reply| reply.contains("quota"))));
            lines.into_iter().map(|line| (line.of, line.recipients)).collect()
        };
    assert_eq!(oldest(true, 9), [("one.test".to_owned(), 2), ("two.test".to_owned(), 1)]);
    let ids: Vec<String> =
        admin.list(&Filter::all(), 2).unwrap().into_iter().map(|line| line.queue_id).collect();
    assert_eq!(oldest(false, 2).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ids);
}
