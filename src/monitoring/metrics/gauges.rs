//! What is so now, and what the writer and the relay count themselves. Each gauge of the queue has its SELECT in
//! `docs/monitoring.md`.

use std::time::Duration;

use crate::queue::gauge_rows::{AGE_BOUNDS_SECS, DiskUse, SmallCounts};
use crate::queue::{Commits, Refused};

use super::domains::OTHER;
use super::exposition::{Def, Family, Kind, Labels, Of, Value};
use super::waiting::Waiting;

/// How old a message is, by [`AGE_BOUNDS_SECS`]: from so many seconds on.
const AGES: [&str; AGE_BOUNDS_SECS.len() + 1] = ["0", "300", "3600", "21600", "86400"];

const fn gauge(name: &'static str, of: Of, help: &'static str) -> Def {
    Def { name, kind: Kind::Gauge, of, help }
}

const fn counter(name: &'static str, help: &'static str) -> Def {
    Def { name, kind: Kind::Counter, of: Of::Things, help }
}

const fn histogram(name: &'static str, of: Of, help: &'static str) -> Def {
    Def { name, kind: Kind::Histogram, of, help }
}

const QUEUE_MESSAGES: Def = gauge("postrider_queue_messages", Of::Things, "Messages that wait");
const QUEUE_BYTES: Def = gauge("postrider_queue", Of::Bytes, "Content of messages that wait");
const QUEUE_RECIPIENTS: Def = gauge(
    "postrider_queue_recipients",
    Of::Things,
    "Recipients that wait, by state and by the age of their message (the seconds from which on it counts there)",
);
const QUEUE_DUE: Def = gauge(
    "postrider_queue_due_recipients",
    Of::Things,
    "Recipients whose next attempt is due and whose lane does not back off",
);
const QUEUE_BACKING_OFF: Def = gauge(
    "postrider_queue_backing_off_recipients",
    Of::Things,
    "Recipients whose next attempt is due, but for the backoff of their lane",
);
const QUEUE_SUSPENDED: Def =
    gauge("postrider_queue_suspended_recipients", Of::Things, "Recipients that wait behind a suspension");
const QUEUE_OLDEST_DUE: Def = gauge(
    "postrider_queue_oldest_due",
    Of::Seconds,
    "For how long the recipient that is due for longest has been so, its lane not backing off",
);
const QUEUE_DOMAINS: Def = gauge("postrider_queue_domains", Of::Things, "Domains with recipients that wait");
const QUEUE_DOMAIN_RECIPIENTS: Def = gauge(
    "postrider_queue_domain_recipients",
    Of::Things,
    "Recipients that wait, of the 50 domains with the most of them; those of all others are other",
);
const QUEUE_COUNTED: Def = gauge(
    "postrider_queue_counted_age",
    Of::Seconds,
    "How long ago what waits was counted; 0 where it was for this scrape",
);
const PENDING_REPORTS: Def = gauge(
    "postrider_queue_pending_reports",
    Of::Things,
    "Failures of which senders are still to be told together",
);
const QUEUE_REFUSALS: Def = counter(
    "postrider_queue_refusals",
    "Times that the queue took no mail, since the database was busy or the disk full",
);
const LANES_BACKING_OFF: Def = gauge("postrider_lanes_backing_off", Of::Things, "Destinations that back off");
const HOSTS_THROTTLED: Def = gauge(
    "postrider_hosts_throttled",
    Of::Things,
    "Hosts that get fewer connections or messages than they may",
);
const HOSTS_WITH_WORKAROUNDS: Def =
    gauge("postrider_hosts_with_workarounds", Of::Things, "Hosts at which a feature is left out");
const LOGIN_LOCKS: Def = gauge(
    "postrider_login_locks",
    Of::Things,
    "Networks and user names whose logins are refused or slow after failures",
);
const SUSPENSIONS: Def =
    gauge("postrider_suspensions", Of::Things, "Suspensions of mail for a domain, of a user or with a tag");
const DATABASE_BYTES: Def =
    gauge("postrider_database", Of::Bytes, "The database with what waits and history");
const DATABASE_FREE_BYTES: Def =
    gauge("postrider_database_free", Of::Bytes, "What of the database is free to be used again");
const WAL_BYTES: Def = gauge("postrider_wal", Of::Bytes, "The file of the write-ahead log");
const DISK_FREE_BYTES: Def =
    gauge("postrider_disk_free", Of::Bytes, "What is free in the file system of the queue");
const DISK_SIZE_BYTES: Def = gauge("postrider_disk_size", Of::Bytes, "The file system of the queue");
const COMMIT_DURATION: Def =
    histogram("postrider_commit_duration", Of::Seconds, "How long commits of the queue took, fsync included");
const COMMIT_OPERATIONS: Def =
    histogram("postrider_commit_operations", Of::Things, "How many operations were committed together");
const READY: Def =
    gauge("postrider_ready", Of::Things, "1 where a message could be committed now, as /readyz says");
const CONNECTIONS: Def = gauge(
    "postrider_connections_open",
    Of::Things,
    "Connections that are open now: of clients (in), and to hosts (out)",
);
const SESSIONS: Def = counter("postrider_sessions", "Sessions of clients that began");
const CERTIFICATE: Def = gauge(
    "postrider_certificate_not_after_timestamp",
    Of::Seconds,
    "When the certificate that clients are shown ends, in Unix seconds",
);
const LOG_LINES_DROPPED: Def =
    counter("postrider_log_lines_dropped", "Lines of the log that nobody read fast enough");
const GENERATION: Def = gauge(
    "postrider_config_generation",
    Of::Things,
    "Number of the config in use: 1 at the start, one more with each reload that went well",
);
const CONFIG_LOADED: Def = gauge(
    "postrider_config_loaded_timestamp",
    Of::Seconds,
    "When the config in use was loaded, in Unix seconds",
);
const BUILD: Def =
    Def { name: "postrider_build", kind: Kind::Info, of: Of::Things, help: "The version that runs" };
const STARTED: Def = gauge("process_start_time", Of::Seconds, "When the process started, in Unix seconds");

/// What the relay as a whole says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayNumbers {
    /// Sessions that last.
    pub sessions: usize,
    /// Sessions that began since the start.
    pub sessions_began: u64,
    /// Connections to hosts.
    pub connections_out: usize,
    /// A message could be committed now.
    pub is_ready: bool,
    /// The end of the certificate that clients are shown, Unix seconds; none where it is not known.
    pub certificate_not_after: Option<i64>,
    /// Lines of the log that found no way out.
    pub log_lines_dropped: u64,
    /// Of the config.
    pub generation: u32,
    /// When that was loaded, Unix seconds.
    pub loaded_at: i64,
    /// When the process started, Unix seconds.
    pub started_at: i64,
}

fn one(def: Def, number: u64) -> Family {
    Family::one(def, Value::Number(number))
}

fn time(def: Def, unix_secs: i64) -> Family {
    one(def, unix_secs.max(0).unsigned_abs())
}

/// Of the relay as a whole.
pub(super) fn of_relay(numbers: &RelayNumbers) -> Vec<Family> {
    let connections = [("in", numbers.sessions as u64), ("out", numbers.connections_out as u64)];
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let mut families = vec![
        one(READY, numbers.is_ready.into()),
        Family::by_label(CONNECTIONS, "direction", connections),
        one(SESSIONS, numbers.sessions_began),
        one(LOG_LINES_DROPPED, numbers.log_lines_dropped),
        one(GENERATION, numbers.generation.into()),
        time(CONFIG_LOADED, numbers.loaded_at),
        Family { def: BUILD, series: vec![(version, Value::Info)] },
        time(STARTED, numbers.started_at),
    ];
    families.extend(numbers.certificate_not_after.map(|at| time(CERTIFICATE, at)));
    families
}

/// Of the queue's writer.
pub(super) fn of_writer(commits: &Commits, refused: Refused) -> Vec<Family> {
    vec![
        Family::one(COMMIT_DURATION, Value::Histogram(commits.micros.counted(), 1e6)),
        Family::one(COMMIT_OPERATIONS, Value::Histogram(commits.operations.counted(), 1.0)),
        Family::by_label(QUEUE_REFUSALS, "reason", [("busy", refused.busy), ("full", refused.full)]),
    ]
}

/// Of tables that stay small.
pub(super) fn of_tables(counts: &SmallCounts) -> Vec<Family> {
    vec![
        one(LANES_BACKING_OFF, counts.lanes_backing_off),
        one(HOSTS_THROTTLED, counts.hosts_throttled),
        one(HOSTS_WITH_WORKAROUNDS, counts.hosts_with_workarounds),
        one(LOGIN_LOCKS, counts.login_locks),
        one(SUSPENSIONS, counts.suspensions),
        one(PENDING_REPORTS, counts.pending_reports),
        one(DATABASE_BYTES, counts.database_bytes),
        one(DATABASE_FREE_BYTES, counts.database_free_bytes),
    ]
}

/// Of the file system.
pub(super) fn of_disk(disk: &DiskUse) -> Vec<Family> {
    vec![
        one(WAL_BYTES, disk.log_bytes),
        one(DISK_FREE_BYTES, disk.free_bytes),
        one(DISK_SIZE_BYTES, disk.size_bytes),
    ]
}

/// Of what waits, as it was so long ago.
pub(super) fn of_waiting(waiting: &Waiting, age: Duration) -> Vec<Family> {
    let ages = &waiting.ages;
    let of_state = |state: &'static str, counts: [u64; AGES.len()]| {
        AGES.into_iter().zip(counts).map(move |(age, count)| {
            let labels: Labels = vec![("state", state.to_owned()), ("age", age.to_owned())];
            (labels, Value::Number(count))
        })
    };
    let recipients = of_state("queued", ages.queued).chain(of_state("held", ages.held));
    let top = waiting.top.iter().map(|(domain, count)| (domain.as_str(), *count));
    vec![
        one(QUEUE_MESSAGES, ages.messages),
        one(QUEUE_BYTES, ages.bytes),
        Family { def: QUEUE_RECIPIENTS, series: recipients.collect() },
        one(QUEUE_DUE, waiting.due),
        one(QUEUE_BACKING_OFF, waiting.backing_off),
        one(QUEUE_SUSPENDED, waiting.suspended),
        one(QUEUE_OLDEST_DUE, waiting.oldest_due_secs),
        one(QUEUE_DOMAINS, waiting.domains),
        Family::by_label(QUEUE_DOMAIN_RECIPIENTS, "domain", top.chain([(OTHER, waiting.other)])),
        Family::one(QUEUE_COUNTED, Value::Seconds(age.as_secs_f64())),
    ]
}
