//! A line of bytes read into a command. Pure, and the lowest wing: it knows nothing of sessions.

mod arguments;
pub(in crate::submission) mod command;
mod parameters;
pub(in crate::submission) mod parse;
