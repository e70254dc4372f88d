//! Text for people: dates, and foreign words without control characters.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;

/// UTF-8 without control characters, on one line: a line end as `\n`, every other byte as `\xNN`. What a host
/// says is stored, logged and quoted in bounces: it must not end a line there or move a terminal's cursor.
pub fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(char::is_control)
    {
        return text.into();
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                c if c.is_control() => push_hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
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

/// The text without its control characters, and at most so many characters of it.
pub fn without_controls(text: &str, chars_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(chars_max).collect()
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
