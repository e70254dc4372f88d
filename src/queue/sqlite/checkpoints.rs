//! Checkpoints: the relay is the only one that makes them while it runs.
//!
//! SQLite before 3.51.3 can corrupt a database when it checkpoints while another connection starts the log anew, and
//! Debian 12's sqlite3, with which people write to the queue, is older. What is unsafe in it is its checkpoint, not its
//! writes. So this process holds the lock that every checkpoint needs, byte 121 of the log's index
//! (<https://sqlite.org/walformat.html#locks>): another process that wants to checkpoint is told "busy", and goes on.
//!
//! POSIX locks belong to a process, so SQLite here takes the same lock without noticing, and gives it away when a
//! checkpoint of ours is done. In the moment until we have it again another process may begin a checkpoint: nobody may
//! write meanwhile, which a connection for just that sees to, and then there is nothing to go wrong.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rusqlite::{Connection, Result};

use super::files::Files;
use super::locks;

/// `WAL_CKPT_LOCK` of SQLite.
const CHECKPOINT_LOCK: u8 = 121;
/// As far as no reader is in the way; the others also empty the log.
pub(super) const PASSIVE: &str = "PASSIVE";
/// Copies nothing, and only counts.
pub(super) const NOOP: &str = "NOOP";
/// How long somebody else's checkpoint is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(1);

/// The right to checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Keeps others from writing.
    keeper: Connection,
    /// Closed after the connection: to close it takes away all locks of this process on it.
    index: File,
    /// Another process may be at a checkpoint, and write to the database.
    lost: Cell<bool>,
}

impl Checkpoints {
    /// `keeper`: a connection to the database for this alone; `index`: where the log's index is.
    pub(super) fn new(keeper: Connection, index: &Path) -> std::io::Result<Checkpoints> {
        let index = OpenOptions::new().read(true).write(true).open(index)?;
        let checkpoints = Checkpoints { keeper, index, lost: Cell::new(true) };
        checkpoints.wait_for();
        Ok(checkpoints)
    }

    /// Only this process writes to the database's own file.
    pub(super) fn are_ours(&self) -> bool {
        !self.lost.get()
    }

    /// Asked where the files do not look as they should: SQLite gives the lock away, without a word, when it recovers
    /// the index after a writer that was killed. Since then another process may have made a checkpoint.
    pub(super) fn were_lost(&self) -> bool {
        let inode = || self.index.metadata().map_or(0, |index| index.ino());
        if self.are_ours() && locks::is_ours(inode(), CHECKPOINT_LOCK.into()) == Some(false) {
            self.lost.set(true);
        }
        !self.are_ours()
    }

    /// Twice a second: takes the lock again where it was lost.
    pub(super) fn keep(&self, files: &Files) {
        let was_lost = self.were_lost();
        self.lost.set(!self.take());
        if was_lost && self.are_ours() {
            files.note_content();
        }
    }

    /// Takes the lock; false while another process has it. Taken once more it stays taken.
    fn take(&self) -> bool {
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: CHECKPOINT_LOCK.into(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&self.index, FcntlArg::F_SETLK(&lock)).is_ok()
    }

    fn wait_for(&self) {
        let start = Instant::now();
        let mut taken = self.take();
        while !taken && start.elapsed() < PATIENCE {
            std::thread::sleep(TICK);
            taken = self.take();
        }
        self.lost.set(!taken);
    }

    /// Copies the log into the database as far as nobody reads it; gives the frames in the log and those copied.
    pub(super) fn run(&self, conn: &Connection, files: &Files) -> Result<(i64, i64)> {
        self.keeper.execute_batch("BEGIN IMMEDIATE")?;
        let copied = copy(conn, PASSIVE);
        self.wait_for();
        files.note_content();
        self.keeper.execute_batch("ROLLBACK")?;
        copied
    }
}

/// Copies the log; gives the frames in it and those copied.
pub(super) fn copy(conn: &Connection, mode: &str) -> Result<(i64, i64)> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(1)?, row.get(2)?)))
}
