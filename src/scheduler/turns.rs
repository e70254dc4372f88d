//! Turns: who stands in line for one, a ring for each priority.
//!
//! Who stands here holds a ticket. One that moves up, or loses its turn, takes another or gives it back: the
//! entry is then void and dropped when it comes to the front, so that nobody searches for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::mail::Priority;

/// Void entries that a ring may hold beside as many as there are lanes.
const SLACK: usize = 64;

/// Names in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    rings: BTreeMap<Reverse<Priority>, VecDeque<(Arc<str>, u64)>>,
}

impl Turns {
    /// The last of its priority.
    pub(super) fn push(&mut self, priority: Priority, name: Arc<str>, ticket: u64) {
        self.rings.entry(Reverse(priority)).or_default().push_back((name, ticket));
    }

    /// Whose turn is next: the highest priority that somebody stands here with, and the ticket of the first of it.
    pub(super) fn first(&mut self, is_valid: impl Fn(&str, u64) -> bool) -> Option<(Priority, u64)> {
        loop {
            let mut ring = self.rings.first_entry()?;
            let Some((name, ticket)) = ring.get().front() else {
                ring.remove();
                continue;
            };
            if is_valid(name, *ticket) {
                return Some((ring.key().0, *ticket));
            }
            ring.get_mut().pop_front();
        }
    }

    /// The first of the highest priority; after [`Turns::first`] it is a valid one.
    pub(super) fn pop(&mut self) -> Option<Arc<str>> {
        self.rings.first_entry()?.get_mut().pop_front().map(|(name, _)| name)
    }

    /// Drops void entries of a ring once they are the larger part, so that it never grows without end.
    pub(super) fn sweep(&mut self, priority: Priority, lanes: usize, is_valid: impl Fn(&str, u64) -> bool) {
        if let Some(ring) = self.rings.get_mut(&Reverse(priority))
            && ring.len() > 2 * lanes + SLACK
        {
            ring.retain(|(name, ticket)| is_valid(name, *ticket));
        }
    }

    /// Nobody stands here, not even a void entry.
    pub(super) fn is_empty(&self) -> bool {
        self.rings.values().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
impl Turns {
    /// All entries, void ones too.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Priority, &str, u64)> {
        let of_ring = |(priority, ring): (&Reverse<Priority>, _)| (priority.0, ring);
        self.rings.iter().map(of_ring).flat_map(|(priority, ring): (Priority, &VecDeque<(Arc<str>, u64)>)| {
            ring.iter().map(move |(name, ticket)| (priority, &**name, *ticket))
        })
    }
}
