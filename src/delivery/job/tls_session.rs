//! What came of TLS in a session with a host, for the daily reports (RFC 8460 §4.3). Pure.
//!
//! A session is a connection that got as far as TLS: what failed before says nothing of it. It came to what it should
//! where its policy held: without one any TLS will do, whoever's certificate that is.

use crate::config::RouteTls;
use crate::mail::tlsrpt::ResultType;
use crate::mail::{Domain, Phase};

use crate::delivery::smtp::connector::{Opened, TlsResult};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, TlsFailure};
use crate::delivery::smtp::wire::Fault;

/// What failed, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) result: ResultType,
    pub(super) reason: String,
}

impl Failed {
    fn new(result: ResultType, reason: impl Into<String>) -> Failed {
        Failed { result, reason: reason.into() }
    }
}

/// The domain whose policy counts: the recipients', or the smarthost's (RFC 8460 §1.1). None for addresses, which have
/// none.
pub(super) fn policy_domain(endpoint: &Endpoint, recipients: &Domain) -> Option<String> {
    let domain = match endpoint.relay {
        true => Domain::parse(&endpoint.host).ok()?,
        false => recipients.clone(),
    };
    domain.ip().is_none().then(|| domain.as_str().to_owned())
}

/// A connection that stands. None where TLS was not to be tried, or failed a moment ago and is left out now.
pub(super) fn of_opened(endpoint: &Endpoint, opened: &Opened, is_first: bool) -> Option<Result<(), Failed>> {
    match &opened.tls {
        TlsResult::InUse => Some(Ok(())),
        TlsResult::NotOffered => Some(Err(Failed::new(ResultType::StarttlsNotSupported, ""))),
        TlsResult::Refused(failure) => {
            Some(Err(Failed::new(ResultType::StarttlsNotSupported, failure.reply().to_string())))
        }
        // What is remembered of the host, rather than the route, says so.
        TlsResult::Unused if is_first && endpoint.tls != RouteTls::Off => Some(Err(Failed::new(
            ResultType::ValidationFailure,
            "TLS failed at this host before, and was left out",
        ))),
        TlsResult::Unused => None,
    }
}

/// A connection that could not be made. None where that has nothing to do with TLS.
pub(super) fn of_failure(failure: &Failure) -> Option<Failed> {
    let reply = || failure.reply().to_string();
    match failure {
        Failure::Tls(TlsFailure::NotOffered) => Some(Failed::new(ResultType::StarttlsNotSupported, "")),
        // The relay stops: nobody knows what would have come of it.
        _ if failure.is_stop() => None,
        Failure::Tls(TlsFailure::Handshake(Fault::Tls(error))) => {
            Some(Failed::new(of_error(error), error.to_string()))
        }
        Failure::Tls(TlsFailure::Handshake(_) | TlsFailure::NoName(_)) => {
            Some(Failed::new(ResultType::ValidationFailure, reply()))
        }
        Failure::Refused { phase: Phase::Starttls, .. } => {
            Some(Failed::new(ResultType::StarttlsNotSupported, reply()))
        }
        Failure::BadReply { phase: Phase::Starttls, .. }
        | Failure::NoReply { phase: Phase::Starttls, .. } => {
            Some(Failed::new(ResultType::ValidationFailure, reply()))
        }
        // Our own roots; all else is about something else.
        _ => None,
    }
}

/// What is wrong with a certificate, or with the handshake.
fn of_error(error: &rustls::Error) -> ResultType {
    use rustls::CertificateError as Wrong;
    let rustls::Error::InvalidCertificate(wrong) = error else { return ResultType::ValidationFailure };
    match wrong {
        Wrong::Expired
        | Wrong::ExpiredContext { .. }
        | Wrong::NotValidYet
        | Wrong::NotValidYetContext { .. } => ResultType::CertificateExpired,
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => ResultType::CertificateHostMismatch,
        _ => ResultType::CertificateNotTrusted,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::CertificateError;

    use super::*;
    use crate::delivery::smtp::timeouts::Stage;
    use crate::mail::{Enhanced, Reply};

    fn handshake(wrong: CertificateError) -> Failure {
        Failure::Tls(TlsFailure::Handshake(Fault::Tls(rustls::Error::InvalidCertificate(wrong))))
    }

    #[test]
    fn what_failed_has_the_name_that_rfc_8460_gives_it() {
        let refused = |phase| Failure::Refused { phase, reply: Reply::new(454, Enhanced(4, 7, 0), "no") };
        let silent = |phase| Failure::no_reply(Stage::of(phase), Fault::TimedOut);
        let tls = |fault| Failure::Tls(TlsFailure::Handshake(fault));
        let time = || rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1));
        let late = CertificateError::ExpiredContext { time: time(), not_after: time() };
        let early = CertificateError::NotValidYetContext { time: time(), not_before: time() };
        for (failure, result) in [
            (Failure::Tls(TlsFailure::NotOffered), Some("starttls-not-supported")),
            (refused(Phase::Starttls), Some("starttls-not-supported")),
            (silent(Phase::Starttls), Some("validation-failure")),
            (handshake(CertificateError::Expired), Some("certificate-expired")),
            (handshake(late), Some("certificate-expired")),
            (handshake(early), Some("certificate-expired")),
            (handshake(CertificateError::NotValidForName), Some("certificate-host-mismatch")),
            (handshake(CertificateError::UnknownIssuer), Some("certificate-not-trusted")),
            (handshake(CertificateError::BadSignature), Some("certificate-not-trusted")),
            (tls(Fault::Tls(rustls::Error::HandshakeNotComplete)), Some("validation-failure")),
            (tls(Fault::Lost(None)), Some("validation-failure")),
            (Failure::Tls(TlsFailure::NoName("x_".to_owned())), Some("validation-failure")),
            // Nothing is known of TLS, or it is not the host's.
            (tls(Fault::Stopping), None),
            (Failure::Tls(TlsFailure::Roots("gone".to_owned())), None),
            (Failure::Dial(Fault::TimedOut), None),
            (refused(Phase::Greeting), None),
            (silent(Phase::Ehlo), None),
            (refused(Phase::Mail), None),
        ] {
            let found = of_failure(&failure).map(|failed| failed.result.as_str());
            assert_eq!(found, result, "{failure}");
        }
    }
}
