//! What the MTA-STS policy of a domain (RFC 8461) says of the hosts of a plan. Pure.
//!
//! The operator's `[[route]]` comes before it, and so do TLSA records that can be used (RFC 8461 §2).

use crate::config::{DeliverySettings, Route, RouteTls, Routes};
use crate::mail::{Domain, TlsPolicy};

use crate::delivery::route::plan::Plan;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, NoSafeHost, StsRefusal};
use crate::delivery::sts::policies::StsPolicy;
use crate::delivery::sts::policy::Mode;

/// What is wrong with a host that is in DNS alone.
pub(super) const NOT_NAMED: &str = "the MTA-STS policy does not name this host";

/// Whether the MTA-STS policy of a domain has a say.
pub fn has_sts(settings: &DeliverySettings, routes: &Routes, domain: &Domain) -> bool {
    let is_free = |route: &Route| route.relay.is_empty() && route.tls.is_none();
    settings.mta_sts && domain.ip().is_none() && routes.find(domain).is_none_or(is_free)
}

/// Whether nobody has said yet what the host must prove. TLSA records that cannot be used ask for TLS and no more, so
/// that a policy which is enforced still has something to add.
fn is_free(endpoint: &Endpoint, mode: Mode) -> bool {
    let of_dane = endpoint.policy == TlsPolicy::Dane && endpoint.dane.is_none() && mode == Mode::Enforce;
    (endpoint.policy == TlsPolicy::None || of_dane) && !endpoint.relay
}

/// RFC 8461 §5: for the endpoints of which nobody has said anything yet.
///
/// # Errors
/// It names none of them.
pub(super) fn apply(plan: &mut Plan, policy: &StsPolicy) -> Result<(), Failure> {
    let mode = policy.policy.mode;
    match mode {
        Mode::None => {}
        Mode::Testing => {
            let free = plan.endpoints.iter_mut().filter(|endpoint| is_free(endpoint, mode));
            free.for_each(|endpoint| endpoint.policy = TlsPolicy::StsTesting);
        }
        Mode::Enforce => {
            let is_in = |endpoint: &Endpoint| policy.policy.allows(&endpoint.host).is_some();
            let (left, out): (Vec<Endpoint>, Vec<Endpoint>) =
                plan.endpoints.drain(..).partition(|endpoint| !is_free(endpoint, mode) || is_in(endpoint));
            plan.endpoints = left;
            // Whom nobody asked refuses nothing.
            plan.whole &= out.is_empty();
            if plan.endpoints.is_empty() && !out.is_empty() {
                return Err(not_listed(policy, out));
            }
            plan.left_out.extend(out.into_iter().map(|endpoint| NoSafeHost {
                policy: TlsPolicy::StsEnforce,
                host: endpoint.host,
                text: NOT_NAMED.to_owned(),
            }));
            for endpoint in plan.endpoints.iter_mut().filter(|endpoint| is_free(endpoint, mode)) {
                (endpoint.tls, endpoint.policy) = (RouteTls::Verify, TlsPolicy::StsEnforce);
            }
        }
    }
    Ok(())
}

fn not_listed(policy: &StsPolicy, out: Vec<Endpoint>) -> Failure {
    let StsPolicy { domain, id, .. } = policy;
    let mut hosts: Vec<String> = out.into_iter().map(|endpoint| endpoint.host).collect();
    hosts.dedup();
    let text = format!(
        "the MTA-STS policy of {domain} (mode enforce, id {id}) names none of its MX hosts: {}",
        hosts.join(", ")
    );
    let host = hosts.swap_remove(0);
    Failure::NoSafeHost(NoSafeHost { policy: TlsPolicy::StsEnforce, host, text })
}

/// Whether mail may go over a connection that was opened to this endpoint, by what is known of the domain's policy now.
pub(in crate::delivery) fn may_reuse(endpoint: &Endpoint, sts: Option<&StsPolicy>) -> bool {
    let Some(policy) = sts.filter(|policy| policy.policy.mode == Mode::Enforce) else { return true };
    match endpoint.policy {
        TlsPolicy::None | TlsPolicy::StsTesting => endpoint.relay,
        TlsPolicy::Dane => endpoint.dane.is_some(),
        TlsPolicy::StsEnforce => policy.policy.allows(&endpoint.host).is_some(),
        TlsPolicy::RequireTls | TlsPolicy::Route => true,
    }
}

/// The failure with the policy by which it is one.
pub(in crate::delivery) fn with_policy(
    failure: Failure,
    endpoint: &Endpoint,
    sts: Option<&StsPolicy>,
) -> Failure {
    match (failure, sts) {
        (Failure::Tls(why), Some(StsPolicy { domain, id, .. }))
            if endpoint.policy == TlsPolicy::StsEnforce =>
        {
            let (domain, id, host) = (domain.clone(), id.clone(), endpoint.host.clone());
            Failure::Sts(Box::new(StsRefusal { domain, id, host, why }))
        }
        (failure, _) => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::job::tls_policy::{Demands, decide};
    use crate::delivery::smtp::tls::dane::{Tlsa, TlsaRecord};
    use crate::delivery::sts::policy::Policy;

    /// An endpoint of which the plan says nothing.
    fn endpoint(host: &str) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls: RouteTls::Opportunistic,
            policy: TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: None,
            relay: false,
            preference: 10,
            sources: Arc::default(),
        }
    }

    fn tlsa() -> Arc<Tlsa> {
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![7; 32] };
        Arc::new(Tlsa::new("mx.a.test".to_owned(), vec!["mx.a.test".to_owned()], vec![record]).unwrap())
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
        let endpoints = hosts.iter().map(|(host, policy)| {
            let tls = if *policy == TlsPolicy::None { RouteTls::Opportunistic } else { RouteTls::Encrypt };
            let dane = (host.starts_with("tlsa.")).then(tlsa);
            Endpoint { policy: *policy, tls, dane, ..endpoint(host) }
        });
        let all = Plan { endpoints: endpoints.collect(), whole: true, proved: true, ..Plan::default() };
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
        let before = [("tlsa.evil.test", Dane), ("mx.a.test", None), ("relay.test", Route)];
        assert_eq!(
            by_mode(Mode::Enforce, &before, false),
            ok("tlsa.evil.test dane Encrypt, mx.a.test sts-enforce Verify, relay.test route Encrypt", true)
        );
        // TLSA records that nobody can use ask for less than the policy does.
        let unusable = [("evil.test", Dane), ("mx.a.test", Dane)];
        assert_eq!(by_mode(Mode::Enforce, &unusable, false), ok("mx.a.test sts-enforce Verify", false));
        assert_eq!(
            by_mode(Mode::Testing, &unusable, false),
            ok("evil.test dane Encrypt, mx.a.test dane Encrypt", true)
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
        let at = |host: &str, policy| Endpoint { policy, ..endpoint(host) };
        let by_tlsa = Endpoint { dane: Some(tlsa()), ..at("mx.a.test", TlsPolicy::Dane) };
        for (endpoint, mode, may) in [
            (at("mx.a.test", TlsPolicy::None), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::StsTesting), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::StsEnforce), Mode::Enforce, true),
            (at("old.test", TlsPolicy::StsEnforce), Mode::Enforce, false),
            (at("mx.a.test", TlsPolicy::Dane), Mode::Enforce, false),
            (by_tlsa, Mode::Enforce, true),
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
        let enforced = Endpoint { policy: TlsPolicy::StsEnforce, ..endpoint("mx.a.test") };
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
