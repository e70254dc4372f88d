//! SPF (RFC 7208): whether a domain's record lets an address send for it. Pure code over [`Names`].
//!
//! At most ten terms that look something up, and two look-ups that find nothing (§4.6.4); more is a permerror. The
//! result comes with the term that decided, or what is wrong, in words. `exp=` is read and not used: nobody is refused
//! here.

pub mod macros;
pub mod record;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use macros::MacroString;
use record::{Kind, Lengths, Mechanism, Record, is_spf};

/// Terms with look-ups in one evaluation (RFC 7208 §4.6.4).
const LOOKUPS_MAX: usize = 10;
/// Look-ups that find nothing (RFC 7208 §4.6.4).
const VOID_LOOKUPS_MAX: usize = 2;
/// MX hosts of one `mx`, and names of one `ptr` (RFC 7208 §4.6.4).
const NAMES_MAX: usize = 10;
/// Bytes of a name as text, without the last dot (RFC 7208 §7.3).
const NAME_BYTES_MAX: usize = 253;
/// Bytes of a label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The look-ups of an evaluation. An empty list: no such name, or no such records.
///
/// # Errors
/// Each says in words why it could not be found out now.
pub trait Names {
    /// TXT records, the strings of each put together.
    fn txt(&self, name: &str) -> Result<Vec<String>, String>;
    /// A or AAAA records.
    fn addresses(&self, name: &str, v6: bool) -> Result<Vec<IpAddr>, String>;
    /// The hosts of MX records, best first.
    fn mx(&self, name: &str) -> Result<Vec<String>, String>;
    /// PTR records.
    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, String>;
}

/// RFC 7208 §2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// There is no record.
    None,
    /// The domain says nothing of the address.
    Neutral,
    /// The address may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// Something could not be looked up.
    TempError,
    /// The record is broken.
    PermError,
}

impl fmt::Display for SpfResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpfResult::None => "none",
            SpfResult::Neutral => "neutral",
            SpfResult::Pass => "pass",
            SpfResult::Fail => "fail",
            SpfResult::SoftFail => "softfail",
            SpfResult::TempError => "temperror",
            SpfResult::PermError => "permerror",
        })
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The address that connects.
    pub ip: IpAddr,
    /// The envelope sender, `local@domain`.
    pub sender: &'a str,
    /// What it says in EHLO.
    pub helo: &'a str,
}

/// The result, and the term that decided or what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The result.
    pub result: SpfResult,
    /// In words for the operator.
    pub why: String,
}

/// Why an evaluation ends without a result of a term.
enum Stop {
    Permanent(String),
    Temporary(String),
}

/// `check_host()` of RFC 7208 §4: by the record that `domain` has.
pub fn check(names: &dyn Names, client: &Client<'_>, domain: &str) -> Answer {
    let mut evaluation = Evaluation::new(names, client);
    let answer = evaluation.domain(domain);
    answered(answer.map(|found| {
        found.unwrap_or(Answer { result: SpfResult::None, why: "there is no v=spf1 record".to_owned() })
    }))
}

/// The same as if `domain` had this record.
pub fn check_with(names: &dyn Names, client: &Client<'_>, domain: &str, record: &str) -> Answer {
    answered(Evaluation::new(names, client).record(record, domain))
}

fn answered(answer: Result<Answer, Stop>) -> Answer {
    answer.unwrap_or_else(|stop| match stop {
        Stop::Permanent(why) => Answer { result: SpfResult::PermError, why },
        Stop::Temporary(why) => Answer { result: SpfResult::TempError, why },
    })
}

struct Evaluation<'a> {
    names: &'a dyn Names,
    client: Client<'a>,
    lookups: usize,
    void_lookups: usize,
}

impl<'a> Evaluation<'a> {
    fn new(names: &'a dyn Names, client: &Client<'a>) -> Evaluation<'a> {
        let client = Client { ip: client.ip.to_canonical(), ..*client };
        Evaluation { names, client, lookups: 0, void_lookups: 0 }
    }

    /// None without a record. RFC 7208 §4.3 to §4.5.
    fn domain(&mut self, domain: &str) -> Result<Option<Answer>, Stop> {
        if !is_name(domain) {
            return Ok(None);
        }
        let texts =
            self.names.txt(domain).map_err(|why| Stop::Temporary(format!("TXT of {domain}: {why}")))?;
        let mut records = texts.iter().filter(|text| is_spf(text));
        match (records.next(), records.next()) {
            (None, _) => Ok(None),
            (Some(record), None) => self.record(record, domain).map(Some),
            _ => Err(Stop::Permanent(format!("{domain} has several v=spf1 records"))),
        }
    }

    fn record(&mut self, text: &str, domain: &str) -> Result<Answer, Stop> {
        let record = Record::parse(text).map_err(|wrong| Stop::Permanent(format!("{domain}: {wrong}")))?;
        for mechanism in &record.mechanisms {
            if let Some(by) = self.matches(mechanism, domain)? {
                return Ok(Answer { result: mechanism.result, why: by });
            }
        }
        let Some(redirect) = &record.redirect else {
            let why = format!("no term of {domain}'s record matches");
            return Ok(Answer { result: SpfResult::Neutral, why });
        };
        self.count()?;
        let target = self.expand(redirect, domain)?;
        // RFC 7208 §6.1.
        self.domain(&target)?.ok_or_else(|| Stop::Permanent(format!("redirect={target} leads to no record")))
    }

    /// The words for what matched.
    fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<Option<String>, Stop> {
        let matched = match &mechanism.kind {
            Kind::All => true,
            Kind::Ip(network) => network.contains(&self.client.ip),
            Kind::Include(target) => {
                self.count()?;
                return self.include(mechanism, target, domain);
            }
            Kind::A(target, lengths) => {
                self.count()?;
                let name = self.target(target.as_ref(), domain)?;
                self.addresses(&name)?.into_iter().any(|found| self.is_near(found, *lengths))
            }
            Kind::Mx(target, lengths) => {
                self.count()?;
                let name = self.target(target.as_ref(), domain)?;
                self.is_mx(&name, *lengths)?
            }
            Kind::Ptr(target) => {
                self.count()?;
                let name = self.target(target.as_ref(), domain)?;
                self.validated_names()?.iter().any(|found| is_at_or_below(found, &name))
            }
            Kind::Exists(target) => {
                self.count()?;
                let name = self.expand(target, domain)?;
                // RFC 7208 §5.7: A, whatever the client's family.
                !self.addresses_of(&name, false)?.is_empty()
            }
        };
        Ok(matched.then(|| format!("{:?} of {domain}", mechanism.text)))
    }

    /// RFC 7208 §5.2.
    fn include(
        &mut self,
        mechanism: &Mechanism,
        target: &MacroString,
        domain: &str,
    ) -> Result<Option<String>, Stop> {
        let name = self.expand(target, domain)?;
        match self.domain(&name)? {
            Some(Answer { result: SpfResult::Pass, why }) => {
                Ok(Some(format!("{:?} of {domain}, by {why}", mechanism.text)))
            }
            Some(_) => Ok(None),
            None => Err(Stop::Permanent(format!("{domain} includes {name}, which has no v=spf1 record"))),
        }
    }

    /// RFC 7208 §5.4.
    fn is_mx(&mut self, name: &str, lengths: Lengths) -> Result<bool, Stop> {
        if !is_name(name) {
            return Ok(false);
        }
        let hosts = self.names.mx(name).map_err(|why| Stop::Temporary(format!("MX of {name}: {why}")))?;
        self.count_if_void(hosts.is_empty())?;
        if hosts.len() > NAMES_MAX {
            return Err(Stop::Permanent(format!("{name} has more than {NAMES_MAX} MX hosts")));
        }
        // All of them, so that the limit of void look-ups does not depend on the order.
        let mut is_there = false;
        for host in hosts {
            let found = self.addresses(&host)?;
            is_there |= found.into_iter().any(|ip| self.is_near(ip, lengths));
        }
        Ok(is_there)
    }

    /// The names of the client's address that lead back to it (RFC 7208 §5.5). What cannot be looked up is no match.
    fn validated_names(&mut self) -> Result<Vec<String>, Stop> {
        let Ok(names) = self.names.reverse(self.client.ip) else { return Ok(Vec::new()) };
        self.count_if_void(names.is_empty())?;
        let mut validated = Vec::new();
        for name in names.into_iter().take(NAMES_MAX) {
            match self.addresses(&name) {
                Ok(found) if found.contains(&self.client.ip) => validated.push(name),
                Ok(_) | Err(Stop::Temporary(_)) => {}
                Err(stop @ Stop::Permanent(_)) => return Err(stop),
            }
        }
        Ok(validated)
    }

    /// Of the client's family.
    fn addresses(&mut self, name: &str) -> Result<Vec<IpAddr>, Stop> {
        self.addresses_of(name, self.client.ip.is_ipv6())
    }

    fn addresses_of(&mut self, name: &str, v6: bool) -> Result<Vec<IpAddr>, Stop> {
        if !is_name(name) {
            return Ok(Vec::new());
        }
        let found = self.names.addresses(name, v6);
        let found = found.map_err(|why| Stop::Temporary(format!("addresses of {name}: {why}")))?;
        self.count_if_void(found.is_empty())?;
        Ok(found)
    }

    fn is_near(&self, found: IpAddr, lengths: Lengths) -> bool {
        let length = if found.is_ipv4() { lengths.v4 } else { lengths.v6 };
        IpNet::new(found, length).is_ok_and(|network| network.contains(&self.client.ip))
    }

    fn target(&mut self, target: Option<&MacroString>, domain: &str) -> Result<String, Stop> {
        target.map_or_else(|| Ok(domain.to_owned()), |target| self.expand(target, domain))
    }

    fn expand(&mut self, text: &MacroString, domain: &str) -> Result<String, Stop> {
        let (local, of) = self.client.sender.rsplit_once('@').unwrap_or(("", self.client.sender));
        // RFC 7208 §4.3.
        let local = if local.is_empty() { "postmaster" } else { local };
        let expanded = text.expand(|letter| {
            Ok(match letter {
                's' => format!("{local}@{of}"),
                'l' => local.to_owned(),
                'o' => of.to_owned(),
                'd' => domain.to_owned(),
                'h' => self.client.helo.to_owned(),
                'v' => if self.client.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
                'p' => self.name_of_client(domain)?,
                _ => macros::dotted(self.client.ip),
            })
        })?;
        let mut name = expanded.strip_suffix('.').unwrap_or(&expanded);
        // RFC 7208 §7.3: labels are left out from the left.
        while let Some((_, shorter)) = name.split_once('.').filter(|_| name.len() > NAME_BYTES_MAX) {
            name = shorter;
        }
        Ok(name.to_ascii_lowercase())
    }

    /// `%{p}` (RFC 7208 §7.3).
    fn name_of_client(&mut self, domain: &str) -> Result<String, Stop> {
        let names = self.validated_names()?;
        let below = || names.iter().find(|name| is_at_or_below(name, domain));
        let name = names.iter().find(|name| *name == domain).or_else(below).or(names.first());
        Ok(name.map_or_else(|| "unknown".to_owned(), Clone::clone))
    }

    fn count(&mut self) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(Stop::Permanent(format!("it takes more than {LOOKUPS_MAX} look-ups")));
        }
        Ok(())
    }

    fn count_if_void(&mut self, is_void: bool) -> Result<(), Stop> {
        self.void_lookups += usize::from(is_void);
        if self.void_lookups > VOID_LOOKUPS_MAX {
            return Err(Stop::Permanent(format!(
                "more than {VOID_LOOKUPS_MAX} of its look-ups find nothing"
            )));
        }
        Ok(())
    }
}

/// What can be asked for: labels of 1 to 63 bytes, more than one (RFC 7208 §4.3).
fn is_name(name: &str) -> bool {
    let labels = || name.split('.');
    labels().count() > 1 && labels().all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

fn is_at_or_below(name: &str, parent: &str) -> bool {
    let below = name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below && !parent.is_empty()
}

#[cfg(test)]
mod tests;
