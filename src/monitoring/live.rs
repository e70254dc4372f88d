//! `/live`: what only the process knows of this moment, for `postrider top`: connections open, and how busy each lane
//! is.

use serde::{Deserialize, Serialize};

use crate::scheduler::lanes::LaneState;

use super::MonitoringContext;
use super::http::{Request, Response, Status};

/// Lanes that are told of, the busiest.
const LANES_MAX: usize = 100;

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Connections of clients.
    pub sessions: usize,
    /// Connections to hosts, those that nobody uses just now too.
    pub connections: usize,
    /// Those that something is sent for just now.
    pub lanes: Vec<BusyLane>,
}

/// A lane with jobs under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyLane {
    /// Its name.
    pub lane: String,
    /// Jobs under way: each has a connection, or waits for one.
    pub busy: usize,
    /// How many there may be.
    pub limit: usize,
}

/// `/live`.
pub(super) fn answer(context: &MonitoringContext, _: &Request) -> Response {
    let live = Live {
        sessions: (context.numbers)().sessions,
        connections: context.workers.open_connections(),
        lanes: busiest(context.scheduler.lanes()),
    };
    match serde_json::to_string(&live) {
        Ok(json) => Response::of(Status::Ok, "application/json", json + "\n"),
        Err(error) => Response::text(Status::Unavailable, format!("{error}\n")),
    }
}

fn busiest(mut states: Vec<LaneState>) -> Vec<BusyLane> {
    states.retain(|state| state.jobs_in_flight > 0);
    states.sort_by(|a, b| (b.jobs_in_flight, &a.lane).cmp(&(a.jobs_in_flight, &b.lane)));
    states.truncate(LANES_MAX);
    let lane = |state: LaneState| BusyLane {
        lane: state.lane.to_string(),
        busy: state.jobs_in_flight,
        limit: state.limit,
    };
    states.into_iter().map(lane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_lanes_are_told_of_and_no_more_than_may_be() {
        let state = |number: usize| LaneState {
            lane: format!("d{number:03}.test").into(),
            failures: 0,
            backoff_until: 0,
            jobs_in_flight: number / 2,
            limit: 200,
            waiting: 1,
            more: false,
        };
        let lanes = busiest((0..300).map(state).collect());
        assert_eq!(lanes.len(), LANES_MAX);
        assert_eq!((&*lanes[0].lane, lanes[0].busy, lanes[0].limit), ("d298.test", 149, 200));
        assert_eq!(busiest((0..2).map(state).collect()), []);
    }
}
