//! The log that the last process left at an unclean end: looked at before SQLite recovers from it, since what recovery
//! leaves out in silence is to be told, and kept; and put on the disk once more afterwards.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::Connection;

use crate::queue::shared::now_us;

use super::checkpoints::{self, NOOP};
use super::files::{Files, beside};
use super::{space, wal};

/// Copies of damaged logs that are kept; nobody but the operator removes them.
const COPIES_MAX: usize = 2;
/// What the name of each has behind the log's.
const COPY: &str = ".damaged-";

/// Reads the log, and tells what of it recovery will not find.
pub(super) fn look(log: &Path) {
    let name = log.display();
    let found = match File::open(log).and_then(wal::look) {
        Ok(found) => found,
        // SQLite will meet the same.
        Err(error) => return log::error!("queue: {name}: {error}"),
    };
    if found.behind == 0 {
        if found.damaged {
            log::warn!(
                "queue: the last transaction in {name} is not whole: it was being written at the unclean end"
            );
        }
        return;
    }
    // Not as a value of the line: what a line has is not worked out where nobody logs.
    let kept = keep(log, found.bytes);
    log::error!(
        "queue: {name} is damaged: {} transactions are read, then comes a bad one with {} whole ones behind it that \
         cannot be used; mail that was acknowledged in these is lost; {}; look at the disk (smartctl, the kernel's log)",
        found.whole,
        found.behind,
        kept,
    );
}

/// Copies what the log has, where there is room for it and few are kept already; what became of it, in words.
fn keep(log: &Path, bytes: u64) -> String {
    let kept = copies(log);
    if kept >= COPIES_MAX {
        return format!("it is not kept, since {kept} others are ({}{COPY}*)", log.display());
    }
    if !space::has_room_beside(log, bytes) {
        return "it is not kept, since the disk has no room for that".to_owned();
    }
    let copy = beside(log, &format!("{COPY}{}", now_us() / 1_000_000));
    let copied = || -> std::io::Result<()> {
        let mut to = File::options().write(true).create_new(true).mode(0o600).open(&copy)?;
        std::io::copy(&mut File::open(log)?.take(bytes), &mut to)?;
        to.sync_all()
    };
    match copied() {
        Ok(()) => format!("the log is kept as {}", copy.display()),
        Err(error) => {
            // Half of it would look like all of it.
            let _ = std::fs::remove_file(&copy);
            format!("the log could not be kept as {}: {error}", copy.display())
        }
    }
}

fn copies(log: &Path) -> usize {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return 0 };
    let begin = [name.as_encoded_bytes(), COPY.as_bytes()].concat();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(&begin)).count()
}

/// Puts what SQLite found in the log on the disk again, before anything is acknowledged; gives its bytes. The `keeper`
/// sees to it that nobody writes meanwhile.
pub(super) fn write_again(
    conn: &Connection,
    keeper: &Connection,
    files: &Files,
) -> rusqlite::Result<std::io::Result<u64>> {
    keeper.execute_batch("BEGIN IMMEDIATE")?;
    let (frames, _) = checkpoints::copy(conn, NOOP)?;
    let page_bytes: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let bytes = wal::bytes_of(u64::try_from(frames).unwrap_or(0), page_bytes.into());
    let written = files.write_log_again(bytes);
    keeper.execute_batch("ROLLBACK")?;
    Ok(written.map(|()| bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_copies_are_kept_whole_and_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("queue.db-wal");
        std::fs::write(&log, "all of it, and what stood behind").unwrap();
        assert!(keep(&log, 9).contains("is kept as"));
        let [copy] = &std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| *path != log)
            .collect::<Vec<_>>()[..]
        else {
            panic!("one copy")
        };
        assert_eq!(std::fs::read(copy).unwrap(), b"all of it");
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // A second in the same second has no name of its own: it is said, and spoils nothing.
        std::fs::write(beside(&log, ".damaged-1"), "").unwrap();
        assert!(keep(&log, 9).contains("2 others are"));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
    }

    #[test]
    fn a_disk_without_room_keeps_none() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("queue.db-wal");
        // More than any disk has; the file itself has no blocks.
        File::create(&log).unwrap().set_len(1 << 40).unwrap();
        assert!(keep(&log, 1 << 60).contains("no room"));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }
}
