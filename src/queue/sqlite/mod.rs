//! The queue in SQLite: all SQL, and all that is SQLite's.
//!
//! The writer's connection is the only one of the relay that writes, with `synchronous=FULL` in WAL mode; readers have
//! connections of their own. What an operation comes to is in `store`, `accept`, `settle` and `kick`; the statements of
//! each table that is written rarely stand together, in a file with its name.

mod accept;
pub(super) mod admin;
mod backoffs;
mod backup;
#[cfg(test)]
pub(super) mod by_hand;
mod checkpoints;
mod clock_set_back;
mod counts;
mod dialogues;
mod due;
mod failure;
mod files;
mod filter;
mod foreign;
mod gauges;
mod host_settings;
mod in_place;
mod integrity;
mod kick;
mod left_log;
mod locks;
mod logins;
mod message;
mod migrate;
mod odd;
mod open;
mod operator_log;
mod purge;
mod readers;
mod recover;
mod replies;
mod reports;
mod rescue;
mod restore;
mod routes;
mod settle;
pub(super) mod shell;
mod space;
mod store;
mod sts_policies;
mod suspensions;
mod sweep;
#[cfg(test)]
mod tests;
mod tls_reports;
mod tls_results;
mod wal;

pub(super) use backup::back_up;
pub(super) use open::Database;
pub(super) use recover::recover;
pub(super) use restore::restore;
