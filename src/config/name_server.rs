//! A DNS server as people write it, in `[dns] servers` and in resolv.conf(5): an address, and for a link-local one the
//! interface that it is on (`fe80::1%eth0`, RFC 4007 §11).
//!
//! The interface stays a name here: it may come later than the relay, and come again with another number.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Bytes of an interface's name (IFNAMSIZ, without the NUL).
const INTERFACE_BYTES_MAX: usize = 15;

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub ip: IpAddr,
    /// UDP and TCP.
    pub port: u16,
    /// The interface that it is on, by name or by number.
    pub interface: Option<String>,
}

impl NameServer {
    /// `192.0.2.1`, `2001:db8::1`, `fe80::1%eth0`: all that resolv.conf(5) knows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn without_port(text: &str, port: u16) -> Result<NameServer, &'static str> {
        let Some((address, interface)) = text.split_once('%') else {
            let ip = text.parse().map_err(|_| "not an IP address")?;
            return Ok(NameServer { ip, port, interface: None });
        };
        let ip = address.parse().map(IpAddr::V6).map_err(|_| "not an IPv6 address before %")?;
        let is_name = (1..=INTERFACE_BYTES_MAX).contains(&interface.len())
            && interface.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%]".contains(&byte));
        if !is_name {
            return Err("no interface has such a name");
        }
        Ok(NameServer { ip, port, interface: Some(interface.to_owned()) })
    }

    /// The same, or with a port: `192.0.2.1:5353`, `[2001:db8::1]:5353`, `[fe80::1%eth0]:5353`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, port: u16) -> Result<NameServer, &'static str> {
        if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            let port = port.parse().map_err(|_| "not a port behind ]:")?;
            let server = NameServer::without_port(address, port)?;
            return if server.ip.is_ipv6() { Ok(server) } else { Err("not an IPv6 address in [ ]") };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) => Ok(address.into()),
            Err(_) => NameServer::without_port(text, port),
        }
    }
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> NameServer {
        let interface = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id().to_string()),
            _ => None,
        };
        NameServer { ip: address.ip(), port: address.port(), interface }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(interface) => write!(f, "[{}%{interface}]:{}", self.ip, self.port),
            None => SocketAddr::new(self.ip, self.port).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown_with_its_port() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("fe80::1%eth0", "[fe80::1%eth0]:53"),
            ("fe80::1%eth0.100", "[fe80::1%eth0.100]:53"),
            ("fe80::1%7", "[fe80::1%7]:53"),
            ("[fe80::1%eth0]:5353", "[fe80::1%eth0]:5353"),
            ("[fe80::1%7]:5353", "[fe80::1%7]:5353"),
        ] {
            let server = NameServer::parse(text, 53).unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(NameServer::parse(shown, 53), Ok(server), "{shown}");
        }
        for (text, why) in [
            ("ns.test", "not an IP address"),
            ("192.0.2.1%eth0", "not an IPv6 address before %"),
            ("[192.0.2.1]:53", "not an IPv6 address in [ ]"),
            ("[fe80::1%eth0]:x", "not a port behind ]:"),
            ("fe80::1%", "no interface has such a name"),
            ("fe80::1%../../x", "no interface has such a name"),
            ("fe80::1%a b", "no interface has such a name"),
            ("fe80::1%longer-than-15-by", "no interface has such a name"),
        ] {
            assert_eq!(NameServer::parse(text, 53), Err(why), "{text}");
        }
    }
}
