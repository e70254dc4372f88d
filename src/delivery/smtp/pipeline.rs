//! Signs that a host offers PIPELINING (RFC 2920) and cannot take commands that arrive together.
//!
//! Pure. Some hosts throw away what came behind the first command and wait for it, some take a batch for an
//! attack, some lose count of their replies. One sign proves little, since connections break for many reasons:
//! the attempt tries the message again command by command, and only where that goes well is it remembered of the
//! host (`host/profile.rs`). No content is sent after a sign, so nothing is delivered twice.

use crate::mail::{Phase, Reply};

use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::reply_class::{ReplyClass, subject};
use crate::delivery::smtp::wire::Fault;

/// How a host answered commands that were written together.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum PipelineResult {
    /// There were none.
    #[default]
    Unused,
    /// Each with a reply that fits.
    InOrder,
    /// Otherwise.
    Broken(PipelineFault),
}

/// What went wrong with commands that were written together.
#[derive(Debug, Clone, PartialEq)]
pub enum PipelineFault {
    /// The host says itself that it is about commands in a batch.
    Reported(Failure),
    /// Replies do not fit the commands: none of them can be relied on.
    OutOfSync(Failure),
    /// The connection ended, or replies did not come. What was answered before holds.
    NoReply(Failure),
}

impl PipelineFault {
    /// What a reply to a command of a batch shows. `in_turn`: what had to be accepted before it was (MAIL for
    /// RCPT, a recipient for DATA), so that no refusal can follow from that of another.
    pub(in crate::delivery) fn of_reply(phase: Phase, in_turn: bool, reply: &Reply) -> Option<PipelineFault> {
        let failure = || Failure::BadReply { phase, reply: reply.clone() };
        if says_so(reply) {
            return Some(PipelineFault::Reported(failure()));
        }
        let out_of_place = match (phase, reply.code) {
            // RFC 5321 §4.5.1: every host knows RCPT and DATA, and neither is out of sequence here. Where the
            // enhanced code speaks of something other than the protocol (x.5.x), that is meant.
            (Phase::Rcpt | Phase::Data, 500 | 502 | 503) => {
                in_turn && matches!(subject(reply), None | Some(5))
            }
            _ => ReplyClass::of(phase, reply.code) == ReplyClass::Invalid,
        };
        out_of_place.then(|| PipelineFault::OutOfSync(failure()))
    }

    /// What it shows that a reply will not come: something was said that must not be, or nothing was.
    pub(in crate::delivery) fn of_fault(fault: &Fault, failure: Failure) -> PipelineFault {
        match fault {
            Fault::Malformed(_) | Fault::OutOfTurn => PipelineFault::OutOfSync(failure),
            _ => PipelineFault::NoReply(failure),
        }
    }

    /// What it is on record as.
    pub fn failure(&self) -> &Failure {
        match self {
            PipelineFault::Reported(failure)
            | PipelineFault::OutOfSync(failure)
            | PipelineFault::NoReply(failure) => failure,
        }
    }
}

/// "503 improper use of SMTP command pipelining", "554 SMTP protocol synchronization error". Not "550 5.1.1
/// <pipelines@example.com>: no such user": hosts quote addresses, and what speaks of one (x.1.x, x.2.x) means
/// that.
fn says_so(reply: &Reply) -> bool {
    let names_it = |signs: &[&str]| {
        let text = reply.text.to_ascii_lowercase();
        let mut words = text.split_ascii_whitespace().filter(|word| !word.contains('@'));
        words.any(|word| signs.iter().any(|sign| word.contains(sign)))
    };
    match reply.code {
        _ if matches!(subject(reply), Some(1 | 2)) => false,
        400..=499 => names_it(&["pipelin"]),
        500..=599 => names_it(&["pipelin", "synchroni"]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Enhanced;

    fn heard(code: u16, text: &str) -> Reply {
        match Enhanced::split(code, text) {
            Some((enhanced, rest)) => Reply::new(code, enhanced, "").with_text(rest.to_owned()),
            None => Reply::bare(code, "").with_text(text.to_owned()),
        }
    }

    #[test]
    fn refusals_that_mean_what_they_say_are_no_sign() {
        for (phase, in_turn, code, text) in [
            (Phase::Mail, true, 250, "2.1.0 pipelining is fun"),
            (Phase::Mail, true, 451, "4.3.0 databases synchronize"),
            (Phase::Mail, true, 503, "5.5.1 authenticate first"),
            (Phase::Rcpt, true, 550, "5.1.1 no such user"),
            (Phase::Rcpt, true, 501, "5.1.3 bad address"),
            (Phase::Rcpt, true, 503, "5.7.1 blocked"),
            (Phase::Rcpt, false, 503, "5.5.1 MAIL first"),
            (Phase::Data, false, 503, "5.5.1 RCPT first"),
            (Phase::Data, true, 554, "5.7.1 refused"),
            (Phase::Data, true, 354, "go on"),
            (Phase::Data, true, 421, "closing"),
            (Phase::Rcpt, true, 550, "<pipelines@example.com>: no such user"),
            (Phase::Rcpt, true, 550, "5.1.1 Pipelines: no such user"),
            (Phase::Mail, true, 450, "4.2.1 mailbox of Pipeline is being synchronized"),
        ] {
            let reply = heard(code, text);
            assert_eq!(PipelineFault::of_reply(phase, in_turn, &reply), None, "{phase:?} {reply}");
        }
    }

    #[test]
    fn what_cannot_be_the_answer_is_a_sign_and_so_is_being_told() {
        for (phase, code, text) in [
            (Phase::Rcpt, 503, "5.5.1 bad sequence of commands"),
            (Phase::Rcpt, 354, "go on"),
            (Phase::Data, 250, "2.1.5 ok"),
            (Phase::Data, 500, "what?"),
        ] {
            let reply = heard(code, text);
            let failure = Failure::BadReply { phase, reply: reply.clone() };
            let sign = PipelineFault::of_reply(phase, true, &reply);
            assert_eq!(sign, Some(PipelineFault::OutOfSync(failure)));
        }
        for (code, text) in [
            (503, "5.5.0 Improper use of SMTP command pipelining"),
            (554, "SMTP protocol synchronization error"),
            (421, "no Pipelining here"),
        ] {
            let reply = heard(code, text);
            let failure = Failure::BadReply { phase: Phase::Mail, reply: reply.clone() };
            let sign = PipelineFault::of_reply(Phase::Mail, true, &reply);
            assert_eq!(sign, Some(PipelineFault::Reported(failure)));
        }
    }
}
