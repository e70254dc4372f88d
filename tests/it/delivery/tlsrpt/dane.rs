//! What is counted of DANE: each domain in a signed zone with what DNSSEC says of it, and the same numbers in
//! `attempts`, in the view and in the report.

use std::sync::Arc;

use hickory_server::proto::rr::RecordType;
use serde_json::Value;

use super::judged;
use crate::delivery::mta_sts::StsWorld;
use crate::harness::client::mail;
use crate::harness::dnssec::{Signer, Signing};
use crate::harness::fakemx::{Ca, FakeMx, SOON, Script};
use crate::harness::relay::Relay;
use crate::harness::sender::SENDER;
use crate::harness::tls_client::TlsClient;

/// A domain, and of it: attempts, sessions, and sums of the report by policy.
type Wanted = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

const WANTED: [Wanted; 8] = [
    (
        "good.test",
        &["dane|mx.good.test|delivered|3"],
        &["dane|mx.good.test|success|3"],
        &["tlsa|mx.good.test|3|0"],
    ),
    (
        "bad.test",
        &["dane|mx.bad.test|deferred|2"],
        &["dane|mx.bad.test|certificate-not-trusted|2"],
        &["tlsa|mx.bad.test|0|2"],
    ),
    // RFC 8460 §4.3.2.2: the same, whether the MX records or the TLSA records are forged.
    ("bogus.test", &["none||deferred|2"], &["none||dnssec-invalid|2"], &["tlsa|bogus.test|0|2"]),
    // That there is no host has to be proved, too.
    (
        "nohost.test",
        &["none|mx.nohost.test|deferred|2"],
        &["none|mx.nohost.test|dnssec-invalid|2"],
        &["tlsa|mx.nohost.test|0|2"],
    ),
    (
        "unknown.test",
        &["dane|mx.unknown.test|deferred|2"],
        &["dane|mx.unknown.test|dnssec-invalid|2"],
        &["tlsa|mx.unknown.test|0|2"],
    ),
    // One message with REQUIRETLS, and one without.
    (
        "unusable.test",
        &["dane|mx.unusable.test|delivered|1", "requiretls|mx.unusable.test|delivered|1"],
        &["dane|mx.unusable.test|tlsa-invalid|2"],
        &["tlsa|mx.unusable.test|0|2"],
    ),
    // The best host is left out, and the next one has the mail.
    (
        "half.test",
        &["dane|mx.half.test|delivered|1"],
        &["dane|mx.half.test|success|1", "dane|mx1.half.test|dnssec-invalid|1"],
        &["tlsa|mx.half.test|1|0", "tlsa|mx1.half.test|0|1"],
    ),
    (
        "plain.test",
        &["none|mx.plain.test|delivered|1"],
        &["none|mx.plain.test|success|1"],
        &["no-policy-found|plain.test|1|0"],
    ),
];

/// The hosts, with what DNS says of them.
fn hosts(sts: &mut StsWorld) -> Vec<FakeMx> {
    let other = Ca::new().certificate(&["somebody.test"]).tlsa((3, 1, 1));
    let mut hosts = Vec::new();
    for (domain, ..) in WANTED {
        let host = format!("mx.{domain}");
        let certificate = sts.ca.certificate(&[&host]);
        let own = certificate.tlsa((3, 1, 1));
        let script = Script::new().offering(&["REQUIRETLS"]).tls(&certificate);
        hosts.push(sts.world.mx(domain, 20, &host, script.clone()));
        if domain == "half.test" {
            hosts.push(sts.world.mx(domain, 10, "mx1.half.test", script));
        }
        let tlsa = format!("_25._tcp.{host}");
        sts.world.zone(|zone| match domain {
            "good.test" => zone.tlsa(&host, (3, 1, 1), &own),
            "bad.test" => zone.tlsa(&host, (3, 1, 1), &other),
            "bogus.test" => zone.signed_like(domain, RecordType::MX, Signing::Wrong),
            "nohost.test" => zone.unsigned("open.test").denied(&host, RecordType::A, "open.test"),
            "unknown.test" => {
                zone.tlsa(&host, (3, 1, 1), &own).signed_like(&tlsa, RecordType::TLSA, Signing::Wrong)
            }
            "unusable.test" => zone.tlsa(&host, (1, 1, 1), &other),
            "half.test" => zone
                .tlsa(&host, (3, 1, 1), &own)
                .tlsa("mx1.half.test", (3, 1, 1), &own)
                .signed_like("_25._tcp.mx1.half.test", RecordType::TLSA, Signing::Wrong),
            _ => zone,
        });
    }
    hosts
}

/// Sums of the report on today.
fn sums(relay: &Relay, domain: &str) -> Vec<String> {
    let shown = relay.run_ok(&["tlsrpt", "show", domain]);
    judged("report", shown.as_bytes());
    let report: Value = serde_json::from_str(&shown).unwrap();
    let sum = |entry: &Value| {
        let (policy, summary) = (&entry["policy"], &entry["summary"]);
        let count = |name: &str| summary[format!("total-{name}-session-count")].as_u64().unwrap();
        let text = |name: &str| policy[name].as_str().unwrap().to_owned();
        let (kind, of) = (text("policy-type"), text("policy-domain"));
        format!("{kind}|{of}|{}|{}", count("successful"), count("failure"))
    };
    report["policies"].as_array().unwrap().iter().map(sum).collect()
}

#[test]
fn sessions_have_the_same_numbers_in_attempts_in_the_view_and_in_the_report() {
    let signer = Arc::new(Signer::new(1));
    let mut sts = StsWorld::signed(&signer);
    let hosts = hosts(&mut sts);
    let config = sts.config().set("dns.timeout", "\"20s\"").set("delivery.messages_per_connection", "1");
    let relay = sts.world.relay(super::with_contact(config));
    let attempts = |outcome: &'static str, count| {
        relay.wait_until("attempts", SOON * 2, move |db| {
            let sql = "SELECT count(*) FROM attempts WHERE outcome = ?1";
            (db.number(sql, [outcome]) >= count).then_some(())
        });
    };
    for (domain, ..) in WANTED {
        relay.submit(SENDER, &[&format!("a@{domain}")], &mail("1"));
    }
    TlsClient::log_in(&relay).submit("REQUIRETLS", "b@unusable.test", &mail("2"));
    relay.submit(SENDER, &["b@good.test"], &mail("2"));
    relay.submit(SENDER, &["c@good.test"], &mail("3"));
    attempts("delivered", 7);
    attempts("deferred", 4);
    relay.run_ok(&["queue", "kick", "--all"]);
    attempts("deferred", 8);
    let mut wrong = Vec::new();
    for (domain, attempts, sessions, report) in WANTED {
        let db = relay.db();
        let attempted = db.rows(
            "SELECT tls_policy, coalesce(mx, ''), outcome, count(*) FROM attempts
             WHERE recipient_id IN (SELECT id FROM recipients WHERE domain = ?1
                                    UNION SELECT recipient_id FROM history WHERE address LIKE '%@' || ?1)
             GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            [domain],
        );
        let counted =
            "SELECT policy, mx, result, sessions FROM tls_sessions WHERE domain = ?1 ORDER BY 1, 2, 3";
        for (found, wanted) in
            [(attempted, attempts), (db.rows(counted, [domain]), sessions), (sums(&relay, domain), report)]
        {
            if found != wanted {
                wrong.push(format!("{domain}: {found:?}, and not {wanted:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let taken: usize = hosts.iter().map(|host| host.messages().len()).sum();
    assert_eq!(taken, 7);
}
