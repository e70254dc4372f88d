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
//!
//! With `[queue] checkpoints = "litestream"` it is Litestream that makes them: it sends each page of the log away
//! first, and a log that begins anew without its knowledge leaves a hole in its replica. The lock is not held then.
//! Litestream knows that it has missed something only where the page at which it stopped reading is gone from the log.
//! So every connection of ours that writes has `journal_size_limit = 0`: a log that begins anew is cut behind its first
//! transaction, and Litestream begins with a snapshot.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Result};

use super::files::Files;
use super::locks;

/// Pages of the write-ahead log at which they are copied into the database. A page that was written
/// again meanwhile is copied once, so a long log saves work: 64 MiB.
pub(super) const CHECKPOINT_PAGES: u32 = 16_000;
/// The same where Litestream is to have copied them long before: 1 GiB, at which new mail is still taken.
const UNCOPIED_PAGES_MAX: u32 = 262_144;
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
    /// Litestream makes them.
    litestream: bool,
    /// Pages of the log at which the relay makes one.
    pub(super) pages: u32,
}

impl Checkpoints {
    /// `keeper`: a connection to the database for this alone; `index`: where the log's index is.
    pub(super) fn new(keeper: Connection, index: &Path, litestream: bool) -> std::io::Result<Checkpoints> {
        let index = OpenOptions::new().read(true).write(true).open(index)?;
        let pages = if litestream { UNCOPIED_PAGES_MAX } else { CHECKPOINT_PAGES };
        let checkpoints = Checkpoints { keeper, index, lost: Cell::new(true), litestream, pages };
        checkpoints.wait_for();
        Ok(checkpoints)
    }

    /// The relay makes none but where the log has become long all the same.
    pub(super) fn are_litestreams(&self) -> bool {
        self.litestream
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
        if self.litestream {
            return false;
        }
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
        while !taken && !self.litestream && start.elapsed() < PATIENCE {
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

/// In `meta`: the last relay on this database left the checkpoints to Litestream.
const MARK: &str = "checkpoints_of_litestream";

/// At the start of the relay. Where another than Litestream made them until now, its replica, if it has one, knows
/// nothing of that: the log is emptied, so that it sees it.
pub(super) fn note_who_makes_them(conn: &Connection, litestream: bool) -> Result<()> {
    match (are_left_to_litestream(conn)?, litestream) {
        (false, true) => {
            copy(conn, "TRUNCATE")?;
            conn.execute("INSERT INTO meta VALUES (?1, 1)", [MARK]).map(drop)
        }
        (true, false) => conn.execute("DELETE FROM meta WHERE key = ?1", [MARK]).map(drop),
        _ => Ok(()),
    }
}

fn are_left_to_litestream(conn: &Connection) -> Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM meta WHERE key = ?1)", [MARK], |row| row.get(0))
}

/// For a connection that writes beside the relay or without it: makes no checkpoint, not even as the last to close.
pub(super) fn leave_them_to_litestream(conn: &Connection) -> Result<()> {
    let is_queue = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'meta')";
    if conn.query_row(is_queue, [], |row| row.get(0))? && are_left_to_litestream(conn)? {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.execute_batch("PRAGMA journal_size_limit = 0")?;
    }
    Ok(())
}
