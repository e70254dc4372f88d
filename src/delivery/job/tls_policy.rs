//! Which policy says what TLS must be at each host of a plan, and what that is. Pure.
//!
//! In this order, the first that says something: `tls` of the `[[route]]`, and then nothing: STARTTLS where the host
//! offers it. REQUIRETLS of the message (RFC 8689) asks for more in addition (`require_tls.rs`).

use crate::mail::Domain;

use crate::delivery::job::require_tls;
use crate::delivery::route::plan::Plan;
use crate::delivery::smtp::failure::Failure;

/// Who asks for TLS beside the route, which is in the plan.
#[derive(Debug, Clone, Copy)]
pub struct Demands<'a> {
    /// The recipients' domain.
    pub domain: &'a Domain,
    /// The message has REQUIRETLS.
    pub require_tls: bool,
}

/// The plan with what TLS must be at each of its endpoints, and without those where that cannot be had.
///
/// # Errors
/// None is left.
pub fn decide(plan: Plan, demands: &Demands<'_>) -> Result<Plan, Failure> {
    if !demands.require_tls {
        return Ok(plan);
    }
    let (whole, proved) = (plan.whole, plan.proved);
    let endpoints = require_tls::endpoints(plan, demands.domain).map_err(Failure::RequireTls)?;
    Ok(Plan { endpoints, whole, proved })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteTls;
    use crate::delivery::smtp::endpoint::Endpoint;
    use crate::mail::TlsPolicy;

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
            let decided = decide(plan(route), &Demands { domain: &domain, require_tls }).unwrap();
            let of = |endpoint: &Endpoint| (endpoint.tls, endpoint.policy);
            assert_eq!(of(&decided.endpoints[0]), (tls, policy), "{route:?} {require_tls}");
        }
    }
}
