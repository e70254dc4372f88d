//! A small DNS server on loopback: real packets over UDP and TCP from a zone that a test writes down.
//!
//! It answers as the recursive server of a provider would: CNAMEs followed, NXDOMAIN and empty answers
//! with an SOA, long answers truncated over UDP. A name may misbehave in the ways real servers do.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::task::AbortHandle;

use crate::harness::dnssec::{Answers, Reply, Script, Signer, Signing};

/// How many CNAMEs are followed for one question.
const CNAMES_MAX: usize = 8;
/// Questions remembered; later ones are answered and not counted.
const ASKED_MAX: usize = 100_000;
/// How late a slow server is: less than a resolver waits.
const LATE: Duration = Duration::from_millis(700);
/// A TCP client that says nothing is dropped after this.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Names and what is answered for them; any other name does not exist.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    /// By name in lower case; each record keeps the spelling it was given.
    records: BTreeMap<String, Vec<Record>>,
    faults: BTreeMap<String, Fault>,
    ttl_secs: u32,
    dnssec: Option<Dnssec>,
    script: Option<Script>,
}

/// What is said to those who ask for signatures, and to those who do not.
#[derive(Clone)]
struct Dnssec {
    signer: Arc<Signer>,
    /// Names that are zones of their own, without signatures.
    unsigned: Vec<Name>,
    /// Sets of records that are not signed as the others are.
    odd: BTreeMap<(String, RecordType), Signing>,
    /// Signatures, and what proves that there is nothing, are taken out on the way.
    stripped: bool,
    /// Who asks for MX records and not for signatures hears this host, as from somebody between.
    forged: Option<String>,
    /// What is said not to be there, with the SOA record of another zone that nobody signs.
    denied: BTreeMap<(String, RecordType), Name>,
    /// Who asks for signatures hears nothing.
    deaf: bool,
}

impl std::fmt::Debug for Dnssec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dnssec({:?}, {:?})", self.unsigned, self.forged)
    }
}

/// How a name misbehaves, for every type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer is SERVFAIL.
    Servfail,
    /// The answer is REFUSED.
    Refused,
    /// There is no answer.
    Silent,
    /// The answer is a referral to other servers, as a lame server gives it.
    Referral,
    /// The same, to the root's: as one that was once asked to serve all names.
    UpwardReferral,
    /// The answer is NOERROR and nothing else, not even an SOA record.
    Empty,
    /// The same for MX; other types are answered.
    EmptyMx,
    /// The answer for this type is SERVFAIL; other types are answered.
    ServfailFor(RecordType),
    /// The answer is a CNAME record that leads back to the name itself.
    OwnAlias,
    /// The answer is an A record, whatever was asked for.
    OtherType,
    /// The answer to NS is SERVFAIL; other types are answered.
    ServfailNs,
    /// The answer is as it should be, and comes after [`LATE`].
    Late,
}

impl Zone {
    /// An empty zone with a TTL of 0: nothing is cached.
    pub fn new() -> Zone {
        Zone::default()
    }

    /// The TTL of all records, and of their absence.
    #[must_use]
    pub fn ttl(mut self, secs: u32) -> Zone {
        self.ttl_secs = secs;
        self
    }

    /// An MX record; `.` as host makes a null MX.
    #[must_use]
    pub fn mx(self, name: &str, preference: u16, host: &str) -> Zone {
        self.record(name, RData::MX(MX::new(preference, absolute(host))))
    }

    /// A null MX (RFC 7505).
    #[must_use]
    pub fn null_mx(self, name: &str) -> Zone {
        self.mx(name, 0, ".")
    }

    /// An A or AAAA record.
    #[must_use]
    pub fn address(self, name: &str, ip: IpAddr) -> Zone {
        let data = match ip {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.record(name, data)
    }

    /// A CNAME record.
    #[must_use]
    pub fn cname(self, name: &str, target: &str) -> Zone {
        self.record(name, RData::CNAME(CNAME(absolute(target))))
    }

    /// A PTR record.
    #[must_use]
    pub fn ptr(self, name: &str, target: &str) -> Zone {
        self.record(name, RData::PTR(PTR(absolute(target))))
    }

    /// A TLSA record of this name's port 25.
    #[must_use]
    pub fn tlsa(self, host: &str, (usage, selector, matching): (u8, u8, u8), data: &[u8]) -> Zone {
        self.tlsa_at(&format!("_25._tcp.{host}"), (usage, selector, matching), data)
    }

    /// A TLSA record of this name.
    #[must_use]
    pub fn tlsa_at(self, name: &str, (usage, selector, matching): (u8, u8, u8), data: &[u8]) -> Zone {
        let data = TLSA::new(usage.into(), selector.into(), matching.into(), data.to_vec());
        self.record(name, RData::TLSA(data))
    }

    /// A TXT record of these strings.
    #[must_use]
    pub fn txt(self, name: &str, strings: &[&[u8]]) -> Zone {
        self.record(name, RData::TXT(TXT::from_bytes(strings.to_vec())))
    }

    /// Nothing more of this name.
    #[must_use]
    pub fn forget(mut self, name: &str) -> Zone {
        self.records.remove(&key(&absolute(name)));
        self
    }

    /// Makes a name misbehave.
    #[must_use]
    pub fn fault(mut self, name: &str, fault: Fault) -> Zone {
        self.faults.insert(key(&absolute(name)), fault);
        self
    }

    /// Signs everything.
    #[must_use]
    pub fn signed(mut self, signer: &Arc<Signer>) -> Zone {
        self.dnssec = Some(Dnssec {
            signer: Arc::clone(signer),
            unsigned: Vec::new(),
            odd: BTreeMap::new(),
            stripped: false,
            forged: None,
            denied: BTreeMap::new(),
            deaf: false,
        });
        self
    }

    /// All but this name and what is below it.
    #[must_use]
    pub fn unsigned(mut self, name: &str) -> Zone {
        self.dnssec.as_mut().expect("signed before").unsigned.push(absolute(name));
        self
    }

    /// These records of this name are signed like this.
    #[must_use]
    pub fn signed_like(mut self, name: &str, kind: RecordType, how: Signing) -> Zone {
        let name = key(&absolute(name));
        self.dnssec.as_mut().expect("signed before").odd.insert((name, kind), how);
        self
    }

    /// As behind a server that does not pass on what DNSSEC needs.
    #[must_use]
    pub fn stripped(mut self) -> Zone {
        self.dnssec.as_mut().expect("signed before").stripped = true;
        self
    }

    /// Who asks for MX records without signatures hears this host.
    #[must_use]
    pub fn forged(mut self, host: &str) -> Zone {
        self.dnssec.as_mut().expect("signed before").forged = Some(host.to_owned());
        self
    }

    /// Somebody between says that there is none of these records, and that the zone `by` says so.
    #[must_use]
    pub fn denied(mut self, name: &str, kind: RecordType, by: &str) -> Zone {
        let name = key(&absolute(name));
        self.dnssec.as_mut().expect("signed before").denied.insert((name, kind), absolute(by));
        self
    }

    /// As behind a firewall that drops questions for signatures.
    #[must_use]
    pub fn deaf(mut self) -> Zone {
        self.dnssec.as_mut().expect("signed before").deaf = true;
        self
    }

    /// Answers like this, as they are.
    #[must_use]
    pub fn scripted(mut self, answers: Arc<Answers>) -> Zone {
        self.script = Some(Script(answers));
        self
    }

    fn record(mut self, name: &str, data: RData) -> Zone {
        let owner = absolute(name);
        self.records.entry(key(&owner)).or_default().push(Record::from_rdata(owner, 0, data));
        self
    }

    /// The reply to somebody who wants signatures, or does not.
    fn reply_with(&self, name: Name, kind: RecordType, wants_signatures: bool) -> Option<Reply> {
        if let Some(reply) = self.script.as_ref().and_then(|Script(answers)| answers(&name, kind)) {
            return Some(reply);
        }
        let Some(Dnssec { signer, unsigned, odd, stripped, forged, denied, deaf }) = &self.dnssec else {
            return self.reply(name, kind);
        };
        if *deaf && wants_signatures {
            return None;
        }
        if let Some(by) = denied.get(&(key(&name), kind)) {
            let mut soa = self.soa();
            soa.name = by.clone();
            return Some((ResponseCode::NoError, Vec::new(), vec![soa]));
        }
        let fault = self.faults.get(&key(&name));
        if fault == Some(&Fault::Silent) {
            return None;
        }
        if fault == Some(&Fault::ServfailNs) && kind == RecordType::NS {
            return Some((ResponseCode::ServFail, Vec::new(), Vec::new()));
        }
        if let (false, RecordType::MX, Some(host)) = (wants_signatures, kind, forged) {
            let forged = Record::from_rdata(name, self.ttl_secs, RData::MX(MX::new(1, absolute(host))));
            return Some((ResponseCode::NoError, vec![forged], Vec::new()));
        }
        let is_cut = unsigned.contains(&name);
        let (mut code, mut answers, mut authorities) = match kind {
            RecordType::DNSKEY if name.is_root() => (ResponseCode::NoError, signer.dnskeys(), Vec::new()),
            RecordType::SOA if name.is_root() => (ResponseCode::NoError, vec![self.soa()], Vec::new()),
            RecordType::NS if is_cut => {
                let ns = Record::from_rdata(name.clone(), 60, RData::NS(NS(absolute("ns.elsewhere.test"))));
                (ResponseCode::NoError, vec![ns], Vec::new())
            }
            RecordType::DS if is_cut => (ResponseCode::NoError, Vec::new(), vec![self.soa()]),
            _ => self.reply(name.clone(), kind)?,
        };
        if *stripped || (fault == Some(&Fault::EmptyMx) && kind == RecordType::MX) {
            return Some((code, answers, authorities));
        }
        if answers.iter().all(|record| record.record_type() != kind) && code != ResponseCode::ServFail {
            // What does not exist has nothing: one proof for both (RFC 9824).
            code = ResponseCode::NoError;
            let types: Vec<RecordType> = if is_cut {
                vec![RecordType::NS]
            } else {
                let here = self.records.get(&key(&name));
                here.into_iter().flatten().map(Record::record_type).collect()
            };
            let end = answers.last().map_or(&name, |alias| match &alias.data {
                RData::CNAME(target) => &target.0,
                _ => &name,
            });
            authorities.push(signer.nsec(end, &types));
        }
        // What is said of the cut itself is the parent's.
        let how = |owner: &Name, of: RecordType| {
            let is_open = unsigned.iter().any(|cut| cut.zone_of(owner)) && !owner.is_root();
            match odd.get(&(key(owner), of)) {
                Some(odd) => *odd,
                None if kind != RecordType::DS && is_open => Signing::None,
                None => Signing::Good,
            }
        };
        answers.extend(signer.signatures(&answers, how));
        authorities.extend(signer.signatures(&authorities, how));
        Some((code, answers, authorities))
    }

    /// Code, answers and authorities; none for silence.
    fn reply(&self, name: Name, kind: RecordType) -> Option<Reply> {
        let only = |code| Some((code, Vec::new(), Vec::new()));
        match self.faults.get(&key(&name)) {
            Some(Fault::Silent) => None,
            Some(Fault::Servfail) => only(ResponseCode::ServFail),
            Some(Fault::ServfailFor(one)) if *one == kind => only(ResponseCode::ServFail),
            Some(Fault::Refused) => only(ResponseCode::Refused),
            Some(fault @ (Fault::Referral | Fault::UpwardReferral)) => {
                let ns = RData::NS(NS(absolute("ns.elsewhere.test")));
                let of = if *fault == Fault::Referral { name } else { Name::root() };
                let referral = Record::from_rdata(of, self.ttl_secs, ns);
                Some((ResponseCode::NoError, Vec::new(), vec![referral]))
            }
            Some(Fault::Empty) => only(ResponseCode::NoError),
            Some(Fault::EmptyMx) if kind == RecordType::MX => only(ResponseCode::NoError),
            Some(Fault::OwnAlias) => {
                let alias = RData::CNAME(CNAME(name.clone()));
                let record = Record::from_rdata(name, self.ttl_secs, alias);
                Some((ResponseCode::NoError, vec![record], Vec::new()))
            }
            Some(Fault::OtherType) => {
                let other = RData::A(A(Ipv4Addr::LOCALHOST));
                Some((
                    ResponseCode::NoError,
                    vec![Record::from_rdata(name, self.ttl_secs, other)],
                    Vec::new(),
                ))
            }
            None | Some(Fault::EmptyMx | Fault::ServfailNs | Fault::ServfailFor(_) | Fault::Late) => {
                let (code, answers) = self.answer(&name, kind);
                let found = answers.iter().any(|record| record.record_type() == kind);
                Some((code, answers, if found { Vec::new() } else { vec![self.soa()] }))
            }
        }
    }

    /// The records for a question, CNAMEs followed, and NXDOMAIN where the last name does not exist.
    fn answer(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let mut answers = Vec::new();
        let mut name = name.clone();
        for _ in 0..=CNAMES_MAX {
            let Some(here) = self.records.get(&key(&name)).or_else(|| self.wildcard(&name)) else {
                // An empty name between two that exist exists (RFC 8020).
                let suffix = format!(".{}", key(&name));
                let between = self.records.keys().any(|known| known.ends_with(&suffix));
                let code = if between { ResponseCode::NoError } else { ResponseCode::NXDomain };
                return (code, answers);
            };
            let with_ttl = |record: &Record| {
                let mut record = record.clone();
                record.ttl = self.ttl_secs;
                if record.name.is_wildcard() {
                    record.name = name.clone();
                }
                record
            };
            let matching = here.iter().filter(|record| record.record_type() == kind);
            let alias = here.iter().find(|record| record.record_type() == RecordType::CNAME);
            match alias {
                Some(record) if kind != RecordType::CNAME => {
                    answers.push(with_ttl(record));
                    if let RData::CNAME(target) = &record.data {
                        name = target.0.clone();
                    }
                }
                _ => {
                    answers.extend(matching.map(with_ttl));
                    return (ResponseCode::NoError, answers);
                }
            }
        }
        // As resolvers do that find themselves in a ring.
        (ResponseCode::ServFail, Vec::new())
    }

    /// What a wildcard has for a name that does not exist: the one below its closest encloser (RFC 4592 §3.3.1).
    fn wildcard(&self, name: &Name) -> Option<&Vec<Record>> {
        let mut encloser = name.base_name();
        let exists = |name: &Name| {
            let (own, below) = (key(name), format!(".{}", key(name)));
            self.records
                .keys()
                .any(|known| *known == own || (known.ends_with(&below) && !known.starts_with('*')))
        };
        if exists(name) {
            return None;
        }
        while !encloser.is_root() {
            if let Some(found) = self.records.get(&format!("*.{}", key(&encloser))) {
                return Some(found);
            }
            if exists(&encloser) {
                return None;
            }
            encloser = encloser.base_name();
        }
        None
    }

    fn soa(&self) -> Record {
        let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, self.ttl_secs);
        Record::from_rdata(Name::root(), self.ttl_secs, RData::SOA(soa))
    }
}

/// A question that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In lower case, without the last dot.
    pub name: String,
    /// `A`, `AAAA`, `MX` …
    pub kind: String,
    /// Over TCP rather than UDP.
    pub tcp: bool,
}

/// A running server; it ends when dropped.
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: AbortHandle,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    zone: Mutex<Zone>,
    asked: Mutex<Vec<Question>>,
}

impl Shared {
    fn remember(&self, question: Question) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() < ASKED_MAX {
            asked.push(question);
        }
    }
}

impl DnsServer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start(zone: Zone) -> io::Result<DnsServer> {
        DnsServer::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), zone)
    }

    /// Listens there.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start_at(address: SocketAddr, zone: Zone) -> io::Result<DnsServer> {
        let shared = Arc::new(Shared { zone: Mutex::new(zone), asked: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (tcp, udp) = same_port(address)?;
        let address = tcp.local_addr()?;
        let mut server = Server::new(Handler(Arc::clone(&shared)));
        {
            let _context = runtime.enter();
            server.register_listener(tokio::net::TcpListener::from_std(tcp)?, TCP_IDLE, 64);
            server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
        }
        let life = runtime.spawn(std::future::pending::<()>());
        let stop = life.abort_handle();
        let thread = std::thread::Builder::new().name("test-dns".to_owned()).spawn(move || {
            let _ = runtime.block_on(life);
            drop(server);
        })?;
        Ok(DnsServer { address, shared, stop, thread: Some(thread) })
    }

    /// Where it listens, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from another zone from now on.
    pub fn serve(&self, zone: Zone) {
        *self.shared.zone.lock().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// What was asked so far, in order; at most 100,000.
    pub fn asked(&self) -> Vec<Question> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.abort();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener and a socket on the same port; another program may have the UDP side of a free TCP port.
fn same_port(address: SocketAddr) -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let mut tries = 20;
    loop {
        let tcp = std::net::TcpListener::bind(address)?;
        tries -= 1;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                return Ok((tcp, udp));
            }
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

struct Handler(Arc<Shared>);

impl Handler {
    async fn handle(&self, request: &Request, mut response: impl ResponseHandler) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let nothing_sent = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(info) = request.request_info() else { return nothing_sent };
        let (name, kind) = (Name::from(info.query.name()), info.query.query_type());
        self.0.remember(Question {
            name: key(&name),
            kind: kind.to_string(),
            tcp: info.protocol == Protocol::Tcp,
        });
        let wants_signatures = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let (reply, is_late) = {
            let zone = self.0.zone.lock().unwrap_or_else(PoisonError::into_inner);
            let is_late = zone.faults.get(&key(&name)) == Some(&Fault::Late);
            (zone.reply_with(name, kind, wants_signatures), is_late)
        };
        if is_late {
            tokio::time::sleep(LATE).await;
        }
        let Some((code, answers, authorities)) = reply else { return nothing_sent };
        metadata.response_code = code;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &request.edns {
            // Its payload size is what bounds our answer over UDP.
            builder.edns(edns);
        }
        let message = builder.build(metadata, &answers, &authorities, [], []);
        response.send_response(message).await.unwrap_or(nothing_sent)
    }
}

// What `#[async_trait]` makes of the trait's one method, written out to spare a dependency.
impl RequestHandler for Handler {
    fn handle_request<'this, 'request, 'both, R, T>(
        &'this self,
        request: &'request Request,
        response: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'both>>
    where
        R: ResponseHandler + 'both,
        T: Time + 'both,
        'this: 'both,
        'request: 'both,
        Self: 'both,
    {
        Box::pin(self.handle(request, response))
    }
}

/// Names in a zone are written by us; one that cannot be a name becomes the root, which nobody asks for.
fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap_or_default();
    name.set_fqdn(true);
    name
}

fn key(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}
