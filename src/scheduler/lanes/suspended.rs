//! Mail that is suspended: it takes no turns, and waits in the database until somebody resumes it.
//!
//! It is told apart where rows come in, and not in SQL: the rules are in one place, are tested without a database, and
//! follow the clock of whoever looks. A row that is suspended is dropped there, like one that a client fetches: it is
//! accounted for, costs no memory, and is read again when the suspensions change, since then all is read from the
//! start.
//!
//! Reading past them must cost little, however many they are. Where a whole domain is suspended, it is not read at
//! all. In a lane that gathers many domains a read goes on where the last one ended (`read_to`) anyway. In the lane of
//! one domain, which is read from its start, `passed` is how far its line is known to hold nothing but suspended
//! recipients and such as are in memory: the next read begins there. So a lane walks once through what is suspended
//! before the rest, a page a look, and other lanes are filled between two pages. `passed` moves back when the lane
//! leaves a recipient to the database that comes before it, and is forgotten when the suspensions change.
//!
//! When another process writes, anything may have changed before that place, and after long reads nothing says what.
//! Then the lane walks on, and again from the start (`again`) once it is through or its line is full: a process that
//! writes every second must not have it begin anew each time.

use crate::queue::{Due, Place, Suspensions};

use super::Lanes;

impl Lanes {
    /// Takes what is suspended now; gives what was before. Where that is something else, what waits is forgotten: the
    /// caller reads it again.
    pub fn set_suspensions(&mut self, suspensions: Suspensions) -> Suspensions {
        if suspensions != self.suspensions {
            self.lanes.values_mut().for_each(|lane| (lane.passed, lane.again) = (None, None));
            self.forget_waiting();
        }
        std::mem::replace(&mut self.suspensions, suspensions)
    }

    /// What is suspended.
    pub fn suspensions(&self) -> &Suspensions {
        &self.suspensions
    }

    /// How often something urgent was left to the database.
    pub fn urgent_left(&self) -> u64 {
        self.urgent_left
    }

    /// Whether this recipient is.
    pub fn is_suspended(&self, due: &Due) -> bool {
        self.suspensions.cover(due)
    }

    /// Of the next rows of a domain, in their order: the last that is suspended and has nothing before it that a lane
    /// would still have to take.
    pub(super) fn passed_with(&self, rows: &[Due]) -> Option<Place> {
        let seen_to = rows.iter().take_while(|due| self.knows(due) || self.is_suspended(due));
        seen_to.filter(|due| self.is_suspended(due)).last().map(Due::place)
    }
}
