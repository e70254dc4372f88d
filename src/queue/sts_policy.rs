//! What is kept of a domain's MTA-STS policy (RFC 8461): a row of the table `mta_sts_policies`.

/// Rows that are kept; beyond, those go that enforce nothing, and then those that were used the longest ago.
pub const STS_POLICIES_MAX: usize = 10_000;

/// A policy as it was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsPolicyRow {
    /// The recipients' domain, in lower case and A-labels.
    pub domain: String,
    /// The `id` of the TXT record by which it was found.
    pub id: String,
    /// `enforce`, `testing` or `none`.
    pub mode: String,
    /// Its `mx` patterns, a space between.
    pub mx: String,
    /// Seconds that it holds after it was fetched.
    pub max_age: i64,
    /// When that was.
    pub fetched_at: i64,
    /// When it ends, unless it is fetched again.
    pub expires_at: i64,
    /// When mail went by it last, to a day.
    pub used_at: i64,
    /// Why it could not be fetched again since.
    pub last_error: Option<String>,
}

/// What changes in a row that is there; a row that somebody deleted meanwhile stays deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StsPolicyNote {
    /// Mail goes by it.
    Used(i64),
    /// It could not be fetched again.
    Failed {
        /// When that was.
        at: i64,
        /// For people.
        why: String,
    },
}
