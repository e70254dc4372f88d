//! SPF for the sending addresses: of the domain, which is the envelope's, and of the names of EHLO, which hosts look at
//! where there is no sender (bounces, RFC 7208 §2.4). The record that is proposed keeps what is there.

use std::net::{IpAddr, Ipv4Addr};

use super::super::finding::txt_line;
use super::super::{Finding, Level};
use super::lookups::{ForSpf, InTime, or_none};
use super::sending::{Sending, Source};
use crate::delivery::route::lookup::Lookup as _;
use crate::mail::spf::record::{Kind, Mechanism, Term, is_spf, terms};
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
    let (finding, proposed) = judge(domain, &records, &answers, end);
    let Some(record) = proposed.as_ref().or(records.first()) else { return Some(finding) };
    let broken = for_nobody(asked, domain, record);
    let finding = match &broken {
        None => finding,
        Some(why) => {
            let text = format!(
                "{}; for other senders {} is broken: {why}",
                finding.text,
                if proposed.is_some() { "what is there" } else { "it" }
            );
            Finding { level: finding.level.max(Level::Warning), text, ..finding }
        }
    };
    let better = broken.and_then(|_| whole(asked, domain, record));
    let finding = match (&better, &proposed) {
        (None, None) if finding.level != Level::Ok && !records.is_empty() => Finding {
            text: format!(
                "{}; leave out terms that look something up and are not used any more",
                finding.text
            ),
            ..finding
        },
        _ => finding,
    };
    let Some(line) = better.or(proposed) else { return Some(finding) };
    let finding = finding.add(txt_line(domain, &line));
    Some(records.iter().fold(finding, |finding, record| finding.remove(txt_line(domain, record))))
}

/// What is wrong with a record for a sender whom none of its terms means, and who so comes to the end of it.
fn for_nobody(asked: &ForSpf<'_>, domain: &str, record: &str) -> Option<String> {
    let sender = format!("postmaster@{domain}");
    let client = Client { ip: Ipv4Addr::UNSPECIFIED.into(), sender: &sender, helo: domain };
    let answer = spf::check_with(asked, &client, domain, record);
    (answer.result == SpfResult::PermError).then_some(answer.why)
}

/// The record without includes that break it, and, where it still takes too many look-ups, with the addresses of `a`
/// and `mx` in their place; none where that does not mend it.
fn whole(asked: &ForSpf<'_>, domain: &str, record: &str) -> Option<String> {
    let breaks = |word: &&str| {
        let is_include =
            matches!(Term::parse(word), Ok(Term::Mechanism(Mechanism { kind: Kind::Include(_), .. })));
        is_include && for_nobody(asked, domain, &format!("v=spf1 {word} -all")).is_some()
    };
    let kept: Vec<String> = terms(record).filter(|word| !breaks(word)).map(str::to_owned).collect();
    let of = |words: &[String]| format!("v=spf1 {}", words.join(" "));
    let is_good = |record: &String| for_nobody(asked, domain, record).is_none();
    Some(of(&kept)).filter(is_good).or_else(|| {
        let direct: Vec<String> =
            kept.into_iter().map(|word| direct(asked, domain, &word).unwrap_or(word)).collect();
        Some(of(&direct)).filter(is_good)
    })
}

/// The addresses that an `a` or `mx` without lengths and macros stands for now.
fn direct(asked: &ForSpf<'_>, domain: &str, word: &str) -> Option<String> {
    let Ok(Term::Mechanism(mechanism)) = Term::parse(word) else { return None };
    if mechanism.result != SpfResult::Pass || word.contains(['/', '%']) {
        return None;
    }
    let name = word.split_once(':').map_or(domain, |(_, name)| name);
    let hosts = match mechanism.kind {
        Kind::A(..) => vec![name.to_owned()],
        Kind::Mx(..) => Names::mx(asked, name).ok()?,
        _ => return None,
    };
    let mut found = Vec::new();
    for (host, v6) in hosts.iter().flat_map(|host| [(host, false), (host, true)]) {
        found.extend(Names::addresses(asked, host, v6).ok()?.into_iter().map(mechanism_of));
    }
    (!found.is_empty()).then(|| found.join(" "))
}

fn mechanism_of(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }
}

/// One finding for all addresses, and the record that mends it where one does.
fn judge(
    domain: &str,
    records: &[String],
    answers: &[(IpAddr, Answer)],
    end: &str,
) -> (Finding, Option<String>) {
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
    (finding, Some(merged(records, &missing, end)))
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
    words.extend(addresses.iter().copied().map(mechanism_of));
    let (mut all, mut redirect, mut explanation) = (None, None, None);
    for word in records.iter().flat_map(|record| terms(record)) {
        let place = match Term::parse(word) {
            Err(_) => continue,
            Ok(Term::Mechanism(mechanism)) if mechanism.kind == Kind::All => &mut all,
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
