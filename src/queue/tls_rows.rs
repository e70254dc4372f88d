//! TLS of sessions with hosts, as it is counted, and the daily reports that are made of it (RFC 8460).

use std::net::IpAddr;

use crate::mail::TlsPolicy;
use crate::mail::tlsrpt::ResultType;

use super::MessageId;

/// One session with a host, or one policy that kept a message from having one: to be counted in `tls_results`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSession {
    /// When its day began, Unix seconds.
    pub day: i64,
    /// The domain whose policy counts: the recipients', or a smarthost's name.
    pub domain: String,
    /// Which policy was in force.
    pub policy: TlsPolicy,
    /// The host; empty where none was asked.
    pub mx: String,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Ours.
    pub source: Option<IpAddr>,
    /// What failed; none: it came to what it should.
    pub failed: Option<ResultType>,
    /// The same in words; empty where nothing failed.
    pub reason: String,
    /// The policy itself, in lines; may be empty.
    pub policy_text: String,
    /// The TLSA base domain, whose policy DANE is; empty where none is known.
    pub tlsa_base: String,
    /// The message that it was opened for, where Postrider wrote that itself: a report on TLS does not count.
    pub own_message: Option<MessageId>,
}

/// A report that is to be looked after now: a row of `tls_reports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsReportDue {
    /// When its day began, Unix seconds.
    pub day: i64,
    /// Whom it is about.
    pub domain: String,
    /// Where it goes; empty: the domain is still to be asked.
    pub rua: String,
    /// Tries so far.
    pub attempts: u32,
}

/// What becomes of such a row: these take its place. `rua` of one that is still to be asked is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsReportRow {
    /// Where it goes.
    pub rua: String,
    /// What came of it.
    pub state: TlsReportState,
    /// Tries so far.
    pub attempts: u32,
    /// What was said last.
    pub last_reply: Option<String>,
}

/// `tls_reports.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsReportState {
    /// To be looked after at this Unix second.
    Planned(i64),
    /// The domain asks for none.
    NotAsked,
    /// The mail is in the queue.
    Queued(MessageId),
    /// The web server took it.
    Sent,
    /// Given up.
    Failed,
}

impl TlsReportState {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsReportState::Planned(_) => "planned",
            TlsReportState::NotAsked => "not-asked",
            TlsReportState::Queued(_) => "queued",
            TlsReportState::Sent => "sent",
            TlsReportState::Failed => "failed",
        }
    }
}
