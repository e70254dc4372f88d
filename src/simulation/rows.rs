//! The queue of a world, as the scheduler's thread reads it.

use crate::mail::Domain;
use crate::queue::{BackoffRow, ByHand, Due, DueCursor, DueDomains, Expired, ExpiryCursor, QueueError};
use crate::scheduler::reader::Rows;

impl Rows for ByHand<'_> {
    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        Ok(ByHand::due(self, after, until, limit))
    }

    fn due_in_domain(&self, domain: &Domain, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        Ok(ByHand::due_in_domain(self, domain, until, limit))
    }

    fn urgent(&self, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        Ok(ByHand::urgent(self, until, limit))
    }

    fn due_domains(&self, after: &str, until: i64, max: usize) -> Result<DueDomains, QueueError> {
        Ok(ByHand::due_domains(self, after, until, max))
    }

    fn next_due_after(&self, time: i64) -> Result<Option<i64>, QueueError> {
        Ok(ByHand::next_due_after(self, time))
    }

    fn expired(&self, after: ExpiryCursor, now: i64, limit: usize) -> Result<Expired, QueueError> {
        Ok(ByHand::expired(self, after, now, limit))
    }

    fn backoffs(&self) -> Result<Vec<BackoffRow>, QueueError> {
        Ok(ByHand::backoffs(self))
    }
}
