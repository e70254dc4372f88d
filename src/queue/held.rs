//! What holds a recipient until somebody releases it: columns `held_by` and `held_reason` of `recipients`, and their
//! words.

use serde::Serialize;

/// What can hold a recipient.
pub const HELD_BY: [&str; 6] = ["operator", "rule", "in-doubt", "restore", "recover", "fault"];

/// What of an attempt has its recipient held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// This `[[retry.rule]]`, counted from 1.
    Rule(usize),
    /// It may have arrived, and `[delivery] in_doubt` is `hold`.
    InDoubt,
}

/// `held by [[retry.rule]] 1`, `held by ann: wrong text`, `held: restored from a backup, …`.
pub(super) fn held_words(by: &str, reason: Option<&str>) -> String {
    match (by, reason) {
        ("operator", None) => "held by an operator".to_owned(),
        ("operator" | "rule", Some(reason)) => format!("held by {reason}"),
        (by, reason) => format!("held: {}", reason.unwrap_or(by)),
    }
}

/// How many are held by the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldCount {
    /// As in [`Line`](super::admin_rows::Line).
    pub held_by: String,
    /// As in [`Line`](super::admin_rows::Line); none where those of several are counted together.
    pub held_reason: Option<String>,
    /// Recipients.
    pub recipients: i64,
}

impl HeldCount {
    /// For people: ` (74 operator, 40 rule)`; nothing where there are none.
    pub fn all_words(counts: &[HeldCount]) -> String {
        let one = |count: &HeldCount| format!("{} {}", count.recipients, count.held_by);
        let words = counts.iter().map(one).collect::<Vec<_>>().join(", ");
        if words.is_empty() { words } else { format!(" ({words})") }
    }

    /// For people: `40 recipients held by [[retry.rule]] 1`.
    pub fn words(&self) -> String {
        let plural = if self.recipients == 1 { "" } else { "s" };
        format!(
            "{} recipient{plural} {}",
            self.recipients,
            held_words(&self.held_by, self.held_reason.as_deref())
        )
    }
}
