//! What operators change with the command line, and what is on record of it. Times are UTC text.

use serde::Serialize;

/// What somebody changed with the command line: a row of `operator_log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `kick`, `hold`, `release`, `remove`, `bounce`, `suspend`, `resume`; `user add`, `user passwd`, `user set`,
    /// `user remove`, `user lift`.
    pub action: &'static str,
    /// A queue id, a domain, `all` or what else was asked for; a user's name, an address or a network; what is
    /// suspended, as `domain example.com`.
    pub target: String,
    /// Recipients, users, or locks of logins.
    pub count: usize,
    /// Who logged in to the machine.
    pub login: String,
    /// As which the command runs.
    pub uid: u32,
    /// Why, where it was said.
    pub reason: Option<String>,
}

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
    /// Who used the command line; none: ETRN.
    pub login: Option<String>,
}

/// A row of `operator_log`: what somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorLine {
    /// When, UTC.
    pub at: String,
    /// As in [`Change`].
    pub action: String,
    /// What it was for.
    pub target: String,
    /// How many recipients, users, suspensions or locks.
    pub count: i64,
    /// Who logged in to the machine.
    pub login: String,
    /// As which the command ran.
    pub uid: i64,
    /// Why, where it was said.
    pub reason: Option<String>,
    /// It goes on, or was killed.
    pub is_under_way: bool,
}
