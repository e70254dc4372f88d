//! The integration tests: real sockets on free ports, one binary, so that they are linked once.
//!
//! `harness` is what they stand on; the other folders are the rooms of `src/`, and `whole` is what is true of all
//! rooms together.

#![allow(unreachable_pub, reason = "a test binary exports nothing; pub is what the other modules use")]

mod cli;
mod config;
mod delivery;
mod documents;
mod harness;
mod house;
mod monitoring;
mod queue;
mod scheduler;
mod submission;
mod whole;
