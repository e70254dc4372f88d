//! The integration tests: real sockets on free ports, one binary.

mod dns;
mod explain;
