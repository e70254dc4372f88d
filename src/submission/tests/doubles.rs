//! What stands in for the outside in the tests: a queue in memory, the other rooms, the users; and settings.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{
    CertificateSettings, Limits, ListenSettings, ListenTls, LongLines, SocketAccess, SubmissionSettings,
};
use crate::mail::{Domain, Priority, address};
use crate::queue::{
    AcceptError, Asker, Kick, Kicked, LoginChanges, LoginRows, MessageId, NewMessage, QueueError, QuotaError,
};
use crate::submission::Submission;
use crate::submission::message::intake::CHUNK_BYTES;
use crate::submission::ports::{
    MessageQueue, OnDemand, OperatorQueries, OperatorQuery, ReversedConnection, WaitingMail,
};
use crate::submission::session::service::Ports;
use crate::submission::users::{Directory, Known, LoginSource, PasswordCheck, User, Verifier};

/// The queue's double.
#[derive(Default)]
pub(in crate::submission) struct MemoryQueue {
    pub(in crate::submission) accepted: Mutex<Vec<(NewMessage, Vec<u8>)>>,
    chunks: Mutex<BTreeMap<(MessageId, u32), Vec<u8>>>,
    pub(super) kicked: Mutex<Vec<(Kick, Asker)>>,
    last_id: AtomicI64,
    pub(super) reserved: Mutex<BTreeMap<String, u64>>,
    pub(super) full: AtomicBool,
    pub(in crate::submission) failing: AtomicBool,
    pub(in crate::submission) logins: Mutex<LoginRows>,
    pub(in crate::submission) login_writes: AtomicUsize,
    pub(in crate::submission) outside: AtomicU64,
}

impl MemoryQueue {
    /// Bytes of chunks that belong to no message.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunks.lock().unwrap().values().map(Vec::len).sum()
    }
}

impl MessageQueue for MemoryQueue {
    fn new_message_id(&self) -> MessageId {
        MessageId(self.last_id.fetch_add(1, Ordering::SeqCst) + 1)
    }
    fn has_room(&self, _bytes: u64) -> bool {
        !self.full.load(Ordering::SeqCst)
    }
    fn reserve_quota(&self, user: &str, quota: u64, bytes: u64) -> Result<(), QuotaError> {
        let accepted = self.accepted.lock().unwrap();
        let theirs = accepted.iter().filter(|(message, _)| message.origin.user.as_deref() == Some(user));
        let queued: u64 = theirs.map(|(message, _)| message.size).sum();
        let mut reserved = self.reserved.lock().unwrap();
        let reserved = reserved.entry(user.to_owned()).or_default();
        if queued + *reserved + bytes > quota {
            return Err(QuotaError::Reached);
        }
        *reserved += bytes;
        Ok(())
    }
    fn release_quota(&self, user: &str, bytes: u64) {
        *self.reserved.lock().unwrap().get_mut(user).unwrap() -= bytes;
    }
    fn append_chunk(&self, id: MessageId, seq: u32, data: Vec<u8>) -> Result<(), AcceptError> {
        assert!(data.len() <= CHUNK_BYTES);
        self.chunks.lock().unwrap().insert((id, seq), data);
        Ok(())
    }
    fn discard(&self, id: MessageId) {
        self.chunks.lock().unwrap().retain(|(of, _), _| *of != id);
    }
    fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(AcceptError::Full);
        }
        if self.failing.load(Ordering::SeqCst) {
            return Err(AcceptError::Busy);
        }
        let mut content = Vec::new();
        let mut chunks = self.chunks.lock().unwrap();
        for seq in 0..message.chunks_before {
            content.extend(chunks.remove(&(message.id, seq)).unwrap());
        }
        content.extend_from_slice(&message.tail);
        assert_eq!(content.len() as u64, message.size);
        self.accepted.lock().unwrap().push((message, content));
        Ok(())
    }
    fn logins(&self) -> Result<LoginRows, QueueError> {
        Ok(self.logins.lock().unwrap().clone())
    }
    fn note_logins(&self, changes: LoginChanges) -> Result<(), AcceptError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(AcceptError::Busy);
        }
        let LoginChanges { new, changed, failures_over, known_over } = changes;
        self.login_writes.fetch_add(1, Ordering::SeqCst);
        let mut rows = self.logins.lock().unwrap();
        let is_over = |over: &[(String, String)], network: &str, name: &str| {
            over.iter().any(|key| (&*key.0, &*key.1) == (network, name))
        };
        rows.failures.retain(|row| !is_over(&failures_over, &row.network, &row.name));
        rows.known.retain(|row| !is_over(&known_over, &row.network, &row.name));
        for row in &mut rows.failures {
            let key = (row.network.clone(), row.name.clone());
            if let Some(now) =
                changed.failures.iter().find(|now| (&now.network, &now.name) == (&key.0, &key.1))
            {
                *row = now.clone();
            }
        }
        rows.failures.extend(new.failures);
        rows.known.extend(new.known);
        Ok(())
    }
    fn outside_changes(&self) -> u64 {
        self.outside.load(Ordering::SeqCst)
    }
    fn knows(&self, id: MessageId) -> bool {
        self.accepted.lock().unwrap().iter().any(|(message, _)| message.id == id)
    }
    fn kick(&self, kick: &Kick, asker: &Asker) -> Result<Kicked, AcceptError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(AcceptError::Busy);
        }
        self.kicked.lock().unwrap().push((kick.clone(), asker.clone()));
        Ok(match kick.to_string().trim_start_matches('@') {
            "waiting.example" | "#route:*" => Kicked::Started(7),
            "busy.example" => Kicked::UnderWay(7),
            "many.example" => Kicked::InParts(7000),
            _ => Kicked::Nothing,
        })
    }
}

/// The other rooms' double: says what it was asked.
struct Echo;

impl OperatorQueries for Echo {
    fn answer(&self, query: &OperatorQuery) -> Result<Vec<String>, String> {
        match query {
            OperatorQuery::Route(addresses) => {
                Ok(addresses.iter().map(|to| format!("route of {to}")).collect())
            }
            OperatorQuery::Waiting(None) => Ok((1..=60).map(|n| format!("lane {n}: 1 messages")).collect()),
            OperatorQuery::Waiting(Some(lane)) if lane == "broken" => Err("the database is busy".to_owned()),
            other => Ok(vec![format!("{other:?}")]),
        }
    }

    fn domains_of_lane(&self, lane: &str) -> Result<Option<Vec<Domain>>, String> {
        Ok((lane == "route:*").then(|| vec![Domain::parse("waiting.example").unwrap()]))
    }
}

/// Who keeps the mail that is fetched: `waiting.example` has some, `busy.example` cannot be read, and
/// `lost.example` was taken from its user meanwhile.
struct Shelf;

impl OnDemand for Shelf {
    fn look(&self, _user: &str, domains: &[Domain]) -> WaitingMail {
        let named = |name: &str| domains.iter().any(|domain| domain.as_str() == name);
        match () {
            () if named("lost.example") => WaitingMail::NotTheirs,
            () if named("busy.example") => WaitingMail::Unknown,
            () if named("waiting.example") => WaitingMail::Mail,
            () => WaitingMail::Nothing,
        }
    }

    /// Takes the greeting and says what it was given, in the clear only.
    fn hand_over(&self, connection: ReversedConnection) {
        let mut greeting = String::new();
        let mut socket = &connection.socket;
        BufReader::new(socket).read_line(&mut greeting).unwrap();
        let domains: Vec<&str> = connection.domains.iter().map(Domain::as_str).collect();
        let (user, name) = (connection.user, connection.name);
        write!(socket, "{user} at {name} fetches {} after {greeting}", domains.join(",")).unwrap();
    }
}

/// Passwords alone: all that most tests want.
impl<F: Fn(&str, &[u8]) -> Option<Arc<User>> + Send + Sync> Directory for F {
    fn with_password(&self, name: &str, password: &[u8], _from: LoginSource) -> PasswordCheck {
        let user = self(name, password);
        user.map_or(PasswordCheck::Wrong, PasswordCheck::Right)
    }
    fn is_available(&self) -> bool {
        true
    }
    fn mark(&self, _name: &str) -> [u8; 32] {
        [0; 32]
    }
    fn with_cram_md5(&self, _name: &str, _challenge: &[u8], _digest: &[u8; 16]) -> Option<Arc<User>> {
        None
    }
    fn with_scram(&self, _name: &str) -> Known {
        // Not even that of a user, as if somebody had stolen it: every proof is wrong.
        Known { user: None, verifier: Verifier::default() }
    }
    fn has_cram_md5(&self) -> bool {
        false
    }
    fn has_atrn(&self) -> bool {
        false
    }
    fn look_again(&self) {}
    fn current(&self, user: &Arc<User>) -> Option<Arc<User>> {
        Some(Arc::clone(user))
    }
}

/// Everybody's password is `secret`; `op` is an operator, `slow` has a rate and `small` a quota.
pub(super) fn verify(name: &str, password: &[u8]) -> Option<Arc<User>> {
    let (senders, atrn): (&[&str], &[&str]) = match name {
        "app" | "op" | "slow" | "small" | "vip" | "bulk" => (&[], &[]),
        "news" => (&["news@example.com", "*@news.example"], &[]),
        "customer" => (&[], &["waiting.example", "empty.example"]),
        "unlucky" => (&[], &["busy.example", "lost.example"]),
        _ => return None,
    };
    let [senders, atrn] = [senders, atrn].map(|list| list.iter().map(|&text| text.to_owned()).collect());
    let (priority, priority_max) = match name {
        "vip" => (None, Priority::new(5)),
        "bulk" => (Priority::new(-4), None),
        _ => (None, None),
    };
    let operator = name == "op";
    let rate = (name == "slow").then(|| 2.try_into().unwrap());
    let quota = (name == "small").then(|| 2_000.try_into().unwrap());
    let name = name.to_owned();
    let user = User { name, operator, senders, atrn, rate, quota, priority, priority_max, ..User::default() };
    (password == b"secret").then(|| Arc::new(user))
}

/// Settings with one listener on a free port of loopback.
pub(in crate::submission) fn settings(certificates: &Path) -> SubmissionSettings {
    let to = |text: &str| address::parse(text).unwrap();
    SubmissionSettings {
        hostname: Domain::parse("relay.example").unwrap(),
        listen: vec![ListenSettings {
            address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            access: SocketAccess::default(),
            local_users: false,
            tls: ListenTls::Starttls,
            auth_required: true,
            trusted: Vec::new(),
        }],
        tls: Some(CertificateSettings::SelfSigned { directory: certificates.to_owned() }),
        users_file: "unused".into(),
        aliases: BTreeMap::from([
            ("root".to_owned(), vec![to("ops@example.com")]),
            ("postmaster".to_owned(), vec![to("root@relay.example")]),
            ("maverick".to_owned(), vec![to("j.maverick@server.example")]),
            ("team".to_owned(), vec![to("a@example.com"), to("root@relay.example"), to("b@example.com")]),
            ("circle".to_owned(), vec![to("circle@relay.example")]),
            ("müller".to_owned(), vec![to("müller@example.com")]),
        ]),
        limits: Limits {
            message_size: 1 << 20,
            recipients: 100,
            sessions: 100,
            sessions_per_client: 100,
            errors: 10,
            auth_failures: 5,
            received_hops: 50,
            long_lines: LongLines::Accept,
            idle_timeout: Duration::from_secs(20),
            login_timeout: Duration::from_secs(20),
            session_timeout: Duration::from_secs(600),
            future_release: Some(Duration::from_secs(2_592_000)),
        },
        lifetime: Duration::from_secs(432_000),
        keep_subjects: false,
    }
}

/// The doubles, at a time that stands still.
pub(super) fn ports(queue: &Arc<MemoryQueue>) -> Ports {
    let queue: Arc<MemoryQueue> = Arc::clone(queue);
    let clock = Clock::by_hand(1_795_000_000);
    Ports { queue, operator_queries: Arc::new(Echo), on_demand: Arc::new(Shelf), clock }
}

/// Starts submission with the doubles.
pub(super) fn start(settings: &SubmissionSettings, queue: &Arc<MemoryQueue>) -> Submission {
    Submission::start_with(settings, Vec::new(), Box::new(verify), ports(queue)).unwrap()
}
