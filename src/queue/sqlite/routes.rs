//! The `[[route]]`s in use, for people: rows of the table `routes`, by which the views tell the lane of a domain's
//! mail.
//!
//! Nothing that the relay decides is read from here: the scheduler and delivery have the settings themselves.

use rusqlite::{Connection, Result, params};

use crate::config::Routes;

/// Writes these in the place of those before. A lane that none of them has any more is not in trouble: nothing
/// waits there.
pub(super) fn write(conn: &Connection, routes: &Routes) -> Result<()> {
    conn.execute("DELETE FROM routes", [])?;
    let mut insert = conn.prepare("INSERT INTO routes (position, domain, lane) VALUES (?, ?, ?)")?;
    for (position, route) in (1..).zip(&routes.0) {
        insert.execute(params![position, route.domain.to_string(), route.lane()])?;
    }
    let of_none = "DELETE FROM backoffs WHERE lane LIKE 'route:%' AND lane NOT IN
                       (SELECT lane FROM routes WHERE lane IS NOT NULL)";
    conn.execute(of_none, []).map(drop)
}
