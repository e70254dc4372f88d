//! What the tests stand on: the relay, the hosts it delivers to, its clients, its database, its log.

pub mod certificate_files;
pub mod client;
pub mod db;
pub mod dialogue;
pub mod dkim;
pub mod dns_server;
pub mod dnssec;
pub mod fakemx;
pub mod http_client;
pub mod https_server;
pub mod log;
pub mod milter;
pub mod namespaces;
pub mod notified;
pub mod relay;
pub mod sender;
pub mod sink;
pub mod skipped;
pub mod ten_questions;
pub mod tls_client;
pub mod world;
