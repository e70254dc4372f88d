//! The integration tests: real sockets on free ports, one binary, so that they are linked once.

#![allow(unreachable_pub, reason = "a test binary exports nothing; pub is what the other modules use")]

mod command_line;
mod config;
mod connection;
mod dns;
mod fakemx;
mod house;
