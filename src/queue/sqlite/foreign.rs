//! What a backup may have that is nobody's mail: triggers and views. A trigger would run with each statement of the
//! relay, and change mail; a view in the place of one of ours would show people something else. Whoever gives a backup
//! would decide in the operator's name, so they are left out of what is restored, and told.

use rusqlite::{Connection, Result};

use super::migrate::SCHEMA;

/// Leaves in a database of today's schema no triggers, and no views but Postrider's. Gives what went.
pub(super) fn leave_out(fresh: &Connection) -> Result<Vec<String>> {
    let ours = Connection::open_in_memory()?;
    ours.execute_batch(SCHEMA)?;
    let ours = views_and_triggers(&ours)?;
    let found = views_and_triggers(fresh)?;
    let foreign: Vec<_> = found.iter().filter(|one| !ours.contains(one)).collect();
    for (kind, name, _) in &foreign {
        fresh.execute_batch(&format!("DROP {kind} \"{}\"", name.replace('"', "\"\"")))?;
    }
    for (_, _, sql) in ours.iter().filter(|one| !found.contains(one)) {
        fresh.execute_batch(sql)?;
    }
    Ok(foreign.into_iter().map(|(kind, name, _)| format!("{kind} {name}")).collect())
}

/// Triggers first: those on a view go with it.
fn views_and_triggers(conn: &Connection) -> Result<Vec<(String, String, String)>> {
    let sql =
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('trigger', 'view') ORDER BY type, name";
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
