//! Daily reports on TLS to the domains that ask for them (TLSRPT, RFC 8460).
//!
//! The plan is in the database (table `tls_reports`): once a day is over each domain that had sessions has a row
//! there, due at some time in the next hours (RFC 8460 §4.1: not all at once). What is due is looked after by one
//! thread, which ends when nothing is: the domain is asked by TXT; mail is queued in the transaction that writes down
//! that it was, so that a crash sends none twice and loses none, and is carried like any other; POST is tried again for
//! some hours (a crash between the answer and the note of it sends it again, with the same report-id).
//!
//! All times are the confirmed ones ([`Clock::confirmed`]): a clock that runs ahead ends no day.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::DeliverySettings;
use crate::mail::tlsrpt::message::{Letter, compose};
use crate::mail::tlsrpt::record::{self, Destination};
use crate::mail::tlsrpt::report::{Head, gzip, json};
use crate::mail::tlsrpt::{DAY_SECS, MEDIA_TYPE, day_of};
use crate::mail::{Address, Body, Envelope, Handling, Labels, Notify, Recipient};
use crate::maillog;
use crate::queue::{
    AcceptError, MessageId, NewMessage, Origin, Queue, QueueError, TlsReportChange, TlsReportDue,
    TlsReportRow, TlsReportState,
};

use crate::delivery::https::{Https, Response};
use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::delivery::smtp::stop::Stop;

/// From one look for what is due to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same after trouble with the queue, such as a full disk.
const LOOK_AFTER_TROUBLE: Duration = Duration::from_secs(60);
/// Reports of one reading.
const DUE_MAX: usize = 100;
/// Days that may still be reported: yesterday, and the day before where no relay ran yesterday.
const DAYS: i64 = 2;
/// Sessions that ended with the day are counted by then.
const AFTER_MIDNIGHT_SECS: i64 = 300;
/// RFC 8460 §4.1 names four hours.
const SPREAD_SECS: i64 = 4 * 3600;
/// Waits between tries, of the question to DNS and of POST: 18 hours in all.
const RETRY_SECS: [i64; 6] = [600, 1800, 3600, 2 * 3600, 6 * 3600, 8 * 3600];

/// Nothing is sent so long after its day began: two days after its end.
const LATEST_SECS: i64 = 3 * DAY_SECS;
/// Bytes of an answer to POST that are read; nothing is made of them.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Whether it is time to look, and whether a thread is at it.
#[derive(Debug, Default)]
pub(in crate::delivery) struct TlsReports {
    next_look: Mutex<Option<Instant>>,
    /// The day up to which all is planned.
    planned: Mutex<Option<i64>>,
    /// The log has said that they wait.
    told: AtomicBool,
    is_running: AtomicBool,
}

/// What reports are made and sent with.
pub(in crate::delivery) struct Sending<'a> {
    pub(in crate::delivery) settings: &'a DeliverySettings,
    pub(in crate::delivery) lookup: &'a dyn Lookup,
    pub(in crate::delivery) https: &'a Https,
    pub(in crate::delivery) queue: &'a Queue,
    pub(in crate::delivery) clock: &'a Clock,
    pub(in crate::delivery) stop: &'a Stop,
}

/// That a thread is at it, until it is dropped.
pub(in crate::delivery) struct Running<'a>(&'a TlsReports);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

impl TlsReports {
    /// Plans the reports of days that are over, and says whether one is due that nobody is at: every few seconds, for
    /// whichever worker comes first.
    pub(in crate::delivery) fn is_due(
        &self,
        queue: &Queue,
        clock: &Clock,
        settings: &DeliverySettings,
    ) -> bool {
        let Ok(mut next) = self.next_look.try_lock() else { return false };
        if !settings.tlsrpt.enabled || next.is_some_and(|next| Instant::now() < next) {
            return false;
        }
        *next = Some(Instant::now() + LOOK_EVERY);
        let now = clock.confirmed();
        drop(next);
        let due = self.plan(queue, now).map_err(SendError::Accept);
        match due.and_then(|()| Ok(queue.tls_reports_due(now, 1)?)) {
            Ok(due) if due.is_empty() => {
                self.note(Ok(()));
                false
            }
            Ok(_) => !self.is_running.load(Ordering::Acquire),
            Err(error) => {
                self.note(Err(error));
                false
            }
        }
    }

    /// Hears what sending came to. Trouble is told once, and the next look is a while later. Whether it was told now.
    pub(in crate::delivery) fn note(&self, sent: Result<(), SendError>) -> bool {
        let Err(error) = sent else {
            self.told.store(false, Ordering::Release);
            return false;
        };
        *self.next_look.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + LOOK_AFTER_TROUBLE);
        let is_new = !self.told.swap(true, Ordering::AcqRel);
        if is_new {
            log::warn!("reports on TLS wait: {error}; tried again every minute");
        }
        is_new
    }

    fn plan(&self, queue: &Queue, now: i64) -> Result<(), AcceptError> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((days, after)) = to_plan(*planned, now) else { return Ok(()) };
        let until = days.end;
        queue.plan_tls_reports(days, after, SPREAD_SECS)?;
        *planned = Some(until);
        Ok(())
    }

    /// For the thread that is to look after what is due; none where another one is.
    pub(in crate::delivery) fn begin(&self) -> Option<Running<'_>> {
        (!self.is_running.swap(true, Ordering::AcqRel)).then_some(Running(self))
    }
}

/// The days to plan reports of, and from when on these are due; none where `planned` says that all is.
fn to_plan(planned: Option<i64>, now: i64) -> Option<(Range<i64>, i64)> {
    let today = day_of(now);
    // A session that ended at midnight is still on its way into the table.
    let is_time = now >= today + AFTER_MIDNIGHT_SECS / 2 || planned.is_none();
    let is_new = planned.is_none_or(|planned| planned != today);
    (is_time && is_new).then(|| (today - DAYS * DAY_SECS..today, now.max(today + AFTER_MIDNIGHT_SECS)))
}

/// When the next try is, after so many; none where it is given up.
fn next_try(attempts: u32, now: i64) -> Option<i64> {
    RETRY_SECS.get(usize::try_from(attempts).ok()?.checked_sub(1)?).map(|wait| now + wait)
}

impl Sending<'_> {
    /// Looks after all that is due, one after the other.
    pub(in crate::delivery) fn send_due(&self) -> Result<(), SendError> {
        loop {
            let due = self.queue.tls_reports_due(self.clock.confirmed(), DUE_MAX)?;
            if due.is_empty() {
                return Ok(());
            }
            for one in due {
                if self.stop.has_begun() {
                    return Ok(());
                }
                let is_post = !one.rua.is_empty();
                let look_after = || if is_post { self.post(one.clone()) } else { self.ask(one.clone()) };
                let looked_after = catch_unwind(AssertUnwindSafe(look_after));
                // The panic's own words are in the log already.
                let broken = "internal error of the relay (a bug: please report)";
                looked_after.unwrap_or_else(|_| self.fail(one, self.clock.confirmed(), broken))?;
                // A web server may take its time: those who are still to be asked are looked for again first.
                if is_post {
                    break;
                }
            }
        }
    }

    /// Asks a domain where its report is to go, and queues it for those who want mail.
    fn ask(&self, due: TlsReportDue) -> Result<(), SendError> {
        let now = self.clock.confirmed();
        let asked = match self.lookup.txt(&format!("_smtp._tls.{}", due.domain)) {
            Ok(texts) => record::read(&texts).map_err(|why| why.to_string()),
            Err(DnsError::NoSuchDomain | DnsError::NoData) => Err(record::NotAsked::NoRecord.to_string()),
            Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => {
                return self.fail(due, now, &format!("DNS: {why}"));
            }
        };
        let destinations = match asked {
            Ok(destinations) => destinations,
            Err(why) => {
                let row = TlsReportRow {
                    rua: String::new(),
                    state: TlsReportState::NotAsked,
                    attempts: due.attempts + 1,
                    last_reply: Some(why),
                };
                return self.write(due, vec![row], now, None);
            }
        };
        let to: Vec<Address> = destinations
            .iter()
            .filter_map(|destination| match destination {
                Destination::Mail(address) => Some(address.clone()),
                Destination::Https(_) => None,
            })
            .collect();
        let id = self.queue.new_message_id();
        let rows = destinations.iter().map(|destination| {
            let state = match destination {
                Destination::Mail(_) => TlsReportState::Queued(id),
                Destination::Https(_) => TlsReportState::Planned(now),
            };
            TlsReportRow { rua: destination.uri(), state, attempts: 0, last_reply: None }
        });
        let rows = rows.collect();
        let mail = match to.is_empty() {
            true => None,
            false => self.mail(&due, &to, id, now)?,
        };
        let queued = mail.is_some().then(|| (due.domain.clone(), due.day));
        self.write(due, rows, now, mail)?;
        if let Some((domain, day)) = queued {
            maillog::tls_report_queued(id, &domain, day, &to);
        }
        Ok(())
    }

    /// Sends a report to a web server (RFC 8460 §5.4).
    fn post(&self, due: TlsReportDue) -> Result<(), SendError> {
        let gzip = gzip(&self.json(&due)?);
        let answer = self.https.post(&due.rua, MEDIA_TYPE, &gzip, ANSWER_BYTES_MAX);
        let now = self.clock.confirmed();
        let status = match answer {
            Ok(Response { status: status @ 200..=299, .. }) => status,
            Ok(Response { status, .. }) => return self.fail(due, now, &format!("HTTP status {status}")),
            Err(error) => return self.fail(due, now, &error.to_string()),
        };
        let row = TlsReportRow {
            rua: due.rua.clone(),
            state: TlsReportState::Sent,
            attempts: due.attempts + 1,
            last_reply: Some(format!("HTTP status {status}")),
        };
        let (domain, day, uri) = (due.domain.clone(), due.day, due.rua.clone());
        self.write(due, vec![row], now, None)?;
        maillog::tls_report_posted(&domain, day, &uri);
        Ok(())
    }

    /// The mail that carries a report.
    fn mail(
        &self,
        due: &TlsReportDue,
        to: &[Address],
        id: MessageId,
        now: i64,
    ) -> Result<Option<NewMessage>, SendError> {
        let Some(from) = &self.settings.tlsrpt.from else { return Ok(None) };
        let gzip = gzip(&self.json(due)?);
        let letter = Letter { from, to, id: &id.to_string(), now };
        let content = compose(&letter, &self.head(due), &gzip);
        // RFC 3461 §6.1: nobody is told of a report.
        let recipient =
            |to: &Address| Recipient { notify: Some(Notify::NEVER), ..Recipient::new(to.clone()) };
        let envelope = Envelope {
            sender: None,
            body: Body::SevenBit,
            smtputf8: false,
            recipients: to.iter().map(recipient).collect(),
            ret: None,
            envid: None,
            // As its header says: RFC 8460 §3, RFC 8689 §5.
            handling: Handling { tls_optional: true, ..Handling::default() },
        };
        Ok(Some(NewMessage {
            id,
            envelope,
            origin: Origin::default(),
            labels: Labels::of_own(&content),
            received_at: now,
            expires_at: None,
            size: content.len() as u64,
            tail: content,
            chunks_before: 0,
        }))
    }

    fn head<'a>(&'a self, due: &'a TlsReportDue) -> Head<'a> {
        head(self.settings, &due.domain, due.day)
    }

    fn json(&self, due: &TlsReportDue) -> Result<String, QueueError> {
        let rows = self.queue.tls_results(due.day, &due.domain)?;
        Ok(json(&self.head(due), &rows))
    }

    /// Tried again later, or given up.
    fn fail(&self, due: TlsReportDue, now: i64, why: &str) -> Result<(), SendError> {
        let attempts = due.attempts + 1;
        let next = next_try(attempts, now).filter(|next| *next < due.day + LATEST_SECS);
        if next.is_none() {
            maillog::tls_report_given_up(&due.domain, due.day, &due.rua, why);
        }
        let row = TlsReportRow {
            rua: due.rua.clone(),
            state: next.map_or(TlsReportState::Failed, TlsReportState::Planned),
            attempts,
            last_reply: Some(why.to_owned()),
        };
        self.write(due, vec![row], now, None)
    }

    fn write(
        &self,
        due: TlsReportDue,
        rows: Vec<TlsReportRow>,
        at: i64,
        mail: Option<NewMessage>,
    ) -> Result<(), SendError> {
        Ok(self.queue.change_tls_report(TlsReportChange { due, rows, at }, mail)?)
    }
}

/// Who reports, and on what.
pub(crate) fn head<'a>(settings: &'a DeliverySettings, domain: &'a str, day: i64) -> Head<'a> {
    Head {
        organization: settings.tlsrpt.organization.as_deref().unwrap_or_default(),
        contact: settings.tlsrpt.contact.as_deref().unwrap_or_default(),
        hostname: settings.hostname.as_str(),
        domain,
        day,
    }
}

/// Why nothing more is sent just now.
#[derive(Debug, thiserror::Error)]
pub(in crate::delivery) enum SendError {
    /// The queue cannot be read.
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// It cannot be written.
    #[error("{0}")]
    Accept(#[from] AcceptError),
}
