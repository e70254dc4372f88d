//! The command line round a queue: with the relay running and without, read by people and by programs.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, run_to_end};
use crate::harness::sender::SENDER;

/// A relay with two messages that were put off for an hour: to `you@a.test` and to `she@b.test`; their ids.
fn waiting() -> (World, [FakeMx; 2], Relay, [String; 2]) {
    let mut world = World::new();
    let script = || Script::new().first(1, At::Rcpt("@"), Act::Say("451 4.7.1 \x1b[31mlater"));
    let hosts = [world.host("a.test", script()), world.host("b.test", script())];
    let relay = world.relay(Config::new());
    let ids = ["you@a.test", "she@b.test"].map(|to| relay.submit(SENDER, &[to], &mail("waits")));
    relay.wait_until("both to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 2).then_some(())
    });
    (world, hosts, relay, ids)
}

/// The exit code and standard error of a run that must fail.
fn failure(output: &Output) -> (i32, String) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should have failed");
    (output.status.code().expect("not by a signal"), stderr)
}

/// What can be asked, whether the relay runs or not.
fn assert_questions_are_answered(relay: &Relay, [id, other]: &[String; 2]) {
    let list = relay.run_ok(&["queue", "list"]);
    for part in [id, other, "you@a.test", "she@b.test", SENDER, "451 4.7.1"] {
        assert!(list.contains(part), "no {part:?} in\n{list}");
    }
    assert!(!list.contains('\x1b'), "a host must not paint the operator's terminal: {list:?}");
    let lines = relay.json(&["queue", "list"]);
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().any(|line| line["queue_id"] == **id && line["recipient"] == "you@a.test"),
        "{lines:?}"
    );
    let only = relay.json(&["queue", "list", "--domain", "b.test"]);
    assert!(only.len() == 1 && only[0]["queue_id"] == **other, "{only:?}");

    let shown = relay.run_ok(&["queue", "show", id]);
    for part in [id, "you@a.test", "mx.a.test", "rcpt", "451 4.7.1", "Subject: waits"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(!shown.contains("she@b.test"), "{shown}");
    let shown = relay.json(&["queue", "show", id]);
    let recipient = &shown[0]["recipients"][0];
    assert_eq!((shown.len(), &recipient["recipient"]), (1, &"you@a.test".into()), "{shown:?}");
    assert_eq!(recipient["tries"][0]["phase"], "rcpt", "{shown:?}");

    let summary = relay.run_ok(&["queue", "summary"]);
    assert!(summary.contains("a.test") && summary.contains("b.test"), "{summary}");
    let summary = relay.json(&["queue", "summary"]);
    assert_eq!(summary[0]["recipients"], 2, "{summary:?}");

    let (code, stderr) = failure(&relay.run(&["queue", "show", "01K6GXFMRQ0"]));
    assert!(code == 1 && stderr.contains("01K6GXFMRQ0") && stderr.lines().count() == 1, "{code}: {stderr}");
    let (code, _) = failure(&relay.run(&["queue", "show"]));
    assert_eq!(code, 2);
    let (code, _) = failure(&relay.run(&["queue", "nonsense"]));
    assert_eq!(code, 2);
}

#[test]
fn the_queue_can_be_asked_about_with_and_without_the_relay() {
    let (_world, _hosts, mut relay, ids) = waiting();
    assert_questions_are_answered(&relay, &ids);
    relay.stop();
    assert_questions_are_answered(&relay, &ids);
}

#[test]
fn what_is_done_to_the_queue_of_a_running_relay_is_noticed() {
    let (_world, [a, b], relay, [id, other]) = waiting();
    relay.run_ok(&["queue", "hold", &id]);
    let state = "SELECT state FROM recipients WHERE address = 'you@a.test'";
    assert_eq!(relay.db().row(state, []).as_deref(), Some("held"));
    // Everything is to be tried now, but not what is held.
    relay.run_ok(&["queue", "kick", &other]);
    b.wait_for_messages(1, SOON);
    relay.wait_until("the other's end", SOON, |db| db.ended("she@b.test"));
    assert_eq!(a.messages(), []);

    relay.run_ok(&["queue", "release", &id]);
    relay.run_ok(&["queue", "kick", "--domain", "a.test"]);
    a.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    assert_eq!(relay.db().ended("you@a.test").as_deref(), Some("delivered"));
}

#[test]
fn what_is_removed_from_a_running_relay_is_gone_and_nobody_is_told() {
    let (_world, [a, _b], relay, [id, other]) = waiting();
    relay.run_ok(&["queue", "remove", &id]);
    assert_eq!(relay.db().ended("you@a.test").as_deref(), Some("removed"));
    assert_eq!(relay.db().rows("SELECT queue_id FROM messages", []), [other]);
    assert_eq!(relay.db().rows("SELECT * FROM stuck", []), Vec::<String>::new());
    let mut client = relay.client();
    client.expect("ETRN a.test", "251");
    assert_eq!(a.messages(), []);
}

#[test]
fn the_queue_can_be_changed_without_the_relay() {
    let (_world, [a, b], mut relay, [id, other]) = waiting();
    relay.stop();
    relay.run_ok(&["queue", "remove", &id]);
    relay.run_ok(&["queue", "kick", "--all"]);
    let (code, _) = failure(&relay.run(&["queue", "remove", &id]));
    assert_eq!(code, 1, "it is gone");
    relay.start_again();
    b.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    assert_eq!(a.messages(), []);
    let lines = relay.json(&["queue", "list", "--state", "delivered"]);
    assert!(lines.len() == 1 && lines[0]["queue_id"] == *other, "{lines:?}");
}

#[test]
fn a_second_relay_on_the_same_queue_is_refused_and_the_first_goes_on() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let first = world.relay(Config::new());
    let queue = first.path("queue.db");
    // Its own listeners, so that it is the queue that is in the way.
    let second = Relay::prepare(world.configured(Config::new()));
    second.write_config(&second.config().set("queue.path", format!("{queue:?}")));
    let (code, stderr) = failure(&second.run(&["serve"]));
    assert_eq!(code, 1, "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("queue.db"), "which queue: {stderr}");
    first.submit(SENDER, &["you@a.test"], &mail("goes on"));
    mx.wait_for_messages(1, SOON);
}

#[test]
fn a_port_that_is_taken_stops_the_start_with_its_name() {
    let world = World::new();
    let relay = Relay::prepare(world.configured(Config::new()));
    let _taken = std::net::TcpListener::bind(relay.starttls).unwrap();
    let (code, stderr) = failure(&relay.run(&["serve"]));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&relay.starttls.to_string()), "{stderr}");
}

/// Every line of the demo's first steps that is the same at each run stands in README's picture of it.
fn assert_pictured(demo: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/demo.svg");
    let picture = std::fs::read_to_string(path).unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let pictured: Vec<String> = picture
        .lines()
        .map(|line| {
            let text: String =
                line.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect();
            words(&text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        })
        .collect();
    for line in demo.lines().take_while(|line| !line.starts_with("== The bounce")) {
        let is_table = line.starts_with("ID ") || line.contains(|c: char| c.is_ascii_digit());
        let is_same_each_time = line.starts_with("== ") || !is_table;
        assert!(
            !is_same_each_time || pictured.contains(&words(line)),
            "{line:?} is not in docs/demo.svg: make it again with packaging/picture"
        );
    }
}

#[test]
fn the_demo_shows_the_main_job_in_time_and_leaves_nothing() {
    for is_kept in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.arg("demo").env("TMPDIR", folder.path()).env_remove("RUST_LOG").current_dir(folder.path());
        command.args(is_kept.then_some("--keep"));
        let began = Instant::now();
        let output = run_to_end(command, b"");
        let took = began.elapsed();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
        assert!(took < Duration::from_secs(15), "{took:?}");
        for part in [
            "accept.test",
            "grey.test",
            "refuse.test",
            "status page  http://127.0.0.1:",
            "queued as",
            "451 4.7.1",
            "550 5.1.1",
            "ETRN grey.test",
            "Content-Type: multipart/report",
            "$ postrider queue list",
            "`postrider queue show ID`",
        ] {
            assert!(stdout.contains(part), "no {part:?} in\n{stdout}\n{stderr}");
        }
        assert_pictured(&stdout);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, usize::from(is_kept), "{stdout}");
        let queue = stdout.split_whitespace().find(|word| word.ends_with("queue.db"));
        assert_eq!(queue.is_some_and(|path| std::path::Path::new(path).exists()), is_kept, "{stdout}");
    }
}
