//! What a filter selects, as a condition in SQL with bound values.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;
use rusqlite::{Connection, Result};

use crate::queue::filter::{Filter, Pattern};

use super::due::domain_from;

/// Where the rows stand that it is a condition on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// `recipients`, or the lines of the view `queue` by the same names.
    Waiting,
    /// `history`, by the names of `recipients`.
    Finished,
}

/// A condition on rows; `true` where there is none. Its values are ?1, ?2 …
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
    rows: Rows,
}

/// What somebody held with SQL has nothing in it.
const IS_HELD_BY: &str = "(state = 'held' AND coalesce(held_by, 'operator') = ?)";

/// The lane of each domain, and why it waits there; as the view `queue` has them.
const LANES_OF: &str = "
    SELECT d.domain, coalesce(a.lane, d.lane) AS lane, coalesce(a.last_reply, l.last_reply) AS said,
           coalesce(a.last_reply, iif(l.last_reply LIKE '(local) %', substr(l.last_reply, 9), l.last_reply)) AS reply
    FROM (SELECT n.domain, coalesce((SELECT coalesce(t.lane, n.domain) FROM routes t
                                     WHERE t.domain IN (n.domain, '*')
                                        OR t.domain LIKE '*.%' AND length(n.domain) >= length(t.domain)
                                           AND substr(n.domain, 1 - length(t.domain)) = substr(t.domain, 2)
                                     ORDER BY t.position LIMIT 1), n.domain) AS lane
          FROM";
const LANES: &str = " n) d
    LEFT JOIN backoffs l ON l.lane = d.lane AND l.backoff_until > unixepoch()
    LEFT JOIN backoffs a ON a.lane = 'atrn:' || d.domain";

impl Condition {
    pub(super) fn of(filter: &Filter) -> Condition {
        let rows = if filter.is_of_finished() { Rows::Finished } else { Rows::Waiting };
        let mut all = Condition { sql: String::new(), values: Vec::new(), rows };
        let Filter {
            messages,
            user,
            sender,
            recipient,
            domain,
            mx,
            lane,
            reply,
            older_secs,
            tag,
            state,
            held_by,
        } = filter;
        match messages.as_slice() {
            [] => {}
            [id] => all.and("message_id = ?", id.0),
            ids => {
                let list: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
                all.and("message_id IN (SELECT value FROM json_each(?))", format!("[{}]", list.join(",")));
            }
        }
        if let Some(state) = state.as_ref().filter(|state| *state != "finished") {
            all.and("state = ?", state.clone());
        }
        held_by.iter().for_each(|by| all.and(IS_HELD_BY, by.clone()));
        match domain.as_ref().map(|domain| (domain, domain.exact())) {
            Some((_, Some(exact))) => all.and("domain = ?", exact.to_owned()),
            Some((pattern, None)) => all.like("domain", pattern),
            None => {}
        }
        let texts = [("address", recipient), ("last_mx", mx)];
        texts
            .iter()
            .for_each(|(column, pattern)| pattern.iter().for_each(|pattern| all.like(column, pattern)));
        sender.iter().for_each(|pattern| all.of_message(&is_like("sender"), pattern.like()));
        for (column, pattern) in [("user", user), ("tag", tag)] {
            pattern.iter().for_each(|pattern| match pattern.exact() {
                // Along an index, where there is one: an empty text is the one that may be none.
                Some(text) if !text.is_empty() => all.of_message(&format!("{column} = ?"), text.to_owned()),
                _ => all.of_message(&format!("coalesce({column}, '') GLOB ?"), pattern.glob()),
            });
        }
        if let Some(secs) = older_secs {
            all.of_message("received_at <= unixepoch() - ?", *secs);
        }
        lane.iter().for_each(|lane| all.of_domain("lane", "", lane));
        if let Some(reply) = reply {
            all.of_reply(reply);
        }
        all
    }

    /// What may have become otherwise since the filter selected a row, and stands in the row itself: cheap to look at
    /// once more. A reply of the lane was no more than what a recipient without one of its own was selected by.
    pub(super) fn still(filter: &Filter) -> Condition {
        let mut all = Condition { sql: String::new(), values: Vec::new(), rows: Rows::Waiting };
        filter.state.iter().for_each(|state| all.and("state = ?", state.clone()));
        filter.held_by.iter().for_each(|by| all.and(IS_HELD_BY, by.clone()));
        filter.mx.iter().for_each(|pattern| all.like("last_mx", pattern));
        let reply = format!("(last_reply IS NULL OR {})", is_like("last_reply"));
        filter.reply.iter().for_each(|pattern| all.and(&reply, pattern.like()));
        all
    }

    /// Whether it holds for every row.
    pub(super) fn is_everything(&self) -> bool {
        self.sql.is_empty()
    }

    /// For a WHERE.
    pub(super) fn where_sql(&self) -> &str {
        if self.is_everything() { "true" } else { &self.sql }
    }

    /// Takes a condition with one `?`.
    fn and(&mut self, sql: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let and = if self.sql.is_empty() { "" } else { " AND " };
        self.sql += &format!("{and}{}", sql.replace('?', &format!("?{}", self.values.len())));
    }

    fn like(&mut self, column: &str, pattern: &Pattern) {
        self.and(&is_like(column), pattern.like());
    }

    /// How many different lanes there are of the recipients for which this and `of` hold.
    pub(super) fn count_lanes(&self, of: &str) -> String {
        let domains = format!("(SELECT DISTINCT domain FROM recipients WHERE {of} AND {})", self.where_sql());
        format!("SELECT count(DISTINCT lane) FROM ({LANES_OF} {domains}{LANES})")
    }

    /// Each of these domains (a table or SELECT with a column `domain`) with its lane and why that waits.
    pub(super) fn lanes_of(domains: &str) -> String {
        format!("{LANES_OF} {domains}{LANES}")
    }

    /// A condition on the message: history has its columns too.
    fn of_message(&mut self, sql: &str, value: impl Into<Value>) {
        match self.rows {
            Rows::Waiting => self.and(&format!("message_id IN (SELECT id FROM messages WHERE {sql})"), value),
            Rows::Finished => self.and(sql, value),
        }
    }

    /// A condition on what `LANES_OF` says of the domain: there are fewer domains than recipients.
    fn of_domain(&mut self, column: &str, before: &str, pattern: &Pattern) {
        let domains = match self.rows {
            Rows::Waiting => "(SELECT DISTINCT domain FROM recipients)",
            Rows::Finished => "(SELECT DISTINCT domain_of(address) AS domain FROM history)",
        };
        let like = is_like(column);
        self.and(
            &format!("{before}domain IN (SELECT domain FROM ({LANES_OF} {domains}{LANES}) WHERE {like})"),
            pattern.like(),
        );
    }

    /// What a list shows as the last reply.
    fn of_reply(&mut self, pattern: &Pattern) {
        match self.rows {
            Rows::Waiting => {
                let own = format!("CASE WHEN last_reply IS NOT NULL THEN {} ELSE ", is_like("last_reply"));
                self.of_domain("reply", &own, pattern);
                self.sql += " END";
            }
            Rows::Finished => self.like("last_reply", pattern),
        }
    }
}

fn is_like(column: &str) -> String {
    format!("coalesce({column}, '') LIKE ? ESCAPE '\\'")
}

/// `domain_of(address)`: history has the address only, as it was written.
pub(super) fn add_functions(conn: &Connection) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function("domain_of", 1, flags, |context| {
        let address = context.get_raw(0).as_str().unwrap_or_default();
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        Ok(domain_from(domain).as_str().to_owned())
    })
}
