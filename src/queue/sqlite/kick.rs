//! Kicks: making what waits due now, a bounded part at a time, and the record of who asked.
//!
//! [`kickable`] looks through all that waits for the domains, in the asker's own time. The rest runs inside the
//! writer's transaction, and touches only what it moves.

use std::borrow::Cow;

use rusqlite::{Connection, Result, params};

use crate::config::atrn;
use crate::mail::Domain;

use crate::queue::RecipientId;
use crate::queue::rows::{Asker, Kick, KickScope, Kickable, Kicked};

use super::{odd, suspensions};

/// Recipients that one kick moves in one transaction: a larger kick does not hold up the others.
const KICK_ROWS_MAX: usize = 5_000;
/// What an asker may kick. ?2 user, ?3 client, ?4 a list of domains, ?5 whether it may kick all.
const THEIRS: &str = "(?5 OR recipients.domain IN (SELECT value FROM json_each(?4))
                   OR m.user IS ?2 AND (?2 IS NOT NULL OR m.client = ?3))";
/// ?1 at, ?2 node, ?3 user, ?4 client, ?5 recipients, ?6 the login of who used the command line.
pub(super) const INSERT_KICK: &str =
    "INSERT INTO kicks (at, node, user, client, recipients, login) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// See [`crate::queue::Reads::kickable`]. What is not the asker's to kick is neither moved nor counted, and what is
/// suspended stays as it is.
pub(super) fn kickable(conn: &Connection, kick: &Kick, asker: &Asker, now: i64) -> Result<Kickable> {
    let (domain, domains) = domains_of(kick);
    let (is_all, own) = match &asker.scope {
        KickScope::All => (true, "[]".to_owned()),
        KickScope::Own(domains) => (false, super::counts::json_list(domains.iter().map(String::as_str))),
    };
    let client = asker.client.map(|ip| ip.to_string());
    let sql = format!(
        "SELECT recipients.id, recipients.next_attempt_at > ?6 AND coalesce(m.release_at, 0) <= ?6, is_suspended
         FROM recipients JOIN messages m ON m.id = recipients.message_id
         WHERE recipients.state = 'queued' AND recipients.domain IN ({domains}) AND {THEIRS}"
    );
    let mut statement = conn.prepare_cached(&suspensions::if_any(conn, &sql)?)?;
    let mut found = Kickable::default();
    let mut rows = statement.query(params![domain, asker.user, client, own, is_all, now])?;
    while let Some(row) = rows.next()? {
        if odd::get(row, 2)? {
            found.suspended += 1;
            continue;
        }
        found.waiting += 1;
        if odd::get(row, 1)? {
            found.to_move.push(RecipientId(row.get(0)?));
        }
    }
    Ok(found)
}

/// The first part of a kick, or another: the domains' waiting recipients become due, but for what is held until its
/// release (RFC 4865). The try takes no step of the schedule: whoever kicks six times has not waited six times. Gives
/// how many of those that are to be moved it saw to.
pub(super) fn kick(
    conn: &Connection,
    kick: &Kick,
    kickable: &Kickable,
    now: i64,
    is_first: bool,
) -> Result<(Kicked, usize)> {
    if is_first && kickable.waiting == 0 {
        let suspended = kickable.suspended;
        return Ok((if suspended > 0 { Kicked::Suspended(suspended) } else { Kicked::Nothing }, 0));
    }
    let (domain, domains) = domains_of(kick);
    let mut statement = conn.prepare_cached(&format!("DELETE FROM backoffs WHERE lane IN ({domains})"))?;
    let mut backed_off = statement.execute([&domain])?;
    // The row of a domain that is fetched tells people so, and is no backoff.
    if let Kick::Lane(lane, _) = kick
        && atrn::domain_of_lane(lane).is_none()
    {
        backed_off += conn.prepare_cached("DELETE FROM backoffs WHERE lane = ?")?.execute([lane])?;
    }
    let part = &kickable.to_move[..kickable.to_move.len().min(KICK_ROWS_MAX)];
    let mut moving = conn.prepare_cached(
        "UPDATE recipients SET next_attempt_at = ?2, kicked_attempts = kicked_attempts + 1
         WHERE id = ?1 AND state = 'queued' AND next_attempt_at > ?2",
    )?;
    let mut moved = 0;
    for recipient in part {
        moved += moving.execute(params![recipient.0, now])?;
    }
    let kicked = match kickable.waiting {
        waiting if part.len() < kickable.to_move.len() => Kicked::InParts(waiting),
        waiting if moved == 0 && backed_off == 0 => Kicked::UnderWay(waiting),
        waiting => Kicked::Started(waiting),
    };
    Ok((kicked, part.len()))
}

pub(super) fn record(conn: &Connection, kick: &Kick, asker: &Asker, now: i64, kicked: Kicked) -> Result<()> {
    let client = asker.client.map(|ip| ip.to_string());
    conn.prepare_cached(INSERT_KICK)?
        .execute(params![now, kick.to_string(), asker.user, client, kicked.waiting() as i64, None::<String>])
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
