//! Counting what waits: by domain and by lane for operators, by user for quotas. Reads the whole queue.
//!
//! A lane is a domain or a route that gathers many. Routes are not the queue's affair: it is handed the
//! name of each domain's lane, and does the counting in SQL, so that a message with recipients in two
//! domains of one lane is one message there.

use std::sync::Arc;

use rusqlite::{Connection, Result};
use serde_json::{Map, Value};

use crate::mail::Domain;
use crate::queue::gauge_rows::LaneCount;
use crate::queue::quotas::{self, BytesByUser};

use super::{odd, suspensions};

/// From one domain to the next along the index: as many steps as there are domains, not recipients.
const DOMAINS: &str = "
    WITH RECURSIVE each(name) AS (
        SELECT min(domain) FROM recipients
        UNION ALL
        SELECT (SELECT min(domain) FROM recipients WHERE domain > each.name) FROM each WHERE each.name IS NOT NULL)
    SELECT name FROM each WHERE name IS NOT NULL";

/// ?1: an object of domains and their lanes, where these are not the same.
const BY_LANE: &str = "
    WITH lane_of(domain, lane) AS MATERIALIZED (SELECT key, value FROM json_each(?1))
    SELECT coalesce(l.lane, recipients.domain) AS lane, count(DISTINCT recipients.message_id), count(*),
           sum(recipients.state = 'held'),
           min(CASE WHEN recipients.state = 'queued' AND NOT is_suspended THEN recipients.next_attempt_at END),
           sum(is_suspended)
    FROM recipients LEFT JOIN lane_of l ON l.domain = recipients.domain
    GROUP BY 1 ORDER BY count(*) DESC, lane";

/// See [`crate::queue::Reads::domains`]. What a person wrote into the column and is no domain is left out.
pub(super) fn domains(conn: &Connection) -> Result<Vec<Domain>> {
    let mut found = Vec::new();
    for name in conn.prepare_cached(DOMAINS)?.query_map([], |row| odd::text(row, 0))? {
        found.extend(name?.and_then(|name| Domain::parse(&name).ok()));
    }
    Ok(found)
}

/// See [`crate::queue::Reads::waiting_by_lane`].
pub(super) fn by_lane(conn: &Connection, lane_of: &dyn Fn(&Domain) -> Arc<str>) -> Result<Vec<LaneCount>> {
    let mut lanes = Map::new();
    for domain in domains(conn)? {
        let lane = lane_of(&domain);
        if *lane != *domain.as_str() {
            lanes.insert(domain.as_str().to_owned(), Value::from(&*lane));
        }
    }
    let count = |number: i64| number.unsigned_abs();
    conn.prepare_cached(&suspensions::if_any(conn, BY_LANE)?)?
        .query_map([Value::from(lanes).to_string()], |row| {
            Ok(LaneCount {
                lane: odd::text(row, 0)?.unwrap_or_default(),
                messages: row.get(1).map(count)?,
                recipients: row.get(2).map(count)?,
                held: row.get(3).map(count)?,
                next_attempt_at: odd::int(row, 4)?,
                suspended: row.get(5).map(count)?,
            })
        })?
        .collect()
}

/// See [`crate::queue::Reads::bytes_by_user`]. Added up here: SQLite would sort the rows first.
pub(super) fn by_user(conn: &Connection) -> Result<BytesByUser> {
    let mut found = BytesByUser::new();
    let mut statement = conn.prepare_cached("SELECT user, size FROM messages WHERE user IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let bytes = odd::int(row, 1)?.unwrap_or(0).max(0).unsigned_abs();
        // What is no text is no user's name.
        if let Ok(user) = row.get_ref(0)?.as_str() {
            quotas::add(&mut found, user, bytes);
        }
    }
    Ok(found)
}

/// A JSON list for `json_each`.
pub(super) fn json_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    Value::from(names.map(Value::from).collect::<Vec<_>>()).to_string()
}
