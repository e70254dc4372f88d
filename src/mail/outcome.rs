//! What came of an attempt, as data: where it ended, who said what, what that means.
//!
//! `delivery` makes these, `queue` stores them one row a recipient and try, `maillog` says
//! them and bounces quote them. The words are the same in all four.

use std::net::IpAddr;

use super::Reply;

/// The stage of a delivery in which an answer was given or a failure met.
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
    /// Logging in at a relay.
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
    /// The word in the `attempts` table, the log and bounces.
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
    /// Accepted by a host that is responsible from here on.
    Delivered,
    /// The same, by a host that offers no DSN where a success report was asked for (RFC 3461 §5.2.2).
    Relayed,
    /// To be tried again.
    Deferred,
    /// Refused for good: a bounce.
    Failed,
    /// Deferred past its lifetime: a bounce.
    Expired,
    /// The connection was lost between the final dot and its reply (RFC 1047).
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

/// One try for one recipient: a row of `attempts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it began, Unix seconds.
    pub at: i64,
    /// How long it took.
    pub duration_ms: u64,
    /// The host's name (an MX, a relay, or the domain itself); none when DNS failed.
    pub mx: Option<String>,
    /// The address that was spoken to.
    pub ip: Option<IpAddr>,
    /// TLS in use: `none`, or version, and `verified` where the certificate was: `TLSv1.3 verified`.
    pub tls: Option<String>,
    /// Where it ended.
    pub phase: Phase,
    /// The answer, or for failures without one Postrider's own words with the code of RFC 3463's kind.
    pub reply: Reply,
    /// What it means.
    pub outcome: Outcome,
}
