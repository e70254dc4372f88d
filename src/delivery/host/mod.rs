//! What is known of a host and kept in memory: one record for each, open connections, and the rules for both.

pub(in crate::delivery) mod adaptive;
pub(in crate::delivery) mod hosts;
pub(in crate::delivery) mod ladder;
pub(in crate::delivery) mod limits;
pub(in crate::delivery) mod pool;
pub(in crate::delivery) mod relay_alerts;
pub(in crate::delivery) mod settings;
pub(in crate::delivery) mod throttle_signal;
