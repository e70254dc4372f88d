//! The database taken away from under the relay, and two relays that want the same one.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;

/// What people and programs do to the files of a database in use, and what is said of it. The directory has
/// `queue.db`, and `other.db` beside it: another queue, that nobody has open.
type Deed = (&'static str, fn(&Path), &'static str);
const DEEDS: &[Deed] = &[
    ("rm queue.db*", |d| ["", "-wal", "-shm"].iter().for_each(|end| rm(d, end)), "queue.db is gone, and the"),
    ("rm queue.db", |d| rm(d, ""), "queue.db is gone, and the database that was in use is removed"),
    ("rm queue.db-wal", |d| rm(d, "-wal"), "queue.db-wal is gone"),
    ("rm queue.db-shm", |d| rm(d, "-shm"), "queue.db-shm is gone"),
    ("mv queue.db old.db", |d| mv(d, "queue.db", "old.db"), "/old.db; stop"),
    ("mv queue.db-wal old-wal", |d| mv(d, "queue.db-wal", "old-wal"), "queue.db-wal is gone"),
    ("mv other.db queue.db", |d| mv(d, "other.db", "queue.db"), "queue.db is another file now"),
    ("mv other.db queue.db-wal", |d| mv(d, "other.db", "queue.db-wal"), "queue.db-wal is another file now"),
    ("mv DIRECTORY moved", |d| fs::rename(d, d.with_file_name("moved")).unwrap(), "moved/queue.db; stop"),
    (
        "mv, and a new queue",
        |d| {
            (mv(d, "queue.db", "old.db"), fs::copy(d.join("other.db"), d.join("queue.db")))
                .1
                .map(drop)
                .unwrap()
        },
        "another file now",
    ),
    (": > queue.db", |d| cut(d, "queue.db"), "queue.db was overwritten"),
    (": > queue.db-wal", |d| cut(d, "queue.db-wal"), "queue.db-wal was overwritten"),
    ("cp /etc/passwd queue.db", |d| over(d, "queue.db"), "queue.db was overwritten"),
    ("cp other.db queue.db", |d| cp(d, "other.db", "queue.db"), "queue.db was overwritten"),
    ("cp /etc/passwd queue.db-wal", |d| over(d, "queue.db-wal"), "queue.db-wal was overwritten"),
];

fn rm(directory: &Path, end: &str) {
    fs::remove_file(directory.join(format!("queue.db{end}"))).unwrap();
}

fn mv(directory: &Path, from: &str, to: &str) {
    fs::rename(directory.join(from), directory.join(to)).unwrap();
}

/// Into the same inode, as `cp` does.
fn cp(directory: &Path, from: &str, to: &str) {
    let bytes = fs::read(directory.join(from)).unwrap();
    fs::write(directory.join(to), bytes).unwrap();
}

fn cut(directory: &Path, name: &str) {
    fs::File::options().write(true).truncate(true).open(directory.join(name)).unwrap();
}

fn over(directory: &Path, name: &str) {
    let long = "this is text, and longer than any header of SQLite's; it is nobody's mail\n".repeat(100);
    fs::write(directory.join(name), long).unwrap();
}

/// A queue in a directory that can be moved, with a message in it and another database beside it.
fn bench() -> (tempfile::TempDir, Bench) {
    let outer = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir_in(outer.path()).unwrap();
    let other = Connection::open(directory.path().join("other.db")).unwrap();
    other.execute_batch(crate::queue::sqlite::migrate::SCHEMA).unwrap();
    drop(other);
    let bench = Bench::open_in(directory, Tuning::default());
    bench.accept(&["before@example.com"]);
    (outer, bench)
}

#[test]
fn nothing_is_acknowledged_once_the_files_are_others() {
    for (deed, act, said) in DEEDS {
        let (_outer, bench) = bench();
        act(bench.directory.path());
        let answer = bench.queue.accept(bench.message(&["after@example.com"], b"x\r\n"));
        assert_eq!(answer, Err(AcceptError::Failed), "{deed}");
        let error = bench.writer.failed().recv_timeout(PATIENCE).unwrap();
        let why = error.to_string();
        assert!(why.contains(said), "{deed}: {why}");
        // The next start makes the index anew.
        assert!(
            error.needs_a_person() != deed.ends_with("-shm") && why.contains("start again"),
            "{deed}: {why}"
        );
        assert!(bench.writer.stop().is_err(), "{deed}");
    }
}

#[test]
fn an_idle_relay_notices_within_a_second_and_leaves_what_is_there_now_alone() {
    // At once, since each takes its half second.
    std::thread::scope(|scope| {
        for (deed, act, said) in DEEDS {
            scope.spawn(move || {
                let (_outer, bench) = bench();
                act(bench.directory.path());
                let since = Instant::now();
                let why = bench.writer.failed().recv_timeout(PATIENCE).unwrap().to_string();
                assert!(since.elapsed() < Duration::from_secs(1), "{deed}: {:?}", since.elapsed());
                assert!(why.contains(said), "{deed}: {why}");
                // The log of a database that took our place is not ours to delete.
                let log = bench.directory.path().join("queue.db-wal");
                let is_there = log.exists();
                let Bench { directory, queue, writer, events } = bench;
                let _ = (writer.stop(), drop((queue, events)));
                assert_eq!(log.exists(), is_there, "{deed}");
                drop(directory);
            });
        }
    });
}

/// A database in whose place there is none, an empty one, or a copy that never had a log: SQLite would write the log
/// into whatever is there, and the mail in it would be gone. `before` is what the relay that was killed had accepted.
#[test]
fn a_log_is_never_taken_into_another_database() {
    let before = 2;
    let killed = || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let database = Database::open(&settings(path.clone())).unwrap();
        for id in 1..=before {
            let sql = "INSERT INTO content VALUES (?1, 0, x'00')";
            database.conn.execute(sql, [id]).unwrap();
        }
        drop(database);
        assert!(fs::metadata(directory.path().join("queue.db-wal")).unwrap().len() > 0);
        (directory, path)
    };
    let copy: fn(&Path) = |d| {
        let conn = Connection::open(d.join("copy.db")).unwrap();
        conn.execute_batch(crate::queue::sqlite::migrate::SCHEMA).unwrap();
        drop(conn);
        fs::rename(d.join("copy.db"), d.join("queue.db")).unwrap();
    };
    let deeds: [Deed; 3] = [
        ("mv", |_| (), "is not there"),
        ("mv, touch", |d| drop(fs::File::create(d.join("queue.db")).unwrap()), "is empty"),
        ("mv, cp", copy, "is a copy, made without a log"),
    ];
    for (_, act, said) in deeds {
        let (directory, path) = killed();
        fs::rename(&path, directory.path().join("moved.db")).unwrap();
        act(directory.path());
        let log = fs::read(directory.path().join("queue.db-wal")).unwrap();
        for _ in 0..2 {
            let Err(error) = Database::open(&settings(path.clone())) else { panic!("{said}") };
            assert!(error.needs_a_person() && error.to_string().contains(said), "{error}");
        }
        // Nor by a command, which would delete the log, or write it into what is there.
        for write in [false, true].into_iter().filter(|_| path.exists()) {
            let error = crate::queue::sqlite::admin::connect(&path, write).map(drop).unwrap_err();
            assert!(error.needs_a_person() && error.to_string().contains(said), "{error}");
        }
        assert!(fs::read(directory.path().join("queue.db-wal")).unwrap() == log, "{said}");
        fs::rename(directory.path().join("moved.db"), &path).unwrap();
        let database = Database::open(&settings(path)).unwrap();
        let count = database.conn.query_row("SELECT count(*) FROM content", [], |row| row.get::<_, i64>(0));
        assert_eq!(count.unwrap(), before, "{said}");
    }
    // A journal that undoes something is a log too; that of a first start which was killed has nothing to undo.
    for (pages, is_ours) in [(7_u8, false), (0, true)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let mut journal = [0; 512];
        journal[19] = pages;
        fs::write(directory.path().join("queue.db-journal"), journal).unwrap();
        assert_eq!(Database::open(&settings(path)).is_ok(), is_ours, "{pages}");
    }
}

/// What has no name any more is written down before the process ends, and put back it has the mail of before.
#[test]
fn what_was_removed_while_it_was_open_is_rescued() {
    let kept = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut kept: Vec<_> = entries.filter(|path| path.to_string_lossy().contains(".rescued-")).collect();
        kept.sort();
        kept
    };
    for ends in [&["-wal"][..], &["", "-wal", "-shm"], &[""]] {
        let (_outer, bench) = bench();
        ends.iter().for_each(|end| rm(bench.directory.path(), end));
        let why = bench.writer.failed().recv_timeout(PATIENCE).unwrap().to_string();
        let Bench { directory, queue, writer, events } = bench;
        let _ = (writer.stop(), drop((queue, events)));
        let kept = kept(directory.path());
        assert!(why.contains(&kept[0].display().to_string()), "{ends:?}: {why}");
        let path = directory.path().join("queue.db");
        // A start without it would make another queue, or another log, beside which it cannot be put back.
        let Err(refused) = Database::open(&settings(path.clone())) else { panic!("{ends:?}") };
        assert!(
            refused.needs_a_person() && refused.to_string().contains(&kept[0].display().to_string()),
            "{refused}"
        );
        match ends.len() {
            3 => {
                fs::rename(&kept[0], &path).unwrap();
                fs::rename(&kept[1], directory.path().join("queue.db-wal")).unwrap();
            }
            _ => fs::rename(&kept[0], directory.path().join(format!("queue.db{}", ends[0]))).unwrap(),
        }
        let database = Database::open(&settings(path)).unwrap();
        let waits =
            database.conn.query_row("SELECT count(*) FROM recipients", [], |row| row.get::<_, i64>(0));
        assert_eq!(waits.unwrap(), 1, "{ends:?}");
    }
}

/// The index of the log is made anew by the next start, which need not wait for anybody.
#[test]
fn a_removed_index_ends_the_relay_and_not_its_next_start() {
    let (_outer, bench) = bench();
    rm(bench.directory.path(), "-shm");
    let error = bench.writer.failed().recv_timeout(PATIENCE).unwrap();
    assert!(error.to_string().contains("queue.db-shm is gone") && !error.needs_a_person(), "{error}");
    let Bench { directory, queue, writer, events } = bench;
    let _ = (writer.stop(), drop((queue, events)));
    assert!(Database::open(&settings(directory.path().join("queue.db"))).is_ok());
}

/// Every name leads to the same lock.
#[test]
fn no_other_name_leads_round_the_lock() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    let (symlink, hard_link) = (directory.path().join("symlink.db"), directory.path().join("hard.db"));
    std::os::unix::fs::symlink(bench.path(), &symlink).unwrap();
    let open = |path: &Path| Queue::open(&settings(path.to_owned()), unbounded().0).unwrap_err();
    let _ = fs::remove_file(bench.directory.path().join("queue.db.lock"));
    for path in [symlink, bench.path()] {
        let error = open(&path).to_string();
        assert!(
            error.contains(&format!("in use by another postrider (pid {})", std::process::id())),
            "{error}"
        );
    }
    fs::hard_link(bench.path(), &hard_link).unwrap();
    let error = open(&hard_link).to_string();
    assert!(error.contains("in use"), "{error}");
    let place = bench.path();
    let directory = {
        let Bench { directory, queue, writer, events } = bench;
        writer.stop().unwrap();
        drop((queue, events));
        directory
    };
    // Under its second name the log of an unclean end would not be found.
    let error = open(&place).to_string();
    assert!(error.contains("second name"), "{error}");
    fs::remove_file(hard_link).unwrap();
    Bench::open_in(directory, Tuning::default());
}

#[test]
fn what_changes_nothing_ends_nothing() {
    let bench = Bench::new();
    bench.accept(&["before@example.com"]);
    let database = fs::File::options().write(true).open(bench.path()).unwrap();
    database.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    // To close it would take this process's locks.
    std::mem::forget(database);
    fs::set_permissions(bench.path(), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    bench.accept(&["after@example.com"]);
    bench.is_well();
}

/// SQLite gives the lock on checkpoints away when it recovers the index after somebody's kill, and whoever has it next
/// writes to the database, and may empty the log. A second connection of this process gives it away just so.
#[test]
fn a_checkpoint_of_somebody_else_in_the_moment_without_the_lock_is_no_overwriting() {
    for mode in ["PASSIVE", "RESTART", "TRUNCATE"] {
        let bench = Bench::new();
        for _ in 0..3 {
            bench.accept(&["before@example.com"]);
            bench.somebody().execute_batch(&format!("PRAGMA wal_checkpoint({mode})")).unwrap();
            bench.accept(&["after@example.com"]);
        }
        // The lock is taken again, and from then on nobody else may write there.
        let lock_is_back = || {
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            let _ = bench.somebody().query_row(checkpoint, [], |row| row.get::<_, i64>(0));
            bench.accept(&["last@example.com"]);
        };
        (0..3).for_each(|_| lock_is_back());
        bench.is_well();
    }
}

/// The disk that matters is the database's own.
#[test]
fn through_a_link_all_is_beside_the_database() {
    let (real, named) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (database, link) = (real.path().join("mail.db"), named.path().join("queue.db"));
    // It leads nowhere yet.
    std::os::unix::fs::symlink(&database, &link).unwrap();
    let bench = Bench::open_in(named, Tuning::default());
    bench.accept(&["a@example.com"]);
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(bench.directory.path()), ["queue.db"]);
    assert_eq!(names(real.path()), ["mail.db", "mail.db-ballast", "mail.db-shm", "mail.db-wal"]);
    let admin = crate::queue::admin::Admin::to_write(&link).unwrap();
    let room = admin.disk_room().unwrap();
    assert_eq!(room, crate::queue::admin::DiskRoom::Enough);
}

/// A log that was long once is as long as what is in it after the next unclean end; and what stood behind a bad frame
/// is told of once.
#[test]
fn what_stands_behind_the_logs_end_goes_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let log = directory.path().join("queue.db-wal");
    let database = Database::open(&settings(path.clone())).unwrap();
    let insert = |bytes: i64| {
        let sql = "INSERT INTO content VALUES ((SELECT coalesce(max(message_id), 0) + 1 FROM content), 0, zeroblob(?1))";
        database.conn.execute(sql, [bytes]).unwrap();
    };
    insert(5_000_000);
    database.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    (0..3).for_each(|_| insert(10));
    assert!(fs::metadata(&log).unwrap().len() > 5_000_000);
    drop(database);
    let left = fs::metadata(&log).unwrap().len();
    assert!(left > 5_000_000, "the end was unclean: {left}");
    let database = Database::open(&settings(path.clone())).unwrap();
    let bytes = fs::metadata(&log).unwrap().len();
    assert!((1..200_000).contains(&bytes), "{bytes}");
    assert_eq!(
        database.conn.query_row("SELECT count(*) FROM content", [], |row| row.get::<_, i64>(0)).unwrap(),
        4
    );
    drop(database);

    // A bit in the second of the three, and then one unclean end after the other.
    let mut spoilt = fs::read(&log).unwrap();
    spoilt[32 + 24 + 4096 + 2000] ^= 1;
    fs::write(&log, &spoilt).unwrap();
    for _ in 0..3 {
        let database = Database::open(&settings(path.clone())).unwrap();
        database.conn.execute("INSERT OR REPLACE INTO meta VALUES ('lifetime', 5)", []).unwrap();
        drop(database);
    }
    let names = fs::read_dir(directory.path()).unwrap();
    let copies =
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().contains("-wal.damaged-"));
    assert_eq!(copies.count(), 1);
}
