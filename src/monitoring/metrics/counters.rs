//! What happened since the start, fed by the mail log. Atomics only: nothing waits in the way of a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kit::histogram::Histogram;
use crate::mail::{Attempt, Outcome, Phase};
use crate::maillog::{Observer, Seen};

use super::domains::{Domains, OUTCOMES};
use super::exposition::{Def, Family, Kind, Of, Value};
use super::refusals::Refusals;

/// From a host that answers at once to one that uses up its time-outs, in milliseconds.
const ATTEMPT_MILLIS: &[u64] =
    &[10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];

/// In the order of their declaration.
const PHASES: [Phase; 10] = [
    Phase::Dns,
    Phase::Connect,
    Phase::Greeting,
    Phase::Ehlo,
    Phase::Starttls,
    Phase::Auth,
    Phase::Mail,
    Phase::Rcpt,
    Phase::Data,
    Phase::EndOfData,
];
const ALL_OUTCOMES: [Outcome; 6] = [
    Outcome::Delivered,
    Outcome::Relayed,
    Outcome::Deferred,
    Outcome::Failed,
    Outcome::Expired,
    Outcome::InDoubt,
];
/// Of the last reply.
const CLASSES: [&str; 4] = ["2xx", "4xx", "5xx", "other"];
/// Reports to senders, as the log calls them and as labels.
const REPORTS: [(&str, &str); 3] =
    [("bounce", "bounce"), ("delay warning", "delay_warning"), ("delivery report", "delivery_report")];

const fn counter(name: &'static str, of: Of, help: &'static str) -> Def {
    Def { name, kind: Kind::Counter, of, help }
}

pub(super) const MESSAGES_ACCEPTED: Def =
    counter("postrider_messages_accepted", Of::Things, "Messages that were committed and answered with 250");
pub(super) const RECIPIENTS_ACCEPTED: Def =
    counter("postrider_recipients_accepted", Of::Things, "Recipients of messages that were accepted");
pub(super) const ACCEPTED_BYTES: Def =
    counter("postrider_accepted", Of::Bytes, "Content of messages that were accepted");
pub(super) const REFUSED: Def = counter(
    "postrider_refused",
    Of::Things,
    "Commands of transactions and content that clients were refused, by class and enhanced code of the reply",
);
pub(super) const DELIVERED: Def = counter(
    "postrider_recipients_delivered",
    Of::Things,
    "Recipients that a host took, by class of its reply",
);
pub(super) const DEFERRED: Def = counter(
    "postrider_recipients_deferred",
    Of::Things,
    "Attempts after which a recipient waits for another, by class of the reply",
);
pub(super) const BOUNCED: Def = counter(
    "postrider_recipients_bounced",
    Of::Things,
    "Recipients that failed for good, by class of the reply",
);
pub(super) const POLICY_REFUSALS: Def = counter(
    "postrider_policy_refusals",
    Of::Things,
    "Attempts, one for each recipient, that a host refused by a block list or another policy against what we send",
);
pub(super) const EXPIRED: Def = counter(
    "postrider_recipients_expired",
    Of::Things,
    "Recipients whose lifetime ended before they were delivered, by class of their last reply",
);
pub(super) const RETURNED: Def = counter(
    "postrider_recipients_returned",
    Of::Things,
    "Recipients that an operator had returned to their sender",
);
pub(super) const BY_DOMAIN: Def = counter(
    "postrider_domain_recipients",
    Of::Things,
    "What came of recipients of the domains that get the most mail; all others together are other",
);
pub(super) const ATTEMPTS: Def = counter(
    "postrider_attempts",
    Of::Things,
    "Attempts, one for each recipient, by outcome and by the phase in which they ended",
);
pub(super) const ATTEMPT_DURATION: Def = Def {
    name: "postrider_attempt_duration",
    kind: Kind::Histogram,
    of: Of::Seconds,
    help: "How long attempts took, one for each recipient, by the phase in which they ended",
};
pub(super) const REPORTS_QUEUED: Def =
    counter("postrider_reports_queued", Of::Things, "Reports to senders that were queued, by kind");
pub(super) const TURNED_AWAY: Def = counter(
    "postrider_clients_turned_away",
    Of::Things,
    "Clients that were disconnected, or refused before they could begin",
);
pub(super) const LOGIN_FAILURES: Def =
    counter("postrider_auth_failures", Of::Things, "Logins of clients that failed");
pub(super) const HANDSHAKE_FAILURES: Def =
    counter("postrider_tls_handshake_failures", Of::Things, "TLS handshakes of clients that failed");

type ByClass = [AtomicU64; CLASSES.len()];

/// All of it.
#[derive(Debug)]
pub(super) struct Counters {
    messages: AtomicU64,
    recipients: AtomicU64,
    bytes: AtomicU64,
    refusals: Refusals,
    delivered: ByClass,
    deferred: ByClass,
    bounced: ByClass,
    expired: ByClass,
    policy_refusals: AtomicU64,
    returned: AtomicU64,
    attempts: [[AtomicU64; PHASES.len()]; ALL_OUTCOMES.len()],
    durations: [Histogram; PHASES.len()],
    domains: Domains,
    reports: [AtomicU64; REPORTS.len()],
    turned_away: AtomicU64,
    login_failures: AtomicU64,
    handshake_failures: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Arc<Counters> {
        Arc::new(Counters {
            messages: AtomicU64::default(),
            recipients: AtomicU64::default(),
            bytes: AtomicU64::default(),
            refusals: Refusals::default(),
            delivered: ByClass::default(),
            deferred: ByClass::default(),
            bounced: ByClass::default(),
            expired: ByClass::default(),
            policy_refusals: AtomicU64::default(),
            returned: AtomicU64::default(),
            attempts: Default::default(),
            durations: std::array::from_fn(|_| Histogram::new(ATTEMPT_MILLIS)),
            domains: Domains::new(),
            reports: Default::default(),
            turned_away: AtomicU64::default(),
            login_failures: AtomicU64::default(),
            handshake_failures: AtomicU64::default(),
        })
    }

    fn attempted(&self, domain: &str, attempt: &Attempt) {
        let phase = attempt.phase as usize;
        one(&self.attempts[attempt.outcome as usize][phase]);
        self.durations[phase].add(attempt.duration_ms);
        let class = class_of(Some(attempt.reply.code / 100));
        let (by_class, outcome) = match attempt.outcome {
            Outcome::Delivered | Outcome::Relayed => (&self.delivered, 0),
            Outcome::Deferred => (&self.deferred, 1),
            Outcome::Failed => (&self.bounced, 2),
            Outcome::Expired => (&self.expired, 2),
            // Nobody knows what came of it: it is in the attempts alone.
            Outcome::InDoubt => return,
        };
        one(&by_class[class]);
        self.domains.add(domain, outcome);
    }

    /// What happened by domain and was not counted yet takes no room any more.
    pub(super) fn forget_uncounted(&self) {
        self.domains.all();
    }

    /// As they are now.
    pub(super) fn families(&self) -> Vec<Family> {
        let plain = |def, count: &AtomicU64| Family::one(def, Value::Number(read(count)));
        vec![
            plain(MESSAGES_ACCEPTED, &self.messages),
            plain(RECIPIENTS_ACCEPTED, &self.recipients),
            plain(ACCEPTED_BYTES, &self.bytes),
            self.refused(),
            by_class(DELIVERED, &self.delivered),
            by_class(DEFERRED, &self.deferred),
            by_class(BOUNCED, &self.bounced),
            by_class(EXPIRED, &self.expired),
            plain(POLICY_REFUSALS, &self.policy_refusals),
            plain(RETURNED, &self.returned),
            self.by_domain(),
            self.attempts(),
            self.durations(),
            Family::by_label(
                REPORTS_QUEUED,
                "kind",
                REPORTS.iter().zip(&self.reports).map(|((_, kind), count)| (*kind, read(count))),
            ),
            plain(TURNED_AWAY, &self.turned_away),
            plain(LOGIN_FAILURES, &self.login_failures),
            plain(HANDSHAKE_FAILURES, &self.handshake_failures),
        ]
    }

    /// `5xx 5.7.1`, and how often.
    pub(super) fn refused_replies(&self) -> Vec<(String, u64)> {
        let words = |(class, enhanced, count): (&str, String, u64)| match enhanced.as_str() {
            "none" => (class.to_owned(), count),
            _ => (format!("{class} {enhanced}"), count),
        };
        self.refusals.all().into_iter().map(words).filter(|(_, count)| *count > 0).collect()
    }

    fn refused(&self) -> Family {
        let series = self.refusals.all().into_iter().map(|(class, enhanced, count)| {
            (vec![("class", class.to_owned()), ("enhanced", enhanced)], Value::Number(count))
        });
        Family { def: REFUSED, series: series.collect() }
    }

    fn by_domain(&self) -> Family {
        let series = self.domains.all().into_iter().flat_map(|(domain, counts)| {
            let label = move |(outcome, count): (&str, u64)| {
                (vec![("domain", domain.clone()), ("outcome", outcome.to_owned())], Value::Number(count))
            };
            OUTCOMES.into_iter().zip(counts).map(label)
        });
        Family { def: BY_DOMAIN, series: series.collect() }
    }

    fn attempts(&self) -> Family {
        let series = ALL_OUTCOMES.iter().zip(&self.attempts).flat_map(|(outcome, counts)| {
            PHASES.iter().zip(counts).map(|(phase, count)| {
                let labels =
                    vec![("outcome", outcome.as_str().to_owned()), ("phase", phase.as_str().to_owned())];
                (labels, Value::Number(read(count)))
            })
        });
        Family { def: ATTEMPTS, series: series.collect() }
    }

    fn durations(&self) -> Family {
        let series = PHASES.iter().zip(&self.durations).map(|(phase, histogram)| {
            (vec![("phase", phase.as_str().to_owned())], Value::Histogram(histogram.counted(), 1e3))
        });
        Family { def: ATTEMPT_DURATION, series: series.collect() }
    }
}

impl Observer for Counters {
    fn see(&self, seen: &Seen<'_>) {
        match *seen {
            Seen::Accepted { recipients, bytes } => {
                one(&self.messages);
                self.recipients.fetch_add(recipients as u64, Ordering::Relaxed);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Seen::Attempted { recipient, attempt } => self.attempted(recipient.domain(), attempt),
            Seen::Expired { recipient, last_reply } => {
                let digit = last_reply.and_then(|reply| reply.chars().next()?.to_digit(10));
                one(&self.expired[class_of(digit.and_then(|digit| u16::try_from(digit).ok()))]);
                self.domains.add(recipient.domain(), 2);
            }
            Seen::RefusedByPolicy => one(&self.policy_refusals),
            Seen::Returned => one(&self.returned),
            Seen::Reported(kind) => {
                if let Some(at) = REPORTS.iter().position(|(name, _)| *name == kind) {
                    one(&self.reports[at]);
                }
            }
            Seen::Refused(reply) => self.refusals.add(reply),
            Seen::TurnedAway => one(&self.turned_away),
            Seen::LoginFailed => one(&self.login_failures),
            Seen::HandshakeFailed => one(&self.handshake_failures),
        }
    }
}

fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// The place in [`CLASSES`] of a reply's first digit.
fn class_of(digit: Option<u16>) -> usize {
    match digit {
        Some(2) => 0,
        Some(4) => 1,
        Some(5) => 2,
        _ => 3,
    }
}

fn by_class(def: Def, counts: &ByClass) -> Family {
    Family::by_label(def, "class", CLASSES.into_iter().zip(counts.iter().map(read)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_and_outcome_has_its_own_place() {
        assert!(PHASES.iter().enumerate().all(|(at, phase)| *phase as usize == at));
        assert!(ALL_OUTCOMES.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
    }
}
