//! DNS lookups: the only file that knows hickory and tokio.
//!
//! A lookup blocks its thread and ends within `[dns] timeout`, whatever the servers do. hickory's runtime has one
//! thread; lookups of many threads run at the same time, so that a silent domain delays only its own mail.
//!
//! Names are absolute (no search domains) and come from DNS alone. `/etc/hosts` is not read, neither for MX hosts
//! (a `127.0.1.1 myname` line would turn mail back to this machine) nor for relays (Postfix does the same): a fixed
//! address is written as a literal. Names below `localhost` are loopback and names below `invalid` do not exist, both
//! without a query (RFC 6761 §6.3, §6.4). CNAMEs are followed, eight deep. Queries use EDNS, a truncated answer is
//! queried again over TCP, and the case of names does not matter (RFC 4343). Answers are cached for their TTL and at
//! most a day, negative answers (RFC 2308) for at most an hour.
//!
//! An empty answer without an SOA record proves nothing: lame servers give it, and servers that failed to follow a
//! CNAME. It is enough to try the domain's own addresses instead of MX hosts, and not enough to bounce mail.
//!
//! # Bugs
//! `/etc/resolv.conf` is read once, when the resolver is made. The scope of a link-local server
//! address (`fe80::1%eth0`) is not kept.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::config::DnsSettings;
use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords};

/// Cached answers of all types together; the least used go first.
const CACHED_ANSWERS_MAX: u64 = 8192;
/// Cached answers that DNSSEC proved, with the keys for them.
const PROVED_ANSWERS_MAX: u64 = 512;
/// MX records kept of one domain, the best.
const MX_KEPT_MAX: usize = 100;
/// Addresses kept of one host and family.
const ADDRESSES_KEPT_MAX: usize = 64;
/// Aliases followed in one answer; hickory follows no more than eight from answer to answer.
const ALIASES_MAX: usize = 16;
/// RFC 2308 §5 finds one to three hours sensible; mail to a domain that was just repaired should not wait longer.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// Queries at the same time over one connection to a server.
const QUESTIONS_PER_CONNECTION_MAX: usize = 1024;

/// Queries the servers of `[dns]` for all threads.
pub struct Resolver {
    servers: Arc<Servers>,
    runtime: Handle,
    /// Ends the runtime's thread.
    stop: AbortHandle,
    thread: Option<JoinHandle<()>>,
}

struct Servers {
    addresses: Vec<SocketAddr>,
    /// Two servers at a time, quick ones first.
    all: TokioResolver,
    /// One resolver for each server, if there are several. hickory ends a query at the first server that refuses it,
    /// so a lame server beside a good one would fail every lookup; resolv.conf(5) goes on to the next server.
    each: Vec<TokioResolver>,
    /// Validates DNSSEC signatures up to the root.
    proving: TokioResolver,
    timeout: Duration,
}

impl Resolver {
    /// Starts the resolver's thread, without a query.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn new(settings: &DnsSettings) -> io::Result<Resolver> {
        let servers = if settings.servers.is_empty() {
            system_servers()
        } else {
            settings.servers.iter().map(|&address| server_at(address)).collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let servers = {
            let _context = runtime.enter();
            Arc::new(Servers::new(servers, settings.timeout).map_err(io::Error::other)?)
        };
        // The runtime runs as long as this task, which ends when the resolver is dropped.
        let life = runtime.spawn(std::future::pending::<()>());
        let (handle, stop) = (runtime.handle().clone(), life.abort_handle());
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
            let _ = runtime.block_on(life);
        })?;
        Ok(Resolver { servers, runtime: handle, stop, thread: Some(thread) })
    }

    /// The addresses of the servers, for people to read.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers.addresses
    }

    /// The MX records of a domain, as [`Lookup::mx`].
    ///
    /// # Errors
    /// As there, after `[dns] timeout` at the latest.
    pub fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError> {
        Lookup::mx(self, domain).map(|records| records.hosts)
    }

    /// The A and AAAA records of a host, queried at the same time.
    ///
    /// # Errors
    /// As [`Lookup::addresses`], after `[dns] timeout` at the latest.
    pub fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        Lookup::addresses(self, &[host]).remove(0)
    }

    /// Blocks this thread until `lookup` is done; none when the runtime is gone.
    fn wait<T: Send + 'static>(&self, lookup: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut lookup = Box::pin(lookup);
        {
            // An answer from the cache is ready at the first poll and needs no other thread. On a busy relay nearly
            // all answers are.
            let _context = self.runtime.enter();
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(answer) = lookup.as_mut().poll(&mut nobody) {
                return Some(answer);
            }
        }
        let (answer, answered) = crossbeam_channel::bounded(1);
        self.runtime.spawn(async move {
            let _ = answer.send(lookup.await);
        });
        answered.recv().ok()
    }
}

const STOPPED: &str = "the resolver has stopped";

impl Lookup for Resolver {
    fn mx(&self, domain: &str) -> Result<MxRecords, DnsError> {
        let (servers, name) = (Arc::clone(&self.servers), domain.to_owned());
        self.wait(async move { servers.mx(&name).await })
            .unwrap_or_else(|| Err(DnsError::Temporary(STOPPED.to_owned())))
    }

    fn mx_with_proof(&self, domain: &str) -> Result<MxRecords, DnsError> {
        let (servers, name) = (Arc::clone(&self.servers), domain.to_owned());
        self.wait(async move { servers.mx_with_proof(&name).await })
            .unwrap_or_else(|| Err(DnsError::Temporary(STOPPED.to_owned())))
    }

    /// All hosts at the same time: `[dns] timeout` holds for them together.
    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        let servers = Arc::clone(&self.servers);
        let names: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        self.wait(async move { all(names.iter().map(|name| servers.addresses(name))).await })
            .unwrap_or_else(|| vec![Err(DnsError::Temporary(STOPPED.to_owned())); hosts.len()])
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.abort();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Servers {
    fn new(servers: Vec<NameServerConfig>, timeout: Duration) -> Result<Servers, NetError> {
        let mut options = ResolverOpts::default();
        // Half of the time for the first try, so that the second can reach other servers. hickory resends a lost UDP
        // packet well before that.
        (options.timeout, options.attempts) = (timeout / 2, 1);
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = CACHED_ANSWERS_MAX;
        options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        options.max_active_requests = QUESTIONS_PER_CONNECTION_MAX;
        let of = |servers: Vec<NameServerConfig>, options: &ResolverOpts| {
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            )
            .with_options(options.clone())
            .build()
        };
        let each = if servers.len() > 1 {
            let mut once = options.clone();
            once.attempts = 0;
            servers.iter().map(|server| of(vec![server.clone()], &once)).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        let address = |server: &NameServerConfig| {
            SocketAddr::new(server.ip, server.connections.first().map_or(53, |connection| connection.port))
        };
        let mut proving = options.clone();
        (proving.validate, proving.cache_size) = (true, PROVED_ANSWERS_MAX);
        Ok(Servers {
            proving: of(servers.clone(), &proving)?,
            addresses: servers.iter().map(address).collect(),
            all: of(servers, &options)?,
            each,
            timeout,
        })
    }

    async fn mx(&self, domain: &str) -> Result<MxRecords, DnsError> {
        let lookup = self.ask(domain, RecordType::MX).await;
        lookup
            .map(|records| mx_records(&records))
            .map_err(|error| if error == bare() { DnsError::NoData } else { error })
    }

    /// One answer gives the records and their proof.
    async fn mx_with_proof(&self, domain: &str) -> Result<MxRecords, DnsError> {
        let name = absolute(domain).ok_or(DnsError::NoSuchDomain)?;
        match tokio::time::timeout(self.timeout, self.proving.lookup(name.clone(), RecordType::MX)).await {
            Ok(Ok(lookup)) => match records_of(&name, RecordType::MX, lookup.answers()) {
                records if records.is_empty() => Err(DnsError::NoData),
                records => Ok(mx_records(&records)),
            },
            // Nothing proves these records, and whoever uses them is told so. That there are none needs no proof: the
            // domain's own name is left then, and its certificate.
            Ok(Err(NetError::Dns(Refusal::Nsec { .. } | Refusal::DnssecBogus))) => {
                self.mx(domain).await.map(|records| MxRecords { proved: false, ..records })
            }
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(DnsError::Temporary(format!("no answer within {:?}", self.timeout))),
        }
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let families = [RecordType::A, RecordType::AAAA].map(|kind| self.ask(host, kind));
        let mut found = Vec::new();
        let mut worst = DnsError::NoSuchDomain;
        for family in all(families).await {
            match (family, &worst) {
                (Ok(records), _) => {
                    found.extend(records.iter().filter_map(address_of).take(ADDRESSES_KEPT_MAX))
                }
                // Some servers answer NXDOMAIN for an address family without records: both answers must agree.
                (Err(DnsError::NoData), DnsError::NoSuchDomain) => worst = DnsError::NoData,
                (Err(error @ DnsError::Temporary(_)), _) => worst = error,
                (Err(_), _) => {}
            }
        }
        if found.is_empty() { Err(worst) } else { Ok(found) }
    }

    /// One query within the time-out: the records of that type and the aliases that led to them. Never an empty list.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, DnsError> {
        let name = absolute(name).ok_or(DnsError::NoSuchDomain)?;
        let answer = tokio::time::timeout(self.timeout, async {
            let mut answer = self.all.lookup(name.clone(), kind).await;
            for server in &self.each {
                if !matches!(answer, Err(NetError::Dns(Refusal::ResponseCode(_)))) {
                    break;
                }
                answer = server.lookup(name.clone(), kind).await;
            }
            answer
        });
        let lookup = match answer.await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return Err(meaning(&error)),
            Err(_) => return Err(DnsError::Temporary(format!("no answer within {:?}", self.timeout))),
        };
        let found = records_of(&name, kind, lookup.answers());
        if found.is_empty() { Err(bare()) } else { Ok(found) }
    }
}

/// The records of `kind` that an answer has for `name`, with the aliases that led to them (RFC 1034 §3.6.2). Records of
/// other names are none of it, however well they are signed. Without records of `kind` it is empty.
fn records_of(name: &Name, kind: RecordType, answers: &[Record]) -> Vec<Record> {
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
    MxRecords { hosts, cut, proved: records.iter().all(|record| record.proof.is_secure()) }
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
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

fn host_text(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some(host) if !host.is_empty() => host.to_owned(),
        _ => text,
    }
}

fn server_at(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// The servers of `/etc/resolv.conf`; its time-outs and search domains are ignored.
fn system_servers() -> Vec<NameServerConfig> {
    match read_system_conf() {
        Ok((config, _)) if !config.name_servers().is_empty() => config.name_servers().to_vec(),
        // resolv.conf(5): without the file, or a server in it, the server on this machine is used.
        other => {
            let why = other.err().map_or_else(|| "no nameserver in it".to_owned(), |error| error.to_string());
            log::warn!("/etc/resolv.conf: {why}; asking 127.0.0.1. [dns] servers names others.");
            vec![server_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))]
        }
    }
}

/// Drives all futures at the same time; their results in their order.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
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
