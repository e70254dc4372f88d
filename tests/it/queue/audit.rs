//! Who changed what: a row and a line of the log for each change that somebody makes with the command line.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts};

fn uid() -> String {
    let output = std::process::Command::new("id").arg("-u").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn every_change_has_a_row_and_a_line_with_who_what_and_how_many() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let mut relay = world.relay(Config::new());
    for name in ["one@a.test", "two@a.test"] {
        relay.submit(SENDER, &[name], &mail("waits"));
        wait_for_attempts(&relay, name, "deferred", 1);
    }
    let id = relay.db().row("SELECT queue_id FROM queue WHERE recipient = 'one@a.test'", []).unwrap();
    relay.run_ok(&["queue", "hold", "--domain", "a.test", "--reason", "wrong text"]);
    relay.run_ok(&["queue", "release", "--domain", "a.test"]);
    relay.run_ok(&["queue", "kick", "--all"]);
    relay.run_ok(&["queue", "remove", &id]);
    relay.add_user_with("ann", &[]);
    relay.run_ok(&["user", "remove", "ann"]);
    // Nothing is held there: nothing was changed.
    relay.run_ok(&["queue", "hold", "--domain", "other.test"]);
    let log = relay.run_ok(&["queue", "log", "--since", "1h", "--limit", "6"]);
    let of_hold = log.lines().last().unwrap();
    assert!(
        of_hold.ends_with("  wrong text") && of_hold.contains("  a.test  ") && of_hold.contains(" (uid "),
        "{log}"
    );
    let lines = relay.json(&["queue", "log", "--limit", "2"]);
    assert_eq!((&lines[0]["action"], &lines[2]["total"]), (&"user remove".into(), &6.into()), "{lines:?}");
    assert_eq!(relay.run(&["queue", "log", "--since", "soon"]).status.code(), Some(2));
    let login = relay.db().row("SELECT login FROM operator_log", []).unwrap();
    let kicks = relay.run_ok(&["queue", "kicks"]);
    assert!(kicks.contains(&format!("  {login}  queue kick\n")), "{kicks}");
    relay.stop();
    // Without a relay: its next one tells.
    relay.run_ok(&["queue", "bounce", "--all"]);
    let wanted = [
        ("hold", "a.test", 2),
        ("release", "a.test", 2),
        ("kick", "all", 2),
        ("remove", id.as_str(), 1),
        ("user add", "ann", 1),
        ("user remove", "ann", 1),
        ("bounce", "all", 1),
    ];
    let rows = relay.db().rows(
        "SELECT action, target, count, uid, login <> '', abs(unixepoch() - at) < 60 FROM operator_log ORDER BY id",
        [],
    );
    let uid = uid();
    let row = |(action, target, count): &(&str, &str, i64)| format!("{action}|{target}|{count}|{uid}|1|1");
    assert_eq!(rows, wanted.iter().map(row).collect::<Vec<_>>());

    relay.start_again();
    for (action, target, count) in wanted {
        let line = format!("INFO ] audit: {action} {target}: count={count} login=");
        let lines = wait_for(&line, SOON, || Some(relay.logged(&[&line])).filter(|lines| !lines.is_empty()));
        assert!(lines.len() == 1 && lines[0].ends_with(&format!(" uid={uid}")), "{lines:?}");
    }
    relay.stop();
    assert_eq!(relay.logged(&["audit: "]).len(), wanted.len(), "each once");
    drop(mx);
}
