//! Changes that are for many: selected by filters, looked at first, asked about; lists that say what they leave out.

use std::process::{Command, Stdio};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, run_to_end, wait_for};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

/// A stopped relay whose mail waits: 101 recipients of one message at a.test, one of another at b.test.
fn waiting() -> (World, [FakeMx; 2], Relay) {
    let mut world = World::new();
    let script = |reply| Script::new().on(At::Rcpt("@"), Act::Say(reply));
    let hosts = [
        world.host("a.test", script("451 4.7.1 50%_off *later*")),
        world.host("b.test", script("451 4.2.2 mailbox full")),
    ];
    let mut relay = world.relay(Config::new());
    let many: Vec<String> = (0..101).map(|n| format!("u{n}@a.test")).collect();
    relay.submit(SENDER, &many.iter().map(String::as_str).collect::<Vec<_>>(), &mail("many"));
    relay.submit("other@b.test", &["you@b.test"], &mail("one"));
    relay.wait_until("all to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts >= 1", []) == 102).then_some(())
    });
    relay.stop();
    (world, hosts, relay)
}

fn held(relay: &Relay) -> i64 {
    relay.db().number("SELECT count(*) FROM recipients WHERE state = 'held'", [])
}

#[test]
fn a_change_for_more_than_a_hundred_needs_a_yes_and_one_line_of_the_record() {
    let (_world, _hosts, relay) = waiting();
    let refused = relay.run(&["queue", "hold", "--all"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("hold 102 recipients of 2 messages in 2 lanes") && said.contains("--yes"),
        "{said}"
    );
    let looked = relay.run_ok(&["queue", "hold", "--domain", "*.TEST", "--dry-run"]);
    assert!(
        looked.contains("102 recipients of 2 messages in 2 lanes") && looked.contains("and 92 more"),
        "{looked}"
    );
    let looked = relay.json(&["queue", "remove", "--sender", "other@*", "--dry-run"]);
    assert_eq!((&looked[0]["recipients"], looked[0]["first"].as_array().unwrap().len()), (&1.into(), 1));
    assert_eq!(held(&relay), 0, "nothing was changed yet");

    relay.run_ok(&["queue", "hold", "--reply", "50%_OFF *LATER", "--yes"]);
    assert_eq!(held(&relay), 101);
    relay.run_ok(&["queue", "release", "--recipient", "U1*@a.test", "--state", "held"]);
    assert_eq!(held(&relay), 101 - 12);
    let done = relay.json(&["queue", "bounce", "--mx", "mx.b.test", "--lane", "b.test", "--older", "0s"]);
    assert_eq!((&done[0]["action"], &done[0]["recipients"]), (&"bounce".into(), &1.into()));
    let record = relay.db().rows("SELECT action || ' ' || target, count FROM operator_log ORDER BY id", []);
    let wanted = [
        "hold reply=\"*50%_OFF *LATER*\"|101",
        "release recipient=U1*@a.test state=held|12",
        "bounce mx=mx.b.test lane=b.test older=0s|1",
    ];
    assert_eq!(record, wanted);
}

#[test]
fn a_list_says_how_many_it_leaves_out() {
    let (_world, _hosts, relay) = waiting();
    let list = relay.run_ok(&["queue", "list", "--limit", "5"]);
    assert!(list.ends_with("(and 97 more: 5 of 102 are shown; --limit says how many)\n"), "{list}");
    let lines = relay.json(&["queue", "list", "--limit", "5"]);
    assert_eq!((lines.len(), &lines[5]), (6, &serde_json::json!({ "shown": 5, "total": 102 })));
    let lines = relay.json(&["queue", "list", "--domain", "b.test", "--limit", "1"]);
    assert_eq!(
        (lines.len(), &lines[0]["recipient"]),
        (1, &"you@b.test".into()),
        "all of it: nothing is said"
    );
    let some = relay.json(&["queue", "summary", "--sender", "other*"]);
    assert_eq!((&some[0]["recipients"], &some[0]["messages"]), (&1.into(), &1.into()), "{some:?}");
}

/// Runs it with a terminal of 80 columns on all sides.
fn at_a_terminal(relay: &Relay, words: &str, environment: (&str, &str), typed: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_postrider");
    let mut command = std::process::Command::new("script");
    let line = format!("stty cols 80 -echo; {binary} --config postrider.toml {words}");
    command.args(["-qec", &line, "/dev/null"]).current_dir(relay.path("")).stderr(Stdio::piped());
    command.env("TERM", "xterm").env_remove("NO_COLOR").env(environment.0, environment.1);
    String::from_utf8_lossy(&run_to_end(command, typed.as_bytes()).stdout).into_owned()
}

#[test]
fn at_a_terminal_tables_fit_and_many_are_asked_about() {
    let (_world, _hosts, relay) = waiting();
    if !installed("script") {
        return;
    }
    let coloured = at_a_terminal(&relay, "queue list", ("LANG", "C"), "");
    assert!(coloured.contains("\x1b[1mID\x1b[0m"), "{coloured}");
    let plain = at_a_terminal(&relay, "queue list", ("NO_COLOR", "1"), "");
    assert!(!plain.contains('\x1b') && !plain.contains("SENDER") && plain.contains("you@b.test"), "{plain}");
    let widest =
        plain.lines().filter(|line| !line.starts_with('(')).map(|line| line.trim_end().chars().count()).max();
    assert!(widest <= Some(80), "{widest:?}\n{plain}");

    let no = at_a_terminal(&relay, "queue hold --all", ("LANG", "C"), "n\n");
    assert!(no.contains("hold 102 recipients of 2 messages in 2 lanes? [y/N]"), "{no}");
    assert!(no.contains("nothing was changed") && held(&relay) == 0, "{no}");
    let yes = at_a_terminal(&relay, "queue hold --all", ("LANG", "C"), "y\n");
    assert!(yes.contains("102 recipients held") && held(&relay) == 102, "{yes}");
}

/// Two thousand more wait.
fn with_many(relay: &Relay) {
    relay.db_for_writing().execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
         INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
         SELECT (SELECT max(id) FROM recipients) + n, (SELECT min(id) FROM messages), 'v' || n || '@a.test', 'a.test', 9999999999
         FROM n",
        [],
    );
}

#[test]
fn users_and_tags_are_found_and_selected_in_the_case_that_they_have() {
    let (_world, _hosts, relay) = waiting();
    relay
        .db_for_writing()
        .execute("UPDATE messages SET user = 'app', tag = 'Shop/1' WHERE sender LIKE 'other%'", []);
    for (filter, wanted) in [
        (&["--tag", "Shop/1"][..], 1),
        (&["--tag", "shop/1"], 0),
        (&["--tag", "Shop*"], 1),
        (&["--tag", "shop*"], 0),
        (&["--user", "app"], 1),
        (&["--user", "APP"], 0),
        (&["--user", "a*"], 1),
        (&["--user", "A*"], 0),
    ] {
        assert_eq!(relay.json(&[&["queue", "list"], filter].concat()).len(), wanted, "{filter:?}");
        if filter[0] == "--tag" {
            let found = relay.run(&[&["queue", "find"], filter].concat());
            assert_eq!(found.status.success(), wanted == 1, "{filter:?}");
        }
    }
}

#[test]
fn of_several_ids_those_that_are_there_are_changed_and_the_others_told() {
    let (_world, _hosts, relay) = waiting();
    let id = relay.db().row("SELECT queue_id FROM queue WHERE recipient = 'you@b.test'", []).unwrap();
    for words in [["queue", "hold", "--dry-run"], ["queue", "hold", "--yes"]] {
        let done = relay.run(&[&words[..], &["00000000001", &id, "00000000002", &id]].concat());
        let (told, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(told.contains("1 recipient") && said.contains("00000000001, 00000000002"), "{told}{said}");
    }
    assert_eq!(held(&relay), 1);
    let row = relay.db().rows("SELECT target, count FROM operator_log", []);
    assert_eq!(row, [format!("{id}|1")]);
}

#[test]
fn a_change_that_fails_half_way_says_and_records_how_far_it_came() {
    let (_world, _hosts, relay) = waiting();
    with_many(&relay);
    relay.db_for_writing().execute(
        "CREATE TRIGGER broken BEFORE DELETE ON recipients WHEN old.address = 'v1500@a.test'
         BEGIN SELECT RAISE(ABORT, 'this one cannot go'); END",
        [],
    );
    let failed = relay.run(&["queue", "remove", "--all", "--yes"]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("1000 recipients removed of 2102, then: ") && said.contains("cannot go"), "{said}");
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients", []), 1_102);
    let row = "SELECT action, target, count, logged FROM operator_log";
    assert_eq!(relay.db().rows(row, []), ["remove|all|1000|0"]);
}

#[test]
fn ctrl_c_ends_a_change_between_two_parts_and_the_record_says_how_far_it_came() {
    let (_world, _hosts, relay) = waiting();
    with_many(&relay);
    // Nobody else can write meanwhile.
    let db = relay.db_for_writing();
    db.execute("BEGIN IMMEDIATE", []);
    let mut command = relay.command(&["queue", "hold", "--all", "--yes"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    wait_for("a handler of SIGINT", SOON, || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        (u64::from_str_radix(caught, 16).unwrap() & 2 != 0).then_some(())
    });
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    db.execute("COMMIT", []);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let held = held(&relay);
    assert!(held < 2_102 && ended.status.code() == Some(1), "{held} {said}");
    assert!(said.contains(&format!("{held} recipients held of 2102, then: interrupted")), "{said}");
    let rows = relay.db().rows("SELECT count, logged FROM operator_log", []);
    assert_eq!(rows, Vec::from_iter((held > 0).then(|| format!("{held}|0"))));
}
