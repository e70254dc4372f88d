//! The part of a report for programs: `message/delivery-status` (RFC 3464 §2), or
//! `message/global-delivery-status` (RFC 6533 §4.1) where the report can hold UTF-8.
//!
//! Pure. All output is printable, and ASCII unless the [`Charset`] is UTF-8: [`Fields`] sends every value through
//! [`Charset::printable`], folds and bounds it. The fields are in the order of the grammar (RFC 3464 §2.2, §2.3).

use crate::kit::text::date_field;
use crate::mail::{Enhanced, Outcome, Peer, Reply, ReplySource};
use crate::queue::Origin;

use crate::delivery::report::bounce::charset::{
    Charset, WORD_BYTES_MAX, bracketed, folded, says_something, xtext_decoded,
};
use crate::delivery::report::bounce::last_reply::LastReply;
use crate::delivery::report::bounce::{ReportContext, ReportKind, ReportedRecipient};

/// How much of a reply, name or parameter is quoted.
const VALUE_BYTES_MAX: usize = 4000;
/// How much of all replies together is quoted: a report on many recipients must not grow past what a host takes.
const REPLIES_BYTES_MAX: usize = 64 * 1024;
/// How much of each reply is quoted at least.
const REPLY_BYTES_MIN: usize = 200;

/// How much of each reply is quoted in a report on this many recipients, in bytes.
pub(super) fn reply_bytes_max(reported: usize) -> usize {
    (REPLIES_BYTES_MAX / reported.max(1)).clamp(REPLY_BYTES_MIN, VALUE_BYTES_MAX)
}

/// The fields of the message, then those of each recipient behind an empty line.
pub(super) fn fields(
    kind: ReportKind,
    charset: Charset,
    context: &ReportContext<'_>,
    reported: &[&ReportedRecipient<'_>],
) -> String {
    let reply_bytes_max = reply_bytes_max(reported.len());
    let mut fields = Fields { out: String::new(), charset, reply_bytes_max };
    let message = context.message;
    if let Some(envid) = message.envid.as_deref().map(xtext_decoded).filter(|envid| says_something(envid)) {
        fields.whole("Original-Envelope-Id", &envid);
    }
    fields.folded("Reporting-MTA", &format!("dns; {}", context.hostname));
    if let Some(from) = received_from(&message.origin) {
        fields.folded("Received-From-MTA", &from);
    }
    fields.folded("Arrival-Date", &date_field(message.received_at));
    if let Some(release) = message.handling.release {
        fields.folded("Future-Release-Request", &release.asked.to_string());
    }
    if let Some(by) = message.handling.deliver_by {
        fields.folded("Deliver-By-Date", &date_field(by.at));
    }
    fields.folded("X-Postrider-Queue-ID", &message.id.to_string());
    for reported in reported {
        fields.out.push_str("\r\n");
        recipient(&mut fields, kind, context, reported);
    }
    fields.out
}

/// RFC 3464 §2.2.4: the name that the client gave in EHLO, its address as a comment.
fn received_from(origin: &Origin) -> Option<String> {
    let literal = match origin.client? {
        Peer::Ip(ip) => bracketed(&ip.to_string()),
        Peer::Unix(_) => "unix".to_owned(),
    };
    match origin.helo.as_deref().filter(|helo| !helo.is_empty()) {
        Some(helo) => Some(format!("dns; {helo} ({literal})")),
        None => Some(format!("dns; {literal}")),
    }
}

/// RFC 3464 §2.3, in its order.
fn recipient(
    fields: &mut Fields,
    kind: ReportKind,
    context: &ReportContext<'_>,
    reported: &ReportedRecipient<'_>,
) {
    let charset = fields.charset;
    let (address, orcpt) = match reported.expanded {
        Some(expanded) => (&expanded.alias, &expanded.orcpt),
        None => (&reported.recipient.address, &reported.recipient.orcpt),
    };
    if let Some(original) = orcpt.as_deref().and_then(|orcpt| charset.original_recipient(orcpt)) {
        fields.whole("Original-Recipient", &original);
    }
    fields.whole("Final-Recipient", &charset.typed_address(address));
    let action = match (kind, reported.outcome) {
        (ReportKind::Bounce, _) => "failed",
        (ReportKind::Delay, _) => "delayed",
        (ReportKind::Success, _) if reported.expanded.is_some() => "expanded",
        (ReportKind::Success, _) => "relayed",
    };
    let last_reply = LastReply::of(reported);
    fields.folded("Action", action);
    fields.folded("Status", &status(kind, context, reported, &last_reply).to_string());
    match last_reply.host {
        Some(host) if last_reply.source == ReplySource::Remote => {
            fields.folded("Remote-MTA", &format!("dns; {}", bracketed(host)));
            fields.diagnostic("smtp", &last_reply.reply);
        }
        // RFC 3464 §2.3.5, §2.3.6: without an answer from a host there is no Remote-MTA, and the text is ours.
        _ => fields.diagnostic("x-postrider", &last_reply.reply),
    }
    if let Some(attempt) = reported.attempt {
        fields.folded("Last-Attempt-Date", &date_field(attempt.at));
    }
    fields.folded("Final-Log-ID", &context.message.id.to_string());
    if kind == ReportKind::Delay {
        fields.folded("Will-Retry-Until", &date_field(context.ends_at));
    }
}

/// RFC 2852 §4: once the sender's time is over, the status says so, whatever the last failure was.
fn status(
    kind: ReportKind,
    context: &ReportContext<'_>,
    reported: &ReportedRecipient<'_>,
    last_reply: &LastReply<'_>,
) -> Enhanced {
    let is_over = |at: Option<i64>| at.is_some_and(|at| at <= context.now);
    let handling = &context.message.handling;
    match kind {
        ReportKind::Bounce if reported.outcome == Outcome::Expired && is_over(handling.returns_at()) => {
            Enhanced(5, 4, 7)
        }
        ReportKind::Delay if is_over(handling.notifies_at()) => Enhanced(4, 4, 7),
        _ => last_reply.status(reported.outcome),
    }
}

/// Fields in the making.
struct Fields {
    out: String,
    charset: Charset,
    reply_bytes_max: usize,
}

impl Fields {
    /// `Name: value`, folded.
    fn folded(&mut self, name: &str, value: &str) {
        let value = self.charset.printable(value, VALUE_BYTES_MAX);
        self.lines(name, folded(&value, name.len() + 2));
    }

    /// `Name: value`, not folded where it fits: spaces in an address or an envelope id belong to the sender.
    fn whole(&mut self, name: &str, value: &str) {
        let value = self.charset.printable(value, VALUE_BYTES_MAX);
        if value.len() > WORD_BYTES_MAX {
            return self.lines(name, folded(&value, name.len() + 2));
        }
        self.lines(name, vec![value]);
    }

    /// RFC 3461 §9.2: every line of a reply with its codes, a dash behind the code of all but the last.
    fn diagnostic(&mut self, kind: &str, reply: &Reply) {
        let mut lines = Vec::new();
        let mut bytes_left = self.reply_bytes_max;
        let mut texts = reply.text.split('\n').filter(|line| !line.is_empty()).peekable();
        let mut first = format!("{kind}; ");
        loop {
            let text = texts.next().unwrap_or_default();
            let is_last = texts.peek().is_none() || text.len() >= bytes_left;
            let dash = if is_last { ' ' } else { '-' };
            let codes = match reply.enhanced {
                Some(enhanced) => format!("{:03}{dash}{enhanced}", reply.code),
                None => format!("{:03}{}", reply.code, if is_last { "" } else { "-" }),
            };
            let gap = if codes.ends_with('-') { "" } else { " " };
            let text = self.charset.printable(text, bytes_left);
            bytes_left = bytes_left.saturating_sub(text.len());
            let line = format!("{}{codes}{gap}{text}", std::mem::take(&mut first));
            let used = if lines.is_empty() { "Diagnostic-Code: ".len() } else { 1 };
            lines.extend(folded(&line, used));
            if is_last {
                return self.lines("Diagnostic-Code", lines);
            }
        }
    }

    fn lines(&mut self, name: &str, lines: Vec<String>) {
        self.out.push_str(name);
        self.out.push_str(": ");
        self.out.push_str(&lines.join("\r\n "));
        self.out.push_str("\r\n");
    }
}
