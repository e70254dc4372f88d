//! What senders are told: bounces, delay warnings and reports (RFC 3461, RFC 3464), and how many of them.

pub mod bounce;
pub(in crate::delivery) mod compose;
pub(in crate::delivery) mod report_limit;
