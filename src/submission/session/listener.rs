//! A listener: one address, one thread that accepts and hands connections to the pool.
//!
//! The thread waits for connections and for the listener's end with poll(2). The socket itself is not shut down at
//! the end: where systemd opened it (`sockets.rs`), connections wait in it for the next start.

use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{SockAddr, Socket};

use crate::config::{Limits, ListenAddress, ListenSettings, ListenTls};
use crate::mail::{Peer, Reply};
use crate::maillog;

use crate::submission::limits::sessions::CurrentSettings;
use crate::submission::replies;
use crate::submission::session::service::{SessionResources, StartError};
use crate::submission::session::sockets::{Bound, Opened, overlap};
use crate::submission::session::unix_socket::{self, SocketFile};
use crate::submission::session::{Session, SessionScratch};
use crate::submission::users::local_users;
use crate::submission::wire::connection::{Times, Wire};

/// What accepting waits where the system is out of descriptors, or of something else.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether its socket is still in the file system.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// So many times `[limits] login_timeout` a client has in all until it has logged in.
const LOGIN_STEPS: u32 = 4;

/// An address that is listened on.
pub(in crate::submission) struct Listener {
    bound: Bound,
    local: ListenAddress,
    /// Of a socket in the file system; goes with the listener.
    file: Option<Arc<SocketFile>>,
    shared: Arc<ListenerShared>,
    /// Dropped, the thread ends.
    running: PipeWriter,
    thread: JoinHandle<()>,
}

/// What the accepting thread shares with who started it.
struct ListenerShared {
    socket: Socket,
    settings: CurrentSettings,
    /// At its end it accepts what waits.
    takes_the_last: AtomicBool,
    /// Looked at now and then, where it is still the listener's.
    file: Weak<SocketFile>,
    /// Ends with the listener.
    running: PipeReader,
}

impl Listener {
    /// Starts to accept on a bound socket.
    pub(super) fn start(
        bound: Bound,
        settings: CurrentSettings,
        opened: Opened,
        resources: &Arc<SessionResources>,
    ) -> Result<Listener, StartError> {
        let failed = |source| StartError::Listen {
            address: bound.address.clone(),
            source,
            remedy: "the system is out of threads or memory",
        };
        let Opened { socket, file } = opened;
        // Port 0 became another one.
        let local = socket.local_addr().map_err(failed)?.as_socket();
        let local = local.map_or_else(|| bound.address.clone(), ListenAddress::Ip);
        // Somebody else may take the connection that poll(2) told of.
        socket.set_nonblocking(true).map_err(failed)?;
        let (reader, running) = io::pipe().map_err(failed)?;
        let takes_the_last = AtomicBool::new(false);
        let file = file.map(Arc::new);
        let weak = file.as_ref().map_or_else(Weak::new, Arc::downgrade);
        let shared = ListenerShared { socket, settings, takes_the_last, file: weak, running: reader };
        let shared = Arc::new(shared);
        let (thread_shared, thread_resources) = (Arc::clone(&shared), Arc::clone(resources));
        let thread = thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || thread_shared.accept_all(&thread_resources))
            .map_err(failed)?;
        Ok(Listener { bound, local, file, shared, running, thread })
    }

    /// Its socket, as the settings have it.
    pub(super) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Whether clients find it: the file of its socket was not removed.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_in_place())
    }

    /// As the system has it.
    pub(super) fn local_address(&self) -> ListenAddress {
        self.local.clone()
    }

    /// Whether that address cannot be listened on while this listener does.
    pub(super) fn is_in_the_way_of(&self, address: &ListenAddress) -> bool {
        let overlaps = |(one, other)| overlap(one, other);
        self.local == *address || self.local.ip().zip(address.ip()).is_some_and(overlaps)
    }

    /// As they are now, shared with its sessions.
    pub(super) fn settings(&self) -> CurrentSettings {
        Arc::clone(&self.shared.settings)
    }

    /// Other settings: for connections from now on, and `trusted` for all.
    pub(super) fn set(&self, listen: &ListenSettings) {
        *self.shared.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listen.clone());
    }

    /// As [`Listener::stop`], with sessions for the connections that wait already: they would be reset.
    pub(super) fn retire(self) {
        self.shared.takes_the_last.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Accepts no more, and closes the socket. Connections that were accepted go on.
    pub(super) fn stop(self) {
        drop(self.running);
        // A panic there was logged; there is nothing else to be done about it.
        let _ = self.thread.join();
    }
}

impl ListenerShared {
    fn accept_all(&self, resources: &Arc<SessionResources>) {
        let mut looked_at = Instant::now();
        while self.wait() {
            if looked_at.elapsed() >= LOOK_EVERY {
                looked_at = Instant::now();
                self.look_at_file();
            }
            match self.socket.accept() {
                Ok((socket, address)) => self.admit(socket, &address, resources),
                // It went away meanwhile.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::WouldBlock
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    log::error!("accepting connections: {error} (raise LimitNOFILE if descriptors ran out)");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
        if self.takes_the_last.load(Ordering::Relaxed) {
            while let Ok((socket, address)) = self.socket.accept() {
                self.admit(socket, &address, resources);
            }
        }
    }

    /// Finds out who it is.
    fn admit(&self, socket: Socket, address: &SockAddr, resources: &Arc<SessionResources>) {
        let peer = match address.as_socket() {
            Some(address) => Ok(Peer::Ip(address.ip().to_canonical())),
            None => unix_socket::peer(&socket),
        };
        match peer {
            Ok(peer) => open_session(resources, &self.settings, socket, peer),
            Err(error) => {
                log::error!("a connection was dropped, since the system does not say whose it is: {error}")
            }
        }
    }

    /// Nobody can connect where somebody removed it, and nothing else shows that.
    fn look_at_file(&self) {
        if let Some(file) = self.file.upgrade().filter(|file| !file.is_in_place()) {
            log::error!(
                "the socket {} was removed or exchanged, and nobody can connect there; a reload makes it again",
                file.path().display()
            );
        }
    }

    /// Waits for a connection; false: the listener ends.
    fn wait(&self) -> bool {
        let mut watched =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.running, PollFlags::IN)];
        let until = Timespec::try_from(LOOK_EVERY).ok();
        match poll(&mut watched, until.as_ref()) {
            Ok(_) | Err(Errno::INTR) => watched[1].revents().is_empty(),
            Err(error) => {
                log::error!("waiting for connections: {error}");
                thread::sleep(ACCEPT_PAUSE);
                true
            }
        }
    }
}

/// Gives the connection a session, or sends it away.
fn open_session(resources: &Arc<SessionResources>, settings: &CurrentSettings, socket: Socket, client: Peer) {
    let service = resources.service();
    let listener = settings.read().unwrap_or_else(PoisonError::into_inner).clone();
    let socket = Arc::new(socket);
    let slot = match resources.sessions.admit(client, &socket, settings, &service.limits) {
        Ok(slot) => slot,
        Err(reply) => return send_away(&socket, client, &listener, &reply),
    };
    let (session_resources, session_socket, session_listener) =
        (Arc::clone(resources), Arc::clone(&socket), Arc::clone(&listener));
    let job = move || {
        // The client is gone already where this fails.
        let times = times(&service.limits, slot.handle.is_trusted());
        let Ok(wire) = Wire::new(session_socket, times) else { return };
        Session {
            wire,
            client,
            service: &service,
            listener: &session_listener,
            resources: &session_resources,
            handle: &slot.handle,
            local_user: local_users::name_of(client),
            scratch: SessionScratch::default(),
        }
        .run();
    };
    if let Err(error) = resources.pool.run(Box::new(job)) {
        log::error!("starting a session thread: {error} (lower [limits] sessions, or raise TasksMax)");
        send_away(&socket, client, &listener, &replies::TOO_MANY_SESSIONS);
    }
}

/// What a client's connection may take before it has logged in, and what it may once it is known.
pub(in crate::submission) fn times(limits: &Limits, is_known: bool) -> Times {
    let handshake = limits.idle_timeout.min(limits.login_timeout);
    if is_known {
        return Times { idle: limits.idle_timeout, handshake, lifetime: limits.session_timeout };
    }
    Times {
        idle: limits.idle_timeout.min(limits.login_timeout),
        handshake,
        lifetime: limits.session_timeout.min(LOGIN_STEPS * limits.login_timeout),
    }
}

/// One reply, without a session for it. In the clear it fits the socket's empty buffer and never blocks.
fn send_away(socket: &Socket, client: Peer, listener: &ListenSettings, reply: &Reply) {
    maillog::turned_away(client, &reply.to_string());
    if listener.tls == ListenTls::Implicit {
        return;
    }
    let mut bytes = Vec::new();
    reply.write_to(&mut bytes);
    let mut socket = socket;
    // Errors change nothing: it is going away.
    let _ = socket.set_nonblocking(true);
    let _ = socket.write_all(&bytes);
    let _ = socket.shutdown(Shutdown::Write);
}
