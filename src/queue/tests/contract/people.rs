//! Another process looks and changes while the relay runs; what is remembered of hosts.

use std::time::Instant;

use super::*;
use crate::mail::Domain;
use crate::queue::admin::{Action, Filter, HeldCount, Order, Pattern, Suspended};
use crate::queue::gauge_rows::{AgeCounts, CountFrom};

pub(super) fn a_change_from_outside_is_noticed_and_our_own_is_none(site: Site) {
    site.accept(&["a@example.com"]);
    // Longer than the writer's round: an event of our own change would be here.
    assert!(site.events.recv_timeout(Duration::from_millis(1200)).is_err());
    let start = Instant::now();
    assert_eq!(site.place.admin().hold(&Filter::all()).unwrap(), 1);
    assert!(matches!(site.events.recv_timeout(PATIENCE), Ok(Event::ChangedOutside)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(site.queue.outside_changes(), 1);
}

/// It was delivered, and so history says; what would have been tried again stays removed.
pub(super) fn what_came_of_a_recipient_that_was_removed_meanwhile_is_in_history(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.com"]);
    let fresh = due[0].fresh.clone().unwrap();
    assert_eq!(site.place.admin().remove(&Filter::message(fresh.id)).unwrap(), 2);
    site.queue.settle(settlement(
        &fresh,
        vec![(due[0].recipient, DELIVERED), (due[1].recipient, NextState::Retry(9))],
    ));
    assert_eq!(site.settled(), [(due[0].recipient, None), (due[1].recipient, None)]);
    let shown = site.place.admin().show(fresh.id).unwrap().unwrap().recipients;
    let states: Vec<_> = shown
        .iter()
        .map(|one| (&*one.line.state, one.line.attempts, one.line.last_reply.as_deref()))
        .collect();
    let wanted =
        [("delivered", 1, Some("250 2.0.0 taken")), ("removed", 1, Some("451 4.7.1 come back later"))];
    assert_eq!(states, wanted);
    assert!(shown.iter().all(|one| one.tries.len() == 1), "{shown:?}");
    site.is_well();
}

pub(super) fn an_operator_who_holds_during_an_attempt_is_obeyed(site: Site) {
    let due = site.accept(&["a@example.com"]);
    let (id, fresh) = (due[0].recipient, due[0].fresh.as_ref().unwrap());
    site.place.admin().hold(&Filter::all()).unwrap();
    site.queue.settle(settlement(fresh, vec![(id, NextState::Retry(9))]));
    assert_eq!(site.settled(), [(id, None)]);
    assert!(site.queue.due(DueCursor::default(), i64::MAX, 9).unwrap().is_empty());
}

pub(super) fn an_operator_kicks_holds_releases_and_removes_while_the_relay_runs(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.net"]);
    let now = due[0].due_at;
    let message = due[0].fresh.as_ref().unwrap();
    let later = due.iter().map(|due| (due.recipient, NextState::Retry(now + 9999))).collect();
    site.queue.settle(settlement(message, later));
    site.settled();
    let (admin, com) = (site.place.admin(), Filter::domain(&Domain::parse("example.com").unwrap()));
    let due_now = || site.queue.due(DueCursor::default(), now_secs(), 9).unwrap().len();
    assert_eq!((admin.kick(&com).unwrap(), due_now()), (1, 1));
    assert_eq!((admin.kick(&Filter::all()).unwrap(), due_now()), (2, 2));
    assert_eq!((admin.hold(&Filter::message(message.id)).unwrap(), due_now()), (2, 0));
    assert_eq!((admin.release(&com).unwrap(), due_now()), (1, 1));
    let summary = admin.summary(9).unwrap();
    assert_eq!((summary.messages, summary.recipients, summary.held, summary.due), (1, 2, 1, 1));
    assert_eq!(admin.remove(&com).unwrap(), 1);
    site.is_well();
    assert_eq!(admin.remove(&Filter::all()).unwrap(), 1);
    let states: Vec<_> =
        admin.show(message.id).unwrap().unwrap().recipients.into_iter().map(|one| one.line.state).collect();
    assert_eq!(states, ["removed", "removed"]);
    assert_eq!(site.queue.size(message.id).unwrap(), None);
    site.is_well();
}

/// A rule, a doubt, two operators, and somebody with SQL.
pub(super) fn what_holds_mail_is_told_apart_and_a_release_of_one_leaves_the_others(site: Site) {
    let due = site.accept(&["rule@a.test", "doubt@a.test", "busy@a.test", "one@a.test", "two@b.test"]);
    let message = due[0].fresh.as_ref().unwrap();
    let admin = site.place.admin();
    let one = |address: &str| Filter { recipient: Some(Pattern::parse(address).unwrap()), ..Filter::all() };
    let hold = |address: &str, reason: Option<&str>| {
        let which = one(address);
        let these = &admin.select(Action::Hold, &which, 0).unwrap().ids;
        let order = Order { action: Action::Hold, which: &which, these, login: "ann", uid: 1000, reason };
        assert_eq!(admin.change(&order, &|| true).recipients, 1);
    };
    // While it is tried: what comes of that changes nothing.
    hold("busy@*", Some("wrong text"));
    let [rule, doubt] = [HeldBy::Rule(2), HeldBy::InDoubt].map(NextState::Hold);
    let results = vec![(due[0].recipient, rule), (due[1].recipient, doubt), (due[2].recipient, rule)];
    site.queue.settle(settlement(message, results));
    site.settled();
    hold("two@*", None);
    assert_eq!(admin.hold(&one("rule@*")).unwrap(), 0, "held already, and by that it stays held");
    let held = || -> Vec<String> {
        admin.list(&Filter::all(), 9).unwrap().iter().map(|line| line.held().unwrap_or_default()).collect()
    };
    let (by_rule, by_ann) = ("held by [[retry.rule]] 2", "held by ann: wrong text");
    assert_eq!(held(), [by_rule, "held: it may have arrived", by_ann, "", "held by ann"]);
    let told = |domain: Option<&str>| -> Vec<String> {
        let domain = domain.map(|domain| Domain::parse(domain).unwrap());
        admin.held(domain.as_ref()).unwrap().iter().map(HeldCount::words).collect()
    };
    assert_eq!(
        told(Some("a.test")),
        [
            "1 recipient held: it may have arrived",
            "1 recipient held by ann: wrong text",
            "1 recipient held by [[retry.rule]] 2"
        ]
    );
    assert_eq!(told(Some("c.test")), [""; 0]);
    let counts = admin.held(None).unwrap();
    assert_eq!(HeldCount::all_words(&counts), " (2 operator, 1 in-doubt, 1 rule)");
    assert_eq!(admin.summary(9).unwrap().held_by, counts);
    let by = |what: &str| Filter { held_by: Some(what.to_owned()), ..Filter::all() };
    assert_eq!(["operator", "rule", "restore"].map(|what| admin.count(&by(what)).unwrap()), [2, 1, 0]);
    assert_eq!((admin.release(&by("operator")).unwrap(), admin.release(&by("operator")).unwrap()), (2, 0));
    assert_eq!(held(), [by_rule, "held: it may have arrived", "", "", ""]);
    assert_eq!(admin.release(&Filter::all()).unwrap(), 2);
    assert_eq!((held(), told(None)), (vec![String::new(); 5], vec![]));
    site.is_well();
}

pub(super) fn what_operators_changed_is_listed_the_latest_first(site: Site) {
    site.accept(&["a@example.com", "b@example.com"]);
    let admin = site.place.admin();
    let all = Filter::all();
    let these = admin.select(Action::Hold, &all, 0).unwrap().ids;
    let order = |action, reason| Order { action, which: &all, these: &these, login: "ann", uid: 7, reason };
    assert_eq!(admin.change(&order(Action::Hold, Some("wrong text")), &|| true).recipients, 2);
    assert_eq!(admin.change(&order(Action::Release, None), &|| true).recipients, 2);
    assert_eq!(admin.change(&order(Action::Kick, None), &|| true).recipients, 2);
    let listed = |since, limit| {
        let (lines, total) = admin.operator_log(since, limit).unwrap();
        assert!(lines.iter().all(|line| (&*line.login, line.uid, line.count) == ("ann", 7, 2)), "{lines:?}");
        assert!(lines.iter().all(|line| &*line.target == "all" && !line.is_under_way), "{lines:?}");
        let words = lines.into_iter().map(|line| (line.action, line.reason.unwrap_or_default()));
        (words.collect::<Vec<_>>(), total)
    };
    let wanted = [("kick", ""), ("release", ""), ("hold", "wrong text")];
    let wanted = wanted.map(|(action, reason)| (action.to_owned(), reason.to_owned()));
    assert_eq!(listed(now_secs() - 60, 9), (wanted.to_vec(), 3));
    assert_eq!(listed(0, 1), (wanted[..1].to_vec(), 3));
    assert_eq!(listed(now_secs() + 60, 9), (vec![], 0));
    let (kicks, _) = admin.kicks(9).unwrap();
    assert_eq!((kicks[0].login.as_deref(), kicks[0].user.as_deref()), (Some("ann"), None));
}

pub(super) fn what_waits_is_counted_for_monitoring(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.com", "c@example.net"]);
    let admin = site.place.admin();
    admin.hold(&Filter::domain(&Domain::parse("example.net").unwrap())).unwrap();
    let backoff_until = now_secs() + 1000;
    site.queue.set_backoff(BackoffRow {
        lane: "example.com".to_owned(),
        failures: 1,
        backoff_until,
        last_reply: "421 no".to_owned(),
    });
    site.queue.set_host_setting(HostSetting {
        mx: "mx.example.com".to_owned(),
        setting: Setting::Connections(5),
        last_reply: None,
        changed_at: 0,
        retry_at: None,
    });
    site.queue.barrier().unwrap();
    // As it will be in ten minutes.
    let now = now_secs() + 600;
    let (mut counts, mut from) = (AgeCounts::default(), Some(CountFrom::START));
    while let Some(part) = from {
        let (more, next) = site.queue.count_by_age(part, now).unwrap();
        (counts, from) = (counts.and(more), next);
    }
    let size = due[0].fresh.as_ref().unwrap().size;
    let expected = AgeCounts { messages: 1, bytes: size, queued: [0, 2, 0, 0, 0], held: [0, 1, 0, 0, 0] };
    assert_eq!(counts, expected);
    let domains = site.queue.count_by_domain("", now, 9).unwrap();
    let [com, net] = &domains[..] else { panic!("{domains:?}") };
    assert_eq!((com.recipients, com.due, com.backs_off, com.due_since), (2, 2, true, Some(backoff_until)));
    assert_eq!((net.recipients, net.due, net.backs_off, net.due_since), (1, 0, false, None));
    assert_eq!(site.queue.count_by_domain("example.com", now, 9).unwrap(), domains[1..]);
    let small = site.queue.small_counts(now).unwrap();
    assert_eq!((small.lanes_backing_off, small.hosts_throttled, small.hosts_with_workarounds), (1, 1, 0));
    let disk = site.queue.disk_use().unwrap();
    assert!(small.database_bytes > 0 && disk.free_bytes > 0);
    let fill = site.place.admin().fill().unwrap().unwrap();
    assert_eq!((fill.database_bytes, fill.disk_bytes), (small.database_bytes, disk.size_bytes));
    assert!(fill.reserve_bytes > 0 && fill.reserve_bytes <= fill.disk_bytes / 10, "{fill:?}");
    assert!(site.queue.commits().operations.counted().count() >= 2);
}

pub(super) fn host_settings_outlive_the_process(site: Site) {
    let setting = |setting: Setting, last_reply: Option<&str>| HostSetting {
        mx: "mx.example.com".to_owned(),
        setting,
        last_reply: last_reply.map(str::to_owned),
        changed_at: 1_000_000_000,
        retry_at: matches!(setting, Setting::Plaintext | Setting::NoPipelining).then_some(1_000_086_400),
    };
    let limit = setting(Setting::Connections(5), Some("421 4.7.0 too many"));
    let pipelining = setting(Setting::NoPipelining, Some("503 5.5.1 bad sequence"));
    site.queue.set_host_setting(setting(Setting::Connections(10), Some("421 4.7.0 too many")));
    site.queue.set_host_setting(setting(Setting::Connections(5), None));
    site.queue.set_host_setting(pipelining.clone());
    site.queue.set_host_setting(setting(Setting::Plaintext, None));
    site.queue.clear_host_setting("mx.example.com", Setting::Plaintext.name());
    site.queue.barrier().unwrap();
    assert_eq!(site.queue.host_settings().unwrap(), [limit.clone(), pipelining.clone()]);
    let site = site.restart();
    assert_eq!(site.queue.host_settings().unwrap(), [limit, pipelining]);
    assert_eq!(site.place.admin().host_settings().unwrap().len(), 2);
}

fn suspension(whose: Whose, until: Option<i64>) -> Suspension {
    let reason = Some("blocked".to_owned());
    Suspension { whose, since: now_secs(), until, reason, login: "ann".to_owned() }
}

fn suspended_of_all(admin: &dyn AdminStore) -> i64 {
    admin.suspended_of(&admin.select(Action::Kick, &Filter::all(), 0).unwrap().ids).unwrap()
}

pub(super) fn what_is_suspended_is_shown_with_what_waits_until_it_is_resumed_or_over(site: Site) {
    let due = site.accept(&["a@example.com", "b@mail.example.com", "c@example.net"]);
    let admin = site.place.admin();
    admin.hold(&Filter::message(due[2].message)).unwrap();
    admin.release(&Filter::domain(&Domain::parse("example.com").unwrap())).unwrap();
    admin.release(&Filter::domain(&Domain::parse("mail.example.com").unwrap())).unwrap();
    let rows = || site.place.admin().suspensions().unwrap();
    let app = suspension(Whose::User("app".to_owned()), None);
    // The one that is held waits for something else.
    let first = admin.suspend(&app).unwrap();
    let of_two = |replaced| Suspended { recipients: 2, expires_at: first.expires_at, replaced };
    assert_eq!(first, of_two(false));
    assert!(first.expires_at.is_some_and(|at| at > now_secs()), "{first:?}");
    assert!(admin.knows_user("app").unwrap() && !admin.knows_user("nobody").unwrap());
    let later = Suspension { until: Some(now_secs() + 1000), reason: None, ..app.clone() };
    assert_eq!(admin.suspend(&later).unwrap(), of_two(true));
    let com = Whose::domain("*.Example.com").unwrap();
    assert_eq!(admin.suspend(&suspension(com.clone(), None)).unwrap().recipients, 1);
    let shown: Vec<_> = rows().into_iter().map(|row| (row.kind, row.value, row.recipients)).collect();
    assert_eq!(shown, [("domain", "*.example.com".to_owned(), 1), ("user", "app".to_owned(), 2)]);
    assert!(rows().iter().all(|row| row.expires.is_some()), "{:?}", rows());
    assert!(rows()[0].until.is_none() && rows()[1].until.is_some() && rows()[0].login == "ann");
    assert_eq!(rows()[0].reason.as_deref(), Some("blocked"));
    // The rows of recipients are as they were, and the relay finds them due.
    assert_eq!(site.queue.due(DueCursor::default(), i64::MAX, 9).unwrap().len(), 2);
    let waits: Vec<_> =
        admin.list(&Filter::all(), 9).unwrap().into_iter().map(|line| line.next_attempt).collect();
    assert_eq!(waits.iter().flatten().collect::<Vec<_>>(), ["suspended", "suspended", "held"]);
    assert_eq!(suspended_of_all(&*admin), 2);
    let summary = admin.summary(1).unwrap();
    assert_eq!((summary.recipients, summary.due, summary.held, summary.suspended), (3, 0, 1, 2));
    assert_eq!((summary.suspensions.len(), summary.suspensions_total), (1, 2));
    let by_domain: Vec<_> = admin
        .summary(9)
        .unwrap()
        .domains
        .into_iter()
        .map(|line| (line.suspended, line.next_attempt))
        .collect();
    let suspended = Some("suspended".to_owned());
    assert_eq!(by_domain, [(1, suspended.clone()), (0, None), (1, suspended)], "in the order of their names");
    let oldest =
        |by_lane| admin.oldest(&Filter::all(), by_lane, 9).unwrap().into_iter().map(|line| line.suspended);
    assert_eq!((oldest(false).collect::<Vec<_>>(), oldest(true).sum::<i64>()), (vec![2], 2));
    let counted = site.queue.count_by_domain("", now_secs(), 9).unwrap();
    assert_eq!(
        counted.iter().map(|count| (count.due, count.suspended)).collect::<Vec<_>>(),
        [(0, 1), (0, 0), (0, 1)]
    );
    let shown = admin.show(due[0].message).unwrap().unwrap().recipients;
    let words: Vec<_> =
        shown.iter().map(|one| one.suspended.iter().map(|by| by.words()).collect::<Vec<_>>()).collect();
    assert!(words[1][0].starts_with("domain *.example.com until resumed by ann: blocked"), "{words:?}");
    assert_eq!((words[0].len(), words[1].len(), words[2].len()), (1, 2, 0));
    let site = site.restart();
    let admin = site.place.admin();
    assert_eq!(site.queue.suspensions(now_secs()).unwrap().len(), 2);
    // Over for the relay, and for who looks then.
    assert_eq!(site.queue.suspensions(now_secs() + 2000).unwrap().len(), 1);
    assert_eq!((admin.resume(Some(&com)).unwrap(), admin.resume(Some(&com)).unwrap()), (1, 0));
    assert_eq!((admin.resume(None).unwrap(), admin.resume(None).unwrap()), (1, 0));
    let over = Suspension { until: Some(now_secs() - 1), ..app };
    admin.suspend(&over).unwrap();
    assert!(admin.suspensions().unwrap().is_empty(), "it was over before it began");
    assert_eq!((admin.resume(Some(&over.whose)).unwrap(), suspended_of_all(&*admin)), (0, 0));
    site.is_well();
}

pub(super) fn a_suspension_means_what_its_view_shows_and_no_more_than_its_bound_count(site: Site) {
    let submit = |to: &str, user: Option<&str>, tag: Option<&str>| {
        let mut message = site.message(&[to], b"Subject: x\r\n\r\nhello\r\n");
        message.origin.user = user.map(str::to_owned);
        message.labels.tag = tag.map(str::to_owned);
        site.queue.accept(message).unwrap();
        site.accepted().remove(0)
    };
    let rows = [
        submit("a@example.com", Some("app"), None),
        submit("a@b.example.com", Some("App"), Some("bulk")),
        submit("a@notexample.com", None, Some("app")),
        submit("a@com", Some("com"), None),
    ];
    // As they came with the message, and as they are read.
    let read = site.queue.due(DueCursor::default(), i64::MAX, 9).unwrap();
    assert_eq!(
        read.iter().map(|due| &due.submitted).collect::<Vec<_>>(),
        rows.each_ref().map(|due| &due.submitted)
    );
    let admin = site.place.admin();
    let domain = |text: &str| Whose::domain(text).unwrap();
    for (whose, wanted) in [
        (domain("example.com"), vec![0]),
        (domain("*.example.com"), vec![1]),
        (domain("*"), vec![0, 1, 2, 3]),
        (domain("com"), vec![3]),
        (domain("*.com"), vec![0, 1, 2]),
        (Whose::User("app".to_owned()), vec![0]),
        (Whose::User("com".to_owned()), vec![3]),
        (Whose::Tag("bulk".to_owned()), vec![1]),
        (Whose::Tag("nobody".to_owned()), vec![]),
    ] {
        let wanted: Vec<usize> = wanted;
        let row = suspension(whose.clone(), None);
        let suspensions = Suspensions::on(vec![row.clone()], now_secs());
        let meant: Vec<usize> = (0..4).filter(|at| suspensions.cover(&rows[*at])).collect();
        assert_eq!(meant, wanted, "{whose}");
        assert_eq!(admin.suspend(&row).unwrap().recipients, wanted.len() as i64, "{whose}");
        let lines = admin.list(&Filter::all(), 9).unwrap();
        let shown = (0..4).filter(|at| lines[*at].next_attempt.as_deref() == Some("suspended"));
        assert_eq!(shown.collect::<Vec<_>>(), wanted, "{whose}");
        assert_eq!(suspended_of_all(&*admin), wanted.len() as i64, "{whose}");
        admin.resume(Some(&whose)).unwrap();
    }
    let user = |n: usize| suspension(Whose::User(n.to_string()), None);
    (0..SUSPENSIONS_MAX).for_each(|n| assert!(!admin.suspend(&user(n)).unwrap().replaced));
    let error = admin.suspend(&user(SUSPENSIONS_MAX)).unwrap_err().to_string();
    assert!(error.contains("1000 suspensions"), "{error}");
    assert!(admin.suspend(&user(5)).unwrap().replaced, "one of them can be replaced");
    assert_eq!(site.queue.suspensions(now_secs()).unwrap().len(), SUSPENSIONS_MAX);
}
