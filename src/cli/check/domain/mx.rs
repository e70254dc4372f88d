//! Whether answers and bounces can come back: the domain's MX, and their addresses. Hosts refuse a sender to whom
//! nothing can be returned.

use std::net::IpAddr;

use super::super::Finding;
use super::super::finding::zone_line;
use super::lookups::{InTime, or_none};
use super::sending::is_private;
use crate::delivery::route::lookup::{DnsError, Lookup};

const ABOUT: &str = "mx";
/// What stands in the line for the host that only the operator knows.
const HOST: &str = "MAILHOST";
/// Hosts whose addresses are looked up.
const HOSTS_MAX: usize = 20;

pub(super) fn look_at(names: &InTime<'_>, domain: &str) -> Vec<Finding> {
    let line = |preference: u16, host: &str| {
        let end = if host == "." { "" } else { "." };
        zone_line(domain, "MX", &format!("{preference} {host}{end}"))
    };
    let mend = |finding: Finding| finding.add(line(10, HOST));
    let whose = format!("{HOST} is the host that takes mail for {domain}");
    let mut hosts = match Lookup::mx(names, domain) {
        Ok(records) => records.hosts,
        Err(DnsError::NoData | DnsError::NoSuchDomain) => Vec::new(),
        Err(DnsError::Temporary(why)) => {
            return vec![Finding::warning(ABOUT, format!("{domain}: cannot be looked up: {why}"))];
        }
    };
    hosts.sort();
    hosts.truncate(HOSTS_MAX);
    if let [(preference, host)] = &hosts[..]
        && host == "."
    {
        let text = format!(
            "{domain} has a null MX: it takes no mail, bounces are lost, and hosts refuse its senders (RFC 7505 §4.2); \
             {whose}"
        );
        return vec![mend(Finding::problem(ABOUT, text).remove(line(*preference, host)))];
    }
    let asked: Vec<&str> = match hosts.is_empty() {
        // RFC 5321 §5.1: without MX the domain is its own host.
        true => vec![domain],
        false => hosts.iter().map(|(_, host)| host.as_str()).collect(),
    };
    let found: Vec<Result<Vec<IpAddr>, String>> =
        Lookup::addresses(names, &asked).into_iter().map(or_none).collect();
    let outside = |ips: &[IpAddr]| ips.iter().any(|ip| !is_private(*ip));
    let reachable: Vec<&str> = asked
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.as_ref().is_ok_and(|ips| outside(ips)))
        .map(|(host, _)| *host)
        .collect();
    let unknown = found.iter().find_map(|found| found.as_ref().err());
    let nowhere: Vec<&str> = asked
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.as_ref().is_ok_and(|ips| !outside(ips)))
        .map(|(host, _)| *host)
        .collect();
    let listed = nowhere.join(", ");
    vec![match (&reachable[..], unknown, &nowhere[..]) {
        ([], Some(why), _) => {
            Finding::warning(ABOUT, format!("{}: cannot be looked up: {why}", asked.join(", ")))
        }
        ([], None, _) if hosts.is_empty() => {
            let text = format!(
                "{domain} has neither MX nor address: bounces are lost, and hosts refuse its senders; {whose}"
            );
            mend(Finding::problem(ABOUT, text))
        }
        ([], None, _) => {
            let text = format!("{listed}: no address that the world can reach; bounces are lost; {whose}");
            let finding = hosts.iter().fold(Finding::problem(ABOUT, text), |finding, (preference, host)| {
                finding.remove(line(*preference, host))
            });
            mend(finding)
        }
        (_, _, [_, ..]) => {
            let text = format!("{listed}: no address that the world can reach; the others take its mail");
            let dead = hosts.iter().filter(|(_, host)| nowhere.contains(&host.as_str()));
            dead.fold(Finding::warning(ABOUT, text), |finding, (preference, host)| {
                finding.remove(line(*preference, host))
            })
        }
        (_, _, []) if hosts.is_empty() => Finding::ok(
            ABOUT,
            format!("{domain} has no MX, and takes mail at its own address (RFC 5321 §5.1)"),
        ),
        (reachable, _, []) => Finding::ok(ABOUT, format!("bounces go to {}", reachable.join(", "))),
    }]
}
