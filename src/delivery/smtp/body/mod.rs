//! The content of a message as the next host is given it: in pieces, dot-stuffed or in chunks (RFC 3030).

pub(in crate::delivery) mod chunks;
pub(in crate::delivery) mod content;
pub(in crate::delivery) mod dot_stuffing;
