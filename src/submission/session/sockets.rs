//! The sockets that are listened on: those that systemd has opened, and those opened here.
//!
//! With socket activation (sd_listen_fds(3), `systemd/postrider.socket`) the sockets stay open while the relay
//! restarts, and connections wait in them instead of being refused. They belong to `[[listen]]` by their address; those
//! in the file system are opened in `unix_socket.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain as Family, Socket, Type};

use crate::config::{ListenAddress, ListenSettings, SocketAccess};

use crate::submission::session::service::StartError;
use crate::submission::session::unix_socket::{self, SocketFile};

/// Connections that wait to be accepted.
pub(super) const BACKLOG: i32 = 1024;

/// The sockets that were open when the process began, kept until it ends. Each has a listener, also after a reload.
#[derive(Debug, Default)]
pub(in crate::submission) struct Sockets(Vec<(ListenAddress, Socket)>);

/// What distinguishes one socket from another. It cannot be changed once it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Bound {
    /// As the settings have it.
    pub(super) address: ListenAddress,
    /// Of one in the file system.
    access: SocketAccess,
    /// IPV6_V6ONLY.
    only_v6: bool,
}

/// A socket that listens.
#[derive(Debug)]
pub(in crate::submission) struct Opened {
    pub(super) socket: Socket,
    /// Goes with it.
    pub(super) file: Option<SocketFile>,
}

impl Sockets {
    /// # Errors
    /// As [`Sockets::all_listed`].
    pub(in crate::submission) fn new(
        inherited: Vec<Socket>,
        listen: &[ListenSettings],
    ) -> Result<Sockets, StartError> {
        let mut sockets = Vec::new();
        for socket in inherited {
            sockets.push((address_of(&socket).map_err(StartError::Inherited)?, socket));
        }
        let sockets = Sockets(sockets);
        sockets.all_listed(listen)?;
        sockets.tell_others(listen);
        Ok(sockets)
    }

    /// # Errors
    /// One of the sockets has an address that no `[[listen]]` has: systemd would go on to take connections there, and
    /// they would wait for ever.
    pub(in crate::submission) fn all_listed(&self, listen: &[ListenSettings]) -> Result<(), StartError> {
        let nobodys =
            |(address, _): &&(ListenAddress, Socket)| listen.iter().all(|listen| listen.address != *address);
        let Some((address, _)) = self.0.iter().find(nobodys) else { return Ok(()) };
        let listed: Vec<String> = listen.iter().map(|listen| listen.address.to_string()).collect();
        Err(StartError::NotListed { address: address.clone(), listed: listed.join(", ") })
    }

    /// The socket for this one of the listeners.
    ///
    /// # Errors
    /// The address cannot be had.
    pub(in crate::submission) fn open(
        &self,
        listen: &ListenSettings,
        all: &[ListenSettings],
    ) -> Result<Opened, StartError> {
        let opened = match self.0.iter().find(|(address, _)| *address == listen.address) {
            // systemd made the file, and keeps it.
            Some((_, socket)) => socket.try_clone().map(|socket| Opened { socket, file: None }),
            None => self.wanted(listen, all).open(),
        };
        opened.map_err(|source| StartError::Listen {
            remedy: match &listen.address {
                ListenAddress::Ip(address) => remedy(*address, source.kind(), all),
                ListenAddress::Unix(_) => unix_socket::remedy(source.kind()),
            },
            address: listen.address.clone(),
            source,
        })
    }

    /// The socket that this one of the listeners is to have.
    pub(in crate::submission) fn wanted(&self, listen: &ListenSettings, all: &[ListenSettings]) -> Bound {
        let address = listen.address.clone();
        let leaves_ipv4 = address.ip().is_some_and(|ip| has_its_ipv4(ip, all));
        Bound { only_v6: !self.has(&address) && leaves_ipv4, access: listen.access.clone(), address }
    }

    /// Whether systemd opened the socket of this address.
    pub(in crate::submission) fn has(&self, address: &ListenAddress) -> bool {
        self.0.iter().any(|(of, _)| of == address)
    }

    /// Whoever has some sockets opened by systemd may think that all of them are; and who may connect to those in the
    /// file system is said there.
    fn tell_others(&self, listen: &[ListenSettings]) {
        let has_rights = |listen: &&ListenSettings| listen.access != SocketAccess::default();
        for listen in listen.iter().filter(has_rights).filter(|listen| self.has(&listen.address)) {
            log::warn!(
                "{} was opened by systemd: SocketMode= and SocketGroup= of postrider.socket say who may connect, and \
                 mode and group of its [[listen]] say nothing",
                listen.address
            );
        }
        let is_ours = |listen: &&ListenSettings| !self.has(&listen.address);
        for listen in listen.iter().filter(is_ours).filter(|_| !self.0.is_empty()) {
            // systemd writes a path as it is.
            let stream =
                listen.address.path().map_or(listen.address.to_string(), |path| path.display().to_string());
            log::warn!(
                "{} is not among the sockets of systemd: it is closed while the relay restarts; add \
                 ListenStream={stream} to postrider.socket",
                listen.address,
            );
        }
    }
}

/// Where a socket listens.
fn address_of(socket: &Socket) -> io::Result<ListenAddress> {
    let address = socket.local_addr()?;
    let unix = || address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()));
    address
        .as_socket()
        .map(ListenAddress::Ip)
        .or_else(unix)
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "it has neither an IP address nor a path"))
}

fn remedy(address: SocketAddr, kind: io::ErrorKind, all: &[ListenSettings]) -> &'static str {
    let mut others = all.iter().filter_map(|other| other.address.ip());
    match kind {
        io::ErrorKind::AddrInUse if others.any(|other| overlap(other, address)) => {
            "another [[listen]] takes the connections to that port: remove one, or change its port"
        }
        io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => "choose another address",
    }
}

/// Whether another listener is there for the IPv4 connections that `[::]` would take too.
fn has_its_ipv4(address: SocketAddr, all: &[ListenSettings]) -> bool {
    let ipv4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && address.port() != 0
        && all.iter().any(|other| other.address.ip() == Some(ipv4))
}

/// Whether a socket with the one address takes connections to the other, each being of a listener of its own.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && a != b && (takes(a, b) || takes(b, a))
}

impl Bound {
    /// Opens it.
    pub(super) fn open(&self) -> io::Result<Opened> {
        match &self.address {
            ListenAddress::Ip(address) => self.open_at(*address).map(|socket| Opened { socket, file: None }),
            ListenAddress::Unix(path) => {
                let (socket, file) = unix_socket::open(path, &self.access)?;
                Ok(Opened { socket, file: Some(file) })
            }
        }
    }

    /// `[::]` takes IPv4 too, unless that is left to another listener.
    fn open_at(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Family::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(self.only_v6)?;
        }
        // A restart must not wait for connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::submission::tests::doubles::settings;

    fn listen_on(addresses: &[SocketAddr]) -> Vec<ListenSettings> {
        let folder = tempfile::tempdir().unwrap();
        let one = settings(folder.path()).listen.remove(0);
        addresses.iter().map(|address| ListenSettings { address: (*address).into(), ..one.clone() }).collect()
    }

    #[test]
    fn all_of_ipv6_and_all_of_ipv4_are_listened_on_at_one_port_in_either_order() {
        if TcpListener::bind("[::1]:0").is_err() {
            // Said where all can see it: print macros are for failed tests only.
            let skipped = b"skipped: submission::session::sockets: no IPv6 on loopback\n";
            let _ = io::Write::write_all(&mut io::stderr(), skipped);
            return;
        }
        for turned in [false, true] {
            // Somebody else may get the port in between.
            let pairs = std::iter::repeat_with(|| {
                let port = TcpListener::bind("[::]:0")?.local_addr()?.port();
                let mut addresses = ["[::]", "0.0.0.0"].map(|ip| format!("{ip}:{port}").parse().unwrap());
                if turned {
                    addresses.reverse();
                }
                let listen = listen_on(&addresses);
                let open = |one| Sockets::default().open(one, &listen).map_err(io::Error::other);
                Ok::<_, io::Error>((port, open(&listen[0])?, open(&listen[1])?))
            });
            let (port, first, second) = pairs.take(20).flatten().next().expect("both can be opened");
            for (socket, ip) in
                [first, second].iter().zip(if turned { ["127.0.0.1", "::1"] } else { ["::1", "127.0.0.1"] })
            {
                let _client = TcpStream::connect((ip, port)).unwrap();
                let (_, peer) = socket.socket.accept().unwrap();
                assert_eq!(peer.as_socket().unwrap().ip().to_string(), ip, "each has its own connections");
            }
        }
    }

    #[test]
    fn a_socket_of_systemd_is_found_by_its_address_and_one_that_nobody_has_is_refused() {
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let listen = listen_on(&[address]);
        let sockets = Sockets::new(vec![theirs.try_clone().unwrap().into()], &listen).unwrap();
        // By itself the address could not be had a second time.
        assert!(Sockets::default().open(&listen[0], &listen).is_err());
        let opened = sockets.open(&listen[0], &listen).unwrap();
        assert_eq!(opened.socket.local_addr().unwrap().as_socket(), Some(address));
        let others = listen_on(&["127.0.0.1:587".parse().unwrap()]);
        let error = Sockets::new(vec![theirs.into()], &others).unwrap_err().to_string();
        let said =
            format!("systemd listens on {address}, which no [[listen]] has (they have 127.0.0.1:587); make");
        assert!(error.starts_with(&said), "{error}");
    }
}
