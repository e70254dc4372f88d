//! Text for people: dates, and foreign words in which every character can be seen.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;

/// Whether a character cannot be seen, or makes others appear where they do not stand: controls, format characters
/// (Unicode's Cf: directions of writing, joiners, tags), separators of lines and paragraphs (Zl, Zp), fillers and
/// variation selectors. A text with them reads as another one.
pub fn is_unseen(c: char) -> bool {
    match c {
        ' '..='~' => false,
        _ if c.is_control() => true,
        _ => UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c)),
    }
}

/// Cf, Zl and Zp of Unicode 17, and what else is Default_Ignorable_Code_Point (UAX #44), assigned or not.
const UNSEEN: [(char, char); 25] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// UTF-8 in which every character can be seen, on one line: a line end as `\n`, every byte of another one as `\xNN`.
/// What a host says is stored, logged and quoted in bounces: it must not end a line there, move a terminal's cursor or
/// read as something else.
pub fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(is_unseen)
    {
        return text.into();
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                c if is_unseen(c) => push_hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out.into()
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02X}");
    }
}

/// The text without what cannot be seen, and at most so many characters of it.
pub fn without_controls(text: &str, chars_max: usize) -> String {
    text.chars().filter(|c| !is_unseen(*c)).take(chars_max).collect()
}

/// Unix seconds as `2026-01-02 03:04:05`, in UTC. A time outside the calendar (9999 is its last
/// year) is shown as the end of the calendar that is nearest.
pub fn utc(unix_secs: i64) -> String {
    timestamp(unix_secs).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Unix seconds as `2026-01-02`, in UTC.
pub fn day(unix_secs: i64) -> String {
    timestamp(unix_secs).strftime("%Y-%m-%d").to_string()
}

/// Unix seconds as a date field has them (RFC 5322 §3.3), in UTC; a time before 1970 is shown as 1970.
pub fn date_field(unix_secs: i64) -> String {
    timestamp(unix_secs.max(0)).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

fn timestamp(unix_secs: i64) -> Timestamp {
    let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(unix_secs.clamp(first, last)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_ends_no_line_and_moves_no_cursor() {
        assert_eq!(printable("plain Grüße".as_bytes()), "plain Grüße");
        assert!(matches!(printable(b"plain"), Cow::Borrowed("plain")));
        assert_eq!(printable(b"550 \x1b[2Jno\xc2\x9bx\r\ny"), "550 \\x1B[2Jno\\xC2\\x9Bx\\x0D\\ny");
        assert_eq!(printable(b"\xff \xe2\x82"), "\\xFF \\xE2\\x82");
        assert_eq!(without_controls("a\r\nb\u{9b}c\0def", 4), "abcd");
    }

    /// Of each kind one that somebody used to deceive, and both ends of a range.
    #[test]
    fn what_cannot_be_seen_is_shown_as_bytes() {
        for unseen in [
            '\u{202e}',
            '\u{202a}',
            '\u{2066}',
            '\u{2069}',
            '\u{200e}',
            '\u{200f}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{2060}',
            '\u{feff}',
            '\u{ad}',
            '\u{2028}',
            '\u{2029}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{3164}',
            '\u{180e}',
            '\u{fff9}',
            '\u{85}',
            '\u{7f}',
            '\u{0}',
        ] {
            let text = format!("a{unseen}b");
            let shown = printable(text.as_bytes());
            assert!(
                is_unseen(unseen) && shown.starts_with("a\\x") && shown.is_ascii(),
                "{unseen:?}: {shown}"
            );
            assert_eq!(without_controls(&text, 9), "ab");
        }
        for seen in "aé\u{3b1}\u{05d0}\u{0627}\u{4f8b}\u{301}\u{a0}\u{3000}\u{20ac}\u{1f600}\u{fffd}".chars()
        {
            assert!(!is_unseen(seen), "{seen:?}");
        }
        assert_eq!(printable("250 \u{202e}ko\u{202c}".as_bytes()), "250 \\xE2\\x80\\xAEko\\xE2\\x80\\xAC");
        assert!(UNSEEN.windows(2).all(|pair| pair[0].1 < pair[1].0), "in order");
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(utc(1_767_323_045), "2026-01-02 03:04:05");
        assert_eq!(day(1_767_323_045), "2026-01-02");
        assert_eq!(date_field(1_767_323_045), "Fri, 02 Jan 2026 03:04:05 +0000");
        assert_eq!(date_field(-1), "Thu, 01 Jan 1970 00:00:00 +0000");
    }

    #[test]
    fn a_time_outside_the_calendar_is_shown_all_the_same() {
        assert!(utc(i64::MAX).starts_with("9999-12-3"), "{}", utc(i64::MAX));
        assert!(utc(i64::MIN).starts_with("-9999-01-0"), "{}", utc(i64::MIN));
        assert!(date_field(i64::MAX).contains(" 9999 "));
    }
}
