//! What is answered to a command, and what follows from it. Pure.
//!
//! `dispatch` takes a command to the file that decides about it; all of them go by the [`policy::PolicyContext`] and
//! lead from one [`state::State`] to the next.

pub(in crate::submission) mod aliases;
pub(in crate::submission) mod atrn;
pub(in crate::submission) mod dispatch;
mod etrn;
mod extensions;
pub(in crate::submission) mod operator_commands;
pub(in crate::submission) mod policy;
pub(in crate::submission) mod recipients;
mod senders;
pub(in crate::submission) mod state;
mod transaction;
mod vrfy;
