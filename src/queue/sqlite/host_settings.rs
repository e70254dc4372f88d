//! What is held to at each host: rows of the table `host_settings`.
//!
//! There are few, and each is written when it changes: statements are prepared when first used.

use rusqlite::{Connection, Result, params};

use crate::queue::host_setting::{HOST_SETTINGS_MAX, HostSetting, Setting};
use crate::queue::op::in_a_row;

use super::odd;

/// How long a row outlives its `retry_at`, or the last change of a limit: nobody sends there any more.
const UNUSED_SECS: i64 = 30 * 86_400;

/// All that are known. Where there are too many, limits come first (a host without its limit gets the full load
/// again; a feature that fails is only found out once more), and then what is needed longest.
pub(super) fn read(conn: &Connection) -> Result<Vec<HostSetting>> {
    let sql = "SELECT mx, setting, CAST(value AS TEXT), last_reply, changed_at, retry_at FROM host_settings
               ORDER BY retry_at IS NOT NULL, coalesce(retry_at, changed_at) DESC, mx, setting LIMIT ?";
    let mut rows = Vec::new();
    let mut statement = conn.prepare_cached(sql)?;
    let mut found = statement.query([HOST_SETTINGS_MAX as i64])?;
    while let Some(row) = found.next()? {
        // The table's CHECKs let through nothing else.
        let words = odd::text(row, 1)?.zip(odd::text(row, 2)?);
        let Some(setting) = words.and_then(|(name, value)| Setting::from_words(&name, &value)) else {
            continue;
        };
        rows.push(HostSetting {
            mx: odd::text(row, 0)?.unwrap_or_default(),
            setting,
            last_reply: odd::text(row, 3)?,
            changed_at: odd::int(row, 4)?.unwrap_or_default(),
            retry_at: odd::int(row, 5)?,
        });
    }
    Ok(rows)
}

/// Writes one in the place of what was known.
pub(super) fn write(conn: &Connection, row: &HostSetting) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO host_settings (mx, setting, value, last_reply, changed_at, retry_at)
         VALUES (?1, ?2, iif(?2 IN ('connections', 'messages_per_minute'), CAST(?3 AS INTEGER), ?3), ?4, ?5, ?6)
         ON CONFLICT (mx, setting) DO UPDATE
         SET value = excluded.value, last_reply = coalesce(excluded.last_reply, last_reply),
             changed_at = excluded.changed_at, retry_at = excluded.retry_at",
    )?
    .execute(params![
        row.mx,
        row.setting.name(),
        row.setting.value(),
        row.last_reply.as_deref().map(in_a_row),
        row.changed_at,
        row.retry_at
    ])
    .map(drop)
}

/// Forgets those that nobody needed for long: features that nobody tried again, limits that did not change. A limit of
/// a host that is in use rises, and goes, by the minute. So many at most; whether there may be more.
pub(super) fn delete_unused(conn: &Connection, now: i64, rows: i64) -> Result<bool> {
    let deleted = conn
        .prepare_cached(
            "DELETE FROM host_settings WHERE (mx, setting) IN
             (SELECT mx, setting FROM host_settings WHERE coalesce(retry_at, changed_at) < ?1 LIMIT ?2)",
        )?
        .execute([now.saturating_sub(UNUSED_SECS), rows])?;
    Ok(deleted as i64 >= rows)
}

/// Forgets one: it is no longer needed.
pub(super) fn delete(conn: &Connection, mx: &str, setting: &str) -> Result<()> {
    let sql = "DELETE FROM host_settings WHERE mx = ? AND setting = ?";
    conn.prepare_cached(sql)?.execute([mx, setting]).map(drop)
}
