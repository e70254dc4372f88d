//! The MTA-STS policies of domains: rows of the table `mta_sts_policies`.
//!
//! There are few, and each is written when it changes: statements are prepared when first used.

use rusqlite::{Connection, Result, params};

use crate::queue::op::in_a_row;
use crate::queue::sts_policy::{STS_POLICIES_MAX, StsPolicyNote, StsPolicyRow};

use super::odd;

/// The policy of a domain, whether it is over or not.
pub(super) fn read(conn: &Connection, domain: &str) -> Result<Option<StsPolicyRow>> {
    let sql = "SELECT domain, id, mode, mx, max_age, fetched_at, expires_at, used_at, last_error
               FROM mta_sts_policies WHERE domain = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut found = statement.query([domain])?;
    let Some(row) = found.next()? else { return Ok(None) };
    let text = |at| odd::text(row, at).map(Option::unwrap_or_default);
    let int = |at| odd::int(row, at).map(Option::unwrap_or_default);
    Ok(Some(StsPolicyRow {
        domain: text(0)?,
        id: text(1)?,
        mode: text(2)?,
        mx: text(3)?,
        max_age: int(4)?,
        fetched_at: int(5)?,
        expires_at: int(6)?,
        used_at: int(7)?,
        last_error: odd::text(row, 8)?,
    }))
}

/// Domains whose policy still holds at `now`, was used since `used_since`, and is a day old or has half of its life
/// behind it; the `limit` of them that were tried the longest ago, so that dead ones keep nobody from his turn.
pub(super) fn due(conn: &Connection, now: i64, used_since: i64, limit: usize) -> Result<Vec<String>> {
    let sql = "SELECT domain FROM mta_sts_policies
               WHERE expires_at > ?1 AND used_at >= ?2
                 AND (fetched_at > ?1 OR fetched_at + min(86400, max_age / 2) <= ?1)
               ORDER BY tried_at LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params![now, used_since, limit], |row| odd::text(row, 0))?;
    Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Writes one in the place of what was known of its domain, and makes room for it.
pub(super) fn write(conn: &Connection, row: &StsPolicyRow) -> Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO mta_sts_policies
                (domain, id, mode, mx, max_age, fetched_at, tried_at, expires_at, used_at, last_error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        row.domain,
        row.id,
        row.mode,
        row.mx,
        row.max_age,
        row.fetched_at,
        row.expires_at,
        row.used_at,
        row.last_error.as_deref().map(in_a_row)
    ])?;
    let count: i64 =
        conn.prepare_cached("SELECT count(*) FROM mta_sts_policies")?.query_row([], |row| row.get(0))?;
    let surplus = count - STS_POLICIES_MAX as i64;
    if surplus > 0 {
        conn.prepare_cached(
            "DELETE FROM mta_sts_policies WHERE domain IN
                    (SELECT domain FROM mta_sts_policies WHERE domain <> ?1 ORDER BY mode = 'enforce', used_at, fetched_at LIMIT ?2)",
        )?
        .execute(params![row.domain, surplus])?;
    }
    Ok(())
}

/// Notes something in a row that is there.
pub(super) fn note(conn: &Connection, domain: &str, note: &StsPolicyNote) -> Result<()> {
    let changed = match note {
        StsPolicyNote::Used(at) => conn
            .prepare_cached("UPDATE mta_sts_policies SET used_at = ?2 WHERE domain = ?1")?
            .execute(params![domain, at]),
        StsPolicyNote::Failed { at, why } => conn
            .prepare_cached("UPDATE mta_sts_policies SET tried_at = ?2, last_error = ?3 WHERE domain = ?1")?
            .execute(params![domain, at, in_a_row(why)]),
    };
    changed.map(drop)
}

/// Forgets those whose time is over: so many at most. Whether there may be more.
pub(super) fn delete_expired(conn: &Connection, now: i64, rows: i64) -> Result<bool> {
    let deleted = conn
        .prepare_cached(
            "DELETE FROM mta_sts_policies WHERE domain IN
             (SELECT domain FROM mta_sts_policies WHERE expires_at <= ?1 LIMIT ?2)",
        )?
        .execute([now, rows])?;
    Ok(deleted as i64 >= rows)
}
