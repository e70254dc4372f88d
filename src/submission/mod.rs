//! Submission: hostile bytes end here.

pub mod users;
