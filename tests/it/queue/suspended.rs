//! Suspend and resume with a relay that runs: what waits and what comes stays, and nothing else does.

use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

/// What the docs promise, and a margin for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(2 + 3);

/// Mail with this tag.
fn tagged(tag: &str) -> Vec<u8> {
    [format!("X-Postrider-Tag: {tag}\r\n").as_bytes(), &mail("tagged")].concat()
}

/// Waits until the relay's log says it. It is told after the lanes know.
fn wait_for_line(relay: &Relay, words: &str) {
    wait_for(words, NOTICED_WITHIN, || (!relay.logged(&[words]).is_empty()).then_some(()));
}

/// Suspends this, and waits until the relay knows.
fn suspend(relay: &Relay, arguments: &[&str]) -> String {
    let answer = relay.run_ok(&[&["queue", "suspend"], arguments].concat());
    let whose = answer.split_once(" is suspended").unwrap().0;
    wait_for_line(relay, &format!("suspended {whose}: until="));
    answer
}

/// Who took what; in the order of their addresses.
fn taken(mx: &FakeMx, count: usize) -> Vec<String> {
    let messages = mx.wait_for_messages(count, SOON);
    let address = |line: &String| line["RCPT TO:<".len()..].split('>').next().unwrap().to_owned();
    let mut all: Vec<String> =
        messages.iter().flat_map(|message| message.rcpts.iter().map(address)).collect();
    all.sort();
    all
}

/// Wherever somebody looks.
fn is_shown(relay: &Relay) {
    let listed = relay.json(&["queue", "suspensions"]);
    let shown: Vec<_> = listed.iter().map(|row| format!("{} {}", row["value"], row["recipients"])).collect();
    assert_eq!(shown, ["\"news\" 1", "\"bulk\" 2"], "{listed:?}");
    assert_eq!(listed[0]["reason"], "wrong text");
    let by = listed[0]["login"].as_str().unwrap();
    let next = "SELECT DISTINCT next_attempt FROM queue";
    assert_eq!(relay.db().rows(next, []), ["suspended"]);
    let id = relay.db().row("SELECT queue_id FROM queue WHERE recipient = 'news@a.test'", []).unwrap();
    let shown = relay.run_ok(&["queue", "show", &id]);
    assert!(
        shown.contains(&format!(
            "queued, suspended\n  suspended: user news until resumed by {by}: wrong text\n"
        )),
        "{shown}"
    );
    let oldest = relay.run_ok(&["queue", "oldest"]);
    assert!(oldest.starts_with("ID") && oldest.contains("SUSPENDED"), "{oldest}");
    let by_domain = "SELECT domain, total, suspended, next_attempt FROM queue_by_domain";
    assert_eq!(relay.db().rows(by_domain, []), ["a.test|2|2|suspended", "b.test|1|1|suspended"]);
    let summary = relay.run_ok(&["queue", "summary"]);
    assert!(summary.contains("3 recipients: 0 due, 0 held, 0 later, 3 suspended\n"), "{summary}");
    assert!(summary.contains("wrong text"), "{summary}");
    let summary = relay.json(&["queue", "summary", "--domain", "a.test"]);
    assert_eq!((&summary[0]["suspended"], &summary[0]["due"]), (&2.into(), &0.into()), "{summary:?}");
    let explained = relay.json(&["explain", "you@a.test", "--user", "news"]);
    let words = explained[0][0]["suspended"].as_array().or(explained[0]["suspended"].as_array()).unwrap();
    assert_eq!(words[0], format!("suspended: user news until resumed by {by}: wrong text"));
    assert!(
        words[1].as_str().unwrap().starts_with("suspended: its mail with tag bulk until 20"),
        "{words:?}"
    );
    let others = relay.run_ok(&["explain", "you@a.test", "--user", "app"]);
    assert!(
        !others.contains("user news") && others.contains("    suspended: its mail with tag bulk"),
        "{others}"
    );
}

#[test]
fn what_waits_and_what_comes_stays_until_it_is_resumed_and_others_in_its_lane_go() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(1, At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let relay = world.relay(Config::new().retry(&["1s"]));
    relay.add_user_with("news", &[]);
    // Suspended before it is tried again.
    suspend(&relay, &["--user", "news", "--reason", "wrong text"]);
    let mut news = relay.client();
    news.log_in("news");
    news.submit(SENDER, &["news@a.test"], &mail("news"));
    let first = suspend(&relay, &["--tag", "bulk"]);
    assert_eq!(first, "tag bulk is suspended until `postrider queue resume`; 0 recipients wait behind it\n");
    relay.submit(SENDER, &["bulk@a.test", "list@b.test"], &tagged("bulk"));
    relay.submit(SENDER, &["other@a.test"], &tagged("else"));
    wait_for_attempts(&relay, "other@a.test", "deferred", 1);
    wait_for_end(&relay, "other@a.test", "delivered");
    assert_eq!(taken(&mx, 1), ["other@a.test"]);

    let again = suspend(&relay, &["--tag", "bulk", "--for", "1h"]);
    assert!(again.contains("it was suspended before") && again.contains("2 recipients wait"), "{again}");
    assert!(again.contains(" behind it, and the first of it expires 20"), "{again}");
    is_shown(&relay);

    // Of those that were released, not of those that are held afterwards.
    relay.run_ok(&["queue", "hold", "--domain", "a.test"]);
    let released = relay.run_ok(&["queue", "release", "--state", "held"]);
    assert!(released.contains("(2 of them still suspended"), "{released}");
    // Neither a kick, nor a reload, nor ETRN, nor a restart overrides it.
    let kicked = relay.run_ok(&["queue", "kick", "--all"]);
    assert!(kicked.contains("(3 of them still suspended"), "{kicked}");
    relay.signal("HUP");
    let mut client = relay.client();
    let said = client.expect("ETRN a.test", "251").text;
    assert!(said.contains("no messages waiting for a.test but 1 that are suspended"), "{said}");
    let mut relay = relay;
    relay.stop();
    relay.start_again();
    assert!(!relay.logged(&["suspended user news: until=none"]).is_empty());
    relay.submit(SENDER, &["last@a.test"], &mail("last"));
    wait_for_end(&relay, "last@a.test", "delivered");
    assert_eq!(relay.db().number("SELECT sum(attempts) FROM recipients", []), 0, "{}", relay.db().dump());

    let began = Instant::now();
    assert_eq!(relay.run_ok(&["queue", "resume", "--user", "news"]), "user news is resumed\n");
    mx.wait_for_messages(3, SOON);
    assert!(began.elapsed() < NOTICED_WITHIN, "{:?}", began.elapsed());
    wait_for_end(&relay, "news@a.test", "delivered");
    assert_eq!(relay.run_ok(&["queue", "resume", "--all"]), "1 suspension resumed\n");
    wait_for_end(&relay, "bulk@a.test", "delivered");
    let log =
        "SELECT action, target, count FROM operator_log WHERE action IN ('suspend', 'resume') ORDER BY id";
    assert_eq!(
        relay.db().rows(log, []),
        [
            "suspend|user news|0",
            "suspend|tag bulk|0",
            "suspend|tag bulk|2",
            "resume|user news|1",
            "resume|tag bulk|1"
        ]
    );
}

#[test]
fn what_is_not_suspended_cannot_be_resumed_and_what_no_one_can_mean_is_refused() {
    let world = World::new();
    let relay = world.relay(Config::new());
    for (arguments, wanted) in [
        (&["resume", "--domain", "Example.com"][..], "domain example.com is not suspended"),
        (&["resume", "--all"], "nothing is suspended"),
    ] {
        let output = relay.run(&[&["queue"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wanted), "{output:?}");
    }
    for arguments in [
        &["suspend"][..],
        &["suspend", "--domain", "a b"],
        &["suspend", "--user", ""],
        &["suspend", "--user", "*"],
        &["suspend", "--tag", "letter*"],
        &["suspend", "--tag", "no one"],
        &["suspend", "--tag", ""],
        &["suspend", "--tag", "x", "--for", "0s"],
        &["suspend", "--tag", "x", "--user", "y"],
        &["suspend", "--tag", "x", "--reason", "two\nlines"],
        &["resume", "--all", "--tag", "x"],
    ] {
        assert_eq!(relay.run(&[&["queue"], arguments].concat()).status.code(), Some(2), "{arguments:?}");
    }
    relay.db_for_writing().execute(
        "INSERT INTO suspensions (kind, value) VALUES ('tag', 'no one'), ('domain', '*.a.test')",
        [],
    );
    relay.run_ok(&["queue", "resume", "--tag", "no one"]);
    let said = relay.run(&["queue", "resume", "--domain", "b.a.test"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("domain b.a.test is not suspended by this name, but domain *.a.test is"), "{said}");
    relay.run_ok(&["queue", "resume", "--all"]);
    let said = relay.run(&["queue", "suspend", "--tag", "no one"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("no message can have this tag") && said.contains("queue suspend --help"), "{said}");
    assert_eq!(relay.db().number("SELECT count(*) FROM suspensions", []), 0);
}

#[test]
fn a_user_of_whom_nobody_has_heard_is_suspended_and_said_to_be_unknown() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.add_user_with("listed", &[]);
    relay.add_user_with("gone", &[]);
    let mut client = relay.client();
    client.log_in("gone");
    client.submit(SENDER, &["you@a.test"], &mail("once"));
    wait_for_end(&relay, "you@a.test", "delivered");
    relay.run_ok(&["user", "remove", "gone"]);
    for (name, is_unknown) in [("listed", false), ("gone", false), ("lsited", true)] {
        let said = suspend(&relay, &["--user", name]);
        assert_eq!(said.contains(&format!("no user {name} is known")), is_unknown, "{said}");
        let answer = relay.json(&["queue", "suspend", "--user", name]);
        assert_eq!(answer[0]["unknown"], is_unknown, "{answer:?}");
    }
}

#[test]
fn a_suspension_ends_by_itself_and_mail_of_its_domain_goes_then() {
    let mut world = World::new();
    let mx = world.host("b.a.test", Script::new());
    let relay = world.relay(Config::new());
    let began = Instant::now();
    suspend(&relay, &["--domain", "*.A.test", "--for", "3s"]);
    relay.submit(SENDER, &["you@b.a.test"], &mail("later"));
    mx.wait_for_messages(1, SOON);
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    wait_for_end(&relay, "you@b.a.test", "delivered");
    wait_for_line(&relay, "resumed domain *.a.test: its time is over");
    assert!(relay.json(&["queue", "suspensions"]).is_empty());
}

/// Without a try: what was said before, or nothing.
#[test]
fn what_is_past_its_lifetime_while_suspended_goes_back_to_its_sender() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let home = world.host("app.test", Script::new());
    let relay = world.relay(Config::new());
    suspend(&relay, &["--domain", "a.test"]);
    relay.submit(SENDER, &["you@a.test"], &mail("too late"));
    // Told to the relay like any other change by hand.
    relay.db_for_writing().execute("UPDATE messages SET expires_at = unixepoch() - 1", []);
    let bounce = home.wait_for_messages(1, SOON).remove(0);
    let bounce = String::from_utf8_lossy(&bounce.content).replace("\r\n ", " ").replace("\r\n", " ");
    for part in ["you@a.test", "Status: 4.3.2", "stopped such mail for a time", "suspended by the operator"] {
        assert!(bounce.contains(part), "no {part:?} in {bounce}");
    }
    assert!(!bounce.contains("again and again"), "{bounce}");
    wait_for_end(&relay, "you@a.test", "expired");
    let tried = "SELECT count(*) FROM attempts WHERE mx = 'mx.a.test'";
    assert_eq!(relay.db().number(tried, []), 0);
    assert!(mx.seen().is_empty());
}

/// ETRN (RFC 1985) moves nothing that is suspended, and counts what it moves; XCIR and XSTA say what stands still.
#[test]
fn etrn_and_the_commands_of_operators_tell_suspended_mail_from_what_waits() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let relay = world.relay(Config::new().retry(&["1h"]));
    relay.add_user_with("root", &["--operator"]);
    suspend(&relay, &["--tag", "bulk"]);
    relay.submit(SENDER, &["bulk@a.test"], &tagged("bulk"));
    relay.submit(SENDER, &["other@a.test"], &mail("else"));
    wait_for_attempts(&relay, "other@a.test", "deferred", 1);
    suspend(&relay, &["--domain", "b.test"]);
    relay.submit(SENDER, &["you@b.test"], &mail("b"));
    let mut client = relay.client();
    client.log_in("root");
    let said = client.expect("ETRN a.test", "253").text;
    assert!(said.contains("Ok, 1 pending messages for a.test started"), "{said}");
    let kicked = "SELECT address, kicked_attempts FROM recipients WHERE domain = 'a.test' ORDER BY id";
    assert_eq!(relay.db().rows(kicked, []), ["bulk@a.test|0", "other@a.test|1"]);
    let said = client.expect("XSTA", "250").text;
    assert!(said.contains("a.test: 2 messages, 2 recipients (1 suspended), "), "{said}");
    assert!(
        said.lines().any(|line| line.ends_with("b.test: 1 messages, 1 recipients (1 suspended)")),
        "{said}"
    );
    let said = client.expect("XCIR", "250").text;
    assert!(said.contains("connections busy, 2 suspensions"), "{said}");
    let said = client.expect("XCIR b.test", "250").text;
    assert!(said.contains(", suspended (domain b.test) until resumed"), "{said}");
    client.expect("ETRN b.test", "251");
    // Of two with different lifetimes the first.
    relay
        .db_for_writing()
        .execute("UPDATE messages SET expires_at = unixepoch() + 3600 WHERE tag = 'bulk'", []);
    let ends = "SELECT datetime(min(ends_at), 'unixepoch') FROM message_ends";
    let first = relay.db().row(ends, []).unwrap();
    let said = suspend(&relay, &["--domain", "a.test"]);
    assert!(
        said.contains(&format!("2 recipients wait behind it, and the first of it expires {first} UTC")),
        "{said}"
    );
}

/// Jiffies of CPU that the relay has used.
#[cfg(target_os = "linux")]
fn jiffies(relay: &Relay) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", relay.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_relay_in_which_suspended_mail_waits_is_idle() {
    const RECIPIENTS: i64 = 100_000;
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let mut relay = world.relay(Config::new());
    suspend(&relay, &["--user", "news"]);
    relay.stop();
    relay.db_for_writing().execute(
        "INSERT INTO messages (id, queue_id, sender, user, received_at, size, body, smtputf8)
         VALUES (1, 'Q', 'me@app.test', 'news', unixepoch(), 0, '7bit', 0)",
        [],
    );
    relay.db_for_writing().execute(
        "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n <= ?1)
         INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
         SELECT n, 1, 'u' || n || '@a.test', 'a.test', 1 FROM n",
        [RECIPIENTS],
    );
    relay.start_again();
    // Behind all of them in their lane.
    relay.submit(SENDER, &["other@a.test"], &mail("goes"));
    assert_eq!(taken(&mx, 1), ["other@a.test"]);
    wait_for_end(&relay, "other@a.test", "delivered");
    // Once it has read past them it rests: a hundred jiffies are a second.
    let rests = || {
        let before = jiffies(&relay);
        std::thread::sleep(Duration::from_secs(1));
        (jiffies(&relay) - before <= 10).then_some(())
    };
    wait_for("the relay to be idle", SOON, rests);
    wait_for("the relay to stay idle", Duration::from_secs(5), rests);
    assert_eq!(relay.db().number("SELECT count(*) FROM suspended", []), RECIPIENTS);
}
