//! Reports to senders: bounces, delay warnings and delivery reports (RFC 3461, RFC 3464), and how many each gets; and
//! those on TLS to other domains (RFC 8460).

pub mod bounce;
pub(in crate::delivery) mod compose;
pub(in crate::delivery) mod report_limit;
pub(crate) mod tls_reports;
