//! A scripted SMTP client over a loopback socket, in the clear or in TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::submission::wire::tls;

/// A TLS client that trusts only the certificate made in `certificates`.
pub(super) fn tls_client(certificates: &Path) -> Arc<ClientConfig> {
    tls_client_of(certificates, rustls::DEFAULT_VERSIONS)
}

/// The same, with these versions of TLS alone.
pub(super) fn tls_client_of(
    certificates: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (certificate, _) = tls::self_signed_paths(certificates);
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub(super) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    None,
}

impl Read for ClientStream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            ClientStream::Plain(stream) => stream.read(buf),
            ClientStream::Tls(stream) => stream.read(buf),
            ClientStream::None => Ok(0),
        }
    }
}

/// A scripted client.
pub(super) struct Player {
    stream: BufReader<ClientStream>,
}

impl Player {
    pub(super) fn connect(address: SocketAddr) -> Player {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Player { stream: BufReader::new(ClientStream::Plain(stream)) }
    }

    /// From an address of its own, such as another one of 127.0.0.0/8.
    pub(super) fn connect_from(source: [u8; 4], address: SocketAddr) -> Player {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Player { stream: BufReader::new(ClientStream::Plain(stream)) }
    }

    /// To a socket in the file system; what is read and written by is the same.
    pub(super) fn connect_unix(path: &Path) -> Player {
        let stream = TcpStream::from(OwnedFd::from(UnixStream::connect(path).unwrap()));
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Player { stream: BufReader::new(ClientStream::Plain(stream)) }
    }

    /// Another handle to its connection in the clear.
    pub(super) fn sender(&self) -> TcpStream {
        let ClientStream::Plain(stream) = self.stream.get_ref() else { panic!("TLS") };
        stream.try_clone().unwrap()
    }

    /// RFC 9266, from the client's side.
    pub(super) fn channel_binding(&self) -> [u8; 32] {
        let ClientStream::Tls(stream) = self.stream.get_ref() else { panic!("no TLS") };
        stream.conn.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).unwrap()
    }

    pub(super) fn start_tls(&mut self, config: Arc<ClientConfig>) {
        let ClientStream::Plain(stream) = std::mem::replace(self.stream.get_mut(), ClientStream::None) else {
            panic!("TLS twice")
        };
        let name = ServerName::try_from("relay.example").unwrap();
        let mut tls = StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).unwrap();
        }
        *self.stream.get_mut() = ClientStream::Tls(Box::new(tls));
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        match self.stream.get_mut() {
            ClientStream::Plain(stream) => stream.write_all(bytes).unwrap(),
            ClientStream::Tls(stream) => {
                stream.write_all(bytes).unwrap();
                stream.flush().unwrap();
            }
            ClientStream::None => panic!("no connection"),
        }
    }

    /// As [`Player::send`], to a server that may be gone.
    pub(super) fn send_quietly(&mut self, bytes: &[u8]) {
        if let ClientStream::Plain(stream) = self.stream.get_mut() {
            let _ = stream.write_all(bytes);
        }
    }

    /// What would go over the wire for these bytes, and the socket under TLS to send it on as slowly as one likes.
    pub(super) fn sealed(&mut self, bytes: &[u8]) -> (Vec<u8>, TcpStream) {
        let ClientStream::Tls(stream) = self.stream.get_mut() else { panic!("no TLS") };
        stream.conn.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut sealed).unwrap();
        }
        (sealed, stream.sock.try_clone().unwrap())
    }

    /// The handshake was an abbreviated one.
    pub(super) fn resumed(&self) -> bool {
        let ClientStream::Tls(stream) = self.stream.get_ref() else { return false };
        stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// A line without its CR LF; none at the end of the connection.
    pub(super) fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("waiting for the server: {error}"),
        }
        let line = String::from_utf8(line).unwrap();
        Some(line.strip_suffix("\r\n").expect("lines end in CR LF").to_owned())
    }

    /// The last line of a reply.
    pub(super) fn reply(&mut self) -> String {
        loop {
            let line = self.line().expect("a reply");
            if line.as_bytes().get(3) == Some(&b' ') {
                return line;
            }
        }
    }

    /// Sends a command, gives the last line of its reply.
    pub(super) fn command(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }
}
