//! Queries to the servers, and what their answers mean. hickory is at home here.
//!
//! Names are absolute (no search domains). Names below `localhost` are loopback and names below `invalid` do not
//! exist, both without a query (RFC 6761 §6.3, §6.4). CNAMEs are followed, eight deep. A truncated answer is queried
//! again over TCP, and the case of names does not matter (RFC 4343). Queries use EDNS; one that was not understood
//! (FORMERR, NOTIMP) or not answered is asked once more without (RFC 6891 §6.2.2, §7), and of all servers, since some
//! servers and firewalls drop what they do not know, and some servers are down.
//!
//! An empty answer without an SOA record proves nothing: lame servers give it, and servers that failed to follow a
//! CNAME. It is enough to try the domain's own addresses instead of MX hosts, and not enough to bounce mail.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::cache::{
    ADDRESSES_KEPT_MAX, Answer, FAILURE_TTL, Found, Kind, MX_KEPT_MAX, NAMES_KEPT_MAX, Question,
    TXT_BYTES_MAX,
};
use super::kept_keys::KeptKeys;
use super::proof::is_settled;
use super::prover::Prover;
use super::scope::Provider;
use crate::delivery::route::lookup::{DnsError, MxRecords};

/// Queries at the same time over one connection to a server.
const QUESTIONS_PER_CONNECTION_MAX: usize = 1024;
/// Aliases followed in one answer; hickory follows no more than eight from answer to answer.
pub(super) const ALIASES_MAX: usize = 16;
/// A failure that took longer is kept for a while. One that came quickly costs nothing, and may be over at once.
const SLOW: Duration = Duration::from_millis(500);

pub(super) type Resolver = hickory_resolver::Resolver<Provider>;

/// An answer, or why there is none.
pub(super) type Heard = Result<Message, NetError>;

/// The servers that are asked now.
pub(super) struct Servers {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) timeout: Duration,
    /// Two servers at a time, quick ones first.
    all: Resolver,
    /// One resolver for each server, if there are several. hickory ends a query at the first server that refuses it,
    /// so a lame server beside a good one would fail every lookup; resolv.conf(5) goes on to the next server.
    each: Vec<Resolver>,
    /// All servers at a time.
    pub(super) without_edns: Resolver,
    /// Validate DNSSEC signatures up to the root: one with all servers, and one with each as above.
    pub(super) provers: Vec<Prover>,
    pub(super) keys: Arc<KeptKeys>,
}

impl Servers {
    /// Within the runtime that they are to live in. No query is sent. Without addresses every answer is an error.
    pub(super) fn new(
        addresses: Vec<SocketAddr>,
        timeout: Duration,
        trust_anchor: Option<&Path>,
    ) -> io::Result<Servers> {
        let anchors = trust_anchor.map(TrustAnchors::from_file).transpose().map_err(io::Error::other)?;
        let anchors = Arc::new(anchors.unwrap_or_default());
        let (options, keys) = (options(timeout), Arc::default());
        let each: Vec<Resolver> = match addresses.as_slice() {
            [_] => Vec::new(),
            several => several
                .iter()
                .map(|server| resolver(&[*server], options.clone()))
                .collect::<io::Result<_>>()?,
        };
        let mut plain = options.clone();
        // hickory sets out with two servers in any order, and has no time for a third after two silent ones: this
        // second try is for all of them.
        (plain.edns0, plain.num_concurrent_reqs) = (false, addresses.len().max(1));
        Ok(Servers {
            all: resolver(&addresses, options.clone())?,
            each,
            without_edns: resolver(&addresses, plain)?,
            provers: provers(&addresses, &options, &anchors, &keys)?,
            keys,
            timeout,
            addresses,
        })
    }

    /// The answers to all of them, asked at the same time, and for how long each may be kept.
    pub(super) async fn answers(&self, questions: &[Question]) -> Vec<(Answer, Duration)> {
        all(questions.iter().map(|question| self.answer(question))).await
    }

    /// Within the time-out.
    async fn answer(&self, question: &Question) -> (Answer, Duration) {
        let Some(name) = absolute(&question.name) else {
            return (Err(DnsError::NoSuchDomain), Duration::ZERO);
        };
        let asked = async {
            match question.kind {
                Kind::Mx => mx_of(&name, self.query(&name, RecordType::MX).await),
                Kind::MxWithProof => self.mx_with_proof(&name).await,
                Kind::V4 => addresses_found(self.of_query(&name, RecordType::A).await),
                Kind::V6 => addresses_found(self.of_query(&name, RecordType::AAAA).await),
                Kind::V4Validated => addresses_found(self.validated(&name, RecordType::A).await),
                Kind::V6Validated => addresses_found(self.validated(&name, RecordType::AAAA).await),
                Kind::Ptr => names_of(&name, self.query(&name, RecordType::PTR).await),
                Kind::Alias => self.end_of_aliases(&name).await,
                Kind::MxValidated => self.mx_validated(&name).await,
                Kind::Tlsa => self.tlsa(&name).await,
                Kind::Txt => texts_of(&name, self.query(&name, RecordType::TXT).await),
            }
        };
        let began = Instant::now();
        let (answer, ttl) = tokio::time::timeout(self.timeout, asked).await.unwrap_or_else(|_| {
            (Err(DnsError::Temporary(format!("no answer within {:?}", self.timeout))), Duration::ZERO)
        });
        let ttl = match &answer {
            Err(DnsError::Temporary(_) | DnsError::Bogus(_)) if began.elapsed() >= SLOW => FAILURE_TTL,
            Err(DnsError::Temporary(_) | DnsError::Bogus(_)) => Duration::ZERO,
            _ => ttl,
        };
        (answer, ttl)
    }

    pub(super) async fn query(&self, name: &Name, kind: RecordType) -> Heard {
        let mut answer = self.all.lookup(name.clone(), kind).await;
        for server in &self.each {
            if !matches!(answer, Err(NetError::Dns(Refusal::ResponseCode(_)))) {
                break;
            }
            answer = server.lookup(name.clone(), kind).await;
        }
        match &answer {
            Err(error) if may_be_for_edns(error) => {
                let plain = self.without_edns.lookup(name.clone(), kind).await;
                // What the server said the first time says more than that it is silent now.
                if matches!(&plain, Err(error) if may_be_for_edns(error)) { answer } else { plain }
            }
            _ => answer,
        }
        .map(|found| found.message().clone())
    }

    pub(super) async fn of_query(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Records, (DnsError, Duration)> {
        records_of(name, kind, self.query(name, kind).await)
    }

    /// By the CNAME records alone: at the end there may be nothing yet.
    async fn end_of_aliases(&self, name: &Name) -> (Answer, Duration) {
        let (mut end, mut ttl) = (name.clone(), Duration::MAX);
        for _ in 0..ALIASES_MAX {
            let target = match self.of_query(&end, RecordType::CNAME).await {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    found.records.into_iter().find_map(|record| match record.data {
                        RData::CNAME(target) => Some(target.0),
                        _ => None,
                    })
                }
                Err((error, ttl)) if end == *name => return (Err(error), ttl),
                Err(_) => None,
            };
            match target {
                Some(target) => end = target,
                None => return (Ok(Found::Names(vec![host_text(&end)])), ttl),
            }
        }
        (Err(DnsError::Temporary("its aliases lead to no end".to_owned())), Duration::ZERO)
    }

    /// One answer gives the records and their proof.
    async fn mx_with_proof(&self, name: &Name) -> (Answer, Duration) {
        let heard = tokio::time::timeout(self.timeout / 2, self.with_proof(name, RecordType::MX)).await;
        match heard {
            Ok(heard) if is_settled(name, RecordType::MX, &heard) => mx_of(name, heard),
            // Nothing proves these records, and whoever uses them is told so. That there are none needs no proof: the
            // domain's own name is left then, and its certificate.
            _ => mx_of(name, self.query(name, RecordType::MX).await),
        }
    }
}

fn options(timeout: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Half of the time for the first try, so that a second can follow. hickory resends a lost UDP packet well before.
    (options.timeout, options.attempts) = (timeout / 2, 0);
    options.use_hosts_file = ResolveHosts::Never;
    // `cache.rs` keeps answers, and counts their bytes.
    options.cache_size = 0;
    options.max_active_requests = QUESTIONS_PER_CONNECTION_MAX;
    // The way by aliases belongs to the answer, and to its proof.
    options.preserve_intermediates = true;
    options
}

fn provers(
    servers: &[SocketAddr],
    options: &ResolverOpts,
    anchors: &Arc<TrustAnchors>,
    keys: &Arc<KeptKeys>,
) -> io::Result<Vec<Prover>> {
    let each = servers.chunks(1).filter(|_| servers.len() > 1);
    let made = std::iter::once(servers).chain(each);
    made.map(|servers| Prover::new(servers, options.clone(), anchors, keys)).collect()
}

fn resolver(servers: &[SocketAddr], options: ResolverOpts) -> io::Result<Resolver> {
    let config = ResolverConfig::from_name_servers(servers.iter().map(|server| server_at(*server)).collect());
    let builder = Resolver::builder_with_config(config, Provider::new(servers)).with_options(options);
    builder.build().map_err(io::Error::other)
}

pub(super) fn server_at(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Whether a server may have failed at EDNS, or a firewall before it: it says that it does not understand, or nothing.
fn may_be_for_edns(error: &NetError) -> bool {
    match error {
        NetError::Dns(Refusal::ResponseCode(code)) => {
            matches!(code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
        }
        NetError::Dns(_) => false,
        _ => true,
    }
}

fn mx_of(name: &Name, answer: Heard) -> (Answer, Duration) {
    mx_found(records_of(name, RecordType::MX, answer))
}

pub(super) fn mx_found(found: Result<Records, (DnsError, Duration)>) -> (Answer, Duration) {
    match found {
        Ok(Records { records, ttl }) => (Ok(Found::Mx(mx_records(&records))), ttl),
        Err((error, _)) if error == bare() => (Err(DnsError::NoData), Duration::ZERO),
        Err((error, ttl)) => (Err(error), ttl),
    }
}

fn addresses_found(found: Result<Records, (DnsError, Duration)>) -> (Answer, Duration) {
    match found {
        Ok(Records { records, ttl }) => {
            let addresses = records.iter().filter_map(address_of).take(ADDRESSES_KEPT_MAX).collect();
            (Ok(Found::Addresses(addresses)), ttl)
        }
        Err((error, ttl)) => (Err(error), ttl),
    }
}

fn texts_of(name: &Name, answer: Heard) -> (Answer, Duration) {
    let Records { records, ttl } = match records_of(name, RecordType::TXT, answer) {
        Ok(records) => records,
        Err((error, ttl)) => return (Err(error), ttl),
    };
    let texts: Vec<String> = records.iter().filter_map(text_of).collect();
    if texts.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>() > TXT_BYTES_MAX {
        let why = format!("the name has more than {} KiB of TXT records", TXT_BYTES_MAX >> 10);
        return (Err(DnsError::Temporary(why)), ttl);
    }
    (Ok(Found::Texts(texts)), ttl)
}

fn names_of(name: &Name, answer: Heard) -> (Answer, Duration) {
    match records_of(name, RecordType::PTR, answer) {
        Ok(Records { records, ttl }) => {
            let names = records.iter().filter_map(|record| match &record.data {
                RData::PTR(ptr) => Some(host_text(&ptr.0)),
                _ => None,
            });
            (Ok(Found::Names(names.take(NAMES_KEPT_MAX).collect())), ttl)
        }
        Err((error, ttl)) => (Err(error), ttl),
    }
}

/// Records of one type, with the aliases that led to them, and how long they hold; never none.
pub(super) struct Records {
    pub(super) records: Vec<Record>,
    pub(super) ttl: Duration,
}

/// The records of `kind` that an answer has for `name`.
pub(super) fn records_of(
    name: &Name,
    kind: RecordType,
    answer: Heard,
) -> Result<Records, (DnsError, Duration)> {
    let found = answer.map_err(|error| (meaning(&error), negative_ttl(&error)))?;
    let records = on_the_way(name, kind, &found.answers);
    match records.iter().map(|record| record.ttl).min() {
        Some(ttl) => Ok(Records { records, ttl: Duration::from_secs(ttl.into()) }),
        None => Err((bare(), Duration::ZERO)),
    }
}

/// The records of `kind` for `name`, with the aliases that led to them (RFC 1034 §3.6.2). Records of other names are
/// none of it, however well they are signed. Without records of `kind` it is empty.
pub(super) fn on_the_way(name: &Name, kind: RecordType, answers: &[Record]) -> Vec<Record> {
    let at = |owner: &Name, kind: RecordType| {
        let owner = owner.clone();
        answers.iter().filter(move |record| record.record_type() == kind && record.name == owner)
    };
    let (mut owner, mut way) = (name.clone(), Vec::new());
    loop {
        let mut found = at(&owner, kind).cloned().peekable();
        if found.peek().is_some() {
            way.extend(found);
            return way;
        }
        match at(&owner, RecordType::CNAME).next().map(|record| (record, &record.data)) {
            Some((record, RData::CNAME(target))) if way.len() < ALIASES_MAX => {
                owner = target.0.clone();
                way.push(record.clone());
            }
            _ => return Vec::new(),
        }
    }
}

/// The best [`MX_KEPT_MAX`] of them. A record is proved by any signature that holds over its set (a key that is being
/// replaced leaves two): what hickory thinks of each record counts, not of each signature.
fn mx_records(records: &[Record]) -> MxRecords {
    let mut hosts: Vec<(u16, String)> = records
        .iter()
        .filter_map(|record| match &record.data {
            RData::MX(mx) => Some((mx.preference, host_text(&mx.exchange))),
            _ => None,
        })
        .collect();
    let cut = hosts.len() > MX_KEPT_MAX;
    if cut {
        hosts.sort_by_key(|(preference, _)| *preference);
        hosts.truncate(MX_KEPT_MAX);
    }
    let proved = records.iter().all(|record| record.proof.is_secure());
    let alias = records.first().filter(|record| proved && record.record_type() == RecordType::CNAME);
    let owner = alias.and(records.last()).map(|record| host_text(&record.name));
    MxRecords { hosts, cut, proved, owner }
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    }
}

/// The strings of a TXT record joined.
fn text_of(record: &Record) -> Option<String> {
    match &record.data {
        RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
        _ => None,
    }
}

/// NOERROR, no records and no SOA (RFC 2308 §2.2 calls it NODATA type 3).
fn bare() -> DnsError {
    DnsError::Temporary("the DNS server answered without records and without an SOA record".to_owned())
}

/// What hickory's error means for the name. Only NXDOMAIN and an empty answer with an SOA record are answers.
fn meaning(error: &NetError) -> DnsError {
    match error {
        NetError::Dns(Refusal::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => DnsError::NoSuchDomain,
            // RFC 2308 §2.2: with a referral the server says that it does not know. A recursive server should.
            ResponseCode::NoError if none.soa.is_none() && none.ns.is_some() => {
                DnsError::Temporary("the DNS server answered with a referral".to_owned())
            }
            ResponseCode::NoError if none.soa.is_none() => bare(),
            ResponseCode::NoError => DnsError::NoData,
            other => DnsError::Temporary(format!("the DNS server answered {}", code_text(other))),
        },
        NetError::Dns(Refusal::ResponseCode(code)) => {
            DnsError::Temporary(format!("the DNS server answered {}", code_text(*code)))
        }
        NetError::Timeout => DnsError::Temporary("the DNS server did not answer in time".to_owned()),
        other => DnsError::Temporary(format!("the DNS server could not be asked: {other}")),
    }
}

fn code_text(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => format!("code {} ({other})", u16::from(other)),
    }
}

/// None for what cannot be a name.
fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok().filter(|name| name.iter().next().is_some())?;
    name.set_fqdn(true);
    Some(name)
}

pub(super) fn host_text(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some(host) if !host.is_empty() => host.to_owned(),
        _ => text,
    }
}

/// How long it holds that there is nothing (RFC 2308 §5); not at all where no SOA record says so.
fn negative_ttl(error: &NetError) -> Duration {
    match error {
        NetError::Dns(Refusal::NoRecordsFound(none)) if none.soa.is_some() => {
            // hickory says nothing of it where it validates.
            let of_soa = none.soa.as_ref().map_or(0, |soa| soa.ttl.min(soa.data.minimum));
            Duration::from_secs(none.negative_ttl.unwrap_or(of_soa).into())
        }
        _ => Duration::ZERO,
    }
}

/// Drives all futures at the same time; their results in their order.
pub(super) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut waiting = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}
