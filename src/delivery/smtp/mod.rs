//! One conversation with one host: dial, TLS, login, and the transactions of an SMTP client (RFC 5321).

pub mod body;
pub(in crate::delivery) mod capabilities;
pub(in crate::delivery) mod commands;
pub mod connection;
pub(in crate::delivery) mod connector;
pub(in crate::delivery) mod dial;
pub mod ehlo_names;
pub mod endpoint;
pub(in crate::delivery) mod login;
pub mod outgoing;
pub(in crate::delivery) mod pipeline;
pub mod reply_class;
pub(in crate::delivery) mod reply_reader;
pub(in crate::delivery) mod timeouts;
pub mod tls;
pub mod transaction;
pub(in crate::delivery) mod wire;
