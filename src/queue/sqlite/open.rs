//! Opening the database: the lock, the settings, the schema, recovery after a crash.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::config::QueueSettings;
use crate::queue::contract::{OpenStore, SharedReads, Store, StoreFailure};
use crate::queue::error::QueueError;

use super::failure::{of_operation, of_transaction};
use super::migrate;
use super::readers::Readers;
use super::space::Space;
use super::store::SqliteStore;

/// SQLite before this has a race that can corrupt a database in WAL mode.
const SQLITE_OLDEST: i32 = 3_051_003;
/// How long BEGIN waits for somebody else's transaction before the writer sees to those who wait.
const BEGIN_PATIENCE: Duration = Duration::from_millis(250);
/// A larger database is not checked through at start: that would take minutes, and after a crash SQLite
/// recovers by itself. `postrider check` does it.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;

/// The database, opened by this process alone.
pub(in crate::queue) struct Database {
    /// The one that writes.
    pub(in crate::queue) conn: Connection,
    readers: Arc<Readers>,
    space: Arc<Space>,
    last_id: i64,
    history: Duration,
    /// Goes last.
    _lock: File,
}

impl Database {
    /// Opens it, makes it where there is none, and recovers it.
    ///
    /// # Errors
    /// The file cannot be used, belongs to another relay that runs, or to a newer version.
    pub(in crate::queue) fn open(settings: &QueueSettings) -> Result<Database, QueueError> {
        let path = settings.path.as_path();
        if rusqlite::version_number() < SQLITE_OLDEST {
            return Err(unusable(
                path,
                format!("SQLite {} is too old", rusqlite::version()),
                "build with 3.51.3 or newer",
            ));
        }
        make_directory_of(path)?;
        Space::before_opening(path);
        let lock = take_lock(path)?;
        let unclean = wal_path(path).metadata().is_ok_and(|wal| wal.len() > 0);
        let mut conn = open_database(path)?;
        migrate::migrate(&conn, path)?;
        if unclean {
            after_crash(&conn, path)?;
        }
        drop_unfinished(&conn)?;
        let log_pages = count_log_pages(&mut conn)?;
        let page_bytes = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let space = Arc::new(Space::new(path, log_pages, page_bytes));
        let readers = Arc::new(Readers::new(path, space.clone()));
        space.watch();
        let last_id = last_id(&conn)?;
        Ok(Database { conn, readers, space, last_id, history: settings.history, _lock: lock })
    }
}

impl OpenStore for Database {
    fn reads(&self) -> SharedReads {
        self.readers.clone()
    }

    fn last_id(&self) -> i64 {
        self.last_id
    }

    fn store(&self) -> Result<Box<dyn Store + '_>, StoreFailure> {
        let store = SqliteStore::new(&self.conn, self.space.clone(), self.readers.clone(), self.history);
        Ok(Box::new(store.map_err(|error| of_transaction(of_operation(0, &error)))?))
    }
}

/// The directory of the database, made where it is missing.
fn make_directory_of(path: &Path) -> Result<(), QueueError> {
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

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn wal_path(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// Two relays on one queue would deliver everything twice. The lock goes with the process, however it ends.
fn take_lock(path: &Path) -> Result<File, QueueError> {
    let lock_path = beside(path, ".lock");
    let file_error = |source| QueueError::File {
        path: lock_path.clone(),
        source,
        remedy: "the directory of [queue] path must belong to the user that runs postrider",
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(file_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let holder = if pid.is_empty() { String::new() } else { format!(" (pid {pid})") };
            return Err(QueueError::InUse { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(file_error(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(file_error)?;
    Ok(file)
}

/// Opens the database for writing, with every setting read back.
fn open_database(path: &Path) -> Result<Connection, QueueError> {
    // Made here, so that the mail in it is nobody else's to read; SQLite gives its other files the same mode.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|source| {
        QueueError::File {
            path: path.to_owned(),
            source,
            remedy: "it must belong to the user that runs postrider",
        }
    })?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BEGIN_PATIENCE)?;
    conn.set_prepared_statement_cache_capacity(32);
    // Somebody may be holding the database at this moment: journal_mode and recovery wait for them.
    for (name, value, wanted) in [
        ("journal_mode", "WAL", "wal"),
        ("synchronous", "FULL", "2"), // an fsync of the log at every commit: what 250 promises
        ("wal_autocheckpoint", "0", "0"), // the writer does it, when nobody waits for its answers
        ("journal_size_limit", "67108864", "67108864"), // a log that grew larger is cut back
        ("foreign_keys", "OFF", "0"), // the statements keep them, and a hand that slipped must not stop a settle
        ("cache_size", "-32768", "-32768"), // 32 MiB
        ("temp_store", "MEMORY", "2"),
        ("mmap_size", "0", "0"), // a read error is to be an error, not a signal
        ("trusted_schema", "OFF", "0"),
    ] {
        set(&conn, path, name, value, wanted)?;
    }
    Ok(conn)
}

fn set(conn: &Connection, path: &Path, name: &str, value: &str, wanted: &str) -> Result<(), QueueError> {
    conn.execute_batch(&format!("PRAGMA {name} = {value}"))?;
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

/// The last process did not close the database: SQLite has recovered it from its log by now. A small one
/// is checked through all the same.
fn after_crash(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let bytes = path.metadata().map_or(0, |file| file.len());
    if bytes > QUICK_CHECK_BYTES_MAX {
        log::info!("queue: recovered after an unclean end ({bytes} bytes, not checked through)");
        return Ok(());
    }
    let start = Instant::now();
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(unusable(path, format!("is damaged: {verdict}"), "see `sqlite3 queue.db .recover`"));
    }
    log::info!("queue: recovered after an unclean end, checked in {} ms", start.elapsed().as_millis());
    Ok(())
}

/// Throws away what was arriving when the last process ended: nobody was told 250 for it.
fn drop_unfinished(conn: &Connection) -> Result<(), QueueError> {
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
    conn.query_row(
        "SELECT max(coalesce((SELECT value FROM meta WHERE key = 'last_id'), 0),
                    coalesce((SELECT max(id) FROM messages), 0),
                    coalesce((SELECT max(id) FROM recipients), 0),
                    coalesce((SELECT max(id) FROM attempts), 0),
                    coalesce((SELECT max(message_id) FROM history), 0))",
        [],
        |row| row.get(0),
    )
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

fn unusable(path: &Path, why: String, remedy: &'static str) -> QueueError {
    QueueError::Unusable { path: path.to_owned(), why, remedy }
}
