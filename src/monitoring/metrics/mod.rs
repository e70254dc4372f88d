//! Metrics for Prometheus: what happened since the start, and what is so now.
//!
//! - `counters`: what the mail log tells, in atomics (`refusals`, `domains`: where the world has a say in a label)
//! - `gauges`: what the queue and the relay say at a scrape; `waiting`: what waits, which takes time to count
//! - `exposition`: both as text
//!
//! However many domains, hosts, replies and users there are, there are fewer than 2,000 series: a domain has a
//! label where it is one of the 50 with the most mail, hosts and users have none, and of replies there are few. Names,
//! types and meanings are in `docs/monitoring.md`.

mod counters;
mod domains;
mod exposition;
mod gauges;
mod refusals;
mod waiting;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use crate::maillog;
use crate::queue::Queue;

use counters::Counters;
use exposition::{Family, Format};
use waiting::Counter;

pub use gauges::RelayNumbers;

/// What is counted, for as long as the process lives: the log has one observer.
static COUNTERS: OnceLock<Arc<Counters>> = OnceLock::new();

/// What waits, as it was counted last.
#[derive(Debug, Default)]
pub struct Metrics {
    waiting: Counter,
}

/// From now on what happens is counted. Costs nothing before.
pub(super) fn begin() {
    maillog::observe_with(counters());
}

/// Nobody asks any more: nothing is counted until [`begin`], and nothing waits to be.
pub(super) fn end() {
    maillog::observe_no_more();
    counters().forget_uncounted();
}

/// What clients were refused since the start, by class and enhanced code of the reply, the most first.
pub(super) fn refused() -> Vec<(String, u64)> {
    let mut all = counters().refused_replies();
    all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    all
}

fn counters() -> Arc<Counters> {
    COUNTERS.get_or_init(Counters::new).clone()
}

/// A scrape: what kind of text it is, and the text.
pub(super) struct Scrape {
    pub(super) content_type: &'static str,
    pub(super) text: String,
}

impl Metrics {
    /// All metrics at `now` (Unix seconds), in the form that the `Accept` field asks for.
    pub(super) fn scrape(
        &self,
        queue: &Queue,
        numbers: &RelayNumbers,
        now: i64,
        accept: Option<&str>,
    ) -> Result<Scrape, std::fmt::Error> {
        let mut families = counters().families();
        families.extend(gauges::of_relay(numbers));
        families.extend(gauges::of_writer(queue.commits(), queue.refused()));
        families.extend(of_queue(queue, &self.waiting, now));
        let format = Format::asked_for(accept);
        Ok(Scrape { content_type: format.content_type(), text: format.write(families)? })
    }
}

/// What cannot be read has no series: a rule sees that it is missing, and none that is wrong.
fn of_queue(queue: &Queue, waiting: &Counter, now: i64) -> Vec<Family> {
    let mut families = Vec::new();
    match queue.small_counts(now) {
        Ok(counts) => families.extend(gauges::of_tables(&counts)),
        Err(error) => log::debug!("metrics: {error}"),
    }
    families.extend(queue.disk_use().iter().flat_map(gauges::of_disk));
    if let Some((waiting, age)) = waiting.waiting(queue, now) {
        families.extend(gauges::of_waiting(&waiting, age));
    }
    families
}
