//! The ballast: a file beside the database that holds room on the disk until it is needed.
//!
//! Its blocks are allocated, whatever the file system compresses or leaves out.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use crate::queue::sqlite::files::beside;

const PAGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// What it holds; 0: it is not there.
    bytes: AtomicU64,
}

impl Ballast {
    /// Of this database; one that an earlier process left is taken over.
    pub(super) fn of(database: &Path) -> Ballast {
        let path = beside(database, "-ballast");
        let allocated = |file: std::fs::Metadata| file.len().min(file.blocks().saturating_mul(512));
        let bytes = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file).map_or(0, allocated);
        Ballast { path, bytes: AtomicU64::new(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Another process may have given it up.
    pub(super) fn look(&self) {
        if self.path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Makes it where it is missing, or is smaller than it should be.
    ///
    /// # Errors
    /// There is no room for it ([`passes`]). Whatever else is in the way is logged once, and the queue does without.
    pub(super) fn make(&self, bytes: u64) -> io::Result<()> {
        if self.bytes() >= bytes {
            return Ok(());
        }
        match allocate(&self.path, bytes) {
            Ok(()) => {}
            Err(error) if passes(&error) => {
                self.give_up();
                return Err(error);
            }
            // Counted as if it were there: mail does not stop for it.
            Err(error) if self.bytes() == 0 => log::warn!("queue: {}: {error}", self.path.display()),
            Err(_) => {}
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Frees its room; false where it has none.
    pub(super) fn give_up(&self) -> bool {
        // On a file system that is read-only it stays.
        let is_freed = std::fs::remove_file(&self.path).is_ok();
        if is_freed || !self.path.exists() {
            self.bytes.store(0, Ordering::Relaxed);
        }
        is_freed
    }
}

/// Whether so much can be written beside the database.
pub(super) fn probe(database: &Path, bytes: u64) -> io::Result<()> {
    let path = beside(database, "-probe");
    let result = allocate(&path, bytes);
    let _ = std::fs::remove_file(&path);
    result
}

/// Whether the error is a state of the file system that passes: full, over quota, read-only.
pub(super) fn passes(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes.max(1)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => fill(&file, bytes),
        Err(error) => Err(error.into()),
        // What was promised is also taken.
        Ok(()) => file.write_all_at(&noise(), 0),
    }
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    (0..bytes.div_ceil(PAGE as u64)).try_for_each(|page| file.write_all_at(&noise(), page * PAGE as u64))
}

/// Nothing that a file system can compress.
fn noise() -> [u8; PAGE] {
    std::array::from_fn(|_| fastrand::u8(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_room_until_it_is_given_up_and_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("queue.db");
        let ballast = Ballast::of(&database);
        assert_eq!(ballast.bytes(), 0);
        ballast.make(1 << 20).unwrap();
        let file = ballast.path().metadata().unwrap();
        assert!(file.blocks() * 512 >= 1 << 20, "{} blocks", file.blocks());
        assert_eq!(file.mode() & 0o777, 0o600);
        assert_eq!(Ballast::of(&database).bytes(), 1 << 20);
        std::fs::remove_file(ballast.path()).unwrap();
        ballast.look();
        assert_eq!(ballast.bytes(), 0);
        ballast.make(1 << 20).unwrap();
        assert!(ballast.give_up() && !ballast.give_up());
        assert_eq!((ballast.bytes(), ballast.path().exists()), (0, false));
    }

    #[test]
    fn a_link_in_its_place_is_not_followed_and_a_hole_is_no_ballast() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("queue.db");
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, beside(&database, "-ballast")).unwrap();
        let ballast = Ballast::of(&database);
        assert_eq!(ballast.bytes(), 0);
        ballast.make(1 << 20).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        std::fs::remove_file(ballast.path()).unwrap();
        File::create(ballast.path()).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(Ballast::of(&database).bytes(), 0);
    }

    #[test]
    fn only_what_passes_is_waited_for() {
        for (errno, wanted) in [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::ROFS, true),
            (Errno::IO, false),
            (Errno::ACCESS, false),
        ] {
            assert_eq!(passes(&errno.into()), wanted, "{errno}");
        }
    }
}
