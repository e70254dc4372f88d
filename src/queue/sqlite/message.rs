//! Whole messages as they are read back: envelope, recipients, content.

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Result, Row, params};

use crate::mail::address;
use crate::mail::{
    Address, Body, DeliverBy, Expanded, Handling, Hold, Notify, Priority, Release, ReplySource, Ret,
};
use crate::queue::rows::{Fetched, Origin, QueuedMessage, QueuedRecipient, Spoilt};
use crate::queue::{MessageId, RecipientId};

use super::due::domain_from;
use super::odd;

const MESSAGE: &str = "
    SELECT sender, user, client, helo, received_at, expires_at, size, body, smtputf8, ret, envid, priority,
           require_tls, tls_optional, release_at, release_asked, deliver_by, deliver_by_mode
    FROM messages WHERE id = ?1";
const RECIPIENT: &str = "
    SELECT message_id, address, domain, attempts, notify, orcpt, last_reply, last_mx, warned_at, last_reply_source,
           bounce_requested_at IS NOT NULL AS to_bounce, expanded
    FROM recipients WHERE id = ?1 AND (state = 'queued' OR bounce_requested_at IS NOT NULL)";

/// See [`crate::queue::Reads::message`].
pub(super) fn fetch(conn: &Connection, id: MessageId, recipients: &[RecipientId]) -> Result<Fetched> {
    let mut fetched = Fetched { message: None, spoilt: Vec::new() };
    let mut message = odd::unless_odd(|| envelope(conn, id))?;
    let mut statement = conn.prepare_cached(RECIPIENT)?;
    for recipient in recipients {
        let mut rows = statement.query([recipient.0])?;
        let Some(row) = rows.next()? else { continue };
        let of_message = odd::int(row, row.as_ref().column_index("message_id")?)?;
        let read = match &message {
            _ if of_message.is_some_and(|of| of != id.0) => continue,
            Ok(Some(_)) => odd::unless_odd(|| self::recipient(row, *recipient))?,
            Ok(None) => Err("its message is missing".to_owned()),
            Err(why) => Err(format!("its message cannot be read: {why}")),
        };
        match (read, &mut message) {
            (Ok(recipient), Ok(Some(message))) => message.recipients.push(recipient),
            (Err(why), _) => fetched.spoilt.push(Spoilt { recipient: *recipient, why }),
            (Ok(_), _) => {}
        }
    }
    fetched.message = message.ok().flatten().filter(|message| !message.recipients.is_empty());
    Ok(fetched)
}

/// The message without its recipients; none where there is none.
fn envelope(conn: &Connection, id: MessageId) -> Result<Option<QueuedMessage>> {
    let mut statement = conn.prepare_cached(MESSAGE)?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut message = message(row, id)?;
    message.sender = match text(row, "sender")? {
        "" => None,
        _ => Some(address(row, "sender")?),
    };
    Ok(Some(message))
}

fn text<'r>(row: &'r Row<'_>, name: &str) -> Result<&'r str> {
    row.get_ref(name)?.as_str().map_err(|error| odd::odd_value(row, name, error))
}

/// Whatever is read back goes into a command line: it is read as strictly as what a client sent.
fn address(row: &Row<'_>, name: &str) -> Result<Address> {
    let parsed = address::parse(text(row, name)?);
    parsed.map_err(|error| odd::odd_value(row, name, FromSqlError::Other(Box::new(error))))
}

/// Without its sender and recipients.
fn message(row: &Row<'_>, id: MessageId) -> Result<QueuedMessage> {
    let client: Option<String> = row.get("client")?;
    let body: String = row.get("body")?;
    let ret: Option<String> = row.get("ret")?;
    Ok(QueuedMessage {
        id,
        sender: None,
        origin: Origin {
            user: row.get("user")?,
            client: client.and_then(|ip| ip.parse().ok()),
            helo: row.get("helo")?,
        },
        received_at: row.get("received_at")?,
        expires_at: row.get("expires_at")?,
        size: row.get::<_, i64>("size")?.unsigned_abs(),
        body: Body::from_word(&body).unwrap_or(Body::EightBitMime),
        smtputf8: row.get("smtputf8")?,
        ret: ret.as_deref().and_then(Ret::from_word),
        envid: row.get("envid")?,
        handling: handling(row)?,
        recipients: Vec::new(),
        content: None,
    })
}

/// What a person has spoilt asks for nothing; but for REQUIRETLS, where any number but 0 asks.
fn handling(row: &Row<'_>) -> Result<Handling> {
    let release_at: Option<i64> = row.get("release_at")?;
    let asked: Option<String> = row.get("release_asked")?;
    let by: Option<i64> = row.get("deliver_by")?;
    let mode: Option<String> = row.get("deliver_by_mode")?;
    let release = release_at.map(|at| {
        let asked = asked.as_deref().and_then(Hold::from_word).unwrap_or(Hold::Until(at));
        Release { at, asked }
    });
    let mode = mode.as_deref().and_then(DeliverBy::read_mode);
    let deliver_by = by.zip(mode).map(|(at, (returns, trace))| DeliverBy { at, returns, trace });
    let priority = Priority::clamped(row.get("priority")?);
    let require_tls = row.get("require_tls")?;
    // Only what was written says that protection may go.
    let tls_optional = row.get::<_, i64>("tls_optional")? == 1;
    Ok(Handling { priority, require_tls, tls_optional, release, deliver_by })
}

fn recipient(row: &Row<'_>, id: RecipientId) -> Result<QueuedRecipient> {
    let notify: Option<String> = row.get("notify")?;
    let reply_source: Option<String> = row.get("last_reply_source")?;
    let expanded: Option<String> = row.get("expanded")?;
    Ok(QueuedRecipient {
        id,
        address: address(row, "address")?,
        domain: domain_from(row.get_ref("domain")?.as_str().unwrap_or_default()),
        attempts: row.get("attempts")?,
        notify: notify.as_deref().and_then(Notify::from_word),
        orcpt: row.get("orcpt")?,
        last_reply: row.get("last_reply")?,
        last_mx: row.get("last_mx")?,
        warned_at: row.get("warned_at")?,
        last_reply_source: reply_source.as_deref().map_or(ReplySource::Local, ReplySource::from_word),
        to_bounce: row.get("to_bounce")?,
        expanded: expanded.as_deref().map_or_else(Vec::new, Expanded::from_text),
    })
}

/// See [`crate::queue::Reads::in_doubt`].
pub(super) fn in_doubt(conn: &Connection) -> Result<Vec<(MessageId, Vec<RecipientId>)>> {
    let mut found: Vec<(MessageId, Vec<RecipientId>)> = Vec::new();
    let mut statement = conn.prepare(
        "SELECT message_id, id FROM recipients WHERE in_doubt_since IS NOT NULL AND state = 'queued'
         ORDER BY message_id, id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (Some(message), recipient) = (odd::int(row, 0)?, RecipientId(row.get(1)?)) else { continue };
        let message = MessageId(message);
        match found.last_mut() {
            Some((last, recipients)) if *last == message => recipients.push(recipient),
            _ => found.push((message, vec![recipient])),
        }
    }
    Ok(found)
}

/// See [`crate::queue::Reads::knows`].
pub(super) fn is_known(conn: &Connection, message: MessageId) -> Result<bool> {
    let mut statement = conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE id = ?1) OR EXISTS (SELECT 1 FROM history WHERE message_id = ?1)",
    )?;
    statement.query_row([message.0], |row| row.get(0))
}

pub(super) fn size(conn: &Connection, message: MessageId) -> Result<Option<u64>> {
    let mut statement = conn.prepare_cached("SELECT size FROM messages WHERE id = ?1")?;
    let mut rows = statement.query([message.0])?;
    rows.next()?.map(|row| Ok(odd::int(row, 0)?.unwrap_or(0).unsigned_abs())).transpose()
}

pub(super) fn chunk(conn: &Connection, message: MessageId, seq: u32) -> Result<Option<Vec<u8>>> {
    let mut statement = conn.prepare_cached("SELECT data FROM content WHERE message_id = ?1 AND seq = ?2")?;
    let mut rows = statement.query(params![message.0, seq])?;
    rows.next()?.map(|row| Ok(row.get_ref(0)?.as_bytes()?.to_vec())).transpose()
}
