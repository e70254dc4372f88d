//! The kicks on record: who asked for what to be tried now, by ETRN or with `postrider queue kick`.

use rusqlite::params;
use serde::Serialize;

use crate::queue::admin::Admin;
use crate::queue::admin::Which;
use crate::queue::error::QueueError;
use crate::queue::sqlite::store::INSERT_KICK;

/// A row of `kicks`.
#[derive(Debug, Clone, Serialize)]
pub struct KickLine {
    /// When, UTC.
    pub at: String,
    /// What was asked for: `example.com`, `@example.com`, `#lane`, a queue id or `all`.
    pub node: String,
    /// Who authenticated.
    pub user: Option<String>,
    /// From where; none: the command line.
    pub client: Option<String>,
    /// How many recipients waited.
    pub recipients: i64,
}

impl Admin {
    /// The last `limit` kicks, the latest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn kicks(&self, limit: u32) -> Result<Vec<KickLine>, QueueError> {
        self.try_to(|conn| {
            conn.prepare(
                "SELECT datetime(at, 'unixepoch'), node, user, client, recipients
                 FROM kicks ORDER BY at DESC, id DESC LIMIT ?1",
            )?
            .query_map([limit], |row| {
                Ok(KickLine {
                    at: row.get(0)?,
                    node: row.get(1)?,
                    user: row.get(2)?,
                    client: row.get(3)?,
                    recipients: row.get(4)?,
                })
            })?
            .collect()
        })
    }

    /// The command line asked for these.
    pub(super) fn record_kick(&self, which: &Which, recipients: u32) -> Result<(), QueueError> {
        let node = match which {
            Which::Message(id) => id.to_string(),
            Which::Domain(domain) => domain.to_string(),
            Which::All => "all".to_owned(),
        };
        let nobody = None::<String>;
        self.try_to(|conn| {
            conn.execute(
                INSERT_KICK,
                params![crate::queue::now_us() / 1_000_000, node, nobody, nobody, recipients],
            )
        })
        .map(drop)
    }
}
