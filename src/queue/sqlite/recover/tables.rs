//! The tables of a damaged database, read along their keys: what is on a page that cannot be read is left out, and the
//! next key that can be read is searched for.

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, Result, Statement, params_from_iter};

use crate::queue::copy_rows::RecoveredTable;

/// A table, the column along which it is read, and where else its keys (or numbers near them) can be read.
pub(super) type Table = (&'static str, &'static str, &'static [&'static str]);
/// What was arriving is nobody's yet, and routes are written at each start.
pub(super) const TABLES: [Table; 19] = [
    (
        "messages",
        "rowid",
        &[
            "SELECT id FROM messages INDEXED BY messages_by_age WHERE expires_at IS NULL",
            "SELECT id FROM messages INDEXED BY messages_expiring WHERE expires_at IS NOT NULL",
            "SELECT message_id FROM recipients INDEXED BY recipients_of_message",
        ],
    ),
    ("recipients", "rowid", &["SELECT id FROM recipients INDEXED BY recipients_of_message"]),
    ("content", "rowid", &["SELECT rowid FROM content INDEXED BY sqlite_autoindex_content_1"]),
    ("attempts", "rowid", &["SELECT id FROM attempts INDEXED BY attempts_of_recipient"]),
    ("dialogues", "rowid", &["SELECT dialogue_id FROM attempts NOT INDEXED"]),
    ("replies", "rowid", &["SELECT id FROM replies INDEXED BY sqlite_autoindex_replies_1"]),
    // Ids of a message's recipients are those that follow its own.
    ("history", "message_id", &["SELECT recipient_id FROM attempts INDEXED BY attempts_of_recipient"]),
    ("backoffs", "lane", &[]),
    ("suspensions", "kind", &[]),
    ("host_settings", "mx", &[]),
    ("mta_sts_policies", "domain", &[]),
    ("kicks", "rowid", &["SELECT id FROM kicks INDEXED BY kicks_by_time"]),
    ("login_failures", "network", &[]),
    ("known_logins", "network", &[]),
    ("operator_log", "rowid", &[]),
    ("reports", "rowid", &["SELECT id FROM reports INDEXED BY reports_to_sender"]),
    ("tls_results", "day", &[]),
    ("tls_reports", "day", &[]),
    ("pending_reports", "rowid", &["SELECT id FROM pending_reports INDEXED BY pending_reports_of_sender"]),
];
/// Places in one table that cannot be read, at most; more of them, and the table counts as read to its end.
const GAPS_MAX: u64 = 100_000;

/// Copies the columns that both have. An error is the fresh database's.
pub(super) fn copy_table(old: &Connection, fresh: &Connection, table: &Table) -> Result<RecoveredTable> {
    let (table, key, keys) = *table;
    let columns = |conn: &Connection| -> Result<Vec<String>> {
        let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
        statement.query_map([table], |row| row.get(0))?.collect()
    };
    let theirs = columns(old).unwrap_or_default();
    let ours: Vec<String> = columns(fresh)?.into_iter().filter(|column| theirs.contains(column)).collect();
    let mut copied = RecoveredTable { table: table.to_owned(), ..RecoveredTable::default() };
    if ours.is_empty() {
        copied.gaps = 1;
        return Ok(copied);
    }
    let names = ours.join(", ");
    let places = vec!["?"; ours.len()].join(", ");
    let mut insert = fresh.prepare(&format!("INSERT INTO {table} ({names}) VALUES ({places})"))?;
    let select = format!("SELECT {key}, {names} FROM {table} NOT INDEXED WHERE {key}");
    let statements = (
        old.prepare(&format!("{select} >= ?1 ORDER BY {key}")),
        old.prepare(&format!("{select} < ?1 ORDER BY {key} DESC")),
        old.prepare(&format!("{select} >= ?1 ORDER BY {key} LIMIT 1")),
    );
    let (Ok(rows), Ok(back), Ok(first)) = statements else {
        copied.gaps = 1;
        return Ok(copied);
    };
    let mut table = Readable { conn: old, rows, back, first, key_queries: keys, keys: None };
    let mut from = if ["lane", "kind", "mx", "domain", "network"].contains(&key) {
        Value::Text(String::new())
    } else {
        Value::Integer(i64::MIN)
    };
    while let Some(last) = table.copy(&from, &mut insert, &mut copied)? {
        copied.gaps += 1;
        let next = match (last.unwrap_or(from), copied.gaps < GAPS_MAX) {
            (Value::Integer(last), true) => table.next_readable(last).map(|next| (last, next)),
            _ => None,
        };
        let Some((last, next)) = next else { break };
        table.copy_back(next, last, &mut insert, &mut copied)?;
        from = Value::Integer(next);
    }
    Ok(copied)
}

/// A table of the damaged database.
struct Readable<'c> {
    conn: &'c Connection,
    rows: Statement<'c>,
    /// The same, backward.
    back: Statement<'c>,
    first: Statement<'c>,
    key_queries: &'static [&'static str],
    /// In order; none: not read yet, which only damage needs.
    keys: Option<Vec<i64>>,
}

impl Readable<'_> {
    /// Copies rows until the end, or until one that cannot be read; then the last key that could be.
    fn copy(
        &mut self,
        from: &Value,
        insert: &mut Statement<'_>,
        copied: &mut RecoveredTable,
    ) -> Result<Option<Option<Value>>> {
        let columns = self.rows.column_count();
        let mut last = None;
        let Ok(mut rows) = self.rows.query([from]) else { return Ok(Some(None)) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(None),
                Err(_) => return Ok(Some(last)),
            };
            let values: Result<Vec<Value>> = (0..columns).map(|column| row.get(column)).collect();
            let Ok(values) = values else {
                copied.unusable += 1;
                continue;
            };
            if put(insert, &values)? {
                copied.rows += 1;
            } else {
                copied.unusable += 1;
            }
            last = values.into_iter().next();
        }
    }

    /// Copies what stands directly below `below`: in a table without row ids a row may stand above the leaves, and is
    /// reached from behind only.
    fn copy_back(
        &mut self,
        below: i64,
        above: i64,
        insert: &mut Statement<'_>,
        copied: &mut RecoveredTable,
    ) -> Result<()> {
        let columns = self.back.column_count();
        let Ok(mut rows) = self.back.query([below]) else { return Ok(()) };
        while let Ok(Some(row)) = rows.next() {
            let values: Result<Vec<Value>> = (0..columns).map(|column| row.get(column)).collect();
            let Ok(values) = values else { break };
            if !matches!(values.first(), Some(Value::Integer(key)) if *key > above) {
                break;
            }
            copied.rows += u64::from(put(insert, &values)?);
        }
        Ok(())
    }

    fn can_read(&mut self, from: i64) -> bool {
        let columns = self.first.column_count();
        let Ok(mut rows) = self.first.query([from]) else { return false };
        match rows.next() {
            Ok(Some(row)) => (0..columns).all(|column| row.get::<_, Value>(column).is_ok()),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// The first key behind `last` from which it can be read again.
    fn next_readable(&mut self, last: i64) -> Option<i64> {
        let (mut bad, mut good) = [self.step_by_keys(last), self.step_blindly(last)]
            .into_iter()
            .flatten()
            .min_by_key(|found| found.1)?;
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if self.can_read(middle) { good = middle } else { bad = middle }
        }
        Some(good)
    }

    /// A key from which it cannot be read, and a later one from which it can: along those that are known.
    fn step_by_keys(&mut self, last: i64) -> Option<(i64, i64)> {
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => self.read_keys(),
        };
        let mut bad = last;
        let found = keys[keys.partition_point(|key| *key <= last)..].iter().find_map(|key| {
            if self.can_read(*key) {
                return Some((bad, *key));
            }
            bad = *key;
            None
        });
        self.keys = Some(keys);
        found
    }

    /// As many as can be read.
    fn read_keys(&self) -> Vec<i64> {
        let mut keys = Vec::new();
        for sql in self.key_queries {
            let Ok(mut statement) = self.conn.prepare(sql) else { continue };
            let Ok(mut rows) = statement.query([]) else { continue };
            while let Ok(Some(row)) = rows.next() {
                keys.extend(row.get::<_, i64>(0));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The same in steps that double, where no key is known.
    fn step_blindly(&mut self, last: i64) -> Option<(i64, i64)> {
        // The relay's keys are positive: from the smallest number on, the steps would not come as far as those.
        let mut bad = last.max(-1);
        let mut step: i64 = 1;
        while bad < i64::MAX {
            let next = bad.saturating_add(step);
            if self.can_read(next) {
                return Some((bad, next));
            }
            (bad, step) = (next, step.saturating_mul(2));
        }
        None
    }
}

/// Whether the row went in: one that the schema does not allow is none, nor is one that comes a second time. Any other
/// error is the fresh database's, as on a full disk, and not the row's.
fn put(insert: &mut Statement<'_>, values: &[Value]) -> Result<bool> {
    match insert.execute(params_from_iter(&values[1..])) {
        Ok(_) => Ok(true),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => Ok(false),
            _ => Err(error),
        },
    }
}
