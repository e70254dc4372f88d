//! Somebody on the way who answers for the DNS with records that are rightly signed, each by another zone than the one
//! it is shown for: keys, delegations, denials and wildcards. Zones are delegated as they are in the world, from a
//! signed root over `test` to each domain, so that a proof takes DS and DNSKEY records of each.

mod dname;
mod kept_keys;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::sig::SigInput;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC, NSEC3, RRSIG};
use hickory_server::proto::dnssec::{
    Algorithm, DigestType, DnssecSigner, Nsec3HashAlgorithm, SigningKey as _, TBS,
};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, CNAME, MX, NS, SOA, TLSA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};

use crate::harness::dns_server::{DnsServer, Zone};
use crate::harness::dnssec::{Reply, Signer, Signing};
use crate::harness::fakemx::{Certificate, FakeMx, Script};
use crate::harness::relay::{Config, World};
use postrider::config::DnsSettings;
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::Lookup as _;

const HOUR: u32 = 3600;

/// The key of a zone below the root.
struct Key {
    zone: Name,
    signer: DnssecSigner,
}

impl Key {
    fn new(zone: &str) -> Key {
        let key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8().unwrap()).unwrap();
        let dnskey = DNSKEY::from_key(&key.to_public_key().unwrap());
        let zone = name(zone);
        let signer = DnssecSigner::new(dnskey, Box::new(key), zone.clone(), Duration::from_secs(HOUR.into()));
        Key { zone, signer }
    }

    fn dnskey(&self) -> Record {
        dnssec(&self.zone, DNSSECRData::DNSKEY(self.signer.dnskey().clone()))
    }

    /// The DS record at `owner` that means this key as the one of `zone`.
    fn ds(&self, owner: &Name, zone: &Name) -> Record {
        let digest = self.signer.dnskey().to_digest(zone, DigestType::SHA256).unwrap();
        let (tag, algorithm) = (self.signer.calculate_key_tag().unwrap(), self.signer.key().algorithm());
        dnssec(owner, DNSSECRData::DS(DS::new(tag, algorithm, DigestType::SHA256, digest.as_ref().to_vec())))
    }

    /// The set of records with its signature, which counts `labels` of the owner's.
    fn signed_as(&self, set: Vec<Record>, labels: u8) -> Vec<Record> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        let (owner, kind, ttl) = (set[0].name.clone(), set[0].record_type(), set[0].ttl);
        let input = SigInput {
            type_covered: kind,
            algorithm: self.signer.key().algorithm(),
            num_labels: labels,
            original_ttl: ttl,
            sig_expiration: SerialNumber::new(now + HOUR),
            sig_inception: SerialNumber::new(now - HOUR),
            key_tag: self.signer.calculate_key_tag().unwrap(),
            signer_name: self.zone.clone(),
        };
        let signed = TBS::from_input(&owner, DNSClass::IN, &input, set.iter()).unwrap();
        let rrsig = RRSIG::from_sig(input, self.signer.sign(&signed).unwrap());
        set.into_iter().chain([dnssec(&owner, DNSSECRData::RRSIG(rrsig))]).collect()
    }

    fn signed(&self, set: Vec<Record>) -> Vec<Record> {
        let labels = set[0].name.num_labels();
        self.signed_as(set, labels)
    }

    fn soa(&self) -> Vec<Record> {
        self.signed(vec![soa(&self.zone)])
    }

    fn nsec(&self, owner: &Name, next: &Name, types: &[RecordType]) -> Vec<Record> {
        self.signed(vec![dnssec(owner, DNSSECRData::NSEC(NSEC::new(next.clone(), types.iter().copied())))])
    }

    /// Of hashes from `first` to `last`, with opt-out or without.
    fn nsec3(&self, first: &[u8], last: &[u8], opt_out: bool) -> Vec<Record> {
        let digits = data_encoding(first);
        let owner = Name::from_labels([digits.as_bytes()]).unwrap().append_name(&self.zone).unwrap();
        let nsec3 = NSEC3::new(Nsec3HashAlgorithm::SHA1, opt_out, 0, Vec::new(), last.to_vec(), []);
        self.signed(vec![dnssec(&owner, DNSSECRData::NSEC3(nsec3))])
    }
}

/// RFC 4648 §7 of 20 bytes.
fn data_encoding(bytes: &[u8]) -> String {
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let digit = |at: usize| (0..5).fold(0, |digit, more| digit * 2 + bit(at * 5 + more));
    (0..bytes.len() * 8 / 5).map(|at| char::from(b"0123456789abcdefghijklmnopqrstuv"[digit(at)])).collect()
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), HOUR, data)
}

fn dnssec(owner: &Name, data: DNSSECRData) -> Record {
    record(owner, RData::DNSSEC(data))
}

fn soa(zone: &Name) -> Record {
    record(zone, RData::SOA(SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, 60)))
}

fn cname(owner: &Name, target: &Name) -> Record {
    record(owner, RData::CNAME(CNAME(target.clone())))
}

fn mx(owner: &Name, host: &str) -> Record {
    record(owner, RData::MX(MX::new(10, name(host))))
}

fn found(answers: Vec<Record>) -> Option<Reply> {
    Some((ResponseCode::NoError, answers, Vec::new()))
}

fn nothing(code: ResponseCode, authorities: Vec<Vec<Record>>) -> Option<Reply> {
    Some((code, Vec::new(), authorities.concat()))
}

/// What a row's forger has, and whom he is after.
struct Victim {
    domain: Name,
    host: Name,
    /// Of the victim's host.
    tlsa: Name,
    key: Key,
    /// Made by the forger, for the victim's zone.
    planted: Key,
}

impl Victim {
    fn new(domain: &str) -> Victim {
        let host = format!("mx.{domain}");
        Victim {
            domain: name(domain),
            tlsa: name(&format!("_25._tcp.{host}")),
            host: name(&host),
            key: Key::new(domain),
            planted: Key::new(domain),
        }
    }
}

/// The zones that all rows share.
struct Tree {
    root: Arc<Signer>,
    test: Key,
    evil: Key,
    victims: Vec<(Row, Victim)>,
    /// Where the rows' hosts are.
    attacker: A,
    honest: A,
    /// Of the honest host.
    data: TLSA,
}

type Forge = fn(&Tree, &Victim, &Name, RecordType) -> Option<Reply>;

/// A domain, and what is said in its stead.
struct Row {
    name: &'static str,
    /// The recipient's domain, where it is another.
    below: &'static str,
    forge: Forge,
    /// The policy that it is delivered by; none for mail that has to wait.
    delivered: Option<&'static str>,
}

impl Tree {
    /// The answer of an honest server: signatures of the zone, and denials with one NSEC record.
    fn answer(&self, asked: &Name, kind: RecordType) -> Option<Reply> {
        let victim = self.victims.iter().find(|(_, victim)| victim.domain.zone_of(asked));
        if let Some(reply) = victim.and_then(|(row, victim)| (row.forge)(self, victim, asked, kind)) {
            return Some(reply);
        }
        match victim {
            Some((_, victim)) if *asked != victim.domain || kind != RecordType::DS => {
                Some(self.of_victim(victim, asked, kind))
            }
            _ => Some(self.of_test(asked, kind)),
        }
    }

    fn of_victim(&self, victim: &Victim, asked: &Name, kind: RecordType) -> Reply {
        let key = &victim.key;
        let here: Vec<Record> = [
            key.dnskey(),
            soa(&victim.domain),
            mx(&victim.domain, &victim.host.to_ascii()),
            record(&victim.host, RData::A(if self.is_honest(victim) { self.honest } else { self.attacker })),
            record(&victim.tlsa, RData::TLSA(self.data.clone())),
            cname(&name("www").append_domain(&victim.domain).unwrap(), &victim.domain),
        ]
        .into_iter()
        .filter(|record| record.name == *asked)
        .collect();
        let of = |kind: RecordType| here.iter().filter(move |record| record.record_type() == kind);
        let matching: Vec<Record> = of(kind).cloned().collect();
        if !matching.is_empty() {
            return (ResponseCode::NoError, key.signed(matching), Vec::new());
        }
        if let Some(alias) = of(RecordType::CNAME).next() {
            let (code, answers, authorities) = self.answer(&victim.domain, kind).unwrap();
            return (code, [key.signed(vec![alias.clone()]), answers].concat(), authorities);
        }
        (ResponseCode::NoError, Vec::new(), [key.soa(), self.nsec(key, asked, &here)].concat())
    }

    fn is_honest(&self, victim: &Victim) -> bool {
        self.victims.iter().any(|(row, other)| other.domain == victim.domain && row.delivered.is_some())
    }

    /// The proof that this name has these records and no others (RFC 9824).
    fn nsec(&self, key: &Key, owner: &Name, here: &[Record]) -> Vec<Record> {
        let types: Vec<RecordType> =
            here.iter().map(Record::record_type).chain([RecordType::NSEC, RecordType::RRSIG]).collect();
        let next = Name::from_labels([&b"\0"[..]]).unwrap().append_name(owner).unwrap();
        key.nsec(owner, &next, &types)
    }

    /// The root, `test`, and what is delegated there: `evil.test` with its own key, `weird.test` with an algorithm that
    /// nobody knows, and `open.test` without any.
    fn of_test(&self, asked: &Name, kind: RecordType) -> Reply {
        let (test, open, weird) = (&self.test, name("open.test"), name("weird.test"));
        let yes = |answers| (ResponseCode::NoError, answers, Vec::new());
        let ns = |zone: &Name| record(zone, RData::NS(NS(name("ns.test"))));
        match (asked, kind) {
            (asked, RecordType::DNSKEY) if asked.is_root() => yes(self.by_root(self.root.dnskeys())),
            (asked, RecordType::DS) if *asked == test.zone => {
                yes(self.by_root(vec![test.ds(&test.zone, &test.zone)]))
            }
            (asked, _) if *asked == name(".") => {
                let denial = self.root.nsec(asked, &[RecordType::SOA, RecordType::DNSKEY]);
                let soa = vec![soa(asked)];
                let (soa, denial) = (self.by_root(soa), self.by_root(vec![denial]));
                match kind {
                    RecordType::SOA => yes(soa),
                    _ => (ResponseCode::NoError, Vec::new(), [soa, denial].concat()),
                }
            }
            (asked, RecordType::DNSKEY) if *asked == test.zone => yes(test.signed(vec![test.dnskey()])),
            (asked, RecordType::DNSKEY) if *asked == self.evil.zone => {
                yes(self.evil.signed(vec![self.evil.dnskey()]))
            }
            (asked, RecordType::DS) if *asked == self.evil.zone => {
                yes(test.signed(vec![self.evil.ds(asked, asked)]))
            }
            (asked, RecordType::DS) if *asked == weird => yes(test.signed(vec![unknown_ds(asked)])),
            (asked, RecordType::DS) if *asked != open => {
                let victim = self.victims.iter().find(|(_, victim)| victim.domain == *asked);
                match victim {
                    Some((_, victim)) => yes(test.signed(vec![victim.key.ds(asked, asked)])),
                    None => (
                        ResponseCode::NoError,
                        Vec::new(),
                        [test.soa(), self.nsec(test, asked, &[])].concat(),
                    ),
                }
            }
            (asked, RecordType::DS) => {
                let denial = self.nsec(test, asked, &[ns(asked)]);
                (ResponseCode::NoError, Vec::new(), [test.soa(), denial].concat())
            }
            (asked, RecordType::NS) if *asked == open || *asked == self.evil.zone => yes(vec![ns(asked)]),
            (asked, RecordType::MX) if *asked == open => yes(vec![mx(asked, "mx.open.test")]),
            (asked, RecordType::A) if *asked == name("mx.open.test") => {
                yes(vec![record(asked, RData::A(self.honest))])
            }
            (asked, RecordType::A) if *asked == name("mx.evil.test") => {
                yes(self.evil.signed(vec![record(asked, RData::A(self.attacker))]))
            }
            (asked, _) if open.zone_of(asked) => (ResponseCode::NoError, Vec::new(), vec![soa(&open)]),
            (asked, _) => {
                let key = if self.evil.zone.zone_of(asked) { &self.evil } else { test };
                (ResponseCode::NoError, Vec::new(), [key.soa(), self.nsec(key, asked, &[])].concat())
            }
        }
    }

    fn by_root(&self, set: Vec<Record>) -> Vec<Record> {
        let signatures = self.root.signatures(&set, |_, _| Signing::Good);
        set.into_iter().chain(signatures).collect()
    }
}

/// Of a key with an algorithm that nobody here knows (Ed448).
fn unknown_ds(owner: &Name) -> Record {
    dnssec(owner, DNSSECRData::DS(DS::new(1, Algorithm::Unknown(16), DigestType::SHA256, vec![7; 32])))
}

/// The MX records of a domain are the forger's, without a signature.
fn plain_mx(victim: &Victim, asked: &Name, kind: RecordType) -> Option<Reply> {
    let is_it = kind == RecordType::MX && *asked == victim.domain;
    is_it.then(|| found(vec![mx(asked, "mx.evil.test")]))?
}

/// The same, signed with his key, which he hands out as the zone's.
fn planted_mx(victim: &Victim, asked: &Name, kind: RecordType) -> Option<Reply> {
    let planted = &victim.planted;
    match kind {
        _ if *asked != victim.domain => None,
        RecordType::MX => found(planted.signed(vec![mx(asked, "mx.evil.test")])),
        RecordType::DNSKEY => found(planted.signed(vec![planted.dnskey()])),
        _ => None,
    }
}

const fn forged(name: &'static str, forge: Forge) -> Row {
    Row { name, below: "", forge, delivered: None }
}

const fn honest(name: &'static str, policy: &'static str, forge: Forge) -> Row {
    Row { name, below: "", forge, delivered: Some(policy) }
}

/// Keys and delegations of other zones.
fn key_rows() -> Vec<Row> {
    vec![
        forged("v-foreign-ds", |tree, victim, asked, kind| match kind {
            // Registrars take any DS data: this one is really in `test`.
            RecordType::DS if *asked == victim.domain => found(
                [
                    tree.test.signed(vec![victim.key.ds(asked, asked)]),
                    tree.test.signed(vec![victim.planted.ds(&tree.evil.zone, asked)]),
                ]
                .concat(),
            ),
            _ => planted_mx(victim, asked, kind),
        }),
        forged("v-foreign-unknown-ds", |tree, victim, asked, kind| match kind {
            RecordType::DS if *asked == victim.domain => {
                let weird = name("weird.test");
                let alias = vec![cname(asked, &weird)];
                found([tree.test.signed(vec![unknown_ds(&weird)]), alias].concat())
            }
            RecordType::NS if *asked == victim.domain => {
                found(vec![record(asked, RData::NS(NS(name("ns.evil.test"))))])
            }
            _ => plain_mx(victim, asked, kind),
        }),
        // The victim's own zone has to be asked for its keys.
        forged("v-foreign-dnskey", |_, victim, asked, kind| match kind {
            RecordType::DNSKEY if *asked == victim.domain => {
                let open = Key::new("open.test");
                let alias = vec![cname(asked, &open.zone)];
                found([open.signed(vec![open.dnskey()]), alias].concat())
            }
            RecordType::DNSKEY => None,
            _ => planted_mx(victim, asked, kind),
        }),
        forged("v-own-ds", |_, victim, asked, kind| match kind {
            RecordType::DS if *asked == victim.domain => {
                found(victim.planted.signed(vec![victim.planted.ds(asked, asked)]))
            }
            _ => planted_mx(victim, asked, kind),
        }),
        Row {
            below: "www.",
            ..forged("v-alias", |_, victim, asked, kind| {
                let is_alias = kind == RecordType::MX && *asked != victim.domain;
                is_alias.then(|| found(vec![mx(asked, "mx.evil.test")]))?
            })
        },
    ]
}

/// Denials by other zones, or by half of the zone's.
fn denial_rows() -> Vec<Row> {
    vec![
        forged("v-foreign-nsec", |tree, victim, asked, kind| {
            let is_it = kind == RecordType::MX && *asked == victim.domain;
            let next = name("x").append_domain(asked).unwrap();
            is_it
                .then(|| nothing(ResponseCode::NoError, vec![tree.evil.nsec(&tree.evil.zone, &next, &[])]))?
        }),
        forged("v-foreign-nsec-tlsa", |tree, victim, asked, kind| {
            let next = name("x").append_domain(asked).unwrap();
            let denial = vec![tree.evil.nsec(&tree.evil.zone, &next, &[]), vec![soa(&victim.domain)]];
            (*asked == victim.tlsa && kind == RecordType::TLSA)
                .then(|| nothing(ResponseCode::NoError, denial))?
        }),
        // Beside what the victim's zone really says of where it begins.
        forged("v-foreign-nsec-soa", |tree, victim, asked, kind| {
            let next = name("x").append_domain(asked).unwrap();
            let denial = vec![tree.evil.nsec(&tree.evil.zone, &next, &[]), victim.key.soa()];
            (*asked == victim.tlsa && kind == RecordType::TLSA)
                .then(|| nothing(ResponseCode::NoError, denial))?
        }),
        // RFC 6840 §4.1: what the parent says of a delegation is nothing about its mail.
        forged("v-parent-nsec", |tree, victim, asked, kind| {
            let next = name("x").append_domain(&tree.test.zone).unwrap();
            let types = [RecordType::NS, RecordType::DS, RecordType::RRSIG, RecordType::NSEC];
            let denial = vec![tree.test.nsec(asked, &next, &types), tree.test.soa()];
            (*asked == victim.domain && kind == RecordType::MX)
                .then(|| nothing(ResponseCode::NoError, denial))?
        }),
        // Opt-out is said of names right below the zone: its hashes cover every name that there is.
        forged("v-opt-out", |tree, victim, asked, kind| match kind {
            _ if *asked != victim.host => None,
            RecordType::DS => nothing(
                ResponseCode::NoError,
                vec![tree.test.soa(), tree.test.nsec3(&[0; 20], &[255; 20], true)],
            ),
            RecordType::NS => found(vec![record(asked, RData::NS(NS(name("ns.evil.test"))))]),
            RecordType::A => found(vec![record(asked, RData::A(tree.attacker))]),
            _ => None,
        }),
    ]
}

/// Wildcards: TLSA records of all names below the host are at `*.mx`.
fn wildcard_rows() -> Vec<Row> {
    vec![
        honest("v-wildcard", "dane", |tree, victim, asked, kind| {
            let is_it = kind == RecordType::TLSA && *asked == victim.tlsa;
            is_it.then(|| {
                let labels = victim.host.num_labels();
                let set = vec![record(asked, RData::TLSA(tree.data.clone()))];
                (ResponseCode::NoError, victim.key.signed_as(set, labels), wildcard_nsec(victim))
            })
        }),
        // Without its SOA record a zone's NSEC records say nothing of wildcards.
        forged("v-wildcard-denied", |_, victim, asked, kind| {
            let denial = vec![wildcard_nsec(victim)];
            (*asked == victim.tlsa && kind == RecordType::TLSA)
                .then(|| nothing(ResponseCode::NXDomain, denial))?
        }),
        // `*.v-….test` is an alias to somebody without DNSSEC, which is not for names below the host.
        forged("v-wildcard-too-high", |_, victim, asked, kind| {
            if kind == RecordType::DS && *asked == victim.tlsa {
                return nothing(ResponseCode::NoError, Vec::new());
            }
            let is_it = matches!(kind, RecordType::TLSA | RecordType::CNAME) && *asked == victim.tlsa;
            is_it.then(|| {
                let alias = vec![cname(asked, &name("open.test"))];
                let key = &victim.key;
                let mut answers =
                    victim.planted.signed_as(alias.clone(), asked.num_labels() - 1).split_off(1);
                answers.extend(key.signed_as(alias, victim.domain.num_labels()));
                let hash = Nsec3HashAlgorithm::SHA1.hash(&[], asked, 0).unwrap().as_ref().to_vec();
                let (mut first, mut last) = (hash.clone(), hash);
                (first[19], last[19]) = (first[19].wrapping_sub(1), last[19].wrapping_add(1));
                let authorities = [key.nsec3(&first, &last, false), key.soa()].concat();
                (ResponseCode::NoError, answers, authorities)
            })
        }),
    ]
}

/// From the last name of the zone to its first.
fn wildcard_nsec(victim: &Victim) -> Vec<Record> {
    let wildcard = name("*").append_domain(&victim.host).unwrap();
    victim.key.nsec(&wildcard, &victim.domain, &[RecordType::TLSA, RecordType::RRSIG, RecordType::NSEC])
}

fn honest_rows() -> Vec<Row> {
    vec![
        honest("v-plain", "dane", |_, _, _, _| None),
        Row { below: "www.", ..honest("v-www", "dane", |_, _, _, _| None) },
        // Its own DS record is of an algorithm that nobody knows (RFC 4035 §5.2).
        honest("v-unknown", "none", |tree, victim, asked, kind| {
            let is_it = kind == RecordType::DS && *asked == victim.domain;
            is_it.then(|| found(tree.test.signed(vec![unknown_ds(asked)])))?
        }),
    ]
}

#[test]
fn nothing_that_another_zone_signed_makes_mail_theirs() {
    let signer = Arc::new(Signer::new(1));
    let own = Certificate::by_authority(&[], true, false);
    let mut world = World::signed(&signer);
    let (attacker_at, honest_at) = (world.address("attacker.test"), world.address("honest.test"));
    let address = |at: std::net::SocketAddr| match at.ip() {
        std::net::IpAddr::V4(v4) => A(v4),
        std::net::IpAddr::V6(_) => unreachable!("loopback"),
    };
    let rows =
        [honest_rows(), dname::rows(), wildcard_rows(), key_rows(), denial_rows()].into_iter().flatten();
    let victims = rows.map(|row| {
        let victim = Victim::new(&format!("{}.test", row.name));
        (row, victim)
    });
    let tree = Arc::new(Tree {
        root: Arc::clone(&signer),
        test: Key::new("test"),
        evil: Key::new("evil.test"),
        victims: victims.collect(),
        attacker: address(attacker_at),
        honest: address(honest_at),
        data: TLSA::new(3.into(), 1.into(), 1.into(), own.tlsa((3, 1, 1))),
    });
    let answers = Arc::clone(&tree);
    world.zone(|zone| zone.scripted(Arc::new(move |asked, kind| answers.answer(asked, kind))));
    let attacker = FakeMx::start_at(attacker_at, vec![Script::new()]);
    let honest = FakeMx::start_at(honest_at, vec![Script::new().tls(&own)]);
    let relay = world.relay(Config::new().set("dns.timeout", "\"20s\""));
    let to: Vec<(String, &str, Option<&str>)> = tree
        .victims
        .iter()
        .map(|(row, victim)| {
            let domain = format!("{}{}", row.below, victim.domain.to_ascii().trim_end_matches('.'));
            (domain, row.name, row.delivered)
        })
        .chain([("open.test".to_owned(), "open", Some("none"))])
        .collect();
    for (domain, ..) in &to {
        relay.submit("app@sender.test", &[&format!("you@{domain}")], b"Subject: secret\r\n\r\nsecret\r\n");
    }
    relay.wait_until("an attempt for each", Duration::from_secs(60), |db| {
        let attempted = db.number("SELECT count(DISTINCT recipient_id) FROM attempts", []);
        (attempted >= to.len() as i64).then_some(())
    });
    let mut wrong = Vec::new();
    for (domain, name, delivered) in &to {
        let attempt = relay.db().row(
            "SELECT outcome, tls_policy, reply FROM attempts WHERE recipient_id IN (
                 SELECT id FROM recipients WHERE domain = ?1
                 UNION SELECT recipient_id FROM history WHERE address = 'you@' || ?1) ORDER BY id LIMIT 1",
            [domain],
        );
        let attempt = attempt.unwrap_or_default();
        let wanted = delivered.map_or("deferred|".to_owned(), |policy| format!("delivered|{policy}|"));
        if !attempt.starts_with(&wanted) {
            wrong.push(format!("{name}: {wanted} was wanted, not {attempt}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let seen = attacker.seen();
    assert!(attacker.messages().is_empty());
    assert!(!seen.iter().any(|one| one.commands.iter().any(|line| line.starts_with("MAIL"))), "{seen:?}");
    assert_eq!(honest.messages().len(), to.iter().filter(|(_, _, delivered)| delivered.is_some()).count());
}

/// Each signature asks for the keys of its zone, whose signatures ask for those of the zone above.
#[test]
fn signatures_upon_signatures_cost_no_more_than_so_much() {
    const DEEP: usize = 7;
    const JUNK: usize = 8;
    let signer = Arc::new(Signer::new(1));
    let mut zones = vec![Name::root()];
    for _ in 0..DEEP {
        zones.push(name("z").append_domain(zones.last().unwrap()).unwrap());
    }
    let keys: Vec<Key> = zones[1..].iter().map(|zone| Key::new(&zone.to_ascii())).collect();
    let last = zones[DEEP].clone();
    let root = Arc::clone(&signer);
    let answers = move |asked: &Name, kind: RecordType| {
        let by_root = |set: Vec<Record>| {
            let signatures = root.signatures(&set, |_, _| Signing::Good);
            found(set.into_iter().chain(signatures).collect())
        };
        let depth = usize::from(asked.num_labels());
        let (set, by) = match kind {
            RecordType::DNSKEY if depth == 0 => return by_root(root.dnskeys()),
            RecordType::DS if depth == 1 => return by_root(vec![keys[0].ds(asked, asked)]),
            RecordType::DS => (keys[depth - 1].ds(asked, asked), depth - 2),
            RecordType::DNSKEY => (keys[depth - 1].dnskey(), depth - 1),
            RecordType::MX => (mx(asked, "mx.evil.test"), depth - 1),
            _ => return nothing(ResponseCode::NoError, Vec::new()),
        };
        // Of a key that is not among the zone's.
        let planted = Key::new(&keys[by].zone.to_ascii());
        let junk = (0..JUNK).flat_map(|_| planted.signed(vec![set.clone()]).split_off(1));
        found([vec![set.clone()], junk.collect(), keys[by].signed(vec![set.clone()]).split_off(1)].concat())
    };
    let server = DnsServer::start(Zone::new().scripted(Arc::new(answers))).unwrap();
    let anchor = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchor.path(), signer.anchor()).unwrap();
    let resolver = Resolver::new(&DnsSettings {
        servers: vec![server.address().into()],
        timeout: Duration::from_secs(60),
        trust_anchor: Some(anchor.path().to_owned()),
    })
    .unwrap();
    let began = Instant::now();
    let found = resolver.mx_validated(last.to_ascii().trim_end_matches('.'));
    assert!(found.is_err() && began.elapsed() < Duration::from_secs(20), "{found:?} {:?}", began.elapsed());
}
