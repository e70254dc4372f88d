//! What is true of all rooms together.

mod clients;
mod crash;
mod install;
mod killed;
mod log_forms;
pub mod mails;
mod packages;
mod power_cut;
mod stderr;
mod stopping;
