//! `--since`: a time as people say it.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::output::WrongUsage;

const DAY_SECS: i64 = 86_400;

/// Unix seconds of what is given to `--since`.
pub(super) fn when(text: &str, now: i64) -> Result<i64, WrongUsage> {
    since(text, now).ok_or_else(|| {
        WrongUsage(format!("--since {text} is no time; write one such as 2h, today, yesterday, 2026-11-29"))
    })
}

/// Unix seconds.
fn since(text: &str, now: i64) -> Option<i64> {
    let today = now - now.rem_euclid(DAY_SECS);
    match text {
        "today" => return Some(today),
        "yesterday" => return Some(today - DAY_SECS),
        _ => {}
    }
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', DAY_SECS)];
    if let Some((unit, secs)) = units.into_iter().find(|(unit, _)| text.ends_with(*unit)) {
        let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|number| *number >= 0)?;
        return now.checked_sub(number.checked_mul(secs)?);
    }
    // A day is its begin.
    let time: DateTime = text.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_as_people_say_it() {
        // 2026-11-30 14:30:05 UTC.
        let now = 1_796_049_005;
        for (text, before) in [
            ("today", 52_205),
            ("yesterday", 52_205 + DAY_SECS),
            ("2h", 7_200),
            ("90s", 90),
            ("7d", 7 * DAY_SECS),
            ("2026-11-29", 52_205 + DAY_SECS),
            ("2026-11-30 14:00", 1_805),
            ("2026-11-30T14:00:05", 1_800),
        ] {
            assert_eq!(since(text, now), Some(now - before), "{text}");
        }
        for none in ["", "h", "-2h", "2w", "tomorrow", "2026-13-01", "\u{fc}h", "9223372036854775807d"] {
            assert_eq!(since(none, now), None, "{none}");
        }
    }
}
