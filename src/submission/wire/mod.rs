//! The connection: lines in, replies out, in the clear or over TLS; and the computing of handshakes.

pub mod certificate;
pub(in crate::submission) mod connection;
pub(in crate::submission) mod handshake;
pub(in crate::submission) mod stream;
pub mod tls;
