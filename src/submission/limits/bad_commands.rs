//! The count of a session's bad commands: what counts as one, and what an honest client meets all the same.

use crate::mail::Reply;

/// What a line was about, as far as counting errors goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) enum Verb {
    Mail,
    Rcpt,
    Data,
    Bdat,
    Other,
}

impl Verb {
    pub(in crate::submission) fn of(line: &[u8]) -> Verb {
        let is = |verb: &[u8]| line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(verb));
        match () {
            () if is(b"MAIL") => Verb::Mail,
            () if is(b"RCPT") => Verb::Rcpt,
            () if is(b"DATA") => Verb::Data,
            () if is(b"BDAT") => Verb::Bdat,
            () => Verb::Other,
        }
    }

    /// As it is written; none of those that are about no message.
    pub(in crate::submission) fn name(self) -> Option<&'static str> {
        match self {
            Verb::Mail => Some("MAIL"),
            Verb::Rcpt => Some("RCPT"),
            Verb::Data => Some("DATA"),
            Verb::Bdat => Some("BDAT"),
            Verb::Other => None,
        }
    }
}

/// Counts commands that could not be understood, were out of order or not allowed. Not counted is what an
/// honest client meets: a recipient refused, and what it pipelined behind a MAIL or a chunk that was refused.
#[derive(Debug, Default)]
pub(in crate::submission) struct BadCommands {
    pub(in crate::submission) so_far: usize,
    mail_refused: bool,
}

impl BadCommands {
    pub(in crate::submission) fn count(&mut self, verb: Verb, reply: &Reply) {
        match verb {
            Verb::Mail => self.mail_refused = reply.code >= 400,
            Verb::Rcpt | Verb::Data | Verb::Bdat => {}
            Verb::Other => self.mail_refused = false,
        }
        let counts = match (verb, reply.code) {
            (_, ..=499) => false,
            // RFC 3030 §2: pipelined behind a chunk that was refused, or behind anything else.
            (Verb::Bdat, 503) => false,
            (Verb::Rcpt | Verb::Data, 503) => !self.mail_refused,
            (Verb::Rcpt, 501) | (Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat, 550..=554) => false,
            // Failed authentications have a count of their own.
            (Verb::Other, 535) => false,
            _ => true,
        };
        self.so_far += usize::from(counts);
    }
}
