//! Who is at the other end of a session: an IP address, or a user of this machine.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

/// What the kernel knows of a client. Written `192.0.2.1` or `unix:1000`: a socket in the file system, and the number
/// of the user who connected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over the network.
    Ip(IpAddr),
    /// Over a socket in the file system, by this user of the machine.
    Unix(u32),
}

impl Peer {
    /// Its address, where it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Peer::Ip(ip) => Some(ip),
            Peer::Unix(_) => None,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(ip: IpAddr) -> Peer {
        Peer::Ip(ip)
    }
}

impl From<[u8; 4]> for Peer {
    fn from(ip: [u8; 4]) -> Peer {
        Peer::Ip(ip.into())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(ip) => ip.fmt(f),
            Peer::Unix(uid) => write!(f, "unix:{uid}"),
        }
    }
}

impl FromStr for Peer {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Peer, AddrParseError> {
        let uid = text.strip_prefix("unix:").and_then(|uid| uid.parse().ok());
        uid.map_or_else(|| text.parse().map(Peer::Ip), |uid| Ok(Peer::Unix(uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_as_it_is_written() {
        for text in ["192.0.2.1", "2001:db8::1", "unix:0", "unix:4294967294"] {
            assert_eq!(text.parse::<Peer>().unwrap().to_string(), text);
        }
        for text in ["unix:", "unix:-1", "unix:app", "local", ""] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }
}
