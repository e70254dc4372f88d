//! What is suspended, for the status page; nothing where nothing is.

use crate::queue::admin::{SuspendedBy, SuspensionLine};

use super::html::Html;
use super::status::rest;

/// Suspensions that are shown.
const SHOWN_MAX: usize = 10;

/// A list of them, and how much waits behind each.
pub(super) fn section(html: &mut Html, rows: &[SuspensionLine]) {
    if rows.is_empty() {
        return;
    }
    html.raw("<section><h2>Suspended</h2><ul>");
    for row in rows.iter().take(SHOWN_MAX) {
        html.raw("<li><div class=\"row\">").classed("name", &format!("{} {}", row.kind, row.value));
        html.raw("<span class=\"count\">").number(row.recipients.max(0).unsigned_abs());
        html.raw("</span></div>");
        if let Some(reason) = &row.reason {
            html.raw("<p class=\"said\">").text(reason).raw("</p>");
        }
        let until = row.until.as_ref().map_or_else(|| "resumed".to_owned(), |until| format!("{until} UTC"));
        let since = row.since.as_deref().unwrap_or("-");
        let expires =
            row.expires.as_ref().map_or_else(String::new, |at| format!(" \u{b7} the first expires {at} UTC"));
        let words = format!("since {since} UTC \u{b7} until {until} \u{b7} by {}{expires}", row.login);
        html.raw("<p class=\"small\">").text(&words).raw("</p></li>");
    }
    html.raw("</ul>");
    rest(html, rows.len().min(SHOWN_MAX), rows.len(), "suspension");
    html.raw("</section>");
}

/// Why one recipient waits.
pub(super) fn why(html: &mut Html, suspended: &[SuspendedBy]) {
    for one in suspended {
        html.raw("<p class=\"said\">suspended: ").text(&one.words()).raw("</p>");
    }
}
