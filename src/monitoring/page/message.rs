//! `/message/ID`: all that is known of one message, as `postrider queue show` has it. Pure.

use serde::Serialize;
use serde_json::Value;

use crate::queue::admin::{DialogueLine, Shown, ShownRecipient, StoryLine, Try};

use super::html::{Html, counted};
use super::suspended;

/// Recipients that are shown, and tries of each, the last ones.
const RECIPIENTS_MAX: usize = 200;
const TRIES_MAX: usize = 50;
/// Lines of its story that are shown.
const STORY_MAX: usize = 500;
/// Dialogues that are shown.
const DIALOGUES_MAX: usize = 20;
/// What stands first of what is known of a message; what else there is follows.
const FIRST: [&str; 8] = ["sender", "user", "client", "helo", "subject", "received", "expires", "size"];

/// What stands between the tags of the body.
pub(super) fn body(shown: &Shown, dialogues: &[DialogueLine], now: i64) -> Html {
    let mut html = Html::default();
    html.raw("<header><h1>").text(&shown.queue_id).raw("</h1><p class=\"state ");
    match &shown.message {
        Some(_) => html.raw("warn\">waiting"),
        None => html.raw("ok\">finished"),
    };
    html.raw("</p></header><main><section><dl>");
    match (&shown.message, &shown.finished) {
        (Some(envelope), _) => fields(&mut html, envelope),
        (None, Some(finished)) => fields(&mut html, finished),
        (None, None) => {}
    }
    html.raw("</dl></section>");
    for recipient in shown.recipients.iter().take(RECIPIENTS_MAX) {
        one(&mut html, recipient, now);
    }
    let more = shown.recipients.len().saturating_sub(RECIPIENTS_MAX);
    if more > 0 {
        let words = format!(
            "and {}: postrider queue show {}",
            counted(u64::try_from(more).unwrap_or(u64::MAX), "more recipient"),
            shown.queue_id
        );
        html.raw("<section><p class=\"soft\">").text(&words).raw("</p></section>");
    }
    story(&mut html, &shown.story);
    said(&mut html, dialogues);
    if let Some(header) = &shown.header {
        html.raw("<section><h2>Header</h2><pre>");
        // Line by line: what ends a line is the only control that is kept, and what folds it may be a tab.
        for line in header.lines() {
            html.text(&line.replace('\t', " ")).raw("\n");
        }
        html.raw("</pre></section>");
    }
    html.raw("</main><footer><p><a href=\"/\">status</a> \u{b7} times are UTC</p></footer>");
    html
}

/// What happened, in order of time.
fn story(html: &mut Html, lines: &[StoryLine]) {
    if lines.is_empty() {
        return;
    }
    html.raw("<section><h2>What happened</h2><ul class=\"tries\">");
    for line in lines.iter().take(STORY_MAX) {
        html.raw("<li><div class=\"row\"><span class=\"count\">").text(&line.at).raw("</span>");
        html.classed(class_of(&line.what), &line.what).raw("</div><p class=\"small\">");
        let words = [line.recipient.as_deref().unwrap_or_default(), &line.words];
        html.text(words.join(" ").trim()).raw("</p></li>");
    }
    html.raw("</ul>");
    let more = lines.len().saturating_sub(STORY_MAX);
    if more > 0 {
        let more = counted(u64::try_from(more).unwrap_or(u64::MAX), "more line");
        html.raw("<p class=\"soft\">and ").text(&more).raw(": postrider queue show</p>");
    }
    html.raw("</section>");
}

/// What was said in the last failed attempts of which that is kept, folded.
fn said(html: &mut Html, dialogues: &[DialogueLine]) {
    if dialogues.is_empty() {
        return;
    }
    html.raw("<section><h2>Dialogue: the last that is kept of a failed attempt</h2>");
    for DialogueLine { at, recipients, dialogue, later } in dialogues.iter().take(DIALOGUES_MAX) {
        html.raw("<details><summary>").text(at).raw(" UTC \u{b7} ");
        html.text(recipients.first().map_or("", String::as_str));
        let more = recipients.len().saturating_sub(1);
        if more > 0 {
            html.text(&format!(
                " and {}",
                counted(u64::try_from(more).unwrap_or(u64::MAX), "more recipient")
            ));
        }
        if let Some(later) = later {
            html.text(&format!("; a later attempt failed without one ({later})"));
        }
        html.raw("</summary><pre>");
        for line in dialogue.lines() {
            html.text(line).raw("\n");
        }
        html.raw("</pre></details>");
    }
    let more = dialogues.len().saturating_sub(DIALOGUES_MAX);
    if more > 0 {
        let more = counted(u64::try_from(more).unwrap_or(u64::MAX), "more attempt");
        html.raw("<p class=\"soft\">and ").text(&more).raw(": postrider queue show --dialogue</p>");
    }
    html.raw("</section>");
}

/// All that is known: what was never given is left out.
fn fields(html: &mut Html, known: &impl Serialize) {
    let Ok(Value::Object(known)) = serde_json::to_value(known) else { return };
    let others = known.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    for name in FIRST.into_iter().chain(others) {
        let words = match known.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => continue,
            Some(Value::Bool(true)) => "yes".to_owned(),
            Some(Value::Number(number)) if name == "priority" && number.as_i64() == Some(0) => continue,
            Some(Value::Number(number)) if name == "size" => counted(number.as_u64().unwrap_or(0), "byte"),
            Some(Value::String(text)) if name == "sender" => format!("<{text}>"),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        html.raw("<dt>").text(&name.replace('_', " ")).raw("</dt><dd>").text(&words).raw("</dd>");
    }
}

fn one(html: &mut Html, recipient: &ShownRecipient, now: i64) {
    let ShownRecipient { line, suspended, tries, .. } = recipient;
    html.raw("<section><div class=\"row\">").classed("name", &line.recipient);
    html.classed(class_of(&line.state), &line.state).raw("</div>");
    let mut words = vec![counted(u64::from(line.attempts), "attempt")];
    words.extend(line.held());
    words.extend(line.next_attempt.as_deref().map(|next| next_words(next, now)));
    html.raw("<p class=\"small\">").text(&words.join(" \u{b7} ")).raw("</p>");
    suspended::why(html, suspended);
    if let Some(reply) = &line.last_reply {
        let whose = if line.reply_source.as_deref() == Some("local") { "(local) " } else { "" };
        html.raw("<p class=\"said\">").text(whose).text(reply).raw("</p>");
    }
    if let Some(reply) = &line.lane_reply {
        html.raw("<p class=\"said\">its destination: ").text(reply).raw("</p>");
    }
    let left_out = tries.len().saturating_sub(TRIES_MAX);
    if !tries.is_empty() {
        html.raw("<ul class=\"tries\">");
        tries[left_out..].iter().for_each(|one| attempt(html, one));
        html.raw("</ul>");
    }
    html.raw("</section>");
}

fn attempt(html: &mut Html, one: &Try) {
    html.raw("<li><div class=\"row\"><span class=\"count\">").text(&one.at).raw("</span>");
    html.classed(class_of(&one.outcome), &one.outcome).raw("</div><p class=\"small\">");
    let host = match (&one.mx, &one.ip) {
        (Some(mx), Some(ip)) => format!("{mx} [{ip}]"),
        (Some(mx), None) => mx.clone(),
        _ => "no host".to_owned(),
    };
    let mut words = vec![host, format!("at {}", one.phase), format!("{} ms", one.duration_ms)];
    match (one.tls.as_deref(), one.tls_policy.as_str()) {
        (Some(tls), "none") => words.push(format!("TLS {tls}")),
        (tls, policy) if policy != "none" => {
            words.push(format!("TLS {} (policy {policy})", tls.unwrap_or("-")));
        }
        _ => {}
    }
    words.extend(one.dkim.as_ref().map(|keys| format!("signed by {keys}")));
    let whose = if one.reply_source == "local" { "(local) " } else { "" };
    html.text(&words.join(" \u{b7} "))
        .raw("</p><p class=\"said\">")
        .text(whose)
        .text(&one.reply)
        .raw("</p></li>");
}

fn class_of(state: &str) -> &'static str {
    match state {
        "delivered" | "relayed" => "ok",
        "failed" | "expired" => "bad",
        "removed" => "soft",
        _ => "warn",
    }
}

/// When it goes.
fn next_words(next: &str, now: i64) -> String {
    match next {
        "held" => "until postrider queue release".to_owned(),
        "bounce" => "to be returned to the sender".to_owned(),
        "ATRN" => "waits to be fetched".to_owned(),
        "suspended" => "suspended".to_owned(),
        time if *time <= *crate::kit::text::utc(now) => "due, waiting for a free connection".to_owned(),
        time => format!("next try {time} UTC"),
    }
}
