//! Mail that is fetched (ATRN, RFC 2645): read from the database as it is asked for, claimed under the lanes' lock.
//!
//! Several may fetch one domain at once: what one has claimed is in flight, and no other gets it. What is not due
//! (deferred, held) is not given. Each recipient is given once in a pickup at most, unless it comes due again
//! while the pickup lasts.

use std::collections::VecDeque;

use crate::mail::Domain;
use crate::queue::{Due, DueCursor, Job, QueueError};

use super::Scheduler;

/// Rows read at a time.
const PAGE: usize = 200;

/// How far somebody has got who fetches mail.
#[derive(Debug)]
pub struct Pickup {
    /// Those not yet empty; the first is being fetched.
    domains: VecDeque<Domain>,
    cursor: DueCursor,
    /// Read and not yet looked at.
    ahead: VecDeque<Due>,
}

impl Pickup {
    /// Of these domains, one after the other.
    pub fn of(domains: &[Domain]) -> Pickup {
        Pickup {
            domains: domains.iter().cloned().collect(),
            cursor: DueCursor::from(i64::MIN),
            ahead: VecDeque::new(),
        }
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
        let mut pickup = Pickup::of(domains);
        while self.read_ahead(&mut pickup)? {
            let lanes = self.inner.lock();
            if pickup.ahead.drain(..).any(|due| lanes.may_claim(&due)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next job of a pickup; [`Scheduler::finished`] must hear of its end. None: there is no more, or none may
    /// start now.
    ///
    /// # Errors
    /// Where the queue cannot be read.
    pub fn fetch(&self, pickup: &mut Pickup) -> Result<Option<Job>, QueueError> {
        loop {
            if !self.gives_mail() {
                return Ok(None);
            }
            if let Some(job) = self.inner.lock().claim(&mut pickup.ahead) {
                return Ok(Some(job));
            }
            if !self.read_ahead(pickup)? {
                return Ok(None);
            }
        }
    }

    /// The next page, from the next domain where one is at its end; false at the end of the last.
    fn read_ahead(&self, pickup: &mut Pickup) -> Result<bool, QueueError> {
        let now = self.inner.clock.now();
        while let Some(domain) = pickup.domains.front() {
            let rows = self.inner.queue.due_in_domain_after(domain, pickup.cursor, now, PAGE)?;
            if let Some(last) = rows.last() {
                pickup.cursor = last.cursor();
                pickup.ahead.extend(rows);
                return Ok(true);
            }
            pickup.domains.pop_front();
            pickup.cursor = DueCursor::from(i64::MIN);
        }
        Ok(false)
    }
}
