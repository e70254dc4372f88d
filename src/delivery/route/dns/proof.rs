//! What DNSSEC proves of a name (RFC 4035 §5), beyond what hickory says of an answer.
//!
//! hickory proves records. Two things are left to this file. It takes "there is nothing" from an answer whose
//! authority section names any unsigned zone, whosever it is: here a denial counts only with its NSEC or NSEC3
//! records, or where a zone above the name is proved to be unsigned. And it calls an answer bogus where it could not
//! find out that the zone is unsigned, which is what happens below name servers that fail at NS or DS: here the zones
//! are walked from the root down, where each parent says whether the child is signed and the child's own servers are
//! not asked.

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError as Refusal, NetError, NoRecords};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, RecordTypeSet};

use super::servers::{Servers, on_the_way};

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

/// An answer, or why there is none.
pub(super) type Heard = Result<Lookup, NetError>;

impl Servers {
    /// Asks each server until one proves what it says.
    pub(super) async fn with_proof(&self, name: &Name, kind: RecordType) -> Heard {
        let mut heard = Err(NetError::from("no DNS server"));
        let resolvers = self.proving_resolvers().map_err(|error| NetError::from(error.to_string()))?;
        for resolver in resolvers.iter() {
            heard = resolver.lookup(name.clone(), kind).await;
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
            if let Ok(found) = &heard
                && is_settled(&zone, RecordType::DS, &heard)
            {
                let keys = found.answers().iter().filter(|record| record.name == zone);
                let keys = keys.filter(|record| record.record_type() == RecordType::DS);
                match keys.clone().all(|record| record.proof.is_secure()) {
                    true if keys.clone().any(is_usable) => apex = zone,
                    // RFC 4035 §5.2: signed in ways that nobody here knows is as not signed.
                    _ => return Standing::Open,
                }
            } else if let Some(is_open) = denial_of_keys(&zone, &apex, &heard) {
                if is_open {
                    return Standing::Open;
                }
            } else if let Some(alias) = self.alias(&zone).await {
                // There is nothing below an alias.
                return if zone == *name { Standing::Alias(Box::new(alias)) } else { Standing::Signed(apex) };
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
        let found = self.with_proof(name, RecordType::CNAME).await.ok()?;
        found
            .answers()
            .iter()
            .find(|record| {
                record.name == *name && record.record_type() == RecordType::CNAME && record.proof.is_secure()
            })
            .cloned()
    }
}

/// Whether an answer comes with its proof, or with the proof that it needs none.
pub(super) fn is_settled(name: &Name, kind: RecordType, heard: &Heard) -> bool {
    match heard {
        Ok(found) => {
            let way = on_the_way(name, kind, found.answers());
            let is_proved = |record: &Record| record.proof.is_secure() || record.proof.is_insecure();
            // RFC 4035 §5.3.4: a wildcard needs the proof that there is nothing closer.
            !way.is_empty()
                && way.iter().all(is_proved)
                && (!found.answers().iter().any(is_expanded) || found.authorities().iter().any(is_denial))
        }
        Err(NetError::Dns(Refusal::NoRecordsFound(none))) => is_proved_denial(name, none),
        Err(_) => false,
    }
}

/// hickory verified a denial that has NSEC or NSEC3 records. Others count where a zone above the name is proved to be
/// unsigned, and so is all below it.
fn is_proved_denial(name: &Name, none: &NoRecords) -> bool {
    let of_open_zone = |record: &Record| record.proof.is_insecure() && record.name.zone_of(name);
    none.query.name() == name
        && authorities(none).iter().any(|record| is_denial(record) || of_open_zone(record))
}

fn authorities(none: &NoRecords) -> &[Record] {
    none.authorities.as_deref().unwrap_or_default()
}

/// Whether an answer says that there are no DS records at this name, which is below `apex`; and if so, whether that
/// makes the name's zone one without signatures.
fn denial_of_keys(zone: &Name, apex: &Name, heard: &Heard) -> Option<bool> {
    match heard {
        Err(NetError::Dns(Refusal::NoRecordsFound(none))) if is_proved_denial(zone, none) => {
            let is_open = |record: &Record| record.proof.is_insecure() && record.name.zone_of(zone);
            let authorities = authorities(none);
            Some(authorities.iter().any(|record| is_open(record) || is_open_cut(zone, apex, record)))
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

fn is_denial(record: &Record) -> bool {
    record.proof.is_secure() && matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3)
}

fn is_expanded(record: &Record) -> bool {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => rrsig.input().num_labels < record.name.num_labels(),
        _ => false,
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

/// Whether this NSEC or NSEC3 record says that `zone` is a zone without DS records (RFC 6840 §4.4), or may be one by
/// opt-out (RFC 5155 §6).
fn is_open_cut(zone: &Name, apex: &Name, record: &Record) -> bool {
    let is_cut = |types: &RecordTypeSet| {
        let has = |kind| types.contains(kind);
        has(RecordType::NS) && !has(RecordType::DS) && !has(RecordType::SOA)
    };
    match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
            is_denial(record) && record.name == *zone && is_cut(nsec.type_set())
        }
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) if is_denial(record) && record.name.base_name() == *apex => {
            let hash = nsec3.hash_algorithm().hash(nsec3.salt(), zone, nsec3.iterations());
            let Ok(hash) = hash.map(|hash| base32hex(hash.as_ref())) else { return false };
            let owner = record.name.iter().next().map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
            let next = base32hex(nsec3.next_hashed_owner_name());
            (hash == owner && is_cut(nsec3.type_set()))
                || (nsec3.opt_out() && is_between(&owner, &hash, &next))
        }
        _ => false,
    }
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
