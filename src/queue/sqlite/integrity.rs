//! The hourly look for damage: is what the database says of itself still true?
//!
//! `PRAGMA integrity_check` reads a table and its indexes in one snapshot, and while that is open nothing newer can be
//! copied out of the log. So it is asked table by table, each for a few seconds at most; a table that takes longer is
//! read in small pieces instead, from a random place on, for a while. A large one is so gone through over some hours.
//!
//! A row that its table's CHECKs would refuse is no damage: somebody wrote it with the checks turned off, or has made
//! the table anew without them. It is told apart.

use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, Result};

/// How long one snapshot may last, and how long all of the look.
const SNAPSHOT_MAX: Duration = Duration::from_secs(3);
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 1_000;
/// Rows of a piece.
const PIECE: i64 = 500;
/// Problems told of, at most: one is enough.
const PROBLEMS_MAX: usize = 3;
/// SQLite's checks end with so many lines, whatever is behind.
const LINES_MAX: usize = 100;
/// The tables that grow, and the numbers by which their rows stand in order.
const GROWING: [(&str, &str); 5] = [
    ("messages", "id"),
    ("recipients", "id"),
    ("content", "rowid"),
    ("attempts", "id"),
    ("history", "message_id"),
];

/// What is wrong, as far as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) damage: Vec<String>,
    /// Rows that their table's CHECKs would refuse.
    pub(super) odd_rows: Vec<String>,
}

pub(super) fn look(conn: &mut Connection) -> Result<Found> {
    within(conn, SNAPSHOT_MAX, LOOK_MAX)
}

/// What the whole database finds damaged of itself, its indexes apart.
pub(super) fn quick(conn: &Connection) -> Result<Vec<String>> {
    damage(conn, "PRAGMA quick_check")
}

/// The same with its indexes: each is compared with its table.
pub(super) fn whole(conn: &Connection) -> Result<Vec<String>> {
    damage(conn, "PRAGMA integrity_check")
}

fn damage(conn: &Connection, check: &str) -> Result<Vec<String>> {
    conn.pragma_update(None, "ignore_check_constraints", true)?;
    let lines = conn.prepare(check).and_then(|mut statement| {
        statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>>>()
    });
    conn.pragma_update(None, "ignore_check_constraints", false)?;
    Ok(lines?.into_iter().filter(|line| is_damage(line)).collect())
}

/// Whether a line of SQLite's checks is about damage, and not about a row that somebody wrote.
fn is_damage(line: &str) -> bool {
    let is_of_value =
        ["NULL value in ", "TEXT value in ", "NUMERIC value in "].iter().any(|begin| line.starts_with(begin))
            || line.starts_with("non-") && line.contains(" value in ");
    line != "ok" && !is_of_value && !line.starts_with("CHECK constraint failed in ")
}

fn within(conn: &mut Connection, snapshot_max: Duration, look_max: Duration) -> Result<Found> {
    let end = Instant::now() + look_max;
    let mut all = Found::default();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let tables = conn.prepare(tables)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>>>()?;
    for table in tables {
        if let Some(mut lines) = of_table(conn, &table, snapshot_max)? {
            if lines.len() >= LINES_MAX {
                // Odd rows fill the lines, and hide what is behind them.
                conn.pragma_update(None, "ignore_check_constraints", true)?;
                let past = of_table(conn, &table, snapshot_max);
                conn.pragma_update(None, "ignore_check_constraints", false)?;
                lines.extend(past?.unwrap_or_default());
            }
            let (damage, odd_rows): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| is_damage(line));
            all.damage.extend(damage);
            all.odd_rows.extend(odd_rows);
        } else if let Some((table, key)) = GROWING.iter().find(|(name, _)| *name == table) {
            all.damage.extend(in_pieces(conn, table, key, end)?);
        }
        if all.damage.len() >= PROBLEMS_MAX {
            break;
        }
    }
    all.damage.truncate(PROBLEMS_MAX);
    all.odd_rows.truncate(PROBLEMS_MAX);
    Ok(all)
}

/// SQLite's own check of a table and its indexes; none where it takes too long.
fn of_table(conn: &mut Connection, table: &str, snapshot_max: Duration) -> Result<Option<Vec<String>>> {
    let end = Instant::now() + snapshot_max;
    conn.progress_handler(STEPS, Some(move || Instant::now() > end))?;
    let found = conn.prepare(&format!("PRAGMA integrity_check('{table}')")).and_then(|mut statement| {
        statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>>>()
    });
    conn.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        Ok(found) => Ok(Some(found.into_iter().filter(|line| line != "ok").collect())),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads all there is of each row, in order, from a random one on; a snapshot a piece.
fn in_pieces(conn: &Connection, table: &str, key: &str, end: Instant) -> Result<Option<String>> {
    let bounds = format!("SELECT coalesce(min({key}), 0), coalesce(max({key}), 0) FROM {table}");
    let (first, last) =
        conn.query_row(&bounds, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let mut from = fastrand::i64(first..=last.max(first));
    let sql =
        format!("SELECT {key}, * FROM {table} NOT INDEXED WHERE {key} >= ?1 ORDER BY {key} LIMIT {PIECE}");
    let mut statement = conn.prepare(&sql)?;
    let columns = statement.column_count();
    while Instant::now() < end {
        let mut before = from;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            let at: i64 = row.get(0)?;
            if at < before {
                return Ok(Some(format!("{table}: row {at} stands behind row {before}")));
            }
            for column in 1..columns {
                row.get::<_, Value>(column)?;
            }
            before = at;
        }
        if before == from {
            break;
        }
        from = before;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::queue::sqlite::migrate;

    const NOTHING: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    fn queue(directory: &std::path::Path) -> Connection {
        let path = directory.join("queue.db");
        let conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 600)";
        conn.execute_batch(&format!(
            "BEGIN; INSERT INTO content {rows} SELECT n, 0, randomblob(3000) FROM n;
             INSERT INTO kicks (at, node, recipients) {rows} SELECT n, 'x', 1 FROM n; COMMIT"
        ))
        .unwrap();
        conn
    }

    #[test]
    fn a_sound_database_is_called_so_whether_the_time_is_enough_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut conn = queue(directory.path());
        for snapshot_max in [NOTHING, LONG] {
            assert_eq!(within(&mut conn, snapshot_max, LONG).unwrap(), Found::default());
        }
        // In small time the large table is not looked at whole, and that is no fault.
        assert!(of_table(&mut conn, "content", NOTHING).unwrap().is_none());
        assert_eq!(within(&mut conn, NOTHING, NOTHING).unwrap(), Found::default());
    }

    /// However many there are: one, and more than SQLite's checks have lines.
    #[test]
    fn rows_that_were_written_past_the_checks_are_no_damage_and_hide_none() {
        for (rows, is_damaged) in [(1, false), (300, false), (300, true)] {
            let directory = tempfile::tempdir().unwrap();
            let conn = queue(directory.path());
            conn.execute_batch(&format!(
                "PRAGMA ignore_check_constraints = ON;
                 INSERT INTO backoffs WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                     SELECT 'lane' || n || '.test', -1, 0, '', -5 FROM n;
                 CREATE INDEX extra ON backoffs (changed_at);
                 PRAGMA ignore_check_constraints = OFF"
            ))
            .unwrap();
            if is_damaged {
                let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'extra'";
                let root: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
                let file =
                    std::fs::File::options().write(true).open(directory.path().join("queue.db")).unwrap();
                file.write_all_at(&[0xa5; 4096], (root as u64 - 1) * 4096).unwrap();
            }
            drop(conn);
            let mut conn = Connection::open(directory.path().join("queue.db")).unwrap();
            let quick = quick(&conn).unwrap();
            match within(&mut conn, LONG, LONG) {
                Ok(found) => {
                    assert!(found.odd_rows[0].contains("CHECK constraint failed in backoffs"), "{found:?}");
                    assert_eq!(
                        (!found.damage.is_empty(), !quick.is_empty()),
                        (is_damaged, is_damaged),
                        "{rows}"
                    );
                }
                Err(error) => {
                    assert!(is_damaged && crate::queue::sqlite::failure::is_damage(&error), "{error}")
                }
            }
        }
    }

    #[test]
    fn lines_about_values_are_told_from_lines_about_pages() {
        for (line, wanted) in [
            ("ok", false),
            ("CHECK constraint failed in recipients", false),
            ("NULL value in recipients.state", false),
            ("non-INTEGER value in recipients.attempts", false),
            ("TEXT value in messages.size", false),
            ("NUMERIC value in messages.sender", false),
            ("non-unique entry in index recipients_due", true),
            ("row 3 missing from index recipients_due", true),
            ("wrong # of entries in index recipients_due", true),
            ("Tree 4 page 9 cell 2: Rowid 12 out of order", true),
            ("Page 17: never used", true),
        ] {
            assert_eq!(is_damage(line), wanted, "{line}");
        }
    }

    /// A page of a table or of an index, in SQLite's check and in pieces.
    #[test]
    fn damage_is_found() {
        for (of, snapshot_max) in [("content", LONG), ("kicks_by_time", LONG), ("content", NOTHING)] {
            let directory = tempfile::tempdir().unwrap();
            let conn = queue(directory.path());
            // The leaf of the least key, where the root is no leaf: from a random row on it would be met in one hour
            // of many, so all are spoilt.
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
            let root: i64 = conn.query_row(sql, [of], |row| row.get(0)).unwrap();
            let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            drop(conn);
            let file = std::fs::File::options().write(true).open(directory.path().join("queue.db")).unwrap();
            let spoilt = if of == "content" { (pages / 2)..pages } else { (root - 1)..root };
            for page in spoilt {
                file.write_all_at(&[0xa5; 4096], page as u64 * 4096).unwrap();
            }
            let mut conn = Connection::open(directory.path().join("queue.db")).unwrap();
            match within(&mut conn, snapshot_max, LONG) {
                Ok(found) => assert!(!found.damage.is_empty(), "{of}"),
                Err(error) => assert!(crate::queue::sqlite::failure::is_damage(&error), "{of}: {error}"),
            }
        }
    }
}
