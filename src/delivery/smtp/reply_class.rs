//! What an answer means (RFC 5321 §4.2.1). Pure.
//!
//! Where it was said decides whom it is about: greeting, EHLO, STARTTLS and AUTH speak of the host; MAIL, DATA and
//! the dot of the message; RCPT of the recipient. Only a 5xx is permanent; what is unknown is temporary.

use crate::mail::{Enhanced, Phase, Reply};

/// What came of one recipient at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientResult {
    /// Where it was decided.
    pub phase: Phase,
    /// The host's words, or ours where it had none.
    pub reply: Reply,
    /// What they mean.
    pub verdict: Verdict,
}

/// What an answer means for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host took it and is responsible from here on.
    Delivered,
    /// The same, by a host that offers no DSN where a success report was asked for (RFC 3461 §5.2.2), or with a
    /// trace that was asked for (`BY=…;NT`, RFC 2852 §4).
    Relayed,
    /// Try again later.
    Deferred,
    /// Refused for good.
    Failed,
    /// The content was sent whole, and its reply never came or could not be read (RFC 1047).
    InDoubt,
    /// The host takes no more recipients in this transaction: no attempt, goes into the next one
    /// (RFC 5321 §4.5.3.1.10). At least one recipient of this transaction was accepted.
    NextTransaction,
    /// The host is in trouble, and nothing was decided: try the next host.
    HostTrouble,
}

/// What a failure before MAIL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// Temporary: try the next host; when none is left, later.
    NextHost,
    /// The host takes no mail at all: permanent if every host of the destination says so.
    HostRefuses,
}

/// What a reply code says, by its first digit and the place where it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Meaning {
    /// 2xx.
    Yes,
    /// 354 to DATA, 334 to AUTH: go on.
    GoOn,
    /// 4xx.
    NotNow,
    /// 5xx.
    Never,
    /// 421, the host closes the connection (RFC 5321 §3.8).
    Closing,
    /// No answer to what was asked: 1xx, an unexpected 3xx, 6xx and above, a 2xx to DATA.
    Nonsense,
}

/// The table: what `code` means as the answer in `phase`.
pub(in crate::delivery) fn meaning(phase: Phase, code: u16) -> Meaning {
    match (phase, code) {
        (_, 421) => Meaning::Closing,
        (Phase::Data, 354) | (Phase::Auth, 334) => Meaning::GoOn,
        // A host that says yes to DATA without having seen the content promises nothing.
        (Phase::Data, 200..=299) => Meaning::Nonsense,
        (_, 200..=299) => Meaning::Yes,
        (_, 400..=499) => Meaning::NotNow,
        (_, 500..=599) => Meaning::Never,
        _ => Meaning::Nonsense,
    }
}

/// What a refusal before MAIL means. `relay`: on a configured relay it is never permanent, since it
/// says that our configuration or the upstream is wrong, not that the mail is.
pub(in crate::delivery) fn host_refusal(phase: Phase, code: u16, relay: bool) -> TroubleKind {
    let greeting = matches!(phase, Phase::Greeting | Phase::Ehlo);
    if greeting && !relay && meaning(phase, code) == Meaning::Never {
        TroubleKind::HostRefuses
    } else {
        TroubleKind::NextHost
    }
}

/// Whether a relay that has let us in wants a login all the same, or a better one (RFC 4954 §6: 530, 534, 535,
/// 538): that is said of us, not of the mail or of a recipient.
pub(in crate::delivery) fn wants_login(phase: Phase, code: u16) -> bool {
    matches!(phase, Phase::Mail | Phase::Rcpt) && matches!(code, 530 | 534 | 535 | 538)
}

/// 552 after an accepted recipient is read as 452 (RFC 5321 §4.5.3.1.10). 452 has other uses too: where
/// an enhanced code says that it is not the number of recipients (4.5.3), it speaks of the recipient.
pub(in crate::delivery) fn is_too_many_recipients(reply: &Reply) -> bool {
    match reply.code {
        552 => true,
        452 => matches!(reply.enhanced, None | Some(Enhanced(4, 5, 3))),
        _ => false,
    }
}

/// What a refusal means for those whom it is about.
pub(in crate::delivery) fn refusal_verdict(refusal: Meaning) -> Verdict {
    if refusal == Meaning::Never { Verdict::Failed } else { Verdict::Deferred }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_meaning_at_every_stage() {
        use Phase::{Auth, Data, Ehlo, EndOfData, Greeting, Mail, Rcpt, Starttls};
        for phase in [Greeting, Ehlo, Starttls, Auth, Mail, Rcpt, Data, EndOfData] {
            for code in 0..=999 {
                let expected = match code / 100 {
                    2 if phase == Data => Meaning::Nonsense,
                    2 => Meaning::Yes,
                    3 if (phase, code) == (Data, 354) || (phase, code) == (Auth, 334) => Meaning::GoOn,
                    4 if code == 421 => Meaning::Closing,
                    4 => Meaning::NotNow,
                    5 => Meaning::Never,
                    _ => Meaning::Nonsense,
                };
                assert_eq!(meaning(phase, code), expected, "{code} at {phase:?}");
                let permanent = code / 100 == 5 && matches!(phase, Greeting | Ehlo);
                let kind = if permanent { TroubleKind::HostRefuses } else { TroubleKind::NextHost };
                assert_eq!(host_refusal(phase, code, false), kind, "{code} at {phase:?}");
                assert_eq!(
                    host_refusal(phase, code, true),
                    TroubleKind::NextHost,
                    "{code} at {phase:?} of a relay"
                );
            }
        }
    }
}
