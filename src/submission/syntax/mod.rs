//! A line of bytes read into a command. Pure.

pub(in crate::submission) mod command;
pub(in crate::submission) mod parameters;
