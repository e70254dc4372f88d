//! SPF for the sending addresses: of the domain, which is the envelope's, and of the names of EHLO, which hosts look at
//! where there is no sender (bounces, RFC 7208 §2.4). The record that is proposed keeps what is there.

use std::net::IpAddr;

use super::super::Finding;
use super::super::finding::txt_line;
use super::lookups::{ForSpf, InTime, or_none};
use super::sending::{Sending, Source};
use crate::delivery::route::lookup::Lookup as _;
use crate::mail::spf::record::{Term, is_spf, terms};
use crate::mail::spf::{self, Answer, Client, Names, SpfResult};

const ABOUT: &str = "spf";

pub(super) fn look_at(names: &InTime<'_>, domain: &str, sending: &Sending) -> Vec<Finding> {
    let sources = sending.sources();
    if let Sending::Relay(relay) = sending {
        return vec![through_relay(names, domain, relay.host.as_str())];
    }
    let mut findings = Vec::new();
    std::thread::scope(|scope| {
        let of_domain = scope.spawn(|| of(names, domain, sources, "~all"));
        let mut ehlo_names: Vec<&str> = sources.iter().map(|source| source.ehlo.as_str()).collect();
        ehlo_names.sort_unstable();
        ehlo_names.dedup();
        ehlo_names.retain(|name| *name != domain && !name.starts_with('['));
        let of_names = ehlo_names.into_iter().map(|name| {
            let ours = sources.iter().filter(|source| source.ehlo == name).cloned().collect::<Vec<_>>();
            scope.spawn(move || of(names, name, &ours, "-all"))
        });
        let parts: Vec<_> = std::iter::once(of_domain).chain(of_names.collect::<Vec<_>>()).collect();
        for (at, part) in parts.into_iter().enumerate() {
            let found = part.join().ok().flatten();
            // What is missing for bounces alone is no problem yet.
            findings.extend(found.map(|finding| if at > 0 { for_bounces(finding) } else { finding }));
        }
    });
    findings
}

fn for_bounces(finding: Finding) -> Finding {
    let text = format!("{} (counts for bounces, which have no sender)", finding.text);
    match finding.level {
        super::super::Level::Problem if finding.remove.is_empty() => {
            Finding { level: super::super::Level::Warning, text, ..finding }
        }
        _ => Finding { text, ..finding },
    }
}

/// Nobody here knows the relay's addresses: that there is a record that can be read is all that can be told.
fn through_relay(names: &InTime<'_>, domain: &str, relay: &str) -> Finding {
    let records = match or_none(names.txt(domain)) {
        Ok(texts) => texts.into_iter().filter(|text| is_spf(text)).collect::<Vec<_>>(),
        Err(why) => return Finding::warning(ABOUT, format!("{domain}: cannot be looked up: {why}")),
    };
    match records.as_slice() {
        [] => {
            Finding::warning(ABOUT, format!("{domain} has no record; ask who runs {relay} for its include:"))
        }
        [record] => Finding::ok(
            ABOUT,
            format!("{domain} has {record:?}; it must let through what {relay} sends from"),
        ),
        _ => {
            let text = format!("{domain} has several records, and none of them counts (RFC 7208 §4.5)");
            let finding = Finding::problem(ABOUT, text).add(txt_line(domain, &merged(&records, &[], "~all")));
            records.iter().fold(finding, |finding, record| finding.remove(txt_line(domain, record)))
        }
    }
}

/// None where there is no address to ask about.
fn of(names: &InTime<'_>, domain: &str, sources: &[Source], end: &str) -> Option<Finding> {
    if sources.is_empty() {
        return None;
    }
    let asked = &ForSpf(names);
    let records: Vec<String> = match Names::txt(asked, domain) {
        Ok(texts) => texts.into_iter().filter(|text| is_spf(text)).collect(),
        Err(why) => return Some(Finding::warning(ABOUT, format!("{domain}: cannot be looked up: {why}"))),
    };
    let sender = format!("postmaster@{domain}");
    let answer = |source: &Source| {
        let client = Client { ip: source.ip, sender: &sender, helo: &source.ehlo };
        match records.as_slice() {
            [record] => spf::check_with(asked, &client, domain, record),
            [] => Answer { result: SpfResult::None, why: "there is no v=spf1 record".to_owned() },
            _ => Answer { result: SpfResult::PermError, why: "there are several v=spf1 records".to_owned() },
        }
    };
    let answers: Vec<(IpAddr, Answer)> = std::thread::scope(|scope| {
        let parts: Vec<_> =
            sources.iter().map(|source| (source.ip, scope.spawn(|| answer(source)))).collect();
        parts.into_iter().filter_map(|(ip, part)| Some((ip, part.join().ok()?))).collect()
    });
    Some(judge(domain, &records, &answers, end))
}

/// One finding for all addresses, since one record mends it.
fn judge(domain: &str, records: &[String], answers: &[(IpAddr, Answer)], end: &str) -> Finding {
    let said = |(ip, answer): &(IpAddr, Answer)| format!("{ip} {} ({})", answer.result, answer.why);
    let text = format!("{domain}: {}", answers.iter().map(said).collect::<Vec<_>>().join("; "));
    let worst = answers.iter().map(|(_, answer)| answer.result).max_by_key(|result| badness(*result));
    let finding = match worst.unwrap_or(SpfResult::Pass) {
        SpfResult::Pass => return Finding::ok(ABOUT, text),
        // Nothing is proposed for what may be well.
        SpfResult::TempError => return Finding::warning(ABOUT, text),
        SpfResult::Neutral | SpfResult::SoftFail => Finding::warning(ABOUT, text),
        SpfResult::None | SpfResult::Fail | SpfResult::PermError => Finding::problem(ABOUT, text),
    };
    let missing: Vec<IpAddr> = answers
        .iter()
        .filter(|(_, answer)| !matches!(answer.result, SpfResult::Pass | SpfResult::TempError))
        .map(|(ip, _)| *ip)
        .collect();
    let finding = finding.add(txt_line(domain, &merged(records, &missing, end)));
    records.iter().fold(finding, |finding, record| finding.remove(txt_line(domain, record)))
}

fn badness(result: SpfResult) -> u8 {
    match result {
        SpfResult::Pass => 0,
        SpfResult::TempError => 1,
        SpfResult::Neutral | SpfResult::SoftFail => 2,
        SpfResult::None | SpfResult::Fail | SpfResult::PermError => 3,
    }
}

/// One record of all of them that lets these addresses pass, first of all: no other term then has to be looked up for
/// them. Words that nobody can read are left out, since one breaks the record. `end` is for a record that has no end.
fn merged(records: &[String], addresses: &[IpAddr], end: &str) -> String {
    let mut words = vec!["v=spf1".to_owned()];
    words.extend(addresses.iter().map(|ip| match ip.to_canonical() {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }));
    let (mut all, mut redirect, mut explanation) = (None, None, None);
    for word in records.iter().flat_map(|record| terms(record)) {
        let place = match Term::parse(word) {
            Err(_) => continue,
            Ok(Term::Mechanism(mechanism)) if mechanism.kind == spf::record::Kind::All => &mut all,
            Ok(Term::Redirect(_)) => &mut redirect,
            Ok(Term::Explanation) => &mut explanation,
            Ok(Term::Mechanism(_) | Term::Unknown) => {
                if !words.iter().any(|known| known == word) {
                    words.push(word.to_owned());
                }
                continue;
            }
        };
        place.get_or_insert_with(|| word.to_owned());
    }
    if all.is_none() && redirect.is_none() {
        all = Some(end.to_owned());
    }
    words.extend([all, redirect, explanation].into_iter().flatten());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_and_what_breaks_it_is_not() {
        let ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].iter().map(|ip| ip.parse().unwrap()).collect();
        let new = |records: &[&str]| {
            merged(&records.iter().map(|record| (*record).to_owned()).collect::<Vec<_>>(), &ips, "~all")
        };
        let ours = "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1";
        for (records, rest) in [
            (&[] as &[&str], "~all"),
            (&["v=spf1 mx -all"], "mx -all"),
            (&["v=spf1 mx redirect=_spf.b.test"], "mx redirect=_spf.b.test"),
            (&["v=spf1 ?all exp=why.test"], "?all exp=why.test"),
            (&["v=spf1 ip:1.2.3.4 ipv4:1.2.3.4 mx"], "mx ~all"),
            (&["v=spf1 mx -all", "v=spf1 include:_spf.b.test mx ~all"], "mx include:_spf.b.test -all"),
            (&["v=spf1 m\u{fc} x-a=b -all"], "x-a=b -all"),
        ] {
            assert_eq!(new(records), format!("{ours} {rest}"), "{records:?}");
        }
    }
}
