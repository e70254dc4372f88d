//! What a client may do only so often, or have only so much of: bad commands, failed logins, recipients an hour, bytes
//! in the queue, ETRN, sessions at once.

pub(in crate::submission) mod bad_commands;
pub(in crate::submission) mod etrn_requests;
pub(in crate::submission) mod lockouts;
pub(in crate::submission) mod login_failures;
pub(in crate::submission) mod networks;
pub(in crate::submission) mod quotas;
pub(in crate::submission) mod rates;
pub(in crate::submission) mod sessions;
mod shares;
