//! Whether the hosts of an address let us in: each is connected to as mail would be, up to QUIT. No mail is sent.

use std::thread;
use std::time::Instant;

use super::super::Finding;
use super::lookups::InTime;
use crate::config::{DeliverySettings, Settings};
use crate::delivery::route::plan::{self, PlanRequest};
use crate::delivery::smtp::connection::Connector;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::probe::{Probed, probe};
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Fault;
use crate::mail::{Address, Domain};

const ABOUT: &str = "hosts";

pub(super) fn look_at(
    names: &InTime<'_>,
    settings: &Settings,
    to: &Address,
    deadline: Instant,
) -> Vec<Finding> {
    let (routes, delivery) = (&settings.routes, &settings.delivery);
    let domain = Domain::of(to);
    let request = PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: false, dane: false };
    let rank = plan::rank_of(0);
    let endpoints = match plan::plan(&request, routes, delivery, names, &rank, &mut |_| {}) {
        Ok(plan) => plan.endpoints,
        Err(no) => return vec![Finding::problem(ABOUT, format!("{to} cannot be routed: {}", no.reply()))],
    };
    // A little less than there is, so that what is said is that the host took too long.
    let wait = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
    let hurried = DeliverySettings { connect_timeout: wait, reply_timeout: wait, ..delivery.clone() };
    let connector = match Connector::new(&hurried) {
        Ok(connector) => connector,
        Err(error) => return vec![Finding::problem(ABOUT, error.to_string())],
    };
    let answers: Vec<Result<Probed, Failure>> = thread::scope(|scope| {
        let parts: Vec<_> =
            endpoints.iter().map(|endpoint| scope.spawn(|| probe(&connector, endpoint, deadline))).collect();
        let stopped = || Err(Failure::Deadline);
        parts.into_iter().map(|part| part.join().unwrap_or_else(|_| stopped())).collect()
    });
    judge(&endpoints, &answers)
}

fn judge(endpoints: &[Endpoint], answers: &[Result<Probed, Failure>]) -> Vec<Finding> {
    let any_is_good = answers.iter().any(Result::is_ok);
    let each = endpoints.iter().zip(answers).map(|(endpoint, answer)| {
        let who = format!("{} ({})", endpoint.host, endpoint.address);
        match answer {
            Ok(Probed { offers_tls: false, .. }) => Finding::warning(
                ABOUT,
                format!("{who} lets us in, and offers no TLS: mail goes in the clear"),
            ),
            Ok(Probed { tls: Encryption::None, .. }) => {
                Finding::ok(ABOUT, format!("{who} lets us in, without TLS"))
            }
            Ok(Probed { tls, .. }) => Finding::ok(ABOUT, format!("{who} lets us in: {tls}")),
            Err(failure) if any_is_good => Finding::warning(ABOUT, format!("{who}: {failure}")),
            Err(failure) => Finding::problem(ABOUT, format!("{who}: {failure}")),
        }
    });
    let mut findings: Vec<Finding> = each.collect();
    // A source address that cannot be used is ours to mend, and said already.
    let is_unreached =
        |failure: &Failure| matches!(failure, Failure::Dial(fault) if !matches!(fault, Fault::NoSource(..)));
    let by_mx = endpoints.iter().any(|endpoint| !endpoint.relay);
    if by_mx && answers.iter().all(|answer| answer.as_ref().is_err_and(is_unreached)) {
        let port = endpoints[0].address.port();
        let text = format!(
            "none can be reached on port {port}; many hosters and all home providers block it: have it opened, or send \
             through a provider ([[route]] domain = \"*\", relay = [\"smtp.provider.example:587\"])"
        );
        findings.push(Finding::problem(ABOUT, text));
    }
    findings
}
