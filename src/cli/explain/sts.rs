//! What `explain` says of the MTA-STS policy of a domain: what is known, what DNS says now, and which hosts it names.

use crate::config::{DeliverySettings, Routes};
use crate::delivery::https::Https;
use crate::delivery::job::sts_policy::has_sts;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::route::plan::Plan;
use crate::delivery::sts::fetch::{fetch, url_of};
use crate::delivery::sts::policies::StsPolicy;
use crate::delivery::sts::policy::Mode;
use crate::delivery::sts::record;
use crate::delivery::sts::step::{Step, next_step};
use crate::kit::text::utc;
use crate::mail::Domain;
use crate::queue::StsPolicyRow;

/// The policy by which mail would go, and how it was found.
#[derive(Debug, Default)]
pub(in crate::cli) struct StsView {
    pub(super) policy: Option<StsPolicy>,
    pub(super) steps: Vec<String>,
}

/// Asks DNS, and the server of the policy where there is an `https` and mail would wait for it. `row` is what the
/// queue's table says, `now` in Unix seconds.
pub(in crate::cli) fn look(
    domain: &Domain,
    (delivery, routes): (&DeliverySettings, &Routes),
    row: Option<StsPolicyRow>,
    lookup: &dyn Lookup,
    https: Option<&Https>,
    now: i64,
) -> StsView {
    if !has_sts(delivery, routes, domain) {
        return StsView::default();
    }
    let last_error = row.as_ref().and_then(|row| row.last_error.clone());
    let known = row.and_then(StsPolicy::of_row).filter(|known| known.expires_at > now);
    let name = record::name_of(domain.as_str());
    let texts = lookup.txt(&name).map_err(|error| error.to_string());
    let id = texts.and_then(|texts| record::id(&texts).map_err(|error| error.to_string()));
    let mut steps = Vec::new();
    if let Err(why) = &id {
        steps.push(format!("MTA-STS: {name}: {why}"));
    }
    let id = id.ok();
    let step = next_step(known.as_ref().map(StsPolicy::known), id.as_deref(), false, now);
    let mut policy = known;
    match (step, id, https) {
        (Step::FetchFirst, Some(id), Some(https)) => match fetch(https, domain.as_str()) {
            Ok(new) => {
                let (domain, expires_at) = (domain.to_string(), now.saturating_add(new.max_age));
                steps.push(format!("MTA-STS: fetched from {}", url_of(&domain)));
                let (fetched_at, used_at) = (now, now);
                policy = Some(StsPolicy { domain, id, policy: new, fetched_at, expires_at, used_at });
            }
            Err(why) => steps.push(format!("MTA-STS: {}: {why}", url_of(domain.as_str()))),
        },
        (Step::FetchFirst, Some(id), None) => {
            steps.push(format!("MTA-STS: DNS has id {id}: the policy would be fetched first"));
        }
        _ => {}
    }
    match &policy {
        Some(StsPolicy { policy, id, expires_at, .. }) => {
            let (mode, until, hosts) = (policy.mode, utc(*expires_at), policy.mx.join(", "));
            steps.push(format!("MTA-STS: mode {mode}, id {id}, until {until} UTC, for {hosts}"));
            steps.extend(last_error.map(|why| format!("MTA-STS: not fetched again: {why}")));
        }
        None => steps.push("MTA-STS: no policy".to_owned()),
    }
    StsView { policy, steps }
}

impl StsView {
    /// Which of the hosts of the plan the policy names.
    pub(super) fn hosts(&self, plan: &Plan) -> Vec<String> {
        let Some(StsPolicy { policy, .. }) = &self.policy else { return Vec::new() };
        if policy.mode == Mode::None {
            return Vec::new();
        }
        let mut hosts: Vec<&str> = plan.endpoints.iter().map(|endpoint| endpoint.host.as_str()).collect();
        hosts.dedup();
        let shown = |host: &str| match policy.allows(host) {
            Some(pattern) => format!("MTA-STS: {host} is named by {pattern}"),
            None => format!("MTA-STS: {host} is not named"),
        };
        hosts.into_iter().map(shown).collect()
    }
}
