//! DANE (RFC 7672) with a policy of nobody else: what DNSSEC and TLSA records say, and what the host shows.

use std::sync::Arc;

use hickory_server::proto::rr::RecordType;

use super::Expected::{Delivered, Waits};
use super::{Row, TLSA, serve, tlsa_name};
use crate::harness::dns_server::Fault;
use crate::harness::dnssec::{Signer, Signing};
use crate::harness::fakemx::{Act, At, Certificate, FakeMx, Script};
use crate::harness::relay::{Config, World, wait_for};
use std::time::Duration;

const PROVED: super::Expected = Delivered("dane", "TLSv1.3 verified by DANE");
const UNPROVED: super::Expected = Delivered("none", "TLSv1.3");
const OTHER_CERTIFICATE: super::Expected =
    Waits("dane", "451 4.7.5 DANE: the host's certificate matches none of its TLSA");
const NOT_KNOWN: super::Expected = Waits("dane", "451 4.7.0 DANE: it is not known what mx.");

fn host(certificate: &Certificate) -> Script {
    Script::new().tls(certificate)
}

/// Usage 3: the host's own certificate or key.
fn end_entity_rows() -> Vec<Row> {
    // The name does not count, and neither does the date.
    let (own, over) = (
        Certificate::by_authority(&["elsewhere.test"], true, false),
        Certificate::by_authority(&[], false, true),
    );
    let other = Certificate::by_authority(&[], true, false);
    let simple = |name, kind| Row::new(name, host(&own), PROVED).tlsa(kind, &own);
    vec![
        simple("ee301", (3, 0, 1)),
        simple("ee302", (3, 0, 2)),
        simple("ee300", (3, 0, 0)),
        simple("ee311", (3, 1, 1)),
        simple("ee312", (3, 1, 2)),
        simple("ee310", (3, 1, 0)),
        Row::new("ee-over", host(&over), PROVED).tlsa((3, 1, 1), &over),
        Row::new("ee-tls12", host(&Certificate::tls12(&[])), OTHER_CERTIFICATE).tlsa((3, 1, 1), &own),
        Row::new("ee-other", host(&own), OTHER_CERTIFICATE).tlsa((3, 1, 1), &other),
        // A key that is being replaced: the one that comes is in DNS beside the one that goes.
        Row::new("ee-rollover", host(&own), PROVED).tlsa((3, 1, 1), &other).tlsa((3, 1, 1), &own),
        // RFC 7671 §9: the weaker digest does not count beside a stronger one.
        Row::new("ee-weaker", host(&own), OTHER_CERTIFICATE).tlsa((3, 1, 1), &own).tlsa((3, 1, 2), &other),
        Row::new("ee-mixed", host(&own), PROVED).tlsa((1, 1, 1), &other).tlsa((3, 1, 1), &own),
    ]
}

/// Usage 2: an authority of the host's own choice.
fn authority_rows() -> Vec<Row> {
    let row = |name: &'static str, names: &[&str], is_sent, is_over, kind, expected| {
        let certificate = Certificate::by_authority(names, is_sent, is_over);
        Row::new(name, host(&certificate), expected).tlsa(kind, &certificate)
    };
    let not_named =
        Waits("dane", "the host's certificate is for none of the names mx.ta-name.test, ta-name.test");
    let over = Waits("dane", "does not hold under the authority of its TLSA records");
    // Where a proved alias of the domain leads to names it too.
    let of_alias = Certificate::by_authority(&["real.ta-alias.test"], true, false);
    let ta_alias = Row::new("ta-alias", host(&of_alias), PROVED).tlsa((2, 0, 1), &of_alias).zone(|zone| {
        let zone = zone.forget("ta-alias.test").cname("ta-alias.test", "real.ta-alias.test");
        zone.mx("real.ta-alias.test", 10, "mx.ta-alias.test")
    });
    let by_common_name = Certificate::with_common_name("mx.ta-common.test");
    let no_name =
        Waits("dane", "the host's certificate is for none of the names mx.ta-common.test, ta-common.test");
    vec![
        ta_alias,
        Row::new("ta-common", host(&by_common_name), no_name).tlsa((2, 0, 1), &by_common_name),
        row("ta201", &["mx.ta201.test"], true, false, (2, 0, 1), PROVED),
        row("ta202", &["mx.ta202.test"], true, false, (2, 0, 2), PROVED),
        row("ta211", &["mx.ta211.test"], true, false, (2, 1, 1), PROVED),
        // The record is enough where the host does not send the authority's certificate.
        row("ta200", &["mx.ta200.test"], false, false, (2, 0, 0), PROVED),
        row("ta210", &["mx.ta210.test"], false, false, (2, 1, 0), PROVED),
        row("ta-missing", &["mx.ta-missing.test"], false, false, (2, 0, 1), OTHER_CERTIFICATE),
        row("ta-domain", &["ta-domain.test"], true, false, (2, 0, 1), PROVED),
        row("ta-name", &["elsewhere.test"], true, false, (2, 0, 1), not_named),
        row("ta-over", &["mx.ta-over.test"], true, true, (2, 0, 1), over),
    ]
}

/// What DNSSEC says of the records on the way.
fn dnssec_rows() -> Vec<Row> {
    let (own, other) =
        (Certificate::by_authority(&[], true, false), Certificate::by_authority(&[], true, false));
    let plain = Delivered("none", "none");
    // With a TLSA record that the host does not keep: whoever heeds it delivers nothing.
    let row = |name, expected| Row::new(name, host(&own), expected).tlsa((3, 1, 1), &other);
    // With one that it keeps.
    let kept = |name, expected| Row::new(name, host(&own), expected).tlsa((3, 1, 1), &own);
    let odd = |row: Row, name: String, kind, how| row.zone(move |zone| zone.signed_like(&name, kind, how));
    let bogus =
        Waits("none", "451 4.4.3 cannot look up the mail hosts of mx-bogus.test: the DNSSEC signatures");
    let bare = Waits("none", "451 4.4.3 cannot look up the mail hosts of bare.test: the DNSSEC signatures");
    vec![
        Row::new("absent", host(&own), UNPROVED),
        Row::new("absent-plain", Script::new(), plain),
        row("insecure", UNPROVED).zone(|zone| zone.unsigned("insecure.test")),
        row("open-host", UNPROVED).zone(|zone| zone.unsigned("mx.open-host.test")),
        odd(kept("bogus", NOT_KNOWN), tlsa_name("mx.bogus.test"), TLSA, Signing::Wrong),
        odd(kept("expired", NOT_KNOWN), tlsa_name("mx.expired.test"), TLSA, Signing::Expired),
        odd(kept("stripped", NOT_KNOWN), tlsa_name("mx.stripped.test"), TLSA, Signing::None),
        kept("servfail", NOT_KNOWN).zone(|zone| zone.fault("_25._tcp.mx.servfail.test", Fault::Servfail)),
        odd(kept("a-bogus", NOT_KNOWN), "mx.a-bogus.test".to_owned(), RecordType::A, Signing::Wrong),
        odd(kept("mx-bogus", bogus), "mx-bogus.test".to_owned(), RecordType::MX, Signing::Wrong),
        // An answer without records and without an SOA, as some servers give for MX: enough where nobody signs.
        row("bare-open", UNPROVED)
            .its_own_host()
            .zone(|zone| zone.unsigned("bare-open.test").fault("bare-open.test", Fault::EmptyMx)),
        row("bare", bare).its_own_host().zone(|zone| zone.fault("bare.test", Fault::EmptyMx)),
        // Its own servers fail, and its parent says that nobody signs it.
        row("ns-fails", UNPROVED)
            .zone(|zone| zone.unsigned("ns-fails.test").fault("ns-fails.test", Fault::ServfailNs)),
        Row::new("itself", host(&own), PROVED).its_own_host().tlsa((3, 1, 1), &own),
        Row::new("itself-not", host(&own), OTHER_CERTIFICATE).its_own_host().tlsa((3, 1, 1), &other),
    ]
}

/// The MX host is an alias (RFC 7672 §2.2.2).
fn alias_rows() -> Vec<Row> {
    let (own, other) =
        (Certificate::by_authority(&[], true, false), Certificate::by_authority(&[], true, false));
    let row = |name: &'static str, expected| {
        let domain = format!("{name}.test");
        Row::new(name, host(&own), expected)
            .zone(move |zone| zone.cname(&format!("mx.{domain}"), &format!("target.{domain}")))
    };
    let at = |row: Row, name: &'static str, certificate: &Certificate| {
        let data = certificate.tlsa((3, 1, 1));
        row.zone(move |zone| zone.tlsa(name, (3, 1, 1), &data))
    };
    let both = |row: Row, target, first: &Certificate, host, second: &Certificate| {
        at(at(row, target, first), host, second)
    };
    vec![
        at(row("alias-target", PROVED), "target.alias-target.test", &own),
        at(row("alias-host", PROVED), "mx.alias-host.test", &own),
        // Where the alias leads to comes first.
        both(row("alias-both", PROVED), "target.alias-both.test", &own, "mx.alias-both.test", &other),
        // The alias is proved, and what it leads to is not: its own name counts.
        at(row("alias-open", OTHER_CERTIFICATE), "mx.alias-open.test", &other)
            .zone(|zone| zone.unsigned("target.alias-open.test")),
        // The domain is an alias itself, and there is no MX where it leads to.
        at(Row::new("alias-own", host(&own), PROVED), "target.alias-own.test", &own)
            .its_own_host()
            .zone(|zone| zone.cname("alias-own.test", "target.alias-own.test")),
        // The name of its TLSA records leads to a name without any.
        row("alias-tlsa", UNPROVED)
            .zone(|zone| zone.cname("_25._tcp.target.alias-tlsa.test", "target.alias-tlsa.test")),
        at(row("alias-open-target", UNPROVED), "target.alias-open-target.test", &other)
            .zone(|zone| zone.unsigned("target.alias-open-target.test")),
    ]
}

/// What the host does about TLS.
fn host_rows() -> Vec<Row> {
    let (own, other) =
        (Certificate::by_authority(&[], true, false), Certificate::by_authority(&[], true, false));
    let refuses = host(&own).on(At::Starttls, Act::Say("454 4.7.0 TLS not available"));
    let breaks = host(&own).on(At::Handshake, Act::Raw(b"nonsense, and not TLS\r\n".to_vec()));
    let no_tls =
        Waits("dane", "451 4.7.4 the host offers no STARTTLS, and its TLSA records (DANE) require TLS");
    let unusable = |name, script, expected| Row::new(name, script, expected).tlsa((1, 1, 1), &other);
    let odd = |name: &'static str, kind, data: &'static [u8]| {
        Row::new(name, host(&own), Delivered("dane", "TLSv1.3"))
            .zone(move |zone| zone.tlsa(&format!("mx.{name}.test"), kind, data))
    };
    vec![
        Row::new("no-starttls", Script::new(), no_tls.clone()).tlsa((3, 1, 1), &own),
        Row::new("starttls-454", refuses, Waits("dane", "454 4.7.0 TLS not available")).tlsa((3, 1, 1), &own),
        Row::new("breaks", breaks, Waits("dane", "TLS failed")).tlsa((3, 1, 1), &own),
        // RFC 7672 §2.2: records that cannot be used still require TLS.
        unusable("unusable", host(&own), Delivered("dane", "TLSv1.3")),
        Row::new("unusable-0", host(&own), Delivered("dane", "TLSv1.3")).tlsa((0, 0, 1), &other),
        odd("unusable-digest", (3, 1, 3), &[7; 32]),
        odd("unusable-selector", (3, 2, 1), &[7; 32]),
        odd("unusable-usage", (4, 1, 1), &[7; 32]),
        odd("unusable-length", (3, 1, 1), &[7; 31]),
        odd("unusable-empty", (3, 0, 0), &[]),
        unusable("unusable-plain", Script::new(), no_tls),
        // The next host is asked.
        Row { second: Some(host(&own)), ..Row::new("second", Script::new(), PROVED).tlsa((3, 1, 1), &own) }
            .zone({
                let data = own.tlsa((3, 1, 1));
                move |zone| zone.tlsa("mx2.second.test", (3, 1, 1), &data)
            }),
        Row {
            second: Some(Script::new()),
            ..Row::new("second-open", host(&own), Delivered("none", "none")).tlsa((3, 1, 1), &other)
        },
    ]
}

/// The whole matrix.
pub(super) fn rows() -> Vec<Row> {
    let rows = [end_entity_rows(), authority_rows(), dnssec_rows(), alias_rows(), host_rows()];
    rows.into_iter().flatten().collect()
}

#[test]
fn each_cell_comes_out_as_the_rfc_has_it() {
    let signer = Arc::new(Signer::new(1));
    let table = serve(rows(), &signer);
    table.check();
    let warned =
        table.relay.logged(&["WARN", "mx.ee-other.test does not keep its policy dane, and gets no mail"]);
    assert_eq!(warned.len(), 1, "{}", table.relay.log());
    // RFC 8460 §4.3, and §1.1: the policy is that of the name that has the records.
    let counted = |name: &str| {
        let sql = "SELECT DISTINCT result, tlsa_base FROM tls_results WHERE domain = ?1 || '.test'";
        table.relay.db().rows(sql, [name])
    };
    assert_eq!(counted("ta-over"), ["certificate-expired|mx.ta-over.test"]);
    assert_eq!(counted("ta-name"), ["certificate-host-mismatch|mx.ta-name.test"]);
    assert_eq!(counted("ee-other"), ["certificate-not-trusted|mx.ee-other.test"]);
    assert_eq!(counted("alias-target"), ["success|target.alias-target.test"]);
}

/// Two signatures on each answer, while the zone's key is being replaced.
#[test]
fn a_zone_whose_key_is_being_replaced_is_proved() {
    let signer = Arc::new(Signer::new(2));
    let own = Certificate::by_authority(&[], true, false);
    let kept = |name| Row::new(name, host(&own), PROVED).tlsa((3, 1, 1), &own);
    serve(vec![kept("one"), kept("two"), kept("three")], &signer).check();
}

/// Behind a server that drops signatures every signed domain would look forged: DANE is off then, and says so.
#[test]
fn a_server_without_signatures_turns_it_off_and_holds_nothing() {
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    let own = Certificate::by_authority(&[], true, false);
    let mx = world.host("a.test", host(&own));
    let other = Certificate::by_authority(&[], true, false).tlsa((3, 1, 1));
    world.zone(|zone| zone.tlsa("mx.a.test", (3, 1, 1), &other).stripped());
    let relay = world.relay(Config::new());
    // Without any mail.
    wait_for("the word of it", Duration::from_secs(20), || {
        relay.logged(&["WARN", "DNSSEC does not work with", "DANE is off"]).first().cloned()
    });
    relay.submit("app@sender.test", &["you@a.test"], b"Subject: hello\r\n\r\nhello\r\n");
    mx.wait_for_messages(1, Duration::from_secs(20));
    relay.wait_until_empty();
    let used = relay.db().row("SELECT tls_policy, tls FROM attempts", []);
    assert_eq!(used.as_deref(), Some("none|TLSv1.3"));
    assert_eq!(relay.logged(&["DNSSEC does not work with"]).len(), 1);
    let asked = world.dns.asked();
    assert!(!asked.iter().any(|question| question.kind == "TLSA" && !question.name.is_empty()), "{asked:?}");
    let check = relay.run(&["check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("DANE is off"), "{said}");
    let explained = relay.run_ok(&["explain", "you@a.test"]);
    assert!(explained.contains("DANE is off: DNSSEC does not work here"), "{explained}");
}

/// RFC 8689 §5: a sender who would rather have it arrive, though not over REQUIRETLS, nor for other mail.
#[test]
fn tls_required_no_sets_it_aside_for_that_message() {
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    let (own, other) =
        (Certificate::by_authority(&[], true, false), Certificate::by_authority(&[], true, false));
    let mx = world.host("a.test", host(&own));
    let (plain, more) = (world.host("plain.test", Script::new()), world.host("other.test", Script::new()));
    let data = other.tlsa((3, 1, 1));
    for host in ["mx.a.test", "mx.plain.test", "mx.other.test"] {
        world.zone(|zone| zone.tlsa(host, (3, 1, 1), &data));
    }
    let relay = world.relay(Config::new().set("dns.timeout", "\"20s\""));
    let outcome = |to: &str| {
        relay.wait_until("an attempt", Duration::from_secs(20), |db| {
            db.row(
                "SELECT outcome, tls_policy, tls FROM attempts WHERE recipient_id IN (
                     SELECT id FROM recipients WHERE address = ?1 UNION SELECT recipient_id FROM history WHERE address = ?1)",
                [to],
            )
        })
    };
    let send = |to: &str, field: &str| {
        let content = format!("Subject: hello\r\n{field}\r\nhello\r\n");
        relay.submit("app@sender.test", &[to], content.as_bytes());
        outcome(to)
    };
    assert_eq!(send("one@a.test", "TLS-Required: No\r\n"), "delivered|none|TLSv1.3");
    // The connection was not left to this one.
    assert_eq!(send("two@a.test", ""), "deferred|dane|none");
    assert_eq!(send("three@plain.test", "tls-required:no\r\n"), "delivered|none|none");
    // Twice, or something else: nothing was said.
    assert_eq!(send("four@plain.test", "TLS-Required: No\r\nTLS-Required: No\r\n"), "deferred|dane|none");
    assert_eq!(send("five@other.test", "TLS-Required: Yes\r\n"), "deferred|dane|none");
    assert_eq!((mx.messages().len(), plain.messages().len(), more.messages().len()), (1, 1, 0));
}

/// What was proved is kept as long as its TTL says: the next message asks nobody.
#[test]
fn what_was_proved_is_kept() {
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    let own = Certificate::by_authority(&[], true, false);
    let (safe, plain) = (world.host("safe.test", host(&own)), world.host("plain.test", host(&own)));
    let data = own.tlsa((3, 1, 1));
    world.zone(|zone| zone.ttl(3600).tlsa("mx.safe.test", (3, 1, 1), &data));
    let relay = world.relay(Config::new().set("dns.timeout", "\"20s\""));
    for (domain, mx) in [("safe.test", &safe), ("plain.test", &plain)] {
        let before = world.dns.asked().len();
        let send = |count| {
            relay.submit("app@sender.test", &[&format!("you@{domain}")], b"Subject: hello\r\n\r\nhello\r\n");
            mx.wait_for_messages(count, Duration::from_secs(20));
            relay.wait_until_empty();
        };
        send(1);
        let first = world.dns.asked();
        // MX, A and AAAA as ever, TXT of MTA-STS; the same with proofs, TLSA, the root's keys for each, and at first
        // the look (six).
        assert!(first.len() - before <= 18, "{:?}", &first[before..]);
        send(2);
        assert_eq!(world.dns.asked().len(), first.len(), "{domain}");
    }
    let policies = relay.db().rows("SELECT tls_policy FROM attempts ORDER BY id", []);
    assert_eq!(policies, ["dane", "dane", "none", "none"]);
}

/// Where all mail goes to a smarthost there is no DANE, and nobody has to be told that it is off.
#[test]
fn behind_a_smarthost_nobody_looks() {
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    let up = world.address("up.test");
    let host = FakeMx::start_at(up, vec![Script::new()]);
    world.zone(|zone| zone.stripped());
    let lines = format!("domain = \"*\"\nrelay = [\"up.test:{}\"]\ntls = \"opportunistic\"", up.port());
    let relay = world.relay(Config::new().route(&lines));
    relay.submit("app@sender.test", &["you@a.test"], b"Subject: hello\r\n\r\nhello\r\n");
    host.wait_for_messages(1, Duration::from_secs(20));
    relay.wait_until_empty();
    // A worker that is idle for a second looks round.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(relay.logged(&["DNSSEC"]), [""; 0]);
    let asked = world.dns.asked();
    assert!(asked.iter().all(|question| question.name == "up.test"), "{asked:?}");
    assert!(!String::from_utf8_lossy(&relay.run(&["check"]).stdout).contains("DANE"));
}
