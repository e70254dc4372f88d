//! Who holds a lock on the files of the database, by Linux's list in /proc/locks. Where there is none, nobody is named.
//!
//! Which byte means what: <https://sqlite.org/walformat.html#locks> for the log's index (`queue.db-shm`), and
//! <https://sqlite.org/fileformat2.html#the_lock_byte_page> for a database that is not in WAL mode yet.

use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::files::beside;

/// The byte of the index that a writer locks.
const WRITE_LOCK: u64 = 120;
/// Those that readers lock.
const READ_LOCKS: RangeInclusive<u64> = 123..=127;
/// Those of the database.
const DATABASE_LOCKS: RangeInclusive<u64> = 0x4000_0000..=0x4000_01ff;

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    pid: u32,
    is_write: bool,
    inode: u64,
    bytes: RangeInclusive<u64>,
}

/// Processes that keep the write-ahead log from being copied, since they read an old state of the database: for the
/// end of a sentence about it.
pub(super) fn readers_of_log(database: &Path) -> String {
    let index = inode(&beside(database, "-shm"));
    let read = |lock: &Lock| lock.inode == index && !lock.is_write && READ_LOCKS.contains(lock.bytes.start());
    match others(&list(), read).as_slice() {
        [] => "; it is copied when nobody reads an old state of the database any more".to_owned(),
        some => format!("; it is copied when {} ends its read transaction", some.join(", ")),
    }
}

/// `: pid 4711 (sqlite3)`: who else keeps us from writing to the database.
pub(super) fn writer(database: &Path) -> String {
    let (file, index) = (inode(database), inode(&beside(database, "-shm")));
    let is_it = |lock: &Lock| {
        lock.inode == index && lock.is_write && lock.bytes.contains(&WRITE_LOCK)
            || lock.inode == file && DATABASE_LOCKS.contains(lock.bytes.start())
    };
    match others(&list(), is_it).as_slice() {
        [] => String::new(),
        some => format!(": {}", some.join(", ")),
    }
}

/// Whether this process has the exclusive lock on a byte of a file; none where the list does not show its locks.
pub(super) fn is_ours(inode: u64, byte: u64) -> Option<bool> {
    held_by(&list(), std::process::id(), inode, byte)
}

fn held_by(locks: &str, pid: u32, inode: u64, byte: u64) -> Option<bool> {
    // The lock on the database itself is always there.
    let mut shows_any = false;
    for line in locks.lines() {
        shows_any |= line.split_ascii_whitespace().nth(4) == Some(pid.to_string().as_str());
        let is_it = |lock: &Lock| {
            lock.pid == pid && lock.is_write && lock.inode == inode && lock.bytes.contains(&byte)
        };
        if parse(line).is_some_and(|lock| is_it(&lock)) {
            return Some(true);
        }
    }
    shows_any.then_some(false)
}

fn list() -> String {
    std::fs::read_to_string("/proc/locks").unwrap_or_default()
}

fn inode(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.ino())
}

/// Each other process with such a lock, once: `pid 4711 (sqlite3)`.
fn others(locks: &str, wanted: impl Fn(&Lock) -> bool) -> Vec<String> {
    let found = locks.lines().filter_map(parse).filter(wanted).map(|lock| lock.pid);
    let mut pids: Vec<u32> = found.filter(|pid| *pid != std::process::id()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter()
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("pid {pid} ({})", crate::kit::text::printable(name.trim_end().as_bytes()))
        })
        .collect()
}

/// `1: POSIX  ADVISORY  READ  4711 fe:00:131337 124 124`. The device is not compared: some file systems show another
/// one here than stat(2) does.
fn parse(line: &str) -> Option<Lock> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "POSIX", _, kind, pid, file, first, last] = words.as_slice() else { return None };
    let last = if *last == "EOF" { u64::MAX } else { last.parse().ok()? };
    Some(Lock {
        pid: pid.parse().ok()?,
        is_write: *kind == "WRITE",
        inode: file.rsplit(':').next()?.parse().ok()?,
        bytes: first.parse().ok()?..=last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  READ 4711 fe:00:131337 124 124\n\
                         1: -> POSIX  ADVISORY  WRITE 4712 fe:00:131337 124 124\n\
                         2: POSIX  ADVISORY  READ 4711 fe:00:131337 125 125\n\
                         3: POSIX  ADVISORY  READ 815 fe:00:131337 128 128\n\
                         4: POSIX  ADVISORY  WRITE 816 fe:00:131337 120 123\n\
                         5: POSIX  ADVISORY  READ 817 fe:00:131338 123 123\n\
                         6: FLOCK  ADVISORY  WRITE 818 fe:00:131337 0 EOF\n\
                         7: POSIX  ADVISORY  READ 99 00:1b:131337 127 127\nnonsense\n\
                         8: POSIX  ADVISORY  WRITE 819 fe:00:131339 0 EOF\n";

    #[test]
    fn locks_are_found_in_the_list_of_all() {
        let pids = |inode, byte| -> Vec<u32> {
            let locks = LOCKS.lines().filter_map(parse);
            locks
                .filter(|lock| lock.inode == inode && lock.bytes.contains(&byte))
                .map(|lock| lock.pid)
                .collect()
        };
        assert_eq!(pids(131_337, 124), [4711]);
        assert_eq!(pids(131_337, 121), [816]);
        assert_eq!(pids(131_339, 121), [819]);
        let read =
            |lock: &Lock| !lock.is_write && lock.inode == 131_337 && READ_LOCKS.contains(lock.bytes.start());
        let names = others(LOCKS, read);
        assert!(
            names.len() == 2 && names[0].starts_with("pid 99 (") && names[1].starts_with("pid 4711 ("),
            "{names:?}"
        );
    }

    #[test]
    fn whether_a_byte_is_ours_is_known_where_the_list_shows_us_at_all() {
        for (pid, inode, byte, wanted) in [
            (816, 131_337, 121, Some(true)),
            (816, 131_337, 119, Some(false)),
            (818, 131_337, 121, Some(false)),
            (4711, 131_337, 124, Some(false)),
            (5, 131_337, 121, None),
        ] {
            assert_eq!(held_by(LOCKS, pid, inode, byte), wanted, "{pid} {byte}");
        }
    }
}
