//! What `postrider backup`, `restore` and `recover` are asked, and what came of it.

use serde::Serialize;

/// What is in a copy of the queue, by the copy itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Copied {
    /// Bytes of the file.
    pub bytes: u64,
    /// Messages that wait.
    pub messages: i64,
    /// Their recipients.
    pub recipients: i64,
    /// Those of them that are held.
    pub held: i64,
    /// Finished recipients.
    pub history: i64,
    /// Messages whose content is not all there. They were so before.
    pub not_whole: i64,
}

/// What `postrider restore` put in the place of the queue.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// What is in it.
    #[serde(flatten)]
    pub copied: Copied,
    /// Failures that their senders are still to be told of.
    pub pending_reports: i64,
    /// Suspensions that are in force again.
    pub suspensions: i64,
    /// Whether all that waits is as it was, and not held.
    pub as_it_was: bool,
    /// Triggers and views in the backup that are not of Postrider, and were left out.
    pub left_out: Vec<String>,
    /// Where the queue of before is now; none where there was none.
    pub kept: Option<String>,
}

/// How `postrider restore` is to do it.
#[derive(Debug, Clone, Copy)]
pub struct HowToRestore {
    /// Also where mail waits in the queue that is there.
    pub replace: bool,
    /// Nothing can have been sent since the backup: what waits stays as it is.
    pub as_it_was: bool,
}

/// What could be read of one table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RecoveredTable {
    /// Its name.
    pub table: String,
    /// Rows that are in the fresh database.
    pub rows: u64,
    /// Rows that could be read and mean nothing.
    pub unusable: u64,
    /// Places at which rows, nobody knows how many, could not be read.
    pub gaps: u64,
}

/// What `postrider recover` made of a damaged database.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// Messages that wait.
    pub messages: i64,
    /// Their recipients.
    pub recipients: i64,
    /// Whether all of them are held.
    pub held: bool,
    /// Table by table.
    pub tables: Vec<RecoveredTable>,
    /// A line for each message or recipient that is not as it was.
    pub problems: Vec<String>,
    /// Where the damaged database is now.
    pub kept: String,
}
