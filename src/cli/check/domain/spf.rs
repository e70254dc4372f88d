//! SPF for the sending addresses: of the domain, which is the envelope's, and of the names of EHLO, which hosts look at
//! where there is no sender (bounces, RFC 7208 §2.4). The record that is proposed keeps what is there.

mod line;

use std::net::IpAddr;

use super::super::finding::txt_line;
use super::super::{Finding, Level, is_in_dns};
use super::joined;
use super::lookups::{ForSpf, InTime, or_none};
use super::sending::{Sending, Source};
use crate::delivery::route::lookup::Lookup as _;
use crate::mail::spf::record::is_spf;
use crate::mail::spf::{self, Answer, Client, Names, SpfResult};
use line::Proposal;

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
        ehlo_names.retain(|name| *name != domain && is_in_dns(name));
        let of_names = ehlo_names.into_iter().map(|name| {
            let ours = sources.iter().filter(|source| source.ehlo == name).cloned().collect::<Vec<_>>();
            scope.spawn(move || of(names, name, &ours, "-all"))
        });
        let parts: Vec<_> = std::iter::once(of_domain).chain(of_names.collect::<Vec<_>>()).collect();
        for (at, part) in parts.into_iter().enumerate() {
            let found = joined(part);
            // What is missing for bounces alone is no problem yet.
            findings.extend(found.map(|finding| if at > 0 { for_bounces(finding) } else { finding }));
        }
    });
    findings
}

fn for_bounces(finding: Finding) -> Finding {
    let text = format!("{} (counts for bounces, which have no sender)", finding.text);
    match finding.level {
        Level::Problem if finding.remove.is_empty() => Finding { level: Level::Warning, text, ..finding },
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
        [record] => {
            let text = format!("{domain} has {record:?}; it must let through what {relay} sends from");
            match line::open_to_all(&ForSpf(names), domain, record) {
                Some(why) => {
                    Finding::problem(ABOUT, format!("{text}; anybody may send as {domain} now, by {why}"))
                }
                None => Finding::ok(ABOUT, text),
            }
        }
        _ => {
            let text = format!("{domain} has several records, and none of them counts (RFC 7208 §4.5)");
            let proposed = line::merged(&records, &[], "~all");
            let finding = Finding::problem(ABOUT, text + &proposed.words());
            replaced(finding, domain, &records, &proposed)
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
    let answer = |source: &Source| match records.as_slice() {
        [record] => answered_by(asked, domain, source, record),
        [] => Answer { result: SpfResult::None, why: "there is no v=spf1 record".to_owned() },
        _ => Answer { result: SpfResult::PermError, why: "there are several v=spf1 records".to_owned() },
    };
    let answers: Vec<(IpAddr, Answer)> = std::thread::scope(|scope| {
        let parts: Vec<_> =
            sources.iter().map(|source| (source.ip, scope.spawn(|| answer(source)))).collect();
        parts.into_iter().map(|(ip, part)| (ip, joined(part))).collect()
    });
    let (mut finding, mut proposed) = judge(domain, &records, &answers, end);
    let record = |proposed: &Option<Proposal>| {
        proposed.as_ref().map(|proposed| proposed.text.clone()).or_else(|| records.first().cloned())
    };
    let Some(text) = record(&proposed) else { return Some(finding) };
    if let Some(why) = line::open_to_all(asked, domain, &text) {
        finding.level = Level::Problem;
        finding.text += &format!("; anybody may send as {domain}, by {why}");
        let closed = line::closed(asked, domain, &text);
        let passes =
            |source: &&Source| answered_by(asked, domain, source, &closed.text).result == SpfResult::Pass;
        let missing: Vec<IpAddr> =
            sources.iter().filter(|source| !passes(source)).map(|source| source.ip).collect();
        let so_far = proposed.unwrap_or_else(|| Proposal::of(&text));
        proposed =
            Some(line::merged(std::slice::from_ref(&closed.text), &missing, end).after(closed).after(so_far));
    }
    let text = record(&proposed).unwrap_or(text);
    if let Some(why) = line::broken_by(asked, domain, &text) {
        finding.level = finding.level.max(Level::Warning);
        let what = if proposed.is_some() { "what is there" } else { "it" };
        finding.text += &format!("; for other senders {what} is broken: {why}");
        let so_far = proposed.clone().unwrap_or_else(|| Proposal::of(&text));
        match line::whole(asked, domain, so_far) {
            Some(whole) => proposed = Some(whole),
            None => finding.text += &line::advice(asked, domain, &text),
        }
    }
    let Some(proposed) = proposed else { return Some(finding) };
    finding.text += &proposed.words();
    Some(replaced(finding, domain, &records, &proposed))
}

/// With the line that comes, and those that go.
fn replaced(finding: Finding, domain: &str, records: &[String], proposed: &Proposal) -> Finding {
    let finding = finding.add(txt_line(domain, &proposed.text));
    records.iter().fold(finding, |finding, record| finding.remove(txt_line(domain, record)))
}

fn answered_by(asked: &ForSpf<'_>, domain: &str, source: &Source, record: &str) -> Answer {
    let client = Client { ip: source.ip, sender: &format!("postmaster@{domain}"), helo: &source.ehlo };
    spf::check_with(asked, &client, domain, record)
}

/// One finding for all addresses, and the record that mends it where one does.
fn judge(
    domain: &str,
    records: &[String],
    answers: &[(IpAddr, Answer)],
    end: &str,
) -> (Finding, Option<Proposal>) {
    let said = |(ip, answer): &(IpAddr, Answer)| format!("{ip} {} ({})", answer.result, answer.why);
    let text = format!("{domain}: {}", answers.iter().map(said).collect::<Vec<_>>().join("; "));
    let worst = answers.iter().map(|(_, answer)| answer.result).max_by_key(|result| badness(*result));
    let finding = match worst.unwrap_or(SpfResult::Pass) {
        SpfResult::Pass => return (Finding::ok(ABOUT, text), None),
        // Nothing is proposed for what may be well.
        SpfResult::TempError => return (Finding::warning(ABOUT, text), None),
        SpfResult::Neutral | SpfResult::SoftFail => Finding::warning(ABOUT, text),
        SpfResult::None | SpfResult::Fail | SpfResult::PermError => Finding::problem(ABOUT, text),
    };
    let missing: Vec<IpAddr> = answers
        .iter()
        .filter(|(_, answer)| !matches!(answer.result, SpfResult::Pass | SpfResult::TempError))
        .map(|(ip, _)| *ip)
        .collect();
    (finding, Some(line::merged(records, &missing, end)))
}

fn badness(result: SpfResult) -> u8 {
    match result {
        SpfResult::Pass => 0,
        SpfResult::TempError => 1,
        SpfResult::Neutral | SpfResult::SoftFail => 2,
        SpfResult::None | SpfResult::Fail | SpfResult::PermError => 3,
    }
}
