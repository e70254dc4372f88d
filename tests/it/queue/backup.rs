//! A copy of the queue while mail comes and goes, and what becomes of it when it is put back.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::OpenFlags;

use crate::harness::db::Db;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// Every message with its content, as it is read back.
const CONTENTS: &str = "SELECT m.queue_id, hex(coalesce((SELECT group_concat(CAST(data AS TEXT), '') FROM
    (SELECT data FROM content WHERE message_id = m.id ORDER BY seq)), '')) FROM messages m ORDER BY m.id";

fn open(path: &Path) -> Db {
    Db::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn back_up(relay: &Relay, name: &str) -> PathBuf {
    let file = relay.path(name);
    let said = relay.run_ok(&["backup", file.to_str().unwrap()]);
    assert!(said.contains("read through"), "{said}");
    file
}

/// The words of a `restore` that is refused.
fn refused(relay: &Relay, file: &Path, more: &[&str]) -> String {
    let output = relay.run(&[&["restore", file.to_str().unwrap()], more].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.lines().count() == 1, "{}: {said}", output.status);
    said
}

/// A relay with a host that takes its mail, and one that puts it off.
fn world() -> (World, FakeMx, FakeMx) {
    let mut world = World::new();
    let takes = world.host("a.test", Script::new());
    let later = world.host("b.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    (world, takes, later)
}

#[test]
fn a_backup_beside_mail_that_comes_and_goes_is_of_one_moment() {
    let (world, _takes, _later) = world();
    let relay = world.relay(Config::new());
    let waiting: Vec<String> =
        (0..5).map(|n| relay.submit(SENDER, &["you@b.test"], &mail(&format!("waits {n}")))).collect();
    let before = relay.db().rows(CONTENTS, []);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for to in [["you@a.test"], ["she@b.test"]] {
            let (relay, ended) = (&relay, &ended);
            scope.spawn(move || {
                let mut client = relay.client();
                while !ended.load(Relaxed) {
                    client.submit(SENDER, &to, &mail("comes"));
                }
            });
        }
        for round in 0..5 {
            let copy = back_up(&relay, &format!("copy-{round}.db"));
            let db = open(&copy);
            // One file, for its owner alone.
            assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!relay.path(&format!("copy-{round}.db.partial")).exists());
            assert_eq!(db.rows("PRAGMA journal_mode", []), ["delete"]);
            assert_eq!(db.rows("PRAGMA integrity_check", []), ["ok"]);
            assert_eq!(db.number("PRAGMA user_version", []), relay.db().number("PRAGMA user_version", []));
            assert_eq!(db.rows("SELECT * FROM stuck", []), [""; 0]);
            let found = db.rows(CONTENTS, []);
            assert!(before.iter().all(|message| found.contains(message)), "{waiting:?}");
        }
        ended.store(true, Relaxed);
    });
    // What is there is never written over.
    let output = relay.run(&["backup", relay.path("copy-0.db").to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("exists already"), "{said}");
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
}

#[test]
fn a_backup_that_is_killed_has_no_name() {
    let (world, _takes, _later) = world();
    let mut relay = world.relay(Config::new());
    let content = [mail("large"), "words and words\r\n".repeat(50_000).into_bytes()].concat();
    (0..20).for_each(|n| drop(relay.submit(SENDER, &[&format!("you{n}@b.test")], &content)));
    let (file, partial) = (relay.path("copy.db"), relay.path("copy.db.partial"));
    let mut in_the_middle = 0;
    for round in 0..5 {
        let mut command = relay.command(&["backup", file.to_str().unwrap()]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        wait_for("the copy to grow", SOON, || {
            let grown = partial.metadata().is_ok_and(|found| found.len() > 1 << 20);
            (grown || child.try_wait().unwrap().is_some()).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        in_the_middle += u32::from(partial.exists());
        if file.exists() {
            assert_eq!(open(&file).rows("PRAGMA integrity_check", []), ["ok"], "{round}");
            std::fs::remove_file(&file).unwrap();
        }
    }
    assert!(in_the_middle > 0, "each was over before it was killed");
    back_up(&relay, "copy.db");
    assert!(!partial.exists(), "what the killed one left is gone");
    relay.stop();
}

/// Also where what is in doubt counts as delivered: whoever releases it has decided.
#[test]
fn what_is_restored_waits_until_it_is_released_and_comes_as_it_was() {
    let (world, takes, later) = world();
    let mut relay = world.relay(Config::new().set("delivery.in_doubt", "\"assume-delivered\""));
    let binary = [mail("bytes"), "f\u{fc}r dich\r\n..\r\n.\r\n".as_bytes().to_vec()].concat();
    let first = relay.submit(SENDER, &["you@b.test"], &binary);
    let held = relay.submit(SENDER, &["she@b.test"], &mail("held"));
    relay.wait_until("both to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 2).then_some(())
    });
    relay.run_ok(&["queue", "hold", &held]);
    relay.db_for_writing().execute(
        "INSERT INTO pending_reports (sender, return_path, at, queue_id, address, state, require_tls)
         VALUES ('me@app.test', 'me@app.test', 1, 'X', 'x@b.test', 'failed', 0)",
        [],
    );
    relay.db_for_writing().execute("INSERT INTO suspensions (kind, value) VALUES ('tag', 'x')", []);
    let copy = back_up(&relay, "copy.db");
    assert!(refused(&relay, &copy, &[]).contains("in use by another postrider"));
    // Meanwhile all goes on.
    let since: Vec<String> =
        (0..3).map(|n| relay.submit(SENDER, &["you@a.test"], &mail(&format!("{n}")))).collect();
    takes.wait_for_messages(3, SOON);
    relay.stop();
    let newest = relay.db().number("SELECT value FROM meta WHERE key = 'last_id'", []);
    assert!(refused(&relay, &copy, &[]).contains("has mail that waits, for 2 recipients"));
    assert!(refused(&relay, &relay.path("queue.db"), &[]).contains("is the queue itself"));

    let said = relay.run_ok(&["restore", copy.to_str().unwrap(), "--replace"]);
    assert!(
        said.contains("2 messages with 2 recipients (2 held)") && said.contains("release --all"),
        "{said}"
    );
    assert!(said.contains("1 failures are to be reported"), "{said}");
    assert!(said.contains("suspensions of the backup that are in force again: 1 "), "{said}");
    let kept = said.lines().find_map(|line| line.strip_prefix("the queue of before is kept as ")).unwrap();
    assert_eq!(open(Path::new(kept)).number("SELECT count(*) FROM history", []), 3);
    let address = later.address;
    drop(later);
    let later = FakeMx::start_at(address, vec![Script::new()]);
    relay.start_again();
    let after = relay.submit(SENDER, &["you@a.test"], &mail("after"));
    takes.wait_for_messages(4, SOON);
    assert_eq!(later.messages().len(), 0);
    relay.wait_until("the new one to be on record", SOON, |db| db.ended("you@a.test"));
    let db = relay.db();
    assert!(db.number("SELECT min(message_id) FROM history", []) > newest, "no id twice");
    assert!(!since.contains(&after) && after != first && after != held);
    assert_eq!(
        db.number("SELECT count(*) FROM recipients WHERE state = 'held' AND in_doubt_since > 0", []),
        2
    );
    let why = "SELECT held_by, held_reason, last_reply FROM recipients ORDER BY id";
    let [restored, before] = &db.rows(why, [])[..] else { panic!("two are held") };
    assert_eq!(restored, "restore|restored from a backup, may have been sent since|451 4.7.1 later");
    assert!(before.starts_with("operator|") && before.ends_with("|451 4.7.1 later"), "{before}");
    let list = relay.run_ok(&["queue", "list", "--held-by", "restore"]);
    assert!(list.contains("(held: restored from a backup, may have been sent since) 451 4.7.1"), "{list}");
    assert_eq!(relay.logged(&["audit: restore", "count=2"]).len(), 1);

    // Released while the relay is stopped: no start takes it for delivered.
    relay.stop();
    relay.run_ok(&["queue", "release", "--all"]);
    let list = relay.run_ok(&["queue", "list"]);
    assert!(list.contains("  451 4.7.1 later") && !list.contains("restored"), "{list}");
    relay.start_again();
    let came = later.wait_for_messages(2, SOON);
    assert!(came.iter().any(|message| message.content.ends_with(&binary)), "byte for byte");
}

#[test]
fn a_queue_moves_to_another_machine_as_it_was() {
    let (world, takes, later) = world();
    let mut old = world.relay(Config::new());
    let id = old.submit(SENDER, &["you@b.test"], &mail("moves"));
    let held = old.submit(SENDER, &["she@b.test"], &mail("stays held"));
    old.wait_until("both to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 2).then_some(())
    });
    old.run_ok(&["queue", "hold", &held]);
    old.stop();
    let copy = back_up(&old, "copy.db");
    drop((takes, later));
    let mut new = Relay::prepare(world.configured(Config::new()));
    new.add_user();
    let said = new.run_ok(&["restore", copy.to_str().unwrap(), "--queued"]);
    assert!(said.contains("2 recipients (1 held)") && !said.contains("in doubt"), "{said}");
    assert_eq!(new.path("queue.db").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let db = new.db();
    let states = db.rows("SELECT m.queue_id, r.state, r.in_doubt_since FROM messages m JOIN recipients r ON r.message_id = m.id ORDER BY r.id", []);
    assert_eq!(states, [format!("{id}|queued|"), format!("{held}|held|")]);
    drop(db);
    new.start_again();
    assert_eq!(new.logged(&["ERROR"]), [""; 0]);
}

#[test]
fn a_backup_that_is_none_is_refused_and_nothing_is_touched() {
    let (world, _takes, _later) = world();
    let mut relay = world.relay(Config::new());
    let content = [mail("pages"), "words and words\r\n".repeat(2_000).into_bytes()].concat();
    (0..10).for_each(|n| drop(relay.submit(SENDER, &[&format!("you{n}@b.test")], &content)));
    let copy = back_up(&relay, "copy.db");
    relay.stop();
    let good = std::fs::read(&copy).unwrap();
    let before = std::fs::read(relay.path("queue.db")).unwrap();
    let try_with = |name: &str, bytes: &[u8]| {
        let file = relay.path(name);
        std::fs::write(&file, bytes).unwrap();
        let said = refused(&relay, &file, &["--replace"]);
        assert!(std::fs::read(relay.path("queue.db")).unwrap() == before, "{name}");
        assert!(!relay.path("queue.db.restored").exists(), "{name}");
        said
    };
    assert!(try_with("empty.db", b"").contains("is no backup of a Postrider queue"));
    assert!(try_with("junk.db", &b"junk".repeat(5_000)).contains("cannot be read (file is not a database)"));
    assert!(try_with("half.db", &good[..good.len() / 2]).contains("malformed"));
    let spoilt = |from: usize| [&good[..from], &[0xa5; 4096], &good[from + 4096..]].concat();
    for part in 2..8 {
        let said = try_with("spoilt.db", &spoilt(good.len() * part / 8 / 4096 * 4096));
        assert!(said.contains("is damaged") || said.contains("cannot be read"), "{part}: {said}");
    }
    let newer = relay.path("newer.db");
    std::fs::write(&newer, &good).unwrap();
    std::fs::File::options().write(true).open(&newer).unwrap().write_all_at(&[0, 0, 1, 0], 60).unwrap();
    assert!(refused(&relay, &newer, &["--replace"]).contains("schema version 256"));
    let foreign = relay.path("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(refused(&relay, &foreign, &["--replace"]).contains("is no backup of a Postrider queue"));
    assert!(refused(&relay, &relay.path("none.db"), &[]).contains("none.db: No such file"));
}

/// Whatever a client waits while the copy is made, it is less than a second.
#[test]
fn no_client_waits_for_a_backup() {
    let (world, _takes, _later) = world();
    let relay = world.relay(Config::new());
    let content = [mail("large"), "words and words\r\n".repeat(50_000).into_bytes()].concat();
    (0..20).for_each(|n| drop(relay.submit(SENDER, &[&format!("you{n}@b.test")], &content)));
    let file = relay.path("copy.db");
    let mut child = relay.command(&["backup", file.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    let mut longest = Duration::ZERO;
    let mut client = relay.client();
    while child.try_wait().unwrap().is_none() {
        let start = std::time::Instant::now();
        client.submit(SENDER, &["you@a.test"], &mail("meanwhile"));
        longest = longest.max(start.elapsed());
    }
    assert!(child.wait().unwrap().success());
    // A busy machine is no fault of the backup's; one that held the writer would take all of its time.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

/// Its tables, and its read transaction while the relay works: as Litestream 0.5 has them.
#[test]
fn what_litestream_leaves_in_a_queue_is_passed_over() {
    let (world, takes, _later) = world();
    let mut relay = world.relay(Config::new());
    let other = relay.db_for_writing().0;
    other
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
             CREATE TABLE _litestream_lock (id INTEGER);
             INSERT INTO _litestream_seq VALUES (1, 1);
             BEGIN; SELECT count(1) FROM _litestream_seq",
        )
        .unwrap();
    relay.submit(SENDER, &["you@a.test"], &mail("goes"));
    relay.submit(SENDER, &["you@b.test"], &mail("waits"));
    takes.wait_for_messages(1, SOON);
    other.execute_batch("COMMIT").unwrap();
    // It may not checkpoint beside the relay.
    let busy: i64 = other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 1);
    drop(other);
    relay.stop();
    relay.start_again();
    let checked = String::from_utf8(relay.run(&["check"]).stdout).unwrap();
    assert!(checked.contains("ok       database"), "{checked}");
    let copy = back_up(&relay, "copy.db");
    assert_eq!(open(&copy).number("SELECT seq FROM _litestream_seq", []), 1);
    relay.stop();
    relay.run_ok(&["restore", copy.to_str().unwrap(), "--replace"]);
    relay.run_ok(&["recover", "--held"]);
    relay.start_again();
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
}
