//! Sessions that are counted with what came of them, and reports that go out once.

use super::*;
use crate::mail::TlsPolicy;
use crate::mail::tlsrpt::DAY_SECS;
use crate::mail::tlsrpt::ResultType;
use crate::queue::admin::TlsFailure;

const DAY: i64 = 1_795_910_400;

fn session(domain: &str, failed: Option<ResultType>) -> TlsSession {
    TlsSession {
        day: DAY,
        domain: domain.to_owned(),
        policy: TlsPolicy::None,
        mx: "mx.a.test".to_owned(),
        ip: Some([192, 0, 2, 1].into()),
        source: None,
        failed,
        reason: failed.map_or("", |_| "451 no").to_owned(),
        policy_text: String::new(),
        tlsa_base: String::new(),
        own_message: None,
    }
}

/// Result, address and number of each row of a domain.
fn counted(site: &Site, domain: &str) -> Vec<(String, String, u64)> {
    let rows = site.queue.tls_results(DAY, domain).unwrap();
    rows.into_iter().map(|row| (row.result, row.ip, row.sessions)).collect()
}

fn due(site: &Site, now: i64) -> Vec<TlsReportDue> {
    site.queue.tls_reports_due(now, 100).unwrap()
}

/// A report that is a mail, and one for a web server.
fn change(due: TlsReportDue, id: MessageId) -> TlsReportChange {
    let row = |rua: &str, state| TlsReportRow { rua: rua.to_owned(), state, attempts: 0, last_reply: None };
    let rows = vec![
        row("mailto:a@b.test", TlsReportState::Queued(id)),
        row("https://b.test/", TlsReportState::Planned(DAY + 2 * DAY_SECS)),
    ];
    TlsReportChange { due, rows, at: DAY + DAY_SECS }
}

pub(super) fn sessions_are_counted_with_the_settlement_and_survive_a_restart(site: Site) {
    let failed = Some(ResultType::StarttlsNotSupported);
    let accepted = site.accept(&["a@a.test"]);
    let fresh = accepted[0].fresh.clone().unwrap();
    let settled = settlement(&fresh, vec![(accepted[0].recipient, DELIVERED)]);
    let tls_sessions = vec![session("a.test", None), session("a.test", failed), session("a.test", None)];
    site.queue.settle(Settlement { tls_sessions, ..settled }).wait();
    site.settled();
    // One of an attempt that decided nothing.
    site.queue.count_tls_sessions(vec![session("a.test", failed), session("b.test", None)]);
    let site = site.restart();
    let text = |text: &str| text.to_owned();
    let failures = site.place.admin().tls_failures(DAY + 7, 9).unwrap();
    let of = |failure: &TlsFailure| (failure.domain.clone(), failure.result.clone(), failure.sessions);
    let not_supported = ResultType::StarttlsNotSupported.as_str();
    assert_eq!(failures.iter().map(of).collect::<Vec<_>>(), [(text("a.test"), text(not_supported), 2)]);
    assert_eq!(failures[0].reason, "451 no");
    assert_eq!(site.place.admin().tls_failures(DAY - 7, 9).unwrap(), []);
    // An address has a row of its own where it failed.
    assert_eq!(
        counted(&site, "a.test"),
        [(text("success"), String::new(), 2), (text("starttls-not-supported"), text("192.0.2.1"), 2)]
    );
    assert_eq!(counted(&site, "b.test").len(), 1);
    assert_eq!(site.place.admin().tls_results(DAY, "a.test").unwrap()[1].reason, "451 no");
    assert_eq!(site.queue.tls_results(DAY - DAY_SECS, "a.test").unwrap(), []);
}

pub(super) fn a_report_is_planned_once_and_its_mail_is_queued_with_the_note_of_it(site: Site) {
    site.queue.count_tls_sessions(vec![session("a.test", None), session("b.test", None)]);
    let after = DAY + DAY_SECS + 300;
    // The day itself is not over; the next is, and one may look as often as one likes.
    site.queue.plan_tls_reports(DAY - DAY_SECS..DAY, after, 100).unwrap();
    assert_eq!(due(&site, i64::MAX / 2), []);
    for _ in 0..2 {
        site.queue.plan_tls_reports(DAY..DAY + DAY_SECS, after, 100).unwrap();
    }
    assert_eq!(due(&site, after - 1), []);
    let planned = due(&site, after + 100);
    let domains: std::collections::BTreeSet<&str> = planned.iter().map(|due| due.domain.as_str()).collect();
    assert_eq!((planned.len(), domains), (2, ["a.test", "b.test"].into()));
    // Written while the clock was a year ahead, it does not wait for that.
    assert_eq!(due(&site, after - 365 * DAY_SECS).len(), 2);

    let of_a = planned.iter().find(|due| due.domain == "a.test").unwrap();
    let mail = || {
        let mut mail = site.message(&["a@b.test"], b"report\r\n");
        mail.envelope.sender = None;
        mail
    };
    let (first, second) = (mail(), mail());
    let id = first.id;
    site.queue.change_tls_report(change(of_a.clone(), id), Some(first)).unwrap();
    assert_eq!(site.accepted().len(), 1);
    // Somebody who comes late, before or after a restart, sends nothing more.
    site.queue.change_tls_report(change(of_a.clone(), second.id), Some(second)).unwrap();
    assert!(site.events.try_recv().is_err(), "a second mail");
    let site = site.restart();
    site.queue.plan_tls_reports(DAY..DAY + DAY_SECS, after, 100).unwrap();
    let left = due(&site, after + 100);
    assert_eq!((left.len(), left[0].domain.as_str()), (1, "b.test"));
    let later = due(&site, DAY + 2 * DAY_SECS);
    assert!(later.iter().any(|due| due.rua == "https://b.test/"), "{later:?}");

    // The session that the report went over counts for nobody; another one of Postrider's own does.
    let own = |message| TlsSession { own_message: Some(message), ..session("b.test", None) };
    site.queue.count_tls_sessions(vec![own(id), own(MessageId(id.0 + 1))]);
    site.queue.barrier().unwrap();
    assert_eq!(counted(&site, "b.test")[0].2, 2);
    site.is_well();
}
