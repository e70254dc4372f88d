//! Room on the disk: when new mail is refused, so that what is queued can still go out.
//!
//! An outcome that cannot be written is a message that is delivered again. So mail is refused (452 4.3.1) while there
//! is still room for what is already here. A part of that reserve is a real file beside the database, the ballast:
//! when somebody else fills the disk to the last byte, it is given up, and there is room for outcomes, for the
//! checkpoint of the write-ahead log, and for `postrider queue remove`. It is made again once there is room, and new
//! mail is taken again.
//!
//! What a checkpoint will need is never used up: the log grows while somebody reads an old state, and all of it has to
//! find room in the database one day. A quota is a full disk too; a file system that became read-only is a state that
//! passes. [`Room`] decides and is pure; [`Space`] measures and remembers.

mod ballast;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Error;

use crate::queue::admin_rows::DiskRoom;
use crate::queue::contract::StoreFailure;
use crate::queue::gauge_rows::{DiskUse, Fill};
use crate::queue::shared::now_us;

use super::failure::{is_failed_write, of_operation};
use super::files::beside;
use super::locks;
use ballast::Ballast;

/// Kept free at most; on a small file system a tenth of it.
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Mail of an ordinary size, which must find room for it to be said that there is room.
const MARGIN_BYTES_MAX: u64 = 1 << 20;
/// The ballast at most; on a small file system half of the reserve.
const BALLAST_BYTES_MAX: u64 = 16 << 20;
/// New mail is refused while the write-ahead log is longer than this.
const LOG_BYTES_MAX: u64 = 4 << 30;
/// The operator hears of a log that is longer than this, or than a tenth of the disk.
const LOG_BYTES_WARN: u64 = 256 << 20;
/// Pages of the log at which it is copied into the database while the disk is nearly full, at most.
const CHECKPOINT_PAGES_TIGHT: u32 = 1_000;
/// What SQLite may need to open a database: the log's index, and a first page.
const OPENING_BYTES: u64 = 256 << 10;
/// In the log each page has a header.
const LOG_PAGE_HEADER_BYTES: u64 = 24;

/// What there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// The file system's size.
    disk: u64,
    /// Free on it.
    free: u64,
    /// What the ballast would give.
    ballast: u64,
    /// Free pages inside the database.
    in_database: u64,
    /// What the database will grow by when the log is copied into it.
    to_copy: u64,
    /// The log's length.
    log: u64,
}

impl Room {
    /// Kept for outcomes: mail never takes it.
    fn reserve(&self) -> u64 {
        (self.disk / 10).min(RESERVE_BYTES_MAX)
    }

    fn ballast_wanted(&self) -> u64 {
        (self.reserve() / 2).min(BALLAST_BYTES_MAX)
    }

    /// Left once the log is copied.
    fn left(&self) -> u64 {
        self.free.saturating_add(self.ballast).saturating_sub(self.to_copy)
    }

    /// Whether `bytes` more of mail leave the reserve alone. Everything is written twice, to the log and then to the
    /// database. The log needs disk; the database can use its own free pages.
    fn has_room_for(&self, bytes: u64) -> bool {
        let for_database = bytes.saturating_sub(self.in_database);
        self.log <= LOG_BYTES_MAX
            && self.left() >= bytes.saturating_add(for_database).saturating_add(self.reserve() / 2)
            && self.left().saturating_add(self.in_database)
                >= bytes.saturating_mul(2).saturating_add(self.reserve())
    }

    /// Whether the ballast can be made, and leaves enough beside it that it is not given up at once.
    fn has_room_for_ballast(&self) -> bool {
        self.left() >= self.reserve()
    }

    /// Whether something may be written at all: what a checkpoint needs is not touched.
    fn can_still_copy(&self) -> bool {
        self.to_copy == 0 || self.left() >= self.reserve() / 16
    }

    fn log_is_long(&self) -> bool {
        self.log > (self.disk / 10).min(LOG_BYTES_WARN)
    }

    fn shortage(&self) -> String {
        if self.log > LOG_BYTES_MAX {
            return format!("the write-ahead log has {}", megabytes(self.log));
        }
        format!(
            "the disk is full: {} of {} are left, {} are kept for what is queued",
            megabytes(self.left()),
            megabytes(self.disk),
            megabytes(self.reserve())
        )
    }
}

/// A time in which new mail is refused: since when, and why.
#[derive(Debug)]
struct Refusing {
    since: Instant,
    /// Unix seconds.
    began_at: i64,
    why: String,
}

/// What is free, and what of it may be used.
#[derive(Debug)]
pub(super) struct Space {
    /// The database.
    path: PathBuf,
    ballast: Ballast,
    page_bytes: u64,
    /// Pages in the write-ahead log that are not copied into the database yet.
    log_pages: Arc<AtomicU32>,
    in_database: AtomicU64,
    to_copy: AtomicU64,
    refusing: Mutex<Option<Refusing>>,
    /// Whether there is one, for those who only ask that.
    refuses: AtomicBool,
    /// Bytes of the log of which the operator was told.
    log_told: AtomicU64,
}

impl Space {
    /// Of the database `path`.
    pub(super) fn new(path: &Path, log_pages: Arc<AtomicU32>, page_bytes: u32) -> Space {
        Space {
            path: path.to_owned(),
            ballast: Ballast::of(path),
            page_bytes: page_bytes.into(),
            log_pages,
            in_database: AtomicU64::new(0),
            to_copy: AtomicU64::new(0),
            refusing: Mutex::default(),
            refuses: AtomicBool::new(false),
            log_told: AtomicU64::new(0),
        }
    }

    /// To be called before the database is opened: SQLite itself needs some room for that.
    pub(super) fn before_opening(path: &Path) {
        let room = measure(path, 0, 0, 0, 0);
        if room.is_some_and(|room| room.free < OPENING_BYTES) {
            Ballast::of(path).give_up();
        }
    }

    /// What the database holds, by the last commit.
    pub(super) fn set_pages(&self, all: u32, free: u32) {
        let bytes = |pages: u32| u64::from(pages) * self.page_bytes;
        let file = self.path.metadata().map_or(0, |file| file.len());
        self.in_database.store(bytes(free), Ordering::Relaxed);
        self.to_copy.store(bytes(all).saturating_sub(file).min(self.log_bytes()), Ordering::Relaxed);
    }

    pub(super) fn log_pages(&self) -> u32 {
        self.log_pages.load(Ordering::Relaxed)
    }

    fn log_bytes(&self) -> u64 {
        self.log_file_bytes(self.log_pages())
    }

    /// Of a log of so many pages.
    pub(super) fn log_file_bytes(&self, pages: u32) -> u64 {
        u64::from(pages) * (self.page_bytes + LOG_PAGE_HEADER_BYTES)
    }

    pub(super) fn log_file_is_longer(&self, bytes: u64) -> bool {
        beside(&self.path, "-wal").metadata().is_ok_and(|file| file.len() > 2 * bytes)
    }

    /// Nothing is left in the log.
    pub(super) fn log_is_copied(&self) {
        self.log_pages.store(0, Ordering::Relaxed);
        self.to_copy.store(0, Ordering::Relaxed);
        if self.log_told.swap(0, Ordering::Relaxed) > 0 {
            log::info!("queue: the write-ahead log is copied into the database again");
        }
    }

    fn room(&self) -> Option<Room> {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        measure(
            &self.path,
            self.ballast.bytes(),
            load(&self.in_database),
            load(&self.to_copy),
            self.log_bytes(),
        )
    }

    /// For monitoring.
    pub(super) fn disk_use(&self) -> Option<DiskUse> {
        let room = self.room()?;
        let log_bytes = beside(&self.path, "-wal").metadata().map_or(0, |file| file.len());
        Some(DiskUse { log_bytes, free_bytes: room.free, size_bytes: room.disk })
    }

    /// Whether `bytes` more of mail leave the reserve alone.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        !self.refuses_mail() && self.room().is_none_or(|room| room.has_room_for(bytes))
    }

    /// While this is so, nothing is written that outcomes can do without.
    pub(super) fn refuses_mail(&self) -> bool {
        self.refuses.load(Ordering::Acquire)
    }

    /// Why new mail is refused; none where it is not.
    pub(super) fn why_no_room(&self) -> Option<String> {
        self.refusing().as_ref().map(|refusing| refusing.why.clone())
    }

    /// Since when, Unix seconds.
    pub(super) fn refused_since(&self) -> Option<i64> {
        self.refusing().as_ref().map(|refusing| refusing.began_at)
    }

    fn refusing(&self) -> MutexGuard<'_, Option<Refusing>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages of the log at which it should be copied; none where the disk is roomy.
    pub(super) fn checkpoint_pages(&self) -> Option<u32> {
        let room = self.room()?;
        if room.has_room_for(2 * RESERVE_BYTES_MAX) {
            return None;
        }
        let pages = u32::try_from(room.reserve() / 8 / self.page_bytes).unwrap_or(u32::MAX);
        Some(pages.clamp(1, CHECKPOINT_PAGES_TIGHT))
    }

    /// Whether something may be written at all; says why not.
    pub(super) fn must_wait(&self) -> Option<StoreFailure> {
        let room = self.room().filter(|room| !room.can_still_copy())?;
        Some(StoreFailure::Full(format!(
            "the rest of the disk is kept for the checkpoint of the write-ahead log, which has {}{}",
            megabytes(room.log),
            self.log_readers()
        )))
    }

    /// What an error of SQLite means. Of a failed write a small file beside the database tells what the system had
    /// against it: SQLite keeps that for itself.
    pub(super) fn judge(&self, at: usize, error: &Error) -> StoreFailure {
        let found = of_operation(at, error);
        let is_write = is_failed_write(error);
        match found {
            StoreFailure::Busy(why) => StoreFailure::Busy(why + &locks::writer(&self.path)),
            StoreFailure::Full(why) => StoreFailure::Full(
                self.probe().map_or_else(|| why.clone(), |cause| format!("{why}: {cause}")),
            ),
            StoreFailure::Fatal(why) if is_write => match self.probe() {
                Some(cause) => StoreFailure::Full(format!("{error}: {cause}")),
                None => StoreFailure::Fatal(why),
            },
            other => other,
        }
    }

    /// Tries to write beside the database; gives what the system says, where that passes once there is room or the
    /// file system is writable again.
    fn probe(&self) -> Option<io::Error> {
        let bytes = self.room().map_or(BALLAST_BYTES_MAX, |room| room.reserve() / 4);
        ballast::probe(&self.path, bytes).err().filter(ballast::passes)
    }

    /// Something could not be written. Gives the ballast up; false where there was none any more.
    pub(super) fn give_ballast(&self, why: &str) -> bool {
        self.refuse(why.to_owned());
        self.ballast.give_up()
    }

    fn refuse(&self, why: String) {
        let mut refusing = self.refusing();
        if refusing.is_none() {
            log::error!("queue: new mail is refused (452): {why}");
            *refusing = Some(Refusing { since: Instant::now(), began_at: now_us() / 1_000_000, why });
            self.refuses.store(true, Ordering::Release);
        }
    }

    /// Twice a second: begins and ends the refusal of mail, and makes the ballast where it is missing.
    pub(super) fn watch(&self) {
        self.ballast.look();
        let Some(room) = self.room() else { return };
        self.tell_of_log(&room);
        let margin = (room.reserve() / 16).min(MARGIN_BYTES_MAX);
        // What ends it is more than the log can give and take.
        let more = if self.refuses_mail() { room.reserve() / 4 } else { 0 };
        if !room.has_room_for(margin + more / 2) {
            let readers = if room.log_is_long() { self.log_readers() } else { String::new() };
            return self.refuse(room.shortage() + &readers);
        }
        if room.has_room_for_ballast()
            && let Err(error) = self.ballast.make(room.ballast_wanted())
        {
            return self.refuse(format!("the ballast cannot be made: {error}"));
        }
        if !self.refuses_mail() || self.probe().is_some() {
            return;
        }
        if let Some(refusing) = self.refusing().take() {
            self.refuses.store(false, Ordering::Release);
            log::info!("queue: new mail is accepted again, after {} s", refusing.since.elapsed().as_secs());
        }
    }

    /// A log that cannot be shortened: at each doubling.
    fn tell_of_log(&self, room: &Room) {
        let told = self.log_told.load(Ordering::Relaxed);
        if !room.log_is_long() || room.log < told.saturating_mul(2) {
            return;
        }
        self.log_told.store(room.log, Ordering::Relaxed);
        log::warn!("queue: the write-ahead log has grown to {}{}", megabytes(room.log), self.log_readers());
    }

    fn log_readers(&self) -> String {
        locks::readers_of_log(&self.path)
    }
}

fn measure(path: &Path, ballast: u64, in_database: u64, to_copy: u64, log: u64) -> Option<Room> {
    match rustix::fs::statvfs(directory_of(path)) {
        Ok(fs) => Some(Room {
            disk: fs.f_blocks.saturating_mul(fs.f_frsize),
            free: fs.f_bavail.saturating_mul(fs.f_frsize),
            ballast,
            in_database,
            to_copy,
            log,
        }),
        Err(error) => {
            log::debug!("queue: {}: {error}", path.display());
            None
        }
    }
}

/// For the command line: whether a relay has room for new mail. `pages` of the database, and how many of them are free;
/// `refused_since` is what the relay noted, which may be more than a look at the disk can tell.
pub(super) fn seen_from_outside(
    path: &Path,
    page_bytes: u32,
    pages: (u32, u32),
    refused_since: Option<String>,
) -> DiskRoom {
    let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let bytes = |pages: u32| u64::from(pages) * u64::from(page_bytes);
    let log = length(&beside(path, "-wal"));
    let to_copy = bytes(pages.0).saturating_sub(length(path)).min(log);
    let ballast = Ballast::of(path);
    let Some(room) = measure(path, ballast.bytes(), bytes(pages.1), to_copy, log) else {
        return DiskRoom::Enough;
    };
    let readers = || if room.log_is_long() { locks::readers_of_log(path) } else { String::new() };
    match refused_since {
        _ if !room.has_room_for(0) => DiskRoom::Full(room.shortage() + &readers()),
        Some(time) => DiskRoom::Full(format!("since {time} UTC, see the log{}", readers())),
        _ if ballast.bytes() == 0 => DiskRoom::NoBallast(format!(
            "{} is missing; a relay that runs refuses new mail until it can make it",
            ballast.path().display()
        )),
        _ => DiskRoom::Enough,
    }
}

/// For the command line: how full database and disk are. `pages` of the database, and how many of them are free.
pub(super) fn fill(path: &Path, page_bytes: u32, pages: (u32, u32)) -> Option<Fill> {
    let bytes = |pages: u32| u64::from(pages) * u64::from(page_bytes);
    measure(path, 0, 0, 0, 0).map(|room| Fill {
        database_bytes: bytes(pages.0),
        database_free_bytes: bytes(pages.1),
        disk_free_bytes: room.free,
        disk_bytes: room.disk,
        reserve_bytes: room.reserve(),
    })
}

/// Whether a file of so many bytes beside the database leaves alone what is kept for outcomes.
pub(super) fn has_room_beside(path: &Path, bytes: u64) -> bool {
    measure(path, 0, 0, 0, 0).is_none_or(|room| room.left() >= bytes.saturating_add(room.reserve()))
}

/// Whether a copy of so many bytes fits at `to`. On the database's own disk it leaves alone what is kept for
/// outcomes, and what the database will grow by when its log is copied into it; `pages` are all that it has.
pub(super) fn has_room_for_copy(database: &Path, to: &Path, bytes: u64, pages: u64) -> bool {
    let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let device = |path: &Path| directory_of(path).metadata().ok().map(|found| found.dev());
    let is_beside = device(database) == device(to);
    let log = length(&beside(database, "-wal"));
    let to_copy = if is_beside { pages.saturating_sub(length(database)).min(log) } else { 0 };
    measure(to, 0, 0, to_copy, log).is_none_or(|room| {
        let kept = if is_beside { room.reserve() } else { 0 };
        room.left() >= bytes.saturating_add(kept)
    })
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// For the command line: gives the ballast up, so that a change can be written on a full disk. False where there was
/// none.
pub(super) fn give_up_ballast(path: &Path) -> bool {
    Ballast::of(path).give_up()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn room(free: u64, disk: u64, in_database: u64) -> Room {
        Room { disk, free, ballast: 0, in_database, to_copy: 0, log: 0 }
    }

    #[test]
    fn the_reserve_is_left_alone_and_free_pages_count() {
        let disk = 10_000 * MB;
        let fits = |free, in_database, bytes| room(free, disk, in_database).has_room_for(bytes);
        assert!(fits(100 * MB, 0, 10 * MB));
        assert!(!fits(70 * MB, 0, 10 * MB));
        assert!(fits(70 * MB, 50 * MB, 10 * MB), "free pages of the database count");
        assert!(!fits(20 * MB, 500 * MB, 10 * MB), "but the write-ahead log needs real disk");
        assert!(!fits(0, 500 * MB, 0));
    }

    #[test]
    fn a_small_disk_is_not_all_reserve() {
        assert!(room(50 * MB, 64 * MB, 0).has_room_for(MB));
        assert!(!room(6 * MB, 64 * MB, 0).has_room_for(MB));
        assert!(room(50 * MB, 64 * MB, 0).ballast_wanted() < 4 * MB);
        assert_eq!(room(0, 10_000 * MB, 0).ballast_wanted(), 16 * MB);
    }

    /// However the disk fills, by mail, by a log that cannot be copied, or by others: mail is refused first, then
    /// nothing is written any more, and what is left is enough for the checkpoint.
    #[test]
    fn mail_stops_before_outcomes_and_outcomes_before_the_checkpoint_has_no_room() {
        for disk in [64 * MB, 500 * MB, 100_000 * MB] {
            let whole = room(0, disk, 0);
            for to_copy in (0..=disk / MB).step_by(7).map(|step| step * MB / 8) {
                for free in (0..200).map(|step| step * disk.min(2_000 * MB) / 200) {
                    let now = Room { free, to_copy, ballast: whole.ballast_wanted(), ..whole };
                    if now.has_room_for(0) {
                        assert!(now.can_still_copy(), "{now:?}");
                        assert!(now.has_room_for_ballast(), "{now:?}");
                    }
                    if now.can_still_copy() && to_copy > 0 {
                        assert!(free + now.ballast >= to_copy + whole.reserve() / 16, "{now:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_log_without_end_refuses_mail_on_any_disk() {
        let now = Room { log: LOG_BYTES_MAX + 1, ..room(900_000 * MB, 1_000_000 * MB, 0) };
        assert!(!now.has_room_for(0) && now.can_still_copy());
        assert!(now.shortage().contains("write-ahead log"), "{}", now.shortage());
    }
}
