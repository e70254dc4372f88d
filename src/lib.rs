//! Postrider: an outbound mail relay with a durable SQLite queue that explains itself.
//!
//! A message walks through the rooms in this order: [`submission`] takes it from an
//! application and hands it to [`queue`], which makes it durable; [`scheduler`] says when
//! it is tried and [`delivery`] how; what came of it goes back to [`queue`].
//! ARCHITECTURE.md tells the same on two pages.

pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod kit;
pub mod mail;
pub mod maillog;
pub mod monitoring;
pub mod queue;
mod sasl;
pub mod scheduler;
#[cfg(test)]
mod simulation;
pub mod submission;
