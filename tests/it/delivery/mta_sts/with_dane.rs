//! DANE and MTA-STS together: what TLSA records say, times what the policy says, times what the host shows.
//! Each cell is a domain of its own in a signed zone.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::proto::rr::RecordType;

use super::{MAIL, StsWorld, attempt};
use crate::harness::dns_server::{Fault, Zone};
use crate::harness::dnssec::{Signer, Signing};
use crate::harness::fakemx::{Ca, Certificate, Script};

const TLSA: [&str; 12] = [
    "absent",
    "good",
    "other",
    "unusable",
    "unknown",
    "bogus",
    "expired",
    "insecure",
    "mixed",
    "rollover",
    "authority",
    "alias",
];
const STS: [&str; 5] = ["none", "testing", "enforce", "stale", "unreachable"];

/// The policy, and whether the mail goes; `holds`: the host's certificate holds for its name.
fn wanted(tlsa: &str, sts: &str, holds: bool) -> (&'static str, &'static str) {
    let enforced = matches!(sts, "enforce" | "stale");
    match tlsa {
        // RFC 8461 §2: DANE comes first, where it fails too.
        "good" | "mixed" | "rollover" | "authority" | "alias" => ("dane", "delivered"),
        "other" | "unknown" | "bogus" | "expired" => ("dane", "deferred"),
        _ if enforced => ("sts-enforce", if holds { "delivered" } else { "deferred" }),
        // RFC 7672 §2.2: TLS, and no more.
        "unusable" => ("dane", "delivered"),
        _ if sts == "testing" => ("sts-testing", "delivered"),
        _ => ("none", "delivered"),
    }
}

/// The zone with the TLSA records of a host whose own are `own`. Nothing but their signatures is in the way of those
/// that are bogus or expired.
fn with_records(zone: Zone, tlsa: &str, (host, ip): (&str, IpAddr), own: &Certificate, other: &[u8]) -> Zone {
    let authority = own.tlsa((2, 0, 0));
    let own = &own.tlsa((3, 1, 1));
    let name = format!("_25._tcp.{host}");
    let signed = |zone: Zone, how| zone.tlsa(host, (3, 1, 1), own).signed_like(&name, RecordType::TLSA, how);
    match tlsa {
        "good" => zone.tlsa(host, (3, 1, 1), own),
        "other" => zone.tlsa(host, (3, 1, 1), other),
        "unusable" => zone.tlsa(host, (1, 1, 1), other),
        "unknown" => zone.fault(&name, Fault::Servfail),
        "bogus" => signed(zone, Signing::Wrong),
        "expired" => signed(zone, Signing::Expired),
        // Records that the host does not keep, and that nobody signed.
        "insecure" => zone.tlsa(host, (3, 1, 1), other).unsigned(host.trim_start_matches("mx.")),
        "mixed" => zone.tlsa(host, (1, 1, 1), other).tlsa(host, (3, 1, 1), own),
        "rollover" => zone.tlsa(host, (3, 1, 1), other).tlsa(host, (3, 1, 1), own),
        "authority" => zone.tlsa(host, (2, 0, 0), &authority),
        "alias" => {
            let target = host.replacen("mx.", "target.", 1);
            let zone = zone.forget(host).cname(host, &target).address(&target, ip);
            zone.tlsa(&target, (3, 1, 1), own)
        }
        _ => zone,
    }
}

#[test]
fn dane_comes_first_and_nothing_weakens_what_is_enforced() {
    let signer = Arc::new(Signer::new(1));
    let mut sts = StsWorld::signed(&signer);
    let (stranger, somebody) = (Ca::new(), Ca::new().certificate(&["somebody.test"]));
    let (mut servers, mut cells) = (Vec::new(), Vec::new());
    for tlsa in TLSA {
        for mode in STS {
            for holds in [true, false] {
                let domain = format!("{tlsa}-{mode}-{holds}.test");
                let host = format!("mx.{domain}");
                let ca = if holds { &sts.ca } else { &stranger };
                let certificate = ca.certificate(&[&host]);
                let mx = sts.world.host(&domain, Script::new().tls(&certificate));
                let other = somebody.tlsa((3, 1, 1));
                sts.world
                    .zone(|zone| with_records(zone, tlsa, (&host, mx.address.ip()), &certificate, &other));
                match mode {
                    "testing" | "enforce" => servers.push(sts.policy(&domain, mode)),
                    "unreachable" => {
                        sts.id(&domain, "1");
                        sts.policy_address(&domain);
                    }
                    _ => {}
                }
                cells.push((domain, mx, wanted(tlsa, mode, holds)));
            }
        }
    }
    // Of mail that its sender lets go as it can: no other mail waits before it.
    let careless_cells = [cells.remove(20), cells.remove(5)];
    let relay = sts.world.relay(sts.config().set("dns.timeout", "\"30s\""));
    // Policies of before, whose servers and records are gone.
    let db = relay.db_for_writing();
    for (domain, ..) in cells.iter().filter(|(domain, ..)| domain.contains("-stale-")) {
        db.execute(
            "INSERT INTO mta_sts_policies VALUES (?1, '1', 'enforce', 604800, unixepoch(), unixepoch() + 604800,
                                                  unixepoch(), unixepoch(), 'mx.' || ?1, NULL)",
            [domain],
        );
    }
    cells
        .iter()
        .for_each(|(domain, ..)| drop(relay.submit("me@app.test", &[&format!("you@{domain}")], MAIL)));
    let mut wrong = Vec::new();
    for (domain, mx, (policy, outcome)) in &cells {
        let said = attempt(&relay, &format!("you@{domain}"));
        let mut columns = said.split('|');
        let is_right = columns.next() == Some(*policy) && columns.nth(1) == Some(*outcome);
        let taken = mx.messages().len();
        if !is_right || taken != usize::from(*outcome == "delivered") {
            wrong.push(format!("{domain}: {policy} {outcome}, not {said} and {taken} messages"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cells.len(), 118);

    // RFC 8689 §5: the sender sets both aside.
    let careless = [b"TLS-Required: No\r\n", MAIL].concat();
    for (domain, _, _) in &careless_cells {
        let address = format!("you@{domain}");
        relay.submit("me@app.test", &[&address], &careless);
        let said = attempt(&relay, &address);
        assert!(said.starts_with("none|") && said.contains("|delivered|"), "{domain}: {said}");
    }
}
