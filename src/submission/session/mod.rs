//! Sessions: listeners accept connections, the pool runs them, and the loop of each one acts.

pub(in crate::submission) mod conversation;
pub(in crate::submission) mod listener;
pub(in crate::submission) mod login;
pub(in crate::submission) mod pool;
pub(in crate::submission) mod transfer;
