//! Long replies, each text once: rows of the table `replies`.
//!
//! A host may say kilobytes, to every recipient and at every try. A row has the beginning (`in_a_row`), and what is
//! kept here is bounded by the number of texts, whatever hosts say and how often: 4,000 bytes each, and as much again
//! for the index.

use rusqlite::{Connection, OptionalExtension as _, Result};

/// Texts kept: the last that were new.
const REPLIES_MAX: i64 = 1_000;

/// Its id; the text that was new the longest ago goes where there are too many.
pub(super) fn keep(conn: &Connection, reply: &str) -> Result<i64> {
    let known = conn
        .prepare_cached("SELECT id FROM replies WHERE reply = ?1")?
        .query_row([reply], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    conn.prepare_cached("INSERT INTO replies (reply) VALUES (?1)")?.execute([reply])?;
    let id = conn.last_insert_rowid();
    conn.prepare_cached("DELETE FROM replies WHERE id <= ?1")?.execute([id - REPLIES_MAX])?;
    Ok(id)
}
