//! What is known of a host and kept in memory: one record for each, open connections, and the rules for both.

pub(in crate::delivery) mod adaptive;
pub(in crate::delivery) mod features;
pub(in crate::delivery) mod hosts;
pub(in crate::delivery) mod limits;
pub(in crate::delivery) mod pool;
pub mod profile;
pub(in crate::delivery) mod relay_alerts;
pub(in crate::delivery) mod settings;
pub mod throttle_signal;
