//! Whether answers and bounces can come back: the domain's MX, and their addresses. Hosts refuse a sender to whom
//! nothing can be returned.

use std::net::IpAddr;
use std::thread;

use super::super::finding::mx_line;
use super::super::{Finding, Level};
use super::joined;
use super::lookups::{InTime, or_none};
use super::sending::is_private;
use crate::delivery::route::lookup::{DnsError, Lookup};

const ABOUT: &str = "mx";
/// What stands in the line for the host that only the operator knows.
const HOST: &str = "MAILHOST";
/// Hosts whose addresses are looked up.
const HOSTS_MAX: usize = 20;

pub(super) fn look_at(names: &InTime<'_>, domain: &str) -> Vec<Finding> {
    let mut hosts = match Lookup::mx(names, domain) {
        Ok(records) => records.hosts,
        Err(DnsError::NoData | DnsError::NoSuchDomain) => Vec::new(),
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => {
            return vec![Finding::warning(ABOUT, format!("{domain}: cannot be looked up: {why}"))];
        }
    };
    hosts.sort();
    hosts.truncate(HOSTS_MAX);
    let asked: Vec<&str> = match hosts.is_empty() {
        // RFC 5321 §5.1: without MX the domain is its own host.
        true => vec![domain],
        false => hosts.iter().map(|(_, host)| host.as_str()).collect(),
    };
    let found = Lookup::addresses(names, &asked).into_iter().map(or_none);
    let hosts_found: Vec<Host<'_>> = asked.iter().copied().zip(found).collect();
    let finding = judge(domain, &hosts, &hosts_found);
    if finding.level != Level::Ok || hosts.is_empty() {
        return vec![finding];
    }
    let targets: Vec<Option<String>> = thread::scope(|scope| {
        let parts: Vec<_> = asked.iter().map(|host| scope.spawn(move || names.alias(host).ok())).collect();
        parts.into_iter().map(joined).collect()
    });
    vec![without_aliases(domain, finding, &hosts, &targets)]
}

/// RFC 5321 §5.1 and RFC 2181 §10.3: the host of an MX record is no alias; some senders do not follow it.
fn without_aliases(
    domain: &str,
    good: Finding,
    records: &[(u16, String)],
    targets: &[Option<String>],
) -> Finding {
    let aliases: Vec<(&(u16, String), &String)> =
        records.iter().zip(targets).filter_map(|(record, target)| Some((record, target.as_ref()?))).collect();
    if aliases.is_empty() {
        return good;
    }
    let listed: Vec<String> =
        aliases.iter().map(|((_, host), target)| format!("{host} is {target}")).collect();
    let text = format!(
        "an MX record must not name an alias (CNAME, RFC 2181 §10.3), and some hosts send nothing to one: {}",
        listed.join(", ")
    );
    let line = |preference: u16, host: &str| mx_line(domain, preference, host);
    aliases.into_iter().fold(Finding::warning(ABOUT, text), |finding, ((preference, host), target)| {
        finding.remove(line(*preference, host)).add(line(*preference, target))
    })
}

/// A host, and its addresses; else why they are not known.
type Host<'a> = (&'a str, Result<Vec<IpAddr>, String>);

/// `records` are the MX records; `hosts` theirs, or the domain itself where there are none.
fn judge(domain: &str, records: &[(u16, String)], hosts: &[Host<'_>]) -> Finding {
    let line = |preference: u16, host: &str| mx_line(domain, preference, host);
    let without = |finding: Finding, gone: &[&str]| {
        let gone = records.iter().filter(|(_, host)| gone.contains(&host.as_str()));
        gone.fold(finding, |finding, (preference, host)| finding.remove(line(*preference, host)))
    };
    let broken = |text: String| {
        let text = format!("{text}; {HOST} is the host that takes mail for {domain}");
        Finding::problem(ABOUT, text).add(line(10, HOST))
    };
    if records.len() == 1 && records[0].1 == "." {
        let text = format!(
            "{domain} has a null MX: it takes no mail, bounces are lost, and hosts refuse its senders (RFC 7505 §4.2)"
        );
        return without(broken(text), &["."]);
    }
    let outside = |ips: &[IpAddr]| ips.iter().any(|ip| !is_private(*ip));
    let named = |wanted: bool| -> Vec<&str> {
        let is_wanted =
            |found: &Result<Vec<IpAddr>, String>| found.as_ref().is_ok_and(|ips| outside(ips) == wanted);
        hosts.iter().filter(|(_, found)| is_wanted(found)).map(|(host, _)| *host).collect()
    };
    let (reachable, nowhere) = (named(true), named(false));
    let unknown = hosts.iter().find_map(|(host, found)| Some((host, found.as_ref().err()?)));
    match (unknown, reachable.is_empty()) {
        (Some((host, why)), true) => Finding::warning(ABOUT, format!("{host}: cannot be looked up: {why}")),
        (None, true) if records.is_empty() => broken(format!(
            "{domain} has neither MX nor address that the world can reach: bounces are lost, and hosts refuse its senders"
        )),
        (None, true) => {
            let text =
                format!("{}: no address that the world can reach; bounces are lost", nowhere.join(", "));
            without(broken(text), &nowhere)
        }
        (_, false) if !nowhere.is_empty() => {
            let listed = nowhere.join(", ");
            let text = format!("{listed}: no address that the world can reach; the others take its mail");
            without(Finding::warning(ABOUT, text), &nowhere)
        }
        (_, false) if records.is_empty() => Finding::ok(
            ABOUT,
            format!("{domain} has no MX, and takes mail at its own address (RFC 5321 §5.1)"),
        ),
        (_, false) => Finding::ok(ABOUT, format!("bounces go to {}", reachable.join(", "))),
    }
}
