//! `postrider check --against-queue`: what a reload with this config would change for the mail that waits.
//!
//! The queue has the routes and lifetimes that the relay uses, or used last (tables `routes` and `meta`); the
//! comparison is by domain, however many recipients each has. Nothing is changed.

use std::collections::BTreeMap;

use crate::cli::user;
use crate::clock::Clock;
use crate::config::{DomainPattern, Route, Routes, Settings};
use crate::mail::Domain;
use crate::queue::QueueError;
use crate::queue::admin::{Admin, ConfigInUse, DomainWaiting, RouteInUse};
use crate::submission::users;

use super::Finding;

const ABOUT: &str = "queue";
const BY_MX: &str = "their MX hosts";

/// What would change, one finding each; a problem where that cannot be told.
pub(super) fn look_at(settings: &Settings) -> Vec<Finding> {
    match compared(settings) {
        Ok(findings) => findings,
        Err(error) => vec![Finding::problem(ABOUT, error.to_string())],
    }
}

fn compared(settings: &Settings) -> Result<Vec<Finding>, QueueError> {
    let path = &settings.queue.path;
    let queue = Admin::to_read(path)?;
    let Some(in_use) = queue.config_in_use()? else {
        let text =
            format!("{}: no relay has run here yet, so there is nothing to compare with", path.display());
        return Ok(vec![Finding::problem(ABOUT, text)]);
    };
    let mut findings = of_routes(&in_use.routes, &settings.routes, &queue.waiting_by_domain()?);
    let (now, lifetimes) = (Clock::system().now(), settings.delivery.lifetimes);
    let expiring = queue.over_at(now, lifetimes)? - queue.over_at(now, in_use.lifetimes)?;
    findings.extend(of_lifetimes(&in_use, settings, expiring));
    findings.extend(of_users(settings));
    if findings.is_empty() {
        findings.push(Finding::ok(ABOUT, "a reload changes nothing for the mail that waits".to_owned()));
    }
    Ok(findings)
}

/// The way of a domain's mail: its lane, and the smarthosts of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    lane: String,
    relay: Option<String>,
}

impl Way {
    fn of(domain: &str, route: Option<(String, Option<String>)>) -> Way {
        match route {
            Some((pattern, relay @ Some(_))) => {
                Way { lane: format!("{}{pattern}", Route::LANE_PREFIX), relay }
            }
            _ => Way { lane: domain.to_owned(), relay: None },
        }
    }

    fn goes_to(&self) -> &str {
        self.relay.as_deref().unwrap_or(BY_MX)
    }
}

fn is_meant(pattern: &str, domain: &str) -> bool {
    let pattern = match pattern.strip_prefix("*.") {
        _ if pattern == "*" => DomainPattern::Any,
        Some(parent) => DomainPattern::Below(parent.to_owned()),
        None => DomainPattern::Exactly(pattern.to_owned()),
    };
    pattern.matches(domain)
}

fn of_routes(before: &[RouteInUse], after: &Routes, waiting: &[DomainWaiting]) -> Vec<Finding> {
    let mut moves: BTreeMap<(Way, Way), (u64, usize)> = BTreeMap::new();
    for DomainWaiting { domain, waiting: recipients, .. } in waiting {
        // What a person wrote into the column and is no domain goes nowhere.
        let Ok(parsed) = Domain::parse(domain) else { continue };
        let old = before.iter().find(|route| is_meant(&route.domain, domain));
        let old = Way::of(domain, old.map(|route| (route.domain.clone(), route.relay.clone())));
        let new = after.find(&parsed).map(|route| (route.domain.to_string(), route.relays()));
        let new = Way::of(domain, new);
        if old == new {
            continue;
        }
        // All that goes by MX is one line, whatever its lane.
        let key = |way: Way| if way.relay.is_none() { Way { lane: String::new(), ..way } } else { way };
        let (count, domains) = moves.entry((key(old), key(new))).or_default();
        *count += recipients;
        *domains += 1;
    }
    let moved = |((old, new), (count, domains)): ((Way, Way), (u64, usize))| {
        let lane =
            |way: &Way| if way.lane.is_empty() { "the domain's own".to_owned() } else { way.lane.clone() };
        let lanes = match old.lane == new.lane {
            true => format!("in lane {} as now", lane(&new)),
            false => format!("lane {} instead of {}", lane(&new), lane(&old)),
        };
        Finding::warning(
            ABOUT,
            format!(
                "{} of {} would go to {}, now to {} ({lanes})",
                counted(count, "recipient"),
                counted(domains as u64, "domain"),
                new.goes_to(),
                old.goes_to()
            ),
        )
    };
    moves.into_iter().map(moved).collect()
}

fn of_lifetimes(in_use: &ConfigInUse, settings: &Settings, expiring: i64) -> Vec<Finding> {
    let lifetimes = settings.delivery.lifetimes;
    if in_use.lifetimes == lifetimes {
        return Vec::new();
    }
    let changes = [
        ("lifetime", in_use.lifetimes.messages, lifetimes.messages),
        ("bounce_lifetime", in_use.lifetimes.bounces, lifetimes.bounces),
    ];
    let changes: Vec<String> = changes
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| format!("{name} would be {}, now {}", span(after), span(before)))
        .collect();
    let changes = changes.join(", ");
    vec![match expiring {
        ..=0 => Finding::ok(ABOUT, format!("{changes}: nothing more would expire at once")),
        count => {
            let count = counted(count.unsigned_abs(), "recipient");
            Finding::warning(ABOUT, format!("{changes}: {count} would expire at once, and bounce"))
        }
    }]
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// As a config has it: `5d`, `90m`.
fn span(secs: i64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm')];
    let (unit, name) = units.into_iter().find(|(unit, _)| secs % unit == 0).unwrap_or((1, 's'));
    format!("{}{name}", secs / unit)
}

/// Their mail is delivered all the same; new mail of theirs is refused.
fn of_users(settings: &Settings) -> Option<Finding> {
    let known = users::list(&settings.submission.users_file).ok()?;
    // Users of this machine have no line in the file.
    let is_local = settings.submission.listen.iter().any(|listen| listen.local_users);
    let queued = user::queued(&settings.queue.path).unwrap_or_default();
    let gone = queued.keys().filter(|name| known.iter().all(|user| user.name != **name));
    let gone: Vec<&str> = gone.map(String::as_str).take(10).collect();
    (!is_local && !gone.is_empty()).then(|| {
        let text = format!(
            "mail of users waits who are not in the users file: {}; it is delivered all the same",
            gone.join(", ")
        );
        Finding::warning(ABOUT, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RelayHost;

    fn in_use(routes: &[(&str, Option<&str>)]) -> Vec<RouteInUse> {
        let route = |(domain, relay): &(&str, Option<&str>)| RouteInUse {
            domain: (*domain).to_owned(),
            relay: relay.map(str::to_owned),
        };
        routes.iter().map(route).collect()
    }

    fn config(routes: &[(DomainPattern, &[&str])]) -> Routes {
        let route = |(domain, relay): &(DomainPattern, &[&str])| Route {
            domain: domain.clone(),
            relay: relay
                .iter()
                .map(|name| RelayHost { host: Domain::parse(name).unwrap(), port: 587 })
                .collect(),
            tls: None,
            ca_file: None,
            login: None,
            source_addresses: Vec::new(),
        };
        Routes(routes.iter().map(route).collect())
    }

    fn texts(before: &[(&str, Option<&str>)], after: &[(DomainPattern, &[&str])]) -> Vec<String> {
        let waiting = [("a.test", 30), ("x.b.test", 7), ("b.test", 2)];
        let waiting = waiting.map(|(domain, waiting)| DomainWaiting {
            domain: domain.to_owned(),
            waiting,
            held: 0,
            suspended: 0,
            due: waiting,
            next_attempt_at: None,
            oldest: 0,
        });
        let found = of_routes(&in_use(before), &config(after), &waiting);
        found.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn what_moves_is_told_once_for_each_way() {
        let below = || DomainPattern::Below("b.test".to_owned());
        let exactly = || DomainPattern::Exactly("a.test".to_owned());
        for (before, after, wanted) in [
            (&[][..], vec![], vec![]),
            (&[("*", Some("up.test:587"))], vec![(DomainPattern::Any, &["up.test"][..])], vec![]),
            // A route without a relay, and order: the first that matches wins.
            (&[("a.test", None), ("*", None)], vec![], vec![]),
            (
                &[],
                vec![(DomainPattern::Any, &["up.test"][..])],
                vec![
                    "39 recipients of 3 domains would go to up.test:587, now to their MX hosts (lane route:* instead of \
                     the domain's own)",
                ],
            ),
            (
                &[("*", Some("up.test:587"))],
                vec![(DomainPattern::Any, &["other.test", "up.test"][..])],
                vec![
                    "39 recipients of 3 domains would go to other.test:587 up.test:587, now to up.test:587 (in lane \
                     route:* as now)",
                ],
            ),
            (
                &[("*.b.test", Some("up.test:587")), ("a.test", Some("up.test:587"))],
                vec![(exactly(), &[][..]), (below(), &["up.test"][..])],
                vec![
                    "30 recipients of 1 domain would go to their MX hosts, now to up.test:587 (lane the domain's own \
                     instead of route:a.test)",
                ],
            ),
        ] {
            assert_eq!(texts(before, &after), wanted, "{before:?} {after:?}");
        }
    }
}
