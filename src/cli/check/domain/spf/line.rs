//! The SPF record that is proposed: what is there, with what mends it. What it leaves out, and what it has only as of
//! now, is told with it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::lookups::ForSpf;
use crate::mail::spf::record::{Kind, Mechanism, Term, is_spf, terms};
use crate::mail::spf::{self, Answer, Client, Names, SpfResult};

/// Look-ups of one include that are followed to its addresses.
const FOLLOWED_MAX: usize = 20;
/// Addresses of one include that are written in its place.
const ADDRESSES_MAX: usize = 20;
/// Includes that are named where one must go.
const NAMED_MAX: usize = 3;

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) text: String,
    /// Words of what is there that are not in it.
    left_out: Vec<String>,
    /// Words of what is there in whose place it has the addresses of now.
    as_of_now: Vec<String>,
}

impl Proposal {
    /// What is there.
    pub(super) fn of(record: &str) -> Proposal {
        Proposal { text: record.to_owned(), left_out: Vec::new(), as_of_now: Vec::new() }
    }

    /// With what an earlier one leaves out.
    pub(super) fn after(mut self, earlier: Proposal) -> Proposal {
        self.left_out.extend(earlier.left_out);
        self.as_of_now.extend(earlier.as_of_now);
        self
    }

    /// What the operator must know of it: mail of somebody may depend on what is not there any more.
    pub(super) fn words(&self) -> String {
        let listed =
            |words: &[String]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        if !self.left_out.is_empty() {
            text += &format!("; the line to add leaves out {}", listed(&self.left_out));
        }
        if !self.as_of_now.is_empty() {
            text += &format!(
                "; it has the addresses of now in the place of {}: change it when those change",
                listed(&self.as_of_now)
            );
        }
        text
    }
}

/// One record of all of them that lets these addresses pass, first of all: no other term then has to be looked up for
/// them. Words that nobody can read are left out, since one breaks the record. `end` is for a record that has no end.
pub(super) fn merged(records: &[String], addresses: &[IpAddr], end: &str) -> Proposal {
    let mut words: Vec<String> = addresses.iter().copied().map(mechanism_of).collect();
    let mut left_out = Vec::new();
    let (mut all, mut explanation, mut redirects) = (None, None, Vec::new());
    for record in records {
        let parts: Vec<String> = terms(record).flat_map(parts_of).collect();
        let has_end = parts.iter().any(|word| is_all(word));
        for word in parts {
            let only_one = match Term::parse(&word) {
                Err(_) => {
                    left_out.push(word);
                    continue;
                }
                // RFC 7208 §6.1: beside "all" it says nothing.
                Ok(Term::Redirect(_)) if has_end => {
                    left_out.push(word);
                    continue;
                }
                Ok(Term::Mechanism(mechanism)) if mechanism.kind == Kind::All => &mut all,
                Ok(Term::Explanation) => &mut explanation,
                Ok(Term::Redirect(_)) => {
                    push_new(&mut redirects, word);
                    continue;
                }
                Ok(Term::Mechanism(_) | Term::Unknown) => {
                    push_new(&mut words, word);
                    continue;
                }
            };
            match only_one {
                Some(first) if *first != word => left_out.push(word),
                place => *place = Some(word),
            }
        }
    }
    // A redirect stands alone and without "all"; as an include it lets the same addresses pass.
    if all.is_some() || redirects.len() > 1 {
        for word in redirects.drain(..) {
            let (_, target) = word.split_once('=').unwrap_or_default();
            push_new(&mut words, format!("include:{target}"));
        }
    }
    if all.is_none() && redirects.is_empty() {
        all = Some(end.to_owned());
    }
    words.extend(all.into_iter().chain(redirects).chain(explanation));
    Proposal { text: record_of(&words), left_out, as_of_now: Vec::new() }
}

fn record_of(words: &[String]) -> String {
    format!("v=spf1 {}", words.join(" "))
}

fn push_new(words: &mut Vec<String>, word: String) {
    if !words.contains(&word) {
        words.push(word);
    }
}

fn is_all(word: &str) -> bool {
    matches!(Term::parse(word), Ok(Term::Mechanism(Mechanism { kind: Kind::All, .. })))
}

fn mechanism_of(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }
}

/// The words that strings put together without a space made one of (RFC 7208 §3.3); else the word itself.
fn parts_of(word: &str) -> Vec<String> {
    const SURE: &[&str] = &["ip4:", "ip6:", "include:", "exists:", "redirect="];
    const ALL: &[&str] =
        &["ip4:", "ip6:", "include:", "exists:", "redirect=", "mx", "+all", "-all", "~all", "?all"];
    let cut = |marks: &[&str]| -> Option<Vec<String>> {
        let with_sign = |at: usize| at - usize::from(word[..at].ends_with(['+', '-', '~', '?']));
        let found = marks.iter().flat_map(|mark| word.match_indices(mark).map(|(at, _)| with_sign(at)));
        let starts: BTreeSet<usize> = found.chain([0]).collect();
        let ends = starts.iter().skip(1).copied().chain([word.len()]);
        let parts: Vec<String> =
            starts.iter().zip(ends).map(|(from, to)| word[*from..to].to_owned()).collect();
        parts.iter().all(|part| Term::parse(part).is_ok()).then_some(parts)
    };
    let whole = || vec![word.to_owned()];
    match Term::parse(word) {
        Ok(_) => cut(SURE).unwrap_or_else(whole),
        Err(_) => cut(SURE).or_else(|| cut(ALL)).unwrap_or_else(whole),
    }
}

/// What a record says of an address that none of its terms means.
fn of_stranger(asked: &ForSpf<'_>, domain: &str, record: &str, v6: bool) -> Answer {
    let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let sender = format!("postmaster@{domain}");
    spf::check_with(asked, &Client { ip, sender: &sender, helo: domain }, domain, record)
}

/// What is wrong with a record for whom none of its terms means, and who so comes to the end of it.
pub(super) fn broken_by(asked: &ForSpf<'_>, domain: &str, record: &str) -> Option<String> {
    let answer = of_stranger(asked, domain, record, false);
    (answer.result == SpfResult::PermError).then_some(answer.why)
}

/// By what everybody passes, if everybody does: `+all`, or a network of all addresses.
pub(super) fn open_to_all(asked: &ForSpf<'_>, domain: &str, record: &str) -> Option<String> {
    let answers = [false, true].into_iter().map(|v6| of_stranger(asked, domain, record, v6));
    answers.into_iter().find(|answer| answer.result == SpfResult::Pass).map(|answer| answer.why)
}

/// The record without the words by which everybody passes.
pub(super) fn closed(asked: &ForSpf<'_>, domain: &str, record: &str) -> Proposal {
    let alone = |word: &str| match word.to_ascii_lowercase().starts_with("redirect=") {
        true => format!("v=spf1 {word}"),
        false => format!("v=spf1 {word} -all"),
    };
    let is_open = |word: &String| open_to_all(asked, domain, &alone(word)).is_some();
    let (left_out, kept): (Vec<String>, Vec<String>) =
        terms(record).map(str::to_owned).partition(|word| is_open(word));
    Proposal { text: record_of(&kept), left_out, as_of_now: Vec::new() }
}

/// The record without includes that break it, and, where it still takes too many look-ups, with addresses in the place
/// of `a` and `mx`, and of includes as far as it takes. None where that does not mend it.
pub(super) fn whole(asked: &ForSpf<'_>, domain: &str, record: Proposal) -> Option<Proposal> {
    let breaks = |word: &String| {
        is_include(word) && broken_by(asked, domain, &format!("v=spf1 {word} -all")).is_some()
    };
    let (broken, mut words): (Vec<String>, Vec<String>) =
        terms(&record.text).map(str::to_owned).partition(|word| breaks(word));
    let mut as_of_now = Vec::new();
    let is_good = |words: &[String]| broken_by(asked, domain, &record_of(words)).is_none();
    if !is_good(&words) {
        for word in &mut words {
            if let Some(addresses) = direct(asked, domain, word) {
                as_of_now.push(std::mem::replace(word, addresses.join(" ")));
            }
        }
    }
    if !is_good(&words) {
        let is_short = |addresses: &Vec<String>| !addresses.is_empty() && addresses.len() <= ADDRESSES_MAX;
        let of_include = |(at, word): (usize, &String)| {
            let inside = Inside::of(asked, word)?;
            Some((at, inside.addresses.filter(is_short)?))
        };
        let mut short: Vec<(usize, Vec<String>)> = words.iter().enumerate().filter_map(of_include).collect();
        short.sort_by_key(|(_, addresses)| addresses.len());
        for (at, addresses) in short {
            as_of_now.push(std::mem::replace(&mut words[at], addresses.join(" ")));
            if is_good(&words) {
                break;
            }
        }
    }
    let found = Proposal { text: record_of(&words), left_out: broken, as_of_now };
    is_good(&words).then(|| found.after(record))
}

/// Which includes take most, where no line can be proposed.
pub(super) fn advice(asked: &ForSpf<'_>, domain: &str, record: &str) -> String {
    let mut costs: Vec<(usize, &str)> =
        terms(record).filter_map(|word| Some((Inside::of(asked, word)?.lookups, word))).collect();
    costs.sort_by(|one, other| other.cmp(one));
    let listed: Vec<String> =
        costs.iter().take(NAMED_MAX).map(|(lookups, word)| format!("{word:?} takes {lookups}")).collect();
    match listed.is_empty() {
        true => format!("; leave out terms of {domain} that look something up and are not used any more"),
        false => format!("; leave out an include that is not used any more: {}", listed.join(", ")),
    }
}

fn is_include(word: &str) -> bool {
    matches!(Term::parse(word), Ok(Term::Mechanism(Mechanism { kind: Kind::Include(_), .. })))
}

/// The addresses that an `a` or `mx` without lengths and macros stands for now.
fn direct(asked: &ForSpf<'_>, domain: &str, word: &str) -> Option<Vec<String>> {
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
    (!found.is_empty()).then_some(found)
}

/// What an include has in it.
struct Inside {
    /// What it lets pass; none where that depends on the sender, or nobody can tell.
    addresses: Option<Vec<String>>,
    /// With its own.
    lookups: usize,
}

impl Inside {
    /// Of a word that is an include.
    fn of(asked: &ForSpf<'_>, word: &str) -> Option<Inside> {
        let (_, domain) = word.split_once(':').filter(|_| is_include(word))?;
        let mut inside = Inside { addresses: Some(Vec::new()), lookups: 1 };
        inside.follow(asked, domain);
        Some(inside)
    }

    fn follow(&mut self, asked: &ForSpf<'_>, domain: &str) {
        let texts = Names::txt(asked, domain).unwrap_or_default();
        let records: Vec<&String> = texts.iter().filter(|text| is_spf(text)).collect();
        let [record] = records[..] else {
            self.addresses = None;
            return;
        };
        let has_end = terms(record).any(is_all);
        for word in terms(record) {
            match Term::parse(word) {
                Ok(Term::Redirect(_)) if !has_end => self.deeper(asked, word, '='),
                Ok(Term::Redirect(_) | Term::Explanation | Term::Unknown) => {}
                Ok(Term::Mechanism(mechanism)) => self.add(asked, domain, word, &mechanism),
                Err(_) => self.addresses = None,
            }
            if self.lookups > FOLLOWED_MAX {
                self.addresses = None;
                return;
            }
        }
    }

    fn deeper(&mut self, asked: &ForSpf<'_>, word: &str, before: char) {
        self.lookups += 1;
        match word.split_once(before) {
            Some((_, target)) if !target.contains('%') && self.lookups <= FOLLOWED_MAX => {
                self.follow(asked, target);
            }
            _ => self.addresses = None,
        }
    }

    fn add(&mut self, asked: &ForSpf<'_>, domain: &str, word: &str, mechanism: &Mechanism) {
        let passes = mechanism.result == SpfResult::Pass;
        match mechanism.kind {
            // What comes to the end does not pass.
            Kind::All if !passes => return,
            Kind::All | Kind::Ip(_) => {}
            Kind::Include(_) => self.deeper(asked, word, ':'),
            Kind::A(..) | Kind::Mx(..) | Kind::Ptr(_) | Kind::Exists(_) => self.lookups += 1,
        }
        let addresses = match mechanism.kind {
            _ if !passes => None,
            Kind::Include(_) => return,
            Kind::Ip(_) => Some(vec![word.trim_start_matches('+').to_owned()]),
            _ => direct(asked, domain, word),
        };
        match (addresses, &mut self.addresses) {
            (Some(found), Some(all)) => found.into_iter().for_each(|one| push_new(all, one)),
            _ => self.addresses = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_and_what_breaks_it_is_not() {
        let ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].iter().map(|ip| ip.parse().unwrap()).collect();
        let new = |records: &[&str]| {
            let records: Vec<String> = records.iter().map(|record| (*record).to_owned()).collect();
            merged(&records, &ips, "~all")
        };
        let ours = "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1";
        let (b, c) = ("v=spf1 redirect=_spf.b.test", "v=spf1 redirect=_spf.c.test");
        for (records, rest, left_out) in [
            (&[] as &[&str], "~all", &[] as &[&str]),
            (&["v=spf1 mx -all"], "mx -all", &[]),
            (&["v=spf1 mx redirect=_spf.b.test"], "mx redirect=_spf.b.test", &[]),
            (&["v=spf1 ?all exp=why.test"], "?all exp=why.test", &[]),
            (&["v=spf1 ip:1.2.3.4 ipv4:1.2.3.4 mx"], "mx ~all", &["ip:1.2.3.4", "ipv4:1.2.3.4"]),
            (
                &["v=spf1 mx -all", "v=spf1 include:_spf.b.test mx ~all"],
                "mx include:_spf.b.test -all",
                &["~all"],
            ),
            (&["v=spf1 m\u{fc} x-a=b -all"], "x-a=b -all", &["m\u{fc}"]),
            // A redirect of one record lives on beside the end of another, and beside a second one.
            (&[b, "v=spf1 mx -all"], "mx include:_spf.b.test -all", &[]),
            (&[b, c], "include:_spf.b.test include:_spf.c.test ~all", &[]),
            (&[b, b], "redirect=_spf.b.test", &[]),
            (&["v=spf1 mx -all redirect=_spf.b.test"], "mx -all", &["redirect=_spf.b.test"]),
            // Strings without a space between them.
            (
                &["v=spf1 ip4:198.51.100.1ip4:198.51.100.2 -all"],
                "ip4:198.51.100.1 ip4:198.51.100.2 -all",
                &[],
            ),
            (
                &["v=spf1 mxinclude:_spf.b.testip6:2001:db8::2~all"],
                "mx include:_spf.b.test ip6:2001:db8::2 ~all",
                &[],
            ),
            (
                &["v=spf1 ip4:198.51.100.1-ip4:198.51.100.2mx-all"],
                "ip4:198.51.100.1 -ip4:198.51.100.2 mx -all",
                &[],
            ),
            (&["v=spf1 include:a.testinclude:b.test -all"], "include:a.test include:b.test -all", &[]),
            (&["v=spf1 include:mx.b.test -all"], "include:mx.b.test -all", &[]),
        ] {
            let found = new(records);
            assert_eq!(found.text, format!("{ours} {rest}"), "{records:?}");
            assert_eq!(found.left_out, left_out, "{records:?}");
        }
        assert!(new(&["v=spf1 ip:1.2.3.4 -all"]).words().contains("leaves out \"ip:1.2.3.4\""));
    }
}
