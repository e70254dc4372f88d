//! DNSSEC for the tests' zones: keys of the root, their signatures, and the file that makes a resolver trust them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::sig::SigInput;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_server::proto::dnssec::{DnssecSigner, PublicKey as _, SigningKey as _, TBS};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};

/// How long signatures hold.
const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;

/// The keys of a root zone that has every name of a test in it.
pub struct Signer {
    keys: Vec<DnssecSigner>,
}

impl Signer {
    /// With so many keys, of which the first is the trusted one: two stand for a key that is being replaced.
    pub fn new(keys: usize) -> Signer {
        let key = |_| {
            let key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8().unwrap()).unwrap();
            let dnskey = DNSKEY::from_key(&key.to_public_key().unwrap());
            DnssecSigner::new(dnskey, Box::new(key), Name::root(), Duration::from_secs(HOUR.into()))
        };
        Signer { keys: (0..keys).map(key).collect() }
    }

    /// What a file with trust anchors has to say (RFC 4034 §2.2).
    pub fn anchor(&self) -> String {
        let key = self.keys[0].key().to_public_key().unwrap();
        let algorithm = u8::from(key.algorithm());
        format!(". {HOUR} IN DNSKEY 257 3 {algorithm} {}\n", STANDARD.encode(key.public_bytes()))
    }

    /// The keys as records.
    pub fn dnskeys(&self) -> Vec<Record> {
        let record = |key: &DnssecSigner| {
            let data = RData::DNSSEC(DNSSECRData::DNSKEY(key.dnskey().clone()));
            Record::from_rdata(Name::root(), HOUR, data)
        };
        self.keys.iter().map(record).collect()
    }

    /// The proof that `name` has these types and no others.
    pub fn nsec(&self, name: &Name, types: &[RecordType]) -> Record {
        let next = Name::from_labels([&b"\0"[..]]).unwrap().append_name(name).unwrap();
        let types = types.iter().copied().chain([RecordType::NSEC, RecordType::RRSIG]);
        let data = RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(next, types)));
        Record::from_rdata(name.clone(), HOUR, data)
    }

    /// The signatures of all keys over each set of these records, as `how` says.
    pub fn signatures(&self, records: &[Record], how: impl Fn(&Name, RecordType) -> Signing) -> Vec<Record> {
        let mut sets: BTreeMap<(Name, u16), Vec<&Record>> = BTreeMap::new();
        for record in records {
            sets.entry((record.name.clone(), record.record_type().into())).or_default().push(record);
        }
        let by_key = |set: &Vec<&Record>| {
            let how = how(&set[0].name, set[0].record_type());
            let keys = self.keys.iter().filter(move |_| how != Signing::None);
            keys.map(|key| signature(key, set, how)).collect::<Vec<_>>()
        };
        sets.values().flat_map(by_key).collect()
    }
}

/// How a set of records is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// So that it holds.
    Good,
    /// Until two days ago: some resolvers forgive less.
    Expired,
    /// Something else was signed.
    Wrong,
    /// Not at all.
    None,
}

fn signature(key: &DnssecSigner, set: &[&Record], how: Signing) -> Record {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let (name, kind, ttl) = (&set[0].name, set[0].record_type(), set[0].ttl);
    let input = SigInput {
        type_covered: kind,
        algorithm: key.key().algorithm(),
        num_labels: name.num_labels(),
        original_ttl: ttl,
        sig_expiration: SerialNumber::new(if how == Signing::Expired { now - 2 * DAY } else { now + HOUR }),
        sig_inception: SerialNumber::new(now - 3 * DAY),
        key_tag: key.calculate_key_tag().unwrap(),
        signer_name: Name::root(),
    };
    let signed = TBS::from_input(name, DNSClass::IN, &input, set.iter().copied()).unwrap();
    let mut bytes = key.sign(&signed).unwrap();
    if how == Signing::Wrong {
        bytes[0] ^= 1;
    }
    let rrsig = RRSIG::from_sig(input, bytes);
    Record::from_rdata(name.clone(), ttl, RData::DNSSEC(DNSSECRData::RRSIG(rrsig)))
}

/// Code, answers and authorities.
pub type Reply = (ResponseCode, Vec<Record>, Vec<Record>);

/// Answers that a test makes up, before all others.
#[derive(Clone)]
pub struct Script(pub Arc<Answers>);

/// What is answered to a name and a type; none for what the zone says.
pub type Answers = dyn Fn(&Name, RecordType) -> Option<Reply> + Send + Sync;

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}
