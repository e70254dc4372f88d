//! `postrider explain ADDRESS`: how this recipient would be routed now, step by step.
//!
//! It plans with the code that delivers, with the settings of the config file and the users file. Nothing is connected to and
//! the queue is not read.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::config::{AtrnDomains, DeliverySettings, RouteTls, Routes, Settings, atrn};
use crate::delivery::dns::{Lookup, Resolver};
use crate::delivery::route::{self, Endpoint};
use crate::delivery::sources::{Names, of_family};
use crate::mail::{Address, Domain, address};
use crate::submission::users;

/// How one address would be routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// Its domain as it is looked up: A-labels, lower case.
    pub domain: String,
    /// The lane its mail would wait in.
    pub lane: String,
    /// What was found and decided, in order.
    pub steps: Vec<String>,
    /// Whom we would try, best first. Hosts of equal preference come in another order each time.
    pub endpoints: Vec<Hop>,
    /// Why nobody can be tried.
    pub refusal: Option<Refusal>,
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
    /// A configured relay rather than an MX host.
    pub relay: bool,
    /// Whether we would log in there.
    pub login: bool,
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

/// Plans for `address` in mail that `user` submitted (none: nobody who logged in); `fetched` are the domains whose mail waits for ATRN.
pub fn explain(
    address: &Address,
    user: Option<&str>,
    settings: &Settings,
    fetched: &AtrnDomains,
    lookup: &dyn Lookup,
) -> Explanation {
    plan(address, user, &settings.routes, &settings.delivery, fetched, lookup)
}

/// As [`explain`], for a relay that runs.
pub(super) fn plan(
    address: &Address,
    user: Option<&str>,
    routes: &Routes,
    delivery: &DeliverySettings,
    fetched: &AtrnDomains,
    lookup: &dyn Lookup,
) -> Explanation {
    let domain = Domain::of(address);
    let mut steps = Vec::new();
    if fetched.contains(domain.as_str()) {
        steps.push(format!("{}: no lookup", fetched.notice(domain.as_str())));
        return Explanation {
            address: address.to_string(),
            lane: atrn::lane(domain.as_str()).to_string(),
            domain: domain.to_string(),
            steps,
            endpoints: Vec::new(),
            refusal: None,
        };
    }
    let mut random = |below| fastrand::usize(..below);
    let mut trace = |step: fmt::Arguments<'_>| steps.push(step.to_string());
    let plan = route::plan(&domain, user, routes, delivery, lookup, &mut random, &mut trace);
    let (endpoints, refusal) = match plan {
        Ok(endpoints) => (endpoints, None),
        Err(no) => (Vec::new(), Some(Refusal { reply: no.reply.to_string(), permanent: no.permanent })),
    };
    let names = Names::new(delivery);
    let hops = endpoints.into_iter().map(|endpoint| Hop {
        from: leaving(&endpoint, &names),
        host: endpoint.host,
        address: endpoint.address.to_string(),
        tls: tls_word(endpoint.tls),
        relay: endpoint.relay,
        login: endpoint.login.is_some(),
    });
    Explanation {
        address: address.to_string(),
        lane: routes.lane(&domain).to_string(),
        domain: domain.to_string(),
        steps,
        endpoints: hops.collect(),
        refusal,
    }
}

fn leaving(endpoint: &Endpoint, names: &Names) -> Vec<Source> {
    let from = of_family(&endpoint.sources, endpoint.address.ip());
    from.map(|ip| Source { address: ip.to_string(), ehlo: names.at(Some(ip)).to_owned() }).collect()
}

/// The command: explains `recipient`, an address or a name of `[aliases]`, on `out`, for mail that `user` submitted. Exit code 1 where somebody
/// cannot be routed.
///
/// # Errors
/// When `recipient` is neither, or the resolver cannot start, or `out` cannot be written.
pub fn run(
    recipient: &str,
    user: Option<&str>,
    json: bool,
    settings: &Settings,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let addresses = match settings.submission.aliases.get(&recipient.to_lowercase()) {
        Some(targets) => targets.clone(),
        None => vec![address::parse(recipient).with_context(|| format!("{recipient:?} is not an address"))?],
    };
    let resolver = Resolver::new(&settings.dns).context("cannot start the resolver")?;
    let fetched = users::atrn_domains_of(&users::list(&settings.submission.users_file)?);
    let explanations: Vec<Explanation> =
        addresses.iter().map(|address| explain(address, user, settings, &fetched, &resolver)).collect();
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
        serde_json::to_writer_pretty(&mut *out, explanations)?;
        return writeln!(out);
    }
    explanations.iter().try_for_each(|explanation| write!(out, "{explanation}"))
}

/// Lines for a person.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.address)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        for (at, hop) in self.endpoints.iter().enumerate() {
            let kind = if hop.relay { ", relay" } else { "" };
            let login = if hop.login { ", with login" } else { "" };
            write!(f, "  try {}: {} at {}, tls {}{kind}{login}", at + 1, hop.host, hop.address, hop.tls)?;
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
        }
        if let Some(refusal) = &self.refusal {
            let then = if refusal.permanent { "would bounce at once" } else { "would be tried again later" };
            writeln!(f, "  {then}: {}", refusal.reply)?;
        }
        writeln!(f, "  lane: {}", self.lane)
    }
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
