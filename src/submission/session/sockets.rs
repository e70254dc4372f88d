//! The sockets that are listened on: those that systemd has opened, and those opened here.
//!
//! With socket activation (sd_listen_fds(3), `systemd/postrider.socket`) the sockets stay open while the relay
//! restarts, and connections wait in them instead of being refused. They belong to `[[listen]]` by their address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain as Family, Socket, Type};

use crate::config::ListenSettings;

use crate::submission::session::service::StartError;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets that were open when the process began, kept until it ends. Each has a listener, also after a reload.
#[derive(Debug, Default)]
pub(in crate::submission) struct Sockets(Vec<(SocketAddr, TcpListener)>);

/// What distinguishes one socket from another. It cannot be changed once it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct Bound {
    /// As the settings have it.
    pub(super) address: SocketAddr,
    /// IPV6_V6ONLY.
    only_v6: bool,
}

impl Sockets {
    /// # Errors
    /// As [`Sockets::all_listed`].
    pub(in crate::submission) fn new(
        inherited: Vec<TcpListener>,
        listen: &[ListenSettings],
    ) -> Result<Sockets, StartError> {
        let mut sockets = Vec::new();
        for socket in inherited {
            sockets.push((socket.local_addr().map_err(StartError::Inherited)?, socket));
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
        let nobodys = |(address, _): &&(SocketAddr, TcpListener)| {
            listen.iter().all(|listen| listen.address != *address)
        };
        let Some((address, _)) = self.0.iter().find(nobodys) else { return Ok(()) };
        let listed: Vec<String> = listen.iter().map(|listen| listen.address.to_string()).collect();
        Err(StartError::NotListed { address: *address, listed: listed.join(", ") })
    }

    /// The socket for this one of the listeners.
    ///
    /// # Errors
    /// The address cannot be had.
    pub(in crate::submission) fn open(
        &self,
        listen: &ListenSettings,
        all: &[ListenSettings],
    ) -> Result<TcpListener, StartError> {
        let opened = match self.0.iter().find(|(address, _)| *address == listen.address) {
            Some((_, socket)) => socket.try_clone(),
            None => self.wanted(listen, all).open(),
        };
        opened.map_err(|source| StartError::Listen {
            address: listen.address,
            remedy: match source.kind() {
                io::ErrorKind::AddrInUse
                    if all.iter().any(|other| overlap(other.address, listen.address)) =>
                {
                    "another [[listen]] takes the connections to that port: remove one, or change its port"
                }
                io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
                }
                io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
                _ => "choose another address",
            },
            source,
        })
    }

    /// The socket that this one of the listeners is to have.
    pub(in crate::submission) fn wanted(&self, listen: &ListenSettings, all: &[ListenSettings]) -> Bound {
        let address = listen.address;
        Bound { address, only_v6: !self.has(address) && has_its_ipv4(address, all) }
    }

    /// Whether systemd opened the socket of this address.
    pub(in crate::submission) fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|(of, _)| *of == address)
    }

    /// Whoever has some sockets opened by systemd may think that all of them are.
    fn tell_others(&self, listen: &[ListenSettings]) {
        let is_ours = |listen: &&ListenSettings| !self.has(listen.address);
        for listen in listen.iter().filter(is_ours).filter(|_| !self.0.is_empty()) {
            log::warn!(
                "{} is not among the sockets of systemd: it is closed while the relay restarts; add \
                 ListenStream={} to postrider.socket",
                listen.address,
                listen.address
            );
        }
    }
}

/// Whether another listener is there for the IPv4 connections that `[::]` would take too.
fn has_its_ipv4(address: SocketAddr, all: &[ListenSettings]) -> bool {
    let ipv4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && address.port() != 0
        && all.iter().any(|other| other.address == ipv4)
}

/// Whether a socket with the one address takes connections to the other, each being of a listener of its own.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && a != b && (takes(a, b) || takes(b, a))
}

impl Bound {
    /// Opens it; `[::]` takes IPv4 too, unless that is left to another listener.
    pub(super) fn open(self) -> io::Result<TcpListener> {
        let socket = Socket::new(Family::for_address(self.address), Type::STREAM, None)?;
        if self.address.is_ipv6() {
            socket.set_only_v6(self.only_v6)?;
        }
        // A restart must not wait for connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::submission::tests::doubles::settings;

    fn listen_on(addresses: &[SocketAddr]) -> Vec<ListenSettings> {
        let folder = tempfile::tempdir().unwrap();
        let one = settings(folder.path()).listen.remove(0);
        addresses.iter().map(|address| ListenSettings { address: *address, ..one.clone() }).collect()
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
                let (_, peer) = socket.accept().unwrap();
                assert_eq!(peer.ip().to_string(), ip, "each has its own connections");
            }
        }
    }

    #[test]
    fn a_socket_of_systemd_is_found_by_its_address_and_one_that_nobody_has_is_refused() {
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let listen = listen_on(&[address]);
        let sockets = Sockets::new(vec![theirs.try_clone().unwrap()], &listen).unwrap();
        // By itself the address could not be had a second time.
        assert!(Sockets::default().open(&listen[0], &listen).is_err());
        assert_eq!(sockets.open(&listen[0], &listen).unwrap().local_addr().unwrap(), address);
        let others = listen_on(&["127.0.0.1:587".parse().unwrap()]);
        let error = Sockets::new(vec![theirs], &others).unwrap_err().to_string();
        let said =
            format!("systemd listens on {address}, which no [[listen]] has (they have 127.0.0.1:587); make");
        assert!(error.starts_with(&said), "{error}");
    }
}
