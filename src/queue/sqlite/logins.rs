//! What is kept of logins for the next start, and for people: rows of the tables `login_failures` and `known_logins`.
//!
//! The relay writes them once a second at most, and never a row that somebody deleted: that is how a lock is lifted.

use rusqlite::{Connection, Result, params};

use crate::queue::admin_rows::LoginFailureLine;
use crate::queue::login_rows::{KnownLoginRow, LoginChanges, LoginFailureRow, LoginRows};

use super::odd;
use super::settle::TIME_MAX;

/// Rows that are read of each table; the relay keeps no more in memory.
const ROWS_MAX: i64 = 40_000;

/// All rows.
pub(super) fn read(conn: &Connection) -> Result<LoginRows> {
    let text =
        |row: &rusqlite::Row<'_>, at| Ok::<_, rusqlite::Error>(odd::text(row, at)?.unwrap_or_default());
    let time = |row: &rusqlite::Row<'_>, at| Ok::<_, rusqlite::Error>(odd::int(row, at)?.unwrap_or_default());
    let failures = conn
        .prepare_cached("SELECT network, name, failures, since, until FROM login_failures LIMIT ?1")?
        .query_map([ROWS_MAX], |row| {
            Ok(LoginFailureRow {
                network: text(row, 0)?,
                name: text(row, 1)?,
                failures: odd::count(row, 2)?,
                since: time(row, 3)?,
                until: time(row, 4)?,
            })
        })?
        .collect::<Result<_>>()?;
    let known = conn
        .prepare_cached("SELECT network, name, last_at FROM known_logins LIMIT ?1")?
        .query_map([ROWS_MAX], |row| {
            Ok(KnownLoginRow { network: text(row, 0)?, name: text(row, 1)?, last_at: time(row, 2)? })
        })?
        .collect::<Result<_>>()?;
    Ok(LoginRows { failures, known })
}

/// Writes what changed.
pub(super) fn write(conn: &Connection, changes: &LoginChanges) -> Result<()> {
    let LoginChanges { new, changed, failures_over, known_over } = changes;
    let insert = "INSERT OR REPLACE INTO login_failures (network, name, failures, since, until) VALUES (?, ?, ?, ?, ?)";
    let mut insert = conn.prepare_cached(insert)?;
    for LoginFailureRow { network, name, failures, since, until } in &new.failures {
        let [since, until] = [since, until].map(|time| time.clamp(&0, &TIME_MAX));
        insert.execute(params![network, name, failures, since, until])?;
    }
    let mut update = conn.prepare_cached(
        "UPDATE login_failures SET failures = ?3, until = ?4 WHERE network = ?1 AND name = ?2",
    )?;
    for LoginFailureRow { network, name, failures, until, .. } in &changed.failures {
        update.execute(params![network, name, failures, until.clamp(&0, &TIME_MAX)])?;
    }
    let mut delete = conn.prepare_cached("DELETE FROM login_failures WHERE network = ? AND name = ?")?;
    for (network, name) in failures_over {
        delete.execute([network, name])?;
    }
    let mut insert =
        conn.prepare_cached("INSERT OR REPLACE INTO known_logins (network, name, last_at) VALUES (?, ?, ?)")?;
    for KnownLoginRow { network, name, last_at } in &new.known {
        insert.execute(params![network, name, last_at.clamp(&0, &TIME_MAX)])?;
    }
    let mut update =
        conn.prepare_cached("UPDATE known_logins SET last_at = ?3 WHERE network = ?1 AND name = ?2")?;
    for KnownLoginRow { network, name, last_at } in &changed.known {
        update.execute(params![network, name, last_at.clamp(&0, &TIME_MAX)])?;
    }
    let mut delete = conn.prepare_cached("DELETE FROM known_logins WHERE network = ? AND name = ?")?;
    for (network, name) in known_over {
        delete.execute([network, name])?;
    }
    Ok(())
}

/// What has an effect now, for people: what lasts longest first.
pub(super) fn list(conn: &Connection) -> Result<Vec<LoginFailureLine>> {
    conn.prepare(
        "SELECT network, name, failures, datetime(since, 'unixepoch'), datetime(until, 'unixepoch')
         FROM login_failures WHERE until > unixepoch() ORDER BY until DESC, network, name",
    )?
    .query_map([], |row| {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (network, name): (String, String) = (odd::get(row, 0)?, odd::get(row, 1)?);
        let effect = if name.is_empty() { "refused" } else { "slow" };
        Ok(LoginFailureLine {
            network: some(network),
            name: some(name),
            effect: effect.to_owned(),
            failures: odd::get(row, 2)?,
            since: odd::get(row, 3)?,
            until: odd::get(row, 4)?,
        })
    })?
    .collect()
}

/// Deletes those of these names and networks, or all; how many.
pub(super) fn lift(conn: &Connection, of: Option<&[String]>) -> Result<usize> {
    let Some(of) = of else { return conn.execute("DELETE FROM login_failures", []) };
    let mut delete = conn.prepare("DELETE FROM login_failures WHERE ?1 <> '' AND ?1 IN (network, name)")?;
    of.iter().map(|one| delete.execute([one])).sum()
}
