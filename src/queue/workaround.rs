//! What a host gets wrong and how we go round it: rows of the table `workarounds`.
//!
//! There are few, and each is written when it changes: statements are prepared when first used.

use rusqlite::{Connection, Result, params};

/// Rows that are read: more are not remembered.
pub const WORKAROUNDS_MAX: usize = 10_000;
/// How long a row outlives the time at which it should have been looked at again: nobody sends there any more.
const UNUSED_SECS: i64 = 30 * 86_400;

/// A way round something that a host gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workaround {
    /// TLS with classical key exchange only: it breaks on the larger ClientHello of a post-quantum one.
    Classical,
    /// No TLS at all, where nothing requires it: it breaks on every handshake, or refuses STARTTLS.
    Clear,
    /// Command by command (RFC 2920 not used although it is offered): replies do not fit batches.
    LockStep,
    /// Large content by DATA, as if CHUNKING were not offered: BDAT is not known, or breaks the connection.
    Data,
}

impl Workaround {
    /// The columns `what` and `value`.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Workaround::Classical => ("tls", "classical"),
            Workaround::Clear => ("tls", "clear"),
            Workaround::LockStep => ("pipelining", "off"),
            Workaround::Data => ("bdat", "off"),
        }
    }

    /// What the columns `what` and `value` mean; none where somebody wrote what is not known.
    pub fn from_words(what: &str, value: &str) -> Option<Workaround> {
        let all = [Workaround::Classical, Workaround::Clear, Workaround::LockStep, Workaround::Data];
        all.into_iter().find(|workaround| workaround.words() == (what, value))
    }
}

/// A row of `workarounds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkaroundRow {
    /// The host's name; a relay's with its port.
    pub mx: String,
    /// Which.
    pub workaround: Workaround,
    /// What went wrong, in the host's words or ours.
    pub last_reply: Option<String>,
    /// When it was found, Unix seconds.
    pub found_at: i64,
    /// When it is done without again, to see whether that works now, Unix seconds.
    pub retry_at: i64,
}

/// All that are known; those that are needed longest where there are too many.
pub(super) fn read(conn: &Connection) -> Result<Vec<WorkaroundRow>> {
    let sql = "SELECT mx, what, value, last_reply, CAST(found_at AS INTEGER), CAST(retry_at AS INTEGER)
               FROM workarounds ORDER BY retry_at DESC LIMIT ?";
    let mut rows = Vec::new();
    let mut statement = conn.prepare_cached(sql)?;
    let mut found = statement.query([WORKAROUNDS_MAX as i64])?;
    while let Some(row) = found.next()? {
        let (what, value): (String, String) = (row.get(1)?, row.get(2)?);
        // The table's CHECK lets through nothing else.
        let Some(workaround) = Workaround::from_words(&what, &value) else { continue };
        rows.push(WorkaroundRow {
            mx: row.get(0)?,
            workaround,
            last_reply: row.get(3)?,
            found_at: row.get(4)?,
            retry_at: row.get(5)?,
        });
    }
    Ok(rows)
}

/// Writes one in the place of what was known, and forgets those that nobody needed for long.
pub(super) fn write(conn: &Connection, row: &WorkaroundRow) -> Result<()> {
    let (what, value) = row.workaround.words();
    conn.prepare_cached("INSERT OR REPLACE INTO workarounds VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
        row.mx,
        what,
        value,
        row.last_reply,
        row.found_at,
        row.retry_at
    ])?;
    conn.prepare_cached("DELETE FROM workarounds WHERE retry_at < ?")?
        .execute([row.retry_at - UNUSED_SECS])?;
    Ok(())
}

/// Forgets one: it is no longer needed.
pub(super) fn delete(conn: &Connection, mx: &str, what: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM workarounds WHERE mx = ? AND what = ?")?.execute([mx, what]).map(drop)
}
