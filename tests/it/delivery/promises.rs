//! What delivery promises, end to end: the built binary, a real DNS server, hosts that behave as told.

use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, wait_for, write_secret};
use crate::harness::sender::{
    SENDER, assert_report, bounce, text, unfolded, wait_for_attempts, wait_for_end, world_with_sender,
};
use crate::harness::skipped::installed;

#[test]
fn the_best_mx_is_asked_first_and_only_it() {
    let mut world = World::new();
    let second = world.mx("a.test", 20, "mx2.a.test", Script::new());
    let first = world.mx("a.test", 10, "mx1.a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("best"));
    first.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert!(second.seen().is_empty(), "the second was bothered: {:?}", second.seen());
    let row = relay.db().row("SELECT mx, phase, code, outcome FROM attempts", []);
    assert_eq!(row.as_deref(), Some("mx1.a.test|end_of_data|250|delivered"));
}

#[test]
fn a_host_that_is_down_or_takes_no_mail_is_passed_over_within_the_attempt() {
    let mut world = World::new();
    world.closed_mx("a.test", 10, "mx1.a.test");
    let refusing = Script::new().on(At::Greeting, Act::SayAndClose("554 5.3.2 no mail here"));
    let _refusing = world.mx("a.test", 20, "mx2.a.test", refusing);
    let busy = Script::new().on(At::Ehlo, Act::SayAndClose("421 4.3.2 too busy"));
    let _busy = world.mx("a.test", 30, "mx3.a.test", busy);
    let hangs_up = world.mx("a.test", 40, "mx4.a.test", Script::new().on(At::Greeting, Act::Close));
    let good = world.mx("a.test", 50, "mx5.a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("next"));
    good.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(hangs_up.seen().len(), 1);
}

#[test]
fn a_domain_without_mx_is_tried_at_its_own_address() {
    let mut world = World::new();
    let host = FakeMx::start_at(world.address("plain.test"), vec![Script::new()]);
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@plain.test"], &mail("no mx"));
    host.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@plain.test", "delivered");
}

#[test]
fn a_4xx_to_rcpt_is_retried_and_then_delivered() {
    let mut world = World::new();
    let greylisting = Script::new().first(1, At::Rcpt("you@"), Act::Say("451 4.7.1 greylisted, come back"));
    let mx = world.host("grey.test", greylisting);
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["you@grey.test"], &mail("patience"));
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@grey.test", "delivered");
    let tries = relay.db().rows("SELECT phase, code, enhanced, reply, outcome FROM attempts ORDER BY id", []);
    assert_eq!(tries[0], "rcpt|451|4.7.1|451 4.7.1 greylisted, come back|deferred");
    assert_eq!(tries.len(), 2, "{tries:?}");
    assert!(tries[1].starts_with("end_of_data|250|2.0.0|") && tries[1].ends_with("|delivered"), "{tries:?}");
}

#[test]
fn a_4xx_to_mail_data_or_the_dot_is_retried_and_then_delivered() {
    for (at, phase) in [(At::Mail, "mail"), (At::Data, "data"), (At::Dot, "end_of_data")] {
        let mut world = World::new();
        let mx = world.host("a.test", Script::new().first(1, at, Act::Say("452 4.3.1 no room just now")));
        let relay = world.relay(Config::new().retry(&["1s"]));
        relay.submit(SENDER, &["you@a.test"], &mail(phase));
        mx.wait_for_messages(1, SOON);
        wait_for_end(&relay, "you@a.test", "delivered");
        let first = relay.db().row("SELECT phase, code, outcome FROM attempts ORDER BY id", []);
        assert_eq!(first, Some(format!("{phase}|452|deferred")));
    }
}

#[test]
fn a_5xx_to_rcpt_comes_back_as_a_bounce_that_quotes_it() {
    let (mut world, home) = world_with_sender();
    let refusing =
        Script::new().on(At::Rcpt("nobody@"), Act::Say("550 5.1.1 <nobody@a.test>: no such user here"));
    let _mx = world.host("a.test", refusing);
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["nobody@a.test"], &mail("to nobody"));
    let bounce = bounce(&home);
    assert_report(&bounce, "nobody@a.test", "5.1.1", "550 5.1.1 <nobody@a.test>: no such user here");
    assert!(bounce.contains("Subject: to nobody"), "the header of the message comes back:\n{bounce}");
    wait_for_end(&relay, "nobody@a.test", "failed");
    relay.wait_until_empty();
    assert_eq!(relay.db().ended(SENDER).as_deref(), Some("delivered"), "the bounce itself");
    python_reads_the_report(&relay, &bounce);
}

/// Python's e-mail package reads the bounce as a delivery report, where there is a Python.
fn python_reads_the_report(relay: &Relay, bounce: &str) {
    const SCRIPT: &str = r#"
import email, email.policy, sys
report = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
assert report.get_content_type() == "multipart/report", report.get_content_type()
assert report.get_param("report-type") == "delivery-status", report["Content-Type"]
assert not report.defects, report.defects
assert report["Date"].datetime and report["Message-ID"] and report["From"].addresses and report["To"].addresses
human, status, returned = report.iter_parts()
assert human.get_content_type() == "text/plain" and "550 5.1.1" in human.get_content(), human
assert status.get_content_type() == "message/delivery-status", status.get_content_type()
blocks = status.get_payload()
assert len(blocks) == 2 and not any(block.defects for block in blocks), blocks
assert blocks[0]["Reporting-MTA"].replace(" ", "") == "dns;relay.test", blocks[0]["Reporting-MTA"]
assert blocks[1]["Final-Recipient"].replace(" ", "") == "rfc822;nobody@a.test", blocks[1]["Final-Recipient"]
assert blocks[1]["Action"] == "failed" and blocks[1]["Status"] == "5.1.1", blocks[1].items()
assert "no such user here" in blocks[1]["Diagnostic-Code"], blocks[1]["Diagnostic-Code"]
assert blocks[1]["Remote-MTA"].replace(" ", "") == "dns;mx.a.test", blocks[1]["Remote-MTA"]
assert returned.get_content_type() in ("message/rfc822", "text/rfc822-headers"), returned.get_content_type()
"#;
    if !installed("python3") {
        return;
    }
    let file = relay.path("bounce.eml");
    std::fs::write(&file, bounce).unwrap();
    let output = std::process::Command::new("python3").args(["-c", SCRIPT]).arg(&file).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{bounce}");
}

#[test]
fn a_5xx_to_mail_data_or_the_dot_bounces() {
    for (at, phase) in [(At::Mail, "mail"), (At::Data, "data"), (At::Dot, "end_of_data")] {
        let (mut world, home) = world_with_sender();
        let _mx = world.host("a.test", Script::new().on(at, Act::Say("554 5.7.1 looks like spam")));
        let relay = world.relay(Config::new());
        relay.submit(SENDER, &["you@a.test"], &mail(phase));
        assert_report(&bounce(&home), "you@a.test", "5.7.1", "554 5.7.1 looks like spam");
        wait_for_end(&relay, "you@a.test", "failed");
        assert_eq!(relay.db().row("SELECT phase FROM attempts ORDER BY id", []).as_deref(), Some(phase));
    }
}

#[test]
fn three_recipients_of_one_message_meet_three_fates() {
    let (mut world, home) = world_with_sender();
    let script = Script::new()
        .first(1, At::Rcpt("later@"), Act::Say("450 4.2.1 mailbox busy"))
        .on(At::Rcpt("never@"), Act::Say("550 5.1.1 unknown"));
    let mx = world.host("a.test", script);
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["now@a.test", "later@a.test", "never@a.test"], &mail("fates"));
    let bounce = bounce(&home);
    assert_report(&bounce, "never@a.test", "5.1.1", "550 5.1.1 unknown");
    let status = bounce.split("message/delivery-status").nth(1).unwrap_or_default();
    assert!(!status.contains("rfc822;later@") && !status.contains("rfc822;now@"), "{bounce}");
    let messages = mx.wait_for_messages(2, SOON);
    relay.wait_until_empty();
    for (address, state) in
        [("now@a.test", "delivered"), ("later@a.test", "delivered"), ("never@a.test", "failed")]
    {
        assert_eq!(relay.db().ended(address).as_deref(), Some(state), "{address}");
    }
    // One transaction for the three, another for the one who was put off; nobody gets it twice.
    let rcpts: Vec<usize> = messages.iter().map(|message| message.rcpts.len()).collect();
    assert_eq!((mx.messages().len(), rcpts), (2, vec![1, 1]));
    let commands = &mx.seen()[0].commands;
    let first = commands.iter().take_while(|line| *line != "DATA").filter(|line| line.starts_with("RCPT"));
    assert_eq!(first.count(), 3, "{commands:?}");
    assert_eq!(home.messages().len(), 1, "one bounce");
}

#[test]
fn one_dead_domain_does_not_hold_up_the_others_of_a_message() {
    let mut world = World::new();
    world.closed_mx("dead.test", 10, "mx.dead.test");
    let stalling = world.host("stalls.test", Script::new().on(At::Greeting, Act::Stall));
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let began = Instant::now();
    relay.submit(SENDER, &["x@dead.test", "x@stalls.test", "x@a.test"], &mail("three ways"));
    mx.wait_for_messages(1, SOON);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    wait_for_attempts(&relay, "x@dead.test", "deferred", 1);
    wait_for("the host that stalls to be asked", SOON, || (stalling.seen().len() == 1).then_some(()));
    assert_eq!(
        relay.db().row("SELECT phase FROM attempts WHERE mx = 'mx.dead.test'", []).as_deref(),
        Some("connect")
    );
}

#[test]
fn what_is_undelivered_at_the_end_of_its_life_bounces_with_the_last_reply() {
    let (mut world, home) = world_with_sender();
    let _mx =
        world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.2.2 mailbox full since May")));
    let relay = world.relay(Config::new().retry(&["1s"]).set("queue.lifetime", "\"3s\""));
    relay.submit(SENDER, &["you@a.test"], &mail("too late"));
    let bounce = bounce(&home);
    assert_report(&bounce, "you@a.test", "4.", "451 4.2.2 mailbox full since May");
    wait_for_end(&relay, "you@a.test", "expired");
    assert!(relay.db().attempts("you@a.test", "deferred") >= 1, "{}", relay.db().dump());
}

#[test]
fn a_sender_is_told_of_a_delay_once() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new().first(4, At::Rcpt("@"), Act::Say("451 4.7.1 not yet")));
    let relay = world.relay(Config::new().retry(&["1s"]).set("queue.delay_warning", "\"1s\""));
    relay.submit(SENDER, &["you@a.test"], &mail("slow"));
    let messages = home.wait_for_messages(1, SOON);
    let warning = unfolded(&text(&messages[0]));
    for part in ["Action: delayed", "Status: 4.7.1", "451 4.7.1 not yet", "Will-Retry-Until:"] {
        assert!(warning.contains(part), "no {part:?} in:\n{warning}");
    }
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert!(relay.db().attempts("you@a.test", "deferred") >= 3, "{}", relay.db().dump());
    assert_eq!(home.messages().len(), 1, "told once, though it was put off again and again");
}

#[test]
fn a_null_mx_bounces_at_once() {
    let (mut world, home) = world_with_sender();
    world.zone(|zone| zone.null_mx("nomail.test"));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@nomail.test"], &mail("null mx"));
    // RFC 7505 §4.2; 5.1.10 is from RFC 7505 §7.
    assert_report(&bounce(&home), "you@nomail.test", "5.1.10", "5.1.10");
    wait_for_end(&relay, "you@nomail.test", "failed");
}

#[test]
fn a_domain_that_does_not_exist_bounces_at_once() {
    let (world, home) = world_with_sender();
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@nosuch.test"], &mail("nxdomain"));
    assert_report(&bounce(&home), "you@nosuch.test", "5.1.2", "5.1.2");
    let attempt = relay.wait_until("the attempt", SOON, |db| {
        db.row("SELECT phase, enhanced, outcome FROM attempts WHERE outcome = 'failed'", [])
    });
    assert_eq!(attempt, "dns|5.1.2|failed");
}

#[test]
fn a_broken_resolver_never_bounces() {
    use crate::harness::dns_server::Fault;
    let (mut world, home) = world_with_sender();
    world.zone(|zone| zone.fault("broken.test", Fault::Servfail).fault("lame.test", Fault::Refused));
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["you@broken.test", "you@lame.test"], &mail("servfail"));
    for address in ["you@broken.test", "you@lame.test"] {
        wait_for_attempts(&relay, address, "deferred", 2);
        assert_eq!(relay.db().ended(address), None);
    }
    let said = relay.db().row("SELECT DISTINCT phase, enhanced FROM attempts", []);
    assert_eq!(said.as_deref(), Some("dns|4.4.3"));
    // It is repaired, and the mail goes its way.
    let mx = FakeMx::start_at(world.address("mx.repaired.test"), vec![Script::new()]);
    let home_ip = home.address.ip();
    world.zone(|_| {
        crate::harness::dns_server::Zone::new()
            .mx("broken.test", 10, "mx.repaired.test")
            .mx("lame.test", 10, "mx.repaired.test")
            .address("mx.repaired.test", mx.address.ip())
            .mx("app.test", 10, "mx.app.test")
            .address("mx.app.test", home_ip)
    });
    mx.wait_for_messages(2, SOON);
    relay.wait_until_empty();
    assert_eq!(home.messages(), [], "no bounce");
}

#[test]
fn a_bounce_that_fails_is_the_recorded_end() {
    let mut world = World::new();
    let refusing = Script::new().on(At::Rcpt("@"), Act::Say("550 5.7.1 go away"));
    let mx = world.host("a.test", refusing);
    let relay = world.relay(Config::new());
    // The sender's host refuses everything too: it is the same.
    relay.submit("forged@a.test", &["nobody@a.test"], &mail("dead end"));
    wait_for_end(&relay, "forged@a.test", "failed");
    relay.wait_until_empty();
    let ended = relay.db().rows("SELECT sender, address, state FROM history ORDER BY message_id", []);
    assert_eq!(ended, ["forged@a.test|nobody@a.test|failed", "|forged@a.test|failed"]);
    let senders: Vec<String> = mx
        .seen()
        .iter()
        .flat_map(|seen| seen.commands.clone())
        .filter(|line| line.starts_with("MAIL"))
        .collect();
    assert_eq!(senders.len(), 2, "no bounce of a bounce: {senders:?}");
    assert!(senders[1].starts_with("MAIL FROM:<>"), "{senders:?}");
    assert!(relay.log().contains("forged@a.test"), "it is logged");
}

#[test]
fn a_host_that_vanishes_after_the_dot_leaves_a_doubt_that_is_recorded_and_retried() {
    let (mut world, home) = world_with_sender();
    let mx = world.host("a.test", Script::new().first(1, At::Dot, Act::Close));
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["you@a.test"], &mail("doubt"));
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(relay.db().attempts("you@a.test", "in_doubt"), 1, "{}", relay.db().dump());
    assert_eq!(
        relay.db().row("SELECT phase, outcome FROM attempts ORDER BY id", []).as_deref(),
        Some("end_of_data|in_doubt")
    );
    assert_eq!(home.messages(), []);
}

#[test]
fn in_doubt_hold_waits_for_a_person() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(1, At::Dot, Act::Close));
    let relay = world.relay(Config::new().retry(&["1s"]).set("delivery.in_doubt", "\"hold\""));
    relay.submit(SENDER, &["you@a.test"], &mail("hold"));
    relay.wait_until("the hold", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE state = 'held'", []) == 1).then_some(())
    });
    assert_eq!(mx.messages().len(), 0);
    relay
        .db_for_writing()
        .execute("UPDATE recipients SET state = 'queued', next_attempt_at = unixepoch()", []);
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.test", "delivered");
}

#[test]
fn the_next_message_takes_the_connection_that_is_open() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    for number in 1..=3 {
        client.submit(SENDER, &["you@a.test"], &mail("again"));
        mx.wait_for_messages(number, SOON);
        // Settled: the connection is back in the pool, or on its way there.
        relay.wait_until_empty();
    }
    let connections: Vec<usize> = mx.messages().iter().map(|message| message.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
}

#[test]
fn a_connection_that_died_in_the_pool_costs_nothing() {
    let mut world = World::new();
    // It says goodbye (RFC 5321 §3.8: 421) as an answer to the second MAIL, or is gone by then.
    let mx = FakeMx::start_at(
        {
            world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
            world.address("mx.a.test")
        },
        vec![
            Script::new().on(At::Rcpt("second@"), Act::SayAndClose("421 4.4.2 idle for too long")),
            Script::new(),
        ],
    );
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["first@a.test"], &mail("one"));
    mx.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    relay.submit(SENDER, &["second@a.test"], &mail("two"));
    mx.wait_for_messages(2, SOON);
    wait_for_end(&relay, "second@a.test", "delivered");
}

#[test]
fn mail_goes_through_tls_where_it_is_offered_and_the_record_says_so() {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["mx.a.test"]);
    let mx = world.host("a.test", Script::new().tls(&certificate));
    // A certificate for another name: unverified is fine where TLS is optional.
    let other = world.host("b.test", Script::new().tls(&certificate));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test", "you@b.test"], &mail("tls"));
    assert!(mx.wait_for_messages(1, SOON)[0].tls);
    assert!(other.wait_for_messages(1, SOON)[0].tls);
    relay.wait_until_empty();
    let used = relay.db().rows("SELECT DISTINCT tls FROM attempts", []);
    assert_eq!(used, ["TLSv1.3"], "version, and not verified: the CA is nobody's");
}

#[test]
fn a_host_whose_tls_is_broken_gets_its_mail_in_the_clear() {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["mx.a.test"]);
    let broken = Script::new().tls(&certificate).on(At::Handshake, Act::Close);
    let mx = world.host("a.test", broken);
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("clear"));
    assert!(!mx.wait_for_messages(1, SOON)[0].tls);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(relay.db().row("SELECT tls FROM attempts", []).as_deref(), Some("none"));
}

/// A world with a smart host that wants TLS and a login, and the config that goes there.
fn upstream(script: impl Fn(Script) -> Script) -> (World, FakeMx, Config, tempfile::TempDir) {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["smtp.up.test"]);
    let offers = ["PIPELINING", "8BITMIME", "SIZE 50000000", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN"];
    let script = script(Script::new().offering(&offers).tls(&certificate));
    let host = FakeMx::start_at(world.address("smtp.up.test"), vec![script]);
    let secrets = tempfile::tempdir().unwrap();
    let (ca, password) = (secrets.path().join("ca.pem"), secrets.path().join("secret"));
    std::fs::write(&ca, &certificate.ca_pem).unwrap();
    write_secret(&password, "geheim\n");
    let route = format!(
        "domain = \"*\"\nrelay = [\"smtp.up.test:{}\"]\ntls = \"verify\"\nca_file = {ca:?}\n\
         username = \"me\"\npassword_file = {password:?}",
        world.mx_port
    );
    (world, host, Config::new().route(&route), secrets)
}

#[test]
fn a_route_takes_all_mail_to_its_relay_over_verified_tls_with_a_login() {
    let (world, host, config, _secrets) = upstream(|script| script);
    let relay = world.relay(config);
    relay.submit(SENDER, &["you@anywhere.test", "she@elsewhere.test"], &mail("route"));
    let messages = host.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@anywhere.test", "delivered");
    wait_for_end(&relay, "she@elsewhere.test", "delivered");
    assert!(messages.iter().all(|message| message.tls));
    let seen = &host.seen()[0];
    let login = seen.commands.iter().find(|line| line.starts_with("AUTH")).cloned().unwrap_or_default();
    // NUL me NUL geheim
    assert_eq!(login, "AUTH PLAIN AG1lAGdlaGVpbQ==", "{:?}", seen.commands);
    let used = relay.db().rows("SELECT DISTINCT tls FROM attempts", []);
    assert_eq!(used, ["TLSv1.3 verified"]);
    let asked = world.dns.asked();
    assert!(asked.iter().all(|question| question.kind != "MX"), "no MX lookup: {asked:?}");
    assert!(
        !relay.log().contains("geheim") && !relay.log().contains("AG1lAGdlaGVpbQ"),
        "no secret in the log"
    );
}

#[test]
fn a_relay_that_refuses_the_login_never_makes_a_bounce() {
    let (mut world, host, config, _secrets) =
        upstream(|script| script.first(2, At::Auth, Act::Say("535 5.7.8 wrong password")));
    let home = world.host("app.test", Script::new());
    let relay = world.relay(config.retry(&["1s"]));
    relay.submit(SENDER, &["you@anywhere.test"], &mail("auth"));
    wait_for_attempts(&relay, "you@anywhere.test", "deferred", 1);
    assert_eq!(
        relay.db().row("SELECT phase, code, outcome FROM attempts", []).as_deref(),
        Some("auth|535|deferred")
    );
    assert_eq!(relay.db().ended("you@anywhere.test"), None);
    // The password is right again; nobody has to do anything.
    host.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@anywhere.test", "delivered");
    assert_eq!(home.messages(), []);
}

#[test]
fn a_relay_whose_certificate_does_not_hold_gets_no_password_and_no_mail() {
    let (world, host, config, secrets) = upstream(|script| script);
    // A CA that vouches for nobody here.
    std::fs::write(secrets.path().join("ca.pem"), Certificate::for_names(&["other.test"]).ca_pem).unwrap();
    let relay = world.relay(config);
    relay.submit(SENDER, &["you@anywhere.test"], &mail("impostor"));
    wait_for_attempts(&relay, "you@anywhere.test", "deferred", 1);
    assert_eq!(
        relay.db().row("SELECT phase, outcome FROM attempts", []).as_deref(),
        Some("starttls|deferred")
    );
    let commands: Vec<String> = host.seen().into_iter().flat_map(|seen| seen.commands).collect();
    assert!(
        !commands.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")),
        "{commands:?}"
    );
}

#[test]
fn a_message_of_many_chunks_arrives_whole() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let mut content = b"Date: Mon, 3 Nov 2025 10:00:00 +0100\r\nMessage-ID: <big@app.test>\r\n\r\n".to_vec();
    let lines = content.len();
    for line in 0..40_000 {
        content.extend_from_slice(format!(".{line:08} {}\r\n", "x".repeat(60)).as_bytes());
    }
    relay.submit(SENDER, &["you@a.test"], &content);
    let message = mx.wait_for_messages(1, SOON).swap_remove(0);
    assert!(message.content.ends_with(&content[lines..]), "the body differs");
    wait_for_end(&relay, "you@a.test", "delivered");
    relay.wait_until("the content to be gone", SOON, |db| {
        (db.number("SELECT count(*) FROM content", []) == 0).then_some(())
    });
}
