//! The extensions of EHLO end to end: what a client asks for reaches the receiving host, or comes back.

use std::time::{Duration, Instant};

use rustls::SignatureScheme;

use crate::harness::client::{self, Client, mail, on_the_wire, queue_id};
use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, wait_for};
use crate::harness::sender::{SENDER, wait_for_end};
use crate::harness::tls_client::TlsClient;

/// Offers these keywords beside the ordinary ones.
fn offering(more: &[&str]) -> Script {
    let ordinary = ["PIPELINING", "SIZE 50000000", "8BITMIME", "DSN"];
    Script::new().offering(&[&ordinary, more].concat())
}

/// Submits with these parameters of MAIL; the queue id.
fn submit(relay: &Relay, parameters: &str, to: &[&str], subject: &str) -> String {
    let reply = relay.client().transact(SENDER, &format!(" {parameters}"), to, &mail(subject)).unwrap();
    assert_eq!(reply.code, 250, "{parameters}: {}", reply.text);
    queue_id(&reply.text)
}

/// The first report that came home, its lines unfolded.
fn report(home: &FakeMx) -> String {
    let messages = home.wait_for_messages(1, SOON);
    assert!(messages[0].mail.starts_with("MAIL FROM:<>"), "{}", messages[0].mail);
    String::from_utf8_lossy(&messages[0].content).replace("\r\n ", " ")
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn future_release_holds_a_message_until_its_time_and_no_kick_frees_it() {
    let mut world = World::new();
    let mx = world.host("a.test", offering(&["FUTURERELEASE 99999 2999-01-01T00:00:00Z"]));
    let relay = world.relay(Config::new().set("queue.lifetime", "\"1h\""));
    let mut client = Client::connect(relay.clear).unwrap();
    let ehlo = client.expect("EHLO app.test", "250").text;
    assert!(ehlo.lines().any(|line| line.starts_with("FUTURERELEASE 2592000 20")), "{ehlo}");
    submit(&relay, "HOLDFOR=3", &["later@a.test"], "later");
    submit(&relay, "", &["now@a.test"], "now");
    assert_eq!(mx.wait_for_messages(1, SOON)[0].rcpts, ["RCPT TO:<now@a.test>"]);
    let row = relay.db().row(
        "SELECT m.release_at - m.received_at, m.ends_at - m.release_at, m.release_asked,
                r.next_attempt_at = m.release_at, r.attempts
         FROM message_ends m JOIN recipients r ON r.message_id = m.id",
        [],
    );
    let release_at = relay.db().number("SELECT release_at FROM messages", []);
    // The session's clock may pass a second between MAIL and the content.
    let row = row.unwrap();
    assert!(row == "3|3600|for;3|1|0" || row == "2|3600|for;3|1|0", "{row}");
    client.expect("ETRN a.test", "25");
    mx.wait_for_messages(2, SOON);
    wait_for_end(&relay, "later@a.test", "delivered");
    let finished_at = relay.db().number("SELECT finished_at FROM history WHERE address = 'later@a.test'", []);
    assert!(finished_at >= release_at, "{finished_at} is before {release_at}");
    assert!(
        !mx.messages()[1].mail.contains("HOLD"),
        "it is for submission only: {:?}",
        mx.messages()[1].mail
    );
}

#[test]
fn a_message_that_waits_for_its_release_survives_a_restart() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let mut relay = world.relay(Config::new());
    submit(&relay, "HOLDFOR=4", &["later@a.test"], "later");
    relay.kill();
    relay.start_again();
    assert!(mx.messages().is_empty());
    mx.wait_for_messages(1, SOON);
    wait_for_end(&relay, "later@a.test", "delivered");
}

#[test]
fn a_password_reset_does_not_wait_behind_newsletters_for_the_same_host() {
    let mut world = World::new();
    // One connection, whose first message takes long enough for all the others to come.
    let slow = Act::Later(Duration::from_secs(2), Box::new(Act::Say("250 2.0.0 ok")));
    let mx = world.host("a.test", offering(&["MT-PRIORITY"]).first(1, At::Dot, slow));
    let relay = world.relay(Config::new().set("delivery.connections_per_destination", "1"));
    submit(&relay, "MT-PRIORITY=-5", &["first@a.test"], "newsletter");
    mx.wait_for_command("DATA", SOON);
    let mut client = relay.client();
    for n in 0..30 {
        let to = format!("reader{n}@a.test");
        client.transact(SENDER, " MT-PRIORITY=-5", &[&to], &mail("newsletter")).unwrap();
    }
    submit(&relay, "", &["forgetful@a.test"], "your new password");
    let messages = mx.wait_for_messages(32, SOON);
    assert!(messages[1].rcpts[0].contains("forgetful@"), "{:?}", messages[1].rcpts);
    assert!(messages[0].mail.contains(" MT-PRIORITY=-5"), "passed on: {}", messages[0].mail);
    assert!(!messages[1].mail.contains("MT-PRIORITY"), "the ordinary needs no word: {}", messages[1].mail);
}

#[test]
fn a_user_s_ceiling_and_default_priority_hold() {
    let mut world = World::new();
    let mx = world.host("a.test", offering(&["MT-PRIORITY"]));
    let mut relay = Relay::prepare(world.configured(Config::new()));
    for (name, options) in [("vip", ["--priority-max", "4"]), ("bulk", ["--priority", "-7"])] {
        relay.add_user_with(name, &options);
    }
    let listed = relay.json(&["user", "list"]);
    let of = |at: usize| {
        let user = &listed[0]["users"][at];
        (user["name"].as_str(), user["priority"].as_i64(), user["priority_max"].as_i64())
    };
    assert_eq!([of(0), of(1)], [(Some("vip"), Some(0), Some(4)), (Some("bulk"), Some(-7), Some(0))]);
    relay.start_again();
    for (name, parameters, reply) in [
        ("vip", " MT-PRIORITY=9", "250 2.3.6 4 "),
        ("vip", " MT-PRIORITY=4", "250 2.1.0"),
        ("bulk", "", "250 2.1.0"),
    ] {
        let mut client = TlsClient::connect(&relay, relay.implicit);
        client.expect(&client::auth_plain(name), "235");
        client.expect(&format!("MAIL FROM:<{SENDER}>{parameters}"), reply);
        client.expect("RSET", "250");
        client.submit(parameters.trim(), &format!("{name}@a.test"), &mail(name));
    }
    let messages = mx.wait_for_messages(3, SOON);
    let priority_of = |name: &str| {
        let message = messages.iter().find(|message| message.rcpts[0].contains(name)).unwrap();
        message.mail.split(' ').find_map(|word| word.strip_prefix("MT-PRIORITY=")).map(str::to_owned)
    };
    assert_eq!((priority_of("vip"), priority_of("bulk")), (Some("4".to_owned()), Some("-7".to_owned())));
}

#[test]
fn deliver_by_r_comes_back_when_the_time_is_over() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let busy = offering(&["DELIVERBY"]).on(At::Rcpt("you@"), Act::Say("451 4.2.1 mailbox busy"));
    let mx = world.host("a.test", busy);
    let relay = world.relay(Config::new().retry(&["1h"]));
    let began = Instant::now();
    submit(&relay, "BY=3;R", &["you@a.test"], "in time or not at all");
    let report = report(&home);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_holds(
        &report,
        &["Action: failed", "Status: 5.4.7", "Deliver-By-Date: ", "451 4.2.1 mailbox busy"],
    );
    wait_for_end(&relay, "you@a.test", "expired");
    let mail = &mx.seen()[0].commands[1];
    assert!(mail.contains(" BY=3;R") || mail.contains(" BY=2;R"), "{mail}");
}

#[test]
fn deliver_by_r_goes_only_to_a_host_that_promises_it() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let mx = world.host("a.test", Script::new());
    let slow = world.host("slow.test", offering(&["DELIVERBY 3600"]));
    let relay = world.relay(Config::new());
    submit(&relay, "BY=600;R", &["you@a.test"], "to a host without it");
    assert_holds(&report(&home), &["Action: failed", "Status: 5.3.3"]);
    submit(&relay, "BY=600;R", &["you@slow.test"], "to a host that needs an hour");
    wait_for_end(&relay, "you@slow.test", "failed");
    assert!(
        relay
            .db()
            .row("SELECT reply FROM history WHERE address = 'you@slow.test'", [])
            .unwrap()
            .contains("5.4.7")
    );
    // Who only wants to be told is not refused for it.
    submit(&relay, "BY=600;N", &["you@a.test"], "still");
    let messages = mx.wait_for_messages(1, SOON);
    assert!(!messages[0].mail.contains("BY="), "{}", messages[0].mail);
    assert!(slow.messages().is_empty());
}

#[test]
fn deliver_by_n_tells_the_sender_in_time_and_goes_on() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let later = Act::Say("451 4.2.1 mailbox busy");
    let mx = world.host("a.test", offering(&["DELIVERBY"]).first(2, At::Rcpt("you@"), later));
    let relay = world.relay(Config::new().retry(&["1h", "2s"]));
    submit(&relay, "BY=2;N", &["you@a.test"], "tell me");
    assert_holds(&report(&home), &["Action: delayed", "Deliver-By-Date: ", "Will-Retry-Until: "]);
    let messages = mx.wait_for_messages(1, SOON);
    assert!(
        messages[0].mail.contains(" BY=-"),
        "what is left may be less than nothing: {}",
        messages[0].mail
    );
    wait_for_end(&relay, "you@a.test", "delivered");
}

#[test]
fn deliver_by_trace_reports_that_the_next_host_has_it() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let mx = world.host("a.test", offering(&["DELIVERBY"]));
    let relay = world.relay(Config::new());
    submit(&relay, "BY=600;RT", &["you@a.test"], "trace");
    assert!(mx.wait_for_messages(1, SOON)[0].mail.contains(";RT"));
    assert_holds(&report(&home), &["Action: relayed", "Status: 2."]);
    wait_for_end(&relay, "you@a.test", "relayed");
}

#[test]
fn limits_are_shown_and_kept_to() {
    let mut world = World::new();
    let mx = world.host("a.test", offering(&["LIMITS RCPTMAX=2 MAILMAX=100"]));
    let relay = world.relay(Config::new().set("limits.recipients", "5"));
    let mut client = Client::connect(relay.clear).unwrap();
    let ehlo = client.expect("EHLO app.test", "250").text;
    assert!(ehlo.lines().any(|line| line == "LIMITS RCPTMAX=5"), "{ehlo}");
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    for n in 0..5 {
        client.expect(&format!("RCPT TO:<r{n}@a.test>"), "250");
    }
    client.expect("RCPT TO:<r5@a.test>", "452 4.5.3");
    client.expect("DATA", "354");
    client.write(&on_the_wire(&mail("five"))).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    relay.wait_until_empty();
    let sizes: Vec<usize> = mx.messages().iter().map(|message| message.rcpts.len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

/// A relay that trusts this certificate's CA beside the built-in ones.
fn trusting(world: &World, certificate: &Certificate) -> (Relay, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &certificate.ca_pem).unwrap();
    let config = Config::new().set("delivery.ca_file", format!("{:?}", file.path()));
    (world.relay(config), file)
}

/// A host at the domain's own address, which it has a certificate for.
fn host_at_its_domain(world: &mut World, domain: &str, script: Script) -> FakeMx {
    FakeMx::start_at(world.address(domain), vec![script])
}

#[test]
fn require_tls_is_passed_on_over_verified_tls() {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["safe.test"]);
    let mx = host_at_its_domain(&mut world, "safe.test", offering(&["REQUIRETLS"]).tls(&certificate));
    let (relay, _ca) = trusting(&world, &certificate);
    let mut client = TlsClient::log_in(&relay);
    assert!(client.expect("EHLO app.test", "250").contains("REQUIRETLS\r\n"));
    client.submit("REQUIRETLS", "you@safe.test", &mail("secret"));
    let messages = mx.wait_for_messages(1, SOON);
    assert!(messages[0].tls && messages[0].mail.contains(" REQUIRETLS"), "{:?}", messages[0]);
    wait_for_end(&relay, "you@safe.test", "delivered");
    // The same host, without the demand: nothing is asked of it.
    client.submit("", "they@safe.test", &mail("not so secret"));
    assert!(!mx.wait_for_messages(2, SOON)[1].mail.contains("REQUIRETLS"));
    wait_for_end(&relay, "they@safe.test", "delivered");
    let policies = "SELECT group_concat(tls_policy, ' ') FROM (SELECT tls_policy FROM attempts ORDER BY id)";
    assert_eq!(relay.db().row(policies, []).as_deref(), Some("requiretls none"));
    let lines = relay.logged(&[" delivered to=<"]);
    assert!(lines[0].contains(" tls=TLSv1.3 verified tls_policy=requiretls phase="), "{lines:?}");
    assert!(lines[1].contains(" tls=TLSv1.3 verified phase="), "{lines:?}");
}

#[test]
fn require_tls_comes_back_from_hosts_that_cannot_keep_it() {
    let certificate = Certificate::for_names(&["safe.test"]);
    let elsewhere = Certificate::for_names(&["elsewhere.test"]);
    let cases = [
        (offering(&[]).tls(&certificate), "5.7.30"),
        (offering(&["REQUIRETLS"]), "5.7.10"),
        (offering(&["REQUIRETLS"]).tls(&elsewhere), "5.7.10"),
    ];
    for (script, status) in cases {
        let mut world = World::new();
        let home = world.host("app.test", Script::new());
        let mx = host_at_its_domain(&mut world, "safe.test", script);
        let (relay, _ca) = trusting(&world, &certificate);
        let content = [&mail("secret")[..], b"The body stays here.\r\n"].concat();
        TlsClient::log_in(&relay).submit("REQUIRETLS RET=FULL", "you@safe.test", &content);
        // The report goes out although nobody on its way keeps the requirement, with the header alone.
        let report = report(&home);
        assert_holds(&report, &["Action: failed", &format!("Status: {status}"), "Subject: secret"]);
        assert!(!report.contains("The body stays here"), "{report}");
        wait_for_end(&relay, "you@safe.test", "failed");
        assert!(mx.messages().is_empty());
    }
}

/// A host with somebody else's certificate, whose signature cannot be checked: other mail goes there, and this does
/// not, over a connection that stands already either.
#[test]
fn require_tls_never_goes_where_no_signature_was_checked() {
    let weak = Certificate::rsa_1024(&["safe.test"]);
    let good = Certificate::for_names(&["safe.test"]);
    for (stolen, why) in [
        (weak.stolen(&rustls::version::TLS13, SignatureScheme::RSA_PSS_SHA256), "RSA 1024"),
        (good.stolen(&rustls::version::TLS12, SignatureScheme::ECDSA_SHA1_Legacy), "ECDSA_SHA1_Legacy"),
    ] {
        let mut world = World::new();
        let home = world.host("app.test", Script::new());
        let mx = host_at_its_domain(&mut world, "safe.test", offering(&["REQUIRETLS"]).tls(&stolen));
        let (relay, _ca) = trusting(&world, &stolen);
        let mut client = TlsClient::log_in(&relay);
        client.submit("", "you@safe.test", &mail("open"));
        mx.wait_for_messages(1, SOON);
        wait_for_end(&relay, "you@safe.test", "delivered");
        let used = relay.db().row("SELECT tls FROM attempts", []).unwrap_or_default();
        assert!(used.ends_with(&format!(" signature not checked ({why})")), "{used}");
        client.submit("REQUIRETLS", "they@safe.test", &mail("secret"));
        assert_holds(&report(&home), &["Action: failed", "Status: 5.7.10"]);
        wait_for_end(&relay, "they@safe.test", "failed");
        assert_eq!(mx.messages().len(), 1, "the open one");
    }
}

#[test]
fn require_tls_does_not_follow_mx_records_that_nobody_signed() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let certificate = Certificate::for_names(&["mx.a.test"]);
    let mx = world.host("a.test", offering(&["REQUIRETLS"]).tls(&certificate));
    let (relay, _ca) = trusting(&world, &certificate);
    TlsClient::log_in(&relay).submit("REQUIRETLS", "you@a.test", &mail("secret"));
    assert_holds(&report(&home), &["Status: 5.7.30", "Diagnostic-Code: x-postrider; "]);
    assert!(mx.seen().is_empty(), "nobody was even asked: {:?}", mx.seen());
    // Without the demand the same mail goes there.
    TlsClient::log_in(&relay).submit("", "you@a.test", &mail("open"));
    mx.wait_for_messages(1, SOON);
}

#[test]
fn a_host_that_is_out_of_reach_is_waited_for_with_require_tls_too() {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["safe.test"]);
    let busy = offering(&["REQUIRETLS"]).tls(&certificate);
    let busy = busy.first(1, At::Greeting, Act::SayAndClose("421 4.3.2 too busy"));
    let mx = host_at_its_domain(&mut world, "safe.test", busy);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &certificate.ca_pem).unwrap();
    let config = Config::new().retry(&["1s"]).set("delivery.ca_file", format!("{:?}", file.path()));
    let relay = world.relay(config);
    TlsClient::log_in(&relay).submit("REQUIRETLS", "you@safe.test", &mail("secret"));
    assert!(mx.wait_for_messages(1, SOON)[0].mail.contains(" REQUIRETLS"));
    wait_for_end(&relay, "you@safe.test", "delivered");
}

#[test]
fn size_is_refused_at_mail_and_while_reading() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new().set("limits.message_size", "\"64KiB\""));
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}> SIZE=65537"), "552 5.3.4");
    let big = [&mail("big")[..], &b"0123456789abcdef\r\n".repeat(5_000)].concat();
    let reply = client.transact(SENDER, " SIZE=100", &["you@a.test"], &big).unwrap();
    assert_eq!((reply.code, &reply.text[..5]), (552, "5.3.4"));
    // The session goes on.
    client.submit(SENDER, &["you@a.test"], &mail("small"));
    assert_eq!(mx.wait_for_messages(1, SOON).len(), 1);
    assert!(mx.messages()[0].mail.contains(" SIZE="), "declared to the next host: {}", mx.messages()[0].mail);
}

#[test]
fn a_pipelined_transaction_is_answered_in_order() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    let lines = format!(
        "MAIL FROM:<{SENDER}>\r\nRCPT TO:<bad\r\nRCPT TO:<you@a.test>\r\nNOOP\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n"
    );
    client.write(lines.as_bytes()).unwrap();
    let codes: Vec<u16> = (0..7).map(|_| client.reply().unwrap().code).collect();
    assert_eq!(codes, [250, 501, 250, 250, 354, 250, 221]);
    mx.wait_for_messages(1, SOON);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let world = World::new();
    let relay = world.relay(Config::new().set("limits.idle_timeout", "\"1s\"").set("limits.errors", "10000"));
    let mut client = Client::connect(relay.clear).unwrap();
    let lines = b"HELP\r\n".repeat(1_000);
    // Its replies fill what both ends hold of the connection, and then the relay has waited long enough.
    wait_for("the relay to hang up", SOON, || client.write(&lines).err());
    relay.client().expect("NOOP", "250");
}

#[test]
fn utf8_addresses_need_smtputf8_on_every_step() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let mx = world.host("a.test", offering(&["SMTPUTF8"]));
    let _old = world.host("old.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    client.expect("MAIL FROM:<jürgen@app.test>", "553 5.6.7");
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.expect("RCPT TO:<用户@a.test>", "553 5.6.7");
    client.expect("RSET", "250");
    let content = "Subject: grüße\r\n\r\n你好\r\n".as_bytes();
    let reply = client.transact(SENDER, " SMTPUTF8 BODY=8BITMIME", &["用户@a.test"], content).unwrap();
    assert_eq!(reply.code, 250, "{}", reply.text);
    let messages = mx.wait_for_messages(1, SOON);
    assert_holds(&messages[0].mail, &[" SMTPUTF8", " BODY=8BITMIME"]);
    assert_eq!(messages[0].rcpts, ["RCPT TO:<用户@a.test>"]);
    assert!(messages[0].content.ends_with(content), "{:?}", String::from_utf8_lossy(&messages[0].content));
    // To a host without it neither the address nor our Received field with it can be written.
    client.transact(SENDER, " SMTPUTF8", &["用户@old.test"], &mail("x")).unwrap();
    assert_holds(&report(&home), &["Status: 5.6.7"]);
}

#[test]
fn dsn_parameters_are_kept_and_honoured() {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    let mx = world.host("a.test", Script::new());
    let without = offering(&[]).offering(&["PIPELINING"]);
    let _plain = world.host("plain.test", without.on(At::Rcpt("never@"), Act::Say("550 5.1.1 nobody")));
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    client.expect(&format!("MAIL FROM:<{SENDER}> RET=HDRS ENVID=QQ+2B1"), "250");
    client.expect("RCPT TO:<you@a.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;You+2B@a.test", "250");
    client.expect("DATA", "354");
    client.write(&on_the_wire(&mail("dsn"))).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    let messages = mx.wait_for_messages(1, SOON);
    assert_holds(&messages[0].mail, &[" RET=HDRS", " ENVID=QQ+2B1"]);
    assert_holds(&messages[0].rcpts[0], &[" NOTIFY=SUCCESS,FAILURE", " ORCPT=rfc822;You+2B@a.test"]);

    // A host without DSN: the report is ours, with what was given; NEVER is never.
    client.expect(&format!("MAIL FROM:<{SENDER}> ENVID=QQ+2B2"), "250");
    client.expect("RCPT TO:<never@plain.test> NOTIFY=NEVER", "250");
    client.expect("RCPT TO:<you@plain.test> NOTIFY=SUCCESS ORCPT=rfc822;You+2B@plain.test", "250");
    client.expect("DATA", "354");
    client.write(&on_the_wire(&mail("dsn"))).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    relay.wait_until_empty();
    let report = report(&home);
    assert_holds(
        &report,
        &["Action: relayed", "Original-Envelope-Id: QQ+2", "Original-Recipient: rfc822; You+@plain.test"],
    );
    assert!(!report.contains("never@"), "{report}");
    assert_eq!(home.messages().len(), 1);
}
