//! What was said last about a recipient, by whom, and the status that it gives.

use crate::mail::{Enhanced, Outcome, Phase, Reply, ReplySource};

use crate::delivery::report::bounce::Told;
use crate::delivery::report::bounce::charset::says_something;

/// What was said last about a recipient, from its last try or, where there is none at hand, from its row.
pub(super) struct Said<'a> {
    pub(super) reply: Reply,
    pub(super) host: Option<&'a str>,
    pub(super) phase: Option<Phase>,
    /// Whose words the reply is: only a host's are quoted as such.
    pub(super) by: ReplySource,
}

impl<'a> Said<'a> {
    pub(super) fn of(told: &Told<'a>) -> Said<'a> {
        if let Some(attempt) = told.attempt {
            return Said {
                reply: attempt.reply.clone(),
                host: attempt.mx.as_deref().filter(|name| says_something(name)),
                phase: Some(attempt.phase),
                by: attempt.reply.reply_source,
            };
        }
        if told.expanded.is_some() {
            let reply = Reply::new(250, Enhanced(2, 0, 0), "the alias was expanded to several addresses");
            return Said { reply, host: None, phase: None, by: ReplySource::Local };
        }
        let host = told.recipient.last_mx.as_deref().filter(|name| says_something(name));
        let reply = match told.recipient.last_reply.as_deref() {
            Some(line) => parsed(line),
            None => Reply::new(451, Enhanced(4, 4, 7), "the message waited too long"),
        };
        Said { reply, host, phase: None, by: told.recipient.last_reply_source }
    }

    /// The status code, of the class that the outcome has (RFC 3463 §2, RFC 3464 §2.3.4). What expired keeps the
    /// status of its trouble (RFC 3463 §3.5 prefers that to 4.4.7).
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
