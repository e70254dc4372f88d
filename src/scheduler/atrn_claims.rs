//! Mail that is fetched (ATRN, RFC 2645): read from the database as it is asked for, claimed under the lanes' lock.
//!
//! Several may fetch one domain at once: what one has claimed is in flight, and no other gets it. What is not due
//! (deferred, held) or suspended is not given; the urgent comes first. Each page is read behind the last in which there
//! was nothing to give: who fetches is not given what another session gives back meanwhile behind its back, nor what
//! comes later with a higher priority than what it has passed; the next ATRN is.

use std::collections::VecDeque;

use crate::mail::Domain;
use crate::queue::{Due, Job, Place, QueueError};

use super::Scheduler;

/// Rows read at a time.
const PAGE: usize = 1_000;
/// Pages in which there is nothing to give, one after the other: a second or two. Beyond them nobody looks, and the
/// client is told that it cannot be said.
const PAGES_MAX: usize = 1_000;

/// How far somebody has got who fetches mail.
#[derive(Debug)]
pub struct AtrnClaims {
    /// Those not yet empty; the first is being fetched.
    domains: VecDeque<Domain>,
    /// Read, and not in flight then.
    ahead: VecDeque<Due>,
    /// Of the first domain nothing before this place may be claimed.
    passed: Option<Place>,
}

impl AtrnClaims {
    /// Of these domains, one after the other.
    pub fn of(domains: &[Domain]) -> AtrnClaims {
        AtrnClaims { domains: domains.iter().cloned().collect(), ahead: VecDeque::new(), passed: None }
    }
}

impl Scheduler {
    /// False while nothing is given to anybody: the relay stops, or outcomes cannot be written, and what is handed
    /// over would be handed over again.
    pub fn gives_mail(&self) -> bool {
        !self.stopping() && self.inner.queue.writable()
    }

    /// Whether [`Scheduler::fetch`] would give something now.
    ///
    /// # Errors
    /// Where the queue cannot be read.
    pub fn has_mail(&self, domains: &[Domain]) -> Result<bool, QueueError> {
        self.read_ahead(&mut AtrnClaims::of(domains), PAGES_MAX)
    }

    /// The next job of somebody who fetches mail; [`Scheduler::finished`] must hear of its end. None: there is no more,
    /// or none may start now.
    ///
    /// # Errors
    /// Where the queue cannot be read.
    pub fn fetch(&self, claims: &mut AtrnClaims) -> Result<Option<Job>, QueueError> {
        loop {
            if !self.gives_mail() {
                return Ok(None);
            }
            if let Some(job) = self.inner.lock().claim(&mut claims.ahead) {
                return Ok(Some(job));
            }
            if !self.read_ahead(claims, PAGES_MAX)? {
                return Ok(None);
            }
        }
    }

    /// Reads what may be claimed, from the next domain where there is no more; false at the end of the last. Fails
    /// after so many pages with nothing to give.
    pub(super) fn read_ahead(&self, claims: &mut AtrnClaims, pages: usize) -> Result<bool, QueueError> {
        let now = self.inner.clock.now();
        for _ in 0..pages {
            let Some(domain) = claims.domains.front() else { return Ok(false) };
            if !self.gives_mail() {
                return Ok(false);
            }
            if self.inner.lock().suspensions().cover_domain(domain.as_str()) {
                (claims.passed, _) = (None, claims.domains.pop_front());
                continue;
            }
            let rows = self.inner.queue.due_in_domain(domain, claims.passed, now, PAGE)?;
            let last = rows.last().filter(|_| rows.len() == PAGE).map(Due::place);
            let lanes = self.inner.lock();
            claims.ahead.extend(rows.into_iter().filter(|due| lanes.may_claim(due)));
            drop(lanes);
            if !claims.ahead.is_empty() {
                return Ok(true);
            }
            // A page full of what others have claimed, or of what is suspended: the next one.
            claims.passed = last;
            if last.is_none() {
                claims.domains.pop_front();
            }
        }
        Err(QueueError::SuspendedBeyondReach)
    }
}
