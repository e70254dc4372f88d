//! What the doctor says of the policies of the domain itself: MTA-STS and TLSA.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::{Doctor, GOOD, lines, strings, texts, zone};
use crate::harness::dns_server::{Fault, Zone};
use crate::harness::dnssec::Signer;
use crate::harness::fakemx::Ca;
use crate::harness::https_server::{HttpsServer, Page};
use crate::harness::relay::{Config, World, free_port};

#[test]
fn a_policy_of_our_own_is_fetched_and_held_against_the_mx_hosts() {
    let (ca, port) = (Ca::new(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &ca.pem).unwrap();
    let config = Config::new().set("delivery.ca_file", format!("{ca_file:?}"));
    let mut doctor = Doctor::new(config.set("delivery.https_port", port.to_string()));
    let at = SocketAddr::new(doctor.world.new_ip(), port);
    let policy = |mode: &str, host: &str| {
        Page::policy(&format!("version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 604800\r\n"))
    };
    let server = HttpsServer::start(
        at,
        &ca.certificate(&["mta-sts.example.com"]),
        policy("enforce", "mail.example.com"),
    );
    let told = |records: &[&str]| -> Vec<Value> {
        let mut zone = zone(&lines(GOOD)).address("mta-sts.example.com", at.ip());
        for record in records {
            zone = zone.txt("_mta-sts.example.com", &[record.as_bytes()]);
        }
        doctor.world.dns.serve(zone);
        doctor.ask(&["example.com"]).0.into_iter().filter(|one| one["about"] == "mta-sts").collect()
    };
    assert_eq!(told(&[]), [] as [Value; 0]);
    assert_eq!(told(&["v=spf1 -all"]), [] as [Value; 0]);
    let good = "v=STSv1; id=1";
    let levels = |page: Page| -> (String, String) {
        server.serve(page);
        let found = told(&[good]);
        let [one] = &found[..] else { panic!("{found:#?}") };
        (one["level"].as_str().unwrap().to_owned(), one["text"].as_str().unwrap().to_owned())
    };
    assert_eq!(levels(policy("enforce", "mail.example.com")).0, "ok");
    let (level, text) = levels(policy("enforce", "other.example.com"));
    assert!(level == "problem" && text.contains("add \"mx: mail.example.com\" to it"), "{text}");
    assert_eq!(levels(policy("testing", "other.example.com")).0, "warning");
    assert_eq!(levels(policy("none", "other.example.com")).0, "ok");
    for (page, words) in [
        (Page::redirect("https://example.com/"), "HTTP status 301"),
        (Page::document("200 OK", "text/html", "<html>"), "text/html"),
        (Page::policy("hello"), "gave no policy"),
        (Page::Silent, "it took too long"),
    ] {
        let (level, text) = levels(page);
        assert!(level == "problem" && text.contains(words), "{words}: {text}");
    }
    server.serve(policy("enforce", "mail.example.com"));
    for records in [&[good, "v=STSv1; id=2"] as &[&str], &["v=STSv1;"]] {
        let found = told(records);
        let (remove, add) = (texts(&found[0], "remove"), texts(&found[0], "add"));
        assert!(found[0]["level"] == "problem" && remove.len() == records.len(), "{found:#?}");
        let record = String::from_utf8(strings(&add[0]).concat()).unwrap();
        assert_eq!(told(&[&record])[0]["level"], "ok", "{add:?}");
    }
}

#[test]
fn tlsa_records_of_our_own_hosts_are_told_where_dnssec_proves_them() {
    let signer = Arc::new(Signer::new(1));
    let doctor = Doctor::in_world(World::signed(&signer), Config::new());
    let told = |zone: Zone| -> Vec<String> {
        doctor.world.dns.serve(zone);
        let findings = doctor.ask(&["example.com"]).0;
        let tlsa = findings.iter().filter(|one| one["about"] == "tlsa");
        tlsa.map(|one| format!("{} {}", one["level"].as_str().unwrap(), one["text"].as_str().unwrap()))
            .collect()
    };
    let good = || zone(&lines(GOOD)).signed(&signer);
    assert_eq!(told(good()), [] as [String; 0]);
    let with = |kind| good().tlsa("mail.example.com", kind, &[7; 32]);
    let said = told(with((3, 1, 1)));
    let words =
        "ok mail.example.com has 3 1 1 0707070707070707… at _25._tcp.mail.example.com: senders with DANE";
    assert!(said.len() == 1 && said[0].starts_with(words), "{said:#?}");
    let said = told(with((1, 1, 1)));
    assert!(
        said.len() == 1 && said[0].starts_with("warning ") && said[0].contains("none of them can be used"),
        "{said:#?}"
    );
    let said = told(with((3, 1, 1)).fault("_25._tcp.mail.example.com", Fault::Servfail));
    assert!(said.len() == 1 && said[0].starts_with("problem mail.example.com: "), "{said:#?}");
    assert_eq!(
        told(zone(&lines(GOOD)).tlsa("mail.example.com", (3, 1, 1), &[7; 32])),
        [] as [String; 0],
        "unsigned"
    );
}
