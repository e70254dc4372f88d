//! What went through the relay since a time, in numbers: one pass over what was finished since then, along its index,
//! and one over what came.

use std::collections::BTreeMap;

use rusqlite::{Connection, Result, Row};

use crate::kit::text::utc;
use crate::queue::sqlite::odd;
use crate::queue::traffic_rows::{GroupBy, Reason, Traffic, TrafficLine};

/// Reasons that are told.
const REASONS: usize = 10;

/// See [`crate::queue::AdminStore::traffic`].
pub(super) fn traffic(conn: &Connection, since: i64, by: Option<GroupBy>, limit: u32) -> Result<Traffic> {
    let mut counts = Counts { by, ..Counts::default() };
    let (finished, waiting) = match by {
        None => ("NULL", "NULL"),
        Some(GroupBy::User) => ("user", "m.user"),
        Some(GroupBy::Domain) => ("address", "r.domain"),
        Some(GroupBy::Tag) => ("tag", "m.tag"),
        Some(GroupBy::Host) => ("mx", "r.last_mx"),
    };
    let sql = format!(
        "SELECT {finished}, state, finished_at - received_at, reply_source,
                iif(state IN ('failed', 'expired'), reply, NULL)
         FROM history INDEXED BY history_by_end WHERE finished_at >= ?1"
    );
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        counts.finished(row)?;
    }
    let from = since.saturating_mul(1_000_000);
    let came = [
        format!("SELECT {finished}, count(*) FROM history WHERE message_id >= ?1 GROUP BY 1"),
        format!(
            "SELECT {waiting}, count(*) FROM messages m JOIN recipients r ON r.message_id = m.id
             WHERE m.id >= ?1 GROUP BY 1"
        ),
    ];
    for sql in came {
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            let (name, count) = (odd::text(row, 0)?, odd::get::<i64>(row, 1)?.unsigned_abs());
            counts.each(name, |line| line.accepted += count);
        }
    }
    let sql = format!(
        "SELECT {waiting}, count(*), r.last_reply_source, r.last_reply FROM recipients r JOIN messages m ON m.id = r.message_id
         WHERE r.attempts > 0 AND r.last_attempt_at >= ?1 GROUP BY 1, 3, 4"
    );
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        let count = odd::get::<i64>(row, 1)?.unsigned_abs();
        counts.each(odd::text(row, 0)?, |line| line.deferred += count);
        counts.reason("deferred", odd::text(row, 2)?, &odd::text(row, 3)?.unwrap_or_default(), count);
    }
    Ok(counts.traffic(since, limit))
}

/// Counted so far.
#[derive(Default)]
struct Counts {
    by: Option<GroupBy>,
    total: Counted,
    groups: BTreeMap<Option<String>, Counted>,
    reasons: BTreeMap<(String, Option<String>, String), u64>,
}

/// Of one group.
#[derive(Default)]
struct Counted {
    line: TrafficLine,
    /// Seconds from accepted to delivered, of each recipient.
    secs: Vec<u32>,
}

impl Counts {
    fn finished(&mut self, row: &Row<'_>) -> Result<()> {
        let (name, state, secs) = (odd::text(row, 0)?, odd::text(row, 1)?, odd::get::<i64>(row, 2)?);
        let state = state.unwrap_or_default();
        let secs = u32::try_from(secs.max(0)).unwrap_or(u32::MAX);
        self.in_each(name, |counted| match state.as_str() {
            "delivered" | "relayed" => {
                counted.line.delivered += 1;
                counted.secs.push(secs);
            }
            "failed" => counted.line.bounced += 1,
            "expired" => counted.line.expired += 1,
            _ => counted.line.removed += 1,
        });
        if let Some(reply) = odd::text(row, 4)? {
            self.reason(&state, odd::text(row, 3)?, &reply, 1);
        }
        Ok(())
    }

    fn each(&mut self, name: Option<String>, count: impl Fn(&mut TrafficLine)) {
        self.in_each(name, |counted| count(&mut counted.line));
    }

    /// In all, and in its group where there are groups.
    fn in_each(&mut self, name: Option<String>, count: impl Fn(&mut Counted)) {
        count(&mut self.total);
        if let Some(by) = self.by {
            let name = if by == GroupBy::Domain { name.map(|address| domain_of(&address)) } else { name };
            count(self.groups.entry(name).or_default());
        }
    }

    fn reason(&mut self, state: &str, reply_source: Option<String>, reply: &str, count: u64) {
        *self.reasons.entry((state.to_owned(), reply_source, shape(reply))).or_default() += count;
    }

    fn traffic(self, since: i64, limit: u32) -> Traffic {
        let groups_total = self.groups.len();
        let mut groups: Vec<TrafficLine> =
            self.groups.into_iter().map(|(name, counted)| TrafficLine { name, ..counted.line() }).collect();
        groups.sort_by_key(|line| std::cmp::Reverse(line.accepted.max(line.delivered)));
        groups.truncate(limit as usize);
        let mut reasons: Vec<Reason> = self
            .reasons
            .into_iter()
            .map(|((state, reply_source, reply), recipients)| Reason {
                recipients,
                state,
                reply_source,
                reply,
            })
            .collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.recipients));
        reasons.truncate(REASONS);
        Traffic { since: utc(since), total: self.total.line(), groups, groups_total, reasons }
    }
}

impl Counted {
    fn line(mut self) -> TrafficLine {
        let (median_secs, p95_secs) = (percentile(&mut self.secs, 50), percentile(&mut self.secs, 95));
        TrafficLine { median_secs, p95_secs, ..self.line }
    }
}

/// The least that so many in a hundred do not exceed (nearest rank); none of nothing.
fn percentile(values: &mut [u32], of_hundred: usize) -> Option<u32> {
    let rank = (values.len() * of_hundred).div_ceil(100);
    let at = rank.checked_sub(1)?;
    Some(*values.select_nth_unstable(at).1)
}

/// What is behind the last @ of an address; a domain is itself.
fn domain_of(address: &str) -> String {
    address.rsplit('@').next().unwrap_or_default().to_lowercase()
}

/// A reply whose ids, addresses and numbers stand as `…`, as in the view `failures`: its first two words are codes.
fn shape(reply: &str) -> String {
    let is_code = |at: usize, word: &str| at < 2 && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let words = reply.split(' ').enumerate().map(|(at, word)| match word {
        word if is_code(at, word) => word,
        word if word.contains(|c: char| c == '@' || c.is_ascii_digit()) => "…",
        word => word,
    });
    let mut text = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_and_95_of_100_take_no_longer_than_is_said() {
        assert_eq!(percentile(&mut [], 50), None);
        assert_eq!(percentile(&mut [7], 95), Some(7));
        assert_eq!(percentile(&mut [4, 1, 3, 2], 50), Some(2));
        let mut many: Vec<u32> = (1..=100).rev().collect();
        assert_eq!((percentile(&mut many, 50), percentile(&mut many, 95)), (Some(50), Some(95)));
    }

    #[test]
    fn replies_that_differ_in_ids_are_one_reason() {
        assert_eq!(shape("550 5.7.1 4FZ2QK blocked, see a@b.test"), "550 5.7.1 … blocked, see …");
        assert_eq!(shape("451 later, in 5 minutes"), "451 later, in … minutes");
        assert_eq!(shape(&"x".repeat(999)).len(), 200);
        assert_eq!(
            (domain_of("a@b@C.test"), domain_of("c.test")),
            ("c.test".to_owned(), "c.test".to_owned())
        );
    }
}
