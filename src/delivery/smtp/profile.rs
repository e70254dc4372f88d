//! How a host is spoken to: which of the features that it offers are used.
//!
//! What the host itself says is in `capabilities.rs` and never changes; this is our choice. `host/profile.rs` has what
//! is left out where something fails, and what is learnt from that.

/// Which features are used where the host offers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The most that TLS may be, where the route asks for any.
    pub tls: TlsLevel,
    /// Commands go out together (RFC 2920); otherwise one by one.
    pub pipelining: bool,
    /// Large content goes by BDAT (RFC 3030); otherwise only content that has no other way.
    pub chunking: bool,
    /// Small content goes out together with its commands, in one write, where both of the others are used.
    pub single_write: bool,
    /// Further messages go over the same connection; otherwise each has one of its own.
    pub reuse: bool,
}

impl Profile {
    /// Everything is used.
    pub const FULL: Profile =
        Profile { tls: TlsLevel::Full, pipelining: true, chunking: true, single_write: true, reuse: true };
    /// For a host that was seen to give a reply too many: a connection for each message, closed with QUIT, on which
    /// nothing is asked before the last answer is there, and 354 comes before the content.
    pub const ONE_BY_ONE: Profile =
        Profile { pipelining: false, chunking: false, single_write: false, reuse: false, ..Profile::FULL };
}

/// How TLS is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsLevel {
    /// Not at all.
    Plaintext,
    /// With classical key exchange only, in a smaller ClientHello.
    NoPostQuantum,
    /// With a post-quantum key share.
    Full,
}
