//! The sessions there are: how many there may be, in all and by client, and how they are ended.
//!
//! A client is an IPv4 address or an IPv6 /64; in a trusted network, whose hosts belong to the operator, each address
//! is one, and so is each user of this machine at a socket in the file system. Who has how many of the places is
//! `shares.rs`'s to say.
//!
//! The table knows each session's socket, so that [`SessionTable::stop`] can wake those that wait for a client
//! and in the end cut off the rest.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::config::{Limits, ListenSettings};
use crate::mail::{Peer, Reply};

use crate::submission::replies;
use crate::submission::users::User;

use super::networks;
use super::shares::{self, Class, Counts};

/// What a session gets to notice a further step of [`SessionTable::stop`].
const NOTICE_TIME: Duration = Duration::from_millis(500);

/// The steps of a stop, as sessions look at them: none, no further command, no further content.
const RUNNING: u8 = 0;
const NO_COMMANDS: u8 = 1;
const NO_CONTENT: u8 = 2;
/// Sessions that were sent away for another's sake and have not ended yet: so many over the limit there may be for
/// a moment.
const LEAVING_MAX: usize = 64;
/// Such a session has this long to take its 421. Whose client does not read is cut off then.
const LEAVING_TIME: Duration = Duration::from_secs(2);

/// A session that pauses looks so often whether it is to end.
const PAUSE_STEP: Duration = Duration::from_millis(100);

/// All sessions.
#[derive(Default)]
pub(in crate::submission) struct SessionTable {
    live: Mutex<Live>,
    ended: Condvar,
    stop: Arc<AtomicU8>,
}

#[derive(Default)]
struct Live {
    rows: HashMap<u64, Row>,
    by_client: HashMap<ClientKey, usize>,
    counts: Counts,
    last: u64,
}

/// What `[limits] sessions_per_client` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ClientKey {
    /// An IPv4 address, an IPv6 /64.
    Network(IpAddr),
    /// A host of a trusted network.
    Trusted(IpAddr),
    /// A user of this machine.
    Local(u32),
}

impl ClientKey {
    fn of(client: Peer, class: Class) -> ClientKey {
        match (client, class) {
            (Peer::Unix(uid), _) => ClientKey::Local(uid),
            (Peer::Ip(ip), Class::Trusted) => ClientKey::Trusted(ip.to_canonical()),
            (Peer::Ip(ip), Class::Stranger | Class::User) => ClientKey::Network(networks::client(ip)),
        }
    }
}

struct Row {
    handle: Arc<SessionHandle>,
    key: ClientKey,
    /// None: it was sent away to make room, and counts no more.
    class: Option<Class>,
    /// When that was.
    leaving_since: Option<Instant>,
}

impl Live {
    /// The reads of these sessions end, and they say 421. It fails only where the client is gone already.
    fn end_reads(&self, which: impl Fn(&SessionHandle) -> bool) {
        for session in self.rows.values().map(|row| &*row.handle).filter(|session| which(session)) {
            let _ = session.socket.shutdown(Shutdown::Read);
        }
    }

    /// The session counts no more.
    fn release(&mut self, number: u64) {
        let Some(row) = self.rows.get_mut(&number) else { return };
        let Some(class) = row.class.take() else { return };
        *self.counts.of(class) -= 1;
        let key = row.key;
        if let Some(count) = self.by_client.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&key);
            }
        }
    }

    /// Sends a session of a greedier network away, so that `newcomer` has a place. False: there is none.
    fn make_room(&mut self, newcomer: Peer) -> bool {
        let Some(newcomer) = newcomer.ip() else { return false };
        let is_stranger = |row: &&Row| row.class == Some(Class::Stranger);
        let strangers: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, row)| is_stranger(row))
            .filter_map(|(number, row)| Some((*number, row.handle.client.ip()?)))
            .collect();
        if self.rows.values().filter(|row| row.class.is_none()).count() >= LEAVING_MAX {
            return false;
        }
        let Some(number) = shares::who_makes_room(&strangers, newcomer) else { return false };
        if let Some(row) = self.rows.get_mut(&number) {
            row.leaving_since = Some(Instant::now());
            row.handle.send_away(replies::TOO_MANY_SESSIONS);
        }
        self.release(number);
        true
    }
}

/// Settings of a listener as they are now: a reload replaces what is in it.
pub(in crate::submission) type CurrentSettings = Arc<RwLock<Arc<ListenSettings>>>;

/// What a session may send by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::submission) enum Authority {
    /// Nothing, or nothing that it makes use of now.
    #[default]
    None,
    /// It logged in.
    User(Arc<User>),
    /// Its network is trusted, and it is within a transaction.
    Network,
}

/// A session, seen from outside.
pub(in crate::submission) struct SessionHandle {
    number: u64,
    client: Peer,
    socket: Arc<Socket>,
    listener: CurrentSettings,
    authority: Mutex<Authority>,
    /// The reply with which it is to end, wherever it is.
    farewell: OnceLock<Reply>,
    /// For the client's next command, or its part of a handshake.
    waiting: AtomicBool,
    stop: Arc<AtomicU8>,
}

impl SessionHandle {
    /// Whether the listener trusts this client, by the settings of now.
    pub(in crate::submission) fn is_trusted(&self) -> bool {
        is_listed(self.client, &self.listener)
    }

    /// What it may send by.
    pub(in crate::submission) fn authority(&self) -> Authority {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it sends by this.
    pub(in crate::submission) fn set_authority(&self, authority: Authority) {
        *self.authority.lock().unwrap_or_else(PoisonError::into_inner) = authority;
    }

    /// Ends the session with this reply, within a transaction too.
    pub(in crate::submission) fn send_away(&self, reply: Reply) {
        if self.farewell.set(reply).is_ok() {
            // Its read ends. Fails only where the client is gone already.
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// The reply with which the session is to end now.
    pub(in crate::submission) fn farewell(&self) -> Option<&Reply> {
        self.farewell.get()
    }

    /// Waits, but not longer than the session is wanted.
    pub(in crate::submission) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && self.farewell().is_none()
            && !self.is_stopping()
        {
            thread::sleep(left.min(PAUSE_STEP));
        }
    }

    /// The session waits for its client and has nothing to lose; false where it should end instead.
    pub(in crate::submission) fn wait_begins(&self) -> bool {
        // Sequentially consistent on both sides, as is stop(): either it sees that the session waits, or the
        // session sees that it stops.
        self.waiting.store(true, Ordering::SeqCst);
        !self.is_stopping()
    }

    /// The client said something.
    pub(in crate::submission) fn wait_ends(&self) {
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// The relay stops.
    pub(in crate::submission) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst) != RUNNING
    }

    /// The relay stops, and content that is on its way has had its time.
    pub(in crate::submission) fn takes_no_content(&self) -> bool {
        self.stop.load(Ordering::SeqCst) == NO_CONTENT
    }
}

/// A session's row in the table; given back when dropped.
pub(in crate::submission) struct SessionSlot {
    table: Arc<SessionTable>,
    pub(in crate::submission) handle: Arc<SessionHandle>,
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut live = self.table.lock();
        live.release(self.handle.number);
        live.rows.remove(&self.handle.number);
        if live.rows.is_empty() {
            self.table.ended.notify_all();
        }
    }
}

impl SessionTable {
    /// Sessions now.
    pub(in crate::submission) fn count(&self) -> usize {
        self.lock().rows.len()
    }

    /// Sessions since the start.
    pub(in crate::submission) fn began(&self) -> u64 {
        self.lock().last
    }

    /// A slot for a client's session.
    ///
    /// # Errors
    /// The reply to send the client away with.
    pub(in crate::submission) fn admit(
        self: &Arc<SessionTable>,
        client: Peer,
        socket: &Arc<Socket>,
        listener: &CurrentSettings,
        limits: &Limits,
    ) -> Result<SessionSlot, Reply> {
        let mut live = self.lock();
        if self.stop.load(Ordering::SeqCst) != RUNNING {
            return Err(replies::SHUTTING_DOWN);
        }
        let class = if is_trusted(client, listener) { Class::Trusted } else { Class::Stranger };
        let key = ClientKey::of(client, class);
        if live.by_client.get(&key).is_some_and(|count| *count >= limits.sessions_per_client) {
            return Err(replies::TOO_MANY_SESSIONS_FROM_CLIENT);
        }
        // A trusted client has a part that nobody else can fill: who is in it makes room for none.
        while !live.counts.has_room(class, limits.sessions) {
            if class == Class::Trusted || !live.make_room(client) {
                return Err(replies::TOO_MANY_SESSIONS);
            }
        }
        *live.counts.of(class) += 1;
        *live.by_client.entry(key).or_default() += 1;
        live.last += 1;
        let number = live.last;
        let handle = Arc::new(SessionHandle {
            number,
            client,
            socket: Arc::clone(socket),
            listener: Arc::clone(listener),
            authority: Mutex::default(),
            farewell: OnceLock::new(),
            waiting: AtomicBool::new(false),
            stop: Arc::clone(&self.stop),
        });
        live.rows.insert(
            number,
            Row { handle: Arc::clone(&handle), key, class: Some(class), leaving_since: None },
        );
        Ok(SessionSlot { table: Arc::clone(self), handle })
    }

    /// The session's client logged in: it is no stranger any more.
    pub(in crate::submission) fn logged_in(&self, session: &SessionHandle) {
        let mut live = self.lock();
        let Some(row) = live.rows.get_mut(&session.number) else { return };
        if row.class == Some(Class::Stranger) {
            row.class = Some(Class::User);
            *live.counts.of(Class::Stranger) -= 1;
            *live.counts.of(Class::User) += 1;
        }
    }

    /// Cuts off the sessions that were sent away to make room and have not gone in time: their clients do not read.
    pub(in crate::submission) fn cut_off_overdue(&self, now: Instant) {
        let is_overdue = |since: Instant| now.saturating_duration_since(since) >= LEAVING_TIME;
        for row in self.lock().rows.values().filter(|row| row.leaving_since.is_some_and(is_overdue)) {
            // A write that waits for the client ends too. Fails only where the client is gone already.
            let _ = row.handle.socket.shutdown(Shutdown::Both);
        }
    }

    /// All of now.
    pub(in crate::submission) fn handles(&self) -> Vec<Arc<SessionHandle>> {
        self.lock().rows.values().map(|row| Arc::clone(&row.handle)).collect()
    }

    /// Ends all sessions with 421 (RFC 5321 §3.8): those that wait for a command now, those that read content after
    /// `grace`, and whatever is left then by cutting the connection. Gives how many had to be cut off.
    pub(in crate::submission) fn stop(&self, grace: Duration) -> usize {
        let mut live = self.lock();
        self.stop.store(NO_COMMANDS, Ordering::SeqCst);
        live.end_reads(|session| session.waiting.load(Ordering::SeqCst));
        live = self.wait_for_none(live, grace);
        self.stop.store(NO_CONTENT, Ordering::SeqCst);
        // Whose client is sending finds out by itself, and reads on for a moment: a connection that is closed on
        // unread bytes is reset, and the 421 may be lost with it.
        live = self.wait_for_none(live, NOTICE_TIME);
        // The clients of these are silent.
        live.end_reads(|_| true);
        live = self.wait_for_none(live, NOTICE_TIME);
        let cut_off = live.rows.len();
        for session in live.rows.values().map(|row| &row.handle) {
            let _ = session.socket.shutdown(Shutdown::Both);
        }
        drop(self.wait_for_none(live, NOTICE_TIME));
        cut_off
    }

    fn wait_for_none<'a>(&self, live: MutexGuard<'a, Live>, patience: Duration) -> MutexGuard<'a, Live> {
        let some = |live: &mut Live| !live.rows.is_empty();
        self.ended.wait_timeout_while(live, patience, some).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Counting does not panic half-way; should it ever, the counts still serve.
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the listener's `trusted`, as it is now; or a user of this machine, where it is for those.
fn is_listed(client: Peer, listener: &CurrentSettings) -> bool {
    let listener = listener.read().unwrap_or_else(PoisonError::into_inner);
    match client {
        Peer::Ip(ip) => listener.trusted.iter().any(|network| network.contains(&ip)),
        Peer::Unix(_) => listener.local_users,
    }
}

/// Whether a client has a place among the trusted ones. This machine has one also where it has to log in: an operator
/// who looks what is going on must get in.
fn is_trusted(client: Peer, listener: &CurrentSettings) -> bool {
    client.ip().is_none_or(|ip| ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST)
        || is_listed(client, listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::tests::doubles;

    #[test]
    fn each_host_of_a_trusted_network_is_a_client_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = doubles::settings(directory.path());
        settings.listen[0].trusted =
            vec!["2001:db8:1:2::/64".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
        settings.limits.sessions_per_client = 3;
        settings.limits.sessions = 20;
        let listener: CurrentSettings = Arc::new(RwLock::new(Arc::new(settings.listen[0].clone())));
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let socket = Arc::new(Socket::from(socket));
        let table = Arc::new(SessionTable::default());
        let admit = |client: &str| table.admit(client.parse().unwrap(), &socket, &listener, &settings.limits);
        let mut slots: Vec<SessionSlot> = Vec::new();
        for (client, is_alone) in [
            ("2001:db8:1:2::", true),
            ("2001:db8:1:2::1", true),
            ("2001:db8:1:2::2", true),
            ("192.0.2.1", true),
            // Strangers are counted by their /64.
            ("2001:db8:9:9::1", true),
            ("2001:db8:9:9::2", false),
        ] {
            let admitted: Vec<_> = (0..5).map_while(|_| admit(client).ok()).collect();
            assert_eq!(admitted.len(), if is_alone { 3 } else { 0 }, "{client}");
            slots.extend(admitted);
        }
        // All of them together are bounded.
        for n in 10..30 {
            slots.extend(admit(&format!("2001:db8:1:2::{n}")));
        }
        assert_eq!(slots.len(), 20);
        drop(slots);
        assert!(table.lock().by_client.is_empty() && admit("2001:db8:1:2::1").is_ok());
    }
}
