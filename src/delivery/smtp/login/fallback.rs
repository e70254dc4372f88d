//! Which AUTH mechanism is tried after a refusal. Pure.
//!
//! Hosts count refused logins and lock accounts, so a secret that was refused is not tried over and over:
//!
//! - A mechanism that the host does not support or accept (504, 534 and others) says nothing about the secret: the
//!   next mechanism is tried. After "too weak" (534) only one that does not show the password.
//! - 535 to SCRAM or CRAM-MD5 may mean that the host has no verifier of that kind: PLAIN or LOGIN is tried once, and
//!   remembered as the mechanism for this host and secret.
//! - After any other refusal nothing more is tried with this secret.

use std::collections::VecDeque;

use crate::mail::{Enhanced, Phase, Reply};

use crate::delivery::smtp::login::mechanism::Mechanism;
use crate::delivery::smtp::reply_class::ReplyClass;

/// What the last reply of an exchange means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthReply {
    /// Logged in.
    Accepted,
    /// The host does not accept this mechanism; `too_weak`: it would accept a stronger one.
    MechanismRefused { too_weak: bool },
    /// Wrong user or secret, as far as this mechanism can tell.
    CredentialsRefused,
    /// Another failure: further tries are of no use.
    OtherFailure,
}

impl AuthReply {
    pub(super) fn of(reply: &Reply) -> AuthReply {
        match (reply.code, reply.enhanced) {
            (code, _) if ReplyClass::of(Phase::Auth, code) == ReplyClass::Positive => AuthReply::Accepted,
            // RFC 4954 §6: 432 asks for a login with PLAIN, so that the host can make what this mechanism needs.
            (432 | 535, _) | (_, Some(Enhanced(5, 7, 8))) => AuthReply::CredentialsRefused,
            // RFC 4954 §6: authentication mechanism is too weak.
            (534, _) | (_, Some(Enhanced(5, 7, 9))) => AuthReply::MechanismRefused { too_weak: true },
            (500..=502 | 504 | 538, _) => AuthReply::MechanismRefused { too_weak: false },
            _ => AuthReply::OtherFailure,
        }
    }
}

/// What follows a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterRefusal {
    /// The next mechanism, if there is one. `remember`: it is the only one to try with this host and secret again.
    TryNext { remember: Option<Mechanism> },
    /// Nothing more is tried with this secret.
    Stop,
}

/// The mechanisms still to try with one secret, best first.
pub(super) struct Candidates {
    left: VecDeque<Mechanism>,
}

impl Candidates {
    /// `remembered`: the mechanism that an earlier login found, with the same host and secret.
    pub(super) fn new(mechanisms: Vec<Mechanism>, remembered: Option<Mechanism>) -> Candidates {
        let mut left = VecDeque::from(mechanisms);
        if let Some(at) = left.iter().position(|mechanism| Some(*mechanism) == remembered) {
            left.drain(..at);
        }
        Candidates { left }
    }

    pub(super) fn next(&mut self) -> Option<Mechanism> {
        self.left.pop_front()
    }

    /// After the host answered the exchange of `tried` with `reply`, which is a refusal.
    pub(super) fn refused(&mut self, tried: Mechanism, reply: AuthReply) -> AfterRefusal {
        match reply {
            AuthReply::MechanismRefused { too_weak } => {
                if too_weak && tried.shows_password() {
                    self.left.retain(|other| !other.shows_password());
                }
                AfterRefusal::TryNext { remember: None }
            }
            AuthReply::CredentialsRefused if !tried.shows_password() => {
                self.left.retain(|other| other.shows_password());
                self.left.truncate(1);
                AfterRefusal::TryNext { remember: self.left.front().copied() }
            }
            AuthReply::Accepted | AuthReply::CredentialsRefused | AuthReply::OtherFailure => {
                AfterRefusal::Stop
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mechanism::{CramMd5, Login, Plain, Scram, ScramPlus};

    #[test]
    fn a_refusal_is_about_the_mechanism_the_secret_or_neither() {
        use AuthReply::{Accepted, CredentialsRefused, MechanismRefused, OtherFailure};
        for (code, enhanced, expected) in [
            (235, Some(Enhanced(2, 7, 0)), Accepted),
            (535, Some(Enhanced(5, 7, 8)), CredentialsRefused),
            (535, None, CredentialsRefused),
            (550, Some(Enhanced(5, 7, 8)), CredentialsRefused),
            (432, Some(Enhanced(4, 7, 12)), CredentialsRefused),
            (534, Some(Enhanced(5, 7, 9)), MechanismRefused { too_weak: true }),
            (504, Some(Enhanced(5, 5, 4)), MechanismRefused { too_weak: false }),
            (501, None, MechanismRefused { too_weak: false }),
            (454, Some(Enhanced(4, 7, 0)), OtherFailure),
            (421, None, OtherFailure),
            (530, Some(Enhanced(5, 7, 0)), OtherFailure),
            (550, None, OtherFailure),
            (354, None, OtherFailure),
        ] {
            let reply = Reply { code, enhanced, ..Reply::bare(code, "") };
            assert_eq!(AuthReply::of(&reply), expected, "{reply}");
        }
    }

    /// The mechanisms that are tried, and the one that is remembered, with a host that always replies so.
    fn tried(
        remembered: Option<Mechanism>,
        reply: impl Fn(Mechanism) -> AuthReply,
    ) -> (Vec<Mechanism>, Option<Mechanism>) {
        let mut candidates = Candidates::new(vec![ScramPlus, Scram, Plain, Login, CramMd5], remembered);
        let (mut tried, mut found) = (Vec::new(), None);
        while let Some(mechanism) = candidates.next() {
            tried.push(mechanism);
            match candidates.refused(mechanism, reply(mechanism)) {
                AfterRefusal::TryNext { remember } => found = found.or(remember),
                AfterRefusal::Stop => break,
            }
        }
        (tried, found)
    }

    #[test]
    fn a_refused_secret_is_shown_once_and_a_refused_mechanism_leads_to_the_next() {
        let unknown = |_| AuthReply::MechanismRefused { too_weak: false };
        assert_eq!(tried(None, unknown), (vec![ScramPlus, Scram, Plain, Login, CramMd5], None));
        assert_eq!(tried(Some(Plain), unknown), (vec![Plain, Login, CramMd5], None));
        let too_weak = |_| AuthReply::MechanismRefused { too_weak: true };
        assert_eq!(tried(Some(Plain), too_weak), (vec![Plain, CramMd5], None));
        let wrong = |_| AuthReply::CredentialsRefused;
        assert_eq!(tried(None, wrong), (vec![ScramPlus, Plain], Some(Plain)));
        assert_eq!(tried(Some(Login), wrong), (vec![Login], None));
        let wrong_but_for_plain = |mechanism| match mechanism {
            Plain => AuthReply::MechanismRefused { too_weak: false },
            _ => AuthReply::CredentialsRefused,
        };
        assert_eq!(tried(None, wrong_but_for_plain), (vec![ScramPlus, Plain], Some(Plain)));
        assert_eq!(tried(None, |_| AuthReply::OtherFailure), (vec![ScramPlus], None));
    }
}
