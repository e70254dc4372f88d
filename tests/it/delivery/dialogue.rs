//! What was said in an attempt that failed: kept for the operator, without content and without secrets.

use serde_json::Value;

use super::logins::{base64, decoded, host};
use crate::harness::fakemx::{Act, Ask, At, Certificate, FakeMx, Script};
use crate::harness::relay::{Config, Relay, World, mail, write_secret};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

const SECRET: &str = "pass,word=1";

/// The lines of a dialogue without their times, which only grow on each connection.
fn lines(dialogue: &Value) -> Vec<String> {
    let (mut lines, mut before) = (Vec::new(), 0);
    for line in dialogue["dialogue"].as_str().unwrap().lines() {
        match line[..7].trim_start().parse::<u64>() {
            Ok(at) => {
                assert!(at >= before && at < 60_000, "{dialogue}");
                (_, before) = (lines.push(line[9..].to_owned()), at);
            }
            // The next connection, or what no time belongs to.
            Err(_) => {
                before = if line.starts_with(' ') { before } else { 0 };
                lines.push(line.trim_start().to_owned());
            }
        }
    }
    lines
}

fn dialogues(relay: &Relay, id: &str) -> Vec<Value> {
    let shown = relay.json(&["queue", "show", id, "--dialogue"]).remove(0);
    shown["dialogues"].as_array().unwrap().clone()
}

/// The opening of the connection, this message's part, and that a message before it is left out; one for all whom the
/// attempt failed for, and nothing for whom it did not.
#[test]
fn a_failed_attempt_keeps_what_was_said_without_what_was_sent() {
    let mut world = World::new();
    let certificate = Certificate::for_names(&["mx.a.test"]);
    let refuse = |who, reply| (At::Rcpt(who), Act::Say(reply));
    let (no, later) =
        (refuse("no@", "550-5.1.1 nobody\r\n550 5.1.1 here"), refuse("later@", "451 4.2.1 busy"));
    let script = Script::new().offering(&["PIPELINING", "8BITMIME"]).tls(&certificate);
    let _mx = world.host("a.test", script.on(no.0, no.1).on(later.0, later.1));
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    client.submit(SENDER, &["first@a.test"], &mail("first"));
    wait_for_end(&relay, "first@a.test", "delivered");
    let id = client.submit(SENDER, &["yes@a.test", "no@a.test", "later@a.test"], &mail("the content"));
    wait_for_end(&relay, "no@a.test", "failed");

    let said = dialogues(&relay, &id);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["recipients"], serde_json::json!(["no@a.test", "later@a.test"]), "{said:?}");
    let lines = lines(&said[0]);
    let heading = format!("mx.a.test [{}]:{} from 127.0.0.1, connected at ", "127.0.0.", world.mx_port);
    let (before, after) = heading.split_once("127.0.0.]").unwrap();
    assert!(
        lines[0].starts_with(before) && lines[0].contains(after) && lines[0].ends_with(" UTC"),
        "{lines:#?}"
    );
    let is_there = |words: &str| lines.iter().any(|line| line.starts_with(words));
    for words in [
        "S: 220 ",
        "C: EHLO ",
        "S: 250-PIPELINING",
        "S: 250 STARTTLS",
        "C: STARTTLS",
        "-- TLS: TLSv1.3, TLS13_AES_256_GCM_SHA384, not verified: ",
        "-- left out: 1 messages that it carried before this one",
        &format!("C: MAIL FROM:<{SENDER}>"),
        "C: RCPT TO:<yes@a.test>",
        "S: 550-5.1.1 nobody",
        "S: 550 5.1.1 here",
        "S: 451 4.2.1 busy",
        "C: DATA",
        "S: 354 ",
        "C: (the content, and its final dot)",
    ] {
        assert!(is_there(words), "{words}: {lines:#?}");
    }
    assert!(
        !lines.iter().any(|line| line.contains("the content\r") || line.contains("first@")),
        "{lines:#?}"
    );

    // For people, and by the SELECT that the schema gives.
    let shown = relay.run_ok(&["queue", "show", &id, "--dialogue"]);
    assert!(shown.contains("UTC, for no@a.test, later@a.test\n  mx.a.test ["), "{shown}");
    let select = "SELECT r.address, d.dialogue FROM recipients r JOIN dialogues d ON d.id = (SELECT max(a.dialogue_id)
        FROM attempts a WHERE a.recipient_id = r.id) WHERE r.message_id = (SELECT id FROM messages WHERE queue_id = ?1)";
    let selected = relay.db().row(select, [&id]).unwrap();
    assert_eq!(selected, format!("later@a.test|{}", said[0]["dialogue"].as_str().unwrap()));
    // The first message failed for nobody.
    assert_eq!(relay.db().number("SELECT count(*) FROM dialogues", []), 1);
}

/// What there was, where it ended before MAIL: also at the hosts that were tried before.
#[test]
fn an_attempt_that_found_no_host_says_so_of_each() {
    let mut world = World::new();
    world.closed_mx("a.test", 10, "mx1.a.test");
    let broken = Certificate::for_names(&["elsewhere.test"]);
    let _greets =
        world.mx("a.test", 20, "mx2.a.test", Script::new().on(At::Greeting, Act::Say("421 4.3.2 no")));
    let _silent = world.mx("a.test", 30, "mx3.a.test", Script::new().on(At::Ehlo, Act::Close));
    let up = world.mx("b.test", 10, "mx.b.test", Script::new().tls(&broken));
    let route = "domain = \"b.test\"\ntls = \"verify\"";
    let relay = world.relay(Config::new().route(route));
    let ids = ["you@a.test", "you@b.test"].map(|to| (to, relay.submit(SENDER, &[to], &mail("waits"))));
    for (to, _) in &ids {
        wait_for_attempts(&relay, to, "deferred", 1);
    }
    let said = dialogues(&relay, &ids[0].1).remove(0);
    let found = lines(&said).join("\n");
    let places: Vec<usize> =
        ["mx1.a.test [", ", not connected\n-- 421 4.4.1 ", "mx2.a.test [", "S: 421 4.3.2 no", "mx3.a.test ["]
            .iter()
            .map(|words| found.find(words).unwrap_or_else(|| panic!("{words}: {found}")))
            .collect();
    assert!(places.is_sorted(), "{found}");
    assert!(found.lines().last().unwrap().starts_with("-- 421 4.4.2 "), "{found}");

    let found = lines(&dialogues(&relay, &ids[1].1).remove(0));
    let last = found.last().unwrap();
    assert!(found.iter().any(|line| line == "C: STARTTLS"), "{found:#?}");
    assert!(last.starts_with("-- 4") && last.contains("certificate"), "{found:#?}");
    drop(up);
}

/// How a host says again what it heard.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Echo {
    /// Whole, as a part, and in other letters.
    Quoted,
    /// Its halves in two lines.
    Split,
    /// From its middle.
    Tail,
    /// What it means.
    Decoded,
    /// The line itself, which is no reply.
    AsItIs,
}

/// Takes every exchange to its end and refuses it, with all that it heard last.
fn suspicious(echo: Echo, command: &str, ask: Ask<'_>) -> String {
    let mut words = command.split(' ').skip(1);
    let (mechanism, initial) = (words.next().unwrap_or_default(), words.next().map(str::to_owned));
    let last = match mechanism {
        "LOGIN" => ask(&base64("Username:")).and_then(|_| ask(&base64("Password:"))),
        "CRAM-MD5" => ask(&base64("<1896.697170952@up.test>")),
        "SCRAM-SHA-256" => initial.and_then(|first| {
            let first = decoded(&first);
            let nonce = first.rsplit_once("r=").unwrap().1.to_owned();
            ask(&base64(format!("r={nonce}3rfcNHYJY1ZVvWVs7j,s={},i=4096", base64("salt"))))
        }),
        _ => initial.or_else(|| ask("")),
    };
    let last = last.expect("a response");
    let (head, tail) = last.split_at(last.len() / 2);
    let wrong = "5.7.8 wrong: AUTH";
    match echo {
        Echo::Quoted => {
            format!("535 {wrong} {mechanism} {last} ({}) {}", &last[..last.len() - 3], last.to_lowercase())
        }
        Echo::Split => format!("535-{wrong} {head}\r\n535 5.7.8 {tail}"),
        Echo::Tail => format!("535 {wrong} ...{tail}"),
        Echo::Decoded => format!("535 {wrong} {}", decoded(&last)),
        Echo::AsItIs => format!("AUTH {mechanism} {last}"),
    }
}

#[test]
fn no_secret_is_in_the_database_or_the_log_whatever_the_mechanism_and_what_the_host_says() {
    std::thread::scope(|scope| {
        for (mechanism, key) in [
            ("PLAIN", "password_file"),
            ("LOGIN", "password_file"),
            ("CRAM-MD5", "password_file"),
            ("SCRAM-SHA-256", "password_file"),
            ("XOAUTH2", "token_file"),
            ("OAUTHBEARER", "token_file"),
        ] {
            scope.spawn(move || keeps_the_secret(mechanism, key, Echo::Quoted));
        }
        for echo in [Echo::Split, Echo::Tail, Echo::Decoded, Echo::AsItIs] {
            scope.spawn(move || keeps_the_secret("PLAIN", "password_file", echo));
        }
    });
}

fn keeps_the_secret(mechanism: &str, key: &str, echo: Echo) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    write_secret(&file, &format!("{SECRET}\n"));
    let world = World::new();
    let responses: std::sync::Arc<std::sync::Mutex<Vec<String>>> = Default::default();
    let heard = responses.clone();
    let gate = move |command: &str, ask: Ask<'_>| {
        heard.lock().unwrap().extend(command.split(' ').nth(2).map(str::to_owned));
        let mut listen = |challenge: &str| {
            let response = ask(challenge)?;
            heard.lock().unwrap().push(response.clone());
            Some(response)
        };
        suspicious(echo, command, &mut listen)
    };
    let up = FakeMx::start(host(mechanism, gate));
    let route = format!(
        "domain = \"*\"\nrelay = [\"[127.0.0.1]:{}\"]\ntls = \"off\"\nusername = \"me\"\n{key} = {file:?}",
        up.address.port()
    );
    let mut relay = Relay::prepare(world.configured(Config::new().route(&route)));
    relay.add_user();
    relay.spawn_logging("debug");
    relay.wait_until_ready();
    let id = relay.submit(SENDER, &["you@far.test"], &mail("waits"));
    wait_for_attempts(&relay, "you@far.test", "deferred", 1);
    let found = lines(&dialogues(&relay, &id).remove(0));
    let left_out = "(the host repeated the login; its words are left out)";
    let refusal = match echo {
        Echo::AsItIs => format!("-- 451 4.5.0 malformed reply while logging in: \"{left_out}\""),
        _ => format!("S: 535 5.7.8 {left_out}"),
    };
    for words in [format!("C: AUTH {mechanism} …"), refusal] {
        assert!(found.contains(&words), "{words}: {found:#?}");
    }
    // With the challenge and the proof passwords could be tried at leisure.
    assert!(found.iter().all(|line| !line.starts_with("S: 334") || line == "S: 334 …"), "{found:#?}");
    relay.stop();
    let mut secrets = responses.lock().unwrap().clone();
    assert!(!secrets.is_empty());
    secrets.extend(secrets.clone().iter().map(|one| one.to_lowercase()));
    // What a part of a response says is a part of a secret.
    let parts = |one: &String| -> Vec<String> {
        one.as_bytes().chunks(8).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    };
    secrets = secrets.iter().flat_map(parts).collect();
    secrets.extend([SECRET.to_owned(), base64(SECRET)]);
    secrets.retain(|one| one.len() >= 8);
    let mut places = vec![("the log", relay.log().into_bytes())];
    for name in ["queue.db", "queue.db-wal"] {
        places.extend(std::fs::read(relay.path(name)).ok().map(|bytes| (name, bytes)));
    }
    assert!(places.iter().any(|(name, bytes)| *name == "queue.db" && memchr_of(bytes, left_out.as_bytes())));
    for (name, bytes) in &places {
        for secret in &secrets {
            assert!(!memchr_of(bytes, secret.as_bytes()), "{mechanism}, {echo:?}: {secret} is in {name}");
        }
    }
    drop(up);
}

fn memchr_of(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}
