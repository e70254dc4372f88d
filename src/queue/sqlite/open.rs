//! Opening the database: the lock, the settings, the schema, recovery after a crash.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::config::QueueSettings;
use crate::queue::contract::{OpenStore, SharedReads, Store, StoreFailure};
use crate::queue::error::QueueError;
use crate::queue::id::ID_MAX;
use crate::queue::open::BUSY_PATIENCE;

use super::checkpoints::{self, Checkpoints};
use super::failure::{RECOVER, explain, of_operation, of_transaction};
use super::files::{Files, real};
use super::readers::Readers;
use super::space::Space;
use super::store::{OnDisk, SqliteStore};
use super::{integrity, left_log, migrate, odd, rescue};

/// SQLite before this has a race that can corrupt a database in WAL mode.
const SQLITE_OLDEST: i32 = 3_051_003;
/// How long BEGIN waits for somebody else's transaction before the writer sees to those who wait.
const BEGIN_PATIENCE: Duration = Duration::from_millis(250);
/// A larger database is not checked through at start: that would take minutes, and after a crash SQLite
/// recovers by itself. `postrider check` does it, and the hourly look.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;

/// The database, opened by this process alone.
pub(in crate::queue) struct Database {
    /// The one that writes.
    pub(in crate::queue) conn: Connection,
    pub(super) checkpoints: Checkpoints,
    readers: Arc<Readers>,
    space: Arc<Space>,
    last_id: i64,
    last_time: Option<i64>,
    history: Duration,
    /// Goes last: the lock is in it.
    files: Files,
}

impl Database {
    /// Opens it, makes it where there is none, and recovers it.
    ///
    /// # Errors
    /// The file cannot be used, belongs to another relay that runs, or to a newer version.
    pub(in crate::queue) fn open(settings: &QueueSettings) -> Result<Database, QueueError> {
        let given = settings.path.as_path();
        if rusqlite::version_number() < SQLITE_OLDEST {
            return Err(unusable(
                given,
                format!("SQLite {} is too old", rusqlite::version()),
                "build with 3.51.3 or newer",
            ));
        }
        make_directory_of(given)?;
        Space::before_opening(&real(given));
        rescue::refuse_without(&real(given))?;
        let files = lock_with_its_log(given)?;
        let path = real(given);
        let path = path.as_path();
        let is_new = files.database_bytes().map_err(|source| disk_error(path, source))? == 0;
        files.sync_directory()?;
        let left = files.left_log().map_err(|source| disk_error(path, source))?;
        left.iter().for_each(|log| left_log::look(log));
        let mut conn = open_database(path, settings.litestream)?;
        if !files.is_in_wal_mode() {
            return Err(unusable(
                path,
                "could not be brought into WAL mode".to_owned(),
                "a write or an fsync failed, see the kernel's log; keep the queue on a local file system",
            ));
        }
        migrate::migrate(&conn, path)?;
        if is_new {
            log::warn!("queue: there was no queue at {}: a new one was made, and is empty", path.display());
        }
        rescue::tell(path);
        files.note_opened()?;
        files.sync_directory()?;
        let keeper = open_keeper(path)?;
        if left.is_some() {
            let written =
                left_log::write_again(&conn, &keeper, &files).map_err(|error| explain(path, error))?;
            let log_bytes = written.map_err(|source| disk_error(path, source))?;
            after_crash(&conn, path, log_bytes, settings.litestream)?;
        }
        let noted = checkpoints::note_who_makes_them(&conn, settings.litestream);
        noted.and_then(|()| drop_unfinished(&conn)).map_err(|error| explain(path, error))?;
        keeper.busy_timeout(BEGIN_PATIENCE)?;
        let checkpoints = Checkpoints::new(keeper, &files.index(), settings.litestream)
            .map_err(|source| disk_error(path, source))?;
        files.note_content();
        let log_pages = count_log_pages(&mut conn)?;
        let page_bytes = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let space = Arc::new(Space::new(path, log_pages, page_bytes));
        let readers = Arc::new(Readers::new(path, space.clone()));
        space.watch();
        let last_id = last_id(&conn)?;
        let last_time = last_time(&conn)?;
        conn.busy_timeout(BEGIN_PATIENCE)?;
        Ok(Database {
            conn,
            checkpoints,
            readers,
            space,
            last_id,
            last_time,
            history: settings.history,
            files,
        })
    }
}

impl OpenStore for Database {
    fn reads(&self) -> SharedReads {
        self.readers.clone()
    }

    fn last_id(&self) -> i64 {
        self.last_id
    }

    fn rescue(&self) -> Option<String> {
        self.files.were_taken().then(|| self.files.rescue())
    }

    fn last_time(&self) -> Option<i64> {
        self.last_time
    }

    fn store(&self) -> Result<Box<dyn Store + '_>, StoreFailure> {
        let disk = OnDisk { files: &self.files, checkpoints: &self.checkpoints };
        let (space, readers) = (self.space.clone(), self.readers.clone());
        let store = SqliteStore::new(&self.conn, Some(disk), space, readers, self.history);
        Ok(Box::new(store.map_err(|error| of_transaction(of_operation(0, &error)))?))
    }
}

/// Locks the database, unless a log stands beside it that is another's: SQLite would write it into this one. So it is
/// where the database was moved away from its log, and where a copy of it was put beside the log.
fn lock_with_its_log(given: &Path) -> Result<Files, QueueError> {
    let was_there = given.metadata().is_ok();
    let files = Files::lock(given)?;
    let path = real(given);
    let checked = files.foreign_log().map_err(|source| disk_error(&path, source));
    let Some((log, bytes)) = checked? else { return Ok(files) };
    let is_empty = || files.database_bytes().is_ok_and(|bytes| bytes == 0);
    let why = match was_there {
        // It was made by the lock a moment ago.
        false if is_empty() => std::fs::remove_file(&path).map(|()| "is not there").unwrap_or("is empty"),
        _ if is_empty() => "is empty",
        _ => "is a copy, made without a log",
    };
    Err(QueueError::LeftLog { path, why, log, bytes })
}

/// The directory of the database, made where it is missing.
pub(super) fn make_directory_of(path: &Path) -> Result<(), QueueError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| QueueError::File {
        path: directory.to_owned(),
        source,
        remedy: "the directory of [queue] path must exist and belong to the user that runs postrider",
    })
}

/// Opens the database for writing, with every setting read back.
fn open_database(path: &Path, litestream: bool) -> Result<Connection, QueueError> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY_PATIENCE)?;
    conn.set_prepared_statement_cache_capacity(32);
    // Not before the store was closed as it should be: after a failed fsync nothing is tried again, and where other
    // files took the place of ours, the log that would be deleted is theirs.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Somebody may be holding the database at this moment, with `sqlite3` or for a backup.
    conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(|error| explain(path, error))?;
    // A log that grew larger is cut back to this: see [`Checkpoints`].
    let log_bytes = if litestream { "0" } else { "67108864" };
    for (name, value, wanted) in [
        ("journal_mode", "WAL", "wal"),
        ("synchronous", "FULL", "2"), // an fsync of the log at every commit: what 250 promises
        ("wal_autocheckpoint", "0", "0"), // the writer does it, when nobody waits for its answers
        ("journal_size_limit", log_bytes, log_bytes),
        ("foreign_keys", "OFF", "0"), // the statements keep them, and a hand that slipped must not stop a settle
        // 8 MiB. Not more: whenever rows move between pages, a commit walks the whole cache.
        ("cache_size", "-8192", "-8192"),
        ("temp_store", "MEMORY", "2"),
        ("mmap_size", "0", "0"), // a read error is to be an error, not a signal
        ("trusted_schema", "OFF", "0"),
    ] {
        set(&conn, path, name, value, wanted)?;
    }
    Ok(conn)
}

/// See [`Checkpoints`].
fn open_keeper(path: &Path) -> rusqlite::Result<Connection> {
    let keeper = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    keeper.busy_timeout(BUSY_PATIENCE)?;
    keeper.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // It never reads.
    keeper.execute_batch(
        "PRAGMA cache_size = -16; PRAGMA wal_autocheckpoint = 0; PRAGMA trusted_schema = OFF",
    )?;
    Ok(keeper)
}

fn set(conn: &Connection, path: &Path, name: &str, value: &str, wanted: &str) -> Result<(), QueueError> {
    conn.execute_batch(&format!("PRAGMA {name} = {value}")).map_err(|error| explain(path, error))?;
    let found = conn.pragma_query_value(None, name, |row| {
        row.get_ref(0).map(|value| match value {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().unwrap_or_default().to_owned(),
        })
    })?;
    if found == wanted {
        return Ok(());
    }
    Err(unusable(
        path,
        format!("PRAGMA {name} is {found}, not {wanted}"),
        "keep the queue on a local file system",
    ))
}

/// The last process did not empty the log: SQLite has recovered it from its log by now, and the log is on the disk
/// again. A small database is checked through all the same.
fn after_crash(conn: &Connection, path: &Path, log_bytes: u64, litestream: bool) -> Result<(), QueueError> {
    // The relay leaves its log to Litestream at every end.
    let what = if litestream { "read the log that was left" } else { "recovered after an unclean end" };
    let bytes = path.metadata().map_or(0, |file| file.len());
    if bytes > QUICK_CHECK_BYTES_MAX {
        log::info!("queue: {what} ({log_bytes} bytes of log, {bytes} of database, not checked through)");
        return Ok(());
    }
    let start = Instant::now();
    if let Some(damage) = integrity::quick(conn)?.first() {
        return Err(unusable(path, format!("is damaged: {damage}"), RECOVER));
    }
    let ms = start.elapsed().as_millis();
    log::info!("queue: {what} ({log_bytes} bytes of log), checked in {ms} ms");
    Ok(())
}

/// Throws away what was arriving when the last process ended: nobody was told 250 for it.
fn drop_unfinished(conn: &Connection) -> rusqlite::Result<()> {
    let chunks = conn.execute(
        "DELETE FROM content WHERE message_id IN
             (SELECT message_id FROM partial_messages i WHERE NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = i.message_id))",
        [],
    )?;
    let messages = conn.execute("DELETE FROM partial_messages", [])?;
    if messages > 0 {
        log::info!("queue: dropped {messages} messages that had not arrived whole ({chunks} chunks)");
    }
    Ok(())
}

/// The highest id ever given out. What the tables hold counts too, should a hand have slipped in `meta`.
pub(super) fn last_id(conn: &Connection) -> rusqlite::Result<i64> {
    let mut last = 0;
    for sql in [
        "SELECT value FROM meta WHERE key = 'last_id'",
        "SELECT max(id) FROM messages",
        "SELECT max(id) FROM recipients",
        "SELECT max(id) FROM attempts",
        "SELECT max(message_id) FROM history",
    ] {
        let found = conn.query_row(sql, [], |row| odd::int(row, 0)).optional()?;
        last = last.max(found.flatten().filter(|id| *id <= ID_MAX).unwrap_or(0));
    }
    Ok(last)
}

/// The confirmed time of the last commit.
fn last_time(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT value FROM meta WHERE key = 'time'";
    Ok(conn.query_row(sql, [], |row| odd::int(row, 0)).optional()?.flatten())
}

/// SQLite tells after each commit how long the log is.
fn count_log_pages(conn: &mut Connection) -> rusqlite::Result<Arc<AtomicU32>> {
    let pages = Arc::new(AtomicU32::new(0));
    let counter = pages.clone();
    conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        counter.store(pages.unsigned_abs(), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

fn disk_error(path: &Path, source: std::io::Error) -> QueueError {
    QueueError::File { path: path.to_owned(), source, remedy: "the disk does not keep its files: mend it" }
}

fn unusable(path: &Path, why: String, remedy: &'static str) -> QueueError {
    QueueError::Unusable { path: path.to_owned(), why, remedy }
}
