//! Sockets to name servers that keep the interface of a link-local one (`fe80::1%eth0`): hickory knows a server by its
//! address alone, and from that the kernel cannot tell on which link it is (RFC 4007 §6).

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider};
use tokio::net::UdpSocket;

/// What hickory gets its sockets from.
#[derive(Clone)]
pub(super) struct Provider {
    sockets: TokioRuntimeProvider,
    scoped: Scoped,
}

/// The servers that have an interface.
#[derive(Clone)]
struct Scoped(Arc<[SocketAddrV6]>);

impl Scoped {
    /// The address as the kernel needs it.
    fn whole(&self, address: SocketAddr) -> SocketAddr {
        let SocketAddr::V6(bare) = address else { return address };
        let is_it = |server: &&SocketAddrV6| (server.ip(), server.port()) == (bare.ip(), bare.port());
        self.0.iter().find(is_it).map_or(address, |server| SocketAddr::V6(*server))
    }
}

impl Provider {
    pub(super) fn new(servers: &[SocketAddr]) -> Provider {
        let scoped = servers.iter().filter_map(|server| match server {
            SocketAddr::V6(server) if server.scope_id() != 0 => Some(*server),
            _ => None,
        });
        Provider { sockets: TokioRuntimeProvider::default(), scoped: Scoped(scoped.collect()) }
    }
}

type Made<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Provider {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = ScopedUdp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.sockets.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Made<Self::Tcp> {
        self.sockets.connect_tcp(self.scoped.whole(server), bind, patience)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Made<ScopedUdp> {
        let (bound, scoped) = (self.sockets.bind_udp(local, server), self.scoped.clone());
        Box::pin(async move { Ok(ScopedUdp { socket: bound.await?, scoped }) })
    }
}

/// A UDP socket that sends to whole addresses.
pub(super) struct ScopedUdp {
    socket: UdpSocket,
    scoped: Scoped,
}

impl DnsUdpSocket for ScopedUdp {
    type Time = <TokioRuntimeProvider as RuntimeProvider>::Timer;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.socket, cx, buf)
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.socket, cx, buf, self.scoped.whole(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_interface_and_others_stay_as_they_are() {
        let listed: Vec<SocketAddr> = ["[fe80::1%3]:53", "[2001:db8::1]:53", "192.0.2.1:53"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let scoped = Provider::new(&listed).scoped;
        let whole = |text: &str| scoped.whole(text.parse().unwrap()).to_string();
        assert_eq!(whole("[fe80::1]:53"), "[fe80::1%3]:53");
        for other in ["[fe80::1]:54", "[fe80::2]:53", "[2001:db8::1]:53", "192.0.2.1:53"] {
            assert_eq!(whole(other), other);
        }
    }
}
