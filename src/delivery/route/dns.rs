//! DNS lookups: the only room that knows hickory and tokio.
//!
//! A lookup blocks its thread and ends within `[dns] timeout`, whatever the servers do. hickory's runtime has one
//! thread; lookups of many threads run at the same time, so that a silent domain delays only its own mail.
//!
//! The servers are those of `[dns] servers`, else those of `/etc/resolv.conf`, which is looked at again every two
//! seconds, and when a lookup fails: a relay follows its machine into another network without being told. A file that
//! is gone or names nobody changes nothing.
//!
//! `/etc/hosts` is read for the relays of a `[[route]]`, whose names the operator wrote, and comes before DNS there
//! as elsewhere on the machine. It is not read for MX hosts: a `127.0.1.1 myname` line would turn mail back to this
//! machine.
//!
//! Answers are cached (`dns/cache.rs`) for their TTL and at most a day, negative answers (RFC 2308) for at most an
//! hour. A failure that took long is kept for some seconds, unless the system has other servers meanwhile.

mod cache;
mod kept_keys;
mod proof;
mod prover;
mod scope;
mod self_test;
mod servers;
mod sieve;
mod system;
mod validated;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::config::DnsSettings;
use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords, TlsaAnswer, reverse_name};
use cache::{Answer, Cache, Found, Kind, Question};
use self_test::Validation;
use servers::Servers;
use system::{Listing, NameServers, WatchedFile};
use validated::SelfTest;

/// The files that say how names are resolved.
#[derive(Debug, Clone)]
pub struct SystemFiles {
    /// resolv.conf(5), where `[dns]` names no servers.
    pub resolv_conf: PathBuf,
    /// hosts(5).
    pub hosts: PathBuf,
}

impl Default for SystemFiles {
    fn default() -> SystemFiles {
        SystemFiles { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// Queries the servers of `[dns]`, or the system's, for all threads.
pub struct Resolver {
    settings: DnsSettings,
    servers: Mutex<Arc<Servers>>,
    /// With what was wrong with it at the last look.
    listing: Mutex<(Listing, Option<String>)>,
    hosts: Mutex<(WatchedFile, HashMap<String, Vec<IpAddr>>)>,
    cache: Mutex<Cache>,
    validation: Mutex<Validation>,
    runtime: Handle,
    /// Ends the runtime's thread.
    stop: AbortHandle,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Starts the resolver's thread, without a query.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn new(settings: &DnsSettings) -> io::Result<Resolver> {
        Resolver::with_files(settings, SystemFiles::default())
    }

    /// The same, for a system that has these files.
    ///
    /// # Errors
    /// As [`Resolver::new`], and where the trust anchor cannot be read.
    pub fn with_files(settings: &DnsSettings, files: SystemFiles) -> io::Result<Resolver> {
        let mut listing = match settings.servers.as_slice() {
            [] => Listing::File(WatchedFile::new(files.resolv_conf.clone())),
            servers => Listing::Config(servers.to_vec()),
        };
        let (addresses, complaint) = first_servers(&mut listing);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let servers = {
            let _context = runtime.enter();
            Servers::new(addresses, settings.timeout, settings.trust_anchor.as_deref())?
        };
        // The runtime runs as long as this task, which ends when the resolver is dropped.
        let life = runtime.spawn(std::future::pending::<()>());
        let (handle, stop) = (runtime.handle().clone(), life.abort_handle());
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
            let _ = runtime.block_on(life);
        })?;
        Ok(Resolver {
            settings: settings.clone(),
            servers: Mutex::new(Arc::new(servers)),
            listing: Mutex::new((listing, complaint)),
            hosts: Mutex::new((WatchedFile::new(files.hosts), HashMap::new())),
            cache: Mutex::default(),
            validation: Mutex::default(),
            runtime: handle,
            stop,
            thread: Some(thread),
        })
    }

    /// The addresses of the servers that are asked now, for people to read.
    pub fn servers(&self) -> Vec<SocketAddr> {
        lock(&self.servers).addresses.clone()
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

    /// The answers in the order of the questions. Where nobody answers it may be that the system has other servers now.
    fn answers(&self, questions: &[Question]) -> Vec<Answer> {
        self.follow_system(false);
        let answers = self.ask(questions);
        let is_failure = |answer: &Answer| matches!(answer, Err(DnsError::Temporary(_) | DnsError::Bogus(_)));
        let failed = answers.iter().any(is_failure);
        if failed && questions.iter().any(|question| matches!(question.kind, Kind::MxValidated | Kind::Tlsa))
        {
            lock(&self.validation).doubt();
        }
        if failed && self.follow_system(true) { self.ask(questions) } else { answers }
    }

    /// From the cache, else from the servers, all at the same time: `[dns] timeout` holds for them together.
    fn ask(&self, questions: &[Question]) -> Vec<Answer> {
        let now = Instant::now();
        let mut answers: Vec<Option<Answer>> = {
            let mut cache = lock(&self.cache);
            questions.iter().map(|question| cache.get(question, now)).collect()
        };
        let unknown = questions.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let unknown: Arc<[Question]> = unknown.map(|(question, _)| question.clone()).collect();
        if !unknown.is_empty() {
            let servers = Arc::clone(&lock(&self.servers));
            let (here, there) = (Arc::clone(&servers), Arc::clone(&unknown));
            let found = self.wait(async move { here.answers(&there).await }).unwrap_or_default();
            let mut cache = lock(&self.cache);
            // What the servers of before said is not for those who ask the new ones.
            let is_current = Arc::ptr_eq(&servers, &lock(&self.servers));
            let places = answers.iter_mut().filter(|answer| answer.is_none());
            for (place, (question, (answer, ttl))) in places.zip(unknown.iter().zip(found)) {
                if is_current {
                    cache.insert(question.clone(), &answer, ttl, Instant::now());
                }
                *place = Some(answer);
            }
        }
        let stopped = || Err(DnsError::Temporary("the resolver has stopped".to_owned()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(stopped)).collect()
    }

    /// Blocks this thread until `lookup` is done; none when the runtime is gone.
    fn wait<T: Send + 'static>(&self, lookup: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        self.runtime.spawn(async move {
            let _ = answer.send(lookup.await);
        });
        answered.recv().ok()
    }

    /// Takes the servers that resolv.conf(5) names, or that are at the interfaces of `[dns] servers`, if they are
    /// others than before; whether they are. `now_please` looks whatever the time.
    fn follow_system(&self, now_please: bool) -> bool {
        let mut watched = lock(&self.listing);
        let (listing, last_complaint) = &mut *watched;
        let Some(NameServers { servers, complaint }) = listing.look(Instant::now(), now_please) else {
            return false;
        };
        let name = listing.name();
        if let Some(why) = complaint.as_ref().filter(|_| complaint != *last_complaint) {
            let asked = list(if servers.is_empty() { self.servers() } else { servers.clone() });
            log::warn!("{name}: {why}; asking {asked}");
        }
        *last_complaint = complaint;
        if servers.is_empty() || servers == self.servers() {
            return false;
        }
        let listed = list(servers.clone());
        let made = {
            let _context = self.runtime.enter();
            Servers::new(servers, self.settings.timeout, self.settings.trust_anchor.as_deref())
        };
        match made {
            Ok(made) => {
                let mut cache = lock(&self.cache);
                *lock(&self.servers) = Arc::new(made);
                cache.clear();
                drop(cache);
                lock(&self.validation).forget();
                log::info!("{name} changed: asking {listed}");
                true
            }
            Err(error) => {
                if let Listing::File(file) = listing {
                    file.forget();
                }
                log::warn!("{name}: {error}; asking {}", list(self.servers()));
                false
            }
        }
    }

    /// What hosts(5) says of a relay; none where it does not know the name.
    fn in_hosts(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut known = lock(&self.hosts);
        let (file, hosts) = &mut *known;
        if file.changed(Instant::now(), false) {
            *hosts = system::hosts(file.path()).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}; relays are looked up in DNS alone", file.path().display());
                }
                HashMap::new()
            });
        }
        hosts.get(name).cloned()
    }
}

/// The servers at the start, and what is wrong with the list. Without a resolv.conf(5), or a server in it, the server
/// on this machine is used, as it says there.
fn first_servers(listing: &mut Listing) -> (Vec<SocketAddr>, Option<String>) {
    let found = listing.look(Instant::now(), true);
    let (mut servers, complaint) =
        found.map_or_else(Default::default, |found| (found.servers, found.complaint));
    let local = servers.is_empty() && matches!(listing, Listing::File(_));
    if local {
        servers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
    }
    if let Some(why) = &complaint {
        let hint = if local { ". [dns] servers names others." } else { "" };
        log::warn!("{}: {why}; asking {}{hint}", listing.name(), list(servers.clone()));
    }
    (servers, complaint)
}

fn list(servers: Vec<SocketAddr>) -> String {
    if servers.is_empty() {
        return "nobody".to_owned();
    }
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two answers about a host's addresses as one.
fn both_families(v4: Answer, v6: Answer) -> Result<Vec<IpAddr>, DnsError> {
    let mut found = Vec::new();
    let mut worst = DnsError::NoSuchDomain;
    for family in [v4, v6] {
        match (family, &worst) {
            (Ok(Found::Addresses(addresses)), _) => found.extend(addresses),
            // Some servers answer NXDOMAIN for an address family without records: both answers must agree.
            (Err(DnsError::NoData), DnsError::NoSuchDomain) => worst = DnsError::NoData,
            (Err(error @ (DnsError::Temporary(_) | DnsError::Bogus(_))), _) => worst = error,
            (Ok(_) | Err(_), _) => {}
        }
    }
    if found.is_empty() { Err(worst) } else { Ok(found) }
}

impl Resolver {
    /// Whether these servers prove what they say.
    fn look(&self, servers: Arc<Servers>) -> SelfTest {
        let timeout = self.settings.timeout;
        let test = async move { tokio::time::timeout(timeout, servers.self_test()).await };
        let silent = || SelfTest::NoAnswer(format!("no answer within {timeout:?}"));
        self.wait(test).and_then(Result::ok).unwrap_or_else(silent)
    }

    /// The addresses of each host, all asked for at the same time.
    fn addresses_by(&self, hosts: &[&str], kinds: [Kind; 2]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        let questions: Vec<Question> =
            hosts.iter().flat_map(|host| kinds.map(|kind| Question::new(host, kind))).collect();
        let mut answers = self.answers(&questions).into_iter();
        let pairs = std::iter::from_fn(|| Some((answers.next()?, answers.next()?)));
        pairs.map(|(v4, v6)| both_families(v4, v6)).collect()
    }

    fn mx_records(&self, domain: &str, kind: Kind) -> Result<MxRecords, DnsError> {
        match self.answers(&[Question::new(domain, kind)]).remove(0)? {
            Found::Mx(records) => Ok(records),
            _ => Err(DnsError::NoData),
        }
    }
}

impl Lookup for Resolver {
    fn mx(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.mx_records(domain, Kind::Mx)
    }

    fn mx_with_proof(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.mx_records(domain, Kind::MxWithProof)
    }

    fn mx_validated(&self, domain: &str) -> Result<MxRecords, DnsError> {
        self.mx_records(domain, Kind::MxValidated)
    }

    fn validates(&self) -> Result<(), String> {
        self.follow_system(false);
        let mut known = lock(&self.validation);
        loop {
            let now = Instant::now();
            if !known.is_due(now) {
                return known.result();
            }
            let servers = Arc::clone(&lock(&self.servers));
            // Of servers that nobody knows yet everybody waits to hear. Later on what was known holds meanwhile.
            let found = if known.is_new() {
                self.look(Arc::clone(&servers))
            } else {
                known.begin(now);
                drop(known);
                let found = self.look(Arc::clone(&servers));
                known = lock(&self.validation);
                found
            };
            // What the servers of before prove or not says nothing of those that are asked now.
            if Arc::ptr_eq(&servers, &lock(&self.servers)) {
                known.note(found, &list(servers.addresses.clone()), now);
                return known.result();
            }
        }
    }

    fn tlsa(&self, hosts: &[&str]) -> Vec<Result<TlsaAnswer, DnsError>> {
        let questions: Vec<Question> = hosts.iter().map(|host| Question::new(host, Kind::Tlsa)).collect();
        let found = self.answers(&questions).into_iter().map(|answer| match answer? {
            Found::Tlsa(found) => Ok(found),
            _ => Err(DnsError::NoData),
        });
        found.collect()
    }

    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        self.addresses_by(hosts, [Kind::V4, Kind::V6])
    }

    fn addresses_validated(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        self.addresses_by(hosts, [Kind::V4Validated, Kind::V6Validated])
    }

    fn txt(&self, name: &str) -> Result<Vec<String>, DnsError> {
        match self.answers(&[Question::new(name, Kind::Txt)]).remove(0)? {
            Found::Texts(texts) => Ok(texts),
            _ => Err(DnsError::NoData),
        }
    }

    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, DnsError> {
        match self.answers(&[Question::new(&reverse_name(ip), Kind::Ptr)]).remove(0)? {
            Found::Names(names) => Ok(names),
            _ => Err(DnsError::NoData),
        }
    }

    fn alias(&self, name: &str) -> Result<String, DnsError> {
        match self.answers(&[Question::new(name, Kind::Alias)]).remove(0)? {
            Found::Names(names) => names.into_iter().next().ok_or(DnsError::NoData),
            _ => Err(DnsError::NoData),
        }
    }

    fn family(&self, host: &str, v6: bool) -> Result<Vec<IpAddr>, DnsError> {
        let kind = if v6 { Kind::V6 } else { Kind::V4 };
        match self.answers(&[Question::new(host, kind)]).remove(0)? {
            Found::Addresses(addresses) => Ok(addresses),
            _ => Err(DnsError::NoData),
        }
    }

    fn relay_addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        let known: Vec<Option<Vec<IpAddr>>> = hosts.iter().map(|host| self.in_hosts(host)).collect();
        let unknown: Vec<&str> =
            hosts.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(host, _)| *host).collect();
        let mut found = Lookup::addresses(self, &unknown).into_iter();
        let not_asked = || Err(DnsError::NoData);
        known
            .into_iter()
            .map(|known| known.map_or_else(|| found.next().unwrap_or_else(not_asked), Ok))
            .collect()
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
