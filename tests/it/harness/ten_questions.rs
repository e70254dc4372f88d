//! The ten questions of an operator as docs/sql.md has them, each with its command and its SELECT, and a queue to ask
//! them of. For a test (`cli::ten_questions`) and for `benches/operator.rs`.

use std::path::Path;

use postrider::queue::MessageId;
use rusqlite::{Connection, Result, params};

const PAGE: &str = include_str!("../../../docs/sql.md");
const DAY_SECS: i64 = 86_400;
/// The domain that is asked about, of those that wait: it has a route.
pub(crate) const DOMAIN: &str = "d7.test";
/// What the config says of it.
pub(crate) const ROUTE: &str = "domain = \"d7.test\"\nrelay = [\"[127.0.0.1]:2525\"]";

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    /// Recipients that wait, each of a message of its own; they came an hour ago.
    pub(crate) waiting: i64,
    /// Their domains: d0.test and so on.
    pub(crate) domains: i64,
    /// Recipients that are finished, evenly over the days, a twentieth of them refused.
    pub(crate) history: i64,
    pub(crate) days: i64,
}

/// A question, its command without `postrider`, and its SELECT.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) words: String,
    pub(crate) command: Vec<String>,
    pub(crate) select: String,
}

/// The ids of a message that waits for [`DOMAIN`], and of one that is finished.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) waits: String,
    pub(crate) finished: String,
}

/// From the page, about this queue.
pub(crate) fn questions(ids: &Ids) -> Vec<Question> {
    let section = PAGE.split("\n## The ten questions of an operator\n").nth(1).expect("the section");
    let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("sql\n")).expect("its block");
    let block = block.replace("example.org", DOMAIN).replace("you@", "u7@");
    let block = block.replace("1K6XQ3V8T4D", &ids.waits).replace("1K5ZR0M7H2B", &ids.finished);
    let questions = block.split("-- ").skip(1).map(|one| {
        let (words, select) = one.split_once('\n').expect("a SELECT below its comment");
        let (words, command) = words.split_once("? postrider ").expect("a question and its command");
        let command = command.split(' ').map(str::to_owned).collect();
        Question { words: words.to_owned(), command, select: select.to_owned() }
    });
    questions.collect()
}

/// Fills a database that has the schema.
pub(crate) fn fill(path: &Path, amounts: Amounts, now: i64) -> Result<Ids> {
    let Amounts { history, days, .. } = amounts;
    let conn = Connection::open(path)?;
    conn.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
    let (begin, step) = ((now - days * DAY_SECS) * 1_000_000, days * DAY_SECS * 1_000_000 / history);
    fill_history(&conn, amounts, begin, step)?;
    // No id of what is finished is met, of which each third is one.
    let came = (now - 3600) * 1_000_000 + 1;
    fill_waiting(&conn, amounts, came)?;
    conn.execute_batch(&format!(
        "INSERT INTO routes VALUES (1, '{DOMAIN}', 'route:{DOMAIN}', '[127.0.0.1]:2525');
         INSERT INTO suspensions (kind, value) VALUES ('domain', 'd9.test');
         INSERT INTO backoffs
             SELECT iif(domain = '{DOMAIN}', 'route:', '') || domain, 3, {now} + 900, '421 4.3.2 ' || domain || ' is busy', {now}
             FROM (SELECT DISTINCT domain FROM recipients) WHERE domain LIKE 'd%7.test';
         INSERT INTO host_settings (mx, setting, value, changed_at)
             SELECT 'mx' || domain, 'connections', 2, {now} FROM (SELECT DISTINCT domain FROM recipients)
             WHERE domain LIKE 'd%5.test'"
    ))?;
    // Those that are asked about have the name that belongs to their id.
    let (waits, finished) = (MessageId(came + 7 * 3), MessageId(begin + history / 2 * step));
    conn.execute("UPDATE messages SET queue_id = ?2 WHERE id = ?1", params![waits.0, waits.to_string()])?;
    conn.execute(
        "UPDATE history SET queue_id = ?2 WHERE message_id = ?1",
        params![finished.0, finished.to_string()],
    )?;
    conn.execute_batch("COMMIT")?;
    Ok(Ids { waits: waits.to_string(), finished: finished.to_string() })
}

const EACH: &str = "WITH RECURSIVE each (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM each WHERE n < ?1 - 1)";

fn fill_history(conn: &Connection, amounts: Amounts, begin: i64, step: i64) -> Result<()> {
    let Amounts { history, domains, .. } = amounts;
    conn.execute(
        &format!(
            "{EACH} INSERT INTO history (message_id, recipient_id, queue_id, sender, address, state, received_at,
                 finished_at, attempts, size, reply, mx, reply_source, user, client, tls, source_address,
                 header_message_id, subject, tag, finished_by, part)
             SELECT ?2 + n * ?3, ?2 + n * ?3 + 1, 'Q' || n, 'app@sender.test', 'u' || n || '@d' || (n % ?4) || '.test',
                 iif(n % 20, 'delivered', 'failed'), (?2 + n * ?3) / 1000000, (?2 + n * ?3) / 1000000 + n % 97, 1, 4096,
                 iif(n % 20, '250 2.0.0 queued as ' || n, '550 5.1.1 no user ' || n || ' here'),
                 'mx' || (n % ?4) || '.test', 'remote', 'app' || (n % 7), '192.0.2.7', 'TLSv1.3 verified', '192.0.2.25',
                 printf('%08x', n) || '.id@app.test', 'Your order ' || n || ' of today', 'shop/' || (n % 50), 'outcome', 1 + n / 1024
             FROM each"
        ),
        params![history, begin, step, domains],
    )?;
    conn.execute(
        "INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, tls, phase, code, reply, outcome)
         SELECT recipient_id + 1, recipient_id, received_at, 12, mx, '192.0.2.1', tls, 'rcpt', substr(reply, 1, 3), reply,
             state FROM history",
        [],
    )?;
    Ok(())
}

fn fill_waiting(conn: &Connection, amounts: Amounts, came: i64) -> Result<()> {
    let Amounts { waiting, domains, .. } = amounts;
    conn.execute(
        &format!(
            "{EACH} INSERT INTO messages (id, queue_id, sender, user, client, helo, received_at, size, body, smtputf8,
                 header_message_id, tag)
             SELECT ?2 + n * 3, 'W' || n, 'app@sender.test', 'app', '192.0.2.7', 'app.test', ?2 / 1000000, 4096, '7bit', 0,
                 'w' || n || '.id@app.test', 'shop'
             FROM each"
        ),
        params![waiting, came],
    )?;
    conn.execute(
        &format!(
            "{EACH} INSERT INTO recipients (id, message_id, address, domain, attempts, next_attempt_at, last_attempt_at,
                 last_reply, last_mx, last_reply_source)
             SELECT ?2 + n * 3 + 1, ?2 + n * 3, 'u' || n || '@d' || (n % ?3) || '.test', 'd' || (n % ?3) || '.test', 1,
                 ?2 / 1000000 + 7200 + n % 60, ?2 / 1000000, '451 4.7.1 ' || n || ' later', 'mx' || (n % ?3) || '.test',
                 'remote'
             FROM each"
        ),
        params![waiting, came, domains],
    )?;
    conn.execute_batch(
        "INSERT INTO dialogues (id, message_id, dialogue)
             SELECT id + 1, message_id, '3  C: RCPT TO:<' || address || '>' || char(10) || '9  S: ' || last_reply
             FROM recipients ORDER BY id LIMIT 10000;
         INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, tls, phase, code, enhanced, reply, outcome, dialogue_id)
             SELECT r.id + 1, r.id, r.last_attempt_at, 12, r.last_mx, '192.0.2.1', 'none', 'rcpt', 451, '4.7.1', r.last_reply,
                 'deferred', d.id FROM recipients r LEFT JOIN dialogues d ON d.id = r.id + 1",
    )
}
