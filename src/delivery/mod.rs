//! Delivery: from a job to its outcomes. Foreign replies end here.

pub mod bounce;
pub mod dns;
pub mod route;
