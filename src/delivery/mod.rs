//! Delivery: from a job to its outcomes. Foreign replies end here. This file is the front door.
//!
//! The wings, each of which imports only those before it: `smtp` (one conversation with one host), `route` (which
//! hosts), `https` (documents fetched and sent), `sts` (what MTA-STS policies say), `host` (what is known of hosts and
//! kept), `report` (what senders are told), `job` (a job from its first byte to its settlement: attempts, what failures
//! mean, what becomes of each recipient).

#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod https;
pub mod job;
pub mod report;
pub mod route;
pub mod smtp;
pub mod sts;

pub use job::atrn_handover::Turned;
pub use job::context::DeliveryContext;
#[cfg(test)]
pub(crate) use job::outcome::decide;
pub use job::settle::settle_doubts;
pub use job::signing::Signing;
pub use job::worker::{Jobs, Workers};
