//! Delivery: from a job to its outcomes. Foreign replies end here.

pub mod bounce;
pub mod connection;
mod connector;
pub mod dns;
mod offers;
mod reply_reader;
pub mod route;
mod stuffing;
pub mod tls;
pub mod transaction;
mod wire;
