//! What can be read of the relay over HTTP.

pub mod http;
mod metrics;
mod page;
mod readiness;
