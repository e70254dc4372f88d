//! `postrider sql`: looking and changing beside a relay that runs.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, World, mail, run_to_end};
use crate::harness::sender::SENDER;

#[test]
fn it_looks_and_changes_only_where_it_is_asked_to() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("450 4.7.1 \x1b[2J wait")));
    let relay = world.relay(Config::new());
    let id = relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    relay.wait_until("a try", SOON, |db| (db.attempts("you@a.test", "deferred") == 1).then_some(()));

    let table = relay.run_ok(&["sql", "-c", "SELECT queue_id, recipient, state FROM queue"]);
    let dashes = "-".repeat(11);
    assert_eq!(
        table,
        format!("queue_id     recipient   state\n{dashes}  ----------  ------\n{id}  you@a.test  queued\n")
    );
    let reply = relay.run_ok(&["sql", "--mode", "list", "-c", "SELECT last_reply FROM recipients"]);
    assert!(reply.contains("wait") && !reply.contains('\x1b'), "{reply:?}");

    let hold = "UPDATE recipients SET state = 'held'";
    let refused = relay.run(&["sql", "-c", hold]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("readonly") && stderr.contains("--write"), "{stderr}");
    relay.run_ok(&["sql", "--write", "-c", hold]);
    assert_eq!(relay.db().rows("SELECT state FROM recipients", []), ["held"]);
    let wrong = relay.run(&["sql", "--write", "-c", "UPDATE recipients SET state = 'gone'"]);
    assert_eq!(wrong.status.code(), Some(1));

    // A script on stdin, several statements.
    let output =
        run_to_end(relay.command(&["sql", "--mode", "json"]), b"SELECT 1 AS one; SELECT 2 AS two;\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"one\":1}\n{\"two\":2}\n");
}

/// The log is longer than the 1,000 pages at which SQLite checkpoints by itself.
#[test]
fn it_leaves_checkpoints_to_the_relay() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("once"));
    relay.wait_until_empty();
    let before = std::fs::read(relay.path("queue.db")).unwrap();
    let many = "CREATE TABLE filler (bytes BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                WHERE i < 1500) INSERT INTO filler SELECT randomblob(4000) FROM n; DROP TABLE filler;";
    relay.run_ok(&["sql", "--write", "-c", many]);
    let log = std::fs::metadata(relay.path("queue.db-wal")).unwrap().len();
    assert!(log > 1500 * 4096, "the log has {log} bytes");
    assert_eq!(std::fs::read(relay.path("queue.db")).unwrap(), before, "the database was written to");
}
