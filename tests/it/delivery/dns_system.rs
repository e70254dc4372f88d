//! The resolver follows its system: servers that change under it, servers that do not know EDNS, names in hosts(5), and
//! answers of any size.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::delivery::connection::settings;
use crate::delivery::dns_corners::{POINTER, Raw, mx_answer, question_end};
use crate::harness::dns_server::{DnsServer, Zone};
use crate::harness::relay::wait_for;
use postrider::config::{DnsSettings, DomainPattern, RelayHost, Route, Routes};
use postrider::delivery::route::dns::{Resolver, SystemFiles};
use postrider::delivery::route::lookup::{DnsError, Lookup};
use postrider::delivery::route::plan::{PlanRequest, plan};
use postrider::mail::Domain;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolver(server: SocketAddr) -> Resolver {
    Resolver::new(&DnsSettings {
        servers: vec![server.into()],
        timeout: Duration::from_secs(10),
        trust_anchor: None,
    })
    .unwrap()
}

/// A system with a resolv.conf and a hosts file of its own.
struct System {
    folder: tempfile::TempDir,
}

impl System {
    fn new(resolv_conf: &str, hosts: &str) -> System {
        let system = System { folder: tempfile::tempdir().unwrap() };
        std::fs::write(system.path("resolv.conf"), resolv_conf).unwrap();
        std::fs::write(system.path("hosts"), hosts).unwrap();
        system
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As DHCP clients do it: a new file takes the old one's place.
    fn replace(&self, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path("resolv.conf")).unwrap();
    }

    fn resolver(&self, servers: &[SocketAddr], timeout: Duration) -> Resolver {
        let files = SystemFiles { resolv_conf: self.path("resolv.conf"), hosts: self.path("hosts") };
        Resolver::with_files(
            &DnsSettings {
                servers: servers.iter().copied().map(Into::into).collect(),
                timeout,
                trust_anchor: None,
            },
            files,
        )
        .unwrap()
    }
}

/// Servers in resolv.conf have port 53, where a test without root cannot listen: what is followed is seen in whom the
/// resolver asks.
#[test]
fn the_servers_are_those_that_resolv_conf_names_now() {
    // Loopback addresses where nobody listens: each question fails at once.
    let system = System::new("nameserver 127.0.0.71\n", "");
    let resolver = system.resolver(&[], Duration::from_secs(1));
    let asked = |resolver: &Resolver| {
        let servers = resolver.servers();
        servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(asked(&resolver), "127.0.0.71:53");
    // A lookup that fails looks at once.
    system.replace("nameserver 127.0.0.72\nnameserver 127.0.0.73\n");
    assert!(matches!(resolver.mx("a.test"), Err(DnsError::Temporary(_))));
    assert_eq!(asked(&resolver), "127.0.0.72:53 127.0.0.73:53");
    // What is gone, empty or nonsense changes nothing.
    std::fs::remove_file(system.path("resolv.conf")).unwrap();
    for text in ["", "nameserver nonsense\n", "options edns0\n"] {
        assert!(resolver.mx("a.test").is_err());
        assert_eq!(asked(&resolver), "127.0.0.72:53 127.0.0.73:53");
        system.replace(text);
    }
    system.replace("nameserver 127.0.0.74\n");
    assert!(resolver.mx("a.test").is_err());
    assert_eq!(asked(&resolver), "127.0.0.74:53");
    // Without a failure it is seen within seconds too; localhost needs no server.
    system.replace("nameserver 127.0.0.75\n");
    wait_for("the file to be looked at", Duration::from_secs(10), || {
        resolver.addresses("localhost").unwrap();
        (asked(&resolver) == "127.0.0.75:53").then_some(())
    });
}

#[test]
fn servers_of_the_config_stay() {
    let server = DnsServer::start(Zone::new().mx("a.test", 10, "mx.test")).unwrap();
    let system = System::new("nameserver 127.0.0.71\n", "");
    let resolver = system.resolver(&[server.address()], Duration::from_secs(10));
    assert_eq!(resolver.mx("a.test").unwrap(), [(10, "mx.test".to_owned())]);
    assert!(resolver.mx("nosuch.test").is_err());
    assert_eq!(resolver.servers(), [server.address()]);
}

// ---- EDNS (RFC 6891) ------------------------------------------------------------------------------

/// Whether a query has an OPT record: nothing else is in its additional section.
fn has_edns(question: &[u8]) -> bool {
    question[11] > 0
}

/// The reply of a server that was written before EDNS: this code, with the question or without.
fn refusal(question: &[u8], code: u8, with_question: bool) -> Vec<u8> {
    let end = if with_question { question_end(question) } else { 12 };
    let mut packet = question[..end].to_vec();
    packet[2] |= 0x80;
    packet[3] = code;
    packet[4..12].copy_from_slice(&[0, u8::from(with_question), 0, 0, 0, 0, 0, 0]);
    packet
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without() {
    const FORMERR: u8 = 1;
    const NOTIMP: u8 = 4;
    type Manner = fn(&[u8]) -> Vec<Vec<u8>>;
    let manners: [(&str, Manner); 4] = [
        ("FORMERR", |question| vec![refusal(question, FORMERR, true)]),
        ("NOTIMP", |question| vec![refusal(question, NOTIMP, true)]),
        ("FORMERR without a question", |question| vec![refusal(question, FORMERR, false)]),
        ("silence", |_| Vec::new()),
    ];
    for (manner, answer) in manners {
        let old = Raw::start(move |question| match has_edns(question) {
            true => answer(question),
            false => vec![mx_answer(question, POINTER, 0)],
        });
        let resolver = old.resolver(Duration::from_secs(2));
        let began = Instant::now();
        assert_eq!(resolver.mx("a.test"), Ok(vec![(10, "mx.test".to_owned())]), "{manner}");
        assert!(began.elapsed() < Duration::from_secs(2), "{manner}: {:?}", began.elapsed());
    }
    // One that answers so whatever it is asked is in trouble, and says how.
    let broken = Raw::start(|question| vec![refusal(question, FORMERR, true)]);
    let answer = broken.resolver(Duration::from_secs(2)).mx("a.test");
    assert_eq!(answer, Err(DnsError::Temporary("the DNS server answered FORMERR".to_owned())));
}

// ---- hosts(5) -------------------------------------------------------------------------------------

#[test]
fn a_relay_may_stand_in_the_hosts_file_and_an_mx_host_may_not() {
    let zone = Zone::new().address("in-dns.test", ip("192.0.2.1")).address("both.test", ip("192.0.2.2")).mx(
        "a.test",
        10,
        "both.test",
    );
    let server = DnsServer::start(zone).unwrap();
    let hosts = "198.51.100.1 Smart.internal smart\n198.51.100.2 both.test\n2001:db8::1 smart.internal\n";
    let system = System::new("", hosts);
    let resolver = system.resolver(&[server.address()], Duration::from_secs(10));
    let names = ["smart.internal", "in-dns.test", "smart", "both.test", "nosuch.test"];
    let found = Lookup::relay_addresses(&resolver, &names);
    let expected = [
        Ok(vec![ip("198.51.100.1"), ip("2001:db8::1")]),
        Ok(vec![ip("192.0.2.1")]),
        Ok(vec![ip("198.51.100.1")]),
        Ok(vec![ip("198.51.100.2")]),
        Err(DnsError::NoSuchDomain),
    ];
    assert_eq!(found, expected);
    // The same through a route; by MX the hosts file is nobody's business.
    let planned = |routes: &Routes| {
        let domain = Domain::parse("a.test").unwrap();
        let request =
            PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: false, dane: false };
        let plan = plan(&request, routes, &settings(), &resolver, &|_| 0, &mut |_| {}).unwrap();
        plan.endpoints.iter().map(|endpoint| endpoint.address.ip()).collect::<Vec<_>>()
    };
    let relay = vec![RelayHost { host: Domain::parse("smart.internal").unwrap(), port: 25 }];
    let route = Route {
        domain: DomainPattern::Any,
        relay,
        tls: None,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    };
    assert_eq!(planned(&Routes(vec![route])), [ip("2001:db8::1"), ip("198.51.100.1")]);
    assert_eq!(planned(&Routes::default()), [ip("192.0.2.2")]);
    // A line that is written while the relay runs counts.
    std::fs::write(system.path("hosts"), "198.51.100.3 smart.internal\n").unwrap();
    wait_for("the new line", Duration::from_secs(10), || {
        let found = Lookup::relay_addresses(&resolver, &["smart.internal"]);
        (found == [Ok(vec![ip("198.51.100.3")])]).then_some(())
    });
}

// ---- answers of any size --------------------------------------------------------------------------

#[test]
fn of_a_huge_answer_only_so_much_is_kept() {
    let mut zone = Zone::new().ttl(3600);
    for number in 0..1000_u16 {
        zone = zone.mx("many.test", 1000 - number, &format!("mx{number}.test"));
    }
    for number in 0..2000_u32 {
        zone = zone.address("big.test", IpAddr::from((0xc612_0000 + number).to_be_bytes()));
    }
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(server.address());
    let records = Lookup::mx(&resolver, "many.test").unwrap();
    let best: Vec<u16> = records.hosts.iter().map(|(preference, _)| *preference).collect();
    assert_eq!(best, (1..=100).collect::<Vec<_>>(), "the best of them");
    assert!(records.cut, "and it is known that there are more");
    assert_eq!(resolver.addresses("big.test").unwrap().len(), 64);
}
