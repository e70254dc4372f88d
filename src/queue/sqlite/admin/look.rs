//! What people look at: lists, one message, numbers. Ordinary queries over the views and tables.

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params_from_iter};

use crate::mail::header::header_of;
use crate::queue::admin_rows::{
    DomainLine, End, Envelope, FinishedMessage, HostLine, LaneLine, Line, Selected, Shown, ShownLabels,
    ShownRecipient, Summary, Try,
};
use crate::queue::filter::Filter;
use crate::queue::held::HeldCount;
use crate::queue::shared::now_us;
use crate::queue::sqlite::accept::CHUNK_BYTES_MAX;
use crate::queue::sqlite::filter::Condition;
use crate::queue::sqlite::{message, odd, suspensions};
use crate::queue::suspension::SuspendedBy;
use crate::queue::{MessageId, RecipientId};

use super::story::story;

/// See [`crate::queue::AdminStore::list`].
pub(super) fn list(conn: &Connection, filter: &Filter, limit: u32) -> Result<Vec<Line>> {
    // What waits: who has waited for longest. What is finished: what somebody asks for is nearly always the latest.
    let (lines, order) = match filter.is_of_finished() {
        true => (HISTORY_LINES, "message_id DESC, recipient_id"),
        false => (QUEUE_LINES, "message_id, recipient_id"),
    };
    let condition = Condition::of(filter);
    let wanted = condition.where_sql();
    let sql = format!("SELECT * FROM ({lines}) WHERE {wanted} ORDER BY {order} LIMIT {limit}");
    conn.prepare(&sql)?.query_map(params_from_iter(&condition.values), line)?.collect()
}

/// See [`crate::queue::AdminStore::count`].
pub(super) fn count(conn: &Connection, filter: &Filter) -> Result<i64> {
    let condition = Condition::of(filter);
    let rows = match filter.is_of_finished() {
        true => format!("({HISTORY_LINES})"),
        false => "recipients".to_owned(),
    };
    let sql = format!("SELECT count(*) FROM {rows} WHERE {}", condition.where_sql());
    conn.query_row(&sql, params_from_iter(&condition.values), |row| row.get(0))
}

/// See [`crate::queue::AdminStore::suspended_of`].
pub(super) fn count_suspended(conn: &Connection, these: &[(MessageId, RecipientId)]) -> Result<i64> {
    let sql = "SELECT count(*) FROM recipients
               WHERE id IN (SELECT value FROM json_each(?1)) AND is_suspended";
    conn.query_row(&suspensions::if_any(conn, sql)?, [list_of(these)], |row| row.get(0))
}

/// See [`crate::queue::AdminStore::select`]; `of`: which of the selected it would change.
pub(super) fn selected(conn: &Connection, filter: &Filter, of: &str, limit: u32) -> Result<Selected> {
    let condition = Condition::of(filter);
    // All of it of one moment.
    let moment = conn.unchecked_transaction()?;
    let sql = format!("SELECT message_id, id FROM recipients WHERE {of} AND {}", condition.where_sql());
    let id = |row: &Row<'_>| Ok((MessageId(odd::get(row, 0)?), RecipientId(row.get(1)?)));
    let mut ids = moment
        .prepare(&sql)?
        .query_map(params_from_iter(&condition.values), id)?
        .collect::<Result<Vec<(MessageId, RecipientId)>>>()?;
    ids.sort_unstable();
    let lanes = moment
        .query_row(&condition.count_lanes(of), params_from_iter(&condition.values), |row| row.get(0))?;
    let sql = format!(
        "SELECT * FROM ({QUEUE_LINES}) WHERE recipient_id IN (SELECT value FROM json_each(?1))
         ORDER BY message_id, recipient_id"
    );
    let shown = &ids[..ids.len().min(limit as usize)];
    let first = moment.prepare(&sql)?.query_map([list_of(shown)], line)?.collect::<Result<_>>()?;
    let messages = ids.chunk_by(|a, b| a.0 == b.0).count() as i64;
    Ok(Selected { recipients: ids.len() as i64, messages, lanes, first, ids })
}

/// For `json_each`.
pub(super) fn list_of(ids: &[(MessageId, RecipientId)]) -> String {
    format!("[{}]", ids.iter().map(|(_, id)| id.0.to_string()).collect::<Vec<_>>().join(","))
}

/// See [`crate::queue::AdminStore::show`].
pub(super) fn show(conn: &Connection, id: MessageId) -> Result<Option<Shown>> {
    let message = conn
        .query_row(
            "SELECT sender, user, client, helo, datetime(received_at, 'unixepoch'),
                    datetime(ends_at, 'unixepoch'), size, body, envid, priority, require_tls,
                    datetime(release_at, 'unixepoch'), datetime(deliver_by, 'unixepoch'), deliver_by_mode, tls_optional,
                    header_message_id, subject, tag
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
            let end = end(conn, id, line.id)?;
            let suspended = suspended_by(conn, line.id)?;
            recipients.push(ShownRecipient { line, end, suspended, tries });
        }
    }
    let first = message::chunk(conn, id, 0)?;
    let known = message.is_some() || !recipients.is_empty();
    let header = first.map(|chunk| header_text(&chunk));
    let finished = if message.is_some() { None } else { finished(conn, id)? };
    let story = if known { story(conn, id)? } else { Vec::new() };
    Ok(known.then(|| Shown { queue_id: id.to_string(), message, finished, recipients, story, header }))
}

fn suspended_by(conn: &Connection, recipient: i64) -> Result<Vec<SuspendedBy>> {
    conn.prepare_cached(
        "SELECT kind, value, datetime(s.until, 'unixepoch'), s.reason, s.login
         FROM suspended w JOIN suspensions s USING (kind, value) WHERE w.recipient_id = ?1 ORDER BY kind, value",
    )?
    .query_map([recipient], |row| {
        let (kind, value) = (odd::get(row, 0)?, odd::get(row, 1)?);
        let (until, reason) = (odd::get(row, 2)?, odd::get(row, 3)?);
        Ok(SuspendedBy { kind, value, until, reason, login: odd::get(row, 4)? })
    })?
    .collect()
}

/// What history keeps of a message.
fn finished(conn: &Connection, id: MessageId) -> Result<Option<FinishedMessage>> {
    let sql =
        "SELECT sender, user, client, datetime(received_at, 'unixepoch'), size, header_message_id, subject,
                      tag
               FROM history WHERE message_id = ?1 LIMIT 1";
    let message = |row: &Row<'_>| {
        Ok(FinishedMessage {
            sender: odd::get(row, 0)?,
            user: odd::get(row, 1)?,
            client: odd::get(row, 2)?,
            received: odd::get(row, 3)?,
            size: odd::get(row, 4)?,
            labels: labels(row, 5)?,
        })
    };
    conn.query_row(sql, [id.0], message).optional()
}

/// The three columns from this one on.
fn labels(row: &Row<'_>, at: usize) -> Result<ShownLabels> {
    let (header_message_id, subject, tag) =
        (odd::get(row, at)?, odd::get(row, at + 1)?, odd::get(row, at + 2)?);
    Ok(ShownLabels { header_message_id, subject, tag })
}

/// How a recipient was finished; none: it waits.
fn end(conn: &Connection, message: MessageId, recipient: i64) -> Result<Option<End>> {
    conn.prepare_cached(
        "SELECT datetime(finished_at, 'unixepoch'), finished_by, tls, source_address FROM history
         WHERE message_id = ?1 AND recipient_id = ?2",
    )?
    .query_row([message.0, recipient], |row| {
        Ok(End {
            finished: odd::get(row, 0)?,
            finished_by: odd::get(row, 1)?,
            tls: odd::get(row, 2)?,
            source_address: odd::get(row, 3)?,
        })
    })
    .optional()
}

/// See [`crate::queue::AdminStore::summary`].
pub(super) fn summary(conn: &Connection, filter: &Filter, limit: u32) -> Result<Summary> {
    let condition = Condition::of(filter);
    let of = match condition.is_everything() {
        true => "true".to_owned(),
        false => format!("id IN (SELECT message_id FROM recipients WHERE {})", condition.sql),
    };
    let sql = format!("SELECT count(*), coalesce(sum(size), 0) FROM messages WHERE {of}");
    let (messages, bytes) = conn.query_row(&sql, params_from_iter(&condition.values), |row| {
        Ok((odd::get(row, 0)?, odd::get(row, 1)?))
    })?;
    let now = now_us() / 1_000_000;
    let suspensions = suspensions::count(conn, now)?;
    let waiting = suspensions::if_any(conn, WAITING)?;
    let sql = format!("{waiting} WHERE {} GROUP BY domain) d)", condition.where_sql());
    let (recipients, held, due, backing_off, to_fetch, domains_total, suspended) =
        conn.query_row(&sql, params_from_iter(&condition.values), |row| {
            let number = |at| odd::get::<i64>(row, at);
            Ok((number(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?, number(6)?))
        })?;
    let (suspensions_total, mut suspensions) = match condition.is_everything() && suspensions > 0 {
        true => (suspensions, suspensions::list(conn, now)?),
        false => (0, Vec::new()),
    };
    suspensions.truncate(limit as usize);
    let count = |sql: &str| match condition.is_everything() {
        true => conn.query_row(sql, [], |row| row.get::<_, i64>(0)),
        false => Ok(0),
    };
    let hosts_total = count("SELECT count(*) FROM host_settings")?;
    let lanes_total = count(&format!("SELECT count(*) FROM backoffs WHERE {BACKS_OFF}"))?;
    let limit_of = |total: i64| if total == 0 { 0 } else { limit };
    let kicks = "SELECT count(*) FROM kicks WHERE at > unixepoch() - 3600";
    let kicks_last_hour = conn.query_row(kicks, [], |row| row.get(0))?;
    Ok(Summary {
        messages,
        bytes,
        recipients,
        held,
        held_by: if held > 0 && condition.is_everything() { held_of(conn, None)? } else { Vec::new() },
        due,
        backing_off,
        to_fetch,
        suspended,
        suspensions,
        suspensions_total,
        domains_total,
        hosts_total,
        lanes_total,
        domains: domains(conn, &condition, limit)?,
        hosts: hosts(conn, limit_of(hosts_total))?,
        lanes: lanes(conn, limit_of(lanes_total))?,
        kicks_last_hour,
        new_mail_refused: None,
        fill: None,
    })
}

/// Reasons that are told apart of one domain.
const REASONS_MAX: u32 = 20;

/// See [`crate::queue::AdminStore::held`].
pub(super) fn held_of(conn: &Connection, domain: Option<&str>) -> Result<Vec<HeldCount>> {
    let (reason, of) = match domain {
        // Along an index that has held ones alone.
        None => ("NULL", "?1 IS NULL"),
        Some(_) => ("held_reason", "domain = ?1"),
    };
    let sql = format!(
        "SELECT coalesce(held_by, 'operator'), {reason}, count(*) FROM recipients WHERE state = 'held' AND {of}
         GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {REASONS_MAX}"
    );
    conn.prepare(&sql)?
        .query_map([domain], |row| {
            let (held_by, held_reason) = (odd::get(row, 0)?, odd::get(row, 1)?);
            Ok(HeldCount { held_by, held_reason, recipients: odd::get(row, 2)? })
        })?
        .collect()
}

/// Which rows of `backoffs` are backoffs: those for ATRN are not.
const BACKS_OFF: &str = "backoff_until > unixepoch() AND lane NOT LIKE 'atrn:%'";
/// By domain first: a lane is looked up once for each. To be ended by a WHERE and `GROUP BY domain) d)`.
/// Recipients, held, due, backing off, to be fetched, domains, suspended.
const WAITING: &str = "
    SELECT coalesce(sum(total), 0), coalesce(sum(held), 0), coalesce(sum(iif(is_fetched OR backs_off, 0, due)), 0),
           coalesce(sum(iif(backs_off AND NOT is_fetched, due, 0)), 0),
           coalesce(sum(iif(is_fetched, total - held - suspended, 0)), 0), count(*), coalesce(sum(suspended), 0)
    FROM (SELECT d.*,
                 EXISTS (SELECT 1 FROM backoffs a WHERE a.lane = 'atrn:' || d.domain) AS is_fetched,
                 EXISTS (SELECT 1 FROM backoffs l
                         WHERE l.lane = (SELECT w.lane FROM recipient_lanes w WHERE w.domain = d.domain LIMIT 1)
                             AND l.backoff_until > unixepoch()) AS backs_off
          FROM (SELECT domain, count(*) AS total, sum(state = 'held') AS held, sum(is_suspended) AS suspended,
                       sum(iif(state = 'queued' AND next_attempt_at <= unixepoch(), NOT is_suspended, false)) AS due
                FROM recipients";

/// The columns of [`Line`], its message's and its own id behind them.
pub(super) const QUEUE_LINES: &str =
    "SELECT queue_id, sender, recipient AS address, state, attempts, next_attempt, last_reply, last_mx,
    received, age, size, recipient_id, last_reply_source, message_id, domain, lane_reply, NULL AS finished, held_by, held_reason
    FROM queue";
pub(super) const HISTORY_LINES: &str = "SELECT queue_id, sender, address, state, attempts, NULL, reply AS last_reply,
    mx AS last_mx, datetime(received_at, 'unixepoch'), finished_at - received_at, size, recipient_id, reply_source,
    message_id, domain_of(address) AS domain, NULL AS lane_reply, datetime(finished_at, 'unixepoch') AS finished,
    NULL AS held_by, NULL AS held_reason, user, tag, received_at, finished_at FROM history";

pub(super) fn line(row: &Row<'_>) -> Result<Line> {
    Ok(Line {
        queue_id: odd::get(row, 0)?,
        sender: odd::get(row, 1)?,
        recipient: odd::get(row, 2)?,
        state: odd::get(row, 3)?,
        attempts: odd::get(row, 4)?,
        next_attempt: odd::get(row, 5)?,
        last_reply: odd::get(row, 6)?,
        last_mx: odd::get(row, 7)?,
        received: odd::get(row, 8)?,
        age: odd::get(row, 9)?,
        size: odd::get(row, 10)?,
        id: odd::get(row, 11)?,
        reply_source: odd::get(row, 12)?,
        lane_reply: odd::get(row, 15)?,
        finished: odd::get(row, 16)?,
        held_by: odd::get(row, 17)?,
        held_reason: odd::get(row, 18)?,
    })
}

fn envelope(row: &Row<'_>) -> Result<Envelope> {
    Ok(Envelope {
        sender: odd::get(row, 0)?,
        user: odd::get(row, 1)?,
        client: odd::get(row, 2)?,
        helo: odd::get(row, 3)?,
        received: odd::get(row, 4)?,
        expires: odd::get(row, 5)?,
        size: odd::get(row, 6)?,
        body: odd::get(row, 7)?,
        envid: odd::get(row, 8)?,
        priority: odd::get(row, 9)?,
        require_tls: odd::get(row, 10)?,
        release: odd::get(row, 11)?,
        deliver_by: odd::get(row, 12)?,
        deliver_by_mode: odd::get(row, 13)?,
        tls_optional: odd::get(row, 14)?,
        labels: labels(row, 15)?,
    })
}

/// The view `queue_by_domain`, of what the condition selects.
fn domains(conn: &Connection, condition: &Condition, limit: u32) -> Result<Vec<DomainLine>> {
    // A recipient's id is the time at which it came: an index has all of it.
    let age = "(unixepoch() - id / 1000000)";
    let sql = format!(
        "SELECT d.domain, d.total, d.under_5m, d.under_1h, d.under_6h, d.under_1d, d.older, d.held,
                CASE WHEN EXISTS (SELECT 1 FROM backoffs a WHERE a.lane = 'atrn:' || d.domain) THEN 'ATRN'
                     WHEN d.next_attempt IS NULL AND d.suspended > 0 THEN 'suspended'
                     ELSE datetime(max(d.next_attempt, coalesce(l.backoff_until, 0)), 'unixepoch') END, d.suspended
         FROM (SELECT domain, count(*) AS total, sum({age} < 300) AS under_5m, sum({age} BETWEEN 300 AND 3599) AS under_1h,
                      sum({age} BETWEEN 3600 AND 21599) AS under_6h, sum({age} BETWEEN 21600 AND 86399) AS under_1d,
                      sum({age} >= 86400) AS older, sum(state = 'held') AS held, sum(is_suspended) AS suspended,
                      min(CASE WHEN state = 'queued' AND NOT is_suspended THEN next_attempt_at END) AS next_attempt
               FROM recipients
               WHERE {} GROUP BY domain) d
         LEFT JOIN backoffs l ON l.lane = (SELECT w.lane FROM recipient_lanes w WHERE w.domain = d.domain LIMIT 1)
             AND l.backoff_until > unixepoch()
         ORDER BY d.total DESC, d.domain LIMIT {limit}",
        condition.where_sql()
    );
    conn.prepare(&suspensions::if_any(conn, &sql)?)?
        .query_map(params_from_iter(&condition.values), |row| {
            Ok(DomainLine {
                domain: odd::get(row, 0)?,
                total: odd::get(row, 1)?,
                under_5m: odd::get(row, 2)?,
                under_1h: odd::get(row, 3)?,
                under_6h: odd::get(row, 4)?,
                under_1d: odd::get(row, 5)?,
                older: odd::get(row, 6)?,
                held: odd::get(row, 7)?,
                next_attempt: odd::get(row, 8)?,
                suspended: odd::get(row, 9)?,
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
            mx: odd::get(row, 0)?,
            setting: odd::get(row, 1)?,
            value: odd::get(row, 2)?,
            last_reply: odd::get(row, 3)?,
            changed: odd::get(row, 4)?,
            retry: odd::get(row, 5)?,
        })
    })?
    .collect()
}

fn lanes(conn: &Connection, limit: u32) -> Result<Vec<LaneLine>> {
    let sql = format!(
        "SELECT lane, failures, datetime(backoff_until, 'unixepoch'), last_reply FROM backoffs
         WHERE {BACKS_OFF} ORDER BY failures DESC, lane LIMIT ?1"
    );
    conn.prepare(&sql)?
        .query_map([limit], |row| {
            Ok(LaneLine {
                lane: odd::get(row, 0)?,
                failures: odd::get(row, 1)?,
                until: odd::get(row, 2)?,
                last_reply: odd::get(row, 3)?,
            })
        })?
        .collect()
}

fn tries(conn: &Connection, recipient: i64) -> Result<Vec<Try>> {
    conn.prepare_cached(
        "SELECT datetime(at, 'unixepoch'), duration_ms, mx, ip, tls, phase,
                coalesce((SELECT w.reply FROM replies w WHERE w.id = reply_id), reply), outcome, reply_source,
                tls_policy, dkim, source_address
         FROM attempts WHERE recipient_id = ?1 ORDER BY id",
    )?
    .query_map([recipient], |row| {
        Ok(Try {
            at: odd::get(row, 0)?,
            duration_ms: odd::get(row, 1)?,
            mx: odd::get(row, 2)?,
            ip: odd::get(row, 3)?,
            tls: odd::get(row, 4)?,
            phase: odd::get(row, 5)?,
            reply: odd::get(row, 6)?,
            outcome: odd::get(row, 7)?,
            reply_source: odd::get(row, 8)?,
            tls_policy: odd::get(row, 9)?,
            dkim: odd::get(row, 10)?,
            source_address: odd::get(row, 11)?,
        })
    })?
    .collect()
}

/// Up to the first empty line.
fn header_text(content: &[u8]) -> String {
    let header = header_of(&content[..content.len().min(CHUNK_BYTES_MAX)]);
    String::from_utf8_lossy(header).replace("\r\n", "\n")
}
