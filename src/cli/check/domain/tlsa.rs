//! The TLSA records of the domain's MX hosts, where it has any: what senders with DANE (RFC 7672) make of them. Whether
//! a host's certificate is the one that they mean is for that host's operator to watch.

use super::super::Finding;
use super::lookups::InTime;
use crate::delivery::route::lookup::{DnsError, Lookup, TlsaAnswer};
use crate::delivery::smtp::tls::dane::{Tlsa, TlsaRecord};

const ABOUT: &str = "tlsa";

/// Nothing where DNSSEC does not work here, or proves that there is none.
pub(super) fn look_at(names: &InTime<'_>, domain: &str) -> Vec<Finding> {
    if names.validates().is_err() {
        return Vec::new();
    }
    let hosts: Vec<String> = match names.mx_validated(domain) {
        Ok(records) if records.proved => records.hosts.into_iter().map(|(_, host)| host).collect(),
        Err(DnsError::NoData) => vec![domain.to_owned()],
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
    let asked: Vec<&str> = hosts.iter().map(String::as_str).filter(|host| *host != ".").collect();
    let answers = names.tlsa(&asked);
    asked.iter().zip(answers).filter_map(|(host, answer)| judge(host, answer)).collect()
}

fn judge(host: &str, answer: Result<TlsaAnswer, DnsError>) -> Option<Finding> {
    let (base, records) = match answer {
        Ok(TlsaAnswer::Records { base, records }) => (base, records),
        Ok(TlsaAnswer::Absent | TlsaAnswer::Insecure(_)) => return None,
        Err(why) => {
            let text =
                format!("{host}: {why}; mail of senders with DANE waits, so that answers and bounces do");
            return Some(Finding::problem(ABOUT, text));
        }
    };
    let listed: Vec<String> = records.iter().map(TlsaRecord::to_string).collect();
    let listed = listed.join(", ");
    Some(match Tlsa::new(base.clone(), Vec::new(), records) {
        Some(_) => {
            let text = format!(
                "{host} has {listed} at _25._tcp.{base}: senders with DANE take only such a certificate"
            );
            Finding::ok(ABOUT, text)
        }
        None => {
            let text = format!(
                "{host} has {listed} at _25._tcp.{base}, and none of them can be used: it takes usage 2 or 3, selector 0 \
                 or 1, and a digest of the right length (RFC 7672 §3.1)"
            );
            Finding::warning(ABOUT, text)
        }
    })
}
