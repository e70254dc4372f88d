//! Reports planned, asked for and queued, with a clock and a DNS that are moved by hand.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, unbounded};

use super::*;
use crate::config::{self, QueueSettings};
use crate::delivery::route::lookup::MxRecords;
use crate::mail::TlsPolicy;
use crate::mail::tlsrpt::ResultType;
use crate::queue::{Event, TlsSession, WriterHandle};

const MIDNIGHT: i64 = 1_795_910_400;

/// What `_smtp._tls.a.test` has; other names have nothing.
struct Texts(Mutex<Result<Vec<String>, DnsError>>);

impl Lookup for Texts {
    fn mx(&self, _: &str) -> Result<MxRecords, DnsError> {
        Err(DnsError::NoData)
    }

    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        hosts.iter().map(|_| Err(DnsError::NoData)).collect()
    }

    fn reverse(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NoData)
    }

    fn txt(&self, name: &str) -> Result<Vec<String>, DnsError> {
        match name {
            "_smtp._tls.a.test" => self.0.lock().unwrap().clone(),
            _ => Err(DnsError::NoSuchDomain),
        }
    }
}

/// A relay's part that reports, and its queue.
struct Site {
    settings: DeliverySettings,
    lookup: Arc<Texts>,
    queue: Queue,
    writer: WriterHandle,
    events: Receiver<Event>,
    clock: Clock,
    reports: TlsReports,
    /// Lines in the log.
    told: AtomicUsize,
    folder: tempfile::TempDir,
}

impl Site {
    /// At noon of the day before, with these sessions.
    fn new(record: &str, domains: &[&str]) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postrider.toml");
        let text = "hostname = 'relay.test'\n[[listen]]\naddress = '127.0.0.1:587'\ntls = 'off'\n\
            [tlsrpt]\nenabled = true\norganization = 'X'\ncontact = 'c@x.test'\nfrom = 'r@x.test'\n";
        std::fs::write(&file, text).unwrap();
        let settings = config::load(Some(&file)).unwrap().settings.delivery;
        let lookup = Arc::new(Texts(Mutex::new(Ok(vec![record.to_owned()]))));
        let (queue, writer, events) = open(&folder);
        let clock = Clock::by_hand(MIDNIGHT - DAY_SECS / 2);
        let site = Site {
            settings,
            lookup,
            queue,
            writer,
            events,
            clock,
            reports: TlsReports::default(),
            told: AtomicUsize::new(0),
            folder,
        };
        let session = |domain: &&str| TlsSession {
            day: day_of(site.clock.confirmed()),
            domain: (*domain).to_owned(),
            policy: TlsPolicy::None,
            mx: "mx.test".to_owned(),
            ip: None,
            source: None,
            failed: Some(ResultType::StarttlsNotSupported),
            reason: String::new(),
            policy_text: String::new(),
            tlsa_base: String::new(),
            own_message: None,
        };
        site.queue.count_tls_sessions(domains.iter().map(session).collect());
        site
    }

    /// Ends and starts again.
    fn restart(self) -> Site {
        let Site { queue, writer, events, folder, .. } = self;
        writer.stop().unwrap();
        drop((queue, events));
        let (queue, writer, events) = open(&folder);
        Site { queue, writer, events, folder, reports: TlsReports::default(), ..self }
    }

    /// Looks, as a worker does every few seconds, and sends what is due.
    fn look(&self) -> bool {
        *self.reports.next_look.lock().unwrap() = None;
        let is_due = self.reports.is_due(&self.queue, &self.clock, &self.settings);
        if is_due {
            let stop = Stop::default();
            let Site { settings, lookup, queue, clock, .. } = self;
            let https = Https::new(settings, Arc::clone(lookup) as _).unwrap();
            let sending = Sending { settings, lookup: &**lookup, https: &https, queue, clock, stop: &stop };
            self.told.fetch_add(self.reports.note(sending.send_due()).into(), Ordering::Relaxed);
        }
        is_due
    }

    /// Messages that were queued since the last time.
    fn queued(&self) -> usize {
        self.queue.barrier().unwrap();
        self.events.try_iter().filter(|event| matches!(event, Event::Accepted(_))).count()
    }

    fn planned(&self) -> Vec<TlsReportDue> {
        self.queue.tls_reports_due(i64::MAX / 2, 100).unwrap()
    }
}

fn open(folder: &tempfile::TempDir) -> (Queue, WriterHandle, Receiver<Event>) {
    let path = folder.path().join("queue.db");
    let (sender, events) = unbounded();
    let settings = QueueSettings { path, history: Duration::from_secs(60), litestream: false };
    let (queue, writer) = Queue::open(&settings, sender).unwrap();
    (queue, writer, events)
}

#[test]
fn who_asks_gets_one_report_of_a_day_that_is_over() {
    let site = Site::new("v=TLSRPTv1; rua=mailto:r@b.test,mailto:s@b.test", &["a.test", "silent.test"]);
    assert!(!site.look() && site.planned().is_empty(), "the day is not over");
    site.clock.advance(DAY_SECS / 2 + 200);
    assert!(!site.look());
    assert_eq!(site.planned().len(), 2, "planned, and not due yet");
    site.clock.advance(AFTER_MIDNIGHT_SECS + SPREAD_SECS);
    assert!(site.look());
    assert_eq!(site.queued(), 1, "one mail to both who are named");
    assert!(!site.look());
    let site = site.restart();
    site.clock.advance(DAY_SECS / 2);
    assert!(!site.look() && site.planned().is_empty() && site.queued() == 0, "a second report");
    site.writer.stop().unwrap();
}

/// It is tried for as long as it is of use.
#[test]
fn a_domain_that_cannot_be_asked_is_asked_again_and_given_up_within_a_day() {
    let site = Site::new("", &["a.test"]);
    *site.lookup.0.lock().unwrap() = Err(DnsError::Temporary("SERVFAIL".to_owned()));
    site.clock.advance(DAY_SECS / 2 + 200);
    assert!(!site.look());
    site.clock.advance(AFTER_MIDNIGHT_SECS + SPREAD_SECS);
    let mut looks = 0;
    while !site.planned().is_empty() {
        assert!(site.look());
        assert!(!site.look(), "it waits between tries");
        looks += 1;
        site.clock.advance(RETRY_SECS.into_iter().max().unwrap());
        assert!(looks < 20, "for ever");
    }
    // Each wait was made the longest here, and two days after its end a day is not reported any more.
    assert!((5..=RETRY_SECS.len() + 1).contains(&looks) && site.queued() == 0, "{looks}");

    let site = Site::new("v=TLSRPTv1; rua=mailto:r@b.test", &["a.test"]);
    let record = std::mem::replace(
        &mut *site.lookup.0.lock().unwrap(),
        Err(DnsError::Temporary("time-out".to_owned())),
    );
    site.clock.advance(DAY_SECS / 2 + 200);
    site.look();
    site.clock.advance(AFTER_MIDNIGHT_SECS + SPREAD_SECS);
    assert!(site.look() && site.queued() == 0);
    *site.lookup.0.lock().unwrap() = record;
    site.clock.advance(RETRY_SECS[0]);
    assert!(site.look() && site.queued() == 1);
    site.writer.stop().unwrap();
}

/// No address leads to the web server: it is tried as often, beside the mail to the other one who asks.
#[test]
fn a_web_server_that_is_not_there_is_tried_again_and_given_up() {
    let site = Site::new("v=TLSRPTv1; rua=https://nowhere.test/r,mailto:r@b.test", &["a.test", "c.test"]);
    site.clock.advance(DAY_SECS / 2 + 200);
    site.look();
    site.clock.advance(AFTER_MIDNIGHT_SECS + SPREAD_SECS);
    let mut tries = 0;
    while !site.planned().is_empty() {
        assert!(site.look() && !site.look());
        tries += 1;
        site.clock.advance(RETRY_SECS.into_iter().max().unwrap());
        assert!(tries < 20, "for ever");
    }
    assert!(tries > 3, "{tries}");
    assert_eq!(site.queued(), 1);
    site.writer.stop().unwrap();
}

#[test]
fn a_queue_that_cannot_be_written_is_told_of_once_and_asked_again_a_minute_later() {
    let mut site = Site::new("v=TLSRPTv1; rua=mailto:r@b.test", &["a.test"]);
    site.clock.advance(DAY_SECS / 2 + 200);
    site.look();
    site.clock.advance(AFTER_MIDNIGHT_SECS + SPREAD_SECS);
    let other = Site::new("", &[]);
    std::mem::replace(&mut site.writer, other.writer).stop().unwrap();
    for _ in 0..3 {
        assert!(site.look());
        let next = site.reports.next_look.lock().unwrap().unwrap();
        assert!(next > Instant::now() + LOOK_AFTER_TROUBLE / 2, "the next look is too soon");
    }
    assert_eq!(site.told.load(Ordering::Relaxed), 1);
    // Once it is over the next trouble is told of again.
    let again = || Err(QueueError::Writer("again".to_owned()).into());
    assert!(!site.reports.note(again()) && !site.reports.note(Ok(())) && site.reports.note(again()));
    let site = site.restart();
    assert!(site.look() && site.queued() == 1);
    site.writer.stop().unwrap();
}

/// A clock that somebody sets forward by a month ends no day before it has held for an hour.
#[test]
fn a_clock_that_is_ahead_ends_no_day() {
    let site = Site::new("v=TLSRPTv1; rua=mailto:r@b.test", &["a.test"]);
    site.clock.step(DAY_SECS);
    assert!(!site.look() && site.planned().is_empty());
    site.clock.step(-DAY_SECS);
    assert!(!site.look() && site.planned().is_empty());
    site.writer.stop().unwrap();
}

#[test]
fn who_is_not_enabled_plans_nothing_and_sends_nothing() {
    let mut site = Site::new("v=TLSRPTv1; rua=mailto:r@b.test", &["a.test"]);
    site.settings.tlsrpt.enabled = false;
    site.clock.advance(2 * DAY_SECS);
    assert!(!site.look() && site.planned().is_empty() && site.queued() == 0);
    site.writer.stop().unwrap();
}

/// Ten thousand domains in one night: planned in one transaction, and spread.
#[test]
fn reports_to_ten_thousand_domains_are_spread_over_hours() {
    let names: Vec<String> = (0..10_000).map(|number| format!("d{number}.test")).collect();
    let site = Site::new("", &names.iter().map(String::as_str).collect::<Vec<_>>());
    site.clock.advance(DAY_SECS / 2 + 200);
    assert!(!site.look());
    let due =
        |after| site.queue.tls_reports_due(MIDNIGHT + AFTER_MIDNIGHT_SECS + after, 20_000).unwrap().len();
    let (first, half, all) = (due(SPREAD_SECS / 4), due(SPREAD_SECS / 2), due(SPREAD_SECS));
    assert!((2000..3000).contains(&first) && (4500..5500).contains(&half), "{first} {half}");
    assert_eq!(all, 10_000);
    site.writer.stop().unwrap();
}

#[test]
fn a_day_is_planned_once_and_a_little_after_its_end() {
    let yesterday = MIDNIGHT - 2 * DAY_SECS..MIDNIGHT;
    // At a start at once.
    assert_eq!(to_plan(None, MIDNIGHT + 1), Some((yesterday.clone(), MIDNIGHT + 300)));
    assert_eq!(to_plan(None, MIDNIGHT + 7200), Some((yesterday.clone(), MIDNIGHT + 7200)));
    // While it runs.
    let before = Some(MIDNIGHT - DAY_SECS);
    assert_eq!(to_plan(before, MIDNIGHT - 1), None);
    assert_eq!(to_plan(before, MIDNIGHT + 149), None);
    assert_eq!(to_plan(before, MIDNIGHT + 150), Some((yesterday, MIDNIGHT + 300)));
    assert_eq!(to_plan(Some(MIDNIGHT), MIDNIGHT + DAY_SECS - 1), None);
}

#[test]
fn tries_come_to_an_end_within_a_day() {
    let mut now = 0;
    let mut attempts = 1;
    while let Some(next) = next_try(attempts, now) {
        assert!(next > now);
        (now, attempts) = (next, attempts + 1);
    }
    assert!(attempts == 7 && now < DAY_SECS, "{attempts} tries in {now} s");
}
