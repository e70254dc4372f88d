//! The MTA-STS policy of the domain, where it says that it has one (RFC 8461): whether senders can have it, whether it
//! names the domain's MX hosts, and whether their certificates are what it promises.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::super::finding::txt_line;
use super::super::lines::{self, Standing};
use super::super::{Finding, Level};
use super::joined;
use super::lookups::{InTime, or_none};
use super::probes::{self, Probed, Shown};
use crate::config::DeliverySettings;
use crate::delivery::https::Https;
use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::delivery::sts::fetch::{FetchError, fetch, url_of};
use crate::delivery::sts::policy::{Mode, Policy};
use crate::delivery::sts::record::{self, RecordError};

const ABOUT: &str = "mta-sts";
/// Of a policy that is proposed: a week, in seconds.
const MAX_AGE: i64 = 604_800;

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
        Err(error) => return lines::placed(names, vec![broken(&name, &texts, error, now)]),
        Ok(_) => {}
    }
    let records = Record { name: &name, text: texts.iter().find(|text| text.starts_with("v=STSv1")), now };
    thread::scope(|scope| {
        // The hosts are asked meanwhile, and where a line for the record would go.
        let hosts = scope.spawn(|| {
            let standing = Standing::of(names, &name);
            let hosts = match hosts_of(names, domain) {
                Ok(hosts) => hosts,
                Err(why) => return (standing, Err(why)),
            };
            let asked: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let shown = probes::shown(names, settings, &asked, deadline);
            (standing, Ok(hosts.into_iter().zip(shown).collect::<Vec<_>>()))
        });
        let policy = in_time(settings, resolver, domain, deadline);
        let (standing, hosts) = joined(hosts);
        let mut findings = match policy {
            Ok(policy) => judge(domain, &policy, hosts, &records),
            Err(why) => vec![not_fetched(domain, &name, &why, hosts)],
        };
        findings.iter_mut().for_each(|finding| standing.place(&name, finding));
        findings
    })
}

/// The record that says that there is a policy.
struct Record<'a> {
    name: &'a str,
    text: Option<&'a String>,
    now: i64,
}

impl Record<'_> {
    /// With another id, by which senders see that the policy changed.
    fn renewed(&self, finding: Finding) -> Finding {
        let finding = finding.add(txt_line(self.name, &format!("v=STSv1; id={}", self.now)));
        self.text.into_iter().fold(finding, |finding, text| finding.remove(txt_line(self.name, text)))
    }
}

/// MX hosts and what they show; else why they are not known.
type Hosts = Result<Vec<(String, Shown)>, String>;

/// The MX hosts; without MX records the domain is its own.
fn hosts_of(names: &InTime<'_>, domain: &str) -> Result<Vec<String>, String> {
    let mut hosts = match Lookup::mx(names, domain) {
        Ok(records) => records.hosts,
        Err(DnsError::NoData) => vec![(0, domain.to_owned())],
        Err(DnsError::NoSuchDomain) => Vec::new(),
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => return Err(why),
    };
    hosts.sort();
    Ok(hosts.into_iter().map(|(_, host)| host).filter(|host| host != ".").take(probes::HOSTS_MAX).collect())
}

fn not_fetched(domain: &str, name: &str, why: &FetchError, hosts: Hosts) -> Finding {
    let Ok(hosts) = hosts else {
        let text = format!(
            "{name} says that there is a policy, and {}: {why}; its MX hosts are not known",
            url_of(domain)
        );
        return Finding::problem(ABOUT, text);
    };
    let mx = hosts.into_iter().map(|(host, _)| host).collect();
    let wanted = Policy { mode: Mode::Testing, max_age: MAX_AGE, mx }.to_string();
    let lines: Vec<String> = wanted.lines().map(|line| format!("{line:?}")).collect();
    let text = format!(
        "{name} says that there is a policy, and {}: {why}; senders go on with the one that they have, until it ends; \
         serve there, as text/plain and by a certificate of a public authority, the lines {}",
        url_of(domain),
        lines.join(", ")
    );
    Finding::problem(ABOUT, text)
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

fn judge(domain: &str, policy: &Policy, hosts: Hosts, record: &Record<'_>) -> Vec<Finding> {
    let (mode, url) = (policy.mode, url_of(domain));
    if mode == Mode::None {
        return vec![Finding::ok(ABOUT, format!("{url} says none: senders ask nothing of the hosts"))];
    }
    let hosts = match hosts {
        Ok(hosts) if hosts.is_empty() => {
            let text = format!("{url} ({mode}) is there, and {domain} has no MX host that it could name");
            return vec![Finding::warning(ABOUT, text)];
        }
        Ok(hosts) => hosts,
        Err(why) => {
            let text = format!("whether {url} ({mode}) names the domain's MX hosts is not known: {why}");
            return vec![Finding::warning(ABOUT, text)];
        }
    };
    let level = if mode == Mode::Enforce { Level::Problem } else { Level::Warning };
    let (named, strange): (Vec<_>, Vec<_>) =
        hosts.into_iter().partition(|(host, _)| policy.allows(host).is_some());
    let mut findings: Vec<Finding> = Vec::new();
    if strange.is_empty() {
        findings.push(Finding::ok(ABOUT, format!("{url} ({mode}) names the domain's MX hosts")));
    } else {
        let listed: Vec<&str> = strange.iter().map(|(host, _)| host.as_str()).collect();
        let lines: Vec<String> = listed.iter().map(|host| format!("\"mx: {host}\"")).collect();
        let text = format!(
            "{url} ({mode}) does not name {}, where senders with MTA-STS do not send then; add {} to it, and give \
             the record another id",
            listed.join(", "),
            lines.join(" and ")
        );
        findings.push(record.renewed(Finding::new(level, ABOUT, text)));
    }
    findings.extend(named.iter().filter_map(|(host, shown)| certificate_of(host, shown, level, record)));
    findings
}

/// Whether a host that the policy names shows what senders ask for (RFC 8461 §4.2); nothing where it does.
fn certificate_of(host: &str, shown: &Shown, level: Level, record: &Record<'_>) -> Option<Finding> {
    let shown = match shown {
        Ok(shown) => shown,
        Err(why) => {
            let text = format!("whether the certificate of {host} holds for its name is not known: {why}");
            return Some(Finding::warning(ABOUT, text));
        }
    };
    let wrong = |(ip, probed): &(IpAddr, Probed)| match &probed.refusal {
        _ if probed.chain.is_empty() => Some(format!("{host} ({ip}) offers no TLS")),
        Some(why) => {
            Some(format!("{host} ({ip}) shows a certificate that does not hold for its name: {why}"))
        }
        None => None,
    };
    let wrong = shown.iter().find_map(wrong)?;
    let harm = if level == Level::Problem { "do not send there" } else { "report it" };
    let text = format!(
        "{wrong}; senders with MTA-STS {harm}; give the host a certificate of a public authority for {host}, or serve \
         \"mode: none\" and give the record another id"
    );
    Some(record.renewed(Finding::new(level, ABOUT, text)))
}
