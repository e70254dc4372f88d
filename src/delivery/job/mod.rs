//! A job from its first byte to its settlement: attempts over hosts, what they mean, what becomes of each recipient.

pub(in crate::delivery) mod atrn_handover;
pub(in crate::delivery) mod attempt;
pub(in crate::delivery) mod context;
pub(in crate::delivery) mod outcome;
pub(in crate::delivery) mod require_tls;
pub(in crate::delivery) mod retry_rules;
pub mod ruling;
pub(in crate::delivery) mod settle;
mod signature_cache;
pub(in crate::delivery) mod signing;
pub mod sts_policy;
pub mod tls_policy;
mod tls_session;
pub(in crate::delivery) mod worker;
