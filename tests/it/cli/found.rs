//! From an application's own names to its mail, the whole story of a message, and what went through: as an operator
//! asks.

use std::process::Command;

use serde_json::Value;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, Relay, run_to_end};
use crate::harness::sender::{SENDER, text, wait_for_attempts, wait_for_end, world_with_sender};
use crate::harness::skipped::installed;

fn submit(relay: &Relay, to: &[&str], name: &str) -> String {
    let content = format!(
        "Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <{name}@app.test>\r\nX-Postrider-Tag: shop/{name}\r\n\
         Subject: Your order {name}\r\n\r\nhello\r\n"
    );
    relay.submit(SENDER, to, content.as_bytes())
}

/// What happened to a message: what, and to whom.
fn story(shown: &Value) -> Vec<String> {
    let lines = shown["story"].as_array().unwrap();
    let word = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    lines.iter().map(|line| format!("{} {}", word(line, "what"), word(line, "recipient"))).collect()
}

#[test]
fn mail_is_found_by_the_applications_names_and_its_story_is_told() {
    let (mut world, _home) = world_with_sender();
    let mx = world.host(
        "a.test",
        Script::new()
            .on(At::Rcpt("no@"), Act::Say("550 5.1.1 nobody here"))
            .on(At::Rcpt("later@"), Act::Say("451 4.2.1 busy")),
    );
    let relay = world.relay(Config::new().set("log.subject", "true"));
    let gone = submit(&relay, &["yes@a.test", "no@a.test"], "1");
    let waits = submit(&relay, &["later@a.test"], "2");
    wait_for_end(&relay, "yes@a.test", "delivered");
    wait_for_end(&relay, "no@a.test", "failed");
    wait_for_attempts(&relay, "later@a.test", "deferred", 1);

    // No host saw the label, and nothing else is missing.
    let sent = text(&mx.messages()[0]);
    assert!(sent.contains("<1@app.test>\r\nSubject: Your order 1\r\n\r\nhello\r\n"), "{sent}");
    let line = relay.logged(&[&gone, "accepted"]).pop().unwrap();
    for part in ["message-id=<1@app.test>", "tag=shop/1", "subject=Your order 1"] {
        assert!(line.contains(part), "{line}");
    }

    let ids = |words: &[&str]| -> Vec<String> {
        let lines = relay.json(&[&["queue", "find"], words].concat());
        // Where not all is shown, the last line says so.
        let recipients = lines.iter().filter(|line| line["queue_id"].is_string());
        recipients.map(|line| format!("{} {}", line["queue_id"], line["state"]).replace('"', "")).collect()
    };
    let both = [format!("{gone} failed"), format!("{gone} delivered")];
    for words in
        [&["<1@app.test>"][..], &["1@app.test"], &["--tag", "shop/1"], &["--subject", "your ORDER 1"]]
    {
        assert_eq!(ids(words), both, "{words:?}");
    }
    let all = [&[format!("{waits} queued")][..], &both].concat();
    assert_eq!(ids(&["--subject", "Your order"]), all);
    assert_eq!(ids(&["--subject", "*order*"]), all);
    assert_eq!(ids(&["--subject", "Your order", "--limit", "1"]), all[..1]);
    // What waits has another table than what is finished.
    let mixed = relay.run_ok(&["queue", "find", "--subject", "Your order"]);
    let (waiting, finished) = mixed.split_once("FINISHED (UTC)").unwrap();
    assert!(waiting.contains("NEXT") && waiting.contains(&waits) && !waiting.contains(&gone), "{mixed}");
    assert!(finished.matches(&gone).count() == 2 && finished.contains("mx.a.test"), "{mixed}");
    let found = relay.run_ok(&["queue", "find", "2@app.test"]);
    assert!(found.contains(&waits) && found.contains("451 4.2.1 busy"), "{found}");
    for wrong in [&["--tag", ""][..], &["--subject", ""], &[""], &["--tag", "x", "--limit", "0"]] {
        let output = relay.run(&[&["queue", "find"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    for (words, remedy) in [
        (&["3@app.test"][..], "message-id=<3@app.test>"),
        (&["--tag", "x"], "--by tag"),
        (&["--subject", "x"], "'*x*'"),
    ] {
        let output = relay.run(&[&["queue", "find"], words].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && stderr.contains(remedy), "{words:?}: {stderr}");
    }

    assert_stories(&relay, &gone, &waits);
}

/// Of one that was delivered and refused, and of one that waits.
fn assert_stories(relay: &Relay, gone: &str, waits: &str) {
    let shown = &relay.json(&["queue", "show", gone])[0];
    assert_eq!(story(shown)[0], "accepted ");
    let mut rest = story(shown)[1..].to_vec();
    rest.sort();
    let bounce = format!("bounce {SENDER}");
    let mut expected =
        ["delivered yes@a.test", "failed no@a.test", "delivered yes@a.test", "failed no@a.test", &bounce];
    expected.sort();
    assert_eq!(rest, expected);
    let finished = &shown["finished"];
    assert_eq!((&finished["header_message_id"], &finished["tag"]), (&"1@app.test".into(), &"shop/1".into()));
    let taken =
        shown["recipients"].as_array().unwrap().iter().find(|one| one["recipient"] == "yes@a.test").unwrap();
    assert_eq!((&taken["finished_by"], &taken["tls"]), (&"outcome".into(), &"none".into()), "{taken}");
    assert!(taken["source_address"].as_str().is_some_and(|ip| ip.starts_with("127.")), "{taken}");

    relay.run_ok(&["queue", "hold", waits]);
    relay.run_ok(&["queue", "remove", "--domain", "a.test"]);
    let shown = &relay.json(&["queue", "show", waits])[0];
    let expected = ["accepted ", "deferred later@a.test", "hold ", "remove ", "removed later@a.test"];
    assert_eq!(story(shown), expected, "{shown}");
    let page = relay.run_ok(&["queue", "show", waits]);
    for part in ["message-id <2@app.test>", "subject    Your order 2", "tag        shop/2", "by an operator"]
    {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
}

/// By a filter as far as it can be told (a message of another tag has no part in it), and a restore of all that waits.
#[test]
fn changes_by_filter_and_a_restore_are_in_the_story() {
    let (mut world, _home) = world_with_sender();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.2.1 busy")));
    let mut relay = world.relay(Config::new());
    let ids = ["1", "2"].map(|name| submit(&relay, &[&format!("to{name}@a.test")], name));
    ["to1@a.test", "to2@a.test"].iter().for_each(|to| wait_for_attempts(&relay, to, "deferred", 1));
    relay.run_ok(&["queue", "hold", "--tag", "shop/1"]);
    relay.run_ok(&["queue", "release", "--tag", "shop/*"]);
    relay.run_ok(&["queue", "suspend", "--tag", "shop/2"]);
    relay.run_ok(&["queue", "suspend", "--domain", "other.test"]);
    relay.run_ok(&["queue", "resume", "--all"]);
    relay.run_ok(&["queue", "hold", "--tag", "shop/2", "--reply", "busy"]);
    relay.stop();
    relay.run_ok(&["backup", relay.path("copy.db").to_str().unwrap()]);
    relay.run_ok(&["restore", relay.path("copy.db").to_str().unwrap(), "--replace"]);
    relay.run_ok(&["queue", "remove", "--domain", "a.test"]);
    let changes = |id: &str| -> Vec<String> {
        let shown = relay.json(&["queue", "show", id]).remove(0);
        let lines = shown["story"].as_array().unwrap().clone();
        let by_people = lines.iter().filter(|line| line["words"].as_str().unwrap().starts_with("by "));
        let words = by_people.map(|line| {
            let words = line["words"].as_str().unwrap();
            let (_, words) = words.split_once("): ").unwrap();
            format!("{}: {words}", line["what"].as_str().unwrap())
        });
        words.collect()
    };
    let copy = relay.path("copy.db");
    let restore = format!("restore: {}, recipients: 2", copy.display());
    let after = ["release: tag=shop/*, recipients: 1", &restore, "remove: a.test, recipients: 2"];
    assert_eq!(changes(&ids[0]), [&["hold: tag=shop/1, recipients: 1"][..], &after].concat());
    let perhaps = "hold: reply=*busy* tag=shop/2, recipients: 1 (perhaps not of this message)";
    let suspended = ["suspend: tag shop/2, recipients: 1", "resume: tag shop/2", perhaps];
    assert_eq!(changes(&ids[1]), [&after[..1], &suspended, &after[1..]].concat());
}

/// Attempts and their replies, where the reader is a terminal; a pipe has them whole.
#[test]
fn a_message_is_shown_in_80_columns_of_a_terminal() {
    let (mut world, _home) = world_with_sender();
    let reply = "451 4.7.1 Client host rejected: cannot find your reverse hostname; see https://help.test/1";
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(reply)));
    let relay = world.relay(Config::new());
    let id = submit(&relay, &["you@a.test"], "1");
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    let piped = relay.run_ok(&["queue", "show", &id]);
    assert!(piped.contains(&format!("rcpt  deferred  {reply}\n")), "{piped}");
    if !installed("script") {
        return;
    }
    let show = relay.command(&["queue", "show", &id, "--dialogue"]);
    let words = std::iter::once(show.get_program()).chain(show.get_args()).map(|word| word.to_str().unwrap());
    let line = format!("stty columns 80; '{}'", words.collect::<Vec<_>>().join("' '"));
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let output = run_to_end(terminal, b"");
    let shown = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    assert!(output.status.success() && shown.contains("dialogue of the last failed"), "{shown}");
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|columns| (60..=80).contains(&columns)), "{widest:?}: {shown}");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rest = |text: &str| words(text.split_once("recipient you@a.test").unwrap().1);
    assert!(rest(&shown).starts_with(&rest(&piped)[..20]), "nothing is lost: {shown}");
}

#[test]
fn a_report_counts_what_went_through_by_whom_and_why_it_came_back() {
    let (mut world, _home) = world_with_sender();
    let _mx = world.host(
        "a.test",
        Script::new()
            .on(At::Rcpt("no"), Act::Say("550 5.7.1 ab12 you are blocked, see http://x.test/1"))
            .on(At::Rcpt("later@"), Act::Say("451 4.2.1 busy")),
    );
    let relay = world.relay(Config::new());
    submit(&relay, &["yes@a.test", "no1@a.test", "later@a.test"], "1");
    submit(&relay, &["no2@a.test"], "2");
    for (address, state) in [("yes@a.test", "delivered"), ("no1@a.test", "failed"), ("no2@a.test", "failed")]
    {
        wait_for_end(&relay, address, state);
    }
    wait_for_attempts(&relay, "later@a.test", "deferred", 1);
    relay.wait_until("both bounces", SOON, |db| {
        (db.number("SELECT count(*) FROM history WHERE sender = ''", []) == 2).then_some(())
    });
    let numbers = |line: &Value| -> Vec<i64> {
        ["accepted", "delivered", "waiting", "deferred", "bounced", "expired", "removed"]
            .map(|name| line[name].as_i64().unwrap())
            .to_vec()
    };
    let report = &relay.json(&["report", "--since", "1h"])[0];
    assert_eq!(numbers(&report["total"]), [4, 1, 1, 1, 2, 0, 0], "{report}");
    assert_eq!(numbers(&report["own"]), [2, 2, 0, 0, 0, 0, 0], "the two bounces: {report}");
    assert!(report["total"]["p95_secs"].as_i64().is_some_and(|secs| secs < 60), "{report}");
    let first = &report["reasons"][0];
    assert_eq!((&first["recipients"], &first["state"]), (&2.into(), &"failed".into()), "{report}");
    assert_eq!(first["reply"], "550 5.7.1 … you are blocked, see …");
    for (by, expected) in [
        ("tag", &[("shop/1", [3, 1, 1, 1, 1, 0, 0]), ("shop/2", [1, 0, 0, 0, 1, 0, 0])][..]),
        ("domain", &[("a.test", [4, 1, 1, 1, 2, 0, 0])]),
        ("host", &[("mx.a.test", [4, 1, 1, 1, 2, 0, 0])]),
    ] {
        let report = &relay.json(&["report", "--by", by])[0];
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.len(), expected.len(), "no line of the bounces: {report}");
        for (name, counts) in expected {
            let line = groups
                .iter()
                .find(|line| line["name"] == *name)
                .unwrap_or_else(|| panic!("{name}: {report}"));
            assert_eq!(numbers(line), counts, "{name}: {report}");
        }
    }
    let page = relay.run_ok(&["report", "--since", "yesterday", "--by", "tag"]);
    assert!(page.contains("TAG") && page.contains("shop/1") && page.contains("why mail"), "{page}");
    assert!(page.contains("(own reports)  2 "), "{page}");
    let nothing = &relay.json(&["report", "--since", "2099-01-01"])[0];
    let before = relay.run_ok(&["report", "--since", "2099-01-01"]);
    assert!(before.contains("(1 waited already)"), "{before}");
    assert_eq!(nothing["total"]["accepted"], 0, "{nothing}");
    assert_eq!(relay.run(&["report", "--since", "soon"]).status.code(), Some(2));
}
