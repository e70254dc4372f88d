//! What an operator asks and is told: whose words ended a recipient, what was asked for a message, and what has a
//! say in a delivery beside its route.

use serde_json::Value;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

#[test]
fn history_knows_whose_words_ended_it() {
    let mut world = World::new();
    let _mx = world.host(
        "a.test",
        Script::new()
            .on(At::Rcpt("no@"), Act::Say("550 5.1.1 nobody here"))
            .on(At::Rcpt("later@"), Act::Say("451 4.2.1 busy")),
    );
    let relay = world.relay(Config::new());
    relay.submit("", &["yes@a.test", "no@a.test", "later@a.test", "you@nosuch.test"], &mail("four"));
    wait_for_attempts(&relay, "later@a.test", "deferred", 1);
    wait_for_end(&relay, "you@nosuch.test", "failed");
    relay.run_ok(&["queue", "remove", "--domain", "a.test"]);
    relay.wait_until_empty();
    let rows = relay
        .db()
        .rows("SELECT address, state, reply_source, substr(reply, 1, 9) FROM history ORDER BY address", []);
    assert_eq!(
        rows,
        [
            "later@a.test|removed|remote|451 4.2.1",
            "no@a.test|failed|remote|550 5.1.1",
            "yes@a.test|delivered|remote|250 2.0.0",
            "you@nosuch.test|failed|local|550 5.1.2",
        ]
    );
    let listed = relay.json(&["queue", "list", "--state", "failed"]);
    let said: Vec<&str> = listed.iter().filter_map(|line| line["reply_source"].as_str()).collect();
    assert_eq!(said, ["remote", "local"]);
    let text = relay.run_ok(&["queue", "list", "--state", "delivered"]);
    let (head, line) = text.split_once('\n').unwrap();
    let finished = relay
        .db()
        .row("SELECT datetime(finished_at, 'unixepoch') FROM history WHERE state = 'delivered'", []);
    assert!(head.contains("FINISHED (UTC)") && head.contains("HOST") && !head.contains("NEXT"), "{text}");
    assert!(line.contains(&finished.unwrap()) && line.contains("  mx.a.test  "), "{text}");
    let id = relay.db().row("SELECT queue_id FROM history", []).unwrap();
    let shown = relay.run_ok(&["queue", "show", &id]);
    // A person sees it, too.
    assert!(shown.contains("last reply: (local) 550 5.1.2 "), "{shown}");
    assert!(shown.contains("last reply: 550 5.1.1 nobody here"), "{shown}");
}

/// Connection refused: no host said a word.
#[test]
fn words_of_our_own_are_marked_wherever_what_was_said_is_shown() {
    let mut world = World::new();
    world.closed_mx("dead.test", 10, "mx.dead.test");
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.2.1 busy")));
    let at = address();
    let relay = world.relay(watched(Config::new(), &[at]));
    relay.submit(SENDER, &["you@dead.test", "you@a.test"], &labelled("first"));
    for address in ["you@dead.test", "you@a.test"] {
        wait_for_attempts(&relay, address, "deferred", 1);
    }
    relay.wait_until("the backoff", SOON, |db| db.row("SELECT 1 FROM backoffs", []));
    relay.submit(SENDER, &["she@dead.test"], &labelled("second"));
    let words = "(local) 421 4.4.1 ";
    for command in [
        &["queue", "list"][..],
        &["queue", "find", "--tag", "shop"],
        &["queue", "oldest"],
        &["queue", "oldest", "--by", "lane"],
        &["queue", "summary"],
        &["queue", "failures"],
        &["report"],
        &["explain", "you@dead.test"],
    ] {
        let text = relay.run_ok(command);
        assert!(text.contains(words), "{command:?}: {text}");
        assert_eq!(text.matches("421 4.4.1").count(), text.matches(words).count(), "{command:?}: {text}");
        assert!(!text.contains("(local) 451"), "{command:?}: {text}");
    }
    let list = relay.run_ok(&["queue", "list"]);
    assert!(
        list.contains("(its destination) (local) 421 4.4.1 ") && list.contains("  451 4.2.1 busy"),
        "{list}"
    );
    assert!(list.contains("  NEXT  ") && !list.contains("FINISHED"), "{list}");
    // A filter is of the words alone.
    assert_eq!(relay.json(&["queue", "list", "--reply", "421 4.4.1*"]).len(), 2);
    let page = wait_for("the page to tell of it", SOON, || {
        let page = get(at, "/").body;
        page.contains("backs off for").then_some(page)
    });
    assert!(page.matches(words).count() >= 3, "{page}");
    assert_eq!(page.matches("421 4.4.1").count(), page.matches(words).count(), "{page}");
    let backs_off = relay.logged(&["dead.test backs off for "]);
    assert!(!backs_off.is_empty() && backs_off.iter().all(|line| !line.contains("(local)")), "{backs_off:?}");
}

fn labelled(subject: &str) -> Vec<u8> {
    let mut content = b"X-Postrider-Tag: shop\r\n".to_vec();
    content.extend_from_slice(mail(subject).as_ref());
    content
}

#[test]
fn the_queue_view_knows_whose_the_last_words_are() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("you@"), Act::Say("451 4.2.1 busy")));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("one"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    assert_eq!(
        relay
            .db()
            .row("SELECT last_reply_source, last_reply FROM queue WHERE recipient = 'you@a.test'", [])
            .unwrap(),
        "remote|451 4.2.1 busy"
    );
}

#[test]
fn show_tells_what_was_asked_for_a_message_and_only_that() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("later@"), Act::Say("451 4.2.1 busy")));
    let relay = world.relay(Config::new());
    let parameters = " HOLDFOR=3600 BY=7200;NT MT-PRIORITY=-3";
    let reply = relay.client().transact(SENDER, parameters, &["you@a.test"], &mail("asked")).unwrap();
    assert_eq!(reply.code, 250, "{}", reply.text);
    let id = crate::harness::client::queue_id(&reply.text);
    let shown = relay.run_ok(&["queue", "show", &id]);
    let at = |column: &str| {
        relay.db().row(&format!("SELECT datetime({column}, 'unixepoch') FROM messages"), []).unwrap()
    };
    let (release, by) = (at("release_at"), at("deliver_by"));
    for value in ["-3", &release, &by] {
        assert!(shown.contains(value), "no {value:?} in {shown}");
    }
    let message = &relay.json(&["queue", "show", &id])[0]["message"];
    assert_eq!((&message["priority"], &message["require_tls"]), (&(-3).into(), &false.into()));
    assert_eq!((&message["release"], &message["deliver_by"]), (&release.into(), &by.into()));
    assert_eq!(message["deliver_by_mode"], "NT");

    let plain = relay.submit(SENDER, &["later@a.test"], &mail("plain"));
    wait_for_attempts(&relay, "later@a.test", "deferred", 1);
    let message = &relay.json(&["queue", "show", &plain])[0]["message"];
    assert_eq!([&message["release"], &message["deliver_by"]], [&Value::Null, &Value::Null]);
    let shown = relay.run_ok(&["queue", "show", &plain]);
    for word in ["priority", "release", "deliver by", "REQUIRETLS"] {
        assert!(!shown.contains(word), "{word} in {shown}");
    }
}

#[test]
fn explain_names_limits_and_rules_that_have_a_say() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    world.zone(|zone| zone.mx("a.test", 20, "mx2.a.test"));
    world.address("mx2.a.test");
    let config = Config::new()
        .destination("domain = \"a.test\"\nmessages_per_minute = 60")
        .destination("mx = \"mx2.a.test\"\nconnections = 2\nmessages_per_minute = 30")
        .rule("domain = \"b.test\"\naction = \"hold\"")
        .rule("domain = \"a.test\"\ncode = \"45x\"\nenhanced = \"x.7.1\"\ntext = \"Grey*list\"\ndelay = \"90m\"")
        .rule("domain = \"*\"\naction = \"bounce\"");
    let relay = world.relay(config);
    // As delivery writes them.
    let learnt = "INSERT INTO host_settings VALUES
        ('mx.a.test', 'connections', 4, '421 4.7.0 too many connections', unixepoch(), NULL),
        ('mx2.a.test', 'chunking', 'off', '502 5.5.1 what?', 1, 4102444800)";
    relay.db_for_writing().execute(learnt, []);
    let text = relay.run_ok(&["explain", "you@a.test"]);
    let wanted = format!(
        "  try 1: mx.a.test at {}, tls opportunistic\n    \
             throttled for now: 4 connections at once (after \"421 4.7.0 too many connections\")\n  \
           try 2: mx2.a.test at 127.0.0.3:{}, tls opportunistic\n    \
             [[destination]] mx = \"mx2.a.test\": 2 connections at once, 30 messages a minute\n    \
             chunking=off until 2100-01-01 00:00:00 UTC (after \"502 5.5.1 what?\")\n  \
           lane: a.test\n    \
             [[destination]] domain = \"a.test\": 60 messages a minute\n    \
             [[retry.rule]] 2: code 45x, enhanced x.7.1, text \"grey*list\": retry after 1h 30m\n    \
             [[retry.rule]] 3: any temporary failure: bounce\n    \
             (a rule is for those recipients that were tried; where the host refuses the connection itself, the lane \
             backs off as well, and the others come to the rule a few at each try)\n",
        mx.address, world.mx_port
    );
    assert!(text.ends_with(&wanted), "{text}");
    let explained = &relay.json(&["explain", "you@a.test"])[0];
    assert_eq!(explained["retry_rules"].as_array().unwrap().len(), 2);
    assert_eq!(explained["limits"], "[[destination]] domain = \"a.test\": 60 messages a minute");
    assert_eq!(explained["endpoints"][1]["limits"].as_array().unwrap().len(), 2);
}
