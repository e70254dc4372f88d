//! What came of TLS in each session with a host (table `tls_results`): counted in the transaction of the settlement.
//!
//! One row for each kind of session of a day. Hosts and DNS choose names and addresses, so a domain has at most
//! [`DOMAIN_ROWS_MAX`] rows a day with them, and all domains [`HOST_ROWS_MAX`]: what is beyond them is counted without
//! host and addresses, so that there is room for a row of every other domain. All have at most [`ROWS_MAX`], and what
//! is beyond them is counted under the domain `*`.

use rusqlite::{Connection, Result, Statement, params};

use crate::mail::reply::first_bytes;
use crate::mail::tlsrpt::report::{Counted, SUCCESS};
use crate::queue::tls_rows::TlsSession;

use super::odd;

/// Kinds of sessions of a day, beside those that are counted together.
pub(super) const ROWS_MAX: i64 = 20_000;
/// From so many on, each that is new is counted without host and addresses.
pub(super) const HOST_ROWS_MAX: i64 = 10_000;
/// Kinds of sessions of a domain and day that have host and addresses: hosts whose names change with each question
/// leave room for other domains.
pub(super) const DOMAIN_ROWS_MAX: i64 = 200;
/// Bytes that are kept of a host's name (RFC 1035 §3.1: no name is longer).
const HOST_BYTES_MAX: usize = 255;
/// Bytes that are kept of a policy: a large one of MTA-STS is longer, and the report says so by being cut.
const POLICY_BYTES_MAX: usize = 2048;
/// Bytes that are kept of what failed.
const REASON_BYTES_MAX: usize = 200;
/// The domain of sessions beyond the bound.
const OTHERS: &str = "*";

/// The statements, prepared once and kept hot.
pub(super) struct TlsResults<'c> {
    conn: &'c Connection,
    add: Statement<'c>,
    insert: Statement<'c>,
    is_report: Statement<'c>,
    rows_of_domain: Statement<'c>,
    /// The day that rows are counted of, and how many it has. After a rollback it may be less than that.
    counted: (i64, i64),
    /// A day, and the last domain that was found to have all its rows of it: another name for a host of a hostile
    /// domain comes with each session.
    at_bound: (i64, String),
    /// The day of which it was said that it has too many.
    told: i64,
}

impl<'c> TlsResults<'c> {
    pub(super) fn new(conn: &'c Connection) -> Result<TlsResults<'c>> {
        Ok(TlsResults {
            conn,
            add: conn.prepare(
                "UPDATE tls_results
                 SET sessions = sessions + 1, reason = iif(?8 = '', reason, ?8),
                     policy_text = iif(?9 = '', policy_text, ?9),
                     tlsa_base = iif(?10 = '', tlsa_base, ?10)
                 WHERE (day, domain, policy, mx, ip, source, result) = (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            insert: conn.prepare(
                "INSERT INTO tls_results (day, domain, policy, mx, ip, source, result, sessions, reason, policy_text,
                                          tlsa_base)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10)",
            )?,
            is_report: conn.prepare("SELECT 1 FROM tls_reports WHERE message_id = ?1")?,
            rows_of_domain: conn.prepare(
                "SELECT count(*) FROM (SELECT 1 FROM tls_results WHERE day = ?1 AND domain = ?2 LIMIT ?3)",
            )?,
            counted: (0, 0),
            at_bound: (0, String::new()),
            told: 0,
        })
    }

    /// Counts these. On a disk that `is_full` no row is added.
    pub(super) fn count(&mut self, sessions: &[TlsSession], is_full: bool) -> Result<()> {
        sessions.iter().try_for_each(|session| self.count_one(session, is_full))
    }

    fn count_one(&mut self, session: &TlsSession, is_full: bool) -> Result<()> {
        // RFC 8460 §5.3: reports do not report on themselves.
        if let Some(message) = session.own_message
            && self.is_report.exists([message.0])?
        {
            return Ok(());
        }
        let result = session.failed.map_or(SUCCESS, |failed| failed.as_str());
        // A row for each address only where something failed there.
        let shown = |ip: Option<std::net::IpAddr>| match session.failed {
            Some(_) => ip.map(|ip| ip.to_string()).unwrap_or_default(),
            None => String::new(),
        };
        let (ip, source) = (shown(session.ip), shown(session.source));
        let (day, policy) = (session.day, session.policy.as_str());
        let reason = first_bytes(&session.reason, REASON_BYTES_MAX);
        let text = first_bytes(&session.policy_text, POLICY_BYTES_MAX);
        let mx = first_bytes(&session.mx, HOST_BYTES_MAX);
        let base = first_bytes(&session.tlsa_base, HOST_BYTES_MAX);
        let mut row = params![day, session.domain, policy, mx, ip, source, result, reason, text, base];
        if self.add.execute(row)? > 0 || is_full {
            return Ok(());
        }
        let together = params![day, session.domain, policy, "", "", "", result, reason, text, ""];
        if self.rows(day)? >= HOST_ROWS_MAX || self.domain_is_at_bound(day, &session.domain)? {
            if self.add.execute(together)? > 0 {
                return Ok(());
            }
            row = together;
        }
        if self.rows(day)? < ROWS_MAX {
            self.counted.1 += 1;
            return self.insert.execute(row).map(drop);
        }
        if self.told != day {
            self.told = day;
            log::warn!(
                "queue: more than {ROWS_MAX} kinds of TLS sessions today: the others are counted together and not \
                 reported (SELECT * FROM tls_sessions)"
            );
        }
        let row = params![day, OTHERS, policy, "", "", "", result, reason, "", ""];
        if self.add.execute(row)? == 0 {
            self.insert.execute(row)?;
        }
        Ok(())
    }

    /// Whether this domain has had its rows of this day. Hosts that stay the same are counted without this question.
    fn domain_is_at_bound(&mut self, day: i64, domain: &str) -> Result<bool> {
        if self.at_bound.0 == day && self.at_bound.1 == domain {
            return Ok(true);
        }
        let rows: i64 =
            self.rows_of_domain.query_row(params![day, domain, DOMAIN_ROWS_MAX], |row| row.get(0))?;
        if rows >= DOMAIN_ROWS_MAX {
            self.at_bound = (day, domain.to_owned());
        }
        Ok(rows >= DOMAIN_ROWS_MAX)
    }

    /// How many rows there are of this day.
    fn rows(&mut self, day: i64) -> Result<i64> {
        if self.counted.0 != day {
            let sql = "SELECT count(*) FROM tls_results WHERE day = ?1";
            self.counted = (day, self.conn.prepare_cached(sql)?.query_row([day], |row| row.get(0))?);
        }
        Ok(self.counted.1)
    }
}

/// See [`crate::queue::Reads::tls_results`].
pub(super) fn of_domain(conn: &Connection, day: i64, domain: &str) -> Result<Vec<Counted>> {
    conn.prepare_cached(
        "SELECT policy, mx, ip, source, result, sessions, reason, policy_text, tlsa_base FROM tls_results
         WHERE day = ?1 AND domain = ?2 ORDER BY policy, mx, ip, source, result LIMIT ?3",
    )?
    .query_map(params![day, domain, ROWS_MAX], |row| {
        Ok(Counted {
            policy: odd::get(row, 0)?,
            mx: odd::get(row, 1)?,
            ip: odd::get(row, 2)?,
            source: odd::get(row, 3)?,
            result: odd::get(row, 4)?,
            sessions: odd::count(row, 5)?.into(),
            reason: odd::get(row, 6)?,
            policy_text: odd::get(row, 7)?,
            tlsa_base: odd::get(row, 8)?,
        })
    })?
    .collect()
}
