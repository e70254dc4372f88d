//! The TLSA records of the domain's MX hosts, where it has any, against the certificates that the hosts show: what
//! senders with DANE (RFC 7672) make of them. The record that is proposed is of the host's key (`3 1 1`), which a new
//! certificate with the same key leaves as it is.

use std::collections::BTreeSet;
use std::time::Instant;

use rustls::pki_types::UnixTime;

use super::super::Finding;
use super::super::finding::zone_line;
use super::super::lines::Standing;
use super::lookups::InTime;
use super::probes::{self, Shown};
use crate::config::DeliverySettings;
use crate::delivery::route::lookup::{DnsError, Lookup, TlsaAnswer};
use crate::delivery::smtp::tls::dane::{Tlsa, TlsaRecord};

const ABOUT: &str = "tlsa";

/// Where a host's records are.
fn name_of(base: &str) -> String {
    format!("_25._tcp.{base}")
}

/// A host with records.
struct Found<'a> {
    host: &'a str,
    base: String,
    records: Vec<TlsaRecord>,
}

/// Nothing where DNSSEC does not work here, or proves that there is none.
pub(super) fn look_at(
    names: &InTime<'_>,
    settings: &DeliverySettings,
    domain: &str,
    deadline: Instant,
) -> Vec<Finding> {
    if names.validates().is_err() {
        return Vec::new();
    }
    let (hosts, owner): (Vec<String>, _) = match names.mx_validated(domain) {
        Ok(records) if records.proved => {
            (records.hosts.into_iter().map(|(_, host)| host).collect(), records.owner)
        }
        Err(DnsError::NoData) => (vec![domain.to_owned()], None),
        Ok(_) | Err(DnsError::NoSuchDomain) => return Vec::new(),
        // Nobody answers, which is told of the MX records themselves.
        Err(DnsError::Temporary(_) | DnsError::Bogus(_)) if Lookup::mx(names, domain).is_err() => {
            return Vec::new();
        }
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => {
            let text = format!("the MX records of {domain}: {why}; senders that use DNSSEC cannot use them");
            return vec![Finding::warning(ABOUT, text)];
        }
    };
    let asked: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|host| *host != ".").take(probes::HOSTS_MAX).collect();
    let (mut findings, mut found) = (Vec::new(), Vec::new());
    for (host, answer) in asked.iter().copied().zip(names.tlsa(&asked)) {
        match answer {
            Ok(TlsaAnswer::Records { base, records }) => found.push(Found { host, base, records }),
            Ok(TlsaAnswer::Absent | TlsaAnswer::Insecure(_)) => {}
            Err(why) => {
                let text =
                    format!("{host}: {why}; mail of senders with DANE waits, so that answers and bounces do");
                findings.push(Finding::problem(ABOUT, text));
            }
        }
    }
    // Asked before the hosts take what time there is.
    let standing: Vec<Standing> = found.iter().map(|one| Standing::of(names, &name_of(&one.base))).collect();
    // RFC 7672 §8.1: SNI is the TLSA base domain.
    let bases: Vec<&str> = found.iter().map(|one| one.base.as_str()).collect();
    let shown = probes::shown(names, settings, &bases, deadline);
    let also: Vec<String> = std::iter::once(domain.to_owned()).chain(owner).collect();
    for ((one, standing), shown) in found.iter().zip(standing).zip(shown) {
        let mut finding = judge(one, &also, shown);
        standing.place(&name_of(&one.base), &mut finding);
        findings.push(finding);
    }
    findings
}

/// `also` are the names beside the host's own that its certificate may be for (RFC 7672 §3.2.2).
fn judge(found: &Found<'_>, also: &[String], shown: Shown) -> Finding {
    let Found { host, base, records } = found;
    let name = name_of(base);
    let listed: Vec<String> = records.iter().map(TlsaRecord::to_string).collect();
    let has = format!("{host} has {} at {name}", listed.join(", "));
    let accepted: Vec<String> =
        [base.clone(), (*host).to_owned()].into_iter().chain(also.iter().cloned()).collect();
    let tlsa = Tlsa::new(base.clone(), accepted, records.clone());
    let shown = match (shown, &tlsa) {
        (Ok(shown), _) => shown,
        (Err(why), Some(_)) => {
            let text = format!(
                "{has}: senders with DANE take only such a certificate; whether it shows one is not known: {why}"
            );
            return Finding::warning(ABOUT, text);
        }
        (Err(_), None) => return Finding::warning(ABOUT, format!("{has}{UNUSABLE}")),
    };
    let without = |finding: Finding| {
        records
            .iter()
            .fold(finding, |finding, record| finding.remove(zone_line(&name, "TLSA", &record.zone_data())))
    };
    if let Some((ip, _)) = shown.iter().find(|(_, probed)| probed.chain.is_empty()) {
        let text = format!(
            "{has}, and offers no TLS ({ip}): senders with DANE do not send there; turn STARTTLS on there, or \
             remove the records"
        );
        return without(Finding::problem(ABOUT, text));
    }
    let mismatch = |(_, probed): &(_, probes::Probed)| {
        let (own, issuers) = probed.chain.split_first()?;
        tlsa.as_ref()?.check(own, issuers, UnixTime::now()).err()
    };
    let finding = match (&tlsa, shown.iter().find_map(|one| Some((one.0, mismatch(one)?)))) {
        (Some(_), None) => {
            return Finding::ok(ABOUT, format!("{has}, and shows such a certificate"));
        }
        (Some(_), Some((ip, why))) => {
            Finding::problem(ABOUT, format!("{has}, but {why} ({ip}): senders with DANE do not send there"))
        }
        (None, _) => Finding::warning(ABOUT, format!("{has}{UNUSABLE}")),
    };
    let of_key = |(_, probed): &(_, probes::Probed)| TlsaRecord::of_key(probed.chain.first()?);
    let right: BTreeSet<TlsaRecord> = shown.iter().filter_map(of_key).collect();
    let line = |record: &TlsaRecord| zone_line(&name, "TLSA", &record.zone_data());
    // All others: RFC 7671 §9 lets the strongest digest alone count.
    let wrong: Vec<&TlsaRecord> = records.iter().filter(|record| !right.contains(record)).collect();
    // One of the same kind does no harm beside the right one (RFC 7671 §8.1).
    let is_for_key = |record: &&TlsaRecord| record.to_string().starts_with("3 1 1 ");
    let finding = match wrong.iter().any(is_for_key) && tlsa.is_some() {
        true => Finding {
            text: format!(
                "{}; keep a record 3 1 1 that is for a key to come: it matches nothing before that is used",
                finding.text
            ),
            ..finding
        },
        false => finding,
    };
    let finding = wrong.into_iter().fold(finding, |finding, record| finding.remove(line(record)));
    let missing = right.iter().filter(|record| !records.contains(record));
    missing.fold(finding, |finding, record| finding.add(line(record)))
}

const UNUSABLE: &str = ", and none of them can be used: it takes usage 2 or 3, selector 0 or 1, and a digest of the right length \
     (RFC 7672 §3.1)";
