//! `explain ADDRESS` walks the policies: is the MX record signed, are there TLSA records, what would be required now.

use std::sync::Arc;

use hickory_server::proto::rr::RecordType;

use crate::harness::dnssec::{Signer, Signing};
use crate::harness::fakemx::Certificate;
use crate::harness::relay::{Config, World};

#[test]
fn each_step_of_a_policy_is_told() {
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    let data = Certificate::by_authority(&[], true, false).tlsa((3, 1, 1));
    for domain in ["safe", "none", "open", "broken", "forged"] {
        world.closed_mx(&format!("{domain}.test"), 10, &format!("mx.{domain}.test"));
    }
    world.zone(|zone| {
        zone.unsigned("open.test")
            .tlsa("mx.safe.test", (3, 1, 1), &data)
            .tlsa("mx.broken.test", (3, 1, 1), &data)
            .signed_like("_25._tcp.mx.broken.test", RecordType::TLSA, Signing::Expired)
            .signed_like("forged.test", RecordType::MX, Signing::Wrong)
    });
    let relay = world.relay(Config::new().set("dns.timeout", "\"20s\""));
    let explained = |domain: &str| {
        let output = relay.run(&["explain", &format!("you@{domain}.test")]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let begin: String = data[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    for (domain, lines) in [
        (
            "safe",
            vec![
                "the MX records of safe.test are proved by DNSSEC".to_owned(),
                format!("mx.safe.test: TLSA 3 1 1 {begin}… at _25._tcp.mx.safe.test"),
                ", tls encrypt (policy dane)".to_owned(),
                format!("certificate: one that its TLSA records mean: 3 1 1 {begin}…"),
            ],
        ),
        ("none", vec!["mx.none.test: proved by DNSSEC to have no TLSA record: no DANE".to_owned(), ", tls opportunistic\n".to_owned()]),
        ("open", vec!["the MX records of open.test are not signed (DNSSEC): no DANE".to_owned(), ", tls opportunistic\n".to_owned()]),
        ("broken", vec!["mx.broken.test: cannot be used now: TLSA of _25._tcp.mx.broken.test: the DNSSEC signatures".to_owned(), "would be tried again later: 451 4.7.0 DANE: ".to_owned()]),
        ("forged", vec!["would be tried again later: 451 4.4.3 cannot look up the mail hosts of forged.test: the DNSSEC".to_owned()]),
    ] {
        let text = explained(domain);
        for line in lines {
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
    }
    let hop = &relay.json(&["explain", "you@safe.test"])[0]["endpoints"][0];
    assert_eq!((hop["tls_policy"].as_str(), hop["tls"].as_str()), (Some("dane"), Some("encrypt")));
    assert!(
        hop["certificate"].as_str().unwrap().starts_with("one that its TLSA records mean: 3 1 1 "),
        "{hop}"
    );
}
