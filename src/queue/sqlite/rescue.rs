//! What was removed from under a relay that has it open: it is written to files with a name again before the process
//! ends, since after that nobody can read it. Nothing is put back at its old name: what came to stand there meanwhile
//! may be somebody's restored queue, into which SQLite would write this log.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::queue::error::QueueError;
use crate::queue::shared::now_us;

use super::files::beside;
use super::space;

/// What the name of each has behind the database's.
const RESCUED: &str = ".rescued-";
const LOG: &str = "-wal";

/// Keeps those of the two that have no name any more. Gives the end of a sentence.
pub(super) fn rescue(database: &File, (log, log_path): (&File, &Path)) -> String {
    let is_removed = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
    let end = format!("{RESCUED}{}", now_us() / 1_000_000);
    let path = database_of(log_path);
    match (is_removed(database), is_removed(log)) {
        (false, false) => String::new(),
        (false, true) => {
            let kept = beside(log_path, &end);
            told(keep(log, &kept), "the log", &kept, log_path)
        }
        (true, false) => {
            let kept = beside(&path, &end);
            told(keep(database, &kept), "the database", &kept, &path)
        }
        // Together, so that the copy is a queue with its log by its own name; one without the other is none.
        (true, true) => {
            let kept = beside(&path, &end);
            let both = keep(database, &kept).and_then(|()| {
                keep(log, &beside(&kept, LOG)).inspect_err(|_| drop(std::fs::remove_file(&kept)))
            });
            told(both, "the database (its log beside it, with -wal behind that name)", &kept, &path)
        }
    }
}

/// The database stands where its log does, whatever link leads there.
fn database_of(log: &Path) -> PathBuf {
    let name = log.as_os_str().as_bytes();
    PathBuf::from(OsStr::from_bytes(name.strip_suffix(LOG.as_bytes()).unwrap_or(name)))
}

fn told(kept: std::io::Result<()>, what: &str, at: &Path, before: &Path) -> String {
    let (at, before) = (at.display(), before.display());
    match kept {
        Ok(()) => format!("; {what} was still open and is kept as {at}, to be moved to {before}"),
        Err(error) => format!("; {what} was still open and could not be kept as {at} ({error})"),
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
    let directory = || at.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all());
    let copied =
        std::io::copy(&mut from.take(bytes), &mut to).and_then(|_| to.sync_all()).and_then(|()| directory());
    if copied.is_err() {
        // Half of it would look like all of it.
        let _ = std::fs::remove_file(at);
    }
    copied
}

/// At the start: where what was rescued has nothing in its place, it has to be put there. A queue that is used without
/// its log cannot take that log any more.
///
/// # Errors
/// That.
pub(super) fn refuse_without(path: &Path) -> Result<(), QueueError> {
    let is_missing = |path: &Path| path.metadata().map_or(true, |found| found.len() == 0);
    for before in [path.to_owned(), beside(path, LOG)].into_iter().filter(|before| is_missing(before)) {
        let begin = beside(&before, RESCUED).into_os_string().into_encoded_bytes();
        // A log beside a rescued database goes with it.
        let is_of = |kept: &PathBuf| {
            let name = kept.as_os_str().as_bytes();
            name.starts_with(&begin) && !name.ends_with(LOG.as_bytes())
        };
        if let Some(kept) = rescued(path).into_iter().rfind(is_of) {
            return Err(QueueError::Rescued { kept, before });
        }
    }
    Ok(())
}

/// Once the queue is open: what was rescued of another, or of this one before it was used without it.
pub(super) fn tell(path: &Path) {
    for kept in rescued(path) {
        log::warn!(
            "queue: {} was rescued from a queue whose files were removed, and may have mail that is nowhere else; this \
             queue was used without it, so do not put it back: move it away",
            kept.display()
        );
    }
}

fn rescued(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let begins = [path.with_file_name(name), beside(path, LOG)]
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
