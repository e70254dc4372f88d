//! `postrider recover`: what can be read of a damaged database goes into a fresh one, which takes its place.
//!
//! Each table is read along its key, row by row. Where a page cannot be read, the next key that can is searched for, so
//! that a bad page costs the rows on it and no others. Rows are never read from an index, but where a table's keys lie
//! is asked of those that can be read. The damaged database is kept.
//!
//! # Bugs
//! Where a page of the schema is bad (some ten of the first pages), SQLite reads nothing at all, and neither does this.
//! sqlite3's `.recover` looks at pages without a schema.

mod tables;

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::queue::copy_rows::Recovered;
use crate::queue::error::QueueError;
use crate::queue::shared::now_us;

use super::failure::explain;
use super::files::{Files, beside};
use super::in_place::{DAMAGED, put_in_place};
use super::{migrate, open, sweep};
use tables::{TABLES, copy_table};

/// Recovers the queue at `path`; `held`: what waits is not tried until released.
///
/// # Errors
/// There is none, a relay runs on it, or nothing of it can be read.
pub(in crate::queue) fn recover(path: &Path, held: bool) -> Result<Recovered, QueueError> {
    recover_into(path, held, |_| Ok(()))
}

/// `prepare`: done with the fresh database first.
fn recover_into(
    path: &Path,
    held: bool,
    prepare: fn(&Connection) -> rusqlite::Result<()>,
) -> Result<Recovered, QueueError> {
    // A link to it may stand on another file system; the fresh one has to be on its own.
    let path = &path.canonicalize().map_err(|source| file_error(path, source))?;
    let files = Files::lock(path)?;
    let old = open_damaged(path)?;
    let fresh_path = beside(path, ".recovered");
    remove_old(&fresh_path)?;
    path.metadata()
        .and_then(|owner| create_as(&owner, &fresh_path))
        .map_err(|source| file_error(&fresh_path, source))?;
    let filled = Connection::open(&fresh_path).map_err(QueueError::from).and_then(|fresh| {
        prepare(&fresh)?;
        fill(&old, &fresh, &fresh_path, held)
    });
    drop(old);
    let mut recovered = match filled {
        Ok(recovered) => recovered,
        Err(error) => {
            // Half a queue is none: all is as it was, and the room free again.
            remove_old(&fresh_path)?;
            return Err(error);
        }
    };
    // Both are closed before they change places.
    recovered.kept = put_in_place(path, &fresh_path, DAMAGED)?.display().to_string();
    files.sync_directory()?;
    Ok(recovered)
}

/// Copies what can be read, in one transaction.
fn fill(
    old: &Connection,
    fresh: &Connection,
    fresh_path: &Path,
    held: bool,
) -> Result<Recovered, QueueError> {
    let explained = |error| explain(fresh_path, error);
    // One file, without a log: it is moved afterwards.
    fresh
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")
        .map_err(explained)?;
    migrate::migrate(fresh, fresh_path)?;
    fresh.execute_batch("BEGIN IMMEDIATE").map_err(explained)?;
    let tables = TABLES.iter().map(|table| copy_table(old, fresh, table).map_err(explained));
    let tables = tables.collect::<Result<Vec<_>, _>>()?;
    let finish = || {
        let last_id: Option<i64> =
            old.query_row("SELECT value FROM meta WHERE key = 'last_id'", [], |row| row.get(0)).ok();
        if let Some(last_id) = last_id {
            fresh.execute("INSERT OR REPLACE INTO meta VALUES ('last_id', ?1)", [last_id])?;
        }
        let problems = make_sound(fresh, held)?;
        let count = |sql: &str| fresh.query_row(sql, [], |row| row.get::<_, i64>(0));
        let (messages, recipients) =
            (count("SELECT count(*) FROM messages")?, count("SELECT count(*) FROM recipients")?);
        let last_id = open::last_id(fresh)?;
        fresh.execute("INSERT OR REPLACE INTO meta VALUES ('last_id', ?1)", [last_id])?;
        fresh.execute_batch("COMMIT")?;
        Ok((messages, recipients, problems))
    };
    let (messages, recipients, problems) = finish().map_err(explained)?;
    Ok(Recovered { messages, recipients, held, tables, problems, kept: String::new() })
}

fn open_damaged(path: &Path) -> Result<Connection, QueueError> {
    let old = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // A page that contradicts itself is an error, and not followed into others.
    old.execute_batch("PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF")?;
    let version = old.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('messages', 'recipients', 'content')";
    let tables =
        version.and_then(|version| Ok((version, old.query_row(tables, [], |row| row.get::<_, i64>(0))?)));
    let remedy = "restore a backup, or see what `sqlite3 queue.db .recover` finds";
    match tables {
        Ok((found, _)) if found > migrate::VERSION => {
            Err(QueueError::Newer { path: path.to_owned(), found, known: migrate::VERSION })
        }
        Ok((_, 3)) => Ok(old),
        Ok(_) => Err(QueueError::Unusable {
            path: path.to_owned(),
            why: "has not the tables of a queue".to_owned(),
            remedy,
        }),
        Err(error) => Err(QueueError::Unusable {
            path: path.to_owned(),
            why: format!("cannot be read from its first page on ({error})"),
            remedy,
        }),
    }
}

/// What was read is made a queue again: nothing that is not whole is sent. Gives a line for each message or recipient
/// that is not as it was.
fn make_sound(fresh: &Connection, held: bool) -> rusqlite::Result<Vec<String>> {
    let now = now_us() / 1_000_000;
    let mut problems = Vec::new();
    for sql in [
        "SELECT 'already finished, not sent again: ' || r.address FROM recipients r
         JOIN history h ON h.message_id = r.message_id AND h.recipient_id = r.id ORDER BY r.id",
        "SELECT 'its message cannot be read, cannot be sent: ' || r.address || ' (' || r.message_id || ')' FROM recipients r
         WHERE r.message_id NOT IN (SELECT id FROM messages) ORDER BY r.id",
        "SELECT m.queue_id || ': no recipient can be read, cannot be sent: from <' || m.sender || '>' FROM messages m
         WHERE NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id)
             AND NOT EXISTS (SELECT 1 FROM history h WHERE h.message_id = m.id) ORDER BY m.id",
        "SELECT m.queue_id || ': its content is not whole, held: from <' || m.sender || '>' FROM messages m
         WHERE m.size <> coalesce((SELECT sum(length(c.data)) FROM content c WHERE c.message_id = m.id), 0)
             AND EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id) ORDER BY m.id",
    ] {
        let mut statement = fresh.prepare(sql)?;
        let found = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        problems.extend(found);
    }
    sweep::repair(fresh, now)?;
    fresh.execute(
        "UPDATE recipients SET state = 'held', last_reply = 'held: the content is not whole', last_reply_source = 'local'
         WHERE message_id IN (SELECT m.id FROM messages m WHERE m.size <>
             coalesce((SELECT sum(length(c.data)) FROM content c WHERE c.message_id = m.id), 0))",
        [],
    )?;
    if held {
        fresh.execute(
            "UPDATE recipients SET state = 'held', last_reply = 'held: recovered from a damaged database',
                 last_reply_source = 'local' WHERE state = 'queued'",
            [],
        )?;
    }
    fresh.execute("DELETE FROM content WHERE message_id NOT IN (SELECT id FROM messages)", [])?;
    Ok(problems)
}

pub(super) fn remove_old(fresh: &Path) -> Result<(), QueueError> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        match std::fs::remove_file(beside(fresh, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error(fresh, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An empty file for the mail's owner alone, who need not be the one that recovers: root does.
pub(super) fn create_as(owner: &Metadata, fresh: &Path) -> std::io::Result<()> {
    let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(fresh)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (owner.uid(), owner.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

pub(super) fn file_error(path: &Path, source: std::io::Error) -> QueueError {
    QueueError::File {
        path: path.to_owned(),
        source,
        remedy: "run this as the user that owns the queue, with the relay stopped, on a disk with room for a second one",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::path::PathBuf;

    use super::*;

    const MESSAGES: i64 = 120;
    /// Ids are microseconds.
    const FIRST_ID: i64 = 1_760_000_000_000_000;

    /// A queue with messages of one recipient each, of about two pages; every tenth is finished.
    fn queue() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        conn.execute_batch("BEGIN").unwrap();
        for id in (1..=MESSAGES).map(|n| FIRST_ID + n * 1_000) {
            conn.execute(
                "INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
                 VALUES (?1, 'Q' || ?1, 'me@a.test', 1, 6000, '7bit', 0)",
                [id],
            )
            .unwrap();
            conn.execute(
                "INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
                 VALUES (?1 + 1, ?1, 'you@b.test', 'b.test', 1)",
                [id],
            )
            .unwrap();
            conn.execute("INSERT INTO content VALUES (?1, 0, zeroblob(3000)), (?1, 1, zeroblob(3000))", [id])
                .unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
        (directory, path)
    }

    fn number(path: &Path, sql: &str) -> i64 {
        Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Whichever page of the database is bad: what is not on it is there, what is sent is whole, and the report names
    /// what is missing.
    #[test]
    fn whichever_page_is_bad_the_rest_is_recovered() {
        let (_directory, sound) = queue();
        let pages = number(&sound, "PRAGMA page_count");
        let mut lost_most = 0;
        for page in (1..pages).step_by(9) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("queue.db");
            std::fs::copy(&sound, &path).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0xa5; 4096], page as u64 * 4096).unwrap();
            let recovered = match recover(&path, page % 2 == 0) {
                Ok(recovered) => recovered,
                // The schema itself: it stands on the first pages.
                Err(error) => {
                    assert!(page < 60 && error.to_string().contains("restore a backup"), "{page}: {error}");
                    continue;
                }
            };
            assert_eq!(
                // What has no content at all is held, and shown until somebody removes it.
                number(
                    &path,
                    "SELECT count(*) FROM stuck WHERE problem NOT LIKE '%lifetime' AND NOT (problem = 'message without content'
                         AND NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = stuck.message_id AND r.state <> 'held'))"
                ),
                0,
                "{page}"
            );
            let conn = Connection::open(&path).unwrap();
            let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(verdict, "ok", "{page}");
            let cut_short = "SELECT count(*) FROM recipients r JOIN messages m ON m.id = r.message_id
                 WHERE r.state = 'queued' AND m.size <> (SELECT coalesce(sum(length(data)), 0) FROM content c WHERE c.message_id = m.id)";
            assert_eq!(number(&path, cut_short), 0, "{page}");
            if recovered.held {
                assert_eq!(
                    number(&path, "SELECT count(*) FROM recipients WHERE state = 'queued'"),
                    0,
                    "{page}"
                );
            }
            let lost = MESSAGES - recovered.messages;
            if lost > 0 {
                let gaps: u64 = recovered.tables.iter().map(|table| table.gaps).sum();
                assert!(gaps > 0, "{page}: {recovered:?}");
            }
            lost_most += i64::from(lost > MESSAGES / 4);
            assert_eq!(std::fs::metadata(recovered.kept).unwrap().len(), pages as u64 * 4096);
        }
        // A table's topmost page takes the table with it; there are two such tables.
        assert!(lost_most <= 2, "{lost_most}");
    }

    /// With the tables that are empty in [`queue`]; a page of each holds several rows.
    fn full_queue() -> (tempfile::TempDir, PathBuf) {
        let (directory, path) = queue();
        let conn = Connection::open(&path).unwrap();
        let wide = "UPDATE messages SET helo = printf('%0200d', 0); UPDATE recipients SET orcpt = printf('%0200d', 0)";
        conn.execute_batch(wide).unwrap();
        for id in (1..=MESSAGES).map(|n| FIRST_ID - n * 1_000) {
            conn.execute(
                "INSERT INTO attempts (id, recipient_id, at, duration_ms, phase, code, reply, outcome)
                 VALUES (?1, ?1, 1, 1, 'rcpt', 450, '450 4.2.0 wait until there is room', 'deferred')",
                [id],
            )
            .unwrap();
            conn.execute(
                "INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at,
                     finished_at, attempts, size)
                 VALUES (?1, ?1 + 1, 'Q' || ?1, 'me@a.test', 'you@b.test', 'delivered', 1, 1, 1, 1)",
                [id],
            )
            .unwrap();
        }
        (directory, path)
    }

    /// Nothing stands before the first rows from which the search could start, nor behind the last; and what is between
    /// two that are bad is found.
    #[test]
    fn bad_leaves_of_a_table_cost_no_more_than_their_rows() {
        let (_directory, sound) = full_queue();
        for table in ["messages", "recipients", "content", "attempts", "history"] {
            let leaves = format!("FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf' ORDER BY path");
            let of = |what: &str| -> Vec<i64> {
                let conn = Connection::open(&sound).unwrap();
                let mut statement = conn.prepare(&format!("SELECT {what} {leaves}")).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            };
            let (pages, rows) = (of("pageno"), of("ncell"));
            let end = pages.len() - 1;
            assert!(end >= 2, "{table} has {pages:?}");
            for bad in [vec![0], vec![end], vec![0, end], vec![1]] {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("queue.db");
                std::fs::copy(&sound, &path).unwrap();
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                for leaf in &bad {
                    file.write_all_at(&[0xa5; 4096], (pages[*leaf] as u64 - 1) * 4096).unwrap();
                }
                let recovered = recover(&path, true).unwrap();
                for found in recovered.tables {
                    let all = number(&sound, &format!("SELECT count(*) FROM {}", found.table));
                    let is_bad = |leaf: &usize| found.table == table && bad.contains(leaf);
                    let lost: i64 = (0..=end).filter(is_bad).map(|leaf| rows[leaf]).sum();
                    assert_eq!(found.rows as i64, all - lost, "{table} {bad:?} of {end}: {found:?}");
                }
            }
        }
    }

    /// A full disk is nobody's row: all stops, and all is as it was.
    #[test]
    fn a_full_disk_stops_it_and_leaves_nothing_by_halves() {
        let (directory, path) = queue();
        let before = std::fs::read(&path).unwrap();
        for pages in [10, 60, 150] {
            let prepare: fn(&Connection) -> rusqlite::Result<()> = match pages {
                10 => |fresh| fresh.pragma_update(None, "max_page_count", 10),
                60 => |fresh| fresh.pragma_update(None, "max_page_count", 60),
                _ => |fresh| fresh.pragma_update(None, "max_page_count", 150),
            };
            let error = recover_into(&path, true, prepare).unwrap_err().to_string();
            let said = "queue.db.recovered: cannot grow: the disk is full (make room";
            assert!(error.contains(said), "{pages}: {error}");
            let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(names.collect::<Vec<_>>(), ["queue.db"], "{pages}");
            assert!(std::fs::read(&path).unwrap() == before, "{pages}");
        }
        assert_eq!(recover(&path, true).unwrap().messages, MESSAGES);
    }

    #[test]
    fn the_fresh_one_is_for_the_owner_alone() {
        let (_directory, path) = queue();
        // Only root may: everybody else recovers what is his.
        let _ = std::os::unix::fs::chown(&path, Some(65_534), Some(65_534));
        let before = path.metadata().unwrap();
        let kept = recover(&path, true).unwrap().kept;
        let after = path.metadata().unwrap();
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_eq!(after.mode() & 0o777, 0o600);
        assert_eq!(Path::new(&kept).metadata().unwrap().ino(), before.ino());
    }

    /// A directory in the fresh one's way stands for another file system.
    #[test]
    fn through_a_link_all_is_done_beside_the_database() {
        let (real, path) = queue();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("queue.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::create_dir(beside(&link, ".recovered")).unwrap();
        let kept = recover(&link, true).unwrap().kept;
        assert!(link.is_symlink() && path.is_file() && !path.is_symlink());
        assert_eq!(Path::new(&kept).parent(), real.path().canonicalize().ok().as_deref());
        assert_eq!(number(&link, "SELECT count(*) FROM messages"), MESSAGES);
    }

    #[test]
    fn a_sound_queue_comes_back_as_it_was_and_a_queue_in_use_is_left_alone() {
        let (_directory, path) = queue();
        let files = Files::lock(&path).unwrap();
        let error = recover(&path, true).unwrap_err().to_string();
        assert!(error.contains("in use by another postrider"), "{error}");
        drop(files);
        // What is in the log alone is read too.
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn.execute("UPDATE recipients SET address = 'other@b.test' WHERE id = ?1", [FIRST_ID + 1001])
            .unwrap();
        drop(conn);
        let recovered = recover(&path, false).unwrap();
        assert_eq!(
            (recovered.messages, recovered.recipients, recovered.problems.len()),
            (MESSAGES, MESSAGES, 0)
        );
        assert_eq!(number(&path, "SELECT count(*) FROM recipients WHERE address = 'other@b.test'"), 1);
        assert_eq!(number(&path, "SELECT count(*) FROM content"), 2 * MESSAGES);
        assert!(beside(Path::new(&recovered.kept), "-wal").exists() && !beside(&path, "-wal").exists());
        // Often enough that two fall into one second: each keeps what it found.
        let kept: std::collections::BTreeSet<_> =
            (0..5).map(|_| recover(&path, false).unwrap().kept).collect();
        assert_eq!(kept.len(), 5);
    }

    #[test]
    fn what_cannot_be_read_at_all_is_said_and_left_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let error = recover(&path, true).unwrap_err().to_string();
        assert!(error.contains("No such file") && !path.exists(), "{error}");
        for bytes in ["nonsense ".repeat(1000).into_bytes(), b"SQLite format 3\0".repeat(1000)] {
            std::fs::write(&path, &bytes).unwrap();
            let error = recover(&path, true).unwrap_err().to_string();
            assert!(error.contains("restore a backup"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
}
