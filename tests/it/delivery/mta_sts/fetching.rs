//! What servers give instead of a policy, and how long that takes: mail waits for it a little, and for its own domain's
//! alone.

use std::time::{Duration, Instant};

use super::{MAIL, StsWorld, send};
use crate::harness::fakemx::{Ca, SOON, Script};
use crate::harness::https_server::{HttpsServer, Page};
use crate::harness::relay::{Relay, wait_for};

/// Would be a policy, were it served as one, and kept mail away from every host here.
const TEXT: &str = "version: STSv1\nmode: enforce\nmx: mx.else.test\nmax_age: 604800\n";

fn endless(head: &str, piece: &str) -> Page {
    Page::Endless(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{head}"), piece.to_owned())
}

/// Servers that do not come to an end, and what the log says of them.
fn endless_pages() -> Vec<(&'static str, Page, &'static str)> {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    vec![
        ("endless-body.test", endless("\r\n", TEXT), "more than 64 KiB"),
        ("endless-chunks.test", endless(chunked, "6\r\nx: y\r\n\r\n"), "more than 64 KiB"),
        ("endless-chunk.test", endless(&format!("{chunked}fffffff\r\n"), TEXT), "more than 64 KiB"),
        ("endless-size.test", endless(chunked, "0000000000000000"), ""),
        ("endless-field.test", endless("", "x: y\r\n"), "too many headers"),
        ("bad-chunk.test", endless(chunked, "no size\r\n"), ""),
    ]
}

/// Domains, what their servers give, and what the log says of it.
fn pages() -> Vec<(&'static str, Page, &'static str)> {
    let elsewhere = "https://mta-sts.good.test/.well-known/mta-sts.txt";
    let moved = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nLocation: {elsewhere}\r\nContent-Type: text/plain\r\n");
        Page::Raw(format!("{head}Content-Length: {}\r\n\r\n{TEXT}", TEXT.len()).into_bytes())
    };
    vec![
        ("found.test", moved("302 Found"), "HTTP status 302"),
        ("temporary.test", moved("307 Temporary"), "HTTP status 307"),
        ("permanent.test", moved("308 Permanent"), "HTTP status 308"),
        ("choices.test", moved("300 Choices"), "HTTP status 300"),
        ("partial.test", Page::document("206 Partial", "text/plain", TEXT), "HTTP status 206"),
        ("json.test", Page::document("200 OK", "application/json", TEXT), "media type \"application/json\""),
        ("latin.test", Page::Raw(LATIN.to_vec()), "not UTF-8"),
        ("empty.test", Page::policy(""), "no usable version"),
        ("missing.test", Page::document("404 Not Found", "text/plain", TEXT), "HTTP status 404"),
        (
            "redirect.test",
            Page::redirect("https://mta-sts.good.test/.well-known/mta-sts.txt"),
            "HTTP status 301",
        ),
        ("html.test", Page::document("200 OK", "text/html", TEXT), "media type \"text/html\""),
        ("untyped.test", Page::Raw(b"HTTP/1.1 200 OK\r\n\r\nversion: STSv1\n".to_vec()), "media type \"\""),
        ("huge.test", Page::policy(&format!("{TEXT}{}", "x: y\n".repeat(14_000))), "more than 64 KiB"),
        (
            "endless.test",
            Page::Raw(format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(40_000)).into_bytes()),
            "too long",
        ),
        ("broken.test", Page::policy("version: STSv1\nmode: enforce\n"), "no usable max_age"),
        ("cr.test", Page::policy(&TEXT.replace('\n', "\r")), "line 1 is not"),
        (
            "cut.test",
            Page::Raw(
                b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Type: text/plain\r\n\r\nx".to_vec(),
            ),
            "",
        ),
        ("odd.test", Page::Raw(b"220 mail.odd.test ESMTP\r\n".to_vec()), ""),
    ]
}

const LATIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nversion: STSv1\nx: \xfc\n";

fn is_explained(relay: &Relay, domain: &str, place: &str, why: &str) {
    let said = relay.run_ok(&["explain", &format!("you@{domain}")]);
    assert!(said.contains(&format!("MTA-STS: {place}")) && said.contains(why), "{said}");
}

/// Whatever is there instead of a policy, mail goes, and the log and `explain` say why.
#[test]
fn what_is_no_policy_stops_no_mail() {
    let mut sts = StsWorld::new();
    let mut servers = Vec::new();
    let mut wanted = Vec::new();
    for (domain, page, why) in pages().into_iter().chain(endless_pages()) {
        servers.push(sts.serve(domain, page));
        wanted.push((domain, why));
    }
    // Certificates that do not hold.
    let of_others = Ca::new().certificate(&["mta-sts.forged.test"]);
    let other_name = sts.ca.certificate(&["misnamed.test"]);
    let expired = sts.ca.certificate_until(&["mta-sts.expired.test"], 2020);
    for (domain, certificate, why) in [
        ("forged.test", &of_others, "invalid peer certificate"),
        ("misnamed.test", &other_name, "not valid for name"),
        ("expired.test", &expired, "expired"),
    ] {
        sts.id(domain, "1");
        servers.push(HttpsServer::start(sts.policy_address(domain), certificate, Page::policy(TEXT)));
        wanted.push((domain, why));
    }
    // Nobody there, and no address at all.
    sts.id("closed.test", "1");
    sts.policy_address("closed.test");
    sts.id("nowhere.test", "1");
    wanted.extend([("closed.test", "refused"), ("nowhere.test", "NXDOMAIN")]);
    let never_asked = ["twice.test", "no-id.test", "other.test"];
    for domain in never_asked {
        servers.push(sts.policy(domain, "enforce"));
    }
    sts.id("twice.test", "2");
    sts.world.zone(|zone| {
        let zone = zone.forget("_mta-sts.no-id.test").forget("_mta-sts.other.test");
        zone.txt("_mta-sts.no-id.test", &[b"v=STSv1; more=1;"]).txt("_mta-sts.other.test", &[b"v=spf1 -all"])
    });
    let hosts: Vec<_> = wanted
        .iter()
        .map(|(domain, _)| *domain)
        .chain(never_asked)
        .map(|domain| sts.world.host(domain, Script::new()))
        .collect();

    let relay = sts.relay();
    for domain in wanted.iter().map(|(domain, _)| *domain).chain(never_asked) {
        relay.submit("me@app.test", &[&format!("you@{domain}")], MAIL);
    }
    for host in &hosts {
        host.wait_for_messages(1, SOON);
    }
    relay.wait_until_empty();
    for (domain, why) in wanted {
        let line = format!("MTA-STS policy of {domain} not fetched: its mail goes without one: ");
        let logged = relay.logged(&[&line]);
        assert!(logged.len() == 1 && logged[0].contains(why), "{domain}: {why}: {logged:?}");
        if ["html.test", "huge.test", "found.test", "endless-body.test"].contains(&domain) {
            is_explained(&relay, domain, &format!("https://mta-sts.{domain}/.well-known/mta-sts.txt: "), why);
        }
    }
    let policies = relay.db().rows("SELECT DISTINCT tls_policy FROM attempts", []);
    assert_eq!(policies, ["none"]);
    // What the kernel holds of a connection is more than what is read of it.
    let most = servers.iter().map(HttpsServer::sent).max().unwrap();
    assert!((1..16 << 20).contains(&most), "{most} bytes");
    for (domain, why) in
        never_asked.into_iter().zip(["several TXT records", "no id of 1 to 32", "no TXT record"])
    {
        assert!(relay.logged(&[domain, "MTA-STS"]).is_empty());
        is_explained(&relay, domain, &format!("_mta-sts.{domain}: "), why);
    }
}

/// However a server frames what it gives, and whatever more is in it.
#[test]
fn a_policy_is_read_however_it_is_framed() {
    let mut sts = StsWorld::new();
    let text = |domain: &str| format!("version: STSv1\nmode: enforce\nmx: mx.{domain}\nmax_age: 604800\n");
    let raw = |head: &str, body: String| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: Text/Plain; charset=us-ascii\r\n{head}\r\n");
        Page::Raw(format!("{head}{body}").into_bytes())
    };
    let chunks = |text: String| {
        let chunks = text
            .as_bytes()
            .chunks(7)
            .map(|chunk| format!("{:x};ext=\"1\"\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)));
        format!("{}0\r\ntrailer: x\r\n\r\n", chunks.collect::<String>())
    };
    let full = |domain: &str| format!("{}{}", text(domain), "x: y\n".repeat(13_000));
    let pages = [
        ("lf.test", Page::policy(&text("lf.test"))),
        ("crlf.test", Page::policy(&text("crlf.test").replace('\n', "\r\n"))),
        ("chunked.test", raw("Transfer-Encoding: chunked\r\n", chunks(text("chunked.test")))),
        ("to-the-end.test", raw("Connection: close\r\n", text("to-the-end.test"))),
        ("unknown.test", Page::policy(&format!("{}more: of this\n", text("unknown.test")))),
        ("full.test", Page::policy(&full("full.test"))),
    ];
    let mut hosts = Vec::new();
    for (domain, page) in pages {
        hosts.push((domain, sts.serve(domain, page), sts.good_host(domain)));
    }
    let relay = sts.relay();
    for (domain, ..) in &hosts {
        let said = send(&relay, domain);
        assert!(said.starts_with("sts-enforce|TLSv1.3 verified|delivered|"), "{domain}: {said}");
    }
}

/// A domain whose server says nothing has its mail delayed for the time that a policy is waited for, and nobody else's
/// is: no worker waits with it.
#[test]
fn a_silent_server_delays_its_own_mail_alone() {
    let mut sts = StsWorld::new();
    let silent: Vec<String> = (0..4).map(|number| format!("silent{number}.test")).collect();
    let pages = [Page::Silent, Page::SilentInTls, Page::Slow, Page::Silent];
    let servers: Vec<_> = silent.iter().zip(pages).map(|(domain, page)| sts.serve(domain, page)).collect();
    let waiting: Vec<_> = silent.iter().map(|domain| sts.world.host(domain, Script::new())).collect();
    let others: Vec<String> = (0..10).map(|number| format!("other{number}.test")).collect();
    let quick: Vec<_> = others.iter().map(|domain| sts.world.host(domain, Script::new())).collect();
    let policed = sts.policy("policed.test", "enforce");
    let policed_host = sts.good_host("policed.test");
    // Fewer workers than domains that wait.
    let relay = sts.world.relay(sts.config().set("delivery.workers", "2"));
    let began = Instant::now();
    for domain in &silent {
        relay.submit("me@app.test", &[&format!("you@{domain}")], MAIL);
    }
    wait_for("all fetches to be under way", SOON, || {
        servers.iter().all(|server| server.connections() == 1).then_some(())
    });
    let asked = Instant::now();
    for domain in others.iter().map(String::as_str).chain(["policed.test"]) {
        relay.submit("me@app.test", &[&format!("you@{domain}")], MAIL);
    }
    for host in quick.iter().chain([&policed_host]) {
        host.wait_for_messages(1, SOON);
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "others' mail took {took:?}");
    assert!(waiting.iter().all(|host| host.messages().is_empty()), "theirs still waits");
    for host in &waiting {
        host.wait_for_messages(1, SOON);
    }
    let waited = began.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(17)).contains(&waited),
        "their mail waited {waited:?}"
    );
    relay.wait_until_empty();
    assert_eq!(relay.db().number("SELECT max(attempts) FROM history", []), 1, "waiting was no attempt");
    assert_eq!(policed.requests().len(), 1);
    assert!(servers.iter().all(|server| server.connections() == 1), "one fetch of a domain at a time");
}

/// Many messages at once have the policy fetched once, and none of them goes before.
#[test]
fn a_crowd_has_the_policy_fetched_once() {
    let mut sts = StsWorld::new();
    let server = sts.policy("a.test", "enforce");
    let mx = sts.good_host("a.test");
    let relay = sts.relay();
    for number in 0..30 {
        relay.submit("me@app.test", &[&format!("you{number}@a.test")], MAIL);
    }
    mx.wait_for_messages(30, SOON);
    relay.wait_until_empty();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(
        relay.db().rows("SELECT DISTINCT tls_policy || ' ' || tls FROM attempts", []),
        ["sts-enforce TLSv1.3 verified"]
    );
    assert!(mx.messages().iter().all(|message| message.tls));
    assert!(send(&relay, "a.test").starts_with("sts-enforce|TLSv1.3 verified|delivered|"));
}
