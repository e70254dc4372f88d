//! The corners of DNS, from a real server to what becomes of the mail: whom the plan names, or with which words it
//! is put off or returned. What is somebody's purpose is permanent, what a broken server can cause is not.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::dns_server::{DnsServer, Fault, Zone};
use postrider::config::{DeliverySettings, DnsSettings, ProhibitedNetworks, Routes};
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::DnsError;
use postrider::delivery::route::plan::{PlanRequest, plan};
use postrider::mail::{Domain, address};

use crate::delivery::connection::settings;
use crate::harness::relay::wait_for;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolver(server: SocketAddr, timeout: Duration) -> Resolver {
    Resolver::new(&DnsSettings { servers: vec![server.into()], timeout, trust_anchor: None }).unwrap()
}

/// `host address, …` in the order of the tries, or the reply that says why there is none.
fn planned(domain: &str, resolver: &Resolver) -> String {
    let settings = DeliverySettings {
        hostname: Domain::parse("relay.test").unwrap(),
        source_addresses: vec![ip("192.0.2.99"), ip("2001:db8::99")],
        prohibited_networks: ProhibitedNetworks::new(Vec::new(), true),
        ..settings()
    };
    // As a recipient's address has it.
    let domain = Domain::of(&address::parse(&format!("you@{domain}")).unwrap());
    let request = PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: false, dane: false };
    match plan(&request, &Routes::default(), &settings, resolver, &|_| 0, &mut |_| {}) {
        Ok(plan) => {
            let shown: Vec<String> =
                plan.endpoints.iter().map(|one| format!("{} {}", one.host, one.address.ip())).collect();
            shown.join(", ")
        }
        Err(none) => none.reply().to_string(),
    }
}

/// Two good hosts, `good.test` and `spare.test`, and whatever else there is.
fn zone() -> Zone {
    Zone::new().address("good.test", ip("198.51.100.1")).address("spare.test", ip("198.51.100.2"))
}

const GOOD: &str = "good.test 198.51.100.1";
const SPARE: &str = "spare.test 198.51.100.2";

/// Domains, and whom the plan names for them or with which words they are put off or returned.
const CORNERS: &[(&str, &str)] = &[
    ("alias.test", "cname-mx.test 198.51.100.1"),
    ("aliased-host.test", "aliased-host.test 198.51.100.1"),
    ("dangling.test", "550 5.1.2 the domain dangling.test does not exist (NXDOMAIN)"),
    ("ring.test", "451 4.4.3 "),
    ("ring-mx.test", "451 4.4.3 "),
    ("ring-mx-spare.test", SPARE),
    ("nosuch.test", "550 5.1.2 the domain nosuch.test does not exist (NXDOMAIN)"),
    ("gone.test", "550 5.4.4 no mail host of gone.test can be used: nosuch1.test: no such domain"),
    (
        "addressless.test",
        "550 5.4.4 no mail host of addressless.test can be used: only-mx.test: no such records",
    ),
    ("half-gone.test", GOOD),
    ("unsure.test", "451 4.4.3 cannot look up the mail host servfail.test: the DNS server answered SERVFAIL"),
    ("number.test", "550 5.4.4 no mail host of number.test can be used: 192.0.2.1: not the name of a host"),
    ("number-spare.test", SPARE),
    ("null.test", "556 5.1.10 null.test accepts no mail (null MX)"),
    ("null-and-more.test", GOOD),
    ("root-only.test", "550 5.4.4 no mail host of root-only.test can be used: .: not the name of a host"),
    ("ours.test", "554 5.4.6 mail for ours.test would come back to this relay (relay.test)"),
    ("ours-later.test", GOOD),
    ("ours-by-address.test", "554 5.4.6 "),
    (
        "to-inside.test",
        "550 5.4.4 no mail host of to-inside.test can be used: inside.test: mail is never delivered to 10.1.2.3",
    ),
    ("to-inside-spare.test", SPARE),
    ("to-localhost.test", "550 5.4.4 "),
    ("[10.1.2.3]", "550 5.4.4 "),
    ("[192.0.2.99]", "554 5.4.6 "),
    ("b\u{fc}cher.test", GOOD),
    ("B\u{dc}CHER.Test", GOOD),
    ("xn--bcher-kva.test", GOOD),
    ("mixed.test", GOOD),
    (
        "servfail.test",
        "451 4.4.3 cannot look up the mail hosts of servfail.test: the DNS server answered SERVFAIL",
    ),
    (
        "refused.test",
        "451 4.4.3 cannot look up the mail hosts of refused.test: the DNS server answered REFUSED",
    ),
    (
        "referral.test",
        "451 4.4.3 cannot look up the mail hosts of referral.test: the DNS server answered with a referral",
    ),
    (
        "upward.test",
        "451 4.4.3 cannot look up the mail hosts of upward.test: the DNS server answered with a referral",
    ),
    ("empty.test", "451 4.4.3 cannot look up the mail host empty.test: the DNS server answered without"),
    ("to-empty.test", "451 4.4.3 cannot look up the mail host empty.test: the DNS server answered without"),
    ("to-servfail.test", SPARE),
    ("own-alias.test", "451 4.4.3 "),
    ("to-own-alias.test", "451 4.4.3 "),
];

/// CNAMEs, and MX to nothing.
fn aliases(zone: Zone) -> Zone {
    zone
        // CNAMEs.
        .cname("alias.test", "alias2.test")
        .cname("alias2.test", "real.test")
        .mx("real.test", 10, "cname-mx.test")
        .cname("cname-mx.test", "good.test")
        .cname("aliased-host.test", "good.test")
        .cname("dangling.test", "nosuch.test")
        .cname("ring.test", "gnir.test")
        .cname("gnir.test", "ring.test")
        .mx("ring-mx.test", 10, "ring.test")
        .mx("ring-mx-spare.test", 10, "ring.test")
        .mx("ring-mx-spare.test", 20, "spare.test")
        // MX to nothing.
        .mx("gone.test", 10, "nosuch1.test")
        .mx("gone.test", 20, "nosuch2.test")
        .mx("addressless.test", 10, "only-mx.test")
        .mx("only-mx.test", 10, "good.test")
        .mx("half-gone.test", 10, "nosuch1.test")
        .mx("half-gone.test", 20, "good.test")
        .mx("unsure.test", 10, "nosuch1.test")
        .mx("unsure.test", 20, "servfail.test")
}

/// MX to what is none, to us, and to where nothing is delivered.
fn wrong_hosts(zone: Zone) -> Zone {
    zone
        // MX to what is none.
        .mx("number.test", 10, "192.0.2.1")
        .mx("number-spare.test", 10, "192.0.2.1")
        .mx("number-spare.test", 20, "spare.test")
        .null_mx("null.test")
        .address("null.test", ip("198.51.100.3"))
        .null_mx("null-and-more.test")
        .mx("null-and-more.test", 10, "good.test")
        .mx("root-only.test", 10, ".")
        .mx("root-only.test", 20, ".")
        // MX to us, and to where nothing is delivered.
        .mx("ours.test", 10, "relay.test")
        .mx("ours.test", 20, "spare.test")
        .mx("ours-later.test", 10, "good.test")
        .mx("ours-later.test", 20, "Relay.TEST")
        .mx("ours-later.test", 30, "spare.test")
        .address("ours-too.test", ip("192.0.2.99"))
        .mx("ours-by-address.test", 10, "ours-too.test")
        .address("inside.test", ip("10.1.2.3"))
        .mx("to-inside.test", 10, "inside.test")
        .mx("to-inside-spare.test", 10, "inside.test")
        .mx("to-inside-spare.test", 20, "spare.test")
        .mx("to-localhost.test", 10, "localhost")
}

/// Names in all spellings, and servers that do not work.
fn spellings_and_faults(zone: Zone) -> Zone {
    zone
        // Names beyond ASCII, and in any case.
        .mx("xn--bcher-kva.test", 10, "good.test")
        .mx("MiXed.TEST", 10, "GOOD.test")
        // Servers that do not work.
        .fault("servfail.test", Fault::Servfail)
        .fault("refused.test", Fault::Refused)
        .fault("referral.test", Fault::Referral)
        .fault("upward.test", Fault::UpwardReferral)
        .fault("empty.test", Fault::Empty)
        .fault("own-alias.test", Fault::OwnAlias)
        .mx("to-own-alias.test", 10, "own-alias.test")
        .mx("to-empty.test", 10, "empty.test")
        .mx("to-servfail.test", 10, "servfail.test")
        .mx("to-servfail.test", 20, "spare.test")
}

#[test]
fn what_becomes_of_mail_in_every_corner() {
    let mut zone = spellings_and_faults(wrong_hosts(aliases(zone())));
    for number in 0..100 {
        let host = format!("a-rather-long-name-of-a-host-{number}.many.test");
        zone = zone.mx("many.test", 100 - number, &host).address(&host, ip("198.51.100.3"));
    }
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(server.address(), Duration::from_secs(20));
    for (domain, wanted) in CORNERS {
        let planned = planned(domain, &resolver);
        let fits = if wanted.starts_with(char::is_numeric) {
            planned.starts_with(wanted)
        } else {
            planned == *wanted
        };
        assert!(fits, "{domain}: {planned}");
    }
    // 100 MX records: over TCP, the best of them, no more than an attempt has room for.
    let many = planned("many.test", &resolver);
    let hosts: Vec<&str> = many.split(", ").map(|one| one.split(' ').next().unwrap()).collect();
    let best: Vec<String> =
        (95..100).rev().map(|number| format!("a-rather-long-name-of-a-host-{number}.many.test")).collect();
    assert_eq!(hosts, best);
    assert!(server.asked().iter().any(|question| question.tcp && question.name == "many.test"));
    // Literals were not asked for, nor the numbers that stood where names belong, nor anything beyond ASCII.
    let asked: Vec<String> = server.asked().into_iter().map(|question| question.name).collect();
    for never in ["192.0.2.1", "10.1.2.3", "192.0.2.99", ""] {
        assert!(!asked.iter().any(|name| name == never), "{never:?} was asked for");
    }
    assert!(asked.iter().all(|name| name.is_ascii()));
}

#[test]
fn an_address_literal_is_delivered_to_without_a_question() {
    let server = DnsServer::start(Zone::new()).unwrap();
    let resolver = resolver(server.address(), Duration::from_secs(20));
    assert_eq!(planned("[198.51.100.7]", &resolver), "198.51.100.7 198.51.100.7");
    assert_eq!(planned("[IPv6:2001:db8::7]", &resolver), "2001:db8::7 2001:db8::7");
    assert_eq!(server.asked(), []);
}

#[test]
fn a_domain_or_host_nobody_answers_for_is_tried_later_and_in_time() {
    const TIMEOUT: Duration = Duration::from_millis(600);
    let zone = zone()
        .fault("silent.test", Fault::Silent)
        .mx("to-silent.test", 10, "silent.test")
        .mx("to-silent-spare.test", 10, "silent.test")
        .mx("to-silent-spare.test", 20, "spare.test");
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(server.address(), TIMEOUT);
    for (domain, wanted) in [
        ("silent.test", "451 4.4.3 cannot look up the mail hosts of silent.test: "),
        ("to-silent.test", "451 4.4.3 cannot look up the mail host silent.test: "),
        ("to-silent-spare.test", SPARE),
    ] {
        let began = Instant::now();
        let planned = planned(domain, &resolver);
        assert!(planned.starts_with(wanted), "{planned}");
        assert!(began.elapsed() < TIMEOUT * 3, "{:?}", began.elapsed());
    }
}

/// Not even an SOA record: that is no proof that there are no MX records, but enough to look for addresses.
#[test]
fn an_empty_answer_about_mx_leads_to_the_domains_own_address() {
    let zone = Zone::new().address("a.test", ip("198.51.100.4")).fault("a.test", Fault::EmptyMx);
    let server = DnsServer::start(zone).unwrap();
    let resolver = resolver(server.address(), Duration::from_secs(20));
    assert_eq!(planned("a.test", &resolver), "a.test 198.51.100.4");
}

// ---- caching --------------------------------------------------------------------------------------

/// How often each name was asked for.
fn count(server: &DnsServer, name: &str) -> usize {
    server.asked().iter().filter(|question| question.name == name && question.kind == "MX").count()
}

#[test]
fn answers_and_their_absence_are_kept_as_long_as_they_say_and_asked_for_again_then() {
    let old = Zone::new().mx("a.test", 10, "old.test").ttl(1);
    let server = DnsServer::start(old).unwrap();
    let resolver = resolver(server.address(), Duration::from_secs(20));
    let began = Instant::now();
    let known = |host: &str| Ok(vec![(10, host.to_owned())]);
    for _ in 0..50 {
        assert_eq!(resolver.mx("a.test"), known("old.test"));
        assert_eq!(resolver.mx("new.test"), Err(DnsError::NoSuchDomain));
    }
    let asked = (count(&server, "a.test"), count(&server, "new.test"));
    // On a machine that stood still for a second in between there may be a question more.
    assert!(asked == (1, 1) || began.elapsed() >= Duration::from_secs(1), "{asked:?}");
    server.serve(Zone::new().mx("a.test", 10, "new-host.test").mx("new.test", 10, "new-host.test").ttl(3600));
    for name in ["a.test", "new.test"] {
        wait_for("the new record", Duration::from_secs(10), || {
            (resolver.mx(name) == known("new-host.test")).then_some(())
        });
        let asked = count(&server, name);
        for _ in 0..50 {
            assert_eq!(resolver.mx(name), known("new-host.test"));
        }
        assert_eq!(count(&server, name), asked, "kept for an hour");
    }
}

// ---- packets --------------------------------------------------------------------------------------

/// A server that answers every question over UDP with what `answer` makes of it, and hangs up on TCP.
pub struct Raw {
    address: SocketAddr,
    tcp_questions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Raw {
    pub fn start(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Raw {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (tcp_questions, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut room = [0; 1500];
            while let Ok((count, from)) = udp.recv_from(&mut room) {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                for packet in answer(&room[..count]) {
                    let _ = udp.send_to(&packet, from);
                }
            }
        });
        let (questions, stopping) = (Arc::clone(&tcp_questions), Arc::clone(&stop));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                // The question is read, so that hanging up is no reset.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 1500]);
                questions.fetch_add(1, Ordering::SeqCst);
            }
        });
        Raw { address, tcp_questions, stop }
    }

    pub fn resolver(&self, timeout: Duration) -> Resolver {
        resolver(self.address, timeout)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes both threads.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], self.address));
        let _ = std::net::TcpStream::connect(self.address);
    }
}

/// Where the question ends: behind its name, type and class.
pub fn question_end(packet: &[u8]) -> usize {
    let mut at = 12;
    while packet[at] != 0 {
        at += usize::from(packet[at]) + 1;
    }
    at + 5
}

/// An answer to `question` (header and question, nothing behind) with one record `10 mx.test`: `owner` is its name
/// on the wire. `flags` beside "this is an answer, recursion was had".
pub fn mx_answer(question: &[u8], owner: &[u8], flags: u8) -> Vec<u8> {
    let mut packet = question[..question_end(question)].to_vec();
    packet[2] = 0x81 | flags;
    packet[3] = 0x80;
    // One question, one answer, nothing else (the question's EDNS record is not copied).
    packet[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    packet.extend_from_slice(owner);
    packet.extend_from_slice(&[0, 15, 0, 1, 0, 0, 0, 60, 0, 11, 0, 10]);
    packet.extend_from_slice(b"\x02mx\x04test\x00");
    let rdata = 2 + 9;
    let length_at = packet.len() - rdata - 2;
    packet[length_at..length_at + 2].copy_from_slice(&[0, rdata as u8]);
    packet
}

pub const POINTER: &[u8] = &[0xc0, 12];

fn uppercase_name(packet: &mut [u8]) {
    let end = question_end(packet) - 5;
    packet[12..end].make_ascii_uppercase();
}

/// 0x20 hosts and old servers: the name in the answer, and in the question that it repeats, is spelt otherwise.
#[test]
fn an_answer_in_another_case_is_an_answer() {
    let found = Ok(vec![(10, "mx.test".to_owned())]);
    let otherwise = Raw::start(|question| vec![mx_answer(question, b"\x01A\x04TEST\x00", 0)]);
    assert_eq!(otherwise.resolver(Duration::from_secs(5)).mx("a.test"), found);
    let all = Raw::start(|question| {
        let mut packet = mx_answer(question, POINTER, 0);
        uppercase_name(&mut packet);
        vec![packet]
    });
    assert_eq!(all.resolver(Duration::from_secs(5)).mx("a.test"), found);
}

/// What answers another question, or is none, is passed over; nothing at all comes then, which is temporary.
#[test]
fn an_answer_to_another_question_is_none() {
    let found = Ok(vec![(10, "mx.test".to_owned())]);
    let wrong_id = |question: &[u8]| {
        let mut packet = mx_answer(question, POINTER, 0);
        packet[0] ^= 0xff;
        packet
    };
    let forged =
        Raw::start(move |question| vec![wrong_id(question), b"?".to_vec(), mx_answer(question, POINTER, 0)]);
    assert_eq!(forged.resolver(Duration::from_secs(5)).mx("a.test"), found);
    let other_name = Raw::start(|question| vec![mx_answer(question, b"\x01b\x04test\x00", 0)]);
    let answer = other_name.resolver(Duration::from_millis(800)).mx("a.test");
    assert_ne!(answer, found, "the records of b.test are none of a.test");
    let only_forged = Raw::start(move |question| vec![wrong_id(question)]);
    let answer = only_forged.resolver(Duration::from_millis(800)).mx("a.test");
    assert!(matches!(answer, Err(DnsError::Temporary(_))), "{answer:?}");
}

/// A truncated answer may have lost any record: without TCP nothing is known.
#[test]
fn a_truncated_answer_without_tcp_is_temporary() {
    let truncated = Raw::start(|question| vec![mx_answer(question, POINTER, 0x02)]);
    let answer = truncated.resolver(Duration::from_secs(2)).mx("a.test");
    assert!(matches!(answer, Err(DnsError::Temporary(_))), "{answer:?}");
    assert!(truncated.tcp_questions.load(Ordering::SeqCst) > 0, "TCP was tried");
}
