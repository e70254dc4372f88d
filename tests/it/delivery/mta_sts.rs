//! MTA-STS (RFC 8461) end to end: a real HTTPS server with a certificate of a CA of ours, whose policy decides to which
//! hosts the mail of a domain goes.

mod fetching;
mod keeping;
mod with_dane;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::dnssec::Signer;
use crate::harness::fakemx::{Ca, FakeMx, SOON, Script};
use crate::harness::https_server::{HttpsServer, Page};
use crate::harness::relay::{Config, Relay, World, free_port};

const MAIL: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

/// A world with a CA that the relay trusts, and HTTPS servers at one port.
pub(super) struct StsWorld {
    pub(super) world: World,
    pub(super) ca: Ca,
    pub(super) https_port: u16,
    folder: tempfile::TempDir,
}

impl StsWorld {
    pub(super) fn new() -> StsWorld {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
        StsWorld { world: World::new(), ca, https_port: free_port(), folder }
    }

    /// With DNSSEC.
    pub(super) fn signed(signer: &Arc<Signer>) -> StsWorld {
        StsWorld { world: World::signed(signer), ..StsWorld::new() }
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(super) fn config(&self) -> Config {
        Config::new()
            .set("delivery.ca_file", format!("{:?}", self.ca_file()))
            .set("delivery.https_port", self.https_port.to_string())
    }

    pub(super) fn relay(&self) -> Relay {
        self.world.relay(self.config())
    }

    /// The TXT record.
    pub(super) fn id(&mut self, domain: &str, id: &str) {
        let record = format!("v=STSv1; id={id};");
        self.world.zone(|zone| zone.txt(&format!("_mta-sts.{domain}"), &[record.as_bytes()]));
    }

    /// Where the policy of a domain is to be.
    pub(super) fn policy_address(&mut self, domain: &str) -> SocketAddr {
        let ip = self.world.address(&format!("mta-sts.{domain}")).ip();
        SocketAddr::new(ip, self.https_port)
    }

    /// The TXT record, and a server for the policy with a certificate that holds.
    pub(super) fn serve(&mut self, domain: &str, page: Page) -> HttpsServer {
        self.id(domain, "1");
        let certificate = self.ca.certificate(&[&format!("mta-sts.{domain}")]);
        HttpsServer::start(self.policy_address(domain), &certificate, page)
    }

    /// A policy that names `mx.DOMAIN`, and its server.
    pub(super) fn policy(&mut self, domain: &str, mode: &str) -> HttpsServer {
        self.serve(domain, policy(mode, &[&format!("mx.{domain}")], 604_800))
    }

    /// The MX `mx.DOMAIN`, with a certificate that holds.
    pub(super) fn good_host(&mut self, domain: &str) -> FakeMx {
        let certificate = self.ca.certificate(&[&format!("mx.{domain}")]);
        self.world.host(domain, Script::new().tls(&certificate))
    }
}

pub(super) fn policy(mode: &str, mx: &[&str], max_age: i64) -> Page {
    let mx: String = mx.iter().map(|one| format!("mx: {one}\r\n")).collect();
    Page::policy(&format!("version: STSv1\r\nmode: {mode}\r\n{mx}max_age: {max_age}\r\n"))
}

/// `tls_policy|tls|outcome|reply` of the last attempt for an address.
pub(super) fn attempt(relay: &Relay, address: &str) -> String {
    relay.wait_until(&format!("an attempt for {address}"), SOON, |db| {
        db.row(
            "SELECT tls_policy || '|' || coalesce(tls, '-') || '|' || outcome || '|' || reply FROM attempts
             WHERE recipient_id IN (SELECT id FROM recipients WHERE address = ?1
                                    UNION SELECT recipient_id FROM history WHERE address = ?1)
             ORDER BY id DESC LIMIT 1",
            [address],
        )
    })
}

/// Submits mail for somebody at a domain, and gives the attempt.
pub(super) fn send(relay: &Relay, domain: &str) -> String {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let address = format!("you{}@{domain}", SENT.fetch_add(1, Ordering::Relaxed));
    relay.submit("me@app.test", &[&address], MAIL);
    attempt(relay, &address)
}

/// Domains with policies, and the hosts of their MX records; the last of them is no host of its policy.
fn good_and_evil_hosts(sts: &mut StsWorld, servers: &mut Vec<HttpsServer>) -> Vec<(&'static str, FakeMx)> {
    let other_ca = Ca::new();
    let good = |names: &[&str], sts: &StsWorld| Script::new().tls(&sts.ca.certificate(names));
    // Whom the policy names, and what stands there.
    let hosts = [
        ("none.test", "none", Script::new()),
        ("testing.test", "testing", Script::new()),
        ("enforced.test", "enforce", good(&["mx.enforced.test"], sts)),
        // Somebody between takes STARTTLS away.
        ("stripped.test", "enforce", Script::new()),
        ("misnamed.test", "enforce", good(&["mx.other.test"], sts)),
        ("planted.test", "enforce", Script::new().tls(&other_ca.certificate(&["mx.planted.test"]))),
        ("expired.test", "enforce", Script::new().tls(&sts.ca.certificate_until(&["mx.expired.test"], 2020))),
    ];
    let mut hosts: Vec<(&str, FakeMx)> = hosts
        .into_iter()
        .map(|(domain, mode, script)| {
            servers.push(sts.policy(domain, mode));
            (domain, sts.world.host(domain, script))
        })
        .collect();
    // Hosts that the policy does not name, with certificates that hold: MX records are forged easily.
    for (domain, mode) in [("unlisted.test", "enforce"), ("loose.test", "testing")] {
        servers.push(sts.policy(domain, mode));
        let name = format!("evil.{domain}");
        let script = good(&[&name], sts);
        hosts.push((domain, sts.world.mx(domain, 10, &name, script)));
    }
    servers.push(sts.policy("both.test", "enforce"));
    let evil = good(&["evil.both.test"], sts);
    let evil = sts.world.mx("both.test", 1, "evil.both.test", evil);
    hosts.push(("both.test", sts.good_host("both.test")));
    hosts.push(("evil.both.test", evil));
    hosts
}

#[test]
fn mail_goes_where_the_policy_of_its_domain_lets_it() {
    let (mut sts, mut servers) = (StsWorld::new(), Vec::new());
    let hosts = good_and_evil_hosts(&mut sts, &mut servers);
    let relay = sts.relay();
    let host_of = |domain: &str| &hosts.iter().find(|(name, _)| *name == domain).unwrap().1;
    let no = |domain: &str, code: &str, what: &str| {
        format!("sts-enforce|{code} the MTA-STS policy of {domain} (mode enforce, id 1) {what}")
    };
    let wants = |domain: &str| format!("wants TLS with a certificate that holds for mx.{domain}: ");
    for (domain, begin, end) in [
        ("none.test", "none|none|delivered|".to_owned(), ""),
        ("testing.test", "sts-testing|none|delivered|".to_owned(), ""),
        ("loose.test", "sts-testing|TLSv1.3 verified|delivered|".to_owned(), ""),
        ("enforced.test", "sts-enforce|TLSv1.3 verified|delivered|".to_owned(), ""),
        ("both.test", "sts-enforce|TLSv1.3 verified|delivered|".to_owned(), ""),
        (
            "stripped.test",
            no(
                "stripped.test",
                "none|deferred|451 4.7.4",
                "wants TLS, and mx.stripped.test offers no STARTTLS",
            ),
            "",
        ),
        (
            "misnamed.test",
            no("misnamed.test", "none|deferred|451 4.7.5", &wants("misnamed.test")),
            "mx.other.test",
        ),
        (
            "planted.test",
            no("planted.test", "none|deferred|451 4.7.5", &wants("planted.test")),
            "invalid peer certificate",
        ),
        ("expired.test", no("expired.test", "none|deferred|451 4.7.5", &wants("expired.test")), "expired"),
        (
            "unlisted.test",
            no("unlisted.test", "-|deferred|451 4.7.0", "names none of its MX hosts: evil.unlisted.test"),
            "",
        ),
    ] {
        let said = send(&relay, domain);
        assert!(said.starts_with(&begin) && said.contains(end), "{domain}: {said}\nwanted: {begin}");
        let count = if said.contains("|delivered|") { 1 } else { 0 };
        assert_eq!(host_of(domain).messages().len(), count, "{domain}");
        let warned =
            relay.logged(&["WARN", domain, "does not keep its policy sts-enforce, and gets no mail for now"]);
        assert_eq!(warned.len(), 1 - count, "{domain}: {warned:?}");
    }
    assert!(
        host_of("evil.both.test").seen().is_empty(),
        "nobody spoke to the host that the policy does not name"
    );
    // RFC 8460 §4.3: whoever would have been asked first counts as a session that failed.
    let sessions =
        "SELECT policy, mx, result, sessions FROM tls_sessions WHERE domain = 'both.test' ORDER BY mx";
    assert_eq!(
        relay.db().rows(sessions, []),
        ["sts-enforce|evil.both.test|validation-failure|1", "sts-enforce|mx.both.test|success|1"]
    );
    for server in &servers {
        assert_eq!(server.requests(), ["GET /.well-known/mta-sts.txt HTTP/1.1"]);
    }
}

/// What an operator is told: the policy, until when it holds, and whom it names.
#[test]
fn explain_shows_the_policy_and_the_hosts_that_it_names() {
    let mut sts = StsWorld::new();
    let server = sts.serve("a.test", policy("enforce", &["*.a.test"], 604_800));
    let _mx = sts.good_host("a.test");
    sts.world
        .zone(|zone| zone.mx("a.test", 20, "evil.test").address("evil.test", "127.0.0.99".parse().unwrap()));
    sts.world.zone(|zone| zone.address("plain.test", "127.0.0.98".parse().unwrap()));
    let relay = sts.relay();
    let explain = || relay.run_ok(&["explain", "you@a.test"]);
    let has = |text: &str, lines: &[&str]| {
        lines.iter().for_each(|line| assert!(text.contains(line), "{line:?} is not in:\n{text}"));
    };
    let known = [
        "  MTA-STS: mode enforce, id 1, until ",
        " UTC, for *.a.test\n",
        "  MTA-STS: mx.a.test is named by *.a.test\n  MTA-STS: evil.test is not named\n",
        "tls verify (policy sts-enforce)",
    ];
    let text = explain();
    has(&text, &known);
    has(&text, &["  MTA-STS: fetched from https://mta-sts.a.test/.well-known/mta-sts.txt\n"]);
    assert!(!text.contains("evil.test at"), "{text}");
    assert!(send(&relay, "a.test").starts_with("sts-enforce|TLSv1.3 verified|delivered|"));
    let text = explain();
    has(&text, &known);
    assert!(!text.contains("fetched"), "{text}");
    assert_eq!(server.requests().len(), 2);
    server.serve(Page::redirect("https://a.test/"));
    sts.world.zone(|zone| zone.forget("_mta-sts.a.test"));
    has(&explain(), &known);
    has(&explain(), &["  MTA-STS: _mta-sts.a.test: no such domain (NXDOMAIN)\n"]);
    sts.id("a.test", "2");
    has(&explain(), &known);
    has(&explain(), &["mta-sts.txt: the server answered with HTTP status 301\n"]);
    has(&relay.run_ok(&["explain", "you@plain.test"]), &["  MTA-STS: no policy\n", "tls opportunistic"]);
    // No host left: the command says so, and why.
    sts.world.zone(|zone| zone.forget("a.test").mx("a.test", 10, "evil.test"));
    let output = relay.run(&["explain", "you@a.test"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success());
    has(
        &text,
        &[
            "would be tried again later: 451 4.7.0 the MTA-STS policy of a.test (mode enforce, id 1) names none",
        ],
    );
}

/// The end of the lifetime gives the policy as the reason.
#[test]
fn mail_that_never_met_the_policy_comes_back_with_that_reason() {
    let mut sts = StsWorld::new();
    let _server = sts.policy("a.test", "enforce");
    let _mx = sts.world.host("a.test", Script::new());
    let home = sts.world.host("app.test", Script::new());
    let relay = sts.world.relay(sts.config().retry(&["1s"]).set("queue.lifetime", "\"2s\""));
    relay.submit("me@app.test", &["you@a.test"], MAIL);
    let bounce = home.wait_for_messages(1, SOON).remove(0);
    let text = String::from_utf8_lossy(&bounce.content).replace("\r\n ", " ");
    assert!(text.contains("the MTA-STS policy of a.test (mode enforce, id 1) wants TLS"), "{text}");
    assert_eq!(relay.db().ended("you@a.test").as_deref(), Some("expired"));
}

/// The operator's word comes first.
#[test]
fn a_route_or_a_switch_leaves_policies_out() {
    let mut sts = StsWorld::new();
    let servers = ["routed.test", "open.test"].map(|domain| sts.policy(domain, "enforce"));
    let hosts = ["routed.test", "open.test"].map(|domain| sts.world.host(domain, Script::new()));
    let route = "domain = \"routed.test\"\ntls = \"opportunistic\"";
    let mut relay = sts.world.relay(sts.config().route(route));
    assert!(send(&relay, "routed.test").starts_with("route|none|delivered|"));
    assert!(send(&relay, "open.test").starts_with("sts-enforce|none|deferred|451 4.7.4"));
    relay.stop();
    relay.write_config(&relay.config().set("delivery.mta_sts", "false").retry(&["1s"]));
    relay.start_again();
    relay.run_ok(&["queue", "kick", "--all"]);
    relay.wait_until_empty();
    assert_eq!(hosts.map(|host| host.messages().len()), [1, 1]);
    assert_eq!(servers.map(|server| server.requests().len()), [0, 1]);
}
