//! Whether a reply says that we send too much: too many connections, too much mail (pure).
//!
//! RFC 5321 has no code for it. Hosts say 421 or 4.7.x, and which of the two they mean only in words; the
//! words below are those that widespread hosts use. What is not recognised is no signal: it is
//! retried like any other temporary answer. Greylisting and full mailboxes speak of something else.

use crate::mail::{Enhanced, Phase, Reply, ReplySource};

/// What a host has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleSignal {
    /// Connections at once.
    Connections,
    /// Messages or connections in a time.
    Rate,
    /// It does not say: a bare 421 instead of a greeting, which is about connections if we have others there.
    Unspecified,
}

/// Words for a rate that is too high.
const RATE: [&str; 16] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "connection rate",
    "message rate",
    "sending rate",
    "unusual rate",
    "rate exceeded",
    "throttl",
    "too fast",
    "slow down",
    "too much mail",
    "too many messages",
    "too many mails",
    "too many emails",
    "sending too",
];
/// Words for connections, each a signal only beside one of [`TOO_MANY`].
const CONNECTIONS: [&str; 3] = ["connection", "session", "concurren"];
const TOO_MANY: [&str; 5] = ["too many", "limit", "maximum", "exceed", "simultaneous"];

/// What the reply, given in `phase`, says that there is too much of; none: nothing.
pub(in crate::delivery) fn throttle_signal(phase: Phase, reply: &Reply) -> Option<ThrottleSignal> {
    if reply.code / 100 != 4 || reply.reply_source != ReplySource::Remote {
        return None;
    }
    let subject = reply.enhanced.map(|Enhanced(_, subject, _)| subject);
    // 4.2.x is about one mailbox (RFC 3463 §3.3), "receives mail at a rate that …" included.
    if subject == Some(2) {
        return None;
    }
    let text = reply.text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&RATE) {
        return Some(ThrottleSignal::Rate);
    }
    if says(&CONNECTIONS) && says(&TOO_MANY) {
        return Some(ThrottleSignal::Connections);
    }
    match (reply.enhanced, reply.code) {
        // RFC 3463 §3.5: mail system congestion.
        (Some(Enhanced(4, 4, 5)), _) => Some(ThrottleSignal::Rate),
        // 4.4.x: a connection was lost, which is not ours to avoid.
        (Some(Enhanced(4, 4, _)), _) => None,
        // Policy (RFC 3463 §3.8) that closes the channel: what we sent just now was too much for it.
        (Some(Enhanced(4, 7, _)), 421) if phase > Phase::Ehlo => Some(ThrottleSignal::Rate),
        (_, 421) if phase == Phase::Greeting || phase == Phase::Ehlo => Some(ThrottleSignal::Unspecified),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(phase: Phase, line: &str) -> Option<ThrottleSignal> {
        let (code, text) = line.split_at(3);
        let (code, text) = (code.parse().unwrap(), text.trim_start());
        let (enhanced, text) = match Enhanced::split(code, text) {
            Some((enhanced, text)) => (Some(enhanced), text.to_owned()),
            None => (None, text.to_owned()),
        };
        throttle_signal(
            phase,
            &Reply { code, enhanced, text: text.into(), reply_source: ReplySource::Remote },
        )
    }

    /// The wordings are rebuilt after what hosts of many makes say; names and numbers are made up.
    #[test]
    fn too_many_connections_are_recognised_in_many_wordings() {
        for line in [
            "421 4.7.0 mx.a.test Error: too many connections from 192.0.2.1",
            "421 Too many concurrent SMTP connections; please try again later.",
            "421 4.3.2 Too many open connections.",
            "421 4.7.1 mx3 ESMTP server: maximum number of simultaneous connections reached for your address",
            "421 4.1.0 192.0.2.1 Too many sessions opened",
            "450 4.7.1 Connection limit exceeded for this host",
            "452 Too many sessions\nplease come back",
            "421 4.7.0 CONCURRENCY LIMIT reached",
        ] {
            assert_eq!(signal(Phase::Greeting, line), Some(ThrottleSignal::Connections), "{line}");
        }
    }

    #[test]
    fn a_rate_that_is_too_high_is_recognised_in_many_wordings() {
        for line in [
            "421 4.7.0 [192.0.2.1] Our system noticed an unusual rate of mail from your address",
            "421 4.3.2 Connection rate limit exceeded.",
            "451 4.7.650 The server [192.0.2.1] is rate limited for now because of its reputation",
            "450 4.7.1 Error: too much mail from 192.0.2.1",
            "454 4.7.0 Throttling failure: maximum sending rate exceeded",
            "452 4.5.3 too many messages in this hour",
            "451 please slow down",
            "451 4.4.5 congestion",
            "421 4.7.0 [TS01] mail from 192.0.2.1 deferred",
        ] {
            assert_eq!(signal(Phase::Mail, line), Some(ThrottleSignal::Rate), "{line}");
        }
    }

    #[test]
    fn what_is_said_of_other_things_is_no_signal() {
        for line in [
            "451 4.7.1 Greylisted, come back in 300 seconds",
            "450 4.2.1 this mailbox receives mail at a rate that keeps new messages out: rate limit",
            "452 4.2.2 mailbox over its limit for this session",
            "452 4.5.3 too many recipients",
            "451 4.3.0 too many hops",
            "421 4.4.2 timed out while waiting for the greeting",
            "421 4.4.2 connection lost while waiting for the reply to MAIL: reset",
            "421 4.3.0 shutting down",
            "550 5.7.1 too many connections",
            "554 rate limit exceeded",
            "250 2.0.0 accepted without any rate limit",
            "450",
        ] {
            assert_eq!(signal(Phase::Rcpt, line), None, "{line}");
        }
    }

    #[test]
    fn our_own_words_are_no_signal() {
        let ours = Reply::new(451, Enhanced(4, 4, 5), "too many connections");
        assert_eq!(throttle_signal(Phase::Greeting, &ours), None);
        assert_eq!(throttle_signal(Phase::Greeting, &ours.from_remote()), Some(ThrottleSignal::Connections));
    }

    #[test]
    fn a_bare_421_instead_of_a_greeting_leaves_open_what_is_meant() {
        assert_eq!(signal(Phase::Greeting, "421 service not available"), Some(ThrottleSignal::Unspecified));
        assert_eq!(signal(Phase::Ehlo, "421 4.7.0 try later"), Some(ThrottleSignal::Unspecified));
        assert_eq!(signal(Phase::Greeting, "450 try later"), None);
        assert_eq!(signal(Phase::Connect, "421 4.4.1 connection refused"), None);
    }
}
