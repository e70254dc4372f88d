//! What of an answer hickory's validator gets to see (RFC 4035 §5.3.1, §5.4).
//!
//! The validator builds a chain of keys from the root down by questions of its own, and does not compare the names in
//! their answers with the name that it asked for. A DS record of `evil.test`, rightly signed, would vouch for a key of
//! `victim.test`. So everything that has no business in an answer is taken out before: records of other names and
//! types, and signatures by a zone that cannot be the one of the name. What is left is still proved or not: nothing is
//! added here.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::stream::{self, Stream};
use hickory_resolver::NameServerPool;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::net::{DnsError as Refusal, NetError, NoRecords};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::rdata::sig::SigInput;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::kept_keys::{KeptKeys, is_of_keys};
use super::scope::Provider;

/// Questions of one proof. A name with 5 zones above it, each with two keys, takes about 200; without an end a domain
/// could make as much work as it likes, since each of its signatures asks for keys again.
const QUESTIONS_MAX: u32 = 500;

pub(super) type Pool = RetryDnsHandle<NameServerPool<Provider>>;

/// Between the validator and the servers, for one proof.
#[derive(Clone)]
pub(super) struct Sieve {
    servers: Pool,
    keys: Arc<KeptKeys>,
    asked: Arc<Mutex<Asked>>,
}

/// What was heard so far: each question is asked once, and has one answer.
#[derive(Default)]
struct Asked {
    answers: HashMap<Query, Result<DnsResponse, NetError>>,
    questions: u32,
}

impl Sieve {
    pub(super) fn new(servers: Pool, keys: Arc<KeptKeys>) -> Sieve {
        Sieve { servers, keys, asked: Arc::default() }
    }

    /// The proof holds: its keys may serve others.
    pub(super) fn keep_keys(&self) {
        for (query, answer) in &self.asked().answers {
            if let Ok(answer) = answer {
                self.keys.keep(query.clone(), answer, Instant::now());
            }
        }
    }

    async fn ask(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let Some(query) = request.queries.first().cloned() else { return Err("no question".into()) };
        if query.query_type() == RecordType::NS {
            // The validator looks for a zone without signatures by NS records that nobody proved. `proof.rs` looks for
            // it from the root down, and its word alone counts.
            return Err(NoRecords::new(query, ResponseCode::NoError).into());
        }
        if let Some(known) = self.known(&query) {
            return known;
        }
        let heard = match self.keys.get(&query, Instant::now()) {
            Some(kept) => Ok(kept),
            None => sifted(&query, self.servers.send(request).first_answer().await),
        };
        self.asked().answers.insert(query, heard.clone());
        heard
    }

    fn known(&self, query: &Query) -> Option<Result<DnsResponse, NetError>> {
        let mut asked = self.asked();
        asked.questions += 1;
        if asked.questions > QUESTIONS_MAX {
            return Some(Err(format!("a proof takes more than {QUESTIONS_MAX} questions").into()));
        }
        asked.answers.get(query).cloned()
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DnsHandle for Sieve {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = Provider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let sieve = self.clone();
        Box::pin(stream::once(async move { sieve.ask(request).await }))
    }
}

fn sifted(query: &Query, heard: Result<DnsResponse, NetError>) -> Result<DnsResponse, NetError> {
    match heard {
        Ok(mut response) => {
            let names = names(query, &response.answers);
            response.queries = vec![query.clone()];
            response.answers.retain(|record| is_answer(query, &names, record));
            response.answers.iter_mut().for_each(make_canonical);
            response.authorities.retain(|record| is_denial(query, &names, record));
            response.additionals.clear();
            Ok(response)
        }
        Err(NetError::Dns(Refusal::NoRecordsFound(mut none))) => {
            let names = [query.name().clone()];
            let fits = |record: &Record| is_denial(query, &names, record);
            let authorities = none.authorities.as_deref().unwrap_or_default();
            none.authorities = Some(authorities.iter().filter(|record| fits(record)).cloned().collect());
            // It is among these, or has no business here.
            (none.soa, none.ns, none.query) = (None, None, Box::new(query.clone()));
            Err(NetError::Dns(Refusal::NoRecordsFound(none)))
        }
        other => other,
    }
}

/// RFC 4034 §6.2: a DNAME record is signed in lower case. To hickory it is bytes, of which those that tell a length are
/// below every letter.
fn make_canonical(record: &mut Record) {
    if record.record_type() == RecordType::DNAME
        && let RData::Unknown { rdata, .. } = &mut record.data
    {
        rdata.anything.make_ascii_lowercase();
    }
}

/// The asked name, and where its aliases lead. Keys have no aliases: whoever asks for them asks for those of one zone.
fn names(query: &Query, answers: &[Record]) -> Vec<Name> {
    let mut names = vec![query.name().clone()];
    if is_of_keys(query.query_type()) {
        return names;
    }
    while names.len() <= answers.len() {
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if Some(&record.name) == names.last() => Some(target.0.clone()),
            _ => None,
        });
        match alias {
            Some(target) => names.push(target),
            None => break,
        }
    }
    names
}

fn is_answer(query: &Query, names: &[Name], record: &Record) -> bool {
    let kind = covered(record);
    let is_alias = kind == RecordType::CNAME && !is_of_keys(query.query_type());
    names.contains(&record.name) && (kind == query.query_type() || is_alias) && is_fit(record)
}

/// A record that says that there is nothing, of a zone that can say so of one of these names.
fn is_denial(query: &Query, names: &[Name], record: &Record) -> bool {
    // RFC 4035 §5.2: that a zone is not signed is its parent's to say.
    let can_say = |zone: &Name| {
        names.iter().any(|name| zone.zone_of(name) && (query.query_type() != RecordType::DS || zone != name))
    };
    let zone = match (signature(record), record.record_type()) {
        (Some(signature), _) => signature.signer_name.clone(),
        (None, RecordType::NSEC3) => record.name.base_name(),
        (None, RecordType::SOA) => record.name.clone(),
        // Its signature tells of which zone it is.
        _ => Name::root(),
    };
    matches!(covered(record), RecordType::SOA | RecordType::NSEC | RecordType::NSEC3)
        && can_say(&zone)
        && is_fit(record)
}

/// The record's type, or for a signature the type of what is signed.
fn covered(record: &Record) -> RecordType {
    signature(record).map_or_else(|| record.record_type(), |signature| signature.type_covered)
}

pub(super) fn signature(record: &Record) -> Option<&SigInput> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some(rrsig.input()),
        _ => None,
    }
}

/// Whether a signature is one by the zone of its owner. What only stands at one place in a zone is never of a wildcard.
fn is_fit(record: &Record) -> bool {
    let Some(signature) = signature(record) else { return true };
    let (signer, owner) = (&signature.signer_name, &record.name);
    let is_by_its_zone = match signature.type_covered {
        RecordType::DNSKEY | RecordType::SOA => signer == owner,
        RecordType::DS => signer != owner && signer.zone_of(owner),
        RecordType::NSEC3 => *signer == owner.base_name(),
        _ => signer.zone_of(owner),
    };
    let labels = signature.num_labels.cmp(&owner.num_labels());
    let is_single = matches!(
        signature.type_covered,
        RecordType::DNSKEY | RecordType::DS | RecordType::SOA | RecordType::NSEC | RecordType::NSEC3
    );
    is_by_its_zone && (labels.is_eq() || (labels.is_lt() && !is_single))
}
