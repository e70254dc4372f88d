//! What a reply code says, by its first digit and the command that it answers (RFC 5321 §4.2.1). Pure.

use crate::mail::{Enhanced, Phase, Reply};

/// The class of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum ReplyClass {
    /// 2xx.
    Positive,
    /// 354 to DATA, 334 to AUTH: go on.
    Intermediate,
    /// 4xx.
    Transient,
    /// 5xx.
    Permanent,
    /// 421, the host closes the connection (RFC 5321 §3.8).
    Closing,
    /// No answer to what was asked: 1xx, an unexpected 3xx, 6xx and above, a 2xx to DATA.
    Invalid,
}

impl ReplyClass {
    /// Of `code` as the answer in `phase`.
    pub(in crate::delivery) fn of(phase: Phase, code: u16) -> ReplyClass {
        match (phase, code) {
            (_, 421) => ReplyClass::Closing,
            (Phase::Data, 354) | (Phase::Auth, 334) => ReplyClass::Intermediate,
            // A host that says yes to DATA without having seen the content promises nothing.
            (Phase::Data, 200..=299) => ReplyClass::Invalid,
            (_, 200..=299) => ReplyClass::Positive,
            (_, 400..=499) => ReplyClass::Transient,
            (_, 500..=599) => ReplyClass::Permanent,
            _ => ReplyClass::Invalid,
        }
    }
}

/// 552 after an accepted recipient is read as 452 (RFC 5321 §4.5.3.1.10). 452 has other uses too: where
/// an enhanced code says that it is not the number of recipients (4.5.3), it speaks of the recipient.
pub(in crate::delivery) fn is_too_many_recipients(reply: &Reply) -> bool {
    match reply.code {
        552 => true,
        452 => reply.enhanced.is_none_or(|enhanced| enhanced == Enhanced(4, 5, 3)),
        _ => false,
    }
}

/// The second number of the enhanced code, where there is one: what it speaks of (RFC 3463 §2).
pub(in crate::delivery) fn subject(reply: &Reply) -> Option<u16> {
    reply.enhanced.map(|Enhanced(_, subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_class_at_every_stage() {
        use Phase::{Auth, Data, Ehlo, EndOfData, Greeting, Mail, Rcpt, Starttls};
        use ReplyClass::{Closing, Intermediate, Invalid, Permanent, Positive, Transient};
        const ALL: [Phase; 8] = [Greeting, Ehlo, Starttls, Auth, Mail, Rcpt, Data, EndOfData];
        let but = |phase: Phase| ALL.into_iter().filter(move |other| *other != phase);
        for (phases, codes, class) in [
            (ALL.to_vec(), 0..=199, Invalid),
            (but(Data).collect(), 200..=299, Positive),
            (vec![Data], 200..=299, Invalid),
            (vec![Auth], 334..=334, Intermediate),
            (but(Auth).collect(), 334..=334, Invalid),
            (vec![Data], 354..=354, Intermediate),
            (but(Data).collect(), 354..=354, Invalid),
            (ALL.to_vec(), 300..=333, Invalid),
            (ALL.to_vec(), 335..=353, Invalid),
            (ALL.to_vec(), 355..=399, Invalid),
            (ALL.to_vec(), 400..=420, Transient),
            (ALL.to_vec(), 421..=421, Closing),
            (ALL.to_vec(), 422..=499, Transient),
            (ALL.to_vec(), 500..=599, Permanent),
            (ALL.to_vec(), 600..=999, Invalid),
        ] {
            for phase in phases {
                for code in codes.clone() {
                    assert_eq!(ReplyClass::of(phase, code), class, "{code} at {phase:?}");
                }
            }
        }
    }
}
