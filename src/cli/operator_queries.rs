//! What operators are told over SMTP by XADR, XSTA, XCIR and XGEN: lines for a person.
//!
//! Submission knows neither lanes nor routes; the rooms that do are asked here. Nothing is changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::explain;
use crate::clock::Clock;
use crate::config::{Generation, Routes, atrn};
use crate::delivery::Workers;
use crate::kit::text::utc;
use crate::mail::{Address, Domain};
use crate::queue::{BackoffRow, LaneCount, Queue, QueueError, Suspension, Whose};
use crate::scheduler::Scheduler;
use crate::scheduler::lanes::LaneState;
use crate::submission::{OperatorQueries, OperatorQuery};

/// Asks the rooms.
pub(super) struct OperatorInfo {
    pub(super) queue: Queue,
    pub(super) scheduler: Scheduler,
    pub(super) workers: Workers,
    pub(super) clock: Clock,
    pub(super) generation: Arc<Mutex<Generation>>,
}

impl OperatorInfo {
    pub(super) fn generation(&self) -> MutexGuard<'_, Generation> {
        // Changed by single assignments: there is nothing half done behind a poisoned lock.
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self, addresses: &[Address]) -> Vec<String> {
        let setup = self.workers.context();
        let fetched = self.scheduler.atrn_domains();
        // What cannot be read is left out: the route is what was asked for.
        let at = self.clock.now();
        let learnt = explain::Learnt::at(
            at,
            self.queue.host_settings().unwrap_or_default(),
            self.queue.backoffs().unwrap_or_default(),
            self.queue.suspensions(at).unwrap_or_default(),
        );
        let (routes, settings) = (&setup.routes, &setup.settings);
        let explain = |address| {
            let domain = Domain::of(address);
            let row = self.queue.sts_policy(domain.as_str()).ok().flatten();
            let (lookup, now) = (&*setup.lookup, self.clock.confirmed());
            let sts = explain::sts::look(&domain, (settings, routes), row, lookup, None, now);
            explain::plan(address, None, (routes, settings), &fetched, &learnt, lookup, &sts)
        };
        addresses
            .iter()
            .flat_map(|address| explain(address).to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn waiting(&self, lane: Option<&str>) -> Result<Vec<String>, QueueError> {
        let mut lanes = self.queue.waiting_by_lane(&|domain| self.scheduler.lane_of(domain))?;
        let (backoffs, now) = (self.queue.backoffs()?, self.clock.now());
        let line = |count: &LaneCount| waiting_line(count, &backoffs, now);
        if let Some(name) = lane {
            lanes.retain(|count| count.lane.eq_ignore_ascii_case(name));
            return Ok(match lanes.first() {
                Some(count) => vec![line(count)],
                None => vec![format!("{name}: nothing waits")],
            });
        }
        let recipients: u64 = lanes.iter().map(|count| count.recipients).sum();
        let mut lines = vec![format!("{} lanes, {recipients} recipients wait", lanes.len())];
        lines.extend(lanes.iter().map(line));
        Ok(lines)
    }

    fn lanes(&self, lane: Option<&str>) -> Result<Vec<String>, QueueError> {
        let now = self.clock.now();
        let said = self.queue.backoffs()?;
        let suspensions = self.queue.suspensions(now)?;
        let line = |state: &LaneState| {
            let said = said.iter().find(|row| *row.lane == *state.lane).map(|row| row.last_reply.as_str());
            lane_line(state, said, now) + &suspended_words(&suspensions, &state.lane)
        };
        let fetched = self.scheduler.atrn_domains();
        let fetched_line = |domain: &str| {
            let suspended = suspended_words(&suspensions, domain);
            format!("{}: {}{suspended}", atrn::lane(domain), fetched.notice(domain))
        };
        if let Some(name) = lane {
            let name = name.to_ascii_lowercase();
            return Ok(vec![match atrn::domain_of_lane(&name) {
                Some(domain) if fetched.contains(domain) => fetched_line(domain),
                _ => line(&self.scheduler.lane(&name)),
            }]);
        }
        let mut lanes = self.scheduler.lanes();
        // Trouble first, then work.
        lanes.sort_by(|a, b| {
            (b.failures, b.jobs_in_flight, b.waiting)
                .cmp(&(a.failures, a.jobs_in_flight, a.waiting))
                .then(a.lane.cmp(&b.lane))
        });
        let in_trouble = lanes.iter().filter(|state| state.failures > 0).count();
        let busy: usize = lanes.iter().map(|state| state.jobs_in_flight).sum();
        let suspended = match suspensions.len() {
            0 => String::new(),
            1 => ", 1 suspension".to_owned(),
            more => format!(", {more} suspensions"),
        };
        let lanes_busy = format!("{} lanes, {in_trouble} in trouble, {busy} connections busy", lanes.len());
        let mut lines = vec![lanes_busy + &suspended];
        lines.extend(lanes.iter().map(line));
        lines.extend(fetched.names().map(fetched_line));
        Ok(lines)
    }
}

impl OperatorQueries for OperatorInfo {
    fn answer(&self, query: &OperatorQuery) -> Result<Vec<String>, String> {
        let lines = match query {
            OperatorQuery::Route(addresses) => Ok(self.route(addresses)),
            OperatorQuery::Waiting(lane) => self.waiting(lane.as_deref()),
            OperatorQuery::Lanes(lane) => self.lanes(lane.as_deref()),
            OperatorQuery::Generation => {
                // The lock is not held while the disk is read: the status page and a reload need it.
                let generation = self.generation().clone();
                Ok(generation.lines())
            }
        };
        lines.map_err(|error| error.to_string())
    }

    fn domains_of_lane(&self, lane: &str) -> Result<Option<Vec<Domain>>, String> {
        let routes = self.workers.context().routes.clone();
        let is_fetched =
            atrn::domain_of_lane(lane).is_some_and(|domain| self.scheduler.atrn_domains().contains(domain));
        if !is_fetched && !is_lane(&routes, lane) {
            return Ok(None);
        }
        let mut domains = self.queue.domains().map_err(|error| error.to_string())?;
        domains.retain(|domain| *self.scheduler.lane_of(domain) == *lane);
        Ok(Some(domains))
    }
}

/// Whether mail can wait in a lane of this name.
fn is_lane(routes: &Routes, name: &str) -> bool {
    let of_route = |pattern: &str| {
        routes.0.iter().any(|route| !route.relay.is_empty() && route.domain.to_string() == pattern)
    };
    match name.strip_prefix("route:") {
        Some(pattern) => of_route(pattern),
        None => Domain::parse(name).is_ok_and(|domain| *routes.lane(&domain) == *name),
    }
}

fn waiting_line(count: &LaneCount, backoffs: &[BackoffRow], now: i64) -> String {
    let LaneCount { lane, messages, recipients, held, suspended, next_attempt_at } = count;
    let some = |number: u64, what: &str| (number > 0).then(|| format!("{number} {what}"));
    let of_these: Vec<String> =
        some(*held, "held").into_iter().chain(some(*suspended, "suspended")).collect();
    let held = if of_these.is_empty() { String::new() } else { format!(" ({})", of_these.join(", ")) };
    let of_lane = backoffs.iter().find(|row| row.lane == *lane);
    let backoff = of_lane.map_or(0, |row| row.backoff_until);
    let next = match next_attempt_at {
        Some(_) if atrn::domain_of_lane(lane).is_some() => ", to be fetched".to_owned(),
        Some(at) if backoff > now.max(*at) => format!(", its lane backs off until {} UTC", utc(backoff)),
        Some(at) if *at <= now => ", due now".to_owned(),
        Some(at) => format!(", next due {} UTC", utc(*at)),
        None => String::new(),
    };
    format!("{lane}: {messages} messages, {recipients} recipients{held}{next}")
}

/// Where a whole lane stands still: that of a domain whose mail is suspended.
fn suspended_words(suspensions: &[Suspension], lane: &str) -> String {
    let pattern = lane.strip_prefix("route:").unwrap_or(lane);
    let is_all = |row: &&Suspension| match &row.whose {
        Whose::Domain(domains) if *lane != *pattern => domains == pattern,
        whose => whose.covers(lane, None, None),
    };
    match suspensions.iter().find(is_all) {
        Some(Suspension { whose, until: Some(until), .. }) => {
            format!(", suspended ({whose}) until {} UTC", utc(*until))
        }
        Some(Suspension { whose, until: None, .. }) => format!(", suspended ({whose}) until resumed"),
        None => String::new(),
    }
}

fn lane_line(state: &LaneState, said: Option<&str>, now: i64) -> String {
    let LaneState { lane, failures, backoff_until, jobs_in_flight, limit, waiting, more } = state;
    let how = match failures {
        0 => "open".to_owned(),
        n if *backoff_until > now => format!("backing off until {} UTC, {n} failures", utc(*backoff_until)),
        n => format!("probing, {n} failures"),
    };
    let more = if *more { " and more" } else { "" };
    let said = match said {
        Some(said) if *failures > 0 => format!(": {said}"),
        _ => String::new(),
    };
    format!("{lane}: {how}, {jobs_in_flight} of {limit} connections busy, {waiting}{more} in line{said}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::queue::Whose;

    #[test]
    fn a_lane_reads_as_a_sentence() {
        let mut state = LaneState {
            lane: "a.test".into(),
            failures: 0,
            backoff_until: 0,
            jobs_in_flight: 1,
            limit: 8,
            waiting: 3,
            more: false,
        };
        assert_eq!(lane_line(&state, None, 100), "a.test: open, 1 of 8 connections busy, 3 in line");
        (state.failures, state.backoff_until, state.jobs_in_flight, state.limit) = (2, 160, 0, 1);
        (state.waiting, state.more) = (0, true);
        assert_eq!(
            lane_line(&state, Some("421 no"), 100),
            "a.test: backing off until 1970-01-01 00:02:40 UTC, 2 failures, 0 of 1 connections busy, \
             0 and more in line: 421 no"
        );
        assert!(lane_line(&state, None, 160).starts_with("a.test: probing, 2 failures, 0 of 1"));
    }

    #[test]
    fn a_lane_whose_domain_is_suspended_says_so() {
        let row = |whose, until| Suspension { whose, since: 0, until, reason: None, login: String::new() };
        let rows = [
            row(Whose::User("a.test".to_owned()), None),
            row(Whose::domain("*.a.test").unwrap(), Some(60)),
            row(Whose::domain("b.test").unwrap(), None),
        ];
        assert_eq!(suspended_words(&rows, "route:b.test"), ", suspended (domain b.test) until resumed");
        assert_eq!(suspended_words(&rows, "route:c.test"), "");
        assert_eq!(suspended_words(&rows, "a.test"), "");
        assert_eq!(
            suspended_words(&rows, "x.a.test"),
            ", suspended (domain *.a.test) until 1970-01-01 00:01:00 UTC"
        );
        assert_eq!(suspended_words(&rows, "b.test"), ", suspended (domain b.test) until resumed");
    }

    #[test]
    fn a_count_reads_as_a_sentence() {
        let mut count = LaneCount {
            lane: "route:*".to_owned(),
            messages: 2,
            recipients: 3,
            held: 1,
            suspended: 0,
            next_attempt_at: Some(60),
        };
        assert_eq!(
            waiting_line(&count, &[], 0),
            "route:*: 2 messages, 3 recipients (1 held), next due 1970-01-01 00:01:00 UTC"
        );
        (count.held, count.next_attempt_at) = (0, Some(0));
        assert_eq!(waiting_line(&count, &[], 0), "route:*: 2 messages, 3 recipients, due now");
        let backoff = BackoffRow {
            lane: "route:*".to_owned(),
            failures: 1,
            backoff_until: 60,
            last_reply: String::new(),
        };
        assert_eq!(
            waiting_line(&count, std::slice::from_ref(&backoff), 59),
            "route:*: 2 messages, 3 recipients, its lane backs off until 1970-01-01 00:01:00 UTC"
        );
        assert!(waiting_line(&count, &[backoff], 60).ends_with(", due now"));
        let fetched = LaneCount { lane: "atrn:a.test".to_owned(), ..count.clone() };
        assert_eq!(waiting_line(&fetched, &[], 0), "atrn:a.test: 2 messages, 3 recipients, to be fetched");
        (count.held, count.suspended, count.next_attempt_at) = (1, 2, None);
        assert_eq!(waiting_line(&count, &[], 0), "route:*: 2 messages, 3 recipients (1 held, 2 suspended)");
    }

    #[test]
    fn a_config_file_that_changed_or_went_away_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.toml");
        std::fs::write(
            &path,
            "hostname = \"relay.test\"\n[[listen]]\ntls = \"off\"\naddress = \"127.0.0.1:0\"\n",
        )
        .unwrap();
        let loaded = config::load(Some(&path)).unwrap();
        let mut generation = Generation::first(0);
        generation.read_from(&loaded, Some(path.clone()));
        generation.advance(60);
        let lines = generation.lines();
        assert!(lines[1].ends_with("generation 2, loaded 1970-01-01 00:01:00 UTC"), "{lines:?}");
        assert_eq!(lines[2], "file on disk: as it was loaded");
        std::fs::write(&path, "hostname = \"other.test\"\n").unwrap();
        assert!(generation.lines()[2].contains("differs"), "{:?}", generation.lines());
        std::fs::remove_file(&path).unwrap();
        assert!(generation.lines()[2].contains("is gone"), "{:?}", generation.lines());
    }
}
