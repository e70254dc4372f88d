//! The queue in SQLite: all SQL and all that is SQLite's.

pub(in crate::queue) mod admin;
#[cfg(test)]
pub(in crate::queue) mod by_hand;
pub(in crate::queue) mod counts;
pub(in crate::queue) mod migrate;
pub(in crate::queue) mod open;
pub(in crate::queue) mod purge;
pub(in crate::queue) mod read;
pub(in crate::queue) mod reports;
pub(in crate::queue) mod routes;
pub(in crate::queue) mod space;
pub(in crate::queue) mod store;
pub(in crate::queue) mod sweep;
