//! What a message with REQUIRETLS asks of a host (RFC 8689 §4.2.1): a name that DNSSEC or MTA-STS vouches for, TLS with
//! a certificate that holds for it, and the word that the host will ask the same of the next.
//!
//! A host that cannot do so is passed over; where none can, the message is returned, since waiting will not
//! change it. A host that is merely out of reach is waited for as ever. A report about such a message asks for the
//! same, but is not thrown away where it cannot be had (§5).

use crate::config::RouteTls;
use crate::mail::{Domain, TlsPolicy};
use crate::queue::QueuedMessage;

use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, RequireTls, TlsFailure};
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Fault;

/// Whether hosts have to do all of it for this message.
pub(in crate::delivery) fn is_required(message: &QueuedMessage) -> bool {
    message.handling.require_tls && message.sender.is_some()
}

/// These hosts, with TLS that proves who they are. `proved`: DNSSEC says that they are the domain's.
///
/// # Errors
/// None of them will do.
pub(in crate::delivery) fn endpoints(
    mut endpoints: Vec<Endpoint>,
    proved: bool,
    domain: &Domain,
) -> Result<Vec<Endpoint>, RequireTls> {
    // The operator wrote the names of relays, the sender that of the domain; an MX record comes from whoever answered.
    // Whether it is proved is said of the answer that the plan was made from, and of no other.
    endpoints.retain(|endpoint| {
        let is_known = endpoint.relay || domain.ip().is_some() || endpoint.host == domain.as_str();
        proved || is_known || endpoint.policy == TlsPolicy::StsEnforce
    });
    if endpoints.is_empty() {
        return Err(RequireTls::NotSigned);
    }
    endpoints.retain(|endpoint| endpoint.tls != RouteTls::Off);
    if endpoints.is_empty() {
        return Err(RequireTls::RouteInTheClear);
    }
    for endpoint in &mut endpoints {
        if endpoint.tls != RouteTls::Implicit {
            endpoint.tls = RouteTls::Verify;
        }
        endpoint.policy = TlsPolicy::RequireTls;
    }
    Ok(endpoints)
}

/// What keeps a connection from being opened: where that is TLS, it speaks against the host for good.
pub(in crate::delivery) fn insist(failure: Failure) -> Failure {
    match failure {
        // The network may be better another time, and our own files may be readable.
        Failure::Tls(TlsFailure::Handshake(fault)) if !matches!(fault, Fault::Tls(_)) => {
            Failure::Tls(TlsFailure::Handshake(fault))
        }
        Failure::Tls(TlsFailure::Roots(why)) => Failure::Tls(TlsFailure::Roots(why)),
        Failure::Tls(why) => Failure::RequireTls(RequireTls::Tls(why)),
        other => other,
    }
}

/// What speaks against a connection that a user turned round (ATRN). Who is there was proved by AUTH within TLS,
/// in the place of a name and its certificate.
pub(in crate::delivery) fn turned_unfit(connection: &Connection) -> Option<RequireTls> {
    match connection.tls() {
        Encryption::None => Some(RequireTls::InTheClear),
        _ if connection.capabilities.require_tls => None,
        _ => Some(RequireTls::NotOffered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, tls: RouteTls, relay: bool) -> Endpoint {
        let address = "192.0.2.1:25".parse().unwrap();
        let (ca_file, login) = (None, None);
        Endpoint {
            host: host.to_owned(),
            address,
            tls,
            policy: TlsPolicy::None,
            dane: None,
            ca_file,
            login,
            relay,
            preference: 10,
            sources: std::sync::Arc::default(),
        }
    }

    /// What TLS must be at the hosts that are left of these, with MX records that are proved or not.
    fn checked(hosts: &[(&str, RouteTls, bool)], proved: bool) -> Result<Vec<(String, RouteTls)>, String> {
        let domain = Domain::parse("a.test").unwrap();
        let listed = hosts.iter().map(|(host, tls, relay)| endpoint(host, *tls, *relay)).collect();
        let left = endpoints(listed, proved, &domain);
        let shown = |left: Vec<Endpoint>| left.into_iter().map(|one| (one.host, one.tls)).collect();
        left.map(shown).map_err(|why| Failure::RequireTls(why).reply().to_string())
    }

    #[test]
    fn an_mx_host_needs_proved_records_and_others_do_not() {
        use RouteTls::{Implicit, Opportunistic, Verify};
        let by_mx = ("mx.a.test", Opportunistic, false);
        let itself = ("a.test", Opportunistic, false);
        let verified = |hosts: &[&str]| Ok(hosts.iter().map(|host| ((*host).to_owned(), Verify)).collect());
        assert_eq!(checked(&[by_mx], true), verified(&["mx.a.test"]));
        let refused = checked(&[by_mx], false).unwrap_err();
        assert!(refused.starts_with("550 5.7.30 REQUIRETLS support required"), "{refused}");
        // Its name is what the sender wrote, and the certificate holds for that name alone.
        assert_eq!(checked(&[itself], false), verified(&["a.test"]), "no MX: the domain itself");
        assert_eq!(checked(&[by_mx, itself], false), verified(&["a.test"]));
        assert_eq!(checked(&[by_mx, itself], true), verified(&["mx.a.test", "a.test"]));
        let relay = ("smtp.upstream.test", Implicit, true);
        assert_eq!(checked(&[relay], false), Ok(vec![("smtp.upstream.test".to_owned(), Implicit)]));
    }

    #[test]
    fn what_is_our_own_fault_does_not_return_the_message() {
        let roots = Failure::Tls(TlsFailure::Roots("gone".to_owned()));
        assert_eq!(insist(roots.clone()), roots);
        let not_offered = Failure::Tls(TlsFailure::NotOffered(TlsPolicy::RequireTls));
        assert!(matches!(insist(not_offered), Failure::RequireTls(_)));
    }

    #[test]
    fn a_route_without_tls_is_no_way() {
        let refused = checked(&[("smtp.upstream.test", RouteTls::Off, true)], true).unwrap_err();
        assert!(refused.starts_with("550 5.7.10 Encryption needed"), "{refused}");
    }
}
