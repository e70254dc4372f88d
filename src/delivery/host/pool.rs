//! Connections that are open and idle, kept a few seconds for the next job of their lane.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::DeliverySettings;

use crate::delivery::host::limits::{Hosts, Slot};
use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;

/// How long an idle connection is kept. Short: hosts count connections, and many close idle ones after 5 to 10 s.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// How often idle connections are looked through.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A connection is taken to be alive for this long after its last use.
const TRUSTED: Duration = Duration::from_millis(20);

/// A connection and whom it leads to.
pub(in crate::delivery) struct Line {
    pub(in crate::delivery) endpoint: Endpoint,
    pub(in crate::delivery) connection: Connection,
    /// Behind the connection: it is free when that is closed. None where the other side opened it (ATRN).
    pub(in crate::delivery) slot: Option<Slot>,
}

impl Line {
    /// Whether one more message may go over it now.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(in crate::delivery) fn start(&self, settings: &DeliverySettings) -> Result<(), Duration> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.start(&self.endpoint, settings))
    }
}

/// By lane (each set of source addresses apart: `SourceAddresses::berth`); each with when it was last used, the latest at
/// the end.
type Idle = HashMap<Arc<str>, Vec<(Line, Instant)>>;

/// Idle connections. A lane has at most as many as it may have transactions at once, since each was
/// one a moment ago.
pub(in crate::delivery) struct Pool {
    idle: Mutex<Idle>,
    looked_at: Mutex<Instant>,
    /// How many there may be to each host.
    pub(in crate::delivery) hosts: Hosts,
}

impl Pool {
    /// Without a connection.
    pub(in crate::delivery) fn new(hosts: Hosts) -> Pool {
        Pool { idle: Mutex::default(), looked_at: Mutex::new(Instant::now()), hosts }
    }

    /// An idle connection of this lane, the one used last (the least likely to have been closed), unless its host
    /// closed it: then the next.
    pub(in crate::delivery) fn take(&self, lane: &Arc<str>) -> Option<Line> {
        loop {
            let (line, since) = self.pop(lane)?;
            // The look costs system calls; a connection used a moment ago is tried as it is.
            if since.elapsed() < TRUSTED || !line.connection.is_stale() {
                return Some(line);
            }
        }
    }

    /// An idle connection of another lane that leads to this endpoint's host and was opened as this one would be.
    /// Looks at all: for when no connection may be opened.
    pub(in crate::delivery) fn take_of_host(&self, endpoint: &Endpoint) -> Option<Line> {
        let mut idle = self.lock();
        let found = idle.iter().find_map(|(lane, lines)| {
            let at = lines.iter().position(|(line, _)| line.endpoint.is_same_host(endpoint))?;
            Some((lane.clone(), at))
        });
        let (lane, at) = found?;
        let line = Pool::remove(&mut idle, &lane, at)?;
        drop(idle);
        (!line.connection.is_stale()).then_some(line)
    }

    /// Closes an idle connection to this endpoint's host that cannot be used for it, so that its slot is free: one
    /// that leaves from another address. False: there is none.
    pub(in crate::delivery) fn make_room(&self, endpoint: &Endpoint) -> bool {
        let mut idle = self.lock();
        let is_there = |line: &Line| line.slot.as_ref().is_some_and(|slot| slot.is_at(endpoint));
        let found = idle.iter().find_map(|(lane, lines)| {
            let at =
                lines.iter().position(|(line, _)| is_there(line) && !line.endpoint.is_same_host(endpoint))?;
            Some((lane.clone(), at))
        });
        let Some(line) = found.and_then(|(lane, at)| Pool::remove(&mut idle, &lane, at)) else {
            return false;
        };
        // Outside the lock: a QUIT may block.
        drop(idle);
        line.connection.quit();
        true
    }

    fn pop(&self, lane: &Arc<str>) -> Option<(Line, Instant)> {
        let mut idle = self.lock();
        let lines = idle.get_mut(lane)?;
        let popped = lines.pop();
        if lines.is_empty() {
            idle.remove(lane);
        }
        popped
    }

    fn remove(idle: &mut Idle, lane: &Arc<str>, at: usize) -> Option<Line> {
        let lines = idle.get_mut(lane)?;
        let (line, _) = lines.remove(at);
        if lines.is_empty() {
            idle.remove(lane);
        }
        Some(line)
    }

    /// Keeps a connection for the lane's next job.
    pub(in crate::delivery) fn put(&self, lane: &Arc<str>, line: Line) {
        self.lock().entry(lane.clone()).or_default().push((line, Instant::now()));
    }

    /// Says QUIT on every connection that has been idle too long. For whenever somebody has a moment, and between
    /// two jobs: where there is always work, connections to hosts of long ago must not add up all the same.
    pub(in crate::delivery) fn close_idle(&self) {
        {
            // Nothing panics while this is held.
            let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
            if looked_at.elapsed() < LOOK_EVERY {
                return;
            }
            *looked_at = Instant::now();
        }
        self.hosts.forget_unused();
        let mut old = Vec::new();
        self.lock().retain(|_, connections| {
            // Oldest first, since the last is taken and put back.
            let fresh_from = connections.partition_point(|(_, since)| since.elapsed() >= IDLE_MAX);
            old.extend(connections.drain(..fresh_from));
            !connections.is_empty()
        });
        quit_all(old);
    }

    /// Says QUIT on all.
    pub(in crate::delivery) fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        quit_all(all.into_values().flatten().collect());
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not under the lock: it takes up to a second.
fn quit_all(lines: Vec<(Line, Instant)>) {
    let apart = lines.into_iter().map(|(line, _)| (line.connection, line.slot));
    let (connections, slots): (Vec<Connection>, Vec<Option<Slot>>) = apart.unzip();
    Connection::quit_all(connections);
    // Free once their connections are closed.
    drop(slots);
}
