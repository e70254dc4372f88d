//! One conversation with one host: dial, TLS, login, and the transactions of an SMTP client (RFC 5321).

pub mod body;
pub(in crate::delivery) mod capabilities;
pub(in crate::delivery) mod commands;
pub mod connection;
pub(in crate::delivery) mod connector;
pub(in crate::delivery) mod dial;
pub(in crate::delivery) mod dialogue;
pub mod ehlo_names;
pub mod endpoint;
pub mod failure;
pub(in crate::delivery) mod handover;
pub(in crate::delivery) mod login;
pub mod outgoing;
pub mod pipeline;
pub mod probe;
pub mod profile;
pub(in crate::delivery) mod reply_class;
pub mod reply_reader;
pub mod stop;
pub mod timeouts;
pub mod tls;
pub mod transaction;
pub mod wire;
