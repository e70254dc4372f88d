//! `postrider explain ADDRESS`: how this recipient would be routed now, step by step.
//!
//! It plans with the code that delivers, with the settings of the config file and the users file, and adds what
//! else would have a say: limits of hosts, the operator's and those learnt from throttles, what hosts fail at,
//! whether the lane backs off, the domain's MTA-STS policy (of the queue nothing else is read), and `[[retry.rule]]`s.
//! No host is connected to but the one of an MTA-STS policy that is not known yet.

pub(super) mod sts;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::output::json_pretty;
use crate::clock::Clock;
use crate::config::{
    AtrnDomains, DeliverySettings, Destination, LimitScope, RetryRule, RouteTls, Routes, RuleAction,
    Settings, atrn,
};
use crate::delivery::https::Https;
use crate::delivery::job::tls_policy::{self, Demands};
use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::route::plan::{self, PlanRequest};
use crate::delivery::smtp::ehlo_names::EhloNames;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
use crate::kit::text::{printable, utc};
use crate::mail::dkim::{Keyring, SigningKey};
use crate::mail::{Address, Domain, TlsPolicy, address};
use crate::queue::admin::{Admin, HeldCount};
use crate::queue::{BackoffRow, HostSetting, Setting, Suspension, Whose, by_and_why};
use crate::submission::users;
use sts::StsView;

/// How one address would be routed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// Its domain as it is looked up: A-labels, lower case.
    pub domain: String,
    /// The lane its mail would wait in.
    pub lane: String,
    /// Until when nothing in that lane is tried, and what was said there.
    pub backs_off: Option<String>,
    /// Why its mail is not tried: what is suspended, and of what mail.
    pub suspended: Vec<String>,
    /// Mail for this domain that is held now, and by what.
    pub held: Vec<String>,
    /// What was found and decided, in order.
    pub steps: Vec<String>,
    /// Which DKIM keys would sign, where it is known who wrote the mail.
    pub dkim: Option<String>,
    /// Whom we would try, best first. Hosts of equal preference come in another order each time.
    pub endpoints: Vec<Hop>,
    /// Why nobody can be tried.
    pub refusal: Option<Refusal>,
    /// What `[[destination]]` says of the lane.
    pub limits: Option<String>,
    /// The `[[retry.rule]]`s that have a say when an attempt fails, in their order.
    pub retry_rules: Vec<String>,
}

/// One address that would be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The host's name.
    pub host: String,
    /// Address and port.
    pub address: String,
    /// As `[[route]] tls` is written.
    pub tls: &'static str,
    /// Which policy says so: `none`, `dane`, `sts-testing`, `sts-enforce` or `route`.
    pub tls_policy: &'static str,
    /// What the certificate must be, in words.
    pub certificate: String,
    /// A configured relay rather than an MX host.
    pub relay: bool,
    /// Whether we would log in there.
    pub login: bool,
    /// What `[[destination]]` says of the host, and what was learnt of it: limits, and features that fail there.
    pub limits: Vec<String>,
    /// The local addresses that the connection would leave from, by turns. Empty: the system chooses.
    pub from: Vec<Source>,
}

/// A local address that a connection would leave from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The address.
    pub address: String,
    /// What we would call ourselves there.
    pub ehlo: String,
}

/// Why nobody can be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Codes and text, as a bounce would quote them.
    pub reply: String,
    /// A bounce at once; otherwise it would be tried again.
    pub permanent: bool,
}

/// How two things meet that are each clear by themselves.
const RULE_AND_BACKOFF: &str = "(a rule is for those recipients that were tried; where the host refuses the connection \
                                itself, the lane backs off as well, and the others come to the rule a few at each try)";

/// What delivery learnt about hosts, and which lanes are in trouble.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// Their settings.
    pub(super) hosts: Vec<HostSetting>,
    /// From failures in a row.
    pub(super) lanes: Vec<BackoffRow>,
    /// What an operator suspended.
    pub(super) suspensions: Vec<Suspension>,
}

impl Learnt {
    /// What is known at `now`: a backoff that is over keeps its row for some hours, and keeps nothing waiting.
    pub(super) fn at(
        now: i64,
        hosts: Vec<HostSetting>,
        mut lanes: Vec<BackoffRow>,
        suspensions: Vec<Suspension>,
    ) -> Learnt {
        lanes.retain(|row| row.backoff_until > now);
        Learnt { hosts, lanes, suspensions }
    }
}

/// Those that mean mail for this domain that this user submitted, and those that mean some of it.
fn suspended_words(rows: &[Suspension], domain: &Domain, user: Option<&str>) -> Vec<String> {
    let words = |row: &Suspension| {
        let until = row.until.map_or_else(|| "resumed".to_owned(), |until| format!("{} UTC", utc(until)));
        let by_and_why = by_and_why(&row.login, row.reason.as_deref());
        let which = match &row.whose {
            Whose::Tag(tag) => format!("its mail with tag {tag}"),
            whose => whose.to_string(),
        };
        format!("suspended: {which} until {until}{by_and_why}")
    };
    let is_meant = |row: &&Suspension| match row.whose {
        Whose::Tag(_) => true,
        _ => row.whose.covers(domain.as_str(), user, None),
    };
    rows.iter().filter(is_meant).map(words).collect()
}

/// Plans for `address` in mail that `user` submitted (none: nobody who logged in); `fetched` are the domains whose
/// mail waits for ATRN, `learnt` what is known of hosts.
pub(super) fn plan(
    address: &Address,
    user: Option<&str>,
    (routes, delivery): (&Routes, &DeliverySettings),
    fetched: &AtrnDomains,
    learnt: &Learnt,
    lookup: &dyn Lookup,
    sts: &StsView,
) -> Explanation {
    let domain = Domain::of(address);
    let rules = (1..).zip(&delivery.retry_rules).filter(|(_, rule)| rule.domain.matches(domain.as_str()));
    let retry_rules = rules.map(|(number, rule)| rule_words(number, rule)).collect();
    let mut steps = Vec::new();
    if fetched.contains(domain.as_str()) {
        steps.push(format!("{}: no lookup", fetched.notice(domain.as_str())));
        return Explanation {
            address: address.to_string(),
            lane: atrn::lane(domain.as_str()).to_string(),
            suspended: suspended_words(&learnt.suspensions, &domain, user),
            domain: domain.to_string(),
            steps,
            retry_rules,
            ..Explanation::default()
        };
    }
    let mut trace = |step: fmt::Arguments<'_>| steps.push(step.to_string());
    let request = PlanRequest { domain: &domain, user, attempts: 0, with_proof: false, dane: true };
    let rank = plan::rank_of(fastrand::i64(..));
    let planned = plan::plan(&request, routes, delivery, lookup, &rank, &mut trace).map_err(Failure::Route);
    steps.extend(sts.steps.iter().cloned());
    steps.extend(planned.as_ref().map(|plan| sts.hosts(plan)).unwrap_or_default());
    let demands = Demands { domain: &domain, sts: sts.policy.as_ref(), require_tls: false };
    let (endpoints, refusal) = match planned.and_then(|plan| tls_policy::decide(plan, &demands)) {
        Ok(plan) => (plan.endpoints, None),
        Err(failure) => {
            let reply = failure.reply();
            (Vec::new(), Some(Refusal { reply: reply.to_string(), permanent: reply.code >= 500 }))
        }
    };
    let names = EhloNames::new(delivery);
    let hops = endpoints.into_iter().map(|endpoint| Hop {
        limits: limits_of(&endpoint, delivery, learnt),
        from: leaving(&endpoint, &names),
        certificate: certificate_words(&endpoint),
        host: endpoint.host,
        address: endpoint.address.to_string(),
        tls: tls_word(endpoint.tls),
        tls_policy: endpoint.policy.as_str(),
        relay: endpoint.relay,
        login: endpoint.login.is_some(),
    });
    let lane = routes.lane(&domain).to_string();
    Explanation {
        address: address.to_string(),
        domain: domain.to_string(),
        suspended: suspended_words(&learnt.suspensions, &domain, user),
        steps,
        held: Vec::new(),
        dkim: None,
        endpoints: hops.collect(),
        refusal,
        limits: delivery.destinations.of_lane(&lane).map(destination_words),
        retry_rules,
        backs_off: learnt.lanes.iter().find(|row| row.lane == lane).map(backs_off),
        lane,
    }
}

fn certificate_words(endpoint: &Endpoint) -> String {
    match &endpoint.dane {
        Some(tlsa) => {
            let records: Vec<String> = tlsa.records().iter().map(ToString::to_string).collect();
            format!("one that its TLSA records mean: {}", records.join(", "))
        }
        None if endpoint.must_verify() => format!("one that holds for {}", endpoint.host),
        None => "any".to_owned(),
    }
}

fn leaving(endpoint: &Endpoint, names: &EhloNames) -> Vec<Source> {
    let from = endpoint.usable_sources();
    from.map(|ip| Source { address: ip.to_string(), ehlo: names.at(Some(ip)).to_owned() }).collect()
}

/// Which keys sign mail of this author now.
fn dkim_words(author: &Address, keyring: &Keyring, now: i64) -> String {
    let author = Domain::of(author);
    let Some(domain) = keyring.domain_of([author.as_str()]) else {
        return format!(
            "not signed: {author} has no [[dkim]], nor has a domain above it, and there is no sign_as"
        );
    };
    match keyring.in_force(domain, now) {
        Ok(keys) => {
            let names: Vec<String> = keys.into_iter().map(SigningKey::name).collect();
            format!("signed by {}", names.join(", "))
        }
        Err(_) => format!(
            "would wait: no key of {domain} is in force, and its mail is not sent without a signature"
        ),
    }
}

/// The command: explains `recipient`, an address or a name of `[aliases]`, on `out`, for mail that `user`
/// submitted and `author` wrote. Exit code 1 where somebody cannot be routed.
///
/// # Errors
/// When `recipient` is neither, or the resolver cannot start, or `out` cannot be written.
pub fn run(
    recipient: &str,
    (user, author): (Option<&str>, Option<&str>),
    json: bool,
    settings: &Settings,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let addresses = match settings.submission.aliases.get(&recipient.to_lowercase()) {
        Some(targets) => targets.clone(),
        // Where mail goes depends on the domain alone, but for aliases.
        None => vec![
            address::parse(recipient)
                .or_else(|error| address::parse(&format!("postmaster@{recipient}")).map_err(|_| error))
                .with_context(|| format!("{recipient:?} is neither an address nor a domain"))?,
        ],
    };
    let author = author.map(|author| {
        address::parse(author).with_context(|| format!("--from: {author:?} is not an address"))
    });
    let author = author.transpose()?;
    let resolver = Arc::new(Resolver::new(&settings.dns).context("cannot start the resolver")?);
    let https = Https::new(&settings.delivery, Arc::clone(&resolver) as _)?;
    let fetched = users::atrn_domains_of(&users::list(&settings.submission.users_file)?);
    let now = Clock::system().now();
    // Without a queue nothing was learnt yet; one that this user may not read is none of explain's business.
    let queue = Admin::to_read(&settings.queue.path);
    let learnt = queue.as_ref().ok().and_then(|queue| {
        let (hosts, lanes) = (queue.host_settings().ok()?, queue.backoffs().ok()?);
        Some(Learnt::at(now, hosts, lanes, queue.suspended_now().ok()?))
    });
    let learnt = learnt.unwrap_or_default();
    let (routes, delivery) = (&settings.routes, &settings.delivery);
    let dkim = author.map(|author| dkim_words(&author, &delivery.keyring, now));
    let explain = |address| {
        let domain = Domain::of(address);
        let row = queue.as_ref().ok().and_then(|queue| queue.sts_policy(domain.as_str()).ok()).flatten();
        let sts = sts::look(&domain, (delivery, routes), row, &*resolver, Some(&https), now);
        let explained = plan(address, user, (routes, delivery), &fetched, &learnt, &*resolver, &sts);
        let held = queue.as_ref().ok().and_then(|queue| queue.held(Some(&domain)).ok()).unwrap_or_default();
        Explanation { dkim: dkim.clone(), held: held.iter().map(HeldCount::words).collect(), ..explained }
    };
    let explanations: Vec<Explanation> = addresses.iter().map(explain).collect();
    write(&explanations, json, out).context("cannot write the explanation")?;
    let unrouted = explanations.iter().filter(|explanation| explanation.refusal.is_some()).count();
    if unrouted > 0 {
        bail!(
            "{unrouted} of {} addresses cannot be routed now; the last lines above say why",
            explanations.len()
        );
    }
    Ok(())
}

/// JSON: a list with an object for each address.
fn write(explanations: &[Explanation], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return out.write_all(json_pretty(&explanations).as_bytes());
    }
    explanations.iter().try_for_each(|explanation| write!(out, "{explanation}"))
}

/// Lines for a person.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.address)?;
        for step in &self.steps {
            writeln!(f, "  {}", printable(step.as_bytes()))?;
        }
        if let Some(dkim) = &self.dkim {
            writeln!(f, "  DKIM: {dkim}")?;
        }
        for (at, hop) in self.endpoints.iter().enumerate() {
            let kind = if hop.relay { ", relay" } else { "" };
            let login = if hop.login { ", with login" } else { "" };
            let policy = match hop.tls_policy {
                "none" | "route" => String::new(),
                policy => format!(" (policy {policy})"),
            };
            let (at, Hop { host, address, tls, .. }) = (at + 1, hop);
            write!(f, "  try {at}: {host} at {address}, tls {tls}{policy}{kind}{login}")?;
            for (at, source) in hop.from.iter().enumerate() {
                write!(
                    f,
                    "{} {} as {}",
                    if at == 0 { ", from" } else { " or" },
                    source.address,
                    source.ehlo
                )?;
            }
            writeln!(f)?;
            if hop.tls_policy == TlsPolicy::Dane.as_str() {
                writeln!(f, "    certificate: {}", hop.certificate)?;
            }
            for limit in &hop.limits {
                writeln!(f, "    {}", printable(limit.as_bytes()))?;
            }
        }
        if let Some(refusal) = &self.refusal {
            let then = if refusal.permanent { "would bounce at once" } else { "would be tried again later" };
            writeln!(f, "  {then}: {}", printable(refusal.reply.as_bytes()))?;
        }
        writeln!(f, "  lane: {}", self.lane)?;
        for words in self.suspended.iter().chain(&self.held) {
            writeln!(f, "    {}", printable(words.as_bytes()))?;
        }
        for more in self.backs_off.iter().chain(&self.limits).chain(&self.retry_rules) {
            writeln!(f, "    {}", printable(more.as_bytes()))?;
        }
        if !self.retry_rules.is_empty() {
            writeln!(f, "    {RULE_AND_BACKOFF}")?;
        }
        Ok(())
    }
}

/// `[[destination]]`, and what was learnt where that leaves room for it.
fn limits_of(endpoint: &Endpoint, delivery: &DeliverySettings, learnt: &Learnt) -> Vec<String> {
    let own = delivery.destinations.of_mx(&endpoint.host).map(destination_words);
    let name = endpoint.name();
    let learnt = learnt.hosts.iter().filter(|row| row.mx == name).map(|row| {
        let said = row.last_reply.as_deref().map_or_else(String::new, |reply| format!(" (after {reply:?})"));
        match (row.setting, row.retry_at) {
            (Setting::Connections(limit), _) => {
                format!("throttled for now: {}{said}", amounts(Some(limit.into()), None))
            }
            (Setting::MessagesPerMinute(limit), _) => {
                format!("throttled for now: {}{said}", amounts(None, Some(limit.into())))
            }
            (setting, retry_at) => {
                let until = retry_at.map_or_else(String::new, |at| format!(" until {} UTC", utc(at)));
                format!("{}={}{until}{said}", setting.name(), setting.value())
            }
        }
    });
    own.into_iter().chain(learnt).collect()
}

fn backs_off(lane: &BackoffRow) -> String {
    let (until, said) = (utc(lane.backoff_until), &lane.last_reply);
    let failures = match lane.failures {
        1 => "1 failure".to_owned(),
        more => format!("{more} failures in a row"),
    };
    format!("backing off: not tried until {until} UTC, or `postrider queue kick` ({failures}: {said:?})")
}

fn destination_words(destination: &Destination) -> String {
    let scope = match &destination.scope {
        LimitScope::Domain(pattern) => format!("domain = \"{pattern}\""),
        LimitScope::Mx(pattern) => format!("mx = \"{pattern}\""),
    };
    let connections = destination.connections.map(|limit| limit as u64);
    let per_minute = destination.messages_per_minute.map(u64::from);
    format!("[[destination]] {scope}: {}", amounts(connections, per_minute))
}

fn amounts(connections: Option<u64>, per_minute: Option<u64>) -> String {
    let connections = connections.map(|limit| format!("{limit} connections at once"));
    let per_minute = per_minute.map(|limit| format!("{limit} messages a minute"));
    connections.into_iter().chain(per_minute).collect::<Vec<_>>().join(", ")
}

/// `[[retry.rule]] 2: code 4xx, text "…": retry after 10m`; the number as the log has it.
fn rule_words(number: usize, rule: &RetryRule) -> String {
    let x = |digit: &Option<u8>| digit.map_or_else(|| "x".to_owned(), |digit| digit.to_string());
    let code = rule.code.map(|digits| format!("code {}", digits.iter().map(x).collect::<String>()));
    let x = |number: &Option<u16>| number.map_or_else(|| "x".to_owned(), |number| number.to_string());
    let enhanced = rule
        .enhanced
        .map(|numbers| format!("enhanced {}", numbers.iter().map(x).collect::<Vec<_>>().join(".")));
    let text = (!rule.text.is_empty()).then(|| format!("text {:?}", rule.text.join("*")));
    let words: Vec<String> = code.into_iter().chain(enhanced).chain(text).collect();
    let about = if words.is_empty() { "any temporary failure".to_owned() } else { words.join(", ") };
    let action = match rule.action {
        RuleAction::Retry(delay) => format!("retry after {}", duration(delay)),
        RuleAction::Hold => "hold".to_owned(),
        RuleAction::Bounce => "bounce".to_owned(),
    };
    format!("[[retry.rule]] {number}: {about}: {action}")
}

fn tls_word(tls: RouteTls) -> &'static str {
    match tls {
        RouteTls::Off => "off",
        RouteTls::Opportunistic => "opportunistic",
        RouteTls::Encrypt => "encrypt",
        RouteTls::Verify => "verify",
        RouteTls::Implicit => "implicit",
    }
}

/// As a config has it: `10m`, `1h 30m`.
fn duration(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |it| format!("{it:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_said_cannot_write_on_the_terminal() {
        let hostile = || "a\u{1b}]0;b\u{7}\u{202e}".to_owned();
        let hop = Hop {
            host: "mx.test".to_owned(),
            address: "192.0.2.1:25".to_owned(),
            tls: "optional",
            tls_policy: "none",
            relay: false,
            login: false,
            from: Vec::new(),
            certificate: String::new(),
            limits: vec![hostile()],
        };
        let explained = Explanation {
            address: "a@b.test".to_owned(),
            domain: "b.test".to_owned(),
            steps: vec![hostile()],
            dkim: None,
            endpoints: vec![hop],
            refusal: Some(Refusal { reply: hostile(), permanent: true }),
            lane: "b.test".to_owned(),
            held: Vec::new(),
            suspended: vec![hostile()],
            backs_off: Some(hostile()),
            limits: Some(hostile()),
            retry_rules: vec![hostile()],
        };
        for json in [false, true] {
            let mut out = Vec::new();
            write(std::slice::from_ref(&explained), json, &mut out).unwrap();
            let out = String::from_utf8(out).unwrap();
            assert!(!out.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{out:?}");
            assert_eq!(out.matches("]0;b").count(), 7, "{out}");
        }
    }

    #[test]
    fn a_backoff_that_is_over_keeps_nothing_waiting() {
        let lane = |backoff_until| BackoffRow {
            lane: format!("{backoff_until}.test"),
            failures: 1,
            backoff_until,
            last_reply: "421 no".to_owned(),
        };
        let learnt = Learnt::at(100, Vec::new(), vec![lane(100), lane(101)], Vec::new());
        assert_eq!(learnt.lanes, [lane(101)]);
    }
}
