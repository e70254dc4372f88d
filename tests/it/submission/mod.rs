//! Submission end to end: what clients may say, and what they are answered.

mod abuse;
mod atrn;
mod certificates;
mod crowds;
mod etrn;
mod exhaustion;
mod extensions;
mod guessing;
mod log_lines;
mod mechanisms;
mod operators;
mod quotas;
mod reference;
pub mod unix_socket;
mod withdrawn;
