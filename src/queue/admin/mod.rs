//! The queue for people: looks and changes from outside, with or without the relay running.
//!
//! A connection of its own, as anybody with `sqlite3` has; a relay that runs notices within two
//! seconds. Changes are made in small transactions, so that the relay's own are never long in waiting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, ToSql, params};

use crate::mail::Domain;

mod kicks;
mod rows;

pub use kicks::KickLine;
pub use rows::{
    DomainLine, Envelope, Filter, LaneLine, LimitLine, Line, Shown, Summary, Try, WorkaroundLine,
};

use super::error::QueueError;
use super::store::{CHUNK_BYTES_MAX, DELETE_CONTENT, DELETE_MESSAGE, DELETE_RECIPIENT, INSERT_HISTORY};
use super::{DestinationRow, Finished, MessageId, WorkaroundRow, migrate, read, workaround};

/// How long somebody else's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Recipients changed in one transaction.
const ROWS_MAX: i64 = 1_000;

/// A connection of an operator.
#[derive(Debug)]
pub struct Admin {
    conn: Connection,
    path: PathBuf,
}

/// Which recipients a change is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of one message.
    Message(MessageId),
    /// Those of one domain.
    Domain(Domain),
    /// All.
    All,
}

impl Which {
    /// A condition on `recipients`, with its ?1.
    fn condition(&self) -> (&'static str, Box<dyn ToSql>) {
        match self {
            Which::Message(id) => ("message_id = ?1", Box::new(id.0)),
            Which::Domain(domain) => ("domain = ?1", Box::new(domain.as_str().to_owned())),
            Which::All => ("?1", Box::new(true)),
        }
    }
}

impl Admin {
    /// To look only.
    ///
    /// # Errors
    /// There is no queue here, or this user may not read it.
    pub fn to_read(path: &Path) -> Result<Admin, QueueError> {
        Admin::open(path, false)
    }

    /// To change.
    ///
    /// # Errors
    /// There is no queue here, or this user may not write it.
    pub fn to_write(path: &Path) -> Result<Admin, QueueError> {
        Admin::open(path, true)
    }

    fn open(path: &Path, write: bool) -> Result<Admin, QueueError> {
        // SQLite's own words for these would not help.
        std::fs::OpenOptions::new().read(true).write(write).open(path).map_err(|source| {
            QueueError::File {
                path: path.to_owned(),
                remedy: match source.kind() {
                    std::io::ErrorKind::NotFound => {
                        "no queue here yet: start `postrider serve`, or name its --config"
                    }
                    _ => "run this as the user that owns the queue",
                },
                source,
            }
        })?;
        let conn = if write {
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        } else {
            read::open_reader(path)
        };
        let admin = Admin { conn: conn.map_err(|error| explain(path, error))?, path: path.to_owned() };
        admin.try_to(|conn| {
            conn.busy_timeout(PATIENCE)?;
            conn.execute_batch(if write {
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF"
            } else {
                ""
            })?;
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        })?;
        migrate::must_be_current(&admin.conn, path)?;
        Ok(admin)
    }

    fn try_to<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, QueueError> {
        act(&self.conn).map_err(|error| explain(&self.path, error))
    }

    /// What waits, in the order in which it came; or what of `history` has the state asked for.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Line>, QueueError> {
        let finished = !matches!(filter.state.as_deref(), None | Some("queued" | "held"));
        let (lines, domain) = if finished {
            // History has the address only: the domain is what follows its last @, as routing sees it.
            (HISTORY_LINES, "lower(substr(recipient, -length(?1) - 1)) = '@' || ?1")
        } else {
            (QUEUE_LINES, "domain = ?1")
        };
        let sql = format!(
            "SELECT * FROM ({lines}) WHERE (?1 IS NULL OR {domain}) AND (?2 IS NULL OR sender = ?2)
                 AND (?3 IS NULL OR state = ?3)
             ORDER BY message_id, recipient_id LIMIT ?4"
        );
        let domain = filter.domain.as_ref().map(Domain::as_str);
        self.try_to(|conn| {
            conn.prepare(&sql)?
                .query_map(params![domain, filter.sender, filter.state, filter.limit], line)?
                .collect()
        })
    }

    /// One message, waiting or finished; none where nothing is known of it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn show(&self, id: MessageId) -> Result<Option<Shown>, QueueError> {
        self.try_to(|conn| {
            let message = conn
                .query_row(
                    "SELECT sender, user, client, helo, datetime(received_at, 'unixepoch'),
                            datetime(expires_at, 'unixepoch'), size, body, envid, priority, require_tls,
                            datetime(release_at, 'unixepoch'), datetime(deliver_by, 'unixepoch'), deliver_by_mode
                     FROM messages WHERE id = ?1",
                    [id.0],
                    envelope,
                )
                .optional()?;
            let mut recipients = Vec::new();
            for lines in [QUEUE_LINES, HISTORY_LINES] {
                let sql = format!("SELECT * FROM ({lines}) WHERE message_id = ?1 ORDER BY recipient_id");
                for line in conn.prepare(&sql)?.query_map([id.0], line)? {
                    let line = line?;
                    let tries = tries(conn, line.id)?;
                    recipients.push((line, tries));
                }
            }
            let first = read::chunk(conn, id, 0)?;
            let known = message.is_some() || !recipients.is_empty();
            let header = first.map(|chunk| header_of(&chunk));
            Ok(known.then(|| Shown { queue_id: id.to_string(), message, recipients, header }))
        })
    }

    /// What was learnt about hosts that complained.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn destinations(&self) -> Result<Vec<DestinationRow>, QueueError> {
        self.try_to(read::destinations)
    }

    /// What hosts get wrong.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn workarounds(&self) -> Result<Vec<WorkaroundRow>, QueueError> {
        self.try_to(workaround::read)
    }

    /// Numbers, and the `limit` domains with the most waiting.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn summary(&self, limit: u32) -> Result<Summary, QueueError> {
        self.try_to(|conn| {
            let (messages, bytes) =
                conn.query_row("SELECT count(*), coalesce(sum(size), 0) FROM messages", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            let (recipients, held, due) = conn.query_row(
                "SELECT count(*), coalesce(sum(state = 'held'), 0),
                        coalesce(sum(state = 'queued' AND next_attempt_at <= unixepoch()), 0) FROM recipients",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?;
            let domains = conn
                .prepare(
                    "SELECT domain, total, under_5m, under_1h, under_6h, under_1d, older, held, next_attempt
                     FROM queue_by_domain LIMIT ?1",
                )?
                .query_map([limit], domain_line)?
                .collect::<rusqlite::Result<_>>()?;
            let limits = conn
                .prepare(
                    "SELECT mx, connections, messages_per_minute, last_reply FROM destinations
                     ORDER BY changed_at DESC, mx LIMIT ?",
                )?
                .query_map([limit], |row| {
                    Ok(LimitLine {
                        mx: row.get(0)?,
                        connections: row.get(1)?,
                        messages_per_minute: row.get(2)?,
                        last_reply: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let workarounds = conn
                .prepare(
                    "SELECT mx, what, value, last_reply, datetime(found_at, 'unixepoch'),
                            datetime(retry_at, 'unixepoch')
                     FROM workarounds ORDER BY found_at DESC, mx, what LIMIT ?",
                )?
                .query_map([limit], |row| {
                    Ok(WorkaroundLine {
                        mx: row.get(0)?,
                        what: row.get(1)?,
                        value: row.get(2)?,
                        last_reply: row.get(3)?,
                        found: row.get(4)?,
                        retry: row.get(5)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let lanes = conn
                .prepare(
                    "SELECT lane, failures, datetime(backoff_until, 'unixepoch'), last_reply FROM lanes
                     WHERE backoff_until > unixepoch() ORDER BY failures DESC, lane LIMIT ?",
                )?
                .query_map([limit], |row| {
                    Ok(LaneLine {
                        lane: row.get(0)?,
                        failures: row.get(1)?,
                        until: row.get(2)?,
                        last_reply: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let kicks = "SELECT count(*) FROM kicks WHERE at > unixepoch() - 3600";
            let kicks_last_hour = conn.query_row(kicks, [], |row| row.get(0))?;
            Ok(Summary {
                messages,
                bytes,
                recipients,
                held,
                due,
                domains,
                limits,
                workarounds,
                lanes,
                kicks_last_hour,
            })
        })
    }

    /// Makes them due now, forgets the backoff of their lanes and records the kick; what its sender has held until a
    /// later time (RFC 4865) stays held: [`Admin::hold`] and [`Admin::release`] free it. Gives how many wait.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn retry(&self, which: &Which) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let waiting: u32 = self.try_to(|conn| {
            conn.execute(
                &format!("DELETE FROM lanes WHERE lane IN (SELECT domain FROM recipients WHERE {condition})"),
                [&value],
            )?;
            if *which == Which::All {
                conn.execute("DELETE FROM lanes", [])?;
            }
            let sql = format!("SELECT count(*) FROM recipients WHERE state = 'queued' AND {condition}");
            conn.query_row(&sql, [&value], |row| row.get(0))
        })?;
        self.change(
            which,
            "next_attempt_at = unixepoch(), bounce_at = NULL",
            "state = 'queued' AND (next_attempt_at > unixepoch() OR bounce_at IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = message_id AND m.release_at > unixepoch())",
        )?;
        self.record_kick(which, waiting)?;
        Ok(waiting as usize)
    }

    /// Keeps them from being tried. Gives how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn hold(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(which, "state = 'held', bounce_at = NULL", "(state = 'queued' OR bounce_at IS NOT NULL)")
    }

    /// Has held ones tried again, now. Gives how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn release(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(
            which,
            "state = 'queued', next_attempt_at = unixepoch(), bounce_at = NULL",
            "state = 'held'",
        )
    }

    /// Has them returned to the sender, held ones too: by the relay that runs, or the next that starts, which
    /// alone can write the bounce. Gives how many. One that is being delivered at this moment may still arrive.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn bounce(&self, which: &Which) -> Result<usize, QueueError> {
        self.change(which, RETURN, "bounce_at IS NULL")
    }

    fn change(&self, which: &Which, set: &str, of: &str) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let sql = format!(
            "UPDATE recipients SET {set}
             WHERE id IN (SELECT id FROM recipients WHERE {of} AND {condition} LIMIT {ROWS_MAX})"
        );
        let mut changed = 0;
        loop {
            match self.try_to(|conn| conn.execute(&sql, [&value]))? {
                0 => return Ok(changed),
                more => changed += more,
            }
        }
    }

    /// Takes them out: to `history` as `removed`, nobody is told. Gives how many. One that is being
    /// delivered at this moment may still arrive.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove(&self, which: &Which) -> Result<usize, QueueError> {
        let (condition, value) = which.condition();
        let some = format!("SELECT id, message_id FROM recipients WHERE {condition} LIMIT {ROWS_MAX}");
        let mut removed = 0;
        loop {
            let part = self.try_to(|conn| {
                let part =
                    rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
                let rows = part
                    .prepare(&some)?
                    .query_map([&value], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
                for (recipient, message) in &rows {
                    remove_one(&part, *recipient, *message)?;
                }
                part.commit()?;
                Ok(rows.len())
            })?;
            if part == 0 {
                return Ok(removed);
            }
            removed += part;
        }
    }

    /// What `PRAGMA quick_check` finds wrong; reads the whole file.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn damage(&self) -> Result<Vec<String>, QueueError> {
        self.try_to(|conn| {
            conn.prepare("PRAGMA quick_check")?
                .query_map([], |row| row.get(0))?
                .filter(|line| !matches!(line, Ok(line) if line == "ok"))
                .collect()
        })
    }
}

/// RFC 3463 §3.4: 5.3.0, a status of our own mail system. What the world said last stays legible behind it.
const RETURN: &str = "bounce_at = unixepoch(), last_said_by = 'postrider',
    last_reply = '554 5.3.0 returned by the operator of this relay' || coalesce('; last reply: ' || last_reply, '')";

/// The columns of [`Line`], its message's and its own id behind them.
const QUEUE_LINES: &str =
    "SELECT queue_id, sender, recipient, state, attempts, next_attempt, last_reply, last_mx,
    received, age, size, recipient_id, last_said_by, message_id, domain FROM queue";
const HISTORY_LINES: &str = "SELECT queue_id, sender, address AS recipient, state, attempts, NULL, reply, mx,
    datetime(received_at, 'unixepoch'), finished_at - received_at, size, recipient_id, said_by, message_id
    FROM history";

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line {
        queue_id: row.get(0)?,
        sender: row.get(1)?,
        recipient: row.get(2)?,
        state: row.get(3)?,
        attempts: row.get(4)?,
        next_attempt: row.get(5)?,
        last_reply: row.get(6)?,
        last_mx: row.get(7)?,
        received: row.get(8)?,
        age: row.get(9)?,
        size: row.get(10)?,
        id: row.get(11)?,
        said_by: row.get(12)?,
    })
}

fn envelope(row: &Row<'_>) -> rusqlite::Result<Envelope> {
    Ok(Envelope {
        sender: row.get(0)?,
        user: row.get(1)?,
        client: row.get(2)?,
        helo: row.get(3)?,
        received: row.get(4)?,
        expires: row.get(5)?,
        size: row.get(6)?,
        body: row.get(7)?,
        envid: row.get(8)?,
        priority: row.get(9)?,
        require_tls: row.get(10)?,
        release: row.get(11)?,
        deliver_by: row.get(12)?,
        deliver_by_mode: row.get(13)?,
    })
}

fn domain_line(row: &Row<'_>) -> rusqlite::Result<DomainLine> {
    Ok(DomainLine {
        domain: row.get(0)?,
        total: row.get(1)?,
        under_5m: row.get(2)?,
        under_1h: row.get(3)?,
        under_6h: row.get(4)?,
        under_1d: row.get(5)?,
        older: row.get(6)?,
        held: row.get(7)?,
        next_attempt: row.get(8)?,
    })
}

fn tries(conn: &Connection, recipient: i64) -> rusqlite::Result<Vec<Try>> {
    conn.prepare_cached(
        "SELECT datetime(at, 'unixepoch'), duration_ms, mx, ip, tls, phase, reply, outcome, said_by
         FROM attempts WHERE recipient_id = ?1 ORDER BY id",
    )?
    .query_map([recipient], |row| {
        Ok(Try {
            at: row.get(0)?,
            duration_ms: row.get(1)?,
            mx: row.get(2)?,
            ip: row.get(3)?,
            tls: row.get(4)?,
            phase: row.get(5)?,
            reply: row.get(6)?,
            outcome: row.get(7)?,
            said_by: row.get(8)?,
        })
    })?
    .collect()
}

/// Up to the first empty line.
fn header_of(content: &[u8]) -> String {
    let content = &content[..content.len().min(CHUNK_BYTES_MAX)];
    let end = content.windows(4).position(|four| four == b"\r\n\r\n").map_or(content.len(), |at| at + 2);
    String::from_utf8_lossy(&content[..end]).replace("\r\n", "\n")
}

pub(super) fn remove_one(conn: &Connection, recipient: i64, message: i64) -> rusqlite::Result<()> {
    let state = Finished::Removed.as_str();
    conn.prepare_cached(INSERT_HISTORY)?.execute(params![
        recipient,
        state,
        super::now_us() / 1_000_000,
        0,
        None::<String>,
        None::<String>,
        None::<String>,
    ])?;
    conn.prepare_cached(DELETE_RECIPIENT)?.execute([recipient])?;
    if conn.prepare_cached(DELETE_MESSAGE)?.execute([message])? > 0 {
        conn.prepare_cached(DELETE_CONTENT)?.execute([message])?;
    }
    Ok(())
}

/// In an operator's words, where SQLite's would send them searching.
fn explain(path: &Path, error: rusqlite::Error) -> QueueError {
    let (why, remedy) = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("may not be written by this user", "run this as the user that owns the queue")
        }
        Some(ErrorCode::DatabaseBusy) => {
            ("is held by somebody's open transaction", "end that one, then try again")
        }
        Some(ErrorCode::NotADatabase) => ("is not a SQLite database", "set another [queue] path"),
        _ => return error.into(),
    };
    QueueError::Unusable { path: path.to_owned(), why: why.to_owned(), remedy }
}
