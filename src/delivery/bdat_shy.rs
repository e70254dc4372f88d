//! Hosts that offer CHUNKING and fail at BDAT, remembered for a day: there, DATA does better.
//!
//! They exist where something between us and the host understands less than it lets through. In memory only: what
//! is forgotten costs one more failed chunk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a host is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many are; past it, all are forgotten and learnt again.
const HOSTS_MAX: usize = 10_000;

/// By the host's name, when it last failed.
#[derive(Debug, Default)]
pub(super) struct BdatShy {
    hosts: Mutex<HashMap<String, Instant>>,
}

impl BdatShy {
    /// The host failed at BDAT just now.
    pub(super) fn note(&self, host: &str) {
        // Nothing panics while this is held.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= HOSTS_MAX {
            hosts.clear();
        }
        hosts.insert(host.to_owned(), Instant::now());
    }

    /// Whether the host is to be spared BDAT.
    pub(super) fn has(&self, host: &str) -> bool {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).is_some_and(|noted| noted.elapsed() < REMEMBERED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_remembered_and_no_more_than_so_many() {
        let shy = BdatShy::default();
        shy.note("mx.example");
        assert!(shy.has("mx.example") && !shy.has("mx.example.net"));
        for number in 0..HOSTS_MAX {
            shy.note(&format!("h{number}"));
        }
        assert!(shy.hosts.lock().unwrap().len() <= HOSTS_MAX && !shy.has("mx.example"));
    }
}
