//! What is known of a host and kept in memory: its limits, what works with it, open connections, alerts.

pub(in crate::delivery) mod adaptive;
pub(in crate::delivery) mod ladder;
pub(in crate::delivery) mod limits;
pub(in crate::delivery) mod pool;
pub(in crate::delivery) mod relay_alerts;
pub(in crate::delivery) mod throttle_signal;
pub(in crate::delivery) mod workarounds;
