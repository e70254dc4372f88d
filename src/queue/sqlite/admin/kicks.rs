//! The kicks on record: who asked for what to be tried now, by ETRN or with `postrider queue kick`.

use rusqlite::{Connection, Result, params};

use crate::queue::filter::Filter;
use crate::queue::operator_rows::KickLine;
use crate::queue::shared::now_us;
use crate::queue::sqlite::kick::INSERT_KICK;
use crate::queue::sqlite::odd;

/// See [`crate::queue::AdminStore::kicks`].
pub(super) fn read(conn: &Connection, limit: u32) -> Result<(Vec<KickLine>, i64)> {
    let total = conn.query_row("SELECT count(*) FROM kicks", [], |row| row.get(0))?;
    let kicks = conn
        .prepare(
            "SELECT datetime(at, 'unixepoch'), node, user, client, recipients, login
         FROM kicks ORDER BY at DESC, id DESC LIMIT ?1",
        )?
        .query_map([limit], |row| {
            Ok(KickLine {
                at: odd::get(row, 0)?,
                node: odd::get(row, 1)?,
                user: odd::get(row, 2)?,
                client: odd::get(row, 3)?,
                recipients: odd::get(row, 4)?,
                login: odd::get(row, 5)?,
            })
        })?
        .collect::<Result<_>>()?;
    Ok((kicks, total))
}

/// The command line asked for these.
pub(super) fn record(conn: &Connection, which: &Filter, recipients: u32, login: &str) -> Result<()> {
    let (now, nobody) = (now_us() / 1_000_000, None::<String>);
    conn.execute(INSERT_KICK, params![now, which.to_string(), nobody, nobody, recipients, login]).map(drop)
}
