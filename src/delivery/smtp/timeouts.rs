//! The stages of the dialogue with a host: how long each may take, and its words in our replies.

use std::time::{Duration, Instant};

use crate::mail::Phase;

use crate::delivery::smtp::wire::Timeouts;

/// A stage of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    pub(in crate::delivery) phase: Phase,
    /// Its time-out in multiples of `reply_timeout`, whose default is 5 minutes as in RFC 5321 §4.5.3.2.
    times: u32,
    /// Continues "timed out …", "connection lost …".
    pub(in crate::delivery) sentence: &'static str,
}

impl Stage {
    /// Before there is a dialogue.
    pub(in crate::delivery) const CONNECTING: Stage = Stage::new(Phase::Connect, 1, "while connecting");
    /// RFC 5321 §4.5.3.2.5, for each piece that the host takes.
    pub(in crate::delivery) const SENDING_CONTENT: Stage =
        Stage::new(Phase::EndOfData, 1, "while sending the content");

    const fn new(phase: Phase, times: u32, sentence: &'static str) -> Stage {
        Stage { phase, times, sentence }
    }

    /// The stage in which the reply of `phase` is awaited.
    pub(in crate::delivery) fn of(phase: Phase) -> Stage {
        // The phases that are not in the table end before there is a dialogue.
        STAGES.iter().copied().find(|stage| stage.phase == phase).unwrap_or(Stage::CONNECTING)
    }

    pub(in crate::delivery) fn timeouts(self, reply_timeout: Duration, deadline: Instant) -> Timeouts {
        Timeouts { wait: reply_timeout.saturating_mul(self.times), deadline }
    }
}

/// RFC 5321 §4.5.3.2.1 to §4.5.3.2.6. More than the RFC asks for DATA (2 minutes) and the content (3 minutes).
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
