//! Other people's sqlite3 beside the relay: it may write, and it may not checkpoint.
//!
//! `SQLITE3_SECS` says for how long; `.ci/run` gives it a minute.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::fakemx::Script;
use crate::harness::relay::{Config, World, mail, notice};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

/// Processes that write, each many times a second.
const WRITERS: usize = 3;
/// What each does: a write whose commit checkpoints by itself, then two checkpoints by name.
const WRITES: &str = "INSERT INTO kicks (at, node, recipients) VALUES (unixepoch(), 'somebody', 0);
    DELETE FROM kicks WHERE node = 'somebody';
    PRAGMA wal_checkpoint(PASSIVE);
    PRAGMA wal_checkpoint(TRUNCATE);\n";

/// Runs sqlite3 until told to stop; how many checkpoints were refused, and how many made.
fn write(database: &Path, stop: &AtomicBool) -> (u64, u64) {
    let mut shell = Command::new("sqlite3");
    let mut shell = shell.arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
    let (mut refused, mut made) = (0, 0);
    stdin.write_all(b".timeout 20000\nPRAGMA wal_autocheckpoint = 1;\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "1");
    while !stop.load(Ordering::Relaxed) {
        stdin.write_all(WRITES.as_bytes()).unwrap();
        for answer in said.by_ref().take(2) {
            let answer = answer.unwrap();
            refused += u64::from(answer == "1|-1|-1");
            made += u64::from(answer.starts_with("0|"));
        }
    }
    drop(stdin);
    assert!(shell.wait().unwrap().success(), "a statement failed");
    (refused, made)
}

#[test]
fn sqlite3_writes_beside_the_relay_and_cannot_checkpoint() {
    if !installed("sqlite3") {
        return;
    }
    let secs = std::env::var("SQLITE3_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(2);
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let mut relay = world.relay(Config::new());
    let stop = AtomicBool::new(false);
    let (mut refused, mut made, mut accepted) = (0, 0, 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|_| scope.spawn(|| write(&relay.path("queue.db"), &stop))).collect();
        let mut client = relay.client();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(secs) {
            let reply = client.transact(SENDER, "", &["you@a.test"], &mail("beside others")).unwrap();
            accepted += u32::from(reply.code == 250);
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let (of_one, by_one) = writer.join().unwrap();
            refused += of_one;
            made += by_one;
        }
    });
    notice(&format!("{refused} checkpoints of sqlite3 refused, {made} made, {accepted} messages accepted"));
    assert!(accepted > 0 && refused > 100, "{accepted} {refused}");
    // In the moment after one of ours another may come between; nobody writes then.
    assert!(made <= refused / 1000, "{made} of {refused}");
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
    relay.stop();
    assert_eq!(relay.db().rows("PRAGMA integrity_check", []), ["ok"]);
}
