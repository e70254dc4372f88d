//! To be built.

pub mod queue;
