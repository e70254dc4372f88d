//! A job from its first byte to its settlement: attempts over hosts, what they mean, what becomes of each recipient.

pub(in crate::delivery) mod atrn_handover;
pub(in crate::delivery) mod attempt;
pub(in crate::delivery) mod require_tls;
pub(in crate::delivery) mod retry_rules;
pub(in crate::delivery) mod settle;
