//! What is on the pages, and what is not: nothing of what others said is markup.

use std::sync::Arc;

use super::snapshot::{LaneLine, Snapshot, Waiting, go_on, waiting};
use super::*;
use crate::mail::Domain;
use crate::queue::admin::{
    DialogueLine, DomainWaiting, FailureGroup, FinishedMessage, Line, MinuteCount, PolicyCount, Shown,
    ShownLabels, StoryLine,
};
use crate::queue::admin::{ShownRecipient, SuspendedBy, SuspensionLine, TlsFailure, Try};
use crate::queue::{BackoffRow, HostSetting, Setting};

const NOW: i64 = 1_767_323_045;
/// In an address, a reply, a name, a header.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&\u{202e}\u{1b}[2J\0</pre></style>";

fn line() -> Line {
    Line {
        queue_id: "1K6XQ3V8T4D".to_owned(),
        sender: HOSTILE.to_owned(),
        recipient: HOSTILE.to_owned(),
        state: "queued".to_owned(),
        attempts: 2,
        next_attempt: Some("2026-01-02 04:00:00".to_owned()),
        last_reply: Some(HOSTILE.to_owned()),
        lane_reply: Some(HOSTILE.to_owned()),
        last_mx: Some(HOSTILE.to_owned()),
        reply_source: Some("remote".to_owned()),
        received: "2026-01-02 03:00:00".to_owned(),
        age: 245,
        finished: None,
        size: 7,
        held_by: None,
        held_reason: None,
        id: 1,
    }
}

fn snapshot() -> Snapshot {
    let backoff = Some((NOW + 300, 3, HOSTILE.to_owned()));
    let lane = LaneLine { lane: HOSTILE.to_owned(), waiting: 1234, backoff, ..LaneLine::default() };
    let host = |setting| HostSetting {
        mx: HOSTILE.to_owned(),
        setting,
        last_reply: Some(HOSTILE.to_owned()),
        changed_at: NOW - 60,
        retry_at: Some(NOW + 60),
    };
    Snapshot {
        at: NOW - 2,
        messages: 5,
        waiting: Waiting { recipients: 1234, lanes: vec![lane], lanes_total: 3, ..Waiting::default() },
        minutes: vec![MinuteCount { minute: NOW / 60, accepted: 9, ..MinuteCount::default() }],
        failures: vec![FailureGroup {
            times: 6240,
            recipients: 12,
            is_full: false,
            outcome: "deferred".to_owned(),
            phase: "rcpt".to_owned(),
            hosts: 2,
            mx: Some(HOSTILE.to_owned()),
            reply: HOSTILE.to_owned(),
            is_remote: true,
            last: "2026-01-02 03:00:00".to_owned(),
        }],
        refusals: Vec::new(),
        oldest: vec![line()],
        hosts: vec![
            host(Setting::Connections(2)),
            host(Setting::NoChunking),
            HostSetting { retry_at: Some(NOW), ..host(Setting::NoPipelining) },
        ],
        suspensions: vec![
            SuspensionLine {
                kind: "tag",
                value: HOSTILE.to_owned(),
                since: Some("2026-01-02 03:00:00".to_owned()),
                until: None,
                reason: Some(HOSTILE.to_owned()),
                login: HOSTILE.to_owned(),
                recipients: 7_654,
                expires: Some("2026-01-07 03:00:00".to_owned()),
            };
            12
        ],
        policies: vec![PolicyCount { policy: "dane".to_owned(), sessions: 8, failed: 1 }],
        tls_failures: vec![TlsFailure {
            domain: HOSTILE.to_owned(),
            policy: "sts-enforce".to_owned(),
            result: "certificate-host-mismatch".to_owned(),
            sessions: 3,
            reason: HOSTILE.to_owned(),
        }],
    }
}

fn view(snapshot: &Snapshot) -> status::View<'_> {
    status::View {
        hostname: "relay.test",
        state: Err(HOSTILE.to_owned()),
        snapshot: Some(snapshot),
        error: Some(HOSTILE),
        config: (HOSTILE, 2, NOW - 7200),
        now: NOW,
        connections: 7,
        busy: &[(3, 20)],
        refused: &[],
    }
}

/// Of the hostile text nothing is left but letters.
fn assert_harmless(page: &str, times: usize) {
    for part in ["<img", "'&", "\u{202e}", "\u{1b}", "\0", "</pre></style>"] {
        assert!(!page.contains(part), "{part:?}: {page}");
    }
    assert!(page.matches("&lt;img src=x").count() >= times, "{page}");
    assert!(page.matches("\\xE2\\x80\\xAE").count() >= times);
    for word in ["<script", "javascript:", "http://", "https://", " style=", " onclick", "<img"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn all_that_others_said_is_on_the_page_and_none_of_it_is_markup() {
    let snapshot = snapshot();
    let page = status::body(&view(&snapshot)).into_string();
    assert_harmless(&page, 12);
    for words in [
        "1,234",
        "backs off for 5 min more after 3 failures in a row",
        "and 2 more lanes",
        "2 connections",
        "chunking off",
        "7,654",
        "until resumed",
        "and 2 more suspensions",
        "tried again in 1 min",
        "tried again with its next connection",
        "generation 2, loaded 2 h ago",
        "counted 2 s ago",
        "<a href=\"/message/1K6XQ3V8T4D\">",
        "6,240",
        "7 connections to hosts open now",
        "3 of 20 connections busy",
        "MTA-STS, enforced \u{b7} certificate-host-mismatch",
        "DANE",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let empty = Snapshot::default();
    let quiet = status::View { state: Ok(()), error: None, ..view(&empty) };
    let page = status::body(&quiet).into_string();
    assert!(!page.contains("Suspended"));
    for words in ["takes and delivers mail", "nothing waits", "nothing was refused", "no host is given less"]
    {
        assert!(page.contains(words), "{words}");
    }
    let first = status::View { snapshot: None, error: None, ..view(&empty) };
    assert!(status::body(&first).into_string().contains("is being counted"));
}

fn recipient(one: &Try) -> ShownRecipient {
    let by = SuspendedBy {
        kind: "tag".to_owned(),
        value: HOSTILE.to_owned(),
        until: None,
        reason: Some(HOSTILE.to_owned()),
        login: HOSTILE.to_owned(),
    };
    ShownRecipient { line: line(), end: None, suspended: vec![by], tries: vec![one.clone()] }
}

#[test]
fn a_message_is_shown_with_its_story_waiting_or_finished_and_nothing_of_it_is_markup() {
    let one = Try {
        at: "2026-01-02 03:00:01".to_owned(),
        duration_ms: 12,
        mx: Some(HOSTILE.to_owned()),
        ip: Some("192.0.2.1".to_owned()),
        tls: Some("TLSv1.3 verified".to_owned()),
        tls_policy: "dane".to_owned(),
        dkim: Some(HOSTILE.to_owned()),
        phase: "rcpt".to_owned(),
        reply: HOSTILE.to_owned(),
        outcome: "deferred".to_owned(),
        reply_source: "local".to_owned(),
        source_address: None,
    };
    let finished = FinishedMessage {
        sender: HOSTILE.to_owned(),
        user: Some(HOSTILE.to_owned()),
        client: None,
        received: "2026-01-02 03:00:00".to_owned(),
        size: 1234,
        labels: ShownLabels { subject: Some(HOSTILE.to_owned()), ..ShownLabels::default() },
    };
    let told = StoryLine {
        at: "2026-01-02 03:00:01".to_owned(),
        what: HOSTILE.to_owned(),
        recipient: Some(HOSTILE.to_owned()),
        words: HOSTILE.to_owned(),
    };
    let recipients: Vec<ShownRecipient> = (0..250).map(|_| recipient(&one)).collect();
    let header = Some(format!("Subject: {HOSTILE}\n\tfolded\nTo: you"));
    let shown = Shown {
        queue_id: "1K6XQ3V8T4D".to_owned(),
        message: None,
        finished: Some(finished),
        recipients,
        story: vec![told],
        header,
    };
    let dialogue = DialogueLine {
        at: "2026-01-02 03:00:00".to_owned(),
        recipients: vec![HOSTILE.to_owned(); 3],
        dialogue: format!("{HOSTILE}\n      7  S: 450 {HOSTILE}"),
        later: Some(HOSTILE.to_owned()),
    };
    let page = message::body(&shown, &vec![dialogue; 30], NOW).into_string();
    assert_harmless(&page, 1000);
    for words in [
        "finished",
        "1,234 bytes",
        "2 attempts \u{b7} next try 2026-01-02 04:00:00 UTC",
        "TLS TLSv1.3 verified (policy dane)",
        "(local) ",
        " and 2 more recipients; a later attempt failed without one (",
        "\n      7  S: 450 ",
        "and 10 more attempts: postrider queue show --dialogue",
        "and 50 more recipients: postrider queue show 1K6XQ3V8T4D",
        "\n folded\nTo: you\n",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<dt>client"), "what was never given is left out");
}

#[test]
fn what_clients_were_refused_is_shown_by_its_codes() {
    let (snapshot, refused) = (snapshot(), [("5xx 5.7.1".to_owned(), 1_234), ("4xx".to_owned(), 1)]);
    let page = status::body(&status::View { refused: &refused, ..view(&snapshot) }).into_string();
    assert!(page.contains("<dt>5xx 5.7.1</dt><dd>1,234 times</dd><dt>4xx</dt><dd>1 time</dd>"), "{page}");
    assert!(!status::body(&view(&snapshot)).into_string().contains("Refused to clients"));
}

#[test]
fn the_style_is_the_one_that_the_policy_lets_through() {
    let response = whole(Status::Ok, "t", "", Html::default());
    let text = format!("{response:?}");
    assert!(text.contains(&format!("<style>{}", &STYLE[..20].escape_debug())), "{text}");
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
}

#[test]
fn domains_are_counted_in_their_lanes_and_each_recipient_once() {
    let domain = |name: &str, waiting, due, held| DomainWaiting {
        domain: name.to_owned(),
        waiting,
        held,
        suspended: 0,
        due,
        next_attempt_at: Some(NOW + i64::try_from(waiting).unwrap()),
        oldest: NOW - 10,
    };
    let row = |lane: &str, until| BackoffRow {
        lane: lane.to_owned(),
        failures: 2,
        backoff_until: until,
        last_reply: "450 later".to_owned(),
    };
    let lane_of = |domain: &Domain| -> Arc<str> {
        match domain.as_str() {
            "a.test" | "b.test" => "route:*.test".into(),
            "fetched.test" => "atrn:fetched.test".into(),
            name => name.into(),
        }
    };
    let counts = vec![
        domain("a.test", 5, 3, 1),
        domain("b.test", 4, 2, 0),
        domain("c.example", 7, 7, 0),
        DomainWaiting { suspended: 2, ..domain("fetched.test", 4, 2, 1) },
        domain("no domain \u{7}", 1, 1, 0),
    ];
    let backoffs = [row("c.example", NOW + 60), row("route:*.test", NOW), row("atrn:fetched.test", NOW)];
    let found = waiting(counts, lane_of, &backoffs, NOW);
    assert_eq!((found.recipients, found.held, found.suspended, found.due), (21, 2, 2, 6));
    assert_eq!((found.backing_off, found.to_fetch, found.lanes_total), (7, 1, 4));
    assert_eq!(found.lanes[0].lane, "route:*.test");
    assert_eq!((found.lanes[0].waiting, found.lanes[0].next_attempt_at), (9, Some(NOW + 4)));
    assert!(found.lanes[0].backoff.is_none(), "it is over");
    assert!(found.lanes.iter().any(|lane| lane.fetch.is_some()));
    let many = (0..100).map(|at| domain(&format!("d{at}.test"), 1, 0, 0)).collect();
    let found = waiting(many, |domain| domain.as_str().into(), &[], NOW);
    assert_eq!((found.lanes.len(), found.lanes_total), (super::snapshot::LANES_MAX, 100));
}

#[test]
fn minutes_that_may_still_change_are_counted_again_and_old_ones_go() {
    let minute = |minute, accepted| MinuteCount { minute, accepted, ..MinuteCount::default() };
    let before = [minute(10, 1), minute(69, 2), minute(70, 3)];
    let now = go_on(&before, vec![minute(70, 5), minute(71, 1)], 70, 71);
    assert_eq!(now, [minute(69, 2), minute(70, 5), minute(71, 1)]);
}
