//! What people look at: lists, one message, numbers. Ordinary queries over the views and tables.

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};

use crate::mail::Domain;
use crate::queue::MessageId;
use crate::queue::admin_rows::{
    DomainLine, Envelope, Filter, HostLine, LaneLine, Line, Shown, ShownRecipient, Summary, Try,
};
use crate::queue::sqlite::accept::CHUNK_BYTES_MAX;
use crate::queue::sqlite::message;

/// See [`crate::queue::AdminStore::list`].
pub(super) fn list(conn: &Connection, filter: &Filter) -> Result<Vec<Line>> {
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
    conn.prepare(&sql)?.query_map(params![domain, filter.sender, filter.state, filter.limit], line)?.collect()
}

/// See [`crate::queue::AdminStore::show`].
pub(super) fn show(conn: &Connection, id: MessageId) -> Result<Option<Shown>> {
    let message = conn
        .query_row(
            "SELECT sender, user, client, helo, datetime(received_at, 'unixepoch'),
                    datetime(ends_at, 'unixepoch'), size, body, envid, priority, require_tls,
                    datetime(release_at, 'unixepoch'), datetime(deliver_by, 'unixepoch'), deliver_by_mode
             FROM message_ends WHERE id = ?1",
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
            recipients.push(ShownRecipient { line, tries });
        }
    }
    let first = message::chunk(conn, id, 0)?;
    let known = message.is_some() || !recipients.is_empty();
    let header = first.map(|chunk| header_of(&chunk));
    Ok(known.then(|| Shown { queue_id: id.to_string(), message, recipients, header }))
}

/// See [`crate::queue::AdminStore::summary`].
pub(super) fn summary(conn: &Connection, limit: u32) -> Result<Summary> {
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
    let kicks = "SELECT count(*) FROM kicks WHERE at > unixepoch() - 3600";
    let kicks_last_hour = conn.query_row(kicks, [], |row| row.get(0))?;
    Ok(Summary {
        messages,
        bytes,
        recipients,
        held,
        due,
        domains: domains(conn, limit)?,
        hosts: hosts(conn, limit)?,
        lanes: lanes(conn, limit)?,
        kicks_last_hour,
        new_mail_refused: None,
    })
}

/// The columns of [`Line`], its message's and its own id behind them.
const QUEUE_LINES: &str =
    "SELECT queue_id, sender, recipient, state, attempts, next_attempt, last_reply, last_mx,
    received, age, size, recipient_id, last_reply_source, message_id, domain FROM queue";
const HISTORY_LINES: &str = "SELECT queue_id, sender, address AS recipient, state, attempts, NULL, reply, mx,
    datetime(received_at, 'unixepoch'), finished_at - received_at, size, recipient_id, reply_source, message_id
    FROM history";

fn line(row: &Row<'_>) -> Result<Line> {
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
        reply_source: row.get(12)?,
    })
}

fn envelope(row: &Row<'_>) -> Result<Envelope> {
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

fn domains(conn: &Connection, limit: u32) -> Result<Vec<DomainLine>> {
    conn.prepare(
        "SELECT domain, total, under_5m, under_1h, under_6h, under_1d, older, held, next_attempt
         FROM queue_by_domain LIMIT ?1",
    )?
    .query_map([limit], |row| {
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
    })?
    .collect()
}

fn hosts(conn: &Connection, limit: u32) -> Result<Vec<HostLine>> {
    conn.prepare(
        "SELECT mx, setting, CAST(value AS TEXT), last_reply, datetime(changed_at, 'unixepoch'),
                datetime(retry_at, 'unixepoch')
         FROM host_settings ORDER BY changed_at DESC, mx, setting LIMIT ?1",
    )?
    .query_map([limit], |row| {
        Ok(HostLine {
            mx: row.get(0)?,
            setting: row.get(1)?,
            value: row.get(2)?,
            last_reply: row.get(3)?,
            changed: row.get(4)?,
            retry: row.get(5)?,
        })
    })?
    .collect()
}

fn lanes(conn: &Connection, limit: u32) -> Result<Vec<LaneLine>> {
    conn.prepare(
        "SELECT lane, failures, datetime(backoff_until, 'unixepoch'), last_reply FROM backoffs
         WHERE backoff_until > unixepoch() ORDER BY failures DESC, lane LIMIT ?1",
    )?
    .query_map([limit], |row| {
        Ok(LaneLine { lane: row.get(0)?, failures: row.get(1)?, until: row.get(2)?, last_reply: row.get(3)? })
    })?
    .collect()
}

fn tries(conn: &Connection, recipient: i64) -> Result<Vec<Try>> {
    conn.prepare_cached(
        "SELECT datetime(at, 'unixepoch'), duration_ms, mx, ip, tls, phase, reply, outcome, reply_source
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
            reply_source: row.get(8)?,
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
