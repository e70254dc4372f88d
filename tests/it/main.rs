//! The integration tests: one binary.

mod command_line;
mod config;
