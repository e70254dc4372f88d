//! The MTA-STS policy of the domain, where it says that it has one (RFC 8461): whether senders can have it, and whether
//! it names the domain's MX hosts.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::super::finding::txt_line;
use super::super::{Finding, Level};
use super::lookups::{InTime, or_none};
use crate::config::DeliverySettings;
use crate::delivery::https::Https;
use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::sts::fetch::{FetchError, fetch, url_of};
use crate::delivery::sts::policy::{Mode, Policy};
use crate::delivery::sts::record::{self, RecordError};

const ABOUT: &str = "mta-sts";

/// Nothing where the domain has no record.
pub(super) fn look_at(
    names: &InTime<'_>,
    resolver: &Arc<Resolver>,
    settings: &DeliverySettings,
    domain: &str,
    (now, deadline): (i64, Instant),
) -> Vec<Finding> {
    let name = record::name_of(domain);
    let texts = match or_none(names.txt(&name)) {
        Ok(texts) => texts,
        Err(why) => return vec![Finding::warning(ABOUT, format!("{name} cannot be looked up: {why}"))],
    };
    match record::id(&texts) {
        Err(RecordError::None) => return Vec::new(),
        Err(error) => return vec![broken(&name, &texts, error, now)],
        Ok(_) => {}
    }
    let policy = match in_time(settings, resolver, domain, deadline) {
        Ok(policy) => policy,
        Err(why) => {
            let text = format!(
                "{name} says that there is a policy, and {}: {why}; senders go on with the one that they have, until it \
                 ends",
                url_of(domain)
            );
            return vec![Finding::problem(ABOUT, text)];
        }
    };
    let hosts = Lookup::mx(names, domain).map(|records| records.hosts).unwrap_or_default();
    vec![judge(domain, &policy, hosts.iter().map(|(_, host)| host.as_str()))]
}

fn broken(name: &str, texts: &[String], error: RecordError, now: i64) -> Finding {
    let text = format!("{name}: {error}; senders see no policy (RFC 8461 §3.1)");
    let finding = Finding::problem(ABOUT, text).add(txt_line(name, &format!("v=STSv1; id={now}")));
    let gone = texts.iter().filter(|text| text.starts_with("v=STSv1"));
    gone.fold(finding, |finding, text| finding.remove(txt_line(name, text)))
}

/// A fetch may take a minute: it is left to itself where it takes longer than there is.
fn in_time(
    settings: &DeliverySettings,
    resolver: &Arc<Resolver>,
    domain: &str,
    deadline: Instant,
) -> Result<Policy, FetchError> {
    let not_asked = |why: String| FetchError::NotAsked(why);
    let https =
        Https::new(settings, Arc::clone(resolver) as _).map_err(|error| not_asked(error.to_string()))?;
    let (answer, answered) = crossbeam_channel::bounded(1);
    let domain = domain.to_owned();
    let asked = thread::Builder::new().name("mta-sts".to_owned()).spawn(move || {
        let _ = answer.send(fetch(&https, &domain));
    });
    asked.map_err(|error| not_asked(error.to_string()))?;
    let late = |_| Err(not_asked("it took too long".to_owned()));
    answered.recv_deadline(deadline).unwrap_or_else(late)
}

fn judge<'h>(domain: &str, policy: &Policy, hosts: impl Iterator<Item = &'h str>) -> Finding {
    let strange: Vec<&str> = hosts.filter(|host| policy.allows(host).is_none()).collect();
    let mode = policy.mode;
    let url = url_of(domain);
    if strange.is_empty() || mode == Mode::None {
        return Finding::ok(ABOUT, format!("{url} ({mode}) names the domain's MX hosts"));
    }
    let level = if mode == Mode::Enforce { Level::Problem } else { Level::Warning };
    let listed = strange.join(", ");
    let lines: Vec<String> = strange.iter().map(|host| format!("\"mx: {host}\"")).collect();
    let text = format!(
        "{url} ({mode}) does not name {listed}, where senders with MTA-STS do not send then; add {} to it, and another \
         id to {}",
        lines.join(" and "),
        record::name_of(domain)
    );
    Finding::new(level, ABOUT, text)
}
