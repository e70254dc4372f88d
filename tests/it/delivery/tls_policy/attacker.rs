//! Somebody on the way who strips STARTTLS, shows another certificate, and answers for the DNS: no message of a
//! domain with DANE is theirs.

use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;

use crate::harness::dns_server::Zone;
use crate::harness::dnssec::{Signer, Signing};
use crate::harness::fakemx::{Certificate, FakeMx, Script};
use crate::harness::relay::{Config, World};

/// What somebody says in place of the zone.
#[derive(Clone, Copy)]
enum Forges {
    Nothing,
    Mx(Signing),
    NoTlsa,
    NoMx,
    NoAddress,
    Nowhere,
}

#[test]
fn no_message_of_a_protected_domain_is_theirs() {
    let signer = Arc::new(Signer::new(1));
    let own = Certificate::by_authority(&["mx.a.test"], true, false);
    // Everything about it is right but its key.
    let theirs = Certificate::by_authority(&["mx.a.test", "a.test", "evil.test"], true, false);
    let data = own.tlsa((3, 1, 1));
    let strips = || Script::new();
    let plants = || Script::new().tls(&theirs);
    for (what, script, forges) in [
        ("takes STARTTLS away", strips(), Forges::Nothing),
        ("plants a certificate", plants(), Forges::Nothing),
        ("answers with MX records of its own", plants(), Forges::Mx(Signing::None)),
        ("signs them with a key of its own", plants(), Forges::Mx(Signing::Wrong)),
        // In the name of a zone that is really not signed.
        ("says that there is no TLSA record", plants(), Forges::NoTlsa),
        ("says that there is no MX record", plants(), Forges::NoMx),
        // Which would bounce the mail.
        ("says that the host has no address", plants(), Forges::NoAddress),
        // By an address without a signature.
        ("says that the host is where mail never goes", plants(), Forges::Nowhere),
    ] {
        let mut world = World::signed(&signer);
        // Whoever connects to the host's address reaches them.
        let address = world.address("mx.a.test");
        let attacker = FakeMx::start_at(address, vec![script]);
        let evil = FakeMx::start_at(world.address("evil.test"), vec![plants()]);
        let own_host = FakeMx::start_at(world.address("a.test"), vec![plants()]);
        world.zone(|zone| {
            let zone = zone.unsigned("open.test").tlsa("mx.a.test", (3, 1, 1), &data);
            let real = |zone: Zone| zone.mx("a.test", 10, "mx.a.test");
            match forges {
                Forges::Nothing => real(zone),
                Forges::Mx(how) => {
                    zone.mx("a.test", 10, "evil.test").signed_like("a.test", RecordType::MX, how)
                }
                Forges::NoTlsa => real(zone).denied("_25._tcp.mx.a.test", RecordType::TLSA, "open.test"),
                Forges::NoAddress => real(zone).denied("mx.a.test", RecordType::A, "open.test"),
                Forges::Nowhere => real(zone.forget("mx.a.test"))
                    .address("mx.a.test", [0, 0, 0, 0].into())
                    .signed_like("mx.a.test", RecordType::A, Signing::None),
                Forges::NoMx => real(zone).denied("a.test", RecordType::MX, "open.test"),
            }
        });
        let relay = world.relay(Config::new().retry(&["1s"]).set("dns.timeout", "\"20s\""));
        relay.submit("app@sender.test", &["you@a.test"], b"Subject: secret\r\n\r\nsecret\r\n");
        // Not the first time, and not when it is tried again.
        relay.wait_until("three attempts", Duration::from_secs(60), |db| {
            (db.number("SELECT count(*) FROM attempts", []) >= 3).then_some(())
        });
        let outcomes = relay.db().rows("SELECT DISTINCT outcome FROM attempts", []);
        assert_eq!(outcomes, ["deferred"], "{what}");
        for host in [&attacker, &evil, &own_host] {
            let seen = host.seen();
            assert!(host.messages().is_empty(), "{what}");
            assert!(
                !seen.iter().any(|one| one.commands.iter().any(|line| line.starts_with("MAIL"))),
                "{what}: not even the envelope: {seen:?}"
            );
        }
    }
}
