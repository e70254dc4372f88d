//! What was learnt of a host and is held to for a while: rows of the table `host_settings`.

use std::borrow::Cow;

/// Rows that are read: more are not remembered.
pub const HOST_SETTINGS_MAX: usize = 10_000;

/// A limit that a host asked for, or a feature that it fails at and that is left out there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setting {
    /// Connections open at the same time.
    Connections(u32),
    /// Messages a minute.
    MessagesPerMinute(u32),
    /// TLS with classical key exchange only: the host breaks on the larger ClientHello of a post-quantum one.
    NoPostQuantum,
    /// No TLS, where nothing requires it: the host breaks on every handshake, or refuses STARTTLS.
    Plaintext,
    /// Command by command, although PIPELINING (RFC 2920) is offered: replies do not fit the commands.
    NoPipelining,
    /// Large content by DATA, although CHUNKING (RFC 3030) is offered: BDAT is not known, or breaks the connection.
    NoChunking,
    /// Envelope and content not in a single write, although PIPELINING and CHUNKING work one by one.
    NoSingleWrite,
    /// Each message over a connection of its own, command by command: the host gave a reply too many.
    NoReuse,
}

impl Setting {
    /// Whether the host is given less; the others are workarounds.
    pub fn is_limit(self) -> bool {
        matches!(self, Setting::Connections(_) | Setting::MessagesPerMinute(_))
    }

    /// The column `setting`.
    pub fn name(self) -> &'static str {
        match self {
            Setting::Connections(_) => "connections",
            Setting::MessagesPerMinute(_) => "messages_per_minute",
            Setting::NoPostQuantum | Setting::Plaintext => "tls",
            Setting::NoPipelining => "pipelining",
            Setting::NoChunking => "chunking",
            Setting::NoSingleWrite => "single_write",
            Setting::NoReuse => "reuse",
        }
    }

    /// The column `value`, as text.
    pub fn value(self) -> Cow<'static, str> {
        match self {
            Setting::Connections(limit) | Setting::MessagesPerMinute(limit) => limit.to_string().into(),
            Setting::NoPostQuantum => "no-post-quantum".into(),
            Setting::Plaintext => "plaintext".into(),
            Setting::NoPipelining | Setting::NoChunking | Setting::NoSingleWrite | Setting::NoReuse => {
                "off".into()
            }
        }
    }

    /// What the columns `setting` and `value` say; none where they say nothing that is known.
    pub fn from_words(name: &str, value: &str) -> Option<Setting> {
        let limit = || value.parse::<u64>().ok().map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        match (name, value) {
            ("connections", _) => limit().map(Setting::Connections),
            ("messages_per_minute", _) => limit().map(Setting::MessagesPerMinute),
            ("tls", "no-post-quantum") => Some(Setting::NoPostQuantum),
            ("tls", "plaintext") => Some(Setting::Plaintext),
            ("pipelining", "off") => Some(Setting::NoPipelining),
            ("chunking", "off") => Some(Setting::NoChunking),
            ("single_write", "off") => Some(Setting::NoSingleWrite),
            ("reuse", "off") => Some(Setting::NoReuse),
            _ => None,
        }
    }
}

/// A row of `host_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSetting {
    /// The host's name; a relay's with its port.
    pub mx: String,
    /// The columns `setting` and `value`.
    pub setting: Setting,
    /// What made it so; none leaves what is there.
    pub last_reply: Option<String>,
    /// Unix seconds.
    pub changed_at: i64,
    /// When the feature is tried again, Unix seconds. A limit can do without.
    pub retry_at: Option<i64>,
}
