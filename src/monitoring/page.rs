//! The status page and the page of a message: made by the server, without scripts, and nothing on them is loaded from
//! anywhere. Whatever others said stands there escaped (`page/html.rs`).
//!
//! The numbers are counted beside it (`page/snapshot.rs`), so that a page costs the same however much waits.

mod html;
mod message;
mod plot;
mod snapshot;
mod status;
mod suspended;

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::queue::MessageId;
use crate::queue::admin::Admin;

use super::MonitoringContext;
use super::http::{Request, Response, Status};
use html::Html;

pub use snapshot::{Counter, LaneLine, MINUTES, PageCounts, Snapshot, Waiting};

/// All of the style there is.
const STYLE: &str = include_str!("page/style.css");
/// What lets it be used: its hash (Content Security Policy Level 3, §2.3.1).
static STYLE_SOURCE: LazyLock<String> =
    LazyLock::new(|| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, STYLE.as_bytes()))));
/// The status page is loaded again after so many seconds; sooner while its numbers are still being counted.
const AGAIN: &str = "<meta http-equiv=\"refresh\" content=\"30\">";
const AGAIN_SOON: &str = "<meta http-equiv=\"refresh\" content=\"2\">";

/// `/`.
pub(super) fn status(context: &MonitoringContext, _: &Request) -> Response {
    let (snapshot, error) = context.counts.latest();
    let delivery = context.workers.context();
    let config = context.config.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (origin, number, loaded_at) = (config.origin().to_owned(), config.number(), config.loaded_at());
    drop(config);
    let hostname = delivery.settings.hostname.as_str();
    let lanes = snapshot.as_ref().map(|snapshot| snapshot.waiting.lanes.as_slice()).unwrap_or_default();
    let busy = |lane: &LaneLine| {
        let state = context.scheduler.lane(&lane.lane);
        (state.jobs_in_flight, state.limit)
    };
    let busy: Vec<_> = lanes.iter().map(busy).collect();
    let body = status::body(&status::View {
        hostname,
        state: context.readiness.known(),
        snapshot: snapshot.as_deref(),
        error: error.as_deref(),
        config: (&origin, number, loaded_at),
        now: context.clock.now(),
        connections: context.workers.open_connections(),
        busy: &busy,
        refused: &super::metrics::refused(),
    });
    whole(Status::Ok, hostname, if snapshot.is_some() { AGAIN } else { AGAIN_SOON }, body)
}

/// `/message/ID`.
pub(super) fn message(context: &MonitoringContext, request: &Request) -> Response {
    let name = request.path.strip_prefix("/message/").unwrap_or_default();
    let Ok(id) = name.parse::<MessageId>() else {
        return nothing("That is no queue id: they have 11 characters, as 1K6XQ3V8T4D.");
    };
    let read = |admin: Admin| Ok((admin.show(id)?, admin.dialogues(id)?));
    match Admin::to_read(&context.queue_path).and_then(read) {
        Ok((Some(shown), dialogues)) => {
            let body = message::body(&shown, &dialogues, context.clock.now());
            whole(Status::Ok, &shown.queue_id, "", body)
        }
        Ok((None, _)) => nothing(
            "Nothing is known of that message: it is older than [queue] history, or of another relay.",
        ),
        Err(error) => {
            let mut html = Html::default();
            html.raw("<main><section><p class=\"bad\">")
                .text(&error.to_string())
                .raw("</p></section></main>");
            whole(Status::Unavailable, "cannot be read", "", html)
        }
    }
}

fn nothing(why: &str) -> Response {
    let mut html = Html::default();
    html.raw("<main><section><p>")
        .text(why)
        .raw("</p><p class=\"small\"><a href=\"/\">status</a></p></section></main>");
    whole(Status::NotFound, "not found", "", html)
}

/// A page with its head.
fn whole(status: Status, title: &str, again: &'static str, body: Html) -> Response {
    let mut page = Html::default();
    page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">").raw(again);
    page.raw("<meta name=\"robots\" content=\"noindex\">");
    page.raw("<title>")
        .text(title)
        .raw(" \u{b7} Postrider</title><style>")
        .raw(STYLE)
        .raw("</style></head><body>");
    page.append(body).raw("</body></html>\n");
    Response::html(status, page.into_string(), &STYLE_SOURCE)
}

#[cfg(test)]
mod tests;
