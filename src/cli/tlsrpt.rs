//! `postrider tlsrpt show DOMAIN`: the report on TLS that the domain would get, or got (RFC 8460).

use std::path::Path;

use anyhow::{Context as _, bail};
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::output::{WrongUsage, print, seen_json};
use crate::config;
use crate::delivery::report::tls_reports::head;
use crate::kit::text::day as day_text;
use crate::mail::Domain;
use crate::mail::tlsrpt::day_of;
use crate::mail::tlsrpt::report::json;
use crate::queue::admin::Admin;

/// `postrider tlsrpt`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Print the report on one day's sessions as it would be sent, whether anybody asks for it or not
    Show {
        /// The recipients' domain, or the name of a smarthost
        domain: String,
        /// The day in UTC, such as 2026-11-29 (default: today so far)
        #[arg(long, value_name = "DATE")]
        day: Option<String>,
    },
}

/// Runs `postrider tlsrpt`.
///
/// # Errors
/// There is no queue, or nothing was counted for the domain on that day.
pub fn run(config: Option<&Path>, verb: &Verb) -> anyhow::Result<()> {
    let Verb::Show { domain, day } = verb;
    let settings = config::load(config)?.settings;
    let Ok(domain) = Domain::parse(domain) else {
        return Err(WrongUsage(format!("{domain} is not a domain; write one such as example.com")).into());
    };
    let day = match day {
        None => day_of(jiff::Timestamp::now().as_second()),
        Some(text) => match text.parse::<Date>().map(|date| date.to_zoned(TimeZone::UTC)) {
            Ok(Ok(begin)) => begin.timestamp().as_second(),
            _ => return Err(WrongUsage(format!("{text} is not a day; write one such as 2026-11-29")).into()),
        },
    };
    let queue = Admin::to_read(&settings.queue.path)?;
    let rows = queue.tls_results(day, domain.as_str()).context("the queue cannot be read")?;
    if rows.is_empty() {
        bail!(
            "no session with a host of {domain} was counted on {} (UTC); `postrider sql -c 'SELECT * FROM tls_sessions'` \
             shows what was",
            day_text(day)
        );
    }
    print(&(seen_json(&json(&head(&settings.delivery, domain.as_str(), day), &rows)) + "\n"))
}
