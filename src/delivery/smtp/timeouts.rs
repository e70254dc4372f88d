//! The stages of the dialogue with a host, each with how long it may take and the words for what goes wrong in it.

use std::time::{Duration, Instant};

use crate::mail::{Enhanced, Phase, Reply};

use crate::delivery::route::source_addresses::NO_SOURCE;
use crate::delivery::smtp::wire::{Fault, Timeouts};

/// A stage of the dialogue: how long it may take, and how the log calls it.
#[derive(Debug, Clone, Copy)]
pub(in crate::delivery) struct Stage {
    pub(in crate::delivery) phase: Phase,
    /// Times `reply_timeout`, whose default is the 5 minutes of RFC 5321 §4.5.3.2.
    times: u32,
    /// Continues "timed out …", "connection lost …".
    sentence: &'static str,
}

impl Stage {
    const fn new(phase: Phase, times: u32, sentence: &'static str) -> Stage {
        Stage { phase, times, sentence }
    }

    /// The stage of a command that was sent in `phase`.
    pub(in crate::delivery) fn of(phase: Phase) -> Stage {
        // All phases that a reply can be awaited in are in the table; the others end before there is a dialogue.
        STAGES.iter().copied().find(|stage| stage.phase == phase).unwrap_or(CONNECTING)
    }

    pub(in crate::delivery) fn timeouts(self, reply_timeout: Duration, deadline: Instant) -> Timeouts {
        Timeouts { wait: reply_timeout.saturating_mul(self.times), deadline }
    }
}

/// RFC 5321 §4.5.3.2.1 to §4.5.3.2.6. The RFC gives DATA 2 minutes; a host that takes 5 is no worse.
const STAGES: [Stage; 8] = [
    Stage::new(Phase::Greeting, 1, "while waiting for the greeting"),
    Stage::new(Phase::Ehlo, 1, "while waiting for the reply to EHLO"),
    Stage::new(Phase::Starttls, 1, "while starting TLS"),
    Stage::new(Phase::Auth, 1, "while logging in"),
    Stage::new(Phase::Mail, 1, "while waiting for the reply to MAIL"),
    Stage::new(Phase::Rcpt, 1, "while waiting for the reply to RCPT"),
    Stage::new(Phase::Data, 1, "while waiting for the reply to DATA"),
    Stage::new(Phase::EndOfData, 2, "while waiting for the reply to the content"),
];
pub(in crate::delivery) const CONNECTING: Stage = Stage::new(Phase::Connect, 1, "while connecting");
/// RFC 5321 §4.5.3.2.5, for each piece that the host takes.
pub(in crate::delivery) const SENDING_CONTENT: Stage =
    Stage::new(Phase::EndOfData, 1, "while sending the content");

/// Our words for a fault (RFC 3463 §3.5: 4.4.1 no answer, 4.4.2 bad connection; §3.6: 4.5.0 protocol).
pub(in crate::delivery) fn words(fault: &Fault, stage: Stage) -> Reply {
    const BAD_CONNECTION: Enhanced = Enhanced(4, 4, 2);
    const NO_ANSWER: Enhanced = Enhanced(4, 4, 1);
    const PROTOCOL: Enhanced = Enhanced(4, 5, 0);
    const TLS: Enhanced = Enhanced(4, 7, 5);
    let sentence = stage.sentence;
    let broken = if stage.phase == Phase::Connect { NO_ANSWER } else { BAD_CONNECTION };
    let (code, enhanced, text) = match fault {
        Fault::TimedOut => (421, broken, format!("timed out {sentence}")),
        Fault::Deadline => (421, broken, format!("the attempt's deadline passed {sentence}")),
        Fault::Lost(None) => (421, broken, format!("the host closed the connection {sentence}")),
        Fault::Lost(Some(error)) => (421, broken, format!("connection lost {sentence}: {error}")),
        Fault::Malformed(what) => (451, PROTOCOL, format!("malformed reply {sentence}: {what}")),
        Fault::OutOfTurn => (451, PROTOCOL, format!("the host spoke out of turn {sentence}")),
        Fault::NoSource(from, error) => {
            (451, NO_SOURCE, format!("cannot send from {from}, a source address of this relay: {error}"))
        }
        Fault::Tls(error) => (451, TLS, format!("TLS failed {sentence}: {error}")),
    };
    Reply::new(code, enhanced, "").with_text(text)
}
