//! Reports on TLS (RFC 8460), end to end: sessions are counted, a day ends, and who asks is told.

mod dane;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::delivery::mta_sts::StsWorld;
use crate::harness::client::mail;
use crate::harness::dkim::Keys;
use crate::harness::fakemx::{Act, At, Certificate, FakeMx, Message, SOON, Script};
use crate::harness::https_server::{HttpsServer, Page};
use crate::harness::relay::{Config, Relay, World};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};
use crate::harness::skipped::installed;
use postrider::mail::dkim::Algorithm;

fn enabled() -> Config {
    with_contact(Config::new())
}

fn with_contact(config: Config) -> Config {
    config
        .set("tlsrpt.enabled", "true")
        .set("tlsrpt.organization", "\"Example Inc.\"")
        .set("tlsrpt.contact", "\"tls@app.test\"")
        .set("tlsrpt.from", "\"reports@app.test\"")
}

/// What `_smtp._tls.domain` has.
fn asks(world: &mut World, domain: &str, record: &str) {
    world.zone(|zone| zone.txt(&format!("_smtp._tls.{domain}"), &[record.as_bytes()]));
}

/// Whether RFC 8460 would have it so: a report in a mail, or alone. The report, as Python read it.
fn judged(kind: &str, bytes: &[u8]) -> Option<Value> {
    if !installed("python3") {
        return None;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let script = include_str!("tlsrpt/judge.py");
    let output = Command::new("python3").args(["-c", script, kind]).arg(file.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{}", String::from_utf8_lossy(bytes));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Lets what was counted so far have been yesterday's, and starts the relay again.
fn a_day_later(relay: &mut Relay) {
    relay.stop();
    relay.db_for_writing().execute("UPDATE tls_results SET day = day - 86400", []);
    relay.start_again();
}

/// What is planned is due now.
fn hurry(relay: &Relay, planned: i64) {
    relay.wait_until("the plan of the night", SOON, |db| {
        (db.number("SELECT count(*) FROM tls_reports WHERE state = 'planned'", []) == planned).then_some(())
    });
    relay.db_for_writing().execute("UPDATE tls_reports SET next_attempt_at = 1 WHERE state = 'planned'", []);
}

/// A domain with a session yesterday, and a report on it that is due.
fn session_of_yesterday(relay: &Relay, domain: &str) {
    let db = relay.db_for_writing();
    db.execute(
        "INSERT INTO tls_results VALUES (unixepoch() / 86400 * 86400 - 86400, ?1, 'none', 'mx.' || ?1, '', '',
                                         'success', 3, '', '', '')",
        [domain],
    );
    db.execute(
        "INSERT INTO tls_reports (day, domain, rua, state, attempts, next_attempt_at)
         SELECT day, domain, '', 'planned', 0, 1 FROM tls_results WHERE domain = ?1",
        [domain],
    );
}

/// The report on a domain among those that came by mail.
fn report_on<'m>(messages: &'m [Message], domain: &str) -> &'m Message {
    let field = format!("\r\nTLS-Report-Domain: {domain}\r\n");
    let is_it = |message: &&Message| String::from_utf8_lossy(&message.content).contains(&field);
    messages.iter().find(is_it).unwrap_or_else(|| panic!("no report on {domain}: {messages:?}"))
}

/// Domains of different kinds, and what was counted of each: result and sessions.
struct Day {
    relay: Relay,
    reports: FakeMx,
    good: usize,
    plain: usize,
    // They stand as long as it is looked at.
    _hosts: Vec<FakeMx>,
    _world: World,
    _folder: tempfile::TempDir,
    keys: Keys,
}

/// Sessions with TLS, without it, and with the certificate of another host; each domain but one asks for reports.
fn day_of_sessions() -> Day {
    let mut world = World::new();
    let good = world.host("tls.test", Script::new().tls(&Certificate::for_names(&["mx.tls.test"])));
    let plain = world.host("plain.test", Script::new());
    let other = Certificate::for_names(&["other.test"]);
    let wrong = world.host("wrong.test", Script::new().tls(&other));
    let silent = world.host("silent.test", Script::new());
    let reports = world.host("reports.test", Script::new());
    for domain in ["tls.test", "plain.test", "wrong.test"] {
        asks(&mut world, domain, "v=TLSRPTv1; rua=mailto:r@reports.test");
    }
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &other.ca_pem).unwrap();
    let route = format!("domain = \"wrong.test\"\ntls = \"verify\"\nca_file = {ca:?}");
    let mut keys = Keys::new();
    let key = keys.add("app.test", "s1", Algorithm::Ed25519Sha256);
    let config = enabled().route(&route).dkim(&key).set("delivery.messages_per_connection", "2");
    let mut relay = world.relay(config);
    for number in 0..5 {
        relay.submit(SENDER, &["a@tls.test"], &mail(&format!("{number}")));
        relay.submit(SENDER, &["a@plain.test", "b@plain.test"], &mail(&format!("{number}")));
    }
    relay.submit(SENDER, &["a@silent.test"], &mail("s"));
    relay.submit(SENDER, &["a@wrong.test"], &mail("w"));
    wait_for_attempts(&relay, "a@wrong.test", "deferred", 1);
    relay.wait_until("delivery", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE domain <> 'wrong.test'", []) == 0).then_some(())
    });
    // Sessions, and not messages or recipients.
    let counted = |domain: &str| {
        relay.db().rows("SELECT mx, policy, result, sessions FROM tls_sessions WHERE domain = ?1", [domain])
    };
    let sessions = (good.seen().len(), plain.seen().len());
    assert!(sessions.0 >= 3 && sessions.1 >= 3, "{sessions:?}");
    assert_eq!(counted("tls.test"), [format!("mx.tls.test|none|success|{}", sessions.0)]);
    assert_eq!(counted("plain.test"), [format!("mx.plain.test|none|starttls-not-supported|{}", sessions.1)]);
    assert_eq!(counted("wrong.test"), ["mx.wrong.test|route|certificate-host-mismatch|1"]);
    // It ends there: the next try would be another session.
    relay.run_ok(&["queue", "hold", "--domain", "wrong.test"]);
    a_day_later(&mut relay);
    hurry(&relay, 4);
    let hosts = vec![good, plain, wrong, silent];
    Day {
        relay,
        reports,
        good: sessions.0,
        plain: sessions.1,
        _hosts: hosts,
        _world: world,
        _folder: folder,
        keys,
    }
}

/// A report says the same as the view.
fn holds(relay: &Relay, report: &Value, domain: &str, good: usize, failure: Option<(&str, usize)>) {
    assert_eq!(report["organization-name"], "Example Inc.");
    assert_eq!(report["contact-info"], "tls@app.test");
    let db = relay.db();
    let day = db.row("SELECT day FROM tls_sessions WHERE domain = ?1", [domain]).unwrap();
    assert_eq!(report["date-range"]["start-datetime"], format!("{day}T00:00:00Z"));
    let policies = report["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1, "{report}");
    let policy = &policies[0];
    assert_eq!(policy["policy"]["policy-domain"], domain);
    assert_eq!(policy["summary"]["total-successful-session-count"], good);
    let Some((result, count)) = failure else { return assert_eq!(policy.get("failure-details"), None) };
    let details = &policy["failure-details"];
    assert_eq!(details.as_array().unwrap().len(), 1);
    assert_eq!(details[0]["result-type"], result);
    assert_eq!(details[0]["failed-session-count"], count);
    assert_eq!(details[0]["receiving-mx-hostname"], format!("mx.{domain}"));
    let shown = |name: &str| details[0][name].as_str().unwrap().to_owned();
    let addresses = db.rows("SELECT ip, source FROM tls_sessions WHERE domain = ?1", [domain]);
    assert_eq!(addresses, [format!("{}|{}", shown("receiving-ip"), shown("sending-mta-ip"))]);
}

#[test]
fn a_day_of_sessions_is_reported_to_who_asks_as_the_view_has_it() {
    let Day { mut relay, reports, good, plain, _hosts, _world, _folder, keys } = day_of_sessions();
    let messages = reports.wait_for_messages(3, SOON);
    for message in &messages {
        assert!(message.mail.starts_with("MAIL FROM:<>"), "{}", message.mail);
        // RFC 8460 §3: receivers want a signature of the domain in From.
        assert_eq!(keys.verified(&message.content), ["app.test/s1"]);
    }
    for (domain, good, failure) in [
        ("tls.test", good, None),
        ("plain.test", 0, Some(("starttls-not-supported", plain))),
        ("wrong.test", 0, Some(("certificate-host-mismatch", 1))),
    ] {
        if let Some(report) = judged("mail", &report_on(&messages, domain).content) {
            holds(&relay, &report, domain, good, failure);
        }
    }
    // The operator's look is what was sent.
    let db = relay.db();
    let day = db.row("SELECT day FROM tls_sessions LIMIT 1", []).unwrap();
    let shown = relay.run_ok(&["tlsrpt", "show", "Plain.test", "--day", &day]);
    if let Some(sent) = judged("mail", &report_on(&messages, "plain.test").content) {
        assert_eq!(judged("report", shown.as_bytes()), Some(sent));
    }
    let nothing = relay.run(&["tlsrpt", "show", "plain.test"]);
    assert_eq!(nothing.status.code(), Some(1), "nothing was counted today");
    let wrong = relay.run(&["tlsrpt", "show", "plain.test", "--day", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2));
    // Who asks for none gets none; the sessions of the reports themselves count for nobody.
    let states = "SELECT domain, state FROM tls_reports ORDER BY domain";
    assert_eq!(
        db.rows(states, []),
        ["plain.test|queued", "silent.test|not-asked", "tls.test|queued", "wrong.test|queued"]
    );
    relay.wait_until("the reports' end", SOON, |db| {
        (db.number("SELECT count(*) FROM history WHERE sender = ''", []) == 3).then_some(())
    });
    assert_eq!(db.number("SELECT count(*) FROM tls_results WHERE domain = 'reports.test'", []), 0);
    drop(db);
    // Nor does another start bring them again.
    relay.stop();
    relay.start_again();
    relay.submit(SENDER, &["c@plain.test"], &mail("again"));
    wait_for_end(&relay, "c@plain.test", "delivered");
    assert_eq!((relay.db().rows(states, []).len(), reports.messages().len()), (4, 3));
}

/// RFC 8460 §5.4: a server that has trouble at first, and a mailbox beside it.
#[test]
fn a_web_server_gets_its_report_once_it_takes_it() {
    let mut sts = StsWorld::new();
    let reports = sts.world.host("reports.test", Script::new());
    let record =
        format!("v=TLSRPTv1; rua=https://web.test:{}/v1/tlsrpt?x=1,mailto:r@reports.test", sts.https_port);
    asks(&mut sts.world, "a.test", &record);
    let address = SocketAddr::new(sts.world.address("web.test").ip(), sts.https_port);
    let trouble = Page::document("503 Busy", "text/plain", "later");
    let server = HttpsServer::start(address, &sts.ca.certificate(&["web.test"]), trouble);
    let relay = sts.world.relay(with_contact(sts.config()));
    session_of_yesterday(&relay, "a.test");
    let state = "SELECT state, attempts, last_reply FROM tls_reports WHERE rua LIKE 'https:%'";
    relay.wait_until("the first try", SOON, |db| {
        (db.row(state, []).as_deref() == Some("planned|1|HTTP status 503")).then_some(())
    });
    server.serve(Page::document("201 Created", "text/plain", "thank you"));
    hurry(&relay, 1);
    relay.wait_until("the second try", SOON, |db| {
        (db.row(state, []).as_deref() == Some("sent|2|HTTP status 201")).then_some(())
    });
    assert_eq!(server.requests(), ["POST /v1/tlsrpt?x=1 HTTP/1.1"; 2]);
    let mut posted = String::new();
    flate2::read::GzDecoder::new(&*server.bodies()[1]).read_to_string(&mut posted).unwrap();
    let mailed = judged("mail", &reports.wait_for_messages(1, SOON)[0].content);
    assert_eq!(judged("report", posted.as_bytes()), mailed);
    assert_eq!(server.bodies()[0], server.bodies()[1], "the same report, with the same id");
}

/// A policy that is being tested stops nothing, and is reported on; so is one that cannot be fetched.
#[test]
fn what_an_mta_sts_policy_would_have_stopped_is_in_the_report() {
    let mut sts = StsWorld::new();
    let _policy = sts.policy("a.test", "testing");
    let other = sts.ca.certificate(&["other.test"]);
    let mx = sts.world.host("a.test", Script::new().tls(&other));
    let _page = sts.serve("b.test", Page::document("404 Not Found", "text/plain", "no"));
    let _mx = sts.world.host("b.test", Script::new().tls(&other));
    let relay = sts.world.relay(with_contact(sts.config()));
    relay.submit(SENDER, &["a@a.test"], &mail("1"));
    relay.submit(SENDER, &["b@b.test"], &mail("2"));
    relay.wait_until_empty();
    assert_eq!(mx.messages().len(), 1);
    let counted = |domain: &str| {
        let sql = "SELECT policy, mx, result, sessions FROM tls_sessions WHERE domain = ?1 ORDER BY mx";
        relay.db().rows(sql, [domain])
    };
    assert_eq!(counted("a.test"), ["sts-testing|mx.a.test|certificate-host-mismatch|1"]);
    assert_eq!(counted("b.test"), ["none||sts-policy-fetch-error|1", "none|mx.b.test|success|1"]);
    let shown = relay.run_ok(&["tlsrpt", "show", "a.test"]);
    if let Some(report) = judged("report", shown.as_bytes()) {
        let policy = &report["policies"][0]["policy"];
        assert_eq!((&policy["policy-type"], &policy["mx-host"][0]), (&"sts".into(), &"mx.a.test".into()));
        assert_eq!(policy["policy-string"][1], "mode: testing");
    }
}

/// Counted they are, for whoever looks.
#[test]
fn nobody_is_told_before_the_config_says_who_reports() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    asks(&mut world, "a.test", "v=TLSRPTv1; rua=mailto:r@a.test");
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["a@a.test"], &mail("1"));
    wait_for_end(&relay, "a@a.test", "delivered");
    let sessions = "SELECT sum(sessions) FROM tls_sessions";
    assert_eq!(relay.db().number(sessions, []), 1);
    a_day_later(&mut relay);
    session_of_yesterday(&relay, "b.test");
    relay.submit(SENDER, &["b@a.test"], &mail("2"));
    // Workers look for reports before they look for mail.
    wait_for_end(&relay, "b@a.test", "delivered");
    let states = relay.db().rows("SELECT domain, state FROM tls_reports", []);
    assert_eq!((states, mx.messages().len()), (vec!["b.test|planned".to_owned()], 2));
}

/// The host that is to take a report refuses it, over a session without TLS: no bounce, no report on that, no end of it
/// that anybody has to look after.
#[test]
fn a_report_that_cannot_be_delivered_is_the_end_of_it() {
    let mut world = World::new();
    let refusing = world.host("reports.test", Script::new().on(At::Rcpt("r@"), Act::Say("550 5.1.1 nobody")));
    let home = world.host("app.test", Script::new());
    asks(&mut world, "a.test", "v=TLSRPTv1; rua=mailto:r@reports.test");
    asks(&mut world, "reports.test", "v=TLSRPTv1; rua=mailto:r@reports.test");
    let relay = world.relay(enabled());
    session_of_yesterday(&relay, "a.test");
    wait_for_end(&relay, "r@reports.test", "failed");
    relay.wait_until_empty();
    let db = relay.db();
    assert_eq!(db.rows("SELECT domain, state FROM tls_reports", []), ["a.test|queued"]);
    assert_eq!(db.rows("SELECT domain FROM tls_results", []), ["a.test"]);
    assert_eq!(db.rows("SELECT sender, user FROM history", []), ["|"], "one message, the report");
    assert_eq!((home.messages().len(), refusing.messages().len()), (0, 0));
    // The next night there is nothing to tell of it.
    assert_eq!(db.number("SELECT count(*) FROM pending_reports", []), 0);
}

/// What the unit test holds against a golden file is what RFC 8460 has.
#[test]
fn the_golden_report_is_what_rfc_8460_has() {
    judged("report", include_bytes!("../../golden/tls-report.json"));
}
