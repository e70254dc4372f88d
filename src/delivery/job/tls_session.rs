//! What came of TLS in a session with a host, for the daily reports (RFC 8460 §4.3). Pure.
//!
//! A session is a connection that got as far as TLS: what failed before says nothing of it. It came to what it should
//! where its policy held: without one any TLS will do, whoever's certificate that is.

use std::net::IpAddr;

use crate::config::RouteTls;
use crate::mail::tlsrpt::ResultType;
use crate::mail::{Domain, Phase, TlsPolicy};

use crate::delivery::job::sts_policy::NOT_NAMED;
use crate::delivery::smtp::connector::{Opened, TlsResult};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, NoRoute, NoRouteReason, NoSafeHost, TlsFailure};
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::tls::dane::{Mismatch, TlsaRecord};
use crate::delivery::smtp::wire::Fault;
use crate::delivery::sts::policies::StsPolicy;
use crate::delivery::sts::policy::Mode;

/// What failed, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) result: ResultType,
    pub(super) reason: String,
}

/// Which policies there are of a domain and its host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policies<'a> {
    /// MTA-STS of the domain.
    pub(super) sts: Option<&'a StsPolicy>,
    /// The host has TLSA records that DNSSEC proves, and none that can be used.
    pub(super) unusable_tlsa: bool,
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
        true if endpoint.host.parse::<IpAddr>().is_ok() => return None,
        true => Domain::parse(&endpoint.host).ok()?,
        false => recipients.clone(),
    };
    domain.ip().is_none().then(|| domain.as_str().to_owned())
}

/// The policy of the host or its domain, which a message that requires TLS (RFC 8689) is held to as well.
pub(super) fn policy(endpoint: &Endpoint, policies: Policies<'_>) -> TlsPolicy {
    match endpoint.policy {
        TlsPolicy::RequireTls if endpoint.dane.is_some() => TlsPolicy::Dane,
        TlsPolicy::RequireTls if !endpoint.relay => match policies.sts.map(|sts| sts.policy.mode) {
            Some(Mode::Enforce) => TlsPolicy::StsEnforce,
            _ if policies.unusable_tlsa => TlsPolicy::Dane,
            Some(Mode::Testing) => TlsPolicy::StsTesting,
            Some(Mode::None) | None => TlsPolicy::RequireTls,
        },
        other => other,
    }
}

/// A connection that stands. None where TLS was not to be tried, or failed a moment ago and is left out now.
pub(super) fn of_opened(
    endpoint: &Endpoint,
    opened: &Opened,
    policies: Policies<'_>,
    is_first: bool,
) -> Option<Result<(), Failed>> {
    let policy = policy(endpoint, policies);
    match &opened.tls {
        TlsResult::InUse if policy == TlsPolicy::StsTesting => Some(tested(
            &endpoint.host,
            policies.sts,
            opened.connection.tls(),
            opened.connection.refusal.as_ref(),
        )),
        // RFC 7672 §2.2: TLS without a proof, where none of the records can be used.
        TlsResult::InUse if policy == TlsPolicy::Dane && endpoint.dane.is_none() => {
            Some(Err(Failed::new(ResultType::TlsaInvalid, "none of the TLSA records can be used")))
        }
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

fn not_named() -> Failed {
    Failed::new(ResultType::ValidationFailure, NOT_NAMED)
}

/// What would have failed if the policy were enforced.
fn tested(
    host: &str,
    sts: Option<&StsPolicy>,
    tls: Encryption,
    refusal: Option<&rustls::Error>,
) -> Result<(), Failed> {
    if sts.is_some_and(|sts| sts.policy.allows(host).is_none()) {
        return Err(not_named());
    }
    match refusal {
        _ if tls.is_verified() => Ok(()),
        Some(error) => Err(Failed::new(of_error(error), error.to_string())),
        // Its key or signature is too weak to prove anything.
        None => Err(Failed::new(ResultType::CertificateNotTrusted, tls.to_string())),
    }
}

/// A connection that could not be made. None where that has nothing to do with TLS.
pub(super) fn of_failure(failure: &Failure) -> Option<Failed> {
    let reply = || failure.reply().to_string();
    match failure {
        Failure::Tls(TlsFailure::NotOffered(_)) => Some(Failed::new(ResultType::StarttlsNotSupported, "")),
        // None of the records vouches for it (RFC 7672 §2.2): that it is somebody's is no matter.
        Failure::Tls(TlsFailure::Dane(why)) => {
            let result = match why {
                Mismatch::NoneMatches | Mismatch::Chain(_) => ResultType::CertificateNotTrusted,
                Mismatch::OutOfDate(_) => ResultType::CertificateExpired,
                Mismatch::Name(_) => ResultType::CertificateHostMismatch,
            };
            Some(Failed::new(result, why.to_string()))
        }
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

/// A host that a policy left out.
pub(super) fn of_left_out(none: &NoSafeHost) -> Failed {
    let result = match none.policy {
        // Nothing came that is proved, or nothing at all.
        TlsPolicy::Dane => ResultType::DnssecInvalid,
        _ => ResultType::ValidationFailure,
    };
    Failed::new(result, none.text.clone())
}

/// A policy that left no host to try, or a proof that does not hold (RFC 8460 §4.3.2): it counts as a session that
/// failed, under that policy and at that host.
pub(super) fn of_plan(failure: &Failure) -> Option<(TlsPolicy, Option<&str>, Failed)> {
    match failure {
        Failure::NoSafeHost(none) => Some((none.policy, Some(&none.host), of_left_out(none))),
        Failure::Route(NoRoute { why: NoRouteReason::Bogus, text, mx }) => {
            Some((TlsPolicy::None, mx.as_deref(), Failed::new(ResultType::DnssecInvalid, text.clone())))
        }
        _ => None,
    }
}

/// The policy itself, in lines.
pub(super) fn policy_text(endpoint: &Endpoint, policies: Policies<'_>) -> String {
    let policy = policy(endpoint, policies);
    if let Some(text) = sts_text(policy, policies.sts) {
        return text;
    }
    let Some(tlsa) = &endpoint.dane else { return String::new() };
    let line = |record: &TlsaRecord| {
        let data: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {} {data}\n", record.usage, record.selector, record.matching)
    };
    tlsa.records().iter().map(line).collect()
}

/// That of MTA-STS, where it is the one.
pub(super) fn sts_text(policy: TlsPolicy, sts: Option<&StsPolicy>) -> Option<String> {
    matches!(policy, TlsPolicy::StsTesting | TlsPolicy::StsEnforce).then(|| Some(sts?.policy.to_string()))?
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
    use crate::delivery::smtp::tls::dane::Tlsa;
    use crate::delivery::sts::policy::Policy;
    use crate::mail::{Enhanced, Reply};

    fn handshake(wrong: CertificateError) -> Failure {
        Failure::Tls(TlsFailure::Handshake(Fault::Tls(rustls::Error::InvalidCertificate(wrong))))
    }

    fn endpoint(host: &str, relay: bool) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls: RouteTls::Opportunistic,
            policy: TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: None,
            relay,
            preference: 10,
            sources: std::sync::Arc::default(),
        }
    }

    #[test]
    fn a_smarthost_counts_as_itself_and_an_address_not_at_all() {
        let domain = |endpoint: &Endpoint, recipients: &str| {
            policy_domain(endpoint, &Domain::parse(recipients).unwrap())
        };
        assert_eq!(domain(&endpoint("mx.a.test", false), "a.test").as_deref(), Some("a.test"));
        assert_eq!(domain(&endpoint("Smart.test", true), "a.test").as_deref(), Some("smart.test"));
        assert_eq!(domain(&endpoint("192.0.2.1", true), "a.test"), None);
        assert_eq!(domain(&endpoint("192.0.2.1", false), "[192.0.2.1]"), None);
    }

    #[test]
    fn mail_that_requires_tls_counts_under_the_policy_of_the_host() {
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![1; 32] };
        let tlsa = Tlsa::new("mx.a.test".to_owned(), vec![], vec![record]).map(std::sync::Arc::new);
        let sts = |mode| StsPolicy {
            domain: "a.test".to_owned(),
            id: "1".to_owned(),
            policy: Policy { mode, mx: Vec::new(), max_age: 1 },
            fetched_at: 0,
            expires_at: 0,
            used_at: 0,
        };
        let required = Endpoint { policy: TlsPolicy::RequireTls, ..endpoint("mx.a.test", false) };
        let dane = Endpoint { dane: tlsa, ..required.clone() };
        let relay = Endpoint { relay: true, ..required.clone() };
        for (endpoint, unusable_tlsa, mode, expected) in [
            (&dane, false, None, TlsPolicy::Dane),
            (&dane, false, Some(Mode::Enforce), TlsPolicy::Dane),
            (&required, false, Some(Mode::Enforce), TlsPolicy::StsEnforce),
            (&required, false, Some(Mode::Testing), TlsPolicy::StsTesting),
            (&required, false, Some(Mode::None), TlsPolicy::RequireTls),
            (&required, false, None, TlsPolicy::RequireTls),
            (&required, true, Some(Mode::Enforce), TlsPolicy::StsEnforce),
            (&required, true, Some(Mode::Testing), TlsPolicy::Dane),
            (&required, true, None, TlsPolicy::Dane),
            (&relay, true, Some(Mode::Enforce), TlsPolicy::RequireTls),
        ] {
            let sts = mode.map(sts);
            let found = policy(endpoint, Policies { sts: sts.as_ref(), unusable_tlsa });
            assert_eq!(found, expected, "{mode:?} {unusable_tlsa}");
        }
    }

    #[test]
    fn what_dane_says_is_told() {
        let none = |policy| {
            let (host, text) = ("mx.a.test".to_owned(), "bogus".to_owned());
            let failure = Failure::NoSafeHost(NoSafeHost { policy, host, text });
            of_plan(&failure).map(|(policy, mx, failed)| (policy, mx.map(str::to_owned), failed.result))
        };
        let host = || Some("mx.a.test".to_owned());
        let (dane, enforce) = (TlsPolicy::Dane, TlsPolicy::StsEnforce);
        assert_eq!(none(dane), Some((dane, host(), ResultType::DnssecInvalid)));
        assert_eq!(none(enforce), Some((enforce, host(), ResultType::ValidationFailure)));
        let route = |why| {
            let failure = Failure::Route(NoRoute { why, text: "bogus".to_owned(), mx: None });
            of_plan(&failure).map(|(policy, mx, failed)| (policy, mx.map(str::to_owned), failed.result))
        };
        assert_eq!(route(NoRouteReason::Bogus), Some((TlsPolicy::None, None, ResultType::DnssecInvalid)));
        assert_eq!(route(NoRouteReason::LookupFailed), None);
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![0xab; 32] };
        let tlsa = Tlsa::new("mx.a.test".to_owned(), vec![], vec![record.clone(), record]);
        let dane = Endpoint { dane: tlsa.map(std::sync::Arc::new), ..endpoint("mx.a.test", false) };
        let no_policies = Policies { sts: None, unusable_tlsa: false };
        assert_eq!(policy_text(&dane, no_policies), format!("3 1 1 {0}\n3 1 1 {0}\n", "ab".repeat(32)));
    }

    #[test]
    fn what_failed_has_the_name_that_rfc_8460_gives_it() {
        let refused = |phase| Failure::Refused { phase, reply: Reply::new(454, Enhanced(4, 7, 0), "no") };
        let silent = |phase| Failure::no_reply(Stage::of(phase), Fault::TimedOut);
        let tls = |fault| Failure::Tls(TlsFailure::Handshake(fault));
        let dane = |why| Failure::Tls(TlsFailure::Dane(why));
        let time = || rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1));
        let late = CertificateError::ExpiredContext { time: time(), not_after: time() };
        let early = CertificateError::NotValidYetContext { time: time(), not_before: time() };
        for (failure, result) in [
            (Failure::Tls(TlsFailure::NotOffered(TlsPolicy::Dane)), Some("starttls-not-supported")),
            (dane(Mismatch::NoneMatches), Some("certificate-not-trusted")),
            (dane(Mismatch::Chain("BadSignature".to_owned())), Some("certificate-not-trusted")),
            (dane(Mismatch::OutOfDate("CertExpired".to_owned())), Some("certificate-expired")),
            (dane(Mismatch::Name("mx.a.test".to_owned())), Some("certificate-host-mismatch")),
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
