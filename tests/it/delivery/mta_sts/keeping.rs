//! Policies that are kept: over restarts, when their server is away, until their time is over or a hand deletes them.

use std::time::Duration;

use super::{StsWorld, policy, send};
use crate::harness::fakemx::{SOON, Script};
use crate::harness::https_server::Page;
use crate::harness::relay::wait_for;

const REFUSED: &str = "sts-enforce|none|deferred|451 4.7.4";

#[test]
fn a_policy_outlives_restarts_and_its_server_until_another_is_read() {
    let mut sts = StsWorld::new();
    let server = sts.policy("a.test", "enforce");
    let mx = sts.good_host("a.test");
    let mut relay = sts.relay();
    assert!(send(&relay, "a.test").starts_with("sts-enforce|TLSv1.3 verified|delivered|"));
    relay.stop();
    drop(mx);

    // The server is away, and so is the record; the host lost its TLS. The policy holds.
    drop(server);
    sts.world.zone(|zone| zone.forget("_mta-sts.a.test").forget("mx.a.test").forget("a.test"));
    let mx = sts.world.host("a.test", Script::new());
    relay.start_again();
    let said = send(&relay, "a.test");
    assert!(said.starts_with(REFUSED), "{said}");

    // A new id, and a server that gives no policy: the old one holds, and the table and the log say why.
    sts.world.zone(|zone| zone.forget("mta-sts.a.test"));
    let server = sts.serve("a.test", Page::policy("version: STSv1\nmode: none\n"));
    sts.world.zone(|zone| zone.forget("_mta-sts.a.test"));
    sts.id("a.test", "2");
    relay.stop();
    relay.start_again();
    relay.run_ok(&["queue", "kick", "--all"]);
    let said = relay.wait_until("the error", SOON, |db| {
        db.row("SELECT id || '|' || mode || '|' || last_error FROM mta_sts_policies WHERE last_error IS NOT NULL", [])
    });
    assert_eq!(said, "1|enforce|the server gave no policy: it has no usable max_age");
    assert_eq!(
        relay
            .logged(&["MTA-STS policy of a.test not fetched: the last one (mode=enforce) holds until "])
            .len(),
        1
    );
    relay.wait_until("a refusal by the old policy", SOON, |db| {
        (db.number("SELECT count(*) FROM attempts WHERE outcome = 'deferred'", []) == 2).then_some(())
    });
    assert!(mx.messages().is_empty());

    // It is mended (and a failure is forgotten by the next start, too): the new policy lets the mail go.
    server.serve(policy("testing", &["mx.a.test"], 604_800));
    relay.stop();
    relay.start_again();
    relay.run_ok(&["queue", "kick", "--all"]);
    mx.wait_for_messages(1, SOON);
    relay.wait_until_empty();
    let row = relay.db().row(
        "SELECT id || '|' || mode || '|' || mx || '|' || (last_error IS NULL) FROM mta_sts_policies",
        [],
    );
    assert_eq!(row.as_deref(), Some("2|testing|mx.a.test|1"));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_policy_is_fetched_again_before_its_end_and_gone_after_it() {
    let mut sts = StsWorld::new();
    let server = sts.serve("a.test", policy("enforce", &["mx.a.test"], 6));
    let mx = sts.good_host("a.test");
    let relay = sts.world.relay(sts.config().set("delivery.messages_per_connection", "1"));
    let delivered = "sts-enforce|TLSv1.3 verified|delivered|";
    assert!(send(&relay, "a.test").starts_with(delivered));
    assert!(send(&relay, "a.test").starts_with(delivered));
    assert_eq!(server.requests().len(), 1, "an id that did not change");
    let ends = |db: &crate::harness::relay::Db| db.number("SELECT expires_at FROM mta_sts_policies", []);
    let first_end = ends(&relay.db());
    // Half of its life is over some time: mail goes by it still, and it is fetched again.
    let mut sent = 2;
    wait_for("another fetch", SOON, || {
        std::thread::sleep(Duration::from_millis(400));
        assert!(send(&relay, "a.test").starts_with(delivered));
        sent += 1;
        (server.requests().len() > 1).then_some(())
    });
    relay.wait_until("a later end", SOON, |db| (ends(db) > first_end).then_some(()));
    mx.wait_for_messages(sent, SOON);

    // Without record and server it ends some time. What was refused until then goes.
    drop((server, mx));
    sts.world.zone(|zone| zone.forget("_mta-sts.a.test").forget("mx.a.test").forget("a.test"));
    let mx = sts.world.host("a.test", Script::new());
    let said = send(&relay, "a.test");
    assert!(said.starts_with(REFUSED), "{said}");
    wait_for("the end of the policy", SOON, || {
        std::thread::sleep(Duration::from_millis(500));
        relay.run_ok(&["queue", "kick", "--all"]);
        mx.messages().pop()
    });
}

/// `max_age: 0` is how people take a policy back. It is fetched for the first mail, which waits for no better one.
#[test]
fn a_policy_that_lasts_no_time_holds_nothing_up() {
    let mut sts = StsWorld::new();
    let server = sts.serve("a.test", policy("enforce", &["mx.other.test"], 0));
    let _mx = sts.good_host("a.test");
    let relay = sts.relay();
    let said = send(&relay, "a.test");
    assert!(said.starts_with("none|TLSv1.3"), "{said}");
    assert_eq!(server.requests().len(), 1);
}

/// Soon after a start, and once a minute from then on.
#[test]
fn a_policy_in_use_is_fetched_again_without_mail() {
    let mut sts = StsWorld::new();
    let servers = ["used.test", "unused.test", "new.test"].map(|domain| sts.policy(domain, "enforce"));
    let _hosts = ["used.test", "unused.test", "new.test"].map(|domain| sts.good_host(domain));
    let mut relay = sts.relay();
    for domain in ["used.test", "unused.test", "new.test"] {
        assert!(send(&relay, domain).starts_with("sts-enforce|TLSv1.3 verified|delivered|"));
    }
    relay.stop();
    // Two of them were fetched a day ago, and one of these is not used any more.
    let db = relay.db_for_writing();
    let by = "fetched_at = fetched_at - 86400, tried_at = 0, expires_at = expires_at - 86400";
    db.execute(&format!("UPDATE mta_sts_policies SET {by} WHERE domain <> 'new.test'"), []);
    db.execute("UPDATE mta_sts_policies SET used_at = used_at - 31 * 86400 WHERE domain = 'unused.test'", []);
    drop(db);
    servers.iter().for_each(|server| server.serve(policy("testing", &["mx.used.test"], 604_800)));
    relay.start_again();
    relay.wait_until("the new policy", SOON, |db| {
        let is_new = "mode = 'testing' AND fetched_at > unixepoch() - 3600";
        let sql = format!("SELECT count(*) FROM mta_sts_policies WHERE domain = 'used.test' AND {is_new}");
        (db.number(&sql, []) == 1).then_some(())
    });
    assert_eq!(servers.map(|server| server.requests().len()), [2, 1, 1]);
    assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 3, "no mail asked for it");
}

/// As docs/sql.md says it.
#[test]
fn a_policy_that_a_hand_deletes_is_forgotten_within_two_seconds() {
    let mut sts = StsWorld::new();
    let server = sts.policy("a.test", "enforce");
    let mx = sts.world.host("a.test", Script::new());
    let relay = sts.relay();
    assert!(send(&relay, "a.test").starts_with(REFUSED));
    sts.world.zone(|zone| zone.forget("_mta-sts.a.test"));
    relay.run_ok(&["queue", "kick", "--all"]);
    relay.wait_until("a second refusal", SOON, |db| {
        (db.number("SELECT count(*) FROM attempts WHERE outcome = 'deferred'", []) == 2).then_some(())
    });
    let deleted = relay.db_for_writing().execute("DELETE FROM mta_sts_policies WHERE domain = 'a.test'", []);
    assert_eq!(deleted, 1);
    std::thread::sleep(Duration::from_secs(2));
    relay.run_ok(&["queue", "kick", "--all"]);
    mx.wait_for_messages(1, SOON);
    assert_eq!(server.requests().len(), 1);
}

/// A connection that was opened before the policy was known is not good enough any more.
#[test]
fn a_connection_that_proved_too_little_carries_no_more_mail() {
    let mut sts = StsWorld::new();
    let mx = sts.world.host("a.test", Script::new());
    let relay = sts.relay();
    assert!(send(&relay, "a.test").starts_with("none|none|delivered|"));
    relay.db_for_writing().execute(
        "INSERT INTO mta_sts_policies VALUES ('a.test', 'x', 'enforce', 604800, unixepoch(), unixepoch() + 604800,
                                              unixepoch(), unixepoch(), 'mx.a.test', NULL)",
        [],
    );
    // The connection is kept as long as mail goes over it.
    let mut sent = 1;
    let refused = wait_for("the policy to be noticed", SOON, || {
        std::thread::sleep(Duration::from_millis(200));
        sent += 1;
        let said = send(&relay, "a.test");
        (!said.contains("|delivered|")).then_some(said)
    });
    assert!(refused.starts_with(REFUSED), "{refused}");
    assert_eq!(mx.messages().len(), sent - 1);
    assert_eq!(
        mx.messages().last().map(|message| message.connection),
        Some(0),
        "all went over one connection"
    );
}
