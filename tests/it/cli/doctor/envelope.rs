//! What the doctor says where the envelope sender is of another domain, and of hosts that one attempt has no room for.

use serde_json::Value;

use super::{DMARC, Doctor, GOOD, lines, texts, zone};
use crate::harness::relay::Config;

const SENDER: &str = r#"
bounces.example.com. IN MX 10 MAILHOST.
bounces.example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"
"#;

#[test]
fn another_envelope_sender_is_judged_by_its_own_records_and_its_alignment_is_told() {
    let doctor = Doctor::with_sources();
    let ask = |doctor: &Doctor, sender: &str, lines: &[String]| -> Vec<Value> {
        doctor.world.dns.serve(zone(lines));
        doctor.ask(&["example.com", "--sender-domain", sender]).0
    };
    let of = |sender: &str, lines: &[String]| ask(&doctor, sender, lines);
    let bad = |findings: &[Value]| -> Vec<Value> {
        findings.iter().filter(|one| one["level"] != "ok").cloned().collect()
    };
    let has = |findings: &[Value], about: &str, words: &str| {
        let is_it = |one: &&Value| one["about"] == about && one["text"].as_str().unwrap().contains(words);
        findings.iter().filter(is_it).count() == 1
    };
    let good = [lines(GOOD), lines(SENDER)].concat();
    let found = of("bounces.example.com", &good);
    assert_eq!(bad(&found), [] as [Value; 0]);
    assert!(has(&found, "spf", "bounces.example.com: 192.0.2.10 pass"), "{found:#?}");
    assert!(!has(&found, "spf", " of example.com)"), "that of From is not asked for: {found:#?}");
    assert!(has(&found, "alignment", "SPF counts (relaxed)"), "{found:#?}");

    // Its own MX and SPF are what is missed, not those of From.
    let found = bad(&of("bounces.example.com", &lines(GOOD)));
    let add: Vec<String> = found.iter().flat_map(|one| texts(one, "add")).collect();
    let wanted = [
        r#"bounces.example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 ~all""#,
        "bounces.example.com. IN MX 10 MAILHOST.",
    ];
    assert_eq!(add, wanted);
    assert_eq!(bad(&of("bounces.example.com", &[lines(GOOD), add].concat())), [] as [Value; 0]);

    let mut strict = good.clone();
    strict.retain(|line| !line.starts_with(DMARC));
    let record = r#"_dmarc.example.com. IN TXT "v=DMARC1; p=reject; aspf=s""#;
    strict.push(record.to_owned());
    let found = bad(&of("bounces.example.com", &strict));
    assert!(found.len() == 1 && found[0]["level"] == "warning", "the signature counts: {found:#?}");
    assert!(has(&found, "alignment", "aspf=s (strict)"), "{found:#?}");
    assert_eq!(texts(&found[0], "remove"), [record]);
    assert_eq!(texts(&found[0], "add"), [r#"_dmarc.example.com. IN TXT "v=DMARC1; p=reject""#]);
    // Without a key nothing counts.
    let sources = "[\"192.0.2.10\", \"2001:db8::10\"]";
    let unsigned = Doctor::new(Config::new().set("delivery.source_addresses", sources));
    let found = ask(&unsigned, "bounces.example.com", &strict);
    assert!(found.iter().any(|one| one["about"] == "alignment" && one["level"] == "problem"), "{found:#?}");
    let found = of("provider.test", &strict);
    assert!(has(&found, "alignment", "another organisation"), "{found:#?}");
}

#[test]
fn hosts_that_an_attempt_has_no_room_for_are_named() {
    let mut doctor = Doctor::new(Config::new());
    for number in 1..=7 {
        doctor.world.closed_mx("a.test", number * 10, &format!("mx{number}.a.test"));
    }
    doctor.world.closed_mx("b.test", 10, "mx1.b.test");
    let told = |to: &str| -> Vec<String> {
        let findings = doctor.ask(&["example.com", "--to", to]).0;
        let hosts = findings.iter().filter(|one| one["about"] == "hosts");
        hosts.map(|one| one["text"].as_str().unwrap().to_owned()).collect()
    };
    let said = told("you@a.test");
    let named = |host: &str| {
        said.iter().filter(|line| line.starts_with("not tried: ") && line.contains(host)).count()
    };
    // The best host and those of one preference are tried first.
    assert_eq!(said.iter().filter(|line| line.starts_with("not tried: ")).count(), 1, "{said:#?}");
    let left = (1..=7).filter(|number| named(&format!("mx{number}.a.test")) == 1).count();
    assert_eq!((left, named("mx1.a.test")), (2, 0), "{said:#?}");
    let said = told("you@b.test");
    assert!(said.iter().all(|line| !line.starts_with("not tried: ")), "{said:#?}");
}
