//! The resolver against a real DNS server in this process.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::dns_server::{DnsServer, Fault, Zone};
use postrider::config::DnsSettings;
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::{DnsError, Lookup};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolver(servers: &[SocketAddr], timeout: Duration) -> Resolver {
    Resolver::new(&DnsSettings {
        servers: servers.iter().copied().map(Into::into).collect(),
        timeout,
        trust_anchor: None,
    })
    .unwrap()
}

/// A server for `zone` and a resolver that asks it and waits long.
fn serve(zone: Zone) -> (DnsServer, Resolver) {
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(&[server.address()], Duration::from_secs(20));
    (server, resolver)
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

fn is_temporary<T>(answer: &Result<T, DnsError>, word: &str) -> bool {
    matches!(answer, Err(DnsError::Temporary(why)) if why.contains(word))
}

#[test]
fn mx_and_addresses_of_both_families_are_found() {
    let (_server, resolver) = serve(
        Zone::new()
            .mx("a.test", 20, "mx2.a.test")
            .mx("a.test", 10, "mx1.a.test")
            .null_mx("none.test")
            .address("mx1.a.test", ip("192.0.2.1"))
            .address("mx1.a.test", ip("2001:db8::1")),
    );
    let mx = resolver.mx("a.test").unwrap();
    assert_eq!(sorted(mx), [(10, "mx1.a.test".to_owned()), (20, "mx2.a.test".to_owned())]);
    assert_eq!(resolver.mx("none.test").unwrap(), [(0, ".".to_owned())]);
    assert_eq!(sorted(resolver.addresses("mx1.a.test").unwrap()), [ip("192.0.2.1"), ip("2001:db8::1")]);
}

#[test]
fn a_missing_name_and_missing_records_are_told_apart() {
    let (_server, resolver) =
        serve(Zone::new().address("www.a.test", ip("192.0.2.1")).mx("only-mx.test", 10, "www.a.test"));
    assert_eq!(resolver.mx("nosuch.test"), Err(DnsError::NoSuchDomain));
    assert_eq!(resolver.addresses("nosuch.test"), Err(DnsError::NoSuchDomain));
    assert_eq!(resolver.mx("www.a.test"), Err(DnsError::NoData));
    assert_eq!(resolver.mx("a.test"), Err(DnsError::NoData), "a name between two that exist exists");
    assert_eq!(resolver.addresses("only-mx.test"), Err(DnsError::NoData));
}

#[test]
fn what_cannot_be_a_name_is_not_asked_for() {
    let (server, resolver) = serve(Zone::new());
    let long = "x".repeat(64) + ".test";
    for name in ["", ".", "a..test", &long, &"abc.".repeat(80)] {
        assert_eq!(resolver.mx(name), Err(DnsError::NoSuchDomain), "{name:?}");
    }
    assert_eq!(server.asked(), []);
}

#[test]
fn names_are_absolute_and_local_names_are_not_asked_for() {
    let (server, resolver) = serve(Zone::new());
    assert_eq!(resolver.addresses("single"), Err(DnsError::NoSuchDomain));
    assert!(server.asked().iter().all(|question| question.name == "single"), "{:?}", server.asked());
    let asked = server.asked().len();
    // RFC 6761 §6.3 and §6.4.
    assert_eq!(sorted(resolver.addresses("localhost").unwrap()), [ip("127.0.0.1"), ip("::1")]);
    assert_eq!(resolver.mx("x.invalid"), Err(DnsError::NoSuchDomain));
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn failures_of_servers_are_temporary() {
    let (_server, resolver) = serve(
        Zone::new()
            .fault("servfail.test", Fault::Servfail)
            .fault("refused.test", Fault::Refused)
            .fault("referral.test", Fault::Referral),
    );
    for (name, word) in
        [("servfail.test", "SERVFAIL"), ("refused.test", "REFUSED"), ("referral.test", "referral")]
    {
        let (mx, addresses) = (resolver.mx(name), resolver.addresses(name));
        assert!(is_temporary(&mx, word), "{name}: {mx:?}");
        assert!(is_temporary(&addresses, word), "{name}: {addresses:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_temporary_and_in_time() {
    // A port that was free a moment ago; and one that is open and says nothing.
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in [gone, mute.local_addr().unwrap()] {
        let resolver = resolver(&[address], Duration::from_millis(300));
        let began = Instant::now();
        let answer = resolver.mx("a.test");
        assert!(is_temporary(&answer, ""), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[test]
fn one_address_family_is_enough() {
    let (server, resolver) = serve(Zone::new().address("v4.test", ip("192.0.2.1")));
    assert_eq!(resolver.addresses("v4.test").unwrap(), [ip("192.0.2.1")]);
    let mut kinds: Vec<String> = server.asked().into_iter().map(|question| question.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["A", "AAAA"]);
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let mut zone = Zone::new();
    for number in 0..100 {
        zone = zone.mx("many.test", number, &format!("a-rather-long-name-of-a-host-{number}.many.test"));
    }
    let (server, resolver) = serve(zone);
    assert_eq!(resolver.mx("many.test").unwrap().len(), 100);
    let transports: Vec<bool> = server.asked().iter().map(|question| question.tcp).collect();
    assert_eq!(transports, [false, true]);
}

#[test]
fn cnames_are_followed_and_their_loops_end() {
    let (_server, resolver) = serve(
        Zone::new()
            .cname("alias.test", "real.test")
            .mx("real.test", 10, "mx.real.test")
            .cname("mx.real.test", "host.real.test")
            .address("host.real.test", ip("192.0.2.1"))
            .cname("dangling.test", "nosuch.test")
            .cname("ring.test", "gnir.test")
            .cname("gnir.test", "ring.test"),
    );
    assert_eq!(resolver.mx("alias.test").unwrap(), [(10, "mx.real.test".to_owned())]);
    assert_eq!(resolver.addresses("mx.real.test").unwrap(), [ip("192.0.2.1")]);
    assert_eq!(resolver.mx("dangling.test"), Err(DnsError::NoSuchDomain));
    assert!(resolver.mx("ring.test").is_err());
}

#[test]
fn text_is_found_joined_and_bounded() {
    let big = [b'x'; 255];
    let mut zone = Zone::new()
        .ttl(3600)
        .txt("one.test", &[b"v=spf1 ", b"-all"])
        .txt("two.test", &[b"v=STSv1; id=1"])
        .txt("two.test", &[b"", b"v=STSv1; id=2"])
        .cname("alias.test", "one.test")
        .txt("odd.test", &[b"\xff\0\r\n\\\""])
        .txt("large.test", &[big.as_slice(); 16])
        .fault("other.test", Fault::OtherType)
        .address("no-text.test", ip("192.0.2.1"));
    for number in 0..200_u8 {
        zone = zone.txt("endless.test", &[&[number], &big]);
    }
    let (server, resolver) = serve(zone);
    let txt = |name: &str| Lookup::txt(&resolver, name);
    assert_eq!(txt("one.test").unwrap(), ["v=spf1 -all"]);
    assert_eq!(sorted(txt("two.test").unwrap()), ["v=STSv1; id=1", "v=STSv1; id=2"]);
    assert_eq!(txt("ALIAS.test").unwrap(), ["v=spf1 -all"]);
    assert_eq!(txt("odd.test").unwrap(), ["\u{fffd}\0\r\n\\\""]);
    assert_eq!(txt("large.test").unwrap(), ["x".repeat(16 * 255)], "4 KB, over TCP");
    assert!(is_temporary(&txt("endless.test"), "more than 32 KiB of TXT records"));
    assert!(is_temporary(&txt("other.test"), "without records"), "an A record is no text");
    assert_eq!(txt("no-text.test"), Err(DnsError::NoData));
    assert_eq!(txt("nosuch.test"), Err(DnsError::NoSuchDomain));
    let asked = server.asked().len();
    assert_eq!(txt("one.test").unwrap(), ["v=spf1 -all"]);
    assert_eq!(server.asked().len(), asked, "kept");
}

#[test]
fn reverse_names_are_found_and_bounded() {
    let mut zone = Zone::new()
        .ptr("1.2.0.192.in-addr.arpa", "MAIL.one.test")
        .ptr("1.2.0.192.in-addr.arpa", "two.test")
        .cname("2.2.0.192.in-addr.arpa", "2.0-25.2.0.192.in-addr.arpa")
        .ptr("2.0-25.2.0.192.in-addr.arpa", "three.test")
        .fault("3.2.0.192.in-addr.arpa", Fault::OtherType)
        .ptr(&format!("1{}.8.b.d.0.1.0.0.2.ip6.arpa", ".0".repeat(23)), "six.test");
    for number in 0..200 {
        zone = zone.ptr("9.2.0.192.in-addr.arpa", &format!("host{number}.test"));
    }
    let (_server, resolver) = serve(zone);
    let reverse = |text: &str| Lookup::reverse(&resolver, ip(text));
    assert_eq!(sorted(reverse("192.0.2.1").unwrap()), ["mail.one.test", "two.test"]);
    assert_eq!(reverse("192.0.2.2").unwrap(), ["three.test"], "RFC 2317");
    assert_eq!(reverse("2001:db8::1").unwrap(), ["six.test"]);
    assert!(is_temporary(&reverse("192.0.2.3"), "without records"));
    assert_eq!(reverse("192.0.2.9").unwrap().len(), 20);
    assert_eq!(reverse("198.51.100.1"), Err(DnsError::NoSuchDomain));
}

#[test]
fn the_case_of_names_does_not_matter() {
    let (_server, resolver) =
        serve(Zone::new().mx("Mixed.TEST", 10, "MX.Mixed.Test").address("mX.mIXED.tEST", ip("192.0.2.1")));
    assert_eq!(resolver.mx("mixed.test").unwrap(), [(10, "mx.mixed.test".to_owned())]);
    assert_eq!(resolver.addresses("MX.MIXED.TEST").unwrap(), [ip("192.0.2.1")]);
}

#[test]
fn answers_are_cached_for_their_ttl_and_negative_ones_too() {
    let zone = Zone::new().mx("a.test", 10, "mx.a.test");
    let (server, resolver) = serve(zone.clone().ttl(3600));
    for _ in 0..3 {
        assert!(resolver.mx("a.test").is_ok());
        assert_eq!(resolver.mx("nosuch.test"), Err(DnsError::NoSuchDomain));
    }
    assert_eq!(server.asked().len(), 2);

    let (server, resolver) = serve(zone.clone());
    for _ in 0..3 {
        assert!(resolver.mx("a.test").is_ok());
    }
    assert_eq!(server.asked().len(), 3, "a TTL of 0 is not cached");

    // A quick failure is not: the next question is asked again, and its answer counts.
    server.serve(zone.clone().fault("b.test", Fault::Servfail));
    assert!(is_temporary(&resolver.mx("b.test"), "SERVFAIL"));
    server.serve(zone.mx("b.test", 10, "mx.b.test"));
    assert!(resolver.mx("b.test").is_ok());
}

/// A domain with a dead name among its hosts costs the time-out once, and not each attempt of each message.
#[test]
fn a_name_that_nobody_answers_for_is_not_asked_for_again_at_once() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let zone = Zone::new().ttl(3600).address("good.test", ip("192.0.2.1")).fault("dead.test", Fault::Silent);
    let server = DnsServer::start(zone.clone()).unwrap();
    let resolver = resolver(&[server.address()], TIMEOUT);
    let look_up = || {
        let began = Instant::now();
        let found = Lookup::addresses(&resolver, &["dead.test", "good.test"]);
        assert!(
            is_temporary(&found[0], "no answer") || is_temporary(&found[0], "did not answer"),
            "{found:?}"
        );
        assert_eq!(found[1], Ok(vec![ip("192.0.2.1")]));
        began.elapsed()
    };
    assert!(look_up() >= TIMEOUT / 2);
    let asked = server.asked().len();
    for _ in 0..20 {
        assert!(look_up() < TIMEOUT / 2, "kept");
    }
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn a_lame_server_beside_a_good_one_does_no_harm() {
    let good = DnsServer::start(Zone::new().mx("a.test", 10, "mx.a.test")).unwrap();
    let lame = DnsServer::start(Zone::new().fault("a.test", Fault::Refused)).unwrap();
    for servers in [[lame.address(), good.address()], [good.address(), lame.address()]] {
        let resolver = resolver(&servers, Duration::from_secs(20));
        for _ in 0..5 {
            assert_eq!(resolver.mx("a.test").unwrap(), [(10, "mx.a.test".to_owned())]);
        }
    }
}

#[test]
fn dead_servers_before_a_good_one_only_cost_time() {
    let good = DnsServer::start(Zone::new().mx("a.test", 10, "mx.a.test")).unwrap();
    let mute: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut servers: Vec<SocketAddr> = mute.iter().map(|socket| socket.local_addr().unwrap()).collect();
    servers.push(good.address());
    // A resolver that knows nothing yet tries its servers in any order: one alone would prove little.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let resolver = resolver(&servers, Duration::from_secs(6));
                assert_eq!(resolver.mx("a.test").unwrap(), [(10, "mx.a.test".to_owned())]);
            });
        }
    });
}

#[test]
fn a_silent_domain_delays_only_who_asks_for_it() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut zone = Zone::new().fault("silent.test", Fault::Silent);
    for number in 0..50 {
        zone = zone.mx(&format!("d{number}.test"), 10, "mx.test");
    }
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(&[server.address()], TIMEOUT);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| (resolver.mx("silent.test"), began.elapsed()));
        let others: Vec<_> = (0..50)
            .map(|n| {
                scope.spawn({
                    let resolver = &resolver;
                    move || (resolver.mx(&format!("d{n}.test")), began.elapsed())
                })
            })
            .collect();
        for other in others {
            let (answer, took) = other.join().unwrap();
            assert_eq!(answer.unwrap(), [(10, "mx.test".to_owned())]);
            assert!(took < TIMEOUT * 3 / 4, "{took:?}");
        }
        let (answer, took) = silent.join().unwrap();
        assert!(is_temporary(&answer, "answer"), "{answer:?}");
        assert!(took >= TIMEOUT / 2 && took < TIMEOUT * 2, "{took:?}");
    });
}

#[test]
fn the_hosts_of_an_attempt_are_looked_up_together() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let zone = Zone::new()
        .fault("s1.test", Fault::Silent)
        .fault("s2.test", Fault::Silent)
        .fault("s3.test", Fault::Silent)
        .address("good.test", ip("192.0.2.1"));
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(&[server.address()], TIMEOUT);
    let began = Instant::now();
    let found = Lookup::addresses(&resolver, &["s1.test", "s2.test", "good.test", "s3.test", "nosuch.test"]);
    assert!(began.elapsed() < TIMEOUT * 2, "{:?}", began.elapsed());
    assert_eq!(found.len(), 5);
    assert!(is_temporary(&found[0], "") && is_temporary(&found[1], "") && is_temporary(&found[3], ""));
    assert_eq!(found[2], Ok(vec![ip("192.0.2.1")]));
    assert_eq!(found[4], Err(DnsError::NoSuchDomain));
}
