//! Kicks: making what waits due now, a bounded part at a time, and the record of who asked.
//!
//! Runs inside the writer's transaction.

use std::borrow::Cow;

use rusqlite::{Connection, Result, params};

use crate::config::atrn;
use crate::mail::Domain;

use crate::queue::rows::{Asker, Kick, KickScope, Kicked};

/// Recipients that one kick moves in one transaction: a larger kick does not hold up the others.
const KICK_ROWS_MAX: i64 = 5_000;
/// What an asker may kick. ?2 user, ?3 client, ?4 a list of domains, ?5 whether it may kick all.
const THEIRS: &str = "(?5 OR r.domain IN (SELECT value FROM json_each(?4))
                   OR m.user IS ?2 AND (?2 IS NOT NULL OR m.client = ?3))";
/// ?1 at, ?2 node, ?3 user, ?4 client, ?5 recipients.
pub(super) const INSERT_KICK: &str =
    "INSERT INTO kicks (at, node, user, client, recipients) VALUES (?1, ?2, ?3, ?4, ?5)";

/// The first part of a kick, or another: the domains' waiting recipients become due, but for what is held
/// until its release (RFC 4865). The try takes no step of the schedule: whoever kicks six times has not waited six
/// times. What is not the asker's to kick is neither moved nor counted.
pub(super) fn kick(
    conn: &Connection,
    kick: &Kick,
    asker: &Asker,
    now: i64,
    is_first: bool,
) -> Result<(Kicked, bool)> {
    let (domain, domains) = domains_of(kick);
    let (is_all, own) = match &asker.scope {
        KickScope::All => (true, "[]".to_owned()),
        KickScope::Own(domains) => (false, super::counts::json_list(domains.iter().map(String::as_str))),
    };
    let client = asker.client.map(|ip| ip.to_string());
    // Somebody waits for the number; the parts that follow need not count all of them again.
    let waiting: u32 = if is_first {
        let count = format!(
            "SELECT count(*) FROM recipients r JOIN messages m ON m.id = r.message_id
             WHERE r.state = 'queued' AND r.domain IN ({domains}) AND {THEIRS}"
        );
        conn.prepare_cached(&count)?
            .query_row(params![domain, asker.user, client, own, is_all], |row| row.get(0))?
    } else {
        0
    };
    if is_first && waiting == 0 {
        return Ok((Kicked::Nothing, false));
    }
    let mut statement = conn.prepare_cached(&format!("DELETE FROM backoffs WHERE lane IN ({domains})"))?;
    let mut backed_off = statement.execute([&domain])?;
    // The row of a domain that is fetched tells people so, and is no backoff.
    if let Kick::Lane(lane, _) = kick
        && atrn::domain_of_lane(lane).is_none()
    {
        backed_off += conn.prepare_cached("DELETE FROM backoffs WHERE lane = ?")?.execute([lane])?;
    }
    let mut moving = conn.prepare_cached(&format!(
        "UPDATE recipients SET next_attempt_at = ?6, kicked_attempts = kicked_attempts + 1 WHERE id IN
             (SELECT r.id FROM recipients r JOIN messages m ON m.id = r.message_id
              WHERE r.state = 'queued' AND r.next_attempt_at > ?6 AND r.domain IN ({domains})
                  AND coalesce(m.release_at, 0) <= ?6 AND {THEIRS} LIMIT ?7)"
    ))?;
    let moved = moving.execute(params![domain, asker.user, client, own, is_all, now, KICK_ROWS_MAX])?;
    let (waiting, more) = (waiting as usize, moved as i64 == KICK_ROWS_MAX);
    let kicked = match waiting {
        0 => Kicked::Nothing,
        _ if more => Kicked::InParts(waiting),
        _ if moved == 0 && backed_off == 0 => Kicked::UnderWay(waiting),
        _ => Kicked::Started(waiting),
    };
    Ok((kicked, more))
}

pub(super) fn record(conn: &Connection, kick: &Kick, asker: &Asker, now: i64, kicked: Kicked) -> Result<()> {
    let client = asker.client.map(|ip| ip.to_string());
    conn.prepare_cached(INSERT_KICK)?
        .execute(params![now, kick.to_string(), asker.user, client, kicked.waiting() as i64])
        .map(drop)
}

/// What is ?1, and the query for the domains (and lanes) that are meant.
fn domains_of(kick: &Kick) -> (Cow<'_, str>, &'static str) {
    match kick {
        Kick::Domain(domain) => (domain.as_str().into(), "SELECT ?1"),
        Kick::Lane(_, domains) => {
            let names = domains.iter().map(Domain::as_str);
            (super::counts::json_list(names).into(), "SELECT value FROM json_each(?1)")
        }
        // From one domain to the next along the index: as many steps as there are domains, not recipients.
        // substr, since to LIKE an underscore is a wildcard.
        Kick::DomainAndBelow(domain) => (
            domain.as_str().into(),
            "WITH RECURSIVE each(name) AS (
                 SELECT min(domain) FROM recipients
                 UNION ALL
                 SELECT (SELECT min(domain) FROM recipients WHERE domain > each.name) FROM each
                 WHERE each.name IS NOT NULL)
             SELECT name FROM each
             WHERE name = ?1 OR substr(name, -length(?1) - 1) = '.' || ?1",
        ),
    }
}
