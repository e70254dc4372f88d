//! A connection in the clear or in TLS, from either end, and what TLS needs for it.
//!
//! One certificate (ECDSA P-256, signed by itself) serves the sink and both relays. Generator and sink take
//! whatever the relay prefers of what rustls offers. The generator never resumes a session: a
//! program that sends one mail and ends cannot either.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The name in the certificate.
pub(crate) const NAME: &str = "relay.test";
/// The MX host of one domain has it, too.
const MX_NAMES: &str = "mx.receiver.test";

pub(crate) enum Stream {
    Clear(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// The certificate and its key, as files want them and as rustls does.
pub(crate) struct Keys {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Stream {
    /// The handshake as client of `relay.test`; only a stream in the clear can be turned.
    pub(crate) fn connect(self, config: &Arc<ClientConfig>) -> io::Result<Stream> {
        let name = ServerName::try_from(NAME).expect("a name");
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, self.clear()?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Stream::Client(Box::new(tls)))
    }

    /// The same as server.
    pub(crate) fn accept(self, config: &Arc<ServerConfig>) -> io::Result<Stream> {
        let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, self.clear()?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Stream::Server(Box::new(tls)))
    }

    fn clear(self) -> io::Result<TcpStream> {
        match self {
            Stream::Clear(stream) => Ok(stream),
            Stream::Client(_) | Stream::Server(_) => Err(io::Error::other("in TLS already")),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.read(buf),
            Stream::Client(stream) => stream.read(buf),
            Stream::Server(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.write(buf),
            Stream::Client(stream) => stream.write(buf),
            Stream::Server(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Clear(stream) => stream.flush(),
            Stream::Client(stream) => stream.flush(),
            Stream::Server(stream) => stream.flush(),
        }
    }
}

impl Keys {
    /// A fresh certificate, which the client's side trusts.
    pub(crate) fn new() -> Keys {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned(), MX_NAMES.to_owned()])
            .expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone()).expect("a certificate");
        let client =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        client.resumption = Resumption::disabled();
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let server = server.expect("versions").with_no_client_auth().with_single_cert(vec![leaf], private);
        Keys {
            certificate,
            key,
            client: Arc::new(client),
            server: Arc::new(server.expect("key and certificate")),
        }
    }
}
