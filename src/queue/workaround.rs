//! What a host gets wrong and how we go round it: rows of the table `workarounds`.

/// Rows that are read: more are not remembered.
pub const WORKAROUNDS_MAX: usize = 10_000;

/// A way round something that a host gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workaround {
    /// TLS with classical key exchange only: it breaks on the larger ClientHello of a post-quantum one.
    Classical,
    /// No TLS at all, where nothing requires it: it breaks on every handshake, or refuses STARTTLS.
    Clear,
    /// Command by command (RFC 2920 not used although it is offered): replies do not fit batches.
    LockStep,
    /// Large content by DATA, as if CHUNKING were not offered: BDAT is not known, or breaks the connection.
    Data,
}

impl Workaround {
    /// The columns `what` and `value`.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Workaround::Classical => ("tls", "classical"),
            Workaround::Clear => ("tls", "clear"),
            Workaround::LockStep => ("pipelining", "off"),
            Workaround::Data => ("bdat", "off"),
        }
    }

    /// What the columns `what` and `value` mean; none where somebody wrote what is not known.
    pub fn from_words(what: &str, value: &str) -> Option<Workaround> {
        let all = [Workaround::Classical, Workaround::Clear, Workaround::LockStep, Workaround::Data];
        all.into_iter().find(|workaround| workaround.words() == (what, value))
    }
}

/// A row of `workarounds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkaroundRow {
    /// The host's name; a relay's with its port.
    pub mx: String,
    /// Which.
    pub workaround: Workaround,
    /// What went wrong, in the host's words or ours.
    pub last_reply: Option<String>,
    /// When it was found, Unix seconds.
    pub found_at: i64,
    /// When it is done without again, to see whether that works now, Unix seconds.
    pub retry_at: i64,
}
