//! What a client may do too often: bad commands, failed logins, messages an hour.

pub(in crate::submission) mod errors;
pub(in crate::submission) mod failures;
pub(in crate::submission) mod rates;
pub(in crate::submission) mod window;
