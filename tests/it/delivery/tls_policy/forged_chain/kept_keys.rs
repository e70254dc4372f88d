//! The keys of the zones above are asked for once, and asked for again where they prove nothing any more.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::rdata::{A, TLSA};

use super::{Key, Row, Tree, Victim, honest};
use crate::harness::dns_server::{DnsServer, Question, Zone};
use crate::harness::dnssec::Signer;
use postrider::config::DnsSettings;
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::{DnsError, Lookup as _, TlsaAnswer};

const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// A world with these domains, each with a key of its own.
fn world(root: &Arc<Signer>, test: Key) -> Zone {
    let row = |_| -> Row { honest("", "dane", |_, _, _, _| None) };
    let tree = Tree {
        root: Arc::clone(root),
        test,
        evil: Key::new("evil.test"),
        victims: DOMAINS.map(|domain| (row(domain), Victim::new(domain))).into(),
        attacker: A(Ipv4Addr::LOCALHOST),
        honest: A(Ipv4Addr::LOCALHOST),
        data: TLSA::new(3.into(), 1.into(), 1.into(), vec![7; 32]),
    };
    Zone::new().scripted(Arc::new(move |asked, kind| tree.answer(asked, kind)))
}

fn resolver(root: &Signer, server: &DnsServer) -> Resolver {
    let anchor = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchor.path(), root.anchor()).unwrap();
    let settings = DnsSettings {
        servers: vec![server.address().into()],
        timeout: Duration::from_secs(20),
        trust_anchor: Some(anchor.path().to_owned()),
    };
    Resolver::new(&settings).unwrap()
}

fn number(asked: &[Question], name: &str, kind: &str) -> usize {
    asked.iter().filter(|one| (one.name.as_str(), one.kind.as_str()) == (name, kind)).count()
}

#[test]
fn the_keys_above_are_asked_for_once_however_many_domains_are_below() {
    let root = Arc::new(Signer::new(1));
    let server = DnsServer::start(world(&root, Key::new("test"))).unwrap();
    let resolver = resolver(&root, &server);
    for domain in DOMAINS {
        assert!(resolver.mx_validated(domain).unwrap().proved, "{domain}");
    }
    // A zone without signatures, which takes the way down from the root.
    assert!(!resolver.mx_validated("open.test").unwrap().proved);
    let asked = server.asked();
    for (zone, kind) in [("", "DNSKEY"), ("test", "DS"), ("test", "DNSKEY")] {
        assert_eq!(number(&asked, zone, kind), 1, "{zone} {kind}: {asked:?}");
    }
    // Then a domain of its own takes three, whatever is above it.
    for kind in ["MX", "DS", "DNSKEY"] {
        assert_eq!(number(&asked, "c.test", kind), 1, "{kind}");
    }
    assert_eq!(asked.iter().filter(|one| one.name.ends_with("c.test")).count(), 3);
}

#[test]
fn keys_that_are_changed_before_their_time_hold_a_domain_for_one_look_only() {
    let root = Arc::new(Signer::new(1));
    let server = DnsServer::start(world(&root, Key::new("test"))).unwrap();
    let resolver = resolver(&root, &server);
    assert!(resolver.mx_validated("a.test").unwrap().proved);
    // As after a roll of all keys below the root that kept to no TTL.
    server.serve(world(&root, Key::new("test")));
    let tlsa = || resolver.tlsa(&["mx.a.test"]).remove(0);
    let first = tlsa();
    assert!(matches!(first, Err(DnsError::Bogus(_))), "{first:?}");
    let second = tlsa();
    assert!(matches!(second, Ok(TlsaAnswer::Records { .. })), "{second:?}");
}
