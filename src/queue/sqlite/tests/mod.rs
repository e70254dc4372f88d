//! The queue on real SQLite in a directory of its own.

mod clock_set_back;
mod files;
mod flow;
mod gauges;
mod litestream;
mod odd_rows;
mod people;
mod policies;
mod purge;
mod replies;
mod routes;
mod tls_results;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use rusqlite::Connection;

use crate::config::QueueSettings;
use crate::mail::Domain;
use crate::queue::open::BUSY_PATIENCE;
use crate::queue::shared::now_us;
use crate::queue::*;

use super::Database;
use crate::queue::tests::sample::{self, DELIVERED, settlement};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a test has otherwise.
struct Tuning {
    busy_patience: Duration,
    /// Done with the writer's connection before it starts.
    prepare: fn(&mut Connection) -> rusqlite::Result<()>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { busy_patience: BUSY_PATIENCE, prepare: |_| Ok(()) }
    }
}

struct Bench {
    directory: tempfile::TempDir,
    queue: Queue,
    writer: WriterHandle,
    events: Receiver<Event>,
}

fn settings(path: PathBuf) -> QueueSettings {
    QueueSettings { path, history: Duration::from_secs(3600), litestream: false }
}

impl Bench {
    fn new() -> Bench {
        Bench::tuned(Tuning::default())
    }

    fn tuned(tuning: Tuning) -> Bench {
        Bench::open_in(tempfile::tempdir().unwrap(), tuning)
    }

    fn open_in(directory: tempfile::TempDir, tuning: Tuning) -> Bench {
        let (sender, events) = unbounded();
        let mut database = Database::open(&settings(directory.path().join("queue.db"))).unwrap();
        (tuning.prepare)(&mut database.conn).unwrap();
        let (queue, writer) = Queue::start(Box::new(database), tuning.busy_patience, sender).unwrap();
        Bench { directory, queue, writer, events }
    }

    /// Ends as the process would and starts again.
    fn restart(self) -> Bench {
        let Bench { directory, queue, writer, events } = self;
        writer.stop().unwrap();
        drop((queue, events));
        Bench::open_in(directory, Tuning::default())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("queue.db")
    }

    /// Somebody with `sqlite3`.
    fn somebody(&self) -> Connection {
        let conn = Connection::open(self.path()).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        // In another process it could not.
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        conn
    }

    fn number(&self, sql: &str) -> i64 {
        self.somebody().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn text(&self, sql: &str) -> String {
        self.somebody().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    fn accepted(&self) -> Vec<Due> {
        match self.event() {
            Event::Accepted(due) => due,
            // The writer looks for that when it comes to it, after what a test did as somebody else.
            Event::ChangedOutside => self.accepted(),
            other => panic!("{other:?}"),
        }
    }

    fn settled(&self) -> Vec<(RecipientId, Option<i64>)> {
        match self.event() {
            Event::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }

    fn accept(&self, to: &[&str]) -> Vec<Due> {
        self.queue.accept(self.message(to, b"Subject: x\r\n\r\nhello\r\n")).unwrap();
        self.accepted()
    }

    fn message(&self, to: &[&str], content: &[u8]) -> NewMessage {
        sample::message(&self.queue, to, content)
    }

    fn is_well(&self) {
        assert_eq!(self.queue.sweep(0).unwrap(), Sweep::default());
        assert_eq!(self.text("PRAGMA integrity_check"), "ok");
        let lost = "SELECT count(*) FROM content WHERE message_id NOT IN (SELECT id FROM messages)";
        assert_eq!(self.number(lost), 0);
    }
}
