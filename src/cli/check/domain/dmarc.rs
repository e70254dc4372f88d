//! The DMARC record that holds for the domain: its own, else that of the nearest domain above it that has one. That is
//! the tree walk of RFC 7489's successor, which needs no list of public suffixes; with such a list, as some receivers
//! have it, a record two or more levels up may not count.

use super::super::Finding;
use super::super::finding::txt_line;
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
    /// `adkim=s`.
    strict_dkim: bool,
    /// `aspf=s`.
    strict_spf: bool,
}

/// What is found, and the policy that holds where there is one.
pub(super) fn look_at(names: &InTime<'_>, domain: &str) -> (Finding, Option<Policy>) {
    judge(domain, &records(names, domain))
}

/// The domain and those above it that may have a record, with the texts of each.
fn records(names: &InTime<'_>, domain: &str) -> Vec<(String, Result<Vec<String>, String>)> {
    let walk = walk(domain);
    std::thread::scope(|scope| {
        let parts: Vec<_> = walk
            .into_iter()
            .map(|owner| {
                let asked = format!("_dmarc.{owner}");
                (owner, scope.spawn(move || or_none(names.txt(&asked))))
            })
            .collect();
        parts.into_iter().filter_map(|(owner, part)| Some((owner, part.join().ok()?))).collect()
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
    let mut record = Record { policy: None, below: None, strict_dkim: false, strict_spf: false };
    for (name, value) in text.split(';').filter_map(|tag| tag.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "p" => record.policy = policy(value),
            "sp" => record.below = policy(value),
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

fn judge(domain: &str, found: &[(String, Result<Vec<String>, String>)]) -> (Finding, Option<Policy>) {
    for (owner, texts) in found {
        let name = format!("_dmarc.{owner}");
        let texts = match texts {
            Ok(texts) => texts,
            Err(why) => return (Finding::warning(ABOUT, format!("{name} cannot be looked up: {why}")), None),
        };
        let records: Vec<&String> = texts.iter().filter(|text| is_record(text)).collect();
        match records[..] {
            [] if owner == domain && !texts.is_empty() => {
                let text = format!("{name} has TXT records, but none begins with v=DMARC1");
                let finding = Finding::warning(ABOUT, text).add(txt_line(&name, &mended(&texts[0])));
                let gone = texts.iter().fold(finding, |finding, text| finding.remove(txt_line(&name, text)));
                return (gone, None);
            }
            [] => {}
            [record] => return of(domain, owner, &name, record),
            [first, ref others @ ..] => {
                let text = format!(
                    "{name} has several records, and none of them counts (RFC 7489 §6.6.3); keep {first:?}"
                );
                let finding = Finding::problem(ABOUT, text);
                let gone =
                    others.iter().fold(finding, |finding, other| finding.remove(txt_line(&name, other)));
                return (gone, None);
            }
        }
    }
    let text = format!(
        "{domain} has no record; Gmail, Yahoo and Microsoft want one of whoever sends much, p=none is enough"
    );
    let line = txt_line(&format!("_dmarc.{domain}"), "v=DMARC1; p=none");
    (Finding::warning(ABOUT, text).add(line), None)
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
        name.is_some_and(|name| name != "v" && name != "p")
    });
    let head = ["v=DMARC1".to_owned(), format!("p={}", record.policy.unwrap_or("none"))];
    head.into_iter().chain(others.map(str::to_owned)).collect::<Vec<_>>().join("; ")
}
