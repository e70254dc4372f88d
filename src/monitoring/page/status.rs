//! `/`: how it stands with the relay, on one page. Pure: from what was counted to HTML.

use crate::kit::text::utc;
use crate::mail::mark_of;
use crate::queue::admin::{HeldCount, TlsFailure};
use crate::queue::{HostSetting, Setting};

use super::html::{Html, counted, grouped, span};
use super::plot::plot;
use super::snapshot::{HOSTS_MAX, LaneLine, MINUTES, Snapshot, Waiting};
use super::suspended;

/// Kinds of replies to clients that are shown.
const REFUSED_MAX: usize = 10;

/// All that is on the page.
pub(super) struct View<'a> {
    pub(super) hostname: &'a str,
    /// As `/readyz` has it.
    pub(super) state: Result<(), String>,
    pub(super) snapshot: Option<&'a Snapshot>,
    /// Why nothing newer could be counted.
    pub(super) error: Option<&'a str>,
    /// Where the config is from, which it is since the start, and when it was loaded.
    pub(super) config: (&'a str, u32, i64),
    pub(super) now: i64,
    /// Connections to hosts.
    pub(super) connections: usize,
    /// Of each lane that is shown: connections busy, and how many there may be.
    pub(super) busy: &'a [(usize, usize)],
    /// What clients were refused since the start: codes, and how often.
    pub(super) refused: &'a [(String, u64)],
}

/// What stands between the tags of the body.
pub(super) fn body(view: &View<'_>) -> Html {
    let mut html = Html::default();
    html.raw("<header><h1>").text(view.hostname).raw("</h1><p class=\"state ");
    match &view.state {
        Ok(()) => html.raw("ok\">").text(crate::monitoring::readiness::READY),
        Err(why) => html.raw("bad\">").text(why),
    };
    html.raw("</p></header><main>");
    if let Some(error) = view.error {
        html.raw("<section><p class=\"bad\">the queue could not be counted: ")
            .text(error)
            .raw("</p></section>");
    }
    match view.snapshot {
        Some(snapshot) => counted_parts(&mut html, snapshot, view),
        None if view.error.is_none() => {
            html.raw(
                "<section><p>The queue is being counted; this page loads again in a moment.</p></section>",
            );
        }
        None => {}
    }
    html.raw("</main>");
    footer(&mut html, view);
    html
}

fn counted_parts(html: &mut Html, snapshot: &Snapshot, view: &View<'_>) {
    let now = view.now;
    tiles(html, snapshot, now);
    hour(html, snapshot, now);
    suspended::section(html, &snapshot.suspensions);
    lanes(html, &snapshot.waiting, view);
    failures(html, snapshot);
    html.raw("<div class=\"pair\">");
    hosts(html, "Hosts throttled", "no host is given less", &snapshot.hosts, Setting::is_limit, now);
    let is_workaround = |setting: Setting| !setting.is_limit();
    hosts(html, "Workarounds", "every host works as it says", &snapshot.hosts, is_workaround, now);
    html.raw("</div>");
    policies(html, snapshot);
    tls_failures(html, &snapshot.tls_failures);
    refused(html, view.refused);
    oldest(html, snapshot);
}

fn tiles(html: &mut Html, snapshot: &Snapshot, now: i64) {
    let waiting = &snapshot.waiting;
    let tile = |html: &mut Html, number: &str, words: &str| {
        html.raw("<div><b>").text(number).raw("</b><span>").text(words).raw("</span></div>");
    };
    html.raw("<section class=\"tiles\">");
    let messages = counted(snapshot.messages, "message");
    tile(html, &super::html::grouped(waiting.recipients), &format!("recipients wait, in {messages}"));
    tile(html, &super::html::grouped(waiting.due), "due now");
    tile(html, &super::html::grouped(waiting.backing_off), "due, their lane backs off");
    let mut held = format!("held{}", HeldCount::all_words(&waiting.held_by));
    if waiting.to_fetch > 0 {
        held += &format!("; {} to be fetched", super::html::grouped(waiting.to_fetch));
    }
    tile(html, &super::html::grouped(waiting.held), &held);
    if waiting.suspended > 0 {
        tile(html, &super::html::grouped(waiting.suspended), "suspended");
    }
    let oldest = snapshot.waiting.lanes.iter().map(|lane| lane.oldest).min();
    let oldest = snapshot.oldest.first().map(|line| line.age).or(oldest.map(|at| now - at));
    tile(html, &oldest.map_or_else(|| "-".to_owned(), span), "the oldest has waited");
    html.raw("</section>");
}

fn hour(html: &mut Html, snapshot: &Snapshot, now: i64) {
    let this = now.div_euclid(60);
    let series = |value: fn(&crate::queue::admin::MinuteCount) -> u64| -> Vec<u64> {
        let of = |minute| snapshot.minutes.iter().find(|found| found.minute == minute).map_or(0, value);
        (this - MINUTES + 1..=this).map(of).collect()
    };
    html.raw("<section><h2>The last hour</h2><div class=\"plots\">");
    plot(html, "recipients accepted, own reports too", &series(|minute| minute.accepted), false);
    plot(html, "attempts delivered", &series(|minute| minute.delivered), false);
    plot(html, "attempts deferred or refused", &series(|minute| minute.deferred + minute.failed), true);
    html.raw("</div></section>");
}

/// How much of `all` a part is, as a bar.
fn bar(html: &mut Html, part: u64, all: u64, is_hot: bool) {
    html.raw(if is_hot { "<svg class=\"bar hot\"" } else { "<svg class=\"bar\"" });
    html.raw(" aria-hidden=\"true\" viewBox=\"0 0 1000 1\" preserveAspectRatio=\"none\"><rect height=\"1\" width=\"");
    html.text(&(part.saturating_mul(1000) / all.max(1)).max(2).to_string()).raw("\"/></svg>");
}

fn lanes(html: &mut Html, waiting: &Waiting, view: &View<'_>) {
    html.raw("<section><h2>What waits, and why</h2>");
    if waiting.lanes.is_empty() {
        html.raw("<p class=\"soft\">nothing waits</p>");
    } else {
        lane_list(html, waiting, view);
    }
    let open = u64::try_from(view.connections).unwrap_or(u64::MAX);
    html.raw("<p class=\"small\">")
        .text(&counted(open, "connection"))
        .raw(" to hosts open now</p></section>");
}

fn lane_list(html: &mut Html, waiting: &Waiting, view: &View<'_>) {
    let most = waiting.lanes.iter().map(|lane| lane.waiting).max().unwrap_or(0);
    html.raw("<ul>");
    for (at, lane) in waiting.lanes.iter().enumerate() {
        html.raw("<li><div class=\"row\">").classed("name", &lane.lane);
        html.raw("<span class=\"count\">").number(lane.waiting).raw("</span></div>");
        bar(html, lane.waiting, most, lane.backoff.is_some());
        why(html, lane, view.busy.get(at).copied().unwrap_or_default(), view.now);
        html.raw("</li>");
    }
    html.raw("</ul>");
    rest(html, waiting.lanes.len(), waiting.lanes_total, "lane");
}

/// Why a lane's mail waits, and its oldest.
fn why(html: &mut Html, lane: &LaneLine, (busy, limit): (usize, usize), now: i64) {
    html.raw("<p class=\"small\">");
    let mut words: Vec<String> = Vec::new();
    let is_out = lane.backoff.is_none() && lane.fetch.is_none();
    if let Some((until, failures, _)) = &lane.backoff {
        words.push(format!(
            "backs off for {} more after {} in a row",
            span(until - now),
            counted(u64::from(*failures), "failure")
        ));
    }
    if let Some(who) = &lane.fetch {
        words.push(format!("waits to be fetched: {who}"));
    }
    if is_out && lane.due > 0 {
        words.push(format!("{} due", super::html::grouped(lane.due)));
    }
    if busy > 0 {
        words.push(format!("{busy} of {limit} connections busy"));
    }
    if lane.held > 0 {
        words.push(format!("{} held", super::html::grouped(lane.held)));
    }
    if let Some(next) = lane.next_attempt_at.filter(|next| is_out && *next > now) {
        words.push(format!("next try in {}", span(next - now)));
    }
    if lane.suspended > 0 {
        words.push(format!("{} suspended", super::html::grouped(lane.suspended)));
    }
    words.push(format!("oldest {}", span(now - lane.oldest)));
    html.text(&words.join(" \u{b7} ")).raw("</p>");
    if let Some((_, _, reply)) = &lane.backoff {
        html.raw("<p class=\"said\">").text(reply).raw("</p>");
    }
}

fn failures(html: &mut Html, snapshot: &Snapshot) {
    html.raw("<section><h2>What the world refuses: attempts of the last day</h2>");
    if snapshot.failures.is_empty() {
        html.raw("<p class=\"soft\">nothing was refused or put off</p></section>");
        return;
    }
    html.raw("<ul>");
    for group in &snapshot.failures {
        let is_final = matches!(group.outcome.as_str(), "failed" | "expired");
        html.raw("<li><div class=\"row\"><span class=\"name\">");
        html.classed(if is_final { "bad" } else { "warn" }, &group.outcome).raw(" ");
        html.classed("soft", &format!("at {}", group.phase)).raw("</span><span class=\"count\">");
        html.number(group.times).raw("</span></div><p class=\"said\">");
        html.text(if group.is_remote { "" } else { "(local) " })
            .text(&group.reply)
            .raw("</p><p class=\"small\">");
        let host = match (group.hosts, &group.mx) {
            (0, _) | (_, None) => "no host".to_owned(),
            (1, Some(mx)) => mx.clone(),
            (hosts, Some(mx)) => format!("{mx} and {}", counted(hosts - 1, "other host")),
        };
        let at_least = if group.is_full { "at least " } else { "" };
        let recipients = format!("{at_least}{}", counted(group.recipients, "recipient"));
        html.text(&format!("{recipients} \u{b7} {host} \u{b7} last {} UTC", group.last)).raw("</p></li>");
    }
    html.raw("</ul></section>");
}

fn hosts(
    html: &mut Html,
    title: &'static str,
    nothing: &'static str,
    rows: &[HostSetting],
    is_meant: impl Fn(Setting) -> bool,
    now: i64,
) {
    html.raw("<section><h2>").raw(title).raw("</h2>");
    let rows: Vec<&HostSetting> = rows.iter().filter(|row| is_meant(row.setting)).collect();
    if rows.is_empty() {
        html.raw("<p class=\"soft\">").raw(nothing).raw("</p></section>");
        return;
    }
    html.raw("<ul>");
    for row in rows.iter().take(HOSTS_MAX) {
        html.raw("<li><div class=\"row\">").classed("name", &row.mx).raw("<span class=\"count\">");
        let words = match row.setting {
            Setting::Connections(limit) => counted(limit.into(), "connection"),
            Setting::MessagesPerMinute(limit) => format!("{limit} a minute"),
            setting => format!("{} {}", setting.name(), setting.value()),
        };
        html.text(&words).raw("</span></div>");
        if let Some(reply) = &row.last_reply {
            html.raw("<p class=\"said\">").text(reply).raw("</p>");
        }
        let until = row.retry_at.map(|at| match at > now {
            true => format!(" \u{b7} tried again in {}", span(at - now)),
            false => " \u{b7} tried again with its next connection".to_owned(),
        });
        let since = format!("for {}{}", span(now - row.changed_at), until.unwrap_or_default());
        html.raw("<p class=\"small\">").text(&since).raw("</p></li>");
    }
    html.raw("</ul>");
    rest(html, rows.len().min(HOSTS_MAX), rows.len(), "host");
    html.raw("</section>");
}

fn policies(html: &mut Html, snapshot: &Snapshot) {
    if snapshot.policies.is_empty() {
        return;
    }
    html.raw("<section><h2>TLS with hosts today</h2><dl>");
    for count in &snapshot.policies {
        html.raw("<dt>")
            .text(policy_name(&count.policy))
            .raw("</dt><dd>")
            .text(&counted(count.sessions, "session"));
        if count.failed > 0 {
            // Where no policy asks for TLS, none is no failure.
            match count.policy.as_str() {
                "none" => html.raw(", ").text(&format!("{} without TLS", grouped(count.failed))),
                _ => {
                    let words =
                        format!("{} without the TLS that they should have had", grouped(count.failed));
                    html.raw(", ").classed("warn", &words)
                }
            };
        }
        html.raw("</dd>");
    }
    html.raw("</dl></section>");
}

/// Domains by name: where a policy or DANE keeps mail from going, or TLS did not come about.
fn tls_failures(html: &mut Html, failures: &[TlsFailure]) {
    if failures.is_empty() {
        return;
    }
    html.raw("<section><h2>Domains whose TLS failed today</h2><ul>");
    for failure in failures {
        html.raw("<li><div class=\"row\">").classed("name", &failure.domain).raw("<span class=\"count\">");
        html.number(failure.sessions).raw("</span></div><p class=\"small\">");
        html.text(&format!("{} \u{b7} {}", policy_name(&failure.policy), failure.result)).raw("</p>");
        if !failure.reason.is_empty() {
            html.raw("<p class=\"said\">").text(&failure.reason).raw("</p>");
        }
        html.raw("</li>");
    }
    html.raw("</ul></section>");
}

/// What we refuse clients. Of each refusal the log has a line.
fn refused(html: &mut Html, replies: &[(String, u64)]) {
    if replies.is_empty() {
        return;
    }
    html.raw("<section><h2>Refused to clients, since the start</h2><dl>");
    for (codes, count) in replies.iter().take(REFUSED_MAX) {
        html.raw("<dt>").text(codes).raw("</dt><dd>").text(&counted(*count, "time")).raw("</dd>");
    }
    html.raw("</dl><p class=\"small\">the log has each of them</p></section>");
}

fn policy_name(policy: &str) -> &str {
    match policy {
        "none" => "no policy",
        "dane" => "DANE",
        "sts-enforce" => "MTA-STS, enforced",
        "sts-testing" => "MTA-STS, testing",
        "requiretls" => "REQUIRETLS",
        "route" => "[[route]] tls",
        other => other,
    }
}

fn oldest(html: &mut Html, snapshot: &Snapshot) {
    if snapshot.oldest.is_empty() {
        return;
    }
    html.raw("<section><h2>Waiting for longest</h2><ul>");
    for line in &snapshot.oldest {
        html.raw("<li><div class=\"row\"><span class=\"name\"><a href=\"/message/")
            .text(&line.queue_id)
            .raw("\">");
        html.text(&line.recipient).raw("</a></span><span class=\"count\">").text(&span(line.age));
        html.raw("</span></div>");
        let whose = match &line.last_reply {
            Some(_) => mark_of(line.reply_source.as_deref().unwrap_or_default()),
            None => "",
        };
        if let Some(reply) = line.last_reply.as_ref().or(line.lane_reply.as_ref()) {
            html.raw("<p class=\"said\">").text(whose).text(reply).raw("</p>");
        }
        html.raw("</li>");
    }
    html.raw("</ul></section>");
}

pub(super) fn rest(html: &mut Html, shown: usize, total: usize, what: &str) {
    if total > shown {
        let more = u64::try_from(total - shown).unwrap_or(u64::MAX);
        html.raw("<p class=\"small\">and ").text(&counted(more, &format!("more {what}"))).raw("</p>");
    }
}

fn footer(html: &mut Html, view: &View<'_>) {
    let (origin, generation, loaded_at) = view.config;
    html.raw("<footer><p>Postrider ").text(env!("CARGO_PKG_VERSION"));
    let config = format!(
        " \u{b7} config: {origin}, generation {generation}, loaded {} ago",
        span(view.now - loaded_at)
    );
    html.text(&config).raw("</p><p>");
    if let Some(snapshot) = view.snapshot {
        html.text(&format!("counted {} ago \u{b7} ", span(view.now - snapshot.at)));
    }
    html.text(&utc(view.now)).raw(" UTC \u{b7} /message/ID shows one message</p></footer>");
}
