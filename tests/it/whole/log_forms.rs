//! The log as the config and `RUST_LOG` want it: objects, addresses masked, and as much of it as was asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log::RELOADED;
use crate::harness::relay::{Config, PASSWORD, Relay, World, mail, wait_for};

/// Addresses that mail comes from and goes to; no other word has these in it.
const SENDER: &str = "wilhelmina@app.test";
const TAKEN: &str = "Ottokar+News@a.test";
const UNKNOWN: &str = "kunigunde@a.test";
const GREYLISTED: &str = "\"balthasar b\"@a.test";
const LOCAL_PARTS: [&str; 6] = ["wilhelmina", "ottokar", "kunigunde", "balthasar", "eusebia", "theophil"];

/// A host that names whom it refuses, with the domain and without.
fn host(world: &mut World) -> FakeMx {
    world.host(
        "a.test",
        Script::new()
            .on(At::Rcpt("kunigunde"), Act::Say("550 5.1.1 <kunigunde@a.test>: KUNIGUNDE is not known here"))
            .on(At::Rcpt("balthasar"), Act::Say("450 4.2.1 balthasar b is away, ask eusebia@b.test")),
    )
}

/// Whole deliveries: taken, refused for good and bounced, deferred, kicked and given back, and what clients do wrong.
fn deliver(relay: &Relay) -> String {
    let id = relay.submit(SENDER, &[TAKEN, UNKNOWN, GREYLISTED], &mail("hello"));
    relay.wait_until("the attempts", SOON, |db| {
        let tried = db.number("SELECT count(DISTINCT recipient_id) FROM attempts", []) >= 3;
        // The sender's own domain does not exist: its bounce has nowhere to go.
        (tried && db.number("SELECT count(*) FROM history WHERE sender = ''", []) == 1).then_some(())
    });
    let mut client = relay.client();
    client.log_in("theophil@app.test");
    client.expect("MAIL FROM:<eusebia@other.test>", "553");
    client.expect("MAIL FROM:<theophil@app.test>", "250");
    client.expect("RCPT TO:<theophil@b..test>", "501");
    let mut client = relay.client();
    let wrong = STANDARD.encode(format!("\0theophil@app.test\0{PASSWORD}wrong"));
    client.expect(&format!("AUTH PLAIN {wrong}"), "535 5.7.8");
    relay.run_ok(&["queue", "bounce", &id]);
    relay.wait_until_empty();
    for line in
        ["attempt\"", "returned", "audit: bounce", "refused RCPT", "authentication failed", "nobody is told"]
    {
        let plain = line.trim_matches('"').replace("attempt", "to=<");
        wait_for(line, SOON, || (!relay.logged(&[&plain]).is_empty()).then_some(()));
    }
    id
}

fn relay(world: &World, config: Config, level: &str) -> Relay {
    let mut relay = Relay::prepare(world.configured(config));
    relay.add_user();
    relay.add_user_with("theophil@app.test", &["--senders", "theophil@app.test"]);
    relay.spawn_logging(level);
    relay.wait_until_ready();
    relay
}

fn objects(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn each_line_is_an_object_at_whatever_level() {
    let mut world = World::new();
    let mx = host(&mut world);
    let mut relay = relay(&world, Config::new().set("log.format", "\"json\""), "debug");
    let id = deliver(&relay);
    // A reload that fails says so over several lines.
    std::fs::write(relay.path("postrider.toml"), "nonsense = 1\nmore = 2\n").unwrap();
    relay.signal("HUP");
    wait_for("the failed reload", SOON, || {
        (!relay.logged(&["the new config is not used"]).is_empty()).then_some(())
    });
    relay.stop();
    let objects = objects(&relay.log());
    let of = |event: &str| objects.iter().filter(|object| object["event"] == event).collect::<Vec<_>>();
    let accepted = of("accepted")[0];
    assert_eq!((&accepted["queue_id"], &accepted["fields"]["from"]), (&id.as_str().into(), &SENDER.into()));
    assert_eq!((&accepted["fields"]["nrcpt"], &accepted["fields"]["user"]), (&3.into(), &Value::Null));
    let failed = of("attempt").into_iter().find(|object| object["fields"]["outcome"] == "failed").unwrap();
    assert_eq!((&failed["level"], &failed["fields"]["to"]), (&"WARN".into(), &UNKNOWN.into()));
    assert!(
        failed["fields"]["ms"].is_u64()
            && failed["fields"]["reply"].as_str().unwrap().starts_with("550 5.1.1")
    );
    let deferred =
        of("attempt").into_iter().find(|object| object["fields"]["outcome"] == "deferred").unwrap();
    assert!(deferred["fields"]["next"].is_u64(), "{deferred}");
    assert_eq!(of("audit")[0]["fields"]["count"], 1);
    assert_eq!(of("refused").len(), 2);
    assert!(of("turned_away").iter().any(|object| object["fields"]["client"] == "127.0.0.1"));
    let dialogue = |object: &&Value| object["level"] == "DEBUG" && object["target"].as_str().is_some();
    assert!(objects.iter().filter(dialogue).count() > 20);
    drop(mx);
}

#[test]
fn a_reload_changes_the_form() {
    let world = World::new();
    let mut relay = relay(&world, Config::new(), "info");
    relay.write_config(&relay.config().set("log.format", "\"json\""));
    relay.signal("HUP");
    wait_for("the reload", SOON, || (!relay.logged(&[RELOADED]).is_empty()).then_some(()));
    relay.stop();
    let log = relay.log();
    let (text, json): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.starts_with('['));
    assert!(
        text.iter().any(|line| line.contains(" started, "))
            && !text.iter().any(|line| line.contains("stopped"))
    );
    let json = objects(&json.join("\n"));
    assert_eq!((json[0]["message"].as_str(), &json[0]["level"]), (Some(RELOADED), &"INFO".into()));
    assert_eq!(json.last().unwrap()["message"], "stopped");
}

#[test]
fn no_local_part_is_logged_where_they_are_masked() {
    for format in ["text", "json"] {
        let mut world = World::new();
        let mx = host(&mut world);
        let config = Config::new().set("log.mask_addresses", "true").set("log.format", format!("{format:?}"));
        let mut relay = relay(&world, config, "info");
        let id = deliver(&relay);
        relay.stop();
        let log = relay.log().to_lowercase();
        for name in LOCAL_PARTS {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(name)).collect();
            assert!(lines.is_empty(), "{format}: {name}: {lines:?}");
        }
        assert!(!relay.logged(&[&id, "***@a.test", "is not known here"]).is_empty(), "{log}");
        assert!(relay.run_ok(&["queue", "show", &id]).contains(UNKNOWN), "the queue has it");
        drop(mx);
    }
}

#[test]
fn as_much_is_logged_as_rust_log_asks_for() {
    let world = World::new();
    let log_of = |level: &str| {
        let mut relay = relay(&world, Config::new(), level);
        relay.client().expect("AUTH PLAIN AAAA", "5");
        relay.stop();
        relay.log()
    };
    let debug = log_of("debug");
    assert!(debug.contains("C: AUTH PLAIN") && debug.contains(" started, "), "{debug}");
    let ours = log_of("postrider=debug");
    assert!(ours.contains("C: AUTH PLAIN") && ours.contains(" started, "), "{ours}");
    let room = log_of("postrider::submission=debug");
    assert!(room.contains("C: AUTH PLAIN") && !room.contains(" started, "), "{room}");
    let both = log_of("info,postrider::submission=debug");
    assert!(both.contains("C: AUTH PLAIN") && both.contains(" started, "), "{both}");
    let warn = log_of("warn");
    assert!(!warn.contains(" INFO ") && !warn.contains("C: "), "{warn}");
    assert_eq!(log_of("off"), "");
    let slip = log_of("debgu");
    let first = slip.lines().next().unwrap();
    assert!(first.contains(" ERROR] RUST_LOG: \"debgu\" is not understood"), "{slip}");
    assert!(slip.contains(" started, ") && !slip.contains("C: "), "{slip}");
    assert!(log_of("off,postrider=loud").contains("\"postrider=loud\" is not understood"));
}
