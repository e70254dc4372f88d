//! What a message with REQUIRETLS asks of a host (RFC 8689 §4.2.1): a name that nobody could forge, TLS with a
//! certificate that holds for it, and the word that the host will ask the same of the next.
//!
//! A host that cannot do so is passed over; where none can, the message is returned, since waiting will not
//! change it. A host that is merely out of reach is waited for as ever. A report about such a message asks for the
//! same, but is not thrown away where it cannot be had (§5).

use crate::config::RouteTls;
use crate::mail::Domain;
use crate::queue::QueuedMessage;

use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, RequireTls, TlsFailure};
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Fault;

/// Whether hosts have to do all of it for this message.
pub(in crate::delivery) fn is_required(message: &QueuedMessage) -> bool {
    message.handling.require_tls && message.sender.is_some()
}

/// The same hosts, with TLS that proves who they are.
///
/// # Errors
/// None of them will do.
pub(in crate::delivery) fn endpoints(
    mut endpoints: Vec<Endpoint>,
    domain: &Domain,
    lookup: &dyn Lookup,
) -> Result<Vec<Endpoint>, RequireTls> {
    // The operator wrote the names of relays, the sender that of the domain; an MX record comes from whoever
    // answered.
    let by_mx =
        |endpoint: &Endpoint| !endpoint.relay && domain.ip().is_none() && endpoint.host != domain.as_str();
    if endpoints.iter().any(by_mx) {
        match lookup.mx_is_signed(domain.as_str()) {
            Ok(true) => {}
            Ok(false) => return Err(RequireTls::NotSigned),
            Err(DnsError::Temporary(why)) => {
                let text = format!("cannot tell whether the MX records of {domain} are signed: {why}");
                return Err(RequireTls::LookupFailed(text));
            }
            Err(error) => return Err(RequireTls::LookupFailed(format!("MX of {domain}: {error}"))),
        }
    }
    endpoints.retain(|endpoint| endpoint.tls != RouteTls::Off);
    if endpoints.is_empty() {
        return Err(RequireTls::RouteInTheClear);
    }
    for endpoint in &mut endpoints {
        if endpoint.tls != RouteTls::Implicit {
            endpoint.tls = RouteTls::Verify;
        }
    }
    Ok(endpoints)
}

/// What keeps a connection from being opened: where that is TLS, it speaks against the host for good.
pub(in crate::delivery) fn insist(failure: Failure) -> Failure {
    match failure {
        // The network may be better another time.
        Failure::Tls(TlsFailure::Handshake(fault)) if !matches!(fault, Fault::Tls(_)) => {
            Failure::Tls(TlsFailure::Handshake(fault))
        }
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

    struct Answer(Result<bool, DnsError>);

    impl Lookup for Answer {
        fn mx(&self, _: &str) -> Result<Vec<(u16, String)>, DnsError> {
            Err(DnsError::NoData)
        }
        fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<std::net::IpAddr>, DnsError>> {
            hosts.iter().map(|_| Err(DnsError::NoData)).collect()
        }
        fn mx_is_signed(&self, _: &str) -> Result<bool, DnsError> {
            self.0.clone()
        }
    }

    fn endpoint(host: &str, tls: RouteTls, relay: bool) -> Endpoint {
        let address = "192.0.2.1:25".parse().unwrap();
        let (ca_file, login) = (None, None);
        Endpoint {
            host: host.to_owned(),
            address,
            tls,
            ca_file,
            login,
            relay,
            preference: 10,
            sources: std::sync::Arc::default(),
        }
    }

    fn checked(
        host: &str,
        tls: RouteTls,
        relay: bool,
        signed: Result<bool, DnsError>,
    ) -> Result<RouteTls, String> {
        let domain = Domain::parse("a.test").unwrap();
        let left = endpoints(vec![endpoint(host, tls, relay)], &domain, &Answer(signed));
        left.map(|left| left[0].tls).map_err(|why| Failure::RequireTls(why).reply().to_string())
    }

    #[test]
    fn an_mx_host_needs_signed_records_and_others_do_not() {
        use RouteTls::{Implicit, Opportunistic, Verify};
        assert_eq!(checked("mx.a.test", Opportunistic, false, Ok(true)), Ok(Verify));
        let refused = checked("mx.a.test", Opportunistic, false, Ok(false)).unwrap_err();
        assert!(refused.starts_with("550 5.7.30 REQUIRETLS support required"), "{refused}");
        let deferred = checked("mx.a.test", Opportunistic, false, Err(DnsError::Temporary("late".into())));
        assert!(deferred.unwrap_err().starts_with("451 4.4.3"));
        assert_eq!(
            checked("a.test", Opportunistic, false, Ok(false)),
            Ok(Verify),
            "no MX: the domain itself"
        );
        assert_eq!(checked("smtp.upstream.test", Implicit, true, Ok(false)), Ok(Implicit));
    }

    #[test]
    fn a_route_without_tls_is_no_way() {
        let refused = checked("smtp.upstream.test", RouteTls::Off, true, Ok(true)).unwrap_err();
        assert!(refused.starts_with("550 5.7.10 Encryption needed"), "{refused}");
    }
}
