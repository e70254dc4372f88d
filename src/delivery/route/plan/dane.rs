//! What DNSSEC and TLSA records say of the hosts of a plan (RFC 7672 §2). Pure apart from its lookups.
//!
//! There is DANE for hosts that the domain's MX records name, or for the domain itself where it has none, and where
//! nobody in the config said how TLS is to be: a `[[route]]` with relays or with `tls` of its own has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::delivery::route::lookup::{DnsError, TlsaAnswer};
use crate::delivery::route::plan::Planner;
use crate::delivery::route::plan::addresses::Host;
use crate::delivery::smtp::tls::dane::Tlsa;

/// What was found for one host. A host of which nothing was found has no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaneFinding {
    /// Its certificate must be the one that these mean.
    Tlsa(Arc<Tlsa>),
    /// It has TLSA records, and none that can be used: TLS is required, and proves nothing (RFC 7672 §2.2).
    Unusable,
    /// It is not known whether it has any, so that it cannot be used now. In words.
    Unknown(String),
}

/// By the host's name.
pub type DaneFindings = BTreeMap<String, DaneFinding>;

impl Planner<'_> {
    /// Whether DANE has a say for this mail.
    pub(super) fn wants_dane(&mut self) -> bool {
        let is_routed = self.route.is_some_and(|route| !route.relay.is_empty() || route.tls.is_some());
        if !self.request.dane || !self.settings.dane || is_routed || self.domain.ip().is_some() {
            return false;
        }
        match self.lookup.validates() {
            Ok(()) => true,
            Err(why) => {
                (self.trace)(format_args!("DANE is off: DNSSEC does not work here: {why}"));
                false
            }
        }
    }

    /// The TLSA records of these hosts, where what led to them is proved.
    pub(super) fn dane_of(&mut self, hosts: &[Host], is_proved: bool) -> DaneFindings {
        if !self.dane {
            return DaneFindings::new();
        }
        let domain = self.domain;
        if !is_proved {
            (self.trace)(format_args!("the MX records of {domain} are not signed (DNSSEC): no DANE"));
            return DaneFindings::new();
        }
        (self.trace)(format_args!("the MX records of {domain} are proved by DNSSEC, or proved to be none"));
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let answers = self.lookup.tlsa(&names);
        let mut findings = DaneFindings::new();
        for (name, answer) in names.into_iter().zip(answers) {
            if let Some(finding) = self.finding(name, answer) {
                findings.insert(name.to_owned(), finding);
            }
        }
        findings
    }

    fn finding(&mut self, host: &str, answer: Result<TlsaAnswer, DnsError>) -> Option<DaneFinding> {
        let (base, records) = match answer {
            Ok(TlsaAnswer::Records { base, records }) => (base, records),
            Ok(TlsaAnswer::Absent) => {
                (self.trace)(format_args!("{host}: proved by DNSSEC to have no TLSA record: no DANE"));
                return None;
            }
            Ok(TlsaAnswer::Insecure(what)) => {
                (self.trace)(format_args!("{host}: {what} not signed (DNSSEC): no DANE"));
                return None;
            }
            Err(error) => {
                (self.trace)(format_args!("{host}: cannot be used now: {error}"));
                return Some(DaneFinding::Unknown(error.to_string()));
            }
        };
        for record in &records {
            (self.trace)(format_args!("{host}: TLSA {record} at _25._tcp.{base}"));
        }
        // RFC 7672 §3.2.2: the host by its name or where its aliases lead to, or the domain that it takes mail for, by
        // its name or where its aliases lead to.
        let mut names = vec![base.clone(), host.to_owned(), self.domain.as_str().to_owned()];
        names.extend(self.mx_owner.clone());
        names.dedup();
        Some(match Tlsa::new(base, names, records) {
            Some(tlsa) => DaneFinding::Tlsa(Arc::new(tlsa)),
            None => {
                (self.trace)(format_args!(
                    "{host}: none of its TLSA records can be used: TLS without a proof"
                ));
                DaneFinding::Unusable
            }
        })
    }
}
