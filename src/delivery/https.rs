//! HTTPS: a document fetched or sent, once, from hosts that our own lookups find. ureq is at home here.
//!
//! The certificate must hold for the host's name, against webpki-roots and `[delivery] ca_file`. No redirect is
//! followed, no proxy and no environment variable is heeded, a connection is used once, and size and time are bounded.
//! Addresses in `prohibited_networks` are not connected to: a domain in DNS decides what is fetched.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport,
    TransportAdapter,
};
use ureq::{Agent, Error};

use crate::config::{DeliverySettings, ProhibitedNetworks};

use crate::delivery::route::lookup::Lookup;
use crate::delivery::smtp::tls::{ClientHelloKind, Proof, RootsError, Trusts, peer_name};

/// For all of it (RFC 8461 §3.3 suggests a minute), and for the part that ends with the handshake.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the header of a response.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;

/// Speaks HTTPS for all threads.
#[derive(Debug)]
pub struct Https {
    agent: Agent,
    lookup: SharedLookup,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `200` and so on.
    pub status: u16,
    /// In lower case and without parameters; empty where there is none.
    pub media_type: String,
    /// All of it.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    /// The host has no address that may be connected to.
    #[error("{0}")]
    NoAddress(String),
    /// No handshake, or a certificate that does not hold.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// More bytes than were wanted.
    #[error("the answer is too long")]
    TooLong,
    /// No connection, or what came is no HTTP.
    #[error("{0}")]
    Other(String),
}

impl Https {
    /// For these roots, port and prohibited networks. Reads `ca_file`.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(
        settings: &DeliverySettings,
        lookup: Arc<dyn Lookup + Send + Sync>,
    ) -> Result<Https, RootsError> {
        let config = Config::builder()
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("postrider")
            .max_idle_connections(0)
            .max_response_header_size(HEADER_BYTES_MAX)
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build();
        let trust = Trusts::new(settings.ca_file.as_deref())?.of(None)?;
        let lookup = SharedLookup(lookup);
        let hosts = Hosts {
            lookup: lookup.clone(),
            port: settings.https_port,
            prohibited: settings.prohibited_networks.clone(),
        };
        let connector = ().chain(TcpConnector::default()).chain(TlsConnector(trust));
        Ok(Https { agent: Agent::with_parts(config, connector, hosts), lookup })
    }

    /// The names by which its hosts are found.
    pub(in crate::delivery) fn lookup(&self) -> &dyn Lookup {
        &*self.lookup.0
    }

    /// Fetches the document at this address, of so many bytes at most.
    ///
    /// # Errors
    /// There was no answer, whatever its status.
    pub fn get(&self, url: &str, bytes_max: usize) -> Result<Response, HttpsError> {
        read(self.agent.get(url).call(), bytes_max)
    }

    /// Sends a document of this type to this address, and reads so many bytes of the answer at most.
    ///
    /// # Errors
    /// As [`Https::get`].
    pub fn post(
        &self,
        url: &str,
        content_type: &str,
        body: &[u8],
        bytes_max: usize,
    ) -> Result<Response, HttpsError> {
        read(self.agent.post(url).content_type(content_type).send(body), bytes_max)
    }
}

fn read(
    answer: Result<ureq::http::Response<ureq::Body>, Error>,
    bytes_max: usize,
) -> Result<Response, HttpsError> {
    let mut answer = answer.map_err(meaning)?;
    let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let (status, media_type) = (answer.status().as_u16(), media_type.to_ascii_lowercase());
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let body = answer.body_mut().with_config().limit(limit).read_to_vec().map_err(meaning)?;
    Ok(Response { status, media_type, body })
}

/// What ureq's error says of the host.
fn meaning(error: Error) -> HttpsError {
    let of_tls = |error: &std::io::Error| {
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(ToString::to_string)
    };
    match error {
        Error::Timeout(_) => HttpsError::TimedOut,
        Error::BodyExceedsLimit(_) => HttpsError::TooLong,
        Error::LargeResponseHeader(..) => {
            HttpsError::Other("the header of the answer is too long".to_owned())
        }
        Error::Io(error) => match of_tls(&error) {
            Some(why) => HttpsError::Tls(why),
            None if error.kind() == std::io::ErrorKind::TimedOut => HttpsError::TimedOut,
            None => HttpsError::Other(error.to_string()),
        },
        Error::Other(error) => match error.downcast::<HttpsError>() {
            Ok(ours) => *ours,
            Err(other) => HttpsError::Other(other.to_string()),
        },
        other => HttpsError::Other(other.to_string()),
    }
}

/// The lookups of delivery.
#[derive(Clone)]
struct SharedLookup(Arc<dyn Lookup + Send + Sync>);

impl std::fmt::Debug for SharedLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedLookup")
    }
}

/// Finds a host's addresses.
#[derive(Debug)]
struct Hosts {
    lookup: SharedLookup,
    port: u16,
    prohibited: ProhibitedNetworks,
}

impl Resolver for Hosts {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let refused = |why: String| Error::Other(Box::new(HttpsError::NoAddress(why)));
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(self.port);
        let found = self.lookup.0.addresses(&[host]).pop();
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(refused(format!("{host}: {error}"))),
            None => return Err(refused(format!("{host}: no address"))),
        };
        let mut usable = self.empty();
        for ip in &found {
            if usable.len() < ADDRESSES_MAX && self.prohibited.reason(*ip).is_none() {
                usable.push(SocketAddr::new(*ip, port));
            }
        }
        match (usable.len(), found.first()) {
            (0, Some(ip)) => {
                let reason = self.prohibited.reason(*ip).unwrap_or_default();
                Err(refused(format!("{host} has only prohibited addresses: {ip} ({reason})")))
            }
            _ => Ok(usable),
        }
    }
}

/// TLS with the roots and the provider of delivery, in the place of ureq's own.
#[derive(Debug)]
struct TlsConnector(Arc<crate::delivery::smtp::tls::Trust>);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = TlsTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<TlsTransport>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        let host = details.uri.host().unwrap_or_default();
        let failed = |why: String| Error::Other(Box::new(HttpsError::Tls(why)));
        let name =
            peer_name(host).ok_or_else(|| failed(format!("no certificate can hold for the name {host}")))?;
        let config: Arc<ClientConfig> =
            self.0.handshake(Proof::Required, ClientHelloKind::Full, &name).config;
        let mut connection =
            ClientConnection::new(config, name).map_err(|error| failed(error.to_string()))?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(boxed, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) }))
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config;
    use crate::delivery::route::lookup::{DnsError, MxRecords};

    /// Every host has this address.
    struct Everywhere(IpAddr);

    impl Lookup for Everywhere {
        fn mx(&self, _: &str) -> Result<MxRecords, DnsError> {
            Err(DnsError::NoData)
        }

        fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
            hosts.iter().map(|_| Ok(vec![self.0])).collect()
        }

        fn reverse(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
            Err(DnsError::NoSuchDomain)
        }

        fn txt(&self, _: &str) -> Result<Vec<String>, DnsError> {
            Err(DnsError::NoData)
        }
    }

    /// A domain decides what is fetched, and must not have us speak to our own machines.
    #[test]
    fn a_prohibited_address_is_not_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let settings = config::built_in(folder.path()).unwrap().settings.delivery;
        for address in ["127.0.0.1", "169.254.169.254", "::1"] {
            let lookup = Arc::new(Everywhere(address.parse().unwrap()));
            let answer = Https::new(&settings, lookup).unwrap().get("https://mta-sts.a.test/x", 10);
            let Err(HttpsError::NoAddress(why)) = answer else { panic!("{address}: {answer:?}") };
            assert!(why.contains("mta-sts.a.test has only prohibited addresses"), "{why}");
        }
    }
}
