//! An SPF record (RFC 7208 §4.5, §5, §6, §12): the text read into terms. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::SpfResult;
use super::macros::MacroString;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// In order.
    pub mechanisms: Vec<Mechanism>,
    /// `redirect=`.
    pub redirect: Option<MacroString>,
}

/// What says whether an address may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mechanism {
    /// As it stands in the record.
    pub text: String,
    /// What a match means.
    pub result: SpfResult,
    /// What it looks at.
    pub kind: Kind,
}

/// What a mechanism looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Everything.
    All,
    /// Whether another domain's record lets it pass.
    Include(MacroString),
    /// The addresses of a name; none: the domain's own.
    A(Option<MacroString>, Lengths),
    /// The addresses of MX hosts.
    Mx(Option<MacroString>, Lengths),
    /// The client's reverse name.
    Ptr(Option<MacroString>),
    /// A network: `ip4` and `ip6`.
    Ip(IpNet),
    /// Whether a name has an address.
    Exists(MacroString),
}

/// Prefix lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of IPv4.
    pub v4: u8,
    /// Of IPv6.
    pub v6: u8,
}

/// One word of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// It decides.
    Mechanism(Mechanism),
    /// `redirect=`.
    Redirect(MacroString),
    /// `exp=`.
    Explanation,
    /// A modifier that nobody knows, which is passed over (RFC 7208 §6).
    Unknown,
}

/// A word that breaks the whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The word.
    pub term: String,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} cannot be read: {}", self.term, self.why)?;
        // RFC 7208 §3.3.
        let is_inside = |kind: &str| self.term.rfind(kind).is_some_and(|at| at > 1);
        let is_joined = ["ip4:", "ip6:", "include:"].into_iter().any(is_inside);
        match is_joined {
            true => f.write_str(" (the strings of a record are put together without a space)"),
            false => Ok(()),
        }
    }
}

/// Whether a TXT record is one of SPF (RFC 7208 §4.5).
pub fn is_spf(text: &str) -> bool {
    let version = text.split(' ').next().unwrap_or_default();
    version.eq_ignore_ascii_case("v=spf1")
}

/// The words of a record behind its version.
pub fn terms(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').skip(1).filter(|term| !term.is_empty())
}

impl Record {
    /// Reads a record for which [`is_spf`] holds. RFC 7208 §4.6: one wrong word and nothing of it counts.
    ///
    /// # Errors
    /// The first wrong word.
    pub fn parse(text: &str) -> Result<Record, Wrong> {
        let mut record = Record { mechanisms: Vec::new(), redirect: None };
        let mut explained = false;
        for word in terms(text) {
            let wrong = |why: String| Wrong { term: word.to_owned(), why };
            let twice = || wrong("it stands there twice".to_owned());
            match Term::parse(word).map_err(wrong)? {
                Term::Mechanism(mechanism) => record.mechanisms.push(mechanism),
                Term::Redirect(_) if record.redirect.is_some() => return Err(twice()),
                Term::Redirect(target) => record.redirect = Some(target),
                Term::Explanation if explained => return Err(twice()),
                Term::Explanation => explained = true,
                Term::Unknown => {}
            }
        }
        Ok(record)
    }
}

impl Term {
    /// Reads one word.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(word: &str) -> Result<Term, String> {
        if let Some((name, value)) = modifier(word) {
            return match name.to_ascii_lowercase().as_str() {
                "redirect" => MacroString::parse_domain(value).map(Term::Redirect),
                "exp" => MacroString::parse_domain(value).map(|_| Term::Explanation),
                _ => MacroString::parse(value).map(|_| Term::Unknown),
            };
        }
        let signs = [
            ('+', SpfResult::Pass),
            ('-', SpfResult::Fail),
            ('~', SpfResult::SoftFail),
            ('?', SpfResult::Neutral),
        ];
        let signed = signs.into_iter().find_map(|(sign, result)| Some((word.strip_prefix(sign)?, result)));
        let (rest, result) = signed.unwrap_or((word, SpfResult::Pass));
        Ok(Term::Mechanism(Mechanism { text: word.to_owned(), result, kind: Kind::parse(rest)? }))
    }
}

/// `name=value`, where the `=` comes before anything that only a mechanism has.
fn modifier(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    is_name.then_some((name, value))
}

impl Kind {
    fn parse(text: &str) -> Result<Kind, String> {
        let end = text.find([':', '/']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let domain = || MacroString::parse_domain(rest.strip_prefix(':').unwrap_or_default());
        match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => Ok(Kind::All),
            "all" => Err("nothing may follow all".to_owned()),
            "include" => domain().map(Kind::Include),
            "exists" => domain().map(Kind::Exists),
            "ptr" if rest.is_empty() => Ok(Kind::Ptr(None)),
            "ptr" => domain().map(|domain| Kind::Ptr(Some(domain))),
            "a" => with_lengths(rest).map(|(domain, lengths)| Kind::A(domain, lengths)),
            "mx" => with_lengths(rest).map(|(domain, lengths)| Kind::Mx(domain, lengths)),
            "ip4" => network(rest, 32, ip4),
            "ip6" => network(rest, 128, |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)),
            _ => Err("there is no such mechanism".to_owned()),
        }
    }
}

/// `[":" domain-spec] ["/" length] ["//" length]`
fn with_lengths(rest: &str) -> Result<(Option<MacroString>, Lengths), String> {
    let (rest, v6) = match rest.rsplit_once("//") {
        Some((before, digits)) if is_length(digits) => (before, length(digits, 128)?),
        _ => (rest, 128),
    };
    let (rest, v4) = match rest.rsplit_once('/') {
        Some((before, digits)) if is_length(digits) => (before, length(digits, 32)?),
        _ => (rest, 32),
    };
    let domain = match rest {
        "" => None,
        rest => {
            let domain = rest.strip_prefix(':').ok_or_else(|| format!("{rest:?} has no place in it"))?;
            Some(MacroString::parse_domain(domain)?)
        }
    };
    Ok((domain, Lengths { v4, v6 }))
}

fn network(rest: &str, bits: u8, parse: impl Fn(&str) -> Option<IpAddr>) -> Result<Kind, String> {
    let text = rest.strip_prefix(':').ok_or("the address is missing")?;
    let (address, length) = match text.split_once('/') {
        Some((address, digits)) => (address, length(digits, bits)?),
        None => (text, bits),
    };
    let address = parse(address).ok_or_else(|| format!("{address:?} is no such address"))?;
    IpNet::new(address, length).map(Kind::Ip).map_err(|error| error.to_string())
}

/// Four numbers without zeros before them, as the standard library reads them.
fn ip4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// Digits without a zero before them (RFC 7208 §12).
fn is_length(digits: &str) -> bool {
    digits == "0"
        || !digits.starts_with('0') && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn length(digits: &str, most: u8) -> Result<u8, String> {
    let number = digits.parse().ok().filter(|number| is_length(digits) && *number <= most);
    number.ok_or_else(|| format!("/{digits} is no length of 0 to {most}"))
}
