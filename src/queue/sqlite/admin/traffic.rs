//! What went through the relay since a time, in numbers: one pass over what was finished since then, along its index,
//! and one over what waits.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, Result, Row};

use crate::kit::text::utc;
use crate::queue::sqlite::due::domain_from;
use crate::queue::sqlite::odd;
use crate::queue::traffic_rows::{GroupBy, Reason, Traffic, TrafficLine};

use super::reasons::Reasons;

/// Groups that are told apart: an application may give each message a tag of its own.
const GROUPS_MAX: usize = 10_000;
/// The name of what is beyond them.
const OTHERS: &str = "(others)";
/// Leading bits of a delivery's seconds that are kept: exact up to a minute, to three in a hundred beyond.
const SECS_BITS: u32 = 6;

/// Only where something of the message is wanted: a step for each recipient.
const MESSAGES: &str = "JOIN messages m ON m.id = r.message_id";

/// Whether Postrider wrote what waits: by the few rows that say so, rather than by the message of each recipient.
const IS_OWN: &str = "(r.message_id IN (SELECT id FROM reports)
    OR r.message_id IN (SELECT message_id FROM tls_reports WHERE message_id IS NOT NULL))";

/// See [`crate::queue::AdminStore::traffic`].
pub(super) fn traffic(conn: &Connection, since: i64, by: Option<GroupBy>, limit: u32) -> Result<Traffic> {
    let mut counts = Counts::new(by);
    let (finished, waiting, messages) = match by {
        None => ("NULL", "NULL", ""),
        Some(GroupBy::User) => ("user", "m.user", MESSAGES),
        Some(GroupBy::Domain) => ("address", "r.domain", ""),
        Some(GroupBy::Tag) => ("tag", "m.tag", MESSAGES),
        Some(GroupBy::Host) => ("mx", "r.last_mx", ""),
    };
    // What came since then was finished since then, if it is.
    let of_finished = format!(
        "SELECT {finished}, message_id >= ?1 * 1000000, state, finished_at - received_at, reply_source,
                iif(state IN ('failed', 'expired'), reply, NULL), client IS NULL
         FROM history INDEXED BY history_by_end WHERE finished_at >= ?1"
    );
    let of_waiting = format!(
        "SELECT {waiting}, r.message_id >= ?1 * 1000000, r.attempts > 0 AND r.last_attempt_at >= ?1,
                r.last_reply_source, r.last_reply, {IS_OWN}
         FROM recipients r {messages}"
    );
    let mut statement = conn.prepare(&of_finished)?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        counts.finished(row)?;
    }
    let mut statement = conn.prepare(&of_waiting)?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        counts.waiting(row)?;
    }
    Ok(counts.traffic(since, limit))
}

/// Counted so far.
struct Counts {
    by: Option<GroupBy>,
    total: Counted,
    own: Counted,
    groups: BTreeMap<Option<String>, Counted>,
    reasons: Reasons<(String, Option<String>), u64>,
    /// How domains are written, and what they are.
    domains: HashMap<String, String>,
}

/// Of one group.
#[derive(Default)]
struct Counted {
    line: TrafficLine,
    took: Took,
}

impl Counts {
    fn new(by: Option<GroupBy>) -> Counts {
        let (groups, domains) = (BTreeMap::new(), HashMap::new());
        let (total, own) = (Counted::default(), Counted::default());
        Counts { by, total, own, groups, reasons: Reasons::new(), domains }
    }

    fn finished(&mut self, row: &Row<'_>) -> Result<()> {
        let (name, came, state) =
            (odd::text(row, 0)?, odd::get::<bool>(row, 1)?, odd::get::<String>(row, 2)?);
        let is_address = self.by == Some(GroupBy::Domain);
        let name = if is_address { name.map(|address| self.domain_of(&address)) } else { name };
        let secs = u32::try_from(odd::get::<i64>(row, 3)?.max(0)).unwrap_or(u32::MAX);
        self.in_each(name, odd::get(row, 6)?, |Counted { line, took }| {
            line.accepted += u64::from(came);
            match state.as_str() {
                "delivered" | "relayed" => {
                    line.delivered += 1;
                    took.add(secs);
                }
                "failed" => line.bounced += 1,
                "expired" => line.expired += 1,
                _ => line.removed += 1,
            }
        });
        if let Some(reply) = odd::text(row, 5)? {
            *self.reasons.of((state, odd::text(row, 4)?), &reply) += 1;
        }
        Ok(())
    }

    fn waiting(&mut self, row: &Row<'_>) -> Result<()> {
        let (came, deferred) = (odd::get::<bool>(row, 1)?, odd::get::<bool>(row, 2)?);
        self.in_each(odd::text(row, 0)?, odd::get(row, 5)?, |Counted { line, .. }| {
            line.waiting += 1;
            line.accepted += u64::from(came);
            line.deferred += u64::from(deferred);
        });
        if deferred {
            let of = ("deferred".to_owned(), odd::text(row, 3)?);
            *self.reasons.of(of, &odd::get::<String>(row, 4)?) += 1;
        }
        Ok(())
    }

    /// The domain behind the last @ of an address, as the queue has it.
    fn domain_of(&mut self, address: &str) -> String {
        let written = address.rsplit('@').next().unwrap_or_default();
        if let Some(domain) = self.domains.get(written) {
            return domain.clone();
        }
        let domain = domain_from(written).as_str().to_owned();
        if self.domains.len() < GROUPS_MAX {
            self.domains.insert(written.to_owned(), domain.clone());
        }
        domain
    }

    /// In all, and in its group where there are groups; or among Postrider's own.
    fn in_each(&mut self, mut name: Option<String>, is_own: bool, count: impl Fn(&mut Counted)) {
        if is_own {
            return count(&mut self.own);
        }
        count(&mut self.total);
        if self.by.is_some() {
            if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&name) {
                name = Some(OTHERS.to_owned());
            }
            count(self.groups.entry(name).or_default());
        }
    }

    fn traffic(self, since: i64, limit: u32) -> Traffic {
        let groups_total = self.groups.len();
        let mut groups: Vec<TrafficLine> =
            self.groups.into_iter().map(|(name, counted)| TrafficLine { name, ..counted.line() }).collect();
        groups.sort_by_key(|line| std::cmp::Reverse(line.accepted.max(line.delivered)));
        groups.truncate(limit as usize);
        let reason = |((of, reply), recipients)| {
            let (state, reply_source) = of;
            Reason { recipients, state, reply_source, reply }
        };
        let mut reasons: Vec<Reason> = self.reasons.into_groups().map(reason).collect();
        reasons.sort_by(|a, b| (b.recipients, &a.reply, &a.state).cmp(&(a.recipients, &b.reply, &b.state)));
        let reasons_total = reasons.len();
        reasons.truncate(limit as usize);
        let (total, own) = (self.total.line(), self.own.line());
        Traffic { since: utc(since), total, own, groups, groups_total, reasons, reasons_total }
    }
}

impl Counted {
    fn line(self) -> TrafficLine {
        TrafficLine { median_secs: self.took.percentile(50), p95_secs: self.took.percentile(95), ..self.line }
    }
}

/// How many deliveries took how long. Times that differ by less than three in a hundred are one, the greatest of them:
/// at most some 900 of them, however many deliveries there were.
#[derive(Default)]
struct Took(BTreeMap<u32, u64>);

impl Took {
    fn add(&mut self, secs: u32) {
        let dropped = (u32::BITS - secs.leading_zeros()).saturating_sub(SECS_BITS);
        *self.0.entry(secs | ((1 << dropped) - 1)).or_default() += 1;
    }

    /// The least that so many in a hundred do not exceed (nearest rank); none of nothing.
    fn percentile(&self, of_hundred: u64) -> Option<u32> {
        let rank = (self.0.values().sum::<u64>() * of_hundred).div_ceil(100);
        let mut upto = 0;
        let reaches = |(_, count): &(&u32, &u64)| {
            upto += **count;
            upto >= rank
        };
        self.0.iter().find(reaches).map(|(secs, _)| *secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqlite::migrate;

    fn took(values: impl IntoIterator<Item = u32>) -> Took {
        let mut took = Took::default();
        values.into_iter().for_each(|secs| took.add(secs));
        took
    }

    #[test]
    fn half_and_95_of_100_take_no_longer_than_is_said() {
        assert_eq!(took([]).percentile(50), None);
        assert_eq!(took([7]).percentile(95), Some(7));
        assert_eq!(took([4, 1, 3, 2]).percentile(50), Some(2));
        let to_60 = took((1..=60).rev());
        assert_eq!((to_60.percentile(50), to_60.percentile(95)), (Some(30), Some(57)));
    }

    #[test]
    fn a_time_is_told_within_three_in_a_hundred_and_takes_no_room_of_its_own() {
        for secs in (0..2_000).chain([65_535, 65_536, 86_399, 432_000, u32::MAX - 1, u32::MAX]) {
            let told = took([secs]).percentile(50).unwrap();
            assert!(told >= secs && u64::from(told - secs) * 32 <= u64::from(secs), "{secs}: {told}");
            assert!(secs >= 64 || told == secs, "{secs}: {told}");
        }
        // Far beyond the longest lifetime that anybody gives mail.
        let all = took((0..=u32::MAX).step_by(9_973));
        assert!(all.0.len() <= 900, "{}", all.0.len());
    }

    /// A queue with `rows` in history, as SQL makes row n.
    fn history(rows: usize, address: &str, tag: &str, reply: &str) -> (tempfile::TempDir, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let conn = Connection::open(&path).unwrap();
        migrate::migrate(&conn, &path).unwrap();
        conn.execute_batch(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {rows} - 1)
             INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at, finished_at,
                 attempts, size, reply, reply_source, client, tag)
             SELECT 9000000 + n, 9000000 + n, 'Q', 's@a.test', {address}, 'failed', 9, 10, 1, 1, {reply}, 'remote',
                 '192.0.2.7', {tag} FROM n"
        ))
        .unwrap();
        (directory, conn)
    }

    const LETTERS: &str = "char(97 + n % 26) || char(97 + n / 26 % 26) || char(97 + n / 676)";

    #[test]
    fn a_report_by_a_tag_a_message_is_bounded() {
        let reply = format!("'550 ' || {LETTERS}");
        let (_directory, conn) = history(GROUPS_MAX + 50, "'u@a.test'", LETTERS, &reply);
        let traffic = traffic(&conn, 0, Some(GroupBy::Tag), 2).unwrap();
        let rows = GROUPS_MAX as u64 + 50;
        assert_eq!((traffic.total.accepted, traffic.total.bounced), (rows, rows));
        assert_eq!((traffic.groups_total, traffic.groups.len()), (GROUPS_MAX + 1, 2));
        let others = &traffic.groups[0];
        assert_eq!((others.name.as_deref(), others.accepted, others.bounced), (Some(OTHERS), 50, 50));
        let first = &traffic.reasons[0];
        assert_eq!(
            (traffic.reasons.len(), traffic.reasons_total, &*first.reply, first.recipients),
            (2, GROUPS_MAX + 1, "(other reasons)", 50)
        );
    }

    #[test]
    fn a_domain_is_one_line_however_it_is_written() {
        let address = "CASE n % 3 WHEN 0 THEN 'u@B\u{fc}cher.example' WHEN 1 THEN 'U@xn--bcher-kva.EXAMPLE'
                       ELSE 'a@b@C.test' END";
        let (_directory, conn) = history(5, address, "NULL", "'550 5.1.1 no user u' || n");
        let traffic = traffic(&conn, 0, Some(GroupBy::Domain), 9).unwrap();
        let lines: Vec<_> =
            traffic.groups.iter().map(|line| (line.name.as_deref().unwrap(), line.bounced)).collect();
        assert_eq!(lines, [("xn--bcher-kva.example", 4), ("c.test", 1)]);
        let reasons: Vec<_> =
            traffic.reasons.iter().map(|reason| (&*reason.reply, reason.recipients)).collect();
        assert_eq!(reasons, [("550 5.1.1 no user …", 5)]);
        let mut counts = Counts::new(Some(GroupBy::Domain));
        for n in 0..GROUPS_MAX + 50 {
            assert_eq!(counts.domain_of(&format!("u@D{n}.test")), format!("d{n}.test"));
        }
        assert_eq!(counts.domains.len(), GROUPS_MAX);
    }
}
