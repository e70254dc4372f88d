//! Mail that is fetched (ATRN): it takes no turns, and who comes for it claims it.

use std::collections::VecDeque;

use crate::config::atrn;
use crate::queue::{Due, Job, JobRecipient};

use super::Lanes;

impl Lanes {
    /// Whether [`Lanes::claim`] would take this recipient.
    pub fn may_claim(&self, due: &Due) -> bool {
        self.atrn.contains(due.domain.as_str()) && !self.knows(due) && !self.suspensions.cover(due)
    }

    /// The next job for somebody who fetches mail, from the front of `rows`; what is in flight already, or no longer
    /// to be fetched, is passed over. None: `rows` is used up.
    pub fn claim(&mut self, rows: &mut VecDeque<Due>) -> Option<Job> {
        let first = loop {
            let due = rows.pop_front()?;
            if self.may_claim(&due) {
                break due;
            }
        };
        let lane = atrn::lane(first.domain.as_str());
        let mut claimed = vec![self.job_recipient(&first)];
        self.know(&first, &lane, true);
        while claimed.len() < self.settings.recipients_per_transaction
            && let Some(due) = rows.front()
            && due.message == first.message
            && due.domain == first.domain
            && self.may_claim(due)
        {
            let Some(due) = rows.pop_front() else { break };
            claimed.push(self.job_recipient(&due));
            self.know(&due, &lane, true);
        }
        Some(Job { lane, message: first.message, recipients: claimed, fresh: first.fresh, expired: false })
    }

    fn job_recipient(&mut self, due: &Due) -> JobRecipient {
        let retry_wait = self.schedule.wait(due.attempts.saturating_add(1), self.random.f64());
        JobRecipient { id: due.recipient, retry_wait }
    }
}
