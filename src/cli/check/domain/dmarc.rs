//! The DMARC record that holds for the domain: its own, else that of the organisation. The organisation is found as RFC
//! 9989 §4.10.2 says, which needs no list of public suffixes: of the domain and those above it the highest one that has
//! a record, if none of the records says otherwise (`psd=`). With such a list, as RFC 7489 has it, it is the same one
//! wherever the organisation has a record at its top.

use std::thread;

use super::super::Finding;
use super::super::finding::txt_line;
use super::joined;
use super::lookups::{InTime, or_none};
use crate::delivery::route::lookup::Lookup as _;

const ABOUT: &str = "dmarc";
/// Names that are asked, the domain's own among them.
const NAMES_MAX: usize = 8;

/// What holds for the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// The domain whose record it is.
    pub(super) owner: String,
    /// `none`, `quarantine`, `reject`.
    pub(super) action: &'static str,
    /// `adkim=s`: the domain that signs must be that of From itself.
    pub(super) strict_dkim: bool,
    /// `aspf=s`: the domain of the envelope sender must be.
    pub(super) strict_spf: bool,
    /// The record itself.
    pub(super) text: String,
}

impl Policy {
    /// With the lines of the record that asks for less: without this tag.
    pub(super) fn relaxed(&self, tag: &str, finding: Finding) -> Finding {
        let name = format!("_dmarc.{}", self.owner);
        let kept = self.text.split(';').map(str::trim).filter(|one| {
            let of_tag = one.split_once('=').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case(tag));
            !of_tag && !one.is_empty()
        });
        let text = kept.collect::<Vec<_>>().join("; ");
        finding.remove(txt_line(&name, &self.text)).add(txt_line(&name, &text))
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// `p=` as far as it is one of the three.
    policy: Option<&'static str>,
    /// `sp=`, for domains below.
    below: Option<&'static str>,
    /// It is there, and none of the three.
    below_is_broken: bool,
    /// `adkim=s`.
    strict_dkim: bool,
    /// `aspf=s`.
    strict_spf: bool,
}

/// What is known of the policy of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holds {
    Policy(Policy),
    /// There is no record.
    Nothing,
    /// Nobody answers, or what is there cannot be read.
    Unknown,
}

/// Which organisation a domain is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Organisation {
    /// Its domain.
    pub(super) name: String,
    /// A record says so (`psd=`).
    pub(super) is_said: bool,
}

/// What is found, what holds, and the organisation as far as it is known.
pub(super) fn look_at(names: &InTime<'_>, domain: &str) -> (Vec<Finding>, Holds, Option<Organisation>) {
    let records = records(names, domain);
    let (findings, holds) = judge(domain, &records);
    (findings, holds, organisation(domain, &records))
}

/// None where it is not known.
pub(super) fn organisation_of(names: &InTime<'_>, domain: &str) -> Option<Organisation> {
    organisation(domain, &records(names, domain))
}

/// A domain, and the texts of its name for DMARC.
type Found = (String, Result<Vec<String>, String>);

/// The domain and those above it that may have a record, with the texts of each.
fn records(names: &InTime<'_>, domain: &str) -> Vec<Found> {
    let walk = walk(domain);
    thread::scope(|scope| {
        let parts: Vec<_> = walk
            .into_iter()
            .map(|owner| {
                let asked = format!("_dmarc.{owner}");
                (owner, scope.spawn(move || or_none(names.txt(&asked))))
            })
            .collect();
        parts.into_iter().map(|(owner, part)| (owner, joined(part))).collect()
    })
}

/// The domain, then those above it but for the top: at most [`NAMES_MAX`], the nearest to the top.
fn walk(domain: &str) -> Vec<String> {
    let labels: Vec<&str> = domain.split('.').collect();
    let above = |at: usize| labels[at..].join(".");
    let first_above = labels.len().saturating_sub(NAMES_MAX).max(1);
    let parents = (first_above..labels.len().saturating_sub(1)).map(above);
    std::iter::once(domain.to_owned()).chain(parents).collect()
}

/// Whether a text is a record at all: the tag comes first and is written like this (RFC 7489 §6.3).
fn is_record(text: &str) -> bool {
    let mut tag = text.split(';').next().unwrap_or_default().splitn(2, '=').map(str::trim);
    (tag.next(), tag.next()) == (Some("v"), Some("DMARC1"))
}

fn parse(text: &str) -> Record {
    let mut record =
        Record { policy: None, below: None, below_is_broken: false, strict_dkim: false, strict_spf: false };
    for (name, value) in text.split(';').filter_map(|tag| tag.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "p" => record.policy = policy(value),
            "sp" => {
                record.below = policy(value);
                record.below_is_broken = record.below.is_none();
            }
            "adkim" => record.strict_dkim = value.trim().eq_ignore_ascii_case("s"),
            "aspf" => record.strict_spf = value.trim().eq_ignore_ascii_case("s"),
            _ => {}
        }
    }
    record
}

fn policy(value: &str) -> Option<&'static str> {
    ["none", "quarantine", "reject"].into_iter().find(|policy| value.trim().eq_ignore_ascii_case(policy))
}

/// `psd=` of a record: whether the domain is an organisation (n), or gives domains to others (y).
fn psd(text: &str) -> Option<char> {
    let mut tags = text.split(';').filter_map(|tag| tag.split_once('='));
    let (_, value) = tags.find(|(name, _)| name.trim().eq_ignore_ascii_case("psd"))?;
    value.trim().to_ascii_lowercase().chars().next()
}

fn records_of(texts: &[String]) -> Vec<&String> {
    texts.iter().filter(|text| is_record(text)).collect()
}

/// Of `domain` what is one label longer than `above`.
fn one_below(domain: &str, above: &str) -> String {
    let rest = domain.strip_suffix(above).unwrap_or_default().trim_end_matches('.');
    format!("{}.{above}", rest.rsplit('.').next().unwrap_or_default())
}

/// RFC 9989 §4.10.2. None where it is not known.
fn organisation(domain: &str, found: &[Found]) -> Option<Organisation> {
    let mut top = domain;
    for (owner, texts) in found {
        let [record] = records_of(texts.as_ref().ok()?)[..] else { continue };
        let said = |name: String| Some(Organisation { name, is_said: true });
        match psd(record) {
            Some('n') => return said(owner.clone()),
            Some('y') if owner != domain => return said(one_below(domain, owner)),
            _ => top = owner,
        }
    }
    Some(Organisation { name: top.to_owned(), is_said: false })
}

fn judge(domain: &str, found: &[Found]) -> (Vec<Finding>, Holds) {
    let Some(((_, own), above)) = found.split_first() else { return (Vec::new(), Holds::Unknown) };
    let name = format!("_dmarc.{domain}");
    let unknown = |name: &str, why: &str| {
        (vec![Finding::warning(ABOUT, format!("{name} cannot be looked up: {why}"))], Holds::Unknown)
    };
    let own = match own {
        Ok(texts) => texts,
        Err(why) => return unknown(&name, why),
    };
    if let (finding, Some(holds)) = among(domain, domain, &records_of(own)) {
        return (vec![finding], holds);
    }
    // RFC 7489 §6.6.3: other texts are passed over, and the search goes on above.
    let meant = own.iter().find(|text| is_meant(text)).map(|text| {
        let said = format!("{name} has TXT records, but none begins with v=DMARC1");
        Finding::warning(ABOUT, said).remove(txt_line(&name, text)).add(txt_line(&name, &mended(text)))
    });
    let mut held: Option<(&String, Vec<&String>)> = None;
    for (owner, texts) in above {
        let records = match texts {
            Ok(texts) => records_of(texts),
            Err(why) => return unknown(&format!("_dmarc.{owner}"), why),
        };
        let psd = records.first().and_then(|record| psd(record));
        // The organisation's before the registry's.
        let is_below = |(held, _): &(&String, Vec<&String>)| **held == one_below(domain, owner);
        let is_passed_over = psd == Some('y') && held.as_ref().is_some_and(is_below);
        if !records.is_empty() && !is_passed_over {
            held = Some((owner, records));
        }
        if psd.is_some_and(|psd| "ny".contains(psd)) {
            break;
        }
    }
    let held = held.map(|(owner, records)| among(domain, owner, &records));
    match (held, meant) {
        (Some((_, Some(holds))), Some(meant)) => (vec![meant], holds),
        (Some((finding, Some(holds))), None) => (vec![finding], holds),
        (_, Some(meant)) => (vec![meant], Holds::Unknown),
        (_, None) => (vec![missing(domain, own)], Holds::Nothing),
    }
}

fn missing(domain: &str, texts: &[String]) -> Finding {
    let stray = if texts.is_empty() { "" } else { " (no TXT there begins with v=DMARC1)" };
    let text = format!(
        "{domain} has no record{stray}; Gmail, Yahoo and Microsoft want one of whoever sends much, p=none is enough"
    );
    Finding::warning(ABOUT, text).add(txt_line(&format!("_dmarc.{domain}"), "v=DMARC1; p=none"))
}

/// Whether a text that is no record was to be one.
fn is_meant(text: &str) -> bool {
    text.to_ascii_lowercase().contains("dmarc1") || parse(text).policy.is_some()
}

/// What the records of one name say; nothing holds where there are none.
fn among(domain: &str, owner: &str, records: &[&String]) -> (Finding, Option<Holds>) {
    let name = format!("_dmarc.{owner}");
    match records {
        [] => (missing(domain, &[]), None),
        [record] => {
            let (finding, policy) = of(domain, owner, &name, record);
            (finding, Some(policy.map_or(Holds::Unknown, Holds::Policy)))
        }
        [first, others @ ..] => {
            let text = format!(
                "{name} has several records, and none of them counts (RFC 7489 §6.6.3); keep {first:?}"
            );
            let finding = Finding::problem(ABOUT, text);
            let gone = others.iter().fold(finding, |finding, other| finding.remove(txt_line(&name, other)));
            (gone, Some(Holds::Unknown))
        }
    }
}

fn of(domain: &str, owner: &str, name: &str, text: &str) -> (Finding, Option<Policy>) {
    let record = parse(text);
    let Some(policy) = record.policy else {
        let what = format!(
            "{name}: p= must be \"none\", \"quarantine\" or \"reject\"; receivers may pass the record over"
        );
        let finding = Finding::problem(ABOUT, what).remove(txt_line(name, text));
        return (finding.add(txt_line(name, &mended(text))), None);
    };
    // RFC 7489 §6.6.3: with one of the two that nobody can read the record is none, or asks for nothing.
    if record.below_is_broken {
        let what = format!(
            "{name}: sp= must be \"none\", \"quarantine\" or \"reject\"; receivers may pass the record over"
        );
        let finding = Finding::problem(ABOUT, what).remove(txt_line(name, text));
        return (finding.add(txt_line(name, &mended(text))), None);
    }
    let (action, said) = match owner == domain {
        true => (policy, format!("{name} says p={policy}")),
        false => {
            let action = record.below.unwrap_or(policy);
            (action, format!("{domain} has no record of its own; {name} holds for it and says {action}"))
        }
    };
    let Record { strict_dkim, strict_spf, .. } = record;
    let policy = Policy { owner: owner.to_owned(), action, strict_dkim, strict_spf, text: text.to_owned() };
    (Finding::ok(ABOUT, said), Some(policy))
}

/// The record with a version and a policy that can be read, and its other tags.
fn mended(text: &str) -> String {
    let record = parse(text);
    let others = text.split(';').map(str::trim).filter(|tag| {
        let name = tag.split_once('=').map(|(name, _)| name.trim().to_ascii_lowercase());
        name.is_some_and(|name| name != "v" && name != "p" && (name != "sp" || !record.below_is_broken))
    });
    let head = ["v=DMARC1".to_owned(), format!("p={}", record.policy.unwrap_or("none"))];
    head.into_iter().chain(others.map(str::to_owned)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(records: &[(&str, &str)]) -> Vec<Found> {
        let texts = |owner: &str| -> Vec<String> {
            records.iter().filter(|(name, _)| *name == owner).map(|(_, text)| (*text).to_owned()).collect()
        };
        walk("a.news.example.com").into_iter().map(|owner| (owner.clone(), Ok(texts(&owner)))).collect()
    }

    #[test]
    fn the_highest_record_is_the_organisations_and_psd_says_otherwise() {
        let plain = "v=DMARC1; p=none";
        let (n, y) = ("v=DMARC1; p=none; psd=n", "v=DMARC1; p=none; psd=y");
        let (own, news, top) = ("a.news.example.com", "news.example.com", "example.com");
        for (records, owner, organisation) in [
            (&[] as &[(&str, &str)], None, own),
            (&[(own, plain)], Some(own), own),
            (&[(own, plain), (top, plain)], Some(own), top),
            (&[(news, plain), (top, plain)], Some(top), top),
            (&[(news, n), (top, plain)], Some(news), news),
            (&[(news, plain), (top, y)], Some(news), news),
            (&[(own, plain), (top, y)], Some(own), news),
            (&[(top, y)], Some(top), news),
            (&[(news, plain), (top, "v=spf1 -all")], Some(news), news),
        ] {
            let found = found(records);
            let holds = match judge(own, &found).1 {
                Holds::Policy(policy) => Some(policy.owner),
                Holds::Nothing | Holds::Unknown => None,
            };
            assert_eq!(holds.as_deref(), owner, "{records:?}");
            assert_eq!(super::organisation(own, &found).unwrap().name, organisation, "{records:?}");
        }
        let mut silent = found(&[(own, plain)]);
        silent[1].1 = Err("late".to_owned());
        assert_eq!(super::organisation(own, &silent), None);
        assert!(matches!(judge(own, &silent).1, Holds::Policy(_)));
        silent[0].1 = Ok(Vec::new());
        assert_eq!(judge(own, &silent).1, Holds::Unknown);
    }
}
