//! What is suspended: rows of the table `suspensions`. Few, and written by the command line or by hand.

use rusqlite::{Connection, Result, Row, ToSql, params};

use crate::queue::admin_rows::SuspensionLine;
use crate::queue::shared::now_us;
use crate::queue::suspension::{SUSPENSIONS_MAX, Suspension, Whose};

use super::odd;
use super::settle::TIME_MAX;

const ROWS: &str = "SELECT kind, value, since, until, reason, login FROM suspensions";
/// Those that count at ?1.
const IS_ON: &str = "(until IS NULL OR until > ?1)";
/// Of a row of `recipients`: as the view `suspended` has it, in a few look-ups however many suspensions there are; only
/// those for all below a domain are walked. To be asked where there are some ([`if_any`]).
const IS_SUSPENDED: &str = "
    (recipients.state = 'queued' AND recipients.bounce_requested_at IS NULL AND (
        EXISTS (SELECT 1 FROM suspensions s WHERE s.kind = 'domain' AND s.value IN (recipients.domain, '*')
                    AND (s.until IS NULL OR s.until > unixepoch()))
        OR EXISTS (SELECT 1 FROM suspensions s WHERE s.kind = 'domain' AND s.value > '*.' AND s.value < '*/'
                       AND (s.until IS NULL OR s.until > unixepoch())
                       AND length(recipients.domain) >= length(s.value)
                       AND substr(recipients.domain, 1 - length(s.value)) = substr(s.value, 2))
        OR EXISTS (SELECT 1 FROM messages m CROSS JOIN suspensions s
                   WHERE m.id = recipients.message_id AND s.kind = 'user' AND s.value = m.user
                       AND (s.until IS NULL OR s.until > unixepoch()))
        OR EXISTS (SELECT 1 FROM messages m CROSS JOIN suspensions s
                   WHERE m.id = recipients.message_id AND s.kind = 'tag' AND s.value = m.tag
                       AND (s.until IS NULL OR s.until > unixepoch()))))";

/// The SQL with what its word `is_suspended` stands for; where nothing is suspended, that costs nothing.
pub(super) fn if_any(conn: &Connection, sql: &str) -> Result<String> {
    let is_any = count(conn, now_us() / 1_000_000)? > 0;
    Ok(sql.replace("is_suspended", if is_any { IS_SUSPENDED } else { "false" }))
}

/// How long a row outlives its end.
const OVER_SECS: i64 = 86_400;

/// One row; none where its words say nothing that is known.
fn suspension(row: &Row<'_>) -> Result<Option<Suspension>> {
    let (kind, value): (String, String) = (odd::get(row, 0)?, odd::get(row, 1)?);
    let Some(whose) = Whose::from_words(&kind, &value) else { return Ok(None) };
    Ok(Some(Suspension {
        whose,
        since: odd::get(row, 2)?,
        until: odd::int(row, 3)?,
        reason: odd::text(row, 4)?,
        login: odd::get(row, 5)?,
    }))
}

/// See [`crate::queue::Reads::suspensions`].
pub(super) fn read(conn: &Connection, now: i64) -> Result<Vec<Suspension>> {
    let sql = format!("{ROWS} WHERE {IS_ON} ORDER BY since, kind, value LIMIT ?2");
    let rows: Vec<Option<Suspension>> = conn
        .prepare_cached(&sql)?
        .query_map(params![now, SUSPENSIONS_MAX as i64], suspension)?
        .collect::<Result<_>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// See [`crate::queue::AdminStore::suspensions`].
pub(super) fn list(conn: &Connection, now: i64) -> Result<Vec<SuspensionLine>> {
    let utc = |at: i64| conn.query_row("SELECT datetime(?1, 'unixepoch')", [at], |row| row.get(0));
    let mut rows = read(conn, now)?;
    rows.sort_by(|one, other| one.whose.cmp(&other.whose));
    rows.into_iter()
        .map(|row| {
            Ok(SuspensionLine {
                recipients: waiting(conn, &row.whose)?,
                kind: row.whose.kind(),
                value: row.whose.value().to_owned(),
                since: utc(row.since)?,
                until: row.until.map(utc).transpose()?.flatten(),
                reason: row.reason,
                login: row.login,
            })
        })
        .collect()
}

/// How many recipients wait that it means; held ones wait for something else.
pub(super) fn waiting(conn: &Connection, whose: &Whose) -> Result<i64> {
    const WAITS: &str = "r.state = 'queued' AND r.bounce_requested_at IS NULL";
    let by_message = |column: &str| {
        format!("FROM messages m JOIN recipients r ON r.message_id = m.id WHERE m.{column} = ?1 AND {WAITS}")
    };
    let (from, value) = match whose {
        Whose::Domain(value) if value == "*" => {
            (format!("FROM recipients r WHERE ?1 = '*' AND {WAITS}"), value.as_str())
        }
        // Along the index of domains, and not one by one: as few steps as there are domains below it.
        Whose::Domain(value) => match value.strip_prefix('*') {
            Some(below) => {
                let is_below = "substr(d, -length(?1)) = ?1 AND length(d) > length(?1)";
                let domains = format!(
                    "WITH RECURSIVE each(d) AS (
                         SELECT min(domain) FROM recipients
                         UNION ALL
                         SELECT (SELECT min(domain) FROM recipients WHERE domain > each.d) FROM each
                         WHERE each.d IS NOT NULL)
                     SELECT d FROM each WHERE {is_below}"
                );
                (format!("FROM recipients r WHERE r.domain IN ({domains}) AND {WAITS}"), below)
            }
            None => (format!("FROM recipients r WHERE r.domain = ?1 AND {WAITS}"), value.as_str()),
        },
        Whose::User(value) => (by_message("user"), value.as_str()),
        Whose::Tag(value) => (by_message("tag"), value.as_str()),
    };
    conn.query_row(&format!("SELECT count(*) {from}"), [value], |row| row.get(0))
}

/// Writes one in the place of what was there; whether one was that counted.
pub(super) fn write(conn: &Connection, row: &Suspension) -> Result<bool> {
    let Suspension { whose, since, until, reason, login } = row;
    let was = delete(conn, Some(whose), *since)? > 0;
    let sql = "INSERT INTO suspensions (kind, value, since, until, reason, login) VALUES (?, ?, ?, ?, ?, ?)";
    conn.execute(
        sql,
        params![whose.kind(), whose.value(), since, until.map(|until| until.min(TIME_MAX)), reason, login],
    )?;
    Ok(was)
}

/// Forgets one, or all; gives how many of them counted.
pub(super) fn delete(conn: &Connection, whose: Option<&Whose>, now: i64) -> Result<usize> {
    let (which, kind, value) = match whose {
        Some(whose) => ("kind = ?2 AND value = ?3", whose.kind(), whose.value()),
        None => ("?2 = ?3", "", ""),
    };
    let values: [&dyn ToSql; 3] = [&now, &kind, &value];
    let counted = conn.query_row(
        &format!("SELECT count(*) FROM suspensions WHERE {IS_ON} AND {which}"),
        &values[..],
        |row| row.get::<_, u32>(0),
    )?;
    conn.execute(&format!("DELETE FROM suspensions WHERE ?1 = ?1 AND {which}"), &values[..])?;
    Ok(counted as usize)
}

/// How many count.
pub(super) fn count(conn: &Connection, now: i64) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM suspensions WHERE {IS_ON}");
    conn.prepare_cached(&sql)?.query_row([now], |row| row.get(0))
}

/// Forgets those that have been over for a day, so many at most; whether there may be more.
pub(super) fn delete_ended(conn: &Connection, now: i64, rows: i64) -> Result<bool> {
    let sql = "DELETE FROM suspensions WHERE (kind, value) IN
               (SELECT kind, value FROM suspensions WHERE until < ?1 LIMIT ?2)";
    Ok(conn.prepare_cached(sql)?.execute([now.saturating_sub(OVER_SECS), rows])? as i64 >= rows)
}
