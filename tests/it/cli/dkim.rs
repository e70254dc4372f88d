//! `postrider dkim` and what `check` says of keys: from a new key to a signature that verifies by the printed record.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use crate::harness::dkim::judge;
use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Config, Relay, World};

/// The strings of the TXT record in a zone line that a command printed, and its name.
fn record_of(said: &str) -> (String, Vec<String>) {
    let line = said.lines().find(|line| line.contains(" IN TXT ")).unwrap_or_else(|| panic!("{said}"));
    let (name, strings) = line.split_once(". IN TXT ").unwrap();
    let strings: Vec<String> = strings.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(strings.iter().all(|string| string.len() <= 255), "{line}");
    (name.to_owned(), strings)
}

/// The `[[dkim]]` that was printed, as a config has it.
fn table_of(said: &str) -> &str {
    let (_, table) = said.split_once("[[dkim]]\n").unwrap_or_else(|| panic!("{said}"));
    table.split("\n\n").next().unwrap()
}

fn publish(world: &mut World, (name, strings): &(String, Vec<String>)) {
    let strings: Vec<&[u8]> = strings.iter().map(|string| string.as_bytes()).collect();
    world.zone(|zone| zone.txt(name, &strings));
}

/// The lines of `check` about keys.
fn findings(relay: &Relay) -> Vec<String> {
    let said = relay.run(&["check"]).stdout;
    let said = String::from_utf8(said).unwrap();
    said.lines().filter(|line| line.contains(" dkim: ")).map(str::to_owned).collect()
}

#[test]
fn a_new_key_signs_once_the_printed_lines_are_in_the_config_and_verifies_by_the_printed_record() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let mut records = BTreeMap::new();
    let mut config = relay.config();
    for arguments in [
        &["dkim", "new", "example.com"][..],
        &["dkim", "new", "Example.COM", "--algorithm", "ed25519", "--selector", "ed"],
        &["dkim", "new", "example.com", "--bits", "4096"],
    ] {
        let said = relay.run_ok(arguments);
        let record = record_of(&said);
        assert!(said.contains(&record.1.concat()), "in one piece too: {said}");
        publish(&mut world, &record);
        records.insert(record.0, record.1.concat());
        config = config.dkim(table_of(&said));
    }
    let names: Vec<&str> = records.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["ed._domainkey.example.com", "s1._domainkey.example.com", "s2._domainkey.example.com"]
    );
    for selector in ["s1", "ed", "s2"] {
        let file = relay.path(&format!("dkim/example.com.{selector}.pem"));
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o027, 0, "{}", file.display());
    }
    relay.write_config(&config.set("hostname", "\"relay.example.com\""));
    relay.add_user();
    relay.spawn();
    relay.wait_until_ready();
    relay.submit("me@example.com", &["you@a.test"], b"From: me@example.com\r\nSubject: x\r\n\r\nx\r\n");
    let judged = judge(&mx.wait_for_messages(1, SOON)[0].content, &records);
    let names: Vec<&str> = judged.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["example.com/s1", "example.com/ed", "example.com/s2"]);
    assert!(judged.iter().all(|(_, verdict)| verdict.is_ok()), "{judged:?}");
    let said = findings(&relay);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|line| line.starts_with("ok ") && line.contains(" has our key (")), "{said:?}");
    let shown = relay.run_ok(&["dkim", "show", "example.com"]);
    assert_eq!(record_of(&shown).1.concat(), records["s1._domainkey.example.com"]);
}

#[test]
fn a_key_is_not_written_over_and_wrong_words_are_told() {
    let relay = Relay::prepare(Config::new());
    relay.run_ok(&["dkim", "new", "example.com", "--selector", "a"]);
    let file = relay.path("dkim/example.com.a.pem");
    let before = std::fs::read(&file).unwrap();
    for (arguments, code, words) in [
        (&["dkim", "new", "example.com", "--selector", "a"][..], 1, "never overwritten"),
        (&["dkim", "new", "[192.0.2.1]"], 2, "is no domain"),
        (&["dkim", "new", "example.com", "--selector", "../a"], 2, "is no selector"),
        (&["dkim", "new", "../../example.com"], 2, "is no domain"),
        (&["dkim", "new", "example.com", "--algorithm", "ed25519", "--bits", "2048"], 2, "--bits is for rsa"),
        (&["dkim", "new", "example.com", "--bits", "1024"], 2, "1024"),
        (&["dkim", "show"], 1, "postrider dkim new"),
        (&["dkim", "show", "example.com"], 1, "postrider dkim new example.com"),
    ] {
        let output = relay.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

/// Each state of DNS, and keys that run out: what is wrong, and the line to publish.
#[test]
fn check_tells_what_keeps_receivers_from_verifying() {
    let mut world = World::new();
    let relay = Relay::prepare(world.configured(Config::new().set("hostname", "\"relay.b.test\"")));
    let said = relay.run_ok(&["dkim", "new", "example.com", "--algorithm", "ed25519"]);
    let (name, strings) = record_of(&said);
    let (table, text) = (table_of(&said).to_owned(), strings.concat());
    relay.write_config(&relay.config().dkim(&table));
    let bounces = "warning  dkim: bounces come from relay.b.test, which has no key";
    let line = format!("{name}. IN TXT \"{text}\"");
    let none = findings(&relay);
    assert!(none[0].starts_with(&format!("problem  dkim: {name}: has no record")), "{none:?}");
    assert!(none[1].starts_with(bounces), "{none:?}");
    let said = String::from_utf8(relay.run(&["dkim", "show"]).stdout).unwrap();
    assert!(said.contains(&format!("add    {line}\n")), "{said}");
    assert_eq!(relay.run(&["check"]).status.code(), Some(1));
    assert_eq!(relay.run(&["dkim", "show"]).status.code(), Some(1));
    publish(&mut world, &(name.clone(), vec!["v=DKIM1; k=ed25519; p=".to_owned()]));
    assert!(findings(&relay)[0].contains("withdrawn"), "{:?}", findings(&relay));
    publish(&mut world, &(name, strings));
    assert!(findings(&relay)[0].contains("has several records"), "{:?}", findings(&relay));

    let (now, day) = (jiff::Timestamp::now(), jiff::SignedDuration::from_hours(24));
    for (until, words) in [
        (now + day * 3, "warning  dkim: from "),
        (now - day, "problem  dkim: no key of example.com is in force: its mail waits"),
    ] {
        relay.write_config(&relay.config().dkim(&format!("{table}\nuntil = \"{until}\"")));
        assert!(findings(&relay)[0].starts_with(words), "{:?}", findings(&relay));
    }
}
