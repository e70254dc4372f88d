//! The part of a report for programs: `message/delivery-status` (RFC 3464 §2), or
//! `message/global-delivery-status` (RFC 6533 §4.1) where the report can hold UTF-8.
//!
//! Everything here is printable when it leaves, and ASCII unless the [`Script`] is UTF-8: foreign text goes
//! through [`Script::printable`], and [`Fields`] folds and bounds it. The fields stand in the order of the
//! grammar (RFC 3464 §2.2 and §2.3).

use crate::mail::{Enhanced, Outcome, Reply, ReplySource};
use crate::queue::Origin;

use crate::delivery::report::bounce::Kind;
use crate::delivery::report::bounce::Notice;
use crate::delivery::report::bounce::Told;
use crate::delivery::report::bounce::charset::{
    Script, WORD_BYTES_MAX, bracketed, date, folded, says_something, xtext_decoded,
};
use crate::delivery::report::bounce::last_reply::Said;

/// How much of a reply, name or parameter is quoted.
const VALUE_BYTES_MAX: usize = 4000;
/// How much of all replies together, so that a report about many recipients does not grow past what a host takes.
const REPLIES_BYTES_MAX: usize = 64 * 1024;
/// Of each reply at least this much.
const REPLY_BYTES_MIN: usize = 200;

/// How much of each reply is quoted in a report about so many recipients, in bytes.
pub(super) fn reply_bytes_max(told: usize) -> usize {
    (REPLIES_BYTES_MAX / told.max(1)).clamp(REPLY_BYTES_MIN, VALUE_BYTES_MAX)
}

/// The fields of the message, then a group for each recipient, an empty line before each.
pub(super) fn fields(kind: Kind, script: Script, notice: &Notice<'_>, told: &[&Told<'_>]) -> String {
    let reply_bytes_max = reply_bytes_max(told.len());
    let mut fields = Fields { out: String::new(), script, reply_bytes_max };
    let message = notice.message;
    if let Some(envid) = message.envid.as_deref().map(xtext_decoded).filter(|envid| says_something(envid)) {
        fields.whole("Original-Envelope-Id", &envid);
    }
    fields.folded("Reporting-MTA", &format!("dns; {}", notice.hostname));
    if let Some(from) = received_from(&message.origin) {
        fields.folded("Received-From-MTA", &from);
    }
    fields.folded("Arrival-Date", &date(message.received_at));
    if let Some(release) = message.handling.release {
        fields.folded("Future-Release-Request", &release.asked.to_string());
    }
    if let Some(by) = message.handling.deliver_by {
        fields.folded("Deliver-By-Date", &date(by.at));
    }
    fields.folded("X-Postrider-Queue-ID", &message.id.to_string());
    for told in told {
        fields.out.push_str("\r\n");
        recipient(&mut fields, kind, notice, told);
    }
    fields.out
}

/// RFC 3464 §2.2.4: what the client called itself, its address as a comment.
fn received_from(origin: &Origin) -> Option<String> {
    let client = origin.client?;
    let literal = bracketed(&client.to_string());
    match origin.helo.as_deref().filter(|helo| !helo.is_empty()) {
        Some(helo) => Some(format!("dns; {helo} ({literal})")),
        None => Some(format!("dns; {literal}")),
    }
}

/// RFC 3464 §2.3, in its order.
fn recipient(fields: &mut Fields, kind: Kind, notice: &Notice<'_>, told: &Told<'_>) {
    let script = fields.script;
    let (address, orcpt) = match told.expanded {
        Some(expanded) => (&expanded.alias, &expanded.orcpt),
        None => (&told.recipient.address, &told.recipient.orcpt),
    };
    if let Some(original) = orcpt.as_deref().and_then(|orcpt| script.original_recipient(orcpt)) {
        fields.whole("Original-Recipient", &original);
    }
    fields.whole("Final-Recipient", &script.typed_address(address));
    let action = match (kind, told.outcome) {
        (Kind::Bounce, _) => "failed",
        (Kind::Delay, _) => "delayed",
        (Kind::Success, _) if told.expanded.is_some() => "expanded",
        (Kind::Success, _) => "relayed",
    };
    let said = Said::of(told);
    fields.folded("Action", action);
    fields.folded("Status", &status(kind, notice, told, &said).to_string());
    match said.host {
        Some(host) if said.by == ReplySource::Remote => {
            fields.folded("Remote-MTA", &format!("dns; {}", bracketed(host)));
            fields.diagnostic("smtp", &said.reply);
        }
        // Where no host answered, the words are ours and no MTA's (RFC 3464 §2.3.5 and §2.3.6).
        _ => fields.diagnostic("x-postrider", &said.reply),
    }
    if let Some(attempt) = told.attempt {
        fields.folded("Last-Attempt-Date", &date(attempt.at));
    }
    fields.folded("Final-Log-ID", &notice.message.id.to_string());
    if kind == Kind::Delay {
        fields.folded("Will-Retry-Until", &date(notice.message.expires_at));
    }
}

/// RFC 2852 §4: where the time that the sender gave is over, that is what happened, whatever stood in the way.
fn status(kind: Kind, notice: &Notice<'_>, told: &Told<'_>, said: &Said<'_>) -> Enhanced {
    let is_over = |at: Option<i64>| at.is_some_and(|at| at <= notice.now);
    let handling = &notice.message.handling;
    match kind {
        Kind::Bounce if told.outcome == Outcome::Expired && is_over(handling.returns_at()) => {
            Enhanced(5, 4, 7)
        }
        Kind::Delay if is_over(handling.notifies_at()) => Enhanced(4, 4, 7),
        _ => said.status(told.outcome),
    }
}

/// Fields in the making.
struct Fields {
    out: String,
    script: Script,
    reply_bytes_max: usize,
}

impl Fields {
    /// `Name: value`, folded.
    fn folded(&mut self, name: &str, value: &str) {
        let value = self.script.printable(value, VALUE_BYTES_MAX);
        self.lines(name, folded(&value, name.len() + 2));
    }

    /// `Name: value` on one line where that fits: the spaces in an address or an envelope id are the sender's.
    fn whole(&mut self, name: &str, value: &str) {
        let value = self.script.printable(value, VALUE_BYTES_MAX);
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
            let text = self.script.printable(text, bytes_left);
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
