//! A network of its own: a DNS server, hosts at addresses of loopback, and relays that deliver to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::harness::dns_server::{DnsServer, Zone};
use crate::harness::dnssec::Signer;
use crate::harness::fakemx::{FakeMx, Script};
use crate::harness::relay::{Config, Relay, free_port};

/// A DNS server and the port that all receiving hosts share.
pub struct World {
    pub mx_port: u16,
    pub dns: DnsServer,
    zone: Zone,
    hosts: u8,
    /// What the relay proves answers with, where the zone is signed.
    anchor: Option<tempfile::NamedTempFile>,
}

impl World {
    /// With nobody in it.
    pub fn new() -> World {
        let dns = DnsServer::start(Zone::new()).unwrap();
        World { mx_port: free_port(), dns, zone: Zone::new(), hosts: 0, anchor: None }
    }

    /// With nobody in it, and a DNS that `signer` signs, whom relays trust.
    pub fn signed(signer: &Arc<Signer>) -> World {
        let anchor = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(anchor.path(), signer.anchor()).unwrap();
        let mut world = World { anchor: Some(anchor), ..World::new() };
        world.zone(|zone| zone.signed(signer));
        world
    }

    /// Changes what the DNS says.
    pub fn zone(&mut self, change: impl FnOnce(Zone) -> Zone) {
        self.zone = change(std::mem::take(&mut self.zone));
        self.dns.serve(self.zone.clone());
    }

    /// An address that no host has yet.
    pub fn new_ip(&mut self) -> IpAddr {
        self.hosts += 1;
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + self.hosts))
    }

    /// Names a new address `name` in the DNS. Nobody listens there yet.
    pub fn address(&mut self, name: &str) -> SocketAddr {
        let ip = self.new_ip();
        self.zone(|zone| zone.address(name, ip));
        SocketAddr::new(ip, self.mx_port)
    }

    /// A host that is the only MX of `domain`, `mx.domain`.
    pub fn host(&mut self, domain: &str, script: Script) -> FakeMx {
        self.mx(domain, 10, &format!("mx.{domain}"), script)
    }

    /// A host that is an MX of `domain`.
    pub fn mx(&mut self, domain: &str, preference: u16, name: &str, script: Script) -> FakeMx {
        self.zone(|zone| zone.mx(domain, preference, name));
        FakeMx::start_at(self.address(name), vec![script])
    }

    /// An MX of `domain` where nobody listens.
    pub fn closed_mx(&mut self, domain: &str, preference: u16, name: &str) {
        self.zone(|zone| zone.mx(domain, preference, name));
        self.address(name);
    }

    /// Starts a relay in this world.
    pub fn relay(&self, config: Config) -> Relay {
        Relay::start(self.configured(config))
    }

    /// The config with this world's DNS and port.
    pub fn configured(&self, config: Config) -> Config {
        let config = match &self.anchor {
            Some(file) => {
                config.set("dns.trust_anchor", format!("{:?}", file.path())).set("delivery.dane", "true")
            }
            None => config,
        };
        config
            .set("dns.servers", format!("[\"{}\"]", self.dns.address()))
            .set("delivery.port", self.mx_port.to_string())
    }
}
