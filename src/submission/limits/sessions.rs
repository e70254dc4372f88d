//! The sessions there are: how many there may be, in all and by client, and how they are ended.
//!
//! The table knows each session's socket, so that [`SessionTable::stop`] can wake those that wait for a client
//! between transactions and in the end cut off the rest.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::config::{Limits, ListenSettings};
use crate::mail::Reply;

use crate::submission::replies;
use crate::submission::users::User;

/// Sessions whose connection was cut off notice within this.
const CUT_OFF_TIME: Duration = Duration::from_secs(2);

/// All sessions.
#[derive(Default)]
pub(in crate::submission) struct SessionTable {
    live: Mutex<Live>,
    ended: Condvar,
    stopping: Arc<AtomicBool>,
}

#[derive(Default)]
struct Live {
    handles: HashMap<u64, Arc<SessionHandle>>,
    by_client: HashMap<IpAddr, usize>,
    last: u64,
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
    client: IpAddr,
    socket: Arc<TcpStream>,
    listener: CurrentSettings,
    authority: Mutex<Authority>,
    /// The reply with which it is to end, wherever it is.
    farewell: OnceLock<Reply>,
    /// Between transactions, waiting for the client.
    waiting: AtomicBool,
    stopping: Arc<AtomicBool>,
}

impl SessionHandle {
    /// Whether the listener trusts this client, by the settings of now.
    pub(in crate::submission) fn is_trusted(&self) -> bool {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        listener.trusted.iter().any(|network| network.contains(&self.client))
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

    /// The session waits for its client and has nothing to lose; false where it should end instead.
    pub(in crate::submission) fn wait_begins(&self) -> bool {
        // Sequentially consistent on both sides, as is stop(): either it sees that the session waits, or the
        // session sees that it stops.
        self.waiting.store(true, Ordering::SeqCst);
        !self.stopping.load(Ordering::SeqCst)
    }

    /// The client said something.
    pub(in crate::submission) fn wait_ends(&self) {
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// The relay stops.
    pub(in crate::submission) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// A session's row in the table; given back when dropped.
pub(in crate::submission) struct SessionSlot {
    table: Arc<SessionTable>,
    number: u64,
    pub(in crate::submission) handle: Arc<SessionHandle>,
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut live = self.table.lock();
        live.handles.remove(&self.number);
        if let Some(count) = live.by_client.get_mut(&self.handle.client) {
            *count -= 1;
            if *count == 0 {
                live.by_client.remove(&self.handle.client);
            }
        }
        if live.handles.is_empty() {
            self.table.ended.notify_all();
        }
    }
}

impl SessionTable {
    /// Sessions now.
    pub(in crate::submission) fn count(&self) -> usize {
        self.lock().handles.len()
    }

    /// A slot for a client's session.
    ///
    /// # Errors
    /// The reply to send the client away with.
    pub(in crate::submission) fn admit(
        self: &Arc<SessionTable>,
        client: IpAddr,
        socket: &Arc<TcpStream>,
        listener: &CurrentSettings,
        limits: &Limits,
    ) -> Result<SessionSlot, Reply> {
        let mut live = self.lock();
        if self.stopping.load(Ordering::SeqCst) {
            return Err(replies::SHUTTING_DOWN);
        }
        if live.handles.len() >= limits.sessions {
            return Err(replies::TOO_MANY_SESSIONS);
        }
        let of_client = live.by_client.entry(client).or_default();
        if *of_client >= limits.sessions_per_client {
            return Err(replies::TOO_MANY_SESSIONS_FROM_CLIENT);
        }
        *of_client += 1;
        live.last += 1;
        let number = live.last;
        let handle = Arc::new(SessionHandle {
            client,
            socket: Arc::clone(socket),
            listener: Arc::clone(listener),
            authority: Mutex::default(),
            farewell: OnceLock::new(),
            waiting: AtomicBool::new(false),
            stopping: Arc::clone(&self.stopping),
        });
        live.handles.insert(number, Arc::clone(&handle));
        Ok(SessionSlot { table: Arc::clone(self), number, handle })
    }

    /// All of now.
    pub(in crate::submission) fn handles(&self) -> Vec<Arc<SessionHandle>> {
        self.lock().handles.values().cloned().collect()
    }

    /// Ends all sessions: those between transactions now, those within one when it is done, and whatever
    /// is left after `patience` by cutting the connection. Gives how many had to be cut off.
    pub(in crate::submission) fn stop(&self, patience: Duration) -> usize {
        let mut live = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        for session in live.handles.values() {
            if session.waiting.load(Ordering::SeqCst) {
                // Its read ends, and it says 421. Fails only where the client is gone already.
                let _ = session.socket.shutdown(Shutdown::Read);
            }
        }
        live = self.wait_for_none(live, patience);
        let cut_off = live.handles.len();
        for session in live.handles.values() {
            let _ = session.socket.shutdown(Shutdown::Both);
        }
        drop(self.wait_for_none(live, CUT_OFF_TIME));
        cut_off
    }

    fn wait_for_none<'a>(&self, live: MutexGuard<'a, Live>, patience: Duration) -> MutexGuard<'a, Live> {
        let some = |live: &mut Live| !live.handles.is_empty();
        self.ended.wait_timeout_while(live, patience, some).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Counting does not panic half-way; should it ever, the counts still serve.
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
