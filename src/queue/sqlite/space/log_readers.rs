//! Who keeps the write-ahead log from being copied: processes that read an old state of the database.
//!
//! A reader holds a lock on one of five bytes of the log's index (`queue.db-shm`; WAL-mode file format, §2.3.1), and
//! Linux lists locks in /proc/locks. Where it does not, nobody is named.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::queue::sqlite::files::beside;

/// The bytes of the index that readers lock.
const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;

/// For the end of a sentence about the log of this database.
pub(super) fn words(database: &Path) -> String {
    let inode = beside(database, "-shm").metadata().map_or(0, |file| file.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let others: Vec<String> = pids(&locks, inode)
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("pid {pid} ({})", crate::kit::text::printable(name.trim_end().as_bytes()))
        })
        .collect();
    match others.as_slice() {
        [] => "; it is copied when nobody reads an old state of the database any more".to_owned(),
        some => format!("; it is copied when {} ends its read transaction", some.join(", ")),
    }
}

/// `1: POSIX  ADVISORY  READ  4711 fe:00:131337 124 124`. The device is not compared: some file systems show another
/// one here than stat(2) does.
fn pids(locks: &str, inode: u64) -> Vec<u32> {
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, "POSIX", _, "READ", pid, file, first, _] = words.as_slice() else { return None };
            let is_it =
                file.rsplit(':').next()?.parse() == Ok(inode) && READ_LOCKS.contains(&first.parse().ok()?);
            is_it.then(|| pid.parse().ok()).flatten()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_of_the_index_are_found_among_all_locks() {
        let locks = "1: POSIX  ADVISORY  READ 4711 fe:00:131337 124 124\n\
                     1: -> POSIX  ADVISORY  WRITE 4712 fe:00:131337 124 124\n\
                     2: POSIX  ADVISORY  READ 4711 fe:00:131337 125 125\n\
                     3: POSIX  ADVISORY  READ 815 fe:00:131337 128 128\n\
                     4: POSIX  ADVISORY  WRITE 816 fe:00:131337 123 123\n\
                     5: POSIX  ADVISORY  READ 817 fe:00:131338 123 123\n\
                     6: FLOCK  ADVISORY  WRITE 818 fe:00:131337 0 EOF\n\
                     7: POSIX  ADVISORY  READ 99 00:1b:131337 127 127\nnonsense\n";
        assert_eq!(pids(locks, 131_337), [99, 4711]);
        assert!(pids("", 1).is_empty());
    }
}
