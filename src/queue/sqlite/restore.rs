//! `postrider restore`: a backup takes the place of the queue, with the relay stopped.
//!
//! All that waits in a backup may have been sent since it was made. So it is held, and in doubt, until an operator
//! releases it; reports of failures have an hour until they are due. No id that may have been given out since is
//! given out again. The queue of before is kept.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::queue::copy_rows::{HowToRestore, Restored};
use crate::queue::error::QueueError;
use crate::queue::shared::now_us;

use super::backup::{bytes_of, copy, open_copy, read_through};
use super::failure::{explain, is_full};
use super::files::{Files, beside, in_use_by, real};
use super::in_place::{REPLACED, put_in_place};
use super::recover::{create_as, file_error, remove_old};
use super::{foreign, migrate, open, space, suspensions};

/// What all of it begins with that was restored and is held.
const HELD: &str = "held: restored from a backup, may have been sent since";

/// See [`crate::queue::admin::restore`].
pub(in crate::queue) fn restore(path: &Path, from: &Path, how: HowToRestore) -> Result<Restored, QueueError> {
    let from = from.canonicalize().map_err(|source| QueueError::File {
        path: from.to_owned(),
        source,
        remedy: "name a file that `postrider backup` wrote, and that this user may read",
    })?;
    let path = real(path);
    if from == path {
        return Err(unusable(&path, "is the queue itself", "name a backup of it"));
    }
    // Nothing is touched before it is known to be good.
    refuse_queue(&from)?;
    let mut copied = read_through(&from)?;
    let mut backup = open_copy(&from)?;
    open::make_directory_of(&path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Who restores may be root, and the queue is its owner's.
    let owner =
        path.metadata().or_else(|_| directory.metadata()).map_err(|source| file_error(&path, source))?;
    let files = Files::lock(&path)?;
    let is_new = path.metadata().is_ok_and(|file| file.len() == 0);
    let filled = (|| {
        let last_id = if is_new {
            refuse_log_beside(&path)?;
            0
        } else {
            look_at_old(&path, how.replace)?
        };
        fill(&mut backup, &path, &owner, |fresh| mark(fresh, how.as_it_was, last_id))
    })();
    if filled.is_err() && is_new {
        // Made by the lock a moment ago.
        let _ = std::fs::remove_file(&path);
    }
    let ((pending_reports, suspensions), left_out) = filled?;
    let fresh = beside(&path, SUFFIX);
    let kept = match is_new {
        true => std::fs::rename(&fresh, &path).map(|()| None).map_err(|source| file_error(&path, source))?,
        false => Some(put_in_place(&path, &fresh, REPLACED)?.display().to_string()),
    };
    files.sync_directory()?;
    copied.held = if how.as_it_was { copied.held } else { copied.recipients };
    Ok(Restored { copied, pending_reports, suspensions, as_it_was: how.as_it_was, left_out, kept })
}

/// A backup is one file. What has a log is a queue, and some of its mail is in the log: nobody is to move that away.
fn refuse_queue(from: &Path) -> Result<(), QueueError> {
    if let Some(pid) = in_use_by(from) {
        let why = format!("is the queue of a relay that runs (pid {pid}), and no backup");
        return Err(unusable(from, &why, "`postrider backup` makes one of it while it runs"));
    }
    let Some(log) = log_beside(from) else { return Ok(()) };
    let why = format!("is a queue with its log ({}), and no backup: mail is in both", log.display());
    let remedy = "leave both as they are; POSTRIDER_QUEUE_PATH=THAT-QUEUE postrider backup FILE makes a backup of \
                  them, to be restored";
    Err(unusable(from, &why, remedy))
}

fn log_beside(path: &Path) -> Option<PathBuf> {
    let is_log = |log: &PathBuf| log.metadata().is_ok_and(|file| file.len() > 0);
    ["-wal", "-journal"].map(|suffix| beside(path, suffix)).into_iter().find(is_log)
}

/// What an unfinished transaction or a lost database left would be written into the file that takes its place.
fn refuse_log_beside(path: &Path) -> Result<(), QueueError> {
    let Some(log) = log_beside(path) else { return Ok(()) };
    let why = "is left of a database that is not there any more, and has mail that was acknowledged";
    Err(unusable(&log, why, "put that one back if it can be found; else move the log away"))
}

/// Of the database until it is whole.
const SUFFIX: &str = ".restored";

/// Whether the queue that is there may go; gives the highest id that it has given out.
fn look_at_old(path: &Path, replace: bool) -> Result<i64, QueueError> {
    let conn = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let look = || -> rusqlite::Result<(i64, i64)> {
        let waiting = conn.query_row("SELECT count(*) FROM recipients", [], |row| row.get(0))?;
        Ok((waiting, open::last_id(&conn)?))
    };
    let (why, last_id) = match look() {
        Ok((0, last_id)) => return Ok(last_id),
        Ok((waiting, last_id)) => (format!("has mail that waits, for {waiting} recipients"), last_id),
        Err(error) => (format!("cannot be read ({error}), and may have mail"), 0),
    };
    match replace {
        true => Ok(last_id),
        false => Err(unusable(path, &why, "`postrider restore --replace` keeps it beside the restored one")),
    }
}

/// Makes the database that will take the place of the one at `path`, whole and on the disk.
fn fill<T>(
    backup: &mut Connection,
    path: &Path,
    owner: &std::fs::Metadata,
    prepare: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<(T, Vec<String>), QueueError> {
    let (bytes, _) = bytes_of(backup)?;
    let no_room = || {
        let why = format!("finds no room for a copy of {} MiB beside it", bytes.div_ceil(1 << 20));
        unusable(path, &why, "make room on its disk")
    };
    if !space::has_room_for_copy(path, path, bytes, 0) {
        return Err(no_room());
    }
    let fresh_path = beside(path, SUFFIX);
    remove_old(&fresh_path)?;
    let of_file = |source| file_error(&fresh_path, source);
    let filled = (|| {
        create_as(owner, &fresh_path).map_err(of_file)?;
        let file = std::fs::File::options().write(true).open(&fresh_path).map_err(of_file)?;
        copy(backup, &fresh_path, &file)
            .map_err(|error| if is_full(&error) { no_room() } else { explain(&fresh_path, error) })?;
        let fresh = Connection::open(&fresh_path)?;
        fresh.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF")?;
        migrate::migrate(&fresh, &fresh_path)?;
        let changed = foreign::leave_out(&fresh).and_then(|left_out| Ok((prepare(&fresh)?, left_out)));
        let prepared = changed.map_err(|error| explain(&fresh_path, error))?;
        drop(fresh);
        file.sync_all().map_err(of_file)?;
        read_through(&fresh_path)?;
        Ok(prepared)
    })();
    if filled.is_err() {
        remove_old(&fresh_path)?;
    }
    filled
}

/// Gives how many failures are still to be reported, and how much is suspended.
fn mark(fresh: &Connection, as_it_was: bool, last_id: i64) -> rusqlite::Result<(i64, i64)> {
    let now = now_us() / 1_000_000;
    fresh.execute_batch("BEGIN IMMEDIATE; DELETE FROM meta WHERE key = 'mail_refused_since'")?;
    let last_id = open::last_id(fresh)?.max(last_id).max(now_us());
    fresh.execute("INSERT OR REPLACE INTO meta VALUES ('last_id', ?1)", [last_id])?;
    if !as_it_was {
        // What was held keeps its reason. Asked to be returned, it may have been.
        fresh.execute(
            "UPDATE recipients SET state = 'held', bounce_requested_at = NULL, in_doubt_since = ?1,
                 last_reply = iif(state = 'held' AND bounce_requested_at IS NULL, last_reply,
                                  ?2 || coalesce('; last reply: ' || last_reply, '')),
                 last_reply_source = iif(state = 'held' AND bounce_requested_at IS NULL, last_reply_source, 'local')",
            params![now, HELD],
        )?;
        fresh.execute("UPDATE pending_reports SET at = ?1", [now])?;
        fresh.execute(
            "UPDATE tls_reports SET state = 'failed', next_attempt_at = NULL, changed_at = ?1,
                 last_reply = 'given up: restored from a backup, may have been sent since' WHERE state = 'planned'",
            [now],
        )?;
    }
    let pending = fresh.query_row("SELECT count(*) FROM pending_reports", [], |row| row.get(0))?;
    let suspensions = suspensions::count(fresh, now)?;
    fresh.execute_batch("COMMIT")?;
    Ok((pending, suspensions))
}

fn unusable(path: &Path, why: &str, remedy: &'static str) -> QueueError {
    QueueError::Unusable { path: path.to_owned(), why: why.to_owned(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::backup::back_up;

    const HOUR_US: i64 = 3_600_000_000;

    fn queue(path: &Path, last_id: i64) {
        let conn = Connection::open(path).unwrap();
        migrate::migrate(&conn, path).unwrap();
        conn.execute("INSERT INTO meta VALUES ('last_id', ?1)", [last_id]).unwrap();
    }

    fn last_id(path: &Path) -> i64 {
        let conn = Connection::open(path).unwrap();
        conn.query_row("SELECT value FROM meta WHERE key = 'last_id'", [], |row| row.get(0)).unwrap()
    }

    /// Neither one that the queue of before gave out while its clock was ahead, nor one that the lost queue of
    /// another machine gave out since the backup.
    #[test]
    fn no_id_that_was_given_out_since_is_given_out_again() {
        let directory = tempfile::tempdir().unwrap();
        let [from, copy, there, new] =
            ["from.db", "copy.db", "there.db", "new.db"].map(|name| directory.path().join(name));
        let start = now_us();
        queue(&from, start - HOUR_US);
        queue(&there, start + HOUR_US);
        back_up(&from, &copy).unwrap();
        let how = HowToRestore { replace: false, as_it_was: false };
        restore(&there, &copy, how).unwrap();
        assert_eq!(last_id(&there), start + HOUR_US);
        restore(&new, &copy, how).unwrap();
        assert!(last_id(&new) >= start);
    }

    /// After a crash the database may be gone and its log still there; SQLite would write it into the restored one.
    #[test]
    fn the_log_of_a_lost_database_is_not_written_into_the_restored_one() {
        let directory = tempfile::tempdir().unwrap();
        let [from, copy, to] = ["from.db", "copy.db", "to.db"].map(|name| directory.path().join(name));
        queue(&from, 1);
        back_up(&from, &copy).unwrap();
        let how = HowToRestore { replace: true, as_it_was: false };
        let not_ours = "put that one back if it can be found";
        let its_own = "leave both as they are; POSTRIDER_QUEUE_PATH=";
        for (log, said) in [
            ("to.db-wal", not_ours),
            ("to.db-journal", not_ours),
            ("copy.db-wal", its_own),
            ("copy.db-journal", its_own),
        ] {
            let log = directory.path().join(log);
            std::fs::write(&log, b"a log").unwrap();
            let error = restore(&to, &copy, how).unwrap_err().to_string();
            assert!(error.contains(&log.display().to_string()) && error.contains(said), "{error}");
            assert!(!to.exists(), "{error}");
            std::fs::remove_file(&log).unwrap();
        }
        restore(&to, &copy, how).unwrap();
    }

    /// What the relay would tell of by itself, without a recipient to hold.
    #[test]
    fn nothing_is_reported_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let [from, copy, to] = ["from.db", "copy.db", "to.db"].map(|name| directory.path().join(name));
        queue(&from, 1);
        let conn = Connection::open(&from).unwrap();
        conn.execute_batch(
            "INSERT INTO pending_reports (sender, return_path, at, queue_id, address, state, require_tls)
                 VALUES ('me@a.test', 'me@a.test', 1, 'X', 'x@b.test', 'failed', 0);
             INSERT INTO tls_reports (day, domain, rua, state, attempts, next_attempt_at)
                 VALUES (0, 'b.test', '', 'planned', 0, 1);
             INSERT INTO suspensions (kind, value, until) VALUES ('tag', 'on', NULL), ('tag', 'over', 9)",
        )
        .unwrap();
        drop(conn);
        back_up(&from, &copy).unwrap();
        let restored = restore(&to, &copy, HowToRestore { replace: false, as_it_was: false }).unwrap();
        assert_eq!((restored.pending_reports, restored.suspensions), (1, 1));
        let conn = Connection::open(&to).unwrap();
        let counted = "SELECT (SELECT count(*) FROM pending_reports WHERE at > unixepoch() - 60),
                              (SELECT count(*) FROM tls_reports WHERE state = 'planned')";
        let counted: (i64, i64) = conn.query_row(counted, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(counted, (1, 0));
    }
    /// Its log belongs to it, and a relay may write there at this moment.
    #[test]
    fn the_queue_of_a_relay_that_runs_is_no_backup() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from.db", "to.db"].map(|name| directory.path().join(name));
        queue(&from, 1);
        let _relay = Files::lock(&from).unwrap();
        let how = HowToRestore { replace: false, as_it_was: false };
        let error = restore(&to, &from, how).unwrap_err().to_string();
        assert!(error.contains(&format!("relay that runs (pid {})", std::process::id())), "{error}");
        assert!(error.contains("`postrider backup`"), "{error}");
    }

    /// A trigger would change the mail of whoever restores it; so would a view lie that stands for one of ours.
    #[test]
    fn triggers_and_views_of_others_are_left_out_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let [from, copy, to] = ["from.db", "copy.db", "to.db"].map(|name| directory.path().join(name));
        queue(&from, 1);
        let objects = |path: &Path| -> i64 {
            let conn = Connection::open(path).unwrap();
            let sql = "SELECT count(*) FROM sqlite_schema WHERE type IN ('trigger', 'view')";
            conn.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let before = objects(&from);
        let conn = Connection::open(&from).unwrap();
        conn.execute_batch(
            "CREATE TRIGGER \"a\"\"b\" AFTER INSERT ON meta BEGIN SELECT raise(ABORT, 'it ran'); END;
             CREATE TRIGGER robs AFTER INSERT ON messages BEGIN UPDATE messages SET sender = 'ceo@bank.test'; END;
             DROP VIEW stuck; CREATE VIEW stuck AS SELECT 1 AS lies; CREATE VIEW mine AS SELECT 1",
        )
        .unwrap();
        drop(conn);
        back_up(&from, &copy).unwrap();
        let restored = restore(&to, &copy, HowToRestore { replace: false, as_it_was: false }).unwrap();
        assert_eq!(restored.left_out, ["trigger a\"b", "trigger robs", "view mine", "view stuck"]);
        assert_eq!(objects(&to), before);
    }
}
