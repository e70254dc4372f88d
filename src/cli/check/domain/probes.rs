//! Hosts are connected to as mail would be, up to QUIT, all at the same time: those of an address, and the domain's
//! own, of which it counts what they show to senders. No mail is sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::lookups::{InTime, or_none};
use crate::config::{DeliverySettings, RouteTls};
use crate::delivery::route::lookup::Lookup as _;
use crate::delivery::smtp::connection::Connector;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
pub(super) use crate::delivery::smtp::probe::Probed;
use crate::delivery::smtp::probe::probe;
use crate::mail::TlsPolicy;

/// Addresses of one host that are connected to: each may have a certificate of its own.
const ADDRESSES_MAX: usize = 4;
/// Hosts of the domain that are connected to.
pub(super) const HOSTS_MAX: usize = 10;

/// What the addresses of a host showed that let us in; else why none did.
pub(super) type Shown = Result<Vec<(IpAddr, Probed)>, String>;

/// What came of each, in their order.
///
/// # Errors
/// Where `[delivery] ca_file` cannot be used.
pub(super) fn all(
    endpoints: &[Endpoint],
    settings: &DeliverySettings,
    deadline: Instant,
) -> Result<Vec<Result<Probed, Failure>>, String> {
    // A little less than there is, so that what is said is that the host took too long.
    let wait = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
    let hurried = DeliverySettings { connect_timeout: wait, reply_timeout: wait, ..settings.clone() };
    let connector = &Connector::new(&hurried).map_err(|error| error.to_string())?;
    Ok(thread::scope(|scope| {
        let parts: Vec<_> =
            endpoints.iter().map(|endpoint| scope.spawn(|| probe(connector, endpoint, deadline))).collect();
        let stopped = || Err(Failure::Deadline);
        parts.into_iter().map(|part| part.join().unwrap_or_else(|_| stopped())).collect()
    }))
}

/// The hosts by these names, which SNI says too. Nothing is asked of their certificates here.
pub(super) fn shown(
    names: &InTime<'_>,
    settings: &DeliverySettings,
    hosts: &[&str],
    deadline: Instant,
) -> Vec<Shown> {
    let sources: Arc<[IpAddr]> = settings.source_addresses.iter().copied().collect();
    let endpoint = |host: &str, ip: IpAddr| Endpoint {
        host: host.to_owned(),
        address: SocketAddr::new(ip, settings.port),
        tls: RouteTls::Opportunistic,
        // It keeps why a certificate does not hold, and asks nothing of it.
        policy: TlsPolicy::StsTesting,
        dane: None,
        ca_file: None,
        login: None,
        relay: false,
        preference: 0,
        sources: sources.clone(),
    };
    let found: Vec<Result<Vec<IpAddr>, String>> = names.addresses(hosts).into_iter().map(or_none).collect();
    let endpoints: Vec<Endpoint> = hosts
        .iter()
        .zip(&found)
        .flat_map(|(host, ips)| ips.iter().flatten().take(ADDRESSES_MAX).map(|ip| endpoint(host, *ip)))
        .collect();
    let answers = match all(&endpoints, settings, deadline) {
        Ok(answers) => answers,
        Err(why) => return hosts.iter().map(|_| Err(why.clone())).collect(),
    };
    let mut answers = endpoints.iter().zip(answers);
    let mut of_host = |ips: Result<Vec<IpAddr>, String>| {
        let (mut showed, mut failed) = (Vec::new(), None);
        for (endpoint, answer) in answers.by_ref().take(ips?.len().min(ADDRESSES_MAX)) {
            let ip = endpoint.address.ip();
            match answer {
                Ok(probed) => showed.push((ip, probed)),
                Err(failure) => failed = Some(format!("{ip}: {failure}")),
            }
        }
        let none = || failed.unwrap_or_else(|| "it has no address".to_owned());
        if showed.is_empty() { Err(none()) } else { Ok(showed) }
    };
    found.into_iter().map(&mut of_host).collect()
}
