//! What the doctor says of the policies of the domain itself, and of what its hosts show: MTA-STS and TLSA.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_server::proto::rr::RecordType;
use serde_json::Value;

use super::{Doctor, GOOD, black_hole, lines, strings, texts, zone};
use crate::harness::dns_server::{Fault, Zone};
use crate::harness::dnssec::Signer;
use crate::harness::fakemx::{Ca, Certificate, FakeMx, Script};
use crate::harness::https_server::{HttpsServer, Page};
use crate::harness::relay::{Config, World, free_port};

/// Usage, selector and digest, and what is compared.
type Tlsa<'a> = ((u8, u8, u8), &'a [u8]);

/// [`GOOD`] with its mail host at this address.
fn hosted(at: SocketAddr) -> Zone {
    let mut lines = lines(GOOD);
    lines.retain(|line| !line.starts_with("MAILHOST. IN A "));
    zone(&lines).address("mail.example.com", at.ip())
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn one(found: &[Value]) -> (String, String) {
    let [one] = found else { panic!("{found:#?}") };
    (one["level"].as_str().unwrap().to_owned(), one["text"].as_str().unwrap().to_owned())
}

/// The MTA-STS policy of the domain, and a host at an address.
struct Sts {
    doctor: Doctor,
    ca: Ca,
    server: HttpsServer,
    /// Of the web server.
    web: SocketAddr,
    host: SocketAddr,
    _folder: tempfile::TempDir,
}

const RECORD: &str = "v=STSv1; id=1";

fn policy(mode: &str, host: &str) -> Page {
    Page::policy(&format!("version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 604800\r\n"))
}

impl Sts {
    fn new() -> Sts {
        let (ca, port) = (Ca::new(), free_port());
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, &ca.pem).unwrap();
        let config = Config::new().set("delivery.ca_file", format!("{ca_file:?}"));
        let mut doctor = Doctor::new(config.set("delivery.https_port", port.to_string()));
        let web = SocketAddr::new(doctor.world.new_ip(), port);
        let host = doctor.world.address("mail.example.com");
        let certificate = ca.certificate(&["mta-sts.example.com"]);
        let server = HttpsServer::start(web, &certificate, policy("enforce", "mail.example.com"));
        Sts { doctor, ca, server, web, host, _folder: folder }
    }

    /// What is said of it, with these records.
    fn told(&self, records: &[&str]) -> Vec<Value> {
        let mut zone = hosted(self.host).address("mta-sts.example.com", self.web.ip());
        for record in records {
            zone = zone.txt("_mta-sts.example.com", &[record.as_bytes()]);
        }
        self.doctor.world.dns.serve(zone);
        self.doctor.ask(&["example.com"]).0.into_iter().filter(|one| one["about"] == "mta-sts").collect()
    }

    /// The same with this policy.
    fn of(&self, page: Page) -> Vec<Value> {
        self.server.serve(page);
        self.told(&[RECORD])
    }
}

#[test]
fn a_policy_of_our_own_is_fetched_and_held_against_the_mx_hosts() {
    let sts = Sts::new();
    let certificate = sts.ca.certificate(&["mail.example.com"]);
    let _own = FakeMx::start_at(sts.host, vec![Script::new().tls(&certificate)]);
    assert_eq!(sts.told(&[]), [] as [Value; 0]);
    assert_eq!(sts.told(&["v=spf1 -all"]), [] as [Value; 0]);
    assert_eq!(one(&sts.of(policy("enforce", "mail.example.com"))).0, "ok");
    let found = sts.of(policy("enforce", "other.example.com"));
    let (level, text) = one(&found);
    assert!(level == "problem" && text.contains("add \"mx: mail.example.com\" to it"), "{text}");
    // With another list of hosts the record has another id.
    assert_eq!(texts(&found[0], "remove"), [format!("_mta-sts.example.com. IN TXT {RECORD:?}")]);
    let add = texts(&found[0], "add");
    assert!(add.len() == 1 && add[0].starts_with("_mta-sts.example.com. IN TXT \"v=STSv1; id="), "{add:?}");
    assert_eq!(one(&sts.of(policy("testing", "other.example.com"))).0, "warning");
    assert_eq!(one(&sts.of(policy("none", "other.example.com"))).0, "ok");
    for (page, words) in [
        (Page::redirect("https://example.com/"), "HTTP status 301"),
        (Page::document("200 OK", "text/html", "<html>"), "text/html"),
        (Page::policy("hello"), "gave no policy"),
        (Page::Silent, "it took too long"),
    ] {
        let (level, text) = one(&sts.of(page));
        assert!(level == "problem" && text.contains(words), "{words}: {text}");
        let lines = r#""version: STSv1", "mode: testing", "mx: mail.example.com", "max_age: 604800""#;
        assert!(text.contains(lines), "{text}");
    }
    sts.server.serve(policy("enforce", "mail.example.com"));
    let no_mx = hosted(sts.host).address("mta-sts.example.com", sts.web.ip());
    let no_mx = no_mx.txt("_mta-sts.example.com", &[RECORD.as_bytes()]);
    sts.doctor.world.dns.serve(no_mx.fault("example.com", Fault::ServfailFor(RecordType::MX)));
    let found = sts.doctor.ask(&["example.com"]).0;
    let found: Vec<Value> = found.into_iter().filter(|one| one["about"] == "mta-sts").collect();
    let (level, text) = one(&found);
    assert!(level == "warning" && text.contains("names the domain's MX hosts is not known"), "{text}");
    for records in [&[RECORD, "v=STSv1; id=2"] as &[&str], &["v=STSv1;"]] {
        let found = sts.told(records);
        let (remove, add) = (texts(&found[0], "remove"), texts(&found[0], "add"));
        assert!(found[0]["level"] == "problem" && remove.len() == records.len(), "{found:#?}");
        let record = String::from_utf8(strings(&add[0]).concat()).unwrap();
        assert_eq!(sts.told(&[&record])[0]["level"], "ok", "{add:?}");
    }
}

#[test]
fn a_host_of_a_policy_must_show_a_certificate_that_holds() {
    let sts = Sts::new();
    for (script, words) in [
        (Script::new().tls(&sts.ca.certificate(&["www.example.com"])), "not valid for name"),
        (Script::new().tls(&Certificate::for_names(&["mail.example.com"])), "does not hold for its name"),
        (Script::new(), "offers no TLS"),
    ] {
        let _host = FakeMx::start_at(sts.host, vec![script]);
        for (mode, level) in [("enforce", "problem"), ("testing", "warning"), ("none", "ok")] {
            let mut found = sts.of(policy(mode, "mail.example.com"));
            let last = found.pop().unwrap();
            assert_eq!(last["level"], level, "{mode}: {last}");
            if mode != "none" {
                assert!(last["text"].as_str().unwrap().contains(words), "{mode}: {last}");
                assert_eq!((texts(&last, "add").len(), texts(&last, "remove").len()), (1, 1), "{last}");
            }
        }
    }
    // What takes all the time there is leaves a warning, and five seconds are enough for both.
    let _hole = black_hole(sts.host);
    let found = sts.of(policy("enforce", "mail.example.com"));
    let last = found.last().unwrap();
    assert!(last["level"] == "warning" && last["text"].as_str().unwrap().contains("is not known"), "{last}");
    assert_eq!(one(&sts.of(Page::Silent)).0, "problem");
}

#[test]
fn tlsa_records_of_our_own_hosts_are_held_against_what_they_show() {
    let signer = Arc::new(Signer::new(1));
    let mut doctor = Doctor::in_world(World::signed(&signer), Config::new());
    let host = doctor.world.address("mail.example.com");
    let certificate = Certificate::by_authority(&["mail.example.com"], true, false);
    let own = FakeMx::start_at(host, vec![Script::new().tls(&certificate)]);
    let told = |zone: Zone| -> Vec<Value> {
        doctor.world.dns.serve(zone);
        doctor.ask(&["example.com"]).0.into_iter().filter(|one| one["about"] == "tlsa").collect()
    };
    let good = || hosted(host).signed(&signer);
    let with = |records: &[Tlsa<'_>]| {
        records.iter().fold(good(), |zone, (kind, data)| zone.tlsa("mail.example.com", *kind, data))
    };
    let line = |kind: &str, data: &[u8]| format!("_25._tcp.mail.example.com. IN TLSA {kind} {}", hex(data));
    let (ee, ta, strong) =
        (certificate.tlsa((3, 1, 1)), certificate.tlsa((2, 1, 1)), certificate.tlsa((3, 1, 2)));
    assert_eq!(told(good()), [] as [Value; 0]);
    for records in [
        vec![((3, 1, 1), &ee[..])],
        vec![((2, 1, 1), &ta[..])],
        vec![((3, 1, 2), &strong[..])],
        // The key to come stands there before it is used.
        vec![((3, 1, 1), &ee[..]), ((3, 1, 1), &[7; 32])],
    ] {
        let (level, text) = one(&told(with(&records)));
        assert!(level == "ok" && text.ends_with("and shows such a certificate"), "{text}");
    }
    for (kind, said, data, level, words) in [
        ((3, 1, 1), "3 1 1", &[7_u8; 32] as &[u8], "problem", "matches none of its TLSA records (127."),
        ((2, 0, 1), "2 0 1", &[7; 32], "problem", "senders with DANE do not send there"),
        ((3, 1, 2), "3 1 2", &[7; 64], "problem", "matches none"),
        ((1, 1, 1), "1 1 1", &[7; 32], "warning", "none of them can be used"),
    ] {
        let found = told(with(&[(kind, data)]));
        let (found_level, text) = one(&found);
        assert!(found_level == level && text.contains(words), "{said}: {text}");
        assert_eq!(texts(&found[0], "remove"), [line(said, data)]);
        assert_eq!(texts(&found[0], "add"), [line("3 1 1", &ee)]);
        let mut lines = lines(GOOD);
        lines.retain(|line| !line.starts_with("MAILHOST. IN A "));
        let mended = zone(&[lines, texts(&found[0], "add")].concat());
        let mended = mended.address("mail.example.com", host.ip()).signed(&signer);
        assert_eq!(one(&told(mended)).0, "ok", "{said}, mended");
        assert_eq!(text.contains("keep a record 3 1 1 that is for a key to come"), said == "3 1 1", "{text}");
    }
    // Where the name is an alias its records are elsewhere.
    let aliased = good().cname("_25._tcp.mail.example.com", "tlsa.provider.test");
    let found = told(aliased.tlsa_at("tlsa.provider.test", (3, 1, 1), &[7; 32]));
    let add = texts(&found[0], "add");
    assert_eq!(add, [format!("tlsa.provider.test. IN TLSA 3 1 1 {}", hex(&ee))], "{found:#?}");
    let (level, text) =
        one(&told(with(&[((3, 1, 1), &ee)]).fault("_25._tcp.mail.example.com", Fault::Servfail)));
    assert!(level == "problem" && text.starts_with("mail.example.com: "), "{text}");
    assert_eq!(
        told(hosted(host).tlsa("mail.example.com", (3, 1, 1), &[7; 32])),
        [] as [Value; 0],
        "unsigned"
    );
    drop(own);
    let plain = FakeMx::start_at(host, vec![Script::new()]);
    let found = told(with(&[((3, 1, 1), &ee)]));
    assert!(one(&found).1.contains("offers no TLS"), "{found:#?}");
    assert_eq!(texts(&found[0], "remove"), [line("3 1 1", &ee)]);
    drop(plain);
    // A host that says nothing takes no more time than there is.
    let _hole = black_hole(host);
    let (level, text) = one(&told(with(&[((3, 1, 1), &ee)])));
    assert!(level == "warning" && text.contains("whether it shows one is not known"), "{text}");
}
