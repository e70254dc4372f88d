//! What people see of the config in use: rows of the table `routes`, by which the views tell the lane of a domain's
//! mail, and the lifetimes in `meta`, by which they tell when mail ends.
//!
//! Nothing that the relay decides is read from here: the scheduler and delivery have the settings themselves. `check
//! --against-queue` compares them with another config.

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use crate::config::Routes;
use crate::mail::Lifetimes;
use crate::queue::admin_rows::{ConfigInUse, RouteInUse};

use super::odd;

/// Writes these in the place of those before. A lane that none of them has any more is not in trouble: nothing
/// waits there.
pub(super) fn write(conn: &Connection, routes: &Routes, lifetimes: Lifetimes) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('lifetime', ?1), ('bounce_lifetime', ?2)";
    conn.execute(sql, params![lifetimes.messages, lifetimes.bounces])?;
    conn.execute("DELETE FROM routes", [])?;
    let mut insert =
        conn.prepare("INSERT INTO routes (position, domain, lane, relay) VALUES (?, ?, ?, ?)")?;
    for (position, route) in (1..).zip(&routes.0) {
        insert.execute(params![position, route.domain.to_string(), route.lane(), route.relays()])?;
    }
    let of_none = "DELETE FROM backoffs WHERE lane LIKE 'route:%' AND lane NOT IN
                       (SELECT lane FROM routes WHERE lane IS NOT NULL)";
    conn.execute(of_none, []).map(drop)
}

/// See [`crate::queue::AdminStore::config_in_use`].
pub(super) fn read(conn: &Connection) -> Result<Option<ConfigInUse>> {
    let number = |key: &str| {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        Ok::<_, rusqlite::Error>(conn.query_row(sql, [key], |row| odd::int(row, 0)).optional()?.flatten())
    };
    let (Some(messages), Some(bounces)) = (number("lifetime")?, number("bounce_lifetime")?) else {
        return Ok(None);
    };
    let routes = conn
        .prepare("SELECT domain, relay FROM routes ORDER BY position")?
        .query_map([], |row| Ok(RouteInUse { domain: odd::get(row, 0)?, relay: odd::get(row, 1)? }))?
        .collect::<Result<_>>()?;
    Ok(Some(ConfigInUse { routes, lifetimes: Lifetimes { messages, bounces } }))
}

/// See [`crate::queue::AdminStore::over_at`].
pub(super) fn over_at(conn: &Connection, now: i64, lifetimes: Lifetimes) -> Result<i64> {
    // Along the index of those whose end is their lifetime's.
    let sql =
        "SELECT count(*) FROM messages m JOIN recipients r ON r.message_id = m.id AND r.state = 'queued'
               WHERE m.expires_at IS NULL AND (m.sender = '') = ?1 AND m.lifetime_from <= ?2";
    let count = |is_bounce: bool, lifetime: i64| {
        conn.query_row(sql, params![is_bounce, now.saturating_sub(lifetime)], |row| row.get::<_, i64>(0))
    };
    Ok(count(false, lifetimes.messages)? + count(true, lifetimes.bounces)?)
}
