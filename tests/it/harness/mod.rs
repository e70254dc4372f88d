//! What the tests stand on: the relay, the hosts it delivers to, its clients, its database.

pub mod client;
pub mod db;
pub mod dialogue;
pub mod dns_server;
pub mod fakemx;
pub mod relay;
pub mod sink;
