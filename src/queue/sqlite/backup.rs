//! `postrider backup`: a copy of the database in one file, made while the relay runs.
//!
//! `VACUUM INTO` reads one snapshot and writes only what is in use: a queue that was long once, and is empty now, makes
//! a small copy. It holds no lock that a writer needs. While it runs the write-ahead log is not started anew, so that
//! it grows by what is written meanwhile, and that is all. The copy is one file without a log, in rollback mode, and
//! is read through by itself afterwards, when the snapshot is gone.
//!
//! It is synced piece by piece: one large sync at its end would keep the relay's own waiting behind it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Result as Answer};
use rustix::fs::OFlags;

use crate::queue::copy_rows::Copied;
use crate::queue::error::QueueError;

use super::admin::connect;
use super::failure::{explain, is_full};
use super::files::{beside, real, rename_new, sync_directory};
use super::{integrity, migrate, space};

/// Steps of SQLite's machine between two looks at how long the copy is: some rows.
const STEPS: i32 = 100;
/// The copy is synced each time it has grown by this.
const SYNC_BYTES: u64 = 8 << 20;

/// See [`crate::queue::admin::back_up`].
pub(in crate::queue) fn back_up(path: &Path, to: &Path) -> Result<Copied, QueueError> {
    let path = real(path);
    let to = std::path::absolute(to).map_err(|source| file_error(to, source))?;
    let exists =
        || unusable(&to, "exists already", "name another file: a backup never takes the place of one");
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut conn = connect(&path, false)?;
    migrate::must_be_current(&conn, &path)?;
    let (bytes, pages) = bytes_of(&conn).map_err(|error| explain(&path, error))?;
    if !space::has_room_for_copy(&path, &to, bytes, pages) {
        return Err(no_room(&to, bytes));
    }
    let partial = Partial::make(&to)?;
    copy(&mut conn, &partial.path, &partial.file).map_err(|error| match is_full(&error) {
        true => no_room(&to, bytes),
        false => explain(&path, error),
    })?;
    // Its snapshot is gone already, and with it all that the relay could notice.
    drop(conn);
    let copied = read_through(&partial.path)?;
    partial.put_in_place(&to, exists)?;
    Ok(copied)
}

/// The bytes that are in use, and those of all pages.
pub(super) fn bytes_of(conn: &Connection) -> Answer<(u64, u64)> {
    let number = |pragma| conn.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).map(u64::from);
    let (all, free, page) = (number("page_count")?, number("freelist_count")?, number("page_size")?);
    Ok((all.saturating_sub(free) * page, all * page))
}

/// Copies what `from` has open into `to`, an empty file that `file` has open. Not all of it need be on the disk then.
pub(super) fn copy(from: &mut Connection, to: &Path, file: &File) -> Answer<()> {
    let name = to.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(to.to_owned()))?;
    // It is closed before SQLite opens the copy again, whose locks go with any descriptor of it.
    let (synced_file, mut synced) = (file.try_clone(), 0);
    let sync = move || {
        if let Ok(file) = &synced_file
            && let Ok(found) = file.metadata()
            && found.len() >= synced + SYNC_BYTES
        {
            // Should it fail, so does the sync of the whole at the end.
            let _ = file.sync_data();
            synced = found.len();
        }
        false
    };
    from.progress_handler(STEPS, Some(sync))?;
    let copied = from.execute("VACUUM INTO ?1", [name]);
    from.progress_handler(0, None::<fn() -> bool>)?;
    copied.map(drop)
}

/// Reads all of a copy, and says what is in it.
///
/// # Errors
/// It is damaged, or no queue of ours.
pub(super) fn read_through(path: &Path) -> Result<Copied, QueueError> {
    let remedy = "take another backup, and look at the disk (smartctl -a, the kernel's log)";
    let conn = open_copy(path)?;
    let read = || -> Answer<std::result::Result<Copied, String>> {
        if let Some(damage) = integrity::whole(&conn)?.first() {
            // SQLite's first row may be many lines, below a headline.
            let first = damage.lines().find(|line| !line.starts_with("***"));
            return Ok(Err(first.unwrap_or(damage).to_owned()));
        }
        counts(&conn, path).map(Ok)
    };
    // A newer one cannot be read; an older one has the same tables, and is brought up to date when it is restored.
    migrate::must_be_known(&conn, path)?;
    match read() {
        Ok(Ok(copied)) => Ok(copied),
        Ok(Err(damage)) => Err(unusable(path, &format!("is damaged: {damage}"), remedy)),
        Err(error) => Err(unusable(path, &format!("is damaged: {error}"), remedy)),
    }
}

fn counts(conn: &Connection, path: &Path) -> Answer<Copied> {
    let sql = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM recipients),
                      (SELECT count(*) FROM recipients WHERE state = 'held'), (SELECT count(*) FROM history),
                      (SELECT count(*) FROM messages m WHERE m.size <>
                           coalesce((SELECT sum(length(c.data)) FROM content c WHERE c.message_id = m.id), 0))";
    conn.query_row(sql, [], |row| {
        Ok(Copied {
            bytes: path.metadata().map_or(0, |file| file.len()),
            messages: row.get(0)?,
            recipients: row.get(1)?,
            held: row.get(2)?,
            history: row.get(3)?,
            not_whole: row.get(4)?,
        })
    })
}

/// Opens a copy to read it. Where it has no log beside it, it is one file that nobody writes to: none is made beside
/// it, which may be on a disk that cannot be written.
pub(super) fn open_copy(path: &Path) -> Result<Connection, QueueError> {
    let has_log = beside(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    File::open(path).map_err(|source| file_error(path, source))?;
    let opened = match path.to_str() {
        Some(name) if !has_log => {
            let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = format!("file:{name}?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
        }
        _ => Connection::open_with_flags(path, flags),
    };
    let settings = "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF";
    let opened = opened.and_then(|conn| {
        conn.execute_batch(settings)?;
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    });
    opened.map_err(|error| {
        unusable(path, &format!("cannot be read ({error})"), "it is no backup of a queue, or a damaged one")
    })
}

/// A backup in the making. It goes when it does not become one; of a process that was killed it stays, until the next
/// backup to the same name.
///
/// The directory may be somebody else's, and the backup root's. So it is always a file that was made here: what stands
/// at its name before, a link or a file of another, is not written to, and keeps its rights for itself.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn make(to: &Path) -> Result<Partial, QueueError> {
        let path = beside(to, ".partial");
        let of_file = |source| file_error(&path, source);
        let busy = || unusable(&path, "is being written by another backup", "wait for that one");
        if is_being_written(&path).map_err(of_file)? {
            return Err(busy());
        }
        for left in [path.clone(), beside(&path, "-journal")] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(of_file(error)),
                _ => {}
            }
        }
        let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(busy()),
            made => made.map_err(of_file)?,
        };
        let partial = Partial { path, file };
        partial.file.try_lock().map_err(|error| file_error(&partial.path, error.into()))?;
        partial.is_in_place()?;
        Ok(partial)
    }

    /// Whether the file at its name is the one that was made, and not what somebody put there since.
    fn is_in_place(&self) -> Result<(), QueueError> {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let made = self.file.metadata().map_err(|source| file_error(&self.path, source))?;
        if self.path.symlink_metadata().ok().map(identity) == Some(identity(made)) {
            return Ok(());
        }
        let remedy = "write the backup to a directory that only this user may write to";
        Err(unusable(&self.path, "was exchanged while it was written", remedy))
    }

    /// Once it is on the disk. What has come to stand there meanwhile stays.
    fn put_in_place(self, to: &Path, exists: impl Fn() -> QueueError) -> Result<(), QueueError> {
        self.file.sync_all().map_err(|source| file_error(&self.path, source))?;
        self.is_in_place()?;
        rename_new(&self.path, to).map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => exists(),
            _ => file_error(to, source),
        })?;
        sync_directory(to, &self.file)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Where it has its name by now there is none to remove, and what somebody put there is not ours.
        if self.is_in_place().is_ok() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether another backup of ours has it locked. Nobody else's file is looked at, and no FIFO is waited for.
fn is_being_written(path: &Path) -> std::io::Result<bool> {
    let us = rustix::process::geteuid().as_raw();
    let is_ours = path.symlink_metadata().is_ok_and(|found| found.is_file() && found.uid() == us);
    if !is_ours {
        return Ok(false);
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn no_room(to: &Path, bytes: u64) -> QueueError {
    let megabytes = bytes.div_ceil(1 << 20);
    unusable(to, &format!("finds no room: it takes {megabytes} MiB"), "write it to another disk")
}

fn unusable(path: &Path, why: &str, remedy: &'static str) -> QueueError {
    QueueError::Unusable { path: path.to_owned(), why: why.to_owned(), remedy }
}

fn file_error(path: &Path, source: Error) -> QueueError {
    let remedy = match source.kind() {
        ErrorKind::NotFound => "its directory must exist",
        _ => "name a file in a directory that this user may write to",
    };
    QueueError::File { path: path.to_owned(), source, remedy }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn queue(path: &Path) {
        let conn = Connection::open(path).unwrap();
        migrate::migrate(&conn, path).unwrap();
    }

    /// Whoever may write to the directory would have root write over any file, read all mail, or wait for ever.
    #[test]
    fn what_somebody_put_at_the_name_before_is_never_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to, partial, theirs] =
            ["from.db", "copy.db", "copy.db.partial", "theirs"].map(|name| directory.path().join(name));
        queue(&from);
        type Deed<'a> = (&'static str, &'a dyn Fn());
        let deeds: [Deed<'_>; 4] = [
            ("a symbolic link", &|| symlink(&theirs, &partial).unwrap()),
            ("a hard link", &|| std::fs::hard_link(&theirs, &partial).unwrap()),
            ("a file that everybody may read", &|| {
                std::fs::write(&partial, "left").unwrap();
                std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o666)).unwrap();
                // Only root may give it away.
                let _ = std::os::unix::fs::chown(&partial, Some(65_534), Some(65_534));
            }),
            ("a FIFO", &|| rustix::fs::mkfifoat(rustix::fs::CWD, &partial, rustix::fs::Mode::RWXU).unwrap()),
        ];
        for (what, put) in deeds {
            std::fs::write(&theirs, "theirs").unwrap();
            put();
            back_up(&from, &to).unwrap();
            let made = to.symlink_metadata().unwrap();
            assert!(made.is_file() && made.nlink() == 1, "{what}");
            let us = rustix::process::geteuid().as_raw();
            assert_eq!((made.mode() & 0o777, made.uid()), (0o600, us), "{what}");
            assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs", "{what}");
            assert!(partial.symlink_metadata().is_err(), "{what}");
            std::fs::remove_file(&to).unwrap();
        }
    }

    #[test]
    fn one_that_is_being_written_is_left_alone_and_so_is_what_took_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from.db", "copy.db"].map(|name| directory.path().join(name));
        queue(&from);
        let first = Partial::make(&to).unwrap();
        let error = back_up(&from, &to).unwrap_err().to_string();
        assert!(error.contains("is being written by another backup"), "{error}");
        std::fs::remove_file(&first.path).unwrap();
        std::fs::write(&first.path, "theirs").unwrap();
        let path = first.path.clone();
        let error = first.put_in_place(&to, || unreachable!()).unwrap_err().to_string();
        assert!(error.contains("was exchanged"), "{error}");
        assert_eq!(std::fs::read(path).unwrap(), b"theirs");
        assert!(!to.exists());
    }
}
