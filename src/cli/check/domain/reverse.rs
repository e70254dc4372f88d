//! The reverse name of each sending address: there, leading back to it, and the name that we say in EHLO.
//!
//! Gmail and others refuse mail from an address whose reverse name is missing or does not lead back (RFC 1912 §2.1).

use std::net::IpAddr;
use std::thread;

use super::super::finding::zone_line;
use super::super::{Finding, Level, is_in_dns};
use super::joined;
use super::lookups::{InTime, or_none};
use super::sending::{Sending, Source};
use crate::delivery::route::lookup::{Lookup as _, reverse_name};

const ABOUT: &str = "reverse name";
/// Names that are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;

pub(super) fn look_at(names: &InTime<'_>, sending: &Sending) -> Vec<Finding> {
    thread::scope(|scope| {
        let parts: Vec<_> =
            sending.sources().iter().map(|source| scope.spawn(|| of(names, source))).collect();
        parts.into_iter().map(joined).collect()
    })
}

fn of(names: &InTime<'_>, source: &Source) -> Finding {
    let reverse = or_none(names.reverse(source.ip));
    let mut asked: Vec<&str> = reverse.iter().flatten().map(String::as_str).collect();
    asked.push(&source.ehlo);
    // Of its family alone: where that is not known, an answer of the other says nothing.
    let leads_back = |name: &str| {
        let found = or_none(names.family(name, source.ip.is_ipv6()));
        found.map(|addresses| addresses.contains(&source.ip))
    };
    let mut led: Vec<Result<bool, String>> = Vec::new();
    for asked in asked.chunks(LOOKUPS_AT_ONCE) {
        thread::scope(|scope| {
            let parts: Vec<_> = asked.iter().map(|name| scope.spawn(|| leads_back(name))).collect();
            led.extend(parts.into_iter().map(joined));
        });
    }
    let ehlo_leads_back = led.pop().unwrap_or(Ok(false));
    judge(source, reverse.map(|names| names.into_iter().zip(led).collect()), ehlo_leads_back)
}

/// A name, and whether it leads back; else why that is not known.
type Name = (String, Result<bool, String>);

fn judge(
    source: &Source,
    reverse: Result<Vec<Name>, String>,
    ehlo_leads_back: Result<bool, String>,
) -> Finding {
    let Source { ip, ehlo, .. } = source;
    let pointer = |name: &str| zone_line(&reverse_name(*ip), "PTR", &format!("{name}."));
    let forward = |name: &str| zone_line(name, address_type(*ip), &ip.to_string());
    let reverse = match reverse {
        Ok(reverse) => reverse,
        Err(why) => {
            return Finding::warning(ABOUT, format!("that of {ip} cannot be looked up: {why}"));
        }
    };
    let names: Vec<&str> = reverse.iter().map(|(name, _)| name.as_str()).collect();
    let is_back = |name: &str| reverse.iter().any(|(one, back)| one == name && *back == Ok(true));
    if is_back(ehlo) {
        return Finding::ok(ABOUT, format!("{ip} is {ehlo}, and {ehlo} is {ip}"));
    }
    if let Some((name, Err(why))) = reverse.iter().find(|(_, back)| back.is_err()) {
        return Finding::warning(ABOUT, format!("{ip} is {name}, which cannot be looked up: {why}"));
    }
    // No record can be of such a name: it has to be another one first.
    let is_ours_known = is_in_dns(ehlo);
    let holder = "whoever gives you the address sets it (a hoster's panel)";
    let confirmed = names.iter().find(|name| is_back(name));
    let finding = match (names.first(), confirmed) {
        (None, _) => {
            Finding::problem(ABOUT, format!("{ip} has none, and many hosts refuse mail then; {holder}"))
        }
        (Some(_), None) => {
            let text = format!(
                "{ip} is {}, which does not lead back to {ip}, and many hosts refuse mail then",
                names.join(", ")
            );
            Finding::problem(ABOUT, text)
        }
        (Some(_), Some(name)) => {
            let other = if is_ours_known { format!("{holder}, or ") } else { String::new() };
            let text = format!(
                "{ip} is {name}, which leads back, but we call ourselves {ehlo}, and some hosts mind; {other}set \
                 hostname = \"{name}\""
            );
            Finding::new(Level::Warning, ABOUT, text)
        }
    };
    if !is_ours_known {
        return match confirmed {
            Some(_) => finding,
            None => Finding { text: format!("{}; set hostname first", finding.text), ..finding },
        };
    }
    let finding = match names.contains(&ehlo.as_str()) {
        true => finding,
        false => names.iter().fold(finding, |finding, name| finding.remove(pointer(name))).add(pointer(ehlo)),
    };
    match ehlo_leads_back {
        Ok(false) => finding.add(forward(ehlo)),
        Ok(true) | Err(_) => finding,
    }
}

fn address_type(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "A" } else { "AAAA" }
}
