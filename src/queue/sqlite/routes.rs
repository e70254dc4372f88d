//! What people see of the config in use: rows of the table `routes`, by which the views tell the lane of a domain's
//! mail, and the lifetimes in `meta`, by which they tell when mail ends.
//!
//! Nothing that the relay decides is read from here: the scheduler and delivery have the settings themselves.

use rusqlite::{Connection, Result, params};

use crate::config::Routes;
use crate::mail::Lifetimes;

/// Writes these in the place of those before. A lane that none of them has any more is not in trouble: nothing
/// waits there.
pub(super) fn write(conn: &Connection, routes: &Routes, lifetimes: Lifetimes) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('lifetime', ?1), ('bounce_lifetime', ?2)";
    conn.execute(sql, params![lifetimes.messages, lifetimes.bounces])?;
    conn.execute("DELETE FROM routes", [])?;
    let mut insert = conn.prepare("INSERT INTO routes (position, domain, lane) VALUES (?, ?, ?)")?;
    for (position, route) in (1..).zip(&routes.0) {
        insert.execute(params![position, route.domain.to_string(), route.lane()])?;
    }
    let of_none = "DELETE FROM backoffs WHERE lane LIKE 'route:%' AND lane NOT IN
                       (SELECT lane FROM routes WHERE lane IS NOT NULL)";
    conn.execute(of_none, []).map(drop)
}
