//! The command line.

mod command_line;
mod explain;
mod queue;
mod sql;
