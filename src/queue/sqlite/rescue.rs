//! What was removed from under a relay that has it open: it is written to files with a name again before the process
//! ends, since after that nobody can read it. Nothing is put back at its old name: what came to stand there meanwhile
//! may be somebody's restored queue, into which SQLite would write this log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::queue::shared::now_us;

use super::files::beside;
use super::space;

/// What the name of each has behind the database's.
const RESCUED: &str = ".rescued-";

/// Keeps those of the two that have no name any more, each with its path of before. Gives a part of a sentence.
pub(super) fn rescue((database, path): (&File, &Path), (log, log_path): (&File, &Path)) -> String {
    let is_removed = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
    let end = format!("{RESCUED}{}", now_us() / 1_000_000);
    match (is_removed(database), is_removed(log)) {
        (false, false) => String::new(),
        (false, true) => {
            let kept = beside(log_path, &end);
            told(keep(log, &kept), "the log", &kept, log_path)
        }
        (true, false) => {
            let kept = beside(path, &end);
            told(keep(database, &kept), "the database", &kept, path)
        }
        // Together, so that the copy is a queue with its log by its own name.
        (true, true) => {
            let kept = beside(path, &end);
            let both = keep(database, &kept).and_then(|()| keep(log, &beside(&kept, "-wal")));
            told(both, "the database (its log beside it, with -wal behind that name)", &kept, path)
        }
    }
}

fn told(kept: std::io::Result<()>, what: &str, at: &Path, before: &Path) -> String {
    let (at, before) = (at.display(), before.display());
    match kept {
        Ok(()) => format!("{what} was still open and is kept as {at}, to be moved to {before}; "),
        Err(error) => format!("{what} was still open and could not be kept as {at} ({error}); "),
    }
}

/// All of it, through to the disk, for the mail's owner alone.
fn keep(file: &File, at: &Path) -> std::io::Result<()> {
    let bytes = file.metadata()?.len();
    if !space::has_room_beside(at, bytes) {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    let mut from = file;
    from.seek(SeekFrom::Start(0))?;
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(at)?;
    let copied = std::io::copy(&mut from.take(bytes), &mut to).and_then(|_| to.sync_all());
    if copied.is_err() {
        // Half of it would look like all of it.
        let _ = std::fs::remove_file(at);
    }
    copied
}

/// At the start: what was rescued and is still there may have mail that this queue has not.
pub(super) fn tell(path: &Path) {
    for kept in rescued(path) {
        log::warn!(
            "queue: {} was rescued from a queue whose files were removed, and may have mail that is nowhere else: put \
             it back with the relay stopped, or move it away",
            kept.display()
        );
    }
}

fn rescued(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let begins = [path.with_file_name(name), beside(path, "-wal")]
        .map(|path| beside(&path, RESCUED).file_name().unwrap_or_default().to_owned());
    let is_rescued = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        begins.iter().any(|begin| name.as_encoded_bytes().starts_with(begin.as_encoded_bytes()))
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.filter(is_rescued).map(|entry| entry.path()).collect();
    found.sort();
    found
}
