//! A database that was made anew (restored, recovered) takes the place of the one of before, which is kept.
//!
//! The old file gets its second name, its log goes there, and the new file is renamed over the first name. Killed
//! between these steps the old file has both names and its log is at one of them; that is undone by whoever locks the
//! database next, so that no relay ever starts without the log that belongs to it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::queue::error::QueueError;
use crate::queue::shared::now_us;

use super::files::{beside, real};
use super::recover::file_error;

/// What the one of before is called: `queue.db.replaced-1767225600`.
pub(super) const REPLACED: &str = "replaced";
/// The same of a damaged one.
pub(super) const DAMAGED: &str = "damaged";

/// The fresh database takes the place of the old one, which is kept with its log under a name with `word` in it.
/// While it has both names no relay starts with it.
pub(super) fn put_in_place(path: &Path, fresh: &Path, word: &str) -> Result<PathBuf, QueueError> {
    let mut kept = beside(path, &format!(".{word}-{}", now_us() / 1_000_000));
    if kept.exists() {
        // Two in one second: the one before stays.
        kept = beside(path, &format!(".{word}-{}", now_us()));
    }
    let change = || {
        std::fs::hard_link(path, &kept)?;
        for (suffix, is_kept) in [("-wal", true), ("-shm", false)] {
            let from = beside(path, suffix);
            let moved = if is_kept {
                std::fs::rename(&from, beside(&kept, suffix))
            } else {
                std::fs::remove_file(from)
            };
            match moved {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(fresh, path)
    };
    change().map_err(|source| file_error(path, source))?;
    Ok(kept)
}

/// Undoes what was broken off above, while the database at `path`, which is `found`, is locked. Another second name
/// stays: nobody knows what it is for.
pub(super) fn undo_unfinished(path: &Path, found: &Metadata) -> std::io::Result<()> {
    let path = real(path);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let kept_names = [REPLACED, DAMAGED].map(|word| format!("{}.{word}-", name.to_string_lossy()));
    for entry in std::fs::read_dir(directory)? {
        let kept = entry?.path();
        let is_kept = kept.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            kept_names.iter().any(|begin| name.starts_with(begin.as_str()))
        });
        if !is_kept || !kept.symlink_metadata().is_ok_and(|other| is_same(&other, found)) {
            continue;
        }
        let (moved, own) = (beside(&kept, "-wal"), beside(&path, "-wal"));
        match (moved.exists(), own.exists()) {
            // Both have one: people have opened it, and have to look.
            (true, true) => return Ok(()),
            (true, false) => std::fs::rename(moved, own)?,
            (false, _) => {}
        }
        std::fs::remove_file(&kept)?;
        log::warn!("{}: a restore or recover was broken off and is undone", path.display());
    }
    Ok(())
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::files::Files;
    use super::*;

    /// A database with a row that is in its log alone, as a SIGKILL leaves it.
    fn killed() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (made, path) = (directory.path().join("made"), directory.path().join("queue.db"));
        let conn = Connection::open(&made).unwrap();
        conn.pragma_update(None, "journal_mode", "wal").unwrap();
        conn.execute_batch("CREATE TABLE t (x); PRAGMA wal_checkpoint; INSERT INTO t VALUES (1)").unwrap();
        // The last connection takes the log with it; a copy is what stays of a killed one.
        std::fs::copy(&made, &path).unwrap();
        std::fs::copy(beside(&made, "-wal"), beside(&path, "-wal")).unwrap();
        (directory, path)
    }

    fn rows(path: &Path) -> i64 {
        Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    /// The steps of [`put_in_place`], broken off after each but the last.
    #[test]
    fn what_is_broken_off_is_undone_with_its_log() {
        for (word, log_was_moved) in [(REPLACED, false), (REPLACED, true), (DAMAGED, true)] {
            let (_directory, path) = killed();
            let kept = beside(&path, &format!(".{word}-1767225600"));
            std::fs::hard_link(&path, &kept).unwrap();
            if log_was_moved {
                std::fs::rename(beside(&path, "-wal"), beside(&kept, "-wal")).unwrap();
            }
            drop(Files::lock(&path).unwrap());
            assert!(!kept.exists() && !beside(&kept, "-wal").exists(), "{word}");
            assert_eq!(rows(&path), 1, "{word} {log_was_moved}");
        }
    }

    #[test]
    fn what_is_not_understood_stays_and_is_told() {
        let (_directory, path) = killed();
        let kept = beside(&path, ".replaced-1");
        std::fs::hard_link(&path, &kept).unwrap();
        std::fs::write(beside(&kept, "-wal"), "a log of its own").unwrap();
        let Err(error) = Files::lock(&path) else { panic!("two logs") };
        assert!(error.to_string().contains("second name"), "{error}");
        assert!(kept.exists() && beside(&path, "-wal").exists());
    }

    #[test]
    fn the_one_of_before_is_kept_with_its_log() {
        let (directory, path) = killed();
        let fresh = directory.path().join("fresh");
        Connection::open(&fresh).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let kept = put_in_place(&path, &fresh, REPLACED).unwrap();
        assert_eq!((rows(&path), rows(&kept)), (0, 1));
        drop(Files::lock(&path).unwrap());
        assert!(kept.exists());
    }
}
