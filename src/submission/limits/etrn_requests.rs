//! How often the same may be asked for with ETRN, and for how much: by one client, and for one destination by all.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::TtlMap;

/// How soon a client may ask again for the same.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For how many different nodes a client may ask in that time.
const NODES_PER_CLIENT_MAX: usize = 60;
/// Clients, and destinations, remembered at once.
const REMEMBERED_MAX: usize = 10_000;

/// What one client asked for: hashes with a secret of this process, since a node may be 500 bytes long.
type Nodes = TtlMap<u64, (), Instant>;

/// Who asked for what within the last minute.
#[derive(Debug)]
pub(in crate::submission) struct EtrnRequests {
    hashing: RandomState,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    by_client: TtlMap<String, Nodes, Instant>,
    /// Whoever asked: a destination is not knocked at as often as there are clients.
    destinations: Nodes,
}

impl Default for EtrnRequests {
    fn default() -> EtrnRequests {
        let by_client = TtlMap::new(REMEMBERED_MAX, AGAIN_AFTER);
        let destinations = TtlMap::new(REMEMBERED_MAX, AGAIN_AFTER);
        EtrnRequests { hashing: RandomState::new(), asked: Mutex::new(Asked { by_client, destinations }) }
    }
}

impl EtrnRequests {
    /// Whether `client` may ask for `node` now; if so, this request counts. What others asked for does not keep an
    /// operator from asking.
    pub(in crate::submission) fn allows(
        &self,
        client: &str,
        node: &str,
        is_operator: bool,
        now: Instant,
    ) -> bool {
        let (node, destination) = self.hashes(node);
        let mut asked = self.lock();
        let Asked { by_client, destinations } = &mut *asked;
        if !is_operator && destinations.get(&destination, now).is_some() {
            return false;
        }
        let nodes =
            by_client.renew(client.to_owned(), now, || TtlMap::new(NODES_PER_CLIENT_MAX, AGAIN_AFTER));
        if nodes.get(&node, now).is_some() || nodes.count(now) >= NODES_PER_CLIENT_MAX {
            return false;
        }
        nodes.insert(node, (), now);
        destinations.insert(destination, (), now);
        true
    }

    /// The request led to nothing: the client may ask again at once, and so may others.
    pub(in crate::submission) fn forget(&self, client: &str, node: &str, now: Instant) {
        let (node, destination) = self.hashes(node);
        let mut asked = self.lock();
        if let Some(nodes) = asked.by_client.get_mut(client, now) {
            nodes.remove(&node, now);
        }
        asked.destinations.remove(&destination, now);
    }

    /// Of the node, and of its destination.
    fn hashes(&self, node: &str) -> (u64, u64) {
        (self.hashing.hash_one(node), self.hashing.hash_one(destination(node)))
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same for all ways to ask for it: `example.com`, `@example.com`, `#example.com`.
fn destination(node: &str) -> &str {
    node.trim_start_matches(['@', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_may_be_asked_for_once_a_minute_by_whomever() {
        let recent = EtrnRequests::default();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert!(recent.allows("app", "example.com", false, start));
        for n in 0..34 {
            for node in ["example.com", "@example.com", "#example.com"] {
                assert!(!recent.allows(&format!("192.0.2.{n}"), node, false, after(59)), "{n} {node}");
            }
        }
        assert!(recent.allows("app", "other.example", false, after(59)));
        assert!(recent.allows("op", "example.com", true, after(59)), "an operator is not held up by others");
        assert!(!recent.allows("op", "example.com", true, after(60)), "but by himself");
        assert!(!recent.allows("app", "example.com", false, after(60)), "the operator has just kicked it");
        assert!(recent.allows("app", "example.com", false, after(119)));
        recent.forget("app", "example.com", after(119));
        assert!(recent.allows("news", "example.com", false, after(119)), "nothing came of it");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let recent = EtrnRequests::default();
        let start = Instant::now();
        for n in 0..NODES_PER_CLIENT_MAX {
            assert!(recent.allows("app", &format!("d{n}.example"), false, start));
        }
        assert!(!recent.allows("app", "one-more.example", false, start));
        for n in 0..REMEMBERED_MAX + 50 {
            assert!(recent.allows(&format!("client{n}"), &format!("e{n}.example"), false, start));
        }
        let mut asked = recent.lock();
        assert!(
            asked.by_client.count(start) <= REMEMBERED_MAX
                && asked.destinations.count(start) <= REMEMBERED_MAX
        );
    }
}
