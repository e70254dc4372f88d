//! Which policy says what TLS must be at each host of a plan, and what that is. Pure.
//!
//! In this order, the first that says something: `tls` of the `[[route]]`, the MTA-STS policy of the domain (RFC 8461),
//! and then nothing: STARTTLS where the host offers it. REQUIRETLS of the message (RFC 8689) asks for more in addition
//! (`require_tls.rs`).

use crate::config::{DeliverySettings, Route, RouteTls, Routes};
use crate::mail::{Domain, TlsPolicy};

use crate::delivery::job::require_tls;
use crate::delivery::route::plan::Plan;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, StsRefusal, StsWhy};
use crate::delivery::sts::policies::StsPolicy;
use crate::delivery::sts::policy::Mode;

/// Who asks for TLS beside the route, which is in the plan.
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
pub fn decide(mut plan: Plan, demands: &Demands<'_>) -> Result<Plan, Failure> {
    if let Some(policy) = demands.sts {
        by_sts(&mut plan, policy)?;
    }
    if !demands.require_tls {
        return Ok(plan);
    }
    let (whole, proved) = (plan.whole, plan.proved);
    let endpoints = require_tls::endpoints(plan, demands.domain).map_err(Failure::RequireTls)?;
    Ok(Plan { endpoints, whole, proved })
}

/// RFC 8461 §5: for the endpoints of which nobody has said anything yet.
fn by_sts(plan: &mut Plan, policy: &StsPolicy) -> Result<(), Failure> {
    let is_free = |endpoint: &Endpoint| endpoint.policy == TlsPolicy::None && !endpoint.relay;
    match policy.policy.mode {
        Mode::None => {}
        Mode::Testing => {
            let free = plan.endpoints.iter_mut().filter(|endpoint| is_free(endpoint));
            free.for_each(|endpoint| endpoint.policy = TlsPolicy::StsTesting);
        }
        Mode::Enforce => {
            let is_in = |endpoint: &Endpoint| policy.policy.allows(&endpoint.host).is_some();
            let (left, out): (Vec<Endpoint>, Vec<Endpoint>) =
                plan.endpoints.drain(..).partition(|endpoint| !is_free(endpoint) || is_in(endpoint));
            plan.endpoints = left;
            // Whom nobody asked refuses nothing.
            plan.whole &= out.is_empty();
            if plan.endpoints.is_empty() && !out.is_empty() {
                let mut hosts: Vec<String> = out.into_iter().map(|endpoint| endpoint.host).collect();
                hosts.dedup();
                return Err(Failure::Sts(refusal(policy, StsWhy::NotListed(hosts.join(", ")))));
            }
            for endpoint in plan.endpoints.iter_mut().filter(|endpoint| is_free(endpoint)) {
                (endpoint.tls, endpoint.policy) = (RouteTls::Verify, TlsPolicy::StsEnforce);
            }
        }
    }
    Ok(())
}

/// Whether the MTA-STS policy of a domain has a say.
pub fn has_sts(settings: &DeliverySettings, routes: &Routes, domain: &Domain) -> bool {
    let is_free = |route: &Route| route.relay.is_empty() && route.tls.is_none();
    settings.mta_sts && domain.ip().is_none() && routes.find(domain).is_none_or(is_free)
}

/// Whether mail may go over a connection that was opened to this endpoint, by what is known of the domain's policy now.
pub(in crate::delivery) fn may_reuse(endpoint: &Endpoint, sts: Option<&StsPolicy>) -> bool {
    let Some(policy) = sts.filter(|policy| policy.policy.mode == Mode::Enforce) else { return true };
    match endpoint.policy {
        TlsPolicy::None | TlsPolicy::StsTesting => endpoint.relay,
        TlsPolicy::StsEnforce => policy.policy.allows(&endpoint.host).is_some(),
        TlsPolicy::Dane | TlsPolicy::RequireTls | TlsPolicy::Route => true,
    }
}

/// The failure with the policy by which it is one.
pub(in crate::delivery) fn with_policy(
    failure: Failure,
    endpoint: &Endpoint,
    sts: Option<&StsPolicy>,
) -> Failure {
    match (failure, sts) {
        (Failure::Tls(why), Some(policy)) if endpoint.policy == TlsPolicy::StsEnforce => {
            Failure::Sts(refusal(policy, StsWhy::Tls { host: endpoint.host.clone(), why }))
        }
        (failure, _) => failure,
    }
}

fn refusal(policy: &StsPolicy, why: StsWhy) -> Box<StsRefusal> {
    Box::new(StsRefusal { domain: policy.domain.clone(), id: policy.id.clone(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::sts::policy::Policy;

    /// A host to which the route says this.
    fn plan(tls: Option<RouteTls>) -> Plan {
        let endpoint = Endpoint {
            host: "mx.a.test".to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls: tls.unwrap_or(RouteTls::Opportunistic),
            policy: if tls.is_some() { TlsPolicy::Route } else { TlsPolicy::None },
            ca_file: None,
            login: None,
            relay: false,
            preference: 10,
            sources: std::sync::Arc::default(),
        };
        Plan { endpoints: vec![endpoint], whole: true, proved: true }
    }

    #[test]
    fn a_route_comes_first_and_requiretls_asks_for_more() {
        use RouteTls::{Encrypt, Opportunistic, Verify};
        let domain = Domain::parse("a.test").unwrap();
        for (route, require_tls, tls, policy) in [
            (None, false, Opportunistic, TlsPolicy::None),
            (None, true, Verify, TlsPolicy::RequireTls),
            (Some(Opportunistic), false, Opportunistic, TlsPolicy::Route),
            (Some(Encrypt), false, Encrypt, TlsPolicy::Route),
            (Some(Encrypt), true, Verify, TlsPolicy::RequireTls),
        ] {
            let decided = decide(plan(route), &Demands { domain: &domain, sts: None, require_tls }).unwrap();
            let of = |endpoint: &Endpoint| (endpoint.tls, endpoint.policy);
            assert_eq!(of(&decided.endpoints[0]), (tls, policy), "{route:?} {require_tls}");
        }
    }

    fn sts(mode: Mode) -> StsPolicy {
        let mx = vec!["mx.a.test".to_owned(), "*.b.test".to_owned()];
        StsPolicy {
            domain: "a.test".to_owned(),
            id: "1".to_owned(),
            policy: Policy { mode, max_age: 100, mx },
            fetched_at: 0,
            expires_at: 100,
            used_at: 0,
        }
    }

    /// What becomes of hosts `(name, policy before)`, and whether the plan is whole.
    fn by_mode(mode: Mode, hosts: &[(&str, TlsPolicy)], require_tls: bool) -> Result<(String, bool), String> {
        let mut all = plan(None);
        let first = all.endpoints.remove(0);
        all.endpoints.extend(hosts.iter().map(|(host, policy)| {
            let tls = if *policy == TlsPolicy::None { first.tls } else { RouteTls::Encrypt };
            Endpoint { host: (*host).to_owned(), policy: *policy, tls, ..first.clone() }
        }));
        let domain = Domain::parse("a.test").unwrap();
        let sts = sts(mode);
        let decided = decide(all, &Demands { domain: &domain, sts: Some(&sts), require_tls })
            .map_err(|failure| failure.reply().to_string())?;
        let shown = |one: &Endpoint| format!("{} {} {:?}", one.host, one.policy.as_str(), one.tls);
        Ok((decided.endpoints.iter().map(shown).collect::<Vec<_>>().join(", "), decided.whole))
    }

    #[test]
    fn the_policy_of_the_domain_says_which_hosts_and_how() {
        use TlsPolicy::{Dane, None, Route};
        let ok = |text: &str, whole| Ok((text.to_owned(), whole));
        let both = [("mx.a.test", None), ("evil.test", None)];
        assert_eq!(
            by_mode(Mode::None, &both, false),
            ok("mx.a.test none Opportunistic, evil.test none Opportunistic", true)
        );
        assert_eq!(
            by_mode(Mode::Testing, &both, false),
            ok("mx.a.test sts-testing Opportunistic, evil.test sts-testing Opportunistic", true)
        );
        assert_eq!(by_mode(Mode::Enforce, &both, false), ok("mx.a.test sts-enforce Verify", false));
        assert_eq!(
            by_mode(Mode::Enforce, &[("mx.a.test", None), ("x.b.test", None)], false),
            ok("mx.a.test sts-enforce Verify, x.b.test sts-enforce Verify", true)
        );
        assert_eq!(by_mode(Mode::Enforce, &both, true), ok("mx.a.test requiretls Verify", false));
        // Who has spoken before is not overruled (RFC 8461 §2 for DANE).
        let before = [("evil.test", Dane), ("mx.a.test", None), ("relay.test", Route)];
        assert_eq!(
            by_mode(Mode::Enforce, &before, false),
            ok("evil.test dane Encrypt, mx.a.test sts-enforce Verify, relay.test route Encrypt", true)
        );
        assert_eq!(
            by_mode(Mode::Enforce, &[("evil.test", None), ("evil.test", None), ("x.y.b.test", None)], false),
            Err("451 4.7.0 the MTA-STS policy of a.test (mode enforce, id 1) names none of its MX hosts: \
                 evil.test, x.y.b.test"
                .to_owned())
        );
    }

    #[test]
    fn a_connection_carries_on_only_where_it_proved_what_the_policy_wants() {
        let at =
            |host: &str, policy| Endpoint { host: host.to_owned(), policy, ..plan(None).endpoints.remove(0) };
        for (endpoint, mode, may) in [
            (at("mx.a.test", TlsPolicy::None), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::StsTesting), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::StsEnforce), Mode::Enforce, true),
            (at("old.test", TlsPolicy::StsEnforce), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::Dane), Mode::Enforce, true),
            (at("mx.a.test", TlsPolicy::Route), Mode::Enforce, true),
            (at("mx.a.test", TlsPolicy::None), Mode::Testing, true),
            (at("mx.a.test", TlsPolicy::None), Mode::None, true),
        ] {
            assert_eq!(may_reuse(&endpoint, Some(&sts(mode))), may, "{endpoint:?} {mode}");
            assert!(may_reuse(&endpoint, None));
        }
    }

    #[test]
    fn a_failure_tells_the_policy_and_the_host() {
        use crate::delivery::smtp::failure::TlsFailure;
        let enforced = Endpoint { policy: TlsPolicy::StsEnforce, ..plan(None).endpoints.remove(0) };
        let failure = Failure::Tls(TlsFailure::Roots("why".to_owned()));
        let policy = sts(Mode::Enforce);
        assert_eq!(
            with_policy(failure.clone(), &enforced, Some(&policy)).reply().to_string(),
            "451 4.7.5 the MTA-STS policy of a.test (mode enforce, id 1) wants TLS with a certificate that holds for \
             mx.a.test: why"
        );
        let other = Endpoint { policy: TlsPolicy::Dane, ..enforced };
        assert_eq!(with_policy(failure.clone(), &other, Some(&policy)), failure);
    }
}
