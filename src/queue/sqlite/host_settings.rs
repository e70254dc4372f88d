//! What is held to at each host: rows of the table `host_settings`.
//!
//! There are few, and each is written when it changes: statements are prepared when first used.

use rusqlite::{Connection, Result, params};

use crate::queue::host_setting::{HOST_SETTINGS_MAX, HostSetting, Setting};

/// How long a row outlives its `retry_at`: nobody sends there any more.
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
        // The table's CHECK lets through nothing else.
        let Some(setting) = Setting::from_words(row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?) else {
            continue;
        };
        rows.push(HostSetting {
            mx: row.get(0)?,
            setting,
            last_reply: row.get(3)?,
            changed_at: row.get(4)?,
            retry_at: row.get(5)?,
        });
    }
    Ok(rows)
}

/// Writes one in the place of what was known, and forgets those that nobody needed for long.
pub(super) fn write(conn: &Connection, row: &HostSetting) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO host_settings (mx, setting, value, last_reply, changed_at, retry_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (mx, setting) DO UPDATE
         SET value = excluded.value, last_reply = coalesce(excluded.last_reply, last_reply),
             changed_at = excluded.changed_at, retry_at = excluded.retry_at",
    )?
    .execute(params![
        row.mx,
        row.setting.name(),
        row.setting.value(),
        row.last_reply,
        row.changed_at,
        row.retry_at
    ])?;
    conn.prepare_cached("DELETE FROM host_settings WHERE retry_at < ?")?
        .execute([row.changed_at - UNUSED_SECS])
        .map(drop)
}

/// Forgets one: it is no longer needed.
pub(super) fn delete(conn: &Connection, mx: &str, setting: &str) -> Result<()> {
    let sql = "DELETE FROM host_settings WHERE mx = ? AND setting = ?";
    conn.prepare_cached(sql)?.execute([mx, setting]).map(drop)
}
