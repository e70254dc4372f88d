//! The command line.

mod command_line;
mod dkim;
mod explain;
mod gone_readers;
mod mistakes;
mod queue;
mod sql;
