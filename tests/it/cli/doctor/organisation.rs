//! What the doctor says of domains below others, whose records hold or are in the way, and of names that are no names
//! of DNS, or somebody else's.

use serde_json::Value;

use super::{DMARC, Doctor, GOOD, KEY, lines, texts, zone};
use crate::harness::certificate_files::write_secret;
use crate::harness::dns_server::Fault;
use crate::harness::relay::Config;

/// A domain below the good one, with what each has but for DMARC.
const BELOW: &str = r#"
DOMAIN. IN MX 10 MAILHOST.
DOMAIN. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"
"#;

fn below(domain: &str, more: &str) -> Vec<String> {
    let mut all = [lines(GOOD), lines(&BELOW.replace("DOMAIN", domain)), lines(more)].concat();
    if more.contains(&format!("\n{DMARC}")) {
        all.retain(|line| !line.starts_with(DMARC) || more.contains(line));
    }
    all
}

/// Level and text of the findings about something, in their order.
fn about<'a>(findings: &'a [Value], about: &str) -> Vec<(&'a str, &'a str)> {
    let of = findings.iter().filter(|one| one["about"] == about);
    of.map(|one| (one["level"].as_str().unwrap(), one["text"].as_str().unwrap())).collect()
}

#[test]
fn the_highest_record_says_how_strict_alignment_is_and_other_texts_are_passed_over() {
    let doctor = Doctor::with_sources();
    let strict = r#"_dmarc.example.com. IN TXT "v=DMARC1; p=reject; adkim=s""#;
    let of = |domain: &str, more: &str| -> Vec<Value> {
        doctor.world.dns.serve(zone(&below(domain, more)));
        doctor.ask(&[domain]).0
    };
    // The nearest record is not the one that holds.
    let news = r#"_dmarc.news.example.com. IN TXT "v=DMARC1; p=reject""#;
    let found = of("a.news.example.com", &format!("\n{strict}\n{news}"));
    assert!(
        about(&found, "dmarc")[0].1.contains("_dmarc.example.com holds for it and says reject"),
        "{found:#?}"
    );
    let (level, text) = about(&found, "alignment")[0];
    assert!(level == "problem" && text.contains("adkim=s"), "{text}");
    // Nor is a text of a wildcard that is none.
    let found = of("wild.example.com", &format!("\n{strict}\n*.wild.example.com. IN TXT \"v=spf1 -all\""));
    assert_eq!(about(&found, "dmarc").len(), 1);
    assert!(
        about(&found, "dmarc")[0].1.contains("_dmarc.example.com holds for it and says reject"),
        "{found:#?}"
    );
    assert!(about(&found, "alignment")[0].1.contains("adkim=s"), "{found:#?}");
    // One that was to be a record is told, with the record that it was to be.
    let found =
        of("wild.example.com", &format!("\n{strict}\n_dmarc.wild.example.com. IN TXT \"p=none; v=DMARC1\""));
    let (level, text) = about(&found, "dmarc")[0];
    assert!(level == "warning" && text.contains("none begins with v=DMARC1"), "{text}");
    assert!(about(&found, "alignment")[0].1.contains("adkim=s"), "{found:#?}");
}

#[test]
fn a_domain_beside_it_may_sign_where_a_record_above_says_so_and_nothing_is_said_that_is_not_known() {
    let doctor = Doctor::with_sources();
    let key = doctor.relay.path("shop.pem");
    write_secret(&key, KEY);
    let dkim = format!("domain = \"shop.example.com\"\nselector = \"s1\"\nkey = {key:?}");
    let sources = "[\"192.0.2.10\", \"2001:db8::10\"]";
    let sign_as = Config::new().set("delivery.source_addresses", sources);
    let doctor = Doctor::new(sign_as.dkim(&dkim).set("delivery.sign_as", "\"shop.example.com\""));
    let news = "_dmarc.news.example.com. IN TXT \"v=DMARC1; p=reject\"";
    let good = below("news.example.com", news);
    let aligned = |zone| -> (String, String) {
        doctor.world.dns.serve(zone);
        let found = doctor.ask(&["news.example.com"]).0;
        let (level, text) = about(&found, "alignment")[0];
        (level.to_owned(), text.to_owned())
    };
    let (level, text) = aligned(zone(&good));
    assert!(level == "ok" && text.contains("same organisation"), "{text}");
    let (level, text) = aligned(zone(&good).fault("_dmarc.example.com", Fault::Servfail));
    assert!(
        level == "warning" && text.contains("is not known: the DMARC records cannot be looked up"),
        "{text}"
    );
    let mut alone = good.clone();
    alone.retain(|line| !line.starts_with(DMARC));
    let (level, text) = aligned(zone(&alone));
    assert!(level == "warning" && text.contains("no DMARC record above both"), "{text}");
}

#[test]
fn nothing_is_proposed_for_a_name_that_dns_cannot_have() {
    let sources = "[\"192.0.2.10\"]";
    let doctor = Doctor::new(Config::new().set("delivery.source_addresses", sources));
    for (name, wanted) in [("myhost", "myhost.example.com"), ("[192.0.2.10]", "relay.example.com")] {
        doctor.relay.write_config(&doctor.relay.config().set("hostname", format!("{name:?}")));
        for (reverse, words) in [
            (true, "set hostname = \"relay.example.com\""),
            (false, "has none, and many hosts refuse mail then"),
        ] {
            let mut lines = lines(GOOD);
            lines.retain(|line| reverse || !line.starts_with("10.2.0.192"));
            doctor.world.dns.serve(zone(&lines));
            let found = doctor.ask(&["example.com"]).0;
            let told = about(&found, "hostname");
            assert!(told.len() == 1 && told[0].0 == "warning" && told[0].1.contains(wanted), "{found:#?}");
            let said = about(&found, "reverse name");
            assert!(said[0].1.contains(words) && said[0].1.contains("set hostname"), "{said:#?}");
            assert_eq!(about(&found, "spf").len(), 1, "of the domain alone: {found:#?}");
            for one in &found {
                assert_eq!((texts(one, "add").len(), texts(one, "remove").len()), (0, 0), "{name}: {one}");
            }
        }
    }
}

#[test]
fn mx_records_of_a_wildcard_are_none_to_remove() {
    let doctor = Doctor::with_sources();
    let wild = |mx: &str| {
        let wild = r#"*.example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all""#;
        doctor.world.dns.serve(zone(&[lines(GOOD), lines(wild), lines(mx)].concat()));
        let found = doctor.ask(&["wild.example.com"]).0;
        found.into_iter().find(|one| one["about"] == "mx").unwrap()
    };
    let null = wild("*.example.com. IN MX 0 .");
    assert!(null["level"] == "problem" && texts(&null, "remove").is_empty(), "{null}");
    assert_eq!(texts(&null, "add"), ["wild.example.com. IN MX 10 MAILHOST."]);
    assert!(null["text"].as_str().unwrap().contains("is of a wildcard (*), and what is added"), "{null}");
    let one_is_gone = wild("*.example.com. IN MX 5 gone.example.com.\n*.example.com. IN MX 10 MAILHOST.");
    assert!(one_is_gone["level"] == "warning" && texts(&one_is_gone, "remove").is_empty(), "{one_is_gone}");
    assert!(one_is_gone["text"].as_str().unwrap().contains("it has to be changed there"), "{one_is_gone}");
}

#[test]
fn lines_of_a_key_that_is_an_alias_are_for_where_it_leads_in_every_command() {
    let doctor = Doctor::with_sources();
    let mut zone_lines = lines(GOOD);
    zone_lines.retain(|line| !line.starts_with("s1._domainkey"));
    zone_lines.extend(lines("s1._domainkey.example.com. IN CNAME s1.dkim.provider.test."));
    doctor.world.dns.serve(zone(&zone_lines));
    for arguments in [&["check"] as &[&str], &["dkim", "show"], &["check", "--domain", "example.com"]] {
        let said = String::from_utf8(doctor.relay.run(arguments).stdout).unwrap();
        let line = "add    s1.dkim.provider.test. IN TXT \"v=DKIM1; k=ed25519; p=";
        assert!(said.contains(line) && said.contains("is an alias (CNAME)"), "{arguments:?}: {said}");
    }
}
