//! What a failure means: the table in docs/protocol.md, "What an answer means". Pure.
//!
//! Where something was said decides whom it is about: greeting, EHLO, STARTTLS and AUTH speak of the host; MAIL, DATA
//! and the content of the message; RCPT of the recipient.
//!
//! Permanent is a 5xx, a domain without a host for mail (none such, a null MX, a loop, none that can be
//! used), what cannot be sent to the host that was found (`Unsendable`), and REQUIRETLS where it cannot be
//! had. What is unknown is temporary. On a configured relay nothing before MAIL bounces but for REQUIRETLS,
//! since it says that our configuration or the upstream is wrong, not that the mail is.

use std::time::Duration;

use crate::mail::{Outcome, Phase};

use crate::delivery::host::throttle_signal::{ThrottleSignal, throttle_signal};
use crate::delivery::smtp::failure::{Failure, NoRouteReason, RequireTls, TlsFailure};
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::wire::Fault;

/// Requeue delay after a host answers "too many connections".
const AT_LIMIT_WAIT: Duration = Duration::from_secs(2);

/// Under which circumstances something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RulingContext {
    /// The host is a configured relay.
    pub relay: bool,
    /// The content had been sent whole (RFC 1047).
    pub in_doubt: bool,
    /// We have other connections open to the host.
    pub has_others: bool,
}

/// What is to be done next for those whom it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Nothing: this is their answer.
    Stop,
    /// The next host is asked; where none is left, this is their answer.
    NextHost,
    /// They wait so long for room at this host. It was no attempt.
    Requeue(Duration),
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// What it is for those whom it is about. Of a host: `Failed` only where every host of the destination
    /// says so.
    pub outcome: Outcome,
    /// What is done next.
    pub next: NextStep,
    /// The lane backs off, where this is what its mail is left with.
    pub backs_off: bool,
    /// The host wants less of us.
    pub throttle: Option<ThrottleSignal>,
    /// Of a relay: it goes away by itself only by luck, so the operator is told.
    pub alert: bool,
}

impl Ruling {
    const fn new(outcome: Outcome, next: NextStep, backs_off: bool) -> Ruling {
        Ruling { outcome, next, backs_off, throttle: None, alert: false }
    }

    /// The answer of those whom it concerns.
    const fn answer(outcome: Outcome) -> Ruling {
        Ruling::new(outcome, NextStep::Stop, false)
    }

    /// The host cannot be used, or does not take this; for the time being, or for good.
    const fn of_host(outcome: Outcome) -> Ruling {
        Ruling::new(outcome, NextStep::NextHost, true)
    }

    const fn with_alert(self, alert: bool) -> Ruling {
        Ruling { alert, ..self }
    }
}

/// What this failure means.
pub fn rule(failure: &Failure, context: &RulingContext) -> Ruling {
    use Outcome::{Deferred, Failed, InDoubt};
    if failure.is_stop() && !context.in_doubt {
        // We broke off, and the host had no part in it: they are due at the next start.
        return Ruling::new(Deferred, NextStep::Requeue(Duration::ZERO), false);
    }
    match failure {
        Failure::Route(none) => match none.why {
            // What somebody said on purpose. The lane has no host that it could spare.
            NoRouteReason::NoSuchDomain
            | NoRouteReason::NullMx
            | NoRouteReason::Unroutable
            | NoRouteReason::Loop => Ruling::answer(Failed),
            // A broken resolver never bounces mail, and a relay's name is the operator's to repair.
            NoRouteReason::LookupFailed
            | NoRouteReason::Bogus
            | NoRouteReason::NotSeenWhole
            | NoRouteReason::RelayUnknown => Ruling::new(Deferred, NextStep::Stop, true),
            // It holds up the mail of these source addresses alone.
            NoRouteReason::NoSource => Ruling::answer(Deferred),
        },
        Failure::RequireTls(why) => require_tls(why),
        // RFC 8461 §5: as if the host were out of reach; the domain, or whoever is between, may mend it.
        Failure::Sts(_) => Ruling::of_host(Deferred),
        Failure::NoSafeHost(_) => Ruling::new(Deferred, NextStep::Stop, true),
        Failure::Dial(Fault::NoSource(..)) => Ruling::new(Deferred, NextStep::NextHost, false),
        Failure::Dial(_) | Failure::NoMoreRecipients => Ruling::of_host(Deferred),
        Failure::Tls(why) => Ruling::of_host(Deferred).with_alert(needs_repair(why)),
        Failure::Login(_) => Ruling::of_host(Deferred).with_alert(true),
        // RFC 1047: the host may have taken it.
        Failure::BadReply { .. } | Failure::NoReply { .. } if context.in_doubt => Ruling::answer(InDoubt),
        Failure::BadReply { phase, reply } => {
            let alert = wants_login(*phase, reply.code);
            throttled(Ruling::of_host(Deferred).with_alert(alert), failure, context)
        }
        Failure::NoReply { phase, fault, .. } => {
            let alert = *phase == Phase::Auth && matches!(fault, Fault::Tls(_));
            Ruling::of_host(Deferred).with_alert(alert)
        }
        Failure::Refused { phase, reply } => {
            throttled(refusal(*phase, reply.code, context), failure, context)
        }
        // As final as if the host had said so: a backup would only hand the message to the host that cannot take it.
        Failure::Unsendable { phase: Phase::Rcpt, .. } => Ruling::answer(Failed),
        Failure::Unsendable { .. } => Ruling::answer(Failed),
        // The operator has to repair it, and no other mail waits for that.
        Failure::Content(_) | Failure::Unsigned(_) => Ruling::answer(Deferred),
        Failure::AtLimit => Ruling::answer(Deferred),
        Failure::Deadline => Ruling::new(Deferred, NextStep::Stop, true),
    }
}

/// RFC 8689 §4.2.1. A host that cannot do what the sender requires is passed over; where none can, waiting will not
/// change it, and no repair of a relay's route makes up for it.
fn require_tls(why: &RequireTls) -> Ruling {
    match why {
        RequireTls::NotSigned | RequireTls::RouteInTheClear => Ruling::answer(Outcome::Failed),
        RequireTls::NotOffered | RequireTls::InTheClear => Ruling::of_host(Outcome::Failed),
        RequireTls::Tls(why) => Ruling::of_host(Outcome::Failed).with_alert(needs_repair(why)),
    }
}

/// Whether TLS fails for what is configured here or there, and not for the network.
fn needs_repair(why: &TlsFailure) -> bool {
    match why {
        TlsFailure::Handshake(fault) => matches!(fault, Fault::Tls(_)),
        TlsFailure::NotOffered(_) | TlsFailure::Dane(_) | TlsFailure::Roots(_) | TlsFailure::NoName(_) => {
            true
        }
    }
}

fn refusal(phase: Phase, code: u16, context: &RulingContext) -> Ruling {
    use Outcome::{Deferred, Failed};
    let class = ReplyClass::of(phase, code);
    let is_permanent = class == ReplyClass::Permanent;
    match phase {
        // 521 and 554 (RFC 7504): no mail here, unless it is the relay that the operator wants it to go to.
        Phase::Greeting | Phase::Ehlo if is_permanent && !context.relay => Ruling::of_host(Failed),
        Phase::Dns | Phase::Connect | Phase::Greeting | Phase::Ehlo | Phase::Starttls => {
            Ruling::of_host(Deferred).with_alert(is_permanent)
        }
        Phase::Auth => Ruling::of_host(Deferred).with_alert(class != ReplyClass::Closing),
        Phase::Mail | Phase::Rcpt if context.relay && wants_login(phase, code) => {
            Ruling::of_host(Deferred).with_alert(true)
        }
        // RFC 5321 §3.8: 421 anywhere.
        _ if class == ReplyClass::Closing => Ruling::of_host(Deferred),
        Phase::Rcpt => Ruling::answer(if is_permanent { Failed } else { Deferred }),
        Phase::Mail | Phase::Data | Phase::EndOfData => {
            Ruling::answer(if is_permanent { Failed } else { Deferred })
        }
    }
}

/// Whether a relay that has let us in wants a login all the same, or a better one (RFC 4954 §6: 530, 534, 535,
/// 538): that is said of us, not of the mail or of a recipient.
fn wants_login(phase: Phase, code: u16) -> bool {
    matches!(phase, Phase::Mail | Phase::Rcpt) && matches!(code, 530 | 534 | 535 | 538)
}

/// The same, by a host that may have said that it has too much of us.
fn throttled(ruling: Ruling, failure: &Failure, context: &RulingContext) -> Ruling {
    let throttle = throttle_signal(failure.phase(), &failure.reply());
    let too_many = matches!(throttle, Some(ThrottleSignal::Connections | ThrottleSignal::Unspecified));
    // Of several connections this one was ours to avoid, and the host is well.
    if too_many && context.has_others && failure.phase() < Phase::Mail {
        let next = NextStep::Requeue(AT_LIMIT_WAIT);
        return Ruling { next, backs_off: false, throttle, alert: false, ..ruling };
    }
    Ruling { throttle, ..ruling }
}

#[cfg(test)]
mod tests;
