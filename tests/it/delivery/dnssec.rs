//! Which MX records are proved, with a signed root in this process: mail with REQUIRETLS goes to the hosts that were
//! proved, and to no others.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::connection::settings;
use crate::harness::dns_server::{DnsServer, Fault, Zone};
use crate::harness::dnssec::{Signer, Signing};
use hickory_server::proto::rr::RecordType;
use postrider::config::{DnsSettings, Routes};
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::{DnsError, Lookup as _, MxRecords};
use postrider::delivery::route::plan::{PlanRequest, plan};
use postrider::delivery::smtp::failure::NoRouteReason;
use postrider::mail::Domain;

/// A server for the zone, and a resolver that trusts its first key.
fn serve(zone: Zone, signer: &Signer) -> (DnsServer, Resolver) {
    let (mut servers, resolver) = serve_each(vec![zone], signer, Duration::from_secs(20));
    (servers.remove(0), resolver)
}

/// Signed names, and `open.test`, which nobody signs.
fn zone(signer: &Arc<Signer>) -> Zone {
    let ip = |text: &str| text.parse().unwrap();
    Zone::new()
        .signed(signer)
        .unsigned("open.test")
        .mx("a.test", 10, "mx.a.test")
        .address("mx.a.test", ip("192.0.2.1"))
        .cname("alias.test", "a.test")
        .cname("alias.open.test", "a.test")
        .cname("to-open.test", "open.test")
        .mx("open.test", 10, "mx.open.test")
        .address("bare.test", ip("192.0.2.3"))
        .address("bare.open.test", ip("192.0.2.4"))
}

fn hosts(records: &MxRecords) -> Vec<&str> {
    records.hosts.iter().map(|(_, host)| host.as_str()).collect()
}

#[test]
fn records_are_proved_where_all_that_led_to_them_is() {
    // One key, and two while one is being replaced: any signature that holds will do, whichever is looked at first.
    for keys in [1, 2, 3] {
        let signer = Arc::new(Signer::new(keys));
        let (_server, resolver) = serve(zone(&signer), &signer);
        for (name, host, proved) in [
            ("a.test", "mx.a.test", true),
            ("alias.test", "mx.a.test", true),
            // Whoever writes the alias chooses the records: their own signatures say nothing of that.
            ("alias.open.test", "mx.a.test", false),
            ("to-open.test", "mx.open.test", false),
            ("open.test", "mx.open.test", false),
        ] {
            let records = resolver.mx_with_proof(name).unwrap();
            assert_eq!((hosts(&records), records.proved), (vec![host], proved), "{name} with {keys} keys");
            assert!(!resolver.mx(name).unwrap().is_empty());
        }
        // That there is none is known with a proof and without.
        for name in ["bare.test", "bare.open.test"] {
            assert_eq!(resolver.mx_with_proof(name), Err(DnsError::NoData), "{name}");
        }
    }
}

#[test]
fn keys_that_nobody_trusts_prove_nothing() {
    let (theirs, ours) = (Arc::new(Signer::new(1)), Signer::new(1));
    let (_server, resolver) = serve(zone(&theirs), &ours);
    let records = resolver.mx_with_proof("a.test").unwrap();
    assert_eq!((hosts(&records), records.proved), (vec!["mx.a.test"], false));
}

#[test]
fn the_hosts_of_the_plan_are_those_that_were_proved() {
    let signer = Arc::new(Signer::new(1));
    // Somebody between answers first whoever asks without signatures.
    let zone = zone(&signer).forged("evil.test").address("evil.test", "192.0.2.66".parse().unwrap());
    let (_server, resolver) = serve(zone, &signer);
    let domain = Domain::parse("a.test").unwrap();
    let planned = |with_proof| {
        let request = PlanRequest { domain: &domain, user: None, attempts: 0, with_proof, dane: false };
        let (routes, settings) = (Routes::default(), settings());
        let plan = plan(&request, &routes, &settings, &resolver, &|_| 0, &mut |_| {}).unwrap();
        (plan.endpoints.into_iter().map(|endpoint| endpoint.host).collect::<Vec<_>>(), plan.proved)
    };
    assert_eq!(planned(true), (vec!["mx.a.test".to_owned()], true));
    assert_eq!(planned(false), (vec!["evil.test".to_owned()], false), "the forger is there");
}

/// Without DANE too: the proof may be there at the next attempt, and mail that comes back is mail lost.
#[test]
fn a_proof_that_is_wrong_or_late_is_waited_for_where_others_come() {
    let signer = Arc::new(Signer::new(1));
    let wrong = zone(&signer).signed_like("a.test", RecordType::MX, Signing::Wrong);
    let late = zone(&signer).fault("a.test", Fault::Servfail);
    for (zone, wanted) in [(wrong, NoRouteReason::Bogus), (late, NoRouteReason::LookupFailed)] {
        let (_server, resolver) = serve(zone.forged("evil.test"), &signer);
        let domain = Domain::parse("a.test").unwrap();
        let request = PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: true, dane: false };
        let (routes, settings) = (Routes::default(), settings());
        let plan = plan(&request, &routes, &settings, &resolver, &|_| 0, &mut |_| {});
        assert_eq!(plan.map(|plan| plan.endpoints.len()).map_err(|none| none.why), Err(wanted));
    }
}

/// Servers with these zones, and a resolver that asks them in this order and trusts the signer's first key.
fn serve_each(zones: Vec<Zone>, signer: &Signer, timeout: Duration) -> (Vec<DnsServer>, Resolver) {
    let servers: Vec<DnsServer> = zones.into_iter().map(|zone| DnsServer::start(zone).unwrap()).collect();
    let anchor = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchor.path(), signer.anchor()).unwrap();
    let trust_anchor = Some(anchor.path().to_owned());
    let addresses = servers.iter().map(|server| server.address().into()).collect();
    let resolver = Resolver::new(&DnsSettings { servers: addresses, timeout, trust_anchor }).unwrap();
    (servers, resolver)
}

#[test]
fn one_server_that_proves_what_it_says_is_enough() {
    let signer = Arc::new(Signer::new(1));
    let refuses = || zone(&signer).fault("a.test", Fault::Refused).fault("open.test", Fault::Servfail);
    let strips = || zone(&signer).stripped();
    for bad in [refuses(), strips()] {
        for zones in [vec![bad.clone(), zone(&signer)], vec![zone(&signer), bad.clone()]] {
            let (_servers, resolver) = serve_each(zones, &signer, Duration::from_secs(20));
            assert_eq!(resolver.validates(), Ok(()));
            for (name, host, proved) in [("a.test", "mx.a.test", true), ("open.test", "mx.open.test", false)]
            {
                let records = resolver.mx_validated(name).unwrap();
                assert_eq!((hosts(&records), records.proved), (vec![host], proved), "{name}");
            }
        }
    }
}

#[test]
fn a_server_that_drops_questions_for_signatures_is_told_from_a_silent_one() {
    let signer = Arc::new(Signer::new(1));
    let (servers, resolver) = serve_each(vec![zone(&signer).deaf()], &signer, Duration::from_secs(2));
    let why = resolver.validates().unwrap_err();
    assert!(why.contains("EDNS"), "{why}");
    drop(servers);
    let silent = zone(&signer).deaf().fault(".", Fault::Silent);
    let (_servers, resolver) = serve_each(vec![silent], &signer, Duration::from_secs(2));
    assert_eq!(resolver.validates(), Ok(()), "nobody turns it off by being silent");
}
