//! Where a recipient's mail goes: routes, MX records (RFC 5321 §5.1), DNS, the addresses it leaves from.

pub mod dns;
pub mod lookup;
pub mod own_addresses;
pub mod plan;
pub mod source_addresses;
