//! What becomes of the mail where a relay refuses our login: it waits, somebody is told once, nothing bounces.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::logins::{base64, decoded, host};
use crate::harness::fakemx::{Act, Ask, At, Certificate, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::relay::{Config, Relay, World, mail, write_secret};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

/// A relay of [`Config`] behind `smtp.up.test`, and the sender's own host, where bounces would arrive.
fn behind(script: Script, schedule: &[&str], login: &str) -> (World, FakeMx, FakeMx, Relay) {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["smtp.up.test"]);
    let up = FakeMx::start_at(world.address("smtp.up.test"), vec![script.tls(&certificate)]);
    let home = world.host("app.test", Script::new());
    let route = format!(
        "domain = \"*.far.test\"\nrelay = [\"smtp.up.test:{}\"]\ntls = \"encrypt\"\n{login}",
        world.mx_port
    );
    let relay = world.relay(Config::new().retry(schedule).route(&route));
    (world, up, home, relay)
}

fn password_login(directory: &Path) -> String {
    let file = directory.join("secret");
    write_secret(&file, "geheim\n");
    format!("username = \"me\"\npassword_file = {file:?}")
}

/// Whatever a relay says of us before it takes mail: it waits in the route's lane, somebody is told once, nothing
/// bounces, and it goes when the relay lets us in again.
#[test]
fn a_relay_that_refuses_us_holds_the_queue_and_says_so_once() {
    let refusals = [
        (At::Auth, "535 5.7.8 wrong password", "auth"),
        (At::Auth, "534 5.7.9 too weak", "auth"),
        (At::Auth, "454 4.7.0 not now", "auth"),
        (At::Auth, "550 5.7.1 not from there", "auth"),
        (At::Mail, "530 5.7.0 log in first", "mail"),
        (At::Rcpt("@"), "530 5.7.0 log in first", "rcpt"),
        (At::Greeting, "554 5.7.1 not you", "greeting"),
        (At::Ehlo, "554 5.7.1 not you", "ehlo"),
    ];
    std::thread::scope(|scope| {
        for (at, reply, phase) in refusals {
            scope.spawn(move || holds_the_queue(at, reply, phase));
        }
    });
}

fn holds_the_queue(at: At, reply: &'static str, phase: &str) {
    const MESSAGES: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    // HELO is tried after a refused EHLO.
    let script = Script::new().offering(&["AUTH PLAIN"]).on(At::Helo, Act::Say("554 5.7.1 not you"));
    // Tried by itself once; then it waits for somebody to do something.
    let (_world, up, home, relay) =
        behind(script.first(2, at, Act::Say(reply)), &["1s", "1h"], &password_login(directory.path()));
    let recipients: Vec<String> =
        (0..MESSAGES).map(|number| format!("you{number}@a{number}.far.test")).collect();
    for recipient in &recipients {
        relay.submit(SENDER, &[recipient], &mail("waits"));
    }
    let lane = relay.wait_until("the lane to back off twice", SOON, |db| {
        db.row("SELECT lane, failures, last_reply FROM backoffs WHERE failures > 1", [])
    });
    assert_eq!(lane, format!("route:*.far.test|2|{reply}"));
    let lane = relay.json(&["queue", "summary"])[0]["lanes"][0].clone();
    assert_eq!((&lane["lane"], &lane["last_reply"]), (&"route:*.far.test".into(), &reply.into()));
    let loud = relay.logged(&["ERROR"]);
    assert_eq!((loud.len(), relay.logged(&["ERROR", reply]).len()), (1, 1), "{loud:?}");
    assert!(!relay.log().contains("geheim"), "no secret in the log");

    relay.run_ok(&["queue", "kick", "--all"]);
    up.wait_for_messages(MESSAGES, SOON);
    recipients.iter().for_each(|recipient| wait_for_end(&relay, recipient, "delivered"));
    let db = relay.db();
    let phases = db.rows("SELECT DISTINCT phase, outcome FROM attempts WHERE outcome != 'delivered'", []);
    assert_eq!(phases, [format!("{phase}|deferred")], "{reply}");
    assert_eq!(home.messages(), [], "{reply}");
    assert_eq!(relay.logged(&[log::RELAY_TAKES_MAIL, "smtp.up.test"]).len(), 1, "{reply}");
}

/// 530 at MAIL of somebody else's host is what it says: no mail from strangers.
#[test]
fn a_login_that_an_mx_host_wants_is_a_refusal() {
    let mut world = World::new();
    let mx = world.host("far.test", Script::new().on(At::Mail, Act::Say("530 5.7.0 log in first")));
    let home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@far.test"], &mail("stranger"));
    wait_for_end(&relay, "you@far.test", "failed");
    home.wait_for_messages(1, SOON);
    drop(mx);
}

/// A token that expires: the next is fetched, the mail goes at the first attempt, and neither is in the log.
#[test]
fn a_token_that_expired_costs_nothing_but_a_refused_login() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("token");
    let runs = directory.path().join("runs");
    std::fs::write(
        &program,
        format!("#!/bin/sh\necho run >> {runs:?}\necho token-$(wc -l < {runs:?} | tr -d ' ')\n"),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let gate = |command: &str, ask: Ask<'_>| {
        let response = decoded(command.strip_prefix("AUTH XOAUTH2 ").unwrap());
        if response == "user=me\x01auth=Bearer token-2\x01\x01" {
            return "235 2.7.0 welcome".to_owned();
        }
        ask(&base64(r#"{"status":"400"}"#));
        "535 5.7.8 expired".to_owned()
    };
    let login = format!("username = \"me\"\ntoken_command = [{program:?}]");
    let (_world, up, _home, mut relay) = behind(host("XOAUTH2", gate), &["1h"], &login);
    relay.stop();
    relay.spawn_logging("debug");
    relay.wait_until_ready();
    relay.submit(SENDER, &["you@a.far.test"], &mail("token"));
    up.wait_for_messages(1, SOON);
    wait_for_end(&relay, "you@a.far.test", "delivered");
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 1);
    assert_eq!(std::fs::read_to_string(runs).unwrap().lines().count(), 2);
    let log = relay.log();
    assert!(log.contains("< AUTH XOAUTH2 …"), "the dialogue is logged");
    assert!(!log.contains("token-") && !log.contains("dXNlcj1"), "no token in the log");
    assert!(!log.contains("ERROR"));
}

/// The program fails: nobody's fault but ours, and nobody's words but ours.
#[test]
fn a_token_command_that_fails_makes_the_mail_wait() {
    let login = "username = \"me\"\ntoken_command = [\"/bin/sh\", \"-c\", \"echo no network >&2; exit 1\"]";
    let (_world, _up, home, relay) = behind(Script::new().offering(&["AUTH XOAUTH2"]), &["1s"], login);
    relay.submit(SENDER, &["you@a.far.test"], &mail("token"));
    wait_for_attempts(&relay, "you@a.far.test", "deferred", 2);
    let said = relay.db().row("SELECT DISTINCT phase, code, enhanced, reply_source FROM attempts", []);
    assert_eq!(said.as_deref(), Some("auth|451|4.7.0|local"));
    // What the program said on its standard error reaches the operator.
    let loud = relay.logged(&["ERROR"]);
    assert_eq!((loud.len(), relay.logged(&["ERROR", "no network"]).len()), (1, 1), "{loud:?}");
    assert_eq!(home.messages(), []);
}
