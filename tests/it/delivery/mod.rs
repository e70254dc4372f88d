//! Delivery end to end, and its connection and its resolver alone.

mod answers;
pub mod bdat;
mod binary;
mod capabilities_missing;
pub mod connection;
pub mod dkim;
mod dns;
pub mod dns_corners;
mod dns_system;
mod dnssec;
mod hostile;
mod link_local;
mod logins;
mod loops;
mod mx_lists;
mod parsers;
mod prohibited;
mod promises;
mod refused_logins;
mod reports;
mod reuse;
mod signed;
mod single_write;
mod sources;
mod surplus;
mod tls_policy;
mod workarounds;
