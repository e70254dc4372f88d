//! To be built.

pub mod demo_dns;
pub mod explain;
