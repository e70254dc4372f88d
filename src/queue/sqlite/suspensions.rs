//! What is suspended: rows of the table `suspensions`. Few, and written by the command line or by hand.

use std::collections::HashMap;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Result, Row, ToSql, params};

use crate::queue::shared::now_us;
use crate::queue::suspension::{SUSPENSIONS_MAX, Suspension, SuspensionLine, Suspensions, Whose};

use super::odd;
use super::settle::TIME_MAX;

const ROWS: &str = "SELECT kind, value, since, until, reason, login FROM suspensions";
/// Those that count at ?1.
const IS_ON: &str = "(until IS NULL OR until > ?1)";
/// Of a row of `recipients`, by the one rule ([`Suspensions::that_cover`]); the view `suspended` says the same in SQL.
/// An index says whether it is to be returned: who groups by domain needs no more than the index by domain has.
fn is_suspended(covered: &str) -> String {
    format!(
        "iif(recipients.state = 'queued' AND {covered},
             NOT EXISTS (SELECT 1 FROM recipients b INDEXED BY recipients_to_bounce
                         WHERE b.id = recipients.id AND b.bounce_requested_at IS NOT NULL), false)"
    )
}
const BY_DOMAIN: &str = "is_covered(recipients.domain, NULL, NULL)";
/// A step for each recipient.
const BY_MESSAGE: &str = "
    coalesce((SELECT is_covered(recipients.domain, m.user, m.tag) FROM messages m WHERE m.id = recipients.message_id),
             false)";

/// The SQL with what its word `is_suspended` stands for; where nothing is suspended, that costs nothing, and where no
/// user and no tag is, little.
pub(super) fn if_any(conn: &Connection, sql: &str) -> Result<String> {
    let now = now_us() / 1_000_000;
    let rows = read(conn, now)?;
    let is_by_message = rows.iter().any(|row| !matches!(row.whose, Whose::Domain(_)));
    let suspensions = Suspensions::on(rows, now);
    if suspensions.is_empty() {
        return Ok(sql.replace("is_suspended", "false"));
    }
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function("is_covered", 3, flags, move |context| {
        let text = |at| context.get_raw(at).as_str().ok();
        Ok(suspensions.that_cover(text(0).unwrap_or_default(), text(1), text(2)).next().is_some())
    })?;
    let covered = if is_by_message { BY_MESSAGE } else { BY_DOMAIN };
    Ok(sql.replace("is_suspended", &is_suspended(covered)))
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
    let mut behind = behind(conn, &rows)?;
    rows.into_iter()
        .map(|row| {
            let Behind { recipients, first_end } = behind.remove(&row.whose).unwrap_or_default();
            Ok(SuspensionLine {
                recipients,
                expires: first_end.map(utc).transpose()?.flatten(),
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

/// What waits behind a suspension.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behind {
    /// Recipients; held ones wait for something else.
    pub(super) recipients: i64,
    /// When the first of them is past its lifetime, Unix seconds.
    pub(super) first_end: Option<i64>,
}

/// What waits behind each. One walk through all that waits, however many there are; of one domain, through its own.
pub(super) fn behind(conn: &Connection, rows: &[Suspension]) -> Result<HashMap<Whose, Behind>> {
    let (of_domain, domain) = match rows {
        [] => return Ok(HashMap::new()),
        [Suspension { whose: Whose::Domain(name), .. }] if !name.starts_with('*') => {
            ("r.domain = ?1", name.as_str())
        }
        _ => ("?1 = ''", ""),
    };
    let sql = format!(
        "SELECT r.domain, m.user, m.tag, m.ends_at FROM recipients r CROSS JOIN message_ends m ON m.id = r.message_id
         WHERE r.state = 'queued' AND r.bounce_requested_at IS NULL AND {of_domain}"
    );
    // Those that are over too: somebody asks what they would mean.
    let suspensions = Suspensions::on(rows.to_vec(), i64::MIN);
    let mut found: HashMap<&Whose, Behind> = HashMap::new();
    let mut statement = conn.prepare(&sql)?;
    let mut waiting = statement.query([domain])?;
    while let Some(row) = waiting.next()? {
        let text = |at| row.get_ref(at).ok().and_then(|value| value.as_str().ok());
        let end = odd::int(row, 3)?;
        for one in suspensions.that_cover(text(0).unwrap_or_default(), text(1), text(2)) {
            let behind = found.entry(&one.whose).or_default();
            behind.recipients += 1;
            behind.first_end = behind.first_end.into_iter().chain(end).min();
        }
    }
    Ok(found.into_iter().map(|(whose, behind)| (whose.clone(), behind)).collect())
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
