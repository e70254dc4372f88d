//! The integration tests: real sockets on free ports, one binary, so that they are linked once.

#![allow(unreachable_pub, reason = "a test binary exports nothing; pub is what the other modules use")]

mod answers;
mod atrn;
mod bdat;
mod binary;
mod cli;
mod client;
mod clients;
mod command_line;
mod config;
mod connection;
mod crash;
mod db;
mod delivery;
mod dialogue;
mod dns;
mod dns_corners;
mod explain;
mod extensions;
mod fakemx;
mod hostile;
mod house;
mod limits;
mod logins;
mod mails;
mod mechanisms;
mod one_go;
mod operation;
mod operators;
mod parsers;
mod questions;
mod reference;
mod relay;
mod reports;
mod retries;
mod reuse;
mod sink;
mod sources;
mod unable;
mod unwelcome;
mod workarounds;
