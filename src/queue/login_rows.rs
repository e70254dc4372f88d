//! What is kept of logins: rows of the tables `login_failures` and `known_logins`.

/// Failed logins that have an effect now: a row of `login_failures`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFailureRow {
    /// An address or a network; empty: from anywhere.
    pub network: String,
    /// A user's; empty: by any name.
    pub name: String,
    /// How many.
    pub failures: u32,
    /// When the first of them was, Unix seconds.
    pub since: i64,
    /// When the effect is over, Unix seconds.
    pub until: i64,
}

/// A user has logged in from there: a row of `known_logins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLoginRow {
    /// An address or an IPv6 /64.
    pub network: String,
    /// The user's.
    pub name: String,
    /// When it last did, Unix seconds, to a day.
    pub last_at: i64,
}

/// What there is of both, or is to be written of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginRows {
    /// Of `login_failures`.
    pub failures: Vec<LoginFailureRow>,
    /// Of `known_logins`.
    pub known: Vec<KnownLoginRow>,
}

/// What is to be written of them. A row that somebody else deleted is not changed: that it is gone is word from him.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginChanges {
    /// Rows that are not there yet.
    pub new: LoginRows,
    /// Rows that are there and say something else.
    pub changed: LoginRows,
    /// `network` and `name` of rows that are over.
    pub failures_over: Vec<(String, String)>,
    /// The same of known logins.
    pub known_over: Vec<(String, String)>,
}
