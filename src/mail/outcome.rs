//! The result of an attempt, as data: the phase in which it ended, the reply, and the outcome.
//!
//! `delivery` makes them, `queue` stores them (one row for each recipient and attempt), `maillog` writes them and
//! bounces quote them, all with the same words.

use std::net::IpAddr;
use std::sync::Arc;

use super::Reply;

/// The part of a delivery in which a reply came or a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Finding the hosts.
    Dns,
    /// Opening the TCP connection.
    Connect,
    /// Waiting for the 220.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    Starttls,
    /// Login at a relay.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, until the 354.
    Data,
    /// The content and its final dot.
    EndOfData,
}

impl Phase {
    /// The word in `attempts.phase` and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Dns => "dns",
            Phase::Connect => "connect",
            Phase::Greeting => "greeting",
            Phase::Ehlo => "ehlo",
            Phase::Starttls => "starttls",
            Phase::Auth => "auth",
            Phase::Mail => "mail",
            Phase::Rcpt => "rcpt",
            Phase::Data => "data",
            Phase::EndOfData => "end_of_data",
        }
    }
}

/// What an attempt means for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Accepted by a host, which is responsible from now on.
    Delivered,
    /// The same, by a host that offers no DSN where a success report was asked for (RFC 3461 §5.2.2).
    Relayed,
    /// Failed for now: there will be another attempt.
    Deferred,
    /// Failed for good: a bounce.
    Failed,
    /// Deferred until the end of its lifetime: a bounce.
    Expired,
    /// The reply to the final dot was lost, so nobody knows whether the host took the message (RFC 1047).
    InDoubt,
}

impl Outcome {
    /// The word in the `attempts` and `history` tables and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Relayed => "relayed",
            Outcome::Deferred => "deferred",
            Outcome::Failed => "failed",
            Outcome::Expired => "expired",
            Outcome::InDoubt => "in_doubt",
        }
    }
}

/// Which policy said what TLS had to be on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsPolicy {
    /// None: TLS where the host offers it.
    #[default]
    None,
    /// The host's TLSA records (RFC 7672).
    Dane,
    /// The domain's MTA-STS policy (RFC 8461), which is being tested and enforces nothing.
    StsTesting,
    /// The domain's MTA-STS policy, enforced.
    StsEnforce,
    /// REQUIRETLS of the message (RFC 8689).
    RequireTls,
    /// `tls` of a `[[route]]`.
    Route,
}

impl TlsPolicy {
    /// Whether those who take the mail require it, and neither the sender nor our operator.
    pub fn is_required_by_destination(self) -> bool {
        matches!(self, TlsPolicy::Dane | TlsPolicy::StsEnforce)
    }

    /// The word in `attempts.tls_policy` and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsPolicy::None => "none",
            TlsPolicy::Dane => "dane",
            TlsPolicy::StsTesting => "sts-testing",
            TlsPolicy::StsEnforce => "sts-enforce",
            TlsPolicy::RequireTls => "requiretls",
            TlsPolicy::Route => "route",
        }
    }
}

/// One attempt for one recipient: a row of `attempts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its begin, in Unix seconds.
    pub at: i64,
    /// Its duration.
    pub duration_ms: u64,
    /// The host's name: an MX, a relay, or the domain itself. None where no host was found.
    pub mx: Option<String>,
    /// The host's address.
    pub ip: Option<IpAddr>,
    /// TLS in use: `none`, `TLSv1.3`, with a verified certificate `TLSv1.3 verified`, or with one that nothing proves
    /// to be the host's own `TLSv1.2 signature not checked (RSA 1024)`. None without a connection.
    pub tls: Option<String>,
    /// Which policy said what TLS had to be.
    pub tls_policy: TlsPolicy,
    /// The DKIM keys that signed what was sent, `example.com/s1,example.com/s2`; none where none did, or it did not
    /// come to that.
    pub dkim: Option<Arc<str>>,
    /// Our address, by which it went; none without a connection.
    pub source: Option<IpAddr>,
    /// The phase in which it ended.
    pub phase: Phase,
    /// The host's reply or, without one, Postrider's own with a code of RFC 3463.
    pub reply: Reply,
    /// What it means for the recipient.
    pub outcome: Outcome,
}

impl Attempt {
    /// No host took the message.
    pub fn is_failure(&self) -> bool {
        !matches!(self.outcome, Outcome::Delivered | Outcome::Relayed)
    }
}
