//! The reserve: room on the disk that mail never takes, so that outcomes can still be written.
//!
//! An outcome that cannot be written is a message that is delivered again. So MAIL is refused
//! (452 4.3.1) while there is still room for what is already here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Kept free at most; on a small file system a tenth of it.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// What is free, and what of it may be used.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    /// Free pages inside the database, in bytes: the writer counts them now and then.
    free_in_database: AtomicU64,
    /// Pages in the write-ahead log that the database has still to find room for.
    log_pages: Arc<AtomicU32>,
    page_bytes: u64,
}

impl Space {
    pub(super) fn new(directory: &Path, log_pages: Arc<AtomicU32>, page_bytes: u32) -> Space {
        Space {
            directory: directory.to_owned(),
            free_in_database: AtomicU64::new(0),
            log_pages,
            page_bytes: page_bytes.into(),
        }
    }

    pub(super) fn set_free_pages(&self, pages: u32) {
        self.free_in_database.store(u64::from(pages) * self.page_bytes, Ordering::Relaxed);
    }

    pub(super) fn log_pages(&self) -> u32 {
        self.log_pages.load(Ordering::Relaxed)
    }

    /// Nothing is left in the log.
    pub(super) fn log_is_copied(&self) {
        self.log_pages.store(0, Ordering::Relaxed);
    }

    /// Whether `bytes` more of mail leave the reserve alone.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        match rustix::fs::statvfs(&self.directory) {
            Ok(fs) => {
                let in_log = u64::from(self.log_pages.load(Ordering::Relaxed)) * self.page_bytes;
                fits(
                    fs.f_bavail.saturating_mul(fs.f_frsize).saturating_sub(in_log),
                    fs.f_blocks.saturating_mul(fs.f_frsize),
                    self.free_in_database.load(Ordering::Relaxed),
                    bytes,
                )
            }
            Err(error) => {
                log::debug!("queue: {}: {error}", self.directory.display());
                true
            }
        }
    }

    /// Whether the disk is so full that the write-ahead log should be kept short.
    pub(super) fn is_tight(&self) -> bool {
        !self.has_room(2 * RESERVE_BYTES_MAX)
    }
}

/// Everything is written twice, to the write-ahead log and then to the database. The log needs disk; the
/// database can use its own free pages.
fn fits(free_on_disk: u64, disk: u64, free_in_database: u64, bytes: u64) -> bool {
    let reserve = (disk / 10).min(RESERVE_BYTES_MAX);
    let for_log = bytes;
    let for_database = bytes.saturating_sub(free_in_database);
    free_on_disk >= for_log.saturating_add(for_database).saturating_add(reserve / 4)
        && free_on_disk.saturating_add(free_in_database) >= bytes.saturating_mul(2).saturating_add(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn the_reserve_is_left_alone_and_free_pages_count() {
        let disk = 10_000 * MB;
        assert!(fits(100 * MB, disk, 0, 10 * MB));
        assert!(!fits(70 * MB, disk, 0, 10 * MB));
        assert!(fits(70 * MB, disk, 50 * MB, 10 * MB), "free pages of the database count");
        assert!(!fits(20 * MB, disk, 500 * MB, 10 * MB), "but the write-ahead log needs real disk");
        assert!(!fits(0, disk, 500 * MB, 0));
    }

    #[test]
    fn a_small_disk_is_not_all_reserve() {
        assert!(fits(50 * MB, 64 * MB, 0, MB));
        assert!(!fits(6 * MB, 64 * MB, 0, MB));
    }
}
