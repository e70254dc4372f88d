//! To be built.

pub mod demo_dns;
