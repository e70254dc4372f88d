//! What DNSSEC proves of a name (RFC 4035 §5), beyond what hickory says of an answer.
//!
//! hickory proves records, and of what it says only "secure" counts. That a zone is not signed is looked for here, from
//! the root down: each parent says whether the child is signed, and the child's own servers are not asked. A denial is
//! one of the zone that the name is in, whole and from one zone (NSEC or NSEC3, with its SOA record), and a wildcard
//! stands for a name only where there is nothing closer.

use hickory_resolver::net::{DnsError as Refusal, NetError, NoRecords};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, NSEC3};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, RecordTypeSet};
use hickory_resolver::proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::servers::{Heard, Servers, on_the_way};
use super::sieve::signature;

/// What the zones above a name say of it.
#[derive(Debug)]
pub(super) enum Standing {
    /// It is proved that its zone is not signed: its answers need no proof.
    Open,
    /// All zones on the way down are signed, the last of them this one: what is not proved is forged.
    Signed(Name),
    /// The name is an alias, by this proved CNAME record.
    Alias(Box<Record>),
    /// Somebody on the way did not answer, in words.
    Unknown(String),
}

impl Servers {
    /// Asks each server until one proves what it says.
    pub(super) async fn with_proof(&self, name: &Name, kind: RecordType) -> Heard {
        let mut heard = Err(NetError::from("no DNS server"));
        for prover in &self.provers {
            heard = prover.lookup(name, kind).await;
            if is_settled(name, kind, &heard) {
                break;
            }
        }
        heard
    }

    /// From the top-level domain down to the name itself.
    pub(super) async fn standing(&self, name: &Name) -> Standing {
        let mut apex = Name::root();
        for labels in 1..=name.iter().len() {
            let zone = name.trim_to(labels);
            let heard = self.with_proof(&zone, RecordType::DS).await;
            if let Some(can_be_checked) = has_keys(&zone, &apex, &heard) {
                if !can_be_checked {
                    // RFC 4035 §5.2: signed in ways that nobody here knows is as not signed.
                    return Standing::Open;
                }
                apex = zone;
            } else if let Some(is_open) = denial_of_keys(&zone, &apex, &heard) {
                if is_open {
                    return Standing::Open;
                }
            } else if let Some(alias) = self.alias(&zone).await {
                // There is nothing below an alias.
                return if zone == *name { Standing::Alias(Box::new(alias)) } else { Standing::Signed(apex) };
            } else if let Some(alias) = self.renamed(name, &zone.base_name()).await {
                return Standing::Alias(Box::new(alias));
            } else if is_bogus(&heard) {
                return Standing::Signed(apex);
            } else {
                let why = heard.err().map_or_else(|| "no proof".to_owned(), |error| error.to_string());
                return Standing::Unknown(format!("asked whether {zone} is signed (DS): {why}"));
            }
        }
        Standing::Signed(apex)
    }

    /// The proved CNAME record of a name.
    async fn alias(&self, name: &Name) -> Option<Record> {
        let heard = self.with_proof(name, RecordType::CNAME).await;
        if !is_settled(name, RecordType::CNAME, &heard) {
            return None;
        }
        on_the_way(name, RecordType::CNAME, &heard.ok()?.answers).into_iter().next()
    }

    /// The alias that a proved DNAME record at `above` makes of a name below it. The one that a server makes of it has
    /// no signature, and is to be the same (RFC 6672 §5.3.1): it is made here.
    async fn renamed(&self, name: &Name, above: &Name) -> Option<Record> {
        let heard = self.with_proof(above, RecordType::DNAME).await;
        if !is_settled(above, RecordType::DNAME, &heard) {
            return None;
        }
        let found = heard.ok()?;
        let of_it = |record: &&Record| record.name == *above && record.record_type() == RecordType::DNAME;
        let dname = found.answers.iter().find(of_it)?;
        let target = target_below(name, above, dname)?;
        let mut alias = Record::from_rdata(name.clone(), dname.ttl, RData::CNAME(CNAME(target)));
        alias.proof = Proof::Secure;
        Some(alias)
    }
}

/// What a DNAME record at `above` makes of a name below.
fn target_below(name: &Name, above: &Name, dname: &Record) -> Option<Name> {
    let RData::Unknown { rdata, .. } = &dname.data else { return None };
    let mut decoder = BinDecoder::new(&rdata.anything);
    let target = Name::read(&mut decoder).ok().filter(|_| decoder.is_empty())?;
    let own = name.iter().len().checked_sub(above.iter().len())?;
    // RFC 6672 §2.2: too long is no name.
    Name::from_labels(name.iter().take(own)).ok()?.append_domain(&target).ok()
}

/// Whether an answer comes with its proof.
pub(super) fn is_settled(name: &Name, kind: RecordType, heard: &Heard) -> bool {
    match heard {
        Ok(found) => {
            let way = on_the_way(name, kind, &found.answers);
            !way.is_empty() && way.iter().all(|record| is_proved(record, &found.answers, &found.authorities))
        }
        Err(NetError::Dns(Refusal::NoRecordsFound(none))) => denying_zone(name, none).is_some(),
        Err(_) => false,
    }
}

/// Whether a record of an answer is signed, and as the record of this name.
fn is_proved(record: &Record, answers: &[Record], authorities: &[Record]) -> bool {
    let Some((signer, labels)) = signed_by(record, answers) else { return false };
    // RFC 4035 §5.3.4, RFC 5155 §8.8: a wildcard stands for the name only where there is nothing closer.
    labels >= record.name.num_labels() || {
        let closer = record.name.trim_to(usize::from(labels) + 1);
        authorities.iter().any(|denial| {
            signed_by(denial, authorities).is_some_and(|(by, _)| by == signer)
                && is_nothing_at(&closer, &record.name, denial)
        })
    }
}

/// The zone whose signature proves a record, and how many labels of the owner it counts.
fn signed_by<'a>(record: &Record, among: &'a [Record]) -> Option<(&'a Name, u8)> {
    let signatures = among.iter().filter(|other| other.name == record.name && other.proof.is_secure());
    let mut signatures = signatures.filter_map(signature);
    let fitting = signatures.find(|signature| signature.type_covered == record.record_type())?;
    record.proof.is_secure().then_some((&fitting.signer_name, fitting.num_labels))
}

/// Whether this NSEC or NSEC3 record says that there is nothing at `closer` and below it, where `name` is.
fn is_nothing_at(closer: &Name, name: &Name, denial: &Record) -> bool {
    match &denial.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
            let (owner, next) = (&denial.name, nsec.next_domain_name());
            let is_last = next <= owner;
            owner < name && (name < next || is_last) && !closer.zone_of(owner) && !closer.zone_of(next)
        }
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
            hashed(closer, denial, nsec3).is_some_and(|(owner, hash, next)| is_between(&owner, &hash, &next))
        }
        _ => false,
    }
}

/// The zone that proves that there is nothing: hickory verified what its records say, here it is looked at whose they
/// are. They are of one zone, which `name` is in. Its SOA record, which hickory takes for granted, tells where
/// wildcards begin (RFC 2308 §3); for DS records there may be none, and no need of it.
fn denying_zone<'a>(name: &Name, none: &'a NoRecords) -> Option<&'a Name> {
    let authorities = none.authorities.as_deref().unwrap_or_default();
    let denials = authorities
        .iter()
        .filter(|record| matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3));
    let mut zones = denials.filter_map(|record| signed_by(record, authorities)).map(|(zone, _)| zone);
    let zone = zones.next()?;
    let of_keys = none.query.query_type() == RecordType::DS;
    let is_start = |record: &Record| {
        record.record_type() == RecordType::SOA
            && record.name == *zone
            && signed_by(record, authorities).is_some()
    };
    let holds = none.query.name() == name
        && zones.all(|other| other == zone)
        && zone.zone_of(name)
        && if of_keys { zone != name } else { authorities.iter().any(is_start) };
    holds.then_some(zone)
}

/// Whether an answer has the DS records of this name, by the zone above; and if so, whether they name a key that can be
/// checked.
fn has_keys(zone: &Name, apex: &Name, heard: &Heard) -> Option<bool> {
    let found = heard.as_ref().ok()?;
    let keys: Vec<&Record> = found
        .answers
        .iter()
        .filter(|record| record.name == *zone && record.record_type() == RecordType::DS)
        .filter(|record| signed_by(record, &found.answers).is_some_and(|(by, _)| by == apex))
        .collect();
    (!keys.is_empty()).then(|| keys.into_iter().any(is_usable))
}

/// Whether an answer says that there are no DS records at this name, which is below `apex`; and if so, whether that
/// makes the name's zone one without signatures.
fn denial_of_keys(zone: &Name, apex: &Name, heard: &Heard) -> Option<bool> {
    match heard {
        Err(NetError::Dns(Refusal::NoRecordsFound(none))) if denying_zone(zone, none) == Some(apex) => {
            let authorities = none.authorities.as_deref().unwrap_or_default();
            Some(authorities.iter().any(|record| is_open_cut(zone, record)))
        }
        error if is_costly(apex, error) => Some(true),
        _ => None,
    }
}

/// Whether this is a denial with more NSEC3 iterations than anybody has to follow, of this zone (RFC 9276 §3.2): as if
/// nothing were signed.
pub(super) fn is_costly(apex: &Name, heard: &Heard) -> bool {
    let Err(NetError::Dns(Refusal::Nsec { proof, response, .. })) = heard else { return false };
    let mut hashed = response
        .authorities
        .iter()
        .filter(|record| record.record_type() == RecordType::NSEC3 && record.proof.is_secure())
        .peekable();
    proof.is_insecure() && hashed.peek().is_some() && hashed.all(|record| record.name.base_name() == *apex)
}

pub(super) fn is_bogus(heard: &Heard) -> bool {
    match heard {
        Ok(_) => true,
        Err(NetError::Dns(refusal)) => {
            matches!(refusal, Refusal::DnssecBogus | Refusal::Nsec { .. } | Refusal::NoRecordsFound(_))
        }
        Err(_) => false,
    }
}

fn is_usable(record: &Record) -> bool {
    match &record.data {
        RData::DNSSEC(DNSSECRData::DS(ds)) => {
            ds.algorithm().is_supported() && ds.digest_type().is_supported()
        }
        _ => false,
    }
}

/// Whether this NSEC or NSEC3 record of the zone above says that `zone` is a zone without DS records (RFC 6840 §4.4),
/// or may be one by opt-out (RFC 5155 §6).
fn is_open_cut(zone: &Name, record: &Record) -> bool {
    let is_cut = |types: &RecordTypeSet| {
        let has = |kind| types.contains(kind);
        has(RecordType::NS) && !has(RecordType::DS) && !has(RecordType::SOA)
    };
    match &record.data {
        _ if !record.proof.is_secure() => false,
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => record.name == *zone && is_cut(nsec.type_set()),
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
            hashed(zone, record, nsec3).is_some_and(|(owner, hash, next)| {
                (hash == owner && is_cut(nsec3.type_set()))
                    || (nsec3.opt_out() && is_between(&owner, &hash, &next))
            })
        }
        _ => false,
    }
}

/// The hashes of the owner of an NSEC3 record, of `name` as its zone makes it, and of the owner's next.
fn hashed(name: &Name, record: &Record, nsec3: &NSEC3) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let hash = nsec3.hash_algorithm().hash(nsec3.salt(), name, nsec3.iterations()).ok()?;
    let owner = record.name.iter().next()?.to_ascii_lowercase();
    Some((owner, base32hex(hash.as_ref()), base32hex(nsec3.next_hashed_owner_name())))
}

/// In the ring of hashes, whose last leads to its first.
fn is_between(owner: &[u8], hash: &[u8], next: &[u8]) -> bool {
    if owner < next { owner < hash && hash < next } else { owner < hash || hash < next }
}

/// RFC 4648 §7 in lower case and without padding, which keeps the order of the bytes.
fn base32hex(bytes: &[u8]) -> Vec<u8> {
    let bits = bytes.chunks(5).flat_map(|chunk| {
        let mut five = [0; 8];
        five[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(five);
        let digits = (chunk.len() * 8).div_ceil(5);
        (0..digits).map(move |at| (bits >> (35 - 5 * at)) as usize & 31)
    });
    bits.map(|digit| b"0123456789abcdefghijklmnopqrstuv"[digit]).collect()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::dnssec::Nsec3HashAlgorithm;

    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc() {
        // RFC 4648 §10.
        for (text, encoded) in
            [("", ""), ("f", "co"), ("fo", "cpng"), ("foo", "cpnmu"), ("foobar", "cpnmuoj1e8")]
        {
            assert_eq!(base32hex(text.as_bytes()), encoded.as_bytes(), "{text}");
        }
    }

    /// RFC 5155 §6, §8.9: most domains below `com` are neither named by an NSEC3 record nor denied by one.
    #[test]
    fn a_zone_is_open_where_its_parent_says_so_and_where_opt_out_leaves_it_open() {
        let (zone, parent) = (Name::from_ascii("unsigned.com.").unwrap(), Name::from_ascii("com.").unwrap());
        let hash = Nsec3HashAlgorithm::SHA1.hash(&[], &zone, 0).unwrap().as_ref().to_vec();
        let beside = |by: i8| {
            let mut beside = hash.clone();
            *beside.last_mut().unwrap() = hash.last().unwrap().wrapping_add_signed(by);
            beside
        };
        let record = |owner: &[u8], next: &[u8], opt_out: bool, types: &[RecordType]| {
            let label = String::from_utf8(base32hex(owner)).unwrap();
            let types = types.iter().copied();
            let nsec3 = NSEC3::new(Nsec3HashAlgorithm::SHA1, opt_out, 0, Vec::new(), next.to_vec(), types);
            let owner = Name::from_ascii(label).unwrap().append_domain(&parent).unwrap();
            let mut record = Record::from_rdata(owner, 60, RData::DNSSEC(DNSSECRData::NSEC3(nsec3)));
            record.proof = Proof::Secure;
            record
        };
        let (before, after) = (beside(-1), beside(1));
        for (what, mut found, is_open) in [
            ("a span with opt-out", record(&before, &after, true, &[RecordType::A]), true),
            ("a span without", record(&before, &after, false, &[RecordType::A]), false),
            ("a span of others", record(&after, &before, true, &[RecordType::A]), false),
            ("a cut", record(&hash, &after, false, &[RecordType::NS]), true),
            ("a signed cut", record(&hash, &after, true, &[RecordType::NS, RecordType::DS]), false),
            ("the zone's own word", record(&hash, &after, true, &[RecordType::NS, RecordType::SOA]), false),
            ("a name between zones", record(&hash, &after, true, &[]), false),
        ] {
            assert_eq!(is_open_cut(&zone, &found), is_open, "{what}");
            found.proof = Proof::Bogus;
            assert!(!is_open_cut(&zone, &found), "{what}, not proved");
        }
    }

    #[test]
    fn the_last_hash_leads_to_the_first() {
        for (owner, hash, next, inside) in [
            ("b", "c", "d", true),
            ("b", "b", "d", false),
            ("b", "d", "d", false),
            ("b", "a", "d", false),
            ("y", "z", "b", true),
            ("y", "a", "b", true),
            ("y", "c", "b", false),
        ] {
            assert_eq!(
                is_between(owner.as_bytes(), hash.as_bytes(), next.as_bytes()),
                inside,
                "{owner} {hash}"
            );
        }
    }
}
