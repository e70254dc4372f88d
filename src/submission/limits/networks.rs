//! Whose an address is. Whoever has one address of an IPv6 /64 has all of it, so what is counted by client is counted
//! by IPv4 address and by IPv6 /64 ([`client`]); and, since addresses are bought by the network, by what lies round
//! them too: the IPv4 /24 and the IPv6 /48 ([`around`]). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network of one client: the address, or the /64 of an IPv6 address. Mapped IPv4 addresses are IPv4.
pub(in crate::submission) fn client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !0 << 64)),
        v4 => v4,
    }
}

/// The network round it: the /24, or the /48 of an IPv6 address.
pub(in crate::submission) fn around(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !0 << 8)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !0 << 80)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_network_and_the_one_round_it() {
        for (ip, of_client, round) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::"),
            ("2001:db8:1:2::", "2001:db8:1:2::", "2001:db8:1::"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(
                (client(ip), around(ip)),
                (of_client.parse().unwrap(), round.parse().unwrap()),
                "{ip}"
            );
        }
    }
}
