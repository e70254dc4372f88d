//! Which hosts are this relay itself: mail that is sent there comes back.
//!
//! Ours are the names that we call ourselves in EHLO, the source addresses of the config whatever the port, and the
//! addresses where we listen. A listener on all addresses (`[::]:25`) is on each one that the kernel calls local, so
//! the kernel is asked, by binding a socket, which sends nothing. A local address with another program on the port
//! is none of ours: a mail host may well stand on the same machine.
//!
//! What leads back through somebody else (NAT, a forwarded port) cannot be seen here; the message itself shows it, by
//! the Received field that it comes back with (`submission/message/returns.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::{DeliverySettings, Routes, forms};
use crate::delivery::route::source_addresses;

/// Whether a host on this address and port is this relay.
pub(in crate::delivery) fn is_ours(
    ip: IpAddr,
    port: u16,
    settings: &DeliverySettings,
    routes: &Routes,
) -> bool {
    forms(ip).into_iter().any(|ip| source_addresses::all(settings, routes).any(|ours| ours == ip))
        || is_listener(ip, port, &settings.listen)
}

/// Whether one of our listeners is on this address and port.
pub(in crate::delivery) fn is_listener(ip: IpAddr, port: u16, listen: &[SocketAddr]) -> bool {
    let here = |listener: &SocketAddr, ip: IpAddr| {
        let at = listener.ip().to_canonical();
        // `[::]` takes IPv4 too. The kernel is asked last.
        let takes = || at == ip || at.is_unspecified() && (at.is_ipv6() || ip.is_ipv4()) && is_local(ip);
        listener.port() == port && takes()
    };
    forms(ip).into_iter().any(|ip| listen.iter().any(|listener| here(listener, ip)))
}

/// Whether this is one of our names in EHLO.
pub(in crate::delivery) fn is_our_name(name: &str, settings: &DeliverySettings) -> bool {
    let names = settings.sources.iter().filter_map(|source| source.hostname.as_ref());
    names.chain([&settings.hostname]).any(|ours| ours.as_str() == name)
}

/// Whether the kernel calls the address one of this machine's.
fn is_local(ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    if UdpSocket::bind((ip, 0)).is_err() {
        return false;
    }
    // Where any address can be bound (`ip_nonlocal_bind`) that says nothing. A connection to oneself leaves from where
    // it goes to.
    let (nobodys, any): (IpAddr, IpAddr) = match ip {
        IpAddr::V4(_) => (Ipv4Addr::new(203, 0, 113, 254).into(), Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (NOBODYS_V6.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    let leaves_from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    UdpSocket::bind((nobodys, 0)).is_err() || leaves_from().is_ok_and(|address| address.ip() == ip)
}

/// For documentation (RFC 3849), as TEST-NET-3 above is (RFC 5737): no machine has them.
const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 0xfffe);

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(listen: &[&str], host: &str) -> bool {
        let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let host: SocketAddr = host.parse().unwrap();
        is_listener(host.ip(), host.port(), &listen)
    }

    #[test]
    fn a_listener_is_on_its_own_address_or_on_all_that_are_local() {
        for (listen, host, ours) in [
            ("192.0.2.1:25", "192.0.2.1:25", true),
            ("192.0.2.1:25", "192.0.2.1:26", false),
            ("192.0.2.1:25", "192.0.2.2:25", false),
            ("192.0.2.1:25", "[::ffff:192.0.2.1]:25", true),
            ("192.0.2.1:25", "[64:ff9b::192.0.2.1]:25", true),
            ("[::ffff:192.0.2.1]:25", "192.0.2.1:25", true),
            ("[2001:db8::1]:25", "[2001:db8::1]:25", true),
            // All of 127.0.0.0/8 is local; nobody has an address of TEST-NET-3.
            ("0.0.0.0:25", "127.0.0.5:25", true),
            ("0.0.0.0:25", "127.0.0.5:587", false),
            ("0.0.0.0:25", "203.0.113.5:25", false),
            ("[::]:25", "127.0.0.5:25", true),
            ("[::]:25", "[::1]:25", true),
            ("0.0.0.0:25", "[::1]:25", false),
        ] {
            assert_eq!(listens(&[listen], host), ours, "{host} with a listener on {listen}");
        }
        assert!(!listens(&[], "127.0.0.1:25"));
        assert!(listens(&["192.0.2.9:25", "0.0.0.0:25"], "127.0.0.1:25"));
    }

    #[test]
    fn the_kernel_knows_the_address_that_this_machine_sends_from() {
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return };
        if socket.connect("192.0.2.1:9").is_err() {
            return;
        }
        let own = socket.local_addr().unwrap().ip();
        assert!(is_local(own), "{own}");
        assert!(!is_local("192.0.2.1".parse().unwrap()));
    }
}
