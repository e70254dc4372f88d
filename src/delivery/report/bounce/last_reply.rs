//! The last reply about a recipient, where it came from, and the status code that a report gives for it.

use crate::mail::{Enhanced, Outcome, Phase, Reply, ReplySource};

use crate::delivery::report::bounce::ReportedRecipient;
use crate::delivery::report::bounce::charset::says_something;

/// From the last attempt or, where there is none at hand, from the recipient's row.
pub(super) struct LastReply<'a> {
    pub(super) reply: Reply,
    pub(super) host: Option<&'a str>,
    pub(super) phase: Option<Phase>,
    /// Only what a remote host said is quoted as its words.
    pub(super) source: ReplySource,
}

impl<'a> LastReply<'a> {
    pub(super) fn of(reported: &ReportedRecipient<'a>) -> LastReply<'a> {
        if let Some(attempt) = reported.attempt {
            return LastReply {
                reply: attempt.reply.clone(),
                host: attempt.mx.as_deref().filter(|name| says_something(name)),
                phase: Some(attempt.phase),
                source: attempt.reply.reply_source,
            };
        }
        if reported.expanded.is_some() {
            let reply = Reply::new(250, Enhanced(2, 0, 0), "the alias was expanded to several addresses");
            return LastReply { reply, host: None, phase: None, source: ReplySource::Local };
        }
        let host = reported.recipient.last_mx.as_deref().filter(|name| says_something(name));
        let reply = match reported.recipient.last_reply.as_deref() {
            Some(line) => parsed(line),
            None => Reply::new(451, Enhanced(4, 4, 7), "the message waited too long"),
        };
        LastReply { reply, host, phase: None, source: reported.recipient.last_reply_source }
    }

    /// The status code, in the class of the outcome (RFC 3463 §2, RFC 3464 §2.3.4). An expired recipient keeps the
    /// status of its last failure: RFC 3463 §3.5 prefers that to 4.4.7.
    pub(super) fn status(&self, outcome: Outcome) -> Enhanced {
        let Enhanced(class, subject, detail) = self.reply.enhanced.unwrap_or(Enhanced(0, 0, 0));
        match outcome {
            Outcome::Failed => Enhanced(5, subject, detail),
            Outcome::Expired if class == 5 => Enhanced(5, subject, detail),
            Outcome::Expired | Outcome::Deferred | Outcome::InDoubt => Enhanced(4, subject, detail),
            Outcome::Delivered | Outcome::Relayed => Enhanced(2, subject, detail),
        }
    }
}

/// Reads what [`Reply`]'s `Display` wrote into a row.
fn parsed(line: &str) -> Reply {
    let code = line.get(..3).and_then(|digits| digits.parse::<u16>().ok());
    let Some(code) = code else {
        return Reply::bare(451, "").with_text(line.to_owned());
    };
    let text = line[3..].trim_start();
    match Enhanced::split(code, text) {
        Some((enhanced, rest)) => Reply::new(code, enhanced, "").with_text(rest.to_owned()),
        None => Reply::bare(code, "").with_text(text.to_owned()),
    }
}
