//! What can be read of the relay over HTTP.

mod http;
mod metrics;
mod page;
mod readiness;
