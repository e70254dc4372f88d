//! Connections that are open and idle, kept a few seconds for the next job that may use them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::DeliverySettings;

use crate::delivery::host::hosts::Hosts;
use crate::delivery::host::limits::Slot;
use crate::delivery::host::profile::Lesson;
use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::queue::Setting;

/// How long an idle connection is kept. Short: hosts count connections, and many close idle ones after 5 to 10 s.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// Idle connections to all hosts; each is a descriptor and, in TLS, some 50 KB.
const CONNECTIONS_MAX: usize = 256;
/// For how long the policy of a destination is taken to be what it was when a connection was opened.
const POLICY_HOLDS: Duration = Duration::from_secs(60);
/// How often idle connections are looked through.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A connection is taken to be alive for this long after its last use.
const TRUSTED: Duration = Duration::from_millis(20);

/// A connection and whom it leads to.
pub(in crate::delivery) struct PooledConnection {
    pub(in crate::delivery) endpoint: Endpoint,
    pub(in crate::delivery) connection: Connection,
    /// Behind the connection: it is free when that is closed. None where the other side opened it (ATRN).
    pub(in crate::delivery) slot: Option<Slot>,
}

impl PooledConnection {
    /// Counts one more message over it against its host's rate.
    ///
    /// # Errors
    /// The rate is used up, and nothing was counted: how long to wait before asking again.
    pub(in crate::delivery) fn count_message(&self, settings: &DeliverySettings) -> Result<(), Duration> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.count_message(&self.endpoint, settings))
    }
}

impl PooledConnection {
    /// Whether the policy that it was opened by may be another meanwhile: it proved what was asked for then. Nobody
    /// but the operator says anything of a relay, and a reload closes all.
    fn is_stale(&self) -> bool {
        !self.endpoint.relay && self.connection.opened_at.elapsed() > POLICY_HOLDS
    }

    /// Whether it is still good after it was idle. A host that said something meanwhile has answered more than it was
    /// asked, and that is remembered.
    fn is_good(&mut self) -> bool {
        match self.connection.look_after_idling() {
            Ok(()) => return true,
            Err(Some(failure)) => {
                if let Some(slot) = &self.slot {
                    slot.remember(vec![Lesson::LeaveOut(Setting::NoReuse, failure)]);
                }
            }
            Err(None) => {}
        }
        false
    }
}

/// Which mail may share connections: that of one lane, each set of source addresses apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::delivery) struct PoolKey(Arc<str>);

impl PoolKey {
    /// For mail of this lane that leaves from these addresses; none: from whichever the system chooses.
    pub(in crate::delivery) fn new(lane: &Arc<str>, sources: &[IpAddr]) -> PoolKey {
        match sources {
            [] => PoolKey(lane.clone()),
            sources => PoolKey(format!("{lane} from {sources:?}").into()),
        }
    }
}

/// Each with when it was last used, the latest at the end.
type Idle = HashMap<PoolKey, Vec<(PooledConnection, Instant)>>;

/// Idle connections. A lane has at most as many as it may have transactions at once, since each was
/// one a moment ago.
pub(in crate::delivery) struct Pool {
    idle: Mutex<Idle>,
    /// Of the settings that idle connections were opened by; raised under the lock of `idle`.
    generation: AtomicU64,
    looked_at: Mutex<Instant>,
    /// How many there may be to each host.
    pub(in crate::delivery) hosts: Arc<Hosts>,
}

impl Pool {
    /// For connections to these hosts.
    pub(in crate::delivery) fn new(hosts: Arc<Hosts>) -> Pool {
        Pool {
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            looked_at: Mutex::new(Instant::now()),
            hosts,
        }
    }

    /// An idle connection of this key, the one used last (the least likely to have been closed), unless its host
    /// closed it: then the next.
    pub(in crate::delivery) fn take(&self, key: &PoolKey) -> Option<PooledConnection> {
        loop {
            let (mut pooled, since) = self.pop(key)?;
            if pooled.is_stale() {
                // Outside the lock: a QUIT may block.
                pooled.connection.quit();
                continue;
            }
            // The look costs a system call; a connection used a moment ago is tried as it is.
            if since.elapsed() < TRUSTED || pooled.is_good() {
                return Some(pooled);
            }
        }
    }

    /// An idle connection of another lane that leads to this endpoint's host and was opened as this one would be.
    /// Looks at all: for when no connection may be opened.
    pub(in crate::delivery) fn take_of_host(&self, endpoint: &Endpoint) -> Option<PooledConnection> {
        let mut pooled = self.remove_first(|pooled| pooled.endpoint.is_same_host(endpoint))?;
        pooled.is_good().then_some(pooled)
    }

    /// Closes an idle connection to this endpoint's host that cannot be used for it, so that its slot is free: one
    /// that leaves from another address. False: there is none.
    pub(in crate::delivery) fn make_room(&self, endpoint: &Endpoint) -> bool {
        let is_in_the_way = |pooled: &PooledConnection| {
            pooled.slot.as_ref().is_some_and(|slot| slot.is_at(endpoint))
                && !pooled.endpoint.is_same_host(endpoint)
        };
        let Some(pooled) = self.remove_first(is_in_the_way) else { return false };
        // Outside the lock: a QUIT may block.
        pooled.connection.quit();
        true
    }

    fn pop(&self, key: &PoolKey) -> Option<(PooledConnection, Instant)> {
        let mut idle = self.lock();
        let of_key = idle.get_mut(key)?;
        let popped = of_key.pop();
        if of_key.is_empty() {
            idle.remove(key);
        }
        popped
    }

    fn remove_first(&self, wanted: impl Fn(&PooledConnection) -> bool) -> Option<PooledConnection> {
        let mut idle = self.lock();
        let found = idle.iter().find_map(|(key, of_key)| {
            let at = of_key.iter().position(|(pooled, _)| wanted(pooled))?;
            Some((key.clone(), at))
        });
        let (key, at) = found?;
        let of_key = idle.get_mut(&key)?;
        let (pooled, _) = of_key.remove(at);
        if of_key.is_empty() {
            idle.remove(&key);
        }
        Some(pooled)
    }

    /// Keeps a connection for the next job of its key, unless it was opened before a reload: it proved what was asked
    /// for then. Where too many are kept, the one that waits longest goes.
    pub(in crate::delivery) fn put(&self, key: &PoolKey, pooled: PooledConnection) {
        let surplus = {
            let mut idle = self.lock();
            let one = (pooled, Instant::now());
            if one.0.connection.generation == self.generation.load(Ordering::Relaxed) {
                idle.entry(key.clone()).or_default().push(one);
                oldest_of_too_many(&mut idle, CONNECTIONS_MAX)
            } else {
                Some(one)
            }
        };
        quit_all(surplus.into_iter().collect());
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

    /// Says QUIT on all, and keeps only connections of another generation from now on: its number.
    pub(in crate::delivery) fn close_all(&self) -> u64 {
        let (all, generation) = {
            let mut idle = self.lock();
            (std::mem::take(&mut *idle), self.generation.fetch_add(1, Ordering::Relaxed) + 1)
        };
        quit_all(all.into_values().flatten().collect());
        generation
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the oldest out where there are more than `max`.
fn oldest_of_too_many<T>(idle: &mut HashMap<PoolKey, Vec<(T, Instant)>>, max: usize) -> Option<(T, Instant)> {
    if idle.values().map(Vec::len).sum::<usize>() <= max {
        return None;
    }
    // Of each key the first is the oldest.
    let (key, _) =
        idle.iter().filter_map(|(key, kept)| Some((key, kept.first()?.1))).min_by_key(|(_, since)| *since)?;
    let key = key.clone();
    let kept = idle.get_mut(&key)?;
    let oldest = kept.remove(0);
    if kept.is_empty() {
        idle.remove(&key);
    }
    Some(oldest)
}

/// Not under the lock: it takes up to a second.
fn quit_all(mut old: Vec<(PooledConnection, Instant)>) {
    old.retain_mut(|(pooled, _)| pooled.is_good());
    let apart = old.into_iter().map(|(pooled, _)| (pooled.connection, pooled.slot));
    let (connections, slots): (Vec<Connection>, Vec<Option<Slot>>) = apart.unzip();
    Connection::quit_all(connections);
    // Free once their connections are closed.
    drop(slots);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::host::hosts::tests::Bench;
    use crate::delivery::smtp::profile::Profile;
    use crate::delivery::smtp::tls::dane::{Tlsa, TlsaRecord};
    use crate::delivery::smtp::wire::Wire;
    use crate::mail::TlsPolicy;

    #[test]
    fn where_too_many_are_idle_the_oldest_goes() {
        let start = Instant::now();
        let mut idle = HashMap::new();
        let mut gone = Vec::new();
        for number in 0..1000u64 {
            let key = PoolKey::new(&format!("lane{}.test", number % 300).into(), &[]);
            idle.entry(key).or_insert_with(Vec::new).push((number, start + Duration::from_millis(number)));
            gone.extend(oldest_of_too_many(&mut idle, CONNECTIONS_MAX).map(|(number, _)| number));
            assert!(idle.values().map(Vec::len).sum::<usize>() <= CONNECTIONS_MAX);
        }
        assert_eq!(gone, (0..1000 - CONNECTIONS_MAX as u64).collect::<Vec<_>>());
    }

    #[test]
    fn mail_that_leaves_from_other_addresses_has_connections_of_its_own() {
        let key = |lane: &str, sources: &[&str]| {
            let sources: Vec<IpAddr> = sources.iter().map(|ip| ip.parse().unwrap()).collect();
            PoolKey::new(&lane.into(), &sources)
        };
        assert_eq!(key("a.test", &[]), key("a.test", &[]));
        assert_eq!(key("a.test", &["192.0.2.1"]), key("a.test", &["192.0.2.1"]));
        assert_ne!(key("a.test", &[]), key("b.test", &[]));
        assert_ne!(key("a.test", &["192.0.2.1"]), key("a.test", &[]));
        assert_ne!(key("a.test", &["192.0.2.1"]), key("a.test", &["192.0.2.2"]));
    }

    /// A connection to a host that has closed its end.
    fn opened(lane: &str) -> PooledConnection {
        opened_at(&std::net::TcpListener::bind("127.0.0.1:0").unwrap(), lane)
    }

    fn opened_at(listener: &std::net::TcpListener, lane: &str) -> PooledConnection {
        let address = listener.local_addr().unwrap();
        let tcp = std::net::TcpStream::connect(address).unwrap();
        let endpoint = Endpoint {
            host: lane.to_owned(),
            address,
            tls: crate::config::RouteTls::Opportunistic,
            policy: crate::mail::TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: None,
            relay: false,
            preference: 10,
            sources: Arc::default(),
        };
        let wire = Wire::opened(tcp).unwrap();
        let connection = Connection::new(wire, lane.to_owned(), Profile::FULL, IDLE_MAX);
        PooledConnection { endpoint, connection, slot: None }
    }

    #[test]
    fn no_more_connections_are_kept_than_may_be_whoever_puts_them_back() {
        rlimit::increase_nofile_limit(4096).unwrap();
        let pool = Pool::new(Bench::new().slot("mx.test").hosts.clone());
        let key = |number: usize| PoolKey::new(&format!("lane{number}.test").into(), &[]);
        for number in 0..CONNECTIONS_MAX + 50 {
            pool.put(&key(number), opened("mx.test"));
            assert!(pool.lock().values().map(Vec::len).sum::<usize>() <= CONNECTIONS_MAX, "{number}");
        }
        assert_eq!(pool.lock().len(), CONNECTIONS_MAX, "a lane without one is no entry");
        assert!(pool.pop(&key(49)).is_none() && pool.pop(&key(50)).is_some(), "the oldest went");
    }

    #[test]
    fn a_connection_that_was_opened_before_a_reload_is_not_kept_after_it() {
        let pool = Pool::new(Bench::new().slot("mx.test").hosts.clone());
        let key = PoolKey::new(&"a.test".into(), &[]);
        let is_kept = |generation| {
            let mut pooled = opened("mx.test");
            pooled.connection.generation = generation;
            pool.put(&key, pooled);
            pool.pop(&key).is_some()
        };
        assert!(is_kept(0));
        let first = pool.close_all();
        assert_eq!((is_kept(0), is_kept(first)), (false, true));
        let second = pool.close_all();
        assert_eq!((is_kept(0), is_kept(first), is_kept(second)), (false, false, true));
    }

    #[test]
    fn a_connection_proves_what_it_was_opened_for_and_not_for_long() {
        let pool = Pool::new(Bench::new().slot("mx.test").hosts.clone());
        let key = PoolKey::new(&"a.test".into(), &[]);
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let aged = |secs: u64, relay| {
            let mut pooled = opened_at(&host, "mx.test");
            pooled.connection.opened_at -= Duration::from_secs(secs);
            pooled.endpoint.relay = relay;
            pool.put(&key, pooled);
            pool.take(&key).is_some()
        };
        let holds = POLICY_HOLDS.as_secs();
        assert_eq!(
            [aged(holds - 5, false), aged(holds + 1, false), aged(holds + 1, true)],
            [true, false, true]
        );
        // Of another lane, where policy and records are the same.
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![7; 32] };
        let tlsa = Tlsa::new("mx.test".to_owned(), Vec::new(), vec![record]).map(Arc::new);
        let plain = opened("mx.test").endpoint;
        let with =
            |policy, dane: &Option<Arc<Tlsa>>| Endpoint { policy, dane: dane.clone(), ..plain.clone() };
        let (none, dane) = (with(TlsPolicy::None, &None), with(TlsPolicy::Dane, &tlsa));
        assert!(none.is_same_host(&none) && dane.is_same_host(&dane));
        assert!(!none.is_same_host(&dane) && !dane.is_same_host(&with(TlsPolicy::Dane, &None)));
    }
}
