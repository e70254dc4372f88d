//! Reading the queue: what is due, whole messages, content.
//!
//! Every read is one short statement on a connection of its own: none holds a snapshot while a network
//! is waited for, which would keep the write-ahead log growing.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};

use crate::mail::{
    Address, Body, DeliverBy, Domain, Expanded, Handling, Hold, Notify, Priority, Release, ReplySource, Ret,
    address,
};

use crate::queue::MessageId;
use crate::queue::RecipientId;
use crate::queue::error::QueueError;
use crate::queue::rows::{BackoffRow, Due, Origin, QueuedMessage, QueuedRecipient};

/// Connections kept open; more are opened while more read at once.
const KEPT_MAX: usize = 16;

/// Reading connections that nobody uses just now.
#[derive(Debug)]
pub(in crate::queue) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    closed: AtomicBool,
}

impl Readers {
    pub(in crate::queue) fn new(path: &Path) -> Readers {
        Readers { path: path.to_owned(), idle: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// No connection is kept any more.
    pub(in crate::queue) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(in crate::queue) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = idle.map_or_else(|| open_reader(&self.path), Ok)?;
        let found = query(&conn)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_MAX && !self.closed.load(Ordering::Relaxed) {
            idle.push(conn);
        }
        Ok(found)
    }
}

pub(in crate::queue) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(Duration::from_secs(5))?;
    // Otherwise a statement is planned anew whenever another value is bound that a partial index might hang on.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // What the writer commits makes a reader's cache worthless: a small one does.
    conn.execute_batch("PRAGMA cache_size = -512; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF;")?;
    Ok(conn)
}

/// A place in the order in which recipients are due: behind this one. Many can be due in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    /// `next_attempt_at`, Unix seconds.
    pub at: i64,
    /// The recipient's id, within that second.
    pub id: i64,
}

/// Before everything.
impl Default for DueCursor {
    fn default() -> DueCursor {
        DueCursor::from(i64::MIN)
    }
}

/// Behind all that is due at this second.
impl From<i64> for DueCursor {
    fn from(at: i64) -> DueCursor {
        DueCursor { at, id: i64::MAX }
    }
}

impl Due {
    /// Behind this one.
    pub fn cursor(&self) -> DueCursor {
        DueCursor { at: self.due_at, id: self.recipient.0 }
    }
}

fn due_row(row: &Row<'_>) -> rusqlite::Result<Due> {
    let domain = row.get_ref(2)?.as_str().unwrap_or_default();
    Ok(Due {
        recipient: RecipientId(row.get(0)?),
        message: MessageId(row.get(1)?),
        domain: domain_from(domain),
        due_at: row.get(3)?,
        attempts: row.get(4)?,
        priority: Priority::clamped(row.get(5)?),
        fresh: None,
    })
}

/// A domain that a person has spoilt is looked up as it stands, and fails there.
fn domain_from(text: &str) -> Domain {
    Domain::parse(text).unwrap_or_else(|_| Domain::of(&Address::new_dangerous("", text)))
}

// Two questions, so that both are one walk along the index: the rest of a second, and what is later.
pub(in crate::queue) const DUE_SAME_SECOND: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority FROM recipients
    WHERE state = 'queued' AND next_attempt_at = ?1 AND id > ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, id LIMIT ?3";
pub(in crate::queue) const DUE_LATER: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority FROM recipients
    WHERE state = 'queued' AND next_attempt_at > ?1 AND next_attempt_at <= ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, id LIMIT ?3";
// A question for each priority, so that each is one walk along the index, whatever else waits.
pub(in crate::queue) const DOMAIN_NEXT_PRIORITY: &str =
    "SELECT max(priority) FROM recipients WHERE domain = ?1 AND state = 'queued' AND priority < ?2";
pub(in crate::queue) const DOMAIN_OF_PRIORITY: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority FROM recipients
    WHERE domain = ?1 AND state = 'queued' AND priority = ?2 AND next_attempt_at <= ?3 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, id LIMIT ?4";
/// `priority <> 0` lets SQLite see that the index serves.
pub(in crate::queue) const DUE_OF_PRIORITY: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority FROM recipients
    WHERE state = 'queued' AND priority <> 0 AND priority = ?1 AND next_attempt_at <= ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at, id LIMIT ?3";
pub(in crate::queue) const NEXT_DOMAIN: &str = "SELECT min(domain) FROM recipients WHERE domain > ?1";
pub(in crate::queue) const OLDEST_OF_PRIORITY: &str = "
    SELECT next_attempt_at FROM recipients
    WHERE domain = ?1 AND state = 'queued' AND priority = ?2 AND bounce_requested_at IS NULL
    ORDER BY next_attempt_at LIMIT 1";
/// INDEXED BY: otherwise it walks through all that waits, in the order of ids.
pub(in crate::queue) const TO_BOUNCE: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority
    FROM recipients INDEXED BY recipients_to_bounce
    WHERE bounce_requested_at IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2";
// As above: the rest of a second, and what is later. Held messages stay here as long as they are held: a page of
// messages is walked at a time, whatever is found in it.
pub(in crate::queue) const EXPIRED_SAME_SECOND: &str = "
    SELECT expires_at, id FROM messages WHERE expires_at = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
pub(in crate::queue) const EXPIRED_LATER: &str = "
    SELECT expires_at, id FROM messages WHERE expires_at > ?1 AND expires_at <= ?2
    ORDER BY expires_at, id LIMIT ?3";
pub(in crate::queue) const QUEUED_OF_MESSAGE: &str = "
    SELECT id, message_id, domain, next_attempt_at, attempts, priority FROM recipients
    WHERE message_id = ?1 AND state = 'queued' AND bounce_requested_at IS NULL ORDER BY id";

/// Domains that have recipients due, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDomains {
    /// Each domain, and when its first recipient was due (Unix seconds).
    pub due: Vec<(Domain, i64)>,
    /// The last domain looked at; none at the end.
    pub searched: Option<String>,
}

/// Where a look for what bounces without a further try goes on; the default is its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryCursor {
    /// Behind this recipient, among those that an operator wants returned.
    Returned(i64),
    /// Behind this time and message, among those past their lifetime.
    Lifetime(i64, i64),
}

impl Default for ExpiryCursor {
    fn default() -> ExpiryCursor {
        ExpiryCursor::Returned(i64::MIN)
    }
}

/// Recipients that bounce without a further try.
#[derive(Debug, Clone)]
pub struct Expired {
    /// Those of one message follow each other.
    pub due: Vec<Due>,
    /// Where to go on; none at the end.
    pub searched: Option<ExpiryCursor>,
}

/// See [`crate::queue::Queue::due`].
pub(in crate::queue) fn due(
    conn: &Connection,
    after: DueCursor,
    until: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Due>> {
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

/// See [`crate::queue::Queue::due_in_domain`]. Nearly always there is one priority to ask for.
pub(in crate::queue) fn due_in_domain(
    conn: &Connection,
    domain: &Domain,
    until: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Due>> {
    let mut next_priority = conn.prepare_cached(DOMAIN_NEXT_PRIORITY)?;
    let mut found = Vec::new();
    let mut below = i64::MAX;
    while found.len() < limit {
        let priority = next_priority.query_row(params![domain.as_str(), below], |row| row.get(0))?;
        let Some(priority) = priority else { break };
        let rest = (limit - found.len()) as i64;
        collect(conn, DOMAIN_OF_PRIORITY, params![domain.as_str(), priority, until, rest], &mut found)?;
        below = priority;
    }
    Ok(found)
}

/// See [`crate::queue::Queue::urgent`].
pub(in crate::queue) fn urgent(conn: &Connection, until: i64, limit: usize) -> rusqlite::Result<Vec<Due>> {
    let mut found = Vec::new();
    for priority in (1..=9).rev() {
        let rest = (limit - found.len().min(limit)) as i64;
        collect(conn, DUE_OF_PRIORITY, params![priority, until, rest], &mut found)?;
    }
    Ok(found)
}

/// See [`crate::queue::Queue::expired`].
pub(in crate::queue) fn expired(
    conn: &Connection,
    after: ExpiryCursor,
    now: i64,
    limit: usize,
) -> rusqlite::Result<Expired> {
    let mut due = Vec::new();
    match after {
        ExpiryCursor::Returned(after) => {
            collect(conn, TO_BOUNCE, params![after, limit as i64], &mut due)?;
            let last = due.last().filter(|_| due.len() == limit).map(|last| last.recipient.0);
            let next = last.map_or(ExpiryCursor::Lifetime(i64::MIN, i64::MAX), ExpiryCursor::Returned);
            Ok(Expired { due, searched: Some(next) })
        }
        ExpiryCursor::Lifetime(at, id) => {
            let mut messages = expired_messages(conn, at, id, now, limit)?;
            let is_all = messages.len() < limit;
            let mut searched = None;
            while due.len() < limit
                && let Some((at, id)) = messages.pop_front()
            {
                collect(conn, QUEUED_OF_MESSAGE, params![id], &mut due)?;
                searched = Some(ExpiryCursor::Lifetime(at, id));
            }
            Ok(Expired { due, searched: searched.filter(|_| !is_all || !messages.is_empty()) })
        }
    }
}

/// The next messages past their lifetime, when that was and their ids: held ones among them.
fn expired_messages(
    conn: &Connection,
    at: i64,
    id: i64,
    now: i64,
    limit: usize,
) -> rusqlite::Result<VecDeque<(i64, i64)>> {
    let mut found = VecDeque::new();
    let mut walk = |sql: &str, params: [i64; 3]| -> rusqlite::Result<()> {
        let mut statement = conn.prepare_cached(sql)?;
        for row in statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))? {
            found.push_back(row?);
        }
        Ok(())
    };
    let limit = limit as i64;
    if id < i64::MAX && at <= now {
        walk(EXPIRED_SAME_SECOND, [at, id, limit])?;
    }
    walk(EXPIRED_LATER, [at, now, limit])?;
    found.truncate(limit as usize);
    Ok(found)
}

fn collect(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    found: &mut Vec<Due>,
) -> rusqlite::Result<()> {
    for due in conn.prepare_cached(sql)?.query_map(params, due_row)? {
        found.push(due?);
    }
    Ok(())
}

/// See [`crate::queue::Queue::due_domains`]. From one domain to the next along the index: as many steps as there are
/// domains, and priorities in each, however many recipients.
pub(in crate::queue) fn due_domains(
    conn: &Connection,
    after: &str,
    until: i64,
    max: usize,
) -> rusqlite::Result<DueDomains> {
    let mut next = conn.prepare_cached(NEXT_DOMAIN)?;
    let mut next_priority = conn.prepare_cached(DOMAIN_NEXT_PRIORITY)?;
    let mut oldest_of = conn.prepare_cached(OLDEST_OF_PRIORITY)?;
    let mut found = DueDomains { due: Vec::new(), searched: Some(after.to_owned()) };
    for _ in 0..max {
        found.searched = next.query_row([&found.searched], |row| row.get(0))?;
        let Some(name) = &found.searched else { break };
        let (mut oldest, mut below): (Option<i64>, i64) = (None, i64::MAX);
        while let Some(priority) = next_priority.query_row(params![name, below], |row| row.get(0))? {
            let at = oldest_of.query_row(params![name, priority], |row| row.get(0)).optional()?;
            oldest = oldest.into_iter().chain(at).min();
            below = priority;
        }
        if let Some(at) = oldest.filter(|at| *at <= until) {
            found.due.push((domain_from(name), at));
        }
    }
    Ok(found)
}

pub(in crate::queue) fn next_due_after(conn: &Connection, after: i64) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached(
        "SELECT min(next_attempt_at) FROM recipients WHERE state = 'queued' AND next_attempt_at > ?1",
    )?
    .query_row([after], |row| row.get(0))
}

pub(in crate::queue) fn backoffs(conn: &Connection) -> rusqlite::Result<Vec<BackoffRow>> {
    conn.prepare_cached("SELECT lane, failures, backoff_until, last_reply FROM backoffs ORDER BY lane")?
        .query_map([], |row| {
            Ok(BackoffRow {
                lane: row.get(0)?,
                failures: row.get(1)?,
                backoff_until: row.get(2)?,
                last_reply: row.get(3)?,
            })
        })?
        .collect()
}

pub(in crate::queue) fn before_dot(
    conn: &Connection,
) -> rusqlite::Result<Vec<(MessageId, Vec<RecipientId>)>> {
    let mut found: Vec<(MessageId, Vec<RecipientId>)> = Vec::new();
    let mut statement = conn.prepare(
        "SELECT message_id, id FROM recipients WHERE in_doubt_since IS NOT NULL AND state = 'queued' ORDER BY message_id, id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (message, recipient) = (MessageId(row.get(0)?), RecipientId(row.get(1)?));
        match found.last_mut() {
            Some((last, recipients)) if *last == message => recipients.push(recipient),
            _ => found.push((message, vec![recipient])),
        }
    }
    Ok(found)
}

/// A message as it was read, and what of it cannot be sent since a person has spoilt it.
pub(in crate::queue) struct Fetched {
    pub(in crate::queue) message: Option<QueuedMessage>,
    pub(in crate::queue) spoilt: Vec<RecipientId>,
}

/// See [`crate::queue::Queue::fetch`].
pub(in crate::queue) fn fetch(
    conn: &Connection,
    id: MessageId,
    recipients: &[RecipientId],
) -> rusqlite::Result<Fetched> {
    let mut fetched = Fetched { message: None, spoilt: Vec::new() };
    let mut statement = conn.prepare_cached(
        "SELECT sender, user, client, helo, received_at, expires_at, size, body, smtputf8, ret, envid, priority,
                require_tls, release_at, release_asked, deliver_by, deliver_by_mode
         FROM messages WHERE id = ?1",
    )?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(fetched) };
    let sender: String = row.get(0)?;
    // Whatever is read back goes into a command line: it is read as strictly as what a client sent.
    let sender = match sender.as_str() {
        "" => Ok(None),
        text => address::parse(text).map(Some),
    };
    let client: Option<String> = row.get(2)?;
    let body: String = row.get(7)?;
    let ret: Option<String> = row.get(9)?;
    let mut message = QueuedMessage {
        id,
        sender: None,
        origin: Origin {
            user: row.get(1)?,
            client: client.and_then(|ip| ip.parse().ok()),
            helo: row.get(3)?,
        },
        received_at: row.get(4)?,
        expires_at: row.get(5)?,
        size: row.get::<_, i64>(6)?.unsigned_abs(),
        body: Body::from_word(&body).unwrap_or(Body::EightBitMime),
        smtputf8: row.get(8)?,
        ret: ret.as_deref().and_then(Ret::from_word),
        envid: row.get(10)?,
        handling: handling(row)?,
        recipients: Vec::with_capacity(recipients.len()),
        content: None,
    };
    let mut statement = conn.prepare_cached(
        "SELECT address, domain, attempts, notify, orcpt, last_reply, last_mx, warned_at, last_reply_source,
                bounce_requested_at IS NOT NULL, expanded
         FROM recipients WHERE id = ?1 AND message_id = ?2 AND (state = 'queued' OR bounce_requested_at IS NOT NULL)",
    )?;
    for recipient in recipients {
        let mut rows = statement.query([recipient.0, id.0])?;
        let Some(row) = rows.next()? else { continue };
        match address::parse(row.get_ref(0)?.as_str().unwrap_or_default()) {
            Ok(address) if sender.is_ok() => {
                message.recipients.push(recipient_row(row, *recipient, address)?)
            }
            _ => fetched.spoilt.push(*recipient),
        }
    }
    message.sender = sender.unwrap_or_default();
    fetched.message = Some(message).filter(|message| !message.recipients.is_empty());
    Ok(fetched)
}

/// From column 11 on. What a person has spoilt asks for nothing; but for REQUIRETLS, where any number but 0 asks.
fn handling(row: &Row<'_>) -> rusqlite::Result<Handling> {
    let release_at: Option<i64> = row.get(13)?;
    let asked: Option<String> = row.get(14)?;
    let by: Option<i64> = row.get(15)?;
    let mode: Option<String> = row.get(16)?;
    let release = release_at.map(|at| {
        let asked = asked.as_deref().and_then(Hold::from_word).unwrap_or(Hold::Until(at));
        Release { at, asked }
    });
    let mode = mode.as_deref().and_then(DeliverBy::read_mode);
    let deliver_by = by.zip(mode).map(|(at, (returns, trace))| DeliverBy { at, returns, trace });
    Ok(Handling { priority: Priority::clamped(row.get(11)?), require_tls: row.get(12)?, release, deliver_by })
}

fn recipient_row(row: &Row<'_>, id: RecipientId, address: Address) -> rusqlite::Result<QueuedRecipient> {
    let notify: Option<String> = row.get(3)?;
    let reply_source: Option<String> = row.get(8)?;
    let expanded: Option<String> = row.get(10)?;
    Ok(QueuedRecipient {
        id,
        address,
        domain: domain_from(row.get_ref(1)?.as_str().unwrap_or_default()),
        attempts: row.get(2)?,
        notify: notify.as_deref().and_then(Notify::from_word),
        orcpt: row.get(4)?,
        last_reply: row.get(5)?,
        last_mx: row.get(6)?,
        warned_at: row.get(7)?,
        last_reply_source: reply_source.as_deref().map_or(ReplySource::Local, ReplySource::from_word),
        to_bounce: row.get(9)?,
        expanded: expanded.as_deref().map_or_else(Vec::new, Expanded::from_text),
    })
}

pub(in crate::queue) fn size_of(conn: &Connection, message: MessageId) -> rusqlite::Result<Option<u64>> {
    let mut statement = conn.prepare_cached("SELECT size FROM messages WHERE id = ?1")?;
    let mut rows = statement.query([message.0])?;
    rows.next()?.map(|row| row.get::<_, i64>(0).map(i64::unsigned_abs)).transpose()
}

pub(in crate::queue) fn chunk(
    conn: &Connection,
    message: MessageId,
    seq: u32,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = conn.prepare_cached("SELECT data FROM content WHERE message_id = ?1 AND seq = ?2")?;
    let mut rows = statement.query(params![message.0, seq])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}
