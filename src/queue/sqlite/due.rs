//! What is due, what is past its lifetime: the questions that the scheduler asks all the time.
//!
//! Each walks along an index, however long the queue is.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};

use crate::mail::{Address, Domain, Priority};
use crate::queue::rows::{Due, DueCursor, DueDomains, Ending, Expired, ExpiryCursor, Over, Place};
use crate::queue::{MessageId, RecipientId, Submitted};

use super::odd;

macro_rules! recipients_due {
    ($which:literal) => {
        recipients_due!("", $which)
    };
    ($index:literal, $which:literal) => {
        concat!(
            "SELECT recipients.id, message_id, domain, next_attempt_at, max(attempts - kicked_attempts, 0),
             recipients.priority, m.tls_optional, m.user, m.tag FROM recipients ",
            $index,
            " LEFT JOIN messages m ON m.id = message_id ",
            $which
        )
    };
}

fn due_row(row: &Row<'_>) -> Result<Due> {
    let domain = row.get_ref(2)?.as_str().unwrap_or_default();
    // What is wrong with the row is found when its message is read, and then it is held.
    Ok(Due {
        recipient: RecipientId(row.get(0)?),
        message: MessageId(odd::int(row, 1)?.unwrap_or_default()),
        domain: domain_from(domain),
        due_at: odd::int(row, 3)?.unwrap_or_default(),
        attempts: odd::count(row, 4)?,
        priority: Priority::clamped(odd::int(row, 5)?.unwrap_or_default()),
        tls_optional: odd::int(row, 6)? == Some(1),
        submitted: Submitted::new(odd::text(row, 7)?, odd::text(row, 8)?).map(Arc::new),
        fresh: None,
    })
}

/// A domain that a person has spoilt is looked up as it stands, and fails there.
pub(super) fn domain_from(text: &str) -> Domain {
    Domain::parse(text).unwrap_or_else(|_| Domain::of(&Address::new_dangerous("", text)))
}

// Two questions, so that both are one walk along the index: the rest of a second, and what is later.
pub(super) const DUE_SAME_SECOND: &str = recipients_due!(
    "WHERE state = 'queued' AND next_attempt_at = ?1 AND recipients.id > ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, recipients.id LIMIT ?3"
);
pub(super) const DUE_LATER: &str = recipients_due!(
    "WHERE state = 'queued' AND next_attempt_at > ?1 AND next_attempt_at <= ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, recipients.id LIMIT ?3"
);
// A question for each priority, so that each is one walk along the index, whatever else waits.
pub(super) const DOMAIN_NEXT_PRIORITY: &str =
    "SELECT max(priority) FROM recipients WHERE domain = ?1 AND state = 'queued' AND priority < ?2";
pub(super) const DOMAIN_OF_PRIORITY: &str = recipients_due!(
    "WHERE domain = ?1 AND state = 'queued' AND recipients.priority = ?2 AND next_attempt_at <= ?3
    AND bounce_requested_at IS NULL ORDER BY next_attempt_at, recipients.id LIMIT ?4"
);
// The same behind a place in it: the rest of its second, and what is later.
pub(super) const DOMAIN_SAME_SECOND: &str = recipients_due!(
    "WHERE domain = ?1 AND state = 'queued' AND recipients.priority = ?2 AND next_attempt_at = ?3 AND recipients.id > ?4
    AND bounce_requested_at IS NULL ORDER BY recipients.id LIMIT ?5"
);
pub(super) const DOMAIN_LATER: &str = recipients_due!(
    "WHERE domain = ?1 AND state = 'queued' AND recipients.priority = ?2 AND next_attempt_at > ?3
    AND next_attempt_at <= ?4 AND bounce_requested_at IS NULL ORDER BY next_attempt_at, recipients.id LIMIT ?5"
);
/// `priority <> 0` lets SQLite see that the index serves.
pub(super) const DUE_OF_PRIORITY: &str = recipients_due!(
    "WHERE state = 'queued' AND recipients.priority <> 0 AND recipients.priority = ?1 AND next_attempt_at <= ?2
    AND bounce_requested_at IS NULL ORDER BY next_attempt_at, recipients.id LIMIT ?3"
);
// The same behind a place in it.
pub(super) const PRIORITY_SAME_SECOND: &str = recipients_due!(
    "WHERE state = 'queued' AND recipients.priority <> 0 AND recipients.priority = ?1 AND next_attempt_at = ?2
    AND recipients.id > ?3 AND bounce_requested_at IS NULL ORDER BY recipients.id LIMIT ?4"
);
pub(super) const PRIORITY_LATER: &str = recipients_due!(
    "WHERE state = 'queued' AND recipients.priority <> 0 AND recipients.priority = ?1 AND next_attempt_at > ?2
    AND next_attempt_at <= ?3 AND bounce_requested_at IS NULL ORDER BY next_attempt_at, recipients.id LIMIT ?4"
);
pub(super) const NEXT_DOMAIN: &str = "SELECT min(domain) FROM recipients WHERE domain > ?1";
pub(super) const OLDEST_OF_PRIORITY: &str = "
    SELECT next_attempt_at FROM recipients
    WHERE domain = ?1 AND state = 'queued' AND priority = ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at LIMIT 1";
/// INDEXED BY: otherwise it walks through all that waits, in the order of ids.
pub(super) const TO_BOUNCE: &str = recipients_due!(
    "INDEXED BY recipients_to_bounce",
    "WHERE bounce_requested_at IS NOT NULL AND recipients.id > ?1 ORDER BY recipients.id LIMIT ?2"
);
/// Messages of one kind that are over. As above: the rest of a second, and what is later. Held messages stay here as
/// long as they are held: a page of messages is walked at a time, whatever is found in it.
pub(super) fn over_sql(ending: Ending) -> [String; 2] {
    let (time, index, kind) = match ending {
        Ending::Deadline => ("expires_at", "messages_expiring", "expires_at IS NOT NULL"),
        Ending::BounceLifetime => {
            ("lifetime_from", "messages_by_age", "expires_at IS NULL AND (sender = '') = 1")
        }
        Ending::Lifetime => ("lifetime_from", "messages_by_age", "expires_at IS NULL AND (sender = '') = 0"),
    };
    let from = format!("SELECT {time}, id FROM messages INDEXED BY {index} WHERE {kind}");
    [
        format!("{from} AND {time} = ?1 AND id > ?2 ORDER BY id LIMIT ?3"),
        format!("{from} AND {time} > ?1 AND {time} <= ?2 ORDER BY {time}, id LIMIT ?3"),
    ]
}
pub(super) const QUEUED_OF_MESSAGE: &str = recipients_due!(
    "WHERE message_id = ?1 AND state = 'queued' AND bounce_requested_at IS NULL ORDER BY recipients.id"
);

/// See [`crate::queue::Reads::due`].
pub(super) fn due(conn: &Connection, after: DueCursor, until: i64, limit: usize) -> Result<Vec<Due>> {
    let mut found = Vec::new();
    if after.id < i64::MAX && after.at <= until {
        collect(conn, DUE_SAME_SECOND, params![after.at, after.id, limit as i64], &mut found)?;
    }
    if found.len() < limit {
        let rest = (limit - found.len()) as i64;
        collect(conn, DUE_LATER, params![after.at, until, rest], &mut found)?;
    }
    Ok(found)
}

/// See [`crate::queue::Reads::due_in_domain`]. Nearly always there is one priority to ask for.
pub(super) fn due_in_domain(
    conn: &Connection,
    domain: &Domain,
    after: Option<Place>,
    until: i64,
    limit: usize,
) -> Result<Vec<Due>> {
    let mut next_priority = conn.prepare_cached(DOMAIN_NEXT_PRIORITY)?;
    let mut found = Vec::new();
    let mut below = i64::MAX;
    if let Some((Reverse(priority), DueCursor { at, id })) = after {
        below = priority.value().into();
        if id < i64::MAX && at <= until {
            let place = params![domain.as_str(), below, at, id, limit as i64];
            collect(conn, DOMAIN_SAME_SECOND, place, &mut found)?;
        }
        let rest = limit.saturating_sub(found.len()) as i64;
        collect(conn, DOMAIN_LATER, params![domain.as_str(), below, at, until, rest], &mut found)?;
    }
    while found.len() < limit {
        let priority = next_priority.query_row(params![domain.as_str(), below], |row| odd::int(row, 0))?;
        let Some(priority) = priority else { break };
        let rest = (limit - found.len()) as i64;
        collect(conn, DOMAIN_OF_PRIORITY, params![domain.as_str(), priority, until, rest], &mut found)?;
        below = priority;
    }
    Ok(found)
}

/// See [`crate::queue::Reads::urgent`].
pub(super) fn urgent(conn: &Connection, after: Option<Place>, until: i64, limit: usize) -> Result<Vec<Due>> {
    let (mut found, mut first) = (Vec::new(), Priority::HIGHEST.value());
    let rest_after = |found: &Vec<Due>| limit.saturating_sub(found.len()) as i64;
    if let Some((Reverse(priority), DueCursor { at, id })) = after {
        let priority = priority.value();
        first = priority.saturating_sub(1);
        if id < i64::MAX && at <= until {
            collect(conn, PRIORITY_SAME_SECOND, params![priority, at, id, limit as i64], &mut found)?;
        }
        let rest = rest_after(&found);
        collect(conn, PRIORITY_LATER, params![priority, at, until, rest], &mut found)?;
    }
    for priority in (1..=first).rev() {
        let rest = rest_after(&found);
        collect(conn, DUE_OF_PRIORITY, params![priority, until, rest], &mut found)?;
    }
    Ok(found)
}

/// See [`crate::queue::Reads::expired`].
pub(super) fn expired(conn: &Connection, after: ExpiryCursor, over: &Over, limit: usize) -> Result<Expired> {
    let mut due = Vec::new();
    let (ending, at, id) = match after {
        ExpiryCursor::Returned(after) => {
            collect(conn, TO_BOUNCE, params![after, limit as i64], &mut due)?;
            let last = due.last().filter(|_| due.len() == limit).map(|last| last.recipient.0);
            let next = last
                .map_or_else(|| Some(first_of(Ending::Deadline)), |last| Some(ExpiryCursor::Returned(last)));
            return Ok(Expired { due, searched: next });
        }
        ExpiryCursor::Over(ending, at, id) => (ending, at, id),
    };
    let mut messages = messages_over(conn, ending, (at, id), over.of(ending), limit)?;
    let is_all = messages.len() < limit;
    let mut searched = None;
    while due.len() < limit
        && let Some((at, id)) = messages.pop_front()
    {
        collect(conn, QUEUED_OF_MESSAGE, params![id], &mut due)?;
        searched = Some(ExpiryCursor::Over(ending, at, id));
    }
    let next = match ending {
        Ending::Deadline => Some(first_of(Ending::BounceLifetime)),
        Ending::BounceLifetime => Some(first_of(Ending::Lifetime)),
        Ending::Lifetime => None,
    };
    let is_done = is_all && messages.is_empty();
    Ok(Expired { due, searched: if is_done { next } else { searched } })
}

fn first_of(ending: Ending) -> ExpiryCursor {
    ExpiryCursor::Over(ending, i64::MIN, i64::MAX)
}

/// The next messages that are over behind this time and id, with their times: held ones among them.
fn messages_over(
    conn: &Connection,
    ending: Ending,
    (at, id): (i64, i64),
    until: i64,
    limit: usize,
) -> Result<VecDeque<(i64, i64)>> {
    let mut found = VecDeque::new();
    let mut walk = |sql: &str, params: [i64; 3]| -> Result<()> {
        let mut statement = conn.prepare_cached(sql)?;
        for row in statement.query_map(params, |row| Ok((odd::int(row, 0)?.unwrap_or(until), row.get(1)?)))? {
            found.push_back(row?);
        }
        Ok(())
    };
    let limit = limit as i64;
    let [same_second, later] = over_sql(ending);
    if id < i64::MAX && at <= until {
        walk(&same_second, [at, id, limit])?;
    }
    walk(&later, [at, until, limit])?;
    found.truncate(limit as usize);
    Ok(found)
}

fn collect(conn: &Connection, sql: &str, params: impl rusqlite::Params, found: &mut Vec<Due>) -> Result<()> {
    for due in conn.prepare_cached(sql)?.query_map(params, due_row)? {
        found.push(due?);
    }
    Ok(())
}

/// See [`crate::queue::Reads::due_domains`]. From one domain to the next along the index: as many steps as there are
/// domains, and priorities in each, however many recipients.
pub(super) fn due_domains(conn: &Connection, after: &str, until: i64, max: usize) -> Result<DueDomains> {
    let mut next = conn.prepare_cached(NEXT_DOMAIN)?;
    let mut next_priority = conn.prepare_cached(DOMAIN_NEXT_PRIORITY)?;
    let mut oldest_of = conn.prepare_cached(OLDEST_OF_PRIORITY)?;
    let mut found = DueDomains { due: Vec::new(), searched: Some(after.to_owned()) };
    for _ in 0..max {
        found.searched = next.query_row([&found.searched], |row| row.get(0).or(Ok(None)))?;
        let Some(name) = &found.searched else { break };
        let (mut oldest, mut below): (Option<i64>, i64) = (None, i64::MAX);
        while let Some(priority) = next_priority.query_row(params![name, below], |row| odd::int(row, 0))? {
            let at = oldest_of.query_row(params![name, priority], |row| odd::int(row, 0)).optional()?;
            oldest = oldest.into_iter().chain(at.flatten()).min();
            below = priority;
        }
        if let Some(at) = oldest.filter(|at| *at <= until) {
            found.due.push((domain_from(name), at));
        }
    }
    Ok(found)
}

pub(super) fn next_due_after(conn: &Connection, after: i64) -> Result<Option<i64>> {
    conn.prepare_cached(
        "SELECT min(next_attempt_at) FROM recipients WHERE state = 'queued' AND next_attempt_at > ?1",
    )?
    // One with a fraction: the second in which it is over.
    .query_row([after], |row| Ok(odd::int(row, 0)?.map(|at| at.max(after.saturating_add(1)))))
}
