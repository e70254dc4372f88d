//! Which policy says what TLS must be at each host of a plan, and what that is. Pure.
//!
//! The first of these that says something of a host holds there:
//!
//! | policy | says | at the host |
//! |---|---|---|
//! | `route` | `tls` of the `[[route]]` | as it is written there; it is in the plan already |
//! | `dane` | TLSA records that DNSSEC proves (RFC 7672) | STARTTLS, and a certificate that one of them means |
//! | `sts-enforce` | the domain's MTA-STS policy (RFC 8461) | STARTTLS and a certificate that holds, if it is named |
//! | `sts-testing` | the same, where it is being tested | STARTTLS where the host offers it |
//! | `none` | nobody | STARTTLS where the host offers it |
//!
//! Mail with `TLS-Required: No` (RFC 8689 §5) is planned without DANE, so that no such policy stops it.
//! A host of which it is not known whether it has TLSA records is left out for now. REQUIRETLS of the message (RFC
//! 8689) asks for more in addition (`require_tls.rs`).

use std::sync::Arc;

use crate::config::RouteTls;
use crate::mail::{Domain, TlsPolicy};

use crate::delivery::job::require_tls;
use crate::delivery::job::sts_policy;
use crate::delivery::route::plan::{DaneFinding, Plan};
use crate::delivery::smtp::failure::{Failure, NoSafeHost};
use crate::delivery::sts::policies::StsPolicy;

/// Who asks for TLS beside what the plan says.
#[derive(Debug, Clone, Copy)]
pub struct Demands<'a> {
    /// The recipients' domain.
    pub domain: &'a Domain,
    /// Its MTA-STS policy, where one holds.
    pub sts: Option<&'a StsPolicy>,
    /// The message has REQUIRETLS.
    pub require_tls: bool,
}

/// The plan with what TLS must be at each of its endpoints, and without those where that cannot be had.
///
/// # Errors
/// None is left.
pub fn decide(plan: Plan, demands: &Demands<'_>) -> Result<Plan, Failure> {
    let in_order: Vec<String> = plan.endpoints.iter().map(|endpoint| endpoint.host.clone()).collect();
    let mut plan = by_dane(plan)?;
    if let Some(policy) = demands.sts {
        sts_policy::apply(&mut plan, policy)?;
    }
    // Whoever comes behind a host that is asked would not have been asked now.
    let first = plan.endpoints.first().map(|endpoint| &endpoint.host);
    let is_ahead = |none: &NoSafeHost| {
        in_order.iter().take_while(|host| Some(*host) != first).any(|host| *host == none.host)
    };
    let mut ahead: Vec<NoSafeHost> =
        std::mem::take(&mut plan.left_out).into_iter().filter(is_ahead).collect();
    ahead.dedup();
    plan.left_out = ahead;
    if demands.require_tls {
        let hosts = std::mem::take(&mut plan.endpoints);
        plan.endpoints =
            require_tls::endpoints(hosts, plan.proved, demands.domain).map_err(Failure::RequireTls)?;
    }
    Ok(plan)
}

/// RFC 7672 §2.2: with TLSA records there is TLS or no delivery.
fn by_dane(plan: Plan) -> Result<Plan, Failure> {
    let Plan { mut endpoints, mut whole, proved, dane, mut left_out } = plan;
    let before = endpoints.len();
    endpoints.retain_mut(|endpoint| {
        if endpoint.policy != TlsPolicy::None || endpoint.relay {
            return true;
        }
        match dane.get(&endpoint.host) {
            None => {}
            Some(DaneFinding::Tlsa(tlsa)) => {
                (endpoint.policy, endpoint.tls) = (TlsPolicy::Dane, RouteTls::Encrypt);
                endpoint.dane = Some(Arc::clone(tlsa));
            }
            Some(DaneFinding::Unusable) => {
                (endpoint.policy, endpoint.tls) = (TlsPolicy::Dane, RouteTls::Encrypt);
            }
            Some(DaneFinding::Unknown(why)) => {
                let host = endpoint.host.clone();
                let text = format!("DANE: it is not known what {host} must prove: {why}");
                left_out.push(NoSafeHost { policy: TlsPolicy::Dane, host, text });
                return false;
            }
        }
        true
    });
    // Whoever was left out may take what the others refuse.
    whole &= endpoints.len() == before;
    if endpoints.is_empty() && !left_out.is_empty() {
        return Err(Failure::NoSafeHost(left_out.swap_remove(0)));
    }
    Ok(Plan { endpoints, whole, proved, dane, left_out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::smtp::endpoint::Endpoint;
    use crate::delivery::smtp::tls::dane::{Tlsa, TlsaRecord};
    use crate::delivery::sts::policy::{Mode, Policy};

    fn endpoint(host: &str, tls: Option<RouteTls>) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls: tls.unwrap_or(RouteTls::Opportunistic),
            policy: if tls.is_some() { TlsPolicy::Route } else { TlsPolicy::None },
            dane: None,
            ca_file: None,
            login: None,
            relay: false,
            preference: 10,
            sources: std::sync::Arc::default(),
        }
    }

    fn tlsa() -> Arc<Tlsa> {
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![7; 32] };
        Arc::new(Tlsa::new("mx.a.test".to_owned(), vec!["mx.a.test".to_owned()], vec![record]).unwrap())
    }

    /// What is decided of one host of which DNS says this.
    fn decided(
        tls: Option<RouteTls>,
        dane: Option<DaneFinding>,
        require_tls: bool,
    ) -> Result<(RouteTls, TlsPolicy, bool), String> {
        let domain = Domain::parse("a.test").unwrap();
        let dane = dane.into_iter().map(|finding| ("mx.a.test".to_owned(), finding)).collect();
        let endpoints = vec![endpoint("mx.a.test", tls)];
        let plan = Plan { endpoints, whole: true, proved: true, dane, left_out: vec![] };
        match decide(plan, &Demands { domain: &domain, sts: None, require_tls }) {
            Ok(plan) => {
                let Endpoint { tls, policy, dane, .. } = &plan.endpoints[0];
                Ok((*tls, *policy, dane.is_some()))
            }
            Err(failure) => Err(failure.reply().to_string()),
        }
    }

    #[test]
    fn a_route_comes_first_then_dane_and_requiretls_asks_for_more() {
        use RouteTls::{Encrypt, Opportunistic, Verify};
        let tlsa = || Some(DaneFinding::Tlsa(tlsa()));
        let unusable = || Some(DaneFinding::Unusable);
        for (route, dane, require_tls, expected) in [
            (None, None, false, (Opportunistic, TlsPolicy::None, false)),
            (None, None, true, (Verify, TlsPolicy::RequireTls, false)),
            (None, tlsa(), false, (Encrypt, TlsPolicy::Dane, true)),
            (None, tlsa(), true, (Verify, TlsPolicy::RequireTls, true)),
            (None, unusable(), false, (Encrypt, TlsPolicy::Dane, false)),
            (None, unusable(), true, (Verify, TlsPolicy::RequireTls, false)),
            (Some(Opportunistic), tlsa(), false, (Opportunistic, TlsPolicy::Route, false)),
            (Some(Encrypt), None, false, (Encrypt, TlsPolicy::Route, false)),
            (Some(Encrypt), None, true, (Verify, TlsPolicy::RequireTls, false)),
        ] {
            assert_eq!(
                decided(route, dane.clone(), require_tls),
                Ok(expected),
                "{route:?} {dane:?} {require_tls}"
            );
        }
    }

    #[test]
    fn requiretls_goes_where_mta_sts_vouches_for_a_host_that_is_not_signed() {
        let domain = Domain::parse("a.test").unwrap();
        let decided = |mode| {
            let policy = Policy { mode, max_age: 60, mx: vec!["mx.a.test".to_owned()] };
            let (domain_name, id) = ("a.test".to_owned(), "1".to_owned());
            let sts =
                StsPolicy { domain: domain_name, id, policy, fetched_at: 0, expires_at: 60, used_at: 0 };
            let endpoints = vec![endpoint("mx.a.test", None), endpoint("mx.other.test", None)];
            let plan = Plan { endpoints, whole: true, proved: false, dane: [].into(), left_out: vec![] };
            let left = decide(plan, &Demands { domain: &domain, sts: Some(&sts), require_tls: true });
            left.map(|plan| plan.endpoints.into_iter().map(|one| (one.host, one.tls)).collect::<Vec<_>>())
        };
        assert_eq!(decided(Mode::Enforce).unwrap(), [("mx.a.test".to_owned(), RouteTls::Verify)]);
        let refused = decided(Mode::Testing).unwrap_err().reply().to_string();
        assert!(refused.starts_with("550 5.7.30"), "a test vouches for nobody: {refused}");
    }

    #[test]
    fn a_host_of_which_nothing_is_known_is_left_out_and_the_others_are_not_the_whole_then() {
        let unknown = || DaneFinding::Unknown("SERVFAIL".to_owned());
        let alone = decided(None, Some(unknown()), false).unwrap_err();
        assert_eq!(alone, "451 4.7.0 DANE: it is not known what mx.a.test must prove: SERVFAIL");
        assert_eq!(decided(None, Some(unknown()), true).unwrap_err(), alone, "it may be known another time");
        let domain = Domain::parse("a.test").unwrap();
        let endpoints = vec![endpoint("mx.a.test", None), endpoint("mx2.a.test", None)];
        let dane = [("mx.a.test".to_owned(), unknown())].into();
        let plan = Plan { endpoints, whole: true, proved: true, dane, left_out: vec![] };
        let left = decide(plan, &Demands { domain: &domain, sts: None, require_tls: false }).unwrap();
        let hosts: Vec<&str> = left.endpoints.iter().map(|endpoint| endpoint.host.as_str()).collect();
        assert_eq!((hosts, left.whole), (vec!["mx2.a.test"], false));
        let left_out = |hosts: &[&str]| {
            // Two addresses each.
            let endpoints =
                hosts.iter().flat_map(|host| [endpoint(host, None), endpoint(host, None)]).collect();
            let dane = [("mx.a.test".to_owned(), unknown()), ("mx3.a.test".to_owned(), unknown())].into();
            let plan = Plan { endpoints, whole: true, proved: true, dane, left_out: vec![] };
            let left = decide(plan, &Demands { domain: &domain, sts: None, require_tls: false }).unwrap();
            left.left_out.into_iter().map(|none| none.host).collect::<Vec<_>>()
        };
        assert_eq!(left_out(&["mx.a.test", "mx3.a.test", "mx2.a.test"]), ["mx.a.test", "mx3.a.test"]);
        assert_eq!(
            left_out(&["mx.a.test", "mx2.a.test", "mx3.a.test"]),
            ["mx.a.test"],
            "the other was not due"
        );
        assert_eq!(left_out(&["mx2.a.test", "mx.a.test"]), [""; 0]);
    }
}
