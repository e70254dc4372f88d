//! Lookups whose answers must be proved, or be proved to need no proof (RFC 4035 §4.3): secure, insecure and bogus are
//! told apart, and bogus is no answer. TLSA records are looked for as RFC 7672 §2.2.2 says.

use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::cache::{Answer, Found, TLSA_KEPT_MAX};
use super::servers::{Records, Servers, all, host_text, mx_records, records_of};
use crate::delivery::route::lookup::{DnsError, TlsaAnswer};
use crate::delivery::smtp::tls::dane::TlsaRecord;

/// What came of asking for something that every validating server can prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SelfTest {
    /// Proved: so is whatever else is signed.
    Validates,
    /// An answer came, and nothing proves it.
    NotProved(String),
    /// No answer: it is not known.
    NoAnswer(String),
}

impl Servers {
    /// MX records, with what is proved of them.
    pub(super) async fn mx_validated(&self, name: &Name) -> (Answer, Duration) {
        match self.validated(name, RecordType::MX).await {
            Ok(Records { records, ttl }) => (Ok(Found::Mx(mx_records(&records))), ttl),
            Err((error, ttl)) => (Err(error), ttl),
        }
    }

    /// The TLSA records of a host's port 25.
    pub(super) async fn tlsa(&self, host: &Name) -> (Answer, Duration) {
        match self.find_tlsa(host).await {
            Ok((found, ttl)) => (Ok(Found::Tlsa(found)), ttl),
            Err((error, ttl)) => (Err(error), ttl),
        }
    }

    async fn find_tlsa(&self, host: &Name) -> Result<(TlsaAnswer, Duration), (DnsError, Duration)> {
        let families = [RecordType::A, RecordType::AAAA].map(|kind| self.validated(host, kind));
        let mut found = all(families).await;
        let (v6, v4) = (found.pop(), found.pop());
        let (way, mut ttl) = match (v4, v6) {
            (Some(Ok(Records { records, ttl })), _) | (_, Some(Ok(Records { records, ttl }))) => {
                (records, ttl)
            }
            (Some(Err((DnsError::Temporary(why), ttl))), _)
            | (_, Some(Err((DnsError::Temporary(why), ttl)))) => {
                return Err((DnsError::Temporary(why), ttl));
            }
            _ => return Ok((TlsaAnswer::Insecure("its address is"), Duration::ZERO)),
        };
        let bases = bases(host, &way);
        if bases.is_empty() {
            return Ok((TlsaAnswer::Insecure("its address is"), ttl));
        }
        let mut absence = TlsaAnswer::Absent;
        for base in bases {
            let Ok(name) = Name::from_ascii("_25._tcp.").and_then(|prefix| prefix.append_name(&base)) else {
                continue;
            };
            match self.validated(&name, RecordType::TLSA).await {
                Ok(Records { records, ttl: of_records }) => {
                    ttl = ttl.min(of_records);
                    if records.iter().all(|record| record.proof.is_secure()) {
                        let records = records.iter().filter_map(tlsa_of).take(TLSA_KEPT_MAX).collect();
                        return Ok((TlsaAnswer::Records { base: host_text(&base), records }, ttl));
                    }
                    absence = TlsaAnswer::Insecure("its TLSA record is");
                }
                Err((DnsError::NoData | DnsError::NoSuchDomain, of_absence)) => ttl = ttl.min(of_absence),
                // RFC 7672 §2.1.1, §2.2: what cannot be known must not count as absent.
                Err((DnsError::Temporary(why), ttl)) => {
                    let name = host_text(&name);
                    return Err((DnsError::Temporary(format!("TLSA of {name}: {why}")), ttl));
                }
            }
        }
        Ok((absence, ttl))
    }

    /// The records, each with its proof, or why there are none. What is bogus is an error.
    async fn validated(&self, name: &Name, kind: RecordType) -> Result<Records, (DnsError, Duration)> {
        let temporary = |why: String| (DnsError::Temporary(why), Duration::ZERO);
        let resolver = self.proving_resolver().map_err(|error| temporary(error.to_string()))?;
        let answer = resolver.lookup(name.clone(), kind).await;
        if is_bogus(&answer) {
            let name = host_text(name);
            return Err(temporary(format!(
                "the DNSSEC signatures of {name} are wrong or missing (bogus), or could not be looked up"
            )));
        }
        match answer {
            // Signed with more NSEC3 iterations than anybody has to follow (RFC 9276 §3.2): as if it were not.
            Err(NetError::Dns(Refusal::Nsec { .. })) => Err((DnsError::NoData, Duration::ZERO)),
            answer => records_of(name, kind, answer),
        }
    }

    /// Asks for the root's SOA record, which is signed, and for a record that the root does not have, which takes a
    /// signed NSEC record to prove.
    pub(super) async fn self_test(&self) -> SelfTest {
        let resolver = match self.proving_resolver() {
            Ok(resolver) => resolver,
            Err(error) => return SelfTest::NoAnswer(error.to_string()),
        };
        let soa = resolver.lookup(Name::root(), RecordType::SOA).await;
        match &soa {
            Ok(found) if is_proved(found, RecordType::SOA) => {}
            Ok(_) => return SelfTest::NotProved("the SOA record of the root came without proof".to_owned()),
            answer if is_bogus(answer) => {
                return SelfTest::NotProved(
                    "the signature of the root's SOA record is wrong or missing".to_owned(),
                );
            }
            Err(NetError::Dns(refusal)) => {
                return SelfTest::NotProved(format!("asked for the root's SOA record: {refusal}"));
            }
            Err(error) => return SelfTest::NoAnswer(error.to_string()),
        }
        match resolver.lookup(Name::root(), RecordType::TLSA).await {
            Err(NetError::Dns(Refusal::NoRecordsFound(_))) => SelfTest::Validates,
            Err(NetError::Dns(_)) | Ok(_) => {
                SelfTest::NotProved("nothing proves what the root does not have (NSEC)".to_owned())
            }
            Err(error) => SelfTest::NoAnswer(error.to_string()),
        }
    }
}

/// Whether an answer is one that DNSSEC says must not be used, or that could not be validated.
fn is_bogus(answer: &Result<Lookup, NetError>) -> bool {
    match answer {
        Ok(found) => found.answers().iter().any(|record| record.proof.is_bogus()),
        Err(NetError::Dns(Refusal::Nsec { proof, .. })) => !proof.is_insecure(),
        Err(error) => matches!(error, NetError::Dns(Refusal::DnssecBogus)),
    }
}

fn is_proved(found: &Lookup, kind: RecordType) -> bool {
    let mut of_kind = found.answers().iter().filter(|record| record.record_type() == kind).peekable();
    of_kind.peek().is_some() && of_kind.all(|record| record.proof.is_secure())
}

/// The names below which TLSA records count, the better first (RFC 7672 §2.2.2): where the host's aliases lead to, and
/// the host itself. Only the latter where its first alias is proved and the rest of the way is not; none where not even
/// that is.
fn bases(host: &Name, way: &[Record]) -> Vec<Name> {
    let is_proved = |record: &Record| record.proof.is_secure();
    let first_is_alias = way.first().is_some_and(|record| record.record_type() == RecordType::CNAME);
    match way.last() {
        Some(last) if way.iter().all(is_proved) && first_is_alias => vec![last.name.clone(), host.clone()],
        Some(_) if way.iter().all(is_proved) => vec![host.clone()],
        _ if first_is_alias && way.first().is_some_and(is_proved) => vec![host.clone()],
        _ => Vec::new(),
    }
}

fn tlsa_of(record: &Record) -> Option<TlsaRecord> {
    let RData::TLSA(tlsa) = &record.data else { return None };
    Some(TlsaRecord {
        usage: tlsa.cert_usage.into(),
        selector: tlsa.selector.into(),
        matching: tlsa.matching.into(),
        data: tlsa.cert_data.clone(),
    })
}
