//! Whatever the world sends, a scrape is bounded and can be read.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::counters::Counters;
use super::exposition::Format;
use super::waiting::Waiting;
use super::*;
use crate::mail::{Attempt, Enhanced, Outcome, Phase, Reply, TlsPolicy, address};
use crate::maillog::{Observer as _, Seen};
use crate::queue::gauge_rows::{DomainCount, SmallCounts};

/// Series of a scrape at most.
const SERIES_MAX: usize = 2_000;

/// Something hostile that happened.
#[derive(Debug, Clone)]
struct Event {
    domain: String,
    code: u16,
    enhanced: Option<(u8, u16, u16)>,
    text: String,
    user: String,
    outcome: Outcome,
    phase: Phase,
    ms: u64,
}

fn event() -> impl Strategy<Value = Event> {
    let outcomes = vec![
        Outcome::Delivered,
        Outcome::Relayed,
        Outcome::Deferred,
        Outcome::Failed,
        Outcome::Expired,
        Outcome::InDoubt,
    ];
    let phases = vec![Phase::Dns, Phase::Connect, Phase::Starttls, Phase::Rcpt, Phase::EndOfData];
    let domain = prop_oneof![
        "[a-z]{1,8}\\.[a-z]{2,5}",
        "[a-zA-Z\\u{80}-\\u{2fff}]{1,30}\\.test",
        Just("other".to_owned()),
        "\\[[0-9.]{7,15}\\]",
        ".{0,300}",
    ];
    let parts = (
        domain,
        any::<u16>(),
        any::<Option<(u8, u16, u16)>>(),
        ".{0,40}",
        ".{0,40}",
        prop::sample::select(outcomes),
        prop::sample::select(phases),
        any::<u64>(),
    );
    parts.prop_map(|(domain, code, enhanced, text, user, outcome, phase, ms)| Event {
        domain,
        code,
        enhanced,
        text,
        user,
        outcome,
        phase,
        ms: ms >> 20,
    })
}

impl Event {
    fn happen(&self, counters: &Counters) {
        let enhanced = self.enhanced.map(|(class, subject, detail)| Enhanced(class, subject, detail));
        let reply = Reply { enhanced, ..Reply::bare(self.code, "").with_text(self.text.clone()) };
        counters.see(&Seen::Refused(&reply));
        counters.see(&Seen::Reported(&self.user));
        let Ok(recipient) = address::parse(&format!("\"u\"@{}", self.domain)) else { return };
        let attempt = Attempt {
            at: 0,
            duration_ms: self.ms,
            mx: Some(self.text.clone()),
            ip: None,
            source: None,
            tls: Some(self.text.clone()),
            tls_policy: TlsPolicy::None,
            dkim: None,
            phase: self.phase,
            reply,
            outcome: self.outcome,
        };
        counters.see(&Seen::Attempted { recipient: &recipient, attempt: &attempt });
        counters.see(&Seen::Expired { recipient: &recipient, last_reply: Some(&self.text) });
    }
}

/// Each series once, each line one that a reader of the format takes; gives how many there are.
fn check(text: &str) -> usize {
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
        assert!(line.starts_with(|c: char| c.is_ascii_lowercase()), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.len() < 500, "{line:?}");
        assert!(seen.insert(series.to_owned()), "twice: {series}");
    }
    seen.len()
}

/// All that there is, with `domains` of the queue.
fn scrape(counters: &Counters, domains: &[String]) -> [String; 2] {
    let mut waiting = Waiting::default();
    for (at, domain) in domains.iter().enumerate() {
        let count = DomainCount {
            domain: domain.clone(),
            recipients: at as u64 % 7,
            due: 1,
            due_since: Some(0),
            backs_off: at % 3 == 0,
            is_fetched: at % 5 == 0,
            suspended: 1,
        };
        waiting.add(count, 1 << 40);
        if at % 1_000 == 0 {
            waiting.cut();
        }
    }
    waiting.cut();
    let numbers = RelayNumbers { certificate_not_after: Some(i64::MAX), ..RelayNumbers::default() };
    let mut families = counters.families();
    families.extend(gauges::of_relay(&numbers));
    families.extend(gauges::of_tables(&SmallCounts { database_bytes: u64::MAX, ..SmallCounts::default() }));
    families.extend(gauges::of_disk(&Default::default()));
    families.extend(gauges::of_waiting(&waiting, Duration::from_millis(1)));
    [Format::OpenMetrics, Format::Prometheus].map(|format| format.write(families.clone()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_scrape_can_be_read_and_is_bounded(events in prop::collection::vec(event(), 1..200)) {
        let counters = Counters::new();
        events.iter().for_each(|event| event.happen(&counters));
        let domains: Vec<String> = events.iter().map(|event| event.domain.clone()).collect::<BTreeSet<_>>()
            .into_iter().collect();
        for text in scrape(&counters, &domains) {
            prop_assert!(check(&text) < SERIES_MAX);
        }
    }
}

#[test]
fn ten_thousand_of_everything_are_no_more_series_than_may_be() {
    let counters = Counters::new();
    let domains: Vec<String> = (0..10_000).map(|number| format!("d{number}.test")).collect();
    let outcomes = [Outcome::Delivered, Outcome::Deferred, Outcome::Failed];
    for (number, domain) in domains.iter().enumerate() {
        let small = u16::try_from(number).unwrap();
        let event = Event {
            domain: domain.clone(),
            code: small,
            enhanced: Some((5, small, small)),
            text: format!("host{number}.test"),
            user: format!("user{number}"),
            outcome: outcomes[number % 3],
            phase: Phase::Rcpt,
            ms: number as u64,
        };
        event.happen(&counters);
    }
    for text in scrape(&counters, &domains) {
        let series = check(&text);
        assert!((400..SERIES_MAX).contains(&series), "{series}");
        assert!(!text.contains("host77") && !text.contains("user77"), "{text}");
        let labels = text.lines().filter(|line| line.contains("postrider_queue_domain_recipients{")).count();
        assert_eq!(labels, 51);
    }
}
