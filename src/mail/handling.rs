//! What the sender asks of the relays on the way: the MAIL parameters of MT-PRIORITY (RFC 6710), REQUIRETLS (RFC 8689),
//! FUTURERELEASE (RFC 4865) and DELIVERBY (RFC 2852). Times are Unix seconds.

use std::fmt;

/// All of these parameters; the default asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handling {
    /// MT-PRIORITY, as granted.
    pub priority: Priority,
    /// REQUIRETLS was given.
    pub require_tls: bool,
    /// The header says `TLS-Required: No` (RFC 8689 §5), and REQUIRETLS was not given.
    pub tls_optional: bool,
    /// HOLDFOR or HOLDUNTIL.
    pub release: Option<Release>,
    /// BY.
    pub deliver_by: Option<DeliverBy>,
}

impl Handling {
    /// The earliest time of the first attempt, for a message received at `received_at`.
    pub fn released_at(&self, received_at: i64) -> i64 {
        self.release.map_or(received_at, |release| release.at.max(received_at))
    }

    /// The time of `BY=…;R`, where it comes before the end of a lifetime of so many seconds, which begins with the
    /// release.
    pub fn returns_before(&self, received_at: i64, lifetime_secs: i64) -> Option<i64> {
        let end = self.released_at(received_at).saturating_add(lifetime_secs);
        self.returns_at().filter(|by| *by < end)
    }

    /// The time of `BY=…;R`: from then on the message is returned, not delivered.
    pub fn returns_at(&self) -> Option<i64> {
        self.deliver_by.filter(|by| by.returns).map(|by| by.at)
    }

    /// The time of `BY=…;N`: the sender gets a delay warning then.
    pub fn notifies_at(&self) -> Option<i64> {
        self.deliver_by.filter(|by| !by.returns).map(|by| by.at)
    }
}

/// How long mail is tried before it is returned to its sender: `[queue] lifetime` and `bounce_lifetime`, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of messages with a sender.
    pub messages: i64,
    /// Of messages without one: bounces.
    pub bounces: i64,
}

impl Lifetimes {
    /// Of a message with or without a sender.
    pub fn of(&self, is_bounce: bool) -> i64 {
        if is_bounce { self.bounces } else { self.messages }
    }
}

/// A message's priority, -9 to 9; higher is more urgent (RFC 6710 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(i8);

impl Priority {
    /// The priority of a message without MT-PRIORITY.
    pub const NORMAL: Priority = Priority(0);

    /// The highest there is.
    pub const HIGHEST: Priority = Priority(9);
    /// The lowest there is.
    pub const LOWEST: Priority = Priority(-9);

    /// None outside -9 to 9.
    pub fn new(value: i64) -> Option<Priority> {
        i8::try_from(value).ok().filter(|value| (-9..=9).contains(value)).map(Priority)
    }

    /// The nearest priority, for values that a person wrote into the database.
    pub fn clamped(value: i64) -> Priority {
        Priority::new(value.clamp(-9, 9)).unwrap_or_default()
    }

    /// Reads `priority-value` of RFC 6710 §6: no plus sign, no leading zero, no `-0`.
    pub fn from_word(word: &str) -> Option<Priority> {
        let digit = word.strip_prefix('-').unwrap_or(word);
        let fits = word == "0" || (digit.len() == 1 && matches!(digit.as_bytes()[0], b'1'..=b'9'));
        fits.then(|| word.parse().ok()).flatten().and_then(Priority::new)
    }

    /// The number.
    pub fn value(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// FUTURERELEASE: when the message is released (RFC 4865).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Unix seconds.
    pub at: i64,
    /// The parameter as given, which a report repeats.
    pub asked: Hold,
}

/// HOLDFOR or HOLDUNTIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// HOLDFOR, seconds.
    For(u32),
    /// HOLDUNTIL, Unix seconds.
    Until(i64),
}

/// `for;3600` or `until;2026-11-21T08:00:00Z`: the database and a report's Future-Release-Request (RFC 4865 §7).
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::For(secs) => write!(f, "for;{secs}"),
            Hold::Until(at) => write!(f, "until;{}", rfc3339(*at)),
        }
    }
}

impl Hold {
    /// Reads what `Display` writes.
    pub fn from_word(word: &str) -> Option<Hold> {
        match word.split_once(';')? {
            ("for", secs) => secs.parse().ok().map(Hold::For),
            ("until", time) => time.parse::<jiff::Timestamp>().ok().map(|time| Hold::Until(time.as_second())),
            _ => None,
        }
    }
}

/// Unix seconds in the format of RFC 3339, in UTC.
pub fn rfc3339(unix_secs: i64) -> String {
    jiff::Timestamp::from_second(unix_secs).unwrap_or_default().to_string()
}

/// BY (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverBy {
    /// Unix seconds.
    pub at: i64,
    /// `R`: the message is returned when the time is over. Otherwise `N`: the sender is warned, and delivery goes on.
    pub returns: bool,
    /// `T`: each relay reports that it passed the message on.
    pub trace: bool,
}

impl DeliverBy {
    /// `R`, `N`, `RT` or `NT`: the part of BY after the semicolon.
    pub fn mode(&self) -> &'static str {
        match (self.returns, self.trace) {
            (true, false) => "R",
            (true, true) => "RT",
            (false, false) => "N",
            (false, true) => "NT",
        }
    }

    /// Reads what [`DeliverBy::mode`] writes, in any case: (returns, trace).
    pub fn read_mode(word: &str) -> Option<(bool, bool)> {
        match word.to_ascii_uppercase().as_str() {
            "R" => Some((true, false)),
            "RT" => Some((true, true)),
            "N" => Some((false, false)),
            "NT" => Some((false, true)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_one_digit_perhaps_negative() {
        for value in -9..=9 {
            let word = value.to_string();
            assert_eq!(Priority::from_word(&word), Priority::new(value), "{word}");
            assert_eq!(Priority::from_word(&word).unwrap().to_string(), word);
        }
        for word in ["", "-", "-0", "00", "+1", "10", "-10", "1.0", "x", "٣"] {
            assert_eq!(Priority::from_word(word), None, "{word}");
        }
        assert_eq!(Priority::clamped(300), Priority(9));
    }

    #[test]
    fn the_lifetime_counts_from_the_release_and_ends_with_the_time_of_r() {
        let held = Release { at: 5_000, asked: Hold::For(4_000) };
        let by = |at, returns| Some(DeliverBy { at, returns, trace: false });
        let handling = Handling::default();
        let ends = |handling: Handling| (handling.released_at(1_000), handling.returns_before(1_000, 100));
        assert_eq!(ends(handling), (1_000, None));
        let handling = Handling { release: Some(held), ..Handling::default() };
        assert_eq!(ends(handling), (5_000, None));
        assert_eq!(ends(Handling { deliver_by: by(5_010, true), ..handling }), (5_000, Some(5_010)));
        assert_eq!(ends(Handling { deliver_by: by(5_010, false), ..handling }), (5_000, None));
        assert_eq!(ends(Handling { deliver_by: by(9_999, true), ..handling }), (5_000, None));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for hold in [Hold::For(1), Hold::Until(1_795_262_400)] {
            assert_eq!(Hold::from_word(&hold.to_string()), Some(hold));
        }
        assert_eq!(Hold::Until(1_795_262_400).to_string(), "until;2026-11-21T12:00:00Z");
        for mode in ["R", "N", "RT", "NT"] {
            let (returns, trace) = DeliverBy::read_mode(mode).unwrap();
            assert_eq!(DeliverBy { at: 0, returns, trace }.mode(), mode);
        }
        assert_eq!(DeliverBy::read_mode("T"), None);
    }
}
