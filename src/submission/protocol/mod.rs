//! What is answered to a command, and what follows from it. Pure.

pub(in crate::submission) mod aliases;
pub(in crate::submission) mod atrn;
pub(in crate::submission) mod etrn;
pub(in crate::submission) mod extensions;
pub(in crate::submission) mod operator_commands;
pub(in crate::submission) mod senders;
pub(in crate::submission) mod state;
pub(in crate::submission) mod transaction;
pub(in crate::submission) mod vrfy;
