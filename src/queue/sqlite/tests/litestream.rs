//! Checkpoints that are left to Litestream, and the one that the relay makes all the same.

use std::fs;
use std::path::Path;

use super::*;

/// Marks the log of one life, and its bytes.
fn log(database: &Path) -> (Vec<u8>, usize) {
    let log = fs::read(database.with_extension("db-wal")).unwrap();
    (log.get(16..24).unwrap_or_default().to_vec(), log.len())
}

fn settings_of(directory: &tempfile::TempDir, litestream: bool) -> QueueSettings {
    QueueSettings { litestream, ..settings(directory.path().join("queue.db")) }
}

fn start(directory: tempfile::TempDir, pages: u32) -> Bench {
    let (sender, events) = unbounded();
    let mut database = Database::open(&settings_of(&directory, true)).unwrap();
    database.checkpoints.pages = pages;
    let (queue, writer) = Queue::start(Box::new(database), BUSY_PATIENCE, sender).unwrap();
    Bench { directory, queue, writer, events }
}

/// Litestream sees that it has missed something only where the page at which it stopped is gone.
#[test]
fn a_log_that_nobody_copies_is_copied_once_it_is_long_and_cut_behind_what_comes_next() {
    let bench = start(tempfile::tempdir().unwrap(), 300);
    bench.accept(&["first@example.com"]);
    let (life, _) = log(&bench.path());
    let reader = bench.somebody();
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages").unwrap();
    let mut longest = 0;
    while longest < 350 * 4120 {
        bench.accept(&["more@example.com"]);
        longest = log(&bench.path()).1;
    }
    assert_eq!(log(&bench.path()).0, life, "Litestream reads it");
    drop(reader);
    // It looks twice a second.
    let began = std::time::Instant::now();
    while log(&bench.path()).0 == life {
        assert!(began.elapsed() < PATIENCE, "the log does not begin anew");
        bench.accept(&["more@example.com"]);
    }
    let (life, bytes) = log(&bench.path());
    assert!(bytes < longest / 2, "{bytes} of {longest}: what Litestream has read of it still stands there");
    let Bench { directory, queue, writer, .. } = bench;
    writer.stop().unwrap();
    drop(queue);
    let bench = start(directory, 300);
    bench.accept(&["last@example.com"]);
    assert_eq!(log(&bench.path()).0, life, "a stop leaves the log");
    bench.is_well();
}

/// A replica of the time before the relay left checkpoints to it knows nothing of those that were made since.
#[test]
fn the_first_start_empties_the_log_and_the_next_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let write = |litestream| {
        let database = Database::open(&settings_of(&directory, litestream)).unwrap();
        database
            .conn
            .execute(
                "INSERT INTO content VALUES ((SELECT coalesce(max(message_id), 0) + 1 FROM content), 0, x'00')",
                [],
            )
            .unwrap();
        drop(database);
        log(&path).0
    };
    let before = write(false);
    assert_eq!(write(false), before, "an unclean end leaves its log");
    let first = write(true);
    assert_ne!(first, before);
    assert_eq!(write(true), first);
    // Somebody changes it with `postrider queue` while no relay runs.
    let admin = crate::queue::admin::Admin::to_write(&path).unwrap();
    drop(admin);
    assert_eq!(log(&path).0, first, "the last to close makes no checkpoint");
    assert_eq!(write(false), first);
    let admin = crate::queue::admin::Admin::to_write(&path).unwrap();
    drop(admin);
    assert!(!path.with_extension("db-wal").exists(), "and does where the relay makes them itself");
    assert_ne!(write(true), first, "another was at it meanwhile");
}
