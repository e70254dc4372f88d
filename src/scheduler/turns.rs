//! Turns: which lanes wait for one, in a line for each priority.
//!
//! Each entry has a number, and a lane knows that of its own entry. A lane that moves up gets another number, one that
//! loses its turn has none: the old entry is then stale, and dropped when it comes to the front, so that nobody
//! searches for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::mail::Priority;

/// Stale entries that a line may hold beside as many as there are lanes.
const SLACK: usize = 64;

/// Names in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_priority: BTreeMap<Reverse<Priority>, VecDeque<(Arc<str>, u64)>>,
}

impl Turns {
    /// The last of its priority.
    pub(super) fn push(&mut self, priority: Priority, name: Arc<str>, number: u64) {
        self.by_priority.entry(Reverse(priority)).or_default().push_back((name, number));
    }

    /// Whose turn is next: the highest priority that somebody stands here with, and the number of its first entry.
    pub(super) fn first(&mut self, is_valid: impl Fn(&str, u64) -> bool) -> Option<(Priority, u64)> {
        loop {
            let mut line = self.by_priority.first_entry()?;
            let Some((name, number)) = line.get().front() else {
                line.remove();
                continue;
            };
            if is_valid(name, *number) {
                return Some((line.key().0, *number));
            }
            line.get_mut().pop_front();
        }
    }

    /// The first of the highest priority; after [`Turns::first`] it is a valid one.
    pub(super) fn pop(&mut self) -> Option<Arc<str>> {
        self.by_priority.first_entry()?.get_mut().pop_front().map(|(name, _)| name)
    }

    /// Drops stale entries of a line once they are the larger part, so that it never grows without end.
    pub(super) fn sweep(&mut self, priority: Priority, lanes: usize, is_valid: impl Fn(&str, u64) -> bool) {
        if let Some(line) = self.by_priority.get_mut(&Reverse(priority))
            && line.len() > 2 * lanes + SLACK
        {
            line.retain(|(name, number)| is_valid(name, *number));
        }
    }

    /// Nobody stands here, not even a stale entry.
    pub(super) fn is_empty(&self) -> bool {
        self.by_priority.values().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
impl Turns {
    /// All entries, stale ones too.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Priority, &str, u64)> {
        let of_line = |(priority, line): (&Reverse<Priority>, _)| (priority.0, line);
        self.by_priority.iter().map(of_line).flat_map(
            |(priority, line): (Priority, &VecDeque<(Arc<str>, u64)>)| {
                line.iter().map(move |(name, number)| (priority, &**name, *number))
            },
        )
    }
}
