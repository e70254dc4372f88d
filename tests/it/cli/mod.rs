//! The command line.

mod against_queue;
mod bulk;
mod command_line;
mod dkim;
mod doctor;
mod explain;
mod found;
mod gone_readers;
mod health;
mod mistakes;
mod queue;
mod sendmail;
mod spf;
mod sql;
mod ten_questions;
mod top;
