//! What senders were told, and what they are still to be told: committed with what caused it.

use super::*;

fn pending_reports(number: i64) -> PendingReport {
    let address = address::parse(&format!("user{number}@example.com")).unwrap();
    PendingReport {
        address,
        state: "failed",
        reply: Some("550 5.1.1 unknown ".to_owned() + &"x".repeat(2000)),
    }
}

/// A message that failed, its one recipient finished, with a report and a row for the summary.
fn fail(site: &Site, sender: &str, at: i64, reported: bool) {
    let mut message = site.message(&["a@example.com"], b"x\r\n");
    message.envelope.sender = Some(address::parse(sender).unwrap());
    let mut report = site.message(&[sender], b"report\r\n");
    report.envelope.sender = None;
    site.queue.accept(message).unwrap();
    let due = site.accepted();
    let fresh = due[0].fresh.clone().unwrap();
    let failed = settlement(&fresh, vec![(due[0].recipient, NextState::Finished(Finished::Failed))]);
    let (reports, pending_reports) =
        if reported { (vec![("bounce", report)], vec![]) } else { (vec![], vec![pending_reports(at)]) };
    site.queue.settle(Settlement { at, reports, pending_reports, ..failed });
    site.settled();
    if reported {
        site.accepted();
    }
}

pub(super) fn reports_are_counted_for_the_mailbox_and_survive_a_restart(site: Site) {
    for (sender, at) in [("Ann@example.org", 100), ("ann@EXAMPLE.org", 200), ("bob@example.org", 300)] {
        fail(&site, sender, at, true);
    }
    let site = site.restart();
    let since = |after, limit| site.queue.reports_since("ann@example.org", after, limit).unwrap();
    assert_eq!((since(0, 10), since(100, 10), since(0, 1)), (vec![100, 200], vec![200], vec![200]));
    assert_eq!(site.queue.reports_since("carl@example.org", 0, 10).unwrap(), [0i64; 0]);
    site.is_well();
}

pub(super) fn what_is_gathered_is_told_of_once_and_what_comes_meanwhile_later(site: Site) {
    for at in [100, 200, 300] {
        fail(&site, "Ann@example.org", at, false);
    }
    fail(&site, "bob@example.org", 250, false);
    let site = site.restart();
    assert_eq!(site.queue.pending_report_senders(99, 5_000, 10).unwrap(), [""; 0]);
    assert_eq!(site.queue.pending_report_senders(100, 5_000, 10).unwrap(), ["ann@example.org"]);
    assert_eq!(site.queue.pending_report_senders(250, 5_000, 10).unwrap().len(), 2);
    assert_eq!(site.queue.pending_reports("carl@example.org", 10).unwrap(), None);

    let gathered = site.queue.pending_reports("ann@example.org", 2).unwrap().unwrap();
    assert_eq!((gathered.messages, gathered.recipients, gathered.first_at), (3, 3, 100));
    assert_eq!(gathered.return_path, "Ann@example.org");
    assert_eq!(gathered.listed.len(), 2, "bounded");
    assert_eq!(gathered.listed[0].address, "user100@example.com");
    assert!(gathered.listed[0].reply.as_ref().is_some_and(|reply| reply.len() <= 520));

    // One more fails before the summary is written.
    fail(&site, "ann@example.org", 400, false);
    let summary = site.message(&["Ann@example.org"], b"summary\r\n");
    site.queue.send_pending_reports("ann@example.org", gathered.up_to, summary).unwrap();
    assert_eq!(site.accepted().len(), 1, "the scheduler hears of it");
    let left = site.queue.pending_reports("ann@example.org", 10).unwrap().unwrap();
    assert_eq!((left.recipients, left.listed[0].address.as_str()), (1, "user400@example.com"));
    let of_bob = site.queue.pending_reports("bob@example.org", 10).unwrap().unwrap();
    assert_eq!(of_bob.recipients, 1, "bob's is his");
    site.is_well();
}
