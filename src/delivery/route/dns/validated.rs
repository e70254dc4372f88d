//! Lookups whose answers must be proved, or be proved to need no proof (RFC 4035 §4.3): secure, insecure and bogus are
//! told apart, and bogus is no answer. TLSA records are looked for as RFC 7672 §2.2.2 says.

use std::time::{Duration, Instant};

use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::cache::{Answer, Found, TLSA_KEPT_MAX};
use super::proof::{Standing, is_bogus, is_costly, is_settled};
use super::servers::{ALIASES_MAX, Records, Servers, all, host_text, mx_found, records_of};
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
        mx_found(self.validated(name, RecordType::MX).await)
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
            (Some(Err((error @ (DnsError::Temporary(_) | DnsError::Bogus(_)), ttl))), _)
            | (_, Some(Err((error @ (DnsError::Temporary(_) | DnsError::Bogus(_)), ttl)))) => {
                return Err((error, ttl));
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
                Err((DnsError::Bogus(why), ttl)) => {
                    let name = host_text(&name);
                    return Err((DnsError::Bogus(format!("TLSA of {name}: {why}")), ttl));
                }
            }
        }
        Ok((absence, ttl))
    }

    /// The records, each with its proof, or why there are none. What is bogus is an error. Aliases are followed by hand
    /// where hickory finds no proof: what it looks for is at the alias, and the proof is at the target.
    pub(super) async fn validated(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Records, (DnsError, Duration)> {
        if is_special(name) {
            return self.of_query(name, kind).await;
        }
        let (mut name, mut way) = (name.clone(), Vec::new());
        while way.len() < ALIASES_MAX {
            match self.settled(&name, kind).await? {
                Settled::Records(found) => {
                    let ttls = way.iter().map(|alias: &Record| Duration::from_secs(alias.ttl.into()));
                    let ttl = ttls.fold(found.ttl, Duration::min);
                    way.extend(found.records);
                    return Ok(Records { records: way, ttl });
                }
                Settled::Alias(alias, target) => {
                    way.push(*alias);
                    name = target;
                }
            }
        }
        Err(temporary(format!("{} leads from alias to alias", host_text(&name))))
    }

    async fn settled(&self, name: &Name, kind: RecordType) -> Result<Settled, (DnsError, Duration)> {
        // So that there is time to find out whether the zone is signed at all.
        let heard = tokio::time::timeout(self.timeout / 2, self.with_proof(name, kind)).await;
        let heard = heard.unwrap_or(Err(NetError::Timeout));
        if is_settled(name, kind, &heard) {
            return records_of(name, kind, heard).map(Settled::Records);
        }
        let standing = self.standing(name).await;
        if matches!(standing, Standing::Signed(_) | Standing::Unknown(_)) {
            // It may be for keys that were changed before their time, or that somebody else made.
            self.keys.forget_above(name, Instant::now());
        }
        match standing {
            Standing::Open => self.of_query(name, kind).await.map(Settled::Records),
            Standing::Alias(alias) => match &alias.data {
                RData::CNAME(target) => {
                    let target = target.0.clone();
                    Ok(Settled::Alias(alias, target))
                }
                _ => Err(temporary("an alias to nowhere".to_owned())),
            },
            Standing::Signed(apex) if is_costly(&apex, &heard) => Err((DnsError::NoData, Duration::ZERO)),
            Standing::Signed(_) if is_bogus(&heard) => {
                let name = host_text(name);
                let why = format!(
                    "the DNSSEC signatures of {name} are wrong or missing (bogus), or could not be looked up"
                );
                Err((DnsError::Bogus(why), Duration::ZERO))
            }
            Standing::Signed(_) => records_of(name, kind, heard).map(Settled::Records),
            Standing::Unknown(why) => Err(temporary(why)),
        }
    }

    /// Asks for the root's keys, for its SOA record, which is signed, and for a record that the root does not have,
    /// which takes a signed NSEC record to prove. One server that can is enough.
    pub(super) async fn self_test(&self) -> SelfTest {
        let test = tokio::time::timeout(self.timeout / 2, self.test_proofs());
        let why = match test.await.unwrap_or_else(|_| Err(Silence("no answer in time".to_owned()))) {
            Ok(found) => return found,
            Err(Silence(why)) => why,
        };
        // A server, or a firewall before it, that knows nothing of what DNSSEC needs (EDNS) drops the question.
        match self.without_edns.lookup(Name::root(), RecordType::SOA).await {
            Ok(_) | Err(NetError::Dns(Refusal::NoRecordsFound(_))) => SelfTest::NotProved(format!(
                "it answers, and not where signatures are asked for (EDNS): {why}"
            )),
            Err(_) => SelfTest::NoAnswer(why),
        }
    }

    async fn test_proofs(&self) -> Result<SelfTest, Silence> {
        let root = Name::root();
        self.keys.forget_above(&root, Instant::now());
        for (kind, wrong) in [
            (RecordType::DNSKEY, "nothing proves the keys of the root"),
            (RecordType::SOA, "the signature of the root's SOA record is wrong or missing"),
            (RecordType::TLSA, "nothing proves what the root does not have (NSEC)"),
        ] {
            let heard = self.with_proof(&root, kind).await;
            let is_proved = is_settled(&root, kind, &heard)
                && heard.as_ref().map_or(kind == RecordType::TLSA, |found| {
                    found
                        .answers
                        .iter()
                        .all(|record| record.record_type() != kind || record.proof.is_secure())
                });
            match heard {
                _ if is_proved => {}
                heard if is_bogus(&heard) => return Ok(SelfTest::NotProved(wrong.to_owned())),
                Err(error) => return Err(Silence(error.to_string())),
                Ok(_) => return Ok(SelfTest::NotProved(wrong.to_owned())),
            }
        }
        Ok(SelfTest::Validates)
    }
}

/// No answer, in words.
struct Silence(String);

/// One step on the way to the records.
enum Settled {
    Records(Records),
    /// A proved alias, and where it leads.
    Alias(Box<Record>, Name),
}

fn temporary(why: String) -> (DnsError, Duration) {
    (DnsError::Temporary(why), Duration::ZERO)
}

/// Names that nobody is asked for (RFC 6761 §6.3, §6.4; RFC 7686 §2).
fn is_special(name: &Name) -> bool {
    let last = name.iter().next_back().unwrap_or_default();
    [&b"localhost"[..], b"invalid", b"onion"].iter().any(|special| last.eq_ignore_ascii_case(special))
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
