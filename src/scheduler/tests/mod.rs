//! Lanes without a clock, a thread or a database; and, of the thread, what it reads first. Here is what the tests
//! share.

mod backoff;
mod claims;
mod lane;
mod properties;
mod reader;
mod routes;
mod suspended;
mod turns;
mod window;
mod worker_quota;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use proptest::prelude::*;

use super::Scheduler;
use super::lanes::{LaneChange, Lanes};
use super::reader::{Portions, Reader, Urgent, rows_of_lanes};
use crate::clock::{Clock, Moment};
use crate::config::{AtrnDomains, DomainPattern, QueueSettings, RelayHost, Route, Routes, SchedulerSettings};
use crate::mail::{
    Attempt, Domain, Enhanced, Envelope, Handling, Labels, Lifetimes, Outcome, Phase, Priority, Recipient,
    Reply, address,
};
use crate::queue::{
    BackoffRow, Due, Event, Job, Kick, LaneHealth, MessageId, NewMessage, NextState, Origin, Queue,
    RecipientId, Settled, Settlement,
};

fn settings() -> SchedulerSettings {
    SchedulerSettings {
        workers: 8,
        connections_per_destination: 2,
        recipients_per_transaction: 3,
        schedule: vec![Duration::from_secs(60), Duration::from_secs(600)],
        longest_rule_delay: Duration::ZERO,
        lifetimes: Lifetimes { messages: 432_000, bounces: 172_800 },
        routes: Arc::new(Routes::default()),
        destinations: Arc::default(),
    }
}

/// A moment of a clock that was never set.
fn at(now: i64) -> Moment {
    Moment { now, steady: now }
}

fn lanes() -> Lanes {
    Lanes::new(settings(), 7)
}

fn due(recipient: i64, message: i64, domain: &str) -> Due {
    Due {
        recipient: RecipientId(recipient),
        message: MessageId(message),
        domain: Domain::parse(domain).unwrap(),
        due_at: 0,
        attempts: 0,
        priority: Priority::NORMAL,
        tls_optional: false,
        submitted: None,
        fresh: None,
    }
}

fn ids(job: &Job) -> Vec<i64> {
    job.recipient_ids().map(|recipient| recipient.0).collect()
}

fn failing() -> LaneHealth {
    LaneHealth::Failing("421 4.4.1 connection refused".to_owned())
}

/// `fetched` is fetched with ATRN.
fn lanes_without(fetched: &str) -> Lanes {
    let mut lanes = lanes();
    let mut domains = AtrnDomains::default();
    domains.add(fetched, "customer");
    lanes.set_atrn(domains);
    lanes
}

/// The first of two jobs of a lane whose first ended well.
fn answered(lanes: &mut Lanes, lane: &str) -> Job {
    let job = lanes.next(0).unwrap();
    assert_eq!(&*job.lane, lane);
    lanes.finished(&job, &LaneHealth::Healthy, &[], 0);
    lanes.next(0).unwrap()
}

fn relay_for_all() -> Route {
    let relay = RelayHost { host: Domain::parse("relay.test").unwrap(), port: 587 };
    Route {
        domain: DomainPattern::Any,
        relay: vec![relay],
        tls: None,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    }
}

/// The next job, answered at once.
fn one_turn(lanes: &mut Lanes) -> Option<Vec<i64>> {
    let job = lanes.next(0)?;
    lanes.finished(&job, &LaneHealth::Unchanged, &[], 0);
    Some(ids(&job))
}

fn urgent(recipient: i64, domain: &str, priority: i64) -> Due {
    Due { priority: Priority::clamped(priority), ..due(recipient, recipient, domain) }
}

fn ids_of(job: &Job) -> Vec<RecipientId> {
    job.recipient_ids().collect()
}
