//! `postrider report`: what went through the relay since a time, and why mail came back.

use std::path::Path;

use clap::{Args, ValueEnum};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::output::{WrongUsage, print, seen_json};
use super::queue::age;
use super::table::{Look, table};
use crate::clock::Clock;
use crate::config;
use crate::mail::mark_of;
use crate::queue::admin::{Admin, GroupBy, Traffic, TrafficLine};

const DAY_SECS: i64 = 86_400;
/// Those that add up come first.
const HEAD: [&str; 10] = [
    "",
    "ACCEPTED",
    "DELIVERED",
    "WAITING",
    "BOUNCED",
    "EXPIRED",
    "REMOVED",
    "DEFERRED",
    "HALF IN",
    "95% IN",
];

/// Arguments of `postrider report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// From when on: 2h, 30m, 7d; today, yesterday (from its begin); 2026-11-29, or '2026-11-29 14:00' (all in UTC)
    #[arg(long, default_value = "today")]
    since: String,
    /// A line for each user, domain of recipients, tag, or host that was asked last
    #[arg(long)]
    by: Option<By>,
    /// At most this many of them, and as many reasons
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    User,
    Domain,
    Tag,
    Host,
}

/// Runs `postrider report`.
///
/// # Errors
/// There is no queue, or the time is none.
pub fn run(config: Option<&Path>, args: &ReportArgs) -> anyhow::Result<()> {
    let since = since_when(&args.since, Clock::system().now())?;
    let by = args.by.map(|by| match by {
        By::User => GroupBy::User,
        By::Domain => GroupBy::Domain,
        By::Tag => GroupBy::Tag,
        By::Host => GroupBy::Host,
    });
    let traffic = Admin::to_read(&config::queue_path(config)?)?.traffic(since, by, args.limit)?;
    if args.json {
        return print(&(seen_json(&serde_json::to_string(&traffic)?) + "\n"));
    }
    print(&text(&traffic, args.by, Look::of_stdout()))
}

/// Unix seconds of what is given to `--since`.
pub(super) fn since_when(text: &str, now: i64) -> Result<i64, WrongUsage> {
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

fn text(traffic: &Traffic, by: Option<By>, look: Look) -> String {
    let Traffic { since, total, own, groups, groups_total, reasons, reasons_total } = traffic;
    let mut text = format!("since {since} UTC, recipients:\n");
    let mut head = HEAD;
    head[0] = match by {
        Some(By::User) => "USER",
        Some(By::Domain) => "DOMAIN",
        Some(By::Tag) => "TAG",
        Some(By::Host) => "HOST",
        None => "",
    };
    let mut rows: Vec<Vec<String>> =
        groups.iter().map(|line| cells(line.name.as_deref().unwrap_or("-"), line)).collect();
    rows.push(cells("all", total));
    if *own != TrafficLine::default() {
        rows.push(cells("(own reports)", own));
    }
    text += &table(look, &head, rows);
    text += &more(groups.len(), *groups_total);
    if total.waited_before() > 0 {
        text += &format!("({} waited already)\n", total.waited_before());
    }
    if !reasons.is_empty() {
        text += "why mail was put off or came back:\n";
        let rows = reasons.iter().map(|reason| {
            let whose = mark_of(reason.reply_source.as_deref().unwrap_or_default());
            vec![reason.recipients.to_string(), reason.state.clone(), format!("{whose}{}", reason.reply)]
        });
        text += &table(look, &["RECIPIENTS", "STATE", "REPLY"], rows.collect());
        text += &more(reasons.len(), *reasons_total);
    }
    text
}

fn more(shown: usize, total: usize) -> String {
    if shown < total { format!("(the first {shown} of {total}; more with --limit)\n") } else { String::new() }
}

fn cells(name: &str, line: &TrafficLine) -> Vec<String> {
    let took = |secs: Option<u32>| secs.map_or_else(|| "-".to_owned(), |secs| age(secs.into()));
    let count = |count: u64| count.to_string();
    vec![
        name.to_owned(),
        count(line.accepted),
        count(line.delivered),
        count(line.waiting),
        count(line.bounced),
        count(line.expired),
        count(line.removed),
        count(line.deferred),
        took(line.median_secs),
        took(line.p95_secs),
    ]
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
