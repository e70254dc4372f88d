//! Whether the hosts of an address let us in: each is connected to as mail would be, up to QUIT. No mail is sent.

use std::time::Instant;

use super::super::Finding;
use super::lookups::InTime;
use super::probes;
use crate::config::Settings;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::route::plan::{self, PlanRequest};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::probe::Probed;
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Fault;
use crate::mail::{Address, Domain};

const ABOUT: &str = "hosts";
/// Hosts that are named where they were not tried.
const NAMED_MAX: usize = 10;

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
    // Kept in the cache, so that the plan does not ask again.
    let mut all: Vec<String> = match routes.find(&domain).filter(|route| !route.relay.is_empty()) {
        Some(route) => route.relay.iter().map(|relay| relay.host.to_string()).collect(),
        None => Lookup::mx(names, domain.as_str()).map(|records| hosts_of(records.hosts)).unwrap_or_default(),
    };
    let endpoints = match plan::plan(&request, routes, delivery, names, &rank, &mut |_| {}) {
        Ok(plan) => plan.endpoints,
        Err(no) => return vec![Finding::problem(ABOUT, format!("{to} cannot be routed: {}", no.reply()))],
    };
    match probes::all(&endpoints, delivery, deadline) {
        Ok(answers) => {
            let mut findings = judge(&endpoints, &answers);
            all.retain(|host| endpoints.iter().all(|endpoint| endpoint.host != *host));
            findings.extend(not_tried(to, &all));
            findings
        }
        Err(why) => vec![Finding::problem(ABOUT, why)],
    }
}

fn hosts_of(mut records: Vec<(u16, String)>) -> Vec<String> {
    records.sort();
    records.into_iter().map(|(_, host)| host).filter(|host| host != ".").collect()
}

/// An attempt has room for some hosts only, and leaves out what has no address that it may use.
fn not_tried(to: &Address, hosts: &[String]) -> Option<Finding> {
    let (shown, more) = hosts.split_at(hosts.len().min(NAMED_MAX));
    let rest = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!hosts.is_empty()).then(|| {
        let text = format!(
            "not tried: {}{rest}; one attempt takes {} hosts at most, of those with an address that can be used: \
             `postrider explain {to}` says more",
            shown.join(", "),
            plan::MX_HOSTS_MAX
        );
        Finding::ok(ABOUT, text)
    })
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
