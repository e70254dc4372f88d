//! The sweep: it checks, from the database alone, that every recipient long overdue is accounted for. One that is not
//! is put in line and counted: each is a bug.
//!
//! What it meets is in memory, or suspended by its user or tag, which may be any number of rows. So a look reads little
//! more than a page, and a minute [`PAGES_A_MINUTE`]: then the sweep rests where it is, and goes on from there in the
//! next minute. It comes past all of them, whatever stands before a domain or first in it.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::clock::Moment;
use crate::mail::Domain;
use crate::queue::{Due, Place, QueueError, Reads};

use super::lanes::Lanes;
use super::reader::{Portions, lock};

/// How often a sweep begins, and how long a recipient must be overdue before the sweep counts it.
const SECS: i64 = 60;
/// What it reads in a minute: of a million rows that are suspended a tenth, a second of CPU or less.
const PAGES_A_MINUTE: usize = 100;

/// How far it has come.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The last domain that was asked for; none: there are no more, and no sweep is under way.
    asked_to: Option<String>,
    /// Domains with rows that are overdue, still to be looked at; at most [`Portions::domains`].
    domains: VecDeque<Domain>,
    /// Where in the first of them it has come to; none: its beginning.
    within: Option<Place>,
    /// Rows that it may still read in this minute.
    left: usize,
    /// When the next minute begins.
    next: i64,
}

impl Sweep {
    /// The first begins in a minute.
    pub(super) fn new(steady: i64) -> Sweep {
        Sweep { asked_to: None, domains: VecDeque::new(), within: None, left: 0, next: steady + SECS }
    }

    /// Whether it goes on at once. One that rests waits for the next minute.
    pub(super) fn is_running(&self) -> bool {
        self.left > 0 && (self.asked_to.is_some() || !self.domains.is_empty())
    }

    /// Looks at a part of the domains, and passes over those whose lane is about to read. Gives how many recipients
    /// were forgotten.
    pub(super) fn step(
        &mut self,
        rows: &dyn Reads,
        lanes: &Mutex<Lanes>,
        portions: Portions,
        Moment { now, steady }: Moment,
    ) -> Result<usize, QueueError> {
        if self.next <= steady {
            self.next = steady + SECS;
            self.left = portions.page * PAGES_A_MINUTE;
            if self.domains.is_empty() {
                self.asked_to.get_or_insert_default();
            }
        }
        if !self.is_running() {
            return Ok(0);
        }
        let overdue = now - SECS;
        if self.domains.is_empty()
            && let Some(after) = self.asked_to.take()
        {
            let found = rows.due_domains(&after, overdue, portions.domains)?;
            self.domains = found.due.into_iter().map(|(domain, _)| domain).collect();
            self.asked_to = found.searched;
        }
        let (mut read, mut forgotten) = (0, 0);
        while read < portions.page
            && let Some(domain) = self.domains.front()
        {
            if lock(lanes).will_read(domain) {
                self.domains.pop_front();
                self.within = None;
                continue;
            }
            let found = rows.due_in_domain(domain, self.within, overdue, portions.page)?;
            self.within = found.last().filter(|_| found.len() == portions.page).map(Due::place);
            if self.within.is_none() {
                self.domains.pop_front();
            }
            read += found.len();
            let mut lanes = lock(lanes);
            for due in found {
                if !lanes.accounts_for(&due) {
                    forgotten += 1;
                    lanes.add(due, steady);
                }
            }
        }
        self.left = self.left.saturating_sub(read);
        Ok(forgotten)
    }
}
