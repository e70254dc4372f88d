//! The files of the database: this relay's alone, and still those that were opened.
//!
//! The lock is on the database's inode. Another name of it (a symbolic link, a hard link) leads to the same lock, and
//! there is no file beside it that somebody could remove to get round it. While the relay runs, [`Files::check`]
//! compares what stands at the paths with what is open: mail that goes into a removed file is lost at the next start.
//!
//! Nothing here may close a descriptor of the database while SQLite has it open: a process that closes any descriptor
//! of a file loses all its POSIX locks on it (fcntl(2)), and SQLite's locks are such.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::queue::error::QueueError;

use super::{in_place, rescue, wal};

/// Every SQLite database begins so.
const DATABASE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Every write-ahead log begins in one of these ways; they differ in the byte order of its checksums.
const WAL_MAGICS: [&[u8]; 2] = [&[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]];

/// The files of a database that this process has locked.
#[derive(Debug)]
pub(super) struct Files {
    /// Holds the lock, and goes after SQLite's own descriptors.
    database: File,
    path: PathBuf,
    opened: RefCell<Option<Opened>>,
    content: Cell<Option<Content>>,
    /// They are not at their paths any more.
    taken: Cell<bool>,
}

/// What SQLite has open.
#[derive(Debug)]
struct Opened {
    /// The database, its log and the log's index: where they are, and which files they are.
    files: [(PathBuf, Identity); 3],
    log: File,
}

/// What the database's own file looks like. Only a checkpoint changes it, and only the relay makes those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    bytes: u64,
    written: (i64, i64),
    /// SQLite's header, which has a counter of changes in it.
    header: [u8; 100],
}

/// Device and inode: one file, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn at(path: &Path) -> std::io::Result<Identity> {
        path.metadata().map(|found| Identity(found.dev(), found.ino()))
    }
}

impl Files {
    /// Opens the database, makes it where there is none, and locks it for this process, however it ends: two relays on
    /// one queue would deliver everything twice.
    ///
    /// # Errors
    /// It cannot be used, another relay has it, or it has a second name.
    pub(super) fn lock(path: &Path) -> Result<Files, QueueError> {
        let file_error = |source: std::io::Error| QueueError::File {
            path: path.to_owned(),
            remedy: match source.kind() {
                ErrorKind::ReadOnlyFilesystem => {
                    "mount it to be written (mount -o remount,rw); the kernel's log says why it is not"
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "make room on its disk, see `df` and `df -i`"
                }
                _ => "it and its directory must belong to the user that runs postrider",
            },
            source,
        };
        // The mail in it is nobody else's to read; SQLite gives its other files the same mode.
        let database = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(file_error)?;
        let found = database.metadata().map_err(file_error)?;
        match database.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = lock_holder(found.dev(), found.ino());
                // Should this process be the holder, closing it would drop SQLite's locks.
                std::mem::forget(database);
                let holder = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(QueueError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(file_error(source)),
        }
        if found.nlink() > 1 {
            in_place::undo_unfinished(path, &found).map_err(file_error)?;
        }
        if database.metadata().map_err(file_error)?.nlink() > 1 {
            return Err(QueueError::Unusable {
                path: path.to_owned(),
                why: "has a second name (a hard link), under which its log would not be found".to_owned(),
                remedy: "`find -samefile` shows it; remove the other name, but first look whether it has a log (-wal)",
            });
        }
        let (opened, content, taken) = (RefCell::new(None), Cell::new(None), Cell::new(false));
        Ok(Files { database, path: path.to_owned(), opened, content, taken })
    }

    /// Notes what SQLite has open, once it has the log open too.
    ///
    /// # Errors
    /// One of the files is not there.
    pub(super) fn note_opened(&self) -> Result<(), QueueError> {
        let noted = || {
            // A symbolic link is followed as SQLite does: the log stands beside the database itself.
            let real = self.path.canonicalize()?;
            let files = [self.path.clone(), beside(&real, "-wal"), beside(&real, "-shm")];
            // No lock is ever taken on the log: this descriptor may be closed.
            let log = OpenOptions::new().read(true).write(true).open(&files[1])?;
            let [database, wal, index] = files.map(|path| Identity::at(&path).map(|found| (path, found)));
            Ok(Opened { files: [database?, wal?, index?], log })
        };
        let opened = noted().map_err(|source| QueueError::File {
            path: self.path.clone(),
            source,
            remedy: "the files of the database must stay together, on a local file system",
        })?;
        self.opened.replace(Some(opened));
        self.check(false).map_err(QueueError::Database)
    }

    /// The log that the last process left, if it has anything in it: its end was unclean.
    pub(super) fn left_log(&self) -> std::io::Result<Option<PathBuf>> {
        let log = beside(&self.path.canonicalize()?, "-wal");
        Ok(log.metadata().is_ok_and(|log| log.len() > 0).then_some(log))
    }

    /// How long the database's own file is; 0: there is none yet.
    pub(super) fn database_bytes(&self) -> std::io::Result<u64> {
        self.database.metadata().map(|found| found.len())
    }

    /// A log beside the database that cannot be its own, and how long it is: the file is empty, or a copy that never
    /// had one. What a first start left that was killed is none: before it there was nothing to be undone.
    pub(super) fn foreign_log(&self) -> std::io::Result<Option<(PathBuf, u64)>> {
        foreign_log(&self.database, &self.path.canonicalize()?)
    }

    /// Puts the log up to `end` on the disk, whatever became of it when the last process wrote it. What is behind that
    /// goes.
    pub(super) fn write_log_again(&self, end: u64) -> std::io::Result<()> {
        self.opened.borrow().as_ref().map_or(Ok(()), |opened| wal::write_again(&opened.log, end))
    }

    /// Whether the database is in WAL mode by its own first bytes, and not only in SQLite's memory.
    pub(super) fn is_in_wal_mode(&self) -> bool {
        let mut versions = [0; 2];
        self.database.read_exact_at(&mut versions, 18).is_ok() && versions == [2, 2]
    }

    /// See [`sync_directory`].
    pub(super) fn sync_directory(&self) -> Result<(), QueueError> {
        sync_directory(&real(&self.path), &self.database)
    }

    /// Whether the files at the paths are those that are open, and look like what they are; if not, what is wrong.
    /// `log_in_use`: something was written to the log. Takes some microseconds.
    pub(super) fn check(&self, log_in_use: bool) -> Result<(), String> {
        let opened = self.opened.borrow();
        let Some(Opened { files, log }) = opened.as_ref() else { return Ok(()) };
        for (path, identity) in files {
            let name = path.display();
            match Identity::at(path) {
                Ok(found) if found == *identity => {}
                Ok(_) => return Err(format!("{name} is another file now{}", self.whereabouts())),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(format!("{name} is gone{}", self.whereabouts()));
                }
                Err(error) => return Err(format!("{name} cannot be looked at ({error})")),
            }
        }
        let [(database, _), (wal, _), _] = files;
        if !begins_with(&self.database, DATABASE_MAGIC) {
            return Err(format!("{} was overwritten", database.display()));
        }
        if log_in_use && !WAL_MAGICS.iter().any(|magic| begins_with(log, magic)) {
            return Err(format!("{} was overwritten", wal.display()));
        }
        Ok(())
    }

    fn content(&self) -> std::io::Result<Content> {
        let found = self.database.metadata()?;
        let mut header = [0; 100];
        self.database.read_exact_at(&mut header, 0)?;
        Ok(Content { bytes: found.len(), written: (found.mtime(), found.mtime_nsec()), header })
    }

    /// Takes the database's own file as it is now: after a checkpoint.
    pub(super) fn note_content(&self) {
        self.content.set(self.content().ok());
    }

    /// Whether nobody has written to the database's own file since; if somebody has, what to say. A time that was
    /// changed alone (`touch`) is nothing.
    pub(super) fn check_content(&self) -> Result<(), String> {
        let name = self.path.display();
        let (Some(noted), Ok(found)) = (self.content.get(), self.content()) else {
            return Err(format!("{name} cannot be read"));
        };
        if found.written != noted.written && (found.bytes, found.header) != (noted.bytes, noted.header) {
            return Err(format!("{name} was overwritten"));
        }
        Ok(())
    }

    /// Once [`Files::check`] or [`Files::check_content`] has failed: whether database or log are provably others, and
    /// not only a file that could not be looked at for a moment.
    pub(super) fn note_taken(&self) {
        let opened = self.opened.borrow();
        let Some(Opened { files, log }) = opened.as_ref() else { return };
        let is_other = |(path, identity): &(PathBuf, Identity)| match Identity::at(path) {
            Ok(found) => found != *identity,
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        let is_overwritten = |file: &File, magics: &[&[u8]]| {
            // One that cannot be read may be as it was.
            file.read_exact_at(&mut [0], 0).is_ok() && !magics.iter().any(|magic| begins_with(file, magic))
        };
        let is_empty = self.database.metadata().is_ok_and(|found| found.len() == 0);
        let content = || match (self.content.get(), self.content()) {
            (Some(noted), Ok(found)) => (found.bytes, found.header) != (noted.bytes, noted.header),
            _ => false,
        };
        let is_taken = files[..2].iter().any(is_other)
            || is_empty
            || is_overwritten(&self.database, &[DATABASE_MAGIC])
            || is_overwritten(log, &WAL_MAGICS)
            || content();
        self.taken.set(is_taken);
    }

    /// What of them is open and has no name any more is kept under another. Gives the end of a sentence.
    pub(super) fn rescue(&self) -> String {
        let opened = self.opened.borrow();
        let log = opened.as_ref().map(|opened| (&opened.log, opened.files[1].0.as_path()));
        log.map_or_else(String::new, |log| rescue::rescue(&self.database, log))
    }

    /// Whether that was so.
    pub(super) fn were_taken(&self) -> bool {
        self.taken.get()
    }

    /// Where the log's index is.
    pub(super) fn index(&self) -> PathBuf {
        self.opened.borrow().as_ref().map_or_else(PathBuf::new, |opened| opened.files[2].0.clone())
    }

    /// What became of the database that is open, as part of a sentence.
    fn whereabouts(&self) -> String {
        if self.database.metadata().is_ok_and(|database| database.nlink() == 0) {
            return ", and the database that was in use is removed".to_owned();
        }
        let now = std::fs::read_link(format!("/proc/self/fd/{}", self.database.as_raw_fd()));
        now.map_or_else(
            |_| String::new(),
            |now| format!(", and the database that was in use is {}", now.display()),
        )
    }
}

/// Puts the names of the files beside `file`, which is at `path`, on the disk. SQLite does that too, and goes on when
/// it fails. Where the directory may not be opened to be read, or its file system knows no such thing, all of the
/// file system is synced.
pub(super) fn sync_directory(path: &Path, file: &File) -> Result<(), QueueError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let open = File::open(directory);
    let may_not_read = matches!(&open, Err(error) if error.kind() == ErrorKind::PermissionDenied);
    let synced = match open.and_then(|directory| directory.sync_all()) {
        Err(error) if may_not_read || knows_no_sync(&error) => rustix::fs::syncfs(file).map_err(Into::into),
        synced => synced,
    };
    match synced {
        Err(error) if knows_no_sync(&error) => Ok(()),
        synced => synced.map_err(|source| QueueError::File {
            path: directory.to_owned(),
            source,
            remedy: "it cannot be synced: mend the disk",
        }),
    }
}

/// Renames a file to a name that nothing has.
pub(super) fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // This file system cannot do both in one.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => std::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

/// For whoever opens the database without its lock, to look or to write: SQLite would write a log that is another's
/// into it, or delete that log. Where a relay has the database, it has looked.
///
/// # Errors
/// So it is.
pub(super) fn refuse_foreign_log(path: &Path) -> Result<(), QueueError> {
    let path = real(path);
    let looked_at = || -> std::io::Result<Option<(PathBuf, u64, u64)>> {
        // To close the database would take SQLite's locks from this process, if it is the relay.
        let has_relay = || in_use_by(&path).is_some() || !Path::new("/proc/locks").exists();
        if ["-wal", "-journal"].iter().all(|end| !beside(&path, end).exists()) || has_relay() {
            return Ok(None);
        }
        let database = File::open(&path)?;
        let bytes = database.metadata()?.len();
        Ok(foreign_log(&database, &path)?.map(|(log, log_bytes)| (log, log_bytes, bytes)))
    };
    // What cannot be read is told by whoever reads it next.
    match looked_at() {
        Ok(Some((log, bytes, 0))) => Err(QueueError::LeftLog { path, why: "is empty", log, bytes }),
        Ok(Some((log, bytes, _))) => {
            Err(QueueError::LeftLog { path, why: "is a copy, made without a log", log, bytes })
        }
        _ => Ok(()),
    }
}

/// See [`Files::foreign_log`].
fn foreign_log(database: &File, path: &Path) -> std::io::Result<Option<(PathBuf, u64)>> {
    let is_empty = database.metadata()?.len() == 0;
    if !is_empty && !has_no_log_by_its_header(database) {
        return Ok(None);
    }
    let (log, journal) = (beside(path, "-wal"), beside(path, "-journal"));
    let bytes = |log: &Path| log.metadata().map_or(0, |log| log.len());
    let is_of_another = is_empty && journal_undoes_something(&journal);
    let found = if bytes(&log) > 0 { Some(log) } else { is_of_another.then_some(journal) };
    Ok(found.map(|log| (log.clone(), bytes(&log))))
}

/// A file in rollback mode, as `postrider backup` makes it.
fn has_no_log_by_its_header(database: &File) -> bool {
    let mut versions = [0; 2];
    database.read_exact_at(&mut versions, 18).is_ok() && versions == [1, 1]
}

/// Whether a rollback journal has pages of a database: its header says how many there were.
fn journal_undoes_something(journal: &Path) -> bool {
    let mut pages = [0; 4];
    let read = File::open(journal).and_then(|journal| journal.read_exact_at(&mut pages, 16));
    read.is_ok() && pages != [0; 4]
}

fn begins_with(file: &File, magic: &[u8]) -> bool {
    let mut found = [0; 16];
    let found = &mut found[..magic.len()];
    file.read_exact_at(found, 0).is_ok() && found == magic
}

/// Whether this user may read the file, and `write` it.
pub(super) fn may_use(path: &Path, write: bool) -> std::io::Result<()> {
    let wanted = Access::READ_OK | if write { Access::WRITE_OK } else { Access::empty() };
    Ok(rustix::fs::access(path, wanted)?)
}

/// Whether an fsync says that this file system has no need of it, and not that it failed.
fn knows_no_sync(error: &std::io::Error) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Where the database is, whatever links lead there: its other files are beside it, and so is the room that it has.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The process of the relay that has this database, where the system tells. The file itself is not opened: to close it
/// would take SQLite's locks from this process.
pub(super) fn in_use_by(path: &Path) -> Option<u32> {
    let found = path.metadata().ok()?;
    lock_holder(found.dev(), found.ino())
}

/// The process that has locked this file, where the system tells.
fn lock_holder(device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let of_file = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"
        (words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str()))
            .then(|| words[4].parse().ok())
    };
    locks.lines().find_map(of_file).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_such_syncs_is_told_from_one_that_failed() {
        for (errno, wanted) in [
            (Errno::INVAL, true),
            (Errno::OPNOTSUPP, true),
            (Errno::NOSYS, true),
            (Errno::IO, false),
            (Errno::NOSPC, false),
            (Errno::DQUOT, false),
            (Errno::ROFS, false),
            (Errno::BADF, false),
        ] {
            assert_eq!(knows_no_sync(&errno.into()), wanted, "{errno}");
        }
    }
}
