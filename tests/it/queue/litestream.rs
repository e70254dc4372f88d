//! A relay that leaves checkpoints to Litestream, and a replica that misses nothing of it. [`Replica`] does what
//! Litestream 0.5 does, in small. Litestream itself: `tests/litestream/run`.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::harness::db::Db;
use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, World, mail, wait_for};
use crate::harness::sender::SENDER;

const PAGE_BYTES: usize = 4096;
const HEADER_BYTES: u64 = 32;
const FRAME_BYTES: usize = 24 + PAGE_BYTES;
/// Frames of the log at which it makes a checkpoint.
const CHECKPOINT_FRAMES: u64 = 200;
const CONTENTS: &str = "SELECT m.queue_id, hex(coalesce((SELECT group_concat(CAST(data AS TEXT), '') FROM
    (SELECT data FROM content WHERE message_id = m.id ORDER BY seq)), '')) FROM messages m ORDER BY m.id";

/// What Litestream knows when it is killed.
#[derive(Default)]
struct Known {
    pages: BTreeMap<u32, Vec<u8>>,
    page_count: u32,
    /// Where it stopped to read the log, and which log that was.
    at: u64,
    salts: [u8; 8],
    /// Logs that it has read to their end.
    logs: u32,
}

struct Replica {
    database: PathBuf,
    known: Known,
    /// Keeps the log from being started anew by others.
    reader: Connection,
    writer: Connection,
    copier: Connection,
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

impl Replica {
    fn of(database: &Path, known: Known) -> Replica {
        let open = || {
            let conn = Connection::open(database).unwrap();
            conn.busy_timeout(SOON).unwrap();
            // It is killed, and closes nothing.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
            conn.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
            conn
        };
        let mut replica =
            Replica { database: database.into(), known, reader: open(), writer: open(), copier: open() };
        if replica.known.pages.is_empty() {
            replica.snapshot();
        }
        replica.hold();
        replica
    }

    /// All of the database, as it is without its log.
    fn snapshot(&mut self) {
        self.writer
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
                 CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER);
                 INSERT OR IGNORE INTO _litestream_seq VALUES (1, 1);
                 PRAGMA wal_checkpoint(TRUNCATE);
                 UPDATE _litestream_seq SET seq = seq + 1; BEGIN IMMEDIATE",
            )
            .unwrap();
        let file = std::fs::read(&self.database).unwrap();
        let pages = (1..).zip(file.chunks(PAGE_BYTES).map(<[u8]>::to_vec));
        self.known =
            Known { pages: pages.collect(), at: HEADER_BYTES, salts: self.salts(), ..Known::default() };
        self.read_log();
        self.writer.execute_batch("ROLLBACK").unwrap();
    }

    fn hold(&self) {
        self.reader.execute_batch("BEGIN; SELECT count(1) FROM _litestream_seq").unwrap();
    }

    fn log(&self) -> std::fs::File {
        std::fs::File::open(self.database.with_extension("db-wal")).unwrap()
    }

    fn salts(&self) -> [u8; 8] {
        let mut salts = [0; 8];
        self.log().read_exact_at(&mut salts, 16).unwrap();
        salts
    }

    /// Reads on to the log's end, while nobody writes.
    fn read_log(&mut self) {
        assert_eq!(self.salts(), self.known.salts, "the log began anew, and nobody has read it to its end");
        let (log, mut frame) = (self.log(), vec![0; FRAME_BYTES]);
        while log.read_exact_at(&mut frame, self.known.at).is_ok() && frame[8..16] == self.known.salts {
            self.known.pages.insert(word(&frame[..4]), frame[24..].to_vec());
            if word(&frame[4..8]) > 0 {
                self.known.page_count = word(&frame[4..8]);
            }
            self.known.at += FRAME_BYTES as u64;
        }
    }

    /// Once in its second: the log's new frames, and a checkpoint where it has become long.
    fn tick(&mut self) {
        self.writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        self.read_log();
        if self.known.at < HEADER_BYTES + CHECKPOINT_FRAMES * FRAME_BYTES as u64 {
            return self.writer.execute_batch("ROLLBACK").unwrap();
        }
        self.reader.execute_batch("ROLLBACK").unwrap();
        let busy: i64 =
            self.copier.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0, "the relay has left no checkpoint to others");
        self.hold();
        self.writer.execute_batch("ROLLBACK; UPDATE _litestream_seq SET seq = seq + 1").unwrap();
        if self.salts() != self.known.salts {
            self.known = Known {
                at: HEADER_BYTES,
                salts: self.salts(),
                logs: self.known.logs + 1,
                ..std::mem::take(&mut self.known)
            };
        }
    }

    /// The database that a `litestream restore` would give.
    fn restore(&self, to: &Path) {
        let pages = self.known.pages.range(..=self.known.page_count);
        std::fs::write(to, pages.flat_map(|(_, page)| page.iter().copied()).collect::<Vec<_>>()).unwrap();
    }

    /// SIGKILL.
    fn kill(self) -> Known {
        self.known
    }
}

#[test]
fn a_replica_beside_the_relay_misses_nothing() {
    let mut world = World::new();
    let _takes = world.host("a.test", Script::new());
    let _later = world.host("b.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let mut relay = world.relay(Config::new().set("queue.checkpoints", "\"litestream\""));
    let database = relay.path("queue.db");
    let mut replica = Replica::of(&database, Known::default());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for to in ["you@a.test", "you@b.test"] {
            let (relay, ended) = (&relay, &ended);
            scope.spawn(move || {
                let mut client = relay.client();
                while !ended.load(Relaxed) {
                    client.submit(SENDER, &[to], &mail("beside the replica"));
                }
            });
        }
        wait_for("five logs", SOON * 3, || {
            replica.tick();
            std::thread::sleep(Duration::from_millis(20));
            (replica.known.logs >= 5).then_some(())
        });
        ended.store(true, Relaxed);
    });
    // Neither a stop nor a command takes the log away, whether the replica looks or not.
    let waits = relay.submit(SENDER, &["she@b.test"], &mail("waits"));
    relay.stop();
    relay.run_ok(&["queue", "hold", &waits]);
    replica.tick();
    let known = replica.kill();
    relay.start_again();
    relay.submit(SENDER, &["she@b.test"], &mail("not seen by the replica"));
    relay.kill();
    relay.run_ok(&["queue", "release", &waits]);
    relay.run_ok(&["sql", "--write", "-c", "UPDATE recipients SET priority = 4"]);
    relay.start_again();
    relay.submit(SENDER, &["she@b.test"], &mail("nor this"));
    relay.stop();
    relay.run_ok(&["queue", "hold", &waits]);
    let mut replica = Replica::of(&database, known);
    replica.tick();
    let copy = relay.path("replica.db");
    replica.restore(&copy);
    drop(replica);
    let there = Db::open(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).rows(CONTENTS, []);
    relay.run_ok(&["restore", copy.to_str().unwrap(), "--replace"]);
    assert!(there.len() >= 3);
    assert!(relay.db().rows(CONTENTS, []) == there, "the replica has other mail");
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
    assert_eq!(relay.logged(&["WARN", "Litestream"]), [""; 0]);
}
