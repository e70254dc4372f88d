//! How often a client may ask for the same with ETRN, and for how much.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::TtlMap;

/// How soon a client may ask again for the same.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For how many different nodes a client may ask in that time.
const NODES_PER_CLIENT_MAX: usize = 60;
/// Clients remembered at once.
const CLIENTS_MAX: usize = 10_000;

/// What one client asked for: hashes with a secret of this process, since a node may be 500 bytes long.
type Nodes = TtlMap<u64, (), Instant>;

/// Who asked for what within the last minute.
#[derive(Debug)]
pub(in crate::submission) struct EtrnRequests {
    hashing: RandomState,
    by_client: Mutex<TtlMap<String, Nodes, Instant>>,
}

impl Default for EtrnRequests {
    fn default() -> EtrnRequests {
        EtrnRequests {
            hashing: RandomState::new(),
            by_client: Mutex::new(TtlMap::new(CLIENTS_MAX, AGAIN_AFTER)),
        }
    }
}

impl EtrnRequests {
    /// Whether `client` may ask for `node` now; if so, this request counts.
    pub(in crate::submission) fn allows(&self, client: &str, node: &str, now: Instant) -> bool {
        let node = self.hashing.hash_one(node);
        let mut by_client = self.lock();
        let nodes =
            by_client.renew(client.to_owned(), now, || TtlMap::new(NODES_PER_CLIENT_MAX, AGAIN_AFTER));
        if nodes.get(&node, now).is_some() || nodes.count(now) >= NODES_PER_CLIENT_MAX {
            return false;
        }
        nodes.insert(node, (), now);
        true
    }

    /// The request led to nothing: the client may ask again at once.
    pub(in crate::submission) fn forget(&self, client: &str, node: &str, now: Instant) {
        if let Some(nodes) = self.lock().get_mut(client, now) {
            nodes.remove(&self.hashing.hash_one(node), now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, TtlMap<String, Nodes, Instant>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_asks_once_a_minute_for_the_same_and_others_are_unaffected() {
        let recent = EtrnRequests::default();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert!(recent.allows("app", "example.com", start));
        assert!(!recent.allows("app", "example.com", after(59)));
        assert!(recent.allows("app", "@example.com", after(59)));
        assert!(recent.allows("news", "example.com", after(59)));
        assert!(recent.allows("app", "example.com", after(60)));
        recent.forget("app", "example.com", after(60));
        assert!(recent.allows("app", "example.com", after(61)));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let recent = EtrnRequests::default();
        let start = Instant::now();
        for n in 0..NODES_PER_CLIENT_MAX {
            assert!(recent.allows("app", &format!("d{n}.example"), start));
        }
        assert!(!recent.allows("app", "one-more.example", start));
        for n in 0..CLIENTS_MAX + 50 {
            assert!(recent.allows(&format!("client{n}"), "example.com", start));
        }
        assert!(recent.lock().count(start) <= CLIENTS_MAX);
    }
}
