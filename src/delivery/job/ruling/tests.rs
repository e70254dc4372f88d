//! The table in docs/protocol.md, row by row, each with its reason. `tests/it` says some of them over the
//! wire.

use crate::mail::{Enhanced, Reply};

use crate::delivery::job::ruling::*;
use crate::delivery::smtp::failure::{LoginFailure, NoRoute, Unsendable};
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::tls::dane::Mismatch;

use Outcome::{Deferred, Failed, InDoubt};
use Phase::{Auth, Data, Ehlo, EndOfData, Greeting, Mail, Rcpt, Starttls};

/// What it is for those whom it is about, what is done next, and whether the lane backs off.
type Row = (Outcome, NextStep, bool);

// Of the host.
const NEXT_HOST: Row = (Deferred, NextStep::NextHost, true);
const HOST_REFUSES: Row = (Failed, NextStep::NextHost, true);
// Of the message, with all its recipients there.
const MESSAGE_RETRIED: Row = (Deferred, NextStep::Stop, false);
const MESSAGE_BOUNCES: Row = (Failed, NextStep::Stop, false);
const IN_DOUBT: Row = (InDoubt, NextStep::Stop, false);
// Of one recipient: for this one what the message's rows are for all.
const RECIPIENT_RETRIED: Row = (Deferred, NextStep::Stop, false);
const RECIPIENT_BOUNCES: Row = (Failed, NextStep::Stop, false);

const MX: RulingContext = RulingContext { relay: false, in_doubt: false, has_others: false };
const RELAY: RulingContext = RulingContext { relay: true, ..MX };

fn row(failure: &Failure, context: RulingContext) -> Row {
    let Ruling { outcome, next, backs_off, .. } = rule(failure, &context);
    (outcome, next, backs_off)
}

fn heard(words: &str) -> Reply {
    let (code, text) = words.split_once(' ').unwrap_or((words, ""));
    let code = code.parse().unwrap();
    let (enhanced, text) = match Enhanced::split(code, text) {
        Some((enhanced, rest)) => (Some(enhanced), rest.to_owned()),
        None => (None, text.to_owned()),
    };
    Reply { enhanced, ..Reply::bare(code, "").with_text(text).from_remote() }
}

fn refused(phase: Phase, words: &str) -> Failure {
    Failure::Refused { phase, reply: heard(words) }
}

fn bad_reply(phase: Phase, words: &str) -> Failure {
    Failure::BadReply { phase, reply: heard(words) }
}

fn no_reply(phase: Phase, fault: Fault) -> Failure {
    Failure::no_reply(Stage::of(phase), fault)
}

fn route(why: NoRouteReason) -> Failure {
    Failure::Route(NoRoute { why, text: String::new(), mx: None })
}

#[test]
fn what_a_host_refuses_means_this() {
    for (phase, words, expected, reason) in [
        (
            Greeting,
            "450 4.3.2 later",
            NEXT_HOST,
            "RFC 5321 §4.2.1: a 4yz may be tried again; another host may do",
        ),
        (Greeting, "421 busy", NEXT_HOST, "RFC 5321 §3.8"),
        (Greeting, "554 no", HOST_REFUSES, "RFC 5321 §3.1: no mail here"),
        (Greeting, "521 no", HOST_REFUSES, "RFC 7504"),
        (Greeting, "550 5.7.1 you are listed", HOST_REFUSES, "the table: 5xx at greeting"),
        (Ehlo, "451 later", NEXT_HOST, "the table: 4xx at EHLO"),
        (Ehlo, "421 4.3.2 closing", NEXT_HOST, "RFC 5321 §3.8"),
        (Ehlo, "550 5.7.1 nor you", HOST_REFUSES, "the table: HELO refused too is as 5xx at greeting"),
        (Ehlo, "502 what?", HOST_REFUSES, "the same, whatever the 5xx"),
        (Starttls, "454 4.7.0 not now", NEXT_HOST, "RFC 3207 §4: TLS is required, and not to be had now"),
        (Starttls, "554 5.7.3 no", NEXT_HOST, "the table: TLS required, next host; never a bounce"),
        (Starttls, "501 syntax", NEXT_HOST, "RFC 3207 §4, likewise"),
        (Auth, "454 4.7.0 later", NEXT_HOST, "RFC 4954 §4.7.3; a login is the operator's"),
        (Auth, "535 5.7.8 wrong", NEXT_HOST, "the table: never a bounce, AUTH refused included"),
        (Auth, "421 closing", NEXT_HOST, "RFC 5321 §3.8"),
        (Mail, "451 4.3.0 later", MESSAGE_RETRIED, "RFC 5321 §4.2.1: a 4yz speaks of this message"),
        (Mail, "452 4.3.1 disk", MESSAGE_RETRIED, "RFC 5321 §4.2.3"),
        (Mail, "471 odd", MESSAGE_RETRIED, "RFC 5321 §4.3.2: an unknown code by its first digit"),
        (Mail, "550 5.7.1 not you", MESSAGE_BOUNCES, "RFC 5321 §4.2.1: a 5yz is permanent"),
        (Mail, "552 5.3.4 too big", MESSAGE_BOUNCES, "RFC 1870 §6.1"),
        (Mail, "555 parameters", MESSAGE_BOUNCES, "RFC 5321 §4.1.1.11"),
        (Mail, "530 5.7.0 authenticate", MESSAGE_BOUNCES, "an MX wants no login: it wants no mail from us"),
        (Mail, "571 odd", MESSAGE_BOUNCES, "RFC 5321 §4.3.2"),
        (Mail, "421 4.7.0 closing", NEXT_HOST, "RFC 5321 §3.8: nothing was decided"),
        (Rcpt, "450 4.2.0 greylisted", RECIPIENT_RETRIED, "RFC 6647 §2"),
        (Rcpt, "452 4.2.2 full", RECIPIENT_RETRIED, "RFC 3463 §3.3: this mailbox"),
        (Rcpt, "550 5.1.1 who?", RECIPIENT_BOUNCES, "RFC 3463 §3.2"),
        (Rcpt, "552 5.2.2 full", RECIPIENT_BOUNCES, "where nobody was accepted before, it is what it says"),
        (Rcpt, "556 5.1.10 null MX", RECIPIENT_BOUNCES, "RFC 7505 §4.1"),
        (Rcpt, "421 4.3.2 closing", NEXT_HOST, "RFC 5321 §3.8"),
        (Data, "451 later", MESSAGE_RETRIED, "RFC 5321 §4.3.2"),
        (Data, "554 5.5.1 no valid recipients", MESSAGE_BOUNCES, "RFC 5321 §4.3.2"),
        (Data, "421 closing", NEXT_HOST, "RFC 5321 §3.8"),
        (EndOfData, "452 4.3.1 full", MESSAGE_RETRIED, "RFC 5321 §4.3.2"),
        (EndOfData, "554 5.7.1 spam", MESSAGE_BOUNCES, "RFC 5321 §4.3.2"),
        (EndOfData, "571 odd", MESSAGE_BOUNCES, "RFC 5321 §4.3.2"),
        (EndOfData, "421 closing", NEXT_HOST, "RFC 5321 §3.8: it has not taken it"),
    ] {
        assert_eq!(row(&refused(phase, words), MX), expected, "{words} at {phase:?}: {reason}");
    }
}

#[test]
fn a_relay_never_refuses_for_good_before_mail_and_a_login_is_no_matter_of_the_mail() {
    for (phase, words, expected, reason) in [
        (Greeting, "554 no", NEXT_HOST, "the table: on a configured relay never a bounce"),
        (Ehlo, "550 5.7.1 no", NEXT_HOST, "the same"),
        (Auth, "535 5.7.8 wrong", NEXT_HOST, "the same"),
        (Mail, "530 5.7.0 authenticate", NEXT_HOST, "RFC 4954 §6: said of our login"),
        (Mail, "534 5.7.9 too weak", NEXT_HOST, "the same"),
        (Mail, "535 5.7.8 wrong", NEXT_HOST, "the same"),
        (Rcpt, "538 5.7.11 encrypt", NEXT_HOST, "the same"),
        (Data, "530 5.7.0 authenticate", MESSAGE_BOUNCES, "MAIL and RCPT were taken without"),
        (Mail, "550 5.7.1 not your sender", MESSAGE_BOUNCES, "RFC 5321 §4.2.1: of the message"),
        (Rcpt, "550 5.1.1 who?", RECIPIENT_BOUNCES, "RFC 5321 §4.2.1: of the recipient"),
        (EndOfData, "554 5.7.1 spam", MESSAGE_BOUNCES, "the same, of the message"),
    ] {
        assert_eq!(row(&refused(phase, words), RELAY), expected, "{words} at {phase:?}: {reason}");
    }
}

#[test]
fn where_there_is_no_answer_the_next_host_is_asked_unless_the_content_was_sent() {
    let lost = || Fault::Lost(None);
    let in_doubt = RulingContext { in_doubt: true, ..MX };
    for (failure, context, expected, reason) in [
        (Failure::Dial(Fault::TimedOut), MX, NEXT_HOST, "the table: connect failed"),
        (Failure::Dial(lost()), RELAY, NEXT_HOST, "the same"),
        (no_reply(Greeting, Fault::TimedOut), MX, NEXT_HOST, "RFC 5321 §4.5.3.2.1"),
        (no_reply(Mail, lost()), MX, NEXT_HOST, "the table: connection lost"),
        (no_reply(EndOfData, lost()), MX, NEXT_HOST, "within the content: nothing can have been taken"),
        (no_reply(EndOfData, lost()), in_doubt, IN_DOUBT, "RFC 1047"),
        (no_reply(EndOfData, Fault::TimedOut), in_doubt, IN_DOUBT, "RFC 1047, RFC 5321 §4.5.3.2.6"),
        (no_reply(Rcpt, Fault::OutOfTurn), MX, NEXT_HOST, "older than its command"),
        (bad_reply(Greeting, "354 odd"), MX, NEXT_HOST, "the table: unexpected 3xx"),
        (bad_reply(Mail, "101 odd"), MX, NEXT_HOST, "the table: 1xx"),
        (bad_reply(Data, "250 yes?"), MX, NEXT_HOST, "the table: a 2xx to DATA is no success"),
        (bad_reply(Rcpt, "503 5.5.1 sequence"), MX, NEXT_HOST, "RFC 2920 §3.1: it lost count"),
        (bad_reply(EndOfData, "502 5.5.1 BDAT?"), MX, NEXT_HOST, "RFC 5321 §4.2.4: not known after all"),
        (bad_reply(EndOfData, "354 go on"), in_doubt, IN_DOUBT, "the table: nonsense after the content"),
        (Failure::NoMoreRecipients, MX, NEXT_HOST, "RFC 5321 §4.5.3.1.10 has it take some"),
    ] {
        assert_eq!(row(&failure, context), expected, "{failure}: {reason}");
    }
}

#[test]
fn what_fails_on_our_side_is_nobodys_bounce_and_what_a_host_lacks_is() {
    let address = "192.0.2.1".parse().unwrap();
    let ours = |phase| Failure::Unsendable { phase, why: Unsendable::BadRecipient };
    let source = || Failure::Dial(Fault::NoSource(address, String::new()));
    for (failure, expected, reason) in [
        (source(), (Deferred, NextStep::NextHost, false), "of us: it holds up its own mail alone"),
        (
            Failure::Content("disk".to_owned()),
            (Deferred, NextStep::Stop, false),
            "of us, RFC 3463 §3.4: our disk",
        ),
        (Failure::Deadline, (Deferred, NextStep::Stop, true), "the lane was slow"),
        (Failure::AtLimit, (Deferred, NextStep::Stop, false), "the table: no backoff for a full host"),
        (ours(Mail), MESSAGE_BOUNCES, "RFC 1870 §6.1: as if it had said so"),
        (ours(Rcpt), RECIPIENT_BOUNCES, "RFC 6531 §3.2, likewise"),
        (
            Failure::Tls(TlsFailure::NotOffered(crate::mail::TlsPolicy::Route)),
            NEXT_HOST,
            "the table: TLS required",
        ),
        (Failure::Tls(TlsFailure::Dane(Mismatch::NoneMatches)), NEXT_HOST, "RFC 7672 §2.2"),
        (Failure::Tls(TlsFailure::Handshake(Fault::TimedOut)), NEXT_HOST, "the same"),
        (Failure::Login(LoginFailure::Other(String::new())), NEXT_HOST, "the table: never a bounce"),
    ] {
        assert_eq!(row(&failure, MX), expected, "{failure}: {reason}");
        assert_eq!(row(&failure, RELAY), expected, "{failure}: {reason}");
    }
}

#[test]
fn only_what_dns_says_on_purpose_bounces() {
    let backs_off = (Deferred, NextStep::Stop, true);
    for (why, expected, reason) in [
        (NoRouteReason::NoSuchDomain, RECIPIENT_BOUNCES, "RFC 5321 §5.1: NXDOMAIN"),
        (NoRouteReason::NullMx, RECIPIENT_BOUNCES, "RFC 7505 §3"),
        (NoRouteReason::Unroutable, RECIPIENT_BOUNCES, "RFC 5321 §5.1: no usable host"),
        (NoRouteReason::Loop, RECIPIENT_BOUNCES, "RFC 5321 §5.1: we are the best host"),
        (NoRouteReason::LookupFailed, backs_off, "docs/protocol.md: a broken resolver never bounces mail"),
        (NoRouteReason::Bogus, backs_off, "RFC 7672 §2.1.1: nobody knows where it is to go"),
        (NoRouteReason::NotSeenWhole, backs_off, "permanent only of a list that was seen whole"),
        (NoRouteReason::RelayUnknown, backs_off, "the operator wrote the name"),
        (NoRouteReason::NoSource, (Deferred, NextStep::Stop, false), "of us: other mail may well go there"),
    ] {
        assert_eq!(row(&route(why), MX), expected, "{why:?}: {reason}");
    }
}

/// RFC 8689 §4.2.1. Of a relay too, since no repair of the route makes up for what the sender wants.
#[test]
fn tls_that_the_sender_requires_is_had_or_the_mail_returned() {
    let handshake = |fault| RequireTls::Tls(TlsFailure::Handshake(fault));
    let broken = Fault::Tls(rustls::Error::DecryptError);
    for (why, expected) in [
        (RequireTls::NotSigned, MESSAGE_BOUNCES),
        (RequireTls::RouteInTheClear, MESSAGE_BOUNCES),
        (RequireTls::NotOffered, HOST_REFUSES),
        (RequireTls::InTheClear, HOST_REFUSES),
        (RequireTls::Tls(TlsFailure::NotOffered(crate::mail::TlsPolicy::Route)), HOST_REFUSES),
        (handshake(broken), HOST_REFUSES),
    ] {
        for context in [MX, RELAY] {
            assert_eq!(row(&Failure::RequireTls(why.clone()), context), expected, "{why:?}");
        }
    }
}

#[test]
fn a_host_that_has_too_much_of_us_is_waited_for_where_we_can_spare_the_connection() {
    let others = RulingContext { has_others: true, ..MX };
    let requeued = NextStep::Requeue(AT_LIMIT_WAIT);
    for (phase, words, context, next, signal) in [
        (Greeting, "421 too many connections", others, requeued, Some(ThrottleSignal::Connections)),
        (Greeting, "421 too many connections", MX, NextStep::NextHost, Some(ThrottleSignal::Connections)),
        (Greeting, "421 not available", others, requeued, Some(ThrottleSignal::Unspecified)),
        (Ehlo, "450 4.7.1 rate limit", others, NextStep::NextHost, Some(ThrottleSignal::Rate)),
        (Greeting, "554 too many connections", others, NextStep::NextHost, None),
        (
            Mail,
            "421 4.7.0 too many connections",
            others,
            NextStep::NextHost,
            Some(ThrottleSignal::Connections),
        ),
        (Rcpt, "450 4.7.1 too much mail", others, NextStep::Stop, Some(ThrottleSignal::Rate)),
        (Rcpt, "450 4.2.0 greylisted", others, NextStep::Stop, None),
    ] {
        let ruling = rule(&refused(phase, words), &context);
        assert_eq!((ruling.next, ruling.throttle), (next, signal), "{words} at {phase:?}");
        assert!(!ruling.backs_off || ruling.next == NextStep::NextHost, "{words} at {phase:?}");
    }
}

#[test]
fn the_operator_hears_of_what_does_not_pass_by_itself() {
    let login = |text: &str| Failure::Login(LoginFailure::Other(text.to_owned()));
    for (failure, loud) in [
        (refused(Greeting, "554 no"), true),
        (refused(Greeting, "450 later"), false),
        (refused(Greeting, "421 busy"), false),
        (refused(Starttls, "554 no"), true),
        (refused(Starttls, "454 4.7.0 not now"), false),
        (refused(Auth, "535 wrong"), true),
        (refused(Auth, "454 4.7.0 later"), true),
        (refused(Auth, "421 closing"), false),
        (login("no secret"), true),
        (no_reply(Auth, Fault::Lost(None)), false),
        (Failure::Tls(TlsFailure::Handshake(Fault::Tls(rustls::Error::DecryptError))), true),
        (Failure::Tls(TlsFailure::Handshake(Fault::TimedOut)), false),
        (Failure::Tls(TlsFailure::NotOffered(crate::mail::TlsPolicy::Route)), true),
        (Failure::Dial(Fault::TimedOut), false),
        (refused(Mail, "530 authenticate"), true),
        (refused(Rcpt, "530 authenticate"), true),
        (refused(Mail, "550 no"), false),
        (refused(EndOfData, "554 no"), false),
    ] {
        assert_eq!(rule(&failure, &RELAY).alert, loud, "{failure}");
    }
}
