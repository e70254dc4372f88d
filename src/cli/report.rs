//! `postrider report`: what went through the relay since a time, and why mail came back.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::output::{json_line, print};
use super::queue::age;
use super::since;
use super::table::{Look, table};
use crate::clock::Clock;
use crate::config;
use crate::mail::mark_of;
use crate::queue::admin::{Admin, GroupBy, Traffic, TrafficLine};

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
    let since = since::when(&args.since, Clock::system().now())?;
    let by = args.by.map(|by| match by {
        By::User => GroupBy::User,
        By::Domain => GroupBy::Domain,
        By::Tag => GroupBy::Tag,
        By::Host => GroupBy::Host,
    });
    let traffic = Admin::to_read(&config::queue_path(config)?)?.traffic(since, by, args.limit)?;
    if args.json {
        return print(&json_line(&traffic));
    }
    print(&text(&traffic, args.by, Look::of_stdout()))
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
    use crate::queue::admin::Reason;

    #[test]
    fn what_is_left_out_is_said_of_groups_and_of_reasons() {
        let line = |name: &str| TrafficLine { name: Some(name.to_owned()), ..TrafficLine::default() };
        let reason = Reason {
            recipients: 1,
            state: "failed".to_owned(),
            reply_source: Some("local".to_owned()),
            reply: "554 no".to_owned(),
        };
        let mut traffic = Traffic {
            since: String::new(),
            total: line("all"),
            own: TrafficLine::default(),
            groups: vec![line("a"), line("b")],
            groups_total: 7,
            reasons: vec![reason],
            reasons_total: 3,
        };
        let some = text(&traffic, Some(By::User), Look::default());
        for words in ["(the first 2 of 7; more with --limit)", "(the first 1 of 3; ", "(local) 554 no"] {
            assert!(some.contains(words), "{words}: {some}");
        }
        (traffic.groups_total, traffic.reasons_total) = (2, 1);
        let all = text(&traffic, Some(By::User), Look::default());
        assert!(!all.contains("--limit"), "{all}");
    }
}
