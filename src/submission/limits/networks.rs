//! Whose an address is. Whoever has one address of an IPv6 /64 has all of it, so what is counted by client is counted
//! by IPv4 address and by IPv6 /64 ([`client`]); and, since addresses are bought by the network, by what lies round
//! them too: the IPv4 /24 and the IPv6 /48 ([`around`]). Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

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

/// Either of them, as people read and write it: `192.0.2.77`, `2001:db8:1:2::/64`; `192.0.2.0/24`, `2001:db8:1::/48`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::submission) enum Place {
    /// As [`client`] gives it.
    Client(IpAddr),
    /// As [`around`] gives it.
    Around(IpAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Client(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Place::Client(IpAddr::V6(v6)) => write!(f, "{v6}/64"),
            Place::Around(IpAddr::V4(v4)) => write!(f, "{v4}/24"),
            Place::Around(IpAddr::V6(v6)) => write!(f, "{v6}/48"),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Place, ()> {
        let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = ip.parse().map_err(|_| ())?;
        match (ip.to_canonical(), length) {
            (_, None) | (IpAddr::V4(_), Some("32")) | (IpAddr::V6(_), Some("64")) => {
                Ok(Place::Client(client(ip)))
            }
            (IpAddr::V4(_), Some("24")) | (IpAddr::V6(_), Some("48")) => Ok(Place::Around(around(ip))),
            _ => Err(()),
        }
    }
}

/// What is counted for an address or a network, as it is written: of an address its client and the network round it;
/// nothing where this is neither.
pub fn counted_for(text: &str) -> Vec<String> {
    if let Ok(ip) = text.parse() {
        return vec![Place::Client(client(ip)).to_string(), Place::Around(around(ip)).to_string()];
    }
    text.parse::<Place>().into_iter().map(|place| place.to_string()).collect()
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

    #[test]
    fn what_is_counted_is_read_as_it_is_written() {
        for (text, wanted) in [
            ("192.0.2.77", &["192.0.2.77", "192.0.2.0/24"][..]),
            ("::ffff:192.0.2.77", &["192.0.2.77", "192.0.2.0/24"]),
            ("2001:db8:1:2::7", &["2001:db8:1:2::/64", "2001:db8:1::/48"]),
            ("192.0.2.77/24", &["192.0.2.0/24"]),
            ("2001:DB8:1:2::/64", &["2001:db8:1:2::/64"]),
            ("2001:db8:1:2::/48", &["2001:db8:1::/48"]),
            ("192.0.2.0/25", &[]),
            ("app", &[]),
        ] {
            assert_eq!(counted_for(text), wanted, "{text}");
            for shown in counted_for(text) {
                assert_eq!(shown.parse::<Place>().unwrap().to_string(), shown);
            }
        }
    }
}
